//! `full-nat` and what does not fit or does not arrive: ICMP errors reach the other end in its own
//! family, and a packet that is too large is cut or refused with the size that would fit.
//!
//! Frames are built by etherparse and judged by smoltcp and etherparse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::net::{IpAddr, SocketAddr};

use smoltcp::wire::Ipv4Packet;
use support::full_nat::{
    ALL, BACKEND_MAC, Families, answer, ask, assert_checksums, between, pieces, source_port, whole,
    without_id,
};
use support::icmp::{Told, error_about, size, told, too_large};
use support::rig::Rig;
use support::{CLIENT_MAC, Frame, Transport, WEIR_MAC};
use weir_shm::counters::DropReason;

/// A router on a side that speaks this family.
fn router(v6: bool) -> IpAddr {
    let text = if v6 { "2001:db8:77::1" } else { "192.0.2.177" };
    text.parse().unwrap()
}

/// "Port unreachable" in a family.
fn port_unreachable(v6: bool) -> (u8, u8, [u8; 4]) {
    if v6 { (1, 4, [0; 4]) } else { (3, 3, [0; 4]) }
}

#[test]
fn errors_about_either_direction_reach_the_other_end_with_their_quote_translated() {
    for families in ALL {
        for quote in [8, 60, 4000] {
            let mut rig = families.rig("");
            let request = ask(families, 1, 4000, Transport::Syn);
            let to_backend = rig.play(0, &request.build()).remove(0).1;
            let snat = SocketAddr::new(families.snat(), source_port(&to_backend));
            let reply = answer(families, snat.port(), Transport::Ack).payload(&[7; 1300]);
            let to_client = rig.play(0, &reply.build()).remove(0).1;
            let (client, vip) = (families.client(1, 4000), families.vip());
            let (at_client, at_backend) = (families.client_v6, families.backend_v6);
            // About what the backend was asked, by a router on the way.
            let from = router(at_backend);
            let error = error_about(
                &to_backend,
                from,
                BACKEND_MAC,
                quote,
                port_unreachable(at_backend),
            );
            let sent = rig.play(0, &error);
            assert_eq!((sent.len(), &sent[0].1[..6]), (1, &CLIENT_MAC[..]));
            let expected = port_unreachable(at_client);
            // Nobody but the VIP has an address in both families.
            let from = if at_client == at_backend {
                from
            } else {
                vip.ip()
            };
            let told_client = Told {
                from,
                to: client.ip(),
                kind: (expected.0, expected.1),
                rest: 0,
                quoted: (client, vip),
            };
            assert_eq!(told(&sent[0].1), told_client);
            // About what the client was answered.
            let from = router(at_client);
            let error = error_about(
                &to_client,
                from,
                CLIENT_MAC,
                quote,
                port_unreachable(at_client),
            );
            let sent = rig.play(0, &error);
            assert_eq!((sent.len(), &sent[0].1[..6]), (1, &BACKEND_MAC[..]));
            let expected = port_unreachable(at_backend);
            let from = if at_client == at_backend {
                from
            } else {
                snat.ip()
            };
            let told_backend = Told {
                from,
                to: families.backend().ip(),
                kind: (expected.0, expected.1),
                rest: 0,
                quoted: (families.backend(), snat),
            };
            assert_eq!(told(&sent[0].1), told_backend);
            // As much is quoted as an error may hold.
            let most = if at_backend { 1280 } else { 576 };
            if at_client != at_backend {
                assert!(sent[0].1.len() - 14 <= most, "{families:?}");
            }
            rig.assert_all_accounted_for();
        }
    }
}

#[test]
fn sizes_that_routers_tell_are_counted_in_the_receivers_headers() {
    for families in ALL {
        let mut rig = families.rig("");
        let request = ask(families, 1, 4000, Transport::Syn);
        let to_backend = rig.play(0, &request.build()).remove(0).1;
        let reply = answer(families, source_port(&to_backend), Transport::Ack);
        let to_client = rig.play(0, &reply.build()).remove(0).1;
        let (at_client, at_backend) = (families.client_v6, families.backend_v6);
        let ways = [
            (&to_backend, at_backend, at_client, BACKEND_MAC),
            (&to_client, at_client, at_backend, CLIENT_MAC),
        ];
        for (about, here, there, mac) in ways {
            for mtu in [1280u16, 1300, 1400, 1480, 9000] {
                let error = error_about(about, router(here), mac, 8, too_large(here, mtu));
                let sent = rig.play(0, &error);
                // The ports' own MTU is 1,500 on both sides.
                let expected = match (here, there) {
                    (false, true) => (mtu + 20).min(1500),
                    (true, false) => (mtu - 20).min(1480),
                    _ => mtu,
                };
                let (kind, code, rest) = too_large(there, expected);
                let told = told(&sent[0].1);
                assert_eq!((told.kind, told.rest), ((kind, code), size(rest)));
            }
        }
        // No IPv6 path is told to be smaller than 1,280 (RFC 7915, section 4.2).
        if at_client && !at_backend {
            let small = too_large(false, 600);
            let error = error_about(&to_backend, router(false), BACKEND_MAC, 8, small);
            assert_eq!(told(&rig.play(0, &error)[0].1).rest, 1280);
        }
    }
}

