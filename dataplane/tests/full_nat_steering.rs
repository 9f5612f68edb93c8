//! `full-nat` where steering and sessions disagree: a connection ID decides over the session that its
//! 4-tuple had, and a live session over a pool that would take nobody new.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::collections::HashSet;

use support::full_nat::{ALL, Families, answer, ask, pieces, source_port};
use support::rig::Rig;
use support::{CLIENT_MAC, Transport, frame};
use weir::quic::encode::{Encoder, FirstOctet};
use weir_shm::counters::DropReason;
use weir_shm::model::{QuicConfig, ServerId};

/// The last byte of the address that a frame goes to.
fn server(frame: &[u8]) -> u8 {
    frame[33]
}

const QUIC: &str = r#"
[engine]
flows_per_worker = 1000
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24"]
[[neighbor]]
address = "192.0.2.9"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "10.0.0.12"
mac = "02:00:00:00:00:0b"
[[service]]
name = "q"
vip = "198.51.100.10"
port = 443
protocol = "quic"
forwarding = "full-nat"
snat_pool = ["10.0.0.5"]
[service.quic]
configs = [{ rotation = 0, server_id_length = 8, nonce_length = 4 }]
[[service.backend]]
address = "10.0.0.11"
server_id = "0000000000000011"
[[service.backend]]
address = "10.0.0.12"
server_id = "0000000000000012"
"#;

/// A packet with a short header whose connection ID names a backend.
fn names(backend: u8) -> Vec<u8> {
    let config = QuicConfig {
        rotation: 0,
        server_id_length: 8,
        nonce_length: 4,
        key: None,
    };
    let id = ServerId::new(&[0, 0, 0, 0, 0, 0, 0, backend]).unwrap();
    let encoder = Encoder::new(&config, FirstOctet::Length).unwrap();
    let cid = encoder.encode(&id, &[7; 4]).unwrap().to_vec();
    [&[0x4b][..], &cid, &[0x5c; 40]].concat()
}

#[test]
fn a_connection_id_decides_over_the_session_of_its_4_tuple() {
    let mut rig = Rig::new(QUIC);
    let mut play = |from: &str, datagram: &[u8]| {
        let packet = frame(from, "198.51.100.10:443", Transport::Udp).payload(datagram);
        let sent = rig.play(0, &packet.build());
        assert_eq!(sent.len(), 1);
        (server(&sent[0].1), source_port(&sent[0].1))
    };
    for port in 1_000..1_020 {
        let from = format!("192.0.2.9:{port}");
        let (first, own) = play(&from, &names(0x11));
        assert_eq!(first, 11);
        assert_eq!(play(&from, &names(0x11)), (11, own), "the session goes on");
        // The client's address is another connection's now (a NAT that gave it away, say).
        let (second, other) = play(&from, &names(0x12));
        assert_eq!(second, 12);
        assert_ne!(own, other);
        // What has no ID that can be read follows, by its 4-tuple.
        assert_eq!(play(&from, &[0x5c; 40]), (12, other));
        assert_eq!(play(&from, &names(0x12)), (12, other));
    }
}

/// A client's connection is established; then its backend alone speaks, so long that conntrack, which
/// only sees the client, has forgotten it.
fn forgotten(families: Families, config: &str) -> (Rig, u16) {
    let mut rig = Rig::new(config);
    let sent = rig.play(0, &ask(families, 1, 1, Transport::Syn).build());
    let port = source_port(&sent[0].1);
    rig.play(0, &answer(families, port, Transport::Syn).build());
    rig.play(0, &ask(families, 1, 1, Transport::Ack).build());
    for _ in 0..4 {
        rig.now += 100_000_000_000;
        rig.play(0, &answer(families, port, Transport::Ack).build());
    }
    (rig, port)
}

/// The ports that a client's segment left from.
fn left_from(sent: &[(u16, Vec<u8>)]) -> Vec<u16> {
    sent.iter().map(|(_, frame)| source_port(frame)).collect()
}

#[test]
fn a_session_goes_on_where_conntrack_forgot_it_and_its_pool_is_drained() {
    for more in ["", "all_down = \"reset\""] {
        for families in ALL {
            let (mut rig, port) = forgotten(families, &families.config(more));
            rig.command(&format!("backend drain tcp {} --force", families.backend()));
            let again = rig.play(0, &ask(families, 1, 1, Transport::Ack).build());
            assert_eq!(left_from(&again), [port], "{families:?} {more}");
            // A new connection is none of the session's.
            let new = rig.play(0, &ask(families, 2, 1, Transport::Syn).build());
            assert!(new.iter().all(|(_, frame)| frame[..6] == CLIENT_MAC));
            let anew = ask(families, 1, 1, Transport::Fin).build();
            assert_eq!(left_from(&rig.play(0, &anew)), [port]);
            rig.play(0, &answer(families, port, Transport::Fin).build());
            let reopened = rig.play(0, &ask(families, 1, 1, Transport::Syn).build());
            assert!(reopened.iter().all(|(_, frame)| frame[..6] == CLIENT_MAC));
            rig.assert_all_accounted_for();
        }
    }
}

#[test]
fn a_session_goes_on_where_conntrack_forgot_it_and_its_pool_is_full() {
    let families = ALL[0];
    let (mut rig, port) = forgotten(
        families,
        &families
            .config("")
            .replace("port = 8080\n", "port = 8080\nmax_flows = 1\n"),
    );
    for host in 2..10 {
        rig.play(0, &ask(families, host, 1, Transport::Syn).build());
    }
    assert!(rig.dropped(DropReason::BackendsFull) > 0);
    let again = rig.play(0, &ask(families, 1, 1, Transport::Ack).build());
    assert_eq!(left_from(&again), [port]);
    rig.assert_all_accounted_for();
}

#[test]
fn a_datagram_in_pieces_goes_on_with_its_session_when_the_pool_is_drained() {
    for families in ALL {
        let mut rig = families.rig("");
        let first = rig.play(0, &ask(families, 1, 1, Transport::Udp).build());
        let port = source_port(&first[0].1);
        for _ in 0..3 {
            rig.now += 60_000_000_000;
            rig.play(0, &answer(families, port, Transport::Udp).build());
        }
        rig.command(&format!("backend drain udp {} --force", families.backend()));
        let whole = ask(families, 1, 1, Transport::Udp).payload(&[7; 2_000]);
        let mut sent = Vec::new();
        for piece in pieces(&whole.build(), 1_200, 5) {
            sent.extend(rig.play(0, &piece));
        }
        assert_eq!(sent.len(), 2);
        let first = match families.backend_v6 {
            true => u16::from_be_bytes([sent[0].1[62], sent[0].1[63]]),
            false => source_port(&sent[0].1),
        };
        assert_eq!(first, port);
        let ends: HashSet<&[u8]> = sent.iter().map(|(_, frame)| &frame[..6]).collect();
        assert_eq!(ends.len(), 1);
        rig.assert_all_accounted_for();
    }
}
