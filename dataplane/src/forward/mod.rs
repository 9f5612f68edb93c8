//! Forwarding modes, one file each, and the Ethernet header that they share.
//!
//! A mode changes the packet from its IP header on; [`link`] then addresses the frame to the next
//! hop. A mode that does not touch the IP packet has nothing to do here: `dsr-l2` *is* [`link`].

pub mod dscp;
pub mod family;
pub mod full_nat;
pub mod geneve;
pub mod gre;
pub mod gue;
pub mod ipip;
pub mod link;
pub mod mss;
pub mod nat;
mod segment;
pub mod tcp_options;
pub mod telling;
pub mod tunnel;

use weir_engine::buffer::Buffer;
use weir_shm::counters::DropReason;
use weir_shm::model::Forwarding;

use crate::flow::FlowHash;
use crate::icmp_quote::{self, Message, Quote, Translation};
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
    /// The packet inside another, whichever tunnel it is; see [`tunnel`].
    Tunnel,
    /// Destination address, and a DSCP that stands for the VIP.
    DsrDscp,
    /// Source and destination change, for a session: see [`full_nat`], which its own stage calls.
    FullNat,
}

impl From<Forwarding> for Mode {
    fn from(forwarding: Forwarding) -> Self {
        match forwarding {
            Forwarding::DsrL2 => Self::DsrL2,
            Forwarding::Nat => Self::Nat,
            Forwarding::FullNat => Self::FullNat,
            Forwarding::DsrIpip
            | Forwarding::DsrGue
            | Forwarding::DsrGre
            | Forwarding::DsrGeneve => Self::Tunnel,
            Forwarding::DsrDscp => Self::DsrDscp,
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
            Self::Tunnel => tunnel::to_backend(frame, steered),
            Self::DsrDscp => {
                let Backend { address, dscp, .. } = *steered.backend;
                dscp::to_backend(frame.data_mut(), steered.packet, address, dscp)
            }
            Self::FullNat => Err(DropReason::NoSession),
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
            Self::DsrL2 | Self::Tunnel | Self::DsrDscp | Self::FullNat => Err(DropReason::NotOurs),
            Self::Nat => nat::to_client(frame.data_mut(), packet, service, backend),
        }
    }

    /// Changes a piece of a client's datagram that is not the first, and so has no transport header.
    /// Where the client's packet stays as it is, a piece is one like any other.
    ///
    /// # Errors
    /// The reason to drop it.
    #[cold]
    pub fn forward_piece<B: Buffer>(
        self,
        frame: &mut B,
        steered: &Steered<'_>,
    ) -> Result<(), DropReason> {
        match self {
            Self::Nat => {
                let to = steered.backend.address;
                nat::readdress(frame.data_mut(), steered.packet, nat::End::Destination, to)
            }
            Self::DsrDscp => {
                let Backend { address, dscp, .. } = *steered.backend;
                dscp::piece_to_backend(frame.data_mut(), steered.packet, address, dscp)
            }
            _ => self.forward(frame, steered),
        }
    }

    /// Changes a piece of a backend's datagram that is not the first.
    ///
    /// # Errors
    /// The reason to drop it.
    #[cold]
    pub fn give_back_piece<B: Buffer>(
        self,
        frame: &mut B,
        packet: &Packet,
        service: &Service,
    ) -> Result<(), DropReason> {
        match self {
            Self::Nat => nat::readdress(frame.data_mut(), packet, nat::End::Source, service.vip),
            _ => Err(DropReason::NotOurs),
        }
    }

    /// Changes an ICMP error about an answer from the VIP for the backend that gave the answer. Where
    /// backends answer from the VIP themselves, it concerns them as it is.
    ///
    /// # Errors
    /// The reason to drop it.
    #[cold]
    pub fn forward_error<B: Buffer>(
        self,
        frame: &mut B,
        steered: &Steered<'_>,
        message: &Message,
        quote: &Quote,
    ) -> Result<(), DropReason> {
        match self {
            Self::Nat => {
                let backend = steered.backend;
                let translation = Translation {
                    destination: Some(backend.address),
                    quoted_source: Some((backend.address, backend.port)),
                    ..Translation::default()
                };
                icmp_quote::translate(frame.data_mut(), message, quote, &translation)
            }
            _ => self.forward(frame, steered),
        }
    }

    /// Changes an ICMP error about a client's packet, as its backend got it, for the client.
    ///
    /// # Errors
    /// The reason to drop it.
    #[cold]
    pub fn give_back_error<B: Buffer>(
        self,
        frame: &mut B,
        message: &Message,
        quote: &Quote,
        service: &Service,
    ) -> Result<(), DropReason> {
        match self {
            Self::Nat => {
                let translation = Translation {
                    quoted_destination: Some((service.vip, service.port)),
                    ..Translation::default()
                };
                icmp_quote::translate(frame.data_mut(), message, quote, &translation)
            }
            _ => Err(DropReason::NotOurs),
        }
    }
}
