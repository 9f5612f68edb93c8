//! Frames for tests, built by an independent implementation (etherparse), and a replay in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test
#![allow(dead_code)]

pub mod bases;
pub mod captured;
pub mod crew;
pub mod full_nat;
pub mod host;
pub mod icmp;
pub mod rig;
pub mod workers;
pub mod world;

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;

pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
pub const WEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What a test frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Syn,
    Ack,
    Fin,
    Rst,
    Udp,
    UdpUnchecked,
}

/// What property tests draw from: mostly what goes on with a flow, now and then what begins or ends one.
pub const MIXED: &[Transport] = &[
    Transport::Syn,
    Transport::Ack,
    Transport::Ack,
    Transport::Ack,
    Transport::Fin,
    Transport::Rst,
    Transport::Udp,
    Transport::Udp,
    Transport::Udp,
];

/// A frame to be built.
#[derive(Debug, Clone)]
pub struct Frame {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub transport: Transport,
    pub payload: Vec<u8>,
    pub vlan: Option<u16>,
    pub ttl: u8,
    pub source_mac: [u8; 6],
    pub destination_mac: [u8; 6],
}

pub fn frame(source: &str, destination: &str, transport: Transport) -> Frame {
    Frame {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        transport,
        payload: b"payload".to_vec(),
        vlan: None,
        ttl: 64,
        source_mac: CLIENT_MAC,
        destination_mac: WEIR_MAC,
    }
}

impl Frame {
    pub fn vlan(mut self, vlan: u16) -> Self {
        self.vlan = Some(vlan);
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    pub fn macs(mut self, source: [u8; 6], destination: [u8; 6]) -> Self {
        (self.source_mac, self.destination_mac) = (source, destination);
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(self.source_mac, self.destination_mac);
        let (source, destination) = (self.source, self.destination);
        macro_rules! network {
            ($link:expr) => {
                match (source.ip(), destination.ip()) {
                    (IpAddr::V4(a), IpAddr::V4(b)) => $link.ipv4(a.octets(), b.octets(), self.ttl),
                    (IpAddr::V6(a), IpAddr::V6(b)) => $link.ipv6(a.octets(), b.octets(), self.ttl),
                    _ => panic!("one family"),
                }
            };
        }
        let step = match self.vlan {
            Some(vlan) => network!(link.single_vlan(vlan.try_into().unwrap())),
            None => network!(link),
        };
        let (from, to) = (source.port(), destination.port());
        let mut bytes = Vec::new();
        match self.transport {
            Transport::Udp | Transport::UdpUnchecked => {
                step.udp(from, to).write(&mut bytes, &self.payload).unwrap();
            }
            tcp => {
                let step = step.tcp(from, to, 1_000, 64_000);
                let step = match tcp {
                    Transport::Syn => step.syn(),
                    Transport::Fin => step.fin().ack(1),
                    Transport::Rst => step.rst(),
                    _ => step.ack(1).psh(),
                };
                step.write(&mut bytes, &self.payload).unwrap();
            }
        }
        if self.transport == Transport::UdpUnchecked {
            let at = bytes.len() - self.payload.len() - 2;
            bytes[at..at + 2].fill(0);
        }
        bytes
    }
}
