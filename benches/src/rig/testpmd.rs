//! DPDK's testpmd, the yardstick: what the machine does with the same devices when nothing is
//! balanced.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir_e2e::cores;

use super::telemetry::Telemetry;
use crate::Failure;

/// A running testpmd with one forwarding core. Dropping it ends it.
pub struct Testpmd {
    child: Child,
    log: PathBuf,
    runtime: PathBuf,
}

impl Testpmd {
    /// Starts it over virtual devices, forwarding by `mode`, with this many packet buffers, and waits
    /// until it forwards. Its log lies in `dir`.
    ///
    /// # Errors
    /// When it does not start, with what it wrote.
    pub fn start(
        dir: &Path,
        mode: &str,
        devices: &[String],
        buffers: u32,
    ) -> Result<Self, Failure> {
        let prefix = format!("weir-bench-{}", std::process::id());
        let log = dir.join("testpmd.log");
        let file = File::create(&log)?;
        let mut command = Command::new("setpriv");
        // Its standard output by lines: what it says tells when it forwards.
        command
            .args(["--pdeathsig", "KILL", "stdbuf", "-oL", "dpdk-testpmd"])
            .arg(format!("--lcores=0@0,1@{}", cores::worker()))
            .args(["--in-memory", "--no-pci", "--file-prefix", &prefix]);
        for device in devices {
            command.arg(format!("--vdev={device}"));
        }
        command
            .arg("--")
            .arg(format!("--forward-mode={mode}"))
            .arg(format!("--total-num-mbufs={buffers}"))
            .args(["--auto-start", "--nb-cores=1", "--no-lsc-interrupt"]);
        // It ends when its standard input does, so that is held open.
        let child = command
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .map_err(|error| format!("dpdk-testpmd (package dpdk-dev): {error}"))?;
        let mut testpmd = Self {
            child,
            log,
            runtime: PathBuf::from("/var/run/dpdk").join(prefix),
        };
        testpmd.wait_ready()?;
        Ok(testpmd)
    }

    /// A memif's socket is there before the port behind it is started, and a client that connects in
    /// between is turned away for good; so it has to have said that it forwards.
    fn wait_ready(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            if log.contains("Press enter") {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() || Instant::now() > end {
                return Err(format!("testpmd does not forward; it wrote:\n{log}").into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Its statistics.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn telemetry(&self) -> Result<Telemetry, Failure> {
        Telemetry::connect(&self.runtime.join("dpdk_telemetry.v2"))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // End of input is the gentle way to end it; it stops its ports and takes its socket away.
        drop(self.child.stdin.take());
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.runtime);
    }
}
