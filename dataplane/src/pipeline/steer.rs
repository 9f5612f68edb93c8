//! Stage 3: which backend a packet goes to.
//!
//! Four ways, from cheap to dear:
//! - *steady*: conntrack holds the flow, established, in the line that was asked for, and its
//!   backend still takes it. Nothing changes but when the flow was last seen. Nearly every packet.
//! - *turning*: the packet changes what is known of the flow (a handshake goes on, a connection
//!   closes).
//! - *moved*: conntrack holds the flow, but its backend has gone: the table chooses anew.
//! - *new*: the table chooses and conntrack remembers.
//!
//! A first pass over the burst looks into the lines that were asked for, and sorts: whether a flow is
//! in its first line is a matter of chance where the table is full, so nothing may depend on a guess.
//! For those that are not there it asks for the second line and for the table's entry. Then go the
//! steady ones of the first line, those of the second, and in the end, one by one, all others.

use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_engine::cpu::Width;
use weir_engine::wire::tcp::flags;
use weir_shm::counters::{self, DropReason};

use super::BURST;
use super::choose::{Asking, Chooser};
use super::lane::{Before, Lane, Places, Verdict};
use super::quick::Quick;
use super::states::{TURNING, first_state, is_mid_stream, is_opening, next_state, sequence};
use crate::conntrack::{Conntrack, Details, Held, Inserted, Lines, State, Tick};
use crate::scheduler::Choice;
use crate::service::{Backend, Service, Services};

/// Whether a client is to be noted anew for its flow's going on: when the clock has passed a multiple of
/// two to the power of the backend's `pins` since the flow's last packet.
#[inline(always)]
const fn is_long_ago(held: Details, now: Tick, pins: u8) -> bool {
    (held.seen().0 ^ now.0) >> (pins & 31) != 0
}

/// Hot: chooses each packet's backend and keeps conntrack up to date. Steady packets, and answers of
/// backends, leave by `quick` at once where nothing about them is unusual.
#[inline(always)]
pub fn all<W: Width, B: Buffer>(
    width: W,
    now: Tick,
    conntrack: &mut Conntrack,
    chooser: &mut Chooser,
    quick: &mut Quick<'_>,
    burst: &mut [B],
    lanes: &mut [Lane],
) {
    conntrack.begin_burst();
    let (services, counters) = (quick.services, quick.counters);
    let lines = conntrack.lines();
    let mut first = 0;
    for (place, (frame, lane)) in (0u32..).zip(burst.iter_mut().zip(lanes.iter_mut())) {
        if lane.verdict == Verdict::Forward {
            lane.matches = lines.matches(width, lane.line, lane.hash);
            first |= u32::from(lane.matches != 0) << place;
        } else if lane.verdict == Verdict::Return {
            quick.give_back(frame, lane);
        }
    }
    let second = missing(first, lanes);
    for lane in Places(second).of(lanes) {
        lane.line = lines.prefetch_second(lane.line, lane.hash);
        if let Some(service) = services.get(lane.service) {
            service.prefetch(lane.hash);
        }
    }
    let mut rest = keep_on(Places(first), now, lines, quick, burst, lanes);
    if second != 0 {
        for lane in Places(second).of(lanes) {
            lane.matches = lines.matches(width, lane.line, lane.hash);
        }
        rest |= keep_on(Places(second), now, lines, quick, burst, lanes);
    }
    let steady = (first | second).count_ones() - rest.count_ones();
    counters.add(counters::CONNTRACK_HITS, steady.into());
    if rest != 0 {
        let mut steering = Steering::new(services, now, conntrack, chooser, counters);
        for place in Places(rest) {
            if let (Some(lane), Some(frame)) = (lanes.get_mut(place), burst.get(place)) {
                steering.one(lane, frame.data());
            }
        }
    }
}

/// Hot: the places of packets to services other than those of `first`.
#[inline(always)]
fn missing(first: u32, lanes: &[Lane]) -> u32 {
    let all = u32::MAX >> (u32::BITS - lanes.len().clamp(1, BURST) as u32);
    let mut second = 0;
    for place in Places(all & !first) {
        let to_service = lanes
            .get(place)
            .is_some_and(|lane| lane.verdict == Verdict::Forward);
        second |= u32::from(to_service) << place;
    }
    second
}

