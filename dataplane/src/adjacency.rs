//! Where packets leave: ports, routes, and the next hops' MAC addresses, as workers read them.
//!
//! A *hop* is one neighbour on one port. Hops keep their numbers for life, so that a backend names
//! its hop by number; the control core resolves them by ARP or NDP and publishes a new adjacency
//! when one changes. A backend's hop is known when the pool is applied. A client's (the way back of
//! `nat`) is looked up here: longest prefix first, then the gateway's hop or, on a connected
//! network, the client's own.

use std::collections::HashMap;
use std::net::IpAddr;

use weir_engine::wire::ethernet::{self, MacAddr};

use crate::address::{Addr, Version};
use crate::endpoints::{Endpoint, Endpoints};

/// A port as the packet path sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Egress {
    /// The source address of frames that leave here.
    pub mac: MacAddr,
    /// The tag of frames that leave here; `None` leaves untagged, or with the tag that a frame came
    /// in with by the same port.
    pub vlan: Option<u16>,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
}

/// A neighbour on a port: its number there, and its MAC once it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// The port's number.
    pub port: u16,
    /// Its MAC; `None` until it is resolved.
    pub mac: Option<MacAddr>,
}

/// Who the next hop is, by address: what has to be resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// The port's number.
    pub port: u16,
    /// Its address there.
    pub address: IpAddr,
}

/// A network and how it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The network's address.
    pub network: IpAddr,
    /// Its prefix length in bits.
    pub prefix: u8,
    /// The port that leads there.
    pub port: u16,
    /// The gateway, and its hop's number; `None` on a connected network.
    pub gateway: Option<(IpAddr, u32)>,
}

impl Route {
    /// Whether `address` lies in the network.
    #[must_use]
    pub fn covers(&self, address: &IpAddr) -> bool {
        covers(self.network, self.prefix, *address)
    }
}

/// Whether `address` lies in `network/prefix`; never across families.
#[must_use]
pub fn covers(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            (network.to_bits() ^ address.to_bits()) & mask == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            (network.to_bits() ^ address.to_bits()) & mask == 0
        }
        _ => false,
    }
}

/// Where a packet goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextHop {
    /// To this neighbour.
    Ready {
        /// By this port.
        port: u16,
        /// To this MAC.
        mac: MacAddr,
    },
    /// To a neighbour whose MAC is not known yet.
    Unresolved(Neighbour),
    /// No route leads there.
    NoRoute,
}

/// A hop with all that an ordinary frame needs to leave toward it, made beforehand.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
pub struct Exit {
    /// Destination and source MAC as they lie in the frame.
    pub addresses: [u8; 12],
    /// The port's number.
    pub port: u16,
    /// The largest IP packet that an untagged frame may carry there; zero where frames to this hop
    /// need more thought (it is not resolved, or its port tags), so that none is small enough.
    pub mtu: u16,
}

/// Ports, routes and neighbours of one moment.
#[derive(Debug, Clone)]
pub struct Adjacency {
    /// Ports by number.
    pub ports: Vec<Egress>,
    hops: Vec<Hop>,
    exits: Vec<Exit>,
    neighbours: Vec<Neighbour>,
    /// Hops by address and port, for clients on connected networks.
    by_address: Endpoints,
    /// Longest prefix first.
    routes4: Vec<Masked>,
    routes6: Vec<Masked>,
    own: Vec<Own>,
}

/// A port's own address, with the length of its network's prefix in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// The port's number.
    pub port: u16,
    /// The address.
    pub address: IpAddr,
    /// Its network's prefix length.
    pub prefix: u8,
}

/// A route as the packet path compares it: in the frame's byte order.
#[derive(Debug, Clone, Copy)]
struct Masked {
    network: Addr,
    mask: Addr,
    port: u16,
    /// The gateway's hop; `None` on a connected network.
    gateway: Option<u32>,
}

impl Masked {
    fn new4(route: &Route) -> Option<Self> {
        let IpAddr::V4(network) = route.network else {
            return None;
        };
        let mask = u32::MAX
            .checked_shl(32 - u32::from(route.prefix.min(32)))
            .unwrap_or(0);
        let network = (network.to_bits() & mask).to_be_bytes();
        let (network, mask) = (Addr::from_v4(network), Addr::from_v4(mask.to_be_bytes()));
        Some(Self::new(route, network, mask))
    }

    fn new6(route: &Route) -> Option<Self> {
        let IpAddr::V6(network) = route.network else {
            return None;
        };
        let mask = u128::MAX
            .checked_shl(128 - u32::from(route.prefix.min(128)))
            .unwrap_or(0);
        let network = (network.to_bits() & mask).to_be_bytes();
        let (network, mask) = (Addr::from_v6(network), Addr::from_v6(mask.to_be_bytes()));
        Some(Self::new(route, network, mask))
    }

    fn new(route: &Route, network: Addr, mask: Addr) -> Self {
        Self {
            network,
            mask,
            port: route.port,
            gateway: route.gateway.map(|(_, hop)| hop),
        }
    }
}

