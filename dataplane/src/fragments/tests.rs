use super::*;
use crate::address::{Addr, Version};
use crate::conntrack::Tick;
use crate::flow::{FlowHash, FlowHasher, HashKey};
use etherparse::{IpFragOffset, Ipv4Header, Ipv6Header, PacketBuilder};
use proptest::prelude::*;
use std::collections::HashMap;
use table::{HELD, HELD_OF_ONE, MEMORY, PATIENCE};
use weir_shm::counters::DropReason;

const SOURCE: [u8; 4] = [203, 0, 113, 5];
const VIP: [u8; 4] = [198, 51, 100, 10];

/// A UDP datagram's IP payload.
fn udp(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(SOURCE, VIP, 64)
        .udp(4000, 53)
        .write(&mut bytes, payload)
        .unwrap();
    bytes.split_off(20)
}

/// A piece from its IP header on, made by etherparse.
fn piece_v4(payload: &[u8], protocol: u8, id: u16, offset: u16, more: bool) -> Vec<u8> {
    let mut header =
        Ipv4Header::new(payload.len() as u16, 64, protocol.into(), SOURCE, VIP).unwrap();
    header.identification = id;
    header.dont_fragment = false;
    header.more_fragments = more;
    header.fragment_offset = IpFragOffset::try_new(offset / 8).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut bytes = Vec::new();
    header.write(&mut bytes).unwrap();
    bytes.extend(payload);
    bytes
}

