//! A running `weir`, and `weirctl` for it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::{Failure, Result, cores, host, wait};

const START: Duration = Duration::from_secs(30);

/// `weir run` in a namespace. Dropping it kills the process and removes its segment.
pub struct Daemon {
    process: Process,
    instance: String,
    config: PathBuf,
    shm: PathBuf,
}

/// Where segments are unless told otherwise.
const SHM: &str = "/dev/shm";

impl Daemon {
    /// Writes the configuration into `dir`, starts weir with it and waits until it answers `weirctl status`.
    pub fn start(namespace: &Namespace, dir: &Path, instance: &str, config: &str) -> Result<Self> {
        let path = dir.join(format!("{instance}.toml"));
        std::fs::write(&path, config)?;
        Self::start_file(namespace, dir, instance, &path)
    }

    /// Starts weir with an existing file.
    pub fn start_file(
        namespace: &Namespace,
        dir: &Path,
        instance: &str,
        config: &Path,
    ) -> Result<Self> {
        let mut daemon = Self::launch(namespace, dir, instance, config)?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Starts weir and does not wait: for tests in which it may refuse.
    pub fn launch(
        namespace: &Namespace,
        dir: &Path,
        instance: &str,
        config: &Path,
    ) -> Result<Self> {
        Self::launch_in(namespace, dir, instance, config, Path::new(SHM))
    }

    /// [`Daemon::launch`] with its segment in another folder (`WEIR_SHM_DIR`).
    pub fn launch_in(
        namespace: &Namespace,
        dir: &Path,
        instance: &str,
        config: &Path,
        shm: &Path,
    ) -> Result<Self> {
        Self::launch_with(namespace, dir, instance, config, shm, None)
    }

    /// [`Daemon::start`] with a library that is loaded before all others.
    pub fn start_preloaded(
        namespace: &Namespace,
        dir: &Path,
        instance: &str,
        config: &str,
        library: &Path,
    ) -> Result<Self> {
        let path = dir.join(format!("{instance}.toml"));
        std::fs::write(&path, config)?;
        let shm = Path::new(SHM);
        let mut daemon = Self::launch_with(namespace, dir, instance, &path, shm, Some(library))?;
        daemon.wait_ready()?;
        Ok(daemon)
    }

    fn launch_with(
        namespace: &Namespace,
        dir: &Path,
        instance: &str,
        config: &Path,
        shm: &Path,
        library: Option<&Path>,
    ) -> Result<Self> {
        let mut command = namespace.command_on(&cores::all(), host::binary("weir")?);
        if let Some(library) = library {
            command.env("LD_PRELOAD", library);
        }
        command
            .args(["run", "--config"])
            .arg(config)
            .env("WEIR_SHM_DIR", shm);
        let log = (0..)
            .map(|n| dir.join(format!("weir-{n}.log")))
            .find(|path| !path.exists());
        let log = log.ok_or_else(|| Failure::new("no free name for a log"))?;
        let process = Process::start("weir", &command, &log)?;
        let (config, shm) = (config.to_owned(), shm.to_owned());
        Ok(Self {
            process,
            instance: instance.to_owned(),
            config,
            shm,
        })
    }

    /// Waits until this process, and not a segment left by another, answers `weirctl status`.
    pub fn wait_ready(&mut self) -> Result {
        let pid = self.process.pid();
        wait::until("weir to answer weirctl", START, || {
            let ended = self.process.must_run();
            if ended.is_err() {
                return Some(ended);
            }
            // A stale segment may answer as well: the answer must come from this process.
            let status = self.ctl_json(&["status"]).ok()?;
            let answered = status["pid"] == pid && status["state"] == "running";
            let answered = answered && status["generation"].as_u64().is_some_and(|g| g > 0);
            answered.then_some(Ok(()))
        })
        .map_err(|failure| Failure::new(format!("{failure:?}; weir wrote:\n{}", self.log())))?
    }

    /// The instance's name.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The configuration file it was started with.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its shared-memory segment.
    pub fn segment(&self) -> PathBuf {
        self.shm.join(format!("weir.{}", self.instance))
    }

    /// The file of its capture, while there is one.
    pub fn capture_file(&self) -> PathBuf {
        self.shm.join(format!("weir-capture.{}", self.instance))
    }

    /// A `weirctl` command for this instance, away from the worker's core.
    pub fn weirctl(&self) -> Result<Command> {
        let mut command = Command::new("taskset");
        command
            .args(["-c", &cores::others()])
            .arg(host::binary("weirctl")?);
        command
            .args(["--instance", &self.instance])
            .env("WEIR_SHM_DIR", &self.shm)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs weirctl and returns what came of it, good or bad.
    pub fn ctl_output(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.weirctl()?.args(arguments).output()?)
    }

    /// Runs weirctl, which must succeed; returns its standard output.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        crate::process::capture(self.weirctl()?.args(arguments))
    }

    /// Runs weirctl with JSON output.
    pub fn ctl_json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.ctl(&[&["--output", "json"], arguments].concat())?;
        serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("weirctl {arguments:?}: {error}: {text}")))
    }

    /// Runs weirctl, which must refuse with exit code 1; returns what it said.
    pub fn ctl_refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.ctl_output(arguments)?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        crate::ensure!(
            output.status.code() == Some(1),
            "weirctl {arguments:?} should have been refused with exit code 1, but: {}\n{said}",
            output.status
        );
        Ok(said)
    }

    /// A backend as `weirctl backend list` gives it.
    fn listed(&self, service: &str) -> Result<Vec<Value>> {
        let listed = self.ctl_json(&["backend", "list", service])?;
        let list = listed
            .as_array()
            .or_else(|| listed["backends"].as_array())
            .cloned();
        list.ok_or_else(|| Failure::new(format!("no list of backends: {listed}")))
    }

    /// The weight of a backend.
    pub fn weight(&self, service: &str, backend: &str) -> Result<u64> {
        let listed = self.listed(service)?;
        let found = listed.iter().find(|b| b["name"] == backend);
        let weight = found.and_then(|b| b["weight"].as_u64());
        weight.ok_or_else(|| Failure::new(format!("no weight of {backend} in {listed:?}")))
    }

    /// The name of the n-th backend, counted from zero in the order of addresses.
    pub fn nth_backend(&self, service: &str, n: usize) -> Result<String> {
        let mut names = Vec::new();
        for backend in self.listed(service)? {
            names.extend(backend["name"].as_str().map(str::to_owned));
        }
        names.sort();
        names
            .into_iter()
            .nth(n)
            .ok_or_else(|| Failure::new(format!("{service} has fewer backends")))
    }

    /// Flows that a service has begun since the daemon's start.
    pub fn new_flows(&self, service: &str) -> Result<u64> {
        let stats = self.ctl_json(&["stats"])?;
        let flows = stats["services"][service]["new_flows"].as_u64();
        flows.ok_or_else(|| Failure::new(format!("no new_flows of {service} in {stats}")))
    }

    /// Ends weir with SIGTERM; it must be gone within ten seconds.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate(Duration::from_secs(10))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = std::fs::remove_file(self.segment());
        let _ = std::fs::remove_file(self.capture_file());
    }
}
