//! A DPDK session: EAL, one pool, the devices with their queues, opened together and closed together.

use std::time::{Duration, Instant};

use weir_engine::eal::{Eal, EalConfig, Memory, is_pci_address};
use weir_engine::idle;
use weir_engine::mempool::{Mempool, MempoolConfig};
use weir_engine::port::{Port, PortConfig, PortError};
use weir_engine::queue::Queue;

use super::LiveError;
use super::progress::Signals;
use crate::report::{DeviceReport, PoolReport};

/// Descriptors of each queue, receiving and sending.
const DESCRIPTORS: u16 = 1_024;
/// Buffers that a worker's cache may keep.
const CACHE: u32 = 256;
/// Bytes that a buffer takes with everything around it, roughly.
const BUFFER_BYTES: u64 = 2_560;
/// How often a link is looked at while it is down.
const LINK_POLL: Duration = Duration::from_millis(20);
/// How long a memif's client waits for its server before it asks again.
const ASK_AGAIN: Duration = Duration::from_millis(300);

/// What a session is made of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// PCI addresses or DPDK device strings.
    pub devices: Vec<String>,
    /// Queues of each device.
    pub queues: u16,
    /// Cores of the workers, one worker each.
    pub cores: Vec<usize>,
    /// Core of DPDK's own threads.
    pub main_core: usize,
    /// Where memory comes from.
    pub memory: Memory,
    /// Megabytes of it; by default what the buffers need.
    pub memory_mb: Option<u32>,
    /// Packet buffers at least; by default what the queues need.
    pub buffers: Option<u32>,
    /// DPDK's file prefix; by default one that holds the process id.
    pub file_prefix: Option<String>,
    /// Further EAL arguments.
    pub eal_args: Vec<String>,
    /// What workers do when there is nothing to do.
    pub idle: idle::Mode,
    /// Whether frames for other MACs than the device's are wanted.
    pub promiscuous: bool,
    /// How long to wait for links to come up.
    pub link_timeout: Duration,
}

impl Settings {
    /// Packet buffers that all rings, caches and bursts can hold at the same time.
    fn buffers(&self) -> u32 {
        let queues = self.devices.len() as u32 * u32::from(self.queues);
        let workers = self.cores.len() as u32;
        let needed = queues * (2 * u32::from(DESCRIPTORS) + 128) + workers * 2 * CACHE + 1_024;
        self.buffers.unwrap_or(0).max(needed).max(8_191)
    }

    fn eal(&self) -> EalConfig {
        let prefix = format!("weir-pktgen-{}", std::process::id());
        let buffers = u64::from(self.buffers()).next_power_of_two();
        let needed = (buffers * BUFFER_BYTES).div_ceil(1 << 20) as u32 + 64;
        let memory_mb = match self.memory {
            Memory::Anonymous => Some(self.memory_mb.unwrap_or(needed)),
            Memory::HugePages => self.memory_mb,
        };
        EalConfig {
            file_prefix: self.file_prefix.clone().unwrap_or(prefix),
            memory: self.memory,
            memory_mb,
            main_core: self.main_core,
            devices: self
                .devices
                .iter()
                .filter(|device| is_pci_address(device))
                .cloned()
                .collect(),
            extra_args: self.eal_args.clone(),
            ..EalConfig::default()
        }
    }
}

/// An open session.
#[derive(Debug)]
pub struct Session {
    ports: Vec<Port>,
    pool: Mempool,
    eal: Eal,
    held_by_driver: u32,
}

/// The driver that keeps what it put into its fill rings: DPDK 22.11 deletes the
/// rings with the buffers in them when the device is closed.
const KEEPING_DRIVER: &str = "net_af_xdp";

impl Session {
    /// Starts DPDK, makes the pool and opens the devices. Gives the queues of each device.
    ///
    /// # Errors
    /// Whatever of it fails; what was opened before is closed.
    pub fn open(settings: &Settings) -> Result<(Self, Vec<Vec<Queue>>), LiveError> {
        let eal = Eal::start(&settings.eal())?;
        let config = MempoolConfig {
            buffers: settings.buffers(),
            cache: CACHE,
            ..MempoolConfig::default()
        };
        let pool = Mempool::new(&eal, &config)?;
        let (mut queues, mut ports): (Vec<Vec<Queue>>, Vec<Port>) = (Vec::new(), Vec::new());
        let mut held_by_driver = 0;
        for device in &settings.devices {
            let before = pool.in_use();
            let mut port = open_connected(&eal, &pool, settings, device)?;
            if port.driver() == KEEPING_DRIVER {
                held_by_driver += pool.in_use().saturating_sub(before);
            }
            queues.push(
                port.take_queues()
                    .ok_or_else(|| LiveError::QueuesTaken(device.clone()))?,
            );
            ports.push(port);
        }
        let session = Self {
            ports,
            pool,
            eal,
            held_by_driver,
        };
        Ok((session, queues))
    }

