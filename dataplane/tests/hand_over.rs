//! Two workers, and a device that brings answers to whichever it likes: every session's answers reach
//! its client, whoever receives them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use proptest::prelude::*;
use support::crew::Crew;
use support::full_nat::{ALL, Families, answer, ask, pieces, source_port};
use support::icmp::{error_about, told, too_large};
use support::{CLIENT_MAC, Transport, WEIR_MAC, frame};
use weir::session::{FIRST_PORT, LAST_PORT, Spread, owner};
use weir_engine::rss;
use weir_shm::counters as layout;

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const CONFIG: &str = r#"
[engine]
flows_per_worker = 100
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
[[service]]
name = "web"
table_size = 13
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "full-nat"
snat_pool = ["10.0.0.5"]
[[service.backend]]
address = "10.0.0.11"
"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn an_answer_reaches_its_client_whoever_receives_it(
        count in 1u16..5,
        flows in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u16..), 1..60),
    ) {
        let mut crew = Crew::new(CONFIG, count);
        let mut ports = std::collections::HashSet::new();
        for (host, (asked, answered, port)) in flows.into_iter().enumerate() {
            let of = |index: prop::sample::Index| index.index(count.into()) as u16;
            let (asked, answered) = (of(asked), of(answered));
            let client = format!("192.0.2.9:{port}");
            let request = frame(&client, &format!("198.51.100.10:{}", 80), Transport::Syn);
            let _ = host;
            let mut out = crew.step(asked, &request.build(), false);
            prop_assert_eq!(out.sent.len(), 1);
            let sent = out.sent.remove(0);
            let snat = u16::from_be_bytes([sent[34], sent[35]]);
            prop_assert_eq!(owner(snat, count), asked);
            ports.insert(snat);
            let answer = frame("10.0.0.11:80", &format!("10.0.0.5:{snat}"), Transport::Ack);
            let answer = answer.macs(BACKEND_MAC, WEIR_MAC).build();
            let mut out = crew.step(answered, &answer, false);
            if asked != answered {
                prop_assert_eq!((out.sent.len(), out.handed.len()), (0, 1));
                let (to, frame) = out.handed.remove(0);
                prop_assert_eq!((to, &frame), (asked, &answer));
                out = crew.step(asked, &frame, true);
            }
            prop_assert_eq!(out.sent.len(), 1);
            let back = &out.sent[0];
            prop_assert_eq!(&back[26..34], &[198, 51, 100, 10, 192, 0, 2, 9]);
            prop_assert_eq!(u16::from_be_bytes([back[36], back[37]]), port);
        }
        let (received, handed) = (crew.count(layout::RECEIVED), crew.count(layout::HANDED_OVER));
        prop_assert!(handed <= received / 2, "a handed frame is received once");
    }

    #[test]
    fn where_the_devices_spread_is_known_answers_arrive_at_their_owner(
        count in 2u16..6,
        key in prop::collection::vec(any::<u8>(), 40..53),
        symmetric: bool,
        size in prop::sample::select(vec![64usize, 128, 512]),
        seed in 1u64..,
        flows in prop::collection::vec((any::<prop::sample::Index>(), 1u16..), 1..60),
    ) {
        let key = if symmetric { rss::SYMMETRIC_KEY.to_vec() } else { key };
        let mut crew = Crew::new(CONFIG, count);
        crew.control.scatter_ports(seed);
        crew.control.know_spread(Spread::new(key.clone(), size, count));
        let arrives = |port: u16| {
            let (from, to) = ([10, 0, 0, 11].into(), [10, 0, 0, 5].into());
            rss::queue_in_table(rss::ipv4_ports(&key, from, to, 80, port), size, count)
        };
        // A key that hardly looks at ports leaves hardly a choice.
        let good = (FIRST_PORT..=LAST_PORT).filter(|port| arrives(*port) == owner(*port, count));
        let mut choice = vec![0; count.into()];
        good.for_each(|port| choice[usize::from(arrives(port))] += 1);
        let fair = usize::from(LAST_PORT - FIRST_PORT) / usize::from(count * count);
        prop_assume!(choice.iter().all(|ports| ports * 2 > fair));
        for (asked, port) in flows {
            let asked = asked.index(count.into()) as u16;
            let client = format!("192.0.2.9:{port}");
            let request = frame(&client, "198.51.100.10:80", Transport::Syn);
            let sent = crew.step(asked, &request.build(), false).sent.remove(0);
            let snat = u16::from_be_bytes([sent[34], sent[35]]);
            prop_assert_eq!(arrives(snat), asked);
            let answer = frame("10.0.0.11:80", &format!("10.0.0.5:{snat}"), Transport::Ack);
            let answer = answer.macs(BACKEND_MAC, WEIR_MAC).build();
            let out = crew.step(asked, &answer, false);
            prop_assert_eq!((out.sent.len(), out.handed.len()), (1, 0));
        }
    }
}

/// Where a packet that left is from and to, and by which ports, in whichever family.
fn ends(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (network, at) = match frame[12] {
        0x08 => (26..34, 34),
        _ => (22..54, 54),
    };
    // A first piece of IPv6 has its ports behind the fragment header.
    let at = if frame[12] == 0x86 && frame[20] == 44 {
        at + 8
    } else {
        at
    };
    (frame[network].to_vec(), frame[at..at + 4].to_vec())
}

