//! Stage 2: whose packet it is, and which flow.

use weir_shm::counters::DropReason;

use super::lane::{Lane, Verdict};
use crate::address::Version;
use crate::conntrack::Lines;
use crate::endpoints::{Endpoint, View};
use crate::flow::FlowHasher;
use crate::parse::Packet;
use crate::service::{Owner, Services};
use crate::session::is_spoken_from;

/// What the look-up needs, at hand for a burst.
pub struct LookUp<'a> {
    services: &'a Services,
    vips: View<'a>,
    returns: View<'a>,
    hasher: &'a FlowHasher,
    lines: Lines<'a>,
    /// Whether every packet that goes to no VIP exactly is an answer from exactly a backend, or
    /// nobody's.
    plain: bool,
    /// The addresses that `full-nat` sends from, where a packet that goes to no VIP exactly and to one
    /// of them is an answer.
    spoken: Option<View<'a>>,
}

impl<'a> LookUp<'a> {
    #[inline(always)]
    pub fn new(services: &'a Services, hasher: &'a FlowHasher, lines: Lines<'a>) -> Self {
        Self {
            services,
            vips: services.vips.view(),
            returns: services.returns.view(),
            hasher,
            lines,
            plain: services.wide.is_none() && services.sessions.is_none(),
            spoken: match (&services.wide, &services.sessions) {
                (None, Some(sessions)) => Some(sessions.addresses_view()),
                _ => None,
            },
        }
    }

    /// Hot: finds the service of a packet of the common shape, hashes its flow, and asks for its
    /// conntrack line; or finds the backend that it comes from. The version is the packet's; where it
    /// is known to the compiler, there is no branch on it.
    #[inline(always)]
    pub fn common(&self, version: Version, lane: &mut Lane) {
        let Packet {
            source,
            destination,
            ports,
            protocol,
            ..
        } = lane.packet;
        let (from, to) = (lane.packet.source_port(), lane.packet.destination_port());
        if let Some(service) = self
            .vips
            .get(Endpoint::new(version, destination, to, protocol))
        {
            let hash = match version {
                Version::V4 => self.hasher.ipv4(source, destination, ports, protocol),
                Version::V6 => self.hasher.ipv6(source, destination, ports, protocol),
            };
            lane.service = service;
            lane.hash = hash;
            lane.line = self.lines.prefetch(hash);
            lane.verdict = Verdict::Forward;
        } else if self.plain
            && let Some(backend) = self
                .returns
                .get(Endpoint::new(version, source, from, protocol))
        {
            lane.backend = backend;
            lane.verdict = Verdict::Return;
        } else if let Some(spoken) = &self.spoken
            && is_spoken_from(to)
            && let Some(address) = spoken.get(Endpoint::address(version, destination))
        {
            lane.backend = address;
            lane.verdict = Verdict::Answer;
        } else {
            self.other(lane);
        }
    }

    /// A packet of any shape, and what is none.
    pub fn any(&self, lane: &mut Lane) {
        match lane.verdict {
            Verdict::Forward => match self.services.exact(&lane.packet) {
                Some(service) => self.known(service, lane),
                None => self.other(lane),
            },
            Verdict::Portless => self.portless(lane),
            _ => {}
        }
    }

    /// What goes to no VIP's exact port.
    #[inline(never)]
    fn other(&self, lane: &mut Lane) {
        if self.services.wide.is_none()
            && let Some(address) = self.services.spoken_from(&lane.packet)
        {
            lane.backend = address.into();
            lane.verdict = Verdict::Answer;
            return;
        }
        lane.verdict = Verdict::Forward;
        match self.services.owner_of_other(&lane.packet) {
            Owner::Forward(service) => self.known(service, lane),
            Owner::ForwardByAddress(service) => self.by_address(service, lane),
            owner => settle(self.services, owner, lane),
        }
    }

    /// A packet whose service is known.
    fn known(&self, service: u32, lane: &mut Lane) {
        lane.service = service;
        lane.hash = self.hasher.packet(&lane.packet);
        lane.line = self.lines.prefetch(lane.hash);
    }

    /// A packet to a service that tells flows by their addresses alone. TCP's flags say nothing
    /// there: what ends is one connection, not all that two addresses have to say to each other.
    #[cold]
    fn by_address(&self, service: u32, lane: &mut Lane) {
        lane.service = service;
        lane.hash = self.hasher.addresses(&lane.packet);
        lane.packet.tcp_flags = 0;
        lane.line = self.lines.prefetch(lane.hash);
    }

    /// A packet without ports: to a service for any protocol, or from a backend of one.
    #[cold]
    fn portless(&self, lane: &mut Lane) {
        lane.verdict = Verdict::Forward;
        match self.services.owner(&lane.packet) {
            Owner::ForwardByAddress(service) => self.by_address(service, lane),
            Owner::Return(backend) => {
                lane.backend = backend;
                lane.verdict = Verdict::Return;
            }
            Owner::NoService
                if self
                    .services
                    .is_kernels(lane.packet.version, lane.packet.destination) =>
            {
                lane.verdict = Verdict::Ours(DropReason::UnknownProtocol);
            }
            Owner::Forward(_) | Owner::Answer(_) | Owner::NoService | Owner::NotOurs => {
                lane.verdict = Verdict::Drop(DropReason::UnknownProtocol);
            }
        }
    }
}

/// What becomes of a packet that is not to a service.
pub fn settle(services: &Services, owner: Owner, lane: &mut Lane) {
    match owner {
        Owner::Forward(service) | Owner::ForwardByAddress(service) => lane.service = service,
        Owner::Answer(address) => {
            lane.backend = address.into();
            lane.verdict = Verdict::Answer;
        }
        Owner::Return(backend) => {
            lane.backend = backend;
            lane.verdict = Verdict::Return;
        }
        Owner::NoService => lane.verdict = to_ourselves(services, &lane.packet),
        Owner::NotOurs => lane.verdict = Verdict::Drop(DropReason::NotOurs),
    }
}

/// A packet to an address of ours that is no service's: an answer to a health check, by its port,
/// or the kernel's, or nothing.
#[cold]
fn to_ourselves(services: &Services, packet: &Packet) -> Verdict {
    let (version, destination) = (packet.version, packet.destination);
    if packet.destination_port() >= services.checks_from && services.is_own(version, destination) {
        Verdict::Punt
    } else if services.is_kernels(version, destination) {
        Verdict::Ours(DropReason::NoService)
    } else {
        Verdict::Drop(DropReason::NoService)
    }
}
