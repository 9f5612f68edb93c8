//! What a capture shows of packets, what each filter lets through, and that it changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::sync::Arc;

use support::bases::TWO_PORTS;
use support::captured::{Shown, shown};
use support::rig::Rig;
use support::{Frame, Transport, WEIR_MAC, frame};
use weir::capture::Capture;
use weir_shm::capture::record::NO_PORT;
use weir_shm::capture::{Direction, Fate, NOBODY, Request, Why};
use weir_shm::counters::DropReason;

const SERVICES: &str = r#"
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 8080
[[service]]
name = "dns"
vip = "198.51.100.10"
port = 53
protocol = "udp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.12"
port = 5353
"#;

fn config() -> String {
    TWO_PORTS.to_owned() + SERVICES
}

fn begin(rig: &mut Rig, request: &Request) -> Arc<Capture> {
    rig.control.begin_capture(request).unwrap()
}

fn web(host: u8) -> Frame {
    let client = format!("203.0.113.{host}:5000");
    frame(&client, "198.51.100.10:80", Transport::Syn)
}

fn dns(host: u8) -> Frame {
    let client = format!("203.0.113.{host}:5000");
    frame(&client, "198.51.100.10:53", Transport::Udp)
}

/// One of each kind of packet that [`config`] knows, two of which are dropped.
fn traffic(rig: &mut Rig) {
    for host in 1..=4 {
        rig.play(0, &web(host).build());
        rig.play(0, &dns(host).build());
    }
    let answer = frame("10.0.0.11:8080", "203.0.113.1:5000", Transport::Ack);
    let answer = answer.macs([2, 0, 0, 0, 0, 0x0b], [2, 0, 0, 0, 0, 2]);
    rig.play(1, &answer.build());
    let nobody = frame("203.0.113.1:5000", "198.51.100.10:81", Transport::Syn);
    rig.play(0, &nobody.build());
    let astray = frame("203.0.113.1:5000", "198.51.100.99:80", Transport::Syn);
    rig.play(0, &astray.build());
}

fn with(request: &Request) -> Vec<Shown> {
    let mut rig = Rig::new(&config());
    let capture = begin(&mut rig, request);
    traffic(&mut rig);
    rig.assert_all_accounted_for();
    shown(&capture)
}

fn incoming() -> Request {
    Request {
        outgoing: false,
        ..Request::default()
    }
}

#[test]
fn a_packet_is_shown_as_it_came_and_as_it_left_with_what_was_decided() {
    let mut rig = Rig::new(&config());
    let capture = begin(&mut rig, &Request::default());
    let came = web(1).build();
    let left = rig.play(0, &came);
    let again = frame("203.0.113.1:5000", "198.51.100.10:80", Transport::Ack).build();
    rig.play(0, &again);
    let all = shown(&capture);
    let ways: Vec<_> = all.iter().map(|(record, _)| record.direction).collect();
    let both = [Direction::In, Direction::Out];
    assert_eq!(ways, [both, both].concat());
    let (first, second) = (&all[0], &all[1]);
    assert_eq!(first.1, came);
    assert_eq!(second.1, left[0].1);
    assert_ne!(first.1, second.1);
    assert_eq!(
        (first.0.fate, first.0.port, first.0.other),
        (Fate::Sent, 0, 1)
    );
    assert_eq!(
        (second.0.fate, second.0.port, second.0.other),
        (Fate::Sent, 1, 0)
    );
    let service = rig.control.book().service_number("web").unwrap();
    let backend = rig.control.book().number("web", "10.0.0.11:8080").unwrap();
    for (record, _) in &all {
        assert_eq!(
            (record.service, record.backend, record.worker),
            (service, backend, 0)
        );
        assert!(record.unix_ns > 1_600_000_000_000_000_000);
    }
    assert_eq!(
        [all[0].0.why, all[2].0.why],
        [Why::Scheduler, Why::Conntrack]
    );
}

