//! Which service, or backend, an address, port and protocol belong to, where one endpoint stands for
//! many: any port, a range of ports, any protocol, a prefix of addresses.
//!
//! The packet path asks its map of exact endpoints first ([`crate::endpoints`]), whose hits are
//! always the most specific, and comes here only for what that does not hold, and only where there
//! is such a service at all. The order is the longest prefix, then the port (exact, range, any),
//! then the protocol.
//!
//! One level for each prefix length in use, the longest first; three hash lookups and at most one
//! binary search a level. So the cost grows with the number of different prefix lengths, not with
//! that of services.

use std::collections::{BTreeMap, HashMap};

use crate::address::{Addr, Version};
use crate::endpoints::{Endpoint, Endpoints};

/// The protocol number that stands for all.
pub const ANY_PROTOCOL: u8 = 0;

/// Which ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ports {
    /// This one.
    Exact(u16),
    /// From the first to the last.
    Range(u16, u16),
    /// All.
    Any,
}

/// Many endpoints in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// The family of the addresses.
    pub version: Version,
    /// The address, or the first one of the prefix.
    pub address: Addr,
    /// Bits that all addresses share.
    pub prefix: u8,
    /// Which ports.
    pub ports: Ports,
    /// The IP protocol number, or [`ANY_PROTOCOL`].
    pub protocol: u8,
}

impl Listener {
    /// Whether it is one endpoint, which belongs into the map of exact ones.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        let longest = match self.version {
            Version::V4 => 32,
            Version::V6 => 128,
        };
        matches!(self.ports, Ports::Exact(_))
            && self.prefix >= longest
            && self.protocol != ANY_PROTOCOL
    }
}

/// A range of ports with what it maps to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    first: u16,
    last: u16,
    value: u32,
}

/// All listeners of one prefix length.
#[derive(Debug)]
struct Level {
    mask: Addr,
    exact: Endpoints,
    /// From (address, protocol) to a place in `groups`.
    ranges: Endpoints,
    groups: Box<[Box<[Span]>]>,
    any: Endpoints,
}

/// The map; see the module's text.
#[derive(Debug, Default)]
pub struct Listeners {
    v4: Box<[Level]>,
    v6: Box<[Level]>,
}

