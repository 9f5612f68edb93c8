//! Who runs where: weir's worker polls the last core alone, everything else (test, servers, clients, the kernel's
//! work on their behalf) shares the others. There must be two cores at least.

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::Result;

/// The number of cores that are online, whatever this process is confined to.
pub fn count() -> usize {
    std::fs::read_to_string("/sys/devices/system/cpu/online")
        .ok()
        .and_then(|list| list.trim().rsplit(['-', ',']).next()?.parse::<usize>().ok())
        .map_or(1, |last| last + 1)
}

/// The core that weir's worker polls.
pub fn worker() -> usize {
    count() - 1
}

/// The cores for everything else, as `taskset -c` takes them.
pub fn others() -> String {
    format!("0-{}", count().saturating_sub(2))
}

/// All cores, as `taskset -c` takes them.
pub fn all() -> String {
    format!("0-{}", count() - 1)
}

/// Confines this process, and what it starts from now on, to the cores that no worker polls.
pub fn leave_worker_alone() -> Result {
    let mut set = CpuSet::new();
    for core in 0..count().saturating_sub(1) {
        set.set(core)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}
