//! `run` and `reflect` in two processes, joined by a shared-memory device (memif) without huge pages
//! and without privileges. Rates are modest: these tests share their cores.
// Helpers of tests are not inside #[test] functions, where clippy.toml allows these.
#![allow(clippy::unwrap_used, clippy::panic)]
#![cfg(feature = "dpdk")]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir-pktgen"));
    command.args(args).stdin(Stdio::null());
    command
}

fn memif(folder: &TempDir, number: u32, role: &str) -> String {
    let socket = folder.path().join(format!("{number}.sock"));
    format!(
        "net_memif{number},role={role},id={number},socket={},socket-abstract=no",
        socket.display()
    )
}

/// A reflector that runs; killed if the test ends without asking it to.
struct Reflector {
    child: Option<Child>,
    /// Kept open, so that the reflector's last words find a reader.
    stderr: BufReader<ChildStderr>,
}

impl Reflector {
    fn start(args: &[&str]) -> Self {
        let mut child = command(&[&["reflect", "--json"], args].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut said) = (String::new(), String::new());
        while !line.contains("reflecting") {
            line.clear();
            let read = stderr.read_line(&mut line).unwrap();
            said.push_str(&line);
            if read == 0 {
                let _ = child.wait();
                panic!("the reflector did not start: {said}");
            }
        }
        Self {
            child: Some(child),
            stderr,
        }
    }

    /// SIGTERM, and what it reports then.
    fn stop(mut self) -> (Option<i32>, Value) {
        let mut child = self.child.take().unwrap();
        terminate(&child);
        let mut text = String::new();
        child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        let status = wait(&mut child);
        let mut said = String::new();
        let _ = self.stderr.read_to_string(&mut said);
        let report = serde_json::from_str(&text);
        let report = report.unwrap_or_else(|_| panic!("no report, {status}: {text}\n{said}"));
        (status.code(), report)
    }
}

