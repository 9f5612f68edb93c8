//! Services and backends: the pool that an operator describes and the daemon puts in force.
//!
//! The same types stand behind the configuration file, the records in shared memory and the
//! commands of `weirctl`, so a feature is added to the model once. What makes a pool valid is in
//! [`Pool::validate`].

mod full_nat;
pub mod health;
mod overlap;
mod quic;
mod steering;
mod tunnel;
mod validate;
mod vip;
pub(crate) mod vocabulary;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use full_nat::MAX_SNAT;
pub use health::{Flap, Health, HealthKind, Tls};
pub(crate) use quic::parse_rotation;
pub use quic::{
    ConnectionId, MAX_PLAINTEXT, MAX_SERVER_ID, MIN_NONCE, QuicConfig, QuicKey, ROTATIONS,
    SERVER_ID_ACCEPTED, ServerId, ServerIdOption, ServerIds,
};
pub use steering::{
    Affinity, AllDown, DEFAULT_RING_VNODES, HashInput, MAX_RING, MAX_RING_VNODES, Steering,
};
pub use tunnel::{
    GUE_PORT, GUE_VARIANT, MAX_DSCP, MAX_MSS, MAX_VNI, MIN_MSS, OuterChecksum, SOURCE_ACCEPTED,
    Tunnel, TunnelSource, TunnelSources,
};
pub use validate::{Problem, Warning, is_prime};
pub use vip::{Listening, PORT_ACCEPTED, PortMatch, VIP_ACCEPTED, Vip};
pub use vocabulary::{
    ClientAddress, Forced, Forwarding, OnDown, Ping, Protocol, Scheduler, Unknown, UnknownTcp,
};

/// Services that a pool can hold.
pub const MAX_SERVICES: usize = 4096;
/// Backends that a pool can hold, over all services.
pub const MAX_BACKENDS: usize = 131_072;
/// Backends that a service can hold: what 16-bit table entries can name, one value standing for none.
pub const MAX_BACKENDS_PER_SERVICE: usize = 65_535;
/// The largest weight of a backend.
pub const MAX_WEIGHT: u32 = 65_535;
/// Entries of a service's table unless it says otherwise; a prime.
pub const DEFAULT_TABLE_SIZE: u32 = 65_537;
/// The largest table.
pub const MAX_TABLE_SIZE: u32 = 5_000_000;
/// The longest name of a service, in bytes.
pub const MAX_NAME: usize = 63;
/// The drain time-out that stands for "as long as it takes".
pub const NO_DEADLINE: Duration = Duration::MAX;
/// How long a drain waits for flows to end unless its service or the operator says otherwise.
pub const DEFAULT_DEREGISTRATION_DELAY: Duration = Duration::from_secs(300);
/// All of a pool's weight, as `min_healthy` counts it.
pub const WHOLE_SHARE: u16 = 1000;
/// The longest time-out of any kind.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

/// All services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pool {
    /// In the order of the file; commands add at the end.
    pub services: Vec<Service>,
}

/// A VIP with a port and a protocol, and what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique in the pool: up to [`MAX_NAME`] of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// The address that clients use, or a prefix of them.
    pub vip: Vip,
    /// The port that clients use.
    pub port: PortMatch,
    /// The transport protocol.
    pub protocol: Protocol,
    /// How packets get to backends.
    pub forwarding: Forwarding,
    /// How backends are chosen for new flows.
    pub scheduler: Scheduler,
    /// Entries of the Maglev table; a prime.
    pub table_size: u32,
    /// What else decides on backends for new flows.
    pub steering: Steering,
    /// What becomes of echo requests to the VIP; services that share the address agree.
    pub ping: Ping,
    /// How long flows are remembered without a packet.
    pub timeouts: Timeouts,
    /// Settings of the mode, and the clamp on TCP's MSS.
    pub tunnel: Tunnel,
    /// How backends are checked.
    pub health: Health,
    /// How connection IDs name a backend; without any, QUIC is steered as UDP.
    pub quic: Vec<QuicConfig>,
    /// Over how long a new or recovered backend's weight grows to its own; zero for at once.
    pub slow_start: Duration,
    /// The share of weight, in thousandths ([`WHOLE_SHARE`]), that must be up; with less the pool
    /// fails open. Zero: only when nothing is up.
    pub min_healthy: u16,
    /// What becomes of a backend's flows when it goes down.
    pub on_down: OnDown,
    /// What becomes of a TCP packet in mid-stream whose flow is not known.
    pub unknown_tcp: UnknownTcp,
    /// How long a drain waits for flows to end; [`NO_DEADLINE`] for as long as it takes.
    pub deregistration_delay: Duration,
    /// `full-nat`: the addresses that backends see; up to [`MAX_SNAT`] of either family.
    pub snat_pool: Vec<IpAddr>,
    /// `full-nat`: how backends learn the client's address.
    pub client_address: ClientAddress,
    /// In the order of the file, which decides nothing but turns.
    pub backends: Vec<Backend>,
}

/// A server that takes flows of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its address: of the VIP's family, but for modes that cross families.
    /// Its address, of the VIP's family unless the mode translates.
    pub address: IpAddr,
    /// Its port; zero in a service for several ports, which keeps the client's.
    pub port: u16,
    /// Its share of new flows relative to the others; zero takes none.
    pub weight: u32,
    /// Flows that it may hold; new ones go elsewhere then. As many as come if absent.
    pub max_flows: Option<u32>,
    /// What the operator wants of it.
    pub admin: Admin,
    /// Whether the operator overrides its health.
    pub forced: Forced,
    /// What connection IDs call it.
    pub server_ids: ServerIds,
}

