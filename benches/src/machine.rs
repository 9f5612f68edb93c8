//! The machine that figures are measured on, as far as it says so itself.

use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// What a figure cannot be read without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor, with its family and model, since cloud machines hide its name.
    pub processor: String,
    /// Its cores that this system sees.
    pub cores: usize,
    /// The clock as the kernel tells it, which is the nominal one on a virtual machine.
    pub clock: String,
    /// Its caches.
    pub caches: String,
    /// Megabytes of memory.
    pub memory_mb: u64,
    /// `virtual` or `physical`, with the hypervisor where it is known.
    pub kind: String,
    /// The kernel's release.
    pub kernel: String,
    /// DPDK's version.
    pub dpdk: String,
    /// The compiler's.
    pub rustc: String,
    /// The commit that was measured; `+` if files differed from it.
    pub commit: String,
    /// The day, in UTC.
    pub date: String,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let of = |key: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key));
            let value = line.and_then(|line| line.split_once(':'));
            value.map_or_else(
                || "unknown".to_owned(),
                |(_, value)| value.trim().to_owned(),
            )
        };
        let clean = said("git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
        let commit = said("git", &["rev-parse", "--short=12", "HEAD"]);
        let virtual_machine = cpuinfo.contains("hypervisor");
        Self {
            processor: format!(
                "{} (family {}, model {})",
                of("model name"),
                of("cpu family"),
                of("model\t")
            ),
            cores: weir_e2e::cores::count(),
            clock: format!("{} MHz", of("cpu MHz")),
            caches: caches(),
            memory_mb: megabytes("MemTotal:"),
            kind: if virtual_machine {
                "virtual machine"
            } else {
                "physical machine"
            }
            .to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            dpdk: said("pkg-config", &["--modversion", "libdpdk"]),
            rustc: said("rustc", &["--version"]),
            commit: if clean { commit } else { commit + "+" },
            date: said("date", &["-u", "+%Y-%m-%d"]),
        }
    }
}

/// Level, kind and size of core 0's caches.
fn caches() -> String {
    let read = |index: usize, what: &str| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}");
        fs::read_to_string(path).map(|text| text.trim().to_owned())
    };
    let mut found = Vec::new();
    for index in 0..8 {
        let (Ok(level), Ok(kind), Ok(size)) = (
            read(index, "level"),
            read(index, "type"),
            read(index, "size"),
        ) else {
            break;
        };
        if kind != "Instruction" {
            found.push(format!("L{level} {size}"));
        }
    }
    if found.is_empty() {
        "unknown".to_owned()
    } else {
        found.join(", ")
    }
}

fn megabytes(key: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) / 1024
}

/// What a command says in one line; nothing if it does not run.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|it| String::from_utf8_lossy(&it.stdout).trim().to_owned());
    text.unwrap_or_default()
}
