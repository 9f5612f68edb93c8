//! What becomes of flows whose backend is gone, and of TCP that nobody knows: steered, kept or reset.

#![allow(clippy::unwrap_used)] // a helper that cannot go on fails its test

mod support;

use std::net::SocketAddr;

use support::world::{BOTH_SIDES, SECOND, World, segment, three_backends};
use support::{Transport, frame};

/// A client port whose connection is with the first backend.
fn client_of_the_first(world: &mut World) -> u16 {
    let found = (20_000..21_000).find(|port| {
        segment(world, *port, Transport::Syn) == "host 1"
            && segment(world, *port, Transport::Ack) == "host 1"
    });
    found.unwrap()
}

#[test]
fn a_backend_that_goes_down_has_its_flows_steered_anew_kept_or_reset() {
    for forwarding in BOTH_SIDES {
        for (on_down, expected) in [
            ("re-steer", "host"),
            ("keep", "host 1"),
            ("reset", "reset from 80 to"),
        ] {
            let mut world = three_backends(forwarding, &format!("on_down = \"{on_down}\"\n"));
            let client = client_of_the_first(&mut world);
            world.rig.command("backend force web 10.0.0.11:8080 down");
            let came = segment(&mut world, client, Transport::Ack);
            assert!(
                came.starts_with(expected),
                "{forwarding}, {on_down}: {came}"
            );
            assert_eq!(came == "host 1", on_down == "keep");
            // The client asks again before it believes: the same answer.
            assert_eq!(segment(&mut world, client, Transport::Ack), came);
            // A new connection never goes there, and is never reset.
            let opened = segment(&mut world, client + 2000, Transport::Syn);
            assert!(opened.starts_with("host") && opened != "host 1", "{opened}");
            world.rig.command("backend force web 10.0.0.11:8080 auto");
            world.rig.assert_all_accounted_for();
        }
    }
}

#[test]
fn a_drain_that_ran_out_resets_what_is_left_where_the_service_says_so() {
    for forwarding in BOTH_SIDES {
        let mut world = three_backends(
            forwarding,
            "on_down = \"reset\"\nderegistration_delay = \"10s\"\n",
        );
        let client = client_of_the_first(&mut world);
        world.rig.command("backend drain web 10.0.0.11:8080");
        world.run(9 * SECOND);
        assert_eq!(segment(&mut world, client, Transport::Ack), "host 1");
        world.run(2 * SECOND);
        let came = segment(&mut world, client, Transport::Ack);
        assert_eq!(came, format!("reset from 80 to {client}"));
        assert_eq!(world.said("what was left is reset"), 1);
        // The same client may open a new connection at once.
        let opened = segment(&mut world, client, Transport::Syn);
        assert!(opened.starts_with("host") && opened != "host 1", "{opened}");
    }
}

#[test]
fn unknown_tcp_in_mid_stream_is_steered_or_reset() {
    for forwarding in BOTH_SIDES {
        let mut steered = three_backends(forwarding, "");
        assert!(segment(&mut steered, 30_000, Transport::Ack).starts_with("host"));
        let mut reset = three_backends(forwarding, "unknown_tcp = \"reset\"\n");
        let came = segment(&mut reset, 30_000, Transport::Ack);
        assert_eq!(came, "reset from 80 to 30000");
        // Known flows and new ones are no strangers.
        assert!(segment(&mut reset, 30_001, Transport::Syn).starts_with("host"));
        assert!(segment(&mut reset, 30_001, Transport::Ack).starts_with("host"));
        // Nor is a reset answered, but where there is no session there is nobody to give it to.
        let came = segment(&mut reset, 30_002, Transport::Rst);
        match forwarding {
            "nat" => assert!(came.starts_with("host"), "{came}"),
            _ => assert_eq!(came, "nothing"),
        }
        reset.rig.assert_all_accounted_for();
    }
}

#[test]
fn a_stranger_in_pieces_is_reset_like_any_other() {
    for forwarding in BOTH_SIDES {
        let mut world = three_backends(forwarding, "unknown_tcp = \"reset\"\n");
        let stranger = frame("203.0.113.5:30000", "198.51.100.10:80", Transport::Ack)
            .payload(&[7; 200])
            .build();
        let sent: Vec<Vec<u8>> = support::full_nat::pieces(&stranger, 104, 5)
            .iter()
            .flat_map(|piece| world.rig.play(0, piece))
            .map(|(_, sent)| sent)
            .collect();
        assert_eq!(sent.len(), 1, "{forwarding}");
        assert_eq!(sent[0][..6], support::CLIENT_MAC, "{forwarding}");
        support::full_nat::assert_checksums(&sent[0]);
        assert_eq!(world.rig.count(weir_shm::counters::RESETS), 1);
    }
}

/// A client of the first backend that a session knows and conntrack does not: only the server spoke
/// for longer than the flow is remembered.
fn forgotten_by_conntrack(service: &str) -> (World, u16) {
    let service = format!("timeouts = {{ established = \"10s\" }}\n{service}");
    let mut world = three_backends("full-nat", &service);
    let syn = |port: u16| {
        let client = format!("203.0.113.5:{port}");
        frame(&client, "198.51.100.10:80", Transport::Syn).build()
    };
    let (client, sent) = (20_000..21_000)
        .map(|port| (port, world.rig.play(0, &syn(port)).remove(0).1))
        .find(|(_, sent)| sent[5] == 11)
        .unwrap();
    let own = SocketAddr::new(
        "10.0.0.5".parse().unwrap(),
        support::full_nat::source_port(&sent),
    );
    let answer = |transport| {
        frame("10.0.0.11:8080", &own.to_string(), transport)
            .macs([2, 0, 0, 0, 1, 11], support::WEIR_MAC)
            .build()
    };
    world.rig.play(0, &answer(Transport::Syn));
    assert_eq!(segment(&mut world, client, Transport::Ack), "host 1");
    for _ in 0..4 {
        world.run(6 * SECOND);
        assert_eq!(world.rig.play(0, &answer(Transport::Ack)).len(), 1);
    }
    (world, client)
}

#[test]
fn a_session_knows_better_than_conntrack_what_is_a_stranger() {
    let (mut world, client) = forgotten_by_conntrack("unknown_tcp = \"reset\"\n");
    for _ in 0..3 {
        assert_eq!(segment(&mut world, client, Transport::Ack), "host 1");
    }
    let stranger = segment(&mut world, client + 1_000, Transport::Ack);
    assert!(stranger.starts_with("reset"), "{stranger}");
    world.rig.assert_all_accounted_for();
}

#[test]
fn a_session_is_reset_with_its_backend_also_when_conntrack_has_forgotten_it() {
    let (mut world, client) = forgotten_by_conntrack("on_down = \"reset\"\n");
    world.rig.command("backend force web 10.0.0.11:8080 down");
    for _ in 0..3 {
        let came = segment(&mut world, client, Transport::Ack);
        assert_eq!(came, format!("reset from 80 to {client}"));
    }
    let opened = segment(&mut world, client, Transport::Syn);
    assert!(opened.starts_with("host") && opened != "host 1", "{opened}");
    world.rig.assert_all_accounted_for();
}
