//! The exposition: names, labels, values, and that the operator's reference lists all of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use weir::conntrack::{Conntrack, Pass, Profile, Profiles, Tick};
use weir::metrics::exposition::{self, Seen};
use weir::metrics::facts::{BackendFacts, CheckFacts, PoolFacts, ServiceFacts, WorkerFacts};
use weir::metrics::{Facts, Histogram};
use weir_engine::counters::{CounterReader, CounterWriter, counters};
use weir_shm::counters as layout;
use weir_shm::segment::directory::BackendState;
use weir_shm::segment::event::EventKind;
use weir_shm::segment::port::PortStatus;

/// Counters of two workers and a control core.
struct Blocks {
    writers: Vec<CounterWriter>,
    readers: Vec<CounterReader>,
}

fn blocks() -> Blocks {
    let (writers, readers) = (0..3).map(|_| counters(layout::BLOCK).unwrap()).unzip();
    Blocks { writers, readers }
}

fn backend(name: &str, number: u32) -> BackendFacts {
    BackendFacts {
        name: name.to_owned(),
        number,
        state: BackendState::Up,
        weight: 2,
        checks: Some(CheckFacts {
            ended: 10,
            failed: 3,
            last_ns: Some(1_500_000),
        }),
    }
}

/// Facts with something of everything.
fn facts(service: &str, backends: &[&str]) -> Facts {
    let mut histogram = Histogram::default();
    histogram.add(Duration::from_millis(2));
    let worker = |generation| WorkerFacts {
        generation,
        sessions: Some((3, 100)),
    };
    Facts {
        at_ns: 5,
        instance: "lb1".to_owned(),
        started: 1e9,
        generation: 7,
        committed: 8,
        tables_built: 4,
        rebuilds: histogram.clone(),
        held: 1,
        workers: vec![worker(7), worker(6)],
        services: vec![ServiceFacts {
            name: service.to_owned(),
            number: 3,
            healthy: 500,
            checks: Some(histogram),
            backends: backends
                .iter()
                .zip(5..)
                .map(|(name, number)| backend(name, number))
                .collect(),
        }],
        ports: vec![PortStatus {
            name: "wan".to_owned(),
            link_up: true,
            speed_mbps: 10_000,
            rx_packets: 11,
            ..PortStatus::default()
        }],
        pools: vec![PoolFacts {
            name: "weir0".to_owned(),
            buffers: 4_096,
            in_use: 96,
        }],
        events: EventKind::ALL.iter().map(|kind| (*kind, 2)).collect(),
        profiles: None,
    }
}

fn text(facts: &Facts, blocks: &Blocks) -> String {
    let conntrack = Conntrack::new(100, false).unwrap();
    let mut pass = Pass::new(vec![conntrack.reader()]);
    let profiles = Profiles::new(&[Profile::new(1, 1, 1, 1)]);
    pass.go_on(Tick::from_nanos(0), &profiles, None);
    let seen = Seen {
        facts,
        age: 0.5,
        blocks: &blocks.readers,
        flows: pass.counts(),
        room: &[112, 112],
        scrapes: 1,
    };
    String::from_utf8(exposition::text(&seen).unwrap()).unwrap()
}

/// Samples by name and labels, as they are written.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(sample).collect()
}

/// Families: name, type and meaning.
fn families(text: &str) -> Vec<(String, String, String)> {
    let help: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .collect();
    let types = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .map(|(name, kind)| (name.to_owned(), kind.to_owned(), help[name].to_owned()))
        .collect()
}