fn piece_v6(payload: &[u8], protocol: u8, id: u32, offset: u16, more: bool) -> Vec<u8> {
    let header = Ipv6Header {
        payload_length: payload.len() as u16 + 8,
        next_header: 44.into(),
        hop_limit: 64,
        source: [0x20; 16],
        destination: [0x21; 16],
        ..Ipv6Header::default()
    };
    let mut bytes = Vec::new();
    header.write(&mut bytes).unwrap();
    // By hand (RFC 8200, section 4.5): etherparse 0.19 writes this header's flag into the offset.
    bytes.extend([protocol, 0]);
    bytes.extend((offset | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn read(bytes: &[u8]) -> Result<Piece, DropReason> {
    let version = if bytes[0] >> 4 == 4 {
        Version::V4
    } else {
        Version::V6
    };
    Piece::read(bytes, 0, version, None)
}

#[test]
fn a_piece_is_read_as_etherparse_wrote_it() {
    let bytes = piece_v4(&[7; 24], 17, 0xbeef, 1480, true);
    let piece = read(&bytes).unwrap();
    assert_eq!((piece.offset, piece.len, piece.more), (1480, 24, true));
    assert_eq!((piece.id, piece.protocol, piece.payload), (0xbeef, 17, 20));
    assert_eq!(piece.source, Addr::from_v4(SOURCE));
    assert!(!piece.is_first());
    let bytes = piece_v6(&[7; 25], 17, 0xdead_beef, 1448, false);
    let piece = read(&bytes).unwrap();
    assert_eq!((piece.offset, piece.len, piece.more), (1448, 25, false));
    assert_eq!(
        (piece.id, piece.protocol, piece.payload),
        (0xdead_beef, 17, 48)
    );
    assert_eq!(piece.destination, Addr::from_v6([0x21; 16]));
}

#[test]
fn a_first_piece_tells_the_ports() {
    let datagram = udp(&[1; 100]);
    for bytes in [
        piece_v4(&datagram[..48], 17, 1, 0, true),
        piece_v6(&datagram[..48], 17, 1, 0, true),
    ] {
        let packet = read(&bytes).unwrap().begun(&bytes).unwrap();
        assert_eq!(
            (packet.source_port(), packet.destination_port()),
            (4000, 53)
        );
        assert_eq!(packet.protocol, 17);
    }
}

#[test]
fn tiny_and_impossible_pieces_are_refused() {
    let tcp = {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(SOURCE, VIP, 64)
            .tcp(4000, 80, 1, 1)
            .write(&mut bytes, &[0; 100])
            .unwrap();
        bytes.split_off(20)
    };
    let begun = |bytes: Vec<u8>| read(&bytes).and_then(|piece| piece.begun(&bytes));
    for length in [8, 16] {
        let tiny = piece_v4(&tcp[..length], 6, 1, 0, true);
        assert_eq!(begun(tiny), Err(DropReason::FragmentMalformed), "{length}");
        let tiny = piece_v6(&tcp[..length], 6, 1, 0, true);
        assert_eq!(begun(tiny), Err(DropReason::FragmentMalformed), "{length}");
    }
    assert!(begun(piece_v4(&tcp[..24], 6, 1, 0, true)).is_ok());
    // Half of the options: the whole header must be there.
    let mut options = tcp.clone();
    options[12] = 0xf0;
    assert_eq!(
        begun(piece_v4(&options[..32], 6, 1, 0, true)),
        Err(DropReason::FragmentMalformed)
    );
    // Not a multiple of eight, empty, beyond what a datagram can hold.
    for bytes in [
        piece_v4(&tcp[..25], 6, 1, 0, true),
        piece_v4(&[], 6, 1, 8, false),
        piece_v4(&[0; 16], 17, 1, 65528, false),
        piece_v6(&tcp[..25], 6, 1, 0, true),
        piece_v6(&[], 6, 1, 8, true),
    ] {
        assert_eq!(read(&bytes), Err(DropReason::FragmentMalformed));
    }
}

#[test]
fn what_follows_an_ipv6_fragment_header_is_passed_over_or_refused() {
    let datagram = udp(&[1; 100]);
    let mut payload = vec![17, 0, 1, 4, 0, 0, 0, 0];
    payload.extend(&datagram[..40]);
    let bytes = piece_v6(&payload, 60, 1, 0, true);
    let packet = read(&bytes).unwrap().begun(&bytes).unwrap();
    assert_eq!((packet.destination_port(), packet.transport), (53, 56));
    // The chain of headers does not end in the first piece (RFC 7112).
    payload[1] = 40;
    let bytes = piece_v6(&payload, 60, 1, 0, true);
    assert_eq!(
        read(&bytes).unwrap().begun(&bytes),
        Err(DropReason::FragmentMalformed)
    );
    // A fragment of a fragment.
    payload[0] = 44;
    payload[1] = 0;
    let bytes = piece_v6(&payload, 60, 1, 0, true);
    assert_eq!(
        read(&bytes).unwrap().begun(&bytes),
        Err(DropReason::Ipv6Extension)
    );
}

/// A piece without a frame.
fn piece(offset: u16, len: u16, more: bool) -> Piece {
    let bytes = piece_v4(&[0; 8], 17, 1, 0, true);
    Piece {
        offset,
        len,
        more,
        ..read(&bytes).unwrap()
    }
}

fn key(number: u32) -> FlowHash {
    FlowHasher::new(HashKey::REPLAY).ipv4(Addr::from_v4(SOURCE), Addr::from_v4(VIP), number, 17)
}

type Table = Fragments<u32, u8>;

#[test]
fn pieces_before_the_first_wait_for_it_and_follow_in_order() {
    let mut table = Table::default();
    for (number, offset) in [(3, 2960), (2, 1480)] {
        assert_eq!(
            table.arrive(key(1), &piece(offset, 1480, true), 0, Tick(5)),
            Arrival::Wait
        );
        table.hold(key(1), number, 1500, Tick(5)).unwrap();
    }
    let first = piece(0, 1480, true);
    assert_eq!(table.arrive(key(1), &first, 9, Tick(6)), Arrival::Decide);
    assert_eq!(table.release(key(1), Tick(6)), None);
    table.decide(key(1), &first, 9, Some(42), Tick(6));
    assert_eq!(table.release(key(1), Tick(6)), Some(3));
    assert_eq!(table.release(key(1), Tick(6)), Some(2));
    assert_eq!(table.release(key(1), Tick(6)), None);
    assert_eq!(table.waiting(), 0);
    for offset in [1480, 2960, 4440] {
        assert_eq!(
            table.arrive(key(1), &piece(offset, 1480, true), 0, Tick(7)),
            Arrival::Follow(42)
        );
    }
    assert_eq!(
        table.arrive(key(1), &first, 9, Tick(7)),
        Arrival::Follow(42),
        "a duplicate"
    );
}

#[test]
fn an_overlap_with_the_first_piece_refuses_the_whole_datagram() {
    let overlap = Arrival::Refuse(DropReason::FragmentOverlap);
    for culprit in [
        piece(8, 1480, true),
        piece(1472, 8, false),
        piece(0, 1472, true),
    ] {
        let mut table = Table::default();
        table.decide(key(1), &piece(0, 1480, true), 9, Some(1), Tick(0));
        assert_eq!(table.arrive(key(1), &culprit, 9, Tick(1)), overlap);
        for after in [piece(1480, 1480, false), piece(0, 1480, true)] {
            assert_eq!(table.arrive(key(1), &after, 9, Tick(1)), overlap);
        }
    }
    // Other ports in a second first piece.
    let mut table = Table::default();
    table.decide(key(1), &piece(0, 1480, true), 9, Some(1), Tick(0));
    assert_eq!(
        table.arrive(key(1), &piece(0, 1480, true), 8, Tick(1)),
        overlap
    );
}

#[test]
fn an_identification_that_comes_round_is_a_new_datagram() {
    let mut table = Table::default();
    table.decide(key(1), &piece(0, 1480, true), 9, Some(1), Tick(0));
    assert_eq!(
        table.arrive(key(1), &piece(1480, 100, false), 0, Tick(0)),
        Arrival::Follow(1)
    );
    let next = piece(0, 1000, true);
    assert_eq!(table.arrive(key(1), &next, 7, Tick(1)), Arrival::Decide);
    table.decide(key(1), &next, 7, Some(2), Tick(1));
    assert_eq!(
        table.arrive(key(1), &piece(1000, 8, false), 0, Tick(1)),
        Arrival::Follow(2)
    );
    // Incomplete, but long ago.
    table.decide(key(2), &piece(0, 1480, true), 9, Some(1), Tick(0));
    assert_eq!(
        table.arrive(key(2), &next, 7, Tick(MEMORY)),
        Arrival::Decide
    );
}

#[test]
fn a_piece_waits_a_second_and_no_longer() {
    let mut table = Table::default();
    table.hold(key(1), 1, 100, Tick(10)).unwrap();
    table.hold(key(2), 2, 100, Tick(500)).unwrap();
    assert_eq!(table.expired(Tick(10 + PATIENCE - 1)), None);
    assert_eq!(table.expired(Tick(10 + PATIENCE)), Some(1));
    assert_eq!(table.expired(Tick(10 + PATIENCE)), None);
    assert_eq!(table.expired(Tick(500 + PATIENCE)), Some(2));
    assert_eq!((table.expired(Tick(9000)), table.waiting()), (None, 0));
}

#[test]
fn what_waits_is_bounded_in_all_and_for_one_datagram() {
    let mut table = Table::default();
    for number in 0..u32::from(HELD_OF_ONE) {
        table.hold(key(1), number, 1500, Tick(0)).unwrap();
    }
    assert_eq!(table.hold(key(1), 99, 1500, Tick(0)), Err(99));
    let mut held = u32::from(HELD_OF_ONE);
    while table.hold(key(1000 + held), held, 1500, Tick(0)).is_ok() {
        held += 1;
    }
    assert_eq!(held as usize, HELD);
    let mut large = Table::default();
    let mut held = 0;
    while large.hold(key(held), held, 9000, Tick(0)).is_ok() {
        held += 1;
    }
    assert!(held as usize * 9000 <= table::HELD_BYTES && held > 100);
    let mut given_up = 0;
    while large.give_up().is_some() {
        given_up += 1;
    }
    assert_eq!((given_up, large.waiting()), (held, 0));
}

proptest! {
    /// Whatever the order, all pieces of a datagram follow its first one, and none is lost.
    #[test]
    fn all_pieces_follow_the_first_whatever_their_order(
        datagrams in proptest::collection::vec(1u16..8, 1..40),
        seed: u64,
    ) {
        let mut table = Table::default();
        let mut pieces: Vec<(u32, Piece)> = Vec::new();
        for (number, count) in (0u32..).zip(&datagrams) {
            for place in 0..*count {
                let one = piece(place * 1000, 1000, place + 1 < *count);
                pieces.push((number, one));
            }
        }
        let mut random = seed | 1;
        for place in (1..pieces.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(place, (random >> 33) as usize % (place + 1));
        }
        let mut went: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut waiting: Vec<(u32, Piece)> = Vec::new();
        for (number, one) in &pieces {
            let key = key(*number);
            match table.arrive(key, one, 1, Tick(3)) {
                Arrival::Decide => {
                    table.decide(key, one, 1, Some(*number as u8), Tick(3));
                    went.entry(*number).or_default().push(*number as u8);
                    while let Some(place) = table.release(key, Tick(3)) {
                        let (of, held) = waiting[place as usize];
                        prop_assert_eq!(of, *number);
                        let arrival = table.arrive(key, &held, 0, Tick(3));
                        prop_assert_eq!(arrival, Arrival::Follow(*number as u8));
                        went.entry(of).or_default().push(*number as u8);
                    }
                }
                Arrival::Follow(to) => went.entry(*number).or_default().push(to),
                Arrival::Wait => {
                    waiting.push((*number, *one));
                    let place = waiting.len() as u32 - 1;
                    prop_assert!(table.hold(key, place, 1000, Tick(3)).is_ok());
                }
                Arrival::Refuse(reason) => prop_assert!(false, "{reason:?}"),
            }
        }
        prop_assert_eq!(table.waiting(), 0);
        for (number, count) in (0u32..).zip(&datagrams) {
            prop_assert_eq!(&went[&number], &vec![number as u8; usize::from(*count)]);
        }
    }

    /// Whatever comes: what went in comes out once, by one way or another.
    #[test]
    fn nothing_that_waits_is_lost_or_doubled(
        steps in proptest::collection::vec((0u32..40, 0u16..4, any::<bool>(), 0u32..400), 1..400),
    ) {
        let mut table = Table::default();
        let mut now = Tick(0);
        let (mut put, mut got) = (Vec::new(), Vec::new());
        for (step, (number, place, more, pause)) in (0u32..).zip(steps) {
            now = Tick(now.0 + pause);
            got.extend(std::iter::from_fn(|| table.expired(now)));
            let one = piece(place * 400, 400, more);
            match table.arrive(key(number), &one, 1, now) {
                Arrival::Decide => {
                    table.decide(key(number), &one, 1, (step % 3 > 0).then_some(1), now);
                    got.extend(std::iter::from_fn(|| table.release(key(number), now)));
                }
                Arrival::Wait => {
                    if table.hold(key(number), step, 400, now).is_ok() {
                        put.push(step);
                    }
                }
                Arrival::Follow(_) | Arrival::Refuse(_) => {}
            }
            prop_assert_eq!(table.waiting(), put.len() - got.len());
        }
        got.extend(std::iter::from_fn(|| table.give_up()));
        got.sort_unstable();
        prop_assert_eq!(put, got);
    }

    #[test]
    fn no_bytes_make_reading_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        six: bool,
    ) {
        let version = if six { Version::V6 } else { Version::V4 };
        if let Some(first) = bytes.first_mut() {
            *first = if six { 0x60 } else { 0x45 };
        }
        if let Ok(piece) = Piece::read(&bytes, 0, version, None) {
            let _ = piece.begun(&bytes);
        }
    }
}
