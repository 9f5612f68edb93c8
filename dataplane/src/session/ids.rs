//! Identifications of datagrams from VIPs to clients.
//!
//! Whatever address a client's sessions speak from, their answers leave from the VIP, so the SNAT
//! addresses' own counters would give one client the same identification twice. Each worker counts
//! for itself, in several counters, of which a client's address picks one: pieces of one client do
//! not use up another's numbers.

use std::sync::atomic::Ordering::Relaxed;

use weir_engine::memory::{CacheLine, HugeSlice, MemoryError};

use crate::address::Addr;

/// Lines of counters of a worker, eight each.
const LINES: usize = 8;

/// The counters; see the module's text.
#[derive(Debug)]
pub struct Ids {
    lines: HugeSlice,
    workers: u16,
}

impl Ids {
    pub fn new(workers: u16) -> Result<Self, MemoryError> {
        let lines = HugeSlice::zeroed(usize::from(workers) * LINES, false)?;
        Ok(Self { lines, workers })
    }

    /// The next one of `worker` for this client: no other worker gives it the same one, nor this
    /// one again before it has given all of its own.
    #[inline]
    pub fn next(&self, worker: u16, Addr([low, high]): Addr) -> u16 {
        let mixed = (low ^ high.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = (mixed >> 58) as usize;
        let line = usize::from(worker) * LINES + place / 8;
        let Some(CacheLine(counters)) = self.lines.get(line) else {
            return 0;
        };
        let counter = &counters[place % 8];
        let count = counter.load(Relaxed);
        counter.store(count.wrapping_add(1), Relaxed);
        (count.wrapping_mul(u64::from(self.workers)) as u16).wrapping_add(worker)
    }
}
