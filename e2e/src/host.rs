//! The machine the tests run on: are we root, where are the binaries, what have killed runs left behind.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, Result, process};

/// True when the test may run. Without root it fails, except where `WEIR_E2E_SKIP=1` asks to leave such tests out,
/// which CI may not ask.
pub fn ready() -> Result<bool> {
    if !nix::unistd::geteuid().is_root() {
        let skip = std::env::var("WEIR_E2E_SKIP").is_ok_and(|v| v == "1");
        let ci = std::env::var("CI").is_ok_and(|v| v == "true");
        if skip && !ci {
            eprintln!("SKIPPED: not root, and WEIR_E2E_SKIP=1");
            return Ok(false);
        }
        return Err(Failure::new(
            "this test makes network namespaces and needs root: run it as root or with `make e2e`, which uses sudo; \
             WEIR_E2E_SKIP=1 leaves such tests out (not with CI=true)",
        ));
    }
    crate::ensure!(
        crate::cores::count() >= 2,
        "weir's worker polls a core of its own, and this machine has only one"
    );
    crate::cores::leave_worker_alone()?;
    sweep();
    Ok(true)
}

/// The path of one of weir's release binaries: in `WEIR_BIN_DIR`, or in the workspace's target folder.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match (
        std::env::var_os("WEIR_BIN_DIR"),
        std::env::var_os("CARGO_TARGET_DIR"),
    ) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(target)) => workspace().join(target).join("release"),
        (None, None) => workspace().join("target/release"),
    };
    let path = dir.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(format!(
        "{} does not exist: run `make release` first",
        path.display()
    )))
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// A name that no other run on this machine uses now: `weir-e2e-<process>-<label>`.
pub fn unique(label: &str) -> String {
    format!("weir-e2e-{}-{label}", std::process::id())
}

/// Takes down what runs left behind that were killed: namespaces, with the processes in them, and segments of
/// processes that no longer are.
fn sweep() {
    let names = |dir: &str| -> Vec<String> {
        std::fs::read_dir(dir)
            .map(|entries| {
                entries
                    .flatten()
                    .map(|e| e.file_name().to_string_lossy().into_owned())
                    .collect()
            })
            .unwrap_or_default()
    };
    let orphaned = |name: &str| {
        let pid = name
            .strip_prefix("weir-e2e-")
            .and_then(|rest| rest.split('-').next());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists())
    };
    for name in names("/run/netns").iter().filter(|n| orphaned(n)) {
        if let Ok(pids) = process::capture(Command::new("ip").args(["netns", "pids", name])) {
            for pid in pids.split_whitespace() {
                let _ = process::capture(Command::new("kill").args(["-KILL", pid]));
            }
        }
        let _ = process::capture(Command::new("ip").args(["netns", "del", name]));
    }
    for name in names("/dev/shm") {
        if name.strip_prefix("weir.").is_some_and(orphaned) {
            let _ = std::fs::remove_file(Path::new("/dev/shm").join(name));
        }
    }
}

/// Huge pages of 2 MiB, reserved for as long as this lives; the number there was before comes back when it is dropped.
/// weir needs no hugetlbfs mount, so none is made.
pub struct HugePages {
    before: String,
}

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// Reserves at least `pages` huge pages.
    pub fn reserve(pages: usize) -> Result<Self> {
        let before = std::fs::read_to_string(RESERVED)?.trim().to_owned();
        let had = before.parse::<usize>().unwrap_or(0);
        let reserved = Self { before };
        if had < pages {
            std::fs::write(RESERVED, pages.to_string())?;
            let got = std::fs::read_to_string(RESERVED)?
                .trim()
                .parse::<usize>()
                .unwrap_or(0);
            crate::ensure!(
                got >= pages,
                "asked for {pages} huge pages, the kernel gave {got}"
            );
        }
        Ok(reserved)
    }

    /// Huge pages that nobody holds at the moment.
    pub fn free(&self) -> Result<usize> {
        let meminfo = std::fs::read_to_string("/proc/meminfo")?;
        let line = meminfo
            .lines()
            .find(|line| line.starts_with("HugePages_Free:"));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
            .ok_or_else(|| Failure::new("/proc/meminfo does not say how many huge pages are free"))
    }

    /// Files that lie in mounted huge-page file systems.
    pub fn files(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for line in std::fs::read_to_string("/proc/mounts")?.lines() {
            let mut fields = line.split(' ').skip(1);
            if let (Some(dir), Some("hugetlbfs")) = (fields.next(), fields.next()) {
                for entry in std::fs::read_dir(dir)? {
                    found.push(entry?.path().display().to_string());
                }
            }
        }
        Ok(found)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = std::fs::write(RESERVED, &self.before);
    }
}
