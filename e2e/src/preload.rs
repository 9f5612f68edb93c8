//! What a small machine and a veth lack for two workers, lent by a library that is loaded into weir before all others.
//!
//! Cores: two workers and the control core need three. A core that is not there stands for one that is, so that two
//! threads share it. Queues: a veth counts its queues by direction, and DPDK's AF_XDP driver (22.11) knows combined ones
//! only, of which it then sees one; here they are counted as combined, as NICs do. What the kernel does with frames
//! and sockets is the kernel's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::cores;
use crate::process::capture;

/// Cores for two workers beside core 0, and the library that lends what is missing. The workers must back off when idle:
/// one may share its core.
pub fn two_workers(dir: &Path) -> Result<(Vec<usize>, PathBuf)> {
    let (source, library) = (dir.join("preload.c"), dir.join("preload.so"));
    std::fs::write(&source, LIBRARY)?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]);
    capture(cc.arg(&library).arg(&source))?;
    Ok((vec![cores::worker(), cores::count()], library))
}

const LIBRARY: &str = r"
#define _GNU_SOURCE
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *wanted) {
    long there = sysconf(_SC_NPROCESSORS_ONLN);
    cpu_set_t cores;
    CPU_ZERO(&cores);
    for (long core = 0; core < CPU_SETSIZE && core < (long)size * 8; core++)
        if (CPU_ISSET_S(core, size, wanted))
            CPU_SET(core % there, &cores);
    return (int)syscall(SYS_sched_setaffinity, pid, sizeof cores, &cores);
}

int ioctl(int fd, unsigned long request, ...) {
    va_list rest;
    va_start(rest, request);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    int result = (int)syscall(SYS_ioctl, fd, request, argument);
    if (result == 0 && request == SIOCETHTOOL) {
        struct ethtool_channels *channels = (void *)((struct ifreq *)argument)->ifr_data;
        if (channels->cmd == ETHTOOL_GCHANNELS && channels->max_combined == 0) {
            channels->max_combined = channels->max_rx;
            channels->combined_count = channels->rx_count;
        }
    }
    return result;
}
";
