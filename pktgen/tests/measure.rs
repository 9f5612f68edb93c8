//! `rfc2544`, `scale`, `churn` and `report` as a user runs them, over devices in memory. What they
//! find of a machine that does other things too is not asserted, only what must be so on any.
// Helpers of tests are not inside #[test] functions, where clippy.toml allows these.
#![allow(clippy::unwrap_used, clippy::panic)]
#![cfg(feature = "dpdk")]

#[path = "common/schema.rs"]
mod schema;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

fn pktgen(words: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-pktgen"));
    command.args(words.split_whitespace()).stdin(Stdio::null());
    command
}

fn run(words: &str) -> Output {
    pktgen(words).output().unwrap()
}

/// Runs a measurement; its report must be the documented one, with every buffer back.
fn measure(words: &str, more: &[&str]) -> (Option<i32>, Value) {
    let output = pktgen(words).arg("--json").args(more).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text} {said}"));
    assert_eq!(schema::differences(&report, &schema::documented()), [""; 0]);
    assert_eq!(report["pool"]["free"], report["pool"]["size"], "{report}");
    assert!(
        !said.contains('\u{1b}'),
        "no bar where there is no terminal: {said}"
    );
    (output.status.code(), report)
}

fn figures<'a>(report: &'a Value, name: &'a str) -> Vec<&'a Value> {
    let all = report["figures"].as_array().unwrap().iter();
    all.filter(|figure| figure["name"] == name).collect()
}

fn value(report: &Value, name: &str) -> f64 {
    figures(report, name)[0]["value"].as_f64().unwrap()
}

fn memif(folder: &TempDir, number: u32, role: &str) -> String {
    let socket = folder.path().join("memif.sock");
    format!(
        "net_memif{number},role={role},id=0,socket={},socket-abstract=no",
        socket.display()
    )
}

/// A reflector that answers for 10.0.0.11 to 10.0.0.13; ended when the test is.
struct Reflector(Child);

