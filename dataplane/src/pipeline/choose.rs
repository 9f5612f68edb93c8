//! Which backend a new flow gets, where that takes more than a look at a table: schedulers that
//! count or take turns, limits, and clients that are remembered.
//!
//! A client's backend is kept in conntrack, as an entry whose flow is the client (a *pin*). Each
//! worker writes its own; the newest pin of all workers' counts, so that it does not matter which
//! worker a client's next flow comes to. Two workers that see a client for the first time at once
//! ask the same table with the same client, and agree; where there are turns or counts instead of a
//! table they may not, and the later one's choice is the client's from then on.

use weir_engine::counters::CounterWriter;
use weir_shm::counters::{self, MAX_SERVICES};

use crate::conntrack::{Conntrack, ConntrackReader, Details, LiveFlows, State, Tick};
use crate::flow::{FlowHash, FlowHasher};
use crate::newest::Newest;
use crate::parse::Packet;
use crate::scheduler::{Choice, Key, Live, with_sequence};
use crate::service::{Client, Service, Services, Takes};

/// A place in the turns before the first.
const NOT_BEGUN: u32 = u32::MAX;

/// What a worker keeps for choosing.
pub(super) struct Chooser {
    hasher: FlowHasher,
    /// This worker's place in the turns of each service, by the service's number.
    turns: Box<[u32]>,
    /// Flows by backend, of each worker.
    live: Vec<LiveFlows>,
    /// The workers' tables, by number; none where this worker is the only one.
    peers: Vec<ConntrackReader>,
    worker: u16,
    /// The newest flows, noted; without the memory for it, none are.
    pub(super) newest: Option<Newest>,
}

/// Flows of all workers, but for the one that a new flow takes the place of.
struct Everybody<'a> {
    live: &'a [LiveFlows],
    /// The backend that the old flow counts for.
    leaves: Option<u32>,
}

impl Live for Everybody<'_> {
    #[inline]
    fn flows(&self, number: u32) -> u64 {
        let all = self.live.iter();
        let sum = all.fold(0u64, |sum, live| sum.wrapping_add(live.of(number)));
        let sum = sum.wrapping_sub(u64::from(self.leaves == Some(number)));
        // Workers are read one after the other; together they may be below zero for a moment.
        if sum > u64::MAX / 2 { 0 } else { sum }
    }
}

/// A packet that asks for a backend.
pub(super) struct Asking<'a> {
    pub services: &'a Services,
    pub service: &'a Service,
    /// The service's place.
    pub place: u32,
    pub now: Tick,
    pub packet: &'a Packet,
    pub hash: FlowHash,
    /// The sequence number of a SYN; zero for anything else.
    pub sequence: u32,
    /// The backend of the flow that this one takes the place of, which counts there.
    pub leaves: Option<u32>,
}

impl Chooser {
    pub(super) fn new(hasher: FlowHasher, own: &Conntrack) -> Self {
        Self {
            hasher,
            turns: vec![NOT_BEGUN; MAX_SERVICES].into_boxed_slice(),
            live: vec![own.reader().live().clone()],
            peers: Vec::new(),
            worker: 0,
            newest: Newest::new().ok(),
        }
    }

    /// As one of several workers.
    pub(super) fn join(&mut self, worker: u16, peers: &[ConntrackReader]) {
        self.worker = worker;
        self.peers = peers.to_vec();
        self.live = peers.iter().map(|table| table.live().clone()).collect();
    }

    /// Where a flow falls on its service's table when nothing else is known of it.
    pub(super) fn point(&self, service: &Service, packet: &Packet, hash: FlowHash) -> u32 {
        service.point(&self.hasher, packet, hash)
    }

    /// The backend of a new flow, and a pin of it where the service remembers clients.
    #[inline(never)]
    pub(super) fn choose(
        &mut self,
        asking: &Asking<'_>,
        conntrack: &mut Conntrack,
        counters: &CounterWriter,
    ) -> Choice {
        match asking.service.affinity {
            None => self.schedule(asking),
            Some(client) => self.choose_for_client(asking, client, conntrack, counters),
        }
    }

