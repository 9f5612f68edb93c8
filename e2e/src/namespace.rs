//! A network namespace: made on creation, deleted on drop, entered by commands and by threads.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};

use crate::process::capture;
use crate::{Failure, Result, cores, host};

/// A network namespace with its loopback up.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes the namespace; `label` tells it from the others of this test.
    pub fn new(label: &str) -> Result<Self> {
        let name = host::unique(label);
        capture(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        // Duplicate address detection would hold IPv6 addresses back for a second.
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip -n <this> …`; the words of `arguments` are split at spaces.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        capture(
            Command::new("ip")
                .args(["-n", &self.name])
                .args(arguments.split_whitespace()),
        )
    }

    /// Sets a kernel parameter of the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result {
        let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
        self.run(|| std::fs::write(&path, value))?
            .map_err(|error| Failure::new(format!("{key} = {value}: {error}")))
    }

    /// A command that runs in the namespace, on the given cores.
    pub fn command_on(&self, cores: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, "taskset", "-c", cores])
            .arg(program);
        command
    }

    /// A command that runs in the namespace, away from the worker's core.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.command_on(&cores::others(), program)
    }

    /// Turns off what a real wire would not do: unfinished checksums and frames larger than the MTU.
    pub fn plain_wire(&self, interface: &str) -> Result {
        let features = "rx off tx off tso off gso off gro off";
        capture(
            self.command("ethtool")
                .args(["-K", interface])
                .args(features.split(' ')),
        )
        .map(drop)
    }

    /// The Ethernet address of an interface.
    pub fn mac(&self, interface: &str) -> Result<String> {
        let path = PathBuf::from("/sys/class/net")
            .join(interface)
            .join("address");
        // sysfs belongs to the mount namespace, so a command has to look.
        Ok(capture(self.command("cat").arg(path))?.trim().to_owned())
    }

    /// Runs `work` on a thread that is in the namespace. Sockets made there stay there, wherever they go.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let handle = File::open(PathBuf::from("/run/netns").join(&self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&handle, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, nix::Error>(work())
            });
            match thread.join() {
                Ok(result) => result.map_err(Failure::from),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Packets that the kernel of the namespace threw away for a wrong checksum, by protocol (`Tcp`, `Udp`, `Udp6`,
    /// …), and those with errors in the IP header. Empty when all was well.
    pub fn checksum_errors(&self) -> Result<Vec<(String, u64)>> {
        let (snmp, snmp6) = self.run(|| {
            (
                std::fs::read_to_string("/proc/thread-self/net/snmp"),
                std::fs::read_to_string("/proc/thread-self/net/snmp6"),
            )
        })?;
        let mut errors = Vec::new();
        let snmp = snmp?;
        let lines: Vec<&str> = snmp.lines().collect();
        for pair in lines.chunks_exact(2) {
            let protocol = pair[0].split(':').next().unwrap_or_default();
            for (key, value) in pair[0].split(' ').zip(pair[1].split(' ')).skip(1) {
                let bad = key == "InCsumErrors" || (protocol == "Ip" && key == "InHdrErrors");
                let value = value.parse().unwrap_or(0);
                if bad && value > 0 {
                    errors.push((format!("{protocol}.{key}"), value));
                }
            }
        }
        for line in snmp6?.lines() {
            let mut words = line.split_whitespace();
            let (Some(key), Some(value)) = (words.next(), words.next()) else {
                continue;
            };
            let value = value.parse().unwrap_or(0);
            if key.ends_with("InCsumErrors") && value > 0 {
                errors.push((key.to_owned(), value));
            }
        }
        Ok(errors)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(failure) = capture(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("namespace {} stays: {failure:?}", self.name);
        }
    }
}
