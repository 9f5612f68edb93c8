//! What shares a core with whom. On a machine with two cores, the probe that sends and receives has
//! to share one with the balancer's control core.

use std::process::Command;

use weir_e2e::cores;

use super::said;
use crate::Failure;

/// The core of a probe: one of its own where there are three, otherwise the control core's.
#[must_use]
pub fn probe_core() -> usize {
    usize::from(cores::count() >= 3)
}

/// Lets a process's threads of this name run only when their core has nothing else to do, if the
/// machine has no core to spare for them: otherwise a latency would mostly tell how often the kernel
/// switches between the probe and them.
///
/// # Errors
/// When the process has no such thread.
pub fn give_way(pid: u32, thread: &str) -> Result<(), Failure> {
    if probe_core() != 0 {
        return Ok(());
    }
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?;
        let name = std::fs::read_to_string(task.path().join("comm"))?;
        if name.trim() == thread {
            let id = task.file_name().to_string_lossy().into_owned();
            let mut chrt = Command::new("chrt");
            chrt.args(["--idle", "--pid", "0", &id]);
            weir_e2e::process::capture(&mut chrt).map_err(said)?;
            return Ok(());
        }
    }
    Err(format!("process {pid} has no thread {thread}").into())
}
