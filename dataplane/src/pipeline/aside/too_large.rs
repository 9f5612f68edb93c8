//! Packets that do not fit their way, most often because a tunnel's headers come on top.
//!
//! Where a packet may be cut (IPv4 without "don't fragment"), it is: in a tunnel before it is
//! encapsulated, so that the backend puts the client's pieces together and not the tunnel's. Where it
//! may not, its sender is told the size that would fit (RFC 1191, section 4; RFC 8201): a client by
//! the VIP, a backend by the port that its packet came in by.

use weir_engine::buffer::Buffer;
use weir_engine::wire::ipv4;
use weir_shm::counters::{self, DropReason};

use super::{Aside, Flow, Whose};
use crate::address::Version;
use crate::adjacency::{Adjacency, NextHop};
use crate::forward::{Mode, Steered};
use crate::fragment::{self, Pieces};
use crate::icmp;
use crate::parse::Packet;
use crate::pipeline::Sink;
use crate::pipeline::rewrite::{Outcome, finish, leave_toward, mtu_toward};
use crate::service::{Backend, Service};

/// The way of a packet that is too large.
struct Way<'a> {
    backend: &'a Backend,
    service: &'a Service,
    hop: NextHop,
    /// The largest packet that fits, before its mode adds to it.
    mtu: u16,
}

impl<B: Buffer> Aside<'_, B> {
    /// Cuts a packet, or tells its sender.
    pub(super) fn too_large<S: Sink<B>>(
        &mut self,
        mut frame: B,
        packet: &Packet,
        flow: Flow,
        sink: &mut S,
    ) {
        let snapshot = self.snapshot;
        let services = &*snapshot.services;
        let number = match flow {
            Flow::ToBackend(number, _) | Flow::ToClient(number) => number,
            Flow::OfSession(whose) => {
                return self.too_large_of_session(frame, packet, whose, sink);
            }
        };
        self.decided.set(Some(number));
        let backend = services.backends.get(number as usize);
        let both = backend.and_then(|backend| Some((backend, services.get(backend.service)?)));
        let Some((backend, service)) = both else {
            let outcome = Outcome::Drop(DropReason::NoBackend);
            return finish(outcome, self.port, self.counters, frame, sink);
        };
        let adjacency = &*snapshot.adjacency;
        let (hop, overhead) = match flow {
            Flow::ToBackend(..) => (adjacency.hop(backend.hop), backend.overhead),
            _ => (adjacency.toward(packet.version, packet.destination), 0),
        };
        let mtu = mtu_toward(adjacency, hop).saturating_sub(overhead);
        let way = Way {
            backend,
            service,
            hop,
            mtu,
        };
        match header_v4(&frame, packet) {
            Some(header) if !fragment::is_forbidden(&header) => {
                let first = fragment::is_first(&header);
                self.cut(frame, packet, flow, &way, first, sink);
            }
            _ => {
                let outcome = self.tell_sender(&mut frame, packet, flow, mtu);
                finish(outcome, self.port, self.counters, frame, sink);
            }
        }
    }

    /// Makes "fragmentation needed" or "packet too big" of a packet.
    pub(super) fn tell_sender(
        &mut self,
        frame: &mut B,
        packet: &Packet,
        flow: Flow,
        mtu: u16,
    ) -> Outcome {
        let adjacency = &self.snapshot.adjacency;
        let from = match flow {
            Flow::ToBackend(..)
            | Flow::OfSession(Whose {
                to_client: false, ..
            }) => Some(packet.destination),
            Flow::ToClient(_) | Flow::OfSession(_) => {
                adjacency.own_toward(self.port, packet.version, packet.source)
            }
        };
        let error = icmp::Error::TooBig { mtu };
        match from {
            Some(from)
                if self.kept.limiter.allows(error, self.now)
                    && icmp::make_error(frame, packet.network.into(), from, error).is_ok() =>
            {
                Outcome::Answer(self.port)
            }
            _ => Outcome::Drop(DropReason::TooLarge),
        }
    }

    /// Sends a packet in pieces. `first` says that it has a transport header: it is a whole datagram,
    /// or a first piece, that is cut further.
    fn cut<S: Sink<B>>(
        &self,
        mut frame: B,
        packet: &Packet,
        flow: Flow,
        way: &Way<'_>,
        first: bool,
        sink: &mut S,
    ) {
        let bytes = frame.len() as u64;
        // A tunnel takes the pieces in, one by one; other modes change the packet while its transport
        // header is in one piece.
        let tunnel = matches!(flow, Flow::ToBackend(..)) && way.backend.mode == Mode::Tunnel;
        let changed = match tunnel {
            true => Ok(()),
            false => self.change(&mut frame, packet, flow, way, first),
        };
        let mut pieces = Leaving {
            aside: self,
            packet,
            flow,
            way,
            tunnel,
            sink,
            made: 0,
        };
        let done = changed.and_then(|()| {
            let network = usize::from(packet.network);
            fragment::split(frame.data(), network, way.mtu.into(), &mut pieces)
        });
        let made = pieces.made;
        // One frame came in; with those made beyond it, all frames have one fate each.
        match done {
            Ok(()) => self
                .counters
                .add(counters::PIECES_MADE, made.saturating_sub(1)),
            Err(reason) => {
                self.counters.add(counters::PIECES_MADE, made);
                self.counters.add(counters::drop_index(reason), 1);
            }
        }
        if made > 0 {
            self.count(flow, way, bytes);
        }
        match done {
            Ok(()) => sink.free(frame),
            Err(reason) => sink.refuse(reason, frame),
        }
    }

    fn change(
        &self,
        frame: &mut B,
        packet: &Packet,
        flow: Flow,
        way: &Way<'_>,
        first: bool,
    ) -> Result<(), DropReason> {
        let Way {
            backend, service, ..
        } = *way;
        match flow {
            Flow::ToBackend(_, hash) => {
                let steered = Steered {
                    packet,
                    hash,
                    backend,
                    services: &self.snapshot.services,
                };
                if first {
                    backend.mode.forward(frame, &steered)
                } else {
                    backend.mode.forward_piece(frame, &steered)
                }
            }
            _ if first => backend.mode.give_back(frame, packet, service, backend),
            _ => backend.mode.give_back_piece(frame, packet, service),
        }
    }

    fn count(&self, flow: Flow, way: &Way<'_>, bytes: u64) {
        let add = |first: u32, index: usize, amount: u64| {
            self.counters.add(first as usize + index, amount);
        };
        match flow {
            Flow::ToBackend(..) => {
                for first in [way.backend.counters, way.service.counters] {
                    add(first, counters::PACKETS, 1);
                    add(first, counters::BYTES, bytes);
                }
            }
            _ => {
                add(way.service.counters, counters::RETURN_PACKETS, 1);
                add(way.service.counters, counters::RETURN_BYTES, bytes);
            }
        }
    }
}

