//! Every form of VIP: which of two that overlap wins, which pairs are refused, and what packets go
//! through.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::path::Path;

use etherparse::PacketBuilder;
use support::workers::{Went, Workers, config};
use support::{CLIENT_MAC, Transport, WEIR_MAC, frame};
use weir::config::Config;
use weir_shm::counters::DropReason;

/// A service by its form, with one server of its own.
fn form(name: &str, form: &str, mode: &str, server: u8) -> String {
    let words: Vec<&str> = form.split(' ').collect();
    let [vip, port, protocol] = words[..] else {
        panic!("{form}")
    };
    let address = if vip.contains(':') {
        format!("2001:db8:1::{server}")
    } else {
        format!("10.0.0.{server}")
    };
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = \"{port}\"\n\
         protocol = \"{protocol}\"\nforwarding = \"{mode}\"\n\
         [[service.backend]]\naddress = \"{address}\"\n"
    )
}

/// Forms that match TCP to 198.51.100.10:8080, from the most specific to the least.
const FORMS: [&str; 12] = [
    "198.51.100.10 8080 tcp",
    "198.51.100.10 8000-8100 tcp",
    "198.51.100.10 any tcp",
    "198.51.100.10 any any",
    "198.51.100.0/28 8080 tcp",
    "198.51.100.0/28 8000-8100 tcp",
    "198.51.100.0/28 any tcp",
    "198.51.100.0/28 any any",
    "198.51.100.0/24 8080 tcp",
    "198.51.100.0/24 8000-8100 tcp",
    "198.51.100.0/24 any tcp",
    "198.51.100.0/24 any any",
];

#[test]
fn of_every_pair_of_forms_the_more_specific_wins_whatever_the_order_of_the_file() {
    let packet = frame("203.0.113.5:1000", "198.51.100.10:8080", Transport::Syn).build();
    for (specific, one) in FORMS.iter().enumerate() {
        for other in &FORMS[specific + 1..] {
            let services = [
                form("one", one, "dsr-l2", 101),
                form("other", other, "dsr-l2", 102),
            ];
            for text in [services.concat(), [&*services[1], &*services[0]].concat()] {
                let mut workers = Workers::new(1, &text);
                assert_eq!(
                    workers.play(0, &packet).server(),
                    Some(101),
                    "{one} over {other}"
                );
            }
        }
    }
}

/// A form as an oracle reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    /// Bits of the prefix.
    prefix: u8,
    ports: Ports,
    protocol: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ports {
    One,
    Range(u16, u16),
    Any,
}

impl Form {
    fn every() -> Vec<Self> {
        let mut all = Vec::new();
        for prefix in [32, 28, 24] {
            let form = |ports, protocol| Self {
                prefix,
                ports,
                protocol,
            };
            for protocol in ["tcp", "udp", "quic"] {
                for ports in [
                    Ports::One,
                    Ports::Range(8_000, 8_100),
                    Ports::Range(8_080, 8_200),
                    Ports::Any,
                ] {
                    all.push(form(ports, protocol));
                }
            }
            all.push(form(Ports::Any, "any"));
        }
        all
    }

    fn written(self) -> String {
        let vip = match self.prefix {
            32 => "198.51.100.10".to_owned(),
            bits => format!("198.51.100.0/{bits}"),
        };
        let port = match self.ports {
            Ports::One => "8080".to_owned(),
            Ports::Range(first, last) => format!("{first}-{last}"),
            Ports::Any => "any".to_owned(),
        };
        format!("{vip} {port} {}", self.protocol)
    }

    /// Whether it matches packets of `tcp` or `udp` to 198.51.100.10:8080.
    fn matches(self, protocol: &str) -> bool {
        match self.protocol {
            "any" => true,
            "quic" => protocol == "udp",
            own => protocol == own,
        }
    }

    /// The longer the more specific; then the port, then the protocol.
    fn rank(self) -> (u8, u8, u8) {
        let ports = match self.ports {
            Ports::One => 2,
            Ports::Range(..) => 1,
            Ports::Any => 0,
        };
        (self.prefix, ports, u8::from(self.protocol != "any"))
    }

