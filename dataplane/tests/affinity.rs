//! A client's flows go to one backend for as long as it takes flows, and then to one other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use support::Transport;
use support::workers::{Workers, service};
use weir::control::lookup::Reason;
use weir_shm::counters;
use weir_shm::model::Protocol;

fn with(keys: &str) -> String {
    service(keys, 8)
}

fn syn(workers: &mut Workers, worker: u16, client: &str, port: u16) -> u8 {
    let client = format!("{client}:{port}");
    workers.send(worker, &client, Transport::Syn).unwrap()
}

#[test]
fn a_clients_flows_stay_together_on_every_scheduler_and_worker() {
    for scheduler in [
        "maglev",
        "round-robin",
        "least-connections",
        "source-hash",
        "ring",
    ] {
        let keys = format!("affinity = \"source\"\nscheduler = \"{scheduler}\"");
        let mut workers = Workers::new(2, &with(&keys));
        for host in 0..50 {
            let client = format!("203.0.113.{host}");
            let first = syn(&mut workers, 0, &client, 1_000);
            for port in 1_001..1_010 {
                assert_eq!(
                    syn(&mut workers, port % 2, &client, port),
                    first,
                    "{scheduler}"
                );
            }
        }
        assert_eq!(workers.count(counters::PINNED), 50 * 9);
    }
}

#[test]
fn a_client_stays_when_the_table_changes_and_one_that_is_new_is_steered_by_it() {
    let mut workers = Workers::new(2, &with("affinity = \"source\""));
    let before: Vec<u8> = (0..200)
        .map(|host| syn(&mut workers, host % 2, &format!("203.0.113.{host}"), 1_000))
        .collect();
    workers.command("backend add web 10.0.0.120:80 --weight 40");
    workers.command("backend add web 10.0.0.119:80 --weight 40");
    workers.wait(3_600);
    for (host, server) in (0u16..).zip(&before) {
        let again = syn(
            &mut workers,
            (host + 1) % 2,
            &format!("203.0.113.{host}"),
            2_000,
        );
        assert_eq!(again, *server, "client {host}");
    }
    let fresh = (0..100).map(|host| syn(&mut workers, 0, &format!("203.0.114.{host}"), 1_000));
    let newcomers = fresh.filter(|server| *server >= 119).count();
    assert!(newcomers > 60, "{newcomers}");
}

#[test]
fn drain_weight_zero_and_disable_end_affinity_for_new_flows_and_the_client_moves_once() {
    for line in [
        "backend drain web {}",
        "backend weight web {} 0",
        "backend disable web {}",
        "backend force web {} down",
        "backend remove web {}",
    ] {
        let mut workers = Workers::new(
            2,
            &with("affinity = \"source\"\nscheduler = \"round-robin\""),
        );
        let first = syn(&mut workers, 0, "203.0.113.5", 1_000);
        workers.command(&line.replace("{}", &format!("10.0.0.{first}:80")));
        let second = syn(&mut workers, 1, "203.0.113.5", 1_001);
        assert_ne!(second, first, "{line}");
        for port in 1_002..1_010 {
            assert_eq!(
                syn(&mut workers, port % 2, "203.0.113.5", port),
                second,
                "{line}"
            );
        }
        if line.contains("drain") {
            // Back again, the first one is not called back to.
            workers.command(&format!("backend enable web 10.0.0.{first}:80"));
            assert_eq!(syn(&mut workers, 0, "203.0.113.5", 1_010), second);
        }
    }
}

#[test]
fn affinity_ends_with_its_time_out_and_lives_on_with_the_clients_flows() {
    let keys = "affinity = { by = \"source\", timeout = \"10m\" }\nscheduler = \"round-robin\"";
    let mut workers = Workers::new(1, &with(keys));
    let first = syn(&mut workers, 0, "203.0.113.5", 1_000);
    workers.wait(599);
    assert_eq!(syn(&mut workers, 0, "203.0.113.5", 1_001), first);
    workers.wait(601);
    assert_ne!(syn(&mut workers, 0, "203.0.113.5", 1_002), first);
    // A connection that goes on keeps its client known.
    let second = syn(&mut workers, 0, "203.0.113.6", 1_000);
    for _ in 0..30 {
        workers.wait(100);
        workers.send(0, "203.0.113.6:1000", Transport::Ack);
    }
    assert_eq!(syn(&mut workers, 0, "203.0.113.6", 1_001), second);
}

