//! What becomes of packets when a service has no backend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use etherparse::{SlicedPacket, TransportSlice};
use support::workers::{Went, Workers, service};
use support::{Transport, frame};
use weir_shm::counters::{self, DropReason};

fn down(workers: &mut Workers) {
    for server in 101..=103 {
        workers.command(&format!("backend force web 10.0.0.{server}:80 down"));
    }
}

fn to_web(transport: Transport) -> Vec<u8> {
    frame("203.0.113.5:1000", "198.51.100.10:80", transport).build()
}

#[test]
fn forward_is_the_default_and_gives_flows_to_all() {
    for keys in ["", "all_down = \"forward\""] {
        let mut workers = Workers::new(1, &service(keys, 3));
        down(&mut workers);
        assert!(workers.play(0, &to_web(Transport::Syn)).server().is_some());
    }
}

#[test]
fn drop_has_a_reason_of_its_own_and_ends_with_the_first_backend_that_is_up() {
    let mut workers = Workers::new(1, &service("all_down = \"drop\"", 3));
    let kept = workers.play(0, &to_web(Transport::Syn)).server();
    down(&mut workers);
    assert_eq!(
        workers.play(0, &to_web(Transport::Ack)),
        Went::Nowhere,
        "known flows, too"
    );
    let other = frame("203.0.113.6:1000", "198.51.100.10:80", Transport::Syn).build();
    assert_eq!(workers.play(0, &other), Went::Nowhere);
    assert_eq!(workers.dropped(DropReason::AllDown), 2);
    workers.command("backend force web 10.0.0.102:80 auto");
    assert_eq!(workers.play(0, &other).server(), Some(102));
    assert!(kept.is_some());
}

#[test]
fn reset_answers_tcp_from_the_vip() {
    let mut workers = Workers::new(1, &service("all_down = \"reset\"", 3));
    down(&mut workers);
    let Went::Back(answer) = workers.play(0, &to_web(Transport::Syn)) else {
        panic!("no answer")
    };
    let reset = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = reset.transport else {
        panic!("no TCP")
    };
    assert!(tcp.rst() && tcp.ack());
    // The SYN and its seven bytes of payload.
    assert_eq!(tcp.acknowledgment_number(), 1_000 + 1 + 7);
    assert_eq!((tcp.source_port(), tcp.destination_port()), (80, 1_000));
    assert_eq!(answer[26..34], [198, 51, 100, 10, 203, 0, 113, 5]);
    assert_eq!(
        workers.play(0, &to_web(Transport::Rst)),
        Went::Nowhere,
        "no reset of a reset"
    );
    assert_eq!(workers.dropped(DropReason::AllDown), 1);
    assert_eq!(workers.count(counters::RESETS), 1);
}

#[test]
fn reset_tells_a_datagram_that_nobody_listens() {
    let mut workers = Workers::new(1, &service("all_down = \"reset\"\nprotocol = \"udp\"", 3));
    down(&mut workers);
    let Went::Back(answer) = workers.play(0, &to_web(Transport::Udp)) else {
        panic!("no answer")
    };
    // ICMP, destination unreachable, port unreachable, quoting the datagram.
    assert_eq!((answer[23], answer[34], answer[35]), (1, 3, 3));
    assert_eq!(answer[26..34], [198, 51, 100, 10, 203, 0, 113, 5]);
    assert_eq!(answer[42 + 12..42 + 20], [203, 0, 113, 5, 198, 51, 100, 10]);
}

#[test]
fn backends_disabled_or_drained_by_hand_are_no_fall_back() {
    for (keys, reset) in [
        ("", false),
        ("all_down = \"reset\"", true),
        ("all_down = \"drop\"", false),
    ] {
        let mut workers = Workers::new(1, &service(keys, 2));
        workers.command("backend disable web 10.0.0.101:80");
        workers.command("backend drain web 10.0.0.102:80 --force");
        let went = workers.play(0, &to_web(Transport::Syn));
        assert_eq!(matches!(went, Went::Back(_)), reset, "{keys}");
        assert_eq!(workers.dropped(DropReason::NoBackend), u64::from(!reset));
        assert_eq!(workers.dropped(DropReason::AllDown), 0);
    }
}

