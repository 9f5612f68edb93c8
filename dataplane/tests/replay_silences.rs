//! Two hours of `weir replay` in which flows fall silent for longer and longer: a flow is known for
//! exactly as long as its state's time-out, and what becomes of its next packet tells.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

#[path = "support/play.rs"]
mod play;
mod support;

use std::collections::HashMap;

use play::Play;
use support::{Transport, frame};

/// Strangers in mid-stream are reset; of datagrams, a drained backend gets only those of flows that it
/// has.
const CONFIG: &str = r#"
[instance]
hash_key = "000102030405060708090a0b0c0d0e0f"
[engine]
flows_per_worker = 10000
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24"]
[[neighbor]]
address = "192.0.2.99"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "10.0.0.12"
mac = "02:00:00:00:00:0c"
[[service]]
name = "web"
vip = "192.0.2.10"
port = 80
protocol = "tcp"
forwarding = "nat"
unknown_tcp = "reset"
[[service.backend]]
address = "10.0.0.11"
[[service.backend]]
address = "10.0.0.12"
[[service]]
name = "dns"
vip = "192.0.2.10"
port = 53
protocol = "udp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
[[service.backend]]
address = "10.0.0.12"
"#;

/// Milliseconds; all together two hours and a little.
const SILENCES: [u64; 18] = [
    1_000, 5_000, 9_999, 10_000, 11_000, 60_000, 119_999, 120_000, 121_000, 240_000, 300_000,
    349_999, 350_000, 351_000, 500_000, 800_000, 1_300_000, 2_600_000,
];
/// Flows of datagrams in each silence, so that both backends have some.
const DATAGRAMS: u16 = 16;

/// A flow that falls silent.
#[derive(Debug, Clone, Copy)]
struct Silent {
    /// What the client sent before, a millisecond apart.
    before: &'static [Transport],
    /// What it sends after.
    after: Transport,
    /// For how long the flow is known, in milliseconds.
    known: u64,
}

const SYN: Transport = Transport::Syn;
const ACK: Transport = Transport::Ack;
const KINDS: [Silent; 5] = [
    kind(&[SYN], ACK, 10_000),
    kind(&[SYN, ACK], ACK, 350_000),
    kind(&[SYN, ACK, Transport::Fin], ACK, 10_000),
    kind(&[Transport::Udp], Transport::Udp, 120_000),
    kind(&[Transport::Udp, Transport::Udp], Transport::Udp, 120_000),
];

const fn kind(before: &'static [Transport], after: Transport, known: u64) -> Silent {
    Silent {
        before,
        after,
        known,
    }
}

/// Flows, by their client's port: when each spoke first and last, the flow, its silence.
type Flows = HashMap<u16, (u64, u64, Silent, u64)>;

/// What is played, and the flows in it.
fn two_hours() -> (Play, Flows) {
    let (mut play, mut flows) = (Play::new(CONFIG), Flows::new());
    let mut frames = Vec::new();
    let mut begin = 0;
    let mut port = 1_000;
    for silence in SILENCES {
        let mut end = begin;
        for silent in KINDS {
            let is_udp = silent.after == Transport::Udp;
            for _ in 0..if is_udp { DATAGRAMS } else { 1 } {
                port += 1;
                let client = format!("192.0.2.99:{port}");
                let vip = if is_udp {
                    "192.0.2.10:53"
                } else {
                    "192.0.2.10:80"
                };
                let mut at = begin;
                for transport in silent.before {
                    frames.push((at, frame(&client, vip, *transport).build()));
                    at += 1;
                }
                let last = at - 1 + silence;
                frames.push((last, frame(&client, vip, silent.after).build()));
                flows.insert(port, (begin, last, silent, silence));
                end = end.max(last);
            }
        }
        let backend = "dns 10.0.0.11:53";
        let drain = format!("backend drain {backend} --timeout never");
        play.command((begin + 500) as f64, &drain);
        play.command((end + 100) as f64, &format!("backend enable {backend}"));
        begin = end + 1_000;
    }
    assert!(begin > 7_200_000, "two hours, not {begin} ms");
    frames.sort_by_key(|(at, _)| *at);
    for (at, bytes) in frames {
        play.frame(at, bytes);
    }
    (play, flows)
}

#[test]
fn a_flow_is_known_for_as_long_as_its_states_time_out_and_no_longer() {
    let (play, flows) = two_hours();
    let played = play.run();

    // What became of each packet, by its client's port and its millisecond.
    let mut fates: HashMap<(u16, u64), &str> = HashMap::new();
    for (millis, bytes) in played.millis.iter().zip(&played.frames) {
        let (fate, at) = match bytes[5] {
            0x0b => ("first", 34),
            0x0c => ("second", 34),
            _ => ("reset", 36),
        };
        assert_eq!(fate == "reset", bytes[23] == 6 && bytes[47] & 4 != 0);
        let port = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        fates.insert((port, *millis), fate);
    }
    let mut moved = HashMap::new();
    for (port, (begin, last, silent, silence)) in &flows {
        let (was, is) = (fates[&(*port, *begin)], fates[&(*port, *last)]);
        let known = *silence < silent.known;
        let expected = match silent.after {
            _ if known => was,
            // The first is drained by then.
            Transport::Udp => "second",
            _ => "reset",
        };
        assert_eq!(is, expected, "{silent:?} after {silence} ms");
        *moved.entry((is != was, known)).or_insert(0) += 1;
    }
    // Every time-out was reached and not reached, and a flow that is known never moved.
    assert!(moved[&(true, false)] > 60, "{moved:?}");
    assert!(!moved.contains_key(&(true, true)), "{moved:?}");
    assert_eq!(played.bytes, play.run().bytes, "and always alike");
}
