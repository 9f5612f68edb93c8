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
