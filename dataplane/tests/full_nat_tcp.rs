//! Fields of TCP that `full-nat` changes on the way, and those that errors quote: MSS, urgent pointer,
//! sequence numbers, and what becomes of segments without room.
//!
//! Frames are built and read by etherparse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::net::SocketAddr;

use etherparse::{PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use support::full_nat::{ALL, BACKEND_MAC, Families, assert_checksums, source_port};
use support::icmp::{error_about, told};
use support::rig::Rig;
use support::{CLIENT_MAC, WEIR_MAC};
use weir_shm::counters as layout;

/// A segment to be built.
#[derive(Clone)]
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    mac: [u8; 6],
    ttl: u8,
    header: TcpHeader,
    payload: Vec<u8>,
}

impl Segment {
    /// A client's.
    fn asks(families: Families, sequence: u32) -> Self {
        let (from, to) = (families.client(1, 4000), families.vip());
        Self::new(from, to, CLIENT_MAC, sequence)
    }

    /// A backend's, to this port.
    fn answers(families: Families, port: u16, sequence: u32) -> Self {
        let to = SocketAddr::new(families.snat(), port);
        Self::new(families.backend(), to, BACKEND_MAC, sequence)
    }

    fn new(from: SocketAddr, to: SocketAddr, mac: [u8; 6], sequence: u32) -> Self {
        Self {
            from,
            to,
            mac,
            ttl: 64,
            header: TcpHeader::new(from.port(), to.port(), sequence, 5_000),
            payload: Vec::new(),
        }
    }

    fn syn(mut self) -> Self {
        self.header.syn = true;
        self
    }

    fn ack(mut self, number: u32) -> Self {
        (self.header.ack, self.header.acknowledgment_number) = (true, number);
        self
    }

    fn fin(mut self) -> Self {
        self.header.fin = true;
        self
    }

    fn urgent(mut self, pointer: u16) -> Self {
        (self.header.urg, self.header.urgent_pointer) = (true, pointer);
        self
    }

    fn options(mut self, options: &[TcpOptionElement]) -> Self {
        self.header.set_options(options).unwrap();
        self
    }

    fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    fn build(&self) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(self.mac, WEIR_MAC);
        let step = match (self.from, self.to) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                link.ipv4(from.ip().octets(), to.ip().octets(), self.ttl)
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                link.ipv6(from.ip().octets(), to.ip().octets(), self.ttl)
            }
            _ => panic!("one family"),
        };
        let mut bytes = Vec::new();
        let step = step.tcp_header(self.header.clone());
        step.write(&mut bytes, &self.payload).unwrap();
        bytes
    }
}

/// The TCP header and payload of a frame, whose checksums must be right.
fn read(frame: &[u8]) -> (TcpHeader, Vec<u8>) {
    assert_checksums(frame);
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
        panic!("no TCP");
    };
    (tcp.to_header(), tcp.payload().to_vec())
}

fn one(rig: &mut Rig, segment: &Segment) -> Vec<u8> {
    let mut sent = rig.play(0, &segment.build());
    assert_eq!(sent.len(), 1);
    sent.remove(0).1
}

/// The MSS that a segment announces.
fn mss(frame: &[u8]) -> u16 {
    let header = read(frame).0;
    header
        .options_iterator()
        .find_map(|option| match option.unwrap() {
            TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
            _ => None,
        })
        .unwrap()
}

/// Client and backend have said hello; gives weir's port.
fn opened(rig: &mut Rig, families: Families) -> u16 {
    let syn = one(rig, &Segment::asks(families, 1_000).syn());
    let port = source_port(&syn);
    let answer = Segment::answers(families, port, 7_000).syn().ack(1_001);
    one(rig, &answer);
    port
}

fn clamped(families: Families) -> String {
    let tcp = "protocol = \"tcp\"\n";
    let clamp = format!("{tcp}mss_clamp = 1200\n");
    families.config("").replace(tcp, &clamp)
}

#[test]
fn both_ends_are_announced_segments_no_larger_than_the_clamp() {
    for families in ALL {
        let mut rig = Rig::new(&clamped(families));
        for (announced, expected) in [(1_460, 1_200), (1_000, 1_000)] {
            let announce = [TcpOptionElement::MaximumSegmentSize(announced)];
            let syn = Segment::asks(families, 1_000).syn().options(&announce);
            let to_backend = one(&mut rig, &syn);
            assert_eq!(mss(&to_backend), expected, "{families:?}");
            let port = source_port(&to_backend);
            let answer = Segment::answers(families, port, 7_000).syn().ack(1_001);
            let to_client = one(&mut rig, &answer.options(&announce));
            assert_eq!(mss(&to_client), expected, "{families:?}");
        }
    }
}

#[test]
fn a_syn_that_comes_late_a_second_time_opens_nothing_while_the_backend_may_still_answer() {
    for families in ALL {
        let mut rig = families.rig("");
        let port = opened(&mut rig, families);
        one(&mut rig, &Segment::asks(families, 1_001).ack(7_001).fin());
        let copy = one(&mut rig, &Segment::asks(families, 1_000).syn());
        assert_eq!(source_port(&copy), port, "{families:?}");
        let rest = Segment::answers(families, port, 7_001).ack(1_002);
        one(&mut rig, &rest.payload(b"more"));
        let other = one(&mut rig, &Segment::asks(families, 90_000).syn());
        assert_ne!(
            source_port(&other),
            port,
            "another connection, {families:?}"
        );
    }
}

