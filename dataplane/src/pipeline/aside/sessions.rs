//! What is set aside and is a `full-nat` session's: ICMP errors about its packets, and its datagrams
//! in pieces.
//!
//! Whichever worker gets such a frame reads the session where it is, in its own table or another's, and
//! notes that it was seen; only sessions of its own does it change otherwise. A datagram in pieces that
//! begins a flow begins its session at the pieces' owner; whole packets that come to another worker
//! are handed over to there. All pieces of a datagram leave with one identification
//! of weir's own, since those of different clients would meet at the SNAT address otherwise, and those
//! of different backends at the VIP.

use weir_engine::buffer::Buffer;
use weir_engine::wire::checksum::Delta;
use weir_engine::wire::{ipv4, ipv6, protocol};
use weir_shm::counters::{self, DropReason};

use super::{Aside, Flow, Why};
use crate::address::Version;
use crate::flow::FlowHash;
use crate::forward::full_nat::{self, Ends};
use crate::forward::{family, telling};
use crate::fragments::Piece;
use crate::icmp_family;
use crate::icmp_quote::{self, Message, Quote, Translation};
use crate::parse::Packet;
use crate::pipeline::lane::{Lane, Verdict};
use crate::pipeline::rewrite::{Outcome, leave_toward, mtu_toward};
use crate::pipeline::sessions;
use crate::session::tcp::opens;
use crate::session::{Record, Sessions, Side, owner};

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
}

/// Whose packet it is that does not fit its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    pub worker: u16,
    pub session: u32,
    /// What its pieces are identified by, if it is cut.
    pub id: u32,
    pub to_client: bool,
    /// Whether it is a piece already.
    pub is_piece: bool,
}

impl Whose {
    /// A whole packet of a session.
    pub const fn whole(worker: u16, session: u32, to_client: bool) -> Self {
        Self {
            worker,
            session,
            id: 0,
            to_client,
            is_piece: false,
        }
    }
}

