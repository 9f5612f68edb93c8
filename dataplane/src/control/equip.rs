//! What backends need beyond their address: outer headers, marks, and the clamp on TCP's MSS.
//!
//! Done when a pool is put in force, after the book has numbered its backends, so that the packet
//! path copies and compares and works nothing out.

use std::net::IpAddr;

use weir_shm::model::Pool;

use crate::config::Config;
use crate::forward::tunnel;
use crate::service::Services;

/// Equips the backends of `services`, which were made of `pool`; `number` gives a backend's number
/// by the names of its service and its own; `narrower` tells by how many bytes the way to a backend
/// is narrower than the port that leads there.
pub(super) fn equip(
    services: &mut Services,
    pool: &Pool,
    config: &Config,
    number: impl Fn(&str, &str) -> Option<u32>,
    narrower: impl Fn(IpAddr, u16) -> u16,
) {
    let mut outers = Vec::new();
    for service in &pool.services {
        let needs = service.forwarding.is_tunnel()
            || service.tunnel.dscp.is_some()
            || service.tunnel.mss_clamp.is_some();
        if !needs {
            continue;
        }
        for backend in &service.backends {
            let source = config.tunnel_source(service, backend.address);
            let outer = source.and_then(|source| tunnel::outer(service, backend.address, source));
            let line = number(&service.name, &backend.name(service))
                .and_then(|number| services.backends.get_mut(number as usize));
            let Some(line) = line else { continue };
            line.mss = service.tunnel.mss_clamp.unwrap_or(0);
            line.dscp = service.tunnel.dscp.unwrap_or(0);
            if let Some(outer) = outer {
                // Headers are 56 bytes at most, backends 131,072.
                let least = outer.overhead() + least_inner(service.vip.is_ipv4());
                line.overhead = outer.overhead() + narrower(backend.address, least);
                line.outer = outers.len() as u32;
                outers.push(outer);
                let source = source.filter(|source| !services.tunnel_sources.contains(source));
                services.tunnel_sources.extend(source);
            }
        }
    }
    services.outers = outers.into();
}

/// What passes at the least, whatever routers say: the smallest MTU of IPv6, or what every IPv4 host
/// takes (RFC 8200, section 5; RFC 791, section 3.1).
const fn least_inner(is_ipv4: bool) -> u16 {
    if is_ipv4 { 576 } else { 1280 }
}
