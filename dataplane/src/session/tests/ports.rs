//! The laws of ports: whose they are, which comes first, and how long they rest for whom.

use std::collections::HashSet;

use weir_engine::wire::{protocol, tcp::flags};

use super::*;

#[test]
fn a_port_rests_before_it_speaks_to_the_same_backend_again_and_serves_others_at_once() {
    let sessions = sessions(1, 10, 1);
    let own = sessions.address(0).unwrap();
    // All but one port are taken.
    let all = u32::from(LAST_PORT - FIRST_PORT) + 1;
    let take = |backend: u8, now: u32| {
        let peer = (side(backend, 8080).address, 8080);
        own.take(0, protocol::TCP, 1, peer, Tick(now), 0, |_| true)
    };
    for _ in 1..all {
        take(1, 0).unwrap();
    }
    let last = take(1, 0).unwrap();
    assert_eq!((take(1, 0), own.free(0, protocol::TCP)), (None, 0));
    own.give_back(
        protocol::TCP,
        last,
        (side(1, 8080).address, 8080),
        Tick(500),
    );
    assert_eq!(take(1, 500 + QUARANTINE_MS - 1), None, "it rests");
    assert_eq!(
        take(2, 501),
        Some(last),
        "another backend remembers nothing"
    );
    own.give_back(
        protocol::TCP,
        last,
        (side(1, 8080).address, 8080),
        Tick(900),
    );
    assert_eq!(take(1, 900 + QUARANTINE_MS), Some(last));
}

#[test]
fn a_port_rests_for_each_backend_that_it_spoke_to_whoever_had_it_since() {
    let sessions = sessions(1, 10, 1);
    let own = sessions.address(0).unwrap();
    leave(&sessions, 1);
    let speaks = |backend: u8, now: u32| {
        let peer = (side(backend, 8080).address, 8080);
        let port = own.take(0, protocol::TCP, 1, peer, Tick(now), 0, |_| true);
        if let Some(port) = port {
            own.give_back(protocol::TCP, port, peer, Tick(now));
        }
        port.is_some()
    };
    assert!(speaks(1, 0));
    assert!(speaks(2, 20_000));
    assert!(!speaks(1, 21_000), "the first remembers it still");
    assert!(speaks(3, 30_000));
    assert!(!speaks(1, 59_999) && !speaks(2, 79_999));
    assert!(speaks(1, 61_000) && speaks(2, 81_000));
    assert!(!speaks(1, 82_000));
}

#[test]
fn a_port_that_as_many_backends_remember_as_can_be_noted_speaks_to_nobody_for_a_while() {
    let sessions = sessions(1, 10, 1);
    let own = sessions.address(0).unwrap();
    leave(&sessions, 1);
    let mut spoke = Vec::new();
    for now in (0..200_000).step_by(1_000) {
        let backend = (now / 1_000) as u8;
        let peer = (side(backend, 8080).address, 8080);
        if let Some(port) = own.take(0, protocol::TCP, 1, peer, Tick(now), 0, |_| true) {
            own.give_back(protocol::TCP, port, peer, Tick(now));
            spoke.push(now);
        }
    }
    let within = |start: u32| {
        let minute = start..start + QUARANTINE_MS;
        spoke.iter().filter(|at| minute.contains(at)).count()
    };
    assert_eq!(within(0), 9, "the last and eight before it");
    assert!((1..140_000).step_by(500).all(|start| within(start) <= 9));
    assert!(spoke.len() > 25, "and it is not lost: {spoke:?}");
}

#[test]
fn ports_that_rest_do_not_hide_those_behind_them() {
    let sessions = sessions(1, 10, 1);
    let own = sessions.address(0).unwrap();
    leave(&sessions, 5_000);
    let peer = |backend: u8| (side(backend, 8080).address, 8080);
    let take = |backend: u8, now: u32| {
        own.take(0, protocol::TCP, 1, peer(backend), Tick(now), 0, |_| true)
    };
    let ports: Vec<u16> = (0..5_000).map(|_| take(9, 0).unwrap()).collect();
    let of = |place: usize| if place < 4_000 { 1 } else { 2 };
    for (place, port) in ports.iter().enumerate() {
        own.give_back(protocol::TCP, *port, peer(of(place)), Tick(1_000));
    }
    // A client asks again, as TCP does: each time the search goes on where it stopped.
    let taken = (0..5).find_map(|attempt| take(1, 2_000 + attempt));
    assert!(taken.is_some_and(|port| ports[4_000..].contains(&port)));
    assert_eq!(
        take(1, 2_100).map(|port| ports[4_000..].contains(&port)),
        Some(true)
    );
}

