//! What leaves the common path: ICMP, pieces of datagrams, packets whose TTL ends here, connections
//! that are reset.
//!
//! Set aside by the stages and handled one by one when the burst's other packets have gone, with
//! the same rules: no allocation, no lock, no panic on input. Nothing here is fast, everything is
//! bounded.
//!
//! The flow that such a packet belongs to may be another worker's: its conntrack is read where this
//! worker's knows nothing, before the service's table is asked.

mod errors;
mod exception;
mod large_sessions;
mod pieces;
mod reset;
mod session_pieces;
mod sessions;
mod too_large;

use std::cell::Cell;

use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_engine::wire::protocol;
use weir_shm::counters::{self, DropReason};

use super::choose::Chooser;
use super::rewrite::{Outcome, finish, fits, leave_toward};
use super::{Sink, Snapshot};
use crate::address::{Addr, Version};
use crate::conntrack::{Conntrack, ConntrackReader, Details, Tick};
use crate::exception::Gate;
use crate::flow::{FlowHash, FlowHasher};
use crate::forward::Steered;
use crate::fragments::Fragments;
use crate::icmp::{self, Limiter};
use crate::parse::Packet;
use crate::service::{Backend, Owner, Service};

pub use pieces::Decision;
pub(super) use sessions::Whose;

/// Why a frame is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It is an ICMP message.
    Icmp,
    /// It is a piece of a datagram.
    Piece,
    /// It is to us and nothing that weir speaks: for the kernel, or dropped for this reason.
    Ours(DropReason),
    /// It is of a TCP connection that is to be reset.
    Reset,
    /// Its TTL or hop limit is used up, and nothing of it has been changed.
    Expired,
    /// There is no backend for it, for this reason, and the client is to be told.
    Refused(DropReason),
    /// It does not fit its way, and nothing of it has been changed.
    TooLarge(Flow),
}

/// Whom a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The backend with this number, of the flow with this hash.
    ToBackend(u32, FlowHash),
    /// A client, from the backend with this number.
    ToClient(u32),
    /// The other end of a `full-nat` session.
    OfSession(Whose),
}

/// What a worker keeps for packets that are set aside.
#[derive(Debug)]
pub(super) struct Kept<B> {
    /// Datagrams in pieces; each frame that waits, with the port that it came in by.
    pub fragments: Fragments<(u16, B), Decision>,
    /// How many errors may be made.
    pub limiter: Limiter,
    /// The other workers' conntrack, by their number; this worker's place is in it, too.
    pub peers: Vec<ConntrackReader>,
    /// This worker's number.
    pub worker: u16,
    /// The ways to the kernel, if there are any.
    pub gate: Option<Gate>,
}

impl<B> Default for Kept<B> {
    fn default() -> Self {
        Self {
            fragments: Fragments::default(),
            limiter: Limiter::default(),
            peers: Vec::new(),
            worker: 0,
            gate: None,
        }
    }
}

/// What it takes to handle a frame that came in by `port`.
pub(super) struct Aside<'a, B> {
    pub snapshot: &'a Snapshot,
    pub now: Tick,
    pub port: u16,
    pub hasher: &'a FlowHasher,
    pub conntrack: &'a mut Conntrack,
    pub chooser: &'a mut Chooser,
    pub counters: &'a CounterWriter,
    pub kept: &'a mut Kept<B>,
    /// The number of the backend that a frame turned out to be to or from, for a capture.
    pub decided: Cell<Option<u32>>,
}

