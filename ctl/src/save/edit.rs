//! Bringing a document up to date, key by key.

use std::net::IpAddr;
use std::time::Duration;

use toml_edit::{Array, InlineTable, TableLike, Value};
use weir_shm::duration;
use weir_shm::model::ClientAddress;
use weir_shm::model::{
    Admin, Affinity, Backend, DEFAULT_DEREGISTRATION_DELAY, Forced, OnDown, Ping, Pool, PortMatch,
    Scheduler, Service, Steering, Timeouts, UnknownTcp, percent,
};

use super::health::set_health;
use super::quic;
use super::tables::{Entries, Tables, set};

/// Why a document cannot be brought up to date.
type Reason = String;

/// Makes `document`, which says what `before` is, say what `after` is.
pub(super) fn bring_up_to_date(
    document: &mut dyn TableLike,
    before: &Pool,
    after: &Pool,
) -> Result<(), Reason> {
    let mut services =
        Tables::under(document, "service", true).ok_or("`service` is no array of tables")?;
    let headed = services.is_headed();
    // From the end, so that places before stay what they are.
    for (place, old) in before.services.iter().enumerate().rev() {
        match after.service(&old.name) {
            None => services.remove(place),
            Some(new) => {
                let table = services.get_mut(place).ok_or("a service is no table")?;
                change_service(table, headed, old, new)?;
            }
        }
    }
    for new in &after.services {
        if before.service(&new.name).is_none() {
            let place = services.push(service_entries(new));
            let table = services.get_mut(place).ok_or("a new service is no table")?;
            set_health(table, headed, &new.health);
            quic::set_configs(table, headed, &new.quic);
            let nobody = Service {
                backends: Vec::new(),
                ..new.clone()
            };
            change_backends(table, headed, &nobody, new)?;
        }
    }
    Ok(())
}

fn port_value(port: PortMatch) -> Value {
    match port {
        PortMatch::Exact(port) => i64::from(port).into(),
        several => several.to_string().into(),
    }
}

fn service_entries(service: &Service) -> Entries {
    let mut entries: Entries = vec![
        ("name", service.name.as_str().into()),
        ("vip", service.vip.to_string().into()),
        ("port", port_value(service.port)),
        ("protocol", service.protocol.name().into()),
        ("forwarding", service.forwarding.name().into()),
    ];
    if service.scheduler != Scheduler::default() {
        entries.push(("scheduler", service.scheduler.name().into()));
    }
    if service.table_size != weir_shm::model::DEFAULT_TABLE_SIZE {
        entries.push(("table_size", i64::from(service.table_size).into()));
    }
    if service.ping != Ping::default() {
        entries.push(("ping", service.ping.name().into()));
    }
    for (key, text) in service.tunnel.written() {
        let value = text.and_then(|text| text.parse::<Value>().ok());
        entries.extend(value.map(|value| (key, value)));
    }
    entries.extend(steering_entries(&service.steering));
    if service.timeouts != Timeouts::default() {
        entries.push(("timeouts", timeouts_value(service.timeouts)));
    }
    entries.extend(changes_entries(service));
    if !service.snat_pool.is_empty() {
        entries.push(("snat_pool", addresses_value(&service.snat_pool)));
    }
    if service.client_address != ClientAddress::default() {
        entries.push(("client_address", service.client_address.name().into()));
    }
    entries
}

/// How changes of health and of the pool take effect, where it is not as usual.
fn changes_entries(service: &Service) -> Entries {
    let Service {
        slow_start,
        min_healthy,
        on_down,
        unknown_tcp,
        deregistration_delay,
        ..
    } = service;
    let mut entries = Entries::new();
    if !slow_start.is_zero() {
        entries.push(("slow_start", duration::text(*slow_start).into()));
    }
    if *min_healthy > 0 {
        entries.push(("min_healthy", percent(*min_healthy).into()));
    }
    if *on_down != OnDown::default() {
        entries.push(("on_down", on_down.name().into()));
    }
    if *unknown_tcp != UnknownTcp::default() {
        entries.push(("unknown_tcp", unknown_tcp.name().into()));
    }
    if *deregistration_delay != DEFAULT_DEREGISTRATION_DELAY {
        let delay = duration::or_never(*deregistration_delay);
        entries.push(("deregistration_delay", delay.into()));
    }
    entries
}

/// Their keys.
const CHANGES: [&str; 5] = [
    "slow_start",
    "min_healthy",
    "on_down",
    "unknown_tcp",
    "deregistration_delay",
];

fn addresses_value(addresses: &[IpAddr]) -> Value {
    let texts = addresses.iter().map(ToString::to_string);
    texts.collect::<Array>().into()
}

/// What differs from a service that says nothing of it.
fn steering_entries(steering: &Steering) -> Entries {
    let default = Steering::default();
    let mut entries = Entries::new();
    if let Some(count) = steering.ring_vnodes {
        entries.push(("ring_vnodes", i64::from(count).into()));
    }
    if steering.hash != default.hash {
        entries.push(("hash", steering.hash.name().into()));
    }
    if let Some(affinity) = steering.affinity {
        let value = if affinity == Affinity::default() {
            "source".into()
        } else {
            Value::from(InlineTable::from_iter([
                ("by", Value::from("source")),
                ("prefix4", i64::from(affinity.prefix4).into()),
                ("prefix6", i64::from(affinity.prefix6).into()),
                ("timeout", duration::text(affinity.timeout).into()),
            ]))
        };
        entries.push(("affinity", value));
    }
    if steering.all_down != default.all_down {
        entries.push(("all_down", steering.all_down.name().into()));
    }
    entries
}

