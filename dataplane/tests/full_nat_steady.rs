//! Packets of `full-nat` sessions that leave without conntrack's being asked: what it knows stays right, what becomes
//! of their backend counts at once, and their order is kept.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use proptest::prelude::*;
use support::full_nat::{ALL, BACKEND_MAC, Families, answer, ask, source_port, without_id};
use support::rig::Rig;
use support::{CLIENT_MAC, MIXED, Transport};
use weir_shm::counters as layout;

/// A connection from this host, established; gives the port that it leaves from.
fn established(rig: &mut Rig, families: Families, host: u16) -> u16 {
    let sent = rig.play(0, &ask(families, host, 1, Transport::Syn).build());
    let port = source_port(&sent[0].1);
    rig.play(0, &answer(families, port, Transport::Syn).build());
    rig.play(0, &ask(families, host, 1, Transport::Ack).build());
    rig.play(0, &ask(families, host, 1, Transport::Ack).build());
    port
}

#[test]
fn conntrack_keeps_a_flow_whose_packets_leave_without_it() {
    for families in ALL {
        for transport in [Transport::Ack, Transport::Udp] {
            let mut rig = families.rig("");
            let packet = ask(families, 1, 1, transport).build();
            if transport == Transport::Ack {
                established(&mut rig, families, 1);
            }
            // Ten minutes, which no time-out of a flow that is silent is as long as for UDP.
            for _ in 0..6_000 {
                let sent = rig.play(0, &packet);
                assert_eq!(sent.len(), 1);
                assert_eq!(sent[0].1[..6], BACKEND_MAC);
                rig.now += 100_000_000;
            }
            assert_eq!(rig.count(layout::CONNTRACK_MISSES), 1, "{families:?}");
            let packets =
                rig.count(layout::RECEIVED) - if transport == Transport::Ack { 1 } else { 0 };
            assert_eq!(rig.count(layout::CONNTRACK_HITS), packets - 1);
            rig.assert_all_accounted_for();
        }
    }
}

#[test]
fn a_packet_does_not_follow_its_session_to_a_backend_that_was_removed_a_moment_ago() {
    for families in ALL {
        let mut rig = families.rig("");
        established(&mut rig, families, 1);
        let packet = ask(families, 1, 1, Transport::Ack).build();
        assert_eq!(rig.play(0, &packet)[0].1[..6], BACKEND_MAC);
        rig.command(&format!("backend remove tcp {}", families.backend()));
        let sent = rig.play(0, &packet);
        assert!(
            sent.iter().all(|(_, frame)| frame[..6] != BACKEND_MAC),
            "{families:?}"
        );
        rig.assert_all_accounted_for();
    }
}

#[test]
fn a_session_that_is_reset_in_the_same_burst_sends_nothing_before_its_reset_is_seen() {
    for families in ALL {
        let mut rig = families.rig("");
        let port = established(&mut rig, families, 1);
        let answered = answer(families, port, Transport::Rst).build();
        let syn = ask(families, 1, 1, Transport::Syn).build();
        let ack = ask(families, 1, 1, Transport::Ack).build();
        let sent = rig.play_burst(0, &[&ack, &answered, &syn, &ack]);
        let (to_backend, to_client): (Vec<_>, Vec<_>) = sent
            .iter()
            .partition(|(_, frame)| frame[..6] == BACKEND_MAC);
        assert_eq!(to_client.len(), 1);
        assert_eq!(to_client[0].1[..6], CLIENT_MAC);
        let ports: Vec<u16> = to_backend.iter().map(|(_, it)| source_port(it)).collect();
        // The old connection's, and then the new one's twice.
        assert_eq!(ports[0], port, "{families:?}");
        assert_ne!(ports[1], port, "{families:?}");
        assert_eq!(ports[1], ports[2], "{families:?}");
        rig.assert_all_accounted_for();
    }
}

/// One of a few clients' packets, or an answer to that client.
fn packet() -> impl Strategy<Value = (u16, Transport, bool)> {
    (1u16..4, prop::sample::select(MIXED), any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 500, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn a_burst_of_sessions_packets_is_what_its_packets_are_one_by_one(
        place in 0..ALL.len(),
        bursts in prop::collection::vec(prop::collection::vec(packet(), 1..=12), 1..8),
    ) {
        let families = ALL[place];
        let (mut together, mut alone) = (families.rig(""), families.rig(""));
        // An answer is to a session that was opened in a burst before.
        let mut ports = Vec::new();
        for rig in [&mut together, &mut alone] {
            let both = |host| {
                let tcp = established(rig, families, host);
                let sent = rig.play(0, &ask(families, host, 1, Transport::Udp).build());
                [tcp, source_port(&sent[0].1)]
            };
            ports = (1..4).map(both).collect::<Vec<_>>();
        }
        for burst in bursts {
            let frames: Vec<Vec<u8>> = burst
                .iter()
                .map(|(host, transport, is_answer)| match is_answer {
                    true => {
                        let [tcp, udp] = ports[usize::from(*host) - 1];
                        let port = if *transport == Transport::Udp { udp } else { tcp };
                        answer(families, port, *transport).build()
                    }
                    false => ask(families, *host, 1, *transport).build(),
                })
                .collect();
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let bare = |sent: Vec<(u16, Vec<u8>)>| sent.into_iter().map(|(port, it)| (port, without_id(it)));
            let one: Vec<_> = bare(together.play_burst(0, &frames)).collect();
            let other: Vec<_> = frames.iter().flat_map(|frame| bare(alone.play(0, frame))).collect();
            prop_assert_eq!(one, other);
            together.now += 40_000_000;
            alone.now += 40_000_000;
        }
        together.assert_all_accounted_for();
    }
}
