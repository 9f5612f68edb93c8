//! `full-nat`: what a backend gets is the client's packet from an address of weir's own, within and
//! between families, and what it answers is the client's answer from the VIP.
//!
//! Frames are built by etherparse and judged by smoltcp's wire types: neither shares code with weir.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::net::SocketAddr;

use proptest::prelude::*;
use smoltcp::wire::Ipv4Packet;
use support::full_nat::{
    ALL, BACKEND_MAC, Families, answer, ask, assert_checksums, between, pieces, source_port, whole,
    without_id,
};
use support::rig::Rig;
use support::{CLIENT_MAC, Frame, Transport, WEIR_MAC, frame};
use weir_shm::counters::{self as layout, DropReason};

fn families() -> impl Strategy<Value = Families> {
    any::<(bool, bool)>().prop_map(|(client_v6, backend_v6)| Families {
        client_v6,
        backend_v6,
    })
}

fn transport() -> impl Strategy<Value = Transport> {
    prop::sample::select(vec![
        Transport::Syn,
        Transport::Ack,
        Transport::Fin,
        Transport::Udp,
        Transport::UdpUnchecked,
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_packet_goes_between_other_ends_and_the_answer_comes_back_from_the_vip(
        families in families(), host: u16, port in 1u16.., ttl in 2u8..,
        transport in transport(), payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        // An unchecked datagram over IPv6 is not what anybody may send.
        let unchecked = transport == Transport::UdpUnchecked;
        let asked = if unchecked && families.client_v6 { Transport::Udp } else { transport };
        let answered = if unchecked && families.backend_v6 { Transport::Udp } else { transport };
        let (client, vip, backend) = (families.client(host, port), families.vip(), families.backend());
        let mut rig = families.rig("");
        let request = Frame {
            source: client,
            destination: vip,
            ..frame("1.1.1.1:1", "1.1.1.1:1", asked).payload(&payload).ttl(ttl)
        };
        let sent = rig.play(0, &request.build());
        prop_assert_eq!(sent.len(), 1);
        let got = &sent[0].1;
        let snat = SocketAddr::new(families.snat(), source_port(got));
        prop_assert!(snat.port() >= 1024);
        let expected = between(&request, snat, backend, BACKEND_MAC);
        if families.client_v6 == families.backend_v6 {
            prop_assert_eq!(got, &expected);
        } else {
            prop_assert_eq!(without_id(got.clone()), without_id(expected));
        }
        if asked != Transport::UdpUnchecked || families.backend_v6 {
            assert_checksums(got);
        }

        let answer = Frame {
            source: backend,
            destination: snat,
            ..frame("1.1.1.1:1", "1.1.1.1:1", answered).payload(&payload).ttl(ttl)
        }.macs(BACKEND_MAC, WEIR_MAC);
        let sent = rig.play(0, &answer.build());
        prop_assert_eq!(sent.len(), 1);
        let expected = between(&answer, vip, client, CLIENT_MAC);
        if families.client_v6 == families.backend_v6 {
            prop_assert_eq!(&sent[0].1, &expected);
        } else {
            prop_assert_eq!(without_id(sent[0].1.clone()), without_id(expected));
        }
        rig.assert_all_accounted_for();
    }
}

#[test]
fn each_flow_has_a_port_of_its_own_and_keeps_it() {
    for families in ALL {
        let mut rig = families.rig("");
        let mut ports = std::collections::HashSet::new();
        for host in 0..50 {
            let sent = rig.play(0, &ask(families, host, 4000, Transport::Syn).build());
            assert!(ports.insert(source_port(&sent[0].1)));
        }
        for host in 0..50 {
            let sent = rig.play(0, &ask(families, host, 4000, Transport::Ack).build());
            assert!(!ports.insert(source_port(&sent[0].1)));
        }
        assert_eq!(ports.len(), 50);
    }
}

#[test]
fn a_flow_too_many_is_refused_and_counted_and_the_others_go_on() {
    let families = ALL[0];
    let mut rig = families.rig("");
    for host in 0..64 {
        assert_eq!(
            rig.play(0, &ask(families, host, 1, Transport::Syn).build())
                .len(),
            1
        );
    }
    for host in 64..80 {
        assert!(
            rig.play(0, &ask(families, host, 1, Transport::Syn).build())
                .is_empty()
        );
    }
    assert_eq!(rig.dropped(DropReason::SessionsExhausted), 16);
    for host in 0..64 {
        assert_eq!(
            rig.play(0, &ask(families, host, 1, Transport::Ack).build())
                .len(),
            1
        );
    }
    // Those that nobody answered end after the SYN's time-out.
    rig.tick(11_000_000_000);
    assert_eq!(
        rig.play(0, &ask(families, 99, 1, Transport::Syn).build())
            .len(),
        1
    );
    rig.assert_all_accounted_for();
}

#[test]
fn answers_of_others_and_to_ports_of_nobody_are_refused() {
    let families = ALL[0];
    let mut rig = families.rig("");
    let sent = rig.play(0, &ask(families, 1, 1, Transport::Syn).build());
    let port = source_port(&sent[0].1);
    let mut other = answer(families, port, Transport::Ack);
    other.source = "10.0.0.12:8080".parse().unwrap();
    assert!(rig.play(0, &other.build()).is_empty());
    other.source = "10.0.0.11:8081".parse().unwrap();
    assert!(rig.play(0, &other.build()).is_empty());
    assert!(
        rig.play(0, &answer(families, port + 1, Transport::Ack).build())
            .is_empty()
    );
    assert!(
        rig.play(0, &answer(families, port, Transport::Udp).build())
            .is_empty()
    );
    assert_eq!(rig.dropped(DropReason::NoSession), 4);
    assert!(
        rig.play(0, &ask(families, 2, 1, Transport::Rst).build())
            .is_empty()
    );
    assert_eq!(rig.dropped(DropReason::NoSession), 5);
    assert_eq!(
        rig.play(0, &answer(families, port, Transport::Ack).build())
            .len(),
        1
    );
    rig.assert_all_accounted_for();
}

#[test]
fn a_new_connection_of_a_closed_flow_gets_another_port() {
    let families = ALL[0];
    let mut rig = families.rig("");
    let port = |sent: Vec<support::rig::Sent>| source_port(&sent[0].1);
    let first = port(rig.play(0, &ask(families, 1, 1, Transport::Syn).build()));
    let again = port(rig.play(0, &ask(families, 1, 1, Transport::Syn).build()));
    assert_eq!(first, again, "a repeated SYN is the same connection");
    rig.play(0, &ask(families, 1, 1, Transport::Fin).build());
    rig.play(0, &answer(families, first, Transport::Fin).build());
    let second = port(rig.play(0, &ask(families, 1, 1, Transport::Syn).build()));
    assert_ne!(first, second);
}

#[test]
fn a_session_outlives_its_backends_drain_and_ends_with_its_removal() {
    let families = ALL[0];
    let mut rig = families.rig("");
    let port = source_port(&rig.play(0, &ask(families, 1, 1, Transport::Syn).build())[0].1);
    let mut change = |line: &str| {
        let mut pool = rig.control.pool().clone();
        let command = weir_shm::command::parse_line(line).unwrap();
        command.apply_to(&mut pool).unwrap();
        let generation = rig.control.generation() + 1;
        rig.control.apply(rig.now, generation, pool).unwrap();
    };
    change("backend add tcp 10.0.0.12:8080");
    change("backend drain tcp 10.0.0.11:8080");
    let sent = rig.play(0, &ask(families, 1, 1, Transport::Ack).build());
    assert_eq!(
        (sent[0].1[30..34].to_vec(), source_port(&sent[0].1)),
        (vec![10, 0, 0, 11], port)
    );
    let mut pool = rig.control.pool().clone();
    let command = weir_shm::command::parse_line("backend remove tcp 10.0.0.11:8080").unwrap();
    command.apply_to(&mut pool).unwrap();
    rig.control.apply(rig.now, 9, pool).unwrap();
    // What it still says reaches the client.
    assert_eq!(
        rig.play(0, &answer(families, port, Transport::Fin).build())
            .len(),
        1
    );
}

#[test]
fn weir_answers_arp_for_the_addresses_that_it_speaks_from() {
    let mut rig = ALL[0].rig("");
    let mut request = vec![0xff; 6];
    request.extend_from_slice(&BACKEND_MAC);
    request.extend_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    request.extend_from_slice(&BACKEND_MAC);
    request.extend_from_slice(&[10, 0, 0, 11, 0, 0, 0, 0, 0, 0, 10, 0, 0, 5]);
    let sent = rig.play(0, &request);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1[28..32], [10, 0, 0, 5]);
}

#[test]
fn packets_that_cannot_be_translated_between_families_are_refused() {
    // A loose source route that has not ended (RFC 791, section 3.1).
    let families = ALL[1];
    let mut rig = families.rig("");
    let plain = ask(families, 1, 1, Transport::Syn).build();
    let with_options = |options: [u8; 8]| {
        let mut frame = plain[..34].to_vec();
        frame.extend_from_slice(&options);
        frame.extend_from_slice(&plain[34..]);
        frame[14] = 0x47;
        let total = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&total.to_be_bytes());
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
        frame
    };
    assert!(
        rig.play(0, &with_options([131, 7, 4, 1, 2, 3, 4, 0]))
            .is_empty()
    );
    assert_eq!(rig.dropped(DropReason::Untranslatable), 1);
    // Other options stay behind.
    let sent = rig.play(0, &with_options([1, 1, 1, 1, 1, 1, 1, 0]));
    assert_checksums(&sent[0].1);
}

