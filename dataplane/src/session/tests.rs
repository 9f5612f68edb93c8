//! The laws of sessions: no two share a tuple, ports rest, and what is full refuses.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;
use weir_engine::wire::{protocol, tcp::flags};

use super::tcp::State;
use super::*;
use crate::conntrack::Tick;
use crate::flow::{FlowHash, FlowHasher, HashKey};

mod ports;

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

/// Leaves the first address so many ports.
fn leave(sessions: &Sessions, ports: u16) {
    let own = sessions.address(0).unwrap();
    own.free_no_more_than(FIRST_PORT..=FIRST_PORT + ports - 1, 0);
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
