//! Packets of `full-nat` sessions that do not fit their way: cut where they may be, else their sender
//! is told.
//!
//! The size that a sender is told is in its own family's count (RFC 7915, sections 4.2 and 5.2): an
//! IPv6 header is 20 bytes longer than an IPv4 one, and what is still to be told of a client takes
//! room, too. IPv4 is cut after the change, with an identification of the new address's own; what
//! becomes IPv6 is cut before, so that each piece gets a fragment header (section 4.1). IPv6 is never
//! cut as such, but what becomes IPv4 and is no larger than the smallest MTU of IPv6 may be
//! (section 5.1).

use weir_engine::buffer::Buffer;
use weir_engine::wire::{ipv6, protocol};
use weir_shm::counters::{self, DropReason};

use super::session_pieces::{FRAGMENT_LEN, between, grow, set_id_v4, shift};
use super::sessions::Whose;
use super::too_large::header_v4;
use super::{Aside, Flow};
use crate::address::Version;
use crate::adjacency::NextHop;
use crate::forward::full_nat::{self, Ends};
use crate::forward::{family, telling};
use crate::fragment::{self, Pieces};
use crate::fragments::Piece;
use crate::parse::Packet;
use crate::pipeline::rewrite::{Outcome, finish, leave_toward, mtu_toward};
use crate::pipeline::{Sink, Snapshot};
use crate::session::{Record, flag};

/// The smallest MTU of an IPv6 link: nobody sends less because of a path (RFC 8201, section 4).
const LEAST_V6: u16 = 1280;

/// The way of a session's packet.
struct Way<'a> {
    record: Record<'a>,
    ends: Ends,
    hop: NextHop,
    /// The largest packet that fits, as it leaves.
    mtu: u16,
    whose: Whose,
}

impl<'a> Way<'a> {
    fn of(snapshot: &'a Snapshot, whose: Whose) -> Option<Self> {
        let (services, adjacency) = (&*snapshot.services, &*snapshot.adjacency);
        let sessions = services.sessions.as_ref()?;
        let record = sessions.table(whose.worker.into())?.record(whose.session)?;
        let own = sessions.address(record.snat_address())?;
        let (ends, hop) = if whose.to_client {
            let (client, vip) = (record.client(), record.vip());
            let hop = adjacency.toward(client.version, client.address);
            (Ends::of(vip.address, vip.port, client), hop)
        } else {
            let number = record.backend_number() as usize;
            let hop = adjacency.hop(services.backends.get(number)?.hop);
            let ends = Ends::of(own.address, record.snat_port(), record.backend());
            (ends, hop)
        };
        Some(Self {
            record,
            ends,
            hop,
            mtu: mtu_toward(adjacency, hop),
            whose,
        })
    }

    /// The largest packet that a sender of this family may send.
    fn allowed(&self, sender: Version) -> u16 {
        let told = if self.whose.to_client {
            0
        } else {
            telling::pending(self.record).max(self.whose.grown.into())
        };
        let fits = full_nat::fits_before(self.mtu, sender, self.ends.version);
        let fits = fits.saturating_sub(told);
        match sender {
            Version::V4 => fits,
            Version::V6 => fits.max(LEAST_V6),
        }
    }
}

impl<B: Buffer> Aside<'_, B> {
    /// Cuts a session's packet, or tells its sender.
    pub(super) fn too_large_of_session<S: Sink<B>>(
        &mut self,
        mut frame: B,
        packet: &Packet,
        whose: Whose,
        sink: &mut S,
    ) {
        let Some(way) = Way::of(self.snapshot, whose) else {
            let outcome = Outcome::Drop(DropReason::NoSession);
            return finish(outcome, self.port, self.counters, frame, sink);
        };
        let may_be_cut = match (header_v4(&frame, packet), way.ends.version) {
            (Some(header), _) => !fragment::is_forbidden(&header),
            (None, Version::V4) => {
                whose.is_piece
                    || full_nat::length_in(Version::V4, packet) <= family::MAY_FRAGMENT.into()
            }
            (None, Version::V6) => false,
        };
        if may_be_cut {
            self.cut_of_session(frame, packet, &way, sink);
        } else {
            let mtu = way.allowed(packet.version);
            let outcome = self.tell_sender(&mut frame, packet, Flow::OfSession(whose), mtu);
            finish(outcome, self.port, self.counters, frame, sink);
        }
    }

    fn cut_of_session<S: Sink<B>>(
        &self,
        mut frame: B,
        packet: &Packet,
        way: &Way<'_>,
        sink: &mut S,
    ) {
        let bytes = frame.len();
        let mut packet = *packet;
        let mut pieces = Leaving {
            aside: self,
            packet,
            way,
            sink,
            made: 0,
        };
        let done = ready(&mut frame, &mut packet, way).and_then(|room| {
            pieces.packet = packet;
            let network = usize::from(packet.network);
            fragment::split(frame.data(), network, room, &mut pieces)
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
            let sent = Outcome::Send(self.port);
            self.counted(sent, way.record, way.whose.to_client, bytes);
        }
        sink.free(frame);
    }
}

