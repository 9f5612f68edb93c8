//! A wheel of deadlines: which sessions may have ended by now.
//!
//! A session is hung on the slot of its deadline when it begins and stays there however often it is
//! seen; when its slot comes round it is looked at, and hung further on if it lives. So a packet
//! costs the wheel nothing, and each session is looked at once in a time-out. Deadlines beyond the
//! wheel's turn (16 minutes) are hung as far as it goes.

use std::sync::atomic::Ordering::Relaxed;

use weir_engine::memory::{HugeSlice, MemoryError};

use super::record::Record;
use crate::conntrack::Tick;

/// Slots, a power of two.
const SLOTS: u32 = 4096;
/// Milliseconds of a slot, as a shift.
const SHIFT: u32 = 8;
/// As far as anything is hung from now.
const REACH: u32 = SLOTS - 8;
/// Moments of the clock in slots, before it wraps.
const MOMENTS: u32 = u32::MAX >> SHIFT;
/// Empty slots that one step passes over.
const EMPTY_SLOTS: usize = 64;
/// Where a list ends.
pub const NOBODY: u32 = u32::MAX;

/// The wheel; see the module's text. Records hold the lists' links.
#[derive(Debug)]
pub struct Wheel {
    /// Heads, one more than a session's number; behind them the hand and the list in hand.
    heads: HugeSlice,
}

const HAND: u32 = SLOTS;
const IN_HAND: u32 = SLOTS + 1;
const RUNS: u32 = SLOTS + 2;

impl Wheel {
    pub fn new() -> Result<Self, MemoryError> {
        Ok(Self {
            heads: HugeSlice::zeroed(SLOTS as usize / 8 + 1, false)?,
        })
    }

    fn load(&self, place: u32) -> u32 {
        let line = self.heads.get(place as usize / 8);
        line.map_or(0, |line| line.0[place as usize % 8].load(Relaxed) as u32)
    }

    fn store(&self, place: u32, value: u32) {
        if let Some(line) = self.heads.get(place as usize / 8) {
            line.0[place as usize % 8].store(u64::from(value), Relaxed);
        }
    }

    /// Hangs a session up that may end in `left` milliseconds.
    pub fn hang<'a>(
        &self,
        session: u32,
        left: u32,
        now: Tick,
        record: impl Fn(u32) -> Option<Record<'a>>,
    ) {
        if self.load(RUNS) == 0 {
            self.store(RUNS, 1);
            self.store(HAND, now.0 >> SHIFT);
        }
        let slot = ((now.0 >> SHIFT) + ((left >> SHIFT) + 1).min(REACH)) % SLOTS;
        let Some(own) = record(session) else { return };
        let first = self.load(slot).wrapping_sub(1);
        own.set_before(NOBODY);
        own.set_after(first);
        own.set_wheel_slot(slot);
        if let Some(first) = record(first) {
            first.set_before(session);
        }
        self.store(slot, session + 1);
    }

    /// Takes a session off.
    pub fn unhang<'a>(&self, session: u32, record: impl Fn(u32) -> Option<Record<'a>>) {
        let Some(own) = record(session) else { return };
        let (before, after) = (own.before(), own.after());
        if let Some(after) = record(after) {
            after.set_before(before);
        }
        match record(before) {
            Some(before) => before.set_after(after),
            None => {
                for head in [own.wheel_slot(), IN_HAND] {
                    if self.load(head) == session + 1 {
                        self.store(head, after.wrapping_add(1));
                    }
                }
            }
        }
    }

    /// The next session whose deadline may have passed, taken off. `None` when there is none, or a
    /// step's worth of slots was empty.
    pub fn next_due<'a>(
        &self,
        now: Tick,
        record: impl Fn(u32) -> Option<Record<'a>>,
    ) -> Option<u32> {
        let today = now.0 >> SHIFT;
        if self.load(RUNS) == 0 {
            return None;
        }
        for _ in 0..EMPTY_SLOTS {
            let first = self.load(IN_HAND);
            if first != 0 {
                self.unhang(first - 1, &record);
                return Some(first - 1);
            }
            let hand = self.load(HAND);
            let behind = today.wrapping_sub(hand) & MOMENTS;
            // The hand is at the next slot to come, or behind it; a clock that goes back waits.
            if behind > MOMENTS / 2 {
                return None;
            }
            let hand = if behind > SLOTS {
                today.wrapping_sub(SLOTS) & MOMENTS
            } else {
                hand
            };
            let slot = hand % SLOTS;
            self.store(IN_HAND, self.load(slot));
            self.store(slot, 0);
            self.store(HAND, hand.wrapping_add(1) & MOMENTS);
        }
        None
    }
}
