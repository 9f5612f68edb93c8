//! What becomes of packets when no backend is up, and of pings: every policy, protocol, family and mode,
//! through `weir replay`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

#[path = "support/play.rs"]
mod play;
mod support;

use etherparse::{IcmpEchoHeader, PacketBuilder, SlicedPacket, TransportSlice};
use play::{Play, Played};
use support::bases::{BACKEND_MAC, ONE_PORT};
use support::icmp::ping;
use support::{CLIENT_MAC, Transport, WEIR_MAC, frame};

/// Families of the VIP and of the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Families {
    vip6: bool,
    backend6: bool,
}

const FAMILIES: [Families; 4] = [
    Families {
        vip6: false,
        backend6: false,
    },
    Families {
        vip6: true,
        backend6: true,
    },
    Families {
        vip6: false,
        backend6: true,
    },
    Families {
        vip6: true,
        backend6: false,
    },
];

impl Families {
    const fn vip(self) -> &'static str {
        if self.vip6 {
            "2001:db8:f::10"
        } else {
            "198.51.100.10"
        }
    }

    const fn backend(self) -> &'static str {
        if self.backend6 {
            "2001:db8:1::11"
        } else {
            "10.0.0.11"
        }
    }

    /// Its endpoint, as commands name it.
    fn name(self) -> String {
        if self.backend6 {
            format!("[{}]:80", self.backend())
        } else {
            format!("{}:80", self.backend())
        }
    }

    fn client(self) -> &'static str {
        if self.vip6 {
            "[2001:db8:c::5]:1000"
        } else {
            "203.0.113.5:1000"
        }
    }

    fn packet(self, transport: Transport) -> Vec<u8> {
        let vip = if self.vip6 {
            format!("[{}]:80", self.vip())
        } else {
            format!("{}:80", self.vip())
        };
        frame(self.client(), &vip, transport).build()
    }

    fn ping(self) -> Vec<u8> {
        ping(self.vip6, self.vip())
    }
}

fn config(families: Families, mode: &str, protocol: &str, keys: &str) -> String {
    let pool = if mode == "full-nat" {
        "snat_pool = [\"10.0.0.5\", \"2001:db8:1::5\"]\n"
    } else {
        ""
    };
    let dscp = if mode == "dsr-dscp" { "dscp = 7\n" } else { "" };
    format!(
        "{ONE_PORT}[[service]]\nname = \"web\"\ntable_size = 13\nvip = \"{}\"\nport = 80\n\
         protocol = \"{protocol}\"\nforwarding = \"{mode}\"\n{pool}{dscp}{keys}\n\
         [[service.backend]]\naddress = \"{}\"\n",
        families.vip(),
        families.backend()
    )
}

/// Modes, and whether they go between families.
const MODES: [(&str, bool); 8] = [
    ("dsr-l2", false),
    ("nat", false),
    ("full-nat", true),
    ("dsr-ipip", true),
    ("dsr-gue", true),
    ("dsr-gre", true),
    ("dsr-geneve", true),
    ("dsr-dscp", false),
];

fn cases() -> impl Iterator<Item = (Families, &'static str)> {
    FAMILIES.into_iter().flat_map(|families| {
        let mixed = families.vip6 != families.backend6;
        let modes = MODES
            .into_iter()
            .filter(move |(_, between)| *between || !mixed);
        modes.map(move |(mode, _)| (families, mode))
    })
}

/// That what came back to the client is from the VIP: a reset, or "port unreachable".
fn assert_refused(played: &Played, families: Families, transport: Transport, case: &str) {
    let [answer] = &played.frames[..] else {
        panic!("{case}: {} frames", played.frames.len())
    };
    assert_eq!(answer[..6], CLIENT_MAC, "{case}");
    let packet = SlicedPacket::from_ethernet(answer).unwrap();
    let source = match packet.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => ip.header().source_addr().to_string(),
        etherparse::NetSlice::Ipv6(ip) => ip.header().source_addr().to_string(),
        other => panic!("{case}: {other:?}"),
    };
    assert_eq!(source, families.vip(), "{case}");
    match (transport, packet.transport.as_ref().unwrap()) {
        (Transport::Syn, TransportSlice::Tcp(tcp)) => {
            assert!(tcp.rst() && tcp.ack(), "{case}");
            assert_eq!(tcp.acknowledgment_number(), 1_000 + 1 + 7, "{case}");
        }
        (Transport::Udp, TransportSlice::Icmpv4(icmp)) => {
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 3), "{case}");
        }
        (Transport::Udp, TransportSlice::Icmpv6(icmp)) => {
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (1, 4), "{case}");
            assert!(
                icmp.is_checksum_valid(packet_addresses(answer).0, packet_addresses(answer).1),
                "{case}"
            );
        }
        (_, other) => panic!("{case}: {other:?}"),
    }
}