/// What an ordinary frame needs to leave toward a hop.
fn exit(hop: &Hop, ports: &[Egress]) -> Exit {
    match (hop.mac, ports.get(usize::from(hop.port))) {
        (Some(mac), Some(egress)) if egress.vlan.is_none() => Exit {
            addresses: ethernet::addresses(mac, egress.mac),
            port: hop.port,
            mtu: egress.mtu,
        },
        _ => Exit::default(),
    }
}

impl Adjacency {
    /// From ports, routes in any order, and hops by number.
    #[must_use]
    pub fn new(
        ports: Vec<Egress>,
        mut routes: Vec<Route>,
        hops: &[(Neighbour, Option<MacAddr>)],
    ) -> Self {
        routes.sort_by_key(|route| std::cmp::Reverse(route.prefix));
        let pairs: Vec<(Endpoint, u32)> = (0u32..)
            .zip(hops)
            .map(|(number, (neighbour, _))| (key(neighbour), number))
            .collect();
        let hops_by_number: Vec<Hop> = hops
            .iter()
            .map(|(neighbour, mac)| Hop {
                port: neighbour.port,
                mac: *mac,
            })
            .collect();
        let exits = hops_by_number.iter().map(|hop| exit(hop, &ports)).collect();
        Self {
            ports,
            hops: hops_by_number,
            exits,
            neighbours: hops.iter().map(|(neighbour, _)| *neighbour).collect(),
            by_address: Endpoints::new(&pairs),
            routes4: routes.iter().filter_map(Masked::new4).collect(),
            routes6: routes.iter().filter_map(Masked::new6).collect(),
            own: Vec::new(),
        }
    }

    /// The same with the ports' own addresses.
    #[must_use]
    pub fn with_own(mut self, own: Vec<Own>) -> Self {
        self.own = own;
        self
    }

    /// The address of a port to speak to `address` from: the one on its network, else the first of
    /// its family. Looks at each own address.
    #[must_use]
    pub fn own_toward(&self, port: u16, version: Version, address: Addr) -> Option<Addr> {
        let address = address.to_ip(version);
        let of_port = |own: &&Own| own.port == port && Version::of(&own.address) == version;
        let mut candidates = self.own.iter().filter(of_port);
        let first = candidates.clone().next();
        candidates
            .find(|own| covers(own.address, own.prefix, address))
            .or(first)
            .map(|own| own.address.into())
    }

    /// What ordinary frames need, by their hop's number.
    #[inline(always)]
    #[must_use]
    pub fn exits(&self) -> &[Exit] {
        &self.exits
    }

    /// Hot: what an ordinary frame to the hop with this number needs.
    #[inline(always)]
    #[must_use]
    pub fn exit(&self, number: u32) -> Option<&Exit> {
        self.exits.get(number as usize)
    }

    /// The largest IP packet that leaves toward the hop with this number.
    #[must_use]
    pub fn mtu(&self, number: u32) -> u16 {
        let hop = self.hops.get(number as usize);
        hop.and_then(|hop| self.port(hop.port))
            .map_or(u16::MAX, |port| port.mtu)
    }

    /// Hot: the hop with this number.
    #[inline]
    #[must_use]
    pub fn hop(&self, number: u32) -> NextHop {
        match self.hops.get(number as usize) {
            Some(Hop {
                port,
                mac: Some(mac),
            }) => NextHop::Ready {
                port: *port,
                mac: *mac,
            },
            Some(Hop { mac: None, .. }) => self.unresolved(number),
            None => NextHop::NoRoute,
        }
    }

    #[cold]
    fn unresolved(&self, number: u32) -> NextHop {
        self.neighbours
            .get(number as usize)
            .copied()
            .map_or(NextHop::NoRoute, NextHop::Unresolved)
    }

    /// Hot: the number of the hop to any address, if it has one yet. Looks at each route of the
    /// family once, longest prefix first.
    #[inline(always)]
    #[must_use]
    pub fn hop_toward(&self, version: Version, address: Addr) -> Option<u32> {
        let route = self.route(version, address)?;
        match route.gateway {
            Some(hop) => Some(hop),
            None => self.connected(version, address, route.port),
        }
    }

    /// Hot, though less: the number of the hop to an address on a port's own network.
    #[inline(never)]
    fn connected(&self, version: Version, address: Addr, port: u16) -> Option<u32> {
        self.by_address
            .get(Endpoint::new(version, address, port, 0))
    }

    /// The next hop to any address.
    #[must_use]
    pub fn toward(&self, version: Version, address: Addr) -> NextHop {
        match (
            self.hop_toward(version, address),
            self.route(version, address),
        ) {
            (Some(hop), _) => self.hop(hop),
            (None, None) => NextHop::NoRoute,
            (None, Some(route)) => NextHop::Unresolved(Neighbour {
                port: route.port,
                address: address.to_ip(version),
            }),
        }
    }

    #[inline(always)]
    fn route(&self, version: Version, address: Addr) -> Option<&Masked> {
        let Addr([low, high]) = address;
        match version {
            // An IPv4 address is in the first word.
            Version::V4 => (self.routes4.iter())
                .find(|Masked { network, mask, .. }| low & mask.0[0] == network.0[0]),
            Version::V6 => (self.routes6.iter()).find(|Masked { network, mask, .. }| {
                (low & mask.0[0]) ^ network.0[0] | (high & mask.0[1]) ^ network.0[1] == 0
            }),
        }
    }