#[test]
fn a_client_with_traffic_stays_known_however_short_the_time_out() {
    for timeout in [1, 2, 5, 10, 60, 300] {
        let keys = format!(
            "affinity = {{ by = \"source\", timeout = \"{timeout}s\" }}\nscheduler = \"round-robin\""
        );
        let mut workers = Workers::new(1, &with(&keys));
        let first = syn(&mut workers, 0, "203.0.113.5", 1_000);
        // Three time-outs long a packet comes often enough.
        for _ in 0..30 {
            workers.now += timeout * 100_000_000;
            workers.send(0, "203.0.113.5:1000", Transport::Ack);
        }
        // Half a time-out later the client is still known.
        workers.now += timeout * 500_000_000;
        assert_eq!(
            syn(&mut workers, 0, "203.0.113.5", 1_001),
            first,
            "{timeout} s"
        );
        workers.wait(timeout);
        assert_ne!(
            syn(&mut workers, 0, "203.0.113.5", 1_002),
            first,
            "{timeout} s"
        );
    }
}

#[test]
fn connections_that_quic_routes_by_their_ids_keep_their_client_known() {
    let mut text = service(
        "affinity = { by = \"source\", timeout = \"30s\" }\nscheduler = \"round-robin\"\n\
         protocol = \"quic\"\n[service.quic]\n\
         configs = [{ rotation = 0, server_id_length = 1, nonce_length = 4 }]",
        0,
    )
    .replace("port = 80\n", "")
    .replace("[service.quic]", "port = 80\n[service.quic]");
    for server in 101..=108 {
        text += &format!(
            "[[service.backend]]\naddress = \"10.0.0.{server}\"\nserver_id = \"{server:02x}\"\n"
        );
    }
    let mut workers = Workers::new(1, &text);
    let first = workers.send(0, "203.0.113.5:1000", Transport::Udp).unwrap();
    // A short header; its connection ID names the server.
    let named = [0x40, 0x05, first, 1, 2, 3, 4, 9, 9, 9];
    let datagram = support::frame("203.0.113.5:1000", "198.51.100.10:80", Transport::Udp);
    let datagram = datagram.payload(&named).build();
    for _ in 0..10 {
        workers.wait(10);
        assert_eq!(workers.play(0, &datagram).server(), Some(first));
    }
    let again = workers.send(0, "203.0.113.5:1001", Transport::Udp);
    assert_eq!(again, Some(first));
}

#[test]
fn what_a_worker_knows_counts_for_those_whose_clocks_are_a_little_behind() {
    let keys = with("affinity = \"source\"\nscheduler = \"round-robin\"");
    let mut workers = Workers::new(2, &keys);
    for host in 0..20 {
        let client = format!("203.0.113.{host}");
        workers.now += 1_000_000;
        let first = syn(&mut workers, 1, &client, 1_000);
        workers.now -= 1_000_000;
        let found = workers.lookup(Protocol::Tcp, &format!("{client}:1000"), "198.51.100.10:80");
        assert_eq!((found.reason, found.idle_ms), (Reason::Conntrack, Some(0)));
        let found = workers.lookup(Protocol::Tcp, &format!("{client}:1001"), "198.51.100.10:80");
        assert_eq!(found.reason, Reason::Affinity);
        assert_eq!(syn(&mut workers, 0, &client, 1_001), first, "{client}");
    }
}

#[test]
fn a_client_may_be_a_prefix_of_addresses() {
    let keys = "affinity = { by = \"source\", prefix4 = 24 }\nscheduler = \"round-robin\"";
    let mut workers = Workers::new(2, &with(keys));
    for net in 0..20 {
        let first = syn(&mut workers, 0, &format!("203.0.{net}.1"), 1_000);
        for host in 2..20 {
            let client = format!("203.0.{net}.{host}");
            assert_eq!(syn(&mut workers, host % 2, &client, 1_000), first);
        }
    }
}

