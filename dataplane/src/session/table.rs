//! A worker's sessions: opened, found, followed and ended.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_engine::memory::{HugeSlice, MemoryError, prefetch_write};
use weir_engine::wire::checksum::{Delta, Folded};
use weir_shm::counters::DropReason;

use super::Sessions;
use super::lookup::Lookup;
use super::record::{Record, Side, flag};
use super::tcp::{self, State};
use super::wheel::{NOBODY, Wheel};
use crate::address::Addr;
use crate::conntrack::Tick;
use crate::flow::FlowHash;
use crate::service::Change;

/// Sessions that one step of expiry looks at.
const STEP: usize = 16;
/// Sessions that rest before they are others: packets of a burst name their sessions by number, and
/// one that ends behind a packet must not be another's before that packet is rewritten.
const REST: u64 = 64;
/// Sessions that are looked at for one that has ended, when all are taken.
const LAST_RESORT: usize = 256;

/// The place of the count of sessions begun by pieces.
const PIECES: usize = 8;

/// How long sessions of a service live without a packet, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Times {
    /// Until it is established.
    pub opening: u32,
    /// TCP once established, or UDP.
    pub established: u32,
    /// After both FINs, or a RST.
    pub closing: u32,
}

/// What a session begins with.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// The flow.
    pub flow: FlowHash,
    /// The IP protocol's number.
    pub protocol: u8,
    /// TCP control bits of the first packet.
    pub tcp_flags: u8,
    /// TCP: the sequence number of the client's first byte.
    pub first_sequence: u32,
    /// The client.
    pub client: Side,
    /// Where its packet went.
    pub vip: Side,
    /// Where it is to go.
    pub backend: Side,
    /// The backend's number, which is its own for life.
    pub backend_number: u32,
    /// The service's first counter.
    pub service_counters: u32,
    /// Numbers of the addresses to speak from, of the backend's family.
    pub addresses: &'a [u16],
    /// Bytes that go before the client's first.
    pub inserted: u16,
    /// [`flag::TELLING`] and [`flag::TOA`], where the client's address is to be told.
    pub telling: u8,
    /// How long it lives.
    pub times: Times,
}

/// Why a session cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// All sessions are taken.
    Sessions,
    /// No address of the pool has a port that may be used.
    Ports,
}

impl From<Exhausted> for DropReason {
    fn from(exhausted: Exhausted) -> Self {
        match exhausted {
            Exhausted::Sessions => Self::SessionsExhausted,
            Exhausted::Ports => Self::SnatPortsExhausted,
        }
    }
}

/// A worker's sessions; see the module's text.
#[derive(Debug)]
pub struct Table {
    records: HugeSlice,
    capacity: u32,
    lookup: Lookup,
    wheel: Wheel,
    /// `[never used from here on, first of the free (plus one), live, last of the free (plus one), free]`,
    /// and in a line of its own, for others to read: `[begun by a piece]`.
    heads: HugeSlice,
}

