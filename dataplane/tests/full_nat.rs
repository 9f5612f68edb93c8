//! `full-nat`: what a backend gets is the client's packet from an address of weir's own, within and
//! between families, and what it answers is the client's answer from the VIP.
//!
//! Frames are built by etherparse and judged by smoltcp's wire types: neither shares code with weir.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket,
    UdpPacket,
};
use support::rig::Rig;
use support::{CLIENT_MAC, Frame, Transport, WEIR_MAC, frame};
use weir_shm::counters::{self as layout, DropReason};

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const BASE: &str = r#"
[engine]
flows_per_worker = 64
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24", "2001:db8::2/64", "2001:db8:a::1/64"]
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[route]]
to = "::/0"
via = "2001:db8::1"
[[neighbor]]
address = "192.0.2.1"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "2001:db8::1"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "2001:db8:a::11"
mac = "02:00:00:00:00:0b"
"#;

#[derive(Debug, Clone, Copy)]
struct Families {
    client_v6: bool,
    backend_v6: bool,
}

impl Families {
    fn client(self, host: u16, port: u16) -> SocketAddr {
        let [high, low] = host.to_be_bytes();
        let text = if self.client_v6 {
            format!("[2001:db8:c::{host:x}]:{port}")
        } else {
            format!("203.0.{high}.{low}:{port}")
        };
        text.parse().unwrap()
    }

    fn vip(self) -> SocketAddr {
        let text = if self.client_v6 {
            "[2001:db8:f::10]:80"
        } else {
            "198.51.100.10:80"
        };
        text.parse().unwrap()
    }

    fn backend(self) -> SocketAddr {
        let text = if self.backend_v6 {
            "[2001:db8:a::11]:8080"
        } else {
            "10.0.0.11:8080"
        };
        text.parse().unwrap()
    }

    fn snat(self) -> IpAddr {
        let text = if self.backend_v6 {
            "2001:db8:a::5"
        } else {
            "10.0.0.5"
        };
        text.parse().unwrap()
    }

    fn rig(self, more: &str) -> Rig {
        Rig::new(&self.config(more))
    }

    fn config(self, more: &str) -> String {
        use std::fmt::Write;
        let mut text = BASE.to_owned();
        for protocol in ["tcp", "udp"] {
            let more = more.replace("toa", if protocol == "tcp" { "toa" } else { "none" });
            write!(
                text,
                "[[service]]\nname = \"{protocol}\"\ntable_size = 13\nvip = \"{}\"\nport = 80\n\
                 protocol = \"{protocol}\"\nforwarding = \"full-nat\"\n\
                 snat_pool = [\"10.0.0.5\", \"2001:db8:a::5\"]\n{more}\n\
                 [[service.backend]]\naddress = \"{}\"\nport = 8080\n",
                self.vip().ip(),
                self.backend().ip()
            )
            .unwrap();
        }
        text
    }
}

fn families() -> impl Strategy<Value = Families> {
    any::<(bool, bool)>().prop_map(|(client_v6, backend_v6)| Families {
        client_v6,
        backend_v6,
    })
}

const ALL: [Families; 4] = {
    const fn of(client_v6: bool, backend_v6: bool) -> Families {
        Families {
            client_v6,
            backend_v6,
        }
    }
    [
        of(false, false),
        of(false, true),
        of(true, false),
        of(true, true),
    ]
};

/// Panics unless every checksum of the frame is right, as smoltcp sees it.
fn assert_checksums(bytes: &[u8]) {
    let frame = EthernetFrame::new_checked(bytes).unwrap();
    let (source, destination, protocol, payload): (IpAddress, IpAddress, _, Vec<u8>) =
        match frame.ethertype() {
            EthernetProtocol::Ipv4 => {
                let packet = Ipv4Packet::new_checked(frame.payload()).unwrap();
                assert!(packet.verify_checksum(), "IPv4 header checksum");
                let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
                (from, to, packet.next_header(), packet.payload().to_vec())
            }
            EthernetProtocol::Ipv6 => {
                let packet = Ipv6Packet::new_checked(frame.payload()).unwrap();
                let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
                (from, to, packet.next_header(), packet.payload().to_vec())
            }
            other => panic!("{other}"),
        };
    let right = match protocol {
        IpProtocol::Tcp => TcpPacket::new_checked(&payload)
            .unwrap()
            .verify_checksum(&source, &destination),
        IpProtocol::Udp => UdpPacket::new_checked(&payload)
            .unwrap()
            .verify_checksum(&source, &destination),
        other => panic!("{other}"),
    };
    assert!(right, "transport checksum");
}

