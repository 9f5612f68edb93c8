//! `lookup`, step by step: what each part of weir knows of a flow, and what that leads to.
//!
//! Asked of the same tables that workers read, so that it cannot say anything else than they do;
//! asking changes nothing.

use std::net::SocketAddr;

use weir_engine::buffer::BufferSource;
use weir_shm::model::{self, PortMatch, Protocol};
use weir_shm::segment::mailbox::{
    AffinityStep, BackendStep, ConntrackStep, ForwardingStep, LookupSteps, PoolStep, SchedulerStep,
    SessionStep, VipStep,
};

use super::Control;
use super::lookup::{Counted, asks_for_sequence, packet, state_name};
use crate::adjacency::NextHop;
use crate::conntrack::{Details, Tick};
use crate::flow::FlowHash;
use crate::parse::Packet;
use crate::scheduler::Choice;
use crate::service::{Owner, Service};
use crate::session::tcp::State;

/// A service, its place among the others, and its description.
struct Found<'a> {
    place: u32,
    service: &'a Service,
    model: &'a model::Service,
}

impl<S: BufferSource> Control<S> {
    /// The steps by which a packet gets to `chosen`; `None` where no service has the destination.
    #[must_use]
    pub fn explain(
        &self,
        now: Tick,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        chosen: Option<&str>,
    ) -> Option<LookupSteps> {
        let services = self.services();
        let packet = packet(protocol, source, destination);
        let (place, hash) = match services.owner(&packet) {
            Owner::Forward(place) => (place, self.hasher.packet(&packet)),
            Owner::ForwardByAddress(place) => (place, self.hasher.addresses(&packet)),
            _ => return None,
        };
        let found = Found {
            place,
            service: services.get(place)?,
            model: self.pool.services.get(place as usize)?,
        };
        Some(LookupSteps {
            vip: self.vip_step(&found, protocol, destination),
            hash: format!("{:016x}", hash.bucket),
            conntrack: self.conntrack_steps(now, &found, hash),
            affinity: self.affinity_step(now, &found, &packet),
            scheduler: self.scheduler_step(&found, &packet, hash),
            pool: self.pool_step(&found),
            backend: chosen.and_then(|name| self.backend_step(&found, name)),
            session: self.session_step(now, hash),
            forwarding: self.forwarding_step(&found, chosen),
        })
    }

    fn vip_step(&self, found: &Found<'_>, protocol: Protocol, destination: SocketAddr) -> VipStep {
        let others = (0u32..).zip(&self.pool.services);
        let less_specific = others
            .filter(|(place, other)| *place != found.place && matches(other, protocol, destination))
            .map(|(_, other)| other.name.clone());
        VipStep {
            listener: format!("{} {}", found.model.protocol, found.model.endpoint()),
            form: form(found.model),
            less_specific: less_specific.collect(),
        }
    }

    fn name(&self, number: u32) -> Option<String> {
        let (_, name) = self.book.backend(number)?;
        Some(name.to_owned())
    }

    /// Milliseconds until an entry is forgotten.
    fn left(&self, now: Tick, held: Details) -> u64 {
        let timeout = self.services().profiles.of(held);
        timeout.saturating_sub(now.age_of(held.seen())).into()
    }

    fn conntrack_steps(&self, now: Tick, found: &Found<'_>, hash: FlowHash) -> Vec<ConntrackStep> {
        let services = self.services();
        let tables = (0u32..).zip(&self.tables);
        let steps = tables.map(|(worker, table)| {
            let Some(held) = table.find(hash, now, &services.profiles) else {
                return ConntrackStep {
                    worker,
                    ..ConntrackStep::default()
                };
            };
            ConntrackStep {
                worker,
                hit: true,
                state: Some(state_name(held.state()).to_owned()),
                backend: self.name(held.backend()),
                kept: Some(services.keeps(found.place, held.backend()).is_some()),
                idle_ms: Some(now.age_of(held.seen()).into()),
                left_ms: Some(self.left(now, held)),
            }
        });
        steps.collect()
    }

    fn affinity_step(&self, now: Tick, found: &Found<'_>, packet: &Packet) -> Option<AffinityStep> {
        found.service.affinity?;
        let Some(pin) = self.pin(now, found.place, found.service, packet) else {
            return Some(AffinityStep::default());
        };
        Some(AffinityStep {
            backend: self.name(pin.details.backend()),
            worker: Some(pin.worker),
            idle_ms: Some(now.age_of(pin.details.seen()).into()),
            left_ms: Some(self.left(now, pin.details)),
            takes_new: pin.takes_new,
        })
    }

