//! Stage 4: the mode's change and the Ethernet header.

use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_engine::wire::ethernet::MacAddr;
use weir_engine::wire::tcp::flags;
use weir_engine::wire::{ipv6, protocol};
use weir_shm::counters::{self, DropReason};

use super::aside::{Flow, Whose, Why};
use super::lane::{Lane, Verdict};
use super::{Sink, Snapshot};
use crate::address::Version;
use crate::adjacency::{Adjacency, Neighbour, NextHop};
use crate::forward::{Mode, Steered, full_nat, link, mss};
use crate::parse::Packet;
use crate::service::{Backend, Services};
use crate::session::{Record, Sessions, flag};

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Send(u16),
    /// It has become weir's own answer.
    Answer(u16),
    Punt,
    Hold(Neighbour),
    /// For the kernel, by the control core.
    Kernel {
        expected: bool,
    },
    HandOver(u16),
    Drop(DropReason),
    Aside(Why),
}

/// The worker that has a burst, and the port that it came in by.
#[derive(Debug, Clone, Copy)]
pub struct By {
    pub worker: u16,
    pub port: u16,
}

/// Hot, though less: rewrites the frames of a burst that have not left by `quick`. Afterwards every
/// lane says what becomes of its frame.
#[inline(never)]
pub fn all<B: Buffer>(
    snapshot: &Snapshot,
    by: By,
    counters: &CounterWriter,
    burst: &mut [B],
    lanes: &mut [Lane],
) {
    let mut tally = Tally::new(&snapshot.services, counters);
    for (frame, lane) in burst.iter_mut().zip(lanes) {
        if lane.verdict == Verdict::Sent {
            continue;
        }
        let outcome = if lane.verdict == Verdict::Forward {
            forward(snapshot, by.port, &mut tally, frame, lane)
        } else {
            other(snapshot, by, &mut tally, frame, lane)
        };
        if let Outcome::Send(port) = outcome {
            lane.port = port;
            lane.verdict = Verdict::Sent;
        } else {
            done(lane, outcome);
        }
    }
    tally.flush();
}

#[cold]
fn done(lane: &mut Lane, outcome: Outcome) {
    lane.verdict = Verdict::Done;
    lane.outcome = Some(outcome);
}

/// What is not a client's packet that the common stage has steered.
#[inline(never)]
fn other<B: Buffer>(
    snapshot: &Snapshot,
    By { worker, port }: By,
    tally: &mut Tally<'_>,
    frame: &mut B,
    lane: &Lane,
) -> Outcome {
    match lane.verdict {
        Verdict::Forward | Verdict::Steered | Verdict::Named => {
            forward(snapshot, port, tally, frame, lane)
        }
        Verdict::Return => give_back(snapshot, port, tally, frame, lane),
        Verdict::Session => to_session(snapshot, worker, port, tally, frame, lane),
        Verdict::Answer => from_session(snapshot, worker, port, tally.counters, frame, lane),
        Verdict::HandOver(worker) => Outcome::HandOver(worker),
        Verdict::Punt => Outcome::Punt,
        Verdict::Drop(reason) => Outcome::Drop(reason),
        Verdict::Icmp => Outcome::Aside(Why::Icmp),
        Verdict::Piece => Outcome::Aside(Why::Piece),
        Verdict::Ours(reason) => Outcome::Aside(Why::Ours(reason)),
        Verdict::Reset => Outcome::Aside(Why::Reset),
        Verdict::Refuse(reason) => Outcome::Aside(Why::Refused(reason)),
        // `quick` is done with it already.
        Verdict::Done => lane.outcome.unwrap_or(Outcome::Drop(DropReason::NoBackend)),
        // Earlier stages leave none of these, and what is sent does not come here.
        Verdict::Portless | Verdict::Apart | Verdict::Sent => {
            Outcome::Drop(DropReason::UnknownProtocol)
        }
    }
}

/// What is not simply sent.
#[cold]
#[inline(never)]
pub(super) fn finish<B: Buffer, S: Sink<B>>(
    outcome: Outcome,
    port: u16,
    counters: &CounterWriter,
    frame: B,
    sink: &mut S,
) {
    match outcome {
        Outcome::Send(port) => sink.send(port, frame),
        Outcome::Answer(port) => sink.answer(port, frame),
        Outcome::Punt => {
            counters.add(counters::PUNTED, 1);
            sink.punt(port, frame);
        }
        Outcome::Hold(neighbour) => {
            counters.add(counters::HELD, 1);
            sink.hold(neighbour, frame);
        }
        Outcome::Kernel { expected } => {
            counters.add(counters::PUNTED, 1);
            sink.to_kernel(port, expected, frame);
        }
        Outcome::HandOver(worker) => sink.hand_over(worker, port, frame),
        Outcome::Drop(reason) => {
            counters.add(counters::drop_index(reason), 1);
            sink.refuse(reason, frame);
        }
        // Nothing that was set aside is set aside again.
        Outcome::Aside(_) => {
            counters.add(counters::drop_index(DropReason::IcmpUnsupported), 1);
            sink.refuse(DropReason::IcmpUnsupported, frame);
        }
    }
}