impl Drop for Reflector {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn terminate(child: &Child) {
    // SAFETY: a signal to a child of ours that has not been waited for.
    #[allow(unsafe_code)]
    unsafe {
        libc::kill(child.id() as libc::pid_t, libc::SIGTERM);
    }
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("still running after {LIMIT:?}");
}

fn run(args: &[&str]) -> (Output, Value) {
    let mut child = command(&[&["run", "--json"], args].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A report is one line, far below what a pipe holds.
    wait(&mut child);
    let output = child.wait_with_output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, report)
}

fn assert_full(report: &Value) {
    assert!(report["pool"]["size"].as_u64().unwrap() > 0);
    assert_eq!(report["pool"]["free"], report["pool"]["size"], "{report}");
}

fn assert_no_leftovers(output: &Output) {
    assert!(output.status.code().is_some());
    for folder in ["/run/dpdk", "/var/run/dpdk", "/tmp/dpdk"] {
        let prefix = format!("{folder}/{}", "pktgen-live");
        assert!(!Path::new(&prefix).exists(), "{prefix} is left");
    }
}

const STRICT: [&str; 5] = [
    "--fail-on-loss",
    "--fail-on-misdelivery",
    "--fail-on-duplicates",
    "--fail-on-reordering",
    "--fail-on-damage",
];

#[test]
fn at_a_modest_rate_everything_comes_back_once_in_order_from_one_backend() {
    let folder = TempDir::new().unwrap();
    let (server, client) = (memif(&folder, 0, "server"), memif(&folder, 0, "client"));
    let args = [
        &[
            "--device",
            &server,
            "--backend",
            "10.0.0.11-10.0.0.13",
            "--core",
            "0",
        ][..],
        &STRICT,
    ]
    .concat();
    let reflector = Reflector::start(&args);
    let args = [
        "--device",
        &client,
        "--vip",
        "10.0.0.12",
        "--flows",
        "200",
        "--core",
        "1",
    ];
    let more = [
        "--rate",
        "20k",
        "--count",
        "20k",
        "--file-prefix",
        "pktgen-live",
        "--drain",
        "5s",
    ];
    let (output, report) = run(&[&args[..], &more, &STRICT].concat());
    assert!(
        output.status.success(),
        "{report} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(report["sent"]["packets"], 20_000);
    assert_eq!(report["answers"]["packets"], 20_000);
    assert_eq!(report["loss"]["packets"], 0);
    assert_eq!(report["backends"], serde_json::json!({"1": 20_000}));
    assert_eq!(report["latency_ns"]["samples"], 20_000);
    assert!(report["latency_ns"]["min"].as_u64().unwrap() > 0);
    // 20,000 packets at 20,000 a second; generous, for a machine that does other things too.
    let seconds = report["duration_s"].as_f64().unwrap();
    assert!((0.9..3.0).contains(&seconds), "{seconds} s");
    assert_full(&report);
    assert_no_leftovers(&output);

    let (code, reflected) = reflector.stop();
    assert_eq!(code, Some(0), "{reflected}");
    assert_eq!(reflected["answered"], 20_000);
    assert_eq!(reflected["gaps"], 0);
    assert_eq!(reflected["flows"]["seen"], 200);
    assert_eq!(reflected["backends"][1]["packets"], 20_000);
    assert_eq!(reflected["backends"][1]["address"], "10.0.0.12");
    assert!(
        reflected["neighbour_answers"].as_u64().unwrap() >= 1,
        "the next hop was asked for"
    );
    assert_full(&reflected);
}

#[test]
fn tagged_tcp_over_ipv6_on_two_devices_with_two_queues_each_comes_back_too() {
    let folder = TempDir::new().unwrap();
    let servers = [memif(&folder, 0, "server"), memif(&folder, 1, "server")];
    let clients = [memif(&folder, 0, "client"), memif(&folder, 1, "client")];
    let reflector = Reflector::start(&[
        "--device",
        &servers[0],
        "--device",
        &servers[1],
        "--queues",
        "2",
        "--core",
        "0",
        "--backend",
        "2001:db8::11",
    ]);
    let args = [
        "--device",
        &clients[0],
        "--device",
        &clients[1],
        "--queues",
        "2",
        "--core",
        "0",
        "--core",
        "1",
        "--vip",
        "2001:db8::11",
        "--protocol",
        "tcp",
        "--packets-per-flow",
        "5",
        "--vlan",
        "9",
        "--size",
        "imix",
        "--popularity",
        "zipf:1",
        "--rate",
        "10k",
        "--count",
        "10k",
        "--drain",
        "5s",
    ];
    let (output, report) = run(&[&args[..], &STRICT].concat());
    assert!(
        output.status.success(),
        "{report} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        (&report["sent"]["packets"], &report["loss"]["packets"]),
        (&10_000.into(), &0.into())
    );
    assert_full(&report);
    let (code, reflected) = reflector.stop();
    assert_eq!(code, Some(0));
    assert_eq!(
        (&reflected["answered"], &reflected["gaps"]),
        (&10_000.into(), &0.into())
    );
    assert_eq!(reflected["flows"]["seen"], report["flows"]["opened"]);
    assert_full(&reflected);
}

#[test]
fn direct_server_return_is_counted_and_not_answered() {
    let folder = TempDir::new().unwrap();
    let (server, client) = (memif(&folder, 0, "server"), memif(&folder, 0, "client"));
    let reflector = Reflector::start(&[
        "--device",
        &server,
        "--mode",
        "dsr",
        "--backend",
        "10.0.0.11,02:aa:00:00:00:01",
        "--core",
        "0",
    ]);
    let (output, report) = run(&[
        "--device",
        &client,
        "--vip",
        "198.51.100.10",
        "--dst-mac",
        "02:aa:00:00:00:01",
        "--core",
        "1",
        "--rate",
        "10k",
        "--duration",
        "500ms",
        "--one-way",
    ]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        (&report["sent"]["packets"], &report["loss"]),
        (&5_000.into(), &Value::Null)
    );
    // The last frames may still lie in the device's ring.
    std::thread::sleep(Duration::from_millis(200));
    let (code, reflected) = reflector.stop();
    assert_eq!(code, Some(0));
    assert_eq!(
        (
            &reflected["stamped"],
            &reflected["answered"],
            &reflected["gaps"]
        ),
        (&5_000.into(), &0.into(), &0.into())
    );
}

#[test]
fn packets_that_reach_nobody_fail_the_run_at_both_ends() {
    let folder = TempDir::new().unwrap();
    let (server, client) = (memif(&folder, 0, "server"), memif(&folder, 0, "client"));
    let args = [
        "--device",
        &server,
        "--backend",
        "10.0.0.11",
        "--core",
        "0",
        "--fail-on-misdelivery",
    ];
    let reflector = Reflector::start(&args);
    let (output, report) = run(&[
        "--device",
        &client,
        "--vip",
        "10.0.0.12",
        "--dst-mac",
        "02:00:0a:00:00:0b",
        "--core",
        "1",
        "--rate",
        "10k",
        "--count",
        "1000",
        "--drain",
        "200ms",
        "--fail-on-loss",
    ]);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(
        (&report["loss"]["packets"], &report["failed"][0]),
        (&1_000.into(), &"loss".into())
    );
    assert_full(&report);
    let (code, reflected) = reflector.stop();
    assert_eq!((code, &reflected["strangers"]), (Some(1), &1_000.into()));
    assert_eq!(reflected["failed"][0], "misdelivery");
    assert_full(&reflected);
}

#[test]
fn a_next_hop_that_does_not_answer_and_a_link_that_stays_down_are_named() {
    let folder = TempDir::new().unwrap();
    let alone = memif(&folder, 1, "server");
    let (server, client) = (memif(&folder, 0, "server"), memif(&folder, 0, "client"));
    let (output, _) = run(&[
        "--device",
        &alone,
        "--vip",
        "10.0.0.9",
        "--core",
        "1",
        "--link-timeout",
        "300ms",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("has no link"));

    let reflector =
        Reflector::start(&["--device", &server, "--backend", "10.0.0.11", "--core", "0"]);
    let (output, _) = run(&[
        "--device",
        &client,
        "--vip",
        "10.0.0.9",
        "--core",
        "1",
        "--resolve-timeout",
        "500ms",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        message.contains("answers for next hop 10.0.0.9"),
        "{message}"
    );
    assert_eq!(reflector.stop().0, Some(0));
}

#[test]
fn a_run_without_an_end_reports_when_it_is_told_to_stop() {
    let args = [
        "run",
        "--json",
        "--device",
        "net_null0,no-rx=1",
        "--vip",
        "10.0.0.11",
        "--core",
        "1",
    ];
    let more = [
        "--dst-mac",
        "02:00:00:00:00:01",
        "--rate",
        "1k",
        "--drain",
        "100ms",
    ];
    let mut child = command(&[&args[..], &more].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Long enough to open a device and send a packet on a busy machine.
    std::thread::sleep(Duration::from_secs(5));
    terminate(&child);
    let code = wait(&mut child).code();
    let report: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(code, Some(0));
    assert!(report["sent"]["packets"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["loss"]["packets"], report["sent"]["packets"]);
    assert_full(&report);
}

#[test]
fn what_makes_no_sense_is_refused_with_exit_code_2_before_any_device_is_touched() {
    let vip = ["--device", "net_null0", "--vip", "10.0.0.11"];
    let backend = ["--device", "net_null0", "--backend", "10.0.0.11"];
    let refusals: [(&str, &[&str], &[&str], &str); 5] = [
        (
            "run",
            &vip,
            &["--core", "0", "--core", "1"],
            "2 cores for 1 queues",
        ),
        (
            "run",
            &vip,
            &["--one-way", "--fail-on-loss"],
            "cannot be used with",
        ),
        ("run", &vip, &["--flows", "0"], "--flows 1 or more"),
        (
            "reflect",
            &backend,
            &["--core", "0", "--core", "1"],
            "one --core",
        ),
        (
            "reflect",
            &backend,
            &["--backend", "10.0.0.11"],
            "given twice",
        ),
    ];
    for (name, args, more, words) in refusals {
        let output = command(&[&[name], args, more].concat()).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(words), "{message}");
    }
}
