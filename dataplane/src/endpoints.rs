//! A read-only map from endpoints (address, port, protocol) to small numbers.
//!
//! Built on the control core, read by workers: VIPs to services, and backends of `nat` services to
//! the VIP that their answers come from. Open addressing with linear probing at half load, so that
//! a lookup touches one cache line, rarely two; most pools fit into the first-level cache.

use std::sync::Arc;

use crate::address::{Addr, Version};

/// What is looked up. Port and protocol are zero where any matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    address: Addr,
    /// Port, protocol and IP version in one word.
    rest: u32,
}

impl Endpoint {
    /// An address with a port and an IP protocol number.
    #[inline]
    #[must_use]
    pub const fn new(version: Version, address: Addr, port: u16, protocol: u8) -> Self {
        Self {
            address,
            rest: port as u32 | (protocol as u32) << 16 | (version as u32) << 24,
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
            self.rest as u16,
            (self.rest >> 16) as u8,
        )
    }

    /// A multiplicative hash (Knuth, "The Art of Computer Programming", volume 3, section 6.4): the
    /// product's upper bits are the best, so the caller takes those.
    #[inline(always)]
    const fn hash(self) -> u64 {
        let Addr([low, high]) = self.address;
        let word = low ^ high.rotate_left(23) ^ (self.rest as u64) << 32;
        word.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
struct Place {
    endpoint: Endpoint,
    value: u32,
}

/// A place that holds nothing: version 0 is no endpoint's.
const EMPTY: Place = Place {
    endpoint: Endpoint {
        address: Addr([0, 0]),
        rest: 0,
    },
    value: 0,
};

/// The map; see the module's text.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// Shared by generations in which nothing of it changed.
    places: Arc<[Place]>,
    /// 64 less the bits of a place's number.
    shift: u32,
}

impl Endpoints {
    /// A map of `pairs`; of two pairs with one endpoint the first counts.
    #[must_use]
    pub fn new(pairs: &[(Endpoint, u32)]) -> Self {
        let size = (pairs.len() * 2).next_power_of_two().max(2);
        let shift = 64 - size.ilog2();
        let mut places = vec![EMPTY; size];
        for (endpoint, value) in pairs {
            let mut at = (endpoint.hash() >> shift) as usize;
            loop {
                let place = &mut places[at & (size - 1)];
                if place.endpoint.rest == 0 {
                    *place = Place {
                        endpoint: *endpoint,
                        value: *value,
                    };
                    break;
                }
                if place.endpoint == *endpoint {
                    break;
                }
                at = at.wrapping_add(1);
            }
        }
        let places = places.into();
        Self { places, shift }
    }

    /// Hot: what `endpoint` maps to. Ends at the first empty place, and half of all are.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, endpoint: Endpoint) -> Option<u32> {
        let mask = self.places.len() - 1;
        let mut at = (endpoint.hash() >> self.shift) as usize;
        loop {
            let place = self.places.get(at & mask)?;
            if place.endpoint == endpoint {
                return Some(place.value);
            }
            if place.endpoint.rest == 0 {
                return None;
            }
            at = at.wrapping_add(1);
        }
    }

    /// Whether the address alone is in the map.
    #[inline]
    #[must_use]
    pub fn has_address(&self, version: Version, address: Addr) -> bool {
        self.get(Endpoint::address(version, address)).is_some()
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
