//! `weir replay` as its users call it: the binary, capture files, a script.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{Transport, frame};
use weir::replay::capture::{CaptureReader, CaptureWriter};

const CONFIG: &str = r#"
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
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[neighbor]]
address = "10.0.0.12"
mac = "02:00:00:00:00:0c"
[[service]]
name = "web"
vip = "192.0.2.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
[[service.backend]]
address = "10.0.0.12"
"#;

const START: u64 = 1_700_000_000_000_000_000;
const MILLI: u64 = 1_000_000;

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("weir.toml"), CONFIG).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn capture(&self, name: &str, frames: &[(u64, Vec<u8>)]) {
        let mut writer = CaptureWriter::create(&self.path(name), false).unwrap();
        for (millis, bytes) in frames {
            writer.write(START + millis * MILLI, bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    /// One SYN a flow, a millisecond apart.
    fn syns(&self, name: &str, flows: u16) {
        let frames: Vec<(u64, Vec<u8>)> = (0..flows)
            .map(|flow| {
                let source = format!("192.0.2.99:{}", 1000 + flow);
                (
                    u64::from(flow),
                    frame(&source, "192.0.2.10:80", Transport::Syn).build(),
                )
            })
            .collect();
        self.capture(name, &frames);
    }

    fn replay(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_weir"))
            .current_dir(self.folder.path())
            .args(["replay", "--config", "weir.toml"])
            .args(arguments)
            .output()
            .unwrap()
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn frames(path: &Path) -> Vec<(u64, Vec<u8>)> {
    let mut reader = CaptureReader::open(path).unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = reader.take() {
        frames.push((frame.time, frame.bytes));
    }
    frames
}

#[test]
fn the_same_input_gives_the_same_bytes_and_the_counts_add_up() {
    let bench = Bench::new();
    bench.syns("in.pcap", 500);
    let first = bench.replay(&["--in", "wan=in.pcap", "--out", "a.pcap", "--json"]);
    let second = bench.replay(&["--in", "wan=in.pcap", "--out", "b.pcap", "--json"]);
    assert!(first.status.success(), "{first:?}");
    assert_eq!(first.stdout, second.stdout);
    let read = |name| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("a.pcap"), read("b.pcap"));
    let report = json(&first);
    assert_eq!(report["packets"]["received"], 500);
    assert_eq!(report["packets"]["forwarded"], 500);
    let web = &report["services"]["web"];
    assert_eq!(
        (&web["packets"], &web["new_flows"]),
        (&500.into(), &500.into())
    );
    let backend = |name: &str| web["backends"][name]["packets"].as_u64().unwrap();
    assert_eq!(backend("10.0.0.11:80") + backend("10.0.0.12:80"), 500);
    assert!(
        backend("10.0.0.11:80") > 150 && backend("10.0.0.12:80") > 150,
        "{web}"
    );
}

#[test]
fn outputs_can_be_had_by_port_and_all_together() {
    let bench = Bench::new();
    bench.syns("in.pcap", 20);
    let arp_for_vip = {
        let mut bytes = vec![0xff; 6];
        bytes.extend_from_slice(&[2, 0, 0, 0, 0, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        bytes.extend_from_slice(&[
            2, 0, 0, 0, 0, 9, 192, 0, 2, 99, 0, 0, 0, 0, 0, 0, 192, 0, 2, 10,
        ]);
        bytes
    };
    bench.capture("arp.pcap", &[(5, arp_for_vip)]);
    let output = bench.replay(&[
        "--in",
        "wan=in.pcap",
        "--in",
        "wan=arp.pcap",
        "--out",
        "all.pcap",
        "--out",
        "wan=wan.pcap",
        "--out",
        "lan=lan.pcap",
        "--json",
    ]);
    assert!(output.status.success(), "{output:?}");
    let count = |name| frames(&bench.path(name)).len();
    assert_eq!(
        (count("all.pcap"), count("wan.pcap"), count("lan.pcap")),
        (21, 1, 20)
    );
    assert_eq!(json(&output)["packets"]["answered"], 1);
    let times: Vec<u64> = frames(&bench.path("all.pcap"))
        .iter()
        .map(|frame| frame.0)
        .collect();
    assert!(times.is_sorted());
}

#[test]
fn script_commands_are_carried_out_at_their_moments() {
    let bench = Bench::new();
    bench.syns("in.pcap", 1_000);
    let script = "# comment\n@0.5 backend disable web 10.0.0.11:80\n\n@0.9 backend enable web 10.0.0.11:80\n";
    std::fs::write(bench.path("script"), script).unwrap();
    let output = bench.replay(&[
        "--in",
        "wan=in.pcap",
        "--out",
        "out.pcap",
        "--script",
        "script",
        "--json",
    ]);
    assert!(output.status.success(), "{output:?}");
    let to_first = |from: u64, to: u64| {
        frames(&bench.path("out.pcap"))
            .iter()
            .filter(|(time, _)| (START + from * MILLI..START + to * MILLI).contains(time))
            .filter(|(_, bytes)| bytes[5] == 0x0b)
            .count()
    };
    assert!(to_first(0, 500) > 100);
    assert_eq!(to_first(500, 900), 0);
    assert!(to_first(900, 1_000) > 10);
}

#[test]
fn a_refused_command_is_told_and_the_run_goes_on_to_exit_code_1() {
    let bench = Bench::new();
    bench.syns("in.pcap", 10);
    std::fs::write(bench.path("script"), "@0 backend remove web 10.0.0.99:80\n").unwrap();
    let output = bench.replay(&[
        "--in",
        "wan=in.pcap",
        "--out",
        "out.pcap",
        "--script",
        "script",
        "--json",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("script:1: no backend 10.0.0.99:80"));
    assert_eq!(json(&output)["packets"]["forwarded"], 10);
}

#[test]
fn wrong_arguments_and_files_are_named_and_exit_code_2_or_1() {
    let bench = Bench::new();
    bench.syns("in.pcap", 1);
    std::fs::write(bench.path("bad-script"), "backend list web\n").unwrap();
    std::fs::write(
        bench.path("not.pcap"),
        "this is not a capture at all, is it",
    )
    .unwrap();
    for (arguments, code, says) in [
        (
            &["--in", "dmz=in.pcap", "--out", "o"][..],
            2,
            "no port \"dmz\"",
        ),
        (
            &[
                "--in",
                "wan=in.pcap",
                "--out",
                "o",
                "--script",
                "bad-script",
            ][..],
            2,
            "bad-script:1",
        ),
        (
            &["--in", "wan=absent.pcap", "--out", "o"][..],
            1,
            "absent.pcap",
        ),
        (&["--in", "wan=not.pcap", "--out", "o"][..], 1, "not.pcap"),
    ] {
        let output = bench.replay(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
}