    fn schedule(&mut self, asking: &Asking<'_>) -> Choice {
        let scheduler = &asking.service.scheduler;
        let point = self.point(asking.service, asking.packet, asking.hash);
        let point = match scheduler.key() {
            Key::FlowAndSequence if asking.sequence != 0 => with_sequence(point, asking.sequence),
            _ => point,
        };
        let mut nowhere = 0;
        let turn = self.turns.get_mut(asking.service.number as usize);
        let turn = turn.unwrap_or(&mut nowhere);
        if *turn == NOT_BEGUN {
            *turn = scheduler.begin(u32::from(self.worker), self.live.len() as u32);
        }
        let everybody = Everybody {
            live: &self.live,
            leaves: asking.leaves,
        };
        scheduler.choose(point, turn, &everybody)
    }

    #[cold]
    fn choose_for_client(
        &mut self,
        asking: &Asking<'_>,
        client: Client,
        conntrack: &mut Conntrack,
        counters: &CounterWriter,
    ) -> Choice {
        let Asking {
            services,
            service,
            now,
            ..
        } = *asking;
        let key = client.hash(&self.hasher, asking.packet, service.number);
        let everybody = Everybody {
            live: &self.live,
            leaves: asking.leaves,
        };
        let takes = |number: u32| {
            let backend = services.keeps(asking.place, number);
            backend.is_some_and(|backend| backend.takes == Takes::All)
                && service.scheduler.has_room(number, &everybody)
        };
        let pinned = self.newest(key, services, now, conntrack, takes);
        let choice = match pinned.map(Details::backend) {
            Some(number) => {
                counters.add(counters::PINNED, 1);
                Choice::Backend(number)
            }
            None => self.schedule(asking),
        };
        if let Some(number) = choice.backend() {
            let before = pinned.filter(|pin| pin.backend() == number);
            let state = before.map_or(State::PinNew, Details::state);
            let pin = Details::new(number, state, service.profile, now);
            write(key, pin, services, now, conntrack);
        }
        choice
    }

    /// One of a client's flows with this backend has proven itself, goes on, or closes: the client
    /// is remembered for as long again.
    #[cold]
    pub(super) fn confirm(&self, asking: &Asking<'_>, number: u32, conntrack: &mut Conntrack) {
        let Some(client) = asking.service.affinity else {
            return;
        };
        let key = client.hash(&self.hasher, asking.packet, asking.service.number);
        let keeps = |number| asking.services.keeps(asking.place, number).is_some();
        let pinned = self.newest(key, asking.services, asking.now, conntrack, keeps);
        // A client that has moved on is not called back by an old flow.
        if pinned.is_none_or(|pin| pin.backend() == number) {
            let pin = Details::new(number, State::Pin, asking.service.profile, asking.now);
            write(key, pin, asking.services, asking.now, conntrack);
        }
    }

    /// Whether this client's next flow gets that backend for being remembered.
    #[cold]
    pub(super) fn remembers(
        &self,
        asking: &Asking<'_>,
        number: u32,
        conntrack: &Conntrack,
    ) -> bool {
        let Some(client) = asking.service.affinity else {
            return false;
        };
        let key = client.hash(&self.hasher, asking.packet, asking.service.number);
        let keeps = |number| asking.services.keeps(asking.place, number).is_some();
        let pinned = self.newest(key, asking.services, asking.now, conntrack, keeps);
        pinned.is_some_and(|pin| pin.backend() == number)
    }

    /// The newest pin of a client whose backend `counts`, whichever worker's; of two as new the first
    /// worker's.
    fn newest(
        &self,
        key: FlowHash,
        services: &Services,
        now: Tick,
        conntrack: &Conntrack,
        counts: impl Fn(u32) -> bool,
    ) -> Option<Details> {
        let profiles = &services.profiles;
        let own = conntrack
            .find(key, now, profiles)
            .map(|held| held.details());
        let counts = |pin: &Details| counts(pin.backend());
        if self.peers.len() < 2 {
            return own.filter(counts);
        }
        let all = (0u16..).zip(&self.peers).filter_map(|(worker, table)| {
            if worker == self.worker {
                own
            } else {
                table.find(key, now, profiles)
            }
        });
        all.filter(counts).reduce(|best, pin| {
            if now.age_of(pin.seen()) < now.age_of(best.seen()) {
                pin
            } else {
                best
            }
        })
    }
}

/// Writes a pin over the one that is there, or into a free place; without one the client is told by
/// the scheduler alone.
fn write(key: FlowHash, pin: Details, services: &Services, now: Tick, conntrack: &mut Conntrack) {
    if let Some(held) = conntrack.find(key, now, &services.profiles) {
        held.set(pin);
        return;
    }
    let _ = conntrack.insert(key, pin, now, &services.profiles);
}
