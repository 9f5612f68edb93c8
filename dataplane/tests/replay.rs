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

/// A connection that lasts two hours, beside others that begin every ten seconds. Silences are in
/// `replay_silences`.
fn two_hours(bench: &Bench) {
    let mut frames = Vec::new();
    let client = "192.0.2.99:1000";
    let web = "192.0.2.10:80";
    frames.push((0, frame(client, web, Transport::Syn).build()));
    for second in (1..7_200u64).step_by(10) {
        let source = format!("192.0.2.99:{}", 2000 + second);
        frames.push((second * 1_000, frame(&source, web, Transport::Syn).build()));
        frames.push((
            second * 1_000 + 1,
            frame(client, web, Transport::Ack).build(),
        ));
    }
    bench.capture("in.pcap", &frames);
}

#[test]
fn two_hours_of_drains_and_overrides_pass_in_an_instant_and_always_alike() {
    let bench = Bench::new();
    two_hours(&bench);
    let script = "@60 backend drain web 10.0.0.11:80\n@1200 backend enable web 10.0.0.11:80\n\
                  @2400 backend force web 10.0.0.12:80 down\n@3600 backend force web 10.0.0.12:80 auto\n\
                  @4800 backend drain web 10.0.0.12:80 --timeout 20m\n\
                  @5400 backend drain web 10.0.0.11:80 --force --timeout never\n\
                  @7000 backend enable web 10.0.0.11:80\n";
    std::fs::write(bench.path("script"), script).unwrap();
    let arguments = |out: &'static str| {
        [
            "--in",
            "wan=in.pcap",
            "--out",
            out,
            "--script",
            "script",
            "--json",
        ]
    };
    let output = bench.replay(&arguments("out.pcap"));
    assert!(output.status.success(), "{output:?}");
    let report = json(&output);
    let events: Vec<(u64, &str)> = report["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            (
                event["at_ns"].as_u64().unwrap(),
                event["text"].as_str().unwrap(),
            )
        })
        .collect();
    let left = "what was left is steered anew";
    assert_eq!(
        events,
        [
            (
                360_000_000_000,
                &*format!("web: drain of 10.0.0.11:80 ended; {left}")
            ),
            (
                6_000_000_000_000,
                &*format!("web: drain of 10.0.0.12:80 ended; {left}")
            ),
        ]
    );
    let to = |backend: u8, from: u64, until: u64, flow: fn(u16) -> bool| {
        frames(&bench.path("out.pcap"))
            .iter()
            .filter(|(time, _)| {
                (START + from * 1_000 * MILLI..START + until * 1_000 * MILLI).contains(time)
            })
            .filter(|(_, bytes)| {
                bytes[5] == backend && flow(u16::from_be_bytes([bytes[34], bytes[35]]))
            })
            .count()
    };
    let new: fn(u16) -> bool = |port| port != 1000;
    let old: fn(u16) -> bool = |port| port == 1000;
    assert_eq!(to(0x0b, 60, 1_200, new), 0, "no new flow while it drains");
    assert_eq!(to(0x0b, 361, 1_200, old), 0, "nothing after 300 s");
    assert_eq!(
        to(0x0c, 2_400, 3_600, |_| true),
        0,
        "nothing while it is forced down"
    );
    assert!(to(0x0c, 3_600, 4_800, new) > 20, "both take flows again");
    assert_eq!(to(0x0c, 4_800, 7_000, new), 0);
    assert_eq!(to(0x0b, 5_410, 7_000, new), 0, "nobody takes new flows");
    assert!(report["drops"]["no_backend"].as_u64().unwrap() > 100);
    let again = bench.replay(&arguments("again.pcap"));
    assert_eq!(again.stdout, output.stdout);
    let read = |name| std::fs::read(bench.path(name)).unwrap();
    assert_eq!(read("out.pcap"), read("again.pcap"));
}

