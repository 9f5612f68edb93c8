//! The stamp at the start of each payload: which packet this is, and when it left.
//!
//! 18 bytes, so that it fits a 64-byte UDP frame over IPv4 exactly. Big-endian, every field at an
//! even offset, so that a reflector can patch it with an incremental checksum.
//!
//! | bytes | request (from the generator) | answer (from the reflector) |
//! |---|---|---|
//! | 0–1 | magic `WR` | magic `WA` |
//! | 2–5 | flow number | the same |
//! | 6–9 | sequence number within the flow, from 0 | the same |
//! | 10–11 | the run's tag, so that two runs are not mixed up | the backend's number |
//! | 12–17 | time of sending in ns, by the generator's clock, modulo 2^48 (78 hours) | the same |

/// Bytes of a stamp.
pub const LEN: usize = 18;
/// Where the magic lies.
pub const MAGIC: usize = 0;
/// Where the tag lies.
pub const TAG: usize = 10;

/// Times are kept modulo this.
const TIME_MASK: u64 = (1 << 48) - 1;

/// Who wrote a stamp last, and what its tag means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A generator; the tag is its run's.
    Request,
    /// A reflector; the tag is the backend's number.
    Answer,
}

impl Kind {
    /// The two bytes that mark the kind on the wire.
    #[inline]
    #[must_use]
    pub const fn magic(self) -> [u8; 2] {
        match self {
            Self::Request => *b"WR",
            Self::Answer => *b"WA",
        }
    }
}

/// A stamp, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Who wrote it last.
    pub kind: Kind,
    /// Flow number within the run.
    pub flow: u32,
    /// Sequence number within the flow, from 0.
    pub sequence: u32,
    /// The run's tag in a request, the backend's number in an answer.
    pub tag: u16,
    /// Time of sending in ns, modulo 2^48.
    pub time: u64,
}

impl Stamp {
    /// The stamp's bytes; of the time, its lower 48 bits.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; LEN] {
        let m = self.kind.magic();
        let f = self.flow.to_be_bytes();
        let s = self.sequence.to_be_bytes();
        let g = self.tag.to_be_bytes();
        let [_, _, t @ ..] = self.time.to_be_bytes();
        [
            m[0], m[1], f[0], f[1], f[2], f[3], s[0], s[1], s[2], s[3], g[0], g[1], t[0], t[1],
            t[2], t[3], t[4], t[5],
        ]
    }

    /// The stamp at the start of `payload`; `None` when it is too short or has no magic.
    #[inline]
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let b = payload.first_chunk::<LEN>()?;
        let kind = match [b[0], b[1]] {
            magic if magic == Kind::Request.magic() => Kind::Request,
            magic if magic == Kind::Answer.magic() => Kind::Answer,
            _ => return None,
        };
        Some(Self {
            kind,
            flow: u32::from_be_bytes([b[2], b[3], b[4], b[5]]),
            sequence: u32::from_be_bytes([b[6], b[7], b[8], b[9]]),
            tag: u16::from_be_bytes([b[10], b[11]]),
            time: u64::from_be_bytes([0, 0, b[12], b[13], b[14], b[15], b[16], b[17]]),
        })
    }

    /// Nanoseconds from the stamp's time to `now`, both modulo 2^48.
    #[inline]
    #[must_use]
    pub const fn age(self, now: u64) -> u64 {
        now.wrapping_sub(self.time) & TIME_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_the_documented_one() {
        let stamp = Stamp {
            kind: Kind::Request,
            flow: 0x0102_0304,
            sequence: 0x0506_0708,
            tag: 0x090a,
            time: 0x0b0c_0d0e_0f10,
        };
        assert_eq!(
            stamp.to_bytes(),
            *b"WR\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10"
        );
    }

    #[test]
    fn ages_survive_the_wrap_of_the_clock() {
        let stamp = Stamp {
            kind: Kind::Answer,
            flow: 0,
            sequence: 0,
            tag: 0,
            time: TIME_MASK - 4,
        };
        assert_eq!(stamp.age(TIME_MASK + 6), 10);
        assert_eq!(stamp.age(5), 10);
    }

    proptest! {
        #[test]
        fn a_stamp_reads_back(flow: u32, sequence: u32, tag: u16, time in 0..=TIME_MASK, answer: bool, rest: Vec<u8>) {
            let kind = if answer { Kind::Answer } else { Kind::Request };
            let stamp = Stamp { kind, flow, sequence, tag, time };
            let mut payload = stamp.to_bytes().to_vec();
            payload.extend(rest);
            prop_assert_eq!(Stamp::read(&payload), Some(stamp));
            prop_assert_eq!(Stamp::read(&payload[..LEN - 1]), None);
            payload[0] ^= 1;
            prop_assert_eq!(Stamp::read(&payload), None);
        }
    }
}
