//! The law of each scheduler, affinity and limits through `weir replay` itself: what an operator
//! sees who plays a capture.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

#[path = "support/play.rs"]
mod play;
mod support;

use std::collections::{HashMap, HashSet};

use play::{Play, Played};
use support::workers::{config, service};
use support::{Transport, frame};

const SCHEDULERS: [&str; 5] = [
    "maglev",
    "ring",
    "source-hash",
    "round-robin",
    "least-connections",
];

/// A client by number: every flow of an address of its own.
fn client(flow: u32) -> String {
    let address =
        std::net::Ipv4Addr::from_bits(0x0b00_0000 + flow.wrapping_mul(2_654_435_761) % 0x00ff_ffff);
    format!("{address}:{}", 1_024 + flow % 50_000)
}

fn packet(client: &str, transport: Transport) -> Vec<u8> {
    frame(client, "198.51.100.10:80", transport).build()
}

/// Servers that frames went to, in order: the last byte of their MAC addresses, 101 and so on.
fn servers(played: &Played) -> Vec<u8> {
    played.frames.iter().map(|frame| frame[5]).collect()
}

fn of(scheduler: &str, more: &str, servers: u8) -> String {
    config(&service(
        &format!("scheduler = \"{scheduler}\"\n{more}"),
        servers,
    ))
}

/// The servers of `flows` new flows, a millisecond apart.
fn opened(config: &str, flows: u32) -> Vec<u8> {
    let mut play = Play::new(config);
    for flow in 0..flows {
        play.frame(flow.into(), packet(&client(flow), Transport::Syn));
    }
    let went = servers(&play.run());
    assert_eq!(went.len(), flows as usize);
    went
}

#[test]
fn every_scheduler_shares_by_weight() {
    for scheduler in SCHEDULERS {
        let mut text = of(scheduler, "", 0);
        for (server, weight) in [(101, 1), (102, 2), (103, 4)] {
            text +=
                &format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\nweight = {weight}\n");
        }
        let went = opened(&text, 7_000);
        for (server, expected) in [(101, 1_000), (102, 2_000), (103, 4_000)] {
            let got = went.iter().filter(|to| **to == server).count();
            // Turns and counts are exact; hashes are random draws (three sigma), and a ring's shares
            // differ by one in the root of its nodes besides.
            let slack = match scheduler {
                "round-robin" | "least-connections" => 1,
                "ring" => expected / 4,
                _ => 3 * (f64::from(expected as u32).sqrt() as usize) + expected / 50,
            };
            assert!(
                got.abs_diff(expected) <= slack,
                "{scheduler}, {server}: {got}"
            );
        }
    }
}

#[test]
fn when_a_backend_goes_the_ring_moves_its_flows_only_and_maglev_few_others() {
    for (scheduler, may_move) in [
        ("ring", 0),
        ("maglev", 2_000 * 4 / 100),
        ("source-hash", 2_000 * 4 / 100),
    ] {
        let before = opened(&of(scheduler, "", 10), 2_000);
        let nine =
            of(scheduler, "", 10).replace("[[service.backend]]\naddress = \"10.0.0.104\"\n", "");
        let after = opened(&nine, 2_000);
        let pairs = before.iter().zip(&after);
        let moved = pairs
            .filter(|(from, to)| **from != 104 && from != to)
            .count();
        assert!(moved <= may_move, "{scheduler}: {moved}");
        assert!(!after.contains(&104));
    }
}