/// Where a frame's transport header starts.
fn transport_at(frame: &[u8]) -> usize {
    match frame[12] {
        0x08 => 14 + usize::from(frame[14] & 15) * 4,
        _ => 14 + 40,
    }
}

fn source_port(frame: &[u8]) -> u16 {
    let at = transport_at(frame);
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// Without what a translated IPv4 header has of its own: identification and "don't fragment".
fn without_id(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [0x08, 0x00] {
        frame[18..22].fill(0);
        frame[24..26].fill(0);
    }
    frame
}

/// What a packet must become between other ends: the builder's own.
fn between(packet: &Frame, from: SocketAddr, to: SocketAddr, mac: [u8; 6]) -> Vec<u8> {
    let mut expected = packet.clone().macs(WEIR_MAC, mac).ttl(packet.ttl - 1);
    (expected.source, expected.destination) = (from, to);
    if to.is_ipv6() && expected.transport == Transport::UdpUnchecked {
        expected.transport = Transport::Udp;
    }
    expected.build()
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

fn ask(families: Families, host: u16, port: u16, transport: Transport) -> Frame {
    Frame {
        source: families.client(host, port),
        destination: families.vip(),
        ..frame("1.1.1.1:1", "1.1.1.1:1", transport)
    }
}

fn answer(families: Families, to: u16, transport: Transport) -> Frame {
    let answer = Frame {
        source: families.backend(),
        destination: SocketAddr::new(families.snat(), to),
        ..frame("1.1.1.1:1", "1.1.1.1:1", transport)
    };
    answer.macs(BACKEND_MAC, WEIR_MAC)
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

/// The pieces of an IPv4 or IPv6 datagram, `size` bytes of payload each.
fn pieces(frame: &[u8], size: usize, id: u32) -> Vec<Vec<u8>> {
    let at = transport_at(frame);
    let payload = &frame[at..];
    let count = payload.len().div_ceil(size);
    let cut = |(number, part): (usize, &[u8])| {
        let more = number + 1 < count;
        let mut piece = frame[..at].to_vec();
        if frame[12] == 0x08 {
            let place = (number * size / 8) as u16 | if more { 0x2000 } else { 0 };
            piece[18..20].copy_from_slice(&(id as u16).to_be_bytes());
            piece[20..22].copy_from_slice(&place.to_be_bytes());
            piece[16..18].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            Ipv4Packet::new_unchecked(&mut piece[14..]).fill_checksum();
        } else {
            let place = (number * size) as u16 | u16::from(more);
            piece.extend_from_slice(&[piece[20], 0]);
            piece.extend_from_slice(&place.to_be_bytes());
            piece.extend_from_slice(&id.to_be_bytes());
            piece[20] = 44;
            piece[18..20].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
        }
        piece.extend_from_slice(part);
        piece
    };
    payload.chunks(size).enumerate().map(cut).collect()
}

/// What a receiver makes of pieces: the datagram's frame with one header, and its identification.
fn whole(pieces: &[Vec<u8>]) -> (Vec<u8>, u32) {
    let v4 = pieces[0][12] == 0x08;
    let mut ids = std::collections::HashSet::new();
    let mut payload = Vec::new();
    for piece in pieces {
        if v4 {
            assert!(Ipv4Packet::new_unchecked(&piece[14..]).verify_checksum());
            let place = u16::from_be_bytes([piece[20], piece[21]]);
            assert_eq!(usize::from(place & 0x1fff) * 8, payload.len());
            assert_eq!(place & 0x2000 == 0, piece == pieces.last().unwrap());
            ids.insert(u32::from(u16::from_be_bytes([piece[18], piece[19]])));
            payload.extend_from_slice(&piece[34..]);
        } else {
            assert_eq!((piece[20], piece[54]), (44, 17));
            let place = u16::from_be_bytes([piece[56], piece[57]]);
            assert_eq!(usize::from(place & 0xfff8), payload.len());
            assert_eq!(place & 1 == 0, piece == pieces.last().unwrap());
            ids.insert(u32::from_be_bytes(piece[58..62].try_into().unwrap()));
            payload.extend_from_slice(&piece[62..]);
        }
    }
    assert_eq!(ids.len(), 1, "one identification for all pieces");
    let mut frame = pieces[0][..if v4 { 34 } else { 54 }].to_vec();
    if v4 {
        frame[16..18].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
        frame[20..22].fill(0);
        Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    } else {
        frame[20] = 17;
        frame[18..20].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    frame.extend_from_slice(&payload);
    (frame, ids.into_iter().next().unwrap())
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

/// An ICMP error that quotes a frame's packet, from a router to the packet's source.
fn unreachable_about(frame: &[u8], router: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder};
    let quoted = &frame[14..frame.len().min(14 + 60)];
    let link = PacketBuilder::ethernet2(mac, WEIR_MAC);
    let mut bytes = Vec::new();
    match router {
        IpAddr::V4(router) => {
            let to = frame[26..30].try_into().unwrap();
            let kind =
                Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
            let step = link.ipv4(router.octets(), to, 60).icmpv4(kind);
            step.write(&mut bytes, quoted).unwrap();
        }
        IpAddr::V6(router) => {
            let to = frame[22..38].try_into().unwrap();
            let kind =
                Icmpv6Type::DestinationUnreachable(etherparse::icmpv6::DestUnreachableCode::Port);
            let step = link.ipv6(router.octets(), to, 60).icmpv6(kind);
            step.write(&mut bytes, quoted).unwrap();
        }
    }
    bytes
}

#[test]
fn errors_about_either_direction_reach_the_other_end_with_their_quote_translated() {
    for families in [ALL[0], ALL[3]] {
        let mut rig = families.rig("");
        let request = ask(families, 1, 4000, Transport::Syn);
        let to_backend = rig.play(0, &request.build()).remove(0).1;
        let snat_port = source_port(&to_backend);
        let reply = answer(families, snat_port, Transport::Ack);
        let to_client = rig.play(0, &reply.build()).remove(0).1;
        // About what the backend was asked, by the backend.
        let error = unreachable_about(&to_backend, families.backend().ip(), BACKEND_MAC);
        let sent = rig.play(0, &error);
        assert_eq!((sent.len(), &sent[0].1[..6]), (1, &CLIENT_MAC[..]));
        let quote = |frame: &[u8]| {
            let start = transport_at(frame) + 8;
            let header = if frame[12] == 0x08 { 20 } else { 40 };
            let ends = if frame[12] == 0x08 { 12..20 } else { 8..40 };
            let ports = frame[start + header..start + header + 4].to_vec();
            [frame[start + ends.start..start + ends.end].to_vec(), ports].concat()
        };
        let ends = |from: SocketAddr, to: SocketAddr| {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.octets().to_vec(),
                IpAddr::V6(ip) => ip.octets().to_vec(),
            };
            let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
            [octets(from.ip()), octets(to.ip()), ports].concat()
        };
        let (client, vip) = (families.client(1, 4000), families.vip());
        assert_eq!(quote(&sent[0].1), ends(client, vip));
        // About what the client was answered, by a router on the way.
        let router: SocketAddr = if families.client_v6 {
            "[2001:db8::1]:1".parse().unwrap()
        } else {
            "192.0.2.1:1".parse().unwrap()
        };
        let error = unreachable_about(&to_client, router.ip(), CLIENT_MAC);
        let sent = rig.play(0, &error);
        assert_eq!((sent.len(), &sent[0].1[..6]), (1, &BACKEND_MAC[..]));
        let snat = SocketAddr::new(families.snat(), snat_port);
        assert_eq!(quote(&sent[0].1), ends(families.backend(), snat));
    }
}
