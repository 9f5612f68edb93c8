//! Reading frames that come back: where the headers lie, who talks to whom, whether the checksums
//! hold.
//!
//! Deliberately separate from weir's own parser, so that a mistake there is not repeated here.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use weir_engine::wire::ethernet::{self, MacAddr, ethertype};
use weir_engine::wire::{checksum, ipv4, ipv6, protocol, tcp, udp};

use crate::frame::{Transport, pseudo_tail};

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// UDP or TCP over IP.
    Packet(Packet),
    /// ARP, or an ICMPv6 neighbour message.
    Neighbour,
    /// Something else, or too short for what it says it is.
    Other,
}

/// A UDP or TCP packet, located.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Destination MAC.
    pub destination_mac: MacAddr,
    /// Source MAC.
    pub source_mac: MacAddr,
    /// Where the IP header starts.
    pub network: usize,
    /// Where the transport header starts.
    pub segment: usize,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// UDP or TCP with its numbers.
    pub transport: Transport,
    /// Where the payload lies; link padding is not part of it.
    pub payload: Range<usize>,
    /// Whether IPv4 header and transport checksum are right. A zero UDP checksum over IPv4 is.
    pub intact: bool,
}

/// Reads `frame`.
#[must_use]
pub fn read(frame: &[u8]) -> Frame {
    let Some(header) = frame.first_chunk::<{ ethernet::LEN }>() else {
        return Frame::Other;
    };
    let mut kind = ethertype(header);
    let mut network = ethernet::LEN;
    if kind == ethertype::VLAN {
        let Some(inner) = frame.get(16..18) else {
            return Frame::Other;
        };
        kind = u16::from_be_bytes([inner[0], inner[1]]);
        network += ethernet::TAG_LEN;
    }
    let found = match kind {
        ethertype::ARP => return Frame::Neighbour,
        ethertype::IPV4 => network_v4(frame, network),
        ethertype::IPV6 => network_v6(frame, network),
        _ => None,
    };
    let Some(found) = found else {
        return Frame::Other;
    };
    if found.protocol == protocol::ICMPV6 {
        // Neighbour solicitation and advertisement: RFC 4861, sections 4.3 and 4.4.
        let kind = frame.get(found.segment);
        return if matches!(kind, Some(135 | 136)) {
            Frame::Neighbour
        } else {
            Frame::Other
        };
    }
    match transport(frame, header, network, &found) {
        Some(packet) => Frame::Packet(packet),
        None => Frame::Other,
    }
}

/// An IP header, read.
struct Network {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    segment: usize,
    end: usize,
    pseudo: u64,
    intact: bool,
}

fn network_v4(frame: &[u8], at: usize) -> Option<Network> {
    let bytes = frame.get(at..)?;
    let header = ipv4::Header(bytes.first_chunk()?);
    let (header_len, total) = (header.header_len(), header.total_len());
    let sound = header.version() == 4
        && header_len >= ipv4::LEN
        && header_len <= total
        && total <= bytes.len()
        && !header.is_fragment();
    sound.then(|| Network {
        source: header.source().into(),
        destination: header.destination().into(),
        protocol: header.protocol(),
        segment: at + header_len,
        end: at + total,
        pseudo: checksum::sum(&bytes[12..20]),
        intact: checksum::is_valid(&bytes[..header_len]),
    })
}

fn network_v6(frame: &[u8], at: usize) -> Option<Network> {
    let bytes = frame.get(at..)?;
    let header = ipv6::Header(bytes.first_chunk()?);
    let sound = header.version() == 6 && ipv6::LEN + header.payload_len() <= bytes.len();
    sound.then(|| Network {
        source: Ipv6Addr::from(*header.source()).into(),
        destination: Ipv6Addr::from(*header.destination()).into(),
        protocol: header.next_header(),
        segment: at + ipv6::LEN,
        end: at + ipv6::LEN + header.payload_len(),
        pseudo: checksum::sum(&bytes[8..40]),
        intact: true,
    })
}

