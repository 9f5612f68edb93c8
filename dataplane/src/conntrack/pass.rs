//! Counting what lives in the workers' tables, a stretch at a time.
//!
//! A whole pass over a large table, many times a second, would take its lines from the worker's
//! cache again and again. Whoever wants counts for ever therefore looks at so many lines now and so
//! many later; counts are those of the last pass that was complete.

use std::sync::atomic::Ordering::Relaxed;

use weir_engine::memory::CacheLine;
use weir_shm::counters::MAX_BACKENDS;

use super::{ConntrackReader, Details, Profiles, Tick, WAYS};

/// What the tables of all workers held.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts {
    workers: Vec<u64>,
    backends: Vec<u64>,
}

impl Counts {
    /// Entries of a worker that live: flows, and where affinity pinned clients.
    #[must_use]
    pub fn of_worker(&self, worker: usize) -> u64 {
        self.workers.get(worker).copied().unwrap_or(0)
    }

    /// Live flows of the backend with this number, of all workers.
    #[must_use]
    pub fn of_backend(&self, number: u32) -> u64 {
        self.backends.get(number as usize).copied().unwrap_or(0)
    }

    fn add(&mut self, worker: usize, details: Details) {
        if let Some(count) = self.workers.get_mut(worker) {
            *count += 1;
        }
        let backend = details.backend() as usize;
        if details.state().is_pin() || backend >= MAX_BACKENDS {
            return;
        }
        if backend >= self.backends.len() {
            self.backends.resize(backend + 1, 0);
        }
        if let Some(count) = self.backends.get_mut(backend) {
            *count += 1;
        }
    }
}

/// A pass over all tables that begins anew when it is through; see the module's text.
#[derive(Debug)]
pub struct Pass {
    tables: Vec<ConntrackReader>,
    /// The table and the line that come next.
    next: (usize, usize),
    counting: Counts,
    /// Of the last pass that was complete.
    complete: Option<Counts>,
    nothing: Counts,
}

impl Pass {
    /// Over tables, in the workers' order.
    #[must_use]
    pub fn new(tables: Vec<ConntrackReader>) -> Self {
        let nothing = Counts {
            workers: vec![0; tables.len()],
            backends: Vec::new(),
        };
        Self {
            tables,
            next: (0, 0),
            counting: nothing.clone(),
            complete: None,
            nothing,
        }
    }

    /// Looks at so many more lines, at most at all of them once; at all when it is not said how
    /// many, and the first time.
    pub fn go_on(&mut self, now: Tick, profiles: &Profiles, lines: Option<usize>) {
        let all: usize = self.tables.iter().map(|table| table.lines.len()).sum();
        let mut left = match (&self.complete, lines) {
            (Some(_), Some(lines)) => lines.min(all),
            _ => {
                self.begin();
                all
            }
        };
        while left > 0 {
            let (worker, line) = self.next;
            let Some(table) = self.tables.get(worker) else {
                break;
            };
            let rest = table.lines.get(line..).unwrap_or_default();
            let stretch = rest.get(..left).unwrap_or(rest);
            for line in stretch {
                count(line, now, profiles, |details| {
                    self.counting.add(worker, details);
                });
            }
            left -= stretch.len();
            self.next.1 += stretch.len();
            if stretch.len() == rest.len() {
                self.next = (worker + 1, 0);
                if worker + 1 >= self.tables.len() {
                    self.complete = Some(std::mem::take(&mut self.counting));
                    self.begin();
                }
            }
        }
    }

    fn begin(&mut self) {
        self.next = (0, 0);
        self.counting = self.nothing.clone();
    }

    /// What the last complete pass found.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        self.complete.as_ref().unwrap_or(&self.nothing)
    }
}

/// Calls `visit` with what lives in a line.
fn count(line: &CacheLine, now: Tick, profiles: &Profiles, mut visit: impl FnMut(Details)) {
    for way in 0..WAYS {
        if line.0[way].load(Relaxed) == 0 {
            continue;
        }
        let details = Details(line.0[WAYS + way].load(Relaxed));
        if profiles.is_alive_elsewhere(details, now) {
            visit(details);
        }
    }
}
