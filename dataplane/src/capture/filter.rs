//! Which packets a capture wants, compiled to numbers.

use weir_engine::wire::ethernet::ethertype;
use weir_engine::wire::protocol;
use weir_shm::counters::DropReason;

use crate::address::{Addr, Version};
use crate::listeners::network;

/// Some of the reasons for which frames are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reasons(u128);

impl Reasons {
    /// All of them.
    pub const ALL: Self = Self(u128::MAX);

    /// These and one more.
    #[must_use]
    pub const fn with(self, reason: DropReason) -> Self {
        Self(self.0 | 1 << (reason as u8 % 128))
    }

    /// Whether a reason is one of them.
    #[must_use]
    pub const fn has(self, reason: DropReason) -> bool {
        self.0 >> (reason as u8 % 128) & 1 != 0
    }
}

/// What is captured. What is `None` matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// The service's number.
    pub service: Option<u32>,
    /// The backends' numbers.
    pub backends: Option<Box<[u32]>>,
    /// A network that source or destination lies in.
    pub address: Option<(Version, Addr, u8)>,
    /// The port that a frame comes in or leaves by.
    pub interface: Option<u16>,
    /// The TCP or UDP port of either end.
    pub port: Option<u16>,
    /// Only packets that are dropped for one of these reasons.
    pub drops: Option<Reasons>,
    /// Frames as they come in.
    pub incoming: bool,
    /// Frames as they leave.
    pub outgoing: bool,
}

/// What a frame says of its two ends.
struct Ends {
    version: Version,
    addresses: [Addr; 2],
    ports: Option<[u16; 2]>,
}

impl Filter {
    /// Whether every packet matches, so that a sample can be drawn before anything is looked at.
    #[must_use]
    pub const fn takes_all(&self) -> bool {
        self.service.is_none()
            && self.backends.is_none()
            && self.address.is_none()
            && self.interface.is_none()
            && self.port.is_none()
            && self.drops.is_none()
    }

    /// Whether a packet of this service and backend, by number, matches so far.
    #[must_use]
    pub fn whose(&self, service: Option<u32>, backend: Option<u32>) -> bool {
        let is_served = |wanted: u32| service == Some(wanted);
        let is_there = |wanted: &[u32]| backend.is_some_and(|number| wanted.contains(&number));
        self.service.is_none_or(is_served) && self.backends.as_deref().is_none_or(is_there)
    }

    /// Whether a packet that was dropped for this reason, or was not dropped, matches so far.
    #[must_use]
    pub fn why(&self, reason: Option<DropReason>) -> bool {
        let is_one = |drops: Reasons| reason.is_some_and(|reason| drops.has(reason));
        self.drops.is_none_or(is_one)
    }

    /// Whether a frame that comes in or leaves by a port matches so far.
    #[must_use]
    pub fn by(&self, port: u16) -> bool {
        self.interface.is_none_or(|wanted| wanted == port)
    }

    /// Whether a frame's addresses and ports match.
    #[must_use]
    pub fn ends(&self, frame: &[u8]) -> bool {
        if self.address.is_none() && self.port.is_none() {
            return true;
        }
        let Some(ends) = ends(frame) else {
            return false;
        };
        let address = self.address.is_none_or(|(version, wanted, prefix)| {
            version == ends.version
                && (ends.addresses)
                    .iter()
                    .any(|address| network(version, *address, prefix) == wanted)
        });
        let port = |wanted| ends.ports.is_some_and(|ports| ports.contains(&wanted));
        address && self.port.is_none_or(port)
    }
}

