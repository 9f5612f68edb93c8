//! `dsr-dscp`: the backend's address as the destination, and a DSCP that tells it which VIP was
//! meant; it puts the VIP back and answers the client directly (VPP's `l3dsr`).
//!
//! Ports and TTL stay. ECN stays (RFC 3168), the six bits before it are the mark. Checksums are
//! updated, never recomputed: a packet that was damaged before stays damaged.

use weir_engine::wire::checksum::Delta;
use weir_engine::wire::{ipv4, ipv6, protocol, tcp, udp};
use weir_shm::counters::DropReason;

use crate::address::{Addr, Version};
use crate::parse::Packet;

/// Hot: a client's packet, to the backend at `address`, marked with `dscp`.
///
/// # Errors
/// The reason to drop it, where the frame is not what its descriptor says.
#[inline(always)]
pub fn to_backend(
    frame: &mut [u8],
    packet: &Packet,
    address: Addr,
    dscp: u8,
) -> Result<(), DropReason> {
    let delta = mark(frame, packet, address, dscp)?;
    let transport = frame.get_mut(usize::from(packet.transport)..);
    let transport = transport.ok_or(DropReason::IpLength)?;
    match packet.protocol {
        protocol::TCP => {
            let header = transport.first_chunk_mut::<{ tcp::LEN }>();
            let header = header.ok_or(DropReason::TcpMalformed)?;
            let old = [header[tcp::CHECKSUM], header[tcp::CHECKSUM + 1]];
            [header[tcp::CHECKSUM], header[tcp::CHECKSUM + 1]] = delta.apply(old);
        }
        protocol::UDP => {
            let header = transport.first_chunk_mut::<{ udp::LEN }>();
            let header = header.ok_or(DropReason::UdpMalformed)?;
            let old = [header[udp::CHECKSUM], header[udp::CHECKSUM + 1]];
            [header[udp::CHECKSUM], header[udp::CHECKSUM + 1]] = delta.apply_udp(old);
        }
        // Unlike ICMP's, its checksum covers the addresses (RFC 4443, section 2.3).
        protocol::ICMPV6 => {
            let header = transport.first_chunk_mut::<4>();
            let header = header.ok_or(DropReason::IcmpMalformed)?;
            [header[2], header[3]] = delta.apply([header[2], header[3]]);
        }
        _ => {}
    }
    Ok(())
}

/// A piece of a client's datagram that has no transport header.
///
/// # Errors
/// As [`to_backend`].
#[cold]
pub fn piece_to_backend(
    frame: &mut [u8],
    packet: &Packet,
    address: Addr,
    dscp: u8,
) -> Result<(), DropReason> {
    mark(frame, packet, address, dscp).map(drop)
}

/// Gives what the new address adds to checksums over the pseudo-header.
#[inline(always)]
fn mark(frame: &mut [u8], packet: &Packet, address: Addr, dscp: u8) -> Result<Delta, DropReason> {
    let network = frame.get_mut(usize::from(packet.network)..);
    let network = network.ok_or(DropReason::IpLength)?;
    match packet.version {
        Version::V4 => {
            let header = network.first_chunk_mut::<{ ipv4::LEN }>();
            let header = header.ok_or(DropReason::IpLength)?;
            Ok(mark_v4(header, address, dscp))
        }
        Version::V6 => {
            let header = network.first_chunk_mut::<{ ipv6::LEN }>();
            let header = header.ok_or(DropReason::IpLength)?;
            Ok(mark_v6(header, address, dscp))
        }
    }
}

#[inline(always)]
fn mark_v4(header: &mut [u8; ipv4::LEN], address: Addr, dscp: u8) -> Delta {
    let old = [header[0], header[1]];
    header[1] = header[1] & 0x03 | dscp << 2;
    let mark = Delta::none().word16(old, [header[0], header[1]]);
    [header[10], header[11]] = mark.apply([header[10], header[11]]);
    ipv4::HeaderMut(header).set_destination(address.to_v4())
}

