//! QUIC through `weir replay`: a connection ID leads to its backend wherever it comes from, and what has none is
//! steered as UDP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

#[path = "support/play.rs"]
mod play;
mod support;

use std::collections::BTreeMap;

use etherparse::SlicedPacket;
use serde_json::Value;
use support::{Transport, frame};
use weir::quic::encode::{Encoder, FirstOctet};
use weir_shm::model::{QuicConfig, QuicKey, ServerId};

const KEY: &str = "8f95f09245765f80256934e50c66207f";
const BACKENDS: u8 = 4;

/// Three configurations side by side: plaintext as AWS's NLB reads it, one AES block, four passes.
fn configs() -> [QuicConfig; 3] {
    let config = |rotation, server_id_length, nonce_length, key: Option<&str>| QuicConfig {
        rotation,
        server_id_length,
        nonce_length,
        key: key.map(|key| key.parse::<QuicKey>().unwrap()),
    };
    [
        config(0, 8, 4, None),
        config(1, 8, 8, Some(KEY)),
        config(5, 3, 4, Some(KEY)),
    ]
}

fn server_id(config: &QuicConfig, backend: u8) -> ServerId {
    let mut octets = [0xa0 + config.rotation; 15];
    octets[2] = backend;
    ServerId::new(&octets[..usize::from(config.server_id_length)]).unwrap()
}

/// The backend of this number, from 1.
fn address(backend: u8) -> String {
    format!("10.0.0.{}", 10 + backend)
}

/// Backend 4 has no server ID.
fn backend(number: u8) -> String {
    let mut text = format!("[[service.backend]]\naddress = \"{}\"\n", address(number));
    if number < BACKENDS {
        let ids = configs()
            .map(|config| format!("{} = \"{}\"", config.rotation, server_id(&config, number)));
        text += &format!("server_ids = {{ {} }}\n", ids.join(", "));
    }
    text
}

fn config(protocol: &str) -> String {
    let mut text = r#"
[instance]
hash_key = "000102030405060708090a0b0c0d0e0f"
[engine]
flows_per_worker = 10000
[[port]]
name = "wan"
device = "0000:3b:00.0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24"]
[[port]]
name = "lan"
device = "0000:3b:00.1"
mac = "02:00:00:00:00:02"
addresses = ["10.0.0.1/24"]
"#
    .to_owned();
    for number in 1..=BACKENDS {
        text += &format!(
            "[[neighbor]]\naddress = \"{}\"\nmac = \"02:00:00:00:00:{:02x}\"\n",
            address(number),
            10 + number
        );
    }
    text += &format!(
        "[[service]]\nname = \"q\"\nvip = \"192.0.2.10\"\nport = 443\nprotocol = \"{protocol}\"\nforwarding = \"nat\"\n"
    );
    if protocol == "quic" {
        let configs = configs().map(|config| {
            let key = config.key.map_or_else(String::new, |key| format!(", key = \"{}\"", key.reveal()));
            let QuicConfig { rotation, server_id_length, nonce_length, .. } = config;
            format!("{{ rotation = {rotation}, server_id_length = {server_id_length}, nonce_length = {nonce_length}{key} }}")
        });
        text += &format!("[service.quic]\nconfigs = [{}]\n", configs.join(", "));
    }
    for number in 1..=BACKENDS {
        let backend = backend(number);
        text += if protocol == "quic" {
            &backend
        } else {
            backend
                .split_inclusive("server_ids")
                .next()
                .unwrap()
                .trim_end_matches("server_ids")
        };
    }
    text
}

fn cid(config: &QuicConfig, backend: u8, nonce: u8) -> Vec<u8> {
    let nonce = vec![nonce; usize::from(config.nonce_length)];
    let encoder = Encoder::new(config, FirstOctet::Length).unwrap();
    encoder
        .encode(&server_id(config, backend), &nonce)
        .unwrap()
        .to_vec()
}

