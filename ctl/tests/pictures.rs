//! What operators see: tables and JSON, word by word.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::io::Read;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{CONFIG, Daemon};
use weir_shm::capture::{Request, SNAPLEN};
use weir_shm::command::Difference;
use weir_shm::document;
use weir_shm::segment::directory::BackendState;

fn assert_fits_80_columns(text: &str) {
    for line in text.lines() {
        assert!(
            line.chars().count() <= 80,
            "{} columns: {line}",
            line.chars().count()
        );
    }
}

#[test]
fn service_list() {
    let daemon = Daemon::start();
    let text = daemon.run("service list");
    assert_fits_80_columns(&text);
    insta::assert_snapshot!("service-list", text);
}

#[test]
fn service_show() {
    let daemon = Daemon::start();
    daemon.manner.flows.store(25, Ordering::Relaxed);
    let text = daemon.run("service show web");
    assert_fits_80_columns(&text);
    insta::assert_snapshot!("service-show", text);
}

#[test]
fn service_show_says_what_checks_found() {
    let checked = "forwarding = \"nat\"\n[service.health]\nkind = \"http\"\npath = \"/healthz\"\n";
    let daemon = Daemon::with_config(&CONFIG.replacen("forwarding = \"nat\"\n", checked, 1));
    let text = daemon.run("service show web");
    assert_fits_80_columns(&text);
    insta::assert_snapshot!("service-show-checks", text);
    insta::assert_snapshot!(
        "backend-list-checks-json",
        daemon.run("backend list web --output json")
    );
    insta::assert_snapshot!(
        "service-show-checks-json",
        daemon.run("service show web --output json")
    );
}

#[test]
fn reload_names_what_it_left_alone() {
    let daemon = Daemon::start();
    insta::assert_snapshot!("reload", daemon.run("reload"));
    insta::assert_snapshot!("reload-json", daemon.run("reload --output json"));
}

#[test]
fn reload_says_what_it_changed() {
    let said = |line: &str| {
        let daemon = Daemon::start();
        let text = CONFIG.replace("weight = 1 # old machine", "weight = 3");
        let pool = document::parse_services("lb1.toml", &text).unwrap().pool;
        let before = document::parse_services("lb1.toml", CONFIG).unwrap().pool;
        let lines = Difference::between(&before, &pool).lines();
        *daemon.manner.reloads.lock().unwrap() = Some((pool, lines));
        daemon.run(line)
    };
    let (table, json) = (said("reload"), said("reload --output json"));
    insta::assert_snapshot!("reload-changed", format!("{table}\n{json}"));
}

#[test]
fn what_is_refused_says_why_and_nothing_on_standard_output() {
    let daemon = Daemon::start();
    daemon.run("backend drain web 10.0.0.11:8080");
    daemon.manner.refuses.store(true, Ordering::Relaxed);
    let mut said = String::new();
    for line in [
        "reload",
        "backend drain web 10.0.0.12:8080",
        "backend drain web 10.0.0.12:8080 --force",
        "backend list mail",
    ] {
        for line in [line.to_owned(), format!("{line} --output json")] {
            let output = daemon.weirctl(&line).output().unwrap();
            assert_eq!(output.stdout, b"", "{line}");
            let code = output.status.code().unwrap();
            let complaint = String::from_utf8(output.stderr).unwrap();
            said += &format!("$ weirctl {line}\n{complaint}exit code {code}\n");
        }
    }
    insta::assert_snapshot!("refused", said);
}

/// A service with a backend in each state that there is.
const EVERY_STATE: &[(&str, BackendState)] = &[
    ("10.0.0.1:8080", BackendState::Up),
    ("10.0.0.2:8080", BackendState::Down),
    ("10.0.0.3:8080", BackendState::FailOpen),
    ("10.0.0.4:8080", BackendState::Draining),
    ("10.0.0.5:8080", BackendState::Drained),
    ("10.0.0.6:8080", BackendState::Disabled),
    ("10.0.0.7:8080", BackendState::Idle),
    ("10.0.0.8:8080", BackendState::Checking),
    ("10.0.0.9:8080", BackendState::Held),
    ("10.0.0.10:8080", BackendState::SlowStart),
];

