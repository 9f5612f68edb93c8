use super::*;
use etherparse::{Icmpv4Slice, Icmpv6Slice, PacketBuilder};
use proptest::prelude::*;

/// A TCP or UDP packet from its IP header on, made by etherparse.
fn packet(source: (&[u8], u16), destination: (&[u8], u16), tcp: bool, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    macro_rules! transport {
        ($step:expr) => {
            if tcp {
                let step = $step.tcp(source.1, destination.1, 7, 1000).ack(3);
                step.write(&mut bytes, payload).unwrap();
            } else {
                let step = $step.udp(source.1, destination.1);
                step.write(&mut bytes, payload).unwrap();
            }
        };
    }
    match (
        <[u8; 4]>::try_from(source.0),
        <[u8; 4]>::try_from(destination.0),
    ) {
        (Ok(a), Ok(b)) => transport!(PacketBuilder::ipv4(a, b, 61)),
        _ => transport!(PacketBuilder::ipv6(
            source.0.try_into().unwrap(),
            destination.0.try_into().unwrap(),
            61
        )),
    }
    bytes
}

/// An ICMP error from `from` to `to`, from its IP header on, made by etherparse.
fn error(from: &[u8], to: &[u8], quoted: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let (Ok(from), Ok(to)) = (from.try_into(), to.try_into()) {
        PacketBuilder::ipv4(from, to, 60)
            .icmpv4_raw(3, 4, [0, 0, 5, 0])
            .write(&mut bytes, quoted)
            .unwrap();
    } else {
        PacketBuilder::ipv6(from.try_into().unwrap(), to.try_into().unwrap(), 60)
            .icmpv6_raw(2, 0, [0, 0, 5, 0])
            .write(&mut bytes, quoted)
            .unwrap();
    }
    bytes
}

fn message(bytes: &[u8]) -> Message {
    let (version, icmp) = if bytes[0] >> 4 == 4 {
        (Version::V4, 20)
    } else {
        (Version::V6, 40)
    };
    Message {
        version,
        network: 0,
        icmp,
        end: bytes.len() as u16,
    }
}

fn addr(bytes: &[u8]) -> Addr {
    match bytes.try_into() {
        Ok(four) => Addr::from_v4(four),
        Err(_) => Addr::from_v6(bytes.try_into().unwrap()),
    }
}

fn checksum_is_right(bytes: &[u8]) -> bool {
    if bytes[0] >> 4 == 4 {
        let slice = Icmpv4Slice::from_slice(&bytes[20..]).unwrap();
        slice.icmp_type().calc_checksum(slice.payload()) == slice.checksum()
    } else {
        let slice = Icmpv6Slice::from_slice(&bytes[40..]).unwrap();
        let (from, to) = (
            bytes[8..24].try_into().unwrap(),
            bytes[24..40].try_into().unwrap(),
        );
        slice.is_checksum_valid(from, to)
    }
}

const VIP: [u8; 4] = [198, 51, 100, 10];
const BACKEND: [u8; 4] = [10, 0, 0, 11];
const CLIENT: [u8; 4] = [203, 0, 113, 5];
const ROUTER: [u8; 4] = [192, 0, 2, 77];

#[test]
fn eight_bytes_of_transport_header_are_enough() {
    let whole = packet((&VIP, 80), (&CLIENT, 51234), true, b"payload");
    let bytes = error(&ROUTER, &VIP, &whole[..28]);
    let quote = read(&bytes, &message(&bytes)).unwrap();
    assert_eq!(
        (quote.source, quote.destination),
        (addr(&VIP), addr(&CLIENT))
    );
    assert_eq!((quote.source_port(), quote.destination_port()), (80, 51234));
    assert_eq!(quote.protocol, protocol::TCP);
    let shorter = error(&ROUTER, &VIP, &whole[..27]);
    assert_eq!(
        read(&shorter, &message(&shorter)),
        Err(DropReason::IcmpQuote)
    );
}

#[test]
fn a_wrong_checksum_is_refused() {
    for (vip, client, router) in [
        (VIP.to_vec(), CLIENT.to_vec(), ROUTER.to_vec()),
        (vec![0x20; 16], vec![0x21; 16], vec![0x22; 16]),
    ] {
        let whole = packet((&vip, 80), (&client, 51234), false, b"payload");
        let mut bytes = error(&router, &vip, &whole);
        assert!(read(&bytes, &message(&bytes)).is_ok());
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(
            read(&bytes, &message(&bytes)),
            Err(DropReason::IcmpMalformed)
        );
    }
}

#[test]
fn a_quote_of_a_later_piece_or_another_version_is_refused() {
    let mut later = packet((&VIP, 80), (&CLIENT, 51234), false, b"payload");
    later[7] = 1;
    let six = packet((&[0x20; 16], 80), (&[0x21; 16], 1), false, b"payload");
    for quoted in [&later[..], &six[..], &[], &[0x45; 30]] {
        let bytes = error(&ROUTER, &VIP, quoted);
        assert_eq!(
            read(&bytes, &message(&bytes)),
            Err(DropReason::IcmpQuote),
            "{quoted:?}"
        );
    }
}