fn short(cid: &[u8]) -> Vec<u8> {
    [&[0x4b][..], cid, &[0x5c; 40]].concat()
}

const VERSION_1: u32 = 1;
const HANDSHAKE: u8 = 0xe1;
const INITIAL: u8 = 0xc1;
const EARLY: u8 = 0xd1;

fn long(first: u8, version: u32, cid: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend(version.to_be_bytes());
    packet.push(cid.len() as u8);
    packet.extend(cid);
    packet.extend([4, 1, 2, 3, 4]);
    packet.extend([0x5c; 40]);
    packet
}

/// What a test plays: datagrams of clients, one every millisecond, and commands.
struct Play {
    protocol: &'static str,
    datagrams: Vec<(String, Vec<u8>)>,
    commands: Vec<(f64, String)>,
}

/// What came of it: the backend of each datagram, in order, and the report.
struct Played {
    backends: Vec<Option<u8>>,
    report: Value,
}

impl Play {
    fn new() -> Self {
        Self {
            protocol: "quic",
            datagrams: Vec::new(),
            commands: Vec::new(),
        }
    }

    fn send(&mut self, source: &str, datagram: &[u8]) -> &mut Self {
        // Where it lies in the order of sending comes last, so that it can be told in what leaves.
        let number = (self.datagrams.len() as u32).to_be_bytes();
        self.datagrams
            .push((source.to_owned(), [datagram, &number].concat()));
        self
    }

    /// A command after what was sent so far.
    fn command(&mut self, line: &str) -> &mut Self {
        let millis = self.datagrams.len() as f64 - 0.5;
        self.commands.push((millis.max(0.0), line.to_owned()));
        self
    }

