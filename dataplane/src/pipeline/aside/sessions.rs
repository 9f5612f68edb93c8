//! What is set aside and is a `full-nat` session's: ICMP errors about its packets, and what its pieces
//! and large packets have in common with them.
//!
//! Whichever worker gets such a frame reads the session where it is, in its own table or another's, and
//! notes that it was seen; only sessions of its own does it change otherwise.

use weir_engine::buffer::Buffer;
use weir_engine::wire::checksum::Delta;
use weir_engine::wire::protocol;
use weir_shm::counters::{self, DropReason};

use super::Aside;
use super::errors::is_unreachable;
use crate::address::Version;
use crate::flow::FlowHash;
use crate::forward::full_nat::{self, Ends};
use crate::forward::telling;
use crate::icmp_family;
use crate::icmp_quote::{self, Message, Quote, Translation};
use crate::parse::Packet;
use crate::pipeline::rewrite::{Outcome, leave_toward, mtu_toward};
use crate::session::tcp::State;
use crate::session::{Record, Sessions, Side, owner};

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
    /// Bytes that its datagram grows by, where it is in pieces.
    pub grown: u8,
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
            grown: 0,
        }
    }
}

impl<B: Buffer> Aside<'_, B> {
    pub(super) fn sessions(&self) -> Option<&Sessions> {
        self.snapshot.services.sessions.as_ref()
    }

    pub(super) fn record(&self, worker: u16, session: u32) -> Option<Record<'_>> {
        let record = self.sessions()?.table(worker.into())?.record(session)?;
        let found = (record.fingerprint() != 0 && record.is_live(self.now)).then_some(record)?;
        self.decided.set(Some(found.backend_number()));
        Some(found)
    }

    /// The live session of a flow, this worker's first.
    pub(super) fn session_of(&self, hash: FlowHash) -> Option<(u16, u32)> {
        let own = self.kept.worker;
        let others = (0..self.sessions()?.workers()).filter(|worker| *worker != own);
        std::iter::once(own).chain(others).find_map(|worker| {
            let session = self.sessions()?.table(worker.into())?.find(hash)?;
            self.record(worker, session).map(|_| (worker, session))
        })
    }

    /// The live session that `packet`, from a backend to a SNAT address, is of.
    pub(super) fn session_at(&self, packet: &Packet) -> Option<(u16, u32)> {
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
        // That a client's SYN did not arrive counts as a connection that was refused.
        if record.state() == State::Opening && is_unreachable(frame.data(), message) {
            let backend = counters::backend_base(record.backend_number());
            self.counters.add(backend + counters::REFUSED, 1);
        }
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

    pub(super) fn leave_to_backend(
        &self,
        frame: &mut B,
        packet: &Packet,
        record: Record<'_>,
    ) -> Outcome {
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
