//! `weir-pktgen churn` through weir: connections come and go, held at a number, while backends are removed, added, drained
//! and weighted. Only connections of backends that are removed or disabled change their backend.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use serde_json::Value;
use weir_e2e::between::{Between, CLIENT_NETWORK, end, report};
use weir_e2e::lab::{NAT_VIP4, backend4};
use weir_e2e::{Failure, Result, ensure, host};

const BACKENDS: usize = 8;
const HELD: u64 = 8_000;
/// A second.
const OPENED: u64 = 800;
const SECONDS: u64 = 30;
/// Backends that connections are taken from, by weir-pktgen's numbering from zero.
const TAKEN_FROM: [u64; 2] = [2, 5];

/// Changes once all connections are held: those that take connections away, and those that may not.
fn script() -> String {
    let name = |number: usize| format!("{}:8080", backend4(number + 1));
    let lines = [
        (13, format!("backend weight many {} 4", name(0))),
        (14, format!("backend remove many {}", name(2))),
        (17, format!("backend add many {} --weight 2", name(2))),
        (18, format!("backend drain many {}", name(1))),
        (20, format!("backend disable many {}", name(5))),
        (22, format!("backend enable many {}", name(1))),
        (24, format!("backend enable many {}", name(5))),
        (25, format!("backend weight many {} 0", name(6))),
    ];
    lines
        .map(|(second, line)| format!("@{second} {line}\n"))
        .concat()
}

/// The middle value of a figure.
fn figure(report: &Value, name: &str) -> Result<f64> {
    let figures = report["figures"].as_array().into_iter().flatten();
    let mut found = figures.filter(|figure| figure["name"] == name);
    let value = found.next().and_then(|figure| figure["value"].as_f64());
    value.ok_or_else(|| Failure::new(format!("no figure {name} in {report}")))
}

#[test]
fn of_connections_that_come_and_go_only_those_of_backends_that_are_taken_away_move() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let mut between = Between::start("nat", "tcp", BACKENDS)?;
    let (changes, weirctl) = (between.dir().join("changes"), between.dir().join("weirctl"));
    std::fs::write(&changes, script())?;
    // churn says a command of weirctl's; which instance it is for is this test's business.
    let command = format!(
        "#!/bin/sh\nWEIR_SHM_DIR={} exec {} --instance {} \"$@\"\n",
        between
            .weir
            .segment()
            .parent()
            .unwrap_or(between.dir())
            .display(),
        host::binary("weirctl")?.display(),
        between.weir.instance()
    );
    std::fs::write(&weirctl, command)?;
    std::fs::set_permissions(&weirctl, std::fs::Permissions::from_mode(0o755))?;
    let words = format!(
        "churn --vip {NAT_VIP4} --protocol tcp {CLIENT_NETWORK} --connections {HELD} --open-rate {OPENED} \
         --data-rate 24k --duration {SECONDS}s"
    );
    let mut clients = between.clients(&words, |churn| {
        churn
            .arg("--script")
            .arg(&changes)
            .arg("--weirctl")
            .arg(&weirctl);
    })?;
    let report = report(&mut clients, Duration::from_secs(SECONDS + 30))?;
    let backends = end(&mut between.backends)?;
    eprintln!("{report}\n{backends}");

    let events = report["events"].as_array().map_or(0, Vec::len);
    ensure!(
        events == 8,
        "{events} changes were made, and should have been 8: {report}"
    );
    let opened = figure(&report, "opened")?;
    ensure!(
        opened >= (OPENED * SECONDS) as f64 * 0.95,
        "only {opened} connections were opened"
    );
    let held = figure(&report, "held-at-end")?;
    ensure!(
        held >= HELD as f64 * 0.95,
        "only {held} connections were held at the end"
    );
    for nothing in ["lost", "duplicates", "damaged", "unanswered"] {
        let count = figure(&report, nothing)?;
        ensure!(count == 0.0, "{nothing}: {count}: {report}");
    }
    let moves = report["moves"].as_array().into_iter().flatten();
    let from: BTreeSet<u64> = moves.filter_map(|moved| moved["from"].as_u64()).collect();
    ensure!(
        from == BTreeSet::from(TAKEN_FROM),
        "connections moved from {from:?}, and should have from {TAKEN_FROM:?} alone: {report}"
    );
    let moved = figure(&report, "moved")?;
    // Each had about an eighth of the connections that were open then.
    let (least, most) = (HELD as f64 / 8.0, HELD as f64 / 2.0);
    ensure!((least..=most).contains(&moved), "{moved} connections moved");
    ensure!(
        between.weir.terminate()?.success(),
        "weir did not end well:\n{}",
        between.weir.log()
    );
    Ok(())
}
