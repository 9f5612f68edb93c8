//! `weir-pktgen pcap` as a user runs it: the file is read back with other parsers.
// Helpers of tests are not inside #[test] functions, where clippy.toml allows these.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;
use pcap_file::{DataLink, TsResolution};

fn pktgen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir-pktgen"))
        .args(args)
        .output()
        .unwrap()
}

fn capture(out: &Path, args: &[&str]) -> serde_json::Value {
    let out = out.to_str().unwrap();
    let mut all = vec!["pcap", "--out", out, "--json"];
    all.extend(args);
    let output = pktgen(&all);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Times in ns and frames.
fn frames(path: &Path) -> Vec<(u128, Vec<u8>)> {
    let mut reader = PcapReader::new(fs::File::open(path).unwrap()).unwrap();
    let header = reader.header();
    assert_eq!(
        (header.datalink, header.ts_resolution),
        (DataLink::ETHERNET, TsResolution::MicroSecond)
    );
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.unwrap();
        assert_eq!(packet.orig_len as usize, packet.data.len());
        frames.push((packet.timestamp.as_nanos(), packet.data.to_vec()));
    }
    frames
}

#[test]
fn the_file_holds_the_traffic_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pcap");
    let report = capture(
        &file,
        &[
            "--vip",
            "198.51.100.10",
            "--port",
            "53",
            "--clients",
            "203.0.113.0/24",
            "--flows",
            "40",
        ]
        .into_iter()
        .chain(["--rate", "10k", "--duration", "100ms", "--size", "64,1518"])
        .collect::<Vec<_>>(),
    );
    let frames = frames(&file);
    assert_eq!(
        (report["packets"].as_u64(), frames.len()),
        (Some(1_000), 1_000)
    );
    assert_eq!(
        &fs::read(&file).unwrap()[..4],
        [0xd4, 0xc3, 0xb2, 0xa1],
        "little-endian, microseconds"
    );
    let mut sizes = BTreeMap::new();
    let mut flows = HashSet::new();
    for (index, (time, frame)) in frames.iter().enumerate() {
        assert_eq!(*time, index as u128 * 100_000, "one packet each 100 µs");
        *sizes.entry(frame.len()).or_insert(0) += 1;
        let packet = SlicedPacket::from_ethernet(frame).unwrap();
        let Some(NetSlice::Ipv4(ip)) = packet.net else {
            panic!("no IPv4")
        };
        let Some(TransportSlice::Udp(udp)) = packet.transport else {
            panic!("no UDP")
        };
        assert_eq!(ip.header().destination_addr().to_string(), "198.51.100.10");
        assert_eq!(ip.header().source_addr().octets()[..3], [203, 0, 113]);
        assert_eq!(udp.destination_port(), 53);
        flows.insert((ip.header().source_addr(), udp.source_port()));
    }
    assert_eq!(sizes.keys().copied().collect::<Vec<_>>(), [60, 1514]);
    assert!(
        sizes.values().all(|count| (400..600).contains(count)),
        "{sizes:?}"
    );
    assert_eq!((flows.len(), report["flows"].as_u64()), (40, Some(40)));
    assert_eq!(report["duration_s"].as_f64(), Some(0.0999));
}

#[test]
fn tcp_over_ipv6_opens_and_closes_its_connections() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pcap");
    capture(
        &file,
        &[
            "--vip",
            "2001:db8::10",
            "--protocol",
            "tcp",
            "--flows",
            "5",
            "--packets-per-flow",
            "4",
        ]
        .into_iter()
        .chain(["--count", "60", "--popularity", "sequential", "--vlan", "7"])
        .collect::<Vec<_>>(),
    );
    let mut controls: BTreeMap<u16, Vec<(bool, bool)>> = BTreeMap::new();
    for (_, frame) in frames(&file) {
        assert_eq!(frame.len(), 96, "100 with FCS, the smallest that fits");
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        assert!(packet.vlan().is_some());
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("no TCP")
        };
        controls
            .entry(tcp.source_port())
            .or_default()
            .push((tcp.syn(), tcp.fin()));
    }
    assert_eq!(controls.len(), 5);
    for flow in controls.values() {
        assert_eq!(flow.len(), 12);
        for connection in flow.chunks(4) {
            assert_eq!(
                connection,
                [(true, false), (false, false), (false, false), (false, true)]
            );
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, seed: &str| {
        let file = folder.path().join(name);
        let args = [
            "--vip",
            "198.51.100.10",
            "--protocol",
            "tcp",
            "--size",
            "imix",
        ];
        let more = ["--popularity", "zipf:1.1", "--count", "2k", "--seed", seed];
        capture(&file, &[&args[..], &more[..]].concat());
        fs::read(file).unwrap()
    };
    let first = write("a", "5");
    assert_eq!(first, write("b", "5"));
    assert_ne!(first, write("c", "6"));
}

#[test]
fn what_cannot_be_written_is_refused_with_exit_code_2_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.pcap");
    let out = file.to_str().unwrap();
    let refusals: [(&[&str], &str); 7] = [
        (&["--vip", "192.0.2.1"], "give --count, or --duration"),
        (
            &[
                "--vip",
                "192.0.2.1",
                "--count",
                "1",
                "--protocol",
                "tcp",
                "--size",
                "64",
            ],
            "at least 76 bytes",
        ),
        (
            &["--vip", "2001:db8::1", "--count", "1", "--size", "64"],
            "at least 84 bytes",
        ),
        (
            &[
                "--vip",
                "192.0.2.1",
                "--count",
                "1",
                "--clients",
                "2001:2::/64",
            ],
            "different address families",
        ),
        (
            &[
                "--vip",
                "192.0.2.1",
                "--count",
                "1",
                "--popularity",
                "pareto",
            ],
            "zipf:S",
        ),
        (
            &["--vip", "192.0.2.1", "--count", "1", "--size", "63"],
            "sizes from 64 to 1518",
        ),
        (
            &["--vip", "192.0.2.1", "--count", "1", "--rate", "fast"],
            "is not a count",
        ),
    ];
    for (args, words) in refusals {
        let output = pktgen(&[&["pcap", "--out", out], args].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(words), "{message}");
        assert!(!file.exists());
    }
}

#[test]
fn a_file_that_cannot_be_made_is_an_error_with_exit_code_1() {
    let output = pktgen(&[
        "pcap",
        "--out",
        "/nowhere/a.pcap",
        "--vip",
        "192.0.2.1",
        "--count",
        "1",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot create /nowhere/a.pcap"));
}

#[test]
fn a_disk_that_is_full_is_called_so() {
    for count in ["1", "100000"] {
        let output = pktgen(&[
            "pcap",
            "--out",
            "/dev/full",
            "--vip",
            "192.0.2.1",
            "--count",
            count,
        ]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(
            stderr.starts_with("weir-pktgen: cannot write the capture: No space left on device"),
            "{stderr}"
        );
    }
}
