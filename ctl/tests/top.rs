//! `weirctl top` in a terminal, as an operator has it: driven through tmux at both sizes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::process::Command;
use std::sync::atomic::Ordering;

use support::Daemon;
use support::terminal::{Terminal, line};

/// The program has ended and the terminal is as it was before.
fn is_restored(terminal: &Terminal) {
    terminal.until("the shell's screen", |screen| {
        !screen.contains("2 Services")
    });
    let alternate = terminal.tmux(&["display-message", "-p", "#{alternate_on} #{cursor_flag}"]);
    assert_eq!(alternate.trim(), "0 1", "the other screen, or no cursor");
    terminal.keys(&[
        "clear; stty -a | tr ' ;' '\\n\\n' | grep -x -e icanon -e echo -e isig | xargs echo modes",
        "Enter",
    ]);
    let screen = terminal.until("modes", |screen| {
        screen.lines().any(|line| line.starts_with("modes "))
    });
    let modes = screen
        .lines()
        .find(|line| line.starts_with("modes "))
        .unwrap();
    for mode in ["icanon", "echo", "isig"] {
        assert!(modes.contains(mode), "{screen}");
    }
}

/// The first words of the table's rows.
fn names(screen: &str) -> Vec<&str> {
    let rows = screen
        .lines()
        .skip(5)
        .take_while(|line| !line.trim().is_empty());
    rows.filter_map(|line| line.split_whitespace().next())
        .collect()
}

fn with_traffic() -> Daemon {
    let daemon = Daemon::start();
    daemon.manner.traffic.store(true, Ordering::Relaxed);
    daemon
}

#[test]
fn at_80_by_24_it_sorts_filters_pauses_and_gives_the_terminal_back() {
    let daemon = with_traffic();
    let terminal = Terminal::start(80, 24, &line(&daemon, "top --interval 200ms"));
    let screen = terminal.until("rates", |screen| {
        let mut lines = screen.lines();
        lines.any(|line| line.starts_with("web") && line.contains('k'))
    });
    assert!(screen.lines().count() <= 24, "{screen}");
    assert!(
        screen.lines().all(|line| line.chars().count() <= 80),
        "{screen}"
    );
    assert!(
        screen.contains("weir lb1") && screen.contains("q quit"),
        "{screen}"
    );
    assert_eq!(names(&screen), ["dns", "web"]);

    terminal.keys(&["s", "s", "r"]);
    let screen = terminal.until_shows("PPS▼");
    assert_eq!(names(&screen), ["web", "dns"]);
    terminal.keys(&["r"]);
    let screen = terminal.until_shows("PPS▲");
    assert_eq!(names(&screen), ["dns", "web"]);

    terminal.keys(&["3"]);
    let screen = terminal.until("backends", |screen| screen.contains("67%"));
    assert!(
        screen.contains("10.0.0.12:8080") && screen.contains("2001:db8::1:1"),
        "{screen}"
    );
    terminal.keys(&["/", "0.12", "Enter"]);
    let screen = terminal.until("one backend", |screen| names(screen) == ["10.0.0.12:8080"]);
    assert!(screen.contains("/0.12"), "{screen}");

    terminal.keys(&["Escape"]);
    terminal.until("all backends", |screen| names(screen).len() == 3);
    terminal.keys(&["1"]);
    let screen = terminal.until("busy", |screen| {
        screen.contains("75%") && screen.contains("95%")
    });
    assert!(
        screen.contains("120k") && screen.contains("12%"),
        "{screen}"
    );
    terminal.keys(&["4"]);
    terminal.until_shows("no_service");
    terminal.keys(&["p"]);
    terminal.until_shows("PAUSED");
    terminal.keys(&["-"]);
    terminal.until_shows("every 500ms");

    terminal.tmux(&["resize-window", "-x", "60", "-y", "12"]);
    let screen = terminal.until("60 columns", |screen| {
        screen.lines().count() <= 12 && screen.contains("no_service")
    });
    assert!(
        screen.lines().all(|line| line.chars().count() <= 60),
        "{screen}"
    );

    terminal.keys(&["q"]);
    is_restored(&terminal);
}