#[test]
fn backend_list_with_every_state() {
    let mut config = "[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80\n\
                      protocol = \"tcp\"\nforwarding = \"nat\"\n"
        .to_owned();
    for (name, _) in EVERY_STATE {
        let address = name.trim_end_matches(":8080");
        config += &format!("[[service.backend]]\naddress = \"{address}\"\nport = 8080\n");
    }
    let daemon = Daemon::with_config(&config);
    let states = EVERY_STATE.iter();
    *daemon.manner.states.lock().unwrap() = states
        .map(|(name, state)| ((*name).to_owned(), *state))
        .collect();
    for line in [
        "backend drain web 10.0.0.4:8080 --timeout 90s",
        "backend drain web 10.0.0.5:8080",
        "backend disable web 10.0.0.6:8080",
        "backend weight web 10.0.0.7:8080 0",
        "backend force web 10.0.0.2:8080 down",
    ] {
        daemon.run(line);
    }
    let text = daemon.run("backend list web");
    assert_fits_80_columns(&text);
    insta::assert_snapshot!("backend-list", text);
    let json = daemon.run("backend list web --output json");
    let all: serde_json::Value = serde_json::from_str(&json).unwrap();
    for (backend, (name, state)) in all.as_array().unwrap().iter().zip(EVERY_STATE) {
        assert_eq!(
            (&backend["name"], &backend["state"]),
            (&(*name).into(), &state.name().into())
        );
    }
    insta::assert_snapshot!("backend-list-states-json", json);
    let text = daemon.run("service list");
    assert_fits_80_columns(&text);
    insta::assert_snapshot!("service-list-states", text);
}

#[test]
fn backend_list_of_a_service_for_any_port() {
    let daemon = Daemon::start();
    insta::assert_snapshot!(
        "backend-list-json",
        daemon.run("backend list dns --output json")
    );
}

#[test]
fn service_show_as_json() {
    let daemon = Daemon::start();
    insta::assert_snapshot!(
        "service-show-json",
        daemon.run("service show web --output json")
    );
}

