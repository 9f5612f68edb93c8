//! What goes to the kernel and what does not, by `weir replay`: each frame by its kind, the rates,
//! and that nothing of a VIP ever does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::process::Command;

use etherparse::{IpNumber, PacketBuilder};
use serde_json::Value;
use support::{CLIENT_MAC, Transport, WEIR_MAC, frame};
use weir::replay::capture::{CaptureReader, CaptureWriter};

const CONFIG: &str = r#"
[instance]
hash_key = "000102030405060708090a0b0c0d0e0f"
[engine]
flows_per_worker = 1000
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "2001:db8::2/64", "192.0.2.3/24"]
KERNEL
[[port]]
name = "lan"
device = "net_null1"
mac = "02:00:00:00:00:01"
vlan = 30
addresses = ["10.0.0.1/24"]
LAN-KERNEL
[[port]]
name = "other"
device = "net_null2"
mac = "02:00:00:00:00:01"
addresses = ["172.16.0.1/24"]
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 8080
[[service]]
name = "web6"
vip = "2001:db8:ff::10"
port = 80
protocol = "tcp"
forwarding = "dsr-l2"
[[service.backend]]
address = "2001:db8::11"
[[service]]
name = "shared"
vip = "192.0.2.3"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 8081
"#;

const START: u64 = 1_700_000_000_000_000_000;

/// What a replay says, and what it gave the kernel by each interface and sent.
struct Played {
    report: Value,
    kernel: Vec<Vec<u8>>,
    lan_kernel: Vec<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

impl Played {
    fn dropped(&self, reason: &str) -> u64 {
        self.report["drops"][reason].as_u64().unwrap_or(0)
    }

    fn count(&self, what: &str) -> u64 {
        self.report["packets"][what].as_u64().unwrap()
    }
}

fn with_kernel(rate: u32) -> String {
    CONFIG
        .replace("LAN-KERNEL", "kernel = \"tap-lan\"")
        .replace(
            "KERNEL",
            &format!("kernel = \"tap-wan\"\nkernel_rate = {rate}"),
        )
}

fn without_kernel() -> String {
    CONFIG.replace("LAN-KERNEL", "").replace("KERNEL", "")
}

type Timed = (u64, Vec<u8>);

/// Plays captures, each with the name of a port or an interface; times in microseconds.
fn play(config: &str, inputs: &[(&str, &[Timed])]) -> Played {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("weir.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(folder.path());
    command.args([
        "replay",
        "--config",
        "weir.toml",
        "--json",
        "--out",
        "out.pcap",
    ]);
    let has_kernel = config.contains("tap-wan");
    if has_kernel {
        command.args(["--out", "tap-wan=kernel.pcap", "--out", "tap-lan=lan.pcap"]);
    }
    for (name, frames) in inputs {
        let file = format!("{name}.in.pcap");
        let mut writer = CaptureWriter::create(&path(&file), true).unwrap();
        for (micros, bytes) in *frames {
            writer.write(START + micros * 1_000, bytes).unwrap();
        }
        writer.finish().unwrap();
        command.args(["--in", &format!("{name}={file}")]);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packets = &report["packets"];
    let count = |name: &str| packets[name].as_u64().unwrap();
    assert_eq!(
        count("received"),
        count("forwarded") + count("answered") + count("dropped"),
        "{report}"
    );
    let read = |name: &str| {
        if !path(name).exists() {
            return Vec::new();
        }
        let mut reader = CaptureReader::open(&path(name)).unwrap();
        std::iter::from_fn(|| reader.take())
            .map(|frame| frame.bytes)
            .collect()
    };
    Played {
        kernel: read("kernel.pcap"),
        lan_kernel: read("lan.pcap"),
        sent: read("out.pcap"),
        report,
    }
}

fn v4(destination_mac: [u8; 6], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, destination_mac)
        .ipv4([192, 0, 2, 1], to, 64)
        .write(&mut bytes, IpNumber(protocol), payload)
        .unwrap();
    bytes
}

fn icmp(to: [u8; 4], reply: bool, identifier: u16) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, WEIR_MAC).ipv4([192, 0, 2, 1], to, 64);
    let builder = if reply {
        builder.icmpv4_echo_reply(identifier, 1)
    } else {
        builder.icmpv4_echo_request(identifier, 1)
    };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"payload").unwrap();
    bytes
}

