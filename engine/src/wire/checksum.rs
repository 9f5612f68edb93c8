//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! A one's complement sum does not depend on byte order as long as words are loaded and the result
//! is stored in the same order (RFC 1071, section 2 (B)). So everything here works on native-order
//! words and never swaps a byte: load with `from_ne_bytes`, store with `to_ne_bytes`.
//!
//! Incremental update is equation 3 of RFC 1624, `HC' = ~(~HC + ~m + m')`; the older form of RFC
//! 1141 gives 0xFFFF where 0x0000 is right.

/// Folds a sum of 16-bit words (with any number of carries above) to 16 bits.
#[inline]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Folds a sum of fewer than 65,536 16-bit words to 16 bits.
#[inline(always)]
#[must_use]
pub const fn fold_few(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum of a UDP datagram and its pseudo-header that sum up to this, as it lies in the frame:
/// one that comes out as zero is sent as all ones (RFC 768).
#[inline]
#[must_use]
pub const fn of_udp(sum: u64) -> [u8; 2] {
    match !fold(sum) {
        0 => [0xff; 2],
        other => other.to_ne_bytes(),
    }
}

/// Whether a sum of 16-bit words, `carry` of it above 64 bits, folds to all ones, as an intact
/// header's does. One's complement sums are remainders modulo 65,535, so that is to ask whether the
/// sum is divisible by it; and a division by an odd number without remainder is a multiplication
/// (Granlund and Montgomery, 1994, section 9). A sum of zero, which no IP header has, is none.
#[inline(always)]
#[must_use]
pub const fn is_all_ones(sum: u64, carry: bool) -> bool {
    // 65,535 times this is 1, modulo 2^64.
    const INVERSE: u64 = 0xfffe_fffe_fffe_ffff;
    const _: () = assert!(INVERSE.wrapping_mul(0xffff) == 1);
    // 2^64 is 1 modulo 65,535, and a sum that carried is too small to carry again.
    let sum = sum.wrapping_add(carry as u64);
    // The quotient, where there is no remainder: from 1, as zero is none, to the largest.
    sum.wrapping_mul(INVERSE).wrapping_sub(1) < u64::MAX / 0xffff
}

/// The one's complement sum of `bytes` in native order, unfolded. An odd last byte counts as the
/// first byte of a word whose second is zero (RFC 1071, section 1).
#[inline]
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let mut total = 0u64;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        total += u64::from(u32::from_ne_bytes(*word));
    }
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        total += u64::from(u16::from_ne_bytes(*pair));
    }
    if let [byte] = last {
        total += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    total
}

/// Whether `bytes`, which include their checksum field, sum to all ones, as an intact header does.
#[inline]
#[must_use]
pub fn is_valid(bytes: &[u8]) -> bool {
    fold(sum(bytes)) == 0xffff
}

/// The checksum of `bytes` (whose checksum field is zero), as the two bytes to store.
#[inline]
#[must_use]
pub fn of(bytes: &[u8]) -> [u8; 2] {
    (!fold(sum(bytes))).to_ne_bytes()
}

/// What a change of fields adds to every checksum that covers them.
///
/// Collect the old and the new words once, then apply the delta to the IPv4 header checksum, the
/// TCP or UDP checksum, or both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    #[must_use]
    pub const fn none() -> Self {
        Self(0)
    }

    /// A 32-bit aligned field changed from `old` to `new` (bytes as they lie in the frame).
    #[inline]
    #[must_use]
    pub fn word32(self, old: [u8; 4], new: [u8; 4]) -> Self {
        Self(self.0 + u64::from(!u32::from_ne_bytes(old)) + u64::from(u32::from_ne_bytes(new)))
    }

    /// A 16-bit aligned field changed from `old` to `new` (bytes as they lie in the frame).
    #[inline]
    #[must_use]
    pub fn word16(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + u64::from(!u16::from_ne_bytes(old)) + u64::from(u16::from_ne_bytes(new)))
    }

    /// A 128-bit field (an IPv6 address) changed from `old` to `new`.
    #[inline]
    #[must_use]
    pub fn word128(mut self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        for (old, new) in old.as_chunks::<4>().0.iter().zip(new.as_chunks::<4>().0) {
            self = self.word32(*old, *new);
        }
        self
    }

    /// Both changes together.
    #[inline]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the change: RFC 1624, equation 3.
    #[inline]
    #[must_use]
    pub fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let old = u16::from_ne_bytes(checksum);
        (!fold(u64::from(!old) + self.0)).to_ne_bytes()
    }

    /// The UDP checksum after the change. Zero on the wire means "not computed" and stays zero; a
    /// checksum that comes out as zero is sent as all ones (RFC 768).
    #[inline]
    #[must_use]
    pub fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if checksum == [0, 0] {
            return checksum;
        }
        match self.apply(checksum) {
            [0, 0] => [0xff, 0xff],
            other => other,
        }
    }
}