#[test]
fn a_first_ipv6_piece_and_what_stands_before_it_are_passed_over() {
    let plain = packet((&[0x20; 16], 443), (&[0x21; 16], 50000), false, b"payload");
    let mut quoted = plain[..40].to_vec();
    quoted[6] = protocol::DESTINATION_OPTIONS;
    quoted[5] += 16;
    quoted.extend([protocol::FRAGMENT, 0, 1, 4, 0, 0, 0, 0]);
    quoted.extend([protocol::UDP, 0, 0, 1, 0, 0, 0, 9]);
    quoted.extend(&plain[40..]);
    let bytes = error(&[0x22; 16], &[0x20; 16], &quoted);
    let quote = read(&bytes, &message(&bytes)).unwrap();
    assert_eq!(
        (quote.source_port(), quote.destination_port()),
        (443, 50000)
    );
    let mut later = quoted;
    later[40 + 8 + 3] = 0x08;
    let bytes = error(&[0x22; 16], &[0x20; 16], &later);
    assert_eq!(read(&bytes, &message(&bytes)), Err(DropReason::IcmpQuote));
}

#[test]
fn an_error_that_may_travel_no_further_is_left_as_it_is() {
    let whole = packet((&VIP, 80), (&CLIENT, 51234), true, b"");
    let mut bytes = error(&ROUTER, &VIP, &whole);
    bytes[8] = 1;
    let before = bytes.clone();
    let quote = read(&bytes, &message(&bytes)).unwrap();
    let translation = Translation {
        destination: Some(addr(&BACKEND)),
        ..Translation::default()
    };
    let at = message(&bytes);
    let result = translate(&mut bytes, &at, &quote, &translation);
    assert_eq!((result, bytes), (Err(DropReason::IpTtl), before));
}

/// An address of each end, of one family: router, VIP, backend, client, and a source of our own.
fn ends() -> impl Strategy<Value = [Vec<u8>; 5]> {
    prop_oneof![
        any::<[[u8; 4]; 5]>().prop_map(|all| all.map(|one| one.to_vec())),
        any::<[[u8; 16]; 5]>().prop_map(|all| all.map(|one| one.to_vec())),
    ]
}

proptest! {
    /// The law of translation: it equals an error built anew about the packet as it was before the
    /// translation of the answer.
    #[test]
    fn a_translated_error_is_the_error_about_the_translated_packet(
        [router, vip, backend, client, own] in ends(),
        ports: [u16; 4],
        tcp: bool,
        both: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..120),
        cut in 0usize..200,
    ) {
        let [vip_port, backend_port, client_port, own_port] = ports.map(|port| port.max(1));
        let (far, far_port) = if both { (&own, own_port) } else { (&client, client_port) };
        let outside = packet((&vip, vip_port), (&client, client_port), tcp, &payload);
        let inside = packet((&backend, backend_port), (far, far_port), tcp, &payload);
        let ip = if vip.len() == 4 { 20 } else { 40 };
        // Half a checksum cannot be kept right.
        let cut = (ip + 8 + cut).min(outside.len()) & !1;
        let mut bytes = error(&router, &vip, &outside[..cut]);
        let at = message(&bytes);
        let quote = read(&bytes, &at).unwrap();
        let translation = Translation {
            source: None,
            destination: Some(addr(&backend)),
            quoted_source: Some((addr(&backend), backend_port.to_be_bytes())),
            quoted_destination: both.then(|| (addr(&own), own_port.to_be_bytes())),
        };
        translate(&mut bytes, &at, &quote, &translation).unwrap();
        prop_assert!(checksum_is_right(&bytes));
        let mut expected = error(&router, &backend, &inside[..cut]);
        expected[if ip == 20 { 8 } else { 7 }] -= 1;
        if ip == 20 {
            prop_assert!(checksum::is_valid(&bytes[..20]));
            prop_assert!(checksum::is_valid(&bytes[28..48]));
            expected[10..12].copy_from_slice(&bytes[10..12]);
        }
        prop_assert_eq!(bytes, expected);
    }

    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 28..160),
        six: bool,
        sound: bool,
    ) {
        bytes[0] = if six { 0x60 } else { 0x45 };
        let at = Message {
            version: if six { Version::V6 } else { Version::V4 },
            network: 0,
            icmp: if six { 40.min(bytes.len() as u16) } else { 20 },
            end: bytes.len() as u16,
        };
        if sound && !six {
            bytes[22..24].fill(0);
            let sum = checksum::of(&bytes[20..]);
            bytes[22..24].copy_from_slice(&sum);
        }
        if let Ok(quote) = read(&bytes, &at) {
            let end = Some((Addr::from_v4(BACKEND), [1, 2]));
            let translation = Translation {
                destination: Some(Addr::from_v4(BACKEND)),
                quoted_source: end,
                quoted_destination: end,
                source: None,
            };
            let _ = translate(&mut bytes, &at, &quote, &translation);
        }
    }
}