impl Table {
    /// Room for `capacity` sessions.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(capacity: u64, prefer_huge: bool) -> Result<Self, MemoryError> {
        // Session numbers have 32 bits, one of which stands for nobody.
        let capacity = u32::try_from(capacity.max(1))
            .unwrap_or(NOBODY - 1)
            .min(NOBODY - 1);
        Ok(Self {
            records: HugeSlice::zeroed(capacity as usize * 2, prefer_huge)?,
            capacity,
            lookup: Lookup::new(capacity, prefer_huge)?,
            wheel: Wheel::new()?,
            heads: HugeSlice::zeroed(2, false)?,
        })
    }

    /// Sessions that there is room for.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Sessions that have not ended, or whose end nobody noticed yet.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.head(2).map_or(0, |live| live.load(Relaxed))
    }

    fn head(&self, place: usize) -> Option<&AtomicU64> {
        self.heads.get(place / 8).map(|line| &line.0[place % 8])
    }

    /// Notes that a session was begun by a piece of a datagram: other workers, to which whole packets
    /// of its flow may come, ask for it before they open one.
    pub fn note_piece(&self, session: u32) {
        let record = self.record(session).filter(|it| !it.is_begun_by_piece());
        if let (Some(record), Some(pieces)) = (record, self.head(PIECES)) {
            record.set_begun_by_piece();
            pieces.store(pieces.load(Relaxed) + 1, Relaxed);
        }
    }

    /// The flow's session, where a piece began it and it lives: asked by other workers.
    #[must_use]
    pub fn begun_by_piece(&self, flow: FlowHash, now: Tick) -> Option<u32> {
        if self.head(PIECES)?.load(Relaxed) == 0 {
            return None;
        }
        self.find(flow).filter(|session| {
            self.record(*session)
                .is_some_and(|record| record.is_begun_by_piece() && record.is_live(now))
        })
    }

    /// Hot: a session's record.
    #[inline]
    #[must_use]
    pub fn record(&self, session: u32) -> Option<Record<'_>> {
        let at = session as usize * 2;
        match self.records.get(at..at + 2) {
            Some([hot, cold]) => Some(Record::new(hot, cold)),
            _ => None,
        }
    }

    /// Hot: asks for the index's line of a flow.
    #[inline]
    pub fn prefetch_flow(&self, flow: FlowHash) {
        self.lookup.prefetch(flow);
    }

    /// Hot: asks for the line of a session's record that is all that a client's packet needs.
    #[inline]
    pub fn prefetch_hot(&self, session: u32) {
        if let Some(Record { hot, .. }) = self.record(session) {
            prefetch_write(hot);
        }
    }

    /// Hot: asks for a session's record.
    #[inline]
    pub fn prefetch(&self, session: u32) {
        if let Some(Record { hot, cold }) = self.record(session) {
            prefetch_write(hot);
            prefetch_write(cold);
        }
    }

    /// Hot: the session that is most likely the flow's; its record decides.
    #[inline]
    #[must_use]
    pub fn likely(&self, flow: FlowHash) -> Option<u32> {
        self.lookup.find(flow, |_| true)
    }

    /// Hot: the session of a flow, live or not.
    #[inline]
    #[must_use]
    pub fn find(&self, flow: FlowHash) -> Option<u32> {
        let is = |session| {
            self.record(session)
                .is_some_and(|record| record.fingerprint() == flow.fingerprint)
        };
        self.lookup.find(flow, is)
    }

    /// Opens a session of `worker`, whose table this is, on a port whose answers arrive there if that
    /// can be told.
    ///
    /// # Errors
    /// When all sessions or ports are taken; nobody else's is touched.
    pub fn open(
        &self,
        sessions: &Sessions,
        worker: u16,
        opening: &Opening<'_>,
        now: Tick,
    ) -> Result<u32, Exhausted> {
        let session = match self.take_free() {
            Some(session) => session,
            None => {
                self.expire(sessions, now, LAST_RESORT);
                self.take_free().ok_or(Exhausted::Sessions)?
            }
        };
        let Some((number, port)) = take_port(sessions, worker, session, opening, now) else {
            self.put_free(session);
            return Err(Exhausted::Ports);
        };
        let (Some(record), Some(bucket)) = (
            self.record(session),
            self.lookup.insert(opening.flow, session),
        ) else {
            let backend = (opening.backend.address, opening.backend.port);
            if let Some(own) = sessions.address(number) {
                own.give_back(opening.protocol, port, backend, now);
            }
            self.put_free(session);
            return Err(Exhausted::Sessions);
        };
        let own = sessions.address(number).map(|own| (own.address, port));
        write(record, opening, now, number, port, bucket);
        record.set_change(change(opening, own.unwrap_or_default()));
        self.wheel
            .hang(session, record.timeout(), now, |other| self.record(other));
        if let Some(live) = self.head(2) {
            live.store(live.load(Relaxed) + 1, Relaxed);
        }
        Ok(session)
    }

    /// Ends a session at once: its port begins to rest.
    pub fn close(&self, sessions: &Sessions, session: u32, now: Tick) {
        let Some(record) = self.record(session).filter(|it| it.fingerprint() != 0) else {
            return;
        };
        self.wheel.unhang(session, |other| self.record(other));
        self.forget(sessions, session, record, now);
    }

    /// A session that is off the wheel already. Its port rests from its last packet on where both
    /// sides have closed it, as theirs do; else from now on, as the backend may hold it still.
    fn forget(&self, sessions: &Sessions, session: u32, record: Record<'_>, now: Tick) {
        const CLOSED: u8 = flag::CLIENT_FIN | flag::BACKEND_FIN;
        let closed = record.flags() & CLOSED == CLOSED;
        let end = if closed { record.seen() } else { now };
        self.lookup.remove(record.bucket(), session);
        let backend = record.backend();
        if let Some(own) = sessions.address(record.snat_address()) {
            let peer = (backend.address, backend.port);
            own.give_back(record.protocol(), record.snat_port(), peer, end);
        }
        record.hot[0].store(0, Relaxed);
        if let Some(pieces) = self.head(PIECES).filter(|_| record.is_begun_by_piece()) {
            pieces.store(pieces.load(Relaxed).saturating_sub(1), Relaxed);
        }
        if let Some(live) = self.head(2) {
            live.store(live.load(Relaxed).saturating_sub(1), Relaxed);
        }
        self.put_free(session);
    }

    /// A step of expiry: ends some of the sessions whose time has passed. Bounded work.
    pub fn step(&self, sessions: &Sessions, now: Tick) {
        self.expire(sessions, now, STEP);
    }

    fn expire(&self, sessions: &Sessions, now: Tick, budget: usize) {
        for _ in 0..budget {
            let Some(session) = self.wheel.next_due(now, |other| self.record(other)) else {
                return;
            };
            let Some(record) = self.record(session) else {
                continue;
            };
            let idle = now.since(record.seen());
            if idle >= record.timeout() {
                self.forget(sessions, session, record, now);
            } else {
                let left = record.timeout() - idle;
                self.wheel
                    .hang(session, left, now, |other| self.record(other));
            }
        }
    }

    /// Hot: a client's packet of this session came.
    #[inline]
    pub fn heard_client(&self, session: u32, record: Record<'_>, tcp_flags: u8, now: Tick) {
        let (state, held) = (record.state(), record.flags());
        record.touch(now);
        if state != State::Udp {
            let next = tcp::from_client(state, held, tcp_flags);
            if next != (state, held) {
                self.change(session, record, next, now);
            }
        }
    }

    /// Hot: a backend's packet of this session came.
    #[inline]
    pub fn heard_backend(&self, session: u32, record: Record<'_>, tcp_flags: u8, now: Tick) {
        let (state, held) = (record.state(), record.flags());
        record.touch(now);
        if state != State::Udp {
            let next = tcp::from_backend(state, held, tcp_flags);
            if next != (state, held) {
                self.change(session, record, next, now);
            }
        }
    }

    fn change(&self, session: u32, record: Record<'_>, (state, held): (State, u8), now: Tick) {
        let before = record.state();
        record.set_state(state, held);
        if state == before {
            return;
        }
        let (established, closing) = record.times();
        match state {
            State::Established => record.set_timeout(established),
            State::Closing => {
                record.set_timeout(closing);
                // Sooner than it hangs on the wheel.
                self.wheel.unhang(session, |other| self.record(other));
                self.wheel
                    .hang(session, closing, now, |other| self.record(other));
            }
            State::Opening | State::Answered | State::Loose | State::Udp => {}
        }
    }

    fn take_free(&self) -> Option<u32> {
        let (fresh, free, count) = (self.head(0)?, self.head(1)?, self.head(4)?);
        let (next, waiting) = (fresh.load(Relaxed) as u32, count.load(Relaxed));
        if next < self.capacity && waiting < REST {
            fresh.store(u64::from(next + 1), Relaxed);
            return Some(next);
        }
        let first = (free.load(Relaxed) as u32).checked_sub(1)?;
        let after = self.record(first)?.after();
        free.store(u64::from(after.wrapping_add(1)), Relaxed);
        count.store(waiting.saturating_sub(1), Relaxed);
        Some(first)
    }

    fn put_free(&self, session: u32) {
        let (Some(record), Some(first), Some(last), Some(count)) = (
            self.record(session),
            self.head(1),
            self.head(3),
            self.head(4),
        ) else {
            return;
        };
        record.set_after(NOBODY);
        let own = u64::from(session) + 1;
        let before = (last.load(Relaxed) as u32).wrapping_sub(1);
        match self.record(before) {
            Some(before) if first.load(Relaxed) != 0 => before.set_after(session),
            _ => first.store(own, Relaxed),
        }
        last.store(own, Relaxed);
        count.store(count.load(Relaxed) + 1, Relaxed);
    }
}