fn asked_in_pieces(families: Families, port: u16, id: u32) -> Vec<Vec<u8>> {
    let packet = ask(families, 1, port, Transport::Udp).payload(&[7; 2_000]);
    pieces(&packet.build(), 1_200, id)
}

#[test]
fn answers_reach_their_client_in_all_families_and_protocols() {
    for families in ALL {
        for transport in [Transport::Syn, Transport::Udp] {
            let mut crew = Crew::new(&families.config(""), 3);
            for (asked, answered) in (0..9).map(|pair| (pair / 3, pair % 3)) {
                let sent = crew.play(asked, &ask(families, 1, asked + 1, transport).build());
                let port = source_port(&sent[0]);
                assert_eq!(owner(port, 3), asked);
                let back = match transport {
                    Transport::Syn => Transport::Ack,
                    other => other,
                };
                let before = crew.count(layout::HANDED_OVER);
                let sent = crew.play(answered, &answer(families, port, back).build());
                assert_eq!((sent.len(), &sent[0][..6]), (1, &CLIENT_MAC[..]));
                let handed = crew.count(layout::HANDED_OVER) - before;
                assert_eq!(handed, u64::from(asked != answered));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_flow_keeps_its_port_however_its_datagrams_are_cut_and_whoever_gets_them(
        count in 1u16..5,
        four in 0usize..4,
        // Each flow's own worker gets its whole packets, as a device spreads them.
        datagrams in prop::collection::vec((0u16..4, any::<bool>(), any::<u16>()), 1..40),
    ) {
        let families = ALL[four];
        let mut crew = Crew::new(&families.config(""), count);
        let mut known = std::collections::HashMap::new();
        for (id, (flow, whole, worker)) in datagrams.into_iter().enumerate() {
            let port = 1_000 + flow;
            let sent: Vec<Vec<u8>> = if whole {
                crew.play(flow % count, &ask(families, 1, port, Transport::Udp).build())
            } else {
                let pieces = asked_in_pieces(families, port, id as u32 + 1);
                pieces.iter().flat_map(|piece| crew.play(worker % count, piece)).collect()
            };
            prop_assert_eq!(sent.len(), if whole { 1 } else { 2 });
            let from = ends(&sent[0]);
            prop_assert_eq!(known.entry(flow).or_insert_with(|| from.clone()), &from);
        }
    }
}

#[test]
fn a_flow_of_nothing_but_pieces_keeps_its_session() {
    for families in ALL {
        let mut crew = Crew::new(&families.config(""), 3);
        let mut from = std::collections::HashSet::new();
        for id in 1..20 {
            let pieces = asked_in_pieces(families, 1, id);
            let sent: Vec<_> = pieces
                .iter()
                .flat_map(|piece| crew.play(1, piece))
                .collect();
            from.insert(ends(&sent[0]));
            crew.now += 60_000_000_000;
        }
        assert_eq!(from.len(), 1, "{families:?}");
    }
}

#[test]
fn a_session_lives_as_long_as_its_backend_sends_pieces() {
    for families in ALL {
        let mut crew = Crew::new(&families.config(""), 3);
        let sent = crew.play(0, &ask(families, 1, 1, Transport::Udp).build());
        let port = source_port(&sent[0]);
        for id in 1..10 {
            let datagram = answer(families, port, Transport::Udp).payload(&[7; 2_000]);
            let pieces = pieces(&datagram.build(), 1_200, id);
            let sent = pieces.iter().flat_map(|piece| crew.play(1, piece));
            assert_eq!(sent.count(), 2, "{families:?}");
            crew.now += 60_000_000_000;
        }
    }
}

#[test]
fn errors_reach_the_other_end_whichever_worker_receives_them_and_whatever_became_of_the_pool() {
    for families in ALL {
        let mut crew = Crew::new(&families.config(""), 3);
        let client = families.client(1, 4000);
        let asked = ask(families, 1, 4000, Transport::Syn).build();
        let to_backend = crew.play(0, &asked).remove(0);
        let reply = answer(families, source_port(&to_backend), Transport::Ack);
        let to_client = crew.play(1, &reply.build()).remove(0);
        crew.command(&format!("backend drain tcp {} --force", families.backend()));
        let router = |v6: bool| match v6 {
            true => "2001:db8:77::1".parse().unwrap(),
            false => "192.0.2.177".parse().unwrap(),
        };
        for worker in 0..3 {
            let (here, kind) = (families.backend_v6, too_large(families.backend_v6, 1_400));
            let error = error_about(&to_backend, router(here), BACKEND_MAC, 8, kind);
            let sent = crew.play(worker, &error);
            assert_eq!((sent.len(), &sent[0][..6]), (1, &CLIENT_MAC[..]));
            assert_eq!(told(&sent[0]).quoted, (client, families.vip()));
            let (here, kind) = (families.client_v6, too_large(families.client_v6, 1_400));
            let error = error_about(&to_client, router(here), CLIENT_MAC, 8, kind);
            let sent = crew.play(worker, &error);
            assert_eq!((sent.len(), &sent[0][..6]), (1, &BACKEND_MAC[..]));
            assert_eq!(told(&sent[0]).quoted.0, families.backend());
        }
    }
}
