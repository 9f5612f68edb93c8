//! A pool as records: services one after the other, then their backends in the same order.
//!
//! Decoding takes nothing on trust: every number is checked against what it can be, and what comes
//! out is validated as a pool from any other source.

use std::net::IpAddr;

use super::bytes::{Malformed, Reader, Writer};
use super::health_record;
use super::layout::{BACKEND_RECORD, SERVICE_RECORD};
use super::tunnel::{put_tunnel, take_tunnel};
use super::{quic, steering};
use crate::model::{
    Admin, Backend, Forced, Forwarding, MAX_BACKENDS, MAX_NAME, MAX_SERVICES, OnDown, Ping, Pool,
    PortMatch, Protocol, Scheduler, Service, Timeouts, UnknownTcp, Vip,
};
use crate::model::{ClientAddress, MAX_SNAT};

/// Bytes of an address.
const ADDRESS: usize = 17;
/// Room for a service's name.
const NAME: u16 = MAX_NAME as u16 + 1;

/// A pool as records.
#[must_use]
pub fn encode(pool: &Pool) -> Vec<u8> {
    let mut writer = Writer::default();
    for service in &pool.services {
        put_service(&mut writer, service);
    }
    for service in &pool.services {
        for backend in &service.backends {
            put_backend(&mut writer, backend);
        }
    }
    writer.done()
}

/// Bytes that this many services and backends take; `None` when there are too many.
#[must_use]
pub fn encoded_len(services: u32, backends: u32) -> Option<usize> {
    let (services, backends) = (services as usize, backends as usize);
    (services <= MAX_SERVICES && backends <= MAX_BACKENDS)
        .then(|| services * SERVICE_RECORD + backends * BACKEND_RECORD)
}

/// A valid pool of records.
///
/// # Errors
/// What is wrong with them, or with the pool.
pub fn decode(bytes: &[u8], services: u32, backends: u32) -> Result<Pool, Malformed> {
    let expected = encoded_len(services, backends).ok_or_else(|| {
        Malformed::new(format!(
            "it claims {services} services and {backends} backends"
        ))
    })?;
    if bytes.len() != expected {
        return Err(Malformed::new(format!(
            "it has {} bytes of {expected}",
            bytes.len()
        )));
    }
    let mut reader = Reader::new(bytes);
    let mut pool = Pool::default();
    let mut counts = Vec::new();
    for number in 0..services {
        let record = Reader::new(reader.raw(SERVICE_RECORD)?);
        let (service, count) = take_service(record)
            .map_err(|malformed| Malformed::new(format!("service record {number}: {malformed}")))?;
        pool.services.push(service);
        counts.push(count);
    }
    let claimed: u64 = counts.iter().copied().map(u64::from).sum();
    if claimed != u64::from(backends) {
        return Err(Malformed::new(format!(
            "its services claim {claimed} backends, and there are {backends}"
        )));
    }
    for (service, count) in pool.services.iter_mut().zip(counts) {
        for number in 0..count {
            let record = Reader::new(reader.raw(BACKEND_RECORD)?);
            let backend = take_backend(record).map_err(|malformed| {
                Malformed::new(format!(
                    "backend record {number} of {}: {malformed}",
                    service.name
                ))
            })?;
            service.backends.push(backend);
        }
    }
    pool.validate()
        .map_err(|problem| Malformed::new(problem.message))?;
    Ok(pool)
}

fn put_service(writer: &mut Writer, service: &Service) {
    let end = writer.len() + SERVICE_RECORD;
    writer.text(&service.name, NAME);
    writer.address(service.vip.address());
    writer.u8(service.vip.prefix());
    let (kind, first, last) = match service.port {
        PortMatch::Exact(port) => (0, port, 0),
        PortMatch::Any => (1, 0, 0),
        PortMatch::Range(first, last) => (2, first, last),
    };
    writer.u8(kind);
    writer.u16(first);
    writer.u16(last);
    writer.u8(service.protocol.code());
    writer.u8(service.forwarding.code());
    writer.u8(service.scheduler.code());
    writer.u32(service.table_size);
    steering::put(writer, &service.steering);
    writer.u8(service.ping.code());
    let Timeouts {
        syn,
        established,
        closing,
        udp,
    } = service.timeouts;
    for timeout in [syn, established, closing, udp] {
        writer.duration(timeout);
    }
    put_tunnel(writer, &service.tunnel);
    health_record::put(writer, &service.health);
    quic::put_configs(writer, &service.quic);
    for timeout in [service.slow_start, service.deregistration_delay] {
        writer.duration(timeout);
    }
    writer.u16(service.min_healthy);
    writer.u8(service.on_down.code());
    writer.u8(service.unknown_tcp.code());
    writer.u8(service.client_address.code());
    put_addresses(writer, &service.snat_pool);
    writer.u32(u32::try_from(service.backends.len()).unwrap_or(u32::MAX));
    writer.pad_to(end);
}

/// Up to [`MAX_SNAT`] addresses behind their count, in as much room as that many need.
fn put_addresses(writer: &mut Writer, addresses: &[IpAddr]) {
    let count = addresses.len().min(MAX_SNAT);
    writer.u8(count as u8);
    let end = writer.len() + MAX_SNAT * ADDRESS;
    for address in addresses.iter().take(count) {
        writer.address(*address);
    }
    writer.pad_to(end);
}

