//! Live flows counted: by backend, state, and time since the last packet.
//!
//! A pass over the workers' tables, as many entries at a time as the control core can spare between
//! two rounds; the workers notice nothing.

use weir_engine::buffer::BufferSource;
use weir_shm::segment::mailbox::{
    Answer, BackendCensus, BackendFlows, Census as Counts, FLOW_STATES, IDLE_CLASSES, NewFlow,
    ServiceCensus,
};

use super::Control;
use super::lookup::state_name;
use crate::conntrack::{Details, State, Tick};
use crate::parse::Packet;
use crate::service::Owner;

/// Lines of conntrack, or sessions, that are looked at in one step: less than a millisecond's work.
const STEP: u32 = 8_192;

/// What is counted of a backend.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    states: [u64; FLOW_STATES.len()],
    idle: [u64; IDLE_CLASSES.len()],
    sessions: u64,
}

impl Counted {
    fn add(&mut self, held: Details, now: Tick) {
        let state = match held.state() {
            State::Syn => 0,
            State::Established => 1,
            State::Closing => 2,
            State::Loose => 3,
            State::UdpNew => 4,
            State::Udp | State::PinNew | State::Pin => 5,
        };
        let idle = now.age_of(held.seen());
        let class = IDLE_CLASSES.iter().position(|(_, end)| idle < *end);
        for (counts, place) in [
            (self.states.as_mut_slice(), state),
            (
                self.idle.as_mut_slice(),
                class.unwrap_or(IDLE_CLASSES.len() - 1),
            ),
        ] {
            if let Some(count) = counts.get_mut(place) {
                *count += 1;
            }
        }
    }

    fn flows(&self) -> u64 {
        self.states.iter().sum()
    }
}

/// A count under way.
#[derive(Debug, Default)]
pub struct Census {
    /// By the backends' numbers.
    counted: Vec<Counted>,
    worker: usize,
    line: u32,
    session: u32,
}

impl Census {
    /// Goes on counting; whether all has been counted.
    pub fn step<S: BufferSource>(&mut self, control: &Control<S>, now: Tick) -> bool {
        let services = control.services();
        self.counted.resize(
            services.backends.len().max(self.counted.len()),
            Counted::default(),
        );
        let Some(table) = control.tables.get(self.worker) else {
            return true;
        };
        if self.line < table.lines() {
            let end = self.line.saturating_add(STEP).min(table.lines());
            let counted = &mut self.counted;
            table.for_each_live_in(self.line..end, now, &services.profiles, |held| {
                if let Some(backend) = counted.get_mut(held.backend() as usize) {
                    backend.add(held, now);
                }
            });
            self.line = end;
            return false;
        }
        let sessions = services.sessions.as_ref();
        let sessions = sessions.and_then(|sessions| sessions.table(self.worker));
        if let Some(table) =
            sessions.filter(|table| table.live() > 0 && self.session < table.capacity())
        {
            let end = self.session.saturating_add(STEP).min(table.capacity());
            let live = (self.session..end)
                .filter_map(|session| table.record(session))
                .filter(|record| record.fingerprint() != 0 && record.is_live(now));
            for record in live {
                if let Some(backend) = self.counted.get_mut(record.backend_number() as usize) {
                    backend.sessions += 1;
                }
            }
            self.session = end;
            return false;
        }
        self.worker += 1;
        self.line = 0;
        self.session = 0;
        self.worker >= control.tables.len()
    }

    /// All that there is to count, at once: for whoever need not hurry.
    #[must_use]
    pub fn whole<S: BufferSource>(control: &Control<S>, now: Tick) -> Self {
        let mut census = Self::default();
        while !census.step(control, now) {}
        census
    }

    fn of(&self, number: u32) -> Counted {
        self.counted
            .get(number as usize)
            .copied()
            .unwrap_or_default()
    }

    /// The answer to a question about flows.
    #[must_use]
    pub fn answer<S: BufferSource>(
        &self,
        control: &Control<S>,
        service: Option<&str>,
        backend: Option<&str>,
    ) -> Answer {
        let seen = control.book().everything_seen();
        let pool = control.pool();
        if let Some(refused) = refused(control, service, backend) {
            return refused;
        }
        let services = pool.services.iter();
        let services = services
            .filter(|found| service.is_none_or(|asked| asked == found.name))
            .map(|found| {
                let full_nat = found.forwarding == weir_shm::model::Forwarding::FullNat;
                let census = |name: String, number: u32, in_pool: bool| {
                    let counted = self.of(number);
                    BackendCensus {
                        backend: name,
                        in_pool,
                        flows: counted.flows(),
                        states: counted.states,
                        idle: counted.idle,
                        sessions: full_nat.then_some(counted.sessions),
                    }
                };
                let names: Vec<String> = found
                    .backends
                    .iter()
                    .map(|backend| backend.name(found))
                    .collect();
                let here = names.iter().filter_map(|name| {
                    let number = control.book().number(&found.name, name)?;
                    Some(census(name.clone(), number, true))
                });
                // Those that left and still have flows.
                let left = seen
                    .get(found.name.as_str())
                    .into_iter()
                    .flat_map(|(_, all)| all);
                let left = left
                    .filter(|(name, _)| !names.iter().any(|here| here == *name))
                    .map(|(name, number)| census((*name).to_owned(), *number, false))
                    .filter(|census| census.flows > 0);
                ServiceCensus {
                    service: found.name.clone(),
                    backends: here
                        .chain(left)
                        .filter(|found| backend.is_none_or(|asked| asked == found.backend))
                        .collect(),
                }
            })
            .filter(|found| backend.is_none() || !found.backends.is_empty());
        Answer::Census(Counts {
            services: services.collect(),
        })
    }

