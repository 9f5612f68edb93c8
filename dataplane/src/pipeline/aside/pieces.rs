//! Pieces of datagrams: to their owner, after their first piece.

use weir_engine::buffer::Buffer;
use weir_engine::wire::ethernet::{self, TagControl, ethertype};
use weir_engine::wire::protocol;
use weir_shm::counters::DropReason;
use weir_shm::model::Ping;

use super::Aside;
use super::session_pieces::Held;
use crate::address::Version;
use crate::flow::{FlowHash, scale};
use crate::fragments::{Arrival, Piece};
use crate::parse::Packet;
use crate::pipeline::lane::{Lane, Verdict};
use crate::pipeline::rewrite::{Outcome, finish};
use crate::pipeline::sessions::has_no_backend;
use crate::pipeline::{Sink, steer};
use crate::service::Owner;

/// Where a datagram's first piece went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    way: Way,
    /// The backend's number, which means the same in every generation.
    backend: u32,
    /// The flow's hash.
    hash: FlowHash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToBackend,
    ToClient,
    OfSession(Held),
}

impl<B: Buffer> Aside<'_, B> {
    /// Takes a piece: hands it to its datagram's owner, or forwards, keeps or drops it. A first
    /// piece brings those along that waited for it.
    pub(super) fn piece<S: Sink<B>>(&mut self, mut frame: B, sink: &mut S) {
        let piece = match self.read(&frame) {
            Ok(piece) => piece,
            Err(reason) => {
                finish(Outcome::Drop(reason), self.port, self.counters, frame, sink);
                return;
            }
        };
        if self.is_kernels_piece(&piece.later()) {
            let outcome = self.ours(&piece.later(), Outcome::Drop(DropReason::Fragment));
            finish(outcome, self.port, self.counters, frame, sink);
            return;
        }
        let key = piece.key(self.hasher);
        let workers = self.kept.peers.len().clamp(1, usize::from(u16::MAX)) as u32;
        let owner = scale((key.bucket >> 32) as u32, workers) as u16;
        if workers > 1 && owner != self.kept.worker {
            sink.hand_over(owner, self.port, frame);
            return;
        }
        let begun = if piece.is_first() {
            match piece.begun(frame.data()) {
                Ok(packet) => packet,
                Err(reason) => {
                    finish(Outcome::Drop(reason), self.port, self.counters, frame, sink);
                    return;
                }
            }
        } else {
            piece.later()
        };
        let arrival = self
            .kept
            .fragments
            .arrive(key, &piece, begun.ports, self.now);
        match arrival {
            Arrival::Decide => {
                let (outcome, decision) = self.decide(&mut frame, &piece, &begun);
                self.settle(outcome, &begun, frame, sink);
                self.kept
                    .fragments
                    .decide(key, &piece, begun.ports, decision, self.now);
                self.release(key, sink);
            }
            Arrival::Follow(decision) => {
                let outcome = self.follow(&mut frame, &piece, &begun, decision);
                self.settle(outcome, &begun, frame, sink);
            }
            Arrival::Wait => {
                let bytes = frame.len();
                let waiting = (self.port, frame);
                if let Err((_, frame)) = self.kept.fragments.hold(key, waiting, bytes, self.now) {
                    let outcome = Outcome::Drop(DropReason::FragmentTableFull);
                    finish(outcome, self.port, self.counters, frame, sink);
                }
            }
            Arrival::Refuse(reason) => {
                finish(Outcome::Drop(reason), self.port, self.counters, frame, sink);
            }
        }
    }

    /// The pieces that waited for the first one of `key`, in the order in which they came.
    fn release<S: Sink<B>>(&mut self, key: FlowHash, sink: &mut S) {
        let came_by = self.port;
        while let Some((port, mut frame)) = self.kept.fragments.release(key, self.now) {
            self.port = port;
            let mut begun = Packet::default();
            let outcome = match self.read(&frame) {
                Ok(piece) => {
                    begun = piece.later();
                    let arrival = self.kept.fragments.arrive(key, &piece, 0, self.now);
                    match arrival {
                        Arrival::Follow(decision) => {
                            self.follow(&mut frame, &piece, &begun, decision)
                        }
                        Arrival::Refuse(reason) => Outcome::Drop(reason),
                        // Its first piece has come.
                        Arrival::Decide | Arrival::Wait => Outcome::Drop(DropReason::Fragment),
                    }
                }
                Err(reason) => Outcome::Drop(reason),
            };
            self.finish(outcome, &begun, frame, sink);
        }
        self.port = came_by;
    }

    /// A first piece whose TTL ends here is answered like a whole packet.
    fn settle<S: Sink<B>>(
        &mut self,
        outcome: Outcome,
        packet: &Packet,
        mut frame: B,
        sink: &mut S,
    ) {
        let outcome = match outcome {
            Outcome::Drop(DropReason::IpTtl) => self.expired(&mut frame, packet),
            other => other,
        };
        self.finish(outcome, packet, frame, sink);
    }

    /// Reads a piece that somebody here may want.
    fn read(&self, frame: &B) -> Result<Piece, DropReason> {
        let (network, version, tag) = network_of(frame.data())?;
        let piece = Piece::read(frame.data(), network, version, tag)?;
        let services = &*self.snapshot.services;
        let from_backend = || services.returns.has_address(version, piece.source);
        if services.is_local(version, piece.destination) || from_backend() {
            Ok(piece)
        } else {
            Err(DropReason::NotOurs)
        }
    }

    /// Forwards a first piece as the packet that it begins, and says where the others are to go.
    fn decide(
        &mut self,
        frame: &mut B,
        piece: &Piece,
        packet: &Packet,
    ) -> (Outcome, Option<Decision>) {
        let services = &*self.snapshot.services;
        if matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6) {
            return self.decide_ping(frame, packet);
        }
        match services.owner(packet) {
            owner @ (Owner::Forward(service) | Owner::ForwardByAddress(service)) => {
                let by_address = matches!(owner, Owner::ForwardByAddress(_));
                let (hash, tcp_flags) = if by_address {
                    (self.hasher.addresses(packet), 0)
                } else {
                    (self.hasher.packet(packet), packet.tcp_flags)
                };
                let mut lane = Lane {
                    packet: Packet {
                        tcp_flags,
                        ..*packet
                    },
                    hash,
                    service,
                    ..Lane::default()
                };
                match self.backend_at_peer_only(service, hash) {
                    Some(number) => lane.backend = number,
                    None => {
                        steer::alone(
                            services,
                            self.now,
                            self.conntrack,
                            self.chooser,
                            self.counters,
                            frame.data(),
                            &mut lane,
                        );
                    }
                }
                let full_nat = services
                    .get(service)
                    .is_some_and(|service| service.full_nat.is_some());
                if full_nat
                    && has_no_backend(lane.verdict)
                    && let Some(held) = self.go_on_to_backend(&lane)
                {
                    return self.of_session(frame, piece, packet, held);
                }
                match lane.verdict {
                    Verdict::Drop(reason) => return (Outcome::Drop(reason), None),
                    Verdict::Refuse(reason) => {
                        return (self.refused(frame, packet, reason), None);
                    }
                    Verdict::Reset => return (self.reset(frame, packet), None),
                    _ => {}
                }
                if full_nat {
                    return match self.begin_to_backend(frame, &mut lane) {
                        Some(held) => self.of_session(frame, piece, packet, held),
                        None => match lane.verdict {
                            Verdict::Drop(reason) => (Outcome::Drop(reason), None),
                            Verdict::Reset => (self.reset(frame, packet), None),
                            _ => (Outcome::Drop(DropReason::NoSession), None),
                        },
                    };
                }
                if lane.verdict == Verdict::Reset {
                    return (self.reset(frame, packet), None);
                }
                let decision = Decision {
                    way: Way::ToBackend,
                    backend: lane.backend,
                    hash,
                };
                let outcome =
                    self.to_backend(frame, packet, hash, lane.backend, |frame, steered| {
                        steered.backend.mode.forward(frame, steered)
                    });
                (outcome, Some(decision))
            }
            Owner::Return(backend) => {
                let decision = Decision {
                    way: Way::ToClient,
                    backend,
                    hash: FlowHash::default(),
                };
                let outcome = self.to_client(frame, packet, backend, |frame, service, backend| {
                    backend.mode.give_back(frame, packet, service, backend)
                });
                (outcome, Some(decision))
            }
            Owner::Answer(_) => match self.begin_to_client(packet) {
                Some(held) => self.of_session(frame, piece, packet, held),
                None => (Outcome::Drop(DropReason::NoSession), None),
            },
            Owner::NoService => (Outcome::Drop(DropReason::NoService), None),
            Owner::NotOurs => (Outcome::Drop(DropReason::NotOurs), None),
        }
    }

    fn of_session(
        &self,
        frame: &mut B,
        piece: &Piece,
        packet: &Packet,
        held: Held,
    ) -> (Outcome, Option<Decision>) {
        let decision = Decision {
            way: Way::OfSession(held),
            backend: 0,
            hash: FlowHash::default(),
        };
        let outcome = self.piece_of_session(frame, piece, packet, held);
        (outcome, Some(decision))
    }

    /// A ping in pieces can be forwarded; weir answers none that large.
    fn decide_ping(&self, frame: &mut B, packet: &Packet) -> (Outcome, Option<Decision>) {
        let services = &*self.snapshot.services;
        let place = services.at_vip(packet.version, packet.destination);
        let service = place.and_then(|place| Some((place, services.get(place)?)));
        let refused = |reason| (Outcome::Drop(reason), None);
        let Some((place, service)) = service else {
            return refused(DropReason::Fragment);
        };
        match service.ping {
            Ping::Answer => refused(DropReason::Fragment),
            Ping::Drop => refused(DropReason::PingRefused),
            Ping::Forward => {
                let hash = self.hasher.packet(packet);
                let chosen = service.choose(hash);
                let Some(backend) =
                    chosen.filter(|number| services.keeps(place, *number).is_some())
                else {
                    return refused(DropReason::PingRefused);
                };
                let outcome = self.to_backend(frame, packet, hash, backend, |frame, steered| {
                    steered.backend.mode.forward(frame, steered)
                });
                let decision = Decision {
                    way: Way::ToBackend,
                    backend,
                    hash,
                };
                (outcome, Some(decision))
            }
        }
    }

    /// What another worker knows of a flow that this one does not.
    fn backend_at_peer_only(&self, place: u32, hash: FlowHash) -> Option<u32> {
        let profiles = &self.snapshot.services.profiles;
        match self.conntrack.find(hash, self.now, profiles) {
            Some(_) => None,
            None => self.backend_at_peer(place, hash),
        }
    }

    /// Forwards a piece where the first one went; `begun` is it as a packet. A first one comes here
    /// when it is a duplicate.
    fn follow(&self, frame: &mut B, piece: &Piece, begun: &Packet, decision: Decision) -> Outcome {
        let first = piece.is_first();
        match decision.way {
            Way::ToBackend => {
                let Decision { hash, backend, .. } = decision;
                self.to_backend(frame, begun, hash, backend, |frame, steered| {
                    let mode = steered.backend.mode;
                    if first {
                        mode.forward(frame, steered)
                    } else {
                        mode.forward_piece(frame, steered)
                    }
                })
            }
            Way::OfSession(held) => self.piece_of_session(frame, piece, begun, held),
            Way::ToClient => {
                self.to_client(frame, begun, decision.backend, |frame, service, backend| {
                    let mode = backend.mode;
                    if first {
                        mode.give_back(frame, begun, service, backend)
                    } else {
                        mode.give_back_piece(frame, begun, service)
                    }
                })
            }
        }
    }
}