    /// What is said of another behind it that it cannot be told from.
    fn clash(self, other: Self) -> Option<&'static str> {
        let same_packets = ["tcp", "udp"]
            .iter()
            .any(|protocol| self.matches(protocol) && other.matches(protocol));
        let is_any = |form: Self| form.protocol == "any";
        if self.prefix != other.prefix || !same_packets || is_any(self) != is_any(other) {
            return None;
        }
        match (self.ports, other.ports) {
            (one, two) if one == two => Some("which service \"one\" has already"),
            (Ports::Range(..), Ports::Range(..)) => Some("ports overlap those of \"one\""),
            _ => None,
        }
    }
}

#[test]
fn every_pair_of_forms_of_every_protocol_has_a_winner_or_is_refused() {
    let forms = Form::every();
    let packets = [("tcp", Transport::Syn), ("udp", Transport::Udp)].map(|(name, kind)| {
        (
            name,
            frame("203.0.113.5:1000", "198.51.100.10:8080", kind).build(),
        )
    });
    let (mut refused, mut told) = (0, 0);
    for (nth, one) in forms.iter().enumerate() {
        for other in &forms[nth..] {
            let services = [
                form("one", &one.written(), "dsr-l2", 101),
                form("other", &other.written(), "dsr-l2", 102),
            ]
            .map(|text| text.replace("forwarding", "table_size = 13\nforwarding"));
            let case = format!("{}, {}", one.written(), other.written());
            if let Some(found) = one.clash(*other) {
                let text = config(&services.concat());
                let error = Config::parse(Path::new("weir.toml"), &text)
                    .unwrap_err()
                    .to_string();
                assert!(
                    error.contains(found) && error.contains("accepted: "),
                    "{case}: {error}"
                );
                refused += 1;
                continue;
            }
            let mut workers = Workers::new(1, &services.concat());
            for (protocol, packet) in &packets {
                let winner = [(101, one), (102, other)]
                    .into_iter()
                    .filter(|(_, form)| form.matches(protocol))
                    .max_by_key(|(_, form)| form.rank())
                    .map(|(server, _)| server);
                assert_eq!(
                    workers.play(0, packet).server(),
                    winner,
                    "{case}: {protocol}"
                );
            }
            told += 1;
        }
    }
    // Of 39 forms: each with itself, ranges that overlap, and `udp` beside `quic`.
    assert_eq!((refused, told), (3 * (13 + 3 + 4 + 2), 39 * 40 / 2 - 66));
}

#[test]
fn forms_that_cannot_be_told_apart_are_refused() {
    for (one, other, found) in [
        (
            "198.51.100.10 80 tcp",
            "198.51.100.10 80 tcp",
            "which service \"one\" has already",
        ),
        (
            "198.51.100.10 any tcp",
            "198.51.100.10 any tcp",
            "which service \"one\" has already",
        ),
        (
            "198.51.100.10 any any",
            "198.51.100.10 any any",
            "which service \"one\" has already",
        ),
        (
            "198.51.100.10 443 udp",
            "198.51.100.10 443 quic",
            "which service \"one\" has already",
        ),
        (
            "198.51.100.0/28 80 tcp",
            "198.51.100.0/28 80 tcp",
            "which service \"one\" has already",
        ),
        (
            "198.51.100.10 1-9 tcp",
            "198.51.100.10 1-9 tcp",
            "which service \"one\" has already",
        ),
        (
            "198.51.100.10 1-9 tcp",
            "198.51.100.10 9-12 tcp",
            "ports overlap those of \"one\", 1-9",
        ),
        (
            "198.51.100.10 1-9 tcp",
            "198.51.100.10 2-3 tcp",
            "ports overlap those of \"one\", 1-9",
        ),
        (
            "2001:db8::/64 1-9 udp",
            "2001:db8::/64 5-20 udp",
            "ports overlap those of \"one\", 1-9",
        ),
    ] {
        let text = config(
            &[
                form("one", one, "dsr-l2", 101),
                form("other", other, "dsr-l2", 102),
            ]
            .concat(),
        );
        let error = Config::parse(Path::new("weir.toml"), &text)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(found) && error.contains("accepted: "),
            "{one}, {other}: {error}"
        );
    }
    for (one, other) in [
        ("198.51.100.10 1-9 tcp", "198.51.100.10 10-12 tcp"),
        ("198.51.100.10 1-9 tcp", "198.51.100.10 1-9 udp"),
        ("198.51.100.10 80 tcp", "198.51.100.10 80 udp"),
        ("198.51.100.0/28 80 tcp", "198.51.100.0/29 80 tcp"),
        ("2001:db8::/64 any any", "2001:db8::/65 any any"),
    ] {
        let text = config(
            &[
                form("one", one, "dsr-l2", 101),
                form("other", other, "dsr-l2", 102),
            ]
            .concat(),
        );
        Config::parse(Path::new("weir.toml"), &text)
            .unwrap_or_else(|e| panic!("{one}, {other}: {e}"));
    }
}

