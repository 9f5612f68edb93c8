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
//! A first pass over the burst takes the steady ones. For those whose flow is not in its first
//! line, it asks for the second and for the table's entry, and a second pass looks there.

use arrayvec::ArrayVec;
use weir_engine::counters::CounterWriter;
use weir_engine::wire::{protocol, tcp::flags};
use weir_shm::counters::{self, DropReason};

use super::BURST;
use super::lane::{Lane, Verdict};
use crate::conntrack::{Conntrack, Details, Inserted, NO_BACKEND, State, Tick};
use crate::parse::Packet;
use crate::service::{Service, Services, Takes};

/// TCP flags that may change a flow's state.
const TURNING: u8 = flags::SYN | flags::FIN | flags::RST;

/// Whether the packet opens a TCP connection.
#[inline]
const fn is_opening(packet: &Packet) -> bool {
    packet.tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}

/// Whether the packet is of a TCP connection that was opened before, and is not itself its end.
#[inline]
const fn is_mid_stream(packet: &Packet) -> bool {
    packet.protocol == protocol::TCP && packet.tcp_flags & (flags::SYN | flags::RST) == 0
}

/// The state of a flow that was not known before this packet.
#[inline]
const fn first_state(packet: &Packet) -> State {
    if packet.protocol != protocol::TCP {
        State::UdpNew
    } else if is_opening(packet) {
        State::Syn
    } else if packet.tcp_flags & (flags::RST | flags::FIN) != 0 {
        State::Closing
    } else {
        State::Loose
    }
}

/// The state of a known flow after this packet. Only what the client sends is seen (RFC 9293,
/// section 3.3.2, from one side): anything after the SYN establishes, FIN or RST closes, and
/// nothing but a new SYN opens a closing flow again.
#[inline]
const fn next_state(state: State, packet: &Packet) -> State {
    if packet.protocol != protocol::TCP {
        State::Udp
    } else if packet.tcp_flags & (flags::RST | flags::FIN) != 0 {
        State::Closing
    } else if is_opening(packet) {
        state
    } else {
        match state {
            State::Closing => State::Closing,
            _ => State::Established,
        }
    }
}

/// Hot: chooses each packet's backend and keeps conntrack up to date.
#[inline(always)]
pub fn all(
    services: &Services,
    now: Tick,
    conntrack: &mut Conntrack,
    counters: &CounterWriter,
    lanes: &mut [Lane],
) {
    conntrack.begin_burst();
    let mut waiting: ArrayVec<u8, BURST> = ArrayVec::new();
    let mut steady = 0;
    for (place, lane) in (0u8..).zip(lanes.iter_mut()) {
        if lane.verdict != Verdict::Forward {
            continue;
        }
        match conntrack.probe(lane.hash) {
            Some(held) => {
                let details = held.details();
                if let Some(backend) = services.keeps(lane.service, details.backend())
                    && details.is_confirmed()
                    && lane.packet.tcp_flags & TURNING == 0
                    && services.profiles.is_alive(details, now)
                {
                    held.set(details.seen_again(backend.profile, now));
                    lane.backend = details.backend();
                    steady += 1;
                    continue;
                }
            }
            None => {
                conntrack.prefetch_second(lane.hash);
                if let Some(service) = services.get(lane.service) {
                    service.prefetch(lane.hash);
                }
            }
        }
        // Never full: a burst has no more packets than this has room.
        let _ = waiting.try_push(place);
    }
    counters.add(counters::CONNTRACK_HITS, steady);
    if waiting.is_empty() {
        return;
    }
    let mut steering = Steering::new(services, now, conntrack, counters);
    for place in waiting {
        if let Some(lane) = lanes.get_mut(usize::from(place)) {
            steering.one(lane);
        }
    }
}

/// As [`all`], for one packet that is not in a burst.
#[cold]
pub fn alone(
    services: &Services,
    now: Tick,
    conntrack: &mut Conntrack,
    counters: &CounterWriter,
    lane: &mut Lane,
) {
    Steering::new(services, now, conntrack, counters).one(lane);
}

/// What the second pass needs, and QUIC's.
pub(super) struct Steering<'a> {
    services: &'a Services,
    now: Tick,
    conntrack: &'a mut Conntrack,
    counters: &'a CounterWriter,
}