fn packet_addresses(frame: &[u8]) -> ([u8; 16], [u8; 16]) {
    (
        frame[22..38].try_into().unwrap(),
        frame[38..54].try_into().unwrap(),
    )
}

#[test]
fn with_all_backends_down_flows_are_forwarded_dropped_or_refused_in_every_mode() {
    for (families, mode) in cases() {
        for (protocol, transport) in [("tcp", Transport::Syn), ("udp", Transport::Udp)] {
            for policy in ["", "forward", "drop", "reset"] {
                let case = format!("{families:?} {mode} {protocol} {policy}");
                let keys = match policy {
                    "" => String::new(),
                    policy => format!("all_down = \"{policy}\""),
                };
                let mut play = Play::new(&config(families, mode, protocol, &keys));
                let down = format!("backend force web {} down", families.name());
                play.frame(
                    0,
                    frame("192.0.2.9:9", "192.0.2.255:9", Transport::Udp).build(),
                );
                play.command(5.0, &down)
                    .frame(10, families.packet(transport));
                let played = play.run();
                match policy {
                    "" | "forward" => {
                        let [sent] = &played.frames[..] else {
                            panic!("{case}: {} frames, {}", played.frames.len(), played.report)
                        };
                        assert_eq!(sent[..6], BACKEND_MAC, "{case}");
                    }
                    "drop" => {
                        assert!(played.frames.is_empty(), "{case}");
                        assert_eq!(played.dropped("all_down"), 1, "{case}");
                    }
                    _ => assert_refused(&played, families, transport, &case),
                }
            }
        }
    }
}

#[test]
fn backends_taken_out_by_hand_are_no_fall_back_in_any_mode() {
    for (families, mode) in cases() {
        for (protocol, transport) in [("tcp", Transport::Syn), ("udp", Transport::Udp)] {
            for policy in ["forward", "drop", "reset"] {
                let case = format!("{families:?} {mode} {protocol} {policy}");
                let keys = format!("all_down = \"{policy}\"");
                let mut play = Play::new(&config(families, mode, protocol, &keys));
                let line = format!("backend disable web {}", families.name());
                play.frame(
                    0,
                    frame("192.0.2.9:9", "192.0.2.255:9", Transport::Udp).build(),
                );
                play.command(5.0, &line)
                    .frame(10, families.packet(transport));
                let played = play.run();
                if policy == "reset" {
                    assert_refused(&played, families, transport, &case);
                } else {
                    assert!(played.frames.is_empty(), "{case}");
                    assert_eq!(played.dropped("no_backend"), 1, "{case}");
                    assert_eq!(played.dropped("all_down"), 0, "{case}");
                }
            }
        }
    }
}

