//! What is looked at: the cores, ports and memory of a configuration file, and the daemon that runs
//! with it, if one does.
//!
//! `weir check` judges a configuration; this only picks out what concerns the machine, with the
//! defaults of the daemon.

use std::path::Path;

use toml_edit::{DocumentMut, Item, TableLike};
use weir_shm::client::Client;
use weir_shm::counters::RECEIVED;
use weir_shm::segment::port::PortStatus;

/// How a port is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Device {
    /// A NIC by its PCI address.
    Pci(String),
    /// An interface of the kernel's, through this driver.
    Interface { driver: String, name: String },
    /// Something without hardware behind it.
    Virtual(String),
}

/// A port of the configuration.
#[derive(Debug, Clone)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) device: Device,
}

/// The daemon that runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Running {
    pub(super) pid: u32,
    pub(super) ports: Vec<PortStatus>,
    /// Frames that each worker received.
    pub(super) received: Vec<u64>,
}

/// What is looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    pub(super) workers: Vec<usize>,
    pub(super) control_core: Option<usize>,
    pub(super) anonymous: bool,
    pub(super) adaptive: bool,
    pub(super) memory_mb: Option<u64>,
    pub(super) flows_per_worker: u64,
    pub(super) ports: Vec<Port>,
    pub(super) running: Option<Running>,
}

impl Subject {
    /// From a configuration file's text.
    ///
    /// # Errors
    /// When it is no TOML.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let document: DocumentMut = text.parse().map_err(|error| {
            let error: toml_edit::TomlError = error;
            error.to_string().replace('\n', " ").trim().to_owned()
        })?;
        let engine = document.get("engine").and_then(Item::as_table_like);
        let get = |key: &str| engine.and_then(|engine| engine.get(key));
        let number = |key: &str| {
            let number = get(key).and_then(Item::as_integer);
            number.and_then(|number| u64::try_from(number).ok())
        };
        let control = number("control_core").unwrap_or(0) as usize;
        let workers = match get("workers").and_then(Item::as_array) {
            Some(cores) => cores
                .iter()
                .filter_map(|core| usize::try_from(core.as_integer()?).ok())
                .collect(),
            None => vec![usize::from(control != 1)],
        };
        let word = |key: &str| get(key).and_then(Item::as_str);
        let tables = document.get("port").and_then(Item::as_array_of_tables);
        let ports = tables.into_iter().flatten().filter_map(|table| port(table));
        Ok(Self {
            workers,
            control_core: Some(control),
            anonymous: word("memory") == Some("anonymous"),
            adaptive: word("idle") == Some("adaptive"),
            memory_mb: number("memory_mb"),
            flows_per_worker: number("flows_per_worker").unwrap_or(1_000_000),
            ports: ports.collect(),
            running: None,
        })
    }

    /// From a file.
    ///
    /// # Errors
    /// When it cannot be read or is no TOML.
    pub(super) fn load(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
        Self::parse(&text)
    }

    /// Adds what a live daemon tells.
    pub(super) fn meet(&mut self, client: &Client) {
        let counters = client.running().and_then(|pool| client.counters(&pool));
        self.running = Some(Running {
            pid: client.pid(),
            ports: client.ports().unwrap_or_default(),
            received: counters.map_or_else(
                |_| Vec::new(),
                |counters| {
                    let workers = 0..client.workers();
                    workers
                        .map(|worker| counters.of(worker, RECEIVED))
                        .collect()
                },
            ),
        });
    }

    /// PCI ports with their addresses.
    pub(super) fn nics(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ports.iter().filter_map(|port| match &port.device {
            Device::Pci(address) => Some((port.name.as_str(), address.as_str())),
            _ => None,
        })
    }

    /// Ports over interfaces of the kernel's: port, driver, interface.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.ports.iter().filter_map(|port| match &port.device {
            Device::Interface { driver, name } => {
                Some((port.name.as_str(), driver.as_str(), name.as_str()))
            }
            _ => None,
        })
    }
}

fn port(table: &dyn TableLike) -> Option<Port> {
    let text = |key: &str| table.get(key).and_then(Item::as_str);
    let device = text("device")?;
    Some(Port {
        name: text("name").unwrap_or(device).to_owned(),
        device: self::device(device),
    })
}

fn device(text: &str) -> Device {
    if !text.starts_with("net_") {
        // PCI addresses may leave the domain out, and may have arguments.
        let address = text.split(',').next().unwrap_or(text).to_lowercase();
        let full = address.matches(':').count() == 2;
        return Device::Pci(if full {
            address
        } else {
            format!("0000:{address}")
        });
    }
    let interface = text.split(',').find_map(|part| part.strip_prefix("iface="));
    match interface {
        Some(name) if text.starts_with("net_af_") => Device::Interface {
            driver: text
                .split(',')
                .next()
                .unwrap_or(text)
                .trim_end_matches(|c: char| c.is_ascii_digit())
                .to_owned(),
            name: name.to_owned(),
        },
        _ => Device::Virtual(text.to_owned()),
    }
}