impl<B: Buffer> Aside<'_, B> {
    /// Handles a frame that was set aside. `packet` is its descriptor, but for a piece.
    #[cold]
    #[inline(never)]
    pub fn handle<S: Sink<B>>(&mut self, mut frame: B, packet: &Packet, why: Why, sink: &mut S) {
        let outcome = match why {
            Why::Icmp => self.icmp(&mut frame, packet),
            Why::Piece => return self.piece(frame, sink),
            Why::Ours(reason) => self.ours(packet, Outcome::Drop(reason)),
            Why::Reset => self.reset(&mut frame, packet),
            Why::Expired => self.expired(&mut frame, packet),
            Why::Refused(reason) => self.refused(&mut frame, packet, reason),
            Why::TooLarge(_) => Outcome::Aside(why),
        };
        self.finish(outcome, packet, frame, sink);
    }

    /// Does with a frame what was decided. A packet that turned out too large has not been changed.
    fn finish<S: Sink<B>>(&mut self, outcome: Outcome, packet: &Packet, frame: B, sink: &mut S) {
        match outcome {
            Outcome::Aside(Why::TooLarge(flow)) => self.too_large(frame, packet, flow, sink),
            outcome => finish(outcome, self.port, self.counters, frame, sink),
        }
    }

    /// Makes "time exceeded" of a packet whose TTL ends here, from the address of the port that it
    /// came in by (RFC 1812, section 4.3.2.4).
    fn expired(&mut self, frame: &mut B, packet: &Packet) -> Outcome {
        let adjacency = &self.snapshot.adjacency;
        let own = adjacency.own_toward(self.port, packet.version, packet.source);
        let error = icmp::Error::TimeExceeded;
        match own {
            Some(own)
                if self.kept.limiter.allows(error, self.now)
                    && icmp::make_error(frame, packet.network.into(), own, error).is_ok() =>
            {
                Outcome::Answer(self.port)
            }
            _ => Outcome::Drop(DropReason::IpTtl),
        }
    }

    /// Tells a client that there is no backend: a reset of TCP, else "destination unreachable", from
    /// the address that it asked for (RFC 9293, section 3.5.2; RFC 1122, section 3.2.2.1).
    pub(super) fn refused(
        &mut self,
        frame: &mut B,
        packet: &Packet,
        reason: DropReason,
    ) -> Outcome {
        let told = match packet.protocol {
            protocol::TCP => reset::make_reset(frame, packet).is_some(),
            other => {
                let error = if other == protocol::UDP {
                    icmp::Error::PortUnreachable
                } else {
                    icmp::Error::HostUnreachable
                };
                self.kept.limiter.allows(error, self.now)
                    && icmp::make_error(frame, packet.network.into(), packet.destination, error)
                        .is_ok()
            }
        };
        if !told {
            return Outcome::Drop(reason);
        }
        self.told_off(packet);
        Outcome::Answer(self.port)
    }

    /// Counts a client that was told that there is nothing for it; `packet` is as it came.
    fn told_off(&self, packet: &Packet) {
        self.counters.add(counters::RESETS, 1);
        let services = &*self.snapshot.services;
        if let Owner::Forward(place) | Owner::ForwardByAddress(place) = services.owner(packet)
            && let Some(service) = services.get(place)
        {
            let first = service.counters as usize;
            self.counters.add(first + counters::SERVICE_RESETS, 1);
        }
    }

    /// The backend of a flow of the service at `place`: conntrack's answer, this worker's first, or
    /// the table's. What is asked changes nothing.
    fn backend_of(&self, place: u32, asked: &Packet, hash: FlowHash) -> Option<u32> {
        let services = &*self.snapshot.services;
        let keeps = |number: &u32| services.keeps(place, *number).is_some();
        let own = self.conntrack.find(hash, self.now, &services.profiles);
        own.map(|held| held.details().backend())
            .filter(keeps)
            .or_else(|| self.backend_at_peer(place, hash))
            .or_else(|| {
                let service = services.get(place)?;
                let point = service.point(self.hasher, asked, hash);
                service.scheduler.fixed(point).backend().filter(keeps)
            })
    }

    /// What any worker's conntrack knows of a flow, this worker's first.
    fn details_of(&self, hash: FlowHash) -> Option<Details> {
        let profiles = &self.snapshot.services.profiles;
        let own = self.conntrack.find(hash, self.now, profiles);
        let others = || {
            let worker = self.kept.worker;
            let mut others = (0u16..)
                .zip(&self.kept.peers)
                .filter(|(it, _)| *it != worker);
            others.find_map(|(_, table)| table.find(hash, self.now, profiles))
        };
        own.map(|held| held.details()).or_else(others)
    }

    /// As far as another worker's conntrack knows.
    fn backend_at_peer(&self, place: u32, hash: FlowHash) -> Option<u32> {
        let services = &*self.snapshot.services;
        let others = (0u16..).zip(&self.kept.peers);
        others
            .filter(|(worker, _)| *worker != self.kept.worker)
            .filter_map(|(_, table)| table.find(hash, self.now, &services.profiles))
            .map(Details::backend)
            .find(|number| services.keeps(place, *number).is_some())
    }

    /// A client's packet, or an error about what its backend answered, to that backend: `change` is
    /// the mode's.
    fn to_backend(
        &self,
        frame: &mut B,
        packet: &Packet,
        hash: FlowHash,
        number: u32,
        change: impl FnOnce(&mut B, &Steered<'_>) -> Result<(), DropReason>,
    ) -> Outcome {
        let services = &*self.snapshot.services;
        self.decided.set(Some(number));
        let Some(backend) = services.backends.get(number as usize) else {
            return Outcome::Drop(DropReason::NoBackend);
        };
        let length = u32::from(packet.ip_len) + u32::from(backend.overhead);
        let adjacency = &*self.snapshot.adjacency;
        if !fits(adjacency, adjacency.hop(backend.hop), length) {
            return Outcome::Aside(Why::TooLarge(Flow::ToBackend(number, hash)));
        }
        let bytes = frame.len() as u64;
        let steered = Steered {
            packet,
            hash,
            backend,
            services,
        };
        if let Err(reason) = change(frame, &steered) {
            return Outcome::Drop(reason);
        }
        let outcome = leave_toward(
            adjacency,
            self.port,
            frame,
            packet,
            adjacency.hop(backend.hop),
        );
        if !matches!(outcome, Outcome::Drop(_)) {
            let add = |first: u32, index: usize, amount: u64| {
                self.counters.add(first as usize + index, amount);
            };
            add(backend.counters, counters::PACKETS, 1);
            add(backend.counters, counters::BYTES, bytes);
            if let Some(service) = services.get(backend.service) {
                add(service.counters, counters::PACKETS, 1);
                add(service.counters, counters::BYTES, bytes);
            }
        }
        outcome
    }

    /// A backend's answer, or an error about what it was asked, to the client: `change` is the
    /// mode's.
    fn to_client(
        &self,
        frame: &mut B,
        packet: &Packet,
        number: u32,
        change: impl FnOnce(&mut B, &Service, &Backend) -> Result<(), DropReason>,
    ) -> Outcome {
        let services = &*self.snapshot.services;
        self.decided.set(Some(number));
        let Some(backend) = services.backends.get(number as usize) else {
            return Outcome::Drop(DropReason::NotOurs);
        };
        let Some(service) = services.get(backend.service) else {
            return Outcome::Drop(DropReason::NoService);
        };
        let adjacency = &*self.snapshot.adjacency;
        let hop = adjacency.toward(packet.version, packet.destination);
        if !fits(adjacency, hop, packet.ip_len.into()) {
            return Outcome::Aside(Why::TooLarge(Flow::ToClient(number)));
        }
        let bytes = frame.len() as u64;
        if let Err(reason) = change(frame, service, backend) {
            return Outcome::Drop(reason);
        }
        let outcome = leave_toward(adjacency, self.port, frame, packet, hop);
        if !matches!(outcome, Outcome::Drop(_)) {
            let first = service.counters as usize;
            self.counters.add(first + counters::RETURN_PACKETS, 1);
            self.counters.add(first + counters::RETURN_BYTES, bytes);
        }
        outcome
    }

    fn is_local(&self, version: Version, address: Addr) -> bool {
        self.snapshot.services.is_local(version, address)
    }
}
