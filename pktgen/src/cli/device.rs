//! The options that say which devices to use, and how DPDK is started.

use std::time::Duration;

use clap::{Args, ValueEnum};
use weir_engine::eal::Memory;
use weir_engine::idle;

use crate::live::session::Settings;
use crate::units;

/// Where packet buffers live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MemoryArg {
    /// Huge pages, which real NICs want.
    Hugepages,
    /// Ordinary memory, which virtual devices do with.
    Anonymous,
}

/// What a worker does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IdleArg {
    /// Keep the core busy: the most exact.
    Poll,
    /// Back off, up to a third of a millisecond.
    Adaptive,
}

/// Devices and DPDK.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Devices")]
pub struct DeviceArgs {
    /// PCI address or DPDK device string, as in 0000:3b:00.0 or net_af_xdp0,iface=eth1; repeatable.
    #[arg(long = "device", value_name = "DEV", required = true)]
    pub devices: Vec<String>,
    /// Queues of each device.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub queues: u16,
    /// Core of a worker; repeatable [default: the last one].
    #[arg(long = "core", value_name = "CORE")]
    pub cores: Vec<usize>,
    /// Core of DPDK's own threads.
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    pub main_core: usize,
    /// Where memory comes from.
    #[arg(long, value_enum, default_value = "anonymous")]
    pub memory: MemoryArg,
    /// Megabytes of it [default: what the buffers need].
    #[arg(long, value_name = "MB")]
    pub memory_mb: Option<u32>,
    /// Packet buffers at least [default: what the queues need].
    #[arg(long, value_name = "N")]
    pub buffers: Option<u32>,
    /// DPDK's file prefix; processes that run at the same time need different ones [default: one
    /// with the process id].
    #[arg(long, value_name = "NAME")]
    pub file_prefix: Option<String>,
    /// A further argument for DPDK's EAL; repeatable.
    #[arg(long = "eal-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub eal_args: Vec<String>,
    /// What workers do when there is nothing to do. Latencies are exact with poll only.
    #[arg(long, value_enum, default_value = "adaptive")]
    pub idle: IdleArg,
    /// How long to wait for the devices' links.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    pub link_timeout: Duration,
}

impl DeviceArgs {
    /// The options as settings of a session; `promiscuous` if frames for several MACs are wanted.
    #[must_use]
    pub fn settings(&self, promiscuous: bool) -> Settings {
        let cores = if self.cores.is_empty() {
            vec![last_core()]
        } else {
            self.cores.clone()
        };
        Settings {
            devices: self.devices.clone(),
            queues: self.queues,
            cores,
            main_core: self.main_core,
            memory: match self.memory {
                MemoryArg::Hugepages => Memory::HugePages,
                MemoryArg::Anonymous => Memory::Anonymous,
            },
            memory_mb: self.memory_mb,
            buffers: self.buffers,
            file_prefix: self.file_prefix.clone(),
            eal_args: self.eal_args.clone(),
            idle: match self.idle {
                IdleArg::Poll => idle::Mode::Poll,
                IdleArg::Adaptive => idle::Mode::Adaptive,
            },
            promiscuous,
            link_timeout: self.link_timeout,
        }
    }
}

/// The last of the cores, away from core 0, which the system keeps busy.
fn last_core() -> usize {
    std::thread::available_parallelism().map_or(0, |cores| cores.get() - 1)
}
