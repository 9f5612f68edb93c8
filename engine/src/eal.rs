//! DPDK's environment abstraction layer (EAL): started once a process from settings, cleaned up
//! after the last port and pool are gone.
//!
//! Choices made here:
//! - **Huge pages** are taken with `--in-memory`: no file in hugetlbfs and no shared configuration,
//!   so that a process killed at any moment leaves nothing behind, and no hugetlbfs mount is needed.
//! - **Anonymous memory** (`--no-huge -m N --no-shconf`) needs neither root nor huge pages; it is
//!   for virtual devices and tests.
//! - **Telemetry** is off unless asked for: its socket and thread are for a second way to read
//!   statistics, and the socket would outlive a kill.
//! - **Threads**: EAL pins the thread that starts it, and its own threads to whatever is left. Here
//!   its threads are kept on the main core, away from the workers, and the calling thread gets its
//!   affinity back.
//! - **Logs** go to standard error, or line by line to the program's own log; warnings and worse by
//!   default. Standard output is the program's.

// EAL is a C library; this module keeps its rules (once a process, cleaned up last).
#![allow(unsafe_code)]

mod error;
mod log;

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weir_dpdk_sys as sys;

pub use self::error::{EalError, Errno};
pub use self::log::{LogLevel, LogSink};

/// Where DPDK's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Memory {
    /// Reserved huge pages (`vm.nr_hugepages`); what real NICs want.
    #[default]
    HugePages,
    /// Ordinary memory: no root, no huge pages; for virtual devices.
    Anonymous,
}

/// Settings of the EAL.
#[derive(Debug, Clone)]
pub struct EalConfig {
    /// Tells processes apart: `--file-prefix`. One path component; two processes that run at the
    /// same time need two.
    pub file_prefix: String,
    /// Where memory comes from.
    pub memory: Memory,
    /// Megabytes: taken at the start (anonymous: all there will be, [`ANONYMOUS_MB`] by default;
    /// huge pages: on demand by default).
    pub memory_mb: Option<u32>,
    /// The core of EAL's own threads (interrupts, alarms): the control core.
    pub main_core: usize,
    /// Devices known at the start: PCI addresses (`0000:3b:00.0`), or virtual devices with their
    /// arguments (`net_null0,size=64`). PCI devices must be named here. A virtual device may be
    /// left to [`crate::port::Port::open`], which plugs it in and reports a failure better.
    pub devices: Vec<String>,
    /// Whether DPDK's telemetry socket is opened.
    pub telemetry: bool,
    /// How much DPDK tells.
    pub log_level: LogLevel,
    /// Who takes its lines; standard error if nobody.
    pub log_sink: Option<LogSink>,
    /// Further EAL arguments, passed on as they are, last.
    pub extra_args: Vec<String>,
}

/// Megabytes of anonymous memory when the configuration names no amount.
pub const ANONYMOUS_MB: u32 = 256;

impl Default for EalConfig {
    fn default() -> Self {
        Self {
            file_prefix: format!("weir-{}", std::process::id()),
            memory: Memory::default(),
            memory_mb: None,
            main_core: 0,
            devices: Vec::new(),
            telemetry: false,
            log_level: LogLevel::default(),
            log_sink: None,
            extra_args: Vec::new(),
        }
    }
}

impl EalConfig {
    /// Settings for these devices: NICs are named to EAL and get huge pages; virtual devices alone
    /// (which are left to [`crate::port::Port::open`]) get by on anonymous memory.
    #[must_use]
    pub fn for_devices<'a>(devices: impl IntoIterator<Item = &'a str>) -> Self {
        let nics = devices.into_iter().filter(|device| is_pci_address(device));
        let devices: Vec<String> = nics.map(str::to_owned).collect();
        let memory = if devices.is_empty() {
            Memory::Anonymous
        } else {
            Memory::HugePages
        };
        Self {
            memory,
            devices,
            ..Self::default()
        }
    }
}

static STARTED: AtomicBool = AtomicBool::new(false);

/// DPDK, started. Clones are handles to the same one: ports, pools and workers hold one each, and
/// the last to go cleans up.
#[derive(Debug, Clone)]
pub struct Eal {
    running: Arc<Running>,
}