/// Hot: sends the steady ones of some packets on. Gives the places of the others.
#[inline(always)]
fn keep_on<B: Buffer>(
    places: Places,
    now: Tick,
    lines: Lines<'_>,
    quick: &mut Quick<'_>,
    burst: &mut [B],
    lanes: &mut [Lane],
) -> u32 {
    let services = quick.services;
    let mut rest = 0;
    for place in places {
        let (Some(lane), Some(frame)) = (lanes.get_mut(place), burst.get_mut(place)) else {
            break;
        };
        if let Some(held) = lines.held(lane.line, lane.matches)
            && let Some(backend) = go_steadily(services, now, &held, lane)
        {
            quick.forward(frame, lane, backend);
        } else {
            rest |= 1 << place;
        }
    }
    rest
}

/// Hot: the backend of a packet that goes on with an established flow and changes nothing of it but
/// when it was last seen. Notes that, and the backend, if so.
#[inline(always)]
fn go_steadily<'a>(
    services: &'a Services,
    now: Tick,
    held: &Held<'_>,
    lane: &mut Lane,
) -> Option<&'a Backend> {
    let details = held.details();
    if let Some(backend) = services.keeps(lane.service, details.backend())
        && details.is_confirmed()
        && lane.packet.tcp_flags & TURNING == 0
        && services.profiles.is_alive(details, now)
        && (backend.pins == 0 || !is_long_ago(details, now, backend.pins))
    {
        held.set(details.seen_again(backend.profile, now));
        lane.backend = details.backend();
        return Some(backend);
    }
    None
}

/// Before [`all`]: keeps the steady ones of some packets from leaving at once. What is not steady does
/// not leave at once anyway, and is steered in its turn.
#[cold]
pub fn set_apart(
    places: Places,
    now: Tick,
    conntrack: &Conntrack,
    quick: &Quick<'_>,
    lanes: &mut [Lane],
) {
    let services = quick.services;
    for lane in places.of(lanes) {
        if lane.verdict == Verdict::Forward
            && let Some(held) = conntrack.find(lane.hash, now, &services.profiles)
            && go_steadily(services, now, &held, lane).is_some()
        {
            lane.verdict = Verdict::Apart;
            quick.counters.add(counters::CONNTRACK_HITS, 1);
        }
    }
}

/// As [`all`], for one packet that is not in a burst.
#[cold]
pub fn alone(
    services: &Services,
    now: Tick,
    conntrack: &mut Conntrack,
    chooser: &mut Chooser,
    counters: &CounterWriter,
    frame: &[u8],
    lane: &mut Lane,
) {
    Steering::new(services, now, conntrack, chooser, counters).one(lane, frame);
}

/// What the second pass needs, and QUIC's.
pub(super) struct Steering<'a> {
    services: &'a Services,
    now: Tick,
    conntrack: &'a mut Conntrack,
    chooser: &'a mut Chooser,
    counters: &'a CounterWriter,
}

impl<'a> Steering<'a> {
    pub(super) const fn new(
        services: &'a Services,
        now: Tick,
        conntrack: &'a mut Conntrack,
        chooser: &'a mut Chooser,
        counters: &'a CounterWriter,
    ) -> Self {
        Self {
            services,
            now,
            conntrack,
            chooser,
            counters,
        }
    }

    /// Hot: a packet that names its backend, which takes packets: its flow follows it there.
    #[inline]
    pub(super) fn pin(&mut self, lane: &mut Lane, number: u32) {
        let services = self.services;
        let Some(service) = services.get(lane.service) else {
            lane.verdict = Verdict::Drop(DropReason::NoService);
            return;
        };
        lane.backend = number;
        let details = |state| Details::new(number, state, service.profile, self.now);
        if let Some(held) = self.conntrack.find(lane.hash, self.now, &services.profiles) {
            let before = held.details();
            lane.before = Before::of(Some(before));
            let after = details(next_state(before.state(), &lane.packet));
            held.set(after);
            self.conntrack.recount(before, after);
            self.counters.add(counters::CONNTRACK_HITS, 1);
            if service.affinity.is_some() {
                self.go_on_knowing(service, lane, &[], before, after);
            }
            return;
        }
        lane.before = Before::NOTHING;
        self.counters.add(counters::CONNTRACK_MISSES, 1);
        let details = details(first_state(&lane.packet));
        let inserted = self
            .conntrack
            .insert(lane.hash, details, self.now, &services.profiles);
        self.opened(service, lane, number, inserted);
    }