    fn run(&self) -> Played {
        let mut play = play::Play::new(&config(self.protocol));
        for (millis, (source, payload)) in (0u64..).zip(&self.datagrams) {
            let datagram = frame(source, "192.0.2.10:443", Transport::Udp).payload(payload);
            play.frame(millis, datagram.build());
        }
        for (millis, line) in &self.commands {
            play.command(*millis, line);
        }
        let played = play.run();
        let mut backends = vec![None; self.datagrams.len()];
        for frame in &played.frames {
            let packet = SlicedPacket::from_ethernet(frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else {
                panic!("{packet:?}")
            };
            let Some(etherparse::TransportSlice::Udp(udp)) = packet.transport else {
                panic!("no UDP")
            };
            let number = u32::from_be_bytes(*udp.payload().last_chunk().unwrap());
            backends[number as usize] = Some(ip.header().destination()[3] - 10);
        }
        let report = played.report;
        Played { backends, report }
    }
}

impl Played {
    /// Backends that new flows were counted for.
    fn new_flows(&self) -> BTreeMap<String, u64> {
        let backends = self.report["services"]["q"]["backends"]
            .as_object()
            .unwrap();
        let flows = |value: &Value| value["new_flows"].as_u64().unwrap();
        backends
            .iter()
            .map(|(name, value)| (name.clone(), flows(value)))
            .collect()
    }
}

fn client(n: usize) -> String {
    format!("203.0.113.{}:{}", 1 + n % 200, 20_000 + n)
}

#[test]
fn a_connection_id_leads_to_its_backend_wherever_it_comes_from() {
    let mut play = Play::new();
    let mut expected = Vec::new();
    for n in 0..90 {
        let config = configs()[n % 3];
        let backend = 1 + (n / 3 % 3) as u8;
        let cid = cid(&config, backend, n as u8);
        let packet = match n % 4 {
            0 | 1 => short(&cid),
            2 => long(HANDSHAKE, VERSION_1, &cid),
            // A version that nobody knows: the invariants say where the ID is.
            _ => long(INITIAL, 0x1a2a_3a4a, &cid),
        };
        play.send(&client(n), &packet);
        expected.push(Some(backend));
    }
    let played = play.run();
    assert_eq!(played.backends, expected);
    // Each came from a new 4-tuple, which counts as a new flow of its backend.
    assert_eq!(played.report["services"]["q"]["new_flows"], 90);
    let flows: Vec<u64> = played.new_flows().into_values().collect();
    assert_eq!(flows, [30, 30, 30, 0]);
}

#[test]
fn a_client_that_moves_stays_on_its_backend_through_changes_of_the_pool() {
    let id = |n: usize| cid(&configs()[n % 3], 1 + (n % 3) as u8, n as u8);
    let mut play = Play::new();
    for n in 0..60 {
        play.send(&client(n), &short(&id(n)));
    }
    for change in [
        "backend weight q 10.0.0.11:443 9",
        "backend drain q 10.0.0.12:443",
        "backend weight q 10.0.0.13:443 0",
        "backend remove q 10.0.0.14:443",
        "backend add q 10.0.0.15:443 --server-id 0=00000000000000ff",
    ] {
        play.command(change);
    }
    for n in 0..60 {
        play.send(&client(1_000 + n), &short(&id(n)));
    }
    let played = play.run();
    let expected: Vec<Option<u8>> = (0..120).map(|n| Some(1 + (n % 60 % 3) as u8)).collect();
    assert_eq!(played.backends, expected);
}

#[test]
fn a_disabled_or_removed_backends_ids_go_to_the_fall_back() {
    let id = cid(&configs()[1], 2, 7);
    let mut play = Play::new();
    play.send(&client(1), &short(&id))
        .command("backend disable q 10.0.0.12:443")
        .send(&client(2), &short(&id))
        .send(&client(1), &short(&id))
        .command("backend enable q 10.0.0.12:443")
        .send(&client(2), &short(&id))
        .command("backend remove q 10.0.0.12:443")
        .send(&client(3), &short(&id))
        .command("backend add q 10.0.0.12:443 --server-id 1=a1a102a1a1a1a1a1")
        .send(&client(3), &short(&id));
    let backends = play.run().backends;
    assert_eq!(backends[0], Some(2));
    assert!(backends[1].is_some_and(|other| other != 2), "{backends:?}");
    assert!(backends[2].is_some_and(|other| other != 2), "{backends:?}");
    assert_eq!(backends[3], Some(2));
    assert!(backends[4].is_some_and(|other| other != 2), "{backends:?}");
    assert_eq!(backends[5], Some(2));
}

#[test]
fn a_backend_that_is_forced_down_is_not_followed() {
    let id = cid(&configs()[0], 1, 7);
    let mut play = Play::new();
    play.send(&client(1), &short(&id))
        .command("backend force q 10.0.0.11:443 down")
        .send(&client(1), &short(&id))
        .command("backend force q 10.0.0.11:443 auto")
        .send(&client(1), &short(&id));
    let backends = play.run().backends;
    assert_eq!((backends[0], backends[2]), (Some(1), Some(1)));
    assert!(backends[1].is_some_and(|other| other != 1), "{backends:?}");
}

#[test]
fn initials_and_early_data_go_by_hash_as_udp_does() {
    let mut play = Play::new();
    for n in 0..200 {
        let first = if n % 2 == 0 { INITIAL } else { EARLY };
        // A client's own ID, which looks as if it were backend 1's.
        play.send(
            &client(n),
            &long(first, VERSION_1, &cid(&configs()[0], 1, n as u8)),
        );
    }
    let quic = play.run();
    play.protocol = "udp";
    let udp = play.run();
    assert_eq!(quic.backends, udp.backends);
    for backend in 1..=BACKENDS {
        let share = quic
            .backends
            .iter()
            .filter(|chosen| **chosen == Some(backend))
            .count();
        assert!(
            (25..=80).contains(&share),
            "{share} of 200 for backend {backend}"
        );
    }
    assert_eq!(quic.report["services"]["q"]["new_flows"], 200);
}

#[test]
fn what_cannot_be_read_is_steered_by_its_4_tuple_and_never_dropped() {
    let routable = cid(&configs()[0], 1, 9);
    let mut reserved = routable.clone();
    reserved[0] |= 0xe0;
    let mut unknown_rotation = routable.clone();
    unknown_rotation[0] = 3 << 5;
    let strange: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0x40],
        vec![0xc0],
        vec![0xc0, 0, 0, 0, 1],
        vec![0xe0, 0, 0, 0, 1, 200, 1, 2],
        short(&reserved),
        short(&unknown_rotation),
        // No backend has this ID, and backend 4 has none.
        short(&cid(&configs()[0], 99, 1)),
        short(&cid(&configs()[1], 4, 1)),
        // Too short for its configuration: by its length, or by the datagram's end.
        long(HANDSHAKE, VERSION_1, &routable[..routable.len() - 1]),
        [&[0x40][..], &routable[..8]].concat(),
        b"not QUIC at all".to_vec(),
    ];
    // With the order's number behind it, a datagram is four octets longer than what is sent here.
    let mut play = Play::new();
    for n in 0..10 {
        for datagram in &strange {
            play.send(&client(n), datagram);
        }
    }
    let quic = play.run();
    play.protocol = "udp";
    assert_eq!(quic.backends, play.run().backends);
    assert!(quic.backends.iter().all(Option::is_some));
    assert_eq!(quic.report["services"]["q"]["new_flows"], 10);
}

