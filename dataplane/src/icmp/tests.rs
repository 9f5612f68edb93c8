//! Errors against the RFCs' rules, checked by etherparse's and smoltcp's readers.

use super::*;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use smoltcp::wire::{Icmpv4Packet, Icmpv6Packet};
use weir_engine::buffer::HeapBuffer;

const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT4: [u8; 4] = [203, 0, 113, 7];
const VIP4: [u8; 4] = [198, 51, 100, 10];

fn client6() -> [u8; 16] {
    "2001:db8:c::7"
        .parse::<std::net::Ipv6Addr>()
        .unwrap()
        .octets()
}

fn vip6() -> [u8; 16] {
    "2001:db8::10"
        .parse::<std::net::Ipv6Addr>()
        .unwrap()
        .octets()
}

fn udp4(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(STATION, OURS)
        .ipv4(CLIENT4, VIP4, 1)
        .udp(4000, 53)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn udp6(payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(STATION, OURS)
        .ipv6(client6(), vip6(), 1)
        .udp(4000, 53)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn answered(frame: &[u8], network: usize, from: Addr, error: Error) -> Vec<u8> {
    let mut buffer = HeapBuffer::new(frame);
    make_error(&mut buffer, network, from, error).unwrap();
    buffer.data().to_vec()
}

fn refused(frame: &[u8]) {
    let mut buffer = HeapBuffer::new(frame);
    let from = Addr::from_v4(VIP4);
    assert_eq!(
        make_error(&mut buffer, 14, from, Error::TimeExceeded),
        Err(Unanswerable)
    );
    assert_eq!(buffer.data(), frame, "a refused frame is unchanged");
}

#[test]
fn a_large_ipv4_packet_is_told_the_mtu_in_576_bytes() {
    let frame = udp4(&[7; 1400]);
    let answer = answered(&frame, 14, Addr::from_v4(VIP4), Error::TooBig { mtu: 1420 });
    assert_eq!(answer.len(), 14 + MAX_V4);
    assert_eq!(answer[..6], STATION);
    assert_eq!(answer[6..12], OURS);
    let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(NetSlice::Ipv4(ip)) = sliced.net else {
        panic!("no IPv4");
    };
    let header = ip.header();
    assert_eq!((header.source(), header.destination()), (VIP4, CLIENT4));
    assert_eq!(header.ttl(), 64);
    assert_eq!(
        header.to_header().calc_header_checksum(),
        header.header_checksum()
    );
    let icmp = Icmpv4Packet::new_checked(&answer[34..]).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!((answer[34], answer[35]), (3, 4));
    assert_eq!(answer[40..42], 1420u16.to_be_bytes());
    assert_eq!(answer[42..], frame[14..14 + 548]);
}

#[test]
fn a_large_ipv6_packet_is_told_the_mtu_in_1280_bytes() {
    let frame = udp6(&[7; 1440]);
    let answer = answered(
        &frame,
        14,
        Addr::from_v6(vip6()),
        Error::TooBig { mtu: 1400 },
    );
    assert_eq!(answer.len(), 14 + MAX_V6);
    let icmp = Icmpv6Packet::new_checked(&answer[54..]).unwrap();
    let (source, destination) = (vip6().into(), client6().into());
    assert!(icmp.verify_checksum(&source, &destination));
    assert_eq!(icmp.pkt_too_big_mtu(), 1400);
    assert_eq!((answer[54], answer[55]), (2, 0));
    assert_eq!(answer[62..], frame[14..14 + 1232]);
}

#[test]
fn time_exceeded_quotes_a_small_packet_whole_and_no_padding() {
    let mut frame = udp4(b"x");
    let whole = frame.len();
    frame.resize(60, 0xee);
    let answer = answered(&frame, 14, Addr::from_v4(VIP4), Error::TimeExceeded);
    assert_eq!((answer[34], answer[35]), (11, 0));
    assert_eq!(answer[42..], frame[14..whole]);
    let answer = answered(&udp6(b"x"), 14, Addr::from_v6(vip6()), Error::TimeExceeded);
    assert_eq!((answer[54], answer[55]), (3, 0));
    let sliced = SlicedPacket::from_ethernet(&answer).unwrap();
    assert!(matches!(sliced.transport, Some(TransportSlice::Icmpv6(_))));
}

#[test]
fn a_vlan_tag_stays_on_the_answer() {
    let mut frame = udp4(&[1; 20]);
    frame.splice(12..12, [0x81, 0x00, 0x60, 0x07]);
    let answer = answered(&frame, 18, Addr::from_v4(VIP4), Error::TimeExceeded);
    assert_eq!(answer[12..18], [0x81, 0x00, 0x60, 0x07, 0x08, 0x00]);
    assert!(
        Icmpv4Packet::new_checked(&answer[38..])
            .unwrap()
            .verify_checksum()
    );
}

#[test]
fn an_icmp_error_is_never_answered_by_one() {
    let offending = udp4(b"payload");
    let error = answered(&offending, 14, Addr::from_v4(VIP4), Error::TimeExceeded);
    refused(&error);
    let error = answered(
        &udp6(b"payload"),
        14,
        Addr::from_v6(vip6()),
        Error::TimeExceeded,
    );
    refused(&error);
}

#[test]
fn what_has_no_single_sender_is_never_answered() {
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        let mut frame = udp4(b"x");
        frame[26..30].copy_from_slice(&source);
        refused(&frame);
    }
    let mut frame = udp4(b"x");
    frame[0] |= 1;
    refused(&frame);
    let mut frame = udp6(b"x");
    frame[22] = 0xff;
    refused(&frame);
}

#[test]
fn only_the_first_fragment_is_answered() {
    let mut frame = udp4(&[1; 64]);
    frame[20] = 0x20;
    let from = Addr::from_v4(VIP4);
    answered(&frame, 14, from, Error::TimeExceeded);
    frame[21] = 8;
    refused(&frame);
}

#[test]
fn a_frame_without_headroom_is_left_alone() {
    let frame = udp4(b"x");
    let mut buffer = HeapBuffer::with_room(&frame, 27, 0);
    let from = Addr::from_v4(VIP4);
    assert_eq!(
        make_error(&mut buffer, 14, from, Error::TimeExceeded),
        Err(Unanswerable)
    );
    assert_eq!(buffer.data(), frame);
}

#[test]
fn errors_are_limited_in_rate_by_kind() {
    let mut limiter = Limiter::default();
    let too_big = Error::TooBig { mtu: 1400 };
    let start = Tick(10_000);
    let granted = (0..1000).filter(|_| limiter.allows(too_big, start)).count();
    assert_eq!(granted, BURST as usize);
    assert!(limiter.allows(Error::TimeExceeded, start));
    let later = Tick(10_005);
    let granted = (0..1000).filter(|_| limiter.allows(too_big, later)).count();
    assert_eq!(granted, 5);
    // A clock that steps back earns nothing.
    assert!(!limiter.allows(too_big, start));
}

proptest! {
    #[test]
    fn after_any_silence_the_limit_is_whole_again(
        start: u32, silence in BURST..u32::MAX - 60_000, first in 0u32..100,
    ) {
        let mut limiter = Limiter::default();
        let mut granted = |at, count| {
            (0..count)
                .filter(|_| limiter.allows(Error::TimeExceeded, Tick(at)))
                .count() as u32
        };
        prop_assert_eq!(granted(start, first), first.min(BURST));
        prop_assert_eq!(granted(start.wrapping_add(silence), 1_000), BURST);
    }

    #[test]
    fn no_frame_makes_it_panic_and_an_answer_is_always_intact(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        v6: bool, network in 12usize..20,
    ) {
        if let Some(first) = frame.get_mut(network) {
            *first = if v6 { 0x60 } else { 0x45 };
        }
        let before = frame.clone();
        let mut buffer = HeapBuffer::new(&frame);
        let from = Addr::from_v6(vip6());
        match make_error(&mut buffer, network, from, Error::TooBig { mtu: 1300 }) {
            Err(Unanswerable) => prop_assert_eq!(buffer.data(), &before[..]),
            Ok(()) => {
                let headers = if v6 { 48 } else { 28 };
                let quote = &buffer.data()[network + headers..];
                prop_assert_eq!(quote, &before[network..network + quote.len()]);
            }
        }
    }
}