impl<'a> Steering<'a> {
    pub(super) const fn new(
        services: &'a Services,
        now: Tick,
        conntrack: &'a mut Conntrack,
        counters: &'a CounterWriter,
    ) -> Self {
        Self {
            services,
            now,
            conntrack,
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
            held.set(details(next_state(held.details().state(), &lane.packet)));
            self.counters.add(counters::CONNTRACK_HITS, 1);
            return;
        }
        self.counters.add(counters::CONNTRACK_MISSES, 1);
        let details = details(first_state(&lane.packet));
        let inserted = self
            .conntrack
            .insert(lane.hash, details, self.now, &services.profiles);
        self.opened(service, lane, number, inserted);
    }

    /// Hot, though less: a packet of any kind.
    #[inline]
    pub(super) fn one(&mut self, lane: &mut Lane) {
        let services = self.services;
        let Some(service) = services.get(lane.service) else {
            lane.verdict = Verdict::Drop(DropReason::NoService);
            return;
        };
        let found = self.conntrack.find(lane.hash, self.now, &services.profiles);
        let number = match found {
            Some(held) => {
                let details = held.details();
                let state = details.state();
                if state == State::Closing && is_opening(&lane.packet) {
                    let state = first_state(&lane.packet);
                    let number = service.choose(lane.hash);
                    if let Some(number) = number {
                        held.set(Details::new(number, state, service.profile, self.now));
                        self.counters.add(counters::CONNTRACK_MISSES, 1);
                        self.opened(service, lane, number, Inserted::Free);
                    }
                    number
                } else {
                    self.counters.add(counters::CONNTRACK_HITS, 1);
                    let number = match services.keeps(lane.service, details.backend()) {
                        Some(_) => Some(details.backend()),
                        None if self.is_reset(lane, details.backend()) => {
                            lane.verdict = Verdict::Reset;
                            return;
                        }
                        None => self.moved(service, lane),
                    };
                    let state = next_state(state, &lane.packet);
                    let backend = number.unwrap_or(NO_BACKEND);
                    held.set(Details::new(backend, state, service.profile, self.now));
                    number
                }
            }
            None if service.resets_unknown && is_mid_stream(&lane.packet) => {
                self.counters.add(counters::CONNTRACK_MISSES, 1);
                lane.verdict = Verdict::Reset;
                return;
            }
            None => self.open(service, lane),
        };
        match number.filter(|number| services.keeps(lane.service, *number).is_some()) {
            Some(number) => lane.backend = number,
            None => lane.verdict = Verdict::Drop(DropReason::NoBackend),
        }
    }

    /// Whether a flow's backend has gone and its service resets what it had. What is known of the
    /// flow stays, so that the client's next segment gets the same answer; a new connection is
    /// steered anew.
    #[cold]
    fn is_reset(&self, lane: &Lane, number: u32) -> bool {
        let backend = self.services.backends.get(number as usize);
        is_mid_stream(&lane.packet)
            && backend.is_some_and(|backend| {
                backend.service == lane.service && backend.takes == Takes::Reset
            })
    }

    /// A flow whose backend has gone: the table's choice.
    #[cold]
    fn moved(&self, service: &Service, lane: &Lane) -> Option<u32> {
        let chosen = service.choose(lane.hash)?;
        self.counters.add(counters::FLOWS_MOVED, 1);
        Some(chosen)
    }

    /// A flow that conntrack does not know: the table's choice, remembered. A reset is passed on but
    /// opens nothing.
    #[inline]
    fn open(&mut self, service: &Service, lane: &Lane) -> Option<u32> {
        self.counters.add(counters::CONNTRACK_MISSES, 1);
        let number = service.choose(lane.hash)?;
        if lane.packet.tcp_flags & flags::RST != 0 {
            return Some(number);
        }
        let details = Details::new(number, first_state(&lane.packet), service.profile, self.now);
        let profiles = &self.services.profiles;
        let inserted = self
            .conntrack
            .insert(lane.hash, details, self.now, profiles);
        self.opened(service, lane, number, inserted);
        Some(number)
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
            self.counters
                .add(service.counters as usize + counters::NEW_FLOWS, 1);
            if let Some(backend) = self.services.keeps(lane.service, number) {
                self.counters
                    .add(backend.counters as usize + counters::NEW_FLOWS, 1);
            }
        }
    }
}
