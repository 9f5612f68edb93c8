//! Datagrams of `full-nat` sessions in pieces.
//!
//! All pieces of a datagram leave with one identification of weir's own, since those of different
//! clients would meet at the SNAT address otherwise, and those of different backends at the VIP. A
//! datagram in pieces that begins a flow begins its session at the pieces' owner; whole packets that
//! come to another worker are handed over to there.

use weir_engine::buffer::Buffer;
use weir_engine::wire::checksum::Delta;
use weir_engine::wire::{ipv4, ipv6, protocol};
use weir_shm::counters::DropReason;

use super::sessions::Whose;
use super::{Aside, Flow, Why};
use crate::address::Version;
use crate::forward::full_nat::{self, Ends};
use crate::forward::{family, telling};
use crate::fragments::Piece;
use crate::parse::Packet;
use crate::pipeline::lane::{Lane, Verdict};
use crate::pipeline::rewrite::{Outcome, mtu_toward};
use crate::pipeline::sessions;
use crate::session::Record;
use crate::session::tcp::opens;

/// Bytes of an IPv6 fragment header.
pub(super) const FRAGMENT_LEN: usize = 8;

/// Which session a datagram in pieces is of, and which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    worker: u16,
    session: u32,
    /// The session's flow, by which it is told from a later one in the same place.
    fingerprint: u64,
    /// What all pieces are identified by on their way on.
    id: u32,
    to_client: bool,
    /// Bytes that the datagram grows by: those that tell of its client.
    grown: u8,
}

impl<B: Buffer> Aside<'_, B> {
    /// A first piece of a client's datagram, steered: its session, or a new one. `None` where it is
    /// refused, with the reason in the lane's verdict.
    pub(super) fn begin_to_backend(&self, frame: &B, lane: &mut Lane) -> Option<Held> {
        let sessions = self.sessions()?;
        let known = self.session_of(lane.hash);
        let (worker, session) = match known {
            Some((worker, session)) if worker != self.kept.worker => (worker, session),
            _ => {
                let own = self.kept.worker;
                let services = &*self.snapshot.services;
                let data = frame.data();
                sessions::alone(services, sessions, own, self.now, self.counters, data, lane);
                if lane.verdict != Verdict::Session {
                    return None;
                }
                if known.is_none() {
                    sessions.table(own.into())?.note_piece(lane.session);
                }
                (own, lane.session)
            }
        };
        self.held(worker, session, false)
    }

    /// A first piece of a client's datagram that nobody would take if it were new: its session, if
    /// its backend still takes what it has.
    pub(super) fn go_on_to_backend(&self, lane: &Lane) -> Option<Held> {
        if opens(lane.packet.tcp_flags) {
            return None;
        }
        let (worker, session) = self.session_of(lane.hash)?;
        let number = self.record(worker, session)?.backend_number();
        self.snapshot.services.keeps(lane.service, number)?;
        self.held(worker, session, false)
    }

    /// A first piece of a backend's answer to a SNAT address; `None` where it is of no session.
    pub(super) fn begin_to_client(&self, packet: &Packet) -> Option<Held> {
        let (worker, session) = self.session_at(packet)?;
        self.held(worker, session, true)
    }

    fn held(&self, worker: u16, session: u32, to_client: bool) -> Option<Held> {
        let record = self.record(worker, session)?;
        record.touch_from_afar(self.now);
        // Unlike numbers of other workers, and never repeated soon.
        let (sessions, own) = (self.sessions()?, self.kept.worker);
        let id = if to_client {
            sessions.next_id_toward(own, record.client().address)
        } else {
            sessions.address(record.snat_address())?.next_id(own)
        };
        Some(Held {
            worker,
            session,
            fingerprint: record.fingerprint(),
            id: id.into(),
            to_client,
            // Whoever puts the pieces together tells, and notes that, even if the session is another
            // worker's: nothing else in that word of a UDP session changes.
            grown: if to_client {
                0
            } else {
                telling::pending_in_pieces(record) as u8
            },
        })
    }

    /// Forwards a piece of a session's datagram; `begun` is it as a packet.
    pub(super) fn piece_of_session(
        &self,
        frame: &mut B,
        piece: &Piece,
        begun: &Packet,
        held: Held,
    ) -> Outcome {
        let record = self.record(held.worker, held.session);
        let record = record.filter(|record| record.fingerprint() == held.fingerprint);
        let Some(record) = record else {
            return Outcome::Drop(DropReason::NoSession);
        };
        let Some(own) = self
            .sessions()
            .and_then(|all| all.address(record.snat_address()))
        else {
            return Outcome::Drop(DropReason::NoSession);
        };
        let ends = if held.to_client {
            let (client, vip) = (record.client(), record.vip());
            Ends::of(vip.address, vip.port, client)
        } else {
            Ends::of(own.address, record.snat_port(), record.backend())
        };
        let more = if piece.is_first() { held.grown } else { 0 };
        let length = length_of_piece(piece, ends.version) + u32::from(more);
        if length > u32::from(self.mtu_of(record, held.to_client)) {
            return Outcome::Aside(Why::TooLarge(Flow::OfSession(Whose {
                worker: held.worker,
                session: held.session,
                id: held.id,
                to_client: held.to_client,
                is_piece: true,
                grown: held.grown,
            })));
        }
        if begun.ttl <= 1 {
            return Outcome::Drop(DropReason::IpTtl);
        }
        let (mut packet, mut piece) = (*begun, *piece);
        let changed = shift(frame, &packet, record, held.to_client)
            .and_then(|()| grow(frame, &mut packet, &mut piece, record, held.grown))
            .and_then(|()| between(frame, &piece, &mut packet, &ends, held.id));
        match (changed, held.to_client) {
            (Err(reason), _) => Outcome::Drop(reason),
            (Ok(()), true) => self.leave_to_client(frame, &packet, record),
            (Ok(()), false) => self.leave_to_backend(frame, &packet, record),
        }
    }

    /// The MTU of the port by which a session's packets leave.
    fn mtu_of(&self, record: Record<'_>, to_client: bool) -> u16 {
        let (services, adjacency) = (&*self.snapshot.services, &*self.snapshot.adjacency);
        if to_client {
            let client = record.client();
            let hop = adjacency.toward(client.version, client.address);
            return mtu_toward(adjacency, hop);
        }
        let backend = services.backends.get(record.backend_number() as usize);
        backend.map_or(u16::MAX, |backend| adjacency.mtu(backend.hop))
    }
}

