//! From the text's shape to a checked [`Config`].

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;

use toml::Spanned;
use weir_engine::wire::ethernet::MacAddr;
use weir_shm::document::{self, Diagnostic, Source, Value};
use weir_shm::server::{CreateError, group_id, user_id};

use super::{
    Config, Device, Engine, Idle, Instance, Kernel, Log, LogFormat, LogLevel, Memory, Metrics,
    Network, Port, StaticRoute, kernel, raw,
};
use crate::flow::HashKey;

/// The name of an instance that is not named.
const DEFAULT_NAME: &str = "weir";
/// The most CPU cores and ports that a configuration may name.
const MAX_CORES: u64 = 1024;
const MAX_PORTS: usize = 64;
/// Flows that a worker tracks by default.
const DEFAULT_FLOWS: u64 = 1_000_000;
/// The most flows that a worker can track: as many buckets as 32 bits number.
const MAX_FLOWS: u64 = 10_000_000_000;
const NO_HASH_KEY: &str = "[instance] hash_key is absent: a random key is made at each start, so that \
                           a restart or another machine steers flows differently";
const NAME: &str = "1 to 63 letters, digits, '.', '_' and '-', not starting with '.'";
const LISTEN: &str =
    "an address and a port from 1 to 65535, such as \"127.0.0.1:9100\" or \"[::1]:9100\"";
const NETWORK: &str =
    "an address with a prefix length, such as \"192.0.2.2/24\" or \"2001:db8::2/64\"";

type Checked<T> = Result<T, Diagnostic>;

/// Checks a text that came from `path`.
pub fn check(path: &Path, text: &str) -> Checked<Config> {
    let checker = Checker {
        source: Source::new(&path.display().to_string(), text),
        warnings: RefCell::default(),
    };
    let document: raw::Document = checker.source.parse()?;
    checker.config(path, &document)
}

/// Whether a text may name an instance or a port.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=63).contains(&text.len()) && !text.starts_with('.') && text.chars().all(good)
}

/// A warning as a line about the file, without its name.
fn placed(warning: &Diagnostic) -> String {
    let Diagnostic {
        line,
        column,
        message,
        ..
    } = warning;
    format!("{line}:{column}: {message}")
}

struct Checker {
    source: Source,
    warnings: RefCell<Vec<Diagnostic>>,
}

impl Checker {
    fn fail<T>(&self, span: Range<usize>, message: impl AsRef<str>) -> Checked<T> {
        Err(self.source.diagnostic(span, message.as_ref()))
    }

    fn warn(&self, warning: Diagnostic) {
        self.warnings.borrow_mut().push(warning);
    }

    fn config(&self, path: &Path, document: &raw::Document) -> Checked<Config> {
        let instance_at = document.instance.as_ref();
        let instance = match instance_at {
            Some(raw) => self.instance(raw.get_ref())?,
            None => self.instance(&raw::Instance::default())?,
        };
        if instance.hash_key.is_none() {
            let head = instance_at.map_or(0..0, Spanned::span);
            self.warn(self.source.diagnostic(head, NO_HASH_KEY));
        }
        let engine = self.engine(&document.engine)?;
        let log = self.log(&document.log)?;
        let metrics = self.metrics(&document.metrics)?;
        let ports = self.ports(&document.port)?;
        let loaded = document::services_from_docs(&self.source, &document.service)?;
        self.warnings.borrow_mut().extend(loaded.warnings);
        let mut config = Config {
            path: path.to_owned(),
            instance,
            engine,
            log,
            metrics,
            ports,
            routes: Vec::new(),
            neighbours: Vec::new(),
            pool: loaded.pool,
            warnings: self.warnings.borrow().iter().map(placed).collect(),
        };
        config.routes = self.routes(&config, &document.route)?;
        config.neighbours = self.neighbours(&config, &document.neighbor)?;
        if let Err(unreachable) = config.check_reach(&config.pool) {
            let (service, backend) = (unreachable.service_index, unreachable.backend_index);
            let key = backend.map_or("vip", |_| "address");
            let span = loaded.spans.find(Some(service), backend, key);
            return self.fail(span, unreachable.to_string());
        }
        let narrow = config.narrow_tunnels();
        config.warnings.extend(narrow);
        Ok(config)
    }