    fn scheduler_step(&self, found: &Found<'_>, packet: &Packet, hash: FlowHash) -> SchedulerStep {
        let scheduler = &found.service.scheduler;
        let point = found.service.point(&self.hasher, packet, hash);
        let choice = scheduler.choose(point, &mut 0, &Counted(&self.tables));
        let takes_turns = found.model.scheduler == model::Scheduler::RoundRobin;
        let (pick, word) = match choice {
            Choice::Nobody => (None, "nobody"),
            Choice::Full => (None, "full"),
            // Whose turn it is, only the worker knows.
            Choice::Backend(_) | Choice::Next(_) if takes_turns => (None, "turn"),
            Choice::Backend(_) | Choice::Next(_) if asks_for_sequence(found.service, packet) => {
                (None, "sequence")
            }
            Choice::Backend(number) => (Some(number), "first"),
            Choice::Next(number) => (Some(number), "next"),
        };
        SchedulerStep {
            scheduler: found.model.scheduler.name().to_owned(),
            pick: pick.and_then(|number| self.name(number)),
            choice: word.to_owned(),
            members: u32::try_from(scheduler.members().len()).unwrap_or(u32::MAX),
        }
    }

    fn pool_step(&self, found: &Found<'_>) -> PoolStep {
        let standings = self.standings(found.place as usize);
        PoolStep {
            all_down: standings.is_some_and(|standings| standings.all_down),
            fails_open: standings.is_some_and(|standings| standings.fails_open),
            policy: found.model.steering.all_down.name().to_owned(),
            healthy: standings.map_or(0, |standings| standings.healthy),
        }
    }

    fn backend_step(&self, found: &Found<'_>, name: &str) -> Option<BackendStep> {
        let backends = &found.model.backends;
        let place = backends
            .iter()
            .position(|one| one.name(found.model) == name)?;
        let backend = backends.get(place)?;
        let standing = self.standings(found.place as usize)?.backend(place);
        let details = self.checker.details(&found.model.name, name);
        let last = details.as_ref().and_then(|details| details.last.as_ref());
        Some(BackendStep {
            backend: name.to_owned(),
            state: standing.state.name().to_owned(),
            weight: backend.weight,
            max_flows: backend.max_flows,
            last_check: last.map(|(outcome, ..)| match outcome {
                Ok(()) => "ok".to_owned(),
                Err(failure) => failure.to_string(),
            }),
        })
    }

    fn session_step(&self, now: Tick, hash: FlowHash) -> Option<SessionStep> {
        let sessions = self.services().sessions.as_ref()?;
        (0..sessions.workers()).find_map(|worker| {
            let table = sessions.table(worker.into())?;
            let record = table.record(table.find(hash)?)?;
            let own = sessions.address(record.snat_address())?;
            let backend = record.backend();
            record.is_live(now).then(|| SessionStep {
                worker: worker.into(),
                from: (own.address.to_ip(own.version), record.snat_port()).into(),
                to: (backend.address.to_ip(backend.version), backend.port).into(),
                state: session_state(record.state()).to_owned(),
                idle_ms: now.age_of(record.seen()).into(),
                left_ms: (record.timeout().saturating_sub(now.age_of(record.seen()))).into(),
            })
        })
    }

    fn forwarding_step(&self, found: &Found<'_>, chosen: Option<&str>) -> ForwardingStep {
        let mode = found.model.forwarding.name().to_owned();
        let nowhere = ForwardingStep {
            mode,
            ..ForwardingStep::default()
        };
        let number = chosen.and_then(|name| self.book.number(&found.model.name, name));
        let Some(backend) = number.and_then(|number| self.services().backends.get(number as usize))
        else {
            return nowhere;
        };
        let port_name = |number: u16| {
            let port = self.config.ports.get(usize::from(number));
            port.map(|port| port.name.clone())
        };
        let address = backend.address.to_ip(backend.version);
        let next_hop = self.config.next_hop(address);
        let next_hop = next_hop.map(|neighbour| neighbour.address.to_string());
        match self.publisher.current().adjacency.hop(backend.hop) {
            NextHop::Ready { port, mac } => ForwardingStep {
                next_hop,
                mac: Some(mac.to_string()),
                port: port_name(port),
                ..nowhere
            },
            NextHop::Unresolved(neighbour) => ForwardingStep {
                next_hop,
                port: port_name(neighbour.port),
                ..nowhere
            },
            NextHop::NoRoute => nowhere,
        }
    }
}

const fn session_state(state: State) -> &'static str {
    match state {
        State::Opening => "opening",
        State::Answered => "answered",
        State::Established => "established",
        State::Closing => "closing",
        State::Udp => "udp",
        State::Loose => "mid-stream",
    }
}

/// Whether a service would take a packet if no other were more specific.
fn matches(service: &model::Service, protocol: Protocol, destination: SocketAddr) -> bool {
    let port = destination.port();
    let number = service.protocol.number();
    service.vip.covers(destination.ip())
        && (number.is_none() || number == protocol.number())
        && match service.port {
            PortMatch::Exact(exact) => port == exact,
            PortMatch::Range(first, last) => (first..=last).contains(&port),
            PortMatch::Any => true,
        }
}

/// What form a service's VIP has, in one word.
fn form(service: &model::Service) -> String {
    let port = match service.port {
        _ if service.protocol.number().is_none() => "any-protocol",
        PortMatch::Exact(_) => "exact",
        PortMatch::Range(..) => "range",
        PortMatch::Any => "any-port",
    };
    if service.vip.is_prefix() {
        format!("prefix-{port}")
    } else {
        port.to_owned()
    }
}