/// What the operator wants of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admin {
    /// It takes flows.
    Enabled,
    /// It takes no new flows; those it has may finish.
    Drain {
        /// After which its remaining flows are steered anew; [`NO_DEADLINE`] for never.
        timeout: Duration,
    },
    /// It takes no flows, and those it had are steered anew.
    Disabled,
}

/// How long a flow is remembered after its last packet, by its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A TCP flow of which only the SYN was seen.
    pub syn: Duration,
    /// An established TCP flow.
    pub established: Duration,
    /// A TCP flow after FIN or RST.
    pub closing: Duration,
    /// A UDP flow.
    pub udp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            syn: Duration::from_secs(10),
            established: Duration::from_secs(350),
            closing: Duration::from_secs(10),
            udp: Duration::from_secs(120),
        }
    }
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Admin {
    /// `enabled`, `drain` or `disabled`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Drain { .. } => "drain",
            Self::Disabled => "disabled",
        }
    }
}

/// A share in thousandths as it is written: `50%`, `12.5%`.
#[must_use]
pub fn percent(share: u16) -> String {
    match share % 10 {
        0 => format!("{}%", share / 10),
        tenth => format!("{}.{tenth}%", share / 10),
    }
}

/// What a share may look like, for messages.
pub const SHARE_ACCEPTED: &str = "a share from 0.0 to 1.0, or a percentage such as \"50%\"";

/// Reads a share, `0.5` or `50%`, in thousandths.
///
/// # Errors
/// With what was found and what is accepted.
pub fn parse_share(text: &str) -> Result<u16, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
        None => text.parse::<f64>(),
    };
    match number {
        Ok(share) if (0.0..=1.0).contains(&share) => {
            Ok((share * f64::from(WHOLE_SHARE)).round() as u16)
        }
        _ => Err(format!("found {text:?}; accepted: {SHARE_ACCEPTED}")),
    }
}

impl Pool {
    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|service| service.name == name)
    }

    /// The service of this name, to be changed.
    pub fn service_mut(&mut self, name: &str) -> Option<&mut Service> {
        self.services
            .iter_mut()
            .find(|service| service.name == name)
    }

    /// Backends over all services.
    #[must_use]
    pub fn backend_count(&self) -> usize {
        self.services
            .iter()
            .map(|service| service.backends.len())
            .sum()
    }
}

impl Service {
    /// A service with defaults for all that need not be said, and without backends.
    #[must_use]
    pub fn new(
        name: &str,
        vip: impl Into<Vip>,
        port: PortMatch,
        protocol: Protocol,
        forwarding: Forwarding,
    ) -> Self {
        Self {
            name: name.to_owned(),
            vip: vip.into(),
            port,
            protocol,
            forwarding,
            scheduler: Scheduler::default(),
            table_size: DEFAULT_TABLE_SIZE,
            steering: Steering::default(),
            ping: Ping::default(),
            timeouts: Timeouts::default(),
            tunnel: Tunnel::default(),
            health: Health::default(),
            quic: Vec::new(),
            slow_start: Duration::ZERO,
            min_healthy: 0,
            on_down: OnDown::default(),
            unknown_tcp: UnknownTcp::default(),
            deregistration_delay: DEFAULT_DEREGISTRATION_DELAY,
            snat_pool: Vec::new(),
            client_address: ClientAddress::default(),
            backends: Vec::new(),
        }
    }

    /// The backend of this name (see [`Backend::name`]).
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends
            .iter()
            .find(|backend| backend.name(self) == name)
    }

    /// The VIP with its port as operators write it: `198.51.100.10:80`, `[2001:db8::1]:any`,
    /// `198.51.100.0/28:8000-8100`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        if self.vip.is_ipv4() {
            format!("{}:{}", self.vip, self.port)
        } else {
            format!("[{}]:{}", self.vip, self.port)
        }
    }

    /// Which packets are its own.
    #[must_use]
    pub const fn listening(&self) -> Listening {
        Listening {
            vip: self.vip,
            port: self.port,
            protocol: self.protocol,
        }
    }
}

impl Backend {
    /// An enabled backend of weight 1.
    #[must_use]
    pub const fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            port,
            weight: 1,
            max_flows: None,
            admin: Admin::Enabled,
            forced: Forced::Auto,
            server_ids: ServerIds::None,
        }
    }

    /// Its name in commands, counters and tables: `10.0.0.11:8080`, `[2001:db8::1]:8080`, or the
    /// address alone in a service for several ports.
    #[must_use]
    pub fn name(&self, service: &Service) -> String {
        if service.port.is_exact() {
            SocketAddr::new(self.address, self.port).to_string()
        } else {
            self.address.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_named_as_commands_write_it() {
        let vip: IpAddr = "198.51.100.10".parse().unwrap();
        let mut service = Service::new(
            "web",
            vip,
            PortMatch::Exact(80),
            Protocol::Tcp,
            Forwarding::Nat,
        );
        let v4 = Backend::new("10.0.0.11".parse().unwrap(), 8080);
        let v6 = Backend::new("2001:db8::1".parse().unwrap(), 8080);
        assert_eq!(v4.name(&service), "10.0.0.11:8080");
        assert_eq!(v6.name(&service), "[2001:db8::1]:8080");
        service.port = PortMatch::Any;
        assert_eq!(v4.name(&service), "10.0.0.11");
        assert_eq!(v6.name(&service), "2001:db8::1");
    }
}
