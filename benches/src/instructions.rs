//! Instructions of each stage of the packet path, counted by valgrind's callgrind for fixed bursts, and
//! held against what is on record in `benches/instructions.json`.
//!
//! A count does not depend on how busy the machine is, so it can guard where a time cannot. It does
//! depend on the compiler: after a change of compiler the record is blessed anew. The processor that
//! valgrind shows has AVX2 and nothing wider, whatever the machine has.
//!
//! Each case runs in a process of its own under callgrind, which collects only within
//! [`Path::collected`](crate::rig::path::Path::collected). The stages are inlined into one function for
//! each kind of processor, so a stage's count is that of the source files it is written in; what comes
//! from the standard library and is inlined anywhere counts in the whole only.

use std::collections::BTreeMap;
use std::path::Path as File;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::figures::modes;
use crate::rig::path::Bed;
use crate::rig::traffic::{Kind, Traffic};

/// Bursts of a case.
const BURSTS: u32 = 64;
/// Flows of a case.
const FLOWS: u32 = 1_000;
/// How much a count may grow before it has to be blessed.
const GROWTH: f64 = 1.03;
/// Growth below this many instructions a packet is none, however large its share.
const GRAIN: f64 = 0.5;
/// The function that callgrind collects in.
const COLLECTED: &str = "*rig::path::Path::collected*";
/// Stages by the source files that they are written in.
const STAGES: [(&str, &[&str]); 4] = [
    (
        "read",
        &["dataplane/src/pipeline/read.rs", "dataplane/src/parse"],
    ),
    (
        "look up",
        &[
            "dataplane/src/pipeline/look_up.rs",
            "dataplane/src/service",
            "dataplane/src/endpoints",
            "dataplane/src/flow.rs",
        ],
    ),
    (
        "steer",
        &["dataplane/src/pipeline/steer.rs", "dataplane/src/conntrack"],
    ),
    (
        "rewrite",
        &[
            "dataplane/src/pipeline/quick.rs",
            "dataplane/src/pipeline/rewrite.rs",
            "dataplane/src/forward",
            "dataplane/src/adjacency",
        ],
    ),
];

/// A case: its name, the service's mode or keys, kind of packet, and whether its flows are known before.
type Case = (&'static str, &'static str, Kind, bool);

/// The cases.
pub const CASES: &[Case] = &[
    ("dsr-l2", "dsr-l2", Kind::Udp4, true),
    ("dsr-l2 over IPv6", "dsr-l2", Kind::Udp6, true),
    ("nat forward", "nat", Kind::Udp4, true),
    ("nat return", "nat", Kind::Return4, true),
    ("new flows", "dsr-l2", Kind::Syn4, false),
    ("full-nat forward", modes::FULL_NAT, Kind::Udp4, true),
    (BESIDE, "dsr-l2", Kind::Udp4, true),
    (CAPTURED, "dsr-l2", Kind::Udp4, true),
];

/// The case of bursts beside a capture that takes none of their packets.
const BESIDE: &str = "beside a capture";
/// The case of bursts of which a capture takes one packet each.
const CAPTURED: &str = "one captured";

/// Instructions a packet, of the whole and of its stages.
pub type Counts = BTreeMap<String, f64>;

/// What is on record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OnRecord {
    /// The compiler whose code was counted.
    pub rustc: String,
    /// Instructions a packet by case and stage.
    pub cases: BTreeMap<String, Counts>,
}

/// One worker over a service of a case's mode or keys.
///
/// # Errors
/// When memory is short.
pub fn bed(mode: &str, flows: u64) -> Result<Bed, Failure> {
    if mode.contains('=') {
        Bed::of(&modes::config(mode, [false; 2]), flows, 1)
    } else {
        Bed::new(mode, flows, 1)
    }
}