#[test]
fn a_ping_to_a_vip_is_answered_forwarded_or_dropped_whatever_the_families() {
    for (families, mode) in cases() {
        for policy in ["answer", "forward", "drop"] {
            if policy == "forward" && !mode.starts_with("dsr-") {
                continue; // Refused by the configuration; see below.
            }
            let case = format!("{families:?} {mode} {policy}");
            let keys = format!("ping = \"{policy}\"");
            let mut play = Play::new(&config(families, mode, "tcp", &keys));
            play.frame(0, families.ping());
            let played = play.run();
            match (policy, &played.frames[..]) {
                ("answer", [answer]) => {
                    assert_eq!(answer[..6], CLIENT_MAC, "{case}");
                    let packet = SlicedPacket::from_ethernet(answer).unwrap();
                    let echo = IcmpEchoHeader { id: 7, seq: 1 };
                    match packet.transport.unwrap() {
                        TransportSlice::Icmpv4(icmp) => assert_eq!(
                            icmp.icmp_type(),
                            etherparse::Icmpv4Type::EchoReply(echo),
                            "{case}"
                        ),
                        TransportSlice::Icmpv6(icmp) => assert_eq!(
                            icmp.icmp_type(),
                            etherparse::Icmpv6Type::EchoReply(echo),
                            "{case}"
                        ),
                        other => panic!("{case}: {other:?}"),
                    }
                }
                ("forward", [sent]) => {
                    assert_eq!(sent[..6], BACKEND_MAC, "{case}");
                    // Whatever is around it, the ping behind its checksum is untouched.
                    let ping = families.ping();
                    let inner = &ping[if families.vip6 { 58 } else { 38 }..];
                    assert!(sent.ends_with(inner), "{case}");
                }
                ("drop", []) => assert_eq!(played.report["packets"]["dropped"], 1, "{case}"),
                (_, frames) => panic!("{case}: {} frames, {}", frames.len(), played.report),
            }
        }
    }
}

#[test]
fn pings_are_answered_whatever_the_pools_health() {
    for families in [FAMILIES[0], FAMILIES[1]] {
        let mut play = Play::new(&config(families, "nat", "tcp", "all_down = \"drop\""));
        let line = format!("backend disable web {}", families.name());
        play.frame(0, families.ping())
            .command(5.0, &line)
            .frame(10, families.ping());
        assert_eq!(play.run().frames.len(), 2);
    }
}

#[test]
fn a_ping_cannot_be_forwarded_where_answers_come_through_weir() {
    for mode in ["nat", "full-nat"] {
        let text = config(FAMILIES[0], mode, "tcp", "ping = \"forward\"");
        let error = weir::config::Config::parse(std::path::Path::new("weir.toml"), &text);
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("forward") && error.contains("accepted: "),
            "{mode}: {error}"
        );
    }
}

#[test]
fn the_mss_is_clamped_where_any_protocol_is_taken_and_nothing_else_is_touched() {
    for (families, mode) in cases() {
        // Answers of any protocol cannot be told apart by ports; `full-nat` is for TCP and UDP.
        if mode == "full-nat" {
            continue;
        }
        let text = config(families, mode, "any", "mss_clamp = 1300")
            .replace("port = 80\n", "port = \"any\"\n");
        let syn = |mss: u16| {
            let link = PacketBuilder::ethernet2(CLIENT_MAC, WEIR_MAC);
            let options = [etherparse::TcpOptionElement::MaximumSegmentSize(mss)];
            let mut bytes = Vec::new();
            macro_rules! tcp {
                ($ip:expr) => {
                    $ip.tcp(1_000, 80, 5, 64_000)
                        .syn()
                        .options(&options)
                        .unwrap()
                        .write(&mut bytes, &[])
                        .unwrap()
                };
            }
            if families.vip6 {
                let [client, vip] = ["2001:db8:c::5", families.vip()]
                    .map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
                tcp!(link.ipv6(client, vip, 64));
            } else {
                tcp!(link.ipv4([203, 0, 113, 5], [198, 51, 100, 10], 64));
            }
            bytes
        };
        let mut play = Play::new(&text);
        play.frame(0, syn(1_460))
            .frame(1, syn(536))
            .frame(2, families.packet(Transport::Udp))
            .frame(3, families.packet(Transport::Ack));
        let played = play.run();
        let case = format!("{families:?} {mode}: {}", played.report);
        assert_eq!(played.frames.len(), 4, "{case}");
        let option = |frame: &[u8]| [frame[frame.len() - 2], frame[frame.len() - 1]];
        let [clamped, low] = [0, 1].map(|nth| u16::from_be_bytes(option(&played.frames[nth])));
        assert_eq!((clamped, low), (1_300, 536), "{case}");
        for frame in &played.frames[2..] {
            assert!(frame.ends_with(b"payload"), "{case}");
        }
    }
}
