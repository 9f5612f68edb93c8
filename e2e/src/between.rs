//! weir between two memif links, weir-pktgen at both ends: the backends on one, clients to be started on the other.

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::config::Config;
use crate::daemon::Daemon;
use crate::lab::{NAT_VIP4, backend4, instance};
use crate::memif::{self, End};
use crate::namespace::Namespace;
use crate::process::Process;
use crate::{Failure, Result, host, wait};

/// The clients' MAC.
pub const CLIENT_MAC: &str = "02:00:00:00:00:c1";
/// What weir-pktgen has to be told of the network that clients are in.
pub const CLIENT_NETWORK: &str =
    "--next-hop 192.0.2.2 --address 192.0.2.1 --clients 198.18.0.0/15 --src-mac 02:00:00:00:00:c1";

/// weir and its backends, under way.
pub struct Between {
    /// The daemon.
    pub weir: Daemon,
    /// `weir-pktgen reflect`.
    pub backends: Process,
    namespace: Namespace,
    dir: tempfile::TempDir,
}

/// The way to the clients, and everybody's MAC: packets that come faster than an answer to ARP are not these tests' subject.
fn routes_and_neighbours(backends: usize) -> String {
    let mut text = "[[route]]\nto = \"198.18.0.0/15\"\nvia = \"192.0.2.1\"\n".to_owned();
    let mut neighbour = |address: &str, mac: &str| {
        text += &format!("[[neighbor]]\naddress = \"{address}\"\nmac = \"{mac}\"\n");
    };
    neighbour("192.0.2.1", CLIENT_MAC);
    for n in 1..=backends {
        // weir-pktgen's own scheme: 02:00 and the address.
        neighbour(&backend4(n), &format!("02:00:0a:00:00:{:02x}", 10 + n));
    }
    text
}

impl Between {
    /// A service `many` of this mode and protocol on port 80 of [`NAT_VIP4`], over so many backends.
    pub fn start(forwarding: &str, protocol: &str, backends: usize) -> Result<Self> {
        let (namespace, dir) = (
            Namespace::new("balancer")?,
            tempfile::TempDir::with_prefix("weir-e2e-")?,
        );
        let name = instance();
        let nat = forwarding == "nat";
        let own_port = if nat { " 8080" } else { "" };
        let pool: Vec<String> = (1..=backends)
            .map(|n| format!("{}{own_port}", backend4(n)))
            .collect();
        let wan = memif::device(0, dir.path(), "wan", End::Server);
        let lan = memif::device(1, dir.path(), "lan", End::Server);
        let mut config = Config::new(&name)
            .port("wan", &wan, r#""192.0.2.2/24""#)
            .port("lan", &lan, r#""10.0.0.1/24""#)
            .port_key(&routes_and_neighbours(backends))
            .service("many", forwarding, protocol, NAT_VIP4, "80", &pool);
        config.engine = "flows_per_worker = 1_000_000\n".to_owned();
        let weir = Daemon::start(&namespace, dir.path(), &name, &config.text())?;

        let mode = if nat { "nat" } else { "dsr" };
        let mut reflect = pktgen(&namespace, &format!("reflect --mode {mode}"))?;
        reflect.args([
            "--device",
            &memif::device(0, dir.path(), "lan", End::Client),
        ]);
        reflect.args([
            "--backend",
            &format!("{}-{}", backend4(1), backend4(backends)),
        ]);
        let log = dir.path().join("reflect.log");
        let backends = Process::start("weir-pktgen reflect", &reflect, &log)?;
        wait::until_true("the link to the backends", Duration::from_secs(10), || {
            weir.ctl_json(&["status"])
                .is_ok_and(|status| status["ports"][1]["link"] == "up")
        })?;
        Ok(Self {
            weir,
            backends,
            namespace,
            dir,
        })
    }

    /// Starts `weir-pktgen` with these words as the clients; `more` may add to its command line.
    pub fn clients(&self, words: &str, more: impl FnOnce(&mut Command)) -> Result<Process> {
        let mut run = pktgen(&self.namespace, words)?;
        run.args([
            "--device",
            &memif::device(0, self.dir.path(), "wan", End::Client),
        ]);
        more(&mut run);
        let log = self.dir.path().join("clients.log");
        Process::start("weir-pktgen", &run, &log)
    }

    /// A folder for this test's files.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

/// `weir-pktgen` with these words and a JSON report, away from the worker's core.
fn pktgen(namespace: &Namespace, words: &str) -> Result<Command> {
    let mut command = namespace.command(host::binary("weir-pktgen")?);
    command
        .args(words.split_whitespace())
        .args(["--json", "--core", "0"]);
    Ok(command)
}

/// Ends a `weir-pktgen` that goes on until it is told, and reads what it reports.
pub fn end(process: &mut Process) -> Result<Value> {
    process.must_run()?;
    process.signal(Signal::SIGINT)?;
    report(process, Duration::from_secs(20))
}

/// Waits for a `weir-pktgen` to end, and reads what it reports.
pub fn report(process: &mut Process, limit: Duration) -> Result<Value> {
    let status = process.wait(limit)?;
    let log = process.log();
    let line = log.lines().rev().find(|line| line.starts_with('{'));
    let line = line.ok_or_else(|| Failure::new(format!("no report ({status}):\n{log}")))?;
    Ok(serde_json::from_str(line)?)
}
