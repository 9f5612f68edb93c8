//! Server IDs and the backends that have them.
//!
//! Workers only read it; the control core makes another when backends change. Keys come from the
//! operator alone, so nobody can make lookups collide, and the hash may be a plain mixer.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use weir_shm::model::ServerId;

/// A server ID as a number, its rotation in the bits above: an ID takes at most 120 of 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key(u128);

impl Key {
    #[inline]
    const fn new(rotation: u8, id: u128) -> Self {
        Self((rotation as u128) << 120 | id)
    }
}

impl std::hash::Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0);
    }
}

/// Mixes the two halves of a key with one multiplication each.
#[derive(Debug, Clone, Copy, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    #[inline]
    fn write_u128(&mut self, key: u128) {
        let low = (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (low ^ (low >> 32) ^ (key >> 64) as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.0 = mixed ^ (mixed >> 32);
    }

    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u128(u128::from(self.0) << 64 | u128::from(*byte));
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Backends' numbers under rotation and server ID.
#[derive(Debug, Default)]
pub(super) struct Directory(HashMap<Key, u32, BuildHasherDefault<Mixer>>);

impl Directory {
    /// From rotations, IDs and backends' numbers.
    pub(super) fn new(ids: impl IntoIterator<Item = (u8, ServerId, u32)>) -> Self {
        let keys = ids.into_iter().map(|(rotation, id, number)| {
            let octets = id.octets().iter();
            let value = octets.fold(0u128, |value, octet| value << 8 | u128::from(*octet));
            (Key::new(rotation, value), number)
        });
        Self(keys.collect())
    }

    /// Hot: the backend with this ID.
    #[inline]
    pub(super) fn get(&self, rotation: u8, id: u128) -> Option<u32> {
        self.0.get(&Key::new(rotation, id)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_belongs_to_its_rotation() {
        let id = |text: &str| text.parse::<ServerId>().unwrap();
        let longest = "ff".repeat(15);
        let directory =
            Directory::new([(0, id("0001"), 5), (1, id("0001"), 6), (6, id(&longest), 7)]);
        assert_eq!(directory.get(0, 1), Some(5));
        assert_eq!(directory.get(1, 1), Some(6));
        assert_eq!(directory.get(2, 1), None);
        assert_eq!(directory.get(6, (1 << 120) - 1), Some(7));
        assert_eq!(directory.get(0, 2), None);
    }

    #[test]
    fn ids_that_count_up_spread() {
        let mut buckets = [0u32; 256];
        for number in 0..65_536u128 {
            // As operators number servers: in the last octets, or in the first.
            for key in [number, number << 48] {
                let mut mixer = Mixer::default();
                mixer.write_u128(key);
                buckets[(mixer.finish() & 0xff) as usize] += 1;
            }
        }
        let (least, most) = (buckets.iter().min().unwrap(), buckets.iter().max().unwrap());
        assert!(*least > 256 && *most < 1_024, "{least} to {most} of 512");
    }
}