    /// Hot, though less: a packet of any kind.
    #[inline]
    pub(super) fn one(&mut self, lane: &mut Lane, frame: &[u8]) {
        let services = self.services;
        let Some(service) = services.get(lane.service) else {
            lane.verdict = Verdict::Drop(DropReason::NoService);
            return;
        };
        let found = self.conntrack.find(lane.hash, self.now, &services.profiles);
        let held = found.map(|held| held.details());
        lane.before = Before::of(held);
        let chosen = match held {
            Some(held) if held.state() == State::Closing && is_opening(&lane.packet) => {
                self.reopen(service, lane, frame, held)
            }
            Some(held) => self.go_on(service, lane, frame, held),
            None if service.resets_unknown && is_mid_stream(&lane.packet) => {
                self.counters.add(counters::CONNTRACK_MISSES, 1);
                Err(Verdict::Reset)
            }
            None => self.open(service, lane, frame),
        };
        match chosen {
            Ok(number) if services.keeps(lane.service, number).is_some() => lane.backend = number,
            Ok(_) => lane.verdict = Verdict::Drop(DropReason::NoBackend),
            Err(verdict) => lane.verdict = verdict,
        }
    }

    /// Whether a flow's backend has gone and its service resets what it had. What is known of the
    /// flow stays, so that the client's next segment gets the same answer; a new connection is
    /// steered anew.
    #[cold]
    fn is_reset(&self, lane: &Lane, number: u32) -> bool {
        is_mid_stream(&lane.packet) && self.services.resets(lane.service, number)
    }

    /// The scheduler's choice for a flow, or what becomes of a packet without one. A flow may take the
    /// place of one that still counts for the backend that it `leaves`.
    #[inline]
    fn choose(
        &mut self,
        service: &Service,
        lane: &Lane,
        frame: &[u8],
        leaves: Option<u32>,
    ) -> Result<u32, Verdict> {
        let choice = match service.scheduler.plain(lane.hash.point()) {
            Some(choice) => choice,
            None => {
                let mut asking = self.asking(service, lane, frame);
                asking.leaves = leaves;
                self.chooser.choose(&asking, self.conntrack, self.counters)
            }
        };
        match choice {
            Choice::Backend(number) => Ok(number),
            other => self.without_first_choice(service, other),
        }
    }

    #[cold]
    fn without_first_choice(&self, service: &Service, choice: Choice) -> Result<u32, Verdict> {
        match choice {
            Choice::Backend(number) => Ok(number),
            Choice::Next(number) => {
                self.counters.add(counters::FLOWS_DIVERTED, 1);
                Ok(number)
            }
            Choice::Full => Err(Verdict::Drop(DropReason::BackendsFull)),
            Choice::Nobody if service.without.reset => Err(Verdict::Refuse(service.without.reason)),
            Choice::Nobody => Err(Verdict::Drop(service.without.reason)),
        }
    }

    fn asking<'b>(&self, service: &'b Service, lane: &'b Lane, frame: &[u8]) -> Asking<'b>
    where
        Self: 'b,
    {
        Asking {
            services: self.services,
            service,
            place: lane.service,
            now: self.now,
            packet: &lane.packet,
            hash: lane.hash,
            sequence: if is_opening(&lane.packet) {
                sequence(&lane.packet, frame)
            } else {
                0
            },
            leaves: None,
        }
    }

    /// A packet of a flow that conntrack holds.
    #[inline]
    fn go_on(
        &mut self,
        service: &Service,
        lane: &Lane,
        frame: &[u8],
        held: Details,
    ) -> Result<u32, Verdict> {
        self.counters.add(counters::CONNTRACK_HITS, 1);
        let chosen = match self.services.keeps(lane.service, held.backend()) {
            Some(_) => Ok(held.backend()),
            None if self.is_reset(lane, held.backend()) => return Err(Verdict::Reset),
            None => self.moved(service, lane, frame),
        };
        let state = next_state(held.state(), &lane.packet);
        // While nobody takes the flow it stays its backend's, which may come back.
        let number = *chosen.as_ref().unwrap_or(&held.backend());
        let details = Details::new(number, state, service.profile, self.now);
        self.set(lane, held, details);
        if service.affinity.is_some() && chosen.is_ok() {
            self.go_on_knowing(service, lane, frame, held, details);
        }
        chosen
    }

    /// A client's flow goes on: now and then, and when it proves itself or closes, the client is
    /// remembered for as long again.
    #[cold]
    fn go_on_knowing(
        &mut self,
        service: &Service,
        lane: &Lane,
        frame: &[u8],
        before: Details,
        after: Details,
    ) {
        let backend = self.services.backends.get(after.backend() as usize);
        let often = backend.map_or(0, |backend| backend.pins);
        let ends = after.state() == State::Closing && before.state() != State::Closing;
        let proves = after.is_confirmed() && !before.is_confirmed();
        if ends || proves || is_long_ago(before, self.now, often) {
            let asking = self.asking(service, lane, frame);
            self.chooser
                .confirm(&asking, after.backend(), self.conntrack);
        }
    }