/// Changes a packet as far as that is done before it is cut; gives the size of its pieces, with their
/// IP headers as they are then.
fn ready<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    way: &Way<'_>,
) -> Result<usize, DropReason> {
    let Way {
        record,
        ends,
        mtu,
        whose,
        ..
    } = way;
    if packet.ttl <= 1 {
        return Err(DropReason::IpTtl);
    }
    if whose.is_piece {
        shift(frame, packet, *record, whose.to_client)?;
        let mut piece = Piece::read(frame.data(), packet.network, packet.version, packet.tag)?;
        grow(frame, packet, &mut piece, *record, whose.grown)?;
    } else if !whose.to_client {
        full_nat::tell(frame, packet, *record, *mtu)?;
    } else if packet.protocol == protocol::TCP
        && (record.inserted() != 0 || record.flags() & flag::TELLING != 0)
    {
        telling::backend_segment(frame, packet, *record)?;
    }
    if packet.version == Version::V4 && ends.version == Version::V6 {
        let header_len = usize::from(packet.transport).saturating_sub(packet.network.into());
        if packet.protocol == protocol::UDP && !whose.is_piece {
            let payload = usize::from(packet.ip_len).saturating_sub(header_len);
            family::compute_missing_checksum(frame.data_mut(), packet, payload)?;
        }
        // What a piece grows by when it gets its IPv6 headers comes off here.
        return Ok((usize::from(*mtu) + header_len).saturating_sub(ipv6::LEN + FRAGMENT_LEN));
    }
    if whose.is_piece {
        let piece = Piece::read(frame.data(), packet.network, packet.version, packet.tag)?;
        between(frame, &piece, packet, ends, whose.id)?;
    } else {
        full_nat::translate(frame, packet, ends, || whose.id as u16)?;
        set_id_v4(frame.data_mut(), packet.network, whose.id as u16)?;
    }
    Ok((*mtu).into())
}

/// Takes the pieces, and sends them on.
struct Leaving<'a, B, S> {
    aside: &'a Aside<'a, B>,
    packet: Packet,
    way: &'a Way<'a>,
    sink: &'a mut S,
    made: u64,
}

impl<B: Buffer, S: Sink<B>> Leaving<'_, B, S> {
    /// Gives a piece of an IPv4 packet that becomes IPv6 its headers.
    fn translate(&self, frame: &mut B, packet: &mut Packet) -> Result<(), DropReason> {
        let ends = &self.way.ends;
        if packet.version == ends.version {
            return Ok(());
        }
        let piece = Piece::read(frame.data(), packet.network, packet.version, packet.tag)?;
        if !piece.is_first() {
            packet.protocol = protocol::FRAGMENT;
        }
        between(frame, &piece, packet, ends, self.way.whose.id)
    }
}

impl<B: Buffer, S: Sink<B>> Pieces<B> for Leaving<'_, B, S> {
    fn copy(&mut self, bytes: &[u8]) -> Option<B> {
        self.sink.copy(bytes)
    }

    fn take(&mut self, mut piece: B) {
        let aside = self.aside;
        let network = usize::from(self.packet.network);
        let mut packet = Packet {
            ip_len: piece.len().saturating_sub(network) as u16,
            ..self.packet
        };
        let adjacency = &*aside.snapshot.adjacency;
        let outcome = match self.translate(&mut piece, &mut packet) {
            Ok(()) => leave_toward(adjacency, aside.port, &mut piece, &packet, self.way.hop),
            Err(reason) => Outcome::Drop(reason),
        };
        self.made += 1;
        finish(outcome, aside.port, aside.counters, piece, self.sink);
    }
}
