//! What goes to the kernel: frames for the ports' own addresses that weir does not speak itself, so
//! that a routing daemon, BFD or SSH lives on the same NIC.
//!
//! A worker decides which frames those are, aside from its common path, and lets no more of them
//! through than the port's `kernel_rate`: a flood at weir's own address ends there, at the price of
//! a token bucket. What passes goes to the control core by a queue of its own, apart from ARP, NDP
//! and the answers of health checks.
//!
//! Whom the kernel talks to comes first. Half of a bucket is kept for frames that are *expected*:
//!
//! - of a TCP connection in which the kernel has sent data, an acknowledgement or a SYN within the
//!   last five minutes, or, without TCP, from an address that it has sent this protocol to;
//! - with a TTL or hop limit of 255, which nobody beyond the link can send (RFC 5082): single-hop
//!   BFD, and BGP with `ttl security`;
//! - to a group of the link, 224.0.0.0/24 or ff02::/16, which no router forwards (RFC 5771, section
//!   4; RFC 4291, section 2.7): OSPF.
//!
//! A flood of SYNs teaches nothing: what the kernel answers to one, a SYN with ACK or a reset, does
//! not count.

pub mod bucket;
pub mod peers;

use std::sync::Arc;

use weir_engine::wire::protocol;
use weir_engine::wire::tcp::flags;

use crate::address::{Addr, Version};
use crate::conntrack::Tick;
use crate::flow::{FlowHash, FlowHasher};
use crate::parse::Packet;

use bucket::Bucket;
use peers::{Kind, Peers};

/// The TTL that tells a neighbour on the link from everybody else.
const NEIGHBOUR_TTL: u8 = 255;

/// What becomes of a frame that the kernel may want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Its port has no way to the kernel.
    Closed,
    /// It goes there; whether it was expected.
    Open {
        /// Whether it may take the half of the rate that is kept.
        expected: bool,
    },
    /// More come than the port lets through.
    Exceeded,
}

/// A worker's side of the ways to the kernel.
#[derive(Debug)]
pub struct Gate {
    /// By the port's number.
    buckets: Vec<Option<Bucket>>,
    peers: Arc<Peers>,
    hasher: FlowHasher,
}

impl Gate {
    /// A gate that lets through `rates` frames a second, by the port's number; `None` where there is
    /// no way.
    #[must_use]
    pub fn new(rates: &[Option<u32>], peers: Arc<Peers>, hasher: FlowHasher) -> Self {
        let bucket = |rate: &Option<u32>| rate.map(Bucket::new);
        Self {
            buckets: rates.iter().map(bucket).collect(),
            peers,
            hasher,
        }
    }

    /// Whether there is a way from this port.
    #[must_use]
    pub fn is_open(&self, port: u16) -> bool {
        matches!(self.buckets.get(usize::from(port)), Some(Some(_)))
    }

    /// Whether a packet that came in by `port` at `now` may pass; if so, its place is taken.
    pub fn pass(&mut self, port: u16, packet: &Packet, now: Tick) -> Passage {
        let Some(Some(bucket)) = self.buckets.get_mut(usize::from(port)) else {
            return Passage::Closed;
        };
        let expected = packet.ttl == NEIGHBOUR_TTL
            || is_group_of_link(packet.version, packet.destination)
            || {
                let (hash, kind) = known_by(&self.hasher, packet);
                self.peers.expects(hash, kind, now)
            };
        if bucket.take(now, expected) {
            Passage::Open { expected }
        } else {
            Passage::Exceeded
        }
    }
}

/// Whether `address` is a group that no router forwards to.
#[must_use]
pub fn is_group_of_link(version: Version, address: Addr) -> bool {
    match version {
        Version::V4 => address.to_v4()[..3] == [224, 0, 0],
        // The low four bits of the second byte are the scope.
        Version::V6 => matches!(address.to_v6(), [0xff, second, ..] if second & 0x0f == 2),
    }
}

/// What a packet toward the kernel is known by.
#[must_use]
pub fn known_by(hasher: &FlowHasher, packet: &Packet) -> (FlowHash, Kind) {
    if packet.protocol == protocol::TCP {
        return (hasher.packet(packet), Kind::Connection);
    }
    let anywhere = Packet {
        destination: Addr::default(),
        ports: 0,
        ..*packet
    };
    (hasher.packet(&anywhere), Kind::Peer)
}

