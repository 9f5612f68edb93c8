//! Between steer and rewrite, where there is a `full-nat` service: which session a packet is of.
//!
//! [`ask`] runs behind the look-up and asks for the first lines; what [`super::steady`] sends on at once
//! does not come here any more. [`all`] goes over the burst twice:
//! first it finds each packet's session and asks for its record, then it looks at the records, opens
//! sessions for new flows, and hands answers of other workers' sessions over. What has no session
//! goes on as if there were none.

use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_engine::wire::{protocol, tcp::flags};
use weir_shm::counters::{self, DropReason};

use super::lane::{Lane, Places, Verdict};
use super::look_up;
use super::quick::Quick;
use super::states::{TURNING, is_mid_stream};
use crate::address::Version;
use crate::conntrack::Tick;
use crate::forward::{Mode, telling};
use crate::parse::Packet;
use crate::service::{Service, Services};
use crate::session::tcp::{State, opens};
use crate::session::{Opening, Record, Sessions, Side, Stretch, Table, flag, owner};

/// The number of no session.
pub(super) const NOBODY: u32 = u32::MAX;

/// What [`ask`] found in a burst.
pub struct Asked {
    /// Packets whose session may be all that they need: no connection ID decides, and they turn
    /// nothing.
    pub plain: Places,
    /// Answers to addresses that `full-nat` sends from.
    pub answers: Places,
}

/// Hot: asks for the lines that tell a packet's session, and lets sessions end whose time has passed.
#[inline]
pub fn ask(
    services: &Services,
    sessions: &Sessions,
    worker: u16,
    now: Tick,
    lanes: &[Lane],
) -> Asked {
    let mut plain = 0;
    let mut answers = 0;
    let Some(table) = sessions.table(worker.into()) else {
        return Asked {
            plain: Places(plain),
            answers: Places(answers),
        };
    };
    table.step(sessions, now);
    for (place, lane) in (0u32..).zip(lanes) {
        match lane.verdict {
            Verdict::Forward | Verdict::Steered | Verdict::Named if is_full_nat(services, lane) => {
                table.prefetch_flow(lane.hash);
                let is_plain =
                    lane.verdict == Verdict::Forward && lane.packet.tcp_flags & TURNING == 0;
                plain |= u32::from(is_plain) << place;
            }
            Verdict::Answer => {
                answers |= 1 << place;
                if let Some(own) = sessions.address(lane.backend as u16) {
                    own.prefetch(lane.packet.protocol, lane.packet.destination_port());
                }
            }
            _ => {}
        }
    }
    Asked {
        plain: Places(plain),
        answers: Places(answers),
    }
}

#[inline]
fn is_full_nat(services: &Services, lane: &Lane) -> bool {
    services
        .get(lane.service)
        .is_some_and(|service| service.mode == Mode::FullNat)
}

/// Whether steering found no backend for a packet to a service: no other stage gives these reasons.
#[inline]
pub(super) const fn has_no_backend(verdict: Verdict) -> bool {
    use DropReason::{AllDown, BackendsFull, NoBackend};
    matches!(
        verdict,
        Verdict::Reset | Verdict::Refuse(_) | Verdict::Drop(AllDown | BackendsFull | NoBackend)
    )
}

/// What the passes need.
struct Finding<'a> {
    services: &'a Services,
    sessions: &'a Sessions,
    table: &'a Table,
    worker: u16,
    now: Tick,
    counters: &'a CounterWriter,
}