#[test]
fn a_size_leaves_room_for_a_header_that_is_still_to_be_told() {
    for (families, header) in [(ALL[0], 28), (ALL[1], 28), (ALL[2], 52), (ALL[3], 52)] {
        let mut rig = families.rig("client_address = \"proxy-v2\"");
        let to_backend = rig
            .play(0, &ask(families, 1, 4000, Transport::Syn).build())
            .remove(0)
            .1;
        let here = families.backend_v6;
        let error = error_about(
            &to_backend,
            router(here),
            BACKEND_MAC,
            8,
            too_large(here, 1400),
        );
        let between = match (here, families.client_v6) {
            (false, true) => 1420,
            (true, false) => 1380,
            _ => 1400,
        };
        let told = told(&rig.play(0, &error)[0].1);
        assert_eq!(told.rest, between - header, "{families:?}");
    }
}

#[test]
fn what_the_other_family_has_no_word_for_goes_no_further() {
    let mut rig = ALL[1].rig("");
    let request = ask(ALL[1], 1, 4000, Transport::Syn);
    let to_backend = rig.play(0, &request.build()).remove(0).1;
    // An option that is not known; no IPv4 packet had it.
    let error = error_about(
        &to_backend,
        router(true),
        BACKEND_MAC,
        8,
        (4, 2, [0, 0, 0, 40]),
    );
    assert!(rig.play(0, &error).is_empty());
    assert_eq!(rig.dropped(DropReason::Untranslatable), 1);
    rig.assert_all_accounted_for();
}

/// A balancer whose port takes IP packets of so many bytes.
fn narrow(families: Families, mtu: u16, more: &str) -> Rig {
    let config = families.config(more);
    Rig::new(&config.replacen("[[port]]", &format!("[[port]]\nmtu = {mtu}"), 1))
}

/// A packet of `frame`'s ends that is so many bytes long with its IP header.
fn sized(frame: Frame, v6: bool, length: usize) -> Frame {
    let payload = vec![7; length - if v6 { 48 } else { 28 }];
    frame.payload(&payload)
}

fn ip_len(frame: &[u8]) -> usize {
    frame.len() - 14
}

#[test]
fn a_packet_that_is_too_large_is_refused_with_the_size_that_fits_in_both_directions() {
    for families in ALL {
        let mut rig = narrow(families, 1400, "");
        let (at_client, at_backend) = (families.client_v6, families.backend_v6);
        let opened = rig.play(0, &ask(families, 1, 4000, Transport::Udp).build());
        let port = source_port(&opened[0].1);
        let request = ask(families, 1, 4000, Transport::Udp);
        let reply = answer(families, port, Transport::Udp);
        let own = |v6: bool, backend: bool| -> IpAddr {
            let text = match (v6, backend) {
                (false, true) => "10.0.0.1",
                (true, true) => "2001:db8:a::1",
                _ => return families.vip().ip(),
            };
            text.parse().unwrap()
        };
        for (frame, here, there, is_backend) in [
            (request, at_client, at_backend, false),
            (reply, at_backend, at_client, true),
        ] {
            let fits = match (here, there) {
                (false, true) => 1380,
                (true, false) => 1420,
                _ => 1400,
            };
            let large = sized(frame.clone(), here, fits + 1);
            let sent = rig.play(0, &large.build());
            assert_eq!((sent.len(), &sent[0].1[..6]), (1, &frame.source_mac[..]));
            let (kind, code, rest) = too_large(here, fits as u16);
            let expected = Told {
                from: own(here, is_backend),
                to: frame.source.ip(),
                kind: (kind, code),
                rest: size(rest),
                quoted: (frame.source, frame.destination),
            };
            assert_eq!(told(&sent[0].1), expected);
            // What it was told to send does fit, to the last byte.
            let sent = rig.play(0, &sized(frame, here, fits).build());
            assert_eq!((sent.len(), ip_len(&sent[0].1)), (1, 1400));
            assert_checksums(&sent[0].1);
        }
        rig.assert_all_accounted_for();
    }
}

