//! A packet is forwarded unchanged but for what its mode names, and its checksums are right.
//!
//! Frames are built by etherparse and judged by smoltcp's wire types: neither shares code with weir.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    TcpPacket, UdpPacket,
};
use support::rig::Rig;
use support::{CLIENT_MAC, Frame, Transport, WEIR_MAC, frame};
use weir_shm::counters::DropReason;

const CONFIG: &str = r#"
[engine]
flows_per_worker = 1000

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

[[service]]
name = "nat4"
table_size = 13
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 8080

[[service]]
name = "nat4-udp"
table_size = 13
vip = "198.51.100.10"
port = 53
protocol = "udp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 5353

[[service]]
name = "nat6"
table_size = 13
vip = "2001:db8:f::10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "2001:db8:a::11"
port = 8080

[[service]]
name = "nat6-udp"
table_size = 13
vip = "2001:db8:f::10"
port = 53
protocol = "udp"
forwarding = "nat"
[[service.backend]]
address = "2001:db8:a::11"
port = 5353

[[service]]
name = "dsr4"
table_size = 13
vip = "198.51.100.20"
port = "any"
protocol = "tcp"
forwarding = "dsr-l2"
[[service.backend]]
address = "10.0.0.11"

[[service]]
name = "dsr4-udp"
table_size = 13
vip = "198.51.100.20"
port = "any"
protocol = "udp"
forwarding = "dsr-l2"
[[service.backend]]
address = "10.0.0.11"

[[service]]
name = "dsr6"
table_size = 13
vip = "2001:db8:f::20"
port = "any"
protocol = "tcp"
forwarding = "dsr-l2"
[[service.backend]]
address = "2001:db8:a::11"
"#;

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

