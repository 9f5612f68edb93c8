//! `weirctl capture` over a running weir: tshark reads what it writes, and a reader that stands still costs the
//! traffic nothing. weir-pktgen is both the clients and the backends, over net_memif.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{NAT_VIP4, backend4, instance};
use weir_e2e::memif::{self, End};
use weir_e2e::namespace::Namespace;
use weir_e2e::process::Process;
use weir_e2e::{Failure, Result, ensure, host, wait};

const BACKENDS: usize = 4;
/// The clients' MAC.
const CLIENT_MAC: &str = "02:00:00:00:00:c1";
/// Nobody, who may run tshark without a warning.
const NOBODY: u32 = 65_534;

struct Scene {
    weir: Daemon,
    backends: Process,
    namespace: Namespace,
    dir: tempfile::TempDir,
}

/// `weir-pktgen` with these words and a JSON report, away from the worker's core.
fn pktgen(namespace: &Namespace, words: &str) -> Result<Command> {
    let mut command = namespace.command(host::binary("weir-pktgen")?);
    command
        .args(words.split_whitespace())
        .args(["--json", "--core", "0"]);
    Ok(command)
}

impl Scene {
    /// weir between two memif links, with backends at one.
    fn start() -> Result<Self> {
        let (namespace, dir) = (
            Namespace::new("balancer")?,
            tempfile::TempDir::with_prefix("weir-e2e-")?,
        );
        let name = instance();
        let backends: Vec<String> = (1..=BACKENDS).map(backend4).collect();
        let mut known = "[[route]]\nto = \"198.18.0.0/15\"\nvia = \"192.0.2.1\"\n".to_owned();
        let mut neighbour = |address: &str, mac: &str| {
            known += &format!("[[neighbor]]\naddress = \"{address}\"\nmac = \"{mac}\"\n");
        };
        neighbour("192.0.2.1", CLIENT_MAC);
        for n in 1..=BACKENDS {
            neighbour(&backend4(n), &format!("02:00:0a:00:00:{:02x}", 10 + n));
        }
        let config = Config::new(&name)
            .port(
                "wan",
                &memif::device(0, dir.path(), "wan", End::Server),
                r#""192.0.2.2/24""#,
            )
            .port(
                "lan",
                &memif::device(1, dir.path(), "lan", End::Server),
                r#""10.0.0.1/24""#,
            )
            .port_key(&known)
            .service("many", "dsr-l2", "udp", NAT_VIP4, "80", &backends);
        let weir = Daemon::start(&namespace, dir.path(), &name, &config.text())?;
        let mut reflect = pktgen(&namespace, "reflect --mode dsr")?;
        reflect.args([
            "--device",
            &memif::device(0, dir.path(), "lan", End::Client),
        ]);
        reflect.args([
            "--backend",
            &format!("{}-{}", backend4(1), backend4(BACKENDS)),
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

    /// Clients that send at this rate for so many seconds.
    fn clients(&self, rate: &str, seconds: u64) -> Result<Process> {
        let words = format!(
            "run --vip {NAT_VIP4} --protocol udp --next-hop 192.0.2.2 --address 192.0.2.1 --clients 198.18.0.0/15 \
             --src-mac {CLIENT_MAC} --flows 1000 --popularity sequential --packets-per-flow 0 --rate {rate} \
             --duration {seconds}s --one-way"
        );
        let mut run = pktgen(&self.namespace, &words)?;
        run.args([
            "--device",
            &memif::device(0, self.dir.path(), "wan", End::Client),
        ]);
        Process::start("weir-pktgen run", &run, &self.dir.path().join("run.log"))
    }

    fn end(mut self) -> Result {
        ensure!(
            self.weir.terminate()?.success(),
            "weir did not end well:\n{}",
            self.weir.log()
        );
        Ok(())
    }
}

/// What a process reports when it has ended.
fn report(process: &Process) -> Result<Value> {
    let log = process.log();
    let line = log.lines().rev().find(|line| line.starts_with('{'));
    let line = line.ok_or_else(|| Failure::new(format!("no report:\n{log}")))?;
    Ok(serde_json::from_str(line)?)
}

fn number(report: &Value, path: &str) -> Result<u64> {
    let found = report.pointer(path).and_then(Value::as_u64);
    found.ok_or_else(|| Failure::new(format!("no {path} in {report}")))
}

/// What tshark says of these packets: comment, interface, direction. It must not complain.
fn tshark(packets: impl Into<Stdio>) -> Result<Vec<Vec<String>>> {
    let mut command = Command::new("tshark");
    command
        .args(["-r", "-", "-n", "-T", "fields"])
        .args(["-e", "frame.comment", "-e", "frame.interface_name"])
        .args(["-e", "frame.packet_flags_direction", "-e", "ip.dst"])
        .env("HOME", "/tmp")
        .current_dir("/tmp")
        .stdin(packets)
        .uid(NOBODY)
        .gid(NOBODY);
    let output = command.output()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && complaints.trim().is_empty(),
        "tshark complains: {complaints}"
    );
    let lines = String::from_utf8(output.stdout)?;
    let fields = |line: &str| line.split('\t').map(str::to_owned).collect();
    Ok(lines.lines().map(fields).collect())
}

#[test]
fn tshark_reads_a_capture_with_comments_interfaces_and_directions() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let mut scene = Scene::start()?;
    let mut clients = scene.clients("2k", 30)?;
    wait::until_true("traffic", Duration::from_secs(20), || {
        scene.weir.new_flows("many").is_ok_and(|flows| flows > 100)
    })?;
    let file = scene.dir.path().join("all.pcapng");
    let path = file.to_string_lossy().into_owned();
    let output = scene.weir.ctl_output(&[
        "capture",
        "--write",
        &path,
        "--service",
        "many",
        "--count",
        "400",
    ])?;
    let closing = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success() && closing.contains("400 packets captured, 0 lost"),
        "{closing}"
    );
    let packets = tshark(File::open(&file)?)?;
    ensure!(packets.len() == 400, "{} packets", packets.len());
    let ways: BTreeSet<(&str, &str)> = packets
        .iter()
        .map(|fields| (fields[1].as_str(), fields[2].as_str()))
        .collect();
    // Inbound is 1, outbound 2; tshark may say so in hexadecimal digits.
    let short = |way: &str| {
        way.trim_start_matches("0x")
            .trim_start_matches('0')
            .to_owned()
    };
    let ways: BTreeSet<(&str, String)> = ways
        .into_iter()
        .map(|(name, way)| (name, short(way)))
        .collect();
    ensure!(
        ways == BTreeSet::from([("wan", "1".to_owned()), ("lan", "2".to_owned())]),
        "{ways:?}"
    );
    for fields in &packets {
        ensure!(
            fields[0].starts_with("service many, backend 10.0.0.1"),
            "{fields:?}"
        );
        ensure!(fields[3] == NAT_VIP4, "{fields:?}");
    }