/// Hot: finds or opens each packet's session. Packets of sessions leave by `quick` at once where
/// nothing about them is unusual; those `apart` stay.
#[inline(never)]
pub fn all<B: Buffer>(
    sessions: &Sessions,
    worker: u16,
    now: Tick,
    apart: Places,
    quick: &mut Quick<'_>,
    burst: &mut [B],
    lanes: &mut [Lane],
) {
    let Some(table) = sessions.table(worker.into()) else {
        return;
    };
    let (services, counters) = (quick.services, quick.counters);
    let finding = Finding {
        services,
        sessions,
        table,
        worker,
        now,
        counters,
    };
    let mut ours = 0;
    for (place, lane) in (0u32..).zip(lanes.iter_mut()) {
        match lane.verdict {
            Verdict::Forward | Verdict::Steered | Verdict::Named if is_full_nat(services, lane) => {
                lane.session = table.likely(lane.hash).unwrap_or(NOBODY);
                table.prefetch_hot(lane.session);
            }
            Verdict::Answer => {
                if !finding.is_own(lane) {
                    continue;
                }
                table.prefetch(lane.session);
            }
            verdict if has_no_backend(verdict) && is_full_nat(services, lane) => {}
            _ => continue,
        }
        ours |= 1 << place;
    }
    for place in Places(ours) {
        let (Some(frame), Some(lane)) = (burst.get_mut(place), lanes.get_mut(place)) else {
            break;
        };
        let stays = apart.has(place as u32);
        match lane.verdict {
            Verdict::Forward | Verdict::Steered | Verdict::Named => {
                if let Some(record) = finding.client(frame.data(), lane)
                    && !stays
                {
                    quick.forward_session(frame, lane, (sessions, worker), record);
                }
            }
            Verdict::Answer => {
                if let Some(record) = finding.answer(lane)
                    && !stays
                {
                    quick.give_back_session(frame, lane, (sessions, worker), record);
                }
            }
            _ => finding.spare(frame.data(), lane),
        }
    }
}

/// One packet whose backend is chosen, or that is to be reset: its session, or a new one, or a refusal.
#[cold]
pub fn alone(
    services: &Services,
    sessions: &Sessions,
    worker: u16,
    now: Tick,
    counters: &CounterWriter,
    frame: &[u8],
    lane: &mut Lane,
) {
    if let Some(table) = sessions.table(worker.into()) {
        lane.session = NOBODY;
        let finding = Finding {
            services,
            sessions,
            table,
            worker,
            now,
            counters,
        };
        if lane.verdict == Verdict::Reset {
            finding.spare(frame, lane);
        } else {
            finding.client(frame, lane);
        }
    }
}

impl<'a> Finding<'a> {
    /// Finds an answer's session by its port. False where another worker owns that, who gets it.
    #[inline]
    fn is_own(&self, lane: &mut Lane) -> bool {
        let port = lane.packet.destination_port();
        let owner = owner(port, self.sessions.workers());
        if owner != self.worker {
            self.counters.add(counters::HANDED_OVER, 1);
            lane.session = NOBODY;
            lane.verdict = Verdict::HandOver(owner);
            return false;
        }
        let own = self.sessions.address(lane.backend as u16);
        let session = own.and_then(|own| own.session(lane.packet.protocol, port));
        lane.session = session.unwrap_or(NOBODY);
        true
    }

