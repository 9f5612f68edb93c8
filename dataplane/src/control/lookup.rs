//! The answer to "which backend would this packet get, and why".

use std::net::SocketAddr;

use weir_engine::buffer::BufferSource;
use weir_engine::wire::protocol;
use weir_shm::model::{self, Protocol};

use super::Control;
use crate::address::{Addr, Version};
use crate::conntrack::{ConntrackReader, Details, State, Tick};
use crate::flow::FlowHash;
use crate::parse::Packet;
use crate::scheduler::{Key, Live};
use crate::service::{Owner, Service, Takes, protocol_number};

/// What steers a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Conntrack holds the flow.
    Conntrack,
    /// The connection ID of a QUIC packet names the backend.
    ConnectionId,
    /// Conntrack does not hold it; the Maglev table chooses.
    Maglev,
    /// The same, by the ring.
    Ring,
    /// The same, by the Maglev table, asked with the client's address.
    SourceHash,
    /// The same, by the worker's next turn.
    RoundRobin,
    /// The same, by how many flows backends hold.
    LeastConnections,
    /// The same, by what is remembered of the client.
    Affinity,
    /// Conntrack holds it, but its backend has gone; the table chooses anew.
    Moved,
    /// No service has this VIP, port and protocol.
    NoService,
    /// The service has no backend that takes the flow.
    NoBackend,
}

impl Reason {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conntrack => "conntrack",
            Self::ConnectionId => "connection-id",
            Self::Maglev => "maglev",
            Self::Ring => "ring",
            Self::SourceHash => "source-hash",
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::Affinity => "affinity",
            Self::Moved => "moved",
            Self::NoService => "no_service",
            Self::NoBackend => "no_backend",
        }
    }
}

/// What is known of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The service, if the destination is one's.
    pub service: Option<String>,
    /// The backend that the next packet goes to.
    pub backend: Option<String>,
    /// Why that one.
    pub reason: Reason,
    /// The worker whose conntrack holds the flow.
    pub worker: Option<usize>,
    /// The flow's state there.
    pub state: Option<&'static str>,
    /// Milliseconds since its last packet.
    pub idle_ms: Option<u32>,
    /// The entry of the Maglev table that the flow falls on, and the table's size.
    pub table_entry: Option<(u32, u32)>,
}

/// What is remembered of a client.
pub(super) struct Pin {
    /// The worker that knows it.
    pub(super) worker: u32,
    /// What it knows.
    pub(super) details: Details,
    /// Whether the backend takes a new flow of the client.
    pub(super) takes_new: bool,
}

/// What steers a flow, and where to.
struct Chosen {
    number: Option<u32>,
    reason: Reason,
    /// Whether there is a backend that only its packet will tell.
    is_open: bool,
}

impl Chosen {
    const fn by(reason: Reason, number: Option<u32>) -> Self {
        Self {
            number,
            reason,
            is_open: false,
        }
    }
}

/// Whether the service's table is asked with what only the packet itself has.
pub(super) fn asks_for_sequence(service: &Service, packet: &Packet) -> bool {
    service.scheduler.key() == Key::FlowAndSequence && packet.protocol == protocol::TCP
}

/// Flows by backend, as the workers count them.
pub(super) struct Counted<'a>(pub(super) &'a [ConntrackReader]);

impl Live for Counted<'_> {
    fn flows(&self, number: u32) -> u64 {
        let all = self.0.iter();
        let sum = all.fold(0u64, |sum, table| sum.wrapping_add(table.live().of(number)));
        if sum > u64::MAX / 2 { 0 } else { sum }
    }
}

pub(super) const fn state_name(state: State) -> &'static str {
    match state {
        State::Syn => "syn",
        State::Established => "established",
        State::Closing => "closing",
        State::Udp | State::UdpNew => "udp",
        State::Loose => "mid-stream",
        State::PinNew | State::Pin => "client",
    }
}

