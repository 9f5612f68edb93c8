//! Forwarding modes, one file each, and the Ethernet header that they share.
//!
//! A mode changes the packet from its IP header on; [`link`] then addresses the frame to the next
//! hop. A mode that does not touch the IP packet has nothing to do here: `dsr-l2` *is* [`link`].

pub mod dscp;
pub mod geneve;
pub mod gre;
pub mod gue;
pub mod ipip;
pub mod link;
pub mod mss;
pub mod nat;
pub mod tunnel;

use weir_engine::buffer::Buffer;
use weir_shm::counters::DropReason;

use crate::flow::FlowHash;
use crate::parse::Packet;
use crate::service::{Backend, Service, Services};

/// How a service's packets are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Mode {
    /// Direct server return on one link: only the destination MAC changes.
    #[default]
    DsrL2,
    /// Destination address and port change; answers come back through weir.
    Nat,
    /// The modes that the packet path does not have yet.
    Ahead,
}

impl From<weir_shm::model::Forwarding> for Mode {
    fn from(forwarding: weir_shm::model::Forwarding) -> Self {
        match forwarding {
            weir_shm::model::Forwarding::DsrL2 => Self::DsrL2,
            weir_shm::model::Forwarding::Nat => Self::Nat,
            _ => Self::Ahead,
        }
    }
}

/// A client's packet whose backend is chosen: what a mode may look at.
#[derive(Debug, Clone, Copy)]
pub struct Steered<'a> {
    /// Its descriptor.
    pub packet: &'a Packet,
    /// Its flow's hash.
    pub hash: FlowHash,
    /// Its backend.
    pub backend: &'a Backend,
    /// All services: what is not in the backend's line is found here by `backend.service`.
    pub services: &'a Services,
}

impl Mode {
    /// Hot: changes a client's packet for its backend, from the IP header on.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline(always)]
    pub fn forward<B: Buffer>(
        self,
        frame: &mut B,
        steered: &Steered<'_>,
    ) -> Result<(), DropReason> {
        match self {
            Self::DsrL2 => Ok(()),
            Self::Nat => nat::to_backend(frame.data_mut(), steered.packet, steered.backend),
            Self::Ahead => Err(DropReason::NoRoute),
        }
    }

    /// Hot: changes a backend's answer for its client, from the IP header on.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline(always)]
    pub fn give_back<B: Buffer>(
        self,
        frame: &mut B,
        packet: &Packet,
        service: &Service,
        backend: &Backend,
    ) -> Result<(), DropReason> {
        match self {
            Self::DsrL2 | Self::Ahead => Err(DropReason::NotOurs),
            Self::Nat => nat::to_client(frame.data_mut(), packet, service, backend),
        }
    }
}
