//! The configuration: what `weir.toml` says, checked, with defaults filled in.
//!
//! `raw` is the text's shape, `check` turns it into a [`Config`] or into a message with file, line
//! and column; the rest of weir only ever sees a [`Config`].

mod check;
mod device;
mod effective;
mod kernel;
mod log;
mod raw;
mod reach;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use weir_engine::wire::ethernet::MacAddr;
use weir_shm::model::Pool;

use crate::control::health;
use crate::flow::HashKey;

pub use check::is_name;
pub use device::Device;
pub use kernel::Kernel;
pub use log::{Log, LogFormat, LogLevel};
pub use reach::Unreachable;

/// A configuration that can be run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from.
    pub path: PathBuf,
    /// `[instance]`.
    pub instance: Instance,
    /// `[engine]`.
    pub engine: Engine,
    /// `[log]`.
    pub log: Log,
    /// `[metrics]`; `None` tells nothing.
    pub metrics: Option<Metrics>,
    /// `[[port]]`; a port's number is its place here.
    pub ports: Vec<Port>,
    /// `[[route]]`.
    pub routes: Vec<StaticRoute>,
    /// `[[neighbor]]`.
    pub neighbours: Vec<(IpAddr, MacAddr)>,
    /// `[[service]]`.
    pub pool: Pool,
    /// What the operator should know, though it is no error: each `line:column: what`.
    pub warnings: Vec<String>,
}

/// Who this weir is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Names the shared-memory segment.
    pub name: String,
    /// The fleet's secret; `None` is random at start.
    pub hash_key: Option<HashKey>,
    /// The segment's owner; `None` keeps the daemon's.
    pub owner: Option<String>,
    /// The segment's group; `None` keeps the daemon's.
    pub group: Option<String>,
}

/// Where packet memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Huge pages.
    HugePages,
    /// Ordinary anonymous memory.
    Anonymous,
}

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Polls on.
    Poll,
    /// Backs off, up to short sleeps.
    Adaptive,
}

/// How the machine is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// One CPU core a worker.
    pub workers: Vec<usize>,
    /// The control core.
    pub control_core: usize,
    /// Where packet memory comes from.
    pub memory: Memory,
    /// MiB of packet memory; `None` is sized by the ports.
    pub memory_mb: Option<u32>,
    /// What an idle worker does.
    pub idle: Idle,
    /// Flows that each worker can track.
    pub flows_per_worker: u64,
    /// Names DPDK's files; `None` is made from the instance's name.
    pub file_prefix: Option<String>,
    /// Further arguments for DPDK.
    pub eal_args: Vec<String>,
}

/// Where metrics can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// The address and port of the HTTP server, on a socket of the kernel.
    pub listen: SocketAddr,
    /// Where the configuration says so, `file:line:column`, for whoever finds the port taken.
    pub place: String,
}

/// An address with its network's prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// The address, host bits included.
    pub address: IpAddr,
    /// Bits.
    pub prefix: u8,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its device.
    pub device: Device,
    /// Its own addresses.
    pub addresses: Vec<Network>,
    /// Its MAC; `None` is the device's.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes; `None` is the device's.
    pub mtu: Option<u16>,
    /// Its VLAN.
    pub vlan: Option<u16>,
    /// Its way to the kernel; `None` is none.
    pub kernel: Option<Kernel>,
}

/// A static route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticRoute {
    /// Where to.
    pub to: Network,
    /// The gateway.
    pub via: IpAddr,
}

/// A configuration that cannot be used: one line, `file:line:column: what`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What it says cannot be used.
    #[error(transparent)]
    Wrong(#[from] weir_shm::document::Diagnostic),
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// With the place in the file, what was found and what is accepted.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Unreadable {
            path: file.clone(),
            source,
        })?;
        let text = weir_shm::document::text_of(&file, bytes)?;
        Ok(Self::parse(path, &text)?)
    }

    /// Checks a text that came from `path`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, weir_shm::document::Diagnostic> {
        check::check(path, text)
    }

    /// The configuration as TOML, defaults filled in.
    #[must_use]
    pub fn effective(&self) -> String {
        effective::text(self)
    }

    /// The ports that health checks are sent from.
    #[must_use]
    pub fn check_ports(&self) -> std::ops::RangeInclusive<u16> {
        if self.ports.iter().any(|port| port.kernel.is_some()) {
            health::PORTS_BESIDE_KERNEL
        } else {
            health::OWN_PORTS
        }
    }

    /// The number of a port by the name of the interface that it shows the kernel.
    #[must_use]
    pub fn kernel_number(&self, interface: &str) -> Option<u16> {
        let shows = |port: &Port| {
            let kernel = port.kernel.as_ref();
            kernel.is_some_and(|kernel| kernel.interface == interface)
        };
        (0..)
            .zip(&self.ports)
            .find(|(_, port)| shows(port))
            .map(|(number, _)| number)
    }

    /// The number of a port by its name.
    #[must_use]
    pub fn port_number(&self, name: &str) -> Option<u16> {
        (0..)
            .zip(&self.ports)
            .find(|(_, port)| port.name == name)
            .map(|(number, _)| number)
    }
}
