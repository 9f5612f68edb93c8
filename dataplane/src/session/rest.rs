//! Which backends may still remember a port, beside the last that it spoke to.
//!
//! Each port has room for [`OTHERS`] backends: a tag (16 bits, zero for nobody) beside the time, in
//! units of [`UNIT`] ms (16 bits). Nothing here is looked at before a port is used a second time
//! within its rest, so where ports are plenty the memory is not even touched.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_engine::memory::{CacheLine, HugeSlice, MemoryError};

use super::ports::QUARANTINE_MS;
use crate::conntrack::Tick;

/// Backends that a port remembers beside the last.
const OTHERS: usize = 8;
/// Two entries a word.
const WORDS: usize = OTHERS / 2;
/// As a shift: half a second, as near as makes no difference.
const UNIT: u32 = 9;
/// Units after which a port has surely rested.
const LONG: u16 = (QUARANTINE_MS >> UNIT) as u16 + 1;

/// What ports remember; see the module's text.
#[derive(Debug)]
pub struct Rests {
    lines: HugeSlice,
}

impl Rests {
    /// Of this many ports, which remember nobody.
    pub fn new(ports: usize) -> Result<Self, MemoryError> {
        let lines = HugeSlice::zeroed(ports * WORDS / 8, false)?;
        Ok(Self { lines })
    }

    fn words(&self, port: usize) -> &[AtomicU64] {
        let line = self.lines.get(port * WORDS / 8);
        let first = port * WORDS % 8;
        line.and_then(|CacheLine(words)| words.get(first..first + WORDS))
            .unwrap_or_default()
    }

    /// Whether a port may speak to the backend `tag`: where that one has forgotten it, and there is
    /// room to remember `last`, which it spoke to until `when` and which then is remembered.
    pub fn pass(&self, port: usize, tag: u16, (last, when): (u16, Tick), now: Tick) -> bool {
        let (now, when) = ((now.0 >> UNIT) as u16, (when.0 >> UNIT) as u16);
        let words = self.words(port);
        let entries = words
            .iter()
            .flat_map(|word| [0, 32].map(|at| (word, at, (word.load(Relaxed) >> at) as u32)));
        let mut place = None;
        for (word, at, entry) in entries {
            let (held, since) = (entry as u16, (entry >> 16) as u16);
            let forgotten = held == 0 || now.wrapping_sub(since) > LONG;
            if held == tag && !forgotten {
                return false;
            }
            if forgotten || held == last {
                place = Some((word, at));
            }
        }
        let Some((word, at)) = place else {
            return false;
        };
        let entry = u64::from(last) | u64::from(when) << 16;
        word.store(
            word.load(Relaxed) & !(0xffff_ffff << at) | entry << at,
            Relaxed,
        );
        true
    }
}