#[test]
fn round_robin_takes_strict_turns_in_the_order_of_the_file() {
    let text = of("round-robin", "", 0)
        + &[103, 101, 102]
            .map(|server| format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\n"))
            .concat();
    assert_eq!(opened(&text, 12), [103, 101, 102].repeat(4));
}

#[test]
fn least_connections_is_within_one_of_the_fewest_at_every_new_flow() {
    // Which flows go on decides what is fewest later. What a flow gets is known only once it was
    // played; the same capture gives the same again, so it is played twice, the second time with
    // more behind it.
    let text = of("least-connections", "", 5);
    let first = opened(&text, 203);
    let mut play = Play::new(&text);
    for flow in 0..203u32 {
        play.frame(flow.into(), packet(&client(flow), Transport::Syn));
    }
    // Flows of the first two servers go on; the others end with their handshake's time-out.
    let mut held: HashMap<u8, i64> = (101..=105).map(|server| (server, 0)).collect();
    let mut more = Vec::new();
    for (flow, server) in (0u32..).zip(&first) {
        if *server <= 102 {
            play.frame(
                1_000 + u64::from(flow),
                packet(&client(flow), Transport::Ack),
            );
            more.push(*server);
            *held.get_mut(server).unwrap() += 1;
        }
    }
    for flow in 0..100u32 {
        play.frame(
            20_000 + u64::from(flow),
            packet(&client(10_000 + flow), Transport::Syn),
        );
    }
    let went = servers(&play.run());
    assert_eq!(went[..203], first, "the same capture, the same choices");
    assert_eq!(went[203..203 + more.len()], more, "flows stay");
    for server in &went[203 + more.len()..] {
        let fewest = *held.values().min().unwrap();
        assert_eq!(
            held[server], fewest,
            "{server} had more than the fewest: {held:?}"
        );
        *held.get_mut(server).unwrap() += 1;
    }
    // The first 203 were dealt out within one of each other.
    let shares: Vec<usize> = (101..=105)
        .map(|server| first.iter().filter(|to| **to == server).count())
        .collect();
    assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
}

#[test]
fn an_address_stays_for_source_hash_whatever_port_it_comes_from() {
    let mut play = Play::new(&of("source-hash", "", 7));
    for flow in 0..600u64 {
        let client = format!("203.0.113.{}:{}", flow % 60, 2_000 + flow);
        play.frame(flow, packet(&client, Transport::Syn));
    }
    let went = servers(&play.run());
    for (flow, server) in went.iter().enumerate() {
        assert_eq!(*server, went[flow % 60], "flow {flow}");
    }
    assert!(went.iter().collect::<HashSet<_>>().len() == 7);
}

#[test]
fn affinity_ends_with_its_time_out_and_with_whatever_takes_new_flows_away() {
    let text = of(
        "round-robin",
        "affinity = { by = \"source\", timeout = \"60s\" }",
        4,
    );
    let syn = |port: u16| packet(&format!("203.0.113.5:{port}"), Transport::Syn);
    let mut play = Play::new(&text);
    play.frame(0, syn(1))
        .frame(59_000, syn(2))
        .frame(118_000, syn(3))
        .frame(178_500, syn(4));
    let went = servers(&play.run());
    assert_eq!((went[0], went[1], went[2]), (101, 101, 101));
    assert_ne!(went[3], 101, "forgotten after 60 s without a flow");
    for line in [
        "backend drain web 10.0.0.101:80",
        "backend weight web 10.0.0.101:80 0",
        "backend disable web 10.0.0.101:80",
        "backend force web 10.0.0.101:80 down",
    ] {
        let mut play = Play::new(&text);
        play.frame(0, syn(1)).frame(10, syn(2)).command(15.0, line);
        (3..13).for_each(|port| {
            play.frame(10 * u64::from(port), syn(port));
        });
        let went = servers(&play.run());
        assert_eq!((went[0], went[1]), (101, 101));
        assert_ne!(went[2], 101, "{line}");
        assert!(
            went[2..].iter().all(|server| *server == went[2]),
            "{line}: {went:?}"
        );
    }
}

#[test]
fn connections_that_reuse_a_5_tuple_spread_by_their_sequence_numbers() {
    let connection = |play: &mut Play, at: u64, isn: u32| {
        let mut syn = packet("203.0.113.5:1000", Transport::Syn);
        syn[38..42].copy_from_slice(&isn.to_be_bytes());
        play.frame(at, syn.clone());
        play.frame(at + 1, packet("203.0.113.5:1000", Transport::Ack));
        // Sent again, it belongs to the connection that is there.
        play.frame(at + 2, syn);
        play.frame(at + 3, packet("203.0.113.5:1000", Transport::Rst));
    };
    for (hash, servers_met) in [("5-tuple", 1), ("5-tuple+isn", 6)] {
        let mut play = Play::new(&config(&service(&format!("hash = \"{hash}\""), 6)));
        for nth in 0..60u32 {
            // A checksum over the number is none of a balancer's business that leaves the segment alone.
            connection(&mut play, u64::from(nth) * 10, 1 + nth * 64_000);
        }
        let went = servers(&play.run());
        assert_eq!(went.len(), 240);
        for connection in went.chunks(4) {
            assert!(
                connection.iter().all(|server| server == &connection[0]),
                "{connection:?}"
            );
        }
        let met: HashSet<u8> = went.into_iter().collect();
        assert_eq!(met.len(), servers_met, "{hash}");
    }
}

#[test]
fn a_full_backends_flows_go_to_the_next_choice_and_are_counted() {
    for scheduler in SCHEDULERS {
        let mut text = of(scheduler, "", 0);
        for server in 101..=104 {
            text +=
                &format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\nmax_flows = 20\n");
        }
        let mut play = Play::new(&text);
        for flow in 0..81u32 {
            play.frame(flow.into(), packet(&client(flow), Transport::Syn));
        }
        // When the handshakes have timed out there is room again.
        play.frame(20_000, packet(&client(500), Transport::Syn));
        let played = play.run();
        let went = servers(&played);
        assert_eq!(went.len(), 81, "{scheduler}");
        for server in 101..=104 {
            let got = went[..80].iter().filter(|to| **to == server).count();
            assert_eq!(got, 20, "{scheduler}");
        }
        assert_eq!(played.dropped("backends_full"), 1, "{scheduler}");
        let diverted = played.report["steering"]["flows_diverted"]
            .as_u64()
            .unwrap_or(0);
        let by_hash = !matches!(scheduler, "round-robin" | "least-connections");
        assert_eq!(diverted > 0, by_hash, "{scheduler}: {diverted}");
    }
}

#[test]
fn a_flow_that_was_diverted_stays_where_it_went() {
    let mut text = of("maglev", "", 0);
    for server in 101..=102 {
        text += &format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\nmax_flows = 30\n");
    }
    let mut play = Play::new(&text);
    for (round, transport) in [
        (0, Transport::Syn),
        (1, Transport::Ack),
        (2, Transport::Ack),
    ] {
        for flow in 0..60u32 {
            play.frame(
                round * 1_000 + u64::from(flow),
                packet(&client(flow), transport),
            );
        }
    }
    let went = servers(&play.run());
    assert_eq!(went[..60], went[60..120]);
    assert_eq!(went[..60], went[120..]);
}
