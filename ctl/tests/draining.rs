//! `backend drain --wait`: what is seen while it waits, and what is said at its end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::sync::atomic::Ordering;

use support::terminal::{Terminal, line};
use support::{CONFIG, Daemon};

#[test]
fn drain_waits_until_no_flow_is_left() {
    let daemon = Daemon::start();
    daemon.manner.flows.store(2, Ordering::Relaxed);
    let said = daemon.run("backend drain web 10.0.0.11:8080 --wait");
    assert!(
        said.contains("\ndrained: no flow of 10.0.0.11:8080 is left after 1s\n"),
        "{said}"
    );
    daemon.manner.flows.store(1_000_000, Ordering::Relaxed);
    let said = daemon.run("backend drain web 10.0.0.12:8080 --timeout 100ms --wait --force");
    assert!(
        said.contains("flows of 10.0.0.12:8080 left at the time-out"),
        "{said}"
    );
}

#[test]
fn a_bar_shows_how_many_flows_have_ended_and_goes_when_all_have() {
    let daemon = Daemon::start();
    daemon.manner.flows.store(6, Ordering::Relaxed);
    let command = "backend drain web 10.0.0.11:8080 --wait";
    let terminal = Terminal::start(120, 24, &line(&daemon, command));
    terminal.until("the bar", |screen| {
        let mut lines = screen.lines();
        lines.any(|line| {
            line.starts_with("draining 10.0.0.11:8080 [") && line.contains("] 2/6 flows ended, ")
        })
    });
    terminal.until_shows("4/6 flows ended, ");
    let screen = terminal.until_shows("drained: no flow of 10.0.0.11:8080 is left after ");
    assert!(!screen.contains("flows ended"), "{screen}");
}

#[test]
fn at_the_time_out_it_says_what_becomes_of_the_flows_that_are_left() {
    for (on_down, then) in [
        ("re-steer", "other backends take over"),
        ("keep", "other backends take over"),
        ("reset", "their clients get a reset"),
    ] {
        let text = format!("forwarding = \"nat\"\non_down = \"{on_down}\"\n");
        let text = CONFIG.replacen("forwarding = \"nat\"\n", &text, 1);
        let daemon = Daemon::with_config(&text);
        daemon.manner.flows.store(1_000, Ordering::Relaxed);
        let said = daemon.run("backend drain web 10.0.0.12:8080 --timeout 10ms --wait");
        let last = said.lines().last().unwrap();
        let (flows, rest) = last.split_once(' ').unwrap();
        assert!(
            flows.parse::<u64>().is_ok_and(|flows| flows > 900),
            "{said}"
        );
        let expected = format!("flows of 10.0.0.12:8080 left at the time-out; {then}");
        assert_eq!(rest, expected, "{on_down}");
    }
}

#[test]
fn programs_learn_whether_flows_were_left() {
    for (timeout, flows, left) in [("--timeout 10ms", 1_000, true), ("", 1, false)] {
        let daemon = Daemon::start();
        daemon.manner.flows.store(flows, Ordering::Relaxed);
        let command = format!("backend drain web 10.0.0.11:8080 {timeout} --wait --output json");
        let said: serde_json::Value = serde_json::from_str(&daemon.run(&command)).unwrap();
        assert_eq!(said["drained"], !left, "{said}");
        assert_eq!(said["flows_left"].as_u64().unwrap() > 0, left, "{said}");
        assert_eq!(said["changed"], true);
    }
    let daemon = Daemon::start();
    let command = "backend drain web 10.0.0.11:8080 --output json";
    let said: serde_json::Value = serde_json::from_str(&daemon.run(command)).unwrap();
    assert!(said.get("drained").is_none(), "nobody waited: {said}");
}

#[test]
fn the_change_is_told_though_the_daemon_goes_silent_while_it_is_waited_for() {
    let daemon = Daemon::start();
    daemon.manner.flows.store(u64::MAX, Ordering::Relaxed);
    let command = "--ack-timeout 300ms backend drain web 10.0.0.11:8080 --wait --output json";
    let waiting = daemon
        .weirctl(command)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let begin = std::time::Instant::now();
    while daemon.manner.flows.load(Ordering::Relaxed) == u64::MAX {
        assert!(begin.elapsed().as_secs() < 30, "it was not asked");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    daemon.manner.deaf.store(true, Ordering::Relaxed);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["changed"], true);
    assert!(said.get("drained").is_none(), "{said}");
}
