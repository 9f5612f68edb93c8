//! What makes a pool valid, whoever made it: a file, a command, or bytes in shared memory.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{
    Admin, Backend, HealthKind, MAX_BACKENDS, MAX_BACKENDS_PER_SERVICE, MAX_NAME, MAX_SERVICES,
    MAX_TABLE_SIZE, MAX_TIMEOUT, MAX_WEIGHT, NO_DEADLINE, OnDown, Ping, Pool, PortMatch, Protocol,
    Service, UnknownTcp, Vip, WHOLE_SHARE, quic,
};
use crate::duration;

/// Why a pool is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// The service's place in the pool.
    pub service: Option<usize>,
    /// The backend's place in the service.
    pub backend: Option<usize>,
    /// The key that is wrong, as the configuration file names it.
    pub field: &'static str,
    /// What was found and what is accepted.
    pub message: String,
}

impl Problem {
    /// The message with the key that it is about before it, unless it names the key itself.
    #[must_use]
    pub fn with_key(&self) -> String {
        let Self { field, message, .. } = self;
        let key = last_key(field);
        let names = |sign: String| message.contains(&sign);
        // What is wrong with a pool as a whole, or with a table, has no key.
        let of_a_table = self.service.is_none() || matches!(*field, "backend" | "quic");
        if of_a_table || names(format!("`{key}`")) || names(format!("found {key} = ")) {
            return message.clone();
        }
        format!("`{key}`: {message}")
    }
}