    /// Writes what is known of a flow now over what was known. Gives whether that was still there.
    #[inline]
    fn set(&self, lane: &Lane, before: Details, after: Details) -> bool {
        let found = self
            .conntrack
            .find(lane.hash, self.now, &self.services.profiles);
        if let Some(held) = found {
            held.set(after);
            self.conntrack.recount(before, after);
        }
        found.is_some()
    }

    /// A flow whose backend has gone: a new choice.
    #[cold]
    fn moved(&mut self, service: &Service, lane: &Lane, frame: &[u8]) -> Result<u32, Verdict> {
        let chosen = self.choose(service, lane, frame, None)?;
        self.counters.add(counters::FLOWS_MOVED, 1);
        Ok(chosen)
    }

    /// A SYN on a flow that was closing: a new flow in the place of the old.
    fn reopen(
        &mut self,
        service: &Service,
        lane: &Lane,
        frame: &[u8],
        held: Details,
    ) -> Result<u32, Verdict> {
        let number = self.choose(service, lane, frame, Some(held.backend()))?;
        let details = Details::new(number, first_state(&lane.packet), service.profile, self.now);
        let inserted = if self.set(lane, held, details) {
            Inserted::Free
        } else {
            // A client that is remembered from now on took the place.
            let profiles = &self.services.profiles;
            self.conntrack
                .insert(lane.hash, details, self.now, profiles)
        };
        self.counters.add(counters::CONNTRACK_MISSES, 1);
        self.opened(service, lane, number, inserted);
        Ok(number)
    }

    /// A flow that conntrack does not know: the scheduler's choice, remembered. A reset is passed on
    /// but opens nothing, takes no turn and makes no client known.
    #[inline]
    fn open(&mut self, service: &Service, lane: &Lane, frame: &[u8]) -> Result<u32, Verdict> {
        self.counters.add(counters::CONNTRACK_MISSES, 1);
        if lane.packet.tcp_flags & flags::RST != 0 {
            return self.fixed(service, lane);
        }
        let mut number = self.choose(service, lane, frame, None)?;
        let details = Details::new(number, first_state(&lane.packet), service.profile, self.now);
        let profiles = &self.services.profiles;
        let inserted = self
            .conntrack
            .insert(lane.hash, details, self.now, profiles);
        if inserted == Inserted::Untracked && service.scheduler.forgets() {
            number = self.again(service, lane, frame, number)?;
        }
        self.opened(service, lane, number, inserted);
        Ok(number)
    }

    /// The backend of a flow that found no room: nothing remembers the choice, so it has to be one that
    /// comes out again, by its client or by its hash.
    #[cold]
    fn again(
        &self,
        service: &Service,
        lane: &Lane,
        frame: &[u8],
        chosen: u32,
    ) -> Result<u32, Verdict> {
        let asking = self.asking(service, lane, frame);
        if self.chooser.remembers(&asking, chosen, self.conntrack) {
            return Ok(chosen);
        }
        self.fixed(service, lane)
    }

    #[cold]
    fn fixed(&self, service: &Service, lane: &Lane) -> Result<u32, Verdict> {
        let point = self.chooser.point(service, &lane.packet, lane.hash);
        self.without_first_choice(service, service.scheduler.fixed(point))
    }

    #[inline]
    fn opened(&self, service: &Service, lane: &Lane, number: u32, inserted: Inserted) {
        match inserted {
            Inserted::Free => {}
            Inserted::Evicted => self.counters.add(counters::CONNTRACK_EVICTED, 1),
            Inserted::Untracked => self.counters.add(counters::CONNTRACK_UNTRACKED, 1),
        }
        if inserted != Inserted::Untracked {
            self.counters.add(counters::CONNTRACK_INSERTED, 1);
        }
        if inserted != Inserted::Untracked || is_opening(&lane.packet) {
            if let Some(newest) = &self.chooser.newest {
                newest.note(&lane.packet, number, self.now);
            }
            self.counters
                .add(service.counters as usize + counters::NEW_FLOWS, 1);
            if let Some(backend) = self.services.keeps(lane.service, number) {
                self.counters
                    .add(backend.counters as usize + counters::NEW_FLOWS, 1);
            }
        }
    }
}