impl<S: BufferSource> Control<S> {
    /// Explains where a packet from `source` to `destination` goes at `now`.
    #[must_use]
    pub fn lookup(
        &self,
        now: Tick,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Explanation {
        let nothing = |reason| Explanation {
            service: None,
            backend: None,
            reason,
            worker: None,
            state: None,
            idle_ms: None,
            table_entry: None,
        };
        let services = self.services();
        let packet = packet(protocol, source, destination);
        let (number, hash) = match services.owner(&packet) {
            Owner::Forward(number) => (number, self.hasher.packet(&packet)),
            Owner::ForwardByAddress(number) => (number, self.hasher.addresses(&packet)),
            _ => return nothing(Reason::NoService),
        };
        let (Some(service), Some(model)) = (
            services.get(number),
            self.pool.services.get(number as usize),
        ) else {
            return nothing(Reason::NoService);
        };
        let found = self.find_flow(now, hash);
        let kept = found.filter(|(_, held)| services.keeps(number, held.backend()).is_some());
        let chosen = match kept {
            Some((_, held)) => Chosen::by(Reason::Conntrack, Some(held.backend())),
            None => {
                let chosen = self.choose(now, number, service, model, &packet, hash);
                let reason = if found.is_some() {
                    Reason::Moved
                } else {
                    chosen.reason
                };
                Chosen { reason, ..chosen }
            }
        };
        let backend = chosen
            .number
            .and_then(|number| self.book.backend(number))
            .map(|(_, name)| name);
        let point = service.point(&self.hasher, &packet, hash);
        let entry = service.scheduler.entry(point);
        Explanation {
            service: Some(model.name.clone()),
            backend: backend.map(str::to_owned),
            reason: if backend.is_some() || chosen.is_open {
                chosen.reason
            } else {
                Reason::NoBackend
            },
            worker: found.map(|(worker, _)| worker),
            state: found.map(|(_, held)| state_name(held.state())),
            idle_ms: found.map(|(_, held)| now.age_of(held.seen())),
            table_entry: entry.filter(|_| !asks_for_sequence(service, &packet)),
        }
    }

    /// The backend of a new flow, and why that one.
    fn choose(
        &self,
        now: Tick,
        place: u32,
        service: &Service,
        model: &model::Service,
        packet: &Packet,
        hash: FlowHash,
    ) -> Chosen {
        if let Some(pin) = self.pin(now, place, service, packet)
            && pin.takes_new
        {
            return Chosen::by(Reason::Affinity, Some(pin.details.backend()));
        }
        let point = service.point(&self.hasher, packet, hash);
        let choice = service
            .scheduler
            .choose(point, &mut 0, &Counted(&self.tables));
        let reason = match model.scheduler {
            model::Scheduler::Maglev => Reason::Maglev,
            model::Scheduler::Ring => Reason::Ring,
            model::Scheduler::SourceHash => Reason::SourceHash,
            model::Scheduler::LeastConnections => Reason::LeastConnections,
            model::Scheduler::RoundRobin => Reason::RoundRobin,
        };
        // Whose turn it is, only the worker knows; and a SYN's sequence number only its sender.
        let is_open = reason == Reason::RoundRobin || asks_for_sequence(service, packet);
        let number = choice.backend();
        Chosen {
            reason,
            is_open: is_open && number.is_some(),
            number: number.filter(|_| !is_open),
        }
    }

    /// What is remembered of a packet's client: the newest of what counts, as the packet path has it,
    /// else the newest of what does not.
    pub(super) fn pin(
        &self,
        now: Tick,
        place: u32,
        service: &Service,
        packet: &Packet,
    ) -> Option<Pin> {
        let client = service.affinity?;
        let key = client.hash(&self.hasher, packet, service.number);
        let services = self.services();
        let takes_new = |number: u32| {
            let backend = services.keeps(place, number);
            backend.is_some_and(|backend| backend.takes == Takes::All)
                && service.scheduler.has_room(number, &Counted(&self.tables))
        };
        let pins = (0u32..).zip(&self.tables).filter_map(|(worker, table)| {
            let details = table.find(key, now, &services.profiles)?;
            Some(Pin {
                worker,
                details,
                takes_new: takes_new(details.backend()),
            })
        });
        pins.min_by_key(|pin| (!pin.takes_new, now.age_of(pin.details.seen())))
    }

    pub(super) fn find_flow(&self, now: Tick, hash: FlowHash) -> Option<(usize, Details)> {
        let profiles = &self.services().profiles;
        self.tables
            .iter()
            .enumerate()
            .find_map(|(worker, table)| Some((worker, table.find(hash, now, profiles)?)))
    }

    /// How full each worker's table is: entries that hold a flow, and entries in all. Those that
    /// timed out count until the worker comes upon them.
    pub fn occupancy(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let backends = u32::try_from(self.book.numbered().1).unwrap_or(u32::MAX);
        self.tables.iter().map(move |table| {
            let flows = (0..backends).map(|backend| table.live().of(backend));
            let entries = flows.fold(0u64, u64::wrapping_add).cast_signed().max(0);
            (
                entries.cast_unsigned().min(table.capacity()),
                table.capacity(),
            )
        })
    }

    /// Which flows a backend takes.
    #[must_use]
    pub fn takes(&self, service: &str, backend: &str) -> Takes {
        let number = self.book.number(service, backend);
        let backend = number.and_then(|number| self.services().backends.get(number as usize));
        backend.map_or(Takes::Nothing, |backend| backend.takes)
    }
}

/// A packet as far as steering looks at it.
pub(super) fn packet(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Packet {
    let [a, b] = source.port().to_be_bytes();
    let [c, d] = destination.port().to_be_bytes();
    Packet {
        source: Addr::from(source.ip()),
        destination: Addr::from(destination.ip()),
        ports: u32::from_le_bytes([a, b, c, d]),
        ip_len: 0,
        transport: 0,
        network: 0,
        version: Version::of(&destination.ip()),
        protocol: protocol_number(protocol),
        tcp_flags: 0,
        ttl: 64,
        tag: None,
    }
}