/// "Port unreachable" about a TCP segment or datagram of ours from `port`.
fn unreachable(protocol: u8, port: u16) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([192, 0, 2, 2], [192, 0, 2, 1], 64);
    let mut quote = Vec::new();
    if protocol == 6 {
        builder.tcp(port, 80, 1, 1).write(&mut quote, &[]).unwrap();
    } else {
        builder.udp(port, 80).write(&mut quote, &[]).unwrap();
    }
    let mut bytes = Vec::new();
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::Port,
    );
    PacketBuilder::ethernet2(CLIENT_MAC, WEIR_MAC)
        .ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64)
        .icmpv4(kind)
        .write(&mut bytes, &quote)
        .unwrap();
    bytes
}

/// An ICMPv6 message from a link-local address, whole with its checksum.
fn icmpv6(destination_mac: [u8; 6], to: &str, kind: u8, body: &[u8]) -> Vec<u8> {
    let (from, to): (std::net::Ipv6Addr, std::net::Ipv6Addr) =
        ("fe80::1".parse().unwrap(), to.parse().unwrap());
    let mut bytes = Vec::new();
    let four = [body[0], body[1], body[2], body[3]];
    let kind = etherparse::Icmpv6Type::Unknown {
        type_u8: kind,
        code_u8: 0,
        bytes5to8: four,
    };
    PacketBuilder::ethernet2(CLIENT_MAC, destination_mac)
        .ipv6(from.octets(), to.octets(), 255)
        .icmpv6(kind)
        .write(&mut bytes, &body[4..])
        .unwrap();
    bytes
}

fn arp(operation: u8, from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let destination = if operation == 1 { [0xff; 6] } else { WEIR_MAC };
    let mut bytes = [
        &destination[..],
        &CLIENT_MAC,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation],
    ]
    .concat();
    bytes.extend(CLIENT_MAC);
    bytes.extend(from);
    bytes.extend(if operation == 1 { [0; 6] } else { WEIR_MAC });
    bytes.extend(to);
    bytes.resize(60, 0);
    bytes
}

fn tcp(from: &str, to: &str) -> Vec<u8> {
    frame(from, to, Transport::Syn).build()
}

/// The link-local address of the ports' MAC.
const LINK_LOCAL: &str = "[fe80::ff:fe00:1]:179";
const OSPF_MAC: [u8; 6] = [1, 0, 0x5e, 0, 0, 5];

/// Frames for the kernel, each with the reason for which it is dropped where there is no way.
fn kernels() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let fragment = {
        let mut bytes = v4(WEIR_MAC, [192, 0, 2, 2], 17, &[7; 64]);
        bytes[20] = 0x20;
        bytes[24..26].fill(0);
        let sum = weir_engine::wire::checksum::of(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum);
        bytes
    };
    let udp = |from: &str, to: &str| frame(from, to, Transport::Udp).build();
    let client6 = "[2001:db8::9]:50000";
    vec![
        ("BGP", tcp("192.0.2.1:50000", "192.0.2.2:179"), "no_service"),
        (
            "SSH",
            tcp("203.0.113.5:50000", "192.0.2.2:22"),
            "no_service",
        ),
        (
            "an answer",
            tcp("192.0.2.1:179", "192.0.2.2:60999"),
            "no_service",
        ),
        (
            "a backend's",
            tcp("10.0.0.11:8080", "192.0.2.2:40000"),
            "no_service",
        ),
        (
            "BFD",
            udp("192.0.2.1:49152", "192.0.2.2:3784"),
            "no_service",
        ),
        ("BGP, IPv6", tcp(client6, "[2001:db8::2]:179"), "no_service"),
        (
            "link-local",
            tcp("[fe80::1]:50000", LINK_LOCAL),
            "no_service",
        ),
        (
            "OSPF",
            v4(WEIR_MAC, [192, 0, 2, 2], 89, &[2; 44]),
            "unknown_protocol",
        ),
        (
            "OSPF hello",
            v4(OSPF_MAC, [224, 0, 0, 5], 89, &[2; 44]),
            "l2_multicast",
        ),
        (
            "an echo's answer",
            icmp([192, 0, 2, 2], true, 60_999),
            "icmp_unsupported",
        ),
        ("a TCP error", unreachable(6, 179), "icmp_unsupported"),
        ("a UDP error", unreachable(17, 40_000), "icmp_unsupported"),
        ("a piece", fragment, "no_service"),
        (
            "MLD",
            icmpv6([0x33, 0x33, 0, 0, 0, 1], "ff02::1", 130, &[0; 24]),
            "not_ours",
        ),
    ]
}