/// The ends of whatever a frame is, as far as it says; it may be nothing that weir forwards.
fn ends(frame: &[u8]) -> Option<Ends> {
    let mut at = 12;
    let two = |at: usize| {
        let bytes = frame.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*bytes))
    };
    let mut kind = two(at)?;
    // Stacked tags, too, though weir drops those.
    for _ in 0..2 {
        if kind == ethertype::VLAN || kind == ethertype::SERVICE_VLAN {
            at += 4;
            kind = two(at)?;
        }
    }
    let header = frame.get(at + 2..)?;
    let (version, addresses, next, length) = match kind {
        ethertype::IPV4 => {
            let bytes = header.first_chunk::<20>()?;
            let [source, destination] = [12, 16].map(|at| {
                let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
                Addr::from_v4(*bytes.unwrap_or(&[0; 4]))
            });
            let is_later_piece = u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff != 0;
            let next = if is_later_piece { 0 } else { bytes[9] };
            let length = usize::from(bytes[0] & 15) * 4;
            (Version::V4, [source, destination], next, length)
        }
        ethertype::IPV6 => {
            let bytes = header.first_chunk::<40>()?;
            let [source, destination] = [8, 24].map(|at| {
                let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>());
                Addr::from_v6(*bytes.unwrap_or(&[0; 16]))
            });
            (Version::V6, [source, destination], bytes[6], 40)
        }
        ethertype::ARP => {
            // RFC 826: sender's and target's protocol addresses, of Ethernet and IPv4.
            let bytes = header.first_chunk::<28>()?;
            let [sender, target] = [14, 24].map(|at| {
                let bytes = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
                Addr::from_v4(*bytes.unwrap_or(&[0; 4]))
            });
            (Version::V4, [sender, target], 0, 0)
        }
        _ => return None,
    };
    let ports = match next {
        protocol::TCP | protocol::UDP => {
            let ports = header
                .get(length..)
                .and_then(|rest| rest.first_chunk::<4>());
            ports.map(|[a, b, c, d]| [u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])])
        }
        _ => None,
    };
    Some(Ends {
        version,
        addresses,
        ports,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn address(text: &str, prefix: u8) -> Option<(Version, Addr, u8)> {
        let address: IpAddr = text.parse().unwrap();
        let version = Version::of(&address);
        Some((version, network(version, address.into(), prefix), prefix))
    }

    fn udp4(tagged: bool) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut frame = Vec::new();
        if tagged {
            let vlan = builder.single_vlan(7.try_into().unwrap());
            let udp = vlan
                .ipv4([192, 0, 2, 1], [198, 51, 100, 10], 64)
                .udp(1234, 53);
            udp.write(&mut frame, b"hello").unwrap();
        } else {
            let udp = builder
                .ipv4([192, 0, 2, 1], [198, 51, 100, 10], 64)
                .udp(1234, 53);
            udp.write(&mut frame, b"hello").unwrap();
        }
        frame
    }

    #[test]
    fn either_end_counts_tagged_or_not() {
        for frame in [udp4(false), udp4(true)] {
            let filter = |address, port| Filter {
                address,
                port,
                ..Filter::default()
            };
            assert!(filter(address("192.0.2.1", 32), None).ends(&frame));
            assert!(filter(address("198.51.100.0", 24), Some(53)).ends(&frame));
            assert!(filter(None, Some(1234)).ends(&frame));
            assert!(!filter(address("192.0.2.2", 32), None).ends(&frame));
            assert!(!filter(address("192.0.2.1", 32), Some(80)).ends(&frame));
            assert!(!filter(address("2001:db8::", 0), None).ends(&frame));
            assert!(!filter(None, Some(53)).ends(&frame[..30]), "cut short");
        }
        let mut frame = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut end = [0; 16];
        end[0] = 0x20;
        let tcp = builder.ipv6(end, [1; 16], 64).tcp(5, 443, 0, 0);
        tcp.write(&mut frame, &[]).unwrap();
        let filter = Filter {
            address: address("2000::", 16),
            port: Some(443),
            ..Filter::default()
        };
        assert!(filter.ends(&frame));
    }

    #[test]
    fn reasons_are_told_apart() {
        let some = Reasons::default()
            .with(DropReason::NoService)
            .with(DropReason::Untranslatable);
        let has = |reason: &&DropReason| some.has(**reason);
        assert_eq!(DropReason::ALL.iter().filter(has).count(), 2);
        assert!(
            DropReason::ALL
                .iter()
                .all(|reason| Reasons::ALL.has(*reason))
        );
    }
}
