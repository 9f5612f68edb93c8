//! What leaves at once is what leaves by the long way: a capture of one service sets its packets apart, and they go
//! stage by stage, while a capture of everything watches packets go as they do. The same traffic with and without
//! either must come out the same, whichever packets are wanted, and both must tell the same of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::sync::Arc;

use proptest::prelude::*;
use support::captured::{Shown, shown};
use support::full_nat::base;
use support::rig::{Rig, Sent};
use support::{CLIENT_MAC, MIXED, Transport, WEIR_MAC, frame};
use weir::capture::Capture;
use weir_shm::capture::{Direction, Record, Request};
use weir_shm::counters as layout;

/// Backends beside those of the base.
const NEIGHBOURS: &str = r#"
[[neighbor]]
address = "10.0.0.12"
mac = "02:00:00:00:00:0c"
[[neighbor]]
address = "2001:db8:a::12"
mac = "02:00:00:00:00:0c"
"#;

/// A service of each way to forward: its name, keys, and whether clients and backends speak IPv6.
const SERVICES: [(&str, &str, bool, bool); 12] = [
    ("l2", "forwarding = \"dsr-l2\"", false, false),
    ("l2-6", "forwarding = \"dsr-l2\"", true, true),
    ("nat", "forwarding = \"nat\"", false, false),
    ("nat-6", "forwarding = \"nat\"", true, true),
    ("ipip", "forwarding = \"dsr-ipip\"", false, false),
    ("gue", "forwarding = \"dsr-gue\"", true, false),
    ("dscp", "forwarding = \"dsr-dscp\"\ndscp = 9", false, false),
    ("full", "forwarding = \"full-nat\"", false, false),
    ("full-6", "forwarding = \"full-nat\"", true, true),
    ("full-46", "forwarding = \"full-nat\"", false, true),
    ("full-64", "forwarding = \"full-nat\"", true, false),
    (
        "told",
        "forwarding = \"full-nat\"\nclient_address = \"toa\"",
        false,
        false,
    ),
];

/// Two services of each, one for TCP on port 80 and one for UDP on port 53.
fn config() -> String {
    let mut text = base(4096) + NEIGHBOURS;
    for (place, (name, keys, client_v6, backend_v6)) in SERVICES.iter().enumerate() {
        let pool = if keys.contains("full-nat") {
            "snat_pool = [\"10.0.0.200\", \"2001:db8:a::200\"]\n"
        } else {
            ""
        };
        for (protocol, port) in [("tcp", 80), ("udp", 53)] {
            let keys = if protocol == "udp" {
                keys.replace("\"toa\"", "\"none\"")
            } else {
                (*keys).to_owned()
            };
            text += &format!(
                "[[service]]\nname = \"{name}-{protocol}\"\nvip = \"{}\"\nport = {port}\nprotocol = \"{protocol}\"\ntable_size = 13\n{keys}\n{pool}",
                vip(place, *client_v6)
            );
            for backend in 11..13 {
                let address = if *backend_v6 {
                    format!("2001:db8:a::{backend}")
                } else {
                    format!("10.0.0.{backend}")
                };
                // Each service has backends' ports of its own, where it says one.
                let to = if keys.contains("nat\"") {
                    format!("port = {}\n", 2000 + place)
                } else {
                    String::new()
                };
                text += &format!("[[service.backend]]\naddress = \"{address}\"\n{to}");
            }
        }
    }
    text
}

fn vip(place: usize, v6: bool) -> String {
    if v6 {
        format!("2001:db8:f::{:x}", place + 16)
    } else {
        format!("198.51.100.{}", place + 16)
    }
}

/// A client's packet: to which service, from whom, of what kind, with how much payload and which TTL.
type Ask = (usize, u8, Transport, usize, u8);

fn ask() -> impl Strategy<Value = Ask> {
    (
        0..SERVICES.len(),
        1u8..4,
        prop::sample::select(MIXED),
        0usize..40,
        prop::sample::select(vec![1u8, 2, 64, 64, 64]),
    )
}

fn built(&(place, host, transport, payload, ttl): &Ask) -> Vec<u8> {
    let v6 = SERVICES[place].2;
    let port = if transport == Transport::Udp { 53 } else { 80 };
    let (client, vip) = if v6 {
        (
            format!("[2001:db8:c::{host}]:5000"),
            format!("[{}]:{port}", vip(place, v6)),
        )
    } else {
        (
            format!("203.0.113.{host}:5000"),
            format!("{}:{port}", vip(place, v6)),
        )
    };
    frame(&client, &vip, transport)
        .payload(&vec![7; payload])
        .ttl(ttl)
        .build()
}

/// What answers a frame that left: its ends exchanged, so that checksums stay right.
fn answer(sent: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = sent.to_vec();
    bytes[..6].copy_from_slice(&WEIR_MAC);
    bytes[6..12].copy_from_slice(&CLIENT_MAC);
    let (addresses, half, protocol) = if bytes[12] == 0x08 {
        (26, 4, bytes[23])
    } else {
        (22, 16, bytes[20])
    };
    if !matches!(protocol, 6 | 17) {
        return None;
    }
    let ports = addresses + 2 * half;
    bytes[addresses..ports].rotate_left(half);
    bytes[ports..ports + 4].rotate_left(2);
    Some(bytes)
}

