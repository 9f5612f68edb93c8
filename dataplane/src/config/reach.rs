//! Which neighbour leads to an address, by connected networks and static routes.

use std::net::IpAddr;

use weir_shm::model::{Forwarding, Pool, Protocol, Service, TunnelSource};

use super::{Config, Network, Port};
use crate::adjacency::{Neighbour, Route, covers};
use crate::forward::tunnel;

/// A backend that no packet could be sent to, or a VIP that keeps gateways from being heard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("service \"{service}\": {message}")]
pub struct Unreachable {
    /// The service.
    pub service: String,
    /// Its place in the pool.
    pub service_index: usize,
    /// The backend's place in the service; `None` where it is about the VIP.
    pub backend_index: Option<usize>,
    /// What is missing, or in the way.
    pub message: String,
}

impl std::str::FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = text.split_once('/').ok_or(())?;
        let address: IpAddr = address.parse().map_err(|_| ())?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(());
        }
        let prefix: u8 = prefix.parse().map_err(|_| ())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            Err(())
        } else {
            Ok(Self { address, prefix })
        }
    }
}

impl Network {
    /// The network's address: host bits cleared.
    #[must_use]
    pub fn masked(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V4((address.to_bits() & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                IpAddr::V6((address.to_bits() & mask).into())
            }
        }
    }

    /// Whether `address` lies in the network.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        covers(self.address, self.prefix, address)
    }
}

