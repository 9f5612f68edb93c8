//! What has arrived of a sequence: in order, late, twice, or not at all.
//!
//! A window of the last 64 sequence numbers tells a duplicate from a late arrival (RFC 5560,
//! section 4, and RFC 4737, section 3, are the definitions). What comes later than that counts as
//! reordered, whether or not it is a duplicate too.

/// The bits of the window.
const WINDOW: u32 = 64;

/// How a packet arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Newer than everything before it.
    Newest,
    /// Older than one that came before it, and not seen yet.
    Reordered,
    /// Seen before.
    Duplicate,
}

/// The state of one flow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Track {
    /// One more than the highest sequence number seen; 0 before the first packet.
    next: u32,
    /// Bit `i` says that `next - 1 - i` was seen.
    seen: u64,
}

impl Track {
    /// Nothing has arrived.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0, seen: 0 }
    }

    /// One more than the highest sequence number seen; 0 before the first packet.
    #[inline]
    #[must_use]
    pub const fn next(&self) -> u32 {
        self.next
    }

    /// Notes the arrival of `sequence`.
    #[inline]
    pub const fn observe(&mut self, sequence: u32) -> Arrival {
        if sequence >= self.next {
            let step = sequence - self.next + 1;
            self.seen = match self.seen.checked_shl(step) {
                Some(seen) => seen | 1,
                None => 1,
            };
            self.next = sequence.saturating_add(1);
            return Arrival::Newest;
        }
        let back = self.next - 1 - sequence;
        if back >= WINDOW {
            return Arrival::Reordered;
        }
        let bit = 1 << back;
        if self.seen & bit != 0 {
            return Arrival::Duplicate;
        }
        self.seen |= bit;
        Arrival::Reordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_gap_that_is_filled_late_is_reordering_and_a_repeat_is_a_duplicate() {
        let mut track = Track::default();
        let arrivals: Vec<Arrival> = [0, 2, 1, 1, 2, 3, 100, 3, 99]
            .map(|n| track.observe(n))
            .into();
        use Arrival::{Duplicate, Newest, Reordered};
        assert_eq!(
            arrivals,
            [
                Newest, Newest, Reordered, Duplicate, Duplicate, Newest, Newest, Reordered,
                Reordered
            ]
        );
        assert_eq!(track.next(), 101);
    }

    proptest! {
        /// The oracle remembers everything; within the window the track must agree with it.
        #[test]
        fn it_agrees_with_a_perfect_memory(steps in proptest::collection::vec(-40i64..40, 1..300)) {
            let (mut track, mut memory, mut at) = (Track::default(), HashSet::new(), 0i64);
            let mut highest = -1;
            for step in steps {
                at = (at + step).clamp((highest - 63).max(0), 1 << 20);
                let expected = if !memory.insert(at) {
                    Arrival::Duplicate
                } else if at > highest {
                    Arrival::Newest
                } else {
                    Arrival::Reordered
                };
                prop_assert_eq!(track.observe(at as u32), expected);
                highest = highest.max(at);
            }
        }
    }
}
