//! Stage 4 for nearly every packet, done as soon as its backend or its session is known and its notes
//! are in registers: an ordinary packet to a hop that is resolved.
//!
//! Whatever is unusual about a packet, [`Quick`] leaves it as it is, for `rewrite` to take up. Where a
//! tunnel finds no room for its headers it is too late for that: such a packet is told to be dropped.

use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_engine::wire::tcp::flags;
use weir_shm::counters::{self, DropReason};

use super::Snapshot;
use super::lane::{Lane, Verdict};
use super::rewrite::Outcome;
use crate::adjacency::{Adjacency, Exit};
use crate::forward::full_nat::{self, Ends};
use crate::forward::{Mode, dscp, nat, tunnel};
use crate::parse::Packet;
use crate::service::{Backend, Services};
use crate::session::{Record, Sessions};

/// Packets that leave at once, and what is counted of them.
pub struct Quick<'a> {
    pub(super) services: &'a Services,
    pub(super) counters: &'a CounterWriter,
    adjacency: &'a Adjacency,
    exits: &'a [Exit],
    /// Packets and bytes of one service in one direction, counted when the next packet is
    /// another's: bursts come in runs.
    run: u32,
    packets: u32,
    bytes: u64,
    /// Frames that are to be sent, those of runs before this.
    sent: u32,
    /// The ports that they leave by: the bits in any, and the bits in all.
    any: u16,
    all: u16,
}

/// What tells a run of answers from one of packets to the same service.
const BACK: u32 = 1 << 31;

impl<'a> Quick<'a> {
    #[inline(always)]
    pub fn new(snapshot: &'a Snapshot, counters: &'a CounterWriter) -> Self {
        Self {
            services: &snapshot.services,
            counters,
            adjacency: &snapshot.adjacency,
            exits: snapshot.adjacency.exits(),
            run: 0,
            packets: 0,
            bytes: 0,
            sent: 0,
            any: 0,
            all: u16::MAX,
        }
    }

    /// Hot: rewrites a client's packet for its backend, unless there is more to it. It opens no
    /// connection.
    #[inline(always)]
    pub fn forward<B: Buffer>(&mut self, frame: &mut B, lane: &mut Lane, backend: &Backend) {
        let Some(exit) = self.exits.get(backend.hop as usize) else {
            return;
        };
        let packet = &lane.packet;
        let length = u32::from(packet.ip_len) + u32::from(backend.overhead);
        if length > u32::from(exit.mtu) || packet.tag.is_some() {
            return;
        }
        let data = frame.data_mut();
        let done = match backend.mode {
            Mode::DsrL2 => address(data, exit),
            Mode::Nat => nat::quickly_to_backend(data, packet, backend) && address(data, exit),
            Mode::Tunnel => return self.tunnelled(frame, lane, backend, exit),
            Mode::DsrDscp => return self.marked(frame, lane, backend, exit),
            Mode::FullNat => return found_steady(lane),
        };
        if done {
            let bytes = data.len() as u64;
            self.send_to(lane, backend, backend.service, bytes, exit);
        }
    }

    /// Hot: puts a client's packet into its backend's tunnel. A function of its own, so that the modes
    /// which take less keep their registers.
    #[inline(never)]
    fn tunnelled<B: Buffer>(
        &mut self,
        frame: &mut B,
        lane: &mut Lane,
        backend: &Backend,
        exit: &Exit,
    ) {
        let bytes = frame.len() as u64;
        if let Some(outer) = self.services.outers.get(backend.outer as usize) {
            let done = outer.encapsulate_untagged(frame, &lane.packet, tunnel::entropy(lane.hash));
            self.leaves(frame, lane, backend, exit, bytes, done);
        }
    }

    /// Hot: marks a client's packet for its backend. A function of its own, as
    /// [`Quick::tunnelled`] is.
    #[inline(never)]
    fn marked<B: Buffer>(
        &mut self,
        frame: &mut B,
        lane: &mut Lane,
        backend: &Backend,
        exit: &Exit,
    ) {
        let bytes = frame.len() as u64;
        let Backend { address, dscp, .. } = *backend;
        let done = dscp::to_backend(frame.data_mut(), &lane.packet, address, dscp);
        self.leaves(frame, lane, backend, exit, bytes, done);
    }

    /// Hot: sends what was `bytes` long before it was rewritten, or leaves the reason to drop it.
    #[inline(always)]
    fn leaves<B: Buffer>(
        &mut self,
        frame: &mut B,
        lane: &mut Lane,
        backend: &Backend,
        exit: &Exit,
        bytes: u64,
        done: Result<(), DropReason>,
    ) {
        if let Err(reason) = done {
            dropped(lane, reason);
        } else if address(frame.data_mut(), exit) {
            self.send_to(lane, backend, backend.service, bytes, exit);
        } else {
            dropped(lane, DropReason::Runt);
        }
    }

    /// Hot: rewrites a backend's answer for its client, unless there is more to it.
    #[inline(always)]
    pub fn give_back<B: Buffer>(&mut self, frame: &mut B, lane: &mut Lane) {
        let packet = &lane.packet;
        let Packet {
            version,
            destination,
            ..
        } = *packet;
        let services = self.services;
        if let Some(backend) = services.backends.get(lane.backend as usize)
            && let Some(service) = services.get(backend.service)
            && let Some(hop) = self.adjacency.hop_toward(version, destination)
            && let Some(exit) = self.exits.get(hop as usize)
            && packet.ip_len <= exit.mtu
            && packet.tag.is_none()
            && packet.tcp_flags & (flags::SYN | flags::RST) == 0
            && backend.mode == Mode::Nat
            && let data = frame.data_mut()
            && nat::quickly_to_client(data, packet, service, backend)
            && address(data, exit)
        {
            self.count(backend.service | BACK, data.len() as u64);
            self.send(lane, exit.port);
        }
    }