/// Runs a case's bursts, for callgrind to watch.
///
/// # Errors
/// When there is no such case, or a packet went where it should not.
pub fn run_case(name: &str) -> Result<(), Failure> {
    let case = CASES.iter().find(|(it, ..)| *it == name);
    let (_, mode, kind, known) = case.ok_or_else(|| format!("no case {name:?}"))?;
    let traffic = Traffic::new(*kind);
    let mut bed = bed(mode, u64::from(FLOWS) * 8)?;
    match name {
        BESIDE => bed.capture(u32::MAX)?,
        CAPTURED => bed.capture(weir::pipeline::BURST as u32)?,
        _ => {}
    }
    let path = bed.path()?;
    path.load(&traffic);
    if *known {
        // Sessions are found steady by a third packet.
        path.visit(&traffic, FLOWS);
        path.visit(&traffic, FLOWS);
    }
    let mut flow = 0;
    for _ in 0..BURSTS {
        let each = || {
            flow += 1;
            if *known { flow % FLOWS } else { FLOWS + flow }
        };
        path.round(&traffic, each, false, 2);
        path.collected(2);
    }
    path.all_forwarded()
}

/// Counts all cases and holds them against the record, or puts them on record. Gives whether none
/// grew.
///
/// # Errors
/// When valgrind fails, or the record cannot be read or written.
pub fn check(record: &File, bless: bool) -> Result<bool, Failure> {
    let mut now = OnRecord {
        rustc: rustc(),
        ..OnRecord::default()
    };
    for (name, ..) in CASES {
        now.cases.insert((*name).to_owned(), count(name)?);
    }
    if bless {
        std::fs::write(record, serde_json::to_string_pretty(&now)? + "\n")?;
        println!("on record: {}", record.display());
        return Ok(true);
    }
    let text = std::fs::read_to_string(record)
        .map_err(|error| format!("{}: {error}", record.display()))?;
    let before: OnRecord = serde_json::from_str(&text)?;
    let (lines, grown) = compare(&before, &now);
    for line in lines {
        println!("{line}");
    }
    if grown && before.rustc != now.rustc {
        println!(
            "the record is of {:?}, this is {:?}",
            before.rustc, now.rustc
        );
    }
    if grown {
        println!("if that is what the change is worth, `make bless` puts the new counts on record");
    }
    Ok(!grown)
}

/// A line a count, and whether one grew.
fn compare(before: &OnRecord, now: &OnRecord) -> (Vec<String>, bool) {
    let (mut lines, mut any) = (Vec::new(), false);
    for (case, counts) in &now.cases {
        for (stage, count) in counts {
            let old = before.cases.get(case).and_then(|it| it.get(stage)).copied();
            let grown = old.is_none_or(|old| *count > old * GROWTH && *count > old + GRAIN);
            any |= grown;
            let old = old.map_or_else(|| "nothing".to_owned(), |it| it.to_string());
            let mark = if grown { "GREW" } else { "" };
            lines.push(format!(
                "{case:<18} {stage:<8} {count:>8} instructions a packet, {old} on record {mark}"
            ));
        }
        // A stage that is on record and not found would go unguarded.
        for stage in before.cases.get(case).into_iter().flat_map(BTreeMap::keys) {
            if !counts.contains_key(stage) {
                any = true;
                lines.push(format!(
                    "{case:<18} {stage:<8} is on record and was not found"
                ));
            }
        }
    }
    (lines, any)
}

fn rustc() -> String {
    let output = Command::new("rustc").arg("--version").output();
    output.map_or_else(
        |_| String::new(),
        |it| String::from_utf8_lossy(&it.stdout).trim().to_owned(),
    )
}