#[test]
fn ttl_that_ends_here_goes_no_further_in_either_direction() {
    for families in ALL {
        let mut rig = families.rig("");
        let port = source_port(&rig.play(0, &ask(families, 1, 1, Transport::Syn).build())[0].1);
        let asked = ask(families, 1, 1, Transport::Ack).ttl(1).build();
        let answered = answer(families, port, Transport::Ack).ttl(1).build();
        for (frame, to) in [(asked, CLIENT_MAC), (answered, BACKEND_MAC)] {
            // "Time exceeded" goes back.
            let sent = rig.play(0, &frame);
            assert_eq!((sent.len(), &sent[0].1[..6]), (1, &to[..]));
            let (at, protocol) = if frame[12] == 0x08 { (23, 1) } else { (20, 58) };
            assert_eq!(sent[0].1[at], protocol);
        }
        assert_eq!(rig.count(layout::FORWARDED), 1);
    }
}

#[test]
fn pieces_of_a_datagram_go_with_their_session_under_an_identification_of_the_addresss_own() {
    for families in ALL {
        let mut rig = families.rig("");
        let mut ids = std::collections::HashSet::new();
        for host in 0..5 {
            let payload: Vec<u8> = (0..3_000u32).map(|byte| byte as u8).collect();
            let request = ask(families, host, 4000, Transport::Udp).payload(&payload);
            // Every client numbers its datagrams alike, and the last piece comes first.
            let mut cut = pieces(&request.build(), 1_200, 77);
            cut.rotate_right(1);
            let mut sent: Vec<Vec<u8>> = Vec::new();
            for piece in cut {
                sent.extend(rig.play(0, &piece).into_iter().map(|(_, frame)| frame));
            }
            assert_eq!(sent.len(), 3);
            sent.sort_by_key(|piece| match piece[12] {
                0x08 => u16::from_be_bytes([piece[20], piece[21]]) & 0x1fff,
                _ => u16::from_be_bytes([piece[56], piece[57]]) & 0xfff8,
            });
            let (got, id) = whole(&sent);
            assert!(ids.insert(id), "an identification twice");
            let snat = SocketAddr::new(families.snat(), source_port(&got));
            let expected = between(&request, snat, families.backend(), BACKEND_MAC);
            assert_eq!(without_id(got.clone()), without_id(expected));
            assert_checksums(&got);

            let mut reply = answer(families, snat.port(), Transport::Udp);
            reply = reply.payload(&payload);
            let mut back: Vec<Vec<u8>> = Vec::new();
            for piece in pieces(&reply.build(), 1_200, 78) {
                back.extend(rig.play(0, &piece).into_iter().map(|(_, frame)| frame));
            }
            assert_eq!(back.len(), 3);
            let (got, _) = whole(&back);
            let client = families.client(host, 4000);
            let expected = between(&reply, families.vip(), client, CLIENT_MAC);
            assert_eq!(without_id(got), without_id(expected));
        }
    }
}