#[derive(Debug)]
struct Running {
    runtime_dir: Option<PathBuf>,
    config: EalConfig,
    /// A buffer is still owned by somebody, so DPDK's memory stays until the process ends.
    memory_stays: AtomicBool,
}

impl Eal {
    /// Starts DPDK in this process. Takes from a tenth of a second to seconds (huge pages are
    /// zeroed). The calling thread becomes DPDK's main thread and keeps its affinity.
    ///
    /// # Errors
    /// [`EalError`]; after one, no second attempt is possible in this process.
    pub fn start(config: &EalConfig) -> Result<Self, EalError> {
        check_prefix(&config.file_prefix)?;
        let arguments = arguments(config);
        let mut strings = Vec::with_capacity(arguments.len());
        for argument in &arguments {
            let string = CString::new(argument.as_str()).map_err(|_| EalError::Nul {
                argument: argument.clone(),
            })?;
            strings.push(string);
        }
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(EalError::AlreadyStarted);
        }
        let affinity = Affinity::narrow_to(config.main_core)?;
        // EAL reorders the array while it parses, and keeps pointers to some of the strings.
        let mut argv: Vec<*mut c_char> = strings.into_iter().map(CString::into_raw).collect();
        let argc = argv.len() as c_int;
        argv.push(ptr::null_mut());
        let argv: &'static mut [*mut c_char] = Vec::leak(argv);
        log::direct(config.log_sink);
        // SAFETY: `argv` has `argc` writable NUL-terminated strings and a null behind them, all
        // leaked, so they outlive EAL; STARTED lets one call through.
        let parsed = unsafe { sys::rte_eal_init(argc, argv.as_mut_ptr()) };
        drop(affinity);
        let reason = Errno::last();
        let runtime_dir = runtime_dir();
        if parsed < 0 {
            remove_runtime_dir(runtime_dir.as_deref(), &config.file_prefix);
            let (reason, advice) = (reason.to_string(), advice(config));
            return Err(EalError::Start {
                reason,
                advice,
                arguments,
            });
        }
        Ok(Self {
            running: Arc::new(Running {
                runtime_dir,
                config: config.clone(),
                memory_stays: AtomicBool::new(false),
            }),
        })
    }

    /// The settings it was started with.
    #[must_use]
    pub fn config(&self) -> &EalConfig {
        &self.running.config
    }

    /// The NUMA nodes that DPDK sees memory on.
    #[must_use]
    pub fn numa_nodes(&self) -> Vec<u32> {
        // SAFETY: EAL runs as long as `self`; indices below the count are valid.
        unsafe {
            (0..sys::rte_socket_count())
                .filter_map(|index| u32::try_from(sys::rte_socket_id_by_idx(index)).ok())
                .collect()
        }
    }

    /// Makes the calling thread known to DPDK until the guard is dropped, on the same thread.
    pub(crate) fn register_thread(&self) -> Result<Registration, Errno> {
        // SAFETY: EAL runs; a thread that is registered already is refused by DPDK.
        let ret = unsafe { sys::rte_thread_register() };
        if ret < 0 {
            return Err(Errno::last());
        }
        Ok(Registration {
            _eal: self.clone(),
            _here: std::marker::PhantomData,
        })
    }

    /// DPDK's memory is not to be given back at the end.
    pub(crate) fn let_memory_stay(&self) {
        self.running.memory_stays.store(true, Ordering::Release);
    }

    /// Stops DPDK and removes its run-time files. Where a pool had to be left behind because
    /// buffers had not come home (some drivers, AF_XDP's among them, keep those of their rings even
    /// when closed), its memory goes back to the system at the end of the process.
    ///
    /// # Errors
    /// [`EalError::InUse`] when ports, pools or workers are left: DPDK then stops when the last of
    /// them is dropped. [`EalError::Stop`] when the clean-up itself fails.
    pub fn stop(self) -> Result<(), EalError> {
        match Arc::try_unwrap(self.running) {
            Ok(running) => {
                let result = running.clean_up();
                mem::forget(running);
                result
            }
            Err(running) => Err(EalError::InUse {
                holders: Arc::strong_count(&running) - 1,
            }),
        }
    }
}