/// Frames that are not the kernel's, each with the reason for which it is dropped, if it is.
fn others() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let udp = |from: &str, to: &str| frame(from, to, Transport::Udp).build();
    let broadcast = frame("192.0.2.1:68", "255.255.255.255:67", Transport::Udp)
        .macs(CLIENT_MAC, [0xff; 6])
        .build();
    let router = icmpv6([0x33, 0x33, 0, 0, 0, 1], "ff02::1", 134, &[0; 12]);
    vec![
        (
            "a VIP's other port",
            tcp("203.0.113.5:1000", "198.51.100.10:22"),
            Some("no_service"),
        ),
        (
            "a VIP, IPv6",
            tcp("[2001:db8::9]:1", "[2001:db8:ff::10]:22"),
            Some("no_service"),
        ),
        (
            "an own address that is a VIP",
            tcp("203.0.113.5:1000", "192.0.2.3:22"),
            Some("no_service"),
        ),
        (
            "OSPF to a VIP",
            v4(WEIR_MAC, [198, 51, 100, 10], 89, &[2; 44]),
            Some("unknown_protocol"),
        ),
        (
            "a check's answer",
            tcp("192.0.2.1:80", "192.0.2.2:61000"),
            Some("no_service"),
        ),
        (
            "a check's echo",
            icmp([192, 0, 2, 2], true, 61_000),
            Some("icmp_unsupported"),
        ),
        (
            "a check's error",
            unreachable(6, 61_000),
            Some("icmp_unsupported"),
        ),
        ("a ping", icmp([192, 0, 2, 2], false, 7), None),
        ("a VIP's ping", icmp([198, 51, 100, 10], false, 7), None),
        (
            "somebody else's",
            tcp("192.0.2.1:1000", "192.0.2.77:22"),
            Some("not_ours"),
        ),
        (
            "a wider group",
            v4([1, 0, 0x5e, 0, 1, 1], [224, 0, 1, 1], 17, &[0; 20]),
            Some("udp_malformed"),
        ),
        (
            "a wider group's datagram",
            udp_to_group(),
            Some("l2_multicast"),
        ),
        ("a broadcast", broadcast, Some("l2_multicast")),
        ("a router's advertisement", router, Some("ndp_not_ours")),
        (
            "a cut segment",
            v4(WEIR_MAC, [192, 0, 2, 2], 6, &[0; 10]),
            Some("tcp_malformed"),
        ),
        (
            "balanced",
            tcp("203.0.113.5:1000", "198.51.100.10:80"),
            None,
        ),
        (
            "an answer of a backend",
            udp("10.0.0.11:53", "203.0.113.5:1000"),
            Some("not_ours"),
        ),
    ]
}

fn udp_to_group() -> Vec<u8> {
    frame("192.0.2.1:5353", "224.0.1.1:5353", Transport::Udp)
        .macs(CLIENT_MAC, [1, 0, 0x5e, 0, 1, 1])
        .build()
}

#[test]
fn what_weir_does_not_speak_goes_to_the_kernel_as_it_came() {
    let config = with_kernel(10_000);
    for (what, bytes, _) in kernels() {
        let played = play(&config, &[("wan", &[(0, bytes.clone())])]);
        assert_eq!(played.kernel, [bytes], "{what}: {}", played.report);
        assert_eq!(played.count("answered"), 1, "{what}");
        assert_eq!(played.report["kernel"]["to_kernel"], 1, "{what}");
        assert!(played.sent.is_empty(), "{what}");
    }
}

#[test]
fn without_a_way_to_the_kernel_each_is_dropped_for_its_reason() {
    let without = without_kernel();
    for (what, bytes, reason) in kernels() {
        let played = play(&without, &[("wan", &[(0, bytes.clone())])]);
        assert_eq!(played.dropped(reason), 1, "{what}: {}", played.report);
        assert_eq!(played.report.get("kernel"), None);
        // By a port that has none, beside one that has, it is the same.
        let played = play(&with_kernel(10_000), &[("other", &[(0, bytes)])]);
        assert_eq!(
            (played.count("dropped"), played.kernel.len()),
            (1, 0),
            "{what}"
        );
    }
}