/// Takes the pieces, and sends them on.
struct Leaving<'a, B, S> {
    aside: &'a Aside<'a, B>,
    packet: &'a Packet,
    flow: Flow,
    way: &'a Way<'a>,
    tunnel: bool,
    sink: &'a mut S,
    made: u64,
}

impl<B: Buffer, S: Sink<B>> Pieces<B> for Leaving<'_, B, S> {
    fn copy(&mut self, bytes: &[u8]) -> Option<B> {
        self.sink.copy(bytes)
    }

    fn take(&mut self, mut piece: B) {
        let aside = self.aside;
        let network = usize::from(self.packet.network);
        let packet = Packet {
            ip_len: piece.len().saturating_sub(network) as u16,
            ..*self.packet
        };
        let changed = match self.tunnel {
            // The outer headers are the same for a first piece and a later one.
            true => aside.change(&mut piece, &packet, self.flow, self.way, true),
            false => Ok(()),
        };
        let adjacency: &Adjacency = &aside.snapshot.adjacency;
        let outcome = match changed {
            Ok(()) => leave_toward(adjacency, aside.port, &mut piece, &packet, self.way.hop),
            Err(reason) => Outcome::Drop(reason),
        };
        self.made += 1;
        finish(outcome, aside.port, aside.counters, piece, self.sink);
    }
}

/// The IPv4 header of a packet; `None` of an IPv6 packet.
pub(super) fn header_v4<B: Buffer>(frame: &B, packet: &Packet) -> Option<[u8; ipv4::LEN]> {
    if packet.version == Version::V6 {
        return None;
    }
    let packet = frame.data().get(packet.network.into()..)?;
    packet.first_chunk().copied()
}
