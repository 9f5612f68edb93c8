//! Encapsulation against readers that are not ours: etherparse for IP and UDP, and the RFCs' bytes
//! for what lies between.

use super::*;
use crate::forward::{geneve, gre, gue, ipip};
use crate::parse::{Accepts, Parsed, general};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use weir_engine::buffer::HeapBuffer;

const ANY: Accepts = Accepts {
    mac: None,
    vlan: None,
    groups: false,
};

/// A tunnel as a test asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ipip,
    Gue(u8),
    Gre(Option<u32>),
    Geneve(u32),
}

fn source(text: &str) -> TunnelSource {
    text.parse().unwrap()
}

fn ends(outer: Version, from: Option<&str>) -> Ends {
    let (usual, destination) = match outer {
        Version::V4 => ("10.0.0.1", "10.0.0.11"),
        Version::V6 => ("2001:db8:1::1", "2001:db8:1::11"),
    };
    Ends {
        source: source(from.unwrap_or(usual)),
        destination: destination.parse().unwrap(),
    }
}

fn outer(kind: Kind, ends: Ends, inner: Version, checksum: OuterChecksum) -> Outer {
    match kind {
        Kind::Ipip => ipip::outer(ends, inner),
        Kind::Gue(variant) => gue::outer(ends, inner, variant, 6080, checksum),
        Kind::Gre(key) => gre::outer(ends, inner, key),
        Kind::Geneve(vni) => geneve::outer(ends, inner, vni, checksum),
    }
}

/// What lies between the outer IP header, or the UDP header, and the inner packet.
fn shim(kind: Kind, inner: Version) -> Vec<u8> {
    let (number, ethertype) = match inner {
        Version::V4 => (4, [0x08, 0x00]),
        Version::V6 => (41, [0x86, 0xdd]),
    };
    let [high, low] = ethertype;
    match kind {
        Kind::Ipip | Kind::Gue(1) => vec![],
        Kind::Gue(_) => vec![0, number, 0, 0],
        Kind::Gre(None) => vec![0, 0, high, low],
        Kind::Gre(Some(key)) => {
            let mut bytes = vec![0x20, 0, high, low];
            bytes.extend_from_slice(&key.to_be_bytes());
            bytes
        }
        Kind::Geneve(vni) => {
            let mut bytes = vec![0, 0, high, low];
            bytes.extend_from_slice(&(vni << 8).to_be_bytes());
            bytes
        }
    }
}

fn client(inner: Version, tcp: bool, traffic_class: u8, payload: &[u8], tagged: bool) -> Vec<u8> {
    let mut frame = Vec::new();
    let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match inner {
        Version::V4 => {
            let mut header = etherparse::Ipv4Header::new(
                0,
                1,
                etherparse::IpNumber(0),
                [203, 0, 113, 7],
                [198, 51, 100, 10],
            )
            .unwrap();
            header.dscp = etherparse::IpDscp::try_new(traffic_class >> 2).unwrap();
            header.ecn = etherparse::IpEcn::try_new(traffic_class & 3).unwrap();
            link.ip(etherparse::IpHeaders::Ipv4(
                header,
                etherparse::Ipv4Extensions::default(),
            ))
        }
        Version::V6 => {
            let header = etherparse::Ipv6Header {
                traffic_class,
                flow_label: etherparse::Ipv6FlowLabel::try_new(0x54321).unwrap(),
                hop_limit: 1,
                source: [0x20, 1, 0xd, 0xb8, 0, 0xc, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
                destination: [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10],
                ..etherparse::Ipv6Header::default()
            };
            link.ip(etherparse::IpHeaders::Ipv6(
                header,
                etherparse::Ipv6Extensions::default(),
            ))
        }
    };
    if tcp {
        ip.tcp(40000, 80, 1, 1024)
            .write(&mut frame, payload)
            .unwrap();
    } else {
        ip.udp(40000, 80).write(&mut frame, payload).unwrap();
    }
    if tagged {
        frame.splice(12..12, [0x81, 0x00, 0xa0, 0x07]);
    }
    while frame.len() < 60 {
        frame.push(0xee);
    }
    frame
}

fn packet(frame: &[u8]) -> Packet {
    match general(frame, ANY).unwrap() {
        Parsed::Transport(packet) => packet,
        other => panic!("{other:?}"),
    }
}

fn encapsulated(frame: &[u8], outer: &Outer, entropy: u64) -> Vec<u8> {
    let mut buffer = HeapBuffer::new(frame);
    outer
        .encapsulate(&mut buffer, &packet(frame), entropy)
        .unwrap();
    buffer.data().to_vec()
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Ipip),
        Just(Kind::Gue(0)),
        Just(Kind::Gue(1)),
        Just(Kind::Gre(None)),
        any::<u32>().prop_map(|key| Kind::Gre(Some(key))),
        (0u32..1 << 24).prop_map(Kind::Geneve),
    ]
}