impl<B: Buffer> Aside<'_, B> {
    fn sessions(&self) -> Option<&Sessions> {
        self.snapshot.services.sessions.as_ref()
    }

    pub(super) fn record(&self, worker: u16, session: u32) -> Option<Record<'_>> {
        let record = self.sessions()?.table(worker.into())?.record(session)?;
        let found = (record.fingerprint() != 0 && record.is_live(self.now)).then_some(record)?;
        self.decided.set(Some(found.backend_number()));
        Some(found)
    }

    /// The live session of a flow, this worker's first.
    fn session_of(&self, hash: FlowHash) -> Option<(u16, u32)> {
        let own = self.kept.worker;
        let others = (0..self.sessions()?.workers()).filter(|worker| *worker != own);
        std::iter::once(own).chain(others).find_map(|worker| {
            let session = self.sessions()?.table(worker.into())?.find(hash)?;
            self.record(worker, session).map(|_| (worker, session))
        })
    }

    /// The live session that `packet`, from a backend to a SNAT address, is of.
    fn session_at(&self, packet: &Packet) -> Option<(u16, u32)> {
        let sessions = self.sessions()?;
        let number = sessions.find_address(packet.version, packet.destination)?;
        let port = packet.destination_port();
        let session = sessions.address(number)?.session(packet.protocol, port)?;
        let worker = owner(port, sessions.workers());
        let from = Side {
            version: packet.version,
            address: packet.source,
            port: packet.source_port(),
        };
        let record = self.record(worker, session)?;
        (record.backend() == from).then_some((worker, session))
    }

    /// An error about a packet that went to a backend from a SNAT address: to the client. `asked` is
    /// the quoted packet's other direction. `None` where no session is concerned.
    pub(super) fn error_of_session(
        &self,
        frame: &mut B,
        packet: &Packet,
        (message, quote): (&Message, &Quote),
        asked: &Packet,
    ) -> Option<Outcome> {
        let (worker, session) = self.session_at(asked)?;
        let record = self.record(worker, session)?;
        let (client, vip) = (record.client(), record.vip());
        let told = telling::pending(record);
        if client.version != packet.version {
            if quote.protocol == protocol::TCP && record.inserted() != 0 {
                as_the_client_counts(frame.data_mut(), message, quote, record);
            }
            let way = icmp_family::Way {
                carrier: Ends::of(vip.address, 0, client),
                quoted: Ends {
                    source_port: client.port,
                    ..Ends::of(client.address, 0, vip)
                },
                mtu: self.mtu_between(record, client.version),
                inserted: told,
            };
            let mut packet = *packet;
            let made = icmp_family::translate(frame, &mut packet, message, quote, &way);
            return Some(match made {
                Ok(()) => self.leave_to_client(frame, &packet, record),
                Err(reason) => Outcome::Drop(reason),
            });
        }
        let translation = Translation {
            destination: Some(client.address),
            quoted_source: Some((client.address, client.port.to_be_bytes())),
            quoted_destination: Some((vip.address, vip.port.to_be_bytes())),
            ..Translation::default()
        };
        if let Err(reason) = icmp_quote::translate(frame.data_mut(), message, quote, &translation) {
            return Some(Outcome::Drop(reason));
        }
        if quote.protocol == protocol::TCP && record.inserted() != 0 {
            as_the_client_counts(frame.data_mut(), message, quote, record);
        }
        if told != 0 {
            icmp_family::lower_mtu(frame.data_mut(), message, told);
        }
        Some(self.leave_to_client(frame, packet, record))
    }

    /// The largest packet that an end of a session between families may send, whose family this is,
    /// as far as the ports on both sides decide.
    fn mtu_between(&self, record: Record<'_>, sender: Version) -> u16 {
        let (services, adjacency) = (&*self.snapshot.services, &*self.snapshot.adjacency);
        let client = record.client();
        let to_client = mtu_toward(adjacency, adjacency.toward(client.version, client.address));
        let backend = services.backends.get(record.backend_number() as usize);
        let to_backend = backend.map_or(u16::MAX, |backend| adjacency.mtu(backend.hop));
        let (near, far) = if sender == client.version {
            (to_client, to_backend)
        } else {
            (to_backend, to_client)
        };
        let other = match sender {
            Version::V4 => Version::V6,
            Version::V6 => Version::V4,
        };
        near.min(full_nat::fits_before(far, sender, other))
    }

    /// An error about an answer from the VIP: to the backend of the session that it was of. `None`
    /// where there is none.
    pub(super) fn error_to_session(
        &self,
        frame: &mut B,
        packet: &Packet,
        (message, quote): (&Message, &Quote),
        hash: FlowHash,
    ) -> Option<Outcome> {
        let (worker, session) = self.session_of(hash)?;
        let record = self.record(worker, session)?;
        let own = self.sessions()?.address(record.snat_address())?;
        let backend = record.backend();
        if backend.version != packet.version {
            let way = icmp_family::Way {
                carrier: Ends::of(own.address, 0, backend),
                quoted: Ends {
                    version: backend.version,
                    source: backend.address,
                    source_port: backend.port,
                    destination: own.address,
                    destination_port: record.snat_port(),
                },
                mtu: self.mtu_between(record, backend.version),
                inserted: 0,
            };
            let mut packet = *packet;
            let made = icmp_family::translate(frame, &mut packet, message, quote, &way);
            return Some(match made {
                Ok(()) => self.leave_to_backend(frame, &packet, record),
                Err(reason) => Outcome::Drop(reason),
            });
        }
        let translation = Translation {
            destination: Some(backend.address),
            quoted_source: Some((backend.address, backend.port.to_be_bytes())),
            quoted_destination: Some((own.address, record.snat_port().to_be_bytes())),
            ..Translation::default()
        };
        if let Err(reason) = icmp_quote::translate(frame.data_mut(), message, quote, &translation) {
            return Some(Outcome::Drop(reason));
        }
        Some(self.leave_to_backend(frame, packet, record))
    }

    fn leave_to_backend(&self, frame: &mut B, packet: &Packet, record: Record<'_>) -> Outcome {
        let (services, adjacency) = (&*self.snapshot.services, &*self.snapshot.adjacency);
        let Some(backend) = services.backends.get(record.backend_number() as usize) else {
            return Outcome::Drop(DropReason::NoBackend);
        };
        let bytes = frame.len();
        let hop = adjacency.hop(backend.hop);
        let outcome = leave_toward(adjacency, self.port, frame, packet, hop);
        self.counted(outcome, record, false, bytes)
    }

    pub(super) fn leave_to_client(
        &self,
        frame: &mut B,
        packet: &Packet,
        record: Record<'_>,
    ) -> Outcome {
        let (adjacency, client) = (&*self.snapshot.adjacency, record.client());
        let bytes = frame.len();
        let hop = adjacency.toward(client.version, client.address);
        let outcome = leave_toward(adjacency, self.port, frame, packet, hop);
        self.counted(outcome, record, true, bytes)
    }

    pub(super) fn counted(
        &self,
        outcome: Outcome,
        record: Record<'_>,
        back: bool,
        bytes: usize,
    ) -> Outcome {
        if matches!(outcome, Outcome::Drop(_)) {
            return outcome;
        }
        let add = |first: u32, index: usize, amount: u64| {
            self.counters.add(first as usize + index, amount);
        };
        let service = record.service_counters();
        if back {
            add(service, counters::RETURN_PACKETS, 1);
            add(service, counters::RETURN_BYTES, bytes as u64);
            return outcome;
        }
        let backend = counters::backend_base(record.backend_number()) as u32;
        for first in [service, backend] {
            add(first, counters::PACKETS, 1);
            add(first, counters::BYTES, bytes as u64);
        }
        outcome
    }

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
        if length_of_piece(piece, ends.version) > u32::from(self.mtu_of(record, held.to_client)) {
            return Outcome::Aside(Why::TooLarge(Flow::OfSession(Whose {
                worker: held.worker,
                session: held.session,
                id: held.id,
                to_client: held.to_client,
                is_piece: true,
            })));
        }
        let mut packet = *begun;
        let changed = shift(frame, &packet, record, held.to_client)
            .and_then(|()| between(frame, piece, &mut packet, &ends, held.id));
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

/// Turns the sequence number of a quoted segment, as a backend counts it, into the client's own.
fn as_the_client_counts(frame: &mut [u8], message: &Message, quote: &Quote, record: Record<'_>) {
    let at = usize::from(quote.transport) + 4;
    let Some(field) = frame
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<4>())
    else {
        return;
    };
    let old = *field;
    let number = telling::as_the_client_counts(u32::from_be_bytes(old), record).to_be_bytes();
    *field = number;
    // The quoted checksum, where it is quoted, cancels out of the message's own.
    let change = Delta::none().word32(old, number);
    let mut covered = change;
    let check = usize::from(quote.transport) + 16;
    if check + 2 <= usize::from(quote.end)
        && let Some(field) = frame
            .get_mut(check..)
            .and_then(|rest| rest.first_chunk_mut::<2>())
    {
        let old = *field;
        *field = change.apply(old);
        covered = covered.word16(old, *field);
    }
    let icmp = usize::from(message.icmp) + 2;
    if let Some(field) = frame
        .get_mut(icmp..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    {
        *field = covered.apply(*field);
    }
}
