//! The PROXY header in the first datagram of a flow over UDP, whole or in pieces.
//!
//! Frames are built by etherparse, and headers by HAProxy's specification: neither shares code with
//! weir.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use support::crew::Crew;
use support::full_nat::{
    ALL, BACKEND_MAC, Families, ask, assert_checksums, between, pieces, source_port, transport_at,
    whole, without_id,
};
use support::{CLIENT_MAC, Transport};

/// Section 2.2 of the specification; with a "no operation" (section 2.2.4) where it is put into
/// pieces, which begin at multiples of eight bytes.
fn header(client: SocketAddr, vip: SocketAddr, in_pieces: bool) -> Vec<u8> {
    let mut header = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21".to_vec();
    let more = if in_pieces { 4 } else { 0 };
    match (client.ip(), vip.ip()) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            header.extend_from_slice(&[0x12, 0, 12 + more]);
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&vip.octets());
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            header.extend_from_slice(&[0x22, 0, 36 + more]);
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&vip.octets());
        }
        _ => panic!("one family"),
    }
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&vip.port().to_be_bytes());
    if in_pieces {
        header.extend_from_slice(&[4, 0, 1, 0]);
    }
    header
}

fn offset(piece: &[u8]) -> u16 {
    match piece[12] {
        0x08 => u16::from_be_bytes([piece[20], piece[21]]) & 0x1fff,
        _ => u16::from_be_bytes([piece[56], piece[57]]) >> 3,
    }
}

/// What the backend gets for `payload` in pieces of `size` bytes, the last one first.
fn got_in_pieces(
    rig: &mut support::rig::Rig,
    families: Families,
    payload: &[u8],
    size: usize,
    id: u32,
) -> Vec<u8> {
    let packet = ask(families, 1, 4000, Transport::Udp).payload(payload);
    let mut cut = pieces(&packet.build(), size, id);
    cut.rotate_right(1);
    let mut sent = Vec::new();
    for piece in cut {
        sent.extend(rig.play(0, &piece).into_iter().map(|(_, frame)| frame));
    }
    assert!(sent.iter().all(|piece| piece.len() <= 14 + 1500));
    assert!(sent.iter().all(|piece| piece[..6] == BACKEND_MAC));
    sent.sort_by_key(|piece| offset(piece));
    whole(&sent).0
}

/// What the backend is to get: from the same port as `got`.
fn expected(families: Families, got: &[u8], payload: &[u8]) -> Vec<u8> {
    let from = SocketAddr::new(families.snat(), source_port(got));
    let packet = ask(families, 1, 4000, Transport::Udp).payload(payload);
    without_id(between(&packet, from, families.backend(), BACKEND_MAC))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_first_datagram_has_the_header_whole_or_in_pieces_and_no_other_has(
        four in 0usize..4,
        first in prop::collection::vec(any::<u8>(), 500..4_000),
        second in prop::collection::vec(any::<u8>(), 500..4_000),
        units in 20usize..60,
    ) {
        let families = ALL[four];
        let mut rig = families.rig("client_address = \"proxy-v2\"");
        let header = header(families.client(1, 4000), families.vip(), true);
        let size = units * 8;
        let got = got_in_pieces(&mut rig, families, &first, size, 5);
        assert_checksums(&got);
        let told = [&header[..], &first].concat();
        prop_assert!(without_id(got.clone()) == expected(families, &got, &told), "what the backend got");
        let got = got_in_pieces(&mut rig, families, &second, size, 6);
        assert_checksums(&got);
        prop_assert!(without_id(got.clone()) == expected(families, &got, &second), "what the backend got");
        let sent = rig.play(0, &ask(families, 1, 4000, Transport::Udp).payload(b"more").build());
        let at = transport_at(&sent[0].1) + 8;
        prop_assert_eq!(&sent[0].1[at..at + 4], b"more");
        rig.assert_all_accounted_for();
    }
}

#[test]
fn a_whole_datagram_has_the_header_and_pieces_behind_it_have_not() {
    for families in ALL {
        let mut rig = families.rig("client_address = \"proxy-v2\"");
        let packet = ask(families, 1, 4000, Transport::Udp).payload(b"first");
        let sent = rig.play(0, &packet.build());
        let header = header(families.client(1, 4000), families.vip(), false);
        let at = transport_at(&sent[0].1) + 8;
        assert_eq!(&sent[0].1[at..], [&header[..], b"first"].concat());
        let got = got_in_pieces(&mut rig, families, &[7; 3_000], 1_200, 5);
        assert!(
            without_id(got.clone()) == expected(families, &got, &[7; 3_000]),
            "what the backend got"
        );
    }
}

#[test]
fn first_pieces_that_fill_their_way_are_cut_or_their_sender_is_told_what_fits() {
    for families in ALL {
        let mut rig = families.rig("client_address = \"proxy-v2\"");
        let header = header(families.client(1, 4000), families.vip(), true);
        let payload = [7; 4_000];
        if families.client_v6 && families.backend_v6 {
            let packet = ask(families, 1, 4000, Transport::Udp).payload(&payload);
            let first = &pieces(&packet.build(), 1_448, 5)[0];
            let sent = rig.play(0, first);
            // "Packet too big", with what leaves room for header and fragment header.
            assert_eq!((&sent[0].1[..6], sent[0].1[54]), (&CLIENT_MAC[..], 2));
            assert_eq!(sent[0].1[58..62], (1_500u32 - 56).to_be_bytes());
            // Smaller ones get through, and have it.
            let got = got_in_pieces(&mut rig, families, &payload, 1_392, 6);
            let told = [&header[..], &payload].concat();
            assert!(
                without_id(got.clone()) == expected(families, &got, &told),
                "what the backend got"
            );
        } else if families.client_v6 {
            continue;
        } else {
            let got = got_in_pieces(&mut rig, families, &payload, 1_480, 5);
            let told = [&header[..], &payload].concat();
            assert_checksums(&got);
            assert!(
                without_id(got.clone()) == expected(families, &got, &told),
                "what the backend got"
            );
        }
        rig.assert_all_accounted_for();
    }
}

#[test]
fn whichever_worker_puts_the_pieces_together_the_header_goes_once() {
    let families = ALL[3];
    let header = header(families.client(1, 4000), families.vip(), true);
    let payload = [7; 3_000];
    let packet = ask(families, 1, 4000, Transport::Udp)
        .payload(&payload)
        .build();
    for tries in 1..12 {
        let mut crew = Crew::new(&families.config("client_address = \"proxy-v2\""), 3);
        // First pieces that have no room, of datagrams with owners of all kinds.
        for id in 0..tries {
            let first = &pieces(&packet, 1_448, id)[0];
            assert_eq!(crew.play(0, first)[0][..6], CLIENT_MAC);
        }
        let mut got = |id: u32| {
            let cut = pieces(&packet, 1_200, id);
            let mut sent: Vec<_> = cut.iter().flat_map(|piece| crew.play(0, piece)).collect();
            sent.sort_by_key(|piece| offset(piece));
            whole(&sent).0
        };
        let first = got(tries);
        let told = [&header[..], &payload].concat();
        assert!(
            without_id(first.clone()) == expected(families, &first, &told),
            "{tries}"
        );
        for id in 1..12 {
            let later = got(tries + id);
            assert!(
                without_id(later.clone()) == expected(families, &later, &payload),
                "{tries}"
            );
        }
    }
}
