//! Which backend a flow gets, and what it takes to move it: conntrack, drains, removals, time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::collections::{HashMap, HashSet};

use support::rig::Rig;
use support::{Transport, frame};
use weir::control::lookup::Reason;
use weir_shm::command;
use weir_shm::counters::{self, DropReason};

const SECOND: u64 = 1_000_000_000;
const BACKENDS: u8 = 10;

fn config() -> String {
    let mut text = String::from(
        r#"
[engine]
flows_per_worker = 20000
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24"]
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[neighbor]]
address = "192.0.2.1"
mac = "02:00:00:00:00:fe"
"#,
    );
    for host in 1..=BACKENDS {
        text += &format!(
            "[[neighbor]]\naddress = \"10.0.0.1{host:02}\"\nmac = \"02:00:00:00:01:{host:02x}\"\n"
        );
    }
    text += "[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80\nprotocol = \"tcp\"\nforwarding = \"dsr-l2\"\n";
    for host in 1..=BACKENDS {
        text += &format!("[[service.backend]]\naddress = \"10.0.0.1{host:02}\"\n");
    }
    text
}

/// A rig, and commands on it as an operator gives them.
struct Balancer {
    rig: Rig,
}

impl Balancer {
    fn new() -> Self {
        Self {
            rig: Rig::new(&config()),
        }
    }

    fn command(&mut self, line: &str) {
        let mut pool = self.rig.control.pool().clone();
        command::parse_line(line)
            .unwrap()
            .apply_to(&mut pool)
            .unwrap();
        let generation = self.rig.control.generation() + 1;
        self.rig
            .control
            .apply(self.rig.now, generation, pool)
            .unwrap();
    }

    /// Plays a client's packet; gives the host byte of the backend that got it.
    fn send(&mut self, flow: u16, transport: Transport) -> Option<u8> {
        let source = format!("203.0.{}.{}:{}", flow >> 8, flow & 0xff, 1000 + flow % 7);
        let bytes = frame(&source, "198.51.100.10:80", transport).build();
        let sent = self.rig.play(0, &bytes);
        sent.first().map(|(_, frame)| frame[5])
    }

    fn establish(&mut self, flows: std::ops::Range<u16>) -> HashMap<u16, u8> {
        flows
            .map(|flow| {
                let backend = self.send(flow, Transport::Syn).unwrap();
                assert_eq!(self.send(flow, Transport::Ack), Some(backend));
                (flow, backend)
            })
            .collect()
    }

    fn wait(&mut self, seconds: u64) {
        self.rig.tick(seconds * SECOND);
    }
}

fn name(host: u8) -> String {
    format!("10.0.0.1{host:02}:80")
}

#[test]
fn removing_and_adding_a_backend_a_hundred_times_moves_no_other_flow() {
    let mut balancer = Balancer::new();
    let flows = balancer.establish(0..2_000);
    let gone = 3;
    for _ in 0..100 {
        balancer.command(&format!("backend remove web {}", name(gone)));
        for flow in (0..2_000).step_by(97) {
            let backend = balancer.send(flow, Transport::Ack).unwrap();
            if flows[&flow] == gone {
                assert_ne!(backend, gone);
            } else {
                assert_eq!(backend, flows[&flow]);
            }
        }
        balancer.command(&format!("backend add web {}", name(gone)));
    }
    for (flow, backend) in &flows {
        if *backend != gone {
            assert_eq!(
                balancer.send(*flow, Transport::Ack),
                Some(*backend),
                "flow {flow} moved"
            );
        }
    }
    balancer.rig.assert_all_accounted_for();
    assert_eq!(
        balancer.rig.count(counters::RECEIVED),
        balancer.rig.count(counters::FORWARDED)
    );
}

#[test]
fn a_drained_backend_keeps_its_flows_and_gets_no_new_ones() {
    for line in [
        "backend drain web 10.0.0.101:80",
        "backend weight web 10.0.0.101:80 0",
    ] {
        let mut balancer = Balancer::new();
        let flows = balancer.establish(0..1_000);
        balancer.command(line);
        for (flow, backend) in &flows {
            assert_eq!(balancer.send(*flow, Transport::Ack), Some(*backend));
        }
        for flow in 1_000..2_000 {
            assert_ne!(balancer.send(flow, Transport::Syn), Some(1));
        }
    }
}

#[test]
fn a_drain_that_runs_out_moves_what_is_left() {
    let mut balancer = Balancer::new();
    let flows = balancer.establish(0..200);
    let on_first: Vec<u16> = flows
        .iter()
        .filter(|(_, b)| **b == 1)
        .map(|(f, _)| *f)
        .collect();
    assert!(!on_first.is_empty());
    balancer.command("backend drain web 10.0.0.101:80 --timeout 30s");
    balancer.wait(29);
    assert!(
        on_first
            .iter()
            .all(|flow| balancer.send(*flow, Transport::Ack) == Some(1))
    );
    balancer.wait(1);
    assert!(
        on_first
            .iter()
            .all(|flow| balancer.send(*flow, Transport::Ack) != Some(1))
    );
}

#[test]
fn disabling_takes_a_backends_flows_away_at_once_and_enabling_lets_new_ones_come() {
    let mut balancer = Balancer::new();
    let flows = balancer.establish(0..1_000);
    balancer.command("backend disable web 10.0.0.101:80");
    for (flow, backend) in &flows {
        let now = balancer.send(*flow, Transport::Ack).unwrap();
        if *backend == 1 {
            assert_ne!(now, 1);
        } else {
            assert_eq!(now, *backend);
        }
    }
    balancer.command("backend enable web 10.0.0.101:80");
    let new: HashSet<u8> = (1_000..2_000)
        .map(|f| balancer.send(f, Transport::Syn).unwrap())
        .collect();
    assert!(new.contains(&1));
}

