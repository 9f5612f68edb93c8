//! The daemon's status: what is in force, what was refused and why.

use std::fmt;
use std::fs::File;
use std::str::FromStr;

use super::bytes::{Malformed, Reader, Writer};
use super::layout::{STATUS, STATUS_LEN};
use super::slot::read_exact;
use crate::model::vocabulary::vocabulary;

vocabulary! {
    /// What the daemon does.
    #[derive(Default)]
    DaemonState {
        /// It opens its devices.
        #[default]
        Starting = 1, "starting";
        /// It forwards.
        Running = 2, "running";
        /// It has stopped in order.
        Stopped = 3, "stopped";
    }
}

/// Refusals that are remembered.
pub const REFUSALS: usize = 6;
/// The longest reason for a refusal, in bytes; longer ones are cut.
pub const REASON: u16 = 1200;

/// A configuration that the daemon did not put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The generation; zero when it cannot be told.
    pub generation: u64,
    /// Why.
    pub reason: String,
}

/// What the daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// What it does.
    pub state: DaemonState,
    /// The generation in force.
    pub generation: u64,
    /// Which of the two running directories holds it.
    pub(crate) directory: u8,
    /// Maglev tables built.
    pub tables_built: u64,
    /// How long the last change of tables took, in nanoseconds.
    pub rebuild_last_ns: u64,
    /// How long the longest change of tables took, in nanoseconds.
    pub rebuild_max_ns: u64,
    /// The last refusals, oldest first.
    pub refusals: Vec<Refusal>,
}

impl Status {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(self.state.code());
        writer.u8(self.directory & 1);
        writer.u64(self.generation);
        writer.u64(self.tables_built);
        writer.u64(self.rebuild_last_ns);
        writer.u64(self.rebuild_max_ns);
        let skip = self.refusals.len().saturating_sub(REFUSALS);
        writer.u8((self.refusals.len() - skip) as u8);
        for refusal in self.refusals.iter().skip(skip) {
            writer.u64(refusal.generation);
            writer.text(&refusal.reason, REASON);
        }
        writer.pad_to(STATUS_LEN as usize - 4);
        let mut bytes = writer.done();
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn read(file: &File) -> Result<Self, Malformed> {
        let mut bytes = [0; STATUS_LEN as usize];
        read_exact(file, &mut bytes, STATUS)?;
        let (covered, sum) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(covered).to_le_bytes() != sum {
            return Err(Malformed::new(
                "the checksum of the daemon's status is wrong",
            ));
        }
        let mut reader = Reader::new(covered);
        let state = DaemonState::from_code(reader.u8()?)
            .ok_or_else(|| Malformed::new("the daemon's state is unknown"))?;
        let directory = u8::from(reader.flag("the directory")?);
        let mut status = Self {
            state,
            directory,
            generation: reader.u64()?,
            tables_built: reader.u64()?,
            rebuild_last_ns: reader.u64()?,
            rebuild_max_ns: reader.u64()?,
            refusals: Vec::new(),
        };
        let refusals = usize::from(reader.u8()?).min(REFUSALS);
        for _ in 0..refusals {
            let generation = reader.u64()?;
            let reason = reader.text(REASON, "a reason")?;
            status.refusals.push(Refusal { generation, reason });
        }
        Ok(status)
    }

    /// The refusal of a generation, if it is remembered.
    #[must_use]
    pub fn refusal(&self, generation: u64) -> Option<&Refusal> {
        self.refusals
            .iter()
            .rev()
            .find(|refusal| refusal.generation == generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_status_is_read_back_with_its_last_refusals() {
        let file = tempfile::tempfile().unwrap();
        let refusal = |generation| Refusal {
            generation,
            reason: format!("{generation}").repeat(600),
        };
        let mut status = Status {
            state: DaemonState::Running,
            generation: 7,
            directory: 1,
            tables_built: 3,
            rebuild_last_ns: 4,
            rebuild_max_ns: 5,
            refusals: (1..9).map(refusal).collect(),
        };
        file.write_all_at(&status.encode(), STATUS).unwrap();
        status.refusals.drain(..2);
        assert_eq!(Status::read(&file), Ok(status.clone()));
        assert!(status.refusal(8).is_some() && status.refusal(1).is_none());
        file.write_all_at(&[9], STATUS + 3).unwrap();
        assert!(Status::read(&file).is_err());
    }
}