#[test]
fn what_named_the_backend_is_what_did_so_for_each_packet_of_a_burst() {
    let whys = |request: &Request| {
        let mut rig = Rig::new(&config());
        let capture = begin(&mut rig, request);
        let (new, other) = (web(1).build(), web(2).build());
        rig.play_burst(0, &[&new, &other, &new]);
        let incoming = shown(&capture).into_iter().map(|(record, _)| record);
        let incoming = incoming.filter(|record| record.direction == Direction::In);
        incoming.map(|record| record.why).collect::<Vec<_>>()
    };
    let expected = [Why::Scheduler, Why::Scheduler, Why::Conntrack];
    assert_eq!(whys(&Request::default()), expected);
    let service = Some("web".to_owned());
    let of_web = Request {
        service,
        ..Request::default()
    };
    assert_eq!(whys(&of_web), expected, "by the longer way");
}

#[test]
fn a_capture_changes_nothing() {
    let (mut without, mut rig) = (Rig::new(&config()), Rig::new(&config()));
    let capture = begin(&mut rig, &Request::default());
    let frames: Vec<Vec<u8>> = (1..=20).map(|host| web(host).build()).collect();
    let burst: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    assert_eq!(without.play_burst(0, &burst), rig.play_burst(0, &burst));
    assert_eq!(shown(&capture).len(), 40);
    rig.control.end_capture();
    assert_eq!(without.play_burst(0, &burst), rig.play_burst(0, &burst));
    assert!(shown(&capture).is_empty(), "it has ended");
}

#[test]
fn services_and_backends_are_told_apart_both_ways() {
    let all = with(&Request {
        service: Some("web".to_owned()),
        ..Request::default()
    });
    assert_eq!(all.len(), 4 * 2 + 2, "four requests, one answer");
    assert_eq!(all.last().unwrap().0.why, Why::Return);
    let all = with(&Request {
        backend: Some("10.0.0.12:5353".to_owned()),
        ..Request::default()
    });
    assert_eq!(all.len(), 4 * 2);
}

#[test]
fn addresses_match_at_either_end_and_as_they_are_on_either_side() {
    let count = |address: &str, prefix| {
        let address = Some((address.parse().unwrap(), prefix));
        with(&Request {
            address,
            ..Request::default()
        })
        .len()
    };
    // The client's two requests and one answer, each way, and two packets that are dropped.
    assert_eq!(count("203.0.113.1", 32), 3 * 2 + 2);
    assert_eq!(count("203.0.113.2", 31), 2 * 2 * 2);
    // The backend's address is in requests as they leave and in the answer as it comes in.
    assert_eq!(count("10.0.0.11", 32), 4 * 2 + 2);
    assert_eq!(count("2001:db8::", 0), 0);
}

#[test]
fn a_port_is_one_of_weirs_by_name_or_one_of_tcp_and_udp_by_number() {
    let by = |port: &str| {
        with(&Request {
            port: Some(port.to_owned()),
            ..Request::default()
        })
    };
    let lan = by("lan");
    assert_eq!(lan.len(), 8 + 1);
    assert!(lan.iter().all(|(record, _)| record.port == 1));
    assert_eq!(by("53").len(), 4 * 2);
}

#[test]
fn drops_are_shown_with_their_reason() {
    let all = with(&Request {
        drops: true,
        ..Request::default()
    });
    let reasons: Vec<_> = all
        .iter()
        .map(|(record, _)| record.reason.unwrap())
        .collect();
    assert_eq!(reasons, [DropReason::NoService, DropReason::NotOurs]);
    assert!(all.iter().all(|(record, _)| record.fate == Fate::Dropped));
    let one = with(&Request {
        drops: true,
        reasons: vec!["not_ours".to_owned()],
        ..Request::default()
    });
    assert_eq!(one.len(), 1);
    assert_eq!((one[0].0.service, one[0].0.other), (NOBODY, NO_PORT));
    let astray = frame("203.0.113.1:5000", "198.51.100.99:80", Transport::Syn);
    assert_eq!(one[0].1, astray.build());
}

#[test]
fn directions_samples_and_lengths() {
    assert_eq!(with(&incoming()).len(), 11);
    let out = with(&Request {
        incoming: false,
        ..Request::default()
    });
    assert_eq!(out.len(), 9);
    let sampled = with(&Request {
        sample: 4,
        ..incoming()
    });
    assert_eq!(sampled.len(), 11 / 4);
    let sampled = with(&Request {
        sample: 2,
        service: Some("dns".to_owned()),
        ..Request::default()
    });
    assert_eq!(
        sampled.len(),
        2 * 2,
        "of four packets two, as they came and left"
    );
    let cut = with(&Request {
        snaplen: 20,
        ..incoming()
    });
    assert!(
        cut.iter()
            .all(|(record, data)| data.len() == 20 && record.length > 40)
    );
}