impl Running {
    fn clean_up(&self) -> Result<(), EalError> {
        let ret = if self.memory_stays.load(Ordering::Acquire) {
            0
        } else {
            // SAFETY: the last handle is gone, hence every port, pool and registered thread, and
            // every buffer is home. DPDK's own thread is parked before its memory goes.
            unsafe {
                match sys::weir_park_interrupt_thread() {
                    0 => sys::rte_eal_cleanup(),
                    // On a machine so busy that the thread does not get to run, the memory stays
                    // until the process ends, which is soon.
                    _ => 0,
                }
            }
        };
        remove_runtime_dir(self.runtime_dir.as_deref(), &self.config.file_prefix);
        if ret < 0 {
            Err(EalError::Stop {
                reason: Errno::of(ret).to_string(),
            })
        } else {
            Ok(())
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // There is nobody to tell; `Eal::stop` is for those who want to know.
        let _ = self.clean_up();
    }
}

/// A thread's registration with DPDK; not to leave the thread.
#[derive(Debug)]
pub(crate) struct Registration {
    _eal: Eal,
    _here: std::marker::PhantomData<*const ()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: made by `register_thread` on this thread, which it cannot leave; EAL still runs.
        unsafe { sys::rte_thread_unregister() };
    }
}

/// The calling thread's affinity, narrowed while EAL starts (so that EAL's own threads stay on one
/// core) and restored on drop.
struct Affinity {
    before: libc::cpu_set_t,
}

impl Affinity {
    fn narrow_to(core: usize) -> Result<Self, EalError> {
        let missing = EalError::MainCore { core };
        if core >= libc::CPU_SETSIZE as usize {
            return Err(missing);
        }
        // SAFETY: a CPU set is plain bits; zero is the empty set. Both calls get its true size and
        // the calling thread (0), and `core` is within the set.
        unsafe {
            let mut before: libc::cpu_set_t = mem::zeroed();
            let mut only: libc::cpu_set_t = mem::zeroed();
            let size = size_of::<libc::cpu_set_t>();
            if libc::sched_getaffinity(0, size, &raw mut before) != 0 {
                return Err(missing);
            }
            libc::CPU_SET(core, &mut only);
            if libc::sched_setaffinity(0, size, &raw const only) != 0 {
                return Err(missing);
            }
            Ok(Self { before })
        }
    }
}

impl Drop for Affinity {
    fn drop(&mut self) {
        let size = size_of::<libc::cpu_set_t>();
        // SAFETY: restores what the kernel gave, for the calling thread.
        unsafe { libc::sched_setaffinity(0, size, &raw const self.before) };
    }
}

/// A PCI address, with or without its domain: `0000:3b:00.0`, `3b:00.0`.
#[must_use]
pub fn is_pci_address(device: &str) -> bool {
    let address = device.split(',').next().unwrap_or_default();
    let Some((rest, function)) = address.rsplit_once('.') else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split(':').collect();
    if parts.len() == 2 {
        parts.insert(0, "0000");
    }
    let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
    };
    matches!(parts[..], [domain, bus, slot]
        if hex(domain, 4..=8) && hex(bus, 2..=2) && hex(slot, 2..=2))
        && matches!(function.as_bytes(), [b'0'..=b'7'])
}

/// EAL's command line.
fn arguments(config: &EalConfig) -> Vec<String> {
    let mut list = vec![
        "weir".to_owned(),
        format!("--file-prefix={}", config.file_prefix),
        // Logical core 0 on the main core: registered threads take the numbers from 1 up.
        format!("--lcores=0@{}", config.main_core),
        format!("--log-level=*:{}", config.log_level.as_str()),
    ];
    match config.memory {
        Memory::Anonymous => {
            let megabytes = config.memory_mb.unwrap_or(ANONYMOUS_MB);
            list.extend([
                "--no-huge".into(),
                format!("-m{megabytes}"),
                "--no-shconf".into(),
            ]);
        }
        Memory::HugePages => {
            list.push("--in-memory".into());
            list.extend(config.memory_mb.map(|megabytes| format!("-m{megabytes}")));
        }
    }
    if !config.telemetry {
        list.push("--no-telemetry".into());
    }
    if !config.devices.iter().any(|device| is_pci_address(device)) {
        list.push("--no-pci".into());
    }
    for device in &config.devices {
        let flag = if is_pci_address(device) {
            "--allow"
        } else {
            "--vdev"
        };
        list.push(format!("{flag}={device}"));
    }
    list.extend(config.extra_args.iter().cloned());
    list
}