fn versions() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V4), Just(Version::V6)]
}

proptest! {
    #[test]
    fn undoing_the_tunnel_gives_the_clients_packet_bit_for_bit(
        kind in kinds(), inner in versions(), over in versions(),
        tcp: bool, full: bool, tagged: bool, traffic_class: u8, entropy: u64,
        payload in proptest::collection::vec(any::<u8>(), 0..1400),
    ) {
        let frame = client(inner, tcp, traffic_class, &payload, tagged);
        let checksum = if full { OuterChecksum::Full } else { OuterChecksum::Zero };
        let headers = outer(kind, ends(over, None), inner, checksum);
        let sent = encapsulated(&frame, &headers, entropy);
        let network = if tagged { 18 } else { 14 };
        let sent_before = packet(&frame);
        let client_packet = &frame[network..network + usize::from(sent_before.ip_len)];

        // The Ethernet header: the tag as it was, and the outer EtherType.
        if tagged {
            prop_assert_eq!(&sent[12..16], &[0x81, 0x00, 0xa0, 0x07]);
        }
        let sliced = SlicedPacket::from_ethernet(&sent).unwrap();
        let (next, payload) = match (over, sliced.net.unwrap()) {
            (Version::V4, NetSlice::Ipv4(ip)) => {
                let header = ip.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                prop_assert_eq!(usize::from(header.total_len), sent.len() - network);
                prop_assert_eq!((header.time_to_live, header.identification), (64, 0));
                prop_assert!(header.dont_fragment && !header.more_fragments);
                prop_assert_eq!(header.dscp.value() << 2 | header.ecn.value(), traffic_class);
                prop_assert_eq!(header.source, [10, 0, 0, 1]);
                prop_assert_eq!(header.destination, [10, 0, 0, 11]);
                (header.protocol.0, sent[network + 20..].to_vec())
            }
            (Version::V6, NetSlice::Ipv6(ip)) => {
                let header = ip.header().to_header();
                prop_assert_eq!(usize::from(header.payload_length), sent.len() - network - 40);
                prop_assert_eq!(header.hop_limit, 64);
                prop_assert_eq!(header.traffic_class, traffic_class);
                prop_assert_ne!(header.flow_label.value(), 0);
                let ends = ends(over, None);
                prop_assert_eq!(IpAddr::from(header.source), ends.source.address);
                prop_assert_eq!(IpAddr::from(header.destination), ends.destination);
                (header.next_header.0, sent[network + 40..].to_vec())
            }
            (_, other) => panic!("{other:?}"),
        };
        let expected = shim(kind, inner);
        let inner_at = match kind {
            Kind::Gue(_) | Kind::Geneve(_) => {
                prop_assert_eq!(next, 17);
                let Some(TransportSlice::Udp(udp)) = sliced.transport else {
                    panic!("no UDP");
                };
                let port = if matches!(kind, Kind::Gue(_)) { 6080 } else { 6081 };
                prop_assert_eq!(udp.destination_port(), port);
                prop_assert!(udp.source_port() >= 0xc000);
                prop_assert_eq!(usize::from(udp.length()), payload.len());
                let header = udp.to_header();
                let right = match over {
                    Version::V4 => header.calc_checksum_ipv4_raw([10, 0, 0, 1], [10, 0, 0, 11], &payload[8..]),
                    Version::V6 => {
                        let octets = |address: IpAddr| match address {
                            IpAddr::V6(v6) => v6.octets(),
                            IpAddr::V4(_) => unreachable!(),
                        };
                        let ends = ends(over, None);
                        header.calc_checksum_ipv6_raw(octets(ends.source.address), octets(ends.destination), &payload[8..])
                    }
                };
                prop_assert_eq!(udp.checksum(), if full { right.unwrap() } else { 0 });
                8 + expected.len()
            }
            Kind::Gre(_) => {
                prop_assert_eq!(next, 47);
                expected.len()
            }
            Kind::Ipip => {
                prop_assert_eq!(next, if inner == Version::V4 { 4 } else { 41 });
                0
            }
        };
        prop_assert_eq!(&payload[inner_at - expected.len()..inner_at], &expected[..]);
        prop_assert_eq!(&payload[inner_at..], client_packet);
        let added = sent.len() - network - client_packet.len();
        prop_assert_eq!(usize::from(headers.overhead()), added);
    }

    #[test]
    fn a_prefix_gives_each_flow_a_source_of_its_own_inside_it(
        entropy: u64, v6: bool, prefix4 in 8u8..=32, prefix6 in 32u8..=128,
    ) {
        let (over, prefix) = if v6 { (Version::V6, prefix6) } else { (Version::V4, prefix4) };
        let base: IpAddr = if v6 {
            let bits = 0x2001_0db8_aaaa_bbbb_cccc_dddd_eeee_ffff_u128;
            std::net::Ipv6Addr::from_bits(bits & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into()
        } else {
            let bits = 0x0a40_5566_u32;
            std::net::Ipv4Addr::from_bits(bits & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into()
        };
        let ends = Ends { source: TunnelSource { address: base, prefix }, ..ends(over, None) };
        let frame = client(Version::V4, true, 0, b"", false);
        let sent = encapsulated(&frame, &ipip::outer(ends, Version::V4), entropy);
        let sliced = SlicedPacket::from_ethernet(&sent).unwrap();
        let (from, host_bits): (IpAddr, u8) = match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                (header.source.into(), 32 - prefix)
            }
            NetSlice::Ipv6(ip) => (ip.header().source().into(), 128 - prefix),
            NetSlice::Arp(_) => panic!("ARP"),
        };
        prop_assert!(crate::adjacency::covers(base, prefix, from), "{from} not in {base}/{prefix}");
        if host_bits > 1 {
            prop_assert_ne!(from, base);
        }
        if host_bits == 0 {
            prop_assert_eq!(from, base);
        }
    }

    #[test]
    fn entropy_spreads_flows_and_keeps_each_on_its_way(a: u64, b: u64) {
        let frame = client(Version::V4, true, 0, b"x", false);
        let headers = outer(Kind::Gue(1), ends(Version::V6, Some("2001:db8:2::/64")), Version::V4, OuterChecksum::Zero);
        prop_assert_eq!(encapsulated(&frame, &headers, a), encapsulated(&frame, &headers, a));
        // Source address, flow label and port lie in bytes 14 to 38 and 54 to 56.
        if a >> 32 != b >> 32 {
            prop_assert_ne!(&encapsulated(&frame, &headers, a)[..60], &encapsulated(&frame, &headers, b)[..60]);
        }
    }
}

#[test]
fn without_headroom_the_frame_is_refused() {
    let frame = client(Version::V4, true, 0, b"x", false);
    let headers = outer(
        Kind::Ipip,
        ends(Version::V4, None),
        Version::V4,
        OuterChecksum::Zero,
    );
    let mut buffer = HeapBuffer::with_room(&frame, 19, 0);
    let refused = headers.encapsulate(&mut buffer, &packet(&frame), 0);
    assert_eq!(refused, Err(DropReason::NoBuffer));
}

#[test]
fn the_longest_headers_fit_a_buffers_headroom() {
    let frame = client(Version::V6, true, 0, b"x", false);
    let headers = outer(
        Kind::Geneve(1),
        ends(Version::V6, None),
        Version::V6,
        OuterChecksum::Zero,
    );
    assert_eq!(headers.overhead(), 56);
    assert_eq!(encapsulated(&frame, &headers, 1).len(), frame.len() + 56);
}
