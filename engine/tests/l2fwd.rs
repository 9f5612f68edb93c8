//! The example forwards what a capture holds, byte for byte, and every buffer comes home.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{frame, read_capture, write_capture};

#[test]
fn both_directions_are_forwarded_and_the_pool_is_full_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let east: Vec<_> = (0..300).map(|i| frame(i, 60 + i as usize)).collect();
    let west: Vec<_> = (1_000..1_100).map(|i| frame(i, 1_514)).collect();
    write_capture(&path("a-in.pcap"), &east);
    write_capture(&path("b-in.pcap"), &west);
    let device = |number: u32, name: &str| {
        let (rx, tx) = (
            path(&format!("{name}-in.pcap")),
            path(&format!("{name}-out.pcap")),
        );
        format!(
            "net_pcap{number},rx_pcap={},tx_pcap={}",
            rx.display(),
            tx.display()
        )
    };
    let output = end(start(&[&device(0, "a"), &device(1, "b"), "400"]));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "sent 400 frames\n16383 of 16383 buffers home\n"
    );
    assert_eq!(read_capture(&path("b-out.pcap")), east);
    assert_eq!(read_capture(&path("a-out.pcap")), west);
}

/// The sender is stopped in its tracks before the receiver goes, and then killed: DPDK's memif
/// driver may crash when it is polled while its peer disconnects.
#[test]
fn two_processes_pass_frames_over_shared_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let frames: Vec<_> = (0..200).map(|i| frame(i, 60 + i as usize)).collect();
    write_capture(&path("in.pcap"), &frames);
    let memif = |role: &str| {
        let socket = path("memif.sock");
        let socket = socket.display();
        format!("net_memif0,role={role},socket-abstract=no,socket={socket}")
    };
    let output = path("out.pcap");
    let written = format!("net_pcap0,tx_pcap={}", output.display());
    let receiving = start(&[&memif("server"), &written]);
    wait_for_listener(&path("memif.sock"));
    let repeated = format!(
        "net_pcap0,rx_pcap={},infinite_rx=1",
        path("in.pcap").display()
    );
    let sending = start(&[&repeated, &memif("client")]);
    let id = sending.0.as_ref().unwrap().id();
    wait_until("1,000 frames are written", || {
        std::fs::metadata(&output).is_ok_and(|file| file.len() > 300_000)
    });
    signal(&sending, "-STOP");
    signal(&receiving, "-TERM");
    let received = end(receiving);
    drop(sending);
    let _ = std::fs::remove_dir_all(format!("/var/run/dpdk/weir-{id}"));
    let text = String::from_utf8(received.stdout).unwrap();
    assert!(text.ends_with("16383 of 16383 buffers home\n"), "{text}");
    let serial = |frame: &[u8]| u32::from_be_bytes(frame[14..18].try_into().unwrap());
    let out = read_capture(&output);
    let first = serial(&out[0]);
    for (position, bytes) in (first..).zip(out.iter().take(200)) {
        assert_eq!(bytes, &frames[position as usize % frames.len()]);
    }
}

#[test]
fn sigterm_ends_it_cleanly_under_load() {
    let child = start(&["net_null0", "net_null1"]);
    wait_for_handler(&child);
    thread::sleep(Duration::from_millis(300));
    signal(&child, "-TERM");
    let text = String::from_utf8(end(child).stdout).unwrap();
    let (sent, home) = text.split_once('\n').unwrap();
    let sent: u64 = sent.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(sent > 0, "{text}");
    assert_eq!(home, "16383 of 16383 buffers home\n");
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let output = finish(start(&["net_nothing0", "net_null0"]));
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("net_nothing0"));
}

#[test]
fn the_example_is_under_sixty_lines() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/l2fwd.rs");
    assert!(std::fs::read_to_string(source).unwrap().lines().count() < 60);
}

/// Beside this test, where cargo puts examples.
fn program() -> PathBuf {
    let test = env::current_exe().unwrap();
    test.parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/l2fwd")
}

/// The example while it runs; killed if the test fails meanwhile.
struct Running(Option<Child>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(arguments: &[&str]) -> Running {
    let child = Command::new(program())
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Running(Some(child))
}

/// Waits for it, and for success.
fn end(running: Running) -> Output {
    let output = finish(running);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    output
}

/// Waits for it, 30 seconds at most.
fn finish(mut running: Running) -> Output {
    let until = Instant::now() + Duration::from_secs(30);
    let child = running.0.as_mut().unwrap();
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < until, "it does not end");
        thread::sleep(Duration::from_millis(10));
    }
    running.0.take().unwrap().wait_with_output().unwrap()
}

fn signal(running: &Running, signal: &str) {
    let id = running.0.as_ref().unwrap().id().to_string();
    let kill = Command::new("kill").args([signal, &id]).status().unwrap();
    assert!(kill.success());
}

/// Waits until the process catches SIGTERM (bit 14 of the mask that the kernel shows).
fn wait_for_handler(running: &Running) {
    let status = format!("/proc/{}/status", running.0.as_ref().unwrap().id());
    wait_until("it catches SIGTERM", || {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & (1 << 14) != 0
    });
}

/// Waits until somebody listens on a Unix socket: its line in the kernel's list has the flag
/// `__SO_ACCEPTCON`. The file alone is there a moment earlier.
fn wait_for_listener(path: &Path) {
    let path = path.to_str().unwrap();
    wait_until("somebody listens", || {
        let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
        let mut ours = sockets.lines().filter(|line| line.ends_with(path));
        ours.any(|line| line.contains(" 00010000 "))
    });
}

/// Waits 20 seconds at most.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < until, "not so in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