#[test]
fn a_pool_without_backends_resets_where_it_should() {
    let mut workers = Workers::new(1, &service("all_down = \"reset\"", 0));
    assert!(matches!(
        workers.play(0, &to_web(Transport::Syn)),
        Went::Back(_)
    ));
}

#[test]
fn known_flows_find_their_backends_again_when_there_was_nobody_for_a_while() {
    // By turns and by a table: neither may choose anew.
    for scheduler in ["maglev", "round-robin"] {
        for (policy, away, back) in [
            (
                "drop",
                "backend force web {} down",
                "backend force web {} auto",
            ),
            (
                "reset",
                "backend force web {} down",
                "backend force web {} auto",
            ),
            ("forward", "backend disable web {}", "backend enable web {}"),
            ("reset", "backend disable web {}", "backend enable web {}"),
        ] {
            let case = format!("{scheduler} {policy} {away}");
            let keys = format!("all_down = \"{policy}\"\nscheduler = \"{scheduler}\"");
            let mut workers = Workers::new(1, &service(&keys, 3));
            let packet = |client: u16, transport| {
                let client = format!("203.0.113.5:{}", 1_000 + client);
                frame(&client, "198.51.100.10:80", transport).build()
            };
            let mut before = Vec::new();
            for client in 0..31 {
                workers.play(0, &packet(client, Transport::Syn));
                before.push(workers.play(0, &packet(client, Transport::Ack)).server());
            }
            let all = |workers: &mut Workers, command: &str| {
                for server in 101..=103 {
                    workers.command(&command.replace("{}", &format!("10.0.0.{server}:80")));
                }
            };
            all(&mut workers, away);
            for client in 0..31 {
                let went = workers.play(0, &packet(client, Transport::Ack));
                assert_eq!(went.server(), None, "{case}");
            }
            all(&mut workers, back);
            // All are back at once for the flows' next packets.
            let after: Vec<_> = (0..31)
                .map(|client| workers.play(0, &packet(client, Transport::Ack)).server())
                .collect();
            assert_eq!(after, before, "{case}");
        }
    }
}

#[test]
fn a_flow_whose_backend_went_waits_for_it_while_all_others_are_full() {
    let mut text = service("", 0);
    for server in 101..=102 {
        text += &format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\nmax_flows = 1\n");
    }
    let mut workers = Workers::new(1, &text);
    let packet = |client: u16, transport| {
        let client = format!("203.0.113.5:{client}");
        frame(&client, "198.51.100.10:80", transport).build()
    };
    let [one, two] = [1_000, 1_001].map(|client| {
        workers.play(0, &packet(client, Transport::Syn));
        workers.play(0, &packet(client, Transport::Ack)).server()
    });
    assert_ne!(one, two);
    workers.command(&format!("backend disable web 10.0.0.{}:80", one.unwrap()));
    assert_eq!(
        workers.play(0, &packet(1_000, Transport::Ack)),
        Went::Nowhere
    );
    assert_eq!(workers.dropped(DropReason::BackendsFull), 1);
    // The other's flow is over, and it has room, and would be chosen.
    workers.wait(200);
    assert_eq!(
        workers.play(0, &packet(1_000, Transport::Ack)),
        Went::Nowhere
    );
    workers.wait(200);
    workers.command(&format!(
        "backend weight web 10.0.0.{}:80 1000",
        two.unwrap()
    ));
    workers.command(&format!("backend enable web 10.0.0.{}:80", one.unwrap()));
    assert_eq!(
        workers.play(0, &packet(1_000, Transport::Ack)).server(),
        one
    );
}