fn timeouts_value(timeouts: Timeouts) -> Value {
    let text = |timeout: Duration| Value::from(duration::text(timeout));
    InlineTable::from_iter([
        ("syn", text(timeouts.syn)),
        ("established", text(timeouts.established)),
        ("closing", text(timeouts.closing)),
        ("udp", text(timeouts.udp)),
    ])
    .into()
}

fn change_service(
    table: &mut dyn TableLike,
    headed: bool,
    old: &Service,
    new: &Service,
) -> Result<(), Reason> {
    if old.vip != new.vip {
        set(table, "vip", new.vip.to_string());
    }
    if old.port != new.port {
        set(table, "port", port_value(new.port));
    }
    if old.protocol != new.protocol {
        set(table, "protocol", new.protocol.name());
    }
    if old.forwarding != new.forwarding {
        set(table, "forwarding", new.forwarding.name());
    }
    if old.scheduler != new.scheduler {
        set(table, "scheduler", new.scheduler.name());
    }
    if old.table_size != new.table_size {
        set(table, "table_size", i64::from(new.table_size));
    }
    if old.ping != new.ping {
        set(table, "ping", new.ping.name());
    }
    for ((key, was), (_, is)) in old.tunnel.written().into_iter().zip(new.tunnel.written()) {
        if was == is {
            continue;
        }
        match is.and_then(|text| text.parse::<Value>().ok()) {
            Some(value) => set(table, key, value),
            None => {
                table.remove(key);
            }
        }
    }
    if old.steering != new.steering {
        for key in ["ring_vnodes", "hash", "affinity", "all_down"] {
            table.remove(key);
        }
        for (key, value) in steering_entries(&new.steering) {
            set(table, key, value);
        }
    }
    if old.timeouts != new.timeouts {
        table.remove("timeouts");
        set(table, "timeouts", timeouts_value(new.timeouts));
    }
    let (was, is) = (changes_entries(old), changes_entries(new));
    for key in CHANGES {
        let of = |entries: &Entries| {
            let found = entries.iter().find(|(name, _)| *name == key);
            found.map(|(_, value)| value.clone())
        };
        match (of(&was), of(&is)) {
            (was, Some(is)) if was.as_ref().map(Value::to_string) != Some(is.to_string()) => {
                set(table, key, is);
            }
            (Some(_), None) => {
                table.remove(key);
            }
            _ => {}
        }
    }
    if old.snat_pool != new.snat_pool {
        if new.snat_pool.is_empty() {
            table.remove("snat_pool");
        } else {
            set(table, "snat_pool", addresses_value(&new.snat_pool));
        }
    }
    if old.client_address != new.client_address {
        set(table, "client_address", new.client_address.name());
    }
    if old.health != new.health {
        table.remove("health");
        set_health(table, headed, &new.health);
    }
    if old.quic != new.quic {
        table.remove("quic");
        quic::set_configs(table, headed, &new.quic);
    }
    change_backends(table, headed, old, new)
}

fn change_backends(
    table: &mut dyn TableLike,
    headed: bool,
    old: &Service,
    new: &Service,
) -> Result<(), Reason> {
    if old.backends.is_empty() && new.backends.is_empty() {
        return Ok(());
    }
    let mut backends =
        Tables::under(table, "backend", headed).ok_or("`backend` is no array of tables")?;
    // By address and port rather than by name, which changes with the service's port.
    let same =
        |one: &Backend, other: &Backend| (one.address, one.port) == (other.address, other.port);
    for (place, was) in old.backends.iter().enumerate().rev() {
        match new.backends.iter().find(|backend| same(was, backend)) {
            None => backends.remove(place),
            Some(is) => {
                let table = backends.get_mut(place).ok_or("a backend is no table")?;
                change_backend(table, new, was, is);
            }
        }
    }
    for is in &new.backends {
        if !old.backends.iter().any(|was| same(was, is)) {
            let place = backends.push(backend_entries(new, is));
            let table = backends.get_mut(place).ok_or("a new backend is no table")?;
            change_backend(table, new, &Backend::new(is.address, is.port), is);
        }
    }
    Ok(())
}

/// Address and port; the rest is what differs from a new backend.
fn backend_entries(service: &Service, backend: &Backend) -> Entries {
    let mut entries: Entries = vec![("address", backend.address.to_string().into())];
    if backend.port != service.port.number() {
        entries.push(("port", i64::from(backend.port).into()));
    }
    entries
}

fn change_backend(table: &mut dyn TableLike, service: &Service, was: &Backend, is: &Backend) {
    // Without a port it followed the service's, which may be another now.
    if is.port != service.port.number() && table.get("port").is_none() {
        set(table, "port", i64::from(is.port));
    }
    if was.weight != is.weight {
        set(table, "weight", i64::from(is.weight));
    }
    if was.max_flows != is.max_flows {
        match is.max_flows {
            Some(limit) => set(table, "max_flows", i64::from(limit)),
            None => {
                table.remove("max_flows");
            }
        }
    }
    if was.forced != is.forced {
        match is.forced {
            Forced::Auto => {
                table.remove("force");
            }
            forced => set(table, "force", forced.name()),
        }
    }
    if was.server_ids != is.server_ids {
        quic::set_server_ids(table, &is.server_ids);
    }
    if was.admin != is.admin {
        table.remove("drain_timeout");
        match is.admin {
            Admin::Enabled => {
                table.remove("state");
            }
            admin => set(table, "state", admin.name()),
        }
        if let Admin::Drain { timeout } = is.admin {
            set(table, "drain_timeout", duration::or_never(timeout));
        }
    }
}