    /// Hot: rewrites a client's packet for the backend of its session, unless there is more to it.
    #[inline(always)]
    pub fn forward_session<B: Buffer>(
        &mut self,
        frame: &mut B,
        lane: &mut Lane,
        (sessions, worker): (&Sessions, u16),
        record: Record<'_>,
    ) {
        let packet = &lane.packet;
        if let Some(backend) = self.services.backends.get(lane.backend as usize)
            && let Some(exit) = self.exits.get(backend.hop as usize)
            && let Some(own) = sessions.address(record.snat_address())
            && let ends = Ends::of(own.address, record.snat_port(), record.backend())
            && full_nat::length_in(ends.version, packet) <= u32::from(exit.mtu)
            && packet.tag.is_none()
            && packet.tcp_flags & flags::SYN == 0
            && record.is_plain()
            && let bytes = frame.len() as u64
            && let change = record.change()
            && let change = (change.network, change.transport)
            && full_nat::translate_quickly(frame, packet, &ends, change, || own.next_id(worker))
            && address(frame.data_mut(), exit)
        {
            self.send_to(lane, backend, lane.service, bytes, exit);
        }
    }

    /// Hot: rewrites a backend's answer for the client of its session, unless there is more to it.
    #[inline(always)]
    pub fn give_back_session<B: Buffer>(
        &mut self,
        frame: &mut B,
        lane: &mut Lane,
        (sessions, worker): (&Sessions, u16),
        record: Record<'_>,
    ) {
        let packet = &lane.packet;
        if record.is_plain()
            && packet.tag.is_none()
            && packet.tcp_flags & (flags::SYN | flags::RST) == 0
            && let client = record.client()
            && let Some(hop) = self.adjacency.hop_toward(client.version, client.address)
            && let Some(exit) = self.exits.get(hop as usize)
            && full_nat::length_in(client.version, packet) <= u32::from(exit.mtu)
            && let vip = record.vip()
            && let ends = Ends::of(vip.address, vip.port, client)
            && let bytes = frame.len() as u64
            && let change = record.change()
            && let change = (change.network_back, change.transport_back)
            && full_nat::translate_quickly(frame, packet, &ends, change, || {
                sessions.next_id_toward(worker, client.address)
            })
            && address(frame.data_mut(), exit)
        {
            let first = record.service_counters() as usize;
            (self.counters).add_packet(first + counters::RETURN_PACKETS, bytes);
            self.sent += 1;
            self.send(lane, exit.port);
        }
    }

    /// Hot: counts a client's packet of so many bytes for its backend and service, and sends it.
    #[inline(always)]
    fn send_to(
        &mut self,
        lane: &mut Lane,
        backend: &Backend,
        service: u32,
        bytes: u64,
        exit: &Exit,
    ) {
        let first = backend.counters as usize;
        self.counters.add_packet(first + counters::PACKETS, bytes);
        self.count(service, bytes);
        self.send(lane, exit.port);
    }

    #[inline(always)]
    fn send(&mut self, lane: &mut Lane, port: u16) {
        lane.verdict = Verdict::Sent;
        lane.port = port;
        self.any |= port;
        self.all &= port;
    }

    #[inline(always)]
    fn count(&mut self, run: u32, bytes: u64) {
        if self.run != run {
            flush(
                self.services,
                self.counters,
                self.run,
                self.packets,
                self.bytes,
            );
            self.sent += self.packets;
            (self.run, self.packets, self.bytes) = (run, 0, 0);
        }
        self.packets += 1;
        self.bytes += bytes;
    }

    /// Hot: ends a burst of `frames` frames. Gives the port that all of them leave by, where nothing
    /// is left to be done.
    #[inline(always)]
    pub fn end(self, frames: usize) -> Option<u16> {
        flush(
            self.services,
            self.counters,
            self.run,
            self.packets,
            self.bytes,
        );
        let sent = self.sent + self.packets;
        (sent as usize == frames && self.any == self.all).then_some(self.any)
    }
}

/// A packet that was to leave and cannot: it is done with.
#[cold]
fn dropped(lane: &mut Lane, reason: DropReason) {
    lane.verdict = Verdict::Done;
    lane.outcome = Some(Outcome::Drop(reason));
}

/// Hot: leaves a packet to its session, which is told that conntrack found the flow as it was. What a
/// connection ID has named stays so.
#[inline(always)]
fn found_steady(lane: &mut Lane) {
    if lane.verdict == Verdict::Forward {
        lane.verdict = Verdict::Steered;
    }
}

/// Hot: addresses an untagged frame; false if it has no room for that.
#[inline(always)]
fn address(frame: &mut [u8], exit: &Exit) -> bool {
    match frame.first_chunk_mut::<12>() {
        Some(addresses) => {
            *addresses = exit.addresses;
            true
        }
        None => false,
    }
}

#[inline(never)]
fn flush(services: &Services, counters: &CounterWriter, run: u32, packets: u32, bytes: u64) {
    if let Some(service) = services.get(run & !BACK)
        && packets > 0
    {
        let first = service.counters as usize;
        let (of_packets, of_bytes) = if run & BACK == 0 {
            (counters::PACKETS, counters::BYTES)
        } else {
            (counters::RETURN_PACKETS, counters::RETURN_BYTES)
        };
        counters.add(first + of_packets, packets.into());
        counters.add(first + of_bytes, bytes);
    }
}
