//! Passive signs of a backend's health: what becomes of clients' connections says so before its next
//! check does.

#![allow(clippy::unwrap_used)] // a helper that cannot go on fails its test

mod support;

use std::net::SocketAddr;
use std::path::Path;

use support::host::Manner;
use support::world::{BOTH_SIDES, MILLI, SECOND, World, config, segment, three_backends};
use support::{Transport, frame};
use weir::config::Config;
use weir_shm::segment::directory::BackendState;

const RARELY: &str = "kind = \"http\"\ninterval = \"60s\"\ntimeout = \"1s\"\nfall = 3\nrise = 1\n";

/// Sixty clients' SYNs; those frames that reach the first server.
fn knock(world: &mut World, first_port: u16) -> Vec<Vec<u8>> {
    let mut reached = Vec::new();
    for port in first_port..first_port + 60 {
        let client = format!("203.0.113.5:{port}");
        let mut syn = frame(&client, "198.51.100.10:80", Transport::Syn);
        syn.payload.clear();
        let sent = world.rig.play(0, &syn.build()).into_iter();
        reached.extend(sent.map(|(_, sent)| sent));
    }
    reached.retain(|sent| sent[..6] == world.hosts[0].mac);
    assert!(reached.len() > 10);
    reached
}

/// The same, all of them heard by the server, whose resets come back through weir.
fn knock_and_be_refused(world: &mut World, first_port: u16) {
    world.hosts[0].manner = Manner::Refuses;
    for sent in knock(world, first_port) {
        world.hosts[0].hear(&sent);
    }
    world.run(MILLI);
}

#[test]
fn refused_clients_take_a_server_down_before_its_next_check() {
    for forwarding in BOTH_SIDES {
        let mut world = World::new(&config(forwarding, "", RARELY), 8080, None);
        world.run(65 * SECOND);
        knock_and_be_refused(&mut world, 5000);
        let before = world.said("is down");
        world.rig.look_at_refusals();
        world.run(MILLI);
        assert_eq!(
            world.said("is down") - before,
            1,
            "{forwarding}: {:?}",
            world.events
        );
        assert_eq!(world.said("connections of clients refused"), 1);
        assert_eq!(world.flows(6000)[0], 0);
    }
}

#[test]
fn what_was_refused_before_a_server_was_watched_counts_for_nothing() {
    for forwarding in BOTH_SIDES {
        let mut world = three_backends(forwarding, "");
        knock_and_be_refused(&mut world, 5000);
        world.rig.look_at_refusals();
        let mut pool = world.rig.control.pool().clone();
        let health = Config::parse(Path::new("test.toml"), &config(forwarding, "", RARELY));
        pool.services[0].health = health.unwrap().pool.services[0].health.clone();
        world.rig.control.apply(world.rig.now, 2, pool).unwrap();
        world.rig.look_at_refusals();
        world.run(MILLI);
        assert_eq!(world.said("is down"), 0, "{:?}", world.events);
        // What is refused from then on counts.
        knock_and_be_refused(&mut world, 6000);
        world.rig.look_at_refusals();
        world.run(MILLI);
        assert_eq!(
            world.said("connections of clients refused"),
            1,
            "{forwarding}: {:?}",
            world.events
        );
    }
}

/// What the router before the server says of a frame: that the host cannot be reached, quoting so
/// much of the segment.
fn unreachable(sent: &[u8], quoted: usize) -> Vec<u8> {
    let unreachable = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::Host,
    );
    let mut error = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], support::WEIR_MAC)
        .ipv4([10, 0, 0, 9], sent[26..30].try_into().unwrap(), 64)
        .icmpv4(unreachable)
        .write(&mut error, &sent[14..34 + quoted])
        .unwrap();
    error
}

#[test]
fn errors_about_clients_syns_take_a_server_down_before_its_next_check() {
    for forwarding in BOTH_SIDES {
        // RFC 792 asks for no more than eight bytes, in which a segment's flags are not.
        for quoted in [20, 8] {
            let mut world = World::new(&config(forwarding, "", RARELY), 8080, None);
            world.run(65 * SECOND);
            world.rig.look_at_refusals();
            world.hosts[0].manner = Manner::Dead;
            for sent in knock(&mut world, 5000) {
                assert_eq!(world.rig.play(0, &unreachable(&sent, quoted)).len(), 1);
            }
            world.rig.look_at_refusals();
            world.run(MILLI);
            assert_eq!(
                world.said("connections of clients refused"),
                1,
                "{forwarding}, {quoted} bytes: {:?}",
                world.events
            );
            assert_eq!(world.state(0), BackendState::Down);
        }
    }
}

#[test]
fn errors_about_connections_that_are_made_say_nothing_of_a_server() {
    for forwarding in BOTH_SIDES {
        for quoted in [20, 8] {
            let mut world = World::new(&config(forwarding, "", RARELY), 8080, None);
            world.run(65 * SECOND);
            let reached = knock(&mut world, 5000);
            for sent in &reached {
                let ip: [u8; 4] = sent[26..30].try_into().unwrap();
                let port = support::full_nat::source_port(sent);
                let asker = SocketAddr::new(ip.into(), port);
                let answer = frame("10.0.0.11:8080", &asker.to_string(), Transport::Syn)
                    .macs(world.hosts[0].mac, support::WEIR_MAC);
                assert_eq!(world.rig.play(0, &answer.build()).len(), 1);
                // Where weir keeps no session, the client's next segment says that it has its answer.
                if forwarding == "nat" {
                    segment(&mut world, port, Transport::Ack);
                }
                let mut data = sent.clone();
                data[47] = 0x10;
                world.rig.play(0, &unreachable(&data, quoted));
            }
            world.rig.look_at_refusals();
            world.run(MILLI);
            assert_eq!(
                world.said("connections of clients refused"),
                0,
                "{forwarding}, {quoted} bytes"
            );
        }
    }
}
