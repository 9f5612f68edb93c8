//! Stage 2: which backend a packet goes to.
//!
//! Three tiers, from cheap to dear, in this order:
//! - *hit*: conntrack knows the flow and its backend still takes it. One prefetched line.
//! - *moved*: conntrack knows the flow, but its backend has gone: the table chooses anew.
//! - *new*: the table chooses and conntrack remembers.

use weir_engine::wire::{protocol, tcp::flags};
use weir_shm::counters::{self, DropReason};

use super::{Pipeline, Step};
use crate::conntrack::{Details, Inserted, NO_BACKEND, Place, State, Tick};
use crate::flow::FlowHash;
use crate::parse::Packet;
use crate::service::{Service, Services};

/// Whether the packet opens a TCP connection.
#[inline]
const fn is_opening(packet: &Packet) -> bool {
    packet.tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
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

impl Pipeline {
    /// Hot: chooses the backend and keeps conntrack up to date.
    #[inline]
    pub(super) fn steer(
        &mut self,
        services: &Services,
        now: Tick,
        packet: &Packet,
        number: u32,
        hash: FlowHash,
    ) -> Step {
        let Some(service) = services.get(number) else {
            return Step::Drop(DropReason::NoService);
        };
        let chosen = match self.conntrack.find(hash, now, &services.profiles) {
            Some((place, held)) if held.state() == State::Closing && is_opening(packet) => {
                self.open_flow(services, service, now, packet, hash, Some(place))
            }
            Some((place, held)) => {
                self.counters.add(counters::CONNTRACK_HITS, 1);
                let number = match services.keeps(held.backend()) {
                    Some(_) => held.backend(),
                    None => self.move_flow(service, hash),
                };
                let state = next_state(held.state(), packet);
                self.conntrack
                    .update(place, Details::new(number, state, service.profile, now));
                Some(number)
            }
            None => self.open_flow(services, service, now, packet, hash, None),
        };
        match chosen.and_then(|number| services.keeps(number)) {
            Some(backend) => Step::Steered {
                packet: *packet,
                service: number,
                backend: *backend,
            },
            None => Step::Drop(DropReason::NoBackend),
        }
    }

    /// A flow whose backend has gone: the table's choice, or [`NO_BACKEND`].
    #[cold]
    fn move_flow(&mut self, service: &Service, hash: FlowHash) -> u32 {
        let chosen = service.choose(hash);
        if chosen.is_some() {
            self.counters.add(counters::FLOWS_MOVED, 1);
        }
        chosen.unwrap_or(NO_BACKEND)
    }

    /// A flow that conntrack does not know, or holds as closing in `place`: the table's choice,
    /// remembered. A reset is passed on but opens nothing.
    fn open_flow(
        &mut self,
        services: &Services,
        service: &Service,
        now: Tick,
        packet: &Packet,
        hash: FlowHash,
        place: Option<Place>,
    ) -> Option<u32> {
        self.counters.add(counters::CONNTRACK_MISSES, 1);
        let number = service.choose(hash)?;
        if packet.tcp_flags & flags::RST != 0 {
            return Some(number);
        }
        let details = Details::new(number, first_state(packet), service.profile, now);
        let inserted = match place {
            Some(place) => {
                self.conntrack.update(place, details);
                Inserted::Free
            }
            None => self
                .conntrack
                .insert(hash, details, now, &services.profiles),
        };
        match inserted {
            Inserted::Free => {}
            Inserted::Evicted => self.counters.add(counters::CONNTRACK_EVICTED, 1),
            Inserted::Untracked => self.counters.add(counters::CONNTRACK_UNTRACKED, 1),
        }
        if inserted != Inserted::Untracked {
            self.counters.add(counters::CONNTRACK_INSERTED, 1);
        }
        if inserted != Inserted::Untracked || is_opening(packet) {
            self.counters
                .add(service.counters as usize + counters::NEW_FLOWS, 1);
            if let Some(backend) = services.keeps(number) {
                self.counters
                    .add(backend.counters as usize + counters::NEW_FLOWS, 1);
            }
        }
        Some(number)
    }
}