#[test]
fn datagrams_have_affinity_too() {
    let keys = "affinity = \"source\"\nscheduler = \"round-robin\"\nprotocol = \"udp\"";
    let mut workers = Workers::new(2, &with(keys));
    let first = workers.send(0, "203.0.113.5:1000", Transport::Udp);
    for port in 1_001..1_020u16 {
        workers.wait(30);
        let client = format!("203.0.113.5:{port}");
        assert_eq!(workers.send(port % 2, &client, Transport::Udp), first);
    }
}

#[test]
fn clients_are_no_flows_and_lookup_names_affinity() {
    let mut workers = Workers::new(
        1,
        &with("affinity = \"source\"\nscheduler = \"least-connections\""),
    );
    let first = syn(&mut workers, 0, "203.0.113.5", 1_000);
    let tick = weir::conntrack::Tick::from_nanos(workers.now);
    assert_eq!(workers.control.flows(tick).iter().sum::<u64>(), 1);
    let found = workers.lookup(Protocol::Tcp, "203.0.113.5:2000", "198.51.100.10:80");
    assert_eq!(found.reason, Reason::Affinity);
    assert_eq!(found.backend, Some(format!("10.0.0.{first}:80")));
}

#[test]
fn lookup_asks_the_newest_of_the_pins_that_count_as_the_packet_path_does() {
    // Two workers know the client by different backends, and the newer one takes no new flows.
    for away in ["backend drain web {}", "max_flows"] {
        let mut text = with("affinity = \"source\"\nscheduler = \"round-robin\"");
        if away == "max_flows" {
            text = text.replace("[[service.backend]]", "[[service.backend]]\nmax_flows = 1");
        }
        let mut workers = Workers::new(2, &text);
        let first = syn(&mut workers, 0, "203.0.113.5", 1_000);
        workers.send(0, "203.0.113.5:1000", Transport::Ack);
        workers.now += 1_000_000;
        workers.command(&format!("backend drain web 10.0.0.{first}:80"));
        let second = syn(&mut workers, 1, "203.0.113.5", 1_001);
        workers.send(1, "203.0.113.5:1001", Transport::Ack);
        assert_ne!(first, second);
        if away == "max_flows" {
            // The first one's connection ends; the second one's keeps its backend full.
            workers.send(0, "203.0.113.5:1000", Transport::Rst);
            for _ in 0..400 {
                workers.now += 60_000_000;
                workers.send(1, "203.0.113.5:1001", Transport::Ack);
                workers.send(0, "203.0.113.99:9", Transport::Rst);
            }
        } else {
            workers.command(&away.replace("{}", &format!("10.0.0.{second}:80")));
        }
        workers.command(&format!("backend enable web 10.0.0.{first}:80"));
        let found = workers.lookup(Protocol::Tcp, "203.0.113.5:1002", "198.51.100.10:80");
        assert_eq!(found.reason, Reason::Affinity, "{away}");
        assert_eq!(found.backend, Some(format!("10.0.0.{first}:80")), "{away}");
        let step = workers
            .control
            .explain(
                weir::conntrack::Tick::from_nanos(workers.now),
                Protocol::Tcp,
                "203.0.113.5:1002".parse().unwrap(),
                "198.51.100.10:80".parse().unwrap(),
                found.backend.as_deref(),
            )
            .and_then(|steps| steps.affinity)
            .unwrap();
        assert_eq!((step.backend, step.takes_new), (found.backend, true));
        assert_eq!(syn(&mut workers, 0, "203.0.113.5", 1_002), first, "{away}");
    }
}

#[test]
fn a_flood_of_strangers_moves_no_client_whose_connections_are_established() {
    let mut workers = Workers::new(
        1,
        &with("affinity = \"source\"\nscheduler = \"round-robin\""),
    );
    let first = syn(&mut workers, 0, "203.0.113.5", 1_000);
    workers.send(0, "203.0.113.5:1000", Transport::Ack);
    for flood in 0..60_000u32 {
        let address = std::net::Ipv4Addr::from_bits(0x0b00_0000 + flood);
        workers.send(0, &format!("{address}:99"), Transport::Syn);
    }
    assert_eq!(
        workers.send(0, "203.0.113.5:1000", Transport::Ack),
        Some(first)
    );
    assert_eq!(syn(&mut workers, 0, "203.0.113.5", 1_001), first);
}
