//! The laws of sessions: no two share a tuple, ports rest, and what is full refuses.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use weir_engine::wire::{protocol, tcp::flags};

use super::tcp::State;
use super::*;
use crate::conntrack::Tick;
use crate::flow::{FlowHash, FlowHasher, HashKey};

const TIMES: Times = Times {
    opening: 10_000,
    established: 350_000,
    closing: 10_000,
};

/// Ports of one address that sessions may have.
const ALL_PORTS: u32 = (LAST_PORT - FIRST_PORT) as u32 + 1;

fn sessions(workers: usize, capacity: u64, addresses: u16) -> Sessions {
    let settings = Settings {
        workers,
        capacity,
        prefer_huge: false,
        seed: 0,
    };
    let mut sessions = Sessions::new(settings).unwrap();
    for number in 0..addresses {
        let address = IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
        assert_eq!(sessions.number(address).unwrap(), number);
    }
    sessions
}

fn side(last: u8, port: u16) -> Side {
    Side {
        version: Version::V4,
        address: Addr::from_v4([192, 0, 2, last]),
        port,
    }
}

fn flow(number: u32) -> FlowHash {
    let client = Addr::from_v4(number.to_be_bytes());
    let vip = Addr::from_v4([198, 51, 100, 10]);
    FlowHasher::new(HashKey::REPLAY).ipv4(client, vip, 0x5000_0004, protocol::TCP)
}

fn opening(number: u32, backend: u8, addresses: &[u16]) -> Opening<'_> {
    Opening {
        flow: flow(number),
        protocol: protocol::TCP,
        tcp_flags: flags::SYN,
        first_sequence: number,
        client: side(1, number as u16),
        vip: side(2, 80),
        backend: side(backend, 8080),
        backend_number: backend.into(),
        service_counters: 7,
        addresses,
        inserted: 28,
        telling: flag::TELLING,
        times: TIMES,
    }
}

fn open(
    sessions: &Sessions,
    worker: u16,
    opening: &Opening<'_>,
    now: u32,
) -> Result<u32, Exhausted> {
    let table = sessions.table(worker.into()).unwrap();
    table.open(sessions, worker, opening, Tick(now))
}

#[test]
fn a_session_says_what_it_was_opened_with_and_is_found_both_ways() {
    let sessions = sessions(1, 10, 2);
    let table = sessions.table(0).unwrap();
    let opening = Opening {
        client: Side {
            version: Version::V6,
            address: Addr([1, 2]),
            port: 3,
        },
        ..opening(5, 11, &[1])
    };
    let session = open(&sessions, 0, &opening, 1_000).unwrap();
    assert_eq!(table.find(opening.flow), Some(session));
    let record = table.record(session).unwrap();
    assert_eq!(
        (record.client(), record.backend()),
        (opening.client, opening.backend)
    );
    assert_eq!(record.vip().address, opening.vip.address);
    assert_eq!((record.snat_address(), record.snat_port()), (1, FIRST_PORT));
    assert_eq!((record.first_sequence(), record.inserted()), (5, 28));
    assert_eq!(
        (record.backend_number(), record.service_counters()),
        (11, 7)
    );
    assert_eq!(
        (record.state(), record.protocol()),
        (State::Opening, protocol::TCP)
    );
    assert_eq!(record.timeout(), TIMES.opening);
    let own = sessions.address(1).unwrap();
    assert_eq!(own.session(protocol::TCP, FIRST_PORT), Some(session));
    assert_eq!(own.session(protocol::UDP, FIRST_PORT), None);
}

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

