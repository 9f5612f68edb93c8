//! From a pool to the maps that say whose a packet is.
//!
//! A service that listens on one address, port and protocol, and a backend that answers from one,
//! are in a map of exact endpoints. All others are listeners, looked at only where there are any.

use std::net::IpAddr;

use weir_shm::model::{Pool, PortMatch, Service, Vip};

use crate::address::{Addr, Version};
use crate::endpoints::{Endpoint, Endpoints};
use crate::listeners::{ANY_PROTOCOL, Listener, Listeners, Ports};
use crate::service::{Wide, protocol_number};

/// Endpoints that are exact, and those that are not.
#[derive(Debug, Default)]
pub struct Split {
    /// In the map of exact endpoints.
    pub exact: Vec<(Endpoint, u32)>,
    /// All others.
    pub wide: Vec<(Listener, u32)>,
}

impl Split {
    /// Adds what maps to `value`.
    pub fn push(&mut self, listener: Listener, value: u32) {
        match listener.ports {
            Ports::Exact(port) if listener.is_exact() => {
                let Listener {
                    version,
                    address,
                    protocol,
                    ..
                } = listener;
                self.exact
                    .push((Endpoint::new(version, address, port, protocol), value));
            }
            _ => self.wide.push((listener, value)),
        }
    }
}

fn ports(port: PortMatch) -> Ports {
    match port {
        PortMatch::Exact(port) => Ports::Exact(port),
        PortMatch::Range(first, last) => Ports::Range(first, last),
        PortMatch::Any => Ports::Any,
    }
}

fn listener(vip: Vip, ports: Ports, protocol: u8) -> Listener {
    let address = vip.address();
    Listener {
        version: Version::of(&address),
        address: Addr::from(address),
        prefix: vip.prefix(),
        ports,
        protocol,
    }
}

/// Where the answers of a `nat` service's backend come from.
#[must_use]
pub fn answers(service: &Service, address: IpAddr, port: u16) -> Listener {
    let ports = match service.port {
        PortMatch::Exact(_) => Ports::Exact(port),
        several => ports(several),
    };
    listener(address.into(), ports, protocol_number(service.protocol))
}

/// VIPs of exact endpoints, to the places of their services.
#[must_use]
pub fn exact_vips(pool: &Pool) -> Endpoints {
    Endpoints::new(&split(pool).exact)
}

fn split(pool: &Pool) -> Split {
    let mut split = Split::default();
    for (place, service) in (0u32..).zip(&pool.services) {
        let protocol = protocol_number(service.protocol);
        split.push(listener(service.vip, ports(service.port), protocol), place);
    }
    split
}

/// What stands for many endpoints, if anything does. `own` are the ports' addresses; `returns` and
/// `departed` the backends of `nat` services that are in the pool, and those that have left it.
#[must_use]
pub fn wide(
    pool: &Pool,
    own: &[IpAddr],
    returns: &[(Listener, u32)],
    departed: &[(Listener, u32)],
) -> Option<Wide> {
    let (prefixes, hosts): (Vec<_>, Vec<_>) = split(pool).wide.into_iter().partition(|(one, _)| {
        one.prefix
            < match one.version {
                Version::V4 => 32,
                Version::V6 => 128,
            }
    });
    if prefixes.is_empty() && hosts.is_empty() && returns.is_empty() && departed.is_empty() {
        return None;
    }
    // Of services that share a prefix the first stands for all: they agree on what it is for.
    let local: Vec<(Listener, u32)> = (0u32..)
        .zip(&pool.services)
        .filter(|(_, service)| service.vip.is_prefix())
        .map(|(place, service)| (listener(service.vip, Ports::Any, ANY_PROTOCOL), place))
        .collect();
    let own: Vec<(Endpoint, u32)> = own
        .iter()
        .map(|address| {
            (
                Endpoint::address(Version::of(address), (*address).into()),
                0,
            )
        })
        .collect();
    Some(Wide {
        hosts: Listeners::new(&hosts),
        prefixes: Listeners::new(&prefixes),
        returns: Listeners::new(returns),
        departed: Listeners::new(departed),
        local: Listeners::new(&local),
        own: Endpoints::new(&own),
    })
}