impl Listeners {
    /// A map of `listeners`; of two that say the same the first counts, and of two overlapping
    /// ranges of one address and protocol the first keeps all of its ports.
    #[must_use]
    pub fn new(listeners: &[(Listener, u32)]) -> Self {
        let levels = |version| {
            let mut by_length: BTreeMap<u8, Vec<(Listener, u32)>> = BTreeMap::new();
            for (listener, value) in listeners {
                if listener.version == version {
                    let level = by_length.entry(listener.prefix).or_default();
                    level.push((*listener, *value));
                }
            }
            let longest_first = by_length.into_iter().rev();
            longest_first
                .map(|(prefix, level)| Level::new(version, prefix, &level))
                .collect()
        };
        Self {
            v4: levels(Version::V4),
            v6: levels(Version::V6),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// What the most specific listener of an address, port and protocol maps to. The port of a
    /// protocol without ports is zero.
    #[must_use]
    pub fn get(&self, version: Version, address: Addr, port: u16, protocol: u8) -> Option<u32> {
        let levels = match version {
            Version::V4 => &self.v4,
            Version::V6 => &self.v6,
        };
        levels
            .iter()
            .find_map(|level| level.get(version, address, port, protocol))
    }
}

impl Level {
    fn new(version: Version, prefix: u8, listeners: &[(Listener, u32)]) -> Self {
        let mask = mask(version, prefix);
        let (mut exact, mut any) = (Vec::new(), Vec::new());
        let mut spans: HashMap<Endpoint, Vec<Span>> = HashMap::new();
        let mut ranges = Vec::new();
        for (listener, value) in listeners {
            let address = masked(listener.address, mask);
            let key = |port| Endpoint::new(version, address, port, listener.protocol);
            match listener.ports {
                Ports::Exact(port) => exact.push((key(port), *value)),
                Ports::Any => any.push((key(0), *value)),
                Ports::Range(first, last) => {
                    let group = spans.entry(key(0)).or_insert_with(|| {
                        ranges.push(key(0));
                        Vec::new()
                    });
                    let taken = |span: &Span| span.first <= last && first <= span.last;
                    if !group.iter().any(taken) {
                        group.push(Span {
                            first,
                            last,
                            value: *value,
                        });
                    }
                }
            }
        }
        let groups = ranges.iter().map(|key| {
            let mut group = spans.remove(key).unwrap_or_default();
            group.sort_unstable();
            group.into_boxed_slice()
        });
        let groups = groups.collect();
        let ranges: Vec<(Endpoint, u32)> = ranges.into_iter().zip(0..).collect();
        Self {
            mask,
            exact: Endpoints::new(&exact),
            ranges: Endpoints::new(&ranges),
            groups,
            any: Endpoints::new(&any),
        }
    }

    fn get(&self, version: Version, address: Addr, port: u16, protocol: u8) -> Option<u32> {
        let address = masked(address, self.mask);
        let key = |port, protocol| Endpoint::new(version, address, port, protocol);
        self.exact
            .get(key(port, protocol))
            .or_else(|| self.range(key(0, protocol), port))
            .or_else(|| self.any.get(key(0, protocol)))
            .or_else(|| self.any.get(key(0, ANY_PROTOCOL)))
    }

    fn range(&self, key: Endpoint, port: u16) -> Option<u32> {
        let group = self.groups.get(self.ranges.get(key)? as usize)?;
        let after = group.partition_point(|span| span.first <= port);
        let span = group.get(after.checked_sub(1)?)?;
        (port <= span.last).then_some(span.value)
    }
}

/// The first `prefix` bits of an address, in the order of the wire.
const fn mask(version: Version, prefix: u8) -> Addr {
    match version {
        Version::V4 => {
            let host = match u32::MAX.checked_shr(prefix as u32) {
                Some(host) => host,
                None => 0,
            };
            Addr::from_v4((!host).to_be_bytes())
        }
        Version::V6 => {
            let host = match u128::MAX.checked_shr(prefix as u32) {
                Some(host) => host,
                None => 0,
            };
            Addr::from_v6((!host).to_be_bytes())
        }
    }
}

/// The bits of an address that a mask leaves.
#[inline]
#[must_use]
const fn masked(Addr([a, b]): Addr, Addr([c, d]): Addr) -> Addr {
    Addr([a & c, b & d])
}

/// The first bits of an address: as many as `prefix` says.
#[inline]
#[must_use]
pub const fn network(version: Version, address: Addr, prefix: u8) -> Addr {
    masked(address, mask(version, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const GRE: u8 = 47;

    fn listener(text: &str) -> Listener {
        let mut words = text.split(' ');
        let (address, prefix) = words.next().unwrap().split_once('/').unwrap();
        let address: std::net::IpAddr = address.parse().unwrap();
        let ports = match words.next().unwrap() {
            "any" => Ports::Any,
            text => match text.split_once('-') {
                Some((first, last)) => Ports::Range(first.parse().unwrap(), last.parse().unwrap()),
                None => Ports::Exact(text.parse().unwrap()),
            },
        };
        let protocol = match words.next().unwrap() {
            "tcp" => TCP,
            "udp" => UDP,
            _ => ANY_PROTOCOL,
        };
        Listener {
            version: Version::of(&address),
            address: address.into(),
            prefix: prefix.parse().unwrap(),
            ports,
            protocol,
        }
    }

    /// Every pair of overlapping forms, and which wins: the second is the more specific. The packet
    /// is TCP to 198.51.100.10:8080.
    const PAIRS: &[(&str, &str)] = &[
        ("198.51.100.10/32 any any", "198.51.100.10/32 any tcp"),
        ("198.51.100.10/32 any any", "198.51.100.10/32 8000-8100 tcp"),
        ("198.51.100.10/32 any any", "198.51.100.10/32 8080 tcp"),
        ("198.51.100.10/32 any tcp", "198.51.100.10/32 8000-8100 tcp"),
        ("198.51.100.10/32 any tcp", "198.51.100.10/32 8080 tcp"),
        (
            "198.51.100.10/32 8000-8100 tcp",
            "198.51.100.10/32 8080 tcp",
        ),
        ("198.51.100.0/28 any any", "198.51.100.10/32 any any"),
        ("198.51.100.0/28 any any", "198.51.100.10/32 8080 tcp"),
        ("198.51.100.0/28 any tcp", "198.51.100.10/32 any any"),
        ("198.51.100.0/28 8000-8100 tcp", "198.51.100.10/32 any any"),
        ("198.51.100.0/28 8080 tcp", "198.51.100.10/32 any any"),
        ("198.51.100.0/28 8080 tcp", "198.51.100.10/32 any tcp"),
        ("198.51.100.0/28 8080 tcp", "198.51.100.10/32 8000-8100 tcp"),
        ("198.51.100.0/28 8080 tcp", "198.51.100.10/32 8080 tcp"),
        ("198.51.100.0/24 8080 tcp", "198.51.100.0/28 any any"),
        ("198.51.100.0/24 any any", "198.51.100.0/28 any any"),
        ("198.51.100.0/28 any any", "198.51.100.0/28 any tcp"),
        ("198.51.100.0/28 any any", "198.51.100.0/28 8080 tcp"),
        ("198.51.100.0/28 any tcp", "198.51.100.0/28 8000-8100 tcp"),
        ("198.51.100.0/28 8000-8100 tcp", "198.51.100.0/28 8080 tcp"),
    ];

    #[test]
    fn the_more_specific_form_wins_whatever_the_order_of_the_file() {
        let (address, port) = (Addr::from_v4([198, 51, 100, 10]), 8080);
        for (general, specific) in PAIRS {
            let (general, specific) = (listener(general), listener(specific));
            for pair in [[(general, 1), (specific, 2)], [(specific, 2), (general, 1)]] {
                let map = Listeners::new(&pair);
                let found = map.get(Version::V4, address, port, TCP);
                assert_eq!(found, Some(2), "{general:?} {specific:?}");
            }
        }
    }

    #[test]
    fn what_only_the_general_form_matches_is_its_own() {
        let map = Listeners::new(&[
            (listener("198.51.100.0/28 any any"), 1),
            (listener("198.51.100.10/32 any tcp"), 2),
            (listener("198.51.100.10/32 8000-8100 udp"), 3),
            (listener("2001:db8::/64 443 tcp"), 4),
        ]);
        let get = |address: &str, port, protocol| {
            let address: std::net::IpAddr = address.parse().unwrap();
            map.get(Version::of(&address), address.into(), port, protocol)
        };
        for (address, port, protocol, expected) in [
            ("198.51.100.10", 80, TCP, Some(2)),
            ("198.51.100.10", 80, UDP, Some(1)),
            ("198.51.100.10", 8000, UDP, Some(3)),
            ("198.51.100.10", 8100, UDP, Some(3)),
            ("198.51.100.10", 8101, UDP, Some(1)),
            ("198.51.100.10", 0, GRE, Some(1)),
            ("198.51.100.11", 80, TCP, Some(1)),
            ("198.51.100.16", 80, TCP, None),
            ("2001:db8::7", 443, TCP, Some(4)),
            ("2001:db8::7", 443, UDP, None),
            ("2001:db8:0:1::", 443, TCP, None),
        ] {
            assert_eq!(
                get(address, port, protocol),
                expected,
                "{address} {port} {protocol}"
            );
        }
    }

    /// Whether `listener` matches, and how specific it is.
    fn specificity(
        listener: &Listener,
        address: Ipv4Addr,
        port: u16,
        protocol: u8,
    ) -> Option<[u8; 3]> {
        let own = Ipv4Addr::from(listener.address.to_v4());
        let host = u32::MAX.checked_shr(listener.prefix.into()).unwrap_or(0);
        let ports = match listener.ports {
            Ports::Exact(own) => (own == port).then_some(3),
            Ports::Range(first, last) => (first <= port && port <= last).then_some(2),
            Ports::Any => Some(1),
        };
        let of_protocol = match listener.protocol {
            ANY_PROTOCOL => Some(0),
            own => (own == protocol).then_some(1),
        };
        (own.to_bits() & !host == address.to_bits() & !host)
            .then(|| Some([listener.prefix, ports?, of_protocol?]))
            .flatten()
    }

    fn listeners() -> impl Strategy<Value = Listener> {
        let ports = prop_oneof![
            (1u16..12).prop_map(Ports::Exact),
            (0u16..3).prop_map(|at| Ports::Range(at * 4 + 1, at * 4 + 3)),
            Just(Ports::Any),
        ];
        let prefix = prop::sample::select(vec![24u8, 28, 30, 32]);
        (0u8..16, prefix, ports, prop::sample::select(vec![TCP, UDP])).prop_map(
            |(last, prefix, ports, protocol)| Listener {
                version: Version::V4,
                address: network(Version::V4, Addr::from_v4([10, 0, 0, last]), prefix),
                prefix,
                ports,
                protocol: if ports == Ports::Any && last % 2 == 0 {
                    ANY_PROTOCOL
                } else {
                    protocol
                },
            },
        )
    }

    proptest! {
        #[test]
        fn it_agrees_with_looking_at_every_listener(
            listeners in proptest::collection::vec(listeners(), 0..40),
        ) {
            let numbered: Vec<(Listener, u32)> = listeners.iter().copied().zip(0..).collect();
            let map = Listeners::new(&numbered);
            prop_assert_eq!(map.is_empty(), listeners.is_empty());
            for last in 0..18 {
                let address = Ipv4Addr::new(10, 0, 0, last);
                for (port, protocol) in (0..13).flat_map(|port| [(port, TCP), (port, UDP), (port, GRE)]) {
                    let matching = numbered.iter().filter_map(|(listener, value)| {
                        let specific = specificity(listener, address, port, protocol)?;
                        Some((specific, std::cmp::Reverse(*value)))
                    });
                    let best = matching.max().map(|(_, value)| value.0);
                    let address = Addr::from_v4(address.octets());
                    prop_assert_eq!(map.get(Version::V4, address, port, protocol), best);
                }
            }
        }
    }
}
