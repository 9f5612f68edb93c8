//! A read-only map from endpoints (address, port, protocol) to small numbers.
//!
//! Built on the control core, read by workers: VIPs to services, and backends of `nat` services to
//! the VIP that their answers come from. Open addressing with linear probing at quarter load, so that
//! a lookup touches one cache line, rarely two; most pools fit into the first-level cache. IPv4 has a
//! table of its own: there an endpoint is one word, and compared at once.

use std::sync::Arc;

use crate::address::{Addr, Version};

/// What is looked up. Port and protocol are zero where any matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Endpoint {
    address: Addr,
    /// Port in network byte order, as packets have it, protocol and IP version in one word.
    rest: u32,
}

impl Endpoint {
    /// An address with a port and an IP protocol number.
    #[inline]
    #[must_use]
    pub const fn new(version: Version, address: Addr, port: u16, protocol: u8) -> Self {
        Self {
            address,
            rest: port.to_be() as u32 | (protocol as u32) << 16 | (version as u32) << 24,
        }
    }

    /// An address alone.
    #[inline]
    #[must_use]
    pub const fn address(version: Version, address: Addr) -> Self {
        Self::new(version, address, 0, 0)
    }

    /// Version, address, port and protocol.
    #[must_use]
    pub const fn parts(self) -> (Version, Addr, u16, u8) {
        let version = if self.rest >> 24 == Version::V6 as u32 {
            Version::V6
        } else {
            Version::V4
        };
        (
            version,
            self.address,
            u16::from_be(self.rest as u16),
            (self.rest >> 16) as u8,
        )
    }

    #[inline(always)]
    const fn is_v4(self) -> bool {
        self.rest >> 24 == Version::V4 as u32
    }

    /// All of an IPv4 endpoint: an address of 32 bits, and the rest.
    #[inline(always)]
    const fn word(self) -> u64 {
        self.address.0[0] | (self.rest as u64) << 32
    }

    /// A word of any endpoint that most others do not have.
    #[inline(always)]
    const fn fold(self) -> u64 {
        let Addr([low, high]) = self.address;
        low ^ high.rotate_left(23) ^ (self.rest as u64) << 32
    }
}

/// A multiplicative hash (Knuth, "The Art of Computer Programming", volume 3, section 6.4): the
/// product's upper bits are the best, so the caller takes those.
#[inline(always)]
const fn hash(word: u64) -> u64 {
    word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What a place is told by: an IPv4 endpoint's word, or an endpoint. Its default is no endpoint's.
trait Key: Copy + PartialEq + Default {
    fn hash(self) -> u64;
}

impl Key for u64 {
    #[inline(always)]
    fn hash(self) -> u64 {
        hash(self)
    }
}

impl Key for Endpoint {
    #[inline(always)]
    fn hash(self) -> u64 {
        hash(self.fold())
    }
}

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(16))]
struct Place<K> {
    key: K,
    value: u32,
}

/// Places of the smallest table: so many that an endpoint which is not there nearly always falls on
/// an empty one, and the branch on that is foreseen.
const LEAST: usize = 64;

#[derive(Debug, Clone)]
struct Table<K> {
    /// Shared by generations in which nothing of it changed.
    places: Arc<[Place<K>]>,
    /// 64 less the bits of a place's number.
    shift: u32,
}

impl<K: Key> Table<K> {
    fn new(pairs: &[(K, u32)]) -> Self {
        let size = (pairs.len() * 4).next_power_of_two().max(LEAST);
        let shift = 64 - size.ilog2();
        let mut places = vec![Place::default(); size];
        for (key, value) in pairs {
            let mut at = (key.hash() >> shift) as usize;
            loop {
                let place = &mut places[at & (size - 1)];
                if place.key == K::default() {
                    (place.key, place.value) = (*key, *value);
                    break;
                }
                if place.key == *key {
                    break;
                }
                at = at.wrapping_add(1);
            }
        }
        let places = places.into();
        Self { places, shift }
    }

