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

use weir_shm::counters::DropReason;

use crate::parse::Packet;
use crate::service::{Backend, Service};

/// How a service's packets are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Direct server return on one link: only the destination MAC changes.
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

impl Mode {
    /// Hot: changes a client's packet for `backend`, from the IP header on.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline]
    pub fn forward(
        self,
        frame: &mut [u8],
        packet: &Packet,
        backend: &Backend,
    ) -> Result<(), DropReason> {
        match self {
            Self::DsrL2 => Ok(()),
            Self::Nat => nat::to_backend(frame, packet, backend),
            Self::Ahead => Err(DropReason::NoRoute),
        }
    }

    /// Hot: changes a backend's answer for its client, from the IP header on.
    ///
    /// # Errors
    /// The reason to drop it.
    #[inline]
    pub fn give_back(
        self,
        frame: &mut [u8],
        packet: &Packet,
        service: &Service,
    ) -> Result<(), DropReason> {
        match self {
            Self::DsrL2 | Self::Ahead => Err(DropReason::NotOurs),
            Self::Nat => nat::to_client(frame, packet, service),
        }
    }
}
