//! What can go wrong with DPDK's start and stop, and its error numbers in words.

// DPDK's error number and its text come through C.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int};
use std::fmt;

use weir_dpdk_sys as sys;

/// DPDK would not start, or cannot stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EalError {
    /// EAL starts once a process; this was the second time, or the first had failed.
    #[error("DPDK was already started in this process, and can be started only once")]
    AlreadyStarted,
    /// An argument cannot be passed to C.
    #[error("DPDK argument {argument:?} contains a NUL byte")]
    Nul {
        /// The argument.
        argument: String,
    },
    /// A file prefix that is not one path component.
    #[error(
        "file prefix {prefix:?} is not usable as a file name; \
         use letters, digits, '-', '_' and '.', 64 at most, not starting with '.'"
    )]
    FilePrefix {
        /// The prefix.
        prefix: String,
    },
    /// The main core is not there, or this process may not run on it.
    #[error("core {core} does not exist, or this process may not run on it; choose another")]
    MainCore {
        /// The core.
        core: usize,
    },
    /// EAL refused.
    #[error("DPDK did not start: {reason} (its own words are above); {advice}")]
    Start {
        /// DPDK's error number in words.
        reason: String,
        /// What most often helps.
        advice: &'static str,
        /// The arguments that EAL was given.
        arguments: Vec<String>,
    },
    /// Ports, pools or workers still use it; it stops when the last of them is dropped.
    #[error(
        "DPDK is still used by {holders} ports, pools or workers, and stops when they are dropped"
    )]
    InUse {
        /// How many.
        holders: usize,
    },
    /// The clean-up failed.
    #[error("DPDK's clean-up failed: {reason}")]
    Stop {
        /// DPDK's error number in words.
        reason: String,
    },
}

/// An error number that DPDK returned, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The error behind a negative return value.
    pub(crate) fn of(ret: c_int) -> Self {
        Self(ret.saturating_abs())
    }

    /// The error of the last call on this thread that does not return it.
    pub(crate) fn last() -> Self {
        // SAFETY: reads a per-thread variable.
        Self(unsafe { sys::weir_errno() })
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: rte_strerror returns a NUL-terminated string in static or per-thread memory,
        // which is read before anything else runs on this thread.
        let text = unsafe { CStr::from_ptr(sys::rte_strerror(self.0)) };
        write!(f, "{} (error {})", text.to_string_lossy(), self.0)
    }
}