#[test]
fn a_flood_that_finds_nothing_but_resting_ports_does_little_work() {
    let sessions = sessions(1, 10, 1);
    let own = sessions.address(0).unwrap();
    leave(&sessions, 5_000);
    let peer = (side(1, 8080).address, 8080);
    let ports: Vec<u16> =
        std::iter::from_fn(|| own.take(0, protocol::TCP, 1, peer, Tick(0), 0, |_| true)).collect();
    for port in &ports {
        own.give_back(protocol::TCP, *port, peer, Tick(1_000));
    }
    let first = |now: u32| {
        let other = (side(2, 8080).address, 8080);
        let port = own.take(0, protocol::TCP, 1, other, Tick(now), 0, |_| true);
        own.give_back(protocol::TCP, port.unwrap(), peer, Tick(1_000));
        ports.iter().position(|it| Some(*it) == port).unwrap()
    };
    let before = first(2_000);
    for _ in 0..10 {
        assert_eq!(
            own.take(0, protocol::TCP, 1, peer, Tick(2_000), 0, |_| true),
            None
        );
    }
    // Ports that were looked at lie behind the others now.
    let looked = first(2_000) - before - 1;
    assert!((1_000..1_300).contains(&looked), "{looked}");
}

#[test]
fn a_session_that_ended_by_being_idle_lets_its_port_rest_from_then_on() {
    let sessions = sessions(1, 10, 1);
    let table = sessions.table(0).unwrap();
    leave(&sessions, 1);
    let session = open(&sessions, 0, &opening(1, 1, &[0]), 0).unwrap();
    let record = table.record(session).unwrap();
    table.heard_backend(session, record, flags::SYN | flags::ACK, Tick(1));
    table.heard_client(session, record, flags::ACK, Tick(2));
    let end = 2 + TIMES.established + 1_000;
    for now in (0..end).step_by(100) {
        table.step(&sessions, Tick(now));
    }
    table.step(&sessions, Tick(end));
    assert_eq!(table.live(), 0);
    let again = |now| open(&sessions, 0, &opening(2, 1, &[0]), now);
    let soon = again(TIMES.established + QUARANTINE_MS - 1);
    assert_eq!(soon, Err(Exhausted::Ports), "the backend may hold it");
    assert!(again(end + QUARANTINE_MS).is_ok());
}

#[test]
fn a_session_that_both_sides_closed_lets_its_port_rest_from_its_last_packet_on() {
    let sessions = sessions(1, 10, 1);
    let table = sessions.table(0).unwrap();
    leave(&sessions, 1);
    let session = open(&sessions, 0, &opening(1, 1, &[0]), 0).unwrap();
    let record = table.record(session).unwrap();
    table.heard_backend(session, record, flags::SYN | flags::ACK, Tick(1));
    table.heard_client(session, record, flags::ACK | flags::FIN, Tick(2));
    table.heard_backend(session, record, flags::ACK | flags::FIN, Tick(500));
    for now in (500..12_000).step_by(100) {
        table.step(&sessions, Tick(now));
    }
    assert_eq!(table.live(), 0);
    let again = |now| open(&sessions, 0, &opening(2, 1, &[0]), now);
    assert_eq!(again(500 + QUARANTINE_MS - 1), Err(Exhausted::Ports));
    assert!(again(500 + QUARANTINE_MS).is_ok());
}

#[test]
fn the_port_that_has_been_free_for_longest_comes_first() {
    let sessions = sessions(1, 10, 1);
    let own = sessions.address(0).unwrap();
    let peer = (side(1, 80).address, 80);
    let first = own
        .take(0, protocol::UDP, 1, peer, Tick(0), 0, |_| true)
        .unwrap();
    own.give_back(protocol::UDP, first, peer, Tick(1));
    let next = own.take(0, protocol::UDP, 1, peer, Tick(1_000_000), 0, |_| true);
    assert_eq!((first, next), (FIRST_PORT, Some(FIRST_PORT + 1)));
}

#[test]
fn a_port_that_fits_is_preferred_and_none_that_fits_is_no_reason_to_refuse() {
    let sessions = sessions(1, 10, 1);
    let own = sessions.address(0).unwrap();
    let peer = (side(1, 80).address, 80);
    let odd = own.take(0, protocol::TCP, 1, peer, Tick(0), 8, |port| port % 4 == 3);
    assert_eq!(odd, Some(FIRST_PORT + 3));
    assert!(
        own.take(0, protocol::TCP, 1, peer, Tick(0), 8, |_| false)
            .is_some()
    );
}

#[test]
fn workers_take_ports_of_their_own_blocks_and_everybody_knows_whose_a_port_is() {
    for workers in [1, 2, 3, 7] {
        let sessions = sessions(workers, 100, 1);
        for worker in 0..workers as u16 {
            for number in 0..100 {
                let opening = opening(number * 100 + u32::from(worker), 1, &[0]);
                let session = open(&sessions, worker, &opening, 0).unwrap();
                let record = sessions
                    .table(worker.into())
                    .unwrap()
                    .record(session)
                    .unwrap();
                assert_eq!(owner(record.snat_port(), workers as u16), worker);
            }
        }
    }
}

#[test]
fn scattered_ports_are_the_same_ports_in_another_order() {
    let mut sessions = sessions(2, 10, 1);
    sessions.scatter_ports(77);
    let own = sessions.address(0).unwrap();
    let peer = (side(1, 80).address, 80);
    let take = || own.take(1, protocol::TCP, 1, peer, Tick(0), 0, |_| true);
    let ports: Vec<u16> = std::iter::from_fn(take).collect();
    assert!(!ports.is_sorted());
    let all = (FIRST_PORT..=LAST_PORT).filter(|port| owner(*port, 2) == 1);
    assert_eq!(
        ports.iter().copied().collect::<HashSet<u16>>(),
        all.collect()
    );
}
