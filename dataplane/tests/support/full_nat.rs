//! A `full-nat` balancer in each pair of families, with what its tests send and look at.
//!
//! Frames are built by etherparse and judged by smoltcp's wire types: neither shares code with weir.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
    UdpPacket,
};

use super::rig::Rig;
use super::{Frame, Transport, WEIR_MAC, frame};

pub const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const BASE: &str = r#"
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24", "2001:db8::2/64", "2001:db8:a::1/64"]
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[route]]
to = "::/0"
via = "2001:db8::1"
[[neighbor]]
address = "192.0.2.1"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "2001:db8::1"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "2001:db8:a::11"
mac = "02:00:00:00:00:0b"
"#;

/// What a configuration begins with, up to its services.
pub fn base(flows_per_worker: u32) -> String {
    format!("[engine]\nflows_per_worker = {flows_per_worker}{BASE}")
}

#[derive(Debug, Clone, Copy)]
pub struct Families {
    pub client_v6: bool,
    pub backend_v6: bool,
}

impl Families {
    pub fn client(self, host: u16, port: u16) -> SocketAddr {
        let [high, low] = host.to_be_bytes();
        let text = if self.client_v6 {
            format!("[2001:db8:c::{host:x}]:{port}")
        } else {
            format!("203.0.{high}.{low}:{port}")
        };
        text.parse().unwrap()
    }

    pub fn vip(self) -> SocketAddr {
        let text = if self.client_v6 {
            "[2001:db8:f::10]:80"
        } else {
            "198.51.100.10:80"
        };
        text.parse().unwrap()
    }

    pub fn backend(self) -> SocketAddr {
        let text = if self.backend_v6 {
            "[2001:db8:a::11]:8080"
        } else {
            "10.0.0.11:8080"
        };
        text.parse().unwrap()
    }

    pub fn snat(self) -> IpAddr {
        let text = if self.backend_v6 {
            "2001:db8:a::5"
        } else {
            "10.0.0.5"
        };
        text.parse().unwrap()
    }

    pub fn rig(self, more: &str) -> Rig {
        Rig::new(&self.config(more))
    }

    pub fn config(self, more: &str) -> String {
        use std::fmt::Write;
        let mut text = base(64);
        for protocol in ["tcp", "udp"] {
            let more = more.replace("toa", if protocol == "tcp" { "toa" } else { "none" });
            write!(
                text,
                "[[service]]\nname = \"{protocol}\"\ntable_size = 13\nvip = \"{}\"\nport = 80\n\
                 protocol = \"{protocol}\"\nforwarding = \"full-nat\"\n\
                 snat_pool = [\"10.0.0.5\", \"2001:db8:a::5\"]\n{more}\n\
                 [[service.backend]]\naddress = \"{}\"\nport = 8080\n",
                self.vip().ip(),
                self.backend().ip()
            )
            .unwrap();
        }
        text
    }
}

pub const ALL: [Families; 4] = {
    const fn of(client_v6: bool, backend_v6: bool) -> Families {
        Families {
            client_v6,
            backend_v6,
        }
    }
    [
        of(false, false),
        of(false, true),
        of(true, false),
        of(true, true),
    ]
};

/// Panics unless every checksum of the frame is right, as smoltcp sees it.
pub fn assert_checksums(bytes: &[u8]) {
    let frame = EthernetFrame::new_checked(bytes).unwrap();
    let (source, destination, protocol, payload): (IpAddress, IpAddress, _, Vec<u8>) =
        match frame.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
                assert!(packet.verify_checksum(), "IPv4 header checksum");
                let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
                (from, to, packet.next_header(), packet.payload().to_vec())
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
                let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
                (from, to, packet.next_header(), packet.payload().to_vec())
            }
            other => panic!("{other}"),
        };
    let right = match protocol {
        IpProtocol::Tcp => TcpPacket::new_checked(&payload)
            .unwrap()
            .verify_checksum(&source, &destination),
        IpProtocol::Udp => UdpPacket::new_checked(&payload)
            .unwrap()
            .verify_checksum(&source, &destination),
        other => panic!("{other}"),
    };
    assert!(right, "transport checksum");
}