    fn view(&self) -> TableView<'_, K> {
        TableView {
            places: &self.places,
            shift: self.shift,
        }
    }
}

/// The map; see the module's text.
#[derive(Debug, Clone)]
pub struct Endpoints {
    four: Table<u64>,
    six: Table<Endpoint>,
}

impl Endpoints {
    /// A map of `pairs`; of two pairs with one endpoint the first counts.
    #[must_use]
    pub fn new(pairs: &[(Endpoint, u32)]) -> Self {
        let four = pairs.iter().filter(|(endpoint, _)| endpoint.is_v4());
        let four: Vec<_> = four.map(|(key, value)| (key.word(), *value)).collect();
        let six = pairs.iter().filter(|(endpoint, _)| !endpoint.is_v4());
        Self {
            four: Table::new(&four),
            six: Table::new(&six.copied().collect::<Vec<_>>()),
        }
    }

    /// Hot: what `endpoint` maps to.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, endpoint: Endpoint) -> Option<u32> {
        self.view().get(endpoint)
    }

    /// Hot: the map to look many endpoints up in, its fields at hand.
    #[inline(always)]
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View {
            four: self.four.view(),
            six: self.six.view(),
        }
    }

    /// Whether the address alone is in the map.
    #[inline]
    #[must_use]
    pub fn has_address(&self, version: Version, address: Addr) -> bool {
        self.get(Endpoint::address(version, address)).is_some()
    }
}

/// The map as its reader holds it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    four: TableView<'a, u64>,
    six: TableView<'a, Endpoint>,
}

impl View<'_> {
    /// Hot: what `endpoint` maps to. Where the compiler knows its version, there is no branch on it.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, endpoint: Endpoint) -> Option<u32> {
        if endpoint.is_v4() {
            self.four.get(endpoint.word())
        } else {
            self.six.get(endpoint)
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct TableView<'a, K> {
    places: &'a [Place<K>],
    shift: u32,
}

impl<K: Key> TableView<'_, K> {
    /// Hot: ends at the first empty place, and most are.
    #[inline(always)]
    fn get(&self, key: K) -> Option<u32> {
        let mask = self.places.len().wrapping_sub(1);
        let mut at = (key.hash() >> self.shift) as usize;
        loop {
            let place = self.places.get(at & mask)?;
            if place.key == key {
                return Some(place.value);
            }
            if place.key == K::default() {
                return None;
            }
            at = at.wrapping_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn an_empty_map_finds_nothing() {
        let map = Endpoints::new(&[]);
        assert_eq!(
            map.get(Endpoint::new(Version::V4, Addr::default(), 0, 0)),
            None
        );
    }

    #[test]
    fn families_do_not_alias() {
        let v4 = Endpoint::new(Version::V4, Addr([1, 0]), 80, 6);
        let v6 = Endpoint::new(Version::V6, Addr([1, 0]), 80, 6);
        let map = Endpoints::new(&[(v4, 4)]);
        assert_eq!((map.get(v4), map.get(v6)), (Some(4), None));
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_hash_map(
            pairs in proptest::collection::vec((0u64..64, 0u16..8, any::<bool>(), any::<u32>()), 0..200),
        ) {
            let pairs: Vec<(Endpoint, u32)> = pairs
                .into_iter()
                .map(|(address, port, tcp, value)| {
                    let protocol = if tcp { 6 } else { 17 };
                    (Endpoint::new(Version::V4, Addr([address, 0]), port, protocol), value)
                })
                .collect();
            let map = Endpoints::new(&pairs);
            let mut oracle = HashMap::new();
            for (endpoint, value) in &pairs {
                oracle.entry(*endpoint).or_insert(*value);
            }
            for address in 0..64 {
                for port in 0..8 {
                    let endpoint = Endpoint::new(Version::V4, Addr([address, 0]), port, 6);
                    prop_assert_eq!(map.get(endpoint), oracle.get(&endpoint).copied());
                }
            }
        }
    }
}