    fn name(&self, key: &str, value: &Value) -> Checked<String> {
        let text = self.source.string(key, value, NAME)?;
        if is_name(text) {
            return Ok(text.to_owned());
        }
        Err(self.source.refused(key, value, &format!("{text:?}"), NAME))
    }

    /// A user or group. One that is not known here may be known where the daemon is to run.
    fn owner(
        &self,
        key: &str,
        value: Option<&Value>,
        look_up: impl Fn(&str) -> Result<u32, CreateError>,
    ) -> Checked<Option<String>> {
        const ACCEPTED: &str = "a name, or a number";
        let Some(value) = value else {
            return Ok(None);
        };
        let text = self.source.string(key, value, ACCEPTED)?;
        if text.is_empty() {
            return Err(self.source.refused(key, value, "\"\"", ACCEPTED));
        }
        if let Err(unknown) = look_up(text) {
            let warning = self.source.diagnostic(value.span(), &unknown.to_string());
            self.warn(warning);
        }
        Ok(Some(text.to_owned()))
    }

    fn word<T: Copy>(&self, key: &str, value: Option<&Value>, words: &[(&str, T)]) -> Checked<T> {
        let accepted = words
            .iter()
            .map(|(word, _)| format!("{word:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let default = words[0].1;
        let Some(value) = value else {
            return Ok(default);
        };
        let text = self.source.string(key, value, &accepted)?;
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => Err(self
                .source
                .refused(key, value, &format!("{text:?}"), &accepted)),
        }
    }

    fn integer(
        &self,
        key: &str,
        value: Option<&Value>,
        least: u64,
        most: u64,
    ) -> Checked<Option<u64>> {
        value
            .map(|value| self.source.integer(key, value, least..=most))
            .transpose()
    }

    /// The values of an array.
    fn array(&self, key: &str, value: &Value, of: &str) -> Checked<Vec<Value>> {
        let Some(items) = value.get_ref().as_array() else {
            let found = value.get_ref().type_str();
            return Err(self
                .source
                .refused(key, value, found, &format!("an array of {of}")));
        };
        // The reader keeps no places inside an array: every item has that of the whole.
        Ok(items
            .iter()
            .map(|item| Spanned::new(value.span(), item.clone()))
            .collect())
    }

    fn parsed<T: FromStr>(&self, key: &str, value: &Value, accepted: &str) -> Checked<T> {
        let text = self.source.string(key, value, accepted)?;
        text.parse().map_err(|_| {
            self.source
                .refused(key, value, &format!("{text:?}"), accepted)
        })
    }

    fn instance(&self, raw: &raw::Instance) -> Checked<Instance> {
        let name = match &raw.name {
            None => DEFAULT_NAME.to_owned(),
            Some(name) => self.name("name", name)?,
        };
        let hash_key = match &raw.hash_key {
            None => None,
            Some(value) => {
                let text = self
                    .source
                    .string("hash_key", value, "32 hexadecimal digits")?;
                let key = text.parse::<HashKey>();
                // The message does not repeat what may be most of a secret.
                Some(key.map_err(|error| {
                    self.source
                        .diagnostic(value.span(), &format!("`hash_key`: {error}"))
                })?)
            }
        };
        let owner = self.owner("owner", raw.owner.as_ref(), user_id)?;
        let group = self.owner("group", raw.group.as_ref(), group_id)?;
        Ok(Instance {
            name,
            hash_key,
            owner,
            group,
        })
    }

    fn engine(&self, raw: &raw::Engine) -> Checked<Engine> {
        let core = self.integer("control_core", raw.control_core.as_ref(), 0, MAX_CORES - 1)?;
        let control_core = core.unwrap_or(0) as usize;
        let workers = match &raw.workers {
            None => vec![if control_core == 1 { 0 } else { 1 }],
            Some(cores) => self.workers(cores, control_core)?,
        };
        let memory = [
            ("hugepages", Memory::HugePages),
            ("anonymous", Memory::Anonymous),
        ];
        let idle = [("poll", Idle::Poll), ("adaptive", Idle::Adaptive)];
        let flows = raw.flows_per_worker.as_ref();
        let memory_mb = self.integer("memory_mb", raw.memory_mb.as_ref(), 16, 1 << 20)?;
        let eal_args = match &raw.eal_args {
            None => Vec::new(),
            Some(value) => {
                let texts = self.array("eal_args", value, "strings")?;
                let text = |item: &Value| {
                    self.source
                        .string("eal_args", item, "an array of strings")
                        .map(str::to_owned)
                };
                texts.iter().map(text).collect::<Checked<_>>()?
            }
        };
        let file_prefix = raw
            .file_prefix
            .as_ref()
            .map(|prefix| self.name("file_prefix", prefix))
            .transpose()?;
        Ok(Engine {
            workers,
            control_core,
            memory: self.word("memory", raw.memory.as_ref(), &memory)?,
            memory_mb: memory_mb.map(|mb| mb as u32),
            idle: self.word("idle", raw.idle.as_ref(), &idle)?,
            flows_per_worker: self
                .integer("flows_per_worker", flows, 1, MAX_FLOWS)?
                .unwrap_or(DEFAULT_FLOWS),
            file_prefix,
            eal_args,
        })
    }

    fn log(&self, raw: &raw::Log) -> Checked<Log> {
        Ok(Log {
            level: self.word("level", raw.level.as_ref(), LogLevel::WORDS)?,
            format: self.word("format", raw.format.as_ref(), LogFormat::WORDS)?,
        })
    }

    fn metrics(&self, raw: &raw::Metrics) -> Checked<Option<Metrics>> {
        let Some(value) = &raw.listen else {
            return Ok(None);
        };
        let listen: SocketAddr = self.parsed("listen", value, LISTEN)?;
        if listen.port() == 0 {
            let found = format!("\"{listen}\"");
            return Err(self.source.refused("listen", value, &found, LISTEN));
        }
        let place = self.source.diagnostic(value.span(), "");
        Ok(Some(Metrics {
            listen,
            place: format!("{}:{}:{}", place.file, place.line, place.column),
        }))
    }

    fn workers(&self, value: &Value, control: usize) -> Checked<Vec<usize>> {
        const ACCEPTED: &str = "one or more CPU cores, each once, other than the control_core";
        let refuse = |found: &str| Err(self.source.refused("workers", value, found, ACCEPTED));
        let mut workers: Vec<usize> = Vec::new();
        for core in self.array("workers", value, "CPU cores")? {
            let core = self.source.integer("workers", &core, 0..=MAX_CORES - 1)? as usize;
            if workers.contains(&core) {
                return refuse(&format!("core {core} twice"));
            }
            if core == control {
                return refuse(&format!("core {core}, which is the control_core"));
            }
            workers.push(core);
        }
        if workers.is_empty() {
            refuse("an empty array")
        } else {
            Ok(workers)
        }
    }

    fn ports(&self, raw: &[Spanned<raw::Port>]) -> Checked<Vec<Port>> {
        if raw.is_empty() {
            return self.fail(0..0, "found no [[port]]; one or more are needed");
        }
        let mut ports: Vec<Port> = Vec::new();
        for port in raw {
            if ports.len() == MAX_PORTS {
                let message = format!("found more than {MAX_PORTS} ports; accepted: {MAX_PORTS}");
                return self.fail(port.span(), message);
            }
            let port = self.port(port, &ports)?;
            ports.push(port);
        }
        Ok(ports)
    }

    fn port(&self, spanned: &Spanned<raw::Port>, others: &[Port]) -> Checked<Port> {
        let raw = spanned.get_ref();
        let needs = |value, key| self.source.required(value, key, spanned.span(), "[[port]]");
        let name_at = needs(raw.name.as_ref(), "name")?;
        let name = self.name("name", name_at)?;
        if others.iter().any(|other| other.name == name) {
            return self.fail(
                name_at.span(),
                format!(
                    "duplicate port: found \"{name}\" twice; accepted: a name of its own for each"
                ),
            );
        }
        let device_at = needs(raw.device.as_ref(), "device")?;
        let text = self.source.string("device", device_at, "a string")?;
        let device = match Device::parse(text) {
            Ok(device) => device,
            Err(message) => return self.fail(device_at.span(), message),
        };
        if let Some(other) = others
            .iter()
            .find(|other| other.device.name() == device.name())
        {
            return self.fail(
                device_at.span(),
                format!(
                    "found device \"{}\", which is port \"{}\" already; accepted: a device of its \
                     own for each port",
                    device.name(),
                    other.name
                ),
            );
        }
        let addresses = match &raw.addresses {
            None => Vec::new(),
            Some(value) => self.addresses(value, others)?,
        };
        let mac = raw.mac.as_ref().map(|value| self.mac(value)).transpose()?;
        let mtu = self
            .integer("mtu", raw.mtu.as_ref(), 576, 16_000)?
            .map(|mtu| mtu as u16);
        let vlan = self
            .integer("vlan", raw.vlan.as_ref(), 1, 4_094)?
            .map(|vlan| vlan as u16);
        let kernel = self.kernel(raw, &addresses, others)?;
        Ok(Port {
            name,
            device,
            addresses,
            mac,
            mtu,
            vlan,
            kernel,
        })
    }

    fn kernel(
        &self,
        raw: &raw::Port,
        addresses: &[Network],
        others: &[Port],
    ) -> Checked<Option<Kernel>> {
        let Some(at) = &raw.kernel else {
            return match &raw.kernel_rate {
                None => Ok(None),
                Some(rate) => self.fail(
                    rate.span(),
                    "found `kernel_rate` without `kernel`; accepted: both, or neither",
                ),
            };
        };
        let text = self.source.string("kernel", at, kernel::ACCEPTED)?;
        let refuse =
            |found: &str, accepted: &str| Err(self.source.refused("kernel", at, found, accepted));
        if !kernel::is_interface(text) {
            return refuse(&format!("{text:?}"), kernel::ACCEPTED);
        }
        let taken = |other: &&Port| {
            let kernel = other.kernel.as_ref();
            kernel.is_some_and(|kernel| kernel.interface == text)
        };
        if let Some(other) = others.iter().find(taken) {
            let found = format!("{text:?}, which is port \"{}\"'s already", other.name);
            return refuse(&found, "an interface of its own for each port");
        }
        if addresses.is_empty() {
            let found = format!("{text:?} on a port without `addresses`");
            return refuse(&found, "a port with addresses, which the kernel shares");
        }
        let rate = self.integer("kernel_rate", raw.kernel_rate.as_ref(), 1, kernel::MOST)?;
        Ok(Some(Kernel {
            interface: text.to_owned(),
            rate: rate.map_or(kernel::RATE, |rate| rate as u32),
        }))
    }

    fn addresses(&self, value: &Value, others: &[Port]) -> Checked<Vec<Network>> {
        let mut addresses: Vec<Network> = Vec::new();
        for item in self.array("addresses", value, "strings")? {
            let network = self.host(&item)?;
            let same = |own: &Network| own.address == network.address;
            if addresses.iter().any(same)
                || others.iter().flat_map(|other| &other.addresses).any(same)
            {
                let found = format!("{} twice", network.address);
                let accepted = "each address once, on one port";
                return Err(self.source.refused("addresses", value, &found, accepted));
            }
            addresses.push(network);
        }
        Ok(addresses)
    }

    fn mac(&self, value: &Value) -> Checked<MacAddr> {
        const ACCEPTED: &str = "a station's MAC address, such as \"02:00:00:00:00:01\"";
        let mac: MacAddr = self.parsed("mac", value, ACCEPTED)?;
        if mac.is_multicast() || mac == MacAddr::default() {
            return Err(self
                .source
                .refused("mac", value, &format!("\"{mac}\""), ACCEPTED));
        }
        Ok(mac)
    }

    fn network(&self, key: &str, value: &Value) -> Checked<Network> {
        self.parsed(key, value, NETWORK)
    }

    /// A station's address on its network.
    fn host(&self, value: &Value) -> Checked<Network> {
        let network = self.network("addresses", value)?;
        let Network { address, prefix } = network;
        let problem = match address {
            _ if address.is_unspecified() || address.is_multicast() || address.is_loopback() => {
                Some("no station's address")
            }
            IpAddr::V4(v4) if prefix < 31 => {
                let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                match v4.to_bits() & host {
                    0 => Some("its network's address"),
                    bits if bits == host => Some("its network's broadcast address"),
                    _ => None,
                }
            }
            _ => None,
        };
        match problem {
            None => Ok(network),
            Some(problem) => Err(self.source.refused(
                "addresses",
                value,
                &format!("\"{network}\", {problem}"),
                "the port's own address on its network",
            )),
        }
    }

    fn routes(&self, config: &Config, raw: &[Spanned<raw::Route>]) -> Checked<Vec<StaticRoute>> {
        let mut routes: Vec<StaticRoute> = Vec::new();
        for spanned in raw {
            let route = spanned.get_ref();
            let needs = |value, key| {
                self.source
                    .required(value, key, spanned.span(), "[[route]]")
            };
            let to_at = needs(route.to.as_ref(), "to")?;
            let to = self.network("to", to_at)?;
            if to.address != to.masked() {
                let accepted = format!("\"{}/{}\", without host bits", to.masked(), to.prefix);
                return Err(self
                    .source
                    .refused("to", to_at, &format!("\"{to}\""), &accepted));
            }
            let via_at = needs(route.via.as_ref(), "via")?;
            let via = self.source.address("via", via_at)?;
            if via.is_ipv4() != to.address.is_ipv4() {
                let accepted = format!("a gateway of the family of {to}");
                return Err(self
                    .source
                    .refused("via", via_at, &via.to_string(), &accepted));
            }
            if let Some(own) = config.named_own(via) {
                let accepted = "the address of another, which takes packets on";
                return Err(self.source.refused("via", via_at, &own, accepted));
            }
            if config.connected_port(via).is_none() {
                let accepted = format!("a gateway on a port's network ({})", config.networks());
                return Err(self
                    .source
                    .refused("via", via_at, &via.to_string(), &accepted));
            }
            if routes.iter().any(|known| known.to == to) {
                let found = format!("a duplicate route to {to}");
                let accepted = "one gateway for each network";
                return Err(self.source.refused("to", to_at, &found, accepted));
            }
            routes.push(StaticRoute { to, via });
        }
        Ok(routes)
    }

    fn neighbours(
        &self,
        config: &Config,
        raw: &[Spanned<raw::Neighbor>],
    ) -> Checked<Vec<(IpAddr, MacAddr)>> {
        let mut seen = HashSet::new();
        let mut neighbours = Vec::new();
        for spanned in raw {
            let neighbour = spanned.get_ref();
            let needs = |value, key| {
                self.source
                    .required(value, key, spanned.span(), "[[neighbor]]")
            };
            let address_at = needs(neighbour.address.as_ref(), "address")?;
            let address = self.source.address("address", address_at)?;
            let mac = self.mac(needs(neighbour.mac.as_ref(), "mac")?)?;
            let refuse = |found: &str, accepted: &str| {
                Err(self.source.refused("address", address_at, found, accepted))
            };
            if !config.ports.iter().any(|port| port.connects(address)) {
                let accepted = format!("an address on a port's network ({})", config.networks());
                return refuse(&address.to_string(), &accepted);
            }
            if let Some(own) = config.named_own(address) {
                return refuse(&own, "the address of another");
            }
            if !seen.insert(address) {
                return refuse(
                    &format!("a duplicate neighbour {address}"),
                    "each address once",
                );
            }
            neighbours.push((address, mac));
        }
        Ok(neighbours)
    }
}