/// What differs from run to run, made the same.
fn settled(text: &str) -> String {
    let pid = std::process::id().to_string();
    let text = text.replace(&format!("process {pid}"), "process PID");
    let text = text.replace(&format!("\"pid\": {pid}"), "\"pid\": PID");
    text.lines()
        .map(|line| match line.split_once("\"started_unix_ms\": ") {
            Some((before, _)) => format!("{before}\"started_unix_ms\": TIME,"),
            None => line.replace(", up 1s", ", up 0s"),
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn status() {
    let daemon = Daemon::start();
    let text = settled(&daemon.run("status"));
    assert_fits_80_columns(&text);
    insta::assert_snapshot!("status", text);
    insta::assert_snapshot!("status-json", settled(&daemon.run("status --output json")));
}

#[test]
fn stats() {
    let daemon = Daemon::start();
    let text = daemon.run("stats");
    assert_fits_80_columns(&text);
    insta::assert_snapshot!("stats", text);
    insta::assert_snapshot!("stats-json", daemon.run("stats --output json"));
}

#[test]
fn lookup() {
    let daemon = Daemon::start();
    let text = daemon.run("lookup tcp 203.0.113.5:51234 198.51.100.10:80");
    insta::assert_snapshot!("lookup", text);
    insta::assert_snapshot!(
        "lookup-json",
        daemon.run("lookup tcp 203.0.113.5:9 198.51.100.10:81 --output json")
    );
}

#[test]
fn lookup_by_connection_id() {
    let daemon = Daemon::start();
    let lookup = "lookup quic 203.0.113.5:51234 198.51.100.10:443";
    let texts = [
        "07c4605e4504cc4f",
        "070badc04504cc4f",
        "e7c4605e4504cc4f",
        "27c4605e4504cc4f",
    ]
    .map(|cid| daemon.run(&format!("{lookup} --cid {cid}")));
    insta::assert_snapshot!("lookup-cid", texts.join("\n"));
    insta::assert_snapshot!(
        "lookup-cid-json",
        daemon.run(&format!("{lookup} --cid 07c4605e4504cc4f --output json"))
    );
}

#[test]
fn flows() {
    let daemon = Daemon::start();
    let text = daemon.run("flows");
    insta::assert_snapshot!("flows", text);
    insta::assert_snapshot!("flows-json", daemon.run("flows --output json"));
    insta::assert_snapshot!("flows-newest", daemon.run("flows --newest"));
    insta::assert_snapshot!(
        "flows-newest-json",
        daemon.run("flows --newest 1 --output json")
    );
}

/// What a capture prints, and its closing line.
fn capture(daemon: &Daemon, line: &str) -> (Vec<u8>, String) {
    let output = daemon.weirctl(line).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    (output.stdout, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn capture_by_the_line_and_as_json() {
    let daemon = Daemon::start();
    let (lines, closing) = capture(&daemon, "capture");
    insta::assert_snapshot!("capture", String::from_utf8(lines).unwrap());
    assert_eq!(
        closing,
        "weirctl: 2 packets captured, 5 lost to a slow reader; the daemon ended it\n"
    );
    let (lines, _) = capture(&daemon, "capture --output json --count 1");
    insta::assert_snapshot!("capture-json", String::from_utf8(lines).unwrap());
    let (code, complaint) = daemon.fail("capture --service mail");
    assert_eq!(
        (code, complaint.as_str()),
        (1, "weirctl: no service \"mail\"\n")
    );
    let (code, complaint) = daemon.fail("capture --address 192.0.2.0/40");
    assert!(
        code == 2 && complaint.contains("203.0.113.0/24"),
        "{complaint}"
    );
}

#[test]
fn capture_as_pcapng() {
    let daemon = Daemon::start();
    let (bytes, _) = capture(&daemon, "capture --write -");
    let file = daemon.folder.path().join("all.pcapng");
    let line = format!("capture --write {} --count 2", file.display());
    let (out, closing) = capture(&daemon, &line);
    assert!(out.is_empty() && closing.contains("2 packets"), "{closing}");
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
    // Section, interfaces "wan", "lan" and that of frames without a port, two packets.
    let mut rest = bytes.as_slice();
    let mut kinds = Vec::new();
    while !rest.is_empty() {
        kinds.push(u32::from_le_bytes(rest[..4].try_into().unwrap()));
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap());
        rest = &rest[length as usize..];
    }
    assert_eq!(kinds, [0x0a0d_0d0a, 1, 1, 1, 6, 6]);
    for text in [
        "wan",
        "lan",
        "service web, backend 10.0.0.12:8080 by maglev, sent by lan, worker 1",
    ] {
        assert!(
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes()),
            "{text}"
        );
    }
}

#[test]
fn each_filter_of_a_capture_reaches_the_daemon() {
    type Set = fn(&mut Request);
    let cases: &[(&str, Set)] = &[
        ("--service web", |request| {
            request.service = Some("web".to_owned());
        }),
        ("--backend 10.0.0.11:8080", |request| {
            request.backend = Some("10.0.0.11:8080".to_owned());
        }),
        ("--address 203.0.113.0/24", |request| {
            request.address = Some(([203, 0, 113, 0].into(), 24));
        }),
        ("--address 2001:db8::5", |request| {
            request.address = Some(("2001:db8::5".parse().unwrap(), 128));
        }),
        ("--port wan", |request| {
            request.port = Some("wan".to_owned());
        }),
        ("--port 8080", |request| {
            request.port = Some("8080".to_owned());
        }),
        ("--drops", |request| request.drops = true),
        ("--drop no_service --drop arp_not_ours", |request| {
            request.drops = true;
            request.reasons = vec!["no_service".to_owned(), "arp_not_ours".to_owned()];
        }),
        ("--direction in", |request| request.outgoing = false),
        ("--direction out", |request| request.incoming = false),
        ("--sample 100", |request| request.sample = 100),
        ("--snaplen 64", |request| request.snaplen = 64),
    ];
    let daemon = Daemon::start();
    let asked = |line: &str| {
        capture(&daemon, &format!("capture {line}"));
        daemon.manner.asked.lock().unwrap().take().unwrap()
    };
    let plain = Request {
        service: None,
        backend: None,
        address: None,
        port: None,
        drops: false,
        reasons: Vec::new(),
        incoming: true,
        outgoing: true,
        sample: 1,
        snaplen: SNAPLEN,
    };
    assert_eq!(asked(""), plain);
    let mut all = plain.clone();
    let mut every = Vec::new();
    for (line, set) in cases {
        let mut expected = plain.clone();
        set(&mut expected);
        assert_eq!(asked(line), expected, "{line}");
        // Of those that may be given once, one.
        let flag = line.split(' ').next().unwrap();
        if !every.iter().any(|given: &&str| given.starts_with(flag)) {
            set(&mut all);
            every.push(line);
        }
    }
    assert_eq!(asked(&every.join(" ")), all);
}

#[test]
fn a_capture_that_is_refused_leaves_files_as_they_were() {
    let daemon = Daemon::start();
    let old = daemon.folder.path().join("old.pcapng");
    let new = daemon.folder.path().join("new.pcapng");
    std::fs::write(&old, "last night's capture").unwrap();
    for file in [&old, &new] {
        let line = format!("capture --service mail --write {}", file.display());
        let (code, complaint) = daemon.fail(&line);
        assert_eq!(
            (code, complaint.as_str()),
            (1, "weirctl: no service \"mail\"\n")
        );
    }
    assert_eq!(std::fs::read(&old).unwrap(), b"last night's capture");
    assert!(!new.exists());
    let nowhere = daemon.folder.path().join("no/folder.pcapng");
    let (code, complaint) = daemon.fail(&format!("capture --write {}", nowhere.display()));
    assert!(
        code == 1 && complaint.contains("cannot write"),
        "{complaint}"
    );
    assert!(daemon.manner.capture.lock().unwrap().is_none());
}

#[test]
fn a_capture_that_is_accepted_takes_the_place_of_a_longer_old_one() {
    let daemon = Daemon::start();
    let (bytes, _) = capture(&daemon, "capture --write -");
    let file = daemon.folder.path().join("old.pcapng");
    std::fs::write(&file, vec![b'x'; 100_000]).unwrap();
    capture(&daemon, &format!("capture --write {}", file.display()));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);
}

#[test]
fn events() {
    let daemon = Daemon::start();
    daemon.run("backend weight web 10.0.0.11:8080 3");
    let text = daemon.run("events");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].ends_with("Z  started        weir 0.1.0 started"),
        "{text}"
    );
    assert!(
        lines[1].ends_with("Z  configuration  generation 2"),
        "{text}"
    );
    assert_eq!(daemon.run("events --last 1").lines().count(), 1);
    let json = daemon.run("events --last 1 --output json");
    assert!(
        json.contains("\"kind\": \"configuration\"") && json.contains("\"number\": 2"),
        "{json}"
    );
}