#[test]
fn forms_that_make_no_sense_are_refused_with_what_is_accepted() {
    for (text, parts) in [
        (
            form("a", "198.51.100.0/28 80 tcp", "nat", 101),
            &["198.51.100.0/28", "\"full-nat\""][..],
        ),
        (
            form("a", "198.51.100.5/28 80 tcp", "dsr-l2", 101),
            &["\"198.51.100.0/28\""],
        ),
        (
            form("a", "198.51.100.0/33 80 tcp", "dsr-l2", 101),
            &["198.51.100.0/33", "prefix"],
        ),
        (
            form("a", "198.51.100.10 90-80 tcp", "dsr-l2", 101),
            &["ends before it begins"],
        ),
        (
            form("a", "198.51.100.10 0-80 tcp", "dsr-l2", 101),
            &["\"8000-8100\""],
        ),
        (
            form("a", "198.51.100.10 80 any", "dsr-l2", 101),
            &["protocol = \"any\"", "\"any\""],
        ),
        (
            form("a", "10.0.0.96/28 80 tcp", "dsr-l2", 101),
            &["10.0.0.101", "in 10.0.0.96/28"],
        ),
        (form("a", "0.0.0.0/0 80 tcp", "dsr-l2", 101), &["0.0.0.0/0"]),
        (
            [
                form("a", "198.51.100.10 any tcp", "nat", 101),
                form("b", "198.51.100.11 80 tcp", "nat", 101),
            ]
            .concat(),
            &["\"full-nat\"", "10.0.0.101:80"],
        ),
        (
            [
                form("a", "198.51.100.10 any any", "nat", 101),
                form("b", "198.51.100.11 5-9 udp", "nat", 101),
            ]
            .concat(),
            &["\"full-nat\"", "10.0.0.101"],
        ),
    ] {
        let error = Config::parse(Path::new("weir.toml"), &config(&text))
            .unwrap_err()
            .to_string();
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    // Two ranges that share no port share a server without doubt.
    let fine = [
        form("a", "198.51.100.10 1-9 tcp", "nat", 101),
        form("b", "198.51.100.11 10-20 tcp", "nat", 101),
    ];
    Config::parse(Path::new("weir.toml"), &config(&fine.concat())).unwrap();
}

#[test]
fn a_range_takes_its_ports_and_a_prefix_its_addresses_and_no_others() {
    let text = [
        form("ports", "198.51.100.10 8000-8100 tcp", "dsr-l2", 101),
        form("net", "198.51.100.32/28 443 udp", "dsr-l2", 102),
        form("net6", "2001:db8::/120 any tcp", "dsr-l2", 103),
    ]
    .concat();
    let mut workers = Workers::new(1, &text);
    for (to, transport, server) in [
        ("198.51.100.10:7999", Transport::Syn, None),
        ("198.51.100.10:8000", Transport::Syn, Some(101)),
        ("198.51.100.10:8100", Transport::Syn, Some(101)),
        ("198.51.100.10:8101", Transport::Syn, None),
        ("198.51.100.10:8050", Transport::Udp, None),
        ("198.51.100.31:443", Transport::Udp, None),
        ("198.51.100.32:443", Transport::Udp, Some(102)),
        ("198.51.100.47:443", Transport::Udp, Some(102)),
        ("198.51.100.48:443", Transport::Udp, None),
        ("198.51.100.40:444", Transport::Udp, None),
        ("[2001:db8::ff]:1", Transport::Syn, Some(103)),
        ("[2001:db8::100]:1", Transport::Syn, None),
    ] {
        let from = if to.starts_with('[') {
            "[2001:db8:9::1]:1000"
        } else {
            "203.0.113.5:1000"
        };
        let went = workers.play(0, &frame(from, to, transport).build());
        assert_eq!(went.server(), server, "{to}");
    }
    assert_eq!(workers.dropped(DropReason::NoService), 4);
    assert_eq!(workers.dropped(DropReason::NotOurs), 3);
}

#[test]
fn nat_keeps_the_port_of_a_range_and_gives_answers_their_vip_back() {
    let text = [
        form("low", "198.51.100.10 8000-8100 tcp", "nat", 101),
        form("high", "198.51.100.11 9000-9100 tcp", "nat", 101),
    ]
    .concat();
    let mut workers = Workers::new(1, &text);
    for (vip, port) in [("198.51.100.10", 8_042), ("198.51.100.11", 9_042)] {
        let syn = frame("203.0.113.5:1000", &format!("{vip}:{port}"), Transport::Syn).build();
        let Went::To(101, sent) = workers.play(0, &syn) else {
            panic!("{vip}")
        };
        assert_eq!(sent[30..34], [10, 0, 0, 101]);
        assert_eq!(sent[36..38], (port as u16).to_be_bytes());
        let back = frame(
            &format!("10.0.0.101:{port}"),
            "203.0.113.5:1000",
            Transport::Ack,
        )
        .build();
        let Went::To(0xfe, sent) = workers.play(0, &back) else {
            panic!("{vip} back")
        };
        let vip: std::net::Ipv4Addr = vip.parse().unwrap();
        assert_eq!(sent[26..30], vip.octets());
        assert_eq!(sent[34..36], (port as u16).to_be_bytes());
    }
    let stray = frame("10.0.0.101:7000", "203.0.113.5:1000", Transport::Ack).build();
    assert_eq!(workers.play(0, &stray), Went::Nowhere);
}

/// A GRE packet (IP protocol 47), its payload no concern of weir's.
fn gre(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let step = PacketBuilder::ethernet2(CLIENT_MAC, WEIR_MAC).ipv4(from, to, 64);
    let mut bytes = Vec::new();
    step.write(&mut bytes, 47.into(), &[0, 0, 8, 0, 0x45])
        .unwrap();
    bytes
}

#[test]
fn any_protocol_is_told_by_addresses_and_all_of_a_clients_packets_go_one_way() {
    let mut text = form("all", "198.51.100.10 any any", "dsr-l2", 101);
    for server in 102..=110 {
        text += &format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\n");
    }
    text += &form("web", "198.51.100.10 80 tcp", "dsr-l2", 120);
    let mut workers = Workers::new(1, &text);
    let mut used = std::collections::HashSet::new();
    for host in 0..60 {
        let from = |port: u16| format!("203.0.113.{host}:{port}");
        let first = workers
            .play(0, &gre([203, 0, 113, host], [198, 51, 100, 10]))
            .server();
        assert!(first.is_some());
        used.insert(first);
        for (port, to, transport) in [
            (500, "198.51.100.10:500", Transport::Udp),
            (501, "198.51.100.10:4500", Transport::Udp),
            (1_000, "198.51.100.10:1723", Transport::Syn),
            (1_000, "198.51.100.10:1723", Transport::Fin),
            (1_001, "198.51.100.10:1723", Transport::Rst),
            (1_002, "198.51.100.10:1723", Transport::Syn),
        ] {
            let went = workers.play(0, &frame(&from(port), to, transport).build());
            assert_eq!(went.server(), first, "{to}");
        }
        // The more specific service has its own.
        let web = workers.play(
            0,
            &frame(&from(9), "198.51.100.10:80", Transport::Syn).build(),
        );
        assert_eq!(web.server(), Some(120));
    }
    assert!(used.len() > 7);
    // One entry for each client, and one for each web flow.
    let tick = weir::conntrack::Tick::from_nanos(workers.now);
    assert_eq!(workers.control.flows(tick).iter().sum::<u64>(), 120);
    let elsewhere = gre([203, 0, 113, 1], [198, 51, 100, 11]);
    assert_eq!(workers.play(0, &elsewhere), Went::Nowhere);
    assert_eq!(workers.dropped(DropReason::UnknownProtocol), 1);
}

#[test]
fn any_protocol_goes_through_nat_and_back() {
    let mut workers = Workers::new(1, &form("all", "198.51.100.10 any any", "nat", 101));
    let Went::To(101, sent) = workers.play(0, &gre([203, 0, 113, 5], [198, 51, 100, 10])) else {
        panic!("not sent")
    };
    let ip = etherparse::Ipv4HeaderSlice::from_slice(&sent[14..])
        .unwrap()
        .to_header();
    assert_eq!((ip.destination, ip.time_to_live), ([10, 0, 0, 101], 63));
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
    assert_eq!(sent[34..], [0, 0, 8, 0, 0x45]);
    let Went::To(0xfe, back) = workers.play(0, &gre([10, 0, 0, 101], [203, 0, 113, 5])) else {
        panic!("not given back")
    };
    let ip = etherparse::Ipv4HeaderSlice::from_slice(&back[14..])
        .unwrap()
        .to_header();
    assert_eq!((ip.source, ip.time_to_live), ([198, 51, 100, 10], 63));
    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
}

#[test]
fn own_addresses_are_no_part_of_a_prefix() {
    let mut workers = Workers::new(1, &form("net", "192.0.2.0/28 any tcp", "dsr-l2", 101));
    let to = |to: &str| frame("203.0.113.5:1000", to, Transport::Syn).build();
    assert_eq!(workers.play(0, &to("192.0.2.3:80")).server(), Some(101));
    assert_eq!(workers.play(0, &to("192.0.2.2:80")), Went::Nowhere);
    assert_eq!(workers.dropped(DropReason::NoService), 1);
}

#[test]
fn backends_of_several_ports_are_named_by_their_address_and_prefixes_as_they_are_written() {
    let mut workers = Workers::new(1, "");
    for line in [
        "service add range --vip 198.51.100.10 --port 8000-8100 --protocol tcp --forwarding dsr-l2 --backend 10.0.0.101",
        "service add all --vip 198.51.100.10 --port any --protocol any --forwarding nat",
        "service add net --vip 198.51.100.0/28 --port 80 --protocol tcp --forwarding dsr-l2 --scheduler ring --ring-vnodes 40",
        "service add six --vip 2001:db8::/64 --port any --protocol udp --forwarding dsr-l2 --affinity source/64 --affinity-timeout 10m",
        "backend add all 10.0.0.102 --max-flows 7",
        "backend add net 10.0.0.103:80",
        "backend drain range 10.0.0.101 --force",
        "backend add six 2001:db8:1::104",
    ] {
        workers.command(line);
    }
    let pool = workers.control.pool();
    let endpoint = |name: &str| pool.service(name).unwrap().endpoint();
    assert_eq!(endpoint("range"), "198.51.100.10:8000-8100");
    assert_eq!(endpoint("all"), "198.51.100.10:any");
    assert_eq!(endpoint("net"), "198.51.100.0/28:80");
    assert_eq!(endpoint("six"), "[2001:db8::/64]:any");
    for (line, part) in [
        (
            "backend add range 10.0.0.105:80",
            "the address alone, 10.0.0.105",
        ),
        (
            "service add x --vip 198.51.100.0/28 --port 80 --protocol tcp --forwarding nat",
            "full-nat",
        ),
        (
            "service add x --vip 198.51.100.10 --port 8050-8200 --protocol tcp --forwarding dsr-l2",
            "overlap",
        ),
        (
            "service add x --vip 198.51.100.12 --port 80 --protocol any --forwarding dsr-l2",
            "\"any\"",
        ),
        (
            "service add x --vip 198.51.100.12 --port 80 --protocol tcp --forwarding nat --ring-vnodes 3",
            "\"ring\" only",
        ),
        (
            "service add x --vip 198.51.100.12 --port 80 --protocol udp --forwarding nat --hash 5-tuple+isn",
            "\"tcp\" only",
        ),
    ] {
        let error = workers.try_command(line).unwrap_err();
        assert!(error.contains(part), "{line}: {error}");
    }
}
