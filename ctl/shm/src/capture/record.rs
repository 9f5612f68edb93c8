//! One captured frame: four 64-bit words, then the frame's first bytes, padded to whole words.
//!
//! | word | from the low bits up |
//! |---|---|
//! | 0 | bytes kept 16, bytes of the frame 16, direction 8, fate 8, why 8, drop reason 8 |
//! | 1 | nanoseconds since 1970 |
//! | 2 | service's number 32, backend's number 32 |
//! | 3 | port 16, other port or worker 16, worker 16, mark 16 |
//!
//! Words, since workers write them as such, without a lock, into rings of their own; in the file
//! they are little-endian. Numbers and no names: a worker knows no names, and whoever reads finds
//! them in the running directory.

use crate::counters::DropReason;
use crate::model::vocabulary::vocabulary;

use std::fmt;
use std::str::FromStr;

/// Words before a record's bytes.
pub const HEAD: usize = 4;
/// The most words of a record.
pub const MAX_WORDS: usize = HEAD + (u16::MAX as usize).div_ceil(8);
/// The number of no service, no backend.
pub const NOBODY: u32 = u32::MAX;
/// The port of none.
pub const NO_PORT: u16 = u16::MAX;
/// What every record's last word ends with, so that nothing else is taken for one.
const MARK: u16 = 0x5743;

vocabulary! {
    /// Which way a frame goes.
    Direction {
        /// As it came in.
        In = 1, "in";
        /// As it leaves.
        Out = 2, "out";
    }
}

vocabulary! {
    /// What becomes of a frame that came in, or how one that leaves came about.
    Fate {
        /// Balanced, and sent by the other port; or came in by it.
        Sent = 1, "sent";
        /// Dropped for the reason.
        Dropped = 2, "dropped";
        /// Handed to the control core.
        Control = 3, "control";
        /// Waits for its neighbour's address.
        Held = 4, "held";
        /// Handed to the worker in place of the other port.
        HandedOver = 5, "handed-over";
        /// Answered by weir: the answer leaves by the other port.
        Answered = 6, "answered";
        /// A piece that waits for the first of its datagram.
        Waits = 7, "waits";
        /// Made by the control core: an answer, a request, a check.
        Made = 8, "made";
        /// Had waited for its neighbour's address.
        Released = 9, "released";
    }
}

vocabulary! {
    /// What named the backend.
    Why {
        /// Nothing: the frame has none.
        None = 0, "none";
        /// Conntrack holds the flow.
        Conntrack = 1, "conntrack";
        /// The flow is new: the service's scheduler.
        Scheduler = 2, "scheduler";
        /// The flow is new, and its client has this backend.
        Affinity = 3, "affinity";
        /// The flow's backend has gone: the scheduler chose anew.
        Moved = 4, "moved";
        /// The QUIC connection ID.
        ConnectionId = 5, "connection-id";
        /// It comes from the backend.
        Return = 6, "return";
        /// The session of `full-nat`.
        Session = 7, "session";
        /// What its first piece, or the packet that it quotes, belongs to.
        Related = 8, "related";
    }
}

/// All that a record says, but for the frame's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Bytes of the frame that were kept.
    pub kept: u16,
    /// Bytes of the frame.
    pub length: u16,
    /// Which way it goes.
    pub direction: Direction,
    /// What becomes of it.
    pub fate: Fate,
    /// What named its backend.
    pub why: Why,
    /// Why it was dropped, if it was.
    pub reason: Option<DropReason>,
    /// When, in nanoseconds since 1970.
    pub unix_ns: u64,
    /// The service's number, or [`NOBODY`].
    pub service: u32,
    /// The backend's number, or [`NOBODY`].
    pub backend: u32,
    /// The port that it came in by, or leaves by.
    pub port: u16,
    /// The port on the other side of weir, or a worker, as its fate says; [`NO_PORT`] for none.
    pub other: u16,
    /// The worker that had it; one more than there are is the control core.
    pub worker: u16,
}

/// What stands for no drop reason.
const NO_REASON: u8 = 0xff;

impl Record {
    /// Words that a record with so many bytes takes.
    #[must_use]
    pub const fn words(kept: u16) -> usize {
        HEAD + (kept as usize).div_ceil(8)
    }

    /// Its first words.
    #[must_use]
    pub fn encode(&self) -> [u64; HEAD] {
        let reason = self.reason.map_or(NO_REASON, |reason| reason as u8);
        let [direction, fate, why] = [self.direction.code(), self.fate.code(), self.why.code()];
        let word = |places: [u16; 4]| {
            let [a, b, c, d] = places.map(u64::from);
            a | b << 16 | c << 32 | d << 48
        };
        [
            word([
                self.kept,
                self.length,
                u16::from_le_bytes([direction, fate]),
                u16::from_le_bytes([why, reason]),
            ]),
            self.unix_ns,
            u64::from(self.service) | u64::from(self.backend) << 32,
            word([self.port, self.other, self.worker, MARK]),
        ]
    }

    /// What the first words of a record say; `None` if they are not of one.
    #[must_use]
    pub fn decode(words: [u64; HEAD]) -> Option<Self> {
        let [sizes, unix_ns, whose, places] = words;
        let [_, _, _, _, direction, fate, why, reason] = sizes.to_le_bytes();
        if (places >> 48) as u16 != MARK {
            return None;
        }
        let reason = match reason {
            NO_REASON => None,
            code => Some(*DropReason::ALL.iter().find(|known| **known as u8 == code)?),
        };
        let (kept, length) = (sizes as u16, (sizes >> 16) as u16);
        (kept <= length).then_some(Self {
            kept,
            length,
            direction: Direction::from_code(direction)?,
            fate: Fate::from_code(fate)?,
            why: Why::from_code(why)?,
            reason,
            unix_ns,
            service: whose as u32,
            backend: (whose >> 32) as u32,
            port: places as u16,
            other: (places >> 16) as u16,
            worker: (places >> 32) as u16,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_says_what_was_put_in(
            sizes in (0u16.., 0u16..), codes in (0usize..2, 0usize..9, 0usize..9),
            reason in proptest::option::of(0usize..40), unix_ns: u64, whose: (u32, u32),
            places: (u16, u16, u16),
        ) {
            let record = Record {
                kept: sizes.0.min(sizes.1),
                length: sizes.1,
                direction: Direction::ALL[codes.0],
                fate: Fate::ALL[codes.1],
                why: Why::ALL[codes.2],
                reason: reason.map(|place| DropReason::ALL[place]),
                unix_ns,
                service: whose.0,
                backend: whose.1,
                port: places.0,
                other: places.1,
                worker: places.2,
            };
            prop_assert_eq!(Record::decode(record.encode()), Some(record));
        }

        #[test]
        fn anything_can_be_read(words: [u64; HEAD]) {
            if let Some(record) = Record::decode(words) {
                prop_assert_eq!(record.encode(), words);
            }
        }
    }
}