#[test]
fn health_checks_are_sent_in_a_replay_only_when_asked_for() {
    let bench = Bench::new();
    let checked = CONFIG.replace(
        "forwarding = \"nat\"\n",
        "forwarding = \"nat\"\n[service.health]\nkind = \"http\"\ninterval = \"1s\"\nfall = 2\n",
    );
    std::fs::write(bench.path("weir.toml"), checked).unwrap();
    let flows: Vec<(u64, Vec<u8>)> = (0..200)
        .map(|flow| {
            let source = format!("192.0.2.99:{}", 1000 + flow);
            let syn = frame(&source, "192.0.2.10:80", Transport::Syn);
            (flow * 50, syn.build())
        })
        .collect();
    bench.capture("in.pcap", &flows);
    let silent = bench.replay(&["--in", "wan=in.pcap", "--out", "out.pcap", "--json"]);
    assert_eq!(json(&silent)["packets"]["forwarded"], 200);
    assert_eq!(frames(&bench.path("out.pcap")).len(), 200);
    assert!(json(&silent)["events"].is_null());
    let asked = [
        "--in",
        "wan=in.pcap",
        "--out",
        "lan=out.pcap",
        "--json",
        "--checks",
    ];
    let checking = bench.replay(&asked);
    let report = json(&checking);
    // Nobody answers in this capture: both are found down, and the pool fails open.
    let texts: Vec<&str> = report["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["text"].as_str().unwrap())
        .collect();
    assert_eq!(
        texts
            .iter()
            .filter(|text| text.ends_with("no answer within 1s"))
            .count(),
        2
    );
    assert!(
        texts.contains(&"web: all backends are down; it fails open"),
        "{texts:?}"
    );
    assert_eq!(report["packets"]["forwarded"], 200);
    let sent = frames(&bench.path("out.pcap"));
    let checks = sent
        .iter()
        .filter(|(_, bytes)| bytes[26..30] == [10, 0, 0, 1]);
    assert!(checks.count() > 15);
    assert_eq!(bench.replay(&asked).stdout, checking.stdout);
    assert_eq!(frames(&bench.path("out.pcap")), sent);
}

/// The frame with 40 bytes of TCP options, all of them padding: there is no room for another.
fn full_of_options(mut frame: Vec<u8>) -> Vec<u8> {
    let options = [1; 40];
    let total = u16::from_be_bytes([frame[16], frame[17]]) + 40;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[14 + 32] = 0xf0;
    frame.splice(54..54, options);
    // The checksum of an IPv4 header stands for its other words.
    frame[24..26].fill(0);
    let sum = frame[14..34]
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) as u16 + (folded >> 16) as u16);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

#[test]
fn a_client_address_without_room_is_counted_in_the_report() {
    let bench = Bench::new();
    let toa = "forwarding = \"full-nat\"\nsnat_pool = [\"10.0.0.5\"]\nclient_address = \"toa\"\n";
    let config = CONFIG.replace("forwarding = \"nat\"\n", toa);
    std::fs::write(bench.path("weir.toml"), config).unwrap();
    let (client, web) = ("192.0.2.99:1000", "192.0.2.10:80");
    let syn = frame(client, web, Transport::Syn).payload(b"").build();
    let mut data = full_of_options(frame(client, web, Transport::Ack).build());
    // What follows the SYN has the next sequence number.
    data[41] += 1;
    bench.capture("in.pcap", &[(0, syn), (1, data)]);
    let arguments = ["--in", "wan=in.pcap", "--out", "lan=out.pcap"];
    let output = bench.replay(&[&arguments[..], &["--json"]].concat());
    let report = json(&output);
    assert_eq!(report["packets"]["forwarded"], 2, "{report}");
    assert_eq!(report["counters"]["toa_no_room"], 1, "{report}");
    assert_eq!(report["counters"]["received"], 2, "{report}");
    assert!(report["counters"]["resets"].is_null(), "{report}");
    let for_people = String::from_utf8(bench.replay(&arguments).stdout).unwrap();
    assert!(for_people.contains("1  toa_no_room"), "{for_people}");
}