#[test]
fn no_two_datagrams_in_pieces_from_a_vip_to_one_client_are_identified_alike() {
    for families in ALL {
        let config = families.config("");
        let pool = "snat_pool = [\"10.0.0.5\", \"2001:db8:a::5\"]";
        let wide = pool.replace("]", ", \"10.0.0.6\", \"2001:db8:a::6\"]");
        let mut rig = Rig::new(&config.replace(pool, &wide));
        let (mut ids, mut sources) = (Vec::new(), std::collections::HashSet::new());
        for port in 1..41 {
            let sent = rig.play(0, &ask(families, 1, port, Transport::Udp).build());
            let got = &sent[0].1;
            let own: std::net::IpAddr = if families.backend_v6 {
                <[u8; 16]>::try_from(&got[22..38]).unwrap().into()
            } else {
                <[u8; 4]>::try_from(&got[26..30]).unwrap().into()
            };
            sources.insert(own);
            let mut reply = answer(families, source_port(got), Transport::Udp);
            reply.destination.set_ip(own);
            let mut back: Vec<Vec<u8>> = Vec::new();
            for piece in pieces(&reply.payload(&[7; 2_000]).build(), 1_200, 78) {
                back.extend(rig.play(0, &piece).into_iter().map(|(_, frame)| frame));
            }
            ids.push(whole(&back).1);
        }
        assert_eq!(sources.len(), 2, "both addresses are spoken from");
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "an identification twice: {families:?}");
        rig.assert_all_accounted_for();
    }
}