/// What a packet that the kernel sends lets expect: its other direction. `None` for what a kernel
/// also says to those that it does not talk to.
#[must_use]
pub fn teaches(packet: &Packet) -> Option<Packet> {
    let answers = match packet.protocol {
        protocol::TCP => {
            let answer_to_syn = flags::SYN | flags::ACK;
            packet.tcp_flags & flags::RST != 0 || packet.tcp_flags & answer_to_syn == answer_to_syn
        }
        protocol::ICMP | protocol::ICMPV6 => true,
        _ => false,
    };
    (!answers).then(|| Packet {
        source: packet.destination,
        destination: packet.source,
        ports: packet.ports.rotate_left(16),
        ..*packet
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::HashKey;
    use proptest::prelude::*;

    fn packet(source: [u8; 4], ports: (u16, u16), protocol: u8, ttl: u8) -> Packet {
        let [a, b] = ports.0.to_be_bytes();
        let [c, d] = ports.1.to_be_bytes();
        Packet {
            source: Addr::from_v4(source),
            destination: Addr::from_v4([192, 0, 2, 2]),
            ports: u32::from_le_bytes([a, b, c, d]),
            protocol,
            ttl,
            ..Packet::default()
        }
    }

    fn syn(source: [u8; 4]) -> Packet {
        Packet {
            tcp_flags: flags::SYN,
            ..packet(source, (50_000, 179), protocol::TCP, 64)
        }
    }

    fn reversed(packet: &Packet, tcp_flags: u8) -> Packet {
        Packet {
            source: packet.destination,
            destination: packet.source,
            ports: packet.ports.rotate_left(16),
            tcp_flags,
            ..*packet
        }
    }

    fn gate(rate: u32) -> (Gate, Arc<Peers>, FlowHasher) {
        let (peers, hasher) = (Arc::new(Peers::default()), FlowHasher::new(HashKey::REPLAY));
        let gate = Gate::new(&[None, Some(rate)], Arc::clone(&peers), hasher.clone());
        (gate, peers, hasher)
    }

    /// The kernel sends `packet`.
    fn sent(peers: &Peers, hasher: &FlowHasher, packet: &Packet, now: Tick) {
        if let Some(expected) = teaches(packet) {
            let (hash, kind) = known_by(hasher, &expected);
            peers.expect(hash, kind, now);
        }
    }

    #[test]
    fn a_port_without_a_way_passes_nothing() {
        let (mut gate, ..) = gate(100);
        assert!(!gate.is_open(0) && gate.is_open(1) && !gate.is_open(2));
        for port in [0, 2] {
            assert_eq!(
                gate.pass(port, &syn([203, 0, 113, 1]), Tick(0)),
                Passage::Closed
            );
        }
    }

    #[test]
    fn a_flood_of_strangers_leaves_a_connection_its_share() {
        let (mut gate, peers, hasher) = gate(1_000);
        let session = packet([192, 0, 2, 1], (40_000, 179), protocol::TCP, 64);
        sent(&peers, &hasher, &reversed(&session, flags::ACK), Tick(0));
        // A million a second: a thousand each millisecond, and one frame of the session.
        for ms in 0..2_000u32 {
            for n in 0..1_000u32 {
                let [a, b, c, d] = (ms * 1_000 + n).to_be_bytes();
                let stranger = syn([11, a ^ b, c, d]);
                assert_ne!(
                    gate.pass(1, &stranger, Tick(ms)),
                    Passage::Open { expected: true }
                );
            }
            if ms % 2 == 0 {
                assert_eq!(
                    gate.pass(1, &session, Tick(ms)),
                    Passage::Open { expected: true },
                    "at {ms} ms"
                );
            }
        }
    }

    #[test]
    fn answers_to_a_flood_teach_nothing() {
        let (_, peers, hasher) = gate(1_000);
        let stranger = syn([203, 0, 113, 1]);
        let said = [flags::SYN | flags::ACK, flags::RST, flags::RST | flags::ACK];
        for tcp_flags in said {
            sent(&peers, &hasher, &reversed(&stranger, tcp_flags), Tick(0));
        }
        let error = packet([203, 0, 113, 1], (0, 0), protocol::ICMP, 64);
        sent(&peers, &hasher, &reversed(&error, 0), Tick(0));
        let (hash, kind) = known_by(&hasher, &stranger);
        assert!(!peers.expects(hash, kind, Tick(1)));
        // What only a connection brings forth does, and so does one that the kernel opens.
        for tcp_flags in [flags::ACK, flags::SYN] {
            assert!(teaches(&reversed(&stranger, tcp_flags)).is_some());
        }
    }

    #[test]
    fn neighbours_on_the_link_and_its_groups_are_expected() {
        let (mut gate, ..) = gate(1_000);
        let bfd = packet([192, 0, 2, 1], (49_152, 3_784), protocol::UDP, 255);
        let ospf = Packet {
            destination: Addr::from_v4([224, 0, 0, 5]),
            ..packet([192, 0, 2, 1], (0, 0), 89, 1)
        };
        for expected in [bfd, ospf] {
            assert_eq!(
                gate.pass(1, &expected, Tick(0)),
                Passage::Open { expected: true }
            );
        }
        for (group, expected) in [([224, 0, 1, 1], false), ([225, 0, 0, 5], false)] {
            let packet = Packet {
                destination: Addr::from_v4(group),
                ..ospf
            };
            assert_eq!(gate.pass(1, &packet, Tick(0)), Passage::Open { expected });
        }
    }

    #[test]
    fn without_tcp_a_peer_is_known_by_address_and_protocol() {
        let (mut gate, peers, hasher) = gate(1_000);
        // Multihop BFD: either side sends to 4784 from a port of its own.
        let out = reversed(
            &packet([203, 0, 113, 9], (4_784, 50_000), protocol::UDP, 64),
            0,
        );
        sent(&peers, &hasher, &out, Tick(0));
        let back = packet([203, 0, 113, 9], (51_111, 4_784), protocol::UDP, 64);
        assert_eq!(
            gate.pass(1, &back, Tick(0)),
            Passage::Open { expected: true }
        );
        let other = packet([203, 0, 113, 8], (51_111, 4_784), protocol::UDP, 64);
        assert_eq!(
            gate.pass(1, &other, Tick(0)),
            Passage::Open { expected: false }
        );
        let gre = packet([203, 0, 113, 9], (0, 0), protocol::GRE, 64);
        assert_eq!(
            gate.pass(1, &gre, Tick(0)),
            Passage::Open { expected: false }
        );
    }

    #[test]
    fn groups_of_the_link_are_told_from_others() {
        let v6 = |text: &str| {
            let address: std::net::Ipv6Addr = text.parse().unwrap();
            is_group_of_link(Version::V6, Addr::from_v6(address.octets()))
        };
        assert!(v6("ff02::5") && v6("ff12::1234") && v6("ff02::1:ff00:1"));
        assert!(!v6("ff01::1") && !v6("ff05::2") && !v6("fe80::1") && !v6("2001:db8::1"));
    }

    proptest! {
        #[test]
        fn what_the_kernel_sends_makes_exactly_its_answer_expected(
            peer: [u8; 4], other: [u8; 4], ports: (u16, u16), wrong in 1u16.., tcp: bool,
        ) {
            prop_assume!(peer != other);
            let (_, peers, hasher) = gate(1);
            let protocol = if tcp { protocol::TCP } else { protocol::UDP };
            let back = packet(peer, ports, protocol, 64);
            sent(&peers, &hasher, &reversed(&back, flags::ACK), Tick(5));
            let expects = |packet: &Packet| {
                let (hash, kind) = known_by(&hasher, packet);
                peers.expects(hash, kind, Tick(6))
            };
            prop_assert!(expects(&back));
            prop_assert!(!expects(&packet(other, ports, protocol, 64)));
            let elsewhere = packet(peer, (ports.0.wrapping_add(wrong), ports.1), protocol, 64);
            prop_assert_eq!(expects(&elsewhere), !tcp);
        }
    }
}