#[test]
fn the_limit_on_icmp_errors_refills_whatever_the_clock_says() {
    let bench = Bench::new();
    let dying = |flow: u64| {
        let source = format!("192.0.2.99:{}", 1000 + flow);
        frame(&source, "192.0.2.10:80", Transport::Syn)
            .ttl(1)
            .build()
    };
    // START is a time whose milliseconds lie in the upper half of 32 bits.
    let frames: Vec<(u64, Vec<u8>)> = (0..200).map(|flow| (flow, dying(flow))).collect();
    bench.capture("in.pcap", &frames);
    let output = bench.replay(&["--in", "wan=in.pcap", "--out", "wan=out.pcap", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let told = self::frames(&bench.path("out.pcap")).len();
    assert_eq!(
        told,
        200,
        "one a millisecond is the limit: {}",
        json(&output)
    );
}

#[test]
fn standard_output_that_fails_is_told_and_one_that_is_closed_is_no_failure() {
    let bench = Bench::new();
    bench.syns("in.pcap", 1);
    let replay = ["replay", "--in", "wan=in.pcap", "--out", "o.pcap"];
    for arguments in [
        &["check"][..],
        &replay,
        &[&replay[..], &["--json"]].concat(),
    ] {
        let run = |stdout: std::fs::File| {
            Command::new(env!("CARGO_BIN_EXE_weir"))
                .current_dir(bench.folder.path())
                .args(arguments)
                .args(["--config", "weir.toml"])
                .stdout(stdout)
                .stderr(std::process::Stdio::piped())
                .output()
                .unwrap()
        };
        let full = run(std::fs::File::create("/dev/full").unwrap());
        let stderr = String::from_utf8_lossy(&full.stderr);
        assert_eq!(full.status.code(), Some(1), "{arguments:?}: {stderr}");
        assert!(
            stderr.starts_with("weir: cannot write the output: No space left"),
            "{arguments:?}: {stderr}"
        );
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(std::os::fd::OwnedFd::from(writer).into());
        assert!(closed.status.success(), "{arguments:?}: {closed:?}");
        assert!(closed.stderr.is_empty(), "{arguments:?}: {closed:?}");
    }
}

#[test]
fn standard_error_that_fails_changes_no_exit_code() {
    let bench = Bench::new();
    bench.syns("in.pcap", 1);
    std::fs::write(bench.path("script"), "@0 backend remove web 10.0.0.99:80\n").unwrap();
    std::fs::write(bench.path("bad.toml"), "[nosuch]\n").unwrap();
    std::fs::write(bench.path("doubtful.toml"), CONFIG.replace("hash_key", "#")).unwrap();
    let replay = "replay --config weir.toml --in wan=in.pcap --out o.pcap --script script";
    for (arguments, code) in [
        ("check --config bad.toml", 2),
        ("check --config doubtful.toml", 0),
        (replay, 1),
    ] {
        let status = Command::new(env!("CARGO_BIN_EXE_weir"))
            .current_dir(bench.folder.path())
            .args(arguments.split(' '))
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create("/dev/full").unwrap())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(code), "{arguments}");
    }
}

#[test]
fn warnings_stand_at_their_place_and_are_true_of_what_runs() {
    let bench = Bench::new();
    bench.syns("in.pcap", 1);
    let slow = "forwarding = \"nat\"\n[service.health]\nkind = \"tcp\"\ntimeout = \"3s\"\n";
    let config = CONFIG
        .replace("hash_key = \"000102030405060708090a0b0c0d0e0f\"\n", "")
        .replace("forwarding = \"nat\"\n", slow);
    std::fs::write(bench.path("weir.toml"), config).unwrap();
    let no_key = "weir.toml:2:1: warning: [instance] hash_key is absent: a random key";
    let timeout = "weir.toml:29:11: warning: a check of \"web\" that is not answered";
    let told = |output: Output| -> Vec<String> {
        assert!(output.status.success(), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        stderr.lines().map(str::to_owned).collect()
    };
    let check = Command::new(env!("CARGO_BIN_EXE_weir"))
        .current_dir(bench.folder.path())
        .args(["check", "--config", "weir.toml"])
        .output()
        .unwrap();
    let check = told(check);
    assert!(check[0].starts_with(no_key), "{check:?}");
    assert!(check[1].starts_with(timeout), "{check:?}");
    assert_eq!(check.len(), 2);
    let replay = told(bench.replay(&["--in", "wan=in.pcap", "--out", "o.pcap"]));
    assert_eq!(replay, check[1..], "a replay always has the same key");
}

#[test]
fn a_file_that_is_no_text_is_refused_with_the_place_of_the_first_such_byte() {
    let bench = Bench::new();
    let good = "[instance]\n# \u{e4}: ";
    let bytes = [good.as_bytes(), b"\xff\xfe\n", CONFIG.as_bytes()].concat();
    std::fs::write(bench.path("weir.toml"), bytes).unwrap();
    std::fs::write(bench.path("in.pcap"), "").unwrap();
    let output = bench.replay(&["--in", "wan=in.pcap", "--out", "o.pcap"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "weir.toml:2:6: found the byte 0xff, no character; accepted: text in UTF-8\n"
    );
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
    bench.syns("many.pcap", 500);
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
            "--in dmz=in.pcap: no port \"dmz\"",
        ),
        (
            &["--in", "wan=in.pcap", "--out", "dmz=o"][..],
            2,
            "--out dmz=o: no port \"dmz\"; the configuration has wan, lan",
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
        (
            &["--in", "wan=many.pcap", "--out", "/dev/full"][..],
            1,
            "/dev/full: No space left on device",
        ),
        (&["--in", "wan=.", "--out", "o"][..], 1, ".: Is a directory"),
    ] {
        let output = bench.replay(arguments);
        assert!(!bench.path("dmz=o").exists());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert!(stderr.contains(says), "{stderr}");
    }
    // What cannot be a port's name belongs to the file's.
    let output = bench.replay(&["--in", "wan=in.pcap", "--out", "./a=b"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(frames(&bench.path("a=b")).len(), 1);
}
