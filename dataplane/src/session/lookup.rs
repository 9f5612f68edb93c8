//! From a flow to its session: buckets of one cache line, eight entries each, two buckets a flow.
//!
//! An entry is 32 bits of the flow's fingerprint beside the session's number; whether it is the flow
//! is then decided by the whole fingerprint in the session's record. The first bucket is preferred
//! until it is nearly full, then the emptier one is taken, so that at the load for which the table
//! is made both are never full.

use std::sync::atomic::Ordering::Relaxed;

use weir_engine::cpu::upper_halves;
use weir_engine::memory::{CacheLine, HugeSlice, MemoryError, prefetch_write};

use crate::flow::{FlowHash, scale};

/// Entries of a bucket.
const WAYS: usize = 8;
/// Entries of the first bucket that are taken without a look at the second.
const PREFERRED: u32 = 6;

/// The index; see the module's text.
#[derive(Debug)]
pub struct Lookup {
    lines: HugeSlice,
    count: u32,
}

impl Lookup {
    /// An index for this many sessions, at 40 % load.
    pub fn new(sessions: u32, prefer_huge: bool) -> Result<Self, MemoryError> {
        let buckets = u64::from(sessions) * 5 / (2 * WAYS as u64) + 2;
        let count = u32::try_from(buckets).unwrap_or(u32::MAX);
        let lines = HugeSlice::zeroed(count as usize, prefer_huge)?;
        Ok(Self { lines, count })
    }

    #[inline]
    fn first(&self, flow: FlowHash) -> u32 {
        scale(flow.bucket as u32, self.count)
    }

    #[inline]
    fn second(&self, flow: FlowHash) -> u32 {
        scale((flow.fingerprint >> 32) as u32, self.count)
    }

    /// Hot: asks for the line that the flow is most likely in.
    #[inline]
    pub fn prefetch(&self, flow: FlowHash) {
        if let Some(line) = self.lines.get(self.first(flow) as usize) {
            prefetch_write(line);
        }
    }

    /// Hot: the first session of the flow's entries that `is` it.
    #[inline]
    pub fn find(&self, flow: FlowHash, is: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = flow.fingerprint as u32;
        let within = |bucket: u32| {
            let line = self.lines.get(bucket as usize)?;
            let CacheLine(words) = line;
            // All eight are compared before the first is looked at: where an entry lies is a matter of
            // chance, which no branch predicts.
            let mut alike = upper_halves(line, tag);
            while alike != 0 {
                let word = words[alike.trailing_zeros() as usize % WAYS].load(Relaxed);
                let number = (word as u32).wrapping_sub(1);
                if word as u32 != 0 && is(number) {
                    return Some(number);
                }
                alike &= alike - 1;
            }
            None
        };
        within(self.first(flow)).or_else(|| within(self.second(flow)))
    }

    /// Enters a session; gives the bucket, which [`Lookup::remove`] needs. `None` when both are full.
    pub fn insert(&self, flow: FlowHash, session: u32) -> Option<u32> {
        let (first, second) = (self.first(flow), self.second(flow));
        let (in_first, in_second) = (self.load(first)?, self.load(second)?);
        let bucket = if in_first < PREFERRED || in_first <= in_second {
            first
        } else {
            second
        };
        let CacheLine(words) = self.lines.get(bucket as usize)?;
        let free = words.iter().find(|word| word.load(Relaxed) == 0)?;
        let tag = u64::from(flow.fingerprint as u32) << 32;
        free.store(tag | u64::from(session + 1), Relaxed);
        Some(bucket)
    }

    /// Takes a session out of the bucket that it was entered in.
    pub fn remove(&self, bucket: u32, session: u32) {
        let Some(CacheLine(words)) = self.lines.get(bucket as usize) else {
            return;
        };
        let held = |word: u64| word as u32 == session + 1;
        if let Some(word) = words.iter().find(|word| held(word.load(Relaxed))) {
            word.store(0, Relaxed);
        }
    }

    fn load(&self, bucket: u32) -> Option<u32> {
        let CacheLine(words) = self.lines.get(bucket as usize)?;
        let taken = words.iter().filter(|word| word.load(Relaxed) != 0);
        Some(taken.count() as u32)
    }
}