fn check_prefix(prefix: &str) -> Result<(), EalError> {
    let usable = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let fits = (1..=64).contains(&prefix.len());
    if fits && !prefix.starts_with('.') && prefix.bytes().all(usable) {
        Ok(())
    } else {
        Err(EalError::FilePrefix {
            prefix: prefix.to_owned(),
        })
    }
}

fn advice(config: &EalConfig) -> &'static str {
    match config.memory {
        Memory::HugePages => {
            "if it lacks memory, reserve huge pages (sysctl vm.nr_hugepages=512) and run as root, \
             or use anonymous memory; otherwise check the devices and the extra arguments"
        }
        Memory::Anonymous => "check the amount of memory, the devices and the extra arguments",
    }
}

/// DPDK's run-time folder: `PREFIX` below `/var/run/dpdk`, or below `$XDG_RUNTIME_DIR/dpdk` or
/// `/tmp/dpdk` without root.
fn runtime_dir() -> Option<PathBuf> {
    // SAFETY: returns a NUL-terminated string in static memory, or null.
    let directory = unsafe { sys::rte_eal_get_runtime_dir() };
    if directory.is_null() {
        return None;
    }
    // SAFETY: not null, see above.
    let text = unsafe { CStr::from_ptr(directory) };
    Some(PathBuf::from(text.to_string_lossy().into_owned()))
}

/// Removes DPDK's run-time folder, unless its path does not end in our own prefix.
fn remove_runtime_dir(directory: Option<&Path>, prefix: &str) {
    if let Some(directory) = directory
        && directory.file_name().is_some_and(|name| name == prefix)
    {
        // Best effort: a left-over is a few empty files that the next start reuses.
        let _ = fs::remove_dir_all(directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_are_told_from_virtual_devices() {
        for pci in [
            "0000:3b:00.0",
            "3b:00.1",
            "00:1f.7",
            "10000:01:00.0",
            "0000:3b:00.0,a=b",
        ] {
            assert!(is_pci_address(pci), "{pci}");
        }
        let others = [
            "net_null0",
            "net_pcap0,rx_pcap=a.pcap",
            "3b:00",
            "3b:00.8",
            "",
            "x:00.0",
            "net:0.0",
        ];
        for other in others {
            assert!(!is_pci_address(other), "{other}");
        }
    }

    #[test]
    fn the_command_line_follows_the_settings() {
        let mut config = EalConfig {
            file_prefix: "a".into(),
            memory: Memory::Anonymous,
            ..Default::default()
        };
        config.extra_args = vec!["--iova-mode=va".into()];
        assert_eq!(
            arguments(&config).join(" "),
            "weir --file-prefix=a --lcores=0@0 --log-level=*:warning --no-huge -m256 --no-shconf \
             --no-telemetry --no-pci --iova-mode=va"
        );
        config = EalConfig {
            file_prefix: "b".into(),
            memory_mb: Some(512),
            main_core: 3,
            devices: vec!["0000:3b:00.0".into(), "net_null0,size=64".into()],
            telemetry: true,
            log_level: LogLevel::Debug,
            ..Default::default()
        };
        assert_eq!(
            arguments(&config).join(" "),
            "weir --file-prefix=b --lcores=0@3 --log-level=*:debug --in-memory -m512 \
             --allow=0000:3b:00.0 --vdev=net_null0,size=64"
        );
    }

    #[test]
    fn nics_get_huge_pages_and_virtual_devices_do_without() {
        let config = EalConfig::for_devices(["net_null0", "3b:00.0"]);
        assert_eq!(config.memory, Memory::HugePages);
        assert_eq!(config.devices, ["3b:00.0"]);
        let config = EalConfig::for_devices(["net_null0"]);
        assert_eq!(config.memory, Memory::Anonymous);
        assert!(config.devices.is_empty());
    }

    #[test]
    fn a_file_prefix_stays_within_its_folder() {
        for bad in ["", ".", "..", "a/b", "../x", "a b", &"x".repeat(65)] {
            assert!(check_prefix(bad).is_err(), "{bad:?}");
        }
        for good in ["weir", "weir-lb1", "a.b_c"] {
            assert!(check_prefix(good).is_ok(), "{good:?}");
        }
    }
}
