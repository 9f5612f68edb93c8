//! The packet path: one burst through classify, steer and rewrite.
//!
//! Run to completion on one core. Each stage is a loop over the whole burst, so that the cache
//! misses of one packet (headers, then the conntrack line) overlap with work on the others:
//!
//! 1. `classify`: parse, VIP lookup, flow hash, prefetch of the conntrack line.
//! 2. `steer`: conntrack, or on a miss the service's Maglev table.
//! 3. `rewrite`: the mode's change, then the Ethernet header, then to the sink.
//!
//! Everything here is hot: no allocation, lock, log, system call or panic on input. What a packet
//! needs beyond that (ARP, ICMP, a next hop that is not resolved) goes to the control core through
//! the sink.

mod steer;

use arrayvec::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_engine::wire::ethernet::MacAddr;
use weir_shm::counters::{self, DropReason};

use crate::address::Version;
use crate::adjacency::{Adjacency, Neighbour, NextHop};
use crate::conntrack::{Conntrack, Tick};
use crate::flow::{FlowHash, FlowHasher};
use crate::parse::{Accepts, Packet, Parsed, parse};
use crate::service::{Backend, Owner, Services};

/// Frames of one burst.
pub const BURST: usize = 32;

/// What a worker reads: published whole, by one pointer.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Services, tables and backends.
    pub services: std::sync::Arc<Services>,
    /// Ports, routes and neighbours.
    pub adjacency: std::sync::Arc<Adjacency>,
}

/// Where frames go when the pipeline is done with them. Each frame goes to exactly one place.
pub trait Sink<B> {
    /// To be sent by this port.
    fn send(&mut self, port: u16, frame: B);
    /// For the control core: it came in by this port and is not balanced.
    fn punt(&mut self, port: u16, frame: B);
    /// Rewritten for this neighbour, whose MAC is not known yet: for the control core to keep.
    fn hold(&mut self, neighbour: Neighbour, frame: B);
    /// Dropped; the counter has been raised.
    fn free(&mut self, frame: B) {
        drop(frame);
    }
}

/// What the stages know of a frame.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A client's packet to a service.
    Forward {
        packet: Packet,
        service: u32,
        hash: FlowHash,
    },
    /// A client's packet, its backend chosen.
    Steered {
        packet: Packet,
        service: u32,
        backend: Backend,
    },
    /// A backend's answer.
    Return { packet: Packet, service: u32 },
    /// For the control core.
    Punt,
    /// Refused.
    Drop(DropReason),
}

/// A worker's packet path and what it alone writes.
pub struct Pipeline {
    accepts: Vec<Accepts>,
    hasher: FlowHasher,
    conntrack: Conntrack,
    counters: CounterWriter,
}

impl Pipeline {
    /// From what each port accepts (by number), the flow hash, and the worker's own memory.
    #[must_use]
    pub fn new(
        accepts: Vec<Accepts>,
        hasher: FlowHasher,
        conntrack: Conntrack,
        counters: CounterWriter,
    ) -> Self {
        Self {
            accepts,
            hasher,
            conntrack,
            counters,
        }
    }

    /// The worker's counters.
    pub const fn counters(&mut self) -> &mut CounterWriter {
        &mut self.counters
    }

    /// Hot: takes a burst that came in by `port` at `now` through all stages. The burst is empty
    /// afterwards; every frame has gone to the sink.
    pub fn process<B: Buffer, S: Sink<B>>(
        &mut self,
        snapshot: &Snapshot,
        now: Tick,
        port: u16,
        burst: &mut ArrayVec<B, BURST>,
        sink: &mut S,
    ) {
        let Some(accepts) = self.accepts.get(usize::from(port)).copied() else {
            burst.clear();
            return;
        };
        self.counters.add(counters::RECEIVED, burst.len() as u64);
        let bytes: usize = burst.iter().map(Buffer::len).sum();
        self.counters.add(counters::RECEIVED_BYTES, bytes as u64);
        let mut steps = self.classify(&snapshot.services, accepts, burst);
        for step in &mut steps {
            if let Step::Forward {
                packet,
                service,
                hash,
            } = *step
            {
                *step = self.steer(&snapshot.services, now, &packet, service, hash);
            }
        }
        for (mut frame, step) in burst.drain(..).zip(steps) {
            match self.rewrite(snapshot, port, &mut frame, step) {
                Outcome::Send(port) => sink.send(port, frame),
                Outcome::Punt => {
                    self.counters.add(counters::PUNTED, 1);
                    sink.punt(port, frame);
                }
                Outcome::Hold(neighbour) => {
                    self.counters.add(counters::HELD, 1);
                    sink.hold(neighbour, frame);
                }
                Outcome::Drop(reason) => {
                    self.counters.add(counters::drop_index(reason), 1);
                    sink.free(frame);
                }
            }
        }
    }