#[test]
fn followed_events_come_as_they_happen() {
    let daemon = Daemon::start();
    let mut follower = daemon
        .weirctl("events --follow --output json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = follower.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut seen = String::new();
        let mut byte = [0];
        while !seen.contains("generation 2") && pipe.read(&mut byte).unwrap() == 1 {
            seen.push(char::from(byte[0]));
        }
        // The pipe closes here; that ends the follower at its next event.
        seen
    });
    daemon.run("backend weight web 10.0.0.11:8080 3");
    let seen = reader.join().unwrap();
    assert!(
        seen.lines().count() == 2 && seen.contains("\"kind\":\"started\""),
        "{seen}"
    );
    let mut weight = 4;
    let status = loop {
        daemon.run(&format!("backend weight web 10.0.0.11:8080 {weight}"));
        std::thread::sleep(Duration::from_millis(100));
        if let Some(status) = follower.try_wait().unwrap() {
            break status;
        }
        weight += 1;
        assert!(weight < 100, "the follower goes on without a reader");
    };
    assert!(status.success(), "a broken pipe is no failure: {status}");
}

#[test]
fn completions_and_manual_pages_are_made() {
    let daemon = Daemon::start();
    for shell in ["bash", "zsh", "fish"] {
        let script = daemon.run(&format!("completions {shell}"));
        assert!(
            script.contains("weirctl") && script.contains("drain"),
            "{shell}"
        );
    }
    assert!(daemon.run("man").contains(".TH weirctl 1"));
    let folder = daemon.folder.path().join("man1");
    daemon.run(&format!("man {}", folder.display()));
    let page = std::fs::read_to_string(folder.join("weirctl-backend-drain.1")).unwrap();
    assert!(page.contains("300s"), "the example is missing: {page}");
}
