//! Malformed frames never crash and are dropped with a reason: received = forwarded + answered +
//! dropped, whatever comes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use proptest::prelude::*;
use support::rig::Rig;
use support::{Transport, frame};
use weir_shm::counters::DropReason;

const CONFIG: &str = r#"
[engine]
flows_per_worker = 100
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]
[[neighbor]]
address = "192.0.2.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "2001:db8::11"
mac = "02:00:00:00:00:0b"
[[service]]
name = "four"
table_size = 13
vip = "192.0.2.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "192.0.2.11"
[[service]]
name = "six"
table_size = 13
vip = "2001:db8::10"
port = 53
protocol = "udp"
forwarding = "dsr-l2"
[[service.backend]]
address = "2001:db8::11"
"#;

/// One good frame of each kind.
fn good_frames() -> Vec<Vec<u8>> {
    let tcp = frame("192.0.2.99:1000", "192.0.2.10:80", Transport::Syn);
    let udp = frame("[2001:db8::99]:1000", "[2001:db8::10]:53", Transport::Udp);
    let arp = {
        let mut bytes = vec![0xff; 6];
        bytes.extend_from_slice(&[2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        bytes.extend_from_slice(&[
            2, 0, 0, 0, 0, 9, 192, 0, 2, 99, 0, 0, 0, 0, 0, 0, 192, 0, 2, 2,
        ]);
        bytes
    };
    let mut ping = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], support::WEIR_MAC)
        .ipv4([192, 0, 2, 99], [192, 0, 2, 10], 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut ping, b"ping")
        .unwrap();
    let mut ping6 = Vec::new();
    let (from, to) = ("2001:db8::99", "2001:db8::2");
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], support::WEIR_MAC)
        .ipv6(octets(from), octets(to), 64)
        .icmpv6_echo_request(1, 1)
        .write(&mut ping6, b"ping")
        .unwrap();
    vec![
        tcp.clone().vlan(7).build(),
        tcp.build(),
        udp.clone().vlan(7).build(),
        udp.build(),
        arp,
        ping,
        ping6,
    ]
}

#[test]
fn good_frames_are_forwarded_or_answered() {
    let mut rig = Rig::new(CONFIG);
    for frame in good_frames() {
        assert_eq!(rig.play(0, &frame).len(), 1);
    }
    rig.assert_all_accounted_for();
}

#[test]
fn a_service_tag_alone_is_no_stack_of_tags() {
    const CUSTOMER: [u8; 4] = [0x81, 0, 0, 7];
    const SERVICE: [u8; 4] = [0x88, 0xa8, 0, 7];
    let plain = frame("192.0.2.99:1000", "192.0.2.10:80", Transport::Syn).build();
    for (tags, reason) in [
        (&[SERVICE][..], DropReason::UnknownEthertype),
        (&[SERVICE, CUSTOMER], DropReason::VlanStacked),
        (&[SERVICE, SERVICE], DropReason::VlanStacked),
        (&[CUSTOMER, CUSTOMER], DropReason::VlanStacked),
        (&[CUSTOMER, SERVICE], DropReason::VlanStacked),
    ] {
        let mut rig = Rig::new(CONFIG);
        let mut tagged = plain.clone();
        tagged.splice(12..12, tags.concat());
        assert!(rig.play(0, &tagged).is_empty());
        assert_eq!(rig.dropped(reason), 1, "{tags:x?}");
        rig.assert_all_accounted_for();
    }
}

#[test]
fn every_truncation_of_a_good_frame_is_dropped_with_a_reason() {
    for frame in good_frames() {
        let mut rig = Rig::new(CONFIG);
        for length in 0..frame.len() {
            let sent = rig.play(0, &frame[..length]);
            // ARP and NDP know their own lengths; everything else says it in a header.
            assert!(
                sent.is_empty(),
                "{length} of {} bytes were taken",
                frame.len()
            );
            rig.assert_all_accounted_for();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_are_accounted_for(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut rig = Rig::new(CONFIG);
        rig.play(0, &bytes);
        rig.assert_all_accounted_for();
    }

    #[test]
    fn good_frames_with_some_bytes_changed_are_accounted_for(
        which in 0usize..7, changes in prop::collection::vec((0usize..200, any::<u8>()), 1..6),
        cut in 0usize..200,
    ) {
        let mut bytes = good_frames().swap_remove(which);
        for (at, value) in changes {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(bytes.len().max(cut));
        let mut rig = Rig::new(CONFIG);
        rig.play(0, &bytes);
        rig.assert_all_accounted_for();
    }
}