    /// Stage 1.
    #[inline]
    fn classify<B: Buffer>(
        &self,
        services: &Services,
        accepts: Accepts,
        burst: &ArrayVec<B, BURST>,
    ) -> ArrayVec<Step, BURST> {
        let mut steps = ArrayVec::new();
        for frame in burst {
            frame.prefetch();
        }
        for frame in burst {
            let step = if frame.is_segmented() {
                Step::Drop(DropReason::Segmented)
            } else {
                match parse(frame.data(), accepts) {
                    Ok(Parsed::Transport(packet)) => self.classify_transport(services, packet),
                    Ok(Parsed::Icmp {
                        destination,
                        version,
                    }) => {
                        // Neighbour discovery goes to multicast groups, which the netstack checks.
                        let group = version == Version::V6 && destination.to_v6()[0] == 0xff;
                        if group || services.is_local(version, destination) {
                            Step::Punt
                        } else {
                            Step::Drop(DropReason::NotOurs)
                        }
                    }
                    Ok(Parsed::Arp) => Step::Punt,
                    Err(reason) => Step::Drop(reason),
                }
            };
            // Never full: a burst holds as many frames as this holds steps.
            let _ = steps.try_push(step);
        }
        steps
    }

    #[inline]
    fn classify_transport(&self, services: &Services, packet: Packet) -> Step {
        match services.owner(&packet) {
            Owner::Forward(service) => {
                let Packet {
                    source,
                    destination,
                    ports,
                    protocol,
                    ..
                } = packet;
                let hash = match packet.version {
                    Version::V4 => self.hasher.ipv4(source, destination, ports, protocol),
                    Version::V6 => self.hasher.ipv6(source, destination, ports, protocol),
                };
                self.conntrack.prefetch(hash);
                Step::Forward {
                    packet,
                    service,
                    hash,
                }
            }
            Owner::Return(service) => Step::Return { packet, service },
            Owner::NoService => Step::Drop(DropReason::NoService),
            Owner::NotOurs => Step::Drop(DropReason::NotOurs),
        }
    }

    /// Stage 3: the mode's change, then the Ethernet header.
    #[inline]
    fn rewrite<B: Buffer>(
        &mut self,
        snapshot: &Snapshot,
        port: u16,
        frame: &mut B,
        step: Step,
    ) -> Outcome {
        let bytes = frame.len() as u64;
        let adjacency = &snapshot.adjacency;
        match step {
            Step::Steered {
                packet,
                service,
                backend,
            } => {
                let Some(service) = snapshot.services.get(service) else {
                    return Outcome::Drop(DropReason::NoService);
                };
                if let Err(reason) = service.mode.forward(frame.data_mut(), &packet, &backend) {
                    return Outcome::Drop(reason);
                }
                let outcome = leave(adjacency, port, frame, &packet, adjacency.hop(backend.hop));
                if !matches!(outcome, Outcome::Drop(_)) {
                    self.counters
                        .add(service.counters as usize + counters::PACKETS, 1);
                    self.counters
                        .add(service.counters as usize + counters::BYTES, bytes);
                    self.counters
                        .add(backend.counters as usize + counters::PACKETS, 1);
                    self.counters
                        .add(backend.counters as usize + counters::BYTES, bytes);
                }
                outcome
            }
            Step::Return { packet, service } => {
                let Some(service) = snapshot.services.get(service) else {
                    return Outcome::Drop(DropReason::NoService);
                };
                if let Err(reason) = service.mode.give_back(frame.data_mut(), &packet, service) {
                    return Outcome::Drop(reason);
                }
                let hop = adjacency.toward(packet.version, packet.destination);
                let outcome = leave(adjacency, port, frame, &packet, hop);
                if !matches!(outcome, Outcome::Drop(_)) {
                    self.counters
                        .add(service.counters as usize + counters::RETURN_PACKETS, 1);
                    self.counters
                        .add(service.counters as usize + counters::RETURN_BYTES, bytes);
                }
                outcome
            }
            Step::Punt => Outcome::Punt,
            Step::Drop(reason) => Outcome::Drop(reason),
            // Stage 2 leaves none of these.
            Step::Forward { .. } => Outcome::Drop(DropReason::NoBackend),
        }
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Send(u16),
    Punt,
    Hold(Neighbour),
    Drop(DropReason),
}

/// Addresses a rewritten frame to its next hop.
#[inline]
fn leave<B: Buffer>(
    adjacency: &Adjacency,
    came_by: u16,
    frame: &mut B,
    packet: &Packet,
    hop: NextHop,
) -> Outcome {
    let (port, mac) = match hop {
        NextHop::Ready { port, mac } => (port, mac),
        // Addressed to nobody for now; the control core fills the MAC in.
        NextHop::Unresolved(neighbour) => (neighbour.port, MacAddr::default()),
        NextHop::NoRoute => return Outcome::Drop(DropReason::NoRoute),
    };
    let Some(egress) = adjacency.port(port) else {
        return Outcome::Drop(DropReason::NoRoute);
    };
    match crate::forward::link::address(frame, packet, port == came_by, egress, mac) {
        Err(reason) => Outcome::Drop(reason),
        Ok(()) => match hop {
            NextHop::Unresolved(neighbour) => Outcome::Hold(neighbour),
            NextHop::Ready { .. } | NextHop::NoRoute => Outcome::Send(port),
        },
    }
}
