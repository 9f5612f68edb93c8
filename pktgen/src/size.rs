//! Frame sizes: one, a list, or a mix with shares such as IMIX.
//!
//! A size is what RFC 2544 (section 9) and RFC 5180 call frame size: all bytes from the destination
//! MAC to the frame check sequence, a VLAN tag included. The FCS is the NIC's business, so the frame in memory is four
//! bytes shorter: size 64 is a 60-byte buffer.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// Bytes of the frame check sequence, counted in a size and absent from a buffer.
pub const FCS: u16 = 4;
/// The smallest Ethernet frame.
pub const MIN: u16 = 64;
/// The largest Ethernet frame, which has a VLAN tag; without one it is 1518.
pub const MAX: u16 = 1522;

/// The simple IMIX: IP packets of 40, 576 and 1,500 bytes in shares of 7, 4 and 1.
const IMIX: [(u16, u32); 3] = [(64, 7), (594, 4), (1518, 1)];

/// Frame sizes and their shares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    entries: Vec<(u16, u32)>,
    total: u64,
    imix: bool,
}

/// A text that names no frame sizes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no list of frame sizes; accepted are sizes from 64 to 1518 (FCS included; 1522 with a VLAN tag) as in 64 or 64,512,1518, sizes with shares as in 64:7,594:4,1518:1, and \"imix\", which is short for that mix"
)]
pub struct BadSizes(String);

impl Sizes {
    /// Frames of one size only, FCS included.
    #[must_use]
    pub fn fixed(size: u16) -> Self {
        Self {
            entries: vec![(size, 1)],
            total: 1,
            imix: false,
        }
    }

    /// The simple IMIX.
    #[must_use]
    pub fn imix() -> Self {
        Self {
            entries: IMIX.to_vec(),
            total: 12,
            imix: true,
        }
    }

    /// A short name: the mix's, or the sizes.
    #[must_use]
    pub fn label(&self) -> String {
        if self.imix {
            "imix".into()
        } else {
            self.to_string()
        }
    }

    /// Sizes (FCS included) with their shares.
    #[must_use]
    pub fn entries(&self) -> &[(u16, u32)] {
        &self.entries
    }

    /// The smallest size, FCS included.
    #[must_use]
    pub fn smallest(&self) -> u16 {
        self.entries
            .iter()
            .map(|entry| entry.0)
            .min()
            .unwrap_or(MIN)
    }

    /// The largest size, FCS included.
    #[must_use]
    pub fn largest(&self) -> u16 {
        self.entries
            .iter()
            .map(|entry| entry.0)
            .max()
            .unwrap_or(MIN)
    }

    /// For IMIX, lifts sizes below `minimum` to it, so that its shares stay whatever the headers.
    /// Sizes that the user named are left alone.
    #[must_use]
    pub fn lifted(mut self, minimum: u16) -> Self {
        if self.imix {
            for entry in &mut self.entries {
                entry.0 = entry.0.max(minimum);
            }
        }
        self
    }

    /// The same with no size below `minimum`.
    #[must_use]
    pub fn at_least(mut self, minimum: u16) -> Self {
        for entry in &mut self.entries {
            entry.0 = entry.0.max(minimum);
        }
        self
    }

    /// The mean size in bytes, FCS included.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let sum: u64 = self
            .entries
            .iter()
            .map(|(size, share)| u64::from(*size) * u64::from(*share))
            .sum();
        sum as f64 / self.total as f64
    }

    /// The next frame's size, FCS included. A single size takes no random number.
    #[inline]
    pub fn draw(&self, random: &mut Random) -> u16 {
        if let [(size, _)] = self.entries[..] {
            return size;
        }
        let mut point = random.below(self.total);
        for (size, share) in &self.entries {
            if point < u64::from(*share) {
                return *size;
            }
            point -= u64::from(*share);
        }
        self.largest()
    }
}

impl FromStr for Sizes {
    type Err = BadSizes;

    fn from_str(text: &str) -> Result<Self, BadSizes> {
        if text == "imix" {
            return Ok(Self::imix());
        }
        let bad = || BadSizes(text.to_owned());
        let mut entries = Vec::new();
        for part in text.split(',') {
            let (size, share) = part.split_once(':').unwrap_or((part, "1"));
            let size = size
                .parse::<u16>()
                .ok()
                .filter(|size| (MIN..=MAX).contains(size));
            let share = share.parse::<u32>().ok().filter(|share| *share > 0);
            entries.push((size.ok_or_else(bad)?, share.ok_or_else(bad)?));
        }
        let total = entries.iter().map(|entry| u64::from(entry.1)).sum();
        Ok(Self {
            entries,
            total,
            imix: false,
        })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (size, share)) in self.entries.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match share {
                1 if !self.imix => write!(f, "{comma}{size}")?,
                _ => write!(f, "{comma}{size}:{share}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_read_back_as_they_are_written() {
        for text in ["64", "64,512,1518", "64:7,594:4,1518"] {
            assert_eq!(text.parse::<Sizes>().unwrap().to_string(), text);
        }
        assert_eq!(
            "imix".parse::<Sizes>().unwrap().to_string(),
            "64:7,594:4,1518:1"
        );
        for bad in ["", "63", "1523", "64,", "64:0", "64:x", "IMIX", "64 128"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn imix_has_its_shares_and_its_mean() {
        let imix = Sizes::imix();
        let mut random = Random::new(3);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..120_000 {
            *counts.entry(imix.draw(&mut random)).or_insert(0u32) += 1;
        }
        assert_eq!(counts.keys().copied().collect::<Vec<_>>(), [64, 594, 1518]);
        for (size, expected) in [(64, 70_000), (594, 40_000), (1518, 10_000)] {
            assert!(counts[&size].abs_diff(expected) < 1_000, "{counts:?}");
        }
        assert!((imix.mean() - 361.83).abs() < 0.01);
        assert_eq!(imix.lifted(76).label(), "imix");
        assert_eq!(Sizes::fixed(76).label(), "76");
    }

    #[test]
    fn only_imix_is_lifted_to_what_the_headers_need() {
        assert_eq!(Sizes::imix().lifted(96).smallest(), 96);
        assert_eq!(Sizes::fixed(64).lifted(96).smallest(), 64);
    }
}
