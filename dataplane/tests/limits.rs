//! Where there is no room: backends that hold as many flows as they may, and workers that can remember
//! no more.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use support::Transport;
use support::workers::{Workers, service};
use weir_shm::counters::{self, DropReason};

/// A client's address and port by number: sixteen flows of each address.
fn client(flow: u32) -> String {
    let address = std::net::Ipv4Addr::from_bits(0xcb00_7100 + flow / 16);
    format!("{address}:{}", 1_000 + flow % 16)
}

/// A service over servers from 101 on, each with its limit.
fn limited(keys: &str, limits: &[Option<u32>]) -> String {
    let mut text = service(keys, 0);
    for (server, limit) in (101..).zip(limits) {
        text += &format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\n");
        if let Some(limit) = limit {
            text += &format!("max_flows = {limit}\n");
        }
    }
    text
}

const SCHEDULERS: [&str; 5] = [
    "maglev",
    "ring",
    "source-hash",
    "round-robin",
    "least-connections",
];

/// Fills conntrack with flows that have proven themselves: no SYN may push one out.
fn fill(workers: &mut Workers) {
    for flow in 0..30_000 {
        workers.send(0, &client(flow), Transport::Syn);
        workers.send(0, &client(flow), Transport::Ack);
    }
    assert!(workers.count(counters::CONNTRACK_UNTRACKED) > 0);
}

/// Sends a SYN; gives the server, if nothing remembers it.
fn untracked(workers: &mut Workers, client: &str) -> Option<u8> {
    let before = workers.count(counters::CONNTRACK_UNTRACKED);
    let server = workers.send(0, client, Transport::Syn);
    (workers.count(counters::CONNTRACK_UNTRACKED) > before).then(|| server.unwrap())
}

#[test]
fn a_known_clients_flows_stay_together_when_nothing_more_can_be_remembered() {
    for scheduler in ["round-robin", "least-connections"] {
        let keys = format!("affinity = \"source\"\nscheduler = \"{scheduler}\"");
        let mut workers = Workers::new(1, &service(&keys, 8));
        let known: Vec<(String, Option<u8>)> = (0..20)
            .map(|host| {
                let client = format!("198.18.0.{host}");
                workers.send(0, &format!("{client}:1"), Transport::Syn);
                let server = workers.send(0, &format!("{client}:1"), Transport::Ack);
                (client, server)
            })
            .collect();
        fill(&mut workers);
        let mut count = 0;
        for (client, first) in known {
            for port in 2..40 {
                let went = untracked(&mut workers, &format!("{client}:{port}"));
                count += u32::from(went.is_some());
                assert!(went.is_none() || went == first, "{scheduler}: {client}");
            }
        }
        assert!(count > 100, "{count}");
    }
}

#[test]
fn a_flow_that_nothing_remembers_stays_where_it_is_when_a_limit_comes_and_goes() {
    for scheduler in ["maglev", "ring", "source-hash"] {
        let keys = format!("scheduler = \"{scheduler}\"");
        let mut workers = Workers::new(1, &limited(&keys, &[None, Some(1)]));
        let mut flows = (0..).map(|flow| format!("198.18.{flow}.5:1"));
        let holder = flows.find(|flow| workers.send(0, flow, Transport::Syn) == Some(102));
        let holder = holder.unwrap();
        workers.send(0, &holder, Transport::Ack);
        fill(&mut workers);
        let newcomers: Vec<(String, u8)> = (100_000..106_400)
            .step_by(16)
            .filter_map(|flow| Some((client(flow), untracked(&mut workers, &client(flow))?)))
            .collect();
        // The only flow of the limited server ends, and it has room again.
        workers.send(0, &holder, Transport::Rst);
        for _ in 0..400 {
            workers.now += 60_000_000;
            workers.send(0, &client(0), Transport::Ack);
        }
        let mut still = 0;
        for (flow, server) in newcomers {
            if let Some(again) = untracked(&mut workers, &flow) {
                assert_eq!(again, server, "{scheduler}: {flow}");
                still += 1;
            }
        }
        assert!(still > 50, "{still}");
    }
}

#[test]
fn a_connection_on_the_ports_of_an_old_one_takes_the_old_ones_place() {
    for scheduler in SCHEDULERS {
        for affinity in ["", "affinity = \"source\""] {
            let keys = format!("scheduler = \"{scheduler}\"\n{affinity}");
            let mut workers = Workers::new(1, &limited(&keys, &[Some(1), Some(1)]));
            let case = format!("{scheduler} {affinity}");
            for flow in ["203.0.113.5:1000", "203.0.113.6:1000"] {
                workers.send(0, flow, Transport::Syn).unwrap();
                workers.send(0, flow, Transport::Ack).unwrap();
            }
            for _ in 0..5 {
                workers.send(0, "203.0.113.5:1000", Transport::Fin);
                let again = workers.send(0, "203.0.113.5:1000", Transport::Syn);
                assert!(again.is_some(), "{case}");
            }
            assert_eq!(workers.dropped(DropReason::BackendsFull), 0, "{case}");
            // It counts, as before.
            let other = workers.send(0, "203.0.113.7:1000", Transport::Syn);
            assert_eq!(other, None, "{case}");
        }
    }
}

#[test]
fn least_connections_does_not_count_the_flow_that_a_new_one_replaces() {
    let mut workers = Workers::new(1, &service("scheduler = \"least-connections\"", 5));
    let flows: Vec<String> = (0..50).map(client).collect();
    for flow in &flows {
        workers.send(0, flow, Transport::Syn);
    }
    // All hold ten; whoever loses one gets it back.
    for flow in &flows {
        let before = workers.send(0, flow, Transport::Ack);
        workers.send(0, flow, Transport::Fin);
        assert_eq!(workers.send(0, flow, Transport::Syn), before, "{flow}");
    }
}

#[test]
fn flows_that_pass_over_a_full_backend_are_counted_whatever_the_scheduler() {
    for scheduler in SCHEDULERS {
        let keys = format!("scheduler = \"{scheduler}\"");
        let mut workers = Workers::new(1, &limited(&keys, &[Some(5), None]));
        for flow in 0..160 {
            workers.send(0, &client(flow * 16), Transport::Syn).unwrap();
        }
        let diverted = workers.count(counters::FLOWS_DIVERTED);
        // Of the 150 or so that came when the first was full, hashes would have given it about half; it
        // was its turn each time, and it had the fewest.
        let expected = match scheduler {
            "round-robin" | "least-connections" => 149..=150,
            _ => 45..=105,
        };
        assert!(expected.contains(&diverted), "{scheduler}: {diverted}");
    }
}