    /// The answer to a question about the flows of one service's backends.
    #[must_use]
    pub fn flows<S: BufferSource>(
        &self,
        control: &Control<S>,
        service: &str,
        backend: Option<&str>,
    ) -> Answer {
        if let Some(refused) = refused(control, Some(service), backend) {
            return refused;
        }
        let found = control.pool().service(service).into_iter();
        let names = found.flat_map(|found| found.backends.iter().map(|one| one.name(found)));
        let backends = names
            .filter(|name| backend.is_none_or(|asked| asked == name))
            .map(|name| BackendFlows {
                flows: (control.book().number(service, &name))
                    .map_or(0, |number| self.of(number).flows()),
                backend: name,
            })
            .collect();
        Answer::Flows { backends }
    }
}

/// Why a question about a service and backend has no answer, if it has none.
fn refused<S: BufferSource>(
    control: &Control<S>,
    service: Option<&str>,
    backend: Option<&str>,
) -> Option<Answer> {
    let refused = |reason| Some(Answer::Refused { reason });
    let pool = control.pool();
    let mut services = pool.services.iter();
    match (service, backend) {
        (Some(service), _) if pool.service(service).is_none() => {
            refused(format!("no service \"{service}\""))
        }
        (Some(service), Some(backend)) if pool.service(service)?.backend(backend).is_none() => {
            refused(format!("no backend {backend} in service \"{service}\""))
        }
        (None, Some(backend)) if !services.any(|found| found.backend(backend).is_some()) => {
            refused(format!("no backend {backend} in any service"))
        }
        _ => None,
    }
}

impl<S: BufferSource> Control<S> {
    /// Live flows by backend number, of all workers: one pass over their tables.
    #[must_use]
    pub fn flows(&self, now: Tick) -> Vec<u64> {
        let census = Census::whole(self, now);
        census.counted.iter().map(Counted::flows).collect()
    }

    /// The newest flows that workers noted, newest first.
    #[must_use]
    pub fn newest(
        &self,
        now: Tick,
        service: Option<&str>,
        backend: Option<&str>,
        most: u32,
    ) -> Answer {
        if let Some(refused) = refused(self, service, backend) {
            return refused;
        }
        let all = (0u32..).zip(&self.newest);
        let mut flows: Vec<NewFlow> = all
            .flat_map(|(worker, notes)| notes.flows().map(move |flow| (worker, flow)))
            .filter_map(|(worker, flow)| {
                let (of, name) = self.book.backend(flow.backend)?;
                let is_asked = service.is_none_or(|asked| asked == of)
                    && backend.is_none_or(|asked| asked == name);
                let packet = Packet {
                    source: flow.source,
                    destination: flow.destination,
                    ports: flow.ports,
                    version: flow.version,
                    protocol: flow.protocol,
                    ..Packet::default()
                };
                is_asked.then(|| NewFlow {
                    protocol: flow.protocol,
                    source: (flow.source.to_ip(flow.version), packet.source_port()).into(),
                    destination: (
                        flow.destination.to_ip(flow.version),
                        packet.destination_port(),
                    )
                        .into(),
                    service: of.to_owned(),
                    backend: name.to_owned(),
                    worker,
                    age_ms: now.age_of(flow.began).into(),
                    state: self.state_of(now, &packet).map(str::to_owned),
                })
            })
            .collect();
        flows.sort_by_key(|flow| flow.age_ms);
        flows.truncate(most as usize);
        Answer::Newest { flows }
    }

    /// What conntrack knows of a packet's flow now.
    fn state_of(&self, now: Tick, packet: &Packet) -> Option<&'static str> {
        let hash = match self.services().owner(packet) {
            Owner::Forward(_) => self.hasher.packet(packet),
            Owner::ForwardByAddress(_) => self.hasher.addresses(packet),
            _ => return None,
        };
        let (_, held) = self.find_flow(now, hash)?;
        Some(state_name(held.state()))
    }
}