/// A key without the tables that it is in: `timeout` of `health.timeout`.
pub(super) fn last_key(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

/// What an operator should know of a pool that is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The service's place in the pool.
    pub service: Option<usize>,
    /// The key that it is about.
    pub field: &'static str,
    /// What to know.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A problem of a key, not yet placed.
pub(super) type Wrong = (&'static str, String);

impl Pool {
    /// Checks everything that can be checked without the rest of the configuration.
    ///
    /// # Errors
    /// The first problem, in the order of the pool.
    pub fn validate(&self) -> Result<Vec<Warning>, Problem> {
        let whole = |field, message| Problem {
            service: None,
            backend: None,
            field,
            message,
        };
        if self.services.len() > MAX_SERVICES {
            let found = self.services.len();
            return Err(whole(
                "service",
                format!("found {found} services; accepted: up to {MAX_SERVICES}"),
            ));
        }
        let backends = self.backend_count();
        if backends > MAX_BACKENDS {
            return Err(whole(
                "backend",
                format!(
                    "found {backends} backends; accepted: up to {MAX_BACKENDS} over all services"
                ),
            ));
        }
        let mut warnings = Vec::new();
        for (index, service) in self.services.iter().enumerate() {
            let of_service = |(field, message)| Problem {
                service: Some(index),
                backend: None,
                field,
                message,
            };
            service.check().map_err(of_service)?;
            let mut seen = HashSet::new();
            for (place, backend) in service.backends.iter().enumerate() {
                service
                    .check_backend(backend, &mut seen)
                    .map_err(|(field, message)| Problem {
                        service: Some(index),
                        backend: Some(place),
                        field,
                        message,
                    })?;
            }
            quic::check_server_ids(service).map_err(|(place, (field, message))| Problem {
                service: Some(index),
                backend: Some(place),
                field,
                message,
            })?;
            warnings.extend(
                service
                    .warnings()
                    .into_iter()
                    .map(|(field, message)| Warning {
                        service: Some(index),
                        field,
                        message,
                    }),
            );
        }
        self.check_names()?;
        self.check_overlaps()?;
        self.check_ping()?;
        self.check_backends_between_services()?;
        self.check_marks()?;
        self.check_snat_addresses()?;
        Ok(warnings)
    }

    fn check_names(&self) -> Result<(), Problem> {
        let mut names = HashSet::new();
        for (index, service) in self.services.iter().enumerate() {
            let problem = |field, message| Problem {
                service: Some(index),
                backend: None,
                field,
                message,
            };
            let name = service.name.as_str();
            if !names.insert(name) {
                return Err(problem(
                    "name",
                    format!(
                        "found a second service \"{name}\"; accepted: a name that no other service has"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// An echo request has no port, so all services that have its address answer for it together,
    /// those of a prefix included.
    fn check_ping(&self) -> Result<(), Problem> {
        let mut policies: HashMap<Vip, &Service> = HashMap::new();
        for service in &self.services {
            policies.entry(service.vip).or_insert(service);
        }
        let lengths: BTreeSet<u8> = policies.keys().map(Vip::prefix).collect();
        for (index, service) in self.services.iter().enumerate() {
            let covering = lengths
                .iter()
                .filter_map(|length| service.vip.within(*length));
            let mut others = covering.filter_map(|vip| policies.get(&vip));
            let Some(other) = others.find(|other| other.ping != service.ping) else {
                continue;
            };
            return Err(Problem {
                service: Some(index),
                backend: None,
                field: "ping",
                message: format!(
                    "found ping = \"{}\" in \"{}\", and \"{}\" in \"{}\", which has the same address \
                     {}; accepted: the same in all services of an address",
                    service.ping, service.name, other.ping, other.name, service.vip
                ),
            });
        }
        Ok(())
    }
}

impl Service {
    fn check(&self) -> Result<(), Wrong> {
        check_name(&self.name)?;
        if let Some(what) = nonsense(self.vip.address()).or_else(|| nonsense(self.vip.last())) {
            return Err((
                "vip",
                format!(
                    "found {}, {what}; accepted: a unicast address for clients",
                    self.vip
                ),
            ));
        }
        if self.port == PortMatch::Exact(0) {
            return Err((
                "port",
                format!("found 0; accepted: {}", super::PORT_ACCEPTED),
            ));
        }
        self.check_listening()?;
        self.check_steering()?;
        let backends = self.backends.len();
        if backends > MAX_BACKENDS_PER_SERVICE {
            return Err((
                "backend",
                format!(
                    "found {backends} backends; accepted: up to {MAX_BACKENDS_PER_SERVICE} a service"
                ),
            ));
        }
        if self.table_size > MAX_TABLE_SIZE || !is_prime(self.table_size) {
            return Err((
                "table_size",
                format!(
                    "found {}; accepted: a prime up to {MAX_TABLE_SIZE}, such as 65537 or 655373",
                    self.table_size
                ),
            ));
        }
        if self.table_size as usize <= backends {
            return Err((
                "table_size",
                format!(
                    "found {} for {backends} backends; accepted: more than there are backends",
                    self.table_size
                ),
            ));
        }
        if self.ping == Ping::Forward && !self.forwarding.returns_directly() {
            return Err((
                "ping",
                format!(
                    "found \"forward\" with forwarding = \"{}\"; accepted: \"forward\" with the \
                     \"dsr-*\" modes only, whose backends own the VIP and can answer for it, else \
                     \"answer\" or \"drop\"",
                    self.forwarding
                ),
            ));
        }
        let Self { timeouts, .. } = self;
        for (field, timeout) in [
            ("timeouts.syn", timeouts.syn),
            ("timeouts.established", timeouts.established),
            ("timeouts.closing", timeouts.closing),
            ("timeouts.udp", timeouts.udp),
        ] {
            check_duration(field, timeout)?;
        }
        quic::check_configs(self)?;
        self.check_tunnel()?;
        self.check_full_nat()?;
        self.check_health()
    }

    /// Health, and how changes of it and of the pool take effect.
    fn check_health(&self) -> Result<(), Wrong> {
        self.health.check(self)?;
        if self.slow_start > MAX_TIMEOUT {
            return Err(("slow_start", too_long(self.slow_start)));
        }
        if self.min_healthy > WHOLE_SHARE {
            return Err((
                "min_healthy",
                format!(
                    "found {} thousandths; accepted: a share from 0.0 to 1.0",
                    self.min_healthy
                ),
            ));
        }
        if self.deregistration_delay != NO_DEADLINE && self.deregistration_delay > MAX_TIMEOUT {
            return Err(("deregistration_delay", too_long(self.deregistration_delay)));
        }
        if self.on_down == OnDown::Reset {
            self.resets("on_down")?;
        }
        if self.unknown_tcp == UnknownTcp::Reset {
            self.resets("unknown_tcp")?;
        }
        Ok(())
    }

    /// What to know of a service that is valid.
    fn warnings(&self) -> Vec<Wrong> {
        let mut warnings = Vec::new();
        let health = &self.health;
        if health.kind != HealthKind::None && health.timeout > health.interval {
            warnings.push((
                "health.timeout",
                format!(
                    "a check of \"{}\" that is not answered takes {}, longer than the interval of \
                     {}, and the next one waits for it",
                    self.name,
                    duration::text(health.timeout),
                    duration::text(health.interval)
                ),
            ));
        }
        if self.protocol == Protocol::Quic && self.quic.is_empty() {
            warnings.push((
                "protocol",
                format!(
                    "\"{}\" has no [service.quic] configs: connection IDs name no backend, and a \
                     client that moves may get another",
                    self.name
                ),
            ));
        }
        warnings
    }

    /// Whether weir can reset this service's connections: it must see both of their sides.
    fn resets(&self, field: &'static str) -> Result<(), Wrong> {
        if self.protocol != Protocol::Tcp {
            return Err((
                field,
                format!(
                    "found \"reset\" with protocol \"{}\"; accepted: with \"tcp\" only",
                    self.protocol
                ),
            ));
        }
        if !self.forwarding.sees_answers() {
            return Err((
                field,
                format!(
                    "found \"reset\" with forwarding \"{}\"; accepted: with modes whose answers \
                     come back through weir, such as \"nat\"",
                    self.forwarding
                ),
            ));
        }
        Ok(())
    }

    fn check_backend(
        &self,
        backend: &Backend,
        seen: &mut HashSet<(IpAddr, u16)>,
    ) -> Result<(), Wrong> {
        // Written only for a message: of a large pool nearly all backends are fine.
        let name = || backend.name(self);
        let service = &self.name;
        if let Some(what) = nonsense(backend.address) {
            return Err((
                "address",
                format!(
                    "found {}, {what}; accepted: the unicast address of a server",
                    backend.address
                ),
            ));
        }
        self.check_snat_toward(backend.address)?;
        let crosses = backend.address.is_ipv4() != self.vip.is_ipv4();
        if crosses && !self.forwarding.crosses_families() {
            return Err((
                "address",
                format!(
                    "found {} behind VIP {}; accepted: an address of the VIP's family, since \"{}\" \
                     does not translate between IPv4 and IPv6",
                    backend.address, self.vip, self.forwarding
                ),
            ));
        }
        match self.port {
            PortMatch::Range(..) | PortMatch::Any if backend.port != 0 => {
                return Err((
                    "port",
                    format!(
                        "found {} for backend {name} of \"{service}\", whose port is \"{}\"; \
                         accepted: no port, since the client's is kept",
                        backend.port,
                        self.port,
                        name = name()
                    ),
                ));
            }
            PortMatch::Exact(_) if backend.port == 0 => {
                return Err(("port", "found 0; accepted: 1 to 65535".to_owned()));
            }
            PortMatch::Exact(port) if backend.port != port && !self.forwarding.rewrites_port() => {
                return Err((
                    "port",
                    format!(
                        "found {} for backend {name} of \"{service}\"; accepted: {port}, the \
                         service's (a port of its own works with \"nat\" and \"full-nat\" only, \
                         and \"{service}\" is \"{}\")",
                        backend.port,
                        self.forwarding,
                        name = name()
                    ),
                ));
            }
            _ => {}
        }
        if backend.weight > MAX_WEIGHT {
            return Err((
                "weight",
                format!("found {}; accepted: 0 to {MAX_WEIGHT}", backend.weight),
            ));
        }
        if backend.max_flows == Some(0) {
            return Err((
                "max_flows",
                "found 0; accepted: 1 or more, or none for as many as come".to_owned(),
            ));
        }
        if let Admin::Drain { timeout } = backend.admin
            && timeout != NO_DEADLINE
            && timeout > MAX_TIMEOUT
        {
            return Err(("drain_timeout", too_long(timeout)));
        }
        if !seen.insert((backend.address, backend.port)) {
            return Err((
                "address",
                format!(
                    "found backend {} twice in \"{service}\"; accepted: each backend once",
                    name()
                ),
            ));
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<(), Wrong> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err((
            "name",
            format!(
                "found {name:?}; accepted: 1 to {MAX_NAME} of A-Z, a-z, 0-9, \".\", \"_\" and \"-\""
            ),
        ));
    }
    Ok(())
}

pub(super) fn check_duration(field: &'static str, timeout: Duration) -> Result<(), Wrong> {
    if timeout < Duration::from_millis(1) {
        return Err((field, "found 0s; accepted: 1ms to 30d".to_owned()));
    }
    if timeout > MAX_TIMEOUT {
        return Err((field, too_long(timeout)));
    }
    Ok(())
}

fn too_long(timeout: Duration) -> String {
    format!(
        "found {}; accepted: up to {}",
        duration::text(timeout),
        duration::text(MAX_TIMEOUT)
    )
}

/// Why an address can be neither a VIP nor a backend, if so.
pub(super) fn nonsense(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else {
        match address {
            IpAddr::V4(address) if address.is_broadcast() => Some("the broadcast address"),
            IpAddr::V4(address) if address.octets().first() == Some(&0) => {
                Some("an address of \"this network\" (RFC 791)")
            }
            IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => {
                Some("an IPv4-mapped address, which is never on the wire")
            }
            _ => None,
        }
    }
}

/// Whether `number` is a prime, by trial division: at most 1,118 steps up to five million.
#[must_use]
pub const fn is_prime(number: u32) -> bool {
    if number < 2 {
        return false;
    }
    let mut divisor = 2;
    while divisor < 65_536 && divisor * divisor <= number {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 1;
    }
    true
}