/// The length of a piece in this family.
fn length_of_piece(piece: &Piece, version: Version) -> u32 {
    let length = u32::from(piece.ip_len);
    if piece.version == version {
        return length;
    }
    let headers = match version {
        Version::V4 => ipv4::LEN,
        Version::V6 => ipv6::LEN + FRAGMENT_LEN,
    };
    u32::from(piece.len) + headers as u32
}

/// Sequence numbers of a piece as its receiver counts them. Rare enough to be sent again whole where
/// something is to be put in: a stream whose numbers change, in pieces.
pub(super) fn shift<B: Buffer>(
    frame: &mut B,
    packet: &Packet,
    record: Record<'_>,
    to_client: bool,
) -> Result<(), DropReason> {
    if packet.protocol != protocol::TCP || record.inserted() == 0 {
        return Ok(());
    }
    if to_client {
        telling::backend_segment(frame, &mut { *packet }, record)
    } else {
        telling::shift_piece(frame, packet, record)
    }
}

/// Makes room at the front of a datagram for what tells of its client: the first piece gets it, the
/// others move behind.
pub(super) fn grow<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    piece: &mut Piece,
    record: Record<'_>,
    grown: u8,
) -> Result<(), DropReason> {
    let grown = u16::from(grown);
    if grown == 0 {
        return Ok(());
    }
    let end = u32::from(piece.offset) + u32::from(piece.len) + u32::from(grown);
    if end > u32::from(u16::MAX) {
        return Err(DropReason::TooLarge);
    }
    if piece.is_first() {
        telling::first_piece(frame, packet, record)?;
        piece.len += grown;
        piece.ip_len = packet.ip_len;
        return Ok(());
    }
    piece.offset += grown;
    set_offset(frame.data_mut(), piece)
}

/// Writes a piece's offset into its header.
fn set_offset(frame: &mut [u8], piece: &Piece) -> Result<(), DropReason> {
    let malformed = DropReason::FragmentMalformed;
    if piece.version == Version::V6 {
        let end = usize::from(piece.payload);
        let field = frame.get_mut(end.saturating_sub(6)..end.saturating_sub(4));
        let new = (piece.offset | u16::from(piece.more)).to_be_bytes();
        field.ok_or(malformed)?.copy_from_slice(&new);
        return Ok(());
    }
    let header = frame
        .get_mut(usize::from(piece.network)..)
        .and_then(|rest| rest.first_chunk_mut());
    let header: &mut [u8; ipv4::LEN] = header.ok_or(malformed)?;
    let old = [header[6], header[7]];
    let new = ((u16::from_be_bytes(old) & 0xe000) | (piece.offset / 8)).to_be_bytes();
    [header[6], header[7]] = new;
    let delta = Delta::none().word16(old, new);
    [header[10], header[11]] = delta.apply([header[10], header[11]]);
    Ok(())
}

/// Puts a piece between other ends, under another identification.
pub(super) fn between<B: Buffer>(
    frame: &mut B,
    piece: &Piece,
    packet: &mut Packet,
    ends: &Ends,
    id: u32,
) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::IpTtl);
    }
    if piece.version == ends.version {
        full_nat::translate(frame, packet, ends, || 0)?;
        return set_id(frame.data_mut(), piece, id);
    }
    let cut = family::Cut {
        protocol: if piece.is_first() {
            packet.protocol
        } else {
            piece.protocol
        },
        id,
        offset: piece.offset,
        more: piece.more,
    };
    match ends.version {
        Version::V4 => family::piece_to_v4(frame, packet, ends, cut)?,
        Version::V6 => family::piece_to_v6(frame, packet, ends, cut)?,
    }
    packet.version = ends.version;
    (packet.source, packet.destination) = (ends.source, ends.destination);
    packet.ttl = packet.ttl.saturating_sub(1);
    Ok(())
}

/// Sets a piece's identification within its family.
fn set_id(frame: &mut [u8], piece: &Piece, id: u32) -> Result<(), DropReason> {
    let malformed = DropReason::FragmentMalformed;
    match piece.version {
        Version::V4 => set_id_v4(frame, piece.network, id as u16)?,
        Version::V6 => {
            // The fragment header is the last before the piece's payload.
            let end = usize::from(piece.payload);
            let field = frame.get_mut(end.saturating_sub(4)..end).ok_or(malformed)?;
            field.copy_from_slice(&id.to_be_bytes());
        }
    }
    Ok(())
}

/// Sets the identification of the IPv4 packet at `network`.
pub(super) fn set_id_v4(frame: &mut [u8], network: u8, id: u16) -> Result<(), DropReason> {
    let header = frame
        .get_mut(usize::from(network)..)
        .and_then(|rest| rest.first_chunk_mut());
    let header: &mut [u8; ipv4::LEN] = header.ok_or(DropReason::FragmentMalformed)?;
    let new = id.to_be_bytes();
    let delta = Delta::none().word16([header[4], header[5]], new);
    [header[4], header[5]] = new;
    [header[10], header[11]] = delta.apply([header[10], header[11]]);
    Ok(())
}