/// A client's packet, to its backend.
#[inline(always)]
fn forward<B: Buffer>(
    snapshot: &Snapshot,
    port: u16,
    tally: &mut Tally<'_>,
    frame: &mut B,
    lane: &Lane,
) -> Outcome {
    let services = &*snapshot.services;
    let Some(backend) = services.backends.get(lane.backend as usize) else {
        return Outcome::Drop(DropReason::NoBackend);
    };
    let bytes = frame.len() as u64;
    let steered = Steered {
        packet: &lane.packet,
        hash: lane.hash,
        backend,
        services,
    };
    let adjacency = &*snapshot.adjacency;
    let length = u32::from(lane.packet.ip_len) + u32::from(backend.overhead);
    let exit = adjacency.exit(backend.hop);
    if exit.is_none_or(|exit| length > u32::from(exit.mtu))
        && !fits(adjacency, adjacency.hop(backend.hop), length)
    {
        return Outcome::Aside(Why::TooLarge(Flow::ToBackend(lane.backend, lane.hash)));
    }
    if backend.mss != 0 && is_syn(frame, &lane.packet) {
        clamp(frame, &lane.packet, backend);
    }
    if let Err(reason) = backend.mode.forward(frame, &steered) {
        return Outcome::Drop(reason);
    }
    let outcome = leave(adjacency, port, frame, &lane.packet, backend.hop);
    if !matches!(outcome, Outcome::Drop(_)) {
        let first = backend.counters as usize;
        tally.counters.add_packet(first + counters::PACKETS, bytes);
        tally.add(lane.service, Way::Forward, bytes);
    }
    outcome
}

/// A backend's answer, to its client.
#[inline(always)]
fn give_back<B: Buffer>(
    snapshot: &Snapshot,
    port: u16,
    tally: &mut Tally<'_>,
    frame: &mut B,
    lane: &Lane,
) -> Outcome {
    let services = &*snapshot.services;
    let packet = &lane.packet;
    let Some(backend) = services.backends.get(lane.backend as usize) else {
        return Outcome::Drop(DropReason::NotOurs);
    };
    let Some(service) = services.get(backend.service) else {
        return Outcome::Drop(DropReason::NoService);
    };
    let bytes = frame.len() as u64;
    let adjacency = &*snapshot.adjacency;
    let number = adjacency.hop_toward(packet.version, packet.destination);
    // Nobody's hop is our own address: an answer to a health check is told by that.
    if number.is_none() && services.is_own(packet.version, packet.destination) {
        return to_ourselves(services, packet);
    }
    let hop = match number {
        Some(number) => adjacency.hop(number),
        None => adjacency.toward(packet.version, packet.destination),
    };
    if !fits(adjacency, hop, packet.ip_len.into()) {
        return Outcome::Aside(Why::TooLarge(Flow::ToClient(lane.backend)));
    }
    if packet.tcp_flags & flags::RST != 0 {
        count_refusal(tally.counters, frame.data(), packet, backend);
    }
    if backend.mss != 0 && is_syn(frame, packet) {
        clamp(frame, packet, backend);
    }
    if let Err(reason) = backend.mode.give_back(frame, packet, service, backend) {
        return Outcome::Drop(reason);
    }
    let outcome = match number {
        Some(number) => leave(adjacency, port, frame, packet, number),
        None => leave_toward(adjacency, port, frame, packet, hop),
    };
    if !matches!(outcome, Outcome::Drop(_)) {
        tally.add(backend.service, Way::Return, bytes);
    }
    outcome
}

/// Whether a packet announces an MSS; for services with a clamp only.
fn is_syn<B: Buffer>(frame: &B, packet: &Packet) -> bool {
    packet.tcp_flags & flags::SYN != 0
        || packet.tcp_flags == 0 && is_unnoticed_syn(frame.data(), packet)
}

/// A SYN to a service of any protocol, which is told by its addresses and not by its flags.
#[cold]
fn is_unnoticed_syn(frame: &[u8], packet: &Packet) -> bool {
    let network = usize::from(packet.network);
    let begins_here = match packet.version {
        // A later piece begins with something else than the header.
        Version::V4 => frame
            .get(network + 6..network + 8)
            .is_some_and(|piece| piece[0] & 0x1f == 0 && piece[1] == 0),
        Version::V6 => usize::from(packet.transport) == network + ipv6::LEN,
    };
    packet.protocol == protocol::TCP
        && begins_here
        && frame
            .get(usize::from(packet.transport) + 13)
            .is_some_and(|octet| octet & flags::SYN != 0)
}