impl Port {
    /// Whether `address` is on one of the port's networks. Link-local addresses are on every
    /// port that speaks IPv6.
    #[must_use]
    pub fn connects(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|network| network.covers(address))
            || (is_link_local(address) && self.addresses.iter().any(|own| own.address.is_ipv6()))
    }

    /// The port's own address to ask for `address` from: the one on its network.
    #[must_use]
    pub fn address_toward(&self, address: IpAddr) -> Option<IpAddr> {
        let same = |own: &&Network| own.address.is_ipv4() == address.is_ipv4();
        let on_network = self.addresses.iter().find(|own| own.covers(address));
        on_network
            .or_else(|| self.addresses.iter().find(same))
            .map(|own| own.address)
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

impl Config {
    /// The port that `address` is a neighbour on.
    #[must_use]
    pub fn connected_port(&self, address: IpAddr) -> Option<u16> {
        let networks = (0u16..)
            .zip(&self.ports)
            .flat_map(|(number, port)| port.addresses.iter().map(move |network| (number, network)));
        networks
            .filter(|(_, network)| network.covers(address))
            .max_by_key(|(number, network)| (network.prefix, std::cmp::Reverse(*number)))
            .map(|(number, _)| number)
    }

    /// An address that is one of weir's own, with its port, as a message names it.
    #[must_use]
    pub fn named_own(&self, address: IpAddr) -> Option<String> {
        let is_own = |port: &&Port| port.addresses.iter().any(|own| own.address == address);
        let port = self.ports.iter().find(is_own)?;
        Some(format!("{address}, port \"{}\"'s own address", port.name))
    }

    /// The neighbour that packets to `address` are sent to.
    #[must_use]
    pub fn next_hop(&self, address: IpAddr) -> Option<Neighbour> {
        let connected = self.ports.iter().flat_map(|port| &port.addresses);
        let connected = connected
            .filter(|network| network.covers(address))
            .map(|n| n.prefix)
            .max();
        let routed = self
            .routes
            .iter()
            .filter(|route| route.to.covers(address))
            .max_by_key(|route| route.to.prefix);
        match (connected, routed) {
            (Some(prefix), Some(route)) if route.to.prefix > prefix => self.gateway(route.via),
            (Some(_), _) => self
                .connected_port(address)
                .map(|port| Neighbour { port, address }),
            (None, Some(route)) => self.gateway(route.via),
            (None, None) => None,
        }
    }

    fn gateway(&self, via: IpAddr) -> Option<Neighbour> {
        self.connected_port(via)
            .map(|port| Neighbour { port, address: via })
    }

    /// All routes, connected ones included; `number` gives a gateway's hop its number.
    pub fn routes_with(&self, mut number: impl FnMut(Neighbour) -> u32) -> Vec<Route> {
        let mut routes = Vec::new();
        for (port, settings) in (0u16..).zip(&self.ports) {
            routes.extend(settings.addresses.iter().map(|network| Route {
                network: network.address,
                prefix: network.prefix,
                port,
                gateway: None,
            }));
        }
        for route in &self.routes {
            if let Some(neighbour) = self.gateway(route.via) {
                routes.push(Route {
                    network: route.to.address,
                    prefix: route.to.prefix,
                    port: neighbour.port,
                    gateway: Some((route.via, number(neighbour))),
                });
            }
        }
        routes
    }

    /// Checks that every backend can be reached: by any route, or for `dsr-l2` on a connected
    /// network, since nothing but the MAC says where the packet goes. And that no VIP is in the way
    /// of a gateway: what weir answers for it does not hear from others.
    ///
    /// # Errors
    /// The first backend that cannot, or the first VIP that is.
    pub fn check_reach(&self, pool: &Pool) -> Result<(), Unreachable> {
        self.check_reach_of(pool, |_| true)
    }

    /// As [`Config::check_reach`], of the services at the places that `is_new` picks.
    ///
    /// # Errors
    /// As [`Config::check_reach`].
    pub fn check_reach_of(
        &self,
        pool: &Pool,
        is_new: impl Fn(usize) -> bool,
    ) -> Result<(), Unreachable> {
        let own: Vec<IpAddr> = self
            .ports
            .iter()
            .flat_map(|port| &port.addresses)
            .map(|own| own.address)
            .collect();
        let services = pool.services.iter().enumerate();
        for (service_index, service) in services.filter(|(place, _)| is_new(*place)) {
            if let Some(message) = self.covered_gateway(service) {
                return Err(Unreachable {
                    service: service.name.clone(),
                    service_index,
                    backend_index: None,
                    message,
                });
            }
            for (backend_index, backend) in service.backends.iter().enumerate() {
                let address = backend.address;
                let direct = service.forwarding == Forwarding::DsrL2;
                let message = if own.contains(&address) {
                    format!("backend {address} is one of weir's own addresses")
                } else if direct && self.connected_port(address).is_none() {
                    format!(
                        "backend {address} is on no port's network; \"dsr-l2\" reaches connected \
                         networks only ({})",
                        self.networks()
                    )
                } else if self.next_hop(address).is_none() {
                    format!(
                        "no route to backend {address}; add a [[route]] that covers it, or a port \
                         address on its network ({})",
                        self.networks()
                    )
                } else if service.forwarding.is_tunnel()
                    && self.tunnel_source(service, address).is_none()
                {
                    format!(
                        "no outer source address toward backend {address}: the port that leads \
                         there has none of its family; add one to it, or set `tunnel_source`"
                    )
                } else {
                    continue;
                };
                let service = service.name.clone();
                return Err(Unreachable {
                    service,
                    service_index,
                    backend_index: Some(backend_index),
                    message,
                });
            }
        }
        Ok(())
    }

    /// What is wrong with a VIP that covers a gateway. In a prefix a gateway may lie whose MAC need not
    /// be heard.
    fn covered_gateway(&self, service: &Service) -> Option<String> {
        let vip = service.vip;
        let is_known = |via: IpAddr| self.neighbours.iter().any(|(known, _)| *known == via);
        let in_the_way = |via: &IpAddr| vip.covers(*via) && !(vip.is_prefix() && is_known(*via));
        let route = self.routes.iter().find(|route| in_the_way(&route.via))?;
        Some(format!(
            "found vip {vip}, which covers the gateway {} of the route to {}: weir answers for the \
             VIP and would not hear the gateway; accepted: a vip without it, or, in a prefix, a \
             gateway with a [[neighbor]] that says its MAC",
            route.via, route.to
        ))
    }

    /// Where outer source addresses of a service's tunnel to `backend` come from: what the service
    /// says, else the own address of the port that leads there.
    #[must_use]
    pub fn tunnel_source(&self, service: &Service, backend: IpAddr) -> Option<TunnelSource> {
        let configured = service.tunnel.sources.toward(backend);
        configured.or_else(|| {
            let hop = self.next_hop(backend)?;
            let port = self.ports.get(usize::from(hop.port))?;
            let address = port.address_toward(hop.address)?;
            let prefix = if address.is_ipv4() { 32 } else { 128 };
            Some(TunnelSource { address, prefix })
        })
    }

    /// Services whose tunnel leaves IPv6 packets no room on a port whose `mtu` is configured: no
    /// sender makes packets smaller than 1,280 bytes because of a path (RFC 8200, section 5), so those
    /// would be lost without end. Where the MSS of TCP is clamped far enough, nothing is lost.
    pub(super) fn narrow_tunnels(&self) -> Vec<String> {
        const LEAST: u16 = 1280;
        const HEADERS: u16 = 40 + 20;
        let way = |service: &Service, backend: IpAddr| {
            let source = self.tunnel_source(service, backend)?;
            let headers = tunnel::outer(service, backend, source)?.overhead();
            let port = self.ports.get(usize::from(self.next_hop(backend)?.port))?;
            Some((port, port.mtu?, headers))
        };
        let narrow = |service: &Service| {
            let ways = service.backends.iter();
            let ways = ways.filter_map(|backend| way(service, backend.address));
            let (port, mtu, headers) =
                ways.min_by_key(|(_, mtu, headers)| mtu.saturating_sub(*headers))?;
            let inner = mtu.saturating_sub(headers);
            let clamped = service.tunnel.mss_clamp.is_some_and(|mss| {
                service.protocol == Protocol::Tcp && mss.saturating_add(HEADERS) <= inner
            });
            (!service.vip.is_ipv4() && inner < LEAST && !clamped).then(|| {
                format!(
                    "service \"{}\": port \"{}\" takes packets of {mtu} bytes, and the tunnel's headers \
                     {headers} of them; IPv6 packets of 1,280 bytes, which no sender makes smaller, \
                     are lost; let its mtu be at least {}, or clamp the MSS of TCP to {} or less",
                    service.name,
                    port.name,
                    LEAST + headers,
                    inner.saturating_sub(HEADERS),
                )
            })
        };
        self.pool.services.iter().filter_map(narrow).collect()
    }

    /// The connected networks, for messages.
    pub(super) fn networks(&self) -> String {
        let networks: Vec<String> = self
            .ports
            .iter()
            .flat_map(|port| {
                port.addresses
                    .iter()
                    .map(|own| format!("{} on {}", own, port.name))
            })
            .collect();
        if networks.is_empty() {
            "no port has an address".to_owned()
        } else {
            format!("connected: {}", networks.join(", "))
        }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}
