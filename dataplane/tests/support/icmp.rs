//! ICMP errors for tests: built by etherparse, read by smoltcp and etherparse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{Icmpv4Type, Icmpv6Type, LaxPacketHeaders, NetHeaders, PacketBuilder};
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Packet};

use super::{CLIENT_MAC, WEIR_MAC};

/// An ICMP error, as its receiver reads it.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub from: IpAddr,
    pub to: IpAddr,
    pub kind: (u8, u8),
    /// The last four bytes of its header.
    pub rest: u32,
    pub quoted: (SocketAddr, SocketAddr),
}

/// Reads an ICMP error, whose checksums must be right, and the packet that it quotes.
pub fn told(frame: &[u8]) -> Told {
    let ip = &frame[14..];
    let (from, to, icmp): (IpAddr, IpAddr, &[u8]) = if frame[12] == 0x08 {
        let packet = Ipv4Packet::new_checked(ip).unwrap();
        assert!(packet.verify_checksum());
        assert_eq!(u8::from(packet.next_header()), 1);
        let icmp = &ip[20..usize::from(packet.total_len())];
        assert!(Icmpv4Packet::new_checked(icmp).unwrap().verify_checksum());
        (packet.src_addr().into(), packet.dst_addr().into(), icmp)
    } else {
        let packet = Ipv6Packet::new_checked(ip).unwrap();
        assert_eq!(u8::from(packet.next_header()), 58);
        let icmp = &ip[40..40 + usize::from(packet.payload_len())];
        let (from, to) = (packet.src_addr(), packet.dst_addr());
        let read = Icmpv6Packet::new_checked(icmp).unwrap();
        assert!(read.verify_checksum(&from, &to));
        (from.into(), to.into(), icmp)
    };
    let quoted = LaxPacketHeaders::from_ip(&icmp[8..]).unwrap();
    let ends: (IpAddr, IpAddr) = match quoted.net.unwrap() {
        NetHeaders::Ipv4(header, _) => {
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            (header.source.into(), header.destination.into())
        }
        NetHeaders::Ipv6(header, _) => (header.source.into(), header.destination.into()),
        NetHeaders::Arp(_) => panic!("ARP quoted"),
    };
    // Only eight bytes of TCP are quoted, so that nobody parses them.
    let at = if ends.0.is_ipv4() { 28 } else { 48 };
    let port = |at: usize| u16::from_be_bytes([icmp[at], icmp[at + 1]]);
    Told {
        from,
        to,
        kind: (icmp[0], icmp[1]),
        rest: u32::from_be_bytes(icmp[4..8].try_into().unwrap()),
        quoted: (
            SocketAddr::new(ends.0, port(at)),
            SocketAddr::new(ends.1, port(at + 2)),
        ),
    }
}

/// An ICMP error that quotes as much of a frame's packet, from a router to the packet's source.
pub fn error_about(
    frame: &[u8],
    router: IpAddr,
    mac: [u8; 6],
    quote: usize,
    (kind, code, rest): (u8, u8, [u8; 4]),
) -> Vec<u8> {
    let header = if frame[12] == 0x08 { 20 } else { 40 };
    let quoted = &frame[14..frame.len().min(14 + header + quote)];
    let link = PacketBuilder::ethernet2(mac, WEIR_MAC);
    let mut bytes = Vec::new();
    match router {
        IpAddr::V4(router) => {
            let to = frame[26..30].try_into().unwrap();
            let step = link.ipv4(router.octets(), to, 60);
            let kind = Icmpv4Type::Unknown {
                type_u8: kind,
                code_u8: code,
                bytes5to8: rest,
            };
            step.icmpv4(kind).write(&mut bytes, quoted).unwrap();
        }
        IpAddr::V6(router) => {
            let to = frame[22..38].try_into().unwrap();
            let step = link.ipv6(router.octets(), to, 60);
            let kind = Icmpv6Type::Unknown {
                type_u8: kind,
                code_u8: code,
                bytes5to8: rest,
            };
            step.icmpv6(kind).write(&mut bytes, quoted).unwrap();
        }
    }
    bytes
}

/// "Too large", with the size that fits.
pub fn too_large(v6: bool, mtu: u16) -> (u8, u8, [u8; 4]) {
    let [high, low] = mtu.to_be_bytes();
    let (kind, code) = if v6 { (2, 0) } else { (3, 4) };
    (kind, code, [0, 0, high, low])
}

/// What is left of a rest of header that tells a size.
pub fn size(rest: [u8; 4]) -> u32 {
    u32::from_be_bytes(rest)
}

/// An echo request of the client 203.0.113.5, or 2001:db8:c::5, to `vip`.
pub fn ping(v6: bool, vip: &str) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(CLIENT_MAC, WEIR_MAC);
    let mut bytes = Vec::new();
    if v6 {
        let [client, vip] =
            ["2001:db8:c::5", vip].map(|text| text.parse::<Ipv6Addr>().unwrap().octets());
        let ip = link.ipv6(client, vip, 64).icmpv6_echo_request(7, 1);
        ip.write(&mut bytes, b"are you there?").unwrap();
    } else {
        let vip = vip.parse::<Ipv4Addr>().unwrap().octets();
        let ip = link
            .ipv4([203, 0, 113, 5], vip, 64)
            .icmpv4_echo_request(7, 1);
        ip.write(&mut bytes, b"are you there?").unwrap();
    }
    bytes
}