#[test]
fn forced_down_backends_are_avoided_until_no_other_is_left() {
    let mut balancer = Balancer::new();
    for host in 1..BACKENDS {
        balancer.command(&format!("backend force web {} down", name(host)));
    }
    let only: HashSet<u8> = (0..500)
        .map(|f| balancer.send(f, Transport::Syn).unwrap())
        .collect();
    assert_eq!(only, HashSet::from([BACKENDS]));
    balancer.command(&format!("backend force web {} down", name(BACKENDS)));
    let open: HashSet<u8> = (500..1_500)
        .map(|f| balancer.send(f, Transport::Syn).unwrap())
        .collect();
    assert_eq!(open.len(), usize::from(BACKENDS), "all down: fail open");
}

#[test]
fn backends_taken_out_by_hand_never_count_as_fall_back() {
    let mut balancer = Balancer::new();
    for host in 1..=BACKENDS {
        balancer.command(&format!("backend disable web {}", name(host)));
    }
    assert_eq!(balancer.send(1, Transport::Syn), None);
    assert_eq!(balancer.rig.dropped(DropReason::NoBackend), 1);
}

#[test]
fn time_outs_follow_the_state_of_the_connection() {
    // (what was sent before, seconds of silence, whether the flow still holds)
    let cases: &[(&[Transport], u64, bool)] = &[
        (&[Transport::Syn], 9, true),
        (&[Transport::Syn], 10, false),
        (&[Transport::Syn, Transport::Ack], 349, true),
        (&[Transport::Syn, Transport::Ack], 350, false),
        (&[Transport::Syn, Transport::Ack, Transport::Fin], 9, true),
        (&[Transport::Syn, Transport::Ack, Transport::Fin], 10, false),
        (&[Transport::Syn, Transport::Ack, Transport::Rst], 10, false),
        (&[Transport::Ack], 349, true),
    ];
    for (sent, silence, holds) in cases {
        let mut balancer = Balancer::new();
        for transport in *sent {
            balancer.send(7, *transport);
        }
        let misses = balancer.rig.count(counters::CONNTRACK_MISSES);
        balancer.wait(*silence);
        balancer.send(7, Transport::Ack);
        let held = balancer.rig.count(counters::CONNTRACK_MISSES) == misses;
        assert_eq!(held, *holds, "{sent:?} then {silence} s");
    }
}

#[test]
fn a_syn_keeps_the_backend_of_an_established_flow_but_opens_a_closing_one_anew() {
    let mut balancer = Balancer::new();
    let backend = balancer.establish(5..6)[&5];
    let flows = |balancer: &Balancer| balancer.rig.count(counters::CONNTRACK_INSERTED);
    let opened = flows(&balancer);
    // Drained, so that only conntrack leads there.
    balancer.command(&format!("backend drain web {}", name(backend)));
    assert_eq!(balancer.send(5, Transport::Syn), Some(backend));
    assert_eq!(flows(&balancer), opened);
    balancer.send(5, Transport::Fin);
    assert_eq!(
        balancer.send(5, Transport::Ack),
        Some(backend),
        "closing flows stay"
    );
    assert_ne!(
        balancer.send(5, Transport::Syn),
        Some(backend),
        "a new connection is a new flow"
    );
    assert_eq!(flows(&balancer), opened + 1);
}

#[test]
fn a_syn_flood_moves_no_established_flow_while_the_pool_changes() {
    let mut balancer = Balancer::new();
    let flows = balancer.establish(0..1_000);
    for flood in 0..40_000u32 {
        let source = format!(
            "{}:{}",
            std::net::Ipv4Addr::from_bits(0x0b00_0000 + flood),
            1 + flood % 60_000
        );
        balancer.rig.play(
            0,
            &frame(&source, "198.51.100.10:80", Transport::Syn).build(),
        );
    }
    balancer.command("backend add web 10.0.0.200:80 --weight 5");
    for (flow, backend) in &flows {
        assert_eq!(
            balancer.send(*flow, Transport::Ack),
            Some(*backend),
            "flow {flow} moved"
        );
    }
}

#[test]
fn lookup_says_what_the_next_packet_does() {
    let mut balancer = Balancer::new();
    let client = "203.0.0.9:1002".parse().unwrap();
    let vip = "198.51.100.10:80".parse().unwrap();
    let tcp = weir_shm::model::Protocol::Tcp;
    let tick = |b: &Balancer| weir::conntrack::Tick::from_nanos(b.rig.now);
    let before = balancer
        .rig
        .control
        .lookup(tick(&balancer), tcp, client, vip);
    let backend = balancer.send(9, Transport::Syn).unwrap();
    let after = balancer
        .rig
        .control
        .lookup(tick(&balancer), tcp, client, vip);
    assert_eq!(before.backend, Some(name(backend)));
    assert_eq!(after.backend, Some(name(backend)));
    assert_eq!(
        (before.reason, after.reason),
        (Reason::Maglev, Reason::Conntrack)
    );
    let nobody = balancer.rig.control.lookup(
        tick(&balancer),
        tcp,
        client,
        "198.51.100.10:81".parse().unwrap(),
    );
    assert_eq!(nobody.reason, Reason::NoService);
}

#[test]
fn flows_are_counted_by_backend() {
    let mut balancer = Balancer::new();
    let flows = balancer.establish(0..500);
    let tick = weir::conntrack::Tick::from_nanos(balancer.rig.now);
    let counted = balancer.rig.control.flows(tick);
    for host in 1..=BACKENDS {
        let number = balancer
            .rig
            .control
            .book()
            .number("web", &name(host))
            .unwrap();
        let expected = flows.values().filter(|backend| **backend == host).count();
        assert_eq!(counted[number as usize], expected as u64);
    }
}