#[test]
fn a_packet_that_may_be_cut_arrives_in_pieces_whichever_family_it_becomes() {
    for (families, mtu) in [(ALL[0], 900), (ALL[1], 1280), (ALL[1], 1400)] {
        let mut rig = narrow(families, mtu, "");
        let request = sized(ask(families, 1, 4000, Transport::Udp), false, 1500);
        let mut unchecked = request.clone();
        unchecked.transport = Transport::UdpUnchecked;
        for asked in [request, unchecked] {
            let mut bytes = asked.build();
            bytes[20..22].fill(0);
            Ipv4Packet::new_unchecked(&mut bytes[14..]).fill_checksum();
            let sent = rig.play(0, &bytes);
            assert_eq!(sent.len(), 2);
            assert!(
                sent.iter()
                    .all(|(_, piece)| ip_len(piece) <= usize::from(mtu))
            );
            let frames: Vec<Vec<u8>> = sent.into_iter().map(|(_, frame)| frame).collect();
            let (got, _) = whole(&frames);
            let snat = SocketAddr::new(families.snat(), source_port(&got));
            let expected = between(&asked, snat, families.backend(), BACKEND_MAC);
            assert_eq!(without_id(got), without_id(expected), "{families:?}");
        }
        rig.assert_all_accounted_for();
    }
}

#[test]
fn what_ipv6_sends_at_its_least_is_cut_for_a_smaller_ipv4_path() {
    let families = ALL[2];
    // The backend's link is narrower than any IPv6 link.
    let config = families
        .config("")
        .replace(", \"10.0.0.1/24\"", "")
        .replacen(
            "[[route]]",
            "[[port]]\nname = \"lan\"\ndevice = \"net_null1\"\nmac = \"02:00:00:00:00:02\"\n\
             mtu = 600\naddresses = [\"10.0.0.1/24\"]\n[[route]]",
            1,
        );
    let mut rig = Rig::new(&config);
    let request = sized(ask(families, 1, 4000, Transport::Udp), true, 1280);
    let frames: Vec<Vec<u8>> = rig
        .play(0, &request.build())
        .into_iter()
        .map(|(_, frame)| frame)
        .collect();
    assert_eq!(frames.len(), 3);
    let (got, _) = whole(&frames);
    let snat = SocketAddr::new(families.snat(), source_port(&got));
    let expected = between(&request, snat, families.backend(), BACKEND_MAC);
    let mut got = without_id(got);
    got[6..12].copy_from_slice(&WEIR_MAC);
    assert_eq!(got, without_id(expected));
    // A larger one is refused, with the least that IPv6 has.
    let large = sized(ask(families, 1, 4000, Transport::Udp), true, 1300);
    assert_eq!(told(&rig.play(0, &large.build())[0].1).rest, 1280);
    rig.assert_all_accounted_for();
}

#[test]
fn pieces_that_grow_too_large_between_families_are_cut_again() {
    let families = ALL[1];
    let mut rig = narrow(families, 1280, "");
    let payload: Vec<u8> = (0..4_000u32).map(|byte| byte as u8).collect();
    let request = ask(families, 1, 4000, Transport::Udp).payload(&payload);
    let mut frames = Vec::new();
    for piece in pieces(&request.build(), 1_256, 77) {
        frames.extend(rig.play(0, &piece).into_iter().map(|(_, frame)| frame));
    }
    assert!(frames.len() > 4, "{}", frames.len());
    assert!(frames.iter().all(|piece| ip_len(piece) <= 1280));
    let (got, _) = whole(&frames);
    let snat = SocketAddr::new(families.snat(), source_port(&got));
    let expected = between(&request, snat, families.backend(), BACKEND_MAC);
    assert_eq!(without_id(got), without_id(expected));
    rig.assert_all_accounted_for();
}

#[test]
fn a_datagram_that_has_no_room_for_its_proxy_header_is_refused_and_told_later() {
    let families = ALL[0];
    let mut rig = narrow(families, 1400, "client_address = \"proxy-v2\"");
    let first = sized(ask(families, 1, 4000, Transport::Udp), false, 1400);
    let sent = rig.play(0, &first.build());
    assert_eq!(told(&sent[0].1).rest, 1372);
    // The one that comes instead tells.
    let second = sized(ask(families, 1, 4000, Transport::Udp), false, 1372);
    let sent = rig.play(0, &second.build());
    assert_eq!(ip_len(&sent[0].1), 1400);
    assert_eq!(sent[0].1[42..54], *b"\r\n\r\n\0\r\nQUIT\n");
    // Nothing is to be told any more.
    assert_eq!(ip_len(&rig.play(0, &first.build())[0].1), 1400);
    rig.assert_all_accounted_for();
}
