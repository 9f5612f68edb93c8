//! Configuration text for the daemon, put together from its parts.

use std::fmt::Write as _;

use crate::cores;
use crate::lab::{LAN_ADDRESSES, WAN_ADDRESSES};

/// A configuration file in the making.
#[derive(Clone)]
pub struct Config {
    /// The instance's name.
    pub instance: String,
    /// The workers' cores.
    pub workers: Vec<usize>,
    /// `"poll"` or `"adaptive"`.
    pub idle: &'static str,
    /// `"anonymous"` or `"hugepages"`.
    pub memory: &'static str,
    /// Further lines of `[engine]`.
    pub engine: String,
    /// The `[[port]]` tables, routes and neighbours, as text.
    pub ports: String,
    services: String,
}

impl Config {
    /// No ports and no services yet.
    pub fn new(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            workers: vec![cores::worker()],
            idle: "poll",
            memory: "anonymous",
            engine: String::new(),
            ports: String::new(),
            services: String::new(),
        }
    }

    /// One port on `eth0` with the addresses of both sides of a one-armed lab.
    pub fn one_armed(instance: &str) -> Self {
        Self::new(instance).port(
            "lan",
            "net_af_xdp0,iface=eth0",
            &format!("{WAN_ADDRESSES}, {LAN_ADDRESSES}"),
        )
    }

    /// `wan` on `eth0` and `lan` on `eth1`, as in a two-armed lab.
    pub fn two_armed(instance: &str) -> Self {
        Self::new(instance)
            .port("wan", "net_af_xdp0,iface=eth0", WAN_ADDRESSES)
            .port("lan", "net_af_xdp1,iface=eth1", LAN_ADDRESSES)
    }

    /// Adds a port; `addresses` is the inside of the TOML list.
    #[must_use]
    pub fn port(mut self, name: &str, device: &str, addresses: &str) -> Self {
        let _ = write!(
            self.ports,
            "\n[[port]]\nname = \"{name}\"\ndevice = \"{device}\"\naddresses = [{addresses}]\n"
        );
        self
    }

    /// Adds a line to what was added last: a key of a port or of a service.
    #[must_use]
    pub fn port_key(mut self, line: &str) -> Self {
        let _ = writeln!(self.ports, "{line}");
        self
    }

    /// Adds a service; each backend is `ADDRESS` or `ADDRESS PORT`.
    #[must_use]
    pub fn service(
        mut self,
        name: &str,
        forwarding: &str,
        protocol: &str,
        vip: &str,
        port: &str,
        backends: &[String],
    ) -> Self {
        let _ = write!(
            self.services,
            "\n[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
             forwarding = \"{forwarding}\"\nscheduler = \"maglev\"\n"
        );
        for backend in backends {
            let (address, port) = backend
                .split_once(' ')
                .map_or((backend.as_str(), None), |(a, p)| (a, Some(p)));
            let _ = writeln!(
                self.services,
                "[[service.backend]]\naddress = \"{address}\""
            );
            if let Some(port) = port {
                let _ = writeln!(self.services, "port = {port}");
            }
        }
        self
    }

    /// Adds text to the service that was added last: keys of its own before any table of it.
    #[must_use]
    pub fn service_text(mut self, text: &str) -> Self {
        if text.starts_with('[') {
            self.services.push_str(text);
            return self;
        }
        // Keys stand before the service's first table.
        let service = self.services.rfind("\n[[service]]").unwrap_or(0);
        let head = service + "\n[[service]]".len();
        let tables = self.services.get(head..).and_then(|rest| rest.find("\n["));
        let at = tables.map_or(self.services.len(), |tables| head + tables + 1);
        self.services.insert_str(at, text);
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        format!(
            "[instance]\nname = \"{}\"\nhash_key = \"000102030405060708090a0b0c0d0e0f\"\n\n[engine]\nworkers = {:?}\n\
             control_core = 0\nmemory = \"{}\"\nidle = \"{}\"\n{}{}{}",
            self.instance,
            self.workers,
            self.memory,
            self.idle,
            if self.engine.is_empty() {
                "flows_per_worker = 100_000\n"
            } else {
                &self.engine
            },
            self.ports,
            self.services
        )
    }
}
