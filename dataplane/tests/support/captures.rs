//! Captures that scapy made, with what must come out of them made by scapy, too: played by the binary
//! itself, and compared byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use weir::replay::capture::CaptureReader;

/// A folder of captures beside the tests.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Plays a case: what comes out must be what scapy built, what is dropped must be dropped for the
/// reason that it says, and every frame has one fate.
pub fn check(folder: &Path, case: &str) {
    let out = tempfile::tempdir().unwrap();
    let out = out.path().join("out.pcap");
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command
        .current_dir(folder)
        .args(["replay", "--config", "weir.toml", "--json", "--out"])
        .arg(&out);
    for port in ["wan", "lan"] {
        let file = format!("{case}-{port}.pcap");
        if folder.join(&file).exists() {
            command.args(["--in", &format!("{port}={file}")]);
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{case}: {output:?}");
    let (got, wanted) = (
        frames(&out),
        frames(&folder.join(format!("{case}-out.pcap"))),
    );
    for (place, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        assert!(
            got == wanted,
            "{case}, frame {place}:\n got    {}\n wanted {}",
            hex(got),
            hex(wanted)
        );
    }
    assert_eq!(got.len(), wanted.len(), "{case}: frames");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = std::fs::read_to_string(folder.join(format!("{case}.json"))).unwrap();
    let wanted: BTreeMap<String, u64> = serde_json::from_str(&text).unwrap();
    let drops: BTreeMap<String, u64> = report["drops"]
        .as_object()
        .unwrap()
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

/// Panics where a capture in the folder is none of these.
pub fn all_are(folder: &Path, played: &[&str]) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(case) = name.strip_suffix(".json") {
            assert!(played.contains(&case), "{case} is played by no test");
        }
    }
}

/// A test for each line, which plays its captures of the folder.
#[macro_export]
macro_rules! cases {
    ($folder:literal; $($name:ident: $($case:literal),+;)+) => {
        $(
            #[test]
            fn $name() {
                $( captures::check(&captures::folder($folder), $case); )+
            }
        )+

        #[test]
        fn every_capture_is_played() {
            captures::all_are(&captures::folder($folder), &[$($($case),+),+]);
        }
    };
}