#[test]
fn a_routable_id_pins_its_4_tuple() {
    let unreadable = short(&[0xff; 20]);
    let mut play = Play::new();
    for n in 0..30 {
        let backend = 1 + (n % 3) as u8;
        play.send(&client(n), &unreadable)
            .send(&client(n), &short(&cid(&configs()[n % 2], backend, 1)))
            .send(&client(n), &unreadable);
    }
    let played = play.run();
    let mut by_hash = 0;
    for (n, chosen) in played.backends.chunks(3).enumerate() {
        let backend = Some(1 + (n % 3) as u8);
        by_hash += usize::from(chosen[0] != backend);
        assert_eq!((chosen[1], chosen[2]), (backend, backend), "{n}");
    }
    assert!(by_hash > 10, "the hash agreed {} times of 30", 30 - by_hash);
    // The 4-tuple was known when the ID came.
    assert_eq!(played.report["services"]["q"]["new_flows"], 30);
}

#[test]
fn only_the_first_packet_of_a_datagram_counts() {
    let initial = long(INITIAL, VERSION_1, &[0xd7; 8]);
    let handshake = |backend| long(HANDSHAKE, VERSION_1, &cid(&configs()[1], backend, 3));
    let mut play = Play::new();
    for n in 0..12 {
        // Coalesced: Initial first, then a Handshake that would lead elsewhere; and two Handshakes.
        play.send(&client(n), &initial);
        play.send(
            &client(n),
            &[&initial[..], &handshake(1 + (n % 3) as u8)].concat(),
        );
        play.send(&client(100 + n), &[handshake(2), handshake(3)].concat());
    }
    let backends = play.run().backends;
    for chosen in backends.chunks(3) {
        assert_eq!(chosen[0], chosen[1]);
        assert_eq!(chosen[2], Some(2));
    }
}