/// What a frame quotes of the packet that it is about, as far as `packet` goes.
fn quotes(error: &[u8], packet: &[u8]) -> bool {
    let packet = &packet[14..];
    // But for TTL and header checksum, which a router may have changed.
    let tail = if packet[0] >> 4 == 4 { 20 } else { 40 };
    error
        .windows(packet.len() - tail)
        .any(|part| part == &packet[tail..])
}

#[test]
fn a_syn_whose_ttl_ends_here_is_quoted_as_it_came() {
    let nat = |families: Families| {
        let config = clamped(families);
        let config = config.replace("\"full-nat\"", "\"nat\"");
        config.replace("snat_pool = [\"10.0.0.5\", \"2001:db8:a::5\"]\n", "")
    };
    let announce = [TcpOptionElement::MaximumSegmentSize(1_460)];
    for families in ALL {
        let one_family = families.client_v6 == families.backend_v6;
        let mut configs = vec![clamped(families)];
        configs.extend(one_family.then(|| nat(families)));
        for config in configs {
            let mut rig = Rig::new(&config);
            let syn = Segment::asks(families, 1_000).syn().options(&announce);
            let syn = syn.ttl(1).build();
            let error = rig.play(0, &syn).remove(0).1;
            told(&error);
            assert!(quotes(&error, &syn), "{families:?}");
        }
        let mut rig = Rig::new(&clamped(families));
        let syn = one(&mut rig, &Segment::asks(families, 1_000).syn());
        let answer = Segment::answers(families, source_port(&syn), 7_000).syn();
        let answer = answer.ack(1_001).options(&announce).ttl(1).build();
        let error = rig.play(0, &answer).remove(0).1;
        assert!(quotes(&error, &answer), "{families:?}");
    }
}

#[test]
fn urgent_data_stays_where_it_is_when_a_header_goes_before_it() {
    for families in ALL {
        let header = if families.client_v6 { 52 } else { 28 };
        let mut rig = families.rig("client_address = \"proxy-v2\"");
        opened(&mut rig, families);
        let first = Segment::asks(families, 1_001).ack(7_001).payload(b"abcdef");
        let (got, payload) = read(&one(&mut rig, &first.clone().urgent(3)));
        assert_eq!(got.sequence_number, 1_001);
        assert_eq!((got.urg, got.urgent_pointer), (true, header + 3));
        assert_eq!(payload[usize::from(got.urgent_pointer)], b'd');
        // No urgent data, no pointer.
        let (got, _) = read(&one(&mut rig, &first));
        assert_eq!((got.urg, got.urgent_pointer), (false, 0));
        // Behind the header, sequence numbers move and the distance stays.
        let later = Segment::asks(families, 1_007).ack(7_001).payload(b"ghi");
        let (got, _) = read(&one(&mut rig, &later.urgent(2)));
        assert_eq!(got.sequence_number, 1_007 + u32::from(header));
        assert_eq!(got.urgent_pointer, 2);
    }
}

#[test]
fn an_error_about_a_shifted_segment_quotes_it_as_the_client_counts() {
    for families in ALL {
        let mut rig = families.rig("client_address = \"proxy-v2\"");
        opened(&mut rig, families);
        let first = Segment::asks(families, 1_001).ack(7_001).payload(b"abcdef");
        one(&mut rig, &first);
        let later = Segment::asks(families, 1_007).ack(7_001).payload(b"ghi");
        let shifted = one(&mut rig, &later);
        let at = if families.backend_v6 { 54 } else { 34 };
        assert_ne!(shifted[at + 4..at + 8], 1_007u32.to_be_bytes());
        let (router, unreachable) = if families.backend_v6 {
            ("2001:db8:77::1", (1, 4, [0; 4]))
        } else {
            ("192.0.2.177", (3, 3, [0; 4]))
        };
        for quoted in [8, 400] {
            let router = router.parse().unwrap();
            let error = error_about(&shifted, router, BACKEND_MAC, quoted, unreachable);
            let sent = rig.play(0, &error);
            assert_eq!((sent.len(), &sent[0].1[..6]), (1, &CLIENT_MAC[..]));
            // Its checksums are right, and so are the quoted ends.
            let error = &sent[0].1;
            assert_eq!(told(error).quoted.0, families.client(1, 4000));
            let at = if families.client_v6 {
                54 + 8 + 40
            } else {
                34 + 8 + 20
            };
            assert_eq!(error[at + 4..at + 8], 1_007u32.to_be_bytes());
        }
    }
}

#[test]
fn a_segment_without_room_for_toa_goes_as_it_is_and_is_counted() {
    for families in ALL {
        let mut rig = families.rig("client_address = \"toa\"");
        opened(&mut rig, families);
        let full = [
            TcpOptionElement::Timestamp(1, 2),
            TcpOptionElement::SelectiveAcknowledgement((1, 2), [Some((3, 4)), Some((5, 6)), None]),
        ];
        let first = Segment::asks(families, 1_001)
            .ack(7_001)
            .options(&full)
            .payload(b"abc");
        let (got, payload) = read(&one(&mut rig, &first));
        let sent = first.header.options.as_slice();
        assert_eq!((got.options.as_slice(), &payload[..]), (sent, &b"abc"[..]));
        assert_eq!(rig.count(layout::TOA_NO_ROOM), 1, "{families:?}");
        // The next one has room.
        let first = Segment::asks(families, 1_001).ack(7_001).payload(b"abc");
        let (got, _) = read(&one(&mut rig, &first));
        assert_eq!(got.options.as_slice().first(), Some(&254));
        assert_eq!(rig.count(layout::TOA_NO_ROOM), 1);
    }
}
