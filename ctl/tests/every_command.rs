//! What every command that changes something prints, as a table and as JSON.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::sync::atomic::Ordering;

use support::Daemon;

/// Names of pictures, what is done before, and the command.
const COMMANDS: &[(&str, &[&str], &str)] = &[
    (
        "service-add",
        &[],
        "service add shop --vip 198.51.100.20 --port 443 --protocol tcp --forwarding nat",
    ),
    ("service-remove", &[], "service remove dns"),
    (
        "backend-add",
        &[],
        "backend add web 10.0.0.13:8080 --weight 4",
    ),
    ("backend-remove", &[], "backend remove web 10.0.0.12:8080"),
    ("backend-weight", &[], "backend weight web 10.0.0.11:8080 3"),
    ("backend-disable", &[], "backend disable web 10.0.0.11:8080"),
    (
        "backend-enable",
        &["backend disable web 10.0.0.11:8080"],
        "backend enable web 10.0.0.11:8080",
    ),
    (
        "backend-enable-again",
        &[],
        "backend enable web 10.0.0.11:8080",
    ),
    (
        "backend-force",
        &[],
        "backend force web 10.0.0.11:8080 down",
    ),
    (
        "backend-drain",
        &[],
        "backend drain web 10.0.0.11:8080 --timeout 60s",
    ),
    (
        "backend-drain-wait",
        &[],
        "backend drain web 10.0.0.11:8080 --wait",
    ),
    (
        "backend-drain-time-out",
        &[],
        "backend drain web 10.0.0.11:8080 --timeout 10ms --wait",
    ),
    ("apply", &[], "apply POOLS"),
    ("apply-dry-run", &[], "apply POOLS --dry-run"),
    ("apply-nothing", &[], "apply CONFIG"),
    ("save", &["backend weight web 10.0.0.11:8080 3"], "save"),
    ("save-nothing", &[], "save"),
    ("reload", &[], "reload"),
    (
        "lookup",
        &[],
        "lookup tcp 203.0.113.5:51234 198.51.100.10:80",
    ),
    ("service-list", &[], "service list"),
    ("service-show", &[], "service show web"),
    ("backend-list", &[], "backend list web"),
];

/// A pool in which one service is gone and another has a heavier backend.
const POOLS: &str = r#"[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 8080
weight = 5
[[service.backend]]
address = "10.0.0.13"
port = 8080
"#;

fn said(before: &[&str], line: &str) -> String {
    let daemon = Daemon::start();
    daemon.manner.flows.store(1, Ordering::Relaxed);
    let lasts = line.contains("--timeout 10ms");
    daemon.manner.lasting.store(lasts, Ordering::Relaxed);
    let pools = daemon.folder.path().join("pools.toml");
    std::fs::write(&pools, POOLS).unwrap();
    let (pools, config) = (
        pools.display().to_string(),
        daemon.config.display().to_string(),
    );
    for line in before {
        daemon.run(line);
    }
    let text = daemon.run(&line.replace("POOLS", &pools).replace("CONFIG", &config));
    let text = text.replace(&pools, "POOLS").replace(&config, "CONFIG");
    match text.split_once(" is left after ") {
        Some((before, _)) => format!("{before} is left after TIME\n"),
        None => text,
    }
}

#[test]
fn every_command_has_its_picture_as_table_and_as_json() {
    for (name, before, line) in COMMANDS {
        let table = said(before, line);
        for line in table.lines() {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
        let json = said(before, &format!("{line} --output json"));
        for value in serde_json::Deserializer::from_str(&json).into_iter::<serde_json::Value>() {
            assert!(value.is_ok(), "{name}: {json}");
        }
        let picture = format!("$ weirctl {line}\n{table}\n$ weirctl {line} --output json\n{json}");
        insta::assert_snapshot!(*name, picture);
    }
}

#[test]
fn events_as_table_and_as_json() {
    let daemon = Daemon::start();
    daemon.run("backend weight web 10.0.0.11:8080 3");
    let settled = |text: &str| {
        let words = |line: &str| {
            let time = |word: &str| word.ends_with('Z') && word.contains('T') && word.len() == 24;
            let words = line.split(' ').map(|word| {
                let bare = word.trim_matches(['"', ',']);
                if time(bare) {
                    word.replace(bare, "TIME")
                } else {
                    word.to_owned()
                }
            });
            words.collect::<Vec<_>>().join(" ")
        };
        let lines = text
            .lines()
            .map(|line| match line.split_once("\"unix_ns\": ") {
                Some((before, _)) => format!("{before}\"unix_ns\": TIME,"),
                None => words(line),
            });
        lines.collect::<Vec<_>>().join("\n")
    };
    let table = settled(&daemon.run("events"));
    let json = settled(&daemon.run("events --output json"));
    insta::assert_snapshot!("events", format!("{table}\n\n{json}"));
}

#[test]
fn the_doctor_looks_at_this_machine() {
    let daemon = Daemon::start();
    let output = daemon.weirctl("doctor --output json").output().unwrap();
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = all["findings"].as_array().unwrap();
    let areas: Vec<&str> = findings
        .iter()
        .filter_map(|one| one["area"].as_str())
        .collect();
    for area in [
        "daemon",
        "config",
        "huge pages",
        "locked memory",
        "/dev/shm",
        "iommu",
        "driver",
        "numa",
        "link",
        "queues",
        "offloads",
        "cores",
        "governor",
        "processor",
        "clock",
    ] {
        assert!(areas.contains(&area), "{area} in {areas:?}");
    }
    let wrong = findings.iter().any(|one| one["verdict"] == "wrong");
    assert_eq!(output.status.code(), Some(i32::from(wrong)), "{all}");
    for finding in findings {
        assert_eq!(
            finding["mend"].is_null(),
            finding["verdict"] == "ok",
            "{finding}"
        );
    }
    let text = daemon.weirctl("doctor").output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("instance lb1 runs"), "{text}");
}

#[test]
fn the_doctor_needs_no_daemon_and_says_what_is_wrong_with_a_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[engine]\nworkers = [999]\nmemory = \"anonymous\"\n[[port]]\nname = \"wan\"\ndevice = \"0000:ff:1f.7\"\n").unwrap();
    let mut command = support::weirctl(folder.path());
    let output = command
        .arg("doctor")
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "ok     daemon         none runs",
        "wrong  driver         port wan: there is no PCI device 0000:ff:1f.7",
        "wrong  cores          core 999 is not online",
        "-> choose [engine] workers",
    ] {
        assert!(text.contains(expected), "{expected} in\n{text}");
    }
    let mut command = support::weirctl(folder.path());
    let output = command
        .args(["doctor", "--config", "/nowhere.toml"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("wrong  config")
    );
}