#[test]
fn what_weir_answers_itself_is_shown_with_the_answer() {
    let mut rig = Rig::new(&config());
    let capture = begin(&mut rig, &Request::default());
    // Its TTL ends here.
    let sent = rig.play(0, &web(1).ttl(1).build());
    let all = shown(&capture);
    assert_eq!(all.len(), 2);
    assert_eq!(
        (all[0].0.fate, all[0].0.direction),
        (Fate::Answered, Direction::In)
    );
    assert_eq!(
        (all[1].0.fate, all[1].0.direction),
        (Fate::Answered, Direction::Out)
    );
    assert_eq!(all[1].1, sent[0].1);
    assert_eq!(all[0].0.service, all[1].0.service);
    assert_ne!(all[0].0.service, NOBODY);
    // A ping to the VIP.
    let mut ping = Vec::new();
    let builder = etherparse::PacketBuilder::ethernet2(support::CLIENT_MAC, WEIR_MAC);
    let icmp = builder.ipv4([203, 0, 113, 1], [198, 51, 100, 10], 64);
    icmp.icmpv4_echo_request(1, 1)
        .write(&mut ping, b"ping")
        .unwrap();
    rig.play(0, &ping);
    let all = shown(&capture);
    assert_eq!(all.len(), 1, "the control core answers it");
    assert_eq!((all[0].0.fate, &all[0].1), (Fate::Control, &ping));
}

#[test]
fn the_control_cores_drops_are_shown() {
    let mut rig = Rig::new(&config());
    let capture = begin(
        &mut rig,
        &Request {
            drops: true,
            ..Request::default()
        },
    );
    let mut arp = Vec::new();
    arp.extend([0xff; 6]);
    arp.extend(support::CLIENT_MAC);
    arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    arp.extend(support::CLIENT_MAC);
    arp.extend([192, 0, 2, 77, 0, 0, 0, 0, 0, 0, 192, 0, 2, 99]);
    arp.resize(60, 0);
    rig.play(0, &arp);
    let all = shown(&capture);
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].0.reason, Some(DropReason::ArpNotOurs));
    assert_eq!(all[0].1, arp);
    assert_eq!(all[0].0.worker, capture.control());
}

#[test]
fn nobody_waits_for_a_reader_and_what_is_lost_is_counted() {
    let mut rig = Rig::new(&config());
    let capture = begin(&mut rig, &Request::default());
    let frames: Vec<Vec<u8>> = (0..32)
        .map(|host| web(host).payload(&[7; 1400]).build())
        .collect();
    let burst: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let mut played = 0u64;
    for _ in 0..100 {
        assert_eq!(rig.play_burst(0, &burst).len(), 32);
        played += 32;
    }
    let all = shown(&capture);
    assert!(capture.lost() > 0);
    assert_eq!(all.len() as u64 + capture.lost(), played * 2);
    rig.play(0, &web(1).build());
    assert_eq!(shown(&capture).len(), 2, "there is room again");
    rig.assert_all_accounted_for();
}

#[test]
fn what_cannot_be_captured_is_refused_in_plain_words() {
    let mut rig = Rig::new(&config());
    let mut refused = |request: &Request| rig.control.begin_capture(request).unwrap_err();
    let service = refused(&Request {
        service: Some("mail".to_owned()),
        ..Request::default()
    });
    assert_eq!(service, "no service \"mail\"");
    let backend = refused(&Request {
        service: Some("web".to_owned()),
        backend: Some("10.0.0.12:5353".to_owned()),
        ..Request::default()
    });
    assert_eq!(backend, "no backend 10.0.0.12:5353 in service \"web\"");
    let port = refused(&Request {
        port: Some("dmz".to_owned()),
        ..Request::default()
    });
    assert!(port.contains("\"wan\", \"lan\""), "{port}");
    for (reason, word) in [("no_reason", "accepted"), ("tx_full", "queues")] {
        let reasons = refused(&Request {
            reasons: vec![reason.to_owned()],
            ..Request::default()
        });
        assert!(reasons.contains(word), "{reasons}");
    }
    let prefix = refused(&Request {
        address: Some(("192.0.2.1".parse().unwrap(), 33)),
        ..Request::default()
    });
    assert!(prefix.contains("/32"), "{prefix}");
}
