//! Requests from a client's namespace: single ones by curl, load by wrk.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::process::{Process, capture};
use crate::{Failure, Result, ensure};

/// Makes `count` requests, each over a connection of its own; returns how many each backend answered. A request that
/// fails fails the test.
pub fn requests(client: &Namespace, vip: &str, count: usize) -> Result<BTreeMap<String, usize>> {
    let url = format!("http://{vip}/?[1-{count}]");
    let mut curl = client.command("curl");
    // Brackets in the address are for IPv6, those in the query count; curl reads both the right way.
    curl.args([
        "-sS",
        "--fail",
        "--fail-early",
        "--max-time",
        "5",
        "-H",
        "Connection: close",
        &url,
    ]);
    let answers = capture(&mut curl)?;
    let mut seen = BTreeMap::new();
    for name in answers.lines() {
        *seen.entry(name.to_owned()).or_insert(0) += 1;
    }
    let total: usize = seen.values().sum();
    ensure!(
        total == count,
        "{count} requests to {vip}, but {total} answers: {seen:?}"
    );
    Ok(seen)
}

/// wrk at work, until [`Load::stop`].
pub struct Load {
    process: Process,
}

/// What wrk saw.
#[derive(Debug)]
pub struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// wrk's own words about requests that failed; empty when none did.
    pub failures: String,
    /// How many failed: connections that ended or were refused, time-outs, and other answers than 2xx or 3xx.
    pub failed: u64,
}

/// The sum of all numbers in wrk's words about failures, which have "2xx" and "3xx" among them.
fn failed(words: &str) -> u64 {
    let numbers = words.split([' ', ',', '\n']);
    numbers
        .filter_map(|number| number.parse::<u64>().ok())
        .sum()
}

impl Load {
    /// Starts wrk with 16 connections, for at most a minute.
    pub fn start(client: &Namespace, dir: &Path, vip: &str) -> Result<Self> {
        let mut wrk = client.command("wrk");
        wrk.args([
            "-t1",
            "-c16",
            "-d60s",
            "--timeout",
            "3s",
            &format!("http://{vip}/"),
        ]);
        let mut process = Process::start("wrk", &wrk, &dir.join("wrk.log"))?;
        std::thread::sleep(Duration::from_millis(500));
        process.must_run()?;
        Ok(Self { process })
    }

    /// Ends wrk and reads its report.
    pub fn stop(mut self) -> Result<Outcome> {
        self.process.must_run()?;
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(Duration::from_secs(10))?;
        let report = self.process.log();
        ensure!(status.success(), "wrk ended with {status}:\n{report}");
        let requests = report
            .lines()
            .find(|line| line.contains("requests in"))
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| Failure::new(format!("wrk's report is not as known:\n{report}")))?;
        let failures: String = report
            .lines()
            .filter(|l| l.contains("Socket errors") || l.contains("Non-2xx"))
            .collect::<Vec<_>>()
            .join("\n");
        Ok(Outcome {
            requests,
            failed: failed(&failures),
            failures,
        })
    }

    /// Ends wrk; there must have been requests, and none may have failed.
    pub fn stop_without_failures(self) -> Result<u64> {
        let outcome = self.stop()?;
        ensure!(outcome.requests > 0, "wrk had no answer at all");
        ensure!(
            outcome.failures.is_empty(),
            "requests failed under load: {outcome:?}"
        );
        Ok(outcome.requests)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn failures_are_summed_up_from_wrks_words() {
        let words = "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 50000";
        assert_eq!(super::failed(words), 54_321);
        assert_eq!(super::failed(""), 0);
    }
}
