//! Services as workers read them: the VIP lookup, the return map of `nat`, each service's table,
//! and all backends by number.
//!
//! Built whole on the control core for each generation and published by one pointer swap; a
//! service that did not change shares its table with the generation before.

use std::sync::Arc;

use weir_engine::wire::protocol;

use crate::address::{Addr, Version};
use crate::conntrack::Profiles;
use crate::endpoints::{Endpoint, Endpoints};
use crate::flow::{FlowHash, scale};
use crate::forward::Mode;
use crate::parse::Packet;

/// Which flows a backend takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Takes {
    /// None: removed, disabled, or down. Its flows are steered anew.
    #[default]
    Nothing,
    /// Those it has: draining, or of weight zero.
    Known,
    /// Those it has and new ones.
    All,
}

/// A backend under its number. A number without a backend takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backend {
    /// Its address, of the VIP's family.
    pub address: Addr,
    /// Its port as it lies in the frame; zero keeps the packet's.
    pub port: [u8; 2],
    /// Which flows it takes.
    pub takes: Takes,
    /// Its next hop, an index into the adjacency's hops.
    pub hop: u32,
    /// Its first counter.
    pub counters: u32,
}

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    /// How its packets are forwarded.
    pub mode: Mode,
    /// The VIP.
    pub vip: Addr,
    /// The VIP's port as it lies in the frame; zero for any.
    pub port: [u8; 2],
    /// Its time-out profile's number.
    pub profile: u8,
    /// Its first counter.
    pub counters: u32,
    /// The Maglev table: places in `members`.
    pub table: Arc<[u16]>,
    /// The numbers of the backends that take new flows.
    pub members: Arc<[u32]>,
}

impl Service {
    /// Hot: the number of the backend that the table gives a flow.
    #[inline]
    #[must_use]
    pub fn choose(&self, hash: FlowHash) -> Option<u32> {
        let entry = scale((hash.bucket >> 32) as u32, self.table.len() as u32);
        let member = *self.table.get(entry as usize)?;
        self.members.get(usize::from(member)).copied()
    }
}

/// Whose packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// From a client to the VIP of the service with this number.
    Forward(u32),
    /// From a backend of the `nat` service with this number to a client.
    Return(u32),
    /// To an address that is ours, but to no service.
    NoService,
    /// To nobody we know.
    NotOurs,
}

/// All services of one generation.
#[derive(Debug)]
pub struct Services {
    /// The generation.
    pub generation: u64,
    /// The services; their numbers are their places here.
    pub services: Vec<Service>,
    /// Backends; their numbers are their places here.
    pub backends: Vec<Backend>,
    /// The time-out profiles that services and conntrack entries name.
    pub profiles: Profiles,
    /// VIPs with port and protocol, to services.
    pub vips: Endpoints,
    /// Backends of `nat` services with port and protocol, to services.
    pub returns: Endpoints,
    /// VIPs and the ports' own addresses, alone.
    pub local: Endpoints,
    /// Whether any service has `port = "any"`.
    pub any_port: bool,
}

impl Services {
    /// Hot: whose packet it is. Exact ports win over `port = "any"`; VIPs win over answers.
    #[inline]
    #[must_use]
    pub fn owner(&self, packet: &Packet) -> Owner {
        let Packet {
            version, protocol, ..
        } = *packet;
        let to = |port| Endpoint::new(version, packet.destination, port, protocol);
        if let Some(service) = self.lookup(&self.vips, to, packet.destination_port()) {
            return Owner::Forward(service);
        }
        let from = |port| Endpoint::new(version, packet.source, port, protocol);
        if let Some(service) = self.lookup(&self.returns, from, packet.source_port()) {
            return Owner::Return(service);
        }
        if self.local.has_address(version, packet.destination) {
            Owner::NoService
        } else {
            Owner::NotOurs
        }
    }

    #[inline]
    fn lookup(&self, map: &Endpoints, key: impl Fn(u16) -> Endpoint, port: u16) -> Option<u32> {
        map.get(key(port))
            .or_else(|| if self.any_port { map.get(key(0)) } else { None })
    }

    /// Hot: the service with this number.
    #[inline]
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Service> {
        self.services.get(number as usize)
    }

    /// Hot: the backend with this number, if it still takes flows that it has.
    #[inline]
    #[must_use]
    pub fn keeps(&self, number: u32) -> Option<&Backend> {
        self.backends
            .get(number as usize)
            .filter(|backend| backend.takes != Takes::Nothing)
    }

    /// Whether `address` is a VIP or a port's own.
    #[inline]
    #[must_use]
    pub fn is_local(&self, version: Version, address: Addr) -> bool {
        self.local.has_address(version, address)
    }
}

/// The IP protocol number of a configured protocol.
#[must_use]
pub const fn protocol_number(protocol: weir_shm::model::Protocol) -> u8 {
    match protocol {
        weir_shm::model::Protocol::Tcp => protocol::TCP,
        weir_shm::model::Protocol::Udp | weir_shm::model::Protocol::Quic => protocol::UDP,
    }
}
