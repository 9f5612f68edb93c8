//! What a backend behind `full-nat` is told of its client, between two TCP hosts of another author
//! (smoltcp's), over a path that loses, doubles and reorders.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

#[path = "support/stack.rs"]
mod stack;
mod support;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use stack::Stack;
use support::rig::Rig;
use support::{CLIENT_MAC, WEIR_MAC};
use weir_shm::counters::{self as layout, DropReason};

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];

fn config(vip: SocketAddr, backend: SocketAddr, how: &str) -> String {
    format!(
        r#"
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
[[service]]
name = "web"
table_size = 13
vip = "{}"
port = {}
protocol = "tcp"
forwarding = "full-nat"
snat_pool = ["10.0.0.5", "2001:db8:a::5"]
client_address = "{how}"
[[service.backend]]
address = "{}"
port = {}
"#,
        vip.ip(),
        vip.port(),
        backend.ip(),
        backend.port()
    )
}

/// The PROXY header as HAProxy's specification has it, section 2.2.
fn proxy_header(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    let mut header = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21".to_vec();
    match (client.ip(), vip.ip()) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            header.extend_from_slice(&[0x11, 0, 12]);
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&vip.octets());
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            header.extend_from_slice(&[0x21, 0, 36]);
            header.extend_from_slice(&client.octets());
            header.extend_from_slice(&vip.octets());
        }
        _ => panic!("one family"),
    }
    header.extend_from_slice(&client.port().to_be_bytes());
    header.extend_from_slice(&vip.port().to_be_bytes());
    header
}

/// What the path does to packets, in thousandths.
#[derive(Debug, Clone, Copy)]
struct Path {
    lost: u32,
    doubled: u32,
    late: u32,
    seed: u64,
}

const CLEAN: Path = Path {
    lost: 0,
    doubled: 0,
    late: 0,
    seed: 1,
};

struct Lab {
    rig: Rig,
    client: Stack,
    server: Stack,
    path: Path,
    state: u64,
    /// Frames on their way, by when they arrive and a running number.
    on_the_way: BTreeMap<(u64, u64), Vec<u8>>,
    number: u64,
    /// TCP payloads and options as they went to the backend.
    to_backend: Vec<Vec<u8>>,
}

impl Lab {
    fn draw(&mut self) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 32) as u32 % 1000
    }

    fn send(&mut self, now: u64, frame: &[u8]) {
        if self.draw() < self.path.lost {
            return;
        }
        let copies = if self.draw() < self.path.doubled {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let delay = if self.draw() < self.path.late { 30 } else { 2 };
            self.number += 1;
            self.on_the_way
                .insert((now + delay, self.number), frame.to_vec());
        }
    }

    fn step(&mut self, now: u64) {
        self.rig.now = 1_000_000_000 + now * 1_000_000;
        while let Some(entry) = self.on_the_way.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let frame = entry.remove();
            match frame[..6] {
                [2, 0, 0, 0, 0, 1] => {
                    for (_, out) in self.rig.play(0, &frame) {
                        assert!(out.len() <= 14 + 1500, "a frame of {} bytes", out.len());
                        if out[..6] == BACKEND_MAC {
                            self.to_backend.push(out.clone());
                        }
                        self.send(now, &out);
                    }
                }
                [2, 0, 0, 0, 0, 0xfe] => self.client.wire.arrived.push_back(frame[14..].to_vec()),
                _ => self.server.wire.arrived.push_back(frame[14..].to_vec()),
            }
        }
        self.client.poll(now);
        self.server.poll(now);
        let mut left = Vec::new();
        for (mac, stack) in [
            (CLIENT_MAC, &mut self.client),
            (BACKEND_MAC, &mut self.server),
        ] {
            for packet in stack.wire.leaving.drain(..) {
                let kind: [u8; 2] = if packet[0] >> 4 == 4 {
                    [0x08, 0]
                } else {
                    [0x86, 0xdd]
                };
                left.push([&WEIR_MAC[..], &mac, &kind, &packet].concat());
            }
        }
        for frame in left {
            self.send(now, &frame);
        }
    }
}

fn pattern(len: usize, step: usize) -> Vec<u8> {
    (0..len).map(|at| (at * step / 7) as u8).collect()
}

/// A client and its VIP.
fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    let (client, vip) = if v6 {
        ("[2001:db8:c::5]:4000", "[2001:db8:f::10]:80")
    } else {
        ("203.0.113.5:4000", "198.51.100.10:80")
    };
    (client.parse().unwrap(), vip.parse().unwrap())
}

/// What the server gets before the client's first byte.
fn header(v6: bool, how: &str) -> Vec<u8> {
    let (client, vip) = ends(v6);
    match how {
        "proxy-v2" => proxy_header(client, vip),
        _ => Vec::new(),
    }
}

/// A client that is about to send `up` bytes, and a server that is about to send `down`.
fn lab(v6: (bool, bool), how: &str, path: Path, up: usize, down: usize) -> Lab {
    let pick = |six: bool, v6: &str, v4: &str| -> SocketAddr {
        if six { v6 } else { v4 }.parse().unwrap()
    };
    let (client, vip) = ends(v6.0);
    let backend = pick(v6.1, "[2001:db8:a::11]:8080", "10.0.0.11:8080");
    let gateway = pick(v6.0, "[2001:db8:c::1]:1", "203.0.113.1:1").ip();
    let lan = pick(v6.1, "[2001:db8:a::1]:1", "10.0.0.1:1").ip();
    let closes_after = header(v6.0, how).len() + up;
    Lab {
        rig: Rig::new(&config(vip, backend, how)),
        client: Stack::client(client, gateway, vip, pattern(up, 3), down),
        server: Stack::server(backend, lan, pattern(down, 5), closes_after),
        path,
        state: path.seed | 1,
        on_the_way: BTreeMap::new(),
        number: 0,
        to_backend: Vec::new(),
    }
}