/// Counts a case under callgrind.
fn count(case: &str) -> Result<Counts, Failure> {
    let dir = tempfile::tempdir()?;
    let out = dir.path().join("callgrind");
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--compress-strings=no",
            "--compress-pos=no",
        ])
        .arg(format!("--toggle-collect={COLLECTED}"))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["stage", case])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{case} under callgrind ended with {}:\n{said}",
            output.status
        )
        .into());
    }
    let profile = std::fs::read_to_string(&out)?;
    let total = total(&profile).ok_or("callgrind wrote no total")?;
    if total == 0 {
        return Err(format!("callgrind collected nothing in {COLLECTED}").into());
    }
    let packets = f64::from(BURSTS) * weir::pipeline::BURST as f64;
    let each = |count: u64| (count as f64 / packets * 10.0).round() / 10.0;
    let mut counts = Counts::from([("whole".to_owned(), each(total))]);
    for (stage, files) in STAGES {
        let count = within(&profile, files);
        if count > 0 {
            counts.insert(stage.to_owned(), each(count));
        }
    }
    Ok(counts)
}

/// What a profile says was collected in all.
fn total(profile: &str) -> Option<u64> {
    let line = profile.lines().find_map(|line| {
        line.strip_prefix("totals:")
            .or_else(|| line.strip_prefix("summary:"))
    });
    line?.trim().parse().ok()
}

/// Instructions written in files whose path contains one of `files`.
///
/// In callgrind's format (valgrind manual, "Callgrind Format Specification") `fl=`, `fi=` and `fe=` name
/// the file that the following lines belong to; such a line is a position and a cost. The line behind
/// `calls=` is the callee's, and is counted where that is.
fn within(profile: &str, files: &[&str]) -> u64 {
    let (mut inside, mut callee, mut sum) = (false, false, 0);
    for line in profile.lines() {
        let file = ["fl=", "fi=", "fe="]
            .iter()
            .find_map(|it| line.strip_prefix(it));
        if let Some(file) = file {
            inside = files.iter().any(|it| file.contains(it));
        } else if line.starts_with("calls=") {
            callee = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c))
            && !std::mem::take(&mut callee)
            && inside
        {
            let cost = line.split_ascii_whitespace().nth(1);
            sum += cost.and_then(|it| it.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "events: Ir\nsummary: 111\n\nfl=/weir/dataplane/src/pipeline/mod.rs\nfn=process\n\
                           fi=/weir/dataplane/src/pipeline/read.rs\n10 40\ncfn=memcpy\ncalls=2 0\n11 20\n12 1\n\
                           fe=/weir/dataplane/src/pipeline/mod.rs\n7 5\nfi=/weir/dataplane/src/parse/mod.rs\n+3 45\n\n\
                           fl=string.c\nfn=memcpy\n0 20\ntotals: 111\n";

    #[test]
    fn a_stage_counts_what_is_written_in_its_files() {
        assert_eq!(total(PROFILE), Some(111));
        assert_eq!(within(PROFILE, STAGES[0].1), 86);
        assert_eq!(within(PROFILE, &["pipeline/mod.rs"]), 5);
        assert_eq!(within(PROFILE, STAGES[2].1), 0);
    }

    fn record(whole: f64) -> OnRecord {
        let counts = Counts::from([("whole".to_owned(), whole)]);
        OnRecord {
            rustc: "rustc".into(),
            cases: BTreeMap::from([("nat".to_owned(), counts)]),
        }
    }

    #[test]
    fn three_per_cent_more_are_too_many() {
        assert!(!compare(&record(100.0), &record(103.0)).1);
        assert!(compare(&record(100.0), &record(103.1)).1);
        assert!(!compare(&record(100.0), &record(50.0)).1);
        // Four tenths of an instruction are rounding.
        assert!(!compare(&record(5.0), &record(5.4)).1);
    }

    #[test]
    fn what_is_not_on_record_has_to_be_blessed() {
        assert!(compare(&OnRecord::default(), &record(1.0)).1);
        let mut before = record(100.0);
        if let Some(counts) = before.cases.get_mut("nat") {
            counts.insert("steer".into(), 10.0);
        }
        assert!(compare(&before, &record(100.0)).1);
    }
}