    /// Hot: the port with this number.
    #[inline]
    #[must_use]
    pub fn port(&self, number: u16) -> Option<&Egress> {
        self.ports.get(usize::from(number))
    }
}

fn key(neighbour: &Neighbour) -> Endpoint {
    Endpoint::new(
        Version::of(&neighbour.address),
        neighbour.address.into(),
        neighbour.port,
        0,
    )
}

/// Hops by number while they are being given out, on the control core.
#[derive(Debug, Default, Clone)]
pub struct Hops {
    numbers: HashMap<Neighbour, u32>,
    list: Vec<(Neighbour, Option<MacAddr>)>,
}

impl Hops {
    /// The neighbour's number; a new one if it has none yet.
    pub fn number(&mut self, neighbour: Neighbour) -> u32 {
        *self.numbers.entry(neighbour).or_insert_with(|| {
            self.list.push((neighbour, None));
            (self.list.len() - 1) as u32
        })
    }

    /// Sets a neighbour's MAC; whether that changed anything.
    pub fn set(&mut self, neighbour: Neighbour, mac: Option<MacAddr>) -> bool {
        let number = self.number(neighbour) as usize;
        match self.list.get_mut(number) {
            Some((_, known)) if *known != mac => {
                *known = mac;
                true
            }
            _ => false,
        }
    }

    /// The neighbour's MAC.
    #[must_use]
    pub fn mac(&self, neighbour: &Neighbour) -> Option<MacAddr> {
        let number = *self.numbers.get(neighbour)?;
        self.list.get(number as usize).and_then(|(_, mac)| *mac)
    }

    /// All hops by number.
    #[must_use]
    pub fn list(&self) -> &[(Neighbour, Option<MacAddr>)] {
        &self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(network: &str, prefix: u8, port: u16, gateway: Option<(&str, u32)>) -> Route {
        let gateway = gateway.map(|(address, hop)| (ip(address), hop));
        Route {
            network: ip(network),
            prefix,
            port,
            gateway,
        }
    }

    fn adjacency() -> Adjacency {
        let egress = Egress {
            mac: MacAddr([2; 6]),
            vlan: None,
            mtu: 1500,
        };
        let hop = |port, address, mac| {
            (
                Neighbour {
                    port,
                    address: ip(address),
                },
                mac,
            )
        };
        Adjacency::new(
            vec![egress; 2],
            vec![
                route("0.0.0.0", 0, 0, Some(("192.0.2.1", 0))),
                route("192.0.2.0", 24, 0, None),
                route("10.0.0.0", 8, 1, Some(("10.1.0.1", 1))),
                route("10.1.0.0", 16, 1, None),
                route("2001:db8::", 64, 0, None),
            ],
            &[
                hop(0, "192.0.2.1", Some(MacAddr([1; 6]))),
                hop(1, "10.1.0.1", None),
                hop(1, "10.1.0.9", Some(MacAddr([9; 6]))),
            ],
        )
    }

    fn toward(address: &str) -> NextHop {
        let address = ip(address);
        adjacency().toward(Version::of(&address), address.into())
    }

    #[test]
    fn the_longest_prefix_wins() {
        assert_eq!(
            toward("203.0.113.9"),
            NextHop::Ready {
                port: 0,
                mac: MacAddr([1; 6])
            }
        );
        assert_eq!(
            toward("10.1.0.9"),
            NextHop::Ready {
                port: 1,
                mac: MacAddr([9; 6])
            }
        );
        let gateway = Neighbour {
            port: 1,
            address: ip("10.1.0.1"),
        };
        assert_eq!(toward("10.200.0.1"), NextHop::Unresolved(gateway));
    }

    #[test]
    fn an_unknown_neighbour_on_a_connected_network_is_to_be_resolved() {
        let client = Neighbour {
            port: 0,
            address: ip("192.0.2.77"),
        };
        assert_eq!(toward("192.0.2.77"), NextHop::Unresolved(client));
        let client = Neighbour {
            port: 0,
            address: ip("2001:db8::7"),
        };
        assert_eq!(toward("2001:db8::7"), NextHop::Unresolved(client));
    }

    #[test]
    fn an_address_without_route_is_said_so() {
        assert_eq!(toward("2001:db9::1"), NextHop::NoRoute);
    }

    #[test]
    fn hops_keep_their_numbers() {
        let mut hops = Hops::default();
        let a = Neighbour {
            port: 0,
            address: ip("10.0.0.1"),
        };
        let b = Neighbour {
            port: 1,
            address: ip("10.0.0.1"),
        };
        assert_eq!((hops.number(a), hops.number(b), hops.number(a)), (0, 1, 0));
        assert!(hops.set(b, Some(MacAddr([3; 6]))));
        assert!(!hops.set(b, Some(MacAddr([3; 6]))));
        assert_eq!(hops.mac(&b), Some(MacAddr([3; 6])));
        assert_eq!(hops.mac(&a), None);
    }
}