/// Panics unless every checksum of the frame is right, as smoltcp sees it.
fn assert_checksums(bytes: &[u8]) {
    let frame = EthernetFrame::new_checked(bytes).unwrap();
    let (source, destination, protocol, payload): (IpAddress, IpAddress, _, Vec<u8>) =
        match frame.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
                assert!(packet.verify_checksum(), "IPv4 header checksum");
                Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
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

/// The frame that a client's packet must become: the builder's own, with what the mode names.
fn expected(client: &Frame, to: Option<&str>) -> Vec<u8> {
    let mut expected = client.clone().macs(WEIR_MAC, BACKEND_MAC);
    if let Some(to) = to {
        expected.destination = to.parse().unwrap();
        expected.ttl -= 1;
    }
    expected.build()
}

fn transport() -> impl Strategy<Value = Transport> {
    prop::sample::select(vec![
        Transport::Syn,
        Transport::Ack,
        Transport::Fin,
        Transport::Rst,
        Transport::Udp,
        Transport::UdpUnchecked,
    ])
}

fn is_udp(transport: Transport) -> bool {
    matches!(transport, Transport::Udp | Transport::UdpUnchecked)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nat_changes_destination_and_ttl_and_the_answer_comes_back_from_the_vip(
        client: u16, port in 1u16.., ttl in 2u8.., v6: bool,
        transport in transport(), payload in prop::collection::vec(any::<u8>(), 0..200),
        vlan in prop::option::of(1u16..4095),
    ) {
        // An unchecked datagram over IPv6 is not what a client may send.
        let transport = if v6 && transport == Transport::UdpUnchecked { Transport::Udp } else { transport };
        let (vip_port, backend_port) = if is_udp(transport) { (53, 5353) } else { (80, 8080) };
        let [high, low] = client.to_be_bytes();
        let (client, vip, backend) = if v6 {
            (format!("[2001:db8:c::{client:x}]:{port}"), format!("[2001:db8:f::10]:{vip_port}"), format!("[2001:db8:a::11]:{backend_port}"))
        } else {
            (format!("203.0.{high}.{low}:{port}"), format!("198.51.100.10:{vip_port}"), format!("10.0.0.11:{backend_port}"))
        };
        let mut rig = Rig::new(CONFIG);
        let mut request = frame(&client, &vip, transport).payload(&payload).ttl(ttl);
        request.vlan = vlan;
        let sent = rig.play(0, &request.build());
        prop_assert_eq!(sent.len(), 1);
        prop_assert_eq!(&sent[0].1, &expected(&request, Some(&backend)));
        if vlan.is_none() && transport != Transport::UdpUnchecked {
            assert_checksums(&sent[0].1);
        }

        let mut answer = frame(&backend, &client, transport).payload(&payload).ttl(ttl);
        answer = answer.macs(BACKEND_MAC, WEIR_MAC);
        answer.vlan = vlan;
        let sent = rig.play(0, &answer.build());
        let mut expected = answer.clone().macs(WEIR_MAC, CLIENT_MAC).ttl(ttl - 1);
        expected.source = vip.parse().unwrap();
        prop_assert_eq!(sent.len(), 1);
        prop_assert_eq!(&sent[0].1, &expected.build());
        rig.assert_all_accounted_for();
    }

    #[test]
    fn dsr_l2_changes_the_macs_and_nothing_else(
        client: u16, port in 1u16.., vip_port in 1u16.., ttl: u8, v6: bool,
        transport in transport(), payload in prop::collection::vec(any::<u8>(), 0..200),
        vlan in prop::option::of(1u16..4095),
    ) {
        let transport = if v6 && is_udp(transport) { Transport::Ack } else { transport };
        let [high, low] = client.to_be_bytes();
        let (client, vip) = if v6 {
            (format!("[2001:db8:c::{client:x}]:{port}"), format!("[2001:db8:f::20]:{vip_port}"))
        } else {
            (format!("203.0.{high}.{low}:{port}"), format!("198.51.100.20:{vip_port}"))
        };
        let mut request = frame(&client, &vip, transport).payload(&payload).ttl(ttl);
        request.vlan = vlan;
        let mut rig = Rig::new(CONFIG);
        let sent = rig.play(0, &request.build());
        prop_assert_eq!(sent.len(), 1);
        prop_assert_eq!(&sent[0].1, &expected(&request, None));
    }
}

#[test]
fn answers_of_a_backend_that_was_removed_still_reach_their_clients() {
    let mut rig = Rig::new(CONFIG);
    let mut pool = rig.control.pool().clone();
    for line in [
        "backend add nat4 10.0.0.12:8080",
        "backend remove nat4 10.0.0.11:8080",
    ] {
        weir_shm::command::parse_line(line)
            .unwrap()
            .apply_to(&mut pool)
            .unwrap();
    }
    rig.control.apply(rig.now, 2, pool).unwrap();
    let answer = frame("10.0.0.11:8080", "203.0.113.5:4000", Transport::Fin);
    let sent = rig.play(0, &answer.macs(BACKEND_MAC, WEIR_MAC).build());
    assert_eq!(sent.len(), 1, "dropped");
    assert_eq!(sent[0].1[26..30], [198, 51, 100, 10]);
}

#[test]
fn a_udp_checksum_of_zero_stays_zero() {
    let mut rig = Rig::new(CONFIG);
    let request = frame(
        "203.0.113.5:4000",
        "198.51.100.10:53",
        Transport::UdpUnchecked,
    )
    .build();
    let sent = rig.play(0, &request);
    assert_eq!(sent[0].1[40..42], [0, 0]);
}

#[test]
fn padding_of_a_short_frame_is_passed_on() {
    let mut rig = Rig::new(CONFIG);
    let mut request = frame("203.0.113.5:4000", "198.51.100.20:9", Transport::Syn)
        .payload(b"")
        .build();
    request.resize(60, 0xee);
    let sent = rig.play(0, &request);
    assert_eq!(sent[0].1[12..], request[12..]);
}

#[test]
fn ipv4_options_are_passed_over() {
    let mut rig = Rig::new(CONFIG);
    let plain = frame("203.0.113.5:4000", "198.51.100.10:80", Transport::Syn).build();
    // A header of 24 bytes: three no-operations and an end of options (RFC 791, section 3.1).
    let mut with_options = plain[..34].to_vec();
    with_options.extend_from_slice(&[1, 1, 1, 0]);
    with_options.extend_from_slice(&plain[34..]);
    with_options[14] = 0x46;
    let total = (with_options.len() - 14) as u16;
    with_options[16..18].copy_from_slice(&total.to_be_bytes());
    Ipv4Packet::new_unchecked(&mut with_options[14..]).fill_checksum();
    let sent = rig.play(0, &with_options);
    assert_eq!(sent.len(), 1, "dropped");
    assert_checksums(&sent[0].1);
    assert_eq!(sent[0].1[34..38], [1, 1, 1, 0]);
    assert_eq!(sent[0].1[38 + 2..38 + 4], 8080u16.to_be_bytes());
}

#[test]
fn ipv6_extension_headers_are_passed_over() {
    let mut rig = Rig::new(CONFIG);
    let plain = frame(
        "[2001:db8:c::5]:4000",
        "[2001:db8:f::10]:80",
        Transport::Syn,
    )
    .build();
    // Hop-by-hop options, then destination options, eight bytes each, both of padding.
    let mut extended = plain[..54].to_vec();
    extended.extend_from_slice(&[60, 0, 1, 4, 0, 0, 0, 0]);
    extended.extend_from_slice(&[6, 0, 1, 4, 0, 0, 0, 0]);
    extended.extend_from_slice(&plain[54..]);
    extended[20] = 0;
    let payload = (extended.len() - 54) as u16;
    extended[18..20].copy_from_slice(&payload.to_be_bytes());
    let sent = rig.play(0, &extended);
    assert_eq!(sent.len(), 1, "dropped");
    let out = &sent[0].1;
    assert_eq!(out[54 + 16 + 2..54 + 16 + 4], 8080u16.to_be_bytes());
    let (source, destination) = (&out[22..38], &out[38..54]);
    let source = IpAddress::Ipv6(<[u8; 16]>::try_from(source).unwrap().into());
    let destination = IpAddress::Ipv6(<[u8; 16]>::try_from(destination).unwrap().into());
    let tcp = TcpPacket::new_checked(&out[70..]).unwrap();
    assert!(tcp.verify_checksum(&source, &destination));
}

#[test]
fn nat_sends_nothing_further_whose_ttl_ends_here() {
    let mut rig = Rig::new(CONFIG);
    for ttl in [0, 1] {
        let request = frame("203.0.113.5:4000", "198.51.100.10:80", Transport::Syn).ttl(ttl);
        let sent = rig.play(0, &request.build());
        // One answer: time exceeded, from the port's own address, and nothing else.
        let [(0, answer)] = &sent[..] else {
            panic!("{sent:?}");
        };
        let icmp = etherparse::SlicedPacket::from_ethernet(answer).unwrap();
        assert!(matches!(
            icmp.transport,
            Some(etherparse::TransportSlice::Icmpv4(icmp)) if icmp.slice()[..2] == [11, 0]
        ));
    }
    rig.assert_all_accounted_for();
}

#[test]
fn frames_for_others_are_dropped_by_reason() {
    let mut rig = Rig::new(CONFIG);
    let request = |to: &str| frame("203.0.113.5:4000", to, Transport::Syn);
    let other = [2, 0, 0, 0, 0, 0x77];
    rig.play(
        0,
        &request("198.51.100.10:80").macs(CLIENT_MAC, other).build(),
    );
    rig.play(
        0,
        &request("198.51.100.10:80")
            .macs(CLIENT_MAC, [0xff; 6])
            .build(),
    );
    rig.play(0, &request("198.51.100.10:81").build());
    rig.play(0, &request("198.51.100.99:80").build());
    for reason in [
        DropReason::WrongMac,
        DropReason::L2Multicast,
        DropReason::NoService,
        DropReason::NotOurs,
    ] {
        assert_eq!(rig.dropped(reason), 1, "{}", reason.name());
    }
    rig.assert_all_accounted_for();
}