    /// DPDK.
    #[must_use]
    pub const fn eal(&self) -> &Eal {
        &self.eal
    }

    /// The packet buffers.
    #[must_use]
    pub const fn pool(&self) -> &Mempool {
        &self.pool
    }

    /// The devices.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Waits until every device has a link.
    ///
    /// # Errors
    /// [`LiveError::NoLink`] when `limit` has passed, [`LiveError::Interrupted`] on a signal.
    pub fn wait_for_links(&self, limit: Duration, signals: &Signals) -> Result<(), LiveError> {
        let start = Instant::now();
        for port in &self.ports {
            while !port.link()?.up {
                if signals.raised() {
                    return Err(LiveError::Interrupted);
                }
                if start.elapsed() >= limit {
                    return Err(LiveError::NoLink {
                        device: port.name().to_owned(),
                        waited: limit,
                    });
                }
                std::thread::sleep(LINK_POLL);
            }
        }
        Ok(())
    }

    /// Closes the devices, counts the buffers, and stops DPDK. Every queue must have been dropped.
    ///
    /// # Errors
    /// When a device or DPDK does not close.
    pub fn close(self) -> Result<(Vec<DeviceReport>, PoolReport), LiveError> {
        let mut devices = Vec::new();
        for port in self.ports {
            devices.push(device_report(&port)?);
            port.stop()?;
        }
        let report = PoolReport {
            size: self.pool.capacity(),
            free: self.pool.available(),
            held_by_driver: self.held_by_driver,
        };
        drop(self.pool);
        self.eal.stop()?;
        Ok((devices, report))
    }
}

fn device_report(port: &Port) -> Result<DeviceReport, PortError> {
    let counted = port.statistics()?;
    Ok(DeviceReport {
        device: port.name().to_owned(),
        driver: port.driver().to_owned(),
        rx_packets: counted.rx_packets,
        rx_missed: counted.rx_missed,
        rx_errors: counted.rx_errors,
        rx_no_buffer: counted.rx_no_buffer,
        tx_packets: counted.tx_packets,
        tx_errors: counted.tx_errors,
    })
}

/// Opens a device; a memif's client anew until it has its server, or the time for links is over. Such
/// a client asks its server once, when it is started, and does not ask again when nobody listens yet or
/// the server is not ready and turns it away.
fn open_connected(
    eal: &Eal,
    pool: &Mempool,
    settings: &Settings,
    device: &str,
) -> Result<Port, PortError> {
    let start = Instant::now();
    let may_retry = || is_memif_client(device) && start.elapsed() < settings.link_timeout;
    loop {
        let asked = Instant::now();
        match open_port(eal, pool, settings, device) {
            Ok(port) => {
                while !port.link()?.up {
                    if !may_retry() {
                        return Ok(port);
                    }
                    if asked.elapsed() >= ASK_AGAIN {
                        break;
                    }
                    std::thread::sleep(LINK_POLL);
                }
                if port.link()?.up {
                    return Ok(port);
                }
                port.stop()?;
            }
            Err(error) if !may_retry() => return Err(error),
            Err(_) => std::thread::sleep(ASK_AGAIN),
        }
    }
}

/// Whether a device string is of a memif that connects to another one's socket: a server says so.
fn is_memif_client(device: &str) -> bool {
    device.starts_with("net_memif") && !device.split(',').any(|key| key == "role=server")
}

fn open_port(
    eal: &Eal,
    pool: &Mempool,
    settings: &Settings,
    device: &str,
) -> Result<Port, PortError> {
    let config = PortConfig {
        name: device.to_owned(),
        device: device.to_owned(),
        queues: settings.queues,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        promiscuous: settings.promiscuous.then_some(true),
        ..PortConfig::default()
    };
    match Port::open(eal, &config, pool) {
        // A virtual device that has no such mode filters nothing either.
        Err(PortError::Device { .. }) if settings.promiscuous && !is_pci_address(device) => {
            Port::open(
                eal,
                &PortConfig {
                    promiscuous: None,
                    ..config
                },
                pool,
            )
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memif_is_a_client_unless_it_says_otherwise() {
        assert!(is_memif_client("net_memif0,role=client,socket=/tmp/x"));
        assert!(is_memif_client("net_memif1,id=3"));
        assert!(!is_memif_client("net_memif0,role=server,id=0"));
        assert!(!is_memif_client("net_af_xdp0,iface=eth0"));
        assert!(!is_memif_client("0000:3b:00.0"));
    }
}
