//! Ports: a device opened from its PCI address or device string, with as many queues as there are
//! workers.
//!
//! **What is insisted on.** Whatever the configuration names explicitly must be had, or opening
//! fails with the reason; whatever it leaves out stays as the device has it. Two things are softer,
//! because virtual devices often lack the call though nothing stands in the way: a MAC address that
//! the device cannot be given is used all the same if the device takes in every frame; an MTU that
//! it cannot be given is kept by us if it is no larger than the device's own.
//!
//! **Offloads.** None is turned on: no VLAN stripping, no checksums, no scatter, no segmentation.
//! Not even fast free, which is only right when all frames of a queue come from one pool.
//!
//! **RSS.** With several queues, and where the device has it, the key is set (symmetric unless
//! another is asked for) and so is the redirection table: entry `i` leads to queue `i` modulo the
//! number of queues, as [`crate::rss::queue_in_table`] has it.

// Calls of DPDK's control path.
#![allow(unsafe_code)]

mod device;
mod error;
mod set_up;

use std::sync::Arc;

use weir_dpdk_sys as sys;

pub use self::error::PortError;

use self::device::{Device, Info};
use self::set_up::{
    check, failed, promiscuous, rss_key, set_mac, set_mtu, set_table, set_up_queues, take_groups,
};
use crate::eal::Eal;
use crate::mempool::Mempool;
use crate::queue::Queue;

/// Settings of a port.
#[derive(Debug, Clone)]
pub struct PortConfig {
    /// The operator's name for it; used in errors only.
    pub name: String,
    /// A PCI address, or any DPDK device string: `net_af_xdp0,iface=eth1`.
    pub device: String,
    /// Receive queues, and as many send queues: one of each a worker.
    pub queues: u16,
    /// Descriptors of a receive queue; adjusted to what the device can have.
    pub rx_descriptors: u16,
    /// Descriptors of a send queue; adjusted to what the device can have.
    pub tx_descriptors: u16,
    /// MTU in bytes; `None`: the device's own.
    pub mtu: Option<u16>,
    /// MAC address; `None`: the device's own.
    pub mac: Option<[u8; 6]>,
    /// RSS settings; `None`: the symmetric key, where the device has RSS.
    pub rss: Option<Rss>,
    /// Promiscuous mode on or off; `None`: as the device has it.
    pub promiscuous: Option<bool>,
}

/// RSS settings that a device must be able to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rss {
    /// The Toeplitz key, as long as the device's (40 or 52 bytes mostly).
    pub key: Vec<u8>,
}

impl Default for PortConfig {
    fn default() -> Self {
        Self {
            name: String::new(),
            device: String::new(),
            queues: 1,
            rx_descriptors: 1_024,
            tx_descriptors: 1_024,
            mtu: None,
            mac: None,
            rss: None,
            promiscuous: None,
        }
    }
}

impl PortConfig {
    /// Settings of a port with one queue, named after its device, all else as the device has it.
    #[must_use]
    pub fn new(device: &str) -> Self {
        Self {
            name: device.to_owned(),
            device: device.to_owned(),
            ..Self::default()
        }
    }
}

/// A port's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Whether it is up.
    pub up: bool,
    /// Megabits a second; `None`: the driver does not know.
    pub speed_mbps: Option<u32>,
    /// Whether it is full duplex.
    pub full_duplex: bool,
}

/// What the device has counted since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Packets received (`ipackets`).
    pub rx_packets: u64,
    /// Bytes received (`ibytes`).
    pub rx_bytes: u64,
    /// Packets the device dropped because its rings were full: workers too slow (`imissed`).
    pub rx_missed: u64,
    /// Packets received in error (`ierrors`).
    pub rx_errors: u64,
    /// Packets lost because the pool was empty (`rx_nombuf`).
    pub rx_no_buffer: u64,
    /// Packets sent (`opackets`).
    pub tx_packets: u64,
    /// Bytes sent (`obytes`).
    pub tx_bytes: u64,
    /// Packets that could not be sent (`oerrors`).
    pub tx_errors: u64,
}

/// An open port that runs. It closes when it and its queue handles are all gone.
#[derive(Debug)]
pub struct Port {
    open: Arc<Open>,
    config: PortConfig,
    info: Info,
    mac: [u8; 6],
    mtu: u16,
    rss_key: Option<Vec<u8>>,
    table_size: Option<u16>,
    queues_taken: bool,
}

/// What the port and its queue handles hold together. Fields drop in order: the device is closed,
/// which empties its rings, before the pool may go.
#[derive(Debug)]
pub(crate) struct Open {
    device: Device,
    _pool: Mempool,
}

impl Open {
    pub(crate) fn id(&self) -> u16 {
        self.device.id
    }
}