/// A [`Delta`] that is known beforehand, summed up to 16 bits: applying it is one addition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folded(u16);

impl From<Delta> for Folded {
    fn from(delta: Delta) -> Self {
        Self(fold(delta.0))
    }
}

impl Folded {
    /// As 16 bits, to be kept.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// What [`Folded::to_bits`] gave.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The checksum after the change: RFC 1624, equation 3.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = !u16::from_ne_bytes(checksum) as u32 + self.0 as u32;
        (!((sum & 0xffff) + (sum >> 16)) as u16).to_ne_bytes()
    }

    /// The UDP checksum after the change; see [`Delta::apply_udp`].
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        if u16::from_ne_bytes(checksum) == 0 {
            return checksum;
        }
        match u16::from_ne_bytes(self.apply(checksum)) {
            0 => [0xff; 2],
            other => other.to_ne_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071's definition, word by word.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            let word = u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]);
            sum += u32::from(word);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn rfc_1624_section_4s_example_gives_zero_not_all_ones() {
        let delta = Delta::none().word16([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(delta.apply([0xdd, 0x2f]), [0x00, 0x00]);
    }

    #[test]
    fn a_udp_checksum_of_zero_stays_and_a_computed_zero_becomes_all_ones() {
        let delta = Delta::none().word16([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(delta.apply_udp([0, 0]), [0, 0]);
        assert_eq!(delta.apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn a_sum_of_few_words_folds_to_what_any_sum_does(sum: u32) {
            prop_assert_eq!(fold_few(sum), fold(sum.into()));
        }

        #[test]
        fn a_folded_delta_does_what_the_delta_does(old: [u8; 16], new: [u8; 16], checksum: [u8; 2]) {
            let delta = Delta::none().word128(&old, &new).word16([1, 0], [0, 0]);
            let folded = Folded::from(delta);
            prop_assert_eq!(folded.apply(checksum), delta.apply(checksum));
            prop_assert_eq!(folded.apply_udp(checksum), delta.apply_udp(checksum));
        }

        #[test]
        fn all_ones_are_told_without_folding(mut words: [u32; 5], mend: bool) {
            if mend {
                words[4] = 0;
                let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
                words[4] = u32::from(!fold(sum));
            }
            let pair = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
            let (sum, first) = pair(0).overflowing_add(pair(2));
            let (sum, second) = sum.overflowing_add(u64::from(words[4]) + u64::from(first));
            let folded = fold(words.iter().map(|word| u64::from(*word)).sum());
            prop_assert_eq!(is_all_ones(sum, second), folded == 0xffff);
            prop_assert!(!mend || folded == 0xffff);
        }

        #[test]
        fn the_sum_agrees_with_the_rfcs_definition(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(of(&bytes), reference(&bytes).to_be_bytes());
        }

        #[test]
        fn an_update_equals_a_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 40..100),
            new4: [u8; 4], new2: [u8; 2], new16: [u8; 16],
        ) {
            bytes[0..2].fill(0);
            let before = of(&bytes);
            let old4 = bytes[4..8].try_into().unwrap();
            let old2 = bytes[10..12].try_into().unwrap();
            let old16: [u8; 16] = bytes[16..32].try_into().unwrap();
            let delta = Delta::none()
                .word32(old4, new4)
                .and(Delta::none().word16(old2, new2))
                .word128(&old16, &new16);
            bytes[4..8].copy_from_slice(&new4);
            bytes[10..12].copy_from_slice(&new2);
            bytes[16..32].copy_from_slice(&new16);
            let recomputed = of(&bytes);
            // The two zeros of one's complement arithmetic: an all-zero packet is the only one
            // whose checksum is +0 by computation and -0 by update.
            if bytes.iter().any(|byte| *byte != 0) {
                prop_assert_eq!(delta.apply(before), recomputed);
            }
        }
    }
}
