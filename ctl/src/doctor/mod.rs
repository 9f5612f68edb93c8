//! `doctor`: whether the machine is as weir needs it, line by line, each fault with the command that
//! mends it.
//!
//! It works without a daemon and without DPDK: all it knows is in the kernel's files, in the
//! configuration, and, while a daemon runs, in its segment. Each check is a function from a
//! [`Machine`] and a [`Subject`] to findings.

#[cfg(test)]
mod cases;
mod cores;
mod devices;
mod interfaces;
mod machine;
mod memory;
mod subject;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde_json::json;
use weir_shm::client::Client;
use weir_shm::segment;

use crate::Failure;
use crate::cli::{Cli, Output};
use crate::output::{json as write_json, things};

use machine::Machine;
use subject::Subject;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Wrong,
}

impl Verdict {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Wrong => "wrong",
        }
    }
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    area: &'static str,
    verdict: Verdict,
    what: String,
    /// What to do about it.
    mend: Option<String>,
}

fn ok(area: &'static str, what: impl Into<String>) -> Finding {
    Finding {
        area,
        verdict: Verdict::Ok,
        what: what.into(),
        mend: None,
    }
}

fn warn(area: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding {
        area,
        verdict: Verdict::Warn,
        what: what.into(),
        mend: Some(mend.into()),
    }
}

fn wrong(area: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding {
        verdict: Verdict::Wrong,
        ..warn(area, what, mend)
    }
}

pub(crate) fn run(cli: &Cli, config: Option<&Path>, out: &mut dyn Write) -> Result<(), Failure> {
    let (mut findings, subject) = meet(cli, config)?;
    findings.extend(examine(&Machine::this(), &subject));
    show(cli.output, &findings, out)?;
    let wrong = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Wrong);
    match wrong.count() {
        0 => Ok(()),
        number => Err(Failure::Other(format!("{} wrong", things(number, "thing")))),
    }
}

/// What is to be looked at: the file that was named, or that of the daemon which runs.
fn meet(cli: &Cli, config: Option<&Path>) -> Result<(Vec<Finding>, Subject), Failure> {
    let named = cli.instance.as_deref().filter(|name| !name.is_empty());
    let client = match Client::open_or_only(&segment::folder(), named) {
        Ok(client) => Some(client),
        // Who names an instance wants that one.
        Err(error) if named.is_some() => return Err(error.into()),
        Err(_) => None,
    };
    let mut findings = Vec::new();
    let alive = client
        .as_ref()
        .filter(|client| client.is_alive().unwrap_or(false));
    findings.push(match (alive, &client) {
        (Some(client), _) => ok(
            "daemon",
            format!(
                "instance {} runs, process {}",
                client.instance(),
                client.pid()
            ),
        ),
        (None, Some(client)) => ok(
            "daemon",
            format!("instance {} does not run", client.instance()),
        ),
        (None, None) => ok("daemon", "none runs"),
    });
    let path = config.or_else(|| client.as_ref().map(Client::config_path));
    let mut subject = Subject::default();
    match path.map(|path| (path, Subject::load(path))) {
        None => findings.push(ok(
            "config",
            "none; give --config FILE for what depends on it",
        )),
        Some((path, Ok(loaded))) => {
            findings.push(ok("config", path.display().to_string()));
            subject = loaded;
        }
        Some((path, Err(error))) => findings.push(wrong(
            "config",
            format!("{}: {error}", path.display()),
            format!("weir check --config {}", path.display()),
        )),
    }
    // The daemon's ports concern the file that was named only if it is the daemon's.
    if let Some(client) = alive
        && config.is_none_or(|config| {
            std::path::absolute(config).is_ok_and(|path| path == client.config_path())
        })
    {
        subject.meet(client);
    }
    Ok((findings, subject))
}

/// Every check.
fn examine(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let mut findings = memory::huge_pages(machine, subject);
    findings.push(memory::locked_memory(machine, subject));
    findings.push(memory::shared_memory(machine));
    findings.extend(devices::iommu(machine, subject));
    findings.extend(devices::binding(machine, subject));
    findings.extend(devices::numa(machine, subject));
    findings.extend(interfaces::links(machine, subject));
    findings.extend(interfaces::queues(machine, subject));
    findings.extend(interfaces::offloads(machine, subject));
    findings.extend(cores::cores(machine, subject));
    findings.extend(cores::governor(machine, subject));
    findings.extend(cores::features(machine));
    findings.push(cores::clock(machine));
    findings
}

fn show(output: Output, findings: &[Finding], out: &mut dyn Write) -> Result<(), Failure> {
    let worst = findings.iter().map(|finding| finding.verdict).max();
    if output == Output::Json {
        let all = json!({ "verdict": worst.unwrap_or(Verdict::Ok), "findings": findings });
        return Ok(write_json(out, &all)?);
    }
    for finding in findings {
        writeln!(
            out,
            "{:<5}  {:<13}  {}",
            finding.verdict.name(),
            finding.area,
            finding.what
        )?;
        if let Some(mend) = &finding.mend {
            writeln!(out, "{:<5}  {:<13}  -> {mend}", "", "")?;
        }
    }
    Ok(())
}