#[test]
fn values_come_from_their_counters() {
    let blocks = blocks();
    blocks.writers[0].add(layout::service_base(3) + layout::PACKETS, 40);
    blocks.writers[1].add(layout::service_base(3) + layout::PACKETS, 2);
    blocks.writers[1].add(layout::backend_base(6) + layout::BYTES, 99);
    blocks.writers[0].add(layout::BUSY_NS, 1_500_000_000);
    blocks.writers[2].add(layout::drop_index(layout::DropReason::ArpNotOurs), 5);
    blocks.writers[0].add(layout::drop_index(layout::DropReason::ArpNotOurs), 1);
    let found = samples(&text(
        &facts("web", &["10.0.0.1:80", "[2001:db8::1]:80"]),
        &blocks,
    ));
    for (name, value) in [
        ("weir_service_packets_total{service=\"web\"}", 42.0),
        (
            "weir_backend_bytes_total{service=\"web\",backend=\"[2001:db8::1]:80\"}",
            99.0,
        ),
        ("weir_worker_busy_seconds_total{worker=\"0\"}", 1.5),
        ("weir_worker_busy_seconds_total{worker=\"1\"}", 0.0),
        ("weir_dropped_packets_total{reason=\"arp_not_ours\"}", 6.0),
        (
            "weir_backend_checks_total{service=\"web\",backend=\"10.0.0.1:80\",result=\"failure\"}",
            3.0,
        ),
        (
            "weir_backend_checks_total{service=\"web\",backend=\"10.0.0.1:80\",result=\"success\"}",
            7.0,
        ),
        (
            "weir_backend_last_check_duration_seconds{service=\"web\",backend=\"10.0.0.1:80\"}",
            0.0015,
        ),
        ("weir_service_healthy_ratio{service=\"web\"}", 0.5),
        ("weir_worker_generation{worker=\"1\"}", 6.0),
        ("weir_sessions{worker=\"0\"}", 3.0),
        ("weir_conntrack_entries_limit{worker=\"0\"}", 112.0),
        ("weir_port_received_packets_total{port=\"wan\"}", 11.0),
        ("weir_port_speed_bytes{port=\"wan\"}", 1.25e9),
        ("weir_rebuild_duration_seconds_bucket{le=\"0.001\"}", 0.0),
        ("weir_rebuild_duration_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("weir_generation_committed", 8.0),
        ("weir_facts_age_seconds", 0.5),
    ] {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
}

#[test]
fn every_drop_reason_and_every_counter_of_a_worker_is_told() {
    let text = text(&facts("web", &["10.0.0.1:80"]), &blocks());
    for reason in layout::DropReason::ALL {
        let sample = format!(
            "weir_dropped_packets_total{{reason=\"{}\"}} 0",
            reason.name()
        );
        assert!(text.contains(&sample), "{sample}");
    }
    let counters = families(&text).into_iter().filter(|(name, kind, _)| {
        kind == "counter"
            && (name.starts_with("weir_worker_") || name.starts_with("weir_conntrack_"))
    });
    // Three are the control core's.
    assert_eq!(counters.count(), layout::WORKER_COUNTERS.len() - 3);
}

#[test]
fn names_follow_the_conventions() {
    let text = text(&facts("web", &["10.0.0.1:80"]), &blocks());
    let mut names = BTreeSet::new();
    for (name, kind, help) in families(&text) {
        assert!(name.starts_with("weir_"), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            kind == "counter",
            "{name} is a {kind}"
        );
        assert!(help.ends_with('.'), "{name}: {help}");
        assert!(!name.contains("_ns") && !name.contains("_ms"), "{name}");
        assert!(names.insert(name.clone()), "{name} twice");
    }
    assert!(names.len() > 60, "{names:?}");
}

#[test]
fn counters_never_fall() {
    let blocks = blocks();
    let facts = facts("web", &["10.0.0.1:80"]);
    let before = samples(&text(&facts, &blocks));
    for (step, writer) in blocks.writers.iter().enumerate() {
        for index in (0..layout::BLOCK).step_by(step + 1) {
            writer.add(index, 3);
        }
    }
    let after = samples(&text(&facts, &blocks));
    assert_eq!(before.len(), after.len());
    let grown = before.iter().filter(|(name, value)| {
        let now = after[*name];
        assert!(now >= **value, "{name}");
        now > **value
    });
    assert!(grown.count() > 100);
}

#[test]
fn an_idle_weir_without_a_pool_is_told_too() {
    let blocks = blocks();
    let text = text(&Facts::default(), &blocks);
    assert!(text.contains("weir_worker_idle_seconds_total{worker=\"1\"} 0"));
    assert!(!text.contains("weir_service_packets_total"));
}

#[test]
fn the_operators_reference_lists_every_metric() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `weir_"));
    // What a metric means may be told at greater length.
    let listed: BTreeSet<String> = rows
        .map(|row| row.split('|').take(4).collect::<Vec<_>>().join("|"))
        .collect();
    let text = text(&facts("web", &["10.0.0.1:80"]), &blocks());
    let samples = samples(&text);
    let mut told = BTreeSet::new();
    let mut missing = Vec::new();
    for (name, kind, help) in families(&text) {
        let sample = samples.keys().find(|sample| {
            let rest = sample.strip_prefix(&name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['{', '_']))
        });
        let labels: Vec<&str> = sample
            .and_then(|sample| sample.split_once('{'))
            .map(|(_, labels)| labels.split("\","))
            .into_iter()
            .flatten()
            .filter_map(|label| label.split('=').next())
            .filter(|label| *label != "le")
            .collect();
        let row = format!("| `{name}` | {kind} | {} ", labels.join(", "));
        if !listed.contains(&row) {
            missing.push(format!("{row}| {help} |"));
        }
        told.insert(row);
    }
    let stale: Vec<&String> = listed.difference(&told).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/operations.md lacks\n{}\nand has what is not told: {stale:?}",
        missing.join("\n"),
    );
}

/// The value of the first label of a sample, as Prometheus reads it.
fn unescaped(sample: &str) -> String {
    let value = sample.split_once("=\"").unwrap().1;
    let mut text = String::new();
    let mut letters = value.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => return text,
            '\\' => text.push(match letters.next().unwrap() {
                'n' => '\n',
                other => other,
            }),
            other => text.push(other),
        }
    }
    panic!("no end: {sample}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn names_of_services_are_told_as_they_are(name in "(\\PC|[\\\\\"\n{}, =]){0,40}") {
        let blocks = counters(layout::SERVICES + 64).unwrap();
        let blocks = Blocks { writers: Vec::new(), readers: vec![blocks.1] };
        let text = text(&facts(&name, &[]), &blocks);
        let line = text
            .lines()
            .find(|line| line.starts_with("weir_service_backends{"))
            .unwrap();
        prop_assert_eq!(unescaped(line), name);
        prop_assert!(line.ends_with("\"} 0"), "{}", line);
    }
}
