//! Captures made by scapy, with what must come out of them made by scapy, too: fragments, ICMP
//! errors, pings and TTLs through the whole chain. See `captures/make.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weir::replay::capture::CaptureReader;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures")
}

fn frames(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = CaptureReader::open(path).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = reader.take() {
        frames.push(frame.bytes);
    }
    assert!(reader.into_problem().is_none(), "{}", path.display());
    frames
}

/// Plays a case; gives what came out and the report.
fn play(case: &str) -> (Vec<Vec<u8>>, Value) {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.pcap");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command
        .current_dir(folder())
        .args(["replay", "--config", "weir.toml", "--json", "--out"])
        .arg(&out);
    for port in ["wan", "lan"] {
        let file = format!("{case}-{port}.pcap");
        if folder().join(&file).exists() {
            command.args(["--in", &format!("{port}={file}")]);
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{case}: {output:?}");
    (
        frames(&out),
        serde_json::from_slice(&output.stdout).unwrap(),
    )
}

fn check(case: &str) {
    let (got, report) = play(case);
    let wanted = frames(&folder().join(format!("{case}-out.pcap")));
    for (place, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        assert!(
            got == wanted,
            "{case}, frame {place}:\n got    {}\n wanted {}",
            hex(got),
            hex(wanted)
        );
    }
    assert_eq!(got.len(), wanted.len(), "{case}: frames");
    let text = std::fs::read_to_string(folder().join(format!("{case}.json"))).unwrap();
    let wanted: BTreeMap<String, u64> = serde_json::from_str(&text).unwrap();
    let drops = report["drops"].as_object().unwrap();
    let drops: BTreeMap<String, u64> = drops
        .iter()
        .map(|(reason, count)| (reason.clone(), count.as_u64().unwrap()))
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(drops, wanted, "{case}: drops");
    let packets = |key: &str| report["packets"][key].as_u64().unwrap();
    let dropped: u64 = drops.values().sum();
    assert_eq!(
        packets("received"),
        packets("forwarded") + packets("answered") + dropped,
        "{case}: every frame has one fate: {report}"
    );
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

macro_rules! cases {
    ($($name:ident: $($case:literal),+;)+) => {
        $(
            #[test]
            fn $name() {
                $( check($case); )+
            }
        )+

        #[test]
        fn every_capture_is_played() {
            let played = [$($($case),+),+];
            for entry in std::fs::read_dir(folder()).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if let Some(case) = name.strip_suffix(".json") {
                    assert!(played.contains(&case), "{case} is played by no test");
                }
            }
        }
    };
}

cases! {
    pieces_in_order_are_translated_both_ways: "fragments-in-order-4", "fragments-in-order-6";
    pieces_before_their_first_wait_for_it: "fragments-backwards-4", "fragments-backwards-6";
    datagrams_interleaved_and_duplicated_do_not_mix: "fragments-duplicates-4", "fragments-duplicates-6";
    dsr_l2_passes_pieces_unchanged: "fragments-dsr-4", "fragments-dsr-6";
    segments_in_pieces_are_translated: "fragments-tcp-4", "fragments-tcp-6";
    tiny_and_overlapping_pieces_are_refused: "fragments-refused-4", "fragments-refused-6";
    pieces_without_a_first_are_dropped_after_a_second: "fragments-timeout-4", "fragments-timeout-6";
    an_atomic_fragment_is_a_whole_packet: "fragments-atomic-6";
    options_behind_the_fragment_header_are_passed_over: "fragments-options-6";
    errors_to_a_vip_reach_the_backend_and_quote_its_packet: "icmp-errors-4", "icmp-errors-6";
    errors_from_the_backends_side_quote_the_clients_packet: "icmp-errors-back-4", "icmp-errors-back-6";
    errors_that_quote_nothing_of_ours_are_refused: "icmp-errors-refused-4", "icmp-errors-refused-6";
    pings_are_answered_forwarded_or_dropped: "ping-4", "ping-6";
    a_ttl_that_ends_in_nat_is_answered: "ttl-4", "ttl-6";
}