    // Into a pipe, and until the pipe is closed.
    let mut ctl = scene.weir.weirctl()?;
    ctl.args([
        "capture",
        "--write",
        "-",
        "--direction",
        "in",
        "--count",
        "50",
    ])
    .stdout(Stdio::piped())
    .stderr(Stdio::null());
    let mut ctl = ctl.spawn()?;
    let pipe = ctl.stdout.take().ok_or_else(|| Failure::new("no pipe"))?;
    let packets = tshark(pipe)?;
    ctl.wait()?;
    ensure!(packets.len() == 50, "{} packets by pipe", packets.len());

    // Lines for people.
    let lines = scene.weir.ctl_output(&["capture", "--count", "3"])?;
    let lines = String::from_utf8(lines.stdout)?;
    ensure!(lines.lines().count() == 3, "{lines}");
    ensure!(lines.contains("UDP 198.18."), "{lines}");
    let newest = scene.weir.ctl(&["flows", "--newest", "5"])?;
    ensure!(newest.contains("198.18."), "{newest}");
    let flows = scene.weir.ctl_json(&["flows"])?;
    ensure!(number(&flows, "/flows")? > 100, "{flows}");
    clients.terminate(Duration::from_secs(10))?;
    scene.backends.terminate(Duration::from_secs(10))?;
    scene.end()
}

#[test]
fn ten_million_packets_with_a_reader_that_stands_still_lose_nothing() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let mut scene = Scene::start()?;
    let mut ctl = scene.weir.weirctl()?;
    ctl.args(["capture", "--write", "/dev/null"]);
    let log = scene.dir.path().join("capture.log");
    let mut reader = Process::start("weirctl capture", &ctl, &log)?;
    let shared = scene.weir.capture_file();
    wait::until_true("the capture", Duration::from_secs(10), || shared.exists())?;
    std::thread::sleep(Duration::from_millis(300));
    reader.signal(Signal::SIGSTOP)?;

    let mut clients = scene.clients("150k", 68)?;
    clients.wait(Duration::from_secs(150))?;
    let clients = report(&clients)?;
    scene.backends.must_run()?;
    std::thread::sleep(Duration::from_secs(1));
    scene.backends.signal(Signal::SIGINT)?;
    scene.backends.wait(Duration::from_secs(20))?;
    let backends = report(&scene.backends)?;
    let (sent, came) = (
        number(&clients, "/sent/packets")?,
        number(&backends, "/stamped")?,
    );
    let stats = scene.weir.ctl(&["stats"])?;
    ensure!(sent >= 10_000_000, "only {sent} packets were sent");
    ensure!(
        sent == came,
        "{sent} packets were sent, {came} came to backends\n{stats}"
    );

    reader.signal(Signal::SIGCONT)?;
    reader.signal(Signal::SIGINT)?;
    let ended = reader.wait(Duration::from_secs(20))?;
    let closing = reader.log();
    eprintln!("{sent} packets; {closing}");
    ensure!(ended.success(), "{closing}");
    ensure!(
        closing.contains("lost to a slow reader") && !closing.contains(" 0 lost"),
        "{closing}"
    );
    wait::until_true("the capture's end", Duration::from_secs(5), || {
        !shared.exists()
    })?;

    // One that is killed is noticed, and makes room for the next.
    let mut ctl = scene.weir.weirctl()?;
    ctl.args(["capture", "--write", "/dev/null"]);
    let log = scene.dir.path().join("killed.log");
    let mut reader = Process::start("weirctl capture", &ctl, &log)?;
    wait::until_true("the capture", Duration::from_secs(10), || shared.exists())?;
    let second = scene.weir.ctl_refused(&["capture", "--count", "1"])?;
    ensure!(second.contains("one at a time"), "{second}");
    reader.kill()?;
    wait::until_true("the capture's end", Duration::from_secs(5), || {
        !shared.exists()
    })?;
    scene.end()
}