/// Where the IP header of a frame starts, which version it is, and the tag before it. The parser has
/// been over the frame.
fn network_of(frame: &[u8]) -> Result<(u8, Version, Option<TagControl>), DropReason> {
    let (header, rest) = frame
        .split_first_chunk::<{ ethernet::LEN }>()
        .ok_or(DropReason::Runt)?;
    // A datagram to one of us in a frame to many (RFC 1122, section 3.3.6).
    if ethernet::destination(header).is_multicast() {
        return Err(DropReason::L2Multicast);
    }
    let (kind, tag) = match ethertype(header) {
        ethertype::VLAN => {
            let tag = rest.first_chunk::<4>().ok_or(DropReason::Runt)?;
            let control = TagControl(u16::from_be_bytes([tag[0], tag[1]]));
            (u16::from_be_bytes([tag[2], tag[3]]), Some(control))
        }
        kind => (kind, None),
    };
    let network = match tag {
        None => ethernet::LEN,
        Some(_) => ethernet::LEN + ethernet::TAG_LEN,
    } as u8;
    match kind {
        ethertype::IPV4 => Ok((network, Version::V4, tag)),
        ethertype::IPV6 => Ok((network, Version::V6, tag)),
        _ => Err(DropReason::UnknownEthertype),
    }
}