/// What is said and kept of packets, whenever.
fn records(capture: &Capture) -> Vec<Shown> {
    let shown = shown(capture).into_iter();
    shown
        .map(|(record, frame)| {
            let frame = if record.direction == Direction::Out {
                without_id((0, frame)).1
            } else {
                frame
            };
            (
                Record {
                    unix_ns: 0,
                    ..record
                },
                frame,
            )
        })
        .collect()
}

/// A frame without its IPv4 identification, which a translated packet gets in the order of the ways that packets
/// go. The header checksum is as if it had been zero.
fn without_id((port, mut frame): Sent) -> Sent {
    if frame[12..14] == [0x08, 0x00] {
        let word = |at: usize| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let sum = (0xffff - word(24)) + (0xffff - word(18));
        let sum = (sum & 0xffff) + (sum >> 16);
        let check = (0xffff - sum) as u16 % 0xffff;
        frame[18..20].fill(0);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
    }
    (port, frame)
}

/// Plays a burst and answers what left; gives all that left, and what was counted.
fn play(rig: &mut Rig, bursts: &[Vec<Ask>]) -> Played {
    let mut all = Vec::new();
    for burst in bursts {
        let frames: Vec<Vec<u8>> = burst.iter().map(built).collect();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let sent = rig.play_burst(0, &frames).into_iter().map(without_id);
        let sent: Vec<Sent> = sent.collect();
        let answers: Vec<Vec<u8>> = sent
            .iter()
            .filter_map(|(_, sent)| answer(sent))
            .take(32)
            .collect();
        all.extend(sent);
        let answers: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
        all.extend(rig.play_burst(0, &answers).into_iter().map(without_id));
        rig.now += 1_000_000;
    }
    rig.assert_all_accounted_for();
    (all, (0..layout::BLOCK).map(|at| rig.count(at)).collect())
}

fn capture(rig: &mut Rig, sample: u32, service: Option<String>) -> Arc<Capture> {
    let request = Request {
        sample,
        service,
        ..Request::default()
    };
    rig.control.begin_capture(&request).unwrap()
}

/// What left, and what was counted.
type Played = (Vec<Sent>, Vec<u64>);

/// The first difference, in words.
fn differ((watched, counts): &Played, (alone, before): &Played) -> Option<String> {
    let frame = watched
        .iter()
        .zip(alone)
        .position(|(one, other)| one != other);
    if let Some(at) = frame {
        return Some(format!(
            "frame {at}: {:02x?} instead of {:02x?}",
            watched[at], alone[at]
        ));
    }
    if watched.len() != alone.len() {
        return Some(format!(
            "{} frames instead of {}",
            watched.len(),
            alone.len()
        ));
    }
    let counter = counts
        .iter()
        .zip(before)
        .position(|(one, other)| one != other)?;
    Some(format!(
        "counter {counter}: {} instead of {}",
        counts[counter], before[counter]
    ))
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 200, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn whichever_packets_are_watched_the_same_leaves_and_is_counted(
        bursts in prop::collection::vec(prop::collection::vec(ask(), 1..=32), 1..8), sample in 2u32..40,
        service in 0..SERVICES.len(), protocol in prop::sample::select(vec!["tcp", "udp"]),
    ) {
        let config = config();
        let alone = play(&mut Rig::new(&config), &bursts);
        let mut rig = Rig::new(&config);
        let one = capture(&mut rig, 1, None);
        let all = play(&mut rig, &bursts);
        prop_assert_eq!(differ(&all, &alone), None, "all packets are watched");
        let mut rig = Rig::new(&config);
        let few = capture(&mut rig, sample, None);
        let some = play(&mut rig, &bursts);
        prop_assert_eq!(differ(&some, &alone), None, "one packet in {} is watched", sample);
        let (every, sampled) = (records(&one), records(&few));
        prop_assert!(sampled.iter().all(|record| every.contains(record)), "what is said of a packet differs");
        let mut rig = Rig::new(&config);
        let name = format!("{}-{protocol}", SERVICES[service].0);
        let number = rig.control.book().service_number(&name).unwrap();
        let its = capture(&mut rig, 1, Some(name.clone()));
        let by_the_long_way = play(&mut rig, &bursts);
        prop_assert_eq!(differ(&by_the_long_way, &alone), None, "{} is watched", &name);
        let of_every: Vec<Shown> = every.into_iter().filter(|(record, _)| record.service == number).collect();
        prop_assert_eq!(records(&its), of_every, "{}", name);
    }
}

#[test]
fn each_of_these_ways_forwards() {
    // Otherwise the law above would compare what is dropped.
    let mut rig = Rig::new(&config());
    for (place, (name, ..)) in SERVICES.iter().enumerate() {
        for transport in [
            Transport::Syn,
            Transport::Ack,
            Transport::Ack,
            Transport::Ack,
        ] {
            let sent = rig.play(0, &built(&(place, 1, transport, 9, 64)));
            assert_eq!(sent.len(), 1, "{name}");
        }
    }
}
