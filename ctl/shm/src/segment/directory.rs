//! The running directory: the pool in force, with the number of each service's and backend's
//! counters and what has become of each backend.

use std::fmt;
use std::fs::File;
use std::str::FromStr;

use super::bytes::{Malformed, Reader, Writer};
use super::layout::{self, ENTRY_RECORD};
use super::record;
use super::slot::Filling;
use crate::counters;
use crate::model::Pool;
use crate::model::vocabulary::vocabulary;

vocabulary! {
    /// What a backend does at the moment.
    BackendState {
        /// Takes new flows.
        Up = 1, "up";
        /// Down: by its checks, or forced.
        Down = 2, "down";
        /// Down, and takes flows all the same since all others are down, too.
        FailOpen = 3, "fail-open";
        /// Takes no new flows and keeps its old ones.
        Draining = 4, "draining";
        /// Was drained until its time-out; takes no flows.
        Drained = 5, "drained";
        /// Taken out by hand.
        Disabled = 6, "disabled";
        /// Weight zero: takes no new flows and keeps its old ones.
        Idle = 7, "idle";
        /// New, and no check of it has ended yet; takes no flows.
        Checking = 8, "checking";
        /// Held down for having changed too often.
        Held = 9, "held-down";
        /// Takes a share of new flows that grows to its own.
        SlowStart = 10, "slow-start";
    }
}

/// The pool in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunningDirectory {
    /// Its generation.
    pub generation: u64,
    /// The pool.
    pub pool: Pool,
    /// One for each service, in order.
    pub services: Vec<ServiceEntry>,
}

/// A service in force.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceEntry {
    /// Names its counters: see [`counters::service_base`].
    pub number: u32,
    /// One for each backend, in order.
    pub backends: Vec<BackendEntry>,
}

/// A backend in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendEntry {
    /// Names its counters: see [`counters::backend_base`].
    pub number: u32,
    /// What it does.
    pub state: BackendState,
}

/// The extra bytes of a directory behind its pool's records.
fn entries_len(services: u32, backends: u32) -> usize {
    (services as usize + backends as usize) * ENTRY_RECORD
}

impl RunningDirectory {
    pub(crate) fn filling(&self) -> Filling {
        let mut records = record::encode(&self.pool);
        let mut writer = Writer::default();
        let mut backends = Writer::default();
        for (place, service) in self.pool.services.iter().enumerate() {
            let entry = self.services.get(place);
            writer.u32(entry.map_or(0, |entry| entry.number));
            writer.u32(0);
            for place in 0..service.backends.len() {
                let entry = entry.and_then(|entry| entry.backends.get(place));
                backends.u32(entry.map_or(0, |entry| entry.number));
                let state = entry.map_or(BackendState::Up, |entry| entry.state);
                backends.u32(u32::from(state.code()));
            }
        }
        records.extend(writer.done());
        records.extend(backends.done());
        Filling {
            generation: self.generation,
            services: self.pool.services.len() as u32,
            backends: self.pool.backend_count() as u32,
            records,
        }
    }

    /// Reads one of the two directories.
    pub(crate) fn read(file: &File, index: u8) -> Result<Self, Malformed> {
        let len = |services, backends| {
            Some(record::encoded_len(services, backends)? + entries_len(services, backends))
        };
        let filling = Filling::read(file, layout::running(index), len)?;
        let Filling {
            generation,
            services,
            backends,
            records,
        } = filling;
        let split = record::encoded_len(services, backends).unwrap_or(0);
        let (pool, entries) = records.split_at_checked(split).unwrap_or_default();
        let pool = record::decode(pool, services, backends)?;
        let mut reader = Reader::new(entries);
        let mut services = Vec::new();
        for _ in &pool.services {
            let number = reader.u32()?;
            reader.u32()?;
            if number as usize >= counters::MAX_SERVICES {
                return Err(Malformed::new(format!(
                    "service number {number} has no counters"
                )));
            }
            services.push(ServiceEntry {
                number,
                backends: Vec::new(),
            });
        }
        for (entry, service) in services.iter_mut().zip(&pool.services) {
            for _ in &service.backends {
                let (number, code) = (reader.u32()?, reader.u32()?);
                let state = u8::try_from(code).ok().and_then(BackendState::from_code);
                let state = state
                    .ok_or_else(|| Malformed::new(format!("backend state {code} is unknown")))?;
                if number as usize >= counters::MAX_BACKENDS {
                    return Err(Malformed::new(format!(
                        "backend number {number} has no counters"
                    )));
                }
                entry.backends.push(BackendEntry { number, state });
            }
        }
        Ok(Self {
            generation,
            pool,
            services,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::segment::record::tests::sample;
    use std::os::unix::fs::FileExt;

    /// A directory that numbers the pool in order.
    pub(crate) fn directory(generation: u64, pool: Pool) -> RunningDirectory {
        let mut next = 0;
        let services = (0..)
            .zip(&pool.services)
            .map(|(number, service)| ServiceEntry {
                number,
                backends: service
                    .backends
                    .iter()
                    .map(|_| {
                        next += 1;
                        BackendEntry {
                            number: next - 1,
                            state: BackendState::Up,
                        }
                    })
                    .collect(),
            })
            .collect();
        RunningDirectory {
            generation,
            pool,
            services,
        }
    }

    #[test]
    fn a_directory_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        let mut directory = directory(9, sample());
        directory.services[0].backends[2].state = BackendState::Draining;
        file.write_all_at(&directory.filling().encode(), layout::running(1))
            .unwrap();
        assert_eq!(RunningDirectory::read(&file, 1), Ok(directory));
        assert!(RunningDirectory::read(&file, 0).is_err());
    }
}