fn put_backend(writer: &mut Writer, backend: &Backend) {
    let end = writer.len() + BACKEND_RECORD;
    writer.address(backend.address);
    writer.u16(backend.port);
    writer.u32(backend.weight);
    writer.u32(backend.max_flows.unwrap_or(0));
    let (code, timeout) = match backend.admin {
        Admin::Enabled => (0, None),
        Admin::Drain { timeout } => (1, Some(timeout)),
        Admin::Disabled => (2, None),
    };
    writer.u8(code);
    writer.duration(timeout.unwrap_or_default());
    writer.u8(backend.forced.code());
    quic::put_server_ids(writer, &backend.server_ids);
    writer.pad_to(end);
}

pub(super) fn known<T>(value: Option<T>, what: &str) -> Result<T, Malformed> {
    value.ok_or_else(|| Malformed::new(format!("{what} is none that this weir knows")))
}

fn take_service(mut reader: Reader<'_>) -> Result<(Service, u32), Malformed> {
    let name = reader.text(NAME, "the name")?;
    let (vip, prefix) = (reader.address("the VIP")?, reader.u8()?);
    let vip = Vip::network(vip, prefix)
        .ok_or_else(|| Malformed::new(format!("the VIP {vip}/{prefix} is no prefix")))?;
    let port = match (reader.u8()?, reader.u16()?, reader.u16()?) {
        (0, port, 0) if port != 0 => PortMatch::Exact(port),
        (1, 0, 0) => PortMatch::Any,
        (2, first, last) if 0 < first && first < last => PortMatch::Range(first, last),
        (kind, first, last) => {
            return Err(Malformed::new(format!(
                "ports {first} to {last} of kind {kind} are none"
            )));
        }
    };
    let protocol = known(Protocol::from_code(reader.u8()?), "the protocol")?;
    let forwarding = known(Forwarding::from_code(reader.u8()?), "the forwarding mode")?;
    let scheduler = known(Scheduler::from_code(reader.u8()?), "the scheduler")?;
    let table_size = reader.u32()?;
    let steering = steering::take(&mut reader)?;
    let ping = known(Ping::from_code(reader.u8()?), "the ping policy")?;
    let timeouts = Timeouts {
        syn: reader.duration()?,
        established: reader.duration()?,
        closing: reader.duration()?,
        udp: reader.duration()?,
    };
    let tunnel = take_tunnel(&mut reader)?;
    let health = health_record::take(&mut reader)?;
    let quic = quic::take_configs(&mut reader)?;
    let (slow_start, deregistration_delay) = (reader.duration()?, reader.duration()?);
    let min_healthy = reader.u16()?;
    let on_down = known(OnDown::from_code(reader.u8()?), "what to do with flows")?;
    let unknown_tcp = known(UnknownTcp::from_code(reader.u8()?), "the answer to TCP")?;
    let client_address = known(
        ClientAddress::from_code(reader.u8()?),
        "the way to tell the client's address",
    )?;
    let snat_pool = take_addresses(&mut reader)?;
    let backends = reader.u32()?;
    reader.padding("it")?;
    let mut service = Service::new(&name, vip, port, protocol, forwarding);
    service.scheduler = scheduler;
    service.table_size = table_size;
    service.steering = steering;
    service.ping = ping;
    service.timeouts = timeouts;
    service.tunnel = tunnel;
    service.health = health;
    service.quic = quic;
    service.slow_start = slow_start;
    service.deregistration_delay = deregistration_delay;
    service.min_healthy = min_healthy;
    service.on_down = on_down;
    service.unknown_tcp = unknown_tcp;
    service.client_address = client_address;
    service.snat_pool = snat_pool;
    Ok((service, backends))
}

fn take_addresses(reader: &mut Reader<'_>) -> Result<Vec<IpAddr>, Malformed> {
    let count = usize::from(reader.u8()?);
    if count > MAX_SNAT {
        return Err(Malformed::new(format!("it claims {count} SNAT addresses")));
    }
    let mut addresses = Vec::with_capacity(count);
    for _ in 0..count {
        addresses.push(reader.address("a SNAT address")?);
    }
    let rest = Reader::new(reader.raw((MAX_SNAT - count) * ADDRESS)?);
    rest.padding("the list of SNAT addresses")?;
    Ok(addresses)
}

fn take_backend(mut reader: Reader<'_>) -> Result<Backend, Malformed> {
    let address = reader.address("the address")?;
    let port = reader.u16()?;
    let weight = reader.u32()?;
    let max_flows = reader.u32()?;
    let (code, timeout) = (reader.u8()?, reader.duration()?);
    let admin = match code {
        1 => Admin::Drain { timeout },
        0 | 2 if !timeout.is_zero() => {
            return Err(Malformed::new("a drain time-out without a drain"));
        }
        0 => Admin::Enabled,
        2 => Admin::Disabled,
        other => {
            return Err(Malformed::new(format!(
                "state {other} is none that this weir knows"
            )));
        }
    };
    let forced = known(Forced::from_code(reader.u8()?), "the override")?;
    let server_ids = quic::take_server_ids(&mut reader)?;
    reader.padding("it")?;
    Ok(Backend {
        address,
        port,
        weight,
        max_flows: (max_flows > 0).then_some(max_flows),
        admin,
        forced,
        server_ids,
    })
}

#[cfg(test)]
#[path = "record_tests.rs"]
pub(crate) mod tests;