#[inline]
fn mark_v6(header: &mut [u8; ipv6::LEN], address: Addr, dscp: u8) -> Delta {
    let ecn = header[1] >> 4 & 0x03;
    let class = dscp << 2 | ecn;
    header[0] = header[0] & 0xf0 | class >> 4;
    header[1] = header[1] & 0x0f | class << 4;
    ipv6::HeaderMut(header).set_destination(&address.to_v6())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Accepts, Parsed, general};
    use etherparse::{
        Icmpv4Type, IpHeaders, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
    };
    use proptest::prelude::*;

    const ANY: Accepts = Accepts {
        mac: None,
        vlan: None,
        groups: false,
    };
    const VIP4: [u8; 4] = [198, 51, 100, 10];
    const BACKEND4: [u8; 4] = [10, 0, 0, 11];
    const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
    const BACKEND6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x11];

    fn frame(v6: bool, tcp: bool, traffic_class: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = if v6 {
            let header = etherparse::Ipv6Header {
                traffic_class,
                hop_limit: 1,
                source: [0x20; 16],
                destination: VIP6,
                ..etherparse::Ipv6Header::default()
            };
            link.ip(IpHeaders::Ipv6(
                header,
                etherparse::Ipv6Extensions::default(),
            ))
        } else {
            let source = [203, 0, 113, 7];
            let number = etherparse::IpNumber(0);
            let mut header = etherparse::Ipv4Header::new(0, 1, number, source, VIP4).unwrap();
            header.dscp = etherparse::IpDscp::try_new(traffic_class >> 2).unwrap();
            header.ecn = etherparse::IpEcn::try_new(traffic_class & 3).unwrap();
            link.ip(IpHeaders::Ipv4(
                header,
                etherparse::Ipv4Extensions::default(),
            ))
        };
        if tcp {
            ip.tcp(40000, 80, 1, 1024)
                .write(&mut frame, payload)
                .unwrap();
        } else {
            ip.udp(40000, 80).write(&mut frame, payload).unwrap();
        }
        frame
    }

    fn packet(frame: &[u8]) -> Packet {
        match general(frame, ANY).unwrap() {
            Parsed::Transport(packet) => packet,
            other => panic!("{other:?}"),
        }
    }

    fn class(frame: &[u8]) -> u8 {
        match SlicedPacket::from_ethernet(frame).unwrap().net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                header.dscp.value() << 2 | header.ecn.value()
            }
            NetSlice::Ipv6(ip) => ip.header().traffic_class(),
            NetSlice::Arp(_) => panic!("ARP"),
        }
    }

    /// Whether etherparse finds the transport's checksum right.
    fn is_intact(frame: &[u8]) -> bool {
        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let ip = sliced.net.unwrap();
        match (&ip, sliced.transport.unwrap()) {
            (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
                let (from, to) = (ip.header().source(), ip.header().destination());
                let right = tcp.calc_checksum_ipv4(from, to);
                right.unwrap() == tcp.checksum()
            }
            (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
                let (from, to) = (ip.header().source(), ip.header().destination());
                let right = tcp.calc_checksum_ipv6(from, to);
                right.unwrap() == tcp.checksum()
            }
            (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
                let (header, payload) = (udp.to_header(), udp.payload());
                let right = header.calc_checksum_ipv4(&ip.header().to_header(), payload);
                right.unwrap() == udp.checksum()
            }
            (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
                let (header, payload) = (udp.to_header(), udp.payload());
                let right = header.calc_checksum_ipv6(&ip.header().to_header(), payload);
                right.unwrap() == udp.checksum()
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn putting_the_vip_and_the_dscp_back_gives_the_clients_packet_bit_for_bit(
            v6: bool, tcp: bool, traffic_class: u8, dscp in 1u8..64,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let before = frame(v6, tcp, traffic_class, &payload);
            let mut sent = before.clone();
            let (vip, backend) = if v6 {
                (Addr::from_v6(VIP6), Addr::from_v6(BACKEND6))
            } else {
                (Addr::from_v4(VIP4), Addr::from_v4(BACKEND4))
            };
            to_backend(&mut sent, &packet(&before), backend, dscp).unwrap();
            let arrived = packet(&sent);
            prop_assert_eq!(arrived.destination, backend);
            prop_assert_eq!(class(&sent), dscp << 2 | traffic_class & 3);
            prop_assert!(is_intact(&sent));
            to_backend(&mut sent, &arrived, vip, traffic_class >> 2).unwrap();
            prop_assert_eq!(sent, before);
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_stays_zero() {
        let mut sent = frame(false, false, 0, b"x");
        sent[40..42].fill(0);
        let arriving = packet(&sent);
        to_backend(&mut sent, &arriving, Addr::from_v4(BACKEND4), 7).unwrap();
        assert_eq!(sent[40..42], [0, 0]);
    }

    #[test]
    fn what_has_no_ports_is_marked_all_the_same() {
        let mut sent = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([203, 0, 113, 7], VIP4, 9)
            .icmpv4(Icmpv4Type::EchoRequest(etherparse::IcmpEchoHeader {
                id: 1,
                seq: 1,
            }))
            .write(&mut sent, b"ping")
            .unwrap();
        let like = Packet {
            protocol: protocol::ICMP,
            ..packet(&frame(false, false, 0, b""))
        };
        let message = sent[34..].to_vec();
        to_backend(&mut sent, &like, Addr::from_v4(BACKEND4), 7).unwrap();
        assert_eq!(class(&sent), 7 << 2);
        assert_eq!(sent[34..], message);
    }
}
