//! The way that a check takes: the way of the traffic, as far as a check can.
//!
//! Each forwarding mode says where its checks go. `nat` sends its traffic to the backend's address
//! and port, and so its checks. `dsr-l2` sends it to the VIP with the backend's MAC address: a
//! backend that does not have the VIP on its loopback drops it, and must be found down. Tunnels put
//! outer headers around it, and so around its checks: a backend that does not decapsulate is down.
//!
//! `dsr-dscp` sends it to the backend's address with a mark, and the backend answers from the VIP: so
//! a check asks the VIP, and is marked and sent on as the traffic is.
//!
//! A mode that changes packets on their way brings an [`Encapsulation`].

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use weir_engine::buffer::{Buffer, HeapBuffer};
use weir_engine::wire::{ethernet, ipv4, ipv6};
use weir_shm::model::{Backend, Forwarding, Service};

use crate::address::Version;
use crate::adjacency::Neighbour;
use crate::config::Config;
use crate::forward::dscp;
use crate::forward::tunnel::{self, Outer};
use crate::parse::Packet;

/// What a mode does to a check's packets on their way.
pub trait Encapsulation: Debug + Send + Sync {
    /// The packet as it leaves, without its Ethernet header.
    fn encapsulate(&self, packet: Vec<u8>) -> Vec<u8>;
    /// Tells one encapsulation from another, so that checks can be shared.
    fn name(&self) -> String;
}

/// The outer headers that the traffic gets, too.
#[derive(Debug)]
struct Tunnel(Outer);

/// A packet of a check's, which has no IP options, behind an empty Ethernet header; and what it is.
fn framed(packet: &[u8]) -> (HeapBuffer, Packet) {
    let (version, header, protocol) = match packet.first().map(|first| first >> 4) {
        Some(6) => (Version::V6, ipv6::LEN, packet.get(6)),
        _ => (Version::V4, ipv4::LEN, packet.get(9)),
    };
    let descriptor = Packet {
        version,
        network: ethernet::LEN as u8,
        transport: (ethernet::LEN + header) as u16,
        protocol: protocol.copied().unwrap_or_default(),
        ip_len: u16::try_from(packet.len()).unwrap_or(u16::MAX),
        ..Packet::default()
    };
    let bytes = [&[0; ethernet::LEN], packet].concat();
    (HeapBuffer::new(&bytes), descriptor)
}

/// The packet without its Ethernet header.
fn unframed(frame: &HeapBuffer) -> Vec<u8> {
    let packet = frame.data().get(ethernet::LEN..);
    packet.unwrap_or_default().to_vec()
}

/// The address and the mark that traffic gets in `dsr-dscp`.
#[derive(Debug)]
struct Mark {
    backend: IpAddr,
    dscp: u8,
}

impl Encapsulation for Mark {
    fn encapsulate(&self, packet: Vec<u8>) -> Vec<u8> {
        let (mut frame, descriptor) = framed(&packet);
        let backend = self.backend.into();
        match dscp::to_backend(frame.data_mut(), &descriptor, backend, self.dscp) {
            Ok(()) => unframed(&frame),
            Err(_) => Vec::new(),
        }
    }

    fn name(&self) -> String {
        format!("{self:?}")
    }
}

impl Encapsulation for Tunnel {
    fn encapsulate(&self, packet: Vec<u8>) -> Vec<u8> {
        let (mut frame, descriptor) = framed(&packet);
        // One flow is as good as another to find out whether the tunnel works. A packet that does
        // not fit leaves as nothing, and its check fails.
        if self.0.encapsulate(&mut frame, &descriptor, 0).is_err() {
            return Vec::new();
        }
        unframed(&frame)
    }

    fn name(&self) -> String {
        format!("{:?}", self.0)
    }
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
    /// What is done to the packets on their way.
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
        // As the traffic goes: to the VIP where it reaches the backend unchanged.
        let target = match service.forwarding {
            Forwarding::Nat | Forwarding::FullNat => backend.address,
            Forwarding::DsrL2
            | Forwarding::DsrDscp
            | Forwarding::DsrIpip
            | Forwarding::DsrGue
            | Forwarding::DsrGre
            | Forwarding::DsrGeneve => service.vip.address(),
        };
        let toward = if target.is_ipv4() == hop.address.is_ipv4() {
            hop.address
        } else {
            target
        };
        let port = config.ports.get(usize::from(hop.port))?;
        let source = match service.forwarding {
            Forwarding::FullNat => service.snat_toward(target)?,
            _ => port.address_toward(toward)?,
        };
        let outer = match service.tunnel.dscp {
            Some(dscp) if service.forwarding == Forwarding::DsrDscp => {
                let backend = backend.address;
                Some(Arc::new(Mark { backend, dscp }) as Arc<dyn Encapsulation>)
            }
            _ => config
                .tunnel_source(service, backend.address)
                .and_then(|from| tunnel::outer(service, backend.address, from))
                .map(|outer| Arc::new(Tunnel(outer)) as Arc<dyn Encapsulation>),
        };
        let checked = match service.health.port {
            _ if !service.health.kind.needs_a_port() => 0,
            Some(port) => port,
            None if backend.port == 0 => service.port.number(),
            None => backend.port,
        };
        Some(Self {
            source,
            target,
            port: checked,
            hop,
            outer,
        })
    }

    /// What tells this path from others.
    #[must_use]
    pub fn key(&self) -> PathKey {
        let outer = self.outer.as_ref().map(|outer| outer.name());
        (self.source, self.target, self.port, self.hop, outer)
    }
}
