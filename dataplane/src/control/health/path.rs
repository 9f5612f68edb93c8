//! The way that a check takes: the way of the traffic, as far as a check can.
//!
//! Each forwarding mode says where its checks go. `nat` sends its traffic to the backend's address
//! and port, and so its checks. `dsr-l2` sends it to the VIP with the backend's MAC address: a
//! backend that does not have the VIP on its loopback drops it, and must be found down.
//!
//! A mode whose traffic wears an outer header brings an [`Encapsulation`].

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use weir_shm::model::{Backend, Forwarding, PortMatch, Service};

use crate::adjacency::Neighbour;
use crate::config::Config;

/// What a mode puts around a check's packets.
pub trait Encapsulation: Debug + Send + Sync {
    /// The packet as it leaves, without its Ethernet header.
    fn encapsulate(&self, packet: Vec<u8>) -> Vec<u8>;
    /// Tells one encapsulation from another, so that checks can be shared.
    fn name(&self) -> String;
}

/// The way of a check.
#[derive(Debug, Clone)]
pub struct Path {
    /// weir's own address, which answers come to.
    pub source: IpAddr,
    /// The address that is checked.
    pub target: IpAddr,
    /// The port that is checked; zero where the kind needs none.
    pub port: u16,
    /// Whose MAC address the packets get.
    pub hop: Neighbour,
    /// What is put around the packets.
    pub outer: Option<Arc<dyn Encapsulation>>,
}

/// What tells one path from another.
pub type PathKey = (IpAddr, IpAddr, u16, Neighbour, Option<String>);

impl Path {
    /// The way of a service's checks of a backend; `None` when weir has no address of its own
    /// toward it.
    #[must_use]
    pub fn of(config: &Config, service: &Service, backend: &Backend) -> Option<Self> {
        let hop = config.next_hop(backend.address)?;
        let source = config
            .ports
            .get(usize::from(hop.port))?
            .address_toward(hop.address)?;
        let target = match service.forwarding {
            Forwarding::Nat => backend.address,
            Forwarding::DsrL2 => service.vip,
        };
        let port = service
            .health
            .port
            .or(match (service.forwarding, service.port) {
                (Forwarding::Nat, _) => Some(backend.port),
                (Forwarding::DsrL2, PortMatch::Exact(port)) => Some(port),
                (Forwarding::DsrL2, PortMatch::Any) => None,
            })
            .unwrap_or(0);
        Some(Self {
            source,
            target,
            port,
            hop,
            outer: None,
        })
    }

    /// What tells this path from others.
    #[must_use]
    pub fn key(&self) -> PathKey {
        let outer = self.outer.as_ref().map(|outer| outer.name());
        (self.source, self.target, self.port, self.hop, outer)
    }
}
