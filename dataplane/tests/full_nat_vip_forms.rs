//! `full-nat` behind VIPs of every form: prefixes of addresses, ranges of ports, any port. What a client
//! is answered comes from the very address and port that it asked.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::net::SocketAddr;

use proptest::prelude::*;
use support::full_nat::{
    ALL, BACKEND_MAC, Families, answer, assert_checksums, between, source_port, without_id,
};
use support::rig::Rig;
use support::{CLIENT_MAC, Frame, Transport, frame};
use weir_shm::counters::DropReason;

/// The VIP's prefix, of the client's family.
fn prefix(families: Families) -> &'static str {
    if families.client_v6 {
        "2001:db8:f::/112"
    } else {
        "198.51.100.0/24"
    }
}

/// A VIP of the prefix.
fn vip(families: Families, host: u8, port: u16) -> SocketAddr {
    let text = if families.client_v6 {
        format!("[2001:db8:f::{host:x}]:{port}")
    } else {
        format!("198.51.100.{host}:{port}")
    };
    text.parse().unwrap()
}

/// A balancer whose services have this VIP and port; its backends are asked at the port that clients ask.
fn rig(families: Families, vip: &str, port: &str) -> Rig {
    let exact = format!("vip = \"{}\"\nport = 80\n", families.vip().ip());
    let form = format!("vip = \"{vip}\"\nport = {port}\n");
    let config = families.config("").replace(&exact, &form);
    Rig::new(&config.replace("port = 8080\n", ""))
}

/// Plays a client's packet and its answer; gives where the backend was asked.
fn there_and_back(rig: &mut Rig, families: Families, to: SocketAddr, transport: Transport) -> u16 {
    let client = families.client(7, 4321);
    let request = Frame {
        source: client,
        destination: to,
        ..frame("1.1.1.1:1", "1.1.1.1:1", transport)
    };
    let sent = rig.play(0, &request.build());
    assert_eq!(sent.len(), 1, "{families:?} {to}");
    let got = sent[0].1.clone();
    assert_checksums(&got);
    let at = if got[12] == 0x08 { 34 } else { 54 };
    let asked = u16::from_be_bytes([got[at + 2], got[at + 3]]);
    let mut backend = families.backend();
    backend.set_port(asked);
    let snat = SocketAddr::new(families.snat(), source_port(&got));
    let expected = between(&request, snat, backend, BACKEND_MAC);
    assert_eq!(without_id(got), without_id(expected));
    let mut reply = answer(families, snat.port(), transport);
    reply.source = backend;
    let sent = rig.play(0, &reply.build());
    assert_eq!(sent.len(), 1, "{families:?} {to}");
    let expected = between(&reply, to, client, CLIENT_MAC);
    assert_eq!(without_id(sent[0].1.clone()), without_id(expected));
    asked
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_prefix_with_any_port_is_answered_from_where_it_was_asked(
        number in 0usize..4, host in 1u8..255, port in 1u16.., udp: bool,
    ) {
        let families = ALL[number];
        let mut rig = rig(families, prefix(families), "\"any\"");
        let transport = if udp { Transport::Udp } else { Transport::Ack };
        let asked = there_and_back(&mut rig, families, vip(families, host, port), transport);
        prop_assert_eq!(asked, port);
        rig.assert_all_accounted_for();
    }

    #[test]
    fn a_range_of_ports_is_answered_from_where_it_was_asked_and_no_other_port_is(
        number in 0usize..4, port in 7_990u16..8_111,
    ) {
        let families = ALL[number];
        let vip = families.vip();
        let mut rig = rig(families, &vip.ip().to_string(), "\"8000-8100\"");
        let to = SocketAddr::new(vip.ip(), port);
        if (8000..=8100).contains(&port) {
            let asked = there_and_back(&mut rig, families, to, Transport::Syn);
            prop_assert_eq!(asked, port);
        } else {
            let request = Frame {
                source: families.client(7, 4321),
                destination: to,
                ..frame("1.1.1.1:1", "1.1.1.1:1", Transport::Syn)
            };
            prop_assert!(rig.play(0, &request.build()).is_empty());
            prop_assert_eq!(rig.dropped(DropReason::NoService), 1);
        }
        rig.assert_all_accounted_for();
    }
}

#[test]
fn the_same_client_has_a_session_for_each_address_and_port_that_it_asks() {
    for families in ALL {
        let mut rig = rig(families, prefix(families), "\"any\"");
        let mut ports = std::collections::HashSet::new();
        for host in 1..5 {
            for port in [80, 443, 8080] {
                let request = Frame {
                    source: families.client(7, 4321),
                    destination: vip(families, host, port),
                    ..frame("1.1.1.1:1", "1.1.1.1:1", Transport::Syn)
                };
                let sent = rig.play(0, &request.build());
                assert!(ports.insert(source_port(&sent[0].1)));
            }
        }
        assert_eq!(ports.len(), 12);
    }
}
