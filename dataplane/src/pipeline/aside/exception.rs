//! What is to us and nothing that weir speaks: to the kernel, as far as it may.

use weir_engine::buffer::Buffer;
use weir_engine::wire::protocol;
use weir_shm::counters::DropReason;

use super::Aside;
use crate::address::Version;
use crate::exception::{Passage, is_group_of_link};
use crate::icmp_quote::{self, Message};
use crate::parse::Packet;
use crate::pipeline::rewrite::Outcome;

/// ICMPv6 of neighbour and router discovery, which the control core hears (RFC 4861, section 4).
const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;

impl<B: Buffer> Aside<'_, B> {
    /// A packet that the kernel gets if its port has a way there; `otherwise` says what becomes of
    /// it if not.
    pub(super) fn ours(&mut self, packet: &Packet, otherwise: Outcome) -> Outcome {
        let Some(gate) = &mut self.kept.gate else {
            return otherwise;
        };
        match gate.pass(self.port, packet, self.now) {
            Passage::Closed => otherwise,
            Passage::Open { expected } => Outcome::Kernel { expected },
            Passage::Exceeded => Outcome::Drop(DropReason::KernelRate),
        }
    }

    /// ICMPv6 to a group: discovery is weir's, the rest, as far as it is the link's, the kernel's.
    pub(super) fn icmp_to_group(&mut self, packet: &Packet, icmp: &[u8]) -> Outcome {
        let discovery = icmp.first().is_none_or(|kind| DISCOVERY.contains(kind));
        if discovery || !is_group_of_link(packet.version, packet.destination) {
            return Outcome::Punt;
        }
        self.ours(packet, Outcome::Punt)
    }

    /// ICMP to an own address, neither an error nor an echo request: an answer to a check's echo
    /// request is told by its identifier.
    pub(super) fn other_icmp(&mut self, packet: &Packet, icmp: &[u8]) -> Outcome {
        let services = &*self.snapshot.services;
        let (version, destination) = (packet.version, packet.destination);
        let weirs = match (version, icmp) {
            (Version::V4, [0, _, _, _, a, b, ..]) | (Version::V6, [129, _, _, _, a, b, ..]) => {
                u16::from_be_bytes([*a, *b]) >= services.checks_from
            }
            (Version::V6, [kind, ..]) => DISCOVERY.contains(kind),
            (_, icmp) => icmp.is_empty(),
        };
        if weirs || !services.is_kernels(version, destination) {
            return Outcome::Punt;
        }
        self.ours(packet, Outcome::Punt)
    }

    /// An ICMP error to an own address: about what a check sent, or else about the kernel's.
    pub(super) fn error_about_ourselves(
        &mut self,
        frame: &B,
        packet: &Packet,
        message: &Message,
    ) -> Outcome {
        let services = &*self.snapshot.services;
        let quote = icmp_quote::read(frame.data(), message);
        let tunnels = services.is_tunnel_source(packet.version, packet.destination);
        let weirs = quote.is_ok_and(|quote| match quote.protocol {
            // The outer header of a tunnel may be of UDP, too.
            protocol::UDP if tunnels => true,
            protocol::TCP | protocol::UDP => quote.source_port() >= services.checks_from,
            _ => {
                let echo = frame.data().get(usize::from(quote.transport) + 4..);
                let identifier = echo.and_then(|rest| rest.first_chunk::<2>());
                identifier.is_none_or(|bytes| u16::from_be_bytes(*bytes) >= services.checks_from)
            }
        });
        if weirs || quote.is_err() || !services.is_kernels(packet.version, packet.destination) {
            return Outcome::Punt;
        }
        self.ours(packet, Outcome::Punt)
    }

    /// Whether the kernel takes a piece of a datagram to this address: it puts datagrams together
    /// itself.
    pub(super) fn is_kernels_piece(&self, packet: &Packet) -> bool {
        let services = &*self.snapshot.services;
        let (version, destination) = (packet.version, packet.destination);
        let sessions = services.sessions.as_ref();
        let gate = self.kept.gate.as_ref();
        gate.is_some_and(|gate| gate.is_open(self.port))
            && services.is_kernels(version, destination)
            && sessions.is_none_or(|all| all.find_address(version, destination).is_none())
    }
}