impl Port {
    /// Finds the device or plugs it in, configures it, fills its receive rings from `pool`, and
    /// starts it. Does not wait for the link.
    ///
    /// # Errors
    /// [`PortError`]; the device is closed again.
    pub fn open(eal: &Eal, config: &PortConfig, pool: &Mempool) -> Result<Self, PortError> {
        let name = config.name.as_str();
        if config.queues == 0 {
            return Err(PortError::NoQueues {
                port: name.to_owned(),
            });
        }
        let device = Device::claim(eal, name, &config.device)?;
        let id = device.id;
        // From here on, a failure drops the device and so closes it.
        let open = Arc::new(Open {
            device,
            _pool: pool.clone(),
        });
        let info = open
            .device
            .info()
            .map_err(|e| failed(config, "asking what it can do", e))?;
        if config.queues > info.queues {
            return Err(PortError::TooFewQueues {
                port: name.to_owned(),
                device: config.device.clone(),
                asked: config.queues,
                available: info.queues,
            });
        }
        let rss_key = rss_key(config, &info)?;
        set_up_queues(id, config, rss_key.as_deref(), pool)?;
        let mtu = set_mtu(id, config, &info, pool)?;
        let mac = set_mac(id, config, &info)?;
        // SAFETY: a number in, a number out; the port is configured.
        check(config, "starting it", unsafe { sys::rte_eth_dev_start(id) })?;
        if let Some(on) = config.promiscuous {
            check(config, "setting promiscuous mode", promiscuous(id, on))?;
        }
        take_groups(id, config)?;
        let table_size = match rss_key {
            Some(_) => set_table(id, config, &info)?,
            None => None,
        };
        let config = config.clone();
        Ok(Self {
            open,
            config,
            info,
            mac,
            mtu,
            rss_key,
            table_size,
            queues_taken: false,
        })
    }

    /// The NUMA node of a device, so that its pool can be made there before it is opened; `None` if
    /// it has none, like all virtual devices. A NIC must be one that EAL was given.
    ///
    /// # Errors
    /// [`PortError::NotFound`] and [`PortError::DeviceName`].
    pub fn numa_node_of(eal: &Eal, device: &str) -> Result<Option<u32>, PortError> {
        if !crate::eal::is_pci_address(device) {
            // Plugging one in just to ask would have effects, such as creating its files.
            return Ok(None);
        }
        device::numa_node_of(eal, device)
    }

    /// The queue handles, one for each worker; the first call gets them, later ones get `None`.
    pub fn take_queues(&mut self) -> Option<Vec<Queue>> {
        if std::mem::replace(&mut self.queues_taken, true) {
            return None;
        }
        // SAFETY: once a port, because of `queues_taken`.
        Some(
            (0..self.config.queues)
                .map(|q| unsafe { Queue::new(&self.open, q) })
                .collect(),
        )
    }

    /// Stops and closes the port; buffers in its rings go back to their pools.
    ///
    /// # Errors
    /// [`PortError::InUse`] while queue handles are left: it then closes when the last is dropped.
    pub fn stop(self) -> Result<(), PortError> {
        match Arc::strong_count(&self.open) - 1 {
            0 => Ok(()),
            handles => Err(PortError::InUse {
                port: self.config.name.clone(),
                handles,
            }),
        }
    }

    /// The operator's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// DPDK's number for it, as [`crate::mbuf::Mbuf::input_port`] has it.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.open.id()
    }

    /// The name of the device's driver.
    #[must_use]
    pub fn driver(&self) -> &str {
        &self.info.driver
    }

    /// The address that the port sends from and answers to.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// MTU in bytes: what fits behind the Ethernet header.
    #[must_use]
    pub fn mtu(&self) -> u16 {
        self.mtu
    }

    /// How many queues it was opened with.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.config.queues
    }

    /// How many queues the device can have.
    #[must_use]
    pub fn max_queues(&self) -> u16 {
        self.info.queues
    }

    /// The NUMA node it hangs on, if it says.
    #[must_use]
    pub fn numa_node(&self) -> Option<u32> {
        self.open.device.numa_node()
    }

    /// The RSS key in force; `None` with one queue, or where the device has no RSS.
    #[must_use]
    pub fn rss_key(&self) -> Option<&[u8]> {
        self.rss_key.as_deref()
    }

    /// Entries of the RSS redirection table that was set; `None` where the device has none.
    #[must_use]
    pub fn rss_table_size(&self) -> Option<u16> {
        self.table_size
    }

    /// The link as the driver last saw it; does not wait.
    ///
    /// # Errors
    /// [`PortError::Device`].
    pub fn link(&self) -> Result<Link, PortError> {
        let mut raw = sys::weir_link::default();
        // SAFETY: `raw` is a struct to write to.
        let ret = unsafe { sys::weir_port_link(self.id(), &raw mut raw) };
        check(&self.config, "reading its link", ret)?;
        let known = raw.speed_mbps != 0 && raw.speed_mbps != u32::MAX;
        Ok(Link {
            up: raw.up != 0,
            speed_mbps: known.then_some(raw.speed_mbps),
            full_duplex: raw.full_duplex != 0,
        })
    }

    /// The device's own counters. Not for hot paths: some drivers ask the hardware.
    ///
    /// # Errors
    /// [`PortError::Device`].
    pub fn statistics(&self) -> Result<Statistics, PortError> {
        let mut raw = sys::weir_port_statistics::default();
        // SAFETY: `raw` is a struct to write to.
        let ret = unsafe { sys::weir_port_statistics(self.id(), &raw mut raw) };
        check(&self.config, "reading its statistics", ret)?;
        Ok(Statistics {
            rx_packets: raw.ipackets,
            rx_bytes: raw.ibytes,
            rx_missed: raw.imissed,
            rx_errors: raw.ierrors,
            rx_no_buffer: raw.rx_nombuf,
            tx_packets: raw.opackets,
            tx_bytes: raw.obytes,
            tx_errors: raw.oerrors,
        })
    }
}
