//! What DPDK and its drivers say: to standard error as it comes, or line by line to a sink of the
//! program, so that the program's log has one form.

use std::ffi::c_char;
use std::sync::OnceLock;

use weir_dpdk_sys as sys;

/// How much DPDK tells: this level and worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// Warnings.
    #[default]
    Warning,
    /// What a start and each device go through.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// From DPDK's numbers: 1 emergency to 8 debug.
    fn of_dpdk(level: u32) -> Self {
        match level {
            0..=4 => Self::Error,
            5 => Self::Warning,
            6 | 7 => Self::Info,
            _ => Self::Debug,
        }
    }
}

/// Takes a line that DPDK wrote, without its end. Called on whatever thread wrote it, so it must be
/// quick and must not call DPDK.
pub type LogSink = fn(LogLevel, &str);

static SINK: OnceLock<LogSink> = OnceLock::new();

/// Where lines go from now on: the first sink of the process, or standard error.
pub(super) fn direct(sink: Option<LogSink>) {
    if let Some(sink) = sink {
        SINK.get_or_init(|| sink);
        // SAFETY: `take` stays for the process's life and upholds `weir_log_line`'s contract.
        if unsafe { sys::weir_log_to(Some(take)) } == 0 {
            return;
        }
    }
    // SAFETY: sets a stream that the C library keeps open.
    unsafe { sys::weir_log_to_stderr() };
}

/// One message of DPDK's, which may be several lines.
extern "C" fn take(level: u32, text: *const c_char, length: usize) {
    let (Some(sink), false) = (SINK.get(), text.is_null()) else {
        return;
    };
    // SAFETY: the shim passes `length` readable bytes that stay as they are during the call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    let text = String::from_utf8_lossy(bytes);
    let lines = text.lines().map(str::trim_end);
    for line in lines.filter(|line| !line.is_empty()) {
        sink(LogLevel::of_dpdk(level), line);
    }
}