#[test]
fn the_drafts_vectors_are_routed() {
    // Rotations, IDs and connection IDs of appendix B and section 5.4.2.3, errors in the draft corrected.
    for (key, rotation, id, nonce, cid) in [
        (None, 0, "c4605e", 4, "07c4605e4504cc4f"),
        (Some(KEY), 0, "ed793a", 4, "0720b1d07b359d3c"),
        (
            Some(KEY),
            1,
            "ed793a51d49b8f5fab65",
            5,
            "2fcc381bc74cb4fbad2823a3d1f8fed2",
        ),
        (
            Some(KEY),
            2,
            "ed793a51d49b8f5f",
            8,
            "504dd2d05a7b0de9b2b9907afb5ecf8cc3",
        ),
        (
            Some(KEY),
            3,
            "ed793a51d49b8f5fab",
            9,
            "725779c9cc86beb3a3a4a3ca96fce4bfe0cdbc",
        ),
        (
            Some("fdf726a9893ec05c0632d3956680baf0"),
            0,
            "31441a",
            4,
            "0767947d29be054a",
        ),
    ] {
        let key = key.map_or_else(String::new, |key| format!(", key = \"{key}\""));
        let length = id.len() / 2;
        let text = format!(
            "[service.quic]\nconfigs = [{{ rotation = {rotation}, server_id_length = {length}, nonce_length = {nonce}{key} }}]\n\
             [[service.backend]]\naddress = \"10.0.0.11\"\n[[service.backend]]\naddress = \"10.0.0.12\"\nserver_id = \"{id}\"\n\
             [[service.backend]]\naddress = \"10.0.0.13\"\n"
        );
        let whole = config("quic");
        let text = format!("{}{text}", whole.split("[service.quic]").next().unwrap());
        let mut rig = support::rig::Rig::new(&text);
        let octets: Vec<u8> = (0..cid.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&cid[at..at + 2], 16).unwrap())
            .collect();
        for n in 0..20 {
            let bytes = frame(&client(n), "192.0.2.10:443", Transport::Udp)
                .payload(&short(&octets))
                .build();
            let sent = rig.play(0, &bytes);
            let packet = SlicedPacket::from_ethernet(&sent[0].1).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else {
                panic!("{packet:?}")
            };
            assert_eq!(ip.header().destination(), [10, 0, 0, 12], "{cid}");
        }
    }
}

#[test]
fn a_connection_keeps_its_backend_on_whichever_worker_its_packets_come() {
    // Two workers that know nothing of each other's flows, as a client that moves finds them.
    let mut workers = [
        support::rig::Rig::new(&config("quic")),
        support::rig::Rig::new(&config("quic")),
    ];
    for n in 0..60 {
        let backend = 1 + (n % 3) as u8;
        let cid = cid(&configs()[n % 3], backend, n as u8);
        for moves in 0..3 {
            let worker = &mut workers[(n + moves) % 2];
            let bytes = frame(&client(n + 500 * moves), "192.0.2.10:443", Transport::Udp)
                .payload(&short(&cid))
                .build();
            let sent = worker.play(0, &bytes);
            let packet = SlicedPacket::from_ethernet(&sent[0].1).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else {
                panic!("{packet:?}")
            };
            assert_eq!(ip.header().destination()[3], 10 + backend);
        }
    }
}

#[test]
fn a_burst_is_steered_in_its_order() {
    let mut rig = support::rig::Rig::new(&config("quic"));
    let unreadable = short(&[0xff; 20]);
    let frames: Vec<Vec<u8>> = (0..30)
        .map(|n| {
            let payload = match n % 3 {
                1 => short(&cid(&configs()[0], 1 + (n / 3 % 3) as u8, 5)),
                _ => unreadable.clone(),
            };
            frame(&client(1), "192.0.2.10:443", Transport::Udp)
                .payload(&payload)
                .build()
        })
        .collect();
    let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    let sent = rig.play_burst(0, &frames);
    assert_eq!(sent.len(), 30);
    let backends: Vec<u8> = sent
        .iter()
        .map(
            |(_, bytes)| match SlicedPacket::from_ethernet(bytes).unwrap().net {
                Some(etherparse::NetSlice::Ipv4(ip)) => ip.header().destination()[3] - 10,
                other => panic!("{other:?}"),
            },
        )
        .collect();
    for (n, pair) in backends.chunks(3).enumerate() {
        let expected = 1 + (n % 3) as u8;
        assert_eq!((pair[1], pair[2]), (expected, expected), "{backends:?}");
        if n > 0 {
            // What cannot be read follows the ID before it, not the one behind it.
            assert_eq!(pair[0], backends[3 * n - 1]);
        }
    }
    rig.assert_all_accounted_for();
}