#[test]
fn at_200_by_60_the_other_tables_stand_beside() {
    let daemon = with_traffic();
    let terminal = Terminal::start(200, 60, &line(&daemon, "top --interval 200ms"));
    let screen = terminal.until("rates", |screen| screen.contains("75%"));
    for text in [
        "Workers",
        "Drops",
        "no_service",
        "Events",
        "weir 0.1.0 started",
        "VIP",
        "MODE",
    ] {
        assert!(screen.contains(text), "{text} in\n{screen}");
    }
    terminal.keys(&["C-c"]);
    is_restored(&terminal);
}

#[test]
fn a_daemon_that_goes_and_comes_back_is_followed() {
    let mut daemon = with_traffic();
    let terminal = Terminal::start(
        80,
        24,
        &line(&daemon, "top --interval 100ms --instance lb1"),
    );
    terminal.until_shows("weir lb1");
    drop(daemon.end());
    terminal.until_shows("AWAY");
    let folder = daemon.folder.path().to_owned();
    let second = Daemon::again(&folder);
    terminal.until("the daemon again", |screen| {
        screen.contains("weir lb1") && !screen.contains("AWAY")
    });
    terminal.keys(&["q"]);
    is_restored(&terminal);
    drop(second);
}

#[test]
fn a_signal_gives_the_terminal_back_too() {
    let daemon = with_traffic();
    let terminal = Terminal::start(80, 24, &line(&daemon, "top"));
    terminal.until_shows("2 Services");
    let shell = terminal.tmux(&["display-message", "-p", "#{pane_pid}"]);
    let children = Command::new("pgrep")
        .args(["-P", shell.trim()])
        .output()
        .unwrap();
    let child = String::from_utf8(children.stdout).unwrap();
    let child = nix::unistd::Pid::from_raw(child.trim().parse().unwrap());
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGTERM).unwrap();
    is_restored(&terminal);
}

#[test]
fn one_frame_can_be_printed_for_scripts() {
    let daemon = with_traffic();
    let text = daemon.run("top --once --interval 500ms");
    for expected in [
        "weir lb1, up",
        "generation 1",
        "SERVICE",
        "10.0.0.12:8080",
        "no_service",
        "75%",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&daemon.run("top --once --interval 500ms --output json")).unwrap();
    let near = |value: &serde_json::Value, wanted: f64| {
        let value = value.as_f64().unwrap();
        assert!(
            (value / wanted - 1.0).abs() < 0.2,
            "{value} is not about {wanted}"
        );
    };
    near(&json["services"][0]["pps"], 30_000.0);
    near(&json["backends"][1]["pps"], 20_000.0);
    near(&json["backends"][1]["share"], 0.667);
    near(&json["workers"][0]["busy"], 0.75);
    near(&json["drops"][0]["dropped_pps"], 500.0);
    assert_eq!(json["workers"][1]["conntrack_entries"], 950_000);
    assert_eq!(json["total"]["backends"], 3);
}

#[test]
fn the_sum_of_flows_does_without_a_service_that_is_new() {
    let daemon = Daemon::start();
    daemon.run("service add shop --vip 198.51.100.20 --port 443 --protocol tcp --forwarding nat --backend 10.0.0.30:443");
    let json: serde_json::Value =
        serde_json::from_str(&daemon.run("top --once --interval 100ms --output json")).unwrap();
    assert_eq!(json["services"][0]["flows"], 4045);
    assert_eq!(json["services"][1]["flows"], 91_000);
    assert!(json["services"][2]["flows"].is_null(), "{json}");
    assert_eq!(json["total"]["flows"], 95_045);
}

#[test]
fn without_a_terminal_it_says_what_to_do() {
    let daemon = Daemon::start();
    let (code, complaint) = daemon.fail("top");
    assert_eq!(code, 1);
    assert!(complaint.contains("--once"), "{complaint}");
}