/// Where a frame's transport header starts.
pub fn transport_at(frame: &[u8]) -> usize {
    match frame[12] {
        0x08 => 14 + usize::from(frame[14] & 15) * 4,
        _ => 14 + 40,
    }
}

pub fn source_port(frame: &[u8]) -> u16 {
    let at = transport_at(frame);
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Without what a translated IPv4 header has of its own: identification and "don't fragment".
pub fn without_id(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [0x08, 0x00] {
        frame[18..22].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

/// What a packet must become between other ends: the builder's own.
pub fn between(packet: &Frame, from: SocketAddr, to: SocketAddr, mac: [u8; 6]) -> Vec<u8> {
    let mut expected = packet.clone().macs(WEIR_MAC, mac).ttl(packet.ttl - 1);
    (expected.source, expected.destination) = (from, to);
    if to.is_ipv6() && expected.transport == Transport::UdpUnchecked {
        expected.transport = Transport::Udp;
    }
    expected.build()
}

pub fn ask(families: Families, host: u16, port: u16, transport: Transport) -> Frame {
    Frame {
        source: families.client(host, port),
        destination: families.vip(),
        ..frame("1.1.1.1:1", "1.1.1.1:1", transport)
    }
}

pub fn answer(families: Families, to: u16, transport: Transport) -> Frame {
    let answer = Frame {
        source: families.backend(),
        destination: SocketAddr::new(families.snat(), to),
        ..frame("1.1.1.1:1", "1.1.1.1:1", transport)
    };
    answer.macs(BACKEND_MAC, WEIR_MAC)
}

/// The pieces of an IPv4 or IPv6 datagram, `size` bytes of payload each.
pub fn pieces(frame: &[u8], size: usize, id: u32) -> Vec<Vec<u8>> {
    let at = transport_at(frame);
    let payload = &frame[at..];
    let count = payload.len().div_ceil(size);
    let cut = |(number, part): (usize, &[u8])| {
        let more = number + 1 < count;
        let mut piece = frame[..at].to_vec();
        if frame[12] == 0x08 {
            let place = (number * size / 8) as u16 | if more { 0x2000 } else { 0 };
            piece[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            piece[20..22].copy_from_slice(&place.to_be_bytes());
            piece[16..18].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            Ipv4Packet::new_unchecked(&mut piece[14..]).fill_checksum();
        } else {
            let place = (number * size) as u16 | u16::from(more);
            piece.extend_from_slice(&[piece[20], 0]);
            piece.extend_from_slice(&place.to_be_bytes());
            piece.extend_from_slice(&id.to_be_bytes());
            piece[20] = 44;
            piece[18..20].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        }
        piece.extend_from_slice(part);
        piece
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// What a receiver makes of pieces: the datagram's frame with one header, and its identification.
pub fn whole(pieces: &[Vec<u8>]) -> (Vec<u8>, u32) {
    let v4 = pieces[0][12] == 0x08;
    let mut ids = std::collections::HashSet::new();
    let mut payload = Vec::new();
    for piece in pieces {
        if v4 {
            assert!(Ipv4Packet::new_unchecked(&piece[14..]).verify_checksum());
            let place = u16::from_be_bytes([piece[20], piece[21]]);
            assert_eq!(usize::from(place & 0x1fff) * 8, payload.len());
            assert_eq!(place & 0x2000 == 0, piece == pieces.last().unwrap());
            ids.insert(u32::from(u16::from_be_bytes([piece[18], piece[19]])));
            payload.extend_from_slice(&piece[34..]);
        } else {
            assert_eq!((piece[20], piece[54]), (44, 17));
            let place = u16::from_be_bytes([piece[56], piece[57]]);
            assert_eq!(usize::from(place & 0xfff8), payload.len());
            assert_eq!(place & 1 == 0, piece == pieces.last().unwrap());
            ids.insert(u32::from_be_bytes(piece[58..62].try_into().unwrap()));
            payload.extend_from_slice(&piece[62..]);
        }
    }
    assert_eq!(ids.len(), 1, "one identification for all pieces");
    let mut frame = pieces[0][..if v4 { 34 } else { 54 }].to_vec();
    if v4 {
        frame[16..18].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        frame[20..22].fill(0);
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    } else {
        frame[20] = 17;
        frame[18..20].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    frame.extend_from_slice(&payload);
    (frame, ids.into_iter().next().unwrap())
}
