//! A polling worker makes no system call: watched by strace while it moves packets at full speed, over a device that
//! needs none.

use std::process::Command;
use std::time::Duration;

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::namespace::Namespace;
use weir_e2e::process::{Process, capture};
use weir_e2e::{Failure, Result, ensure, host, lab, wait};

const VIP: &str = "198.51.100.10";
/// The MAC that DPDK gives a `net_pcap` port.
const PCAP_MAC: &str = "02:70:63:61:70:00";

/// The thread of this process with this name.
fn thread(pid: u32, name: &str) -> Result<String> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        if std::fs::read_to_string(task.path().join("comm"))?.trim() == name {
            return Ok(task.file_name().to_string_lossy().into_owned());
        }
    }
    Err(Failure::new(format!("process {pid} has no thread {name}")))
}

/// What strace sees a thread do in this time.
fn traced(dir: &std::path::Path, thread: &str, time: Duration) -> Result<String> {
    let log = dir.join("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["-qq", "-o"]).arg(&log).args(["-p", thread]);
    let mut process = Process::start("strace", &strace, &dir.join("strace.out"))?;
    // The kernel says in the thread's status who traces it.
    let status = format!("/proc/{thread}/status");
    wait::until_true("strace to watch", Duration::from_secs(10), || {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
    })?;
    process.must_run()?;
    std::thread::sleep(time);
    process.must_run()?;
    process.signal(nix::sys::signal::Signal::SIGINT)?;
    process.wait(Duration::from_secs(10))?;
    Ok(std::fs::read_to_string(&log)?)
}

#[test]
fn a_polling_worker_makes_no_system_call() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let namespace = Namespace::new("calls")?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("in.pcap");
    let mut pktgen = Command::new(host::binary("weir-pktgen")?);
    pktgen
        .args([
            "pcap",
            "--vip",
            VIP,
            "--flows",
            "1000",
            "--count",
            "1000",
            "--dst-mac",
            PCAP_MAC,
            "--out",
        ])
        .arg(&file);
    capture(&mut pktgen)?;
    let instance = lab::instance();
    let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
    let config = Config::new(&instance)
        .port("wan", &device, "\"10.0.0.1/24\"")
        .port_key("\n[[neighbor]]\naddress = \"10.0.0.11\"\nmac = \"02:00:00:00:00:0b\"")
        .service("web", "dsr-l2", "udp", VIP, "80", &["10.0.0.11".to_owned()])
        .text();
    let mut daemon = Daemon::start(&namespace, dir.path(), &instance, &config)?;
    let forwarded = |daemon: &Daemon| -> Result<u64> {
        let stats = daemon.ctl_json(&["stats"])?;
        stats["packets"]["forwarded"]
            .as_u64()
            .ok_or_else(|| Failure::new(format!("no forwarded packets in {stats}")))
    };
    let worker = thread(daemon.process().pid(), "weir-worker-0")?;
    let before = forwarded(&daemon)?;
    let seen = traced(dir.path(), &worker, Duration::from_millis(1_500))?;
    let after = forwarded(&daemon)?;
    ensure!(
        after > before + 10_000,
        "only {} packets moved meanwhile",
        after - before
    );
    ensure!(
        seen.trim().is_empty(),
        "system calls of a polling worker:\n{seen}"
    );

    // The control core does make some: strace sees what there is to see.
    let control = thread(daemon.process().pid(), "weir-control")?;
    let seen = traced(dir.path(), &control, Duration::from_millis(300))?;
    ensure!(!seen.trim().is_empty(), "strace sees nothing at all");
    ensure!(
        daemon.terminate()?.success(),
        "weir ended badly:\n{}",
        daemon.log()
    );
    Ok(())
}
