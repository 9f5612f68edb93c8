//! What has to change to get from one pool to another.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::duration;
use crate::model::{Admin, Backend, Forced, Pool, ServerIds, Service, Steering, percent};

/// The difference of two pools; order of services and backends does not count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Difference {
    entries: Vec<Entry>,
}

/// One thing that changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How it changes.
    pub kind: Kind,
    /// The service.
    pub service: String,
    /// The backend, if it is not the service itself.
    pub backend: Option<String>,
    /// What it becomes, or how it differs.
    pub details: String,
}

/// How a thing changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added,
    /// It goes.
    Removed,
    /// It stays, with other settings.
    Changed,
}

impl Kind {
    /// `added`, `removed` or `changed`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }

    const fn sign(self) -> char {
        match self {
            Self::Added => '+',
            Self::Removed => '-',
            Self::Changed => '~',
        }
    }
}

impl Difference {
    /// What makes `after` of `before`.
    #[must_use]
    pub fn between(before: &Pool, after: &Pool) -> Self {
        let mut entries = Vec::new();
        let (were, are) = (services_by_name(before), services_by_name(after));
        for old in &before.services {
            if !are.contains_key(old.name.as_str()) {
                entries.push(of_service(Kind::Removed, old, describe(old)));
            }
        }
        for new in &after.services {
            match were.get(new.name.as_str()) {
                None => {
                    entries.push(of_service(Kind::Added, new, describe(new)));
                    let added = |backend| of_backend(Kind::Added, new, backend, settings(backend));
                    entries.extend(new.backends.iter().map(added));
                }
                Some(old) => compare(old, new, &mut entries),
            }
        }
        Self { entries }
    }

    /// Whether the pools are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All that changes, removals first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// A line for each: `+ backend web 10.0.0.13:8080 (weight 4)`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.entries.iter().map(Entry::line).collect()
    }

    /// The first so many lines.
    #[must_use]
    pub fn first_lines(&self, most: usize) -> Vec<String> {
        self.entries.iter().take(most).map(Entry::line).collect()
    }
}

impl Entry {
    fn line(&self) -> String {
        let sign = self.kind.sign();
        let details = if self.details.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.details)
        };
        match &self.backend {
            None => format!("{sign} service {}{details}", self.service),
            Some(backend) => format!("{sign} backend {} {backend}{details}", self.service),
        }
    }
}

fn of_service(kind: Kind, service: &Service, details: String) -> Entry {
    Entry {
        kind,
        service: service.name.clone(),
        backend: None,
        details,
    }
}

fn of_backend(kind: Kind, service: &Service, backend: &Backend, details: String) -> Entry {
    Entry {
        kind,
        service: service.name.clone(),
        backend: Some(backend.name(service)),
        details,
    }
}

fn describe(service: &Service) -> String {
    format!(
        "{}/{}, {}",
        service.endpoint(),
        service.protocol,
        service.forwarding
    )
}

fn admin(admin: Admin) -> String {
    match admin {
        Admin::Drain { timeout } if timeout != crate::model::NO_DEADLINE => {
            format!("drain, {}", duration::text(timeout))
        }
        other => other.name().to_owned(),
    }
}

fn settings(backend: &Backend) -> String {
    let mut text = format!("weight {}", backend.weight);
    if let Some(limit) = backend.max_flows {
        text += &format!(", max_flows {limit}");
    }
    if backend.admin != Admin::Enabled {
        text += &format!(", {}", admin(backend.admin));
    }
    if backend.forced != Forced::Auto {
        text += &format!(", forced {}", backend.forced);
    }
    if backend.server_ids != ServerIds::None {
        text += &format!(", server ID {}", backend.server_ids);
    }
    text
}

/// Notes `name: old → new` for settings that differ.
fn note(changes: &mut Vec<String>, name: &str, old: &str, new: &str) {
    if old != new {
        changes.push(format!("{name}: {old} → {new}"));
    }
}

/// Notes what differs in how backends are chosen.
fn steering(changes: &mut Vec<String>, old: &Steering, new: &Steering) {
    let vnodes = |steering: &Steering| steering.vnodes().to_string();
    note(changes, "ring_vnodes", &vnodes(old), &vnodes(new));
    note(changes, "hash", old.hash.name(), new.hash.name());
    let affinity = |steering: &Steering| {
        let affinity = steering.affinity;
        affinity.map_or_else(|| "none".to_owned(), |affinity| affinity.to_string())
    };
    note(changes, "affinity", &affinity(old), &affinity(new));
    note(
        changes,
        "all_down",
        old.all_down.name(),
        new.all_down.name(),
    );
}

/// A limit of flows, or its absence.
fn limit(backend: &Backend) -> String {
    let limit = backend.max_flows;
    limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string())
}