/// Leaves the first address so many ports.
fn leave(sessions: &Sessions, ports: u16) {
    let own = sessions.address(0).unwrap();
    own.free_no_more_than(FIRST_PORT..=FIRST_PORT + ports - 1, 0);
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

#[test]
fn a_full_table_refuses_and_harms_nobody_and_takes_new_ones_when_old_ones_have_ended() {
    let sessions = sessions(1, 100, 1);
    let table = sessions.table(0).unwrap();
    for number in 0..100 {
        open(&sessions, 0, &opening(number, 1, &[0]), 0).unwrap();
    }
    for number in 100..200 {
        let refused = open(&sessions, 0, &opening(number, 1, &[0]), 5_000);
        assert_eq!(refused, Err(Exhausted::Sessions));
    }
    for number in 0..100 {
        let session = table.find(flow(number)).unwrap();
        assert!(table.record(session).unwrap().is_live(Tick(9_999)));
    }
    assert_eq!(table.live(), 100);
    for number in 200..300 {
        open(&sessions, 0, &opening(number, 2, &[0]), 10_500).unwrap();
    }
    assert_eq!(table.live(), 100);
    assert_eq!(table.find(flow(5)), None);
}

#[test]
fn sessions_end_by_steps_when_their_time_has_passed_and_not_before() {
    let sessions = sessions(1, 1_000, 1);
    let table = sessions.table(0).unwrap();
    for number in 0..1_000 {
        open(&sessions, 0, &opening(number, 1, &[0]), number).unwrap();
    }
    // Every other one is established, and one in ten closes.
    for number in (0..1_000).step_by(2) {
        let session = table.find(flow(number)).unwrap();
        let record = table.record(session).unwrap();
        table.heard_backend(session, record, flags::SYN | flags::ACK, Tick(2_000));
        table.heard_client(session, record, flags::ACK, Tick(2_000));
        if number % 10 == 0 {
            table.heard_client(session, record, flags::RST, Tick(3_000));
        }
    }
    let mut now = 3_000;
    let mut steps = |until: u32| {
        while now < until {
            now += 50;
            table.step(&sessions, Tick(now));
        }
        table.live()
    };
    assert_eq!(steps(9_900), 1_000);
    assert_eq!(steps(14_000), 400, "embryonic and closing ones have gone");
    assert_eq!(steps(351_000), 400);
    assert_eq!(steps(360_000), 0);
    assert_eq!(
        sessions.address(0).unwrap().free(0, protocol::TCP),
        ALL_PORTS
    );
}

#[test]
fn a_long_pause_ends_all_that_it_outlasted() {
    let sessions = sessions(1, 1_000, 1);
    let table = sessions.table(0).unwrap();
    for number in 0..1_000 {
        open(
            &sessions,
            0,
            &opening(number, 1, &[0]),
            u32::MAX - 5_000 + number,
        )
        .unwrap();
    }
    // Across the wrap of the clock, too.
    for _ in 0..500 {
        table.step(&sessions, Tick(80_000_000));
    }
    assert_eq!(table.live(), 0);
}

#[test]
fn a_million_sessions_at_once_are_all_found_both_ways() {
    const MILLION: u32 = 1_000_000;
    let sessions = sessions(1, MILLION.into(), 17);
    let table = sessions.table(0).unwrap();
    let pool: Vec<u16> = (0..17).collect();
    let mut tuples = HashSet::with_capacity(MILLION as usize);
    for number in 0..MILLION {
        let session = open(&sessions, 0, &opening(number, 1, &pool), 0).unwrap();
        let record = table.record(session).unwrap();
        assert!(tuples.insert((record.snat_address(), record.snat_port())));
    }
    assert_eq!(table.live(), u64::from(MILLION));
    for number in 0..MILLION {
        let session = table.find(flow(number)).unwrap();
        let record = table.record(session).unwrap();
        assert_eq!(record.first_sequence(), number);
        let own = sessions.address(record.snat_address()).unwrap();
        assert_eq!(
            own.session(protocol::TCP, record.snat_port()),
            Some(session)
        );
    }
    let refused = open(&sessions, 0, &opening(MILLION, 1, &pool), 0);
    assert_eq!(refused, Err(Exhausted::Sessions));
}

#[derive(Debug, Clone)]
enum Step {
    Open(u32, u8),
    Client(u32, u8),
    Backend(u32, u8),
    Close(u32),
    Pass(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let bits = prop::sample::select(vec![
        flags::ACK,
        flags::FIN | flags::ACK,
        flags::RST,
        flags::SYN | flags::ACK,
    ]);
    prop_oneof![
        4 => (0u32..40, 1u8..4).prop_map(|(flow, backend)| Step::Open(flow, backend)),
        2 => (0u32..40, bits.clone()).prop_map(|(flow, bits)| Step::Client(flow, bits)),
        2 => (0u32..40, bits).prop_map(|(flow, bits)| Step::Backend(flow, bits)),
        1 => (0u32..40).prop_map(Step::Close),
        2 => (1u32..200_000).prop_map(Step::Pass),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_two_live_sessions_share_a_tuple_and_ports_are_not_lost(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let sessions = sessions(1, 20, 1);
        let table = sessions.table(0).unwrap();
        let own = sessions.address(0).unwrap();
        let mut now = 0u32;
        // So few ports that they are soon used again.
        const PORTS: u16 = 4;
        leave(&sessions, PORTS);
        // By port and backend: until when it was last in use.
        let mut ended: HashMap<(u16, u8), u32> = HashMap::new();
        let mut live: HashMap<u32, (u16, u8)> = HashMap::new();
        let mut seen: HashMap<u32, u32> = HashMap::new();
        for step in steps {
            match step {
                Step::Open(number, backend) if table.find(flow(number)).is_none() => {
                    if let Ok(session) = open(&sessions, 0, &opening(number, backend, &[0]), now) {
                        let port = table.record(session).unwrap().snat_port();
                        if let Some(when) = ended.get(&(port, backend)) {
                            prop_assert!(now - when >= QUARANTINE_MS);
                        }
                        seen.insert(number, now);
                        live.insert(number, (port, backend));
                    }
                }
                Step::Client(number, bits) | Step::Backend(number, bits) => {
                    if let Some(session) = table.find(flow(number)) {
                        let record = table.record(session).unwrap();
                        seen.insert(number, now);
                        if matches!(step, Step::Client(..)) {
                            table.heard_client(session, record, bits, Tick(now));
                        } else {
                            table.heard_backend(session, record, bits, Tick(now));
                        }
                    }
                }
                Step::Close(number) => {
                    if let Some(session) = table.find(flow(number)) {
                        table.close(&sessions, session, Tick(now));
                    }
                }
                Step::Pass(time) => {
                    now += time;
                    table.step(&sessions, Tick(now));
                }
                Step::Open(..) => {}
            }
            live.retain(|number, (port, backend)| {
                let stays = table.find(flow(*number)).is_some();
                if !stays {
                    ended.insert((*port, *backend), seen[number]);
                }
                stays
            });
            let ports: HashSet<u16> = live.values().map(|(port, _)| *port).collect();
            prop_assert_eq!(ports.len(), live.len());
            prop_assert_eq!(table.live(), live.len() as u64);
            prop_assert_eq!(own.free(0, protocol::TCP) as usize, PORTS as usize - live.len());
            for (number, (port, _)) in &live {
                let session = table.find(flow(*number));
                prop_assert_eq!(own.session(protocol::TCP, *port), session);
            }
        }
    }
}