/// From a backend to an address of our own: an answer to a health check, or the kernel's.
#[cold]
fn to_ourselves(services: &Services, packet: &Packet) -> Outcome {
    let is_check = packet.destination_port() >= services.checks_from;
    if !is_check && services.is_kernels(packet.version, packet.destination) {
        Outcome::Aside(Why::Ours(DropReason::NoService))
    } else {
        Outcome::Punt
    }
}

/// Lowers the MSS that a SYN announces, unless its TTL ends here: the error quotes it as it came.
#[cold]
#[inline(never)]
fn clamp<B: Buffer>(frame: &mut B, packet: &Packet, backend: &Backend) {
    if packet.ttl <= 1 && matches!(backend.mode, Mode::Nat | Mode::FullNat) {
        return;
    }
    // Padding behind the packet is none of the segment.
    let end = usize::from(packet.network) + usize::from(packet.ip_len);
    let segment = frame.data_mut().get_mut(usize::from(packet.transport)..end);
    if let Some(segment) = segment {
        mss::clamp(segment, backend.mss);
    }
}

/// Counts a backend's refusal of a connection: a reset with the sequence number zero, which is what
/// answers a SYN to a closed port (RFC 9293, section 3.10.7.1).
#[cold]
fn count_refusal(counters: &CounterWriter, frame: &[u8], packet: &Packet, backend: &Backend) {
    let start = usize::from(packet.transport) + 4;
    if packet.tcp_flags & flags::ACK != 0 && frame.get(start..start + 4) == Some(&[0; 4][..]) {
        counters.add(backend.counters as usize + counters::REFUSED, 1);
    }
}

/// A client's packet, to the backend of its session.
#[inline(never)]
fn to_session<B: Buffer>(
    snapshot: &Snapshot,
    worker: u16,
    port: u16,
    tally: &mut Tally<'_>,
    frame: &mut B,
    lane: &Lane,
) -> Outcome {
    let (services, adjacency) = (&*snapshot.services, &*snapshot.adjacency);
    let Some((sessions, record)) = session(services, worker, lane) else {
        return Outcome::Drop(DropReason::NoSession);
    };
    let (Some(own), Some(backend)) = (
        sessions.address(record.snat_address()),
        services.backends.get(lane.backend as usize),
    ) else {
        return Outcome::Drop(DropReason::NoBackend);
    };
    let (bytes, counters) = (frame.len() as u64, tally.counters);
    let mut packet = lane.packet;
    if packet.tcp_flags & flags::SYN != 0 && backend.mss != 0 {
        clamp(frame, &packet, backend);
    }
    let mtu = adjacency.mtu(backend.hop);
    if full_nat::length_to_backend(&packet, record) > u32::from(mtu) {
        return Outcome::Aside(Why::TooLarge(Flow::OfSession(Whose {
            id: own.next_id(worker).into(),
            ..Whose::whole(worker, lane.session, false)
        })));
    }
    if let Err(reason) = full_nat::to_backend(frame, &mut packet, record, own, worker, mtu) {
        return Outcome::Drop(reason);
    }
    if record.flags() & flag::NO_ROOM != 0 {
        record.lower(flag::NO_ROOM);
        counters.add(counters::TOA_NO_ROOM, 1);
    }
    let outcome = leave(adjacency, port, frame, &packet, backend.hop);
    if !matches!(outcome, Outcome::Drop(_)) {
        let first = backend.counters as usize;
        counters.add(first + counters::PACKETS, 1);
        counters.add(first + counters::BYTES, bytes);
        tally.add(lane.service, Way::Forward, bytes);
    }
    outcome
}

/// A backend's answer, to the client of its session.
#[inline(never)]
fn from_session<B: Buffer>(
    snapshot: &Snapshot,
    worker: u16,
    port: u16,
    counters: &CounterWriter,
    frame: &mut B,
    lane: &Lane,
) -> Outcome {
    let Some((sessions, record)) = session(&snapshot.services, worker, lane) else {
        return Outcome::Drop(DropReason::NoSession);
    };
    let bytes = frame.len() as u64;
    let mut packet = lane.packet;
    let (adjacency, client) = (&*snapshot.adjacency, record.client());
    let next_id = || sessions.next_id_toward(worker, client.address);
    let number = adjacency.hop_toward(client.version, client.address);
    let length = full_nat::length_in(client.version, &packet);
    let exit = number.and_then(|number| adjacency.exit(number));
    if exit.is_none_or(|exit| length > u32::from(exit.mtu))
        && !fits(
            adjacency,
            adjacency.toward(client.version, client.address),
            length,
        )
    {
        return Outcome::Aside(Why::TooLarge(Flow::OfSession(Whose {
            id: next_id().into(),
            ..Whose::whole(worker, lane.session, true)
        })));
    }
    if packet.tcp_flags & (flags::SYN | flags::RST) != 0
        && let backends = &snapshot.services.backends
        && let Some(backend) = backends.get(record.backend_number() as usize)
    {
        if packet.tcp_flags & flags::RST != 0 {
            count_refusal(counters, frame.data(), &packet, backend);
        }
        if backend.mss != 0 {
            clamp(frame, &packet, backend);
        }
    }
    if let Err(reason) = full_nat::to_client(frame, &mut packet, record, next_id) {
        return Outcome::Drop(reason);
    }
    let outcome = match number {
        Some(hop) => leave(adjacency, port, frame, &packet, hop),
        None => {
            let hop = adjacency.toward(packet.version, packet.destination);
            leave_toward(adjacency, port, frame, &packet, hop)
        }
    };
    if !matches!(outcome, Outcome::Drop(_)) {
        let first = record.service_counters() as usize;
        counters.add(first + counters::RETURN_PACKETS, 1);
        counters.add(first + counters::RETURN_BYTES, bytes);
    }
    outcome
}