/// A port of any address of the pool, beginning with the one that the flow's hash picks.
fn take_port(
    sessions: &Sessions,
    worker: u16,
    session: u32,
    opening: &Opening<'_>,
    now: Tick,
) -> Option<(u16, u16)> {
    let pool = opening.addresses;
    let start = (opening.flow.fingerprint >> 16) as usize % pool.len().max(1);
    let peer = (opening.backend.address, opening.backend.port);
    let (later, sooner) = pool.split_at_checked(start)?;
    sooner.iter().chain(later).find_map(|number| {
        let own = sessions.address(*number)?;
        let of = opening.protocol;
        let port = match sessions.spread() {
            None => own.take(worker, of, session, peer, now, 0, |_| true)?,
            Some(spread) => {
                let partial = spread.partial(opening.backend, own.address);
                let arrives = |port| spread.worker(partial, port) == worker;
                let look = spread.tries();
                own.take(worker, of, session, peer, now, look, arrives)?
            }
        };
        Some((*number, port))
    })
}

/// What the packets of a session that speaks from `own` change by.
fn change(opening: &Opening<'_>, own: (Addr, u16)) -> Change {
    let Opening {
        client,
        vip,
        backend,
        ..
    } = opening;
    let change = Change::new(
        &[(client.address, own.0), (vip.address, backend.address)],
        &[(client.port, own.1), (vip.port, backend.port)],
    );
    if client.version == backend.version {
        return change;
    }
    Change {
        network: of_addresses(own.0, backend.address),
        network_back: of_addresses(vip.address, client.address),
        ..change
    }
}

