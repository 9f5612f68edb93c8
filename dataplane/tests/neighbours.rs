//! ARP, NDP and echo are answered; packets wait for a neighbour and are not lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, Icmpv4Packet, Ipv4Packet};
use support::rig::Rig;
use support::{CLIENT_MAC, Transport, WEIR_MAC, frame};
use weir_shm::counters::DropReason;

const CONFIG: &str = r#"
[engine]
flows_per_worker = 100
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24"]
[[port]]
name = "lan"
device = "net_null1"
mac = "02:00:00:00:00:02"
vlan = 30
addresses = ["10.0.0.1/24"]
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
table_size = 13
[[service.backend]]
address = "10.0.0.11"
"#;

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

fn arp(
    operation: ArpOperation,
    mac: [u8; 6],
    from: [u8; 4],
    to: [u8; 4],
    vlan: Option<u16>,
) -> Vec<u8> {
    let target = if operation == ArpOperation::REQUEST {
        [0; 6]
    } else {
        WEIR_MAC
    };
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        operation,
        &mac,
        &from,
        &target,
        &to,
    )
    .unwrap();
    let destination = if operation == ArpOperation::REQUEST {
        [0xff; 6]
    } else {
        [2, 0, 0, 0, 0, 2]
    };
    let link = PacketBuilder::ethernet2(mac, destination);
    let mut bytes = Vec::new();
    match vlan {
        Some(vlan) => link
            .single_vlan(vlan.try_into().unwrap())
            .arp(packet)
            .write(&mut bytes)
            .unwrap(),
        None => link.arp(packet).write(&mut bytes).unwrap(),
    }
    bytes
}

#[test]
fn arp_is_answered_for_own_addresses_and_vips_only() {
    let mut rig = Rig::new(CONFIG);
    for ours in [[192, 0, 2, 2], [198, 51, 100, 10]] {
        let sent = rig.play(
            0,
            &arp(
                ArpOperation::REQUEST,
                CLIENT_MAC,
                [192, 0, 2, 9],
                ours,
                None,
            ),
        );
        assert_eq!(sent.len(), 1);
        let reply = &sent[0].1;
        assert_eq!(
            (&reply[..6], &reply[6..12]),
            (&CLIENT_MAC[..], &WEIR_MAC[..])
        );
        assert_eq!(
            (&reply[20..22], &reply[22..28], &reply[28..32]),
            (&[0, 2][..], &WEIR_MAC[..], &ours[..])
        );
    }
    let other = arp(
        ArpOperation::REQUEST,
        CLIENT_MAC,
        [192, 0, 2, 9],
        [192, 0, 2, 77],
        None,
    );
    assert!(rig.play(0, &other).is_empty());
    assert_eq!(rig.dropped(DropReason::ArpNotOurs), 1);
    rig.assert_all_accounted_for();
}

#[test]
fn packets_to_an_unresolved_backend_wait_and_leave_in_order_when_it_answers() {
    let mut rig = Rig::new(CONFIG);
    let packet = |client: u16| {
        frame(
            &format!("203.0.113.5:{client}"),
            "198.51.100.10:80",
            Transport::Syn,
        )
        .build()
    };
    let asked = rig.play(0, &packet(1));
    assert_eq!(asked.len(), 1, "one ARP request");
    assert_eq!(asked[0].0, 1, "out of the backend's port");
    assert_eq!(
        asked[0].1[12..18],
        [0x81, 0, 0, 30, 8, 6],
        "with the port's tag"
    );
    assert!(rig.play(0, &packet(2)).is_empty());
    rig.assert_all_accounted_for();
    let sent = rig.play(
        1,
        &arp(
            ArpOperation::REPLY,
            BACKEND_MAC,
            [10, 0, 0, 11],
            [10, 0, 0, 1],
            Some(30),
        ),
    );
    let ports: Vec<[u8; 2]> = sent
        .iter()
        .map(|(_, frame)| [frame[38], frame[39]])
        .collect();
    assert_eq!(ports, [[0, 1], [0, 2]]);
    for (port, frame) in &sent {
        assert_eq!((*port, &frame[..6]), (1, &BACKEND_MAC[..]));
        assert_eq!(
            frame[12..16],
            [0x81, 0, 0, 30],
            "tagged for the port it leaves by"
        );
    }
    assert_eq!(
        rig.play(0, &packet(3)).len(),
        1,
        "resolved: no more waiting"
    );
    rig.assert_all_accounted_for();
}

#[test]
fn the_answer_to_a_client_leaves_without_the_other_ports_tag() {
    let mut rig = Rig::new(CONFIG);
    rig.play(
        0,
        &arp(
            ArpOperation::REQUEST,
            CLIENT_MAC,
            [192, 0, 2, 1],
            [192, 0, 2, 2],
            None,
        ),
    );
    let answer = frame("10.0.0.11:80", "203.0.113.5:1", Transport::Ack)
        .macs(BACKEND_MAC, [2, 0, 0, 0, 0, 2])
        .vlan(30);
    let sent = rig.play(1, &answer.build());
    assert_eq!(sent.len(), 1);
    let (port, bytes) = &sent[0];
    assert_eq!(
        (*port, &bytes[..6], &bytes[12..14]),
        (0, &CLIENT_MAC[..], &[8, 0][..])
    );
    assert_eq!(bytes[26..30], [198, 51, 100, 10]);
}

#[test]
fn packets_to_a_backend_that_never_answers_are_dropped_with_their_reason() {
    let mut rig = Rig::new(CONFIG);
    rig.play(
        0,
        &frame("203.0.113.5:1", "198.51.100.10:80", Transport::Syn).build(),
    );
    let requests: usize = (0..5).map(|_| rig.tick(1_000_000_000).len()).sum();
    assert_eq!(requests, 2, "two retries after the first request");
    assert_eq!(rig.dropped(DropReason::NeighbourUnresolved), 1);
    rig.assert_all_accounted_for();
}

#[test]
fn an_echo_request_to_a_vip_is_answered() {
    let mut rig = Rig::new(CONFIG);
    let mut ping = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, WEIR_MAC)
        .ipv4([203, 0, 113, 5], [198, 51, 100, 10], 64)
        .icmpv4_echo_request(7, 9)
        .write(&mut ping, b"are you there?")
        .unwrap();
    let sent = rig.play(0, &ping);
    let frame = EthernetFrame::new_checked(&sent[0].1).unwrap();
    assert_eq!(frame.ethertype(), EthernetProtocol::Ipv4);
    let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
    assert!(packet.verify_checksum());
    assert_eq!(packet.src_addr().octets(), [198, 51, 100, 10]);
    assert_eq!(packet.dst_addr().octets(), [203, 0, 113, 5]);
    let icmp = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!(
        (icmp.echo_ident(), icmp.echo_seq_no(), icmp.data()),
        (7, 9, &b"are you there?"[..])
    );
}

#[test]
fn frames_without_the_ports_tag_are_refused() {
    let mut rig = Rig::new(CONFIG);
    let answer = frame("10.0.0.11:80", "203.0.113.5:1", Transport::Ack)
        .macs(BACKEND_MAC, [2, 0, 0, 0, 0, 2]);
    rig.play(1, &answer.clone().build());
    rig.play(1, &answer.vlan(31).build());
    assert_eq!(rig.dropped(DropReason::VlanMismatch), 2);
}