#[test]
fn what_is_weirs_never_reaches_the_kernel() {
    let config = with_kernel(10_000);
    for (what, bytes, reason) in others() {
        let played = play(&config, &[("wan", &[(0, bytes)])]);
        assert!(played.kernel.is_empty(), "{what}: {}", played.report);
        match reason {
            Some(reason) => assert_eq!(played.dropped(reason), 1, "{what}: {}", played.report),
            None => assert_eq!(played.count("dropped"), 0, "{what}: {}", played.report),
        }
    }
}

#[test]
fn the_kernel_hears_of_neighbours_what_weir_hears() {
    let config = with_kernel(10_000);
    let advert = {
        let target: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
        let option = [&[2, 1][..], &CLIENT_MAC].concat();
        let body = [&[0x60, 0, 0, 0][..], &target.octets(), &option].concat();
        icmpv6(WEIR_MAC, "2001:db8::2", 136, &body)
    };
    for (bytes, copied) in [
        (arp(2, [192, 0, 2, 1], [192, 0, 2, 2]), true),
        (arp(1, [192, 0, 2, 1], [192, 0, 2, 1]), true),
        (advert, true),
        // A request is answered by weir, for both.
        (arp(1, [192, 0, 2, 1], [192, 0, 2, 2]), false),
        (arp(2, [192, 0, 2, 1], [192, 0, 2, 9]), false),
    ] {
        let played = play(&config, &[("wan", &[(0, bytes.clone())])]);
        let expected = if copied { vec![bytes] } else { Vec::new() };
        assert_eq!(played.kernel, expected, "{}", played.report);
        assert_eq!(played.count("answered") + played.count("dropped"), 1);
    }
}

#[test]
fn the_interface_is_on_the_ports_vlan() {
    let config = with_kernel(10_000);
    let segment = |vlan: Option<u16>| {
        let built = frame("10.0.0.7:50000", "10.0.0.1:22", Transport::Syn);
        vlan.map_or(built.clone(), |vlan| built.vlan(vlan)).build()
    };
    let answer = frame("10.0.0.1:22", "10.0.0.7:50000", Transport::Ack).macs(WEIR_MAC, CLIENT_MAC);
    let inputs = [(0, segment(Some(30)))];
    let kernel = [(1, answer.build())];
    let played = play(&config, &[("lan", &inputs), ("tap-lan", &kernel)]);
    assert_eq!(played.lan_kernel, [segment(None)], "{}", played.report);
    assert_eq!(played.sent, [answer.vlan(30).build()]);
    assert_eq!(played.report["kernel"]["from_kernel"], 1);
    assert_eq!(played.kernel, Vec::<Vec<u8>>::new());
}

#[test]
fn a_flood_is_cut_to_the_rate_and_the_kernels_connections_stay_whole() {
    let config = with_kernel(1_000);
    let session = frame("192.0.2.1:50000", "192.0.2.2:179", Transport::Ack).build();
    let kernels = frame("192.0.2.2:179", "192.0.2.1:50000", Transport::Ack)
        .macs(WEIR_MAC, CLIENT_MAC)
        .build();
    // 50,000 a second for a second, from everywhere, with a frame of the session every 5 ms.
    let mut frames = Vec::new();
    for n in 0..50_000u64 {
        let source = format!("11.{}.{}.{}:1000", n % 251, n / 251 % 251, n / 7 % 251);
        frames.push((1_000 + n * 20, tcp(&source, "192.0.2.2:179")));
        if n % 250 == 0 {
            frames.push((1_000 + n * 20, session.clone()));
        }
    }
    let played = play(&config, &[("wan", &frames), ("tap-wan", &[(0, kernels)])]);
    let of_session = played
        .kernel
        .iter()
        .filter(|frame| **frame == session)
        .count();
    assert_eq!(of_session, 200, "{}", played.report);
    let passed = played.kernel.len() as u64;
    assert!((900..1_100).contains(&passed), "{passed}");
    assert_eq!(played.dropped("kernel_rate"), 50_200 - passed);
    let again = play(&config, &[("wan", &frames)]);
    assert!(
        again
            .kernel
            .iter()
            .filter(|frame| **frame == session)
            .count()
            < 50
    );
}