impl Reflector {
    fn start(device: &str, more: &str) -> Self {
        let words =
            "reflect --backend 10.0.0.11-10.0.0.13 --core 0 --duration 200s --json --device";
        let mut child = pktgen(words)
            .arg(device)
            .args(more.split_whitespace())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let started = lines.any(|line| line.unwrap().contains("reflecting"));
        let reflector = Self(child);
        assert!(started);
        reflector
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const RING: &str =
    "--device net_ring0 --answers returned --dst-mac 02:00:00:00:00:01 --vip 10.0.0.11 --core 1";

#[test]
fn a_ring_that_loses_nothing_is_measured_after_rfc_2544_and_shown_on_a_page() {
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let words = format!(
        "rfc2544 {RING} --sizes 64,imix --trials 2 --duration 200ms --search-duration 100ms --resolution 20% \
         --max-rate 20k --max-burst 100ms --latency-at 50% --save {} --html {}",
        file("a.json"),
        file("a.html")
    );
    let (code, report) = measure(&words, &[]);
    assert_eq!((code, &report["failed"]), (Some(0), &serde_json::json!([])));
    let sizes: Vec<&Value> = figures(&report, "throughput")
        .iter()
        .map(|f| &f["case"]["size"])
        .collect();
    assert_eq!(sizes, ["64", "imix"]);
    for figure in figures(&report, "throughput") {
        let rate = figure["value"].as_f64().unwrap();
        assert!(rate > 0.0 && rate <= 20_000.0, "{figure}");
        assert_ne!(
            figure["limited_by"], "device",
            "a ring pushes back and loses nothing"
        );
        assert_eq!(figure["samples"].as_array().unwrap().len(), 2);
    }
    for figure in figures(&report, "back-to-back") {
        assert_eq!(
            (&figure["value"], &figure["limited_by"]),
            (&2_000.0.into(), &"maximum".into())
        );
    }
    let latency = figures(&report, "latency");
    assert_eq!(latency.len(), 2 * 6);
    assert!(
        latency
            .iter()
            .all(|figure| figure["value"].as_f64().unwrap() > 0.0)
    );

    // What was saved can be shown and compared without a device.
    let saved: Value = serde_json::from_str(&fs::read_to_string(file("a.json")).unwrap()).unwrap();
    assert_eq!(saved, report);
    let page = fs::read_to_string(file("a.html")).unwrap();
    assert_eq!(
        page.matches("<svg ").count(),
        5,
        "throughput, bits, bursts, latency of two sizes"
    );
    let output = run(&format!(
        "report {} --compare {}",
        file("a.json"),
        file("a.json")
    ));
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        table.matches("within spread").count(),
        report["figures"].as_array().unwrap().len()
    );
    let output = run(&format!(
        "report {} --html {}",
        file("a.json"),
        file("b.html")
    ));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(fs::read_to_string(file("b.html")).unwrap(), page);
}

#[test]
fn a_device_that_swallows_everything_has_no_throughput() {
    let words = "rfc2544 --device net_null0,no-rx=1 --dst-mac 02:00:00:00:00:01 --vip 10.0.0.11 --core 1 --sizes 64 \
                 --trials 1 --duration 50ms --search-duration 50ms --resolution 50% --max-rate 10k --max-burst 10ms \
                 --drain 10ms";
    let (code, report) = measure(words, &[]);
    assert_eq!(code, Some(0));
    let throughput = figures(&report, "throughput")[0];
    assert_eq!(
        (&throughput["value"], &throughput["limited_by"]),
        (&0.0.into(), &"device".into())
    );
    assert_eq!(value(&report, "back-to-back"), 0.0);
    assert!(
        figures(&report, "latency").is_empty(),
        "there is no load to measure it at"
    );
}

#[test]
fn packets_that_come_out_on_another_device_are_counted_there() {
    let folder = TempDir::new().unwrap();
    let (near, far) = (memif(&folder, 0, "server"), memif(&folder, 1, "client"));
    let words = format!(
        "rfc2544 --device {near} --receive-on {far} --answers returned --dst-mac 02:00:00:00:00:01 --vip 10.0.0.11 \
         --core 1 --sizes 128 --test throughput --trials 1 --duration 200ms --max-rate 10k --resolution 20%"
    );
    let (code, report) = measure(&words, &[]);
    assert_eq!(code, Some(0));
    assert!(value(&report, "throughput") > 0.0, "{report}");
    let devices = report["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 2);
    assert!(devices[1]["rx_packets"].as_u64().unwrap() > 0);
    assert_eq!(devices[1]["tx_packets"], 0, "it only receives");
}

#[test]
fn every_case_of_a_scale_run_is_prepared_by_the_command_given() {
    let folder = TempDir::new().unwrap();
    let _reflector = Reflector::start(&memif(&folder, 0, "server"), "--max-flows 0");
    let log = folder.path().join("cases");
    let hook = format!(
        "echo $WEIR_PKTGEN_SWEEP $WEIR_PKTGEN_FLOWS $WEIR_PKTGEN_BACKENDS $WEIR_PKTGEN_NEW_FLOWS >> {}",
        log.display()
    );
    let words = format!(
        "scale --device {} --vip 10.0.0.12 --core 1 --flows 100,5k --new-flows 0,50% --backends 1,3 --base-flows 1k \
         --base-backends 2 --trials 2 --duration 300ms --max-rate 10k",
        memif(&folder, 0, "client")
    );
    let (code, report) = measure(&words, &["--for-each", &hook]);
    assert_eq!(code, Some(0), "{report}");
    let round = [
        "flows 100 2 0",
        "flows 5000 2 0",
        "backends 1000 1 0",
        "backends 1000 3 0",
        "new-flows 1000 2 0",
        "new-flows 1000 2 0.5",
    ];
    let cases = fs::read_to_string(&log).unwrap();
    assert_eq!(cases.lines().collect::<Vec<_>>(), [round, round].concat());
    let rates = figures(&report, "throughput");
    assert_eq!(rates.len(), 6);
    for figure in rates {
        let rate = figure["value"].as_f64().unwrap();
        assert!(rate > 0.0 && rate < 11_000.0, "{figure}");
        assert_eq!(figure["samples"].as_array().unwrap().len(), 2);
    }

    let (code, _) = {
        let output = pktgen(&words)
            .args(["--for-each", "exit 3"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("\"exit 3\" ended with exit status: 3"),
            "{said}"
        );
        (output.status.code(), ())
    };
    assert_eq!(code, Some(1));
}

/// A `weirctl` that notes its arguments; refuses what it does not know.
fn stand_in(folder: &Path) -> String {
    let path = folder.join("weirctl");
    let log = folder.join("commands");
    let text = format!(
        "#!/bin/sh\necho \"$@\" >> {}\ntest \"$1\" = backend\n",
        log.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn connections_come_and_go_while_a_script_changes_the_pool() {
    let folder = TempDir::new().unwrap();
    let _reflector = Reflector::start(&memif(&folder, 0, "server"), "");
    let weirctl = stand_in(folder.path());
    let script = folder.path().join("changes");
    fs::write(
        &script,
        "# a change and its end\n@0.3 backend drain web 10.0.0.11:80\n@0.6 backend enable web 10.0.0.11:80\n",
    )
    .unwrap();
    let page = folder.path().join("churn.html");
    let words = format!(
        "churn --device {} --vip 10.0.0.12 --core 1 --connections 200 --open-rate 400 --data-rate 2k --duration 2s \
         --script {} --weirctl {weirctl} --drain 2s --fail-on-loss --fail-on-misdelivery --fail-on-duplicates --html {}",
        memif(&folder, 0, "client"),
        script.display(),
        page.display()
    );
    let (code, report) = measure(&words, &[]);
    assert_eq!(
        (code, &report["failed"]),
        (Some(0), &serde_json::json!([])),
        "{report}"
    );
    assert_eq!(report["profile"]["protocol"], "tcp");
    // 2 s at 400 opened, 400 closed and 2,000 data segments a second.
    assert_eq!(
        (value(&report, "opened"), value(&report, "closed")),
        (800.0, 600.0)
    );
    assert_eq!(value(&report, "held-at-end"), 200.0);
    for name in [
        "unanswered",
        "moved",
        "lost",
        "duplicates",
        "reordered",
        "damaged",
    ] {
        assert_eq!(value(&report, name), 0.0, "{name}");
    }
    let events = report["events"].as_array().unwrap();
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event["exit"] == 0));
    assert!(events[0]["at_s"].as_f64().unwrap() >= 0.3);
    let commands = fs::read_to_string(folder.path().join("commands")).unwrap();
    assert_eq!(
        commands,
        "backend drain web 10.0.0.11:80\nbackend enable web 10.0.0.11:80\n"
    );
    assert!(report["timeline"].as_array().unwrap().len() > 5);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("backend drain web 10.0.0.11:80"));
}

#[test]
fn a_pool_change_that_is_refused_fails_the_run() {
    let folder = TempDir::new().unwrap();
    let weirctl = stand_in(folder.path());
    let script = folder.path().join("changes");
    fs::write(&script, "@0.1 nonsense\n").unwrap();
    let words = format!(
        "churn {RING} --protocol udp --connections 10 --open-rate 10 --data-rate 100 --duration 500ms --script {} --weirctl {weirctl}",
        script.display()
    );
    let (code, report) = measure(&words, &["--command", "true", "--every", "200ms"]);
    assert_eq!(
        (code, &report["failed"]),
        (Some(1), &serde_json::json!(["command"]))
    );
    let events = report["events"].as_array().unwrap();
    assert_eq!(
        (&events[0]["command"], &events[0]["exit"]),
        (&"nonsense".into(), &1.into())
    );
    assert!(
        events[1..]
            .iter()
            .all(|event| event["command"] == "true" && event["exit"] == 0)
    );
    assert!(!events[1..].is_empty());
}

#[test]
fn a_measurement_that_is_interrupted_reports_what_it_has() {
    let mut child = pktgen(&format!(
        "scale {RING} --flows 100 --new-flows none --trials 1000 --duration 200ms --max-rate 5k --json"
    ))
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    // Long enough for a round or two on a busy machine.
    std::thread::sleep(Duration::from_secs(5));
    // SAFETY: a signal to a child of ours that has not been waited for.
    #[allow(unsafe_code)]
    unsafe {
        libc::kill(child.id() as libc::pid_t, libc::SIGINT);
    }
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &report["interrupted"]),
        (Some(1), &true.into())
    );
    assert_eq!(report["pool"]["free"], report["pool"]["size"]);
    let samples = figures(&report, "throughput")[0]["samples"]
        .as_array()
        .unwrap()
        .len();
    assert!((1..1_000).contains(&samples), "{samples}");
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_code_2_before_any_device_is_touched() {
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("changes");
    fs::write(&script, "drain\n").unwrap();
    let script = script.display();
    let vip = "--device net_null0 --vip 10.0.0.11";
    for (words, message) in [
        (
            format!("rfc2544 {vip} --resolution 0"),
            "--resolution 0 would search without an end",
        ),
        (
            format!("rfc2544 {vip} --max-rate 0"),
            "--max-rate 0 sends nothing",
        ),
        (format!("rfc2544 {vip} --loss-tolerance 2"), "is no share"),
        (
            format!("rfc2544 {vip} --compare /nowhere/old.json"),
            "cannot read /nowhere/old.json",
        ),
        (format!("scale {vip} --backends 1,10"), "--for-each"),
        (
            format!("scale {vip} --backends 1,10 --for-each true"),
            "--backends needs --base-backends",
        ),
        (
            format!("scale {vip} --flows none --new-flows none"),
            "nothing to measure",
        ),
        (
            format!("scale {vip} --clients 10.0.0.1 --flows 100k"),
            "give a larger --clients",
        ),
        (
            format!("churn {vip} --open-rate 0"),
            "give a rate of 1 a second or more",
        ),
        (
            format!("churn {vip} --script {script}"),
            "changes:1: \"drain\" found",
        ),
        (
            format!("churn {vip} --command true --every 1ms"),
            "100ms or more",
        ),
        ("report".into(), "FILE.json"),
        (
            "report /nowhere/a.json".into(),
            "cannot read /nowhere/a.json",
        ),
    ] {
        let output = run(&words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words}: {said}");
        assert!(said.contains(message), "{words}: {said}");
    }
}