/// What addresses add to the checksum of an IPv4 header: between families none changes, one is made.
fn of_addresses(source: Addr, destination: Addr) -> Folded {
    let none = Delta::none();
    let added = [source, destination].map(|it| none.word128(&[0; 16], &it.to_v6()));
    added.into_iter().fold(none, Delta::and).into()
}

fn write(
    record: Record<'_>,
    opening: &Opening<'_>,
    now: Tick,
    number: u16,
    port: u16,
    bucket: u32,
) {
    let Opening {
        client,
        vip,
        backend,
        times,
        ..
    } = opening;
    let state = State::first(opening.protocol, opening.tcp_flags);
    let timeout = match state {
        State::Udp => times.established,
        _ => times.opening,
    };
    let six = |side: &Side, bit: u8| match side.version {
        crate::address::Version::V4 => 0,
        crate::address::Version::V6 => bit,
    };
    let flags = six(client, flag::CLIENT_V6) | six(backend, flag::BACKEND_V6) | opening.telling;
    let pack = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let ports = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
    let kind = u32::from(state as u8) | u32::from(flags) << 8 | u32::from(opening.protocol) << 16;
    let hot = [
        opening.flow.fingerprint,
        pack(now.0, timeout),
        pack(ports(port, number), opening.backend_number),
        pack(
            opening.first_sequence,
            ports(opening.inserted, backend.port),
        ),
        backend.address.0[0],
        backend.address.0[1],
        0,
        pack(kind, bucket),
    ];
    let cold = [
        client.address.0[0],
        client.address.0[1],
        vip.address.0[0],
        vip.address.0[1],
        pack(ports(client.port, vip.port), opening.service_counters),
        0,
        pack(times.established, times.closing),
        pack(NOBODY, NOBODY),
    ];
    for (word, value) in record
        .hot
        .iter()
        .zip(hot)
        .chain(record.cold.iter().zip(cold))
    {
        word.store(value, Relaxed);
    }
}
