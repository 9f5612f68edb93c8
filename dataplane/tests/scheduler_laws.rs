//! Laws of schedulers, whatever the pool, the weights, and who goes: tables alone, and on two workers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::collections::HashMap;

use proptest::prelude::*;
use support::workers::{Workers, service};
use support::{Transport, frame};
use weir::maglev::{self, Member};

const SIZE: u32 = 65_537;

fn members(weights: &[u32]) -> Vec<Member> {
    (0u16..)
        .zip(weights)
        .map(|(slot, weight)| Member {
            name: format!("10.0.0.{slot}:80"),
            weight: *weight,
            slot,
        })
        .collect()
}

/// A service over servers from 101 on, one for each weight.
fn weighted(scheduler: &str, weights: &[u32]) -> Workers {
    let mut text = service(&format!("scheduler = \"{scheduler}\""), 0);
    for (server, weight) in (101..).zip(weights) {
        text += &format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\nweight = {weight}\n");
    }
    Workers::new(2, &text)
}

fn client(number: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(0xcb00_7100 + number)
}

fn syn(workers: &mut Workers, worker: u16, client: std::net::Ipv4Addr, port: u16) -> u8 {
    let client = format!("{client}:{port}");
    workers.send(worker, &client, Transport::Syn).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn maglev_moves_hardly_any_entry_between_those_that_stay_whoever_goes(
        weights in proptest::collection::vec(1u32..=20, 2..60),
        goes in proptest::collection::vec(any::<bool>(), 60),
    ) {
        let all = members(&weights);
        let stays = |member: &&Member| !goes[usize::from(member.slot)];
        let rest: Vec<Member> = all.iter().filter(stays).cloned().collect();
        prop_assume!(!rest.is_empty());
        let (before, after) = (maglev::build(&all, SIZE), maglev::build(&rest, SIZE));
        let lost = before.iter().filter(|slot| goes[usize::from(**slot)]).count();
        let moved = before
            .iter()
            .zip(&*after)
            .filter(|(old, new)| !goes[usize::from(**old)] && old != new)
            .count();
        // Those that lost their backend have to move; of the others fewer than one in fifty does.
        prop_assert!(moved <= SIZE as usize / 50, "{moved} of {SIZE}, {lost} lost");
        prop_assert!(moved <= lost / 2 + SIZE as usize / 200, "{moved} of {SIZE}, {lost} lost");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn source_hash_tells_clients_by_their_address_alone_and_moves_those_that_must(
        weights in proptest::collection::vec(1u32..=9, 2..8), gone: prop::sample::Index,
        ports in proptest::collection::vec(1u16.., 4),
    ) {
        let mut workers = weighted("source-hash", &weights);
        let mut before = HashMap::new();
        for number in 0..300 {
            let first = syn(&mut workers, 0, client(number), 999);
            for (place, port) in (0u16..).zip(&ports) {
                prop_assert_eq!(syn(&mut workers, place % 2, client(number), *port), first);
            }
            before.insert(number, first);
        }
        let gone = 101 + gone.index(weights.len()) as u8;
        // Afresh, so that nothing is remembered.
        let mut workers = weighted("source-hash", &weights);
        workers.command(&format!("backend remove web 10.0.0.{gone}:80"));
        let mut moved = 0;
        for (number, server) in before {
            let now = syn(&mut workers, (number % 2) as u16, client(number), 999);
            prop_assert_ne!(now, gone);
            moved += usize::from(server != gone && now != server);
        }
        prop_assert!(moved <= 300 / 20, "{moved}");
    }

    #[test]
    fn least_connections_on_two_workers_is_within_one_flow_at_every_moment(
        weights in proptest::collection::vec(1u32..=6, 2..8),
        flows in proptest::collection::vec(0u16..2, 1..200),
    ) {
        let mut workers = weighted("least-connections", &weights);
        let mut held = vec![0u32; weights.len()];
        for (number, worker) in (0u32..).zip(flows) {
            let server = syn(&mut workers, worker, client(number), 1_000);
            held[usize::from(server) - 101] += 1;
            // Nobody could give a flow away to another and leave that one better off than itself.
            for (own, weight) in held.iter().zip(&weights) {
                for (other, others) in held.iter().zip(&weights) {
                    prop_assert!(own * others <= (other + 1) * weight, "{held:?} for {weights:?}");
                }
            }
        }
    }
}

#[test]
fn source_hash_shares_clients_by_weight_on_two_workers() {
    let mut workers = weighted("source-hash", &[1, 2, 5]);
    let mut shares: HashMap<u8, usize> = HashMap::new();
    for number in 0..8_000 {
        let server = syn(&mut workers, (number % 2) as u16, client(number), 1_000);
        *shares.entry(server).or_default() += 1;
    }
    for (server, expected) in [(101, 1_000), (102, 2_000), (103, 5_000)] {
        assert!(shares[&server].abs_diff(expected) <= 150, "{shares:?}");
    }
}

#[test]
fn source_hash_tells_a_client_whatever_the_protocol_and_the_service() {
    let text = ["198.51.100.10", "198.51.100.11"].map(|vip| {
        service(
            "scheduler = \"source-hash\"\nport = \"any\"\nprotocol = \"any\"",
            7,
        )
        .replace("web", &format!("at {vip}").replace([' ', '.'], "-"))
        .replace("198.51.100.10", vip)
    });
    let mut workers = Workers::new(2, &text.concat());
    for number in 0..100 {
        let mut servers = Vec::new();
        for (worker, vip, transport) in [
            (0, "198.51.100.10:80", Transport::Syn),
            (1, "198.51.100.10:443", Transport::Udp),
            (1, "198.51.100.11:80", Transport::Syn),
        ] {
            let from = format!("{}:{}", client(number), 1_000 + worker);
            servers.push(
                workers
                    .play(worker, &frame(&from, vip, transport).build())
                    .server(),
            );
        }
        assert!(servers[0].is_some() && servers.iter().all(|server| *server == servers[0]));
    }
}