    /// A backend's answer, whose session's record this gives, or something else to an address of
    /// weir's.
    #[inline]
    fn answer(&self, lane: &mut Lane) -> Option<Record<'a>> {
        let packet = &lane.packet;
        let found = self.table.record(lane.session).filter(|record| {
            let from = Side {
                version: packet.version,
                address: packet.source,
                port: packet.source_port(),
            };
            record.fingerprint() != 0 && record.backend() == from && record.is_live(self.now)
        });
        match found {
            Some(record) => {
                let flags = packet.tcp_flags;
                self.table
                    .heard_backend(lane.session, record, flags, self.now);
            }
            None => self.not_a_session(lane),
        }
        found
    }

    /// What the packet would be if its destination were not weir's to speak from.
    #[cold]
    fn not_a_session(&self, lane: &mut Lane) {
        let owner = self.services.owner_but_for_sessions(&lane.packet);
        look_up::settle(self.services, owner, lane);
        if let Verdict::Drop(DropReason::NoService | DropReason::NotOurs) = lane.verdict {
            lane.verdict = Verdict::Drop(DropReason::NoSession);
        } else if let Verdict::Ours(_) = lane.verdict {
            lane.verdict = Verdict::Ours(DropReason::NoSession);
        }
    }

    /// A client's packet: its session, whose record this gives, or a new one.
    #[inline(always)]
    fn client(&self, frame: &[u8], lane: &mut Lane) -> Option<Record<'a>> {
        let known = self.table.record(lane.session);
        if known.is_none_or(|record| record.fingerprint() != lane.hash.fingerprint) {
            lane.session = self.table.find(lane.hash).unwrap_or(NOBODY);
        }
        if let Some(record) = self.table.record(lane.session)
            && self.keeps(frame, lane, record)
        {
            let flags = lane.packet.tcp_flags;
            self.table
                .heard_client(lane.session, record, flags, self.now);
            if lane.verdict == Verdict::Steered {
                record.note_steady(Stretch::of(self.now));
            }
            lane.verdict = Verdict::Session;
            return Some(record);
        }
        self.open(frame, lane);
        None
    }

    /// A packet that is to be reset or dropped since conntrack does not know its flow and nobody
    /// takes new ones: a session knows better.
    #[cold]
    fn spare(&self, frame: &[u8], lane: &mut Lane) {
        lane.session = self.table.find(lane.hash).unwrap_or(NOBODY);
        let Some(record) = self.table.record(lane.session) else {
            return;
        };
        let number = record.backend_number();
        if record.is_live(self.now)
            && !begins_anew(frame, &lane.packet, record)
            && self.services.keeps(lane.service, number).is_some()
        {
            lane.backend = number;
            lane.verdict = Verdict::Session;
            let flags = lane.packet.tcp_flags;
            self.table
                .heard_client(lane.session, record, flags, self.now);
        } else if self.is_reset(lane) {
            lane.verdict = Verdict::Reset;
        }
    }

    /// Whether a packet's session has lost its backend, and its service resets what that had. Such a
    /// session is closed by it, and keeps its place for a while: the client may ask again.
    #[cold]
    fn is_reset(&self, lane: &Lane) -> bool {
        let Some(record) = self.table.record(lane.session) else {
            return false;
        };
        let number = record.backend_number();
        let is_reset = is_mid_stream(&lane.packet)
            && record.is_live(self.now)
            && self.services.resets(lane.service, number);
        if is_reset {
            self.table
                .heard_client(lane.session, record, flags::RST, self.now);
        }
        is_reset
    }

    /// Whether a packet goes on with the session that its flow has.
    #[inline]
    fn keeps(&self, frame: &[u8], lane: &mut Lane, record: Record<'_>) -> bool {
        if !record.is_live(self.now) || begins_anew(frame, &lane.packet, record) {
            return false;
        }
        if record.backend_number() == lane.backend {
            return true;
        }
        // The connection ID decides, whichever connection the 4-tuple was of before.
        if lane.verdict == Verdict::Named {
            return false;
        }
        // Conntrack forgot the flow, or was never told: the session knows better, as long as its
        // backend takes flows that it has.
        let held = self.services.keeps(lane.service, record.backend_number());
        if held.is_some() {
            lane.backend = record.backend_number();
        }
        held.is_some()
    }

    #[inline(never)]
    fn open(&self, frame: &[u8], lane: &mut Lane) {
        let old = self.table.record(lane.session);
        let by_piece = old.is_some_and(|record| record.is_begun_by_piece());
        if let Some(owner) = self.begun_elsewhere(lane) {
            self.counters.add(counters::HANDED_OVER, 1);
            lane.verdict = Verdict::HandOver(owner);
            return;
        }
        if lane.session != NOBODY {
            if self.is_reset(lane) {
                lane.verdict = Verdict::Reset;
                return;
            }
            self.table.close(self.sessions, lane.session, self.now);
        }
        match self.opened(frame, lane) {
            Ok(session) => {
                if by_piece {
                    // Its packets are handed over by others, and go on to be.
                    self.table.note_piece(session);
                }
                lane.session = session;
                lane.verdict = Verdict::Session;
            }
            Err(reason) => lane.verdict = Verdict::Drop(reason),
        }
    }

    /// The worker that has the flow's session since a piece of a datagram, whose owner it is, began
    /// it. Without such sessions this costs a look at one word a worker, a new session.
    fn begun_elsewhere(&self, lane: &Lane) -> Option<u16> {
        let others = (0..self.sessions.workers()).filter(|worker| *worker != self.worker);
        others.into_iter().find(|worker| {
            let table = self.sessions.table((*worker).into());
            table.is_some_and(|table| table.begun_by_piece(lane.hash, self.now).is_some())
        })
    }

    fn opened(&self, frame: &[u8], lane: &Lane) -> Result<u32, DropReason> {
        let packet = &lane.packet;
        // A reset of what is not known resets nothing.
        if packet.tcp_flags & flags::RST != 0 {
            return Err(DropReason::NoSession);
        }
        let (Some(service), Some(backend)) = (
            self.services.get(lane.service),
            self.services.backends.get(lane.backend as usize),
        ) else {
            return Err(DropReason::NoBackend);
        };
        let Service {
            full_nat: Some(settings),
            ..
        } = service
        else {
            return Err(DropReason::NoService);
        };
        let tells = packet.protocol != protocol::TCP || opens(packet.tcp_flags);
        let (inserted, told) = match (tells, packet.protocol) {
            (false, _) => (0, 0),
            (true, protocol::TCP) => (
                telling::inserted(settings.client_address, packet.version),
                telling::first_flags(settings.client_address),
            ),
            (true, _) => (0, telling::first_flags(settings.client_address)),
        };
        let port = match backend.port {
            [0, 0] => packet.destination_port(),
            port => u16::from_be_bytes(port),
        };
        let opening = Opening {
            flow: lane.hash,
            protocol: packet.protocol,
            tcp_flags: packet.tcp_flags,
            first_sequence: next_sequence(frame, packet),
            client: Side {
                version: packet.version,
                address: packet.source,
                port: packet.source_port(),
            },
            vip: Side {
                version: packet.version,
                address: packet.destination,
                port: packet.destination_port(),
            },
            backend: Side {
                version: backend.version,
                address: backend.address,
                port,
            },
            backend_number: lane.backend,
            service_counters: service.counters,
            addresses: match backend.version {
                Version::V4 => &settings.from4,
                Version::V6 => &settings.from6,
            },
            inserted,
            telling: told,
            times: settings.times(packet.protocol),
        };
        let session = self
            .table
            .open(self.sessions, self.worker, &opening, self.now)?;
        Ok(session)
    }
}

/// Whether a packet opens another connection than the one that its session is of.
#[inline]
fn begins_anew(frame: &[u8], packet: &Packet, record: Record<'_>) -> bool {
    if !opens(packet.tcp_flags) {
        return false;
    }
    // The number of the connection that is known: its SYN once more, maybe a late copy.
    let is_other = next_sequence(frame, packet) != record.first_sequence();
    match record.state() {
        State::Closing | State::Loose => true,
        State::Opening | State::Answered => is_other,
        State::Established | State::Udp => record.flags() & flag::CLIENT_FIN != 0 && is_other,
    }
}

/// The sequence number after a SYN's; zero for what has none.
fn next_sequence(frame: &[u8], packet: &Packet) -> u32 {
    let at = usize::from(packet.transport) + 4;
    let field = frame.get(at..).and_then(|rest| rest.first_chunk::<4>());
    match field {
        Some(bytes) if packet.protocol == protocol::TCP => {
            u32::from_be_bytes(*bytes).wrapping_add(1)
        }
        _ => 0,
    }
}