fn transport(frame: &[u8], link: &[u8; ethernet::LEN], at: usize, ip: &Network) -> Option<Packet> {
    let segment = &frame[ip.segment..ip.end];
    let len = u16::try_from(segment.len()).ok()?;
    let sum = || ip.pseudo + pseudo_tail(ip.protocol, len) + checksum::sum(segment);
    let (ports, transport, header_len, sound) = match ip.protocol {
        protocol::UDP => {
            let header = udp::Header(segment.first_chunk()?);
            let unchecked = header.is_unchecked() && ip.source.is_ipv4();
            let sound = unchecked || checksum::fold(sum()) == 0xffff;
            if header.length() != segment.len() {
                return None;
            }
            (
                (header.source_port(), header.destination_port()),
                Transport::Udp,
                udp::LEN,
                sound,
            )
        }
        protocol::TCP => {
            let bytes: &[u8; tcp::LEN] = segment.first_chunk()?;
            let header = tcp::Header(bytes);
            if !(tcp::LEN..=segment.len()).contains(&header.header_len()) {
                return None;
            }
            let transport = Transport::Tcp {
                sequence: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
                acknowledgement: u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
                flags: header.flags(),
            };
            let ports = (header.source_port(), header.destination_port());
            (
                ports,
                transport,
                header.header_len(),
                checksum::fold(sum()) == 0xffff,
            )
        }
        _ => return None,
    };
    Some(Packet {
        destination_mac: ethernet::destination(link),
        source_mac: ethernet::source(link),
        network: at,
        segment: ip.segment,
        source: SocketAddr::new(ip.source, ports.0),
        destination: SocketAddr::new(ip.destination, ports.1),
        transport,
        payload: ip.segment + header_len..ip.end,
        intact: ip.intact && sound,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Link, Segment};
    use crate::stamp::{Kind, Stamp};
    use proptest::prelude::*;

    fn written(v6: bool, tcp: bool, vlan: Option<u16>, extra: usize) -> (Segment, Vec<u8>) {
        let (source, destination): (IpAddr, IpAddr) = if v6 {
            (
                "2001:2::1".parse().unwrap(),
                "2001:db8::10".parse().unwrap(),
            )
        } else {
            (
                "198.18.0.1".parse().unwrap(),
                "198.51.100.10".parse().unwrap(),
            )
        };
        let segment = Segment {
            source: SocketAddr::new(source, 1024),
            destination: SocketAddr::new(destination, 80),
            transport: if tcp {
                Transport::Tcp {
                    sequence: 5,
                    acknowledgement: 6,
                    flags: tcp::flags::SYN,
                }
            } else {
                Transport::Udp
            },
            stamp: Stamp {
                kind: Kind::Request,
                flow: 9,
                sequence: 1,
                tag: 2,
                time: 3,
            },
        };
        let link = Link {
            destination: MacAddr([2; 6]),
            source: MacAddr([4; 6]),
            vlan,
        };
        let mut frame = vec![0; link.header_len() + 40 + 20 + 20 + extra];
        segment.write(&link, &mut frame).unwrap();
        (segment, frame)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(v6: bool, tcp: bool, vlan in proptest::option::of(0u16..4096), extra in 0usize..600, padding in 0usize..20) {
            let (segment, mut frame) = written(v6, tcp, vlan, extra);
            let end = frame.len();
            frame.resize(end + padding, 0xee);
            let Frame::Packet(packet) = read(&frame) else { panic!("not read") };
            prop_assert_eq!((packet.source, packet.destination), (segment.source, segment.destination));
            prop_assert_eq!(packet.transport, segment.transport);
            prop_assert_eq!(packet.payload.end, end);
            prop_assert_eq!(Stamp::read(&frame[packet.payload.clone()]), Some(segment.stamp));
            prop_assert!(packet.intact);
        }

        #[test]
        fn a_flipped_bit_is_noticed(v6: bool, tcp: bool, at in 14usize.., bit in 0u8..8) {
            let (_, mut frame) = written(v6, tcp, None, 40);
            let at = 14 + (at - 14) % (frame.len() - 14);
            frame[at] ^= 1 << bit;
            // Fields of IPv6 that no checksum covers: version, class, label, hop limit.
            prop_assume!(!(v6 && (at < 18 || at == 21)));
            if let Frame::Packet(packet) = read(&frame) {
                prop_assert!(!packet.intact, "byte {at}");
            }
        }

        #[test]
        fn no_bytes_crash_it(frame in proptest::collection::vec(any::<u8>(), 0..200), kind in 0usize..4) {
            let mut frame = frame;
            if frame.len() > 18 {
                let kinds = [[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]];
                frame[12..14].copy_from_slice(&kinds[kind]);
            }
            let _ = read(&frame);
        }

        #[test]
        fn every_truncation_is_no_packet(v6: bool, tcp: bool, cut in 1usize..100) {
            let (_, frame) = written(v6, tcp, None, 0);
            let len = frame.len().saturating_sub(cut);
            prop_assert_eq!(read(&frame[..len]), Frame::Other);
        }
    }
}