fn compare(old: &Service, new: &Service, entries: &mut Vec<Entry>) {
    // Of a large pool most services are as they were.
    if old == new {
        return;
    }
    let mut changes = Vec::new();
    note(&mut changes, "vip", &old.endpoint(), &new.endpoint());
    note(
        &mut changes,
        "protocol",
        old.protocol.name(),
        new.protocol.name(),
    );
    note(
        &mut changes,
        "forwarding",
        old.forwarding.name(),
        new.forwarding.name(),
    );
    note(
        &mut changes,
        "scheduler",
        old.scheduler.name(),
        new.scheduler.name(),
    );
    note(
        &mut changes,
        "table_size",
        &old.table_size.to_string(),
        &new.table_size.to_string(),
    );
    let pairs = old.tunnel.effective(old.forwarding);
    let value = |pairs: &[(&str, String)], key: &str| {
        let found = pairs.iter().find(|(name, _)| *name == key);
        found.map_or_else(|| "none".to_owned(), |(_, value)| value.clone())
    };
    let news = new.tunnel.effective(new.forwarding);
    for (key, _) in old.tunnel.written() {
        note(&mut changes, key, &value(&pairs, key), &value(&news, key));
    }
    note(&mut changes, "ping", old.ping.name(), new.ping.name());
    let addresses = |service: &Service| {
        let all = service.snat_pool.iter();
        all.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    note(&mut changes, "snat_pool", &addresses(old), &addresses(new));
    note(
        &mut changes,
        "client_address",
        old.client_address.name(),
        new.client_address.name(),
    );
    steering(&mut changes, &old.steering, &new.steering);
    let timeouts = |service: &Service| {
        let timeouts = service.timeouts;
        let all = [
            timeouts.syn,
            timeouts.established,
            timeouts.closing,
            timeouts.udp,
        ];
        all.map(duration::text).join("/")
    };
    note(&mut changes, "timeouts", &timeouts(old), &timeouts(new));
    note(
        &mut changes,
        "health",
        old.health.kind.name(),
        new.health.kind.name(),
    );
    if old.health != new.health && old.health.kind == new.health.kind {
        changes.push("health settings".to_owned());
    }
    if old.quic != new.quic {
        changes.push("QUIC configurations".to_owned());
    }
    note(
        &mut changes,
        "slow_start",
        &duration::text(old.slow_start),
        &duration::text(new.slow_start),
    );
    note(
        &mut changes,
        "min_healthy",
        &percent(old.min_healthy),
        &percent(new.min_healthy),
    );
    note(
        &mut changes,
        "on_down",
        old.on_down.name(),
        new.on_down.name(),
    );
    note(
        &mut changes,
        "unknown_tcp",
        old.unknown_tcp.name(),
        new.unknown_tcp.name(),
    );
    note(
        &mut changes,
        "deregistration_delay",
        &duration::or_never(old.deregistration_delay),
        &duration::or_never(new.deregistration_delay),
    );
    if !changes.is_empty() {
        entries.push(of_service(Kind::Changed, new, changes.join(", ")));
    }
    let (before, after) = (by_endpoint(old), by_endpoint(new));
    for backend in &old.backends {
        if !after.contains_key(&endpoint(old, backend)) {
            entries.push(of_backend(Kind::Removed, old, backend, String::new()));
        }
    }
    for backend in &new.backends {
        match before.get(&endpoint(new, backend)) {
            None => entries.push(of_backend(Kind::Added, new, backend, settings(backend))),
            Some(was) if *was == backend => {}
            Some(was) => {
                let mut changes = Vec::new();
                let weights = (was.weight.to_string(), backend.weight.to_string());
                note(&mut changes, "weight", &weights.0, &weights.1);
                note(&mut changes, "max_flows", &limit(was), &limit(backend));
                note(
                    &mut changes,
                    "state",
                    &admin(was.admin),
                    &admin(backend.admin),
                );
                note(
                    &mut changes,
                    "forced",
                    was.forced.name(),
                    backend.forced.name(),
                );
                let ids = [was, backend].map(|backend| backend.server_ids.to_string());
                note(&mut changes, "server ID", &ids[0], &ids[1]);
                if !changes.is_empty() {
                    entries.push(of_backend(Kind::Changed, new, backend, changes.join(", ")));
                }
            }
        }
    }
}

fn services_by_name(pool: &Pool) -> HashMap<&str, &Service> {
    let services = pool.services.iter();
    services
        .map(|service| (service.name.as_str(), service))
        .collect()
}

/// What tells a backend from the others of its service, as its name does.
type Place = (IpAddr, Option<u16>);

fn endpoint(service: &Service, backend: &Backend) -> Place {
    let port = service.port.is_exact().then_some(backend.port);
    (backend.address, port)
}

fn by_endpoint(service: &Service) -> HashMap<Place, &Backend> {
    let backends = service.backends.iter();
    backends
        .map(|backend| (endpoint(service, backend), backend))
        .collect()
}