/// Plays a whole connection; gives what the server got, and the lab.
fn connection(v6: (bool, bool), how: &str, path: Path, up: usize, down: usize) -> (Vec<u8>, Lab) {
    let header = header(v6.0, how);
    let mut lab = lab(v6, how, path, up, down);
    let mut now = 0;
    let whole = |lab: &Lab| {
        lab.client.received.len() >= down && lab.server.received.len() >= header.len() + up
    };
    let mut rest = 5_000;
    while now < 600_000 && rest > 0 && !(lab.client.is_done() && lab.server.is_done()) {
        lab.step(now);
        now += 2;
        rest -= u64::from(whole(&lab)) * 2;
    }
    assert_eq!(lab.client.received, pattern(down, 5), "what the client got");
    let expected = [header, pattern(up, 3)].concat();
    let got = std::mem::take(&mut lab.server.received);
    assert_eq!(got.len(), expected.len(), "after {now} ms");
    assert!(got == expected, "what the server got");
    // smoltcp forgets a FIN that overtook data, and does not always send its own again.
    let closed = lab.client.is_done() && lab.server.is_done();
    let in_order = path.lost == 0 && path.late == 0;
    assert!(closed || !in_order, "closed after {now} ms");
    assert_eq!(lab.rig.dropped(DropReason::TooLarge), 0);
    (got, lab)
}

#[test]
fn a_server_that_speaks_first_knows_its_client_by_then() {
    for v6 in [(false, false), (false, true), (true, false), (true, true)] {
        let (_, lab) = connection(v6, "proxy-v2", CLEAN, 0, 10);
        // The second segment, which completes the handshake, carries the header.
        let second = &lab.to_backend[1];
        assert!(second.windows(12).any(|it| it == b"\r\n\r\n\0\r\nQUIT\n"));
    }
}

#[test]
fn large_transfers_both_ways_keep_every_byte() {
    for v6 in [(false, false), (false, true), (true, false), (true, true)] {
        for how in ["none", "proxy-v2", "toa"] {
            connection(v6, how, CLEAN, 300_000, 300_000);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn whatever_the_path_does_the_streams_are_whole(
        v6: (bool, bool), seed: u64, lost in 0u32..120, doubled in 0u32..100, late in 0u32..200,
        up in prop::sample::select(vec![0usize, 1, 1_400, 40_000]),
        down in prop::sample::select(vec![0usize, 1, 1_460, 40_000]),
        how in prop::sample::select(vec!["proxy-v2", "proxy-v2", "toa"]),
    ) {
        connection(v6, how, Path { lost, doubled, late, seed }, up, down);
    }
}

/// The options of a segment as it went to the backend, and whether it has payload.
fn options(frame: &[u8]) -> (Vec<u8>, bool) {
    let (at, end) = match frame[12] {
        0x08 => (
            34,
            14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])),
        ),
        _ => (
            54,
            54 + usize::from(u16::from_be_bytes([frame[18], frame[19]])),
        ),
    };
    let header = usize::from(frame[at + 12] >> 4) * 4;
    (frame[at + 20..at + header].to_vec(), end > at + header)
}

#[test]
fn toa_stands_in_the_handshakes_ack_and_the_first_data_and_nowhere_else() {
    for v6 in [(false, false), (true, true), (true, false)] {
        let (_, lab) = connection(v6, "toa", CLEAN, 5_000, 5_000);
        let expected: Vec<u8> = if v6.0 {
            let address: std::net::Ipv6Addr = "2001:db8:c::5".parse().unwrap();
            [&[254, 20, 0x0f, 0xa0][..], &address.octets()].concat()
        } else {
            vec![254, 8, 0x0f, 0xa0, 203, 0, 113, 5]
        };
        let told: Vec<bool> = lab
            .to_backend
            .iter()
            .map(|frame| options(frame).0.starts_with(&expected))
            .collect();
        assert!(
            !told[0] && told[1],
            "the SYN does not, the ACK does: {told:?}"
        );
        let first_data = lab
            .to_backend
            .iter()
            .position(|frame| options(frame).1)
            .unwrap();
        assert!(told[first_data]);
        assert_eq!(told.iter().filter(|told| **told).count(), 2, "{told:?}");
        assert_eq!(lab.rig.count(layout::TOA_NO_ROOM), 0);
    }
}

/// The numbers of a session with a PROXY header differ on both sides; a reset counts as the client
/// does, or a host of another author would not believe it.
#[test]
fn a_client_believes_the_reset_that_it_gets_when_its_backend_is_gone() {
    for v6 in [(false, false), (false, true), (true, false), (true, true)] {
        for how in ["none", "proxy-v2", "toa"] {
            let mut lab = lab(v6, how, CLEAN, 300_000, 300_000);
            let mut pool = lab.rig.control.pool().clone();
            pool.services[0].on_down = weir_shm::model::OnDown::Reset;
            let backend = &pool.services[0].backends[0];
            let mut other = backend.clone();
            let own = backend.name(&pool.services[0]);
            other.port = 8081;
            pool.services[0].backends.push(other);
            let mut now = 0;
            while lab.server.received.len() < 100_000 {
                lab.step(now);
                now += 2;
            }
            lab.rig.control.apply(lab.rig.now, 8, pool).unwrap();
            lab.rig.command(&format!("backend force web {own} down"));
            while !lab.client.is_done() {
                assert!(now < 60_000, "{v6:?} {how}");
                lab.step(now);
                now += 2;
            }
            assert!(lab.client.received.len() < 300_000);
            assert!(lab.rig.count(layout::RESETS) > 0);
        }
    }
}