/// The session that the stage before found.
#[inline]
fn session<'a>(
    services: &'a Services,
    worker: u16,
    lane: &Lane,
) -> Option<(&'a Sessions, Record<'a>)> {
    let sessions = services.sessions.as_ref()?;
    let record = sessions.table(worker.into())?.record(lane.session)?;
    Some((sessions, record))
}

/// The largest IP packet that the port of a hop takes; what has no route is refused elsewhere.
#[inline]
pub(super) fn mtu_toward(adjacency: &Adjacency, hop: NextHop) -> u16 {
    let port = match hop {
        NextHop::Ready { port, .. } => Some(port),
        NextHop::Unresolved(neighbour) => Some(neighbour.port),
        NextHop::NoRoute => None,
    };
    port.and_then(|port| adjacency.port(port))
        .map_or(u16::MAX, |egress| egress.mtu)
}

/// Whether a packet of `length` bytes fits the port of its next hop.
#[inline]
pub(super) fn fits(adjacency: &Adjacency, hop: NextHop, length: u32) -> bool {
    length <= u32::from(mtu_toward(adjacency, hop))
}

/// Addresses a rewritten frame to its next hop.
#[inline(always)]
fn leave<B: Buffer>(
    adjacency: &Adjacency,
    came_by: u16,
    frame: &mut B,
    packet: &Packet,
    hop: u32,
) -> Outcome {
    if let Some(exit) = adjacency.exit(hop)
        && packet.ip_len <= exit.mtu
        && packet.tag.is_none()
        && let Some(addresses) = frame.data_mut().first_chunk_mut::<12>()
    {
        *addresses = exit.addresses;
        return Outcome::Send(exit.port);
    }
    leave_toward(adjacency, came_by, frame, packet, adjacency.hop(hop))
}

/// As [`leave`], where tags, an unknown MAC or a small MTU are in the way.
#[inline(never)]
pub(super) fn leave_toward<B: Buffer>(
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
    match link::address(frame, packet, port == came_by, egress, mac) {
        Err(reason) => Outcome::Drop(reason),
        Ok(()) => match hop {
            NextHop::Unresolved(neighbour) => Outcome::Hold(neighbour),
            NextHop::Ready { .. } | NextHop::NoRoute => Outcome::Send(port),
        },
    }
}

/// Which way a service's packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    Return,
}

/// Packets and bytes of one service in one direction, added to its counters when the next packet is
/// another's: bursts come in runs.
struct Tally<'a> {
    services: &'a Services,
    counters: &'a CounterWriter,
    of: (u32, Way),
    packets: u64,
    bytes: u64,
}

impl<'a> Tally<'a> {
    #[inline(always)]
    fn new(services: &'a Services, counters: &'a CounterWriter) -> Self {
        Self {
            services,
            counters,
            of: (0, Way::Forward),
            packets: 0,
            bytes: 0,
        }
    }

    #[inline(always)]
    fn add(&mut self, service: u32, way: Way, bytes: u64) {
        if self.of != (service, way) {
            self.flush();
            self.of = (service, way);
        }
        self.packets += 1;
        self.bytes += bytes;
    }

    #[inline(never)]
    fn flush(&mut self) {
        let (service, way) = self.of;
        if let Some(service) = self.services.get(service)
            && self.packets > 0
        {
            let first = service.counters as usize;
            let (packets, bytes) = match way {
                Way::Forward => (counters::PACKETS, counters::BYTES),
                Way::Return => (counters::RETURN_PACKETS, counters::RETURN_BYTES),
            };
            self.counters.add(first + packets, self.packets);
            self.counters.add(first + bytes, self.bytes);
        }
        self.packets = 0;
        self.bytes = 0;
    }
}
