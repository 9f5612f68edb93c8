//! Health checks: who is checked when, and what is made of it.
//!
//! A *target* is what is checked: an address on a path with a kind and its parameters. Services that
//! ask the same of the same backend share one. A *subject* is a backend of a service, which is judged
//! by the results of its target, each service by its own `fall`, `rise` and flap settings.
//!
//! Checks are spread: the first ones over nearly an interval, and each next one comes up to a tenth of the
//! interval early, by chance, so that they never march in step. Never late: a backend that stops
//! answering is down after at most `fall` intervals and one time-out. One check of a target is under
//! way at a time: the next one, if due, begins as soon as it ends.
//!
//! No socket, clock or thread in here. What randomness there is comes from one seed.

mod connection;
mod failure;
mod http;
mod judge;
mod packet;
pub mod path;
mod quic;
pub mod ramp;
mod run;
mod tls;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use weir_shm::duration;
use weir_shm::model::{Admin, Backend, Flap, Health, HealthKind, Pool, Service};

use crate::adjacency::Neighbour;
use crate::config::Config;
use crate::control::neighbours::Nanos;
use crate::metrics::Histogram;
use crate::session::LAST_PORT;

pub use failure::{Failure, Outcome};
pub use judge::{Change, Judge, Rules};
use path::{Path, PathKey};
use run::{Run, Spec};
pub use tls::Identities;

/// The ports that checks are sent from; below are those of services, which may be weir's own.
pub const PORTS: RangeInclusive<u16> = 32_768..=65_535;
/// Those of them that are used where weir speaks for itself alone.
pub const OWN_PORTS: RangeInclusive<u16> = 32_768..=LAST_PORT;
/// The ports that checks are sent from where sessions of `full-nat` have the others: there may be
/// as many such checks at once.
const SNAT_PORTS: RangeInclusive<u16> = LAST_PORT + 1..=65_535;
/// The ports that checks are sent from where the kernel shares addresses with weir: above those
/// that Linux takes for connections of its own (`net.ipv4.ip_local_port_range`).
pub const PORTS_BESIDE_KERNEL: RangeInclusive<u16> = 61_000..=65_535;
/// The part of an interval by which a check may come early.
const JITTER: u64 = 10;
/// From the first check of a new target to that of the next, at least: so many new targets that
/// this would take longer than an interval are spread over one, but for its last tenth.
const SPREAD: Nanos = 10_000_000;

/// From one look at a connection to the next, at least: what its stack's clock can tell apart.
const LEAST: Nanos = 1_000;

/// A packet of a check, ready for its Ethernet header.
#[derive(Debug)]
pub struct Leaving {
    /// Whose MAC address it gets.
    pub hop: Neighbour,
    /// The IP packet.
    pub packet: Vec<u8>,
}

/// What checks say of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// It is not checked, and counts as up.
    Unchecked,
    /// It is new, and no check has ended yet.
    Checking,
    /// It is up.
    Up,
    /// It is down.
    Down,
    /// It is held down for having changed too often.
    Held,
}

impl View {
    /// Whether it counts as up.
    #[must_use]
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Unchecked | Self::Up)
    }
}

/// What an operator may want to know of a backend's checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Details {
    /// What they say.
    pub view: View,
    /// Checks that ended, and how many of them failed.
    pub checks: (u64, u64),
    /// What the last one found, when it ended, and how long it took.
    pub last: Option<(Outcome, Nanos, Nanos)>,
    /// Until when it is held down.
    pub held_until: Option<Nanos>,
}

#[derive(Debug)]
struct Target {
    spec: Arc<Spec>,
    key: Key,
    subjects: Vec<(String, String)>,
    /// The port of the check under way.
    run: Option<u16>,
    /// When the next check is to begin.
    due: Nanos,
    /// Whether that time came while a check was under way: the next begins when that one ends.
    is_awaited: bool,
    checks: (u64, u64),
    last: Option<(Outcome, Nanos, Nanos)>,
}

type Key = (PathKey, Health);

#[derive(Debug)]
struct Subject {
    judge: Judge,
    rules: Rules,
    /// `None` when weir has no address to check it from.
    target: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Check(usize),
    Run(u16),
}

/// All checks; see the module's text.
#[derive(Debug)]
pub struct Checker {
    /// The ports that checks are sent from where no session has a say.
    ports: RangeInclusive<u16>,
    /// Without a seed nothing is checked, and everything counts as up.
    random: Option<fastrand::Rng>,
    identities: Identities,
    targets: Vec<Option<Target>>,
    free: Vec<usize>,
    by_key: HashMap<Key, usize>,
    subjects: HashMap<String, BTreeMap<String, Subject>>,
    runs: HashMap<u16, Run>,
    next_port: u16,
    next_snat_port: u16,
    /// Addresses that sessions of `full-nat` speak from.
    snat: HashSet<IpAddr>,
    timers: BinaryHeap<Reverse<(Nanos, Timer)>>,
    holds: BTreeSet<(Nanos, String, String)>,
    leaving: Vec<Leaving>,
    changed: BTreeSet<String>,
    news: Vec<String>,
    /// How long checks of each service took.
    durations: HashMap<String, Histogram>,
}

impl Checker {
    /// A checker that checks if it has a seed, from these ports.
    #[must_use]
    pub fn new(seed: Option<u64>, ports: RangeInclusive<u16>) -> Self {
        let mut random = seed.map(fastrand::Rng::with_seed);
        let next_port = random
            .as_mut()
            .map_or(*ports.start(), |random| random.u16(ports.clone()));
        Self {
            random,
            ports,
            identities: Identities::default(),
            targets: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            subjects: HashMap::new(),
            runs: HashMap::new(),
            next_port,
            next_snat_port: *SNAT_PORTS.start(),
            snat: HashSet::new(),
            timers: BinaryHeap::new(),
            holds: BTreeSet::new(),
            leaving: Vec::new(),
            changed: BTreeSet::new(),
            news: Vec::new(),
            durations: HashMap::new(),
        }
    }

    /// Reads the files that a pool's checks name, those that were not read before.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn prepare(&mut self, pool: &Pool) -> Result<(), String> {
        if self.random.is_some() {
            self.identities.read(pool)?;
        }
        Ok(())
    }

    /// Reads all files that a pool's checks name, also those that were read before: they may have
    /// been renewed under the same names.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn read_again(&self, pool: &Pool) -> Result<Identities, String> {
        let mut identities = Identities::default();
        if self.random.is_some() {
            identities.read(pool)?;
        }
        Ok(identities)
    }

    /// Checks with files that were read again, from the next check of each target on.
    pub fn renew(&mut self, identities: Identities) {
        self.identities = identities;
        for target in self.targets.iter_mut().flatten() {
            let Some(identity) = self.identities.get(&target.spec.health.tls) else {
                continue;
            };
            if target.spec.identity.is_some() {
                target.spec = Arc::new(Spec {
                    path: target.spec.path.clone(),
                    health: target.spec.health.clone(),
                    identity: Some(identity.clone()),
                });
            }
        }
    }

    /// Follows a change of the pool. Backends that are new to a service which was checked before
    /// have to prove themselves; all others count as up until they are found down.
    pub fn follow(&mut self, now: Nanos, config: &Config, before: &Pool, after: &Pool) {
        if self.random.is_none() {
            return;
        }
        let by_name = |pool: &'_ Pool| -> HashMap<String, usize> {
            let names = pool.services.iter().map(|service| service.name.clone());
            names.zip(0..).collect()
        };
        let (old, new) = (by_name(before), by_name(after));
        for service in &before.services {
            if !new.contains_key(&service.name) {
                self.forget_service(&service.name);
            }
        }
        let snat = after.services.iter().flat_map(|service| &service.snat_pool);
        self.snat = snat.copied().collect();
        let mut fresh = Vec::new();
        for service in &after.services {
            let was = old
                .get(&service.name)
                .and_then(|place| before.services.get(*place));
            if was != Some(service) {
                self.follow_service(config, was, service, &mut fresh);
            }
        }
        self.start(now, &fresh);
    }

    fn follow_service(
        &mut self,
        config: &Config,
        was: Option<&Service>,
        service: &Service,
        fresh: &mut Vec<usize>,
    ) {
        if service.health.kind == HealthKind::None {
            self.forget_service(&service.name);
            return;
        }
        let mut before = self.subjects.remove(&service.name).unwrap_or_default();
        let checked_before = was.is_some_and(|was| was.health.kind != HealthKind::None);
        let mut after = BTreeMap::new();
        for backend in &service.backends {
            if backend.admin == Admin::Disabled {
                continue;
            }
            let name = backend.name(service);
            let target = self.target(config, service, backend, fresh);
            let mut subject = before.remove(&name).unwrap_or_else(|| Subject {
                judge: Judge::new(!checked_before),
                rules: Rules::from(&service.health),
                target: None,
            });
            subject.rules = Rules::from(&service.health);
            let who = (service.name.clone(), name.clone());
            if subject.target != target {
                self.leave(subject.target, &who);
                if let Some(Some(target)) = target.and_then(|target| self.targets.get_mut(target)) {
                    target.extend_subjects(who);
                }
                subject.target = target;
            }
            if target.is_none() && subject.judge.is_up() {
                subject.judge.result(0, false, &subject.rules);
                self.news.push(format!(
                    "{}: {name} is down: {}",
                    service.name,
                    Failure::NoSource
                ));
            }
            after.insert(name, subject);
        }
        for (name, subject) in before {
            self.leave(subject.target, &(service.name.clone(), name));
        }
        self.subjects.insert(service.name.clone(), after);
        self.changed.insert(service.name.clone());
    }

    /// The number of what is to be checked; a new one if nobody asked for it before.
    fn target(
        &mut self,
        config: &Config,
        service: &Service,
        backend: &Backend,
        fresh: &mut Vec<usize>,
    ) -> Option<usize> {
        let path = Path::of(config, service, backend)?;
        // What the judges alone go by does not tell checks apart.
        let health = Health {
            fall: 1,
            rise: 1,
            flap: Flap::default(),
            port: None,
            ..service.health.clone()
        };
        let key = (path.key(), health.clone());
        if let Some(known) = self.by_key.get(&key) {
            return Some(*known);
        }
        let spec = Arc::new(Spec {
            path,
            identity: self.identities.get(&health.tls).cloned(),
            health,
        });
        let target = Target {
            spec,
            key: key.clone(),
            subjects: Vec::new(),
            run: None,
            due: 0,
            is_awaited: false,
            checks: (0, 0),
            last: None,
        };
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.targets.push(None);
                self.targets.len() - 1
            }
        };
        if let Some(place) = self.targets.get_mut(number) {
            *place = Some(target);
        }
        self.by_key.insert(key, number);
        fresh.push(number);
        Some(number)
    }

    fn forget_service(&mut self, service: &str) {
        for (name, subject) in self.subjects.remove(service).unwrap_or_default() {
            self.leave(subject.target, &(service.to_owned(), name));
        }
        self.durations.remove(service);
        self.changed.insert(service.to_owned());
    }

    /// A subject no longer asks for a target, which goes with the last one.
    fn leave(&mut self, number: Option<usize>, who: &(String, String)) {
        let Some(number) = number else { return };
        let Some(place) = self.targets.get_mut(number) else {
            return;
        };
        let Some(target) = place else { return };
        target.subjects.retain(|subject| subject != who);
        if !target.subjects.is_empty() {
            return;
        }
        if let Some(port) = target.run {
            self.runs.remove(&port);
        }
        self.by_key.remove(&target.key);
        *place = None;
        self.free.push(number);
    }

    /// Spreads the first checks of new targets.
    fn start(&mut self, now: Nanos, fresh: &[usize]) {
        let count = fresh.len() as u64;
        for number in fresh {
            let Some(Some(target)) = self.targets.get_mut(*number) else {
                continue;
            };
            let spread = spread(&target.spec);
            let room = spread.min(count.saturating_mul(SPREAD)).max(1);
            let random = self.random.as_mut();
            target.due = now + random.map_or(0, |random| random.u64(0..room));
            let timer = (target.due, Timer::Check(*number));
            self.timers.push(Reverse(timer));
        }
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let hold = self.holds.first().map(|(at, ..)| *at);
        timer.into_iter().chain(hold).min()
    }

    /// Does what is due: begins checks, lets those under way go on, ends holds.
    pub fn tick(&mut self, now: Nanos) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            match timer {
                Timer::Check(number) => self.check(now, at, number),
                Timer::Run(port) => self.poll(now, port),
            }
        }
        while let Some((at, service, name)) = self.holds.first().cloned()
            && at <= now
        {
            self.holds.pop_first();
            let Some(subject) = self.subject(&service, &name) else {
                continue;
            };
            let (judge, rules) = (&mut subject.judge, subject.rules);
            if let Some(change) = judge.tick(now, &rules) {
                self.tell(&service, &name, change, None);
            }
        }
    }

    fn subject(&mut self, service: &str, name: &str) -> Option<&mut Subject> {
        self.subjects.get_mut(service)?.get_mut(name)
    }

    /// A check was due at `at`: it begins, or waits for the one before to end.
    fn check(&mut self, now: Nanos, at: Nanos, number: usize) {
        let Some(Some(target)) = self.targets.get_mut(number) else {
            return;
        };
        // A target that came in the place of another has timers of its own.
        if target.due != at {
            return;
        }
        let run = target.run.and_then(|port| self.runs.get(&port));
        // One whose connection only lingers is no longer in the way.
        if run.is_some_and(|run| !run.is_over()) {
            target.is_awaited = true;
            return;
        }
        self.begin(now, at, at, number);
    }

    /// Begins a check that could have begun at `at`, and plans the next by when it should have been.
    fn begin(&mut self, now: Nanos, at: Nanos, was_due: Nanos, number: usize) {
        let (Some(random), Some(Some(target))) =
            (self.random.as_mut(), self.targets.get_mut(number))
        else {
            return;
        };
        let interval = interval(&target.spec);
        if now.saturating_sub(at) > interval {
            // weir fell far behind: what is due is spread anew, or all of it would begin at once.
            target.due = now + random.u64(0..spread(&target.spec));
            self.timers
                .push(Reverse((target.due, Timer::Check(number))));
            return;
        }
        target.due = was_due + interval - random.u64(0..(interval / JITTER).max(1));
        self.timers
            .push(Reverse((target.due, Timer::Check(number))));
        let spec = Arc::clone(&target.spec);
        let Some(port) = self.free_port(spec.path.source) else {
            return;
        };
        let Some(random) = self.random.as_mut() else {
            return;
        };
        match Run::begin(now, number, &spec, port, random) {
            Err(failure) => self.ended(now, number, now, &Err(failure)),
            Ok(mut run) => {
                self.send(&spec, run.outgoing());
                let due = run.next_due(now).max(now + LEAST);
                self.timers.push(Reverse((due, Timer::Run(port))));
                self.runs.insert(port, run);
                if let Some(Some(target)) = self.targets.get_mut(number) {
                    target.run = Some(port);
                }
            }
        }
    }

    /// A port of weir's own address `source` that no check uses.
    fn free_port(&mut self, source: IpAddr) -> Option<u16> {
        let (ports, next) = if self.snat.contains(&source) {
            (SNAT_PORTS, &mut self.next_snat_port)
        } else {
            (self.ports.clone(), &mut self.next_port)
        };
        for _ in ports.clone() {
            let port = *next;
            *next = if port == *ports.end() {
                *ports.start()
            } else {
                port + 1
            };
            if !self.runs.contains_key(&port) {
                return Some(port);
            }
        }
        None
    }

    fn send(&mut self, spec: &Spec, packets: impl Iterator<Item = Vec<u8>>) {
        let Path { hop, outer, .. } = &spec.path;
        self.leaving.extend(packets.map(|packet| Leaving {
            hop: *hop,
            packet: match outer {
                Some(outer) => outer.encapsulate(packet),
                None => packet,
            },
        }));
    }

    /// A check under way has its time.
    fn poll(&mut self, now: Nanos, port: u16) {
        self.with_run(now, port, |run, spec| run.poll(now, spec));
    }

    /// An IP packet came in; whether it was for a check.
    pub fn hear(&mut self, now: Nanos, bytes: &[u8]) -> bool {
        if self.runs.is_empty() {
            return false;
        }
        let Some((source, destination, heard)) = packet::read(bytes) else {
            return false;
        };
        let port = match &heard {
            packet::Heard::Tcp(port)
            | packet::Heard::Udp { to: port, .. }
            | packet::Heard::Echo(port, _)
            | packet::Heard::Unreachable(_, port, _) => *port,
        };
        let Some(spec) = self.spec_of(port) else {
            return false;
        };
        let quoted = matches!(heard, packet::Heard::Unreachable(..));
        if destination != spec.path.source || (!quoted && source != spec.path.target) {
            return false;
        }
        self.with_run(now, port, |run, spec| run.hear(now, spec, &heard, bytes));
        true
    }

    fn spec_of(&self, port: u16) -> Option<Arc<Spec>> {
        let run = self.runs.get(&port)?;
        let target = self.targets.get(run.target)?.as_ref()?;
        Some(Arc::clone(&target.spec))
    }

    /// Lets a check under way go on, sends what it has to send, and takes note of its outcome.
    fn with_run(
        &mut self,
        now: Nanos,
        port: u16,
        step: impl FnOnce(&mut Run, &Spec) -> Option<Outcome>,
    ) {
        let Some(spec) = self.spec_of(port) else {
            self.runs.remove(&port);
            return;
        };
        let Some(mut run) = self.runs.remove(&port) else {
            return;
        };
        let outcome = step(&mut run, &spec);
        let healthy = outcome.as_ref().is_some_and(Outcome::is_ok);
        let over = (outcome.is_some() || run.is_over()) && run.wind_up(now, healthy);
        self.send(&spec, run.outgoing());
        let (number, started, deadline) = (run.target, run.started, run.started + timeout(&spec));
        if over {
            if let Some(Some(target)) = self.targets.get_mut(number) {
                target.run = target.run.filter(|of_target| *of_target != port);
            }
        } else {
            let due = run.next_due(now).max(now + LEAST);
            self.timers.push(Reverse((due, Timer::Run(port))));
            self.runs.insert(port, run);
        }
        if let Some(outcome) = outcome {
            let ended_by = deadline.min(now);
            self.ended(now, number, started, &outcome);
            if let Some(Some(target)) = self.targets.get_mut(number)
                && std::mem::take(&mut target.is_awaited)
            {
                self.begin(now, ended_by, now, number);
            }
        }
    }

    /// A check ended: every service that asked for it judges for itself.
    fn ended(&mut self, now: Nanos, number: usize, started: Nanos, outcome: &Outcome) {
        let Some(Some(target)) = self.targets.get_mut(number) else {
            return;
        };
        target.checks.0 += 1;
        target.checks.1 += u64::from(outcome.is_err());
        let took = now.saturating_sub(started);
        target.last = Some((outcome.clone(), now, took));
        for (service, name) in target.subjects.clone() {
            let durations = self.durations.entry(service.clone()).or_default();
            durations.add(Duration::from_nanos(took));
            self.judge(now, &service, &name, outcome);
        }
    }

    fn judge(&mut self, now: Nanos, service: &str, name: &str, outcome: &Outcome) {
        let Some(subject) = self.subject(service, name) else {
            return;
        };
        let (judge, rules) = (&mut subject.judge, subject.rules);
        let known = judge.is_known();
        if let Some(change) = judge.result(now, outcome.is_ok(), &rules) {
            let held = judge.held_until();
            if let (Change::Held(_), Some(until)) = (change, held) {
                self.holds
                    .insert((until, service.to_owned(), name.to_owned()));
            }
            self.tell(service, name, change, outcome.as_ref().err());
        } else if !known {
            self.changed.insert(service.to_owned());
        }
    }

    /// Connections of clients were refused by a backend: as many failed checks.
    pub fn refused(&mut self, now: Nanos, service: &str, name: &str, count: u64) {
        let Some(subject) = self.subject(service, name) else {
            return;
        };
        let enough = u64::from(subject.rules.fall);
        let outcome = Err(Failure::ClientsRefused(count));
        for _ in 0..count.min(enough) {
            self.judge(now, service, name, &outcome);
        }
    }

    fn tell(&mut self, service: &str, name: &str, change: Change, why: Option<&Failure>) {
        self.changed.insert(service.to_owned());
        let why = why.map_or_else(String::new, |failure| format!(": {failure}"));
        self.news.push(match change {
            Change::Up => format!("{service}: {name} is up"),
            Change::Down => format!("{service}: {name} is down{why}"),
            Change::Held(time) => format!(
                "{service}: {name} is held down for {}, having changed too often{why}",
                duration::text(time)
            ),
            Change::Released { up: true } => {
                format!("{service}: {name} is no longer held down, and is up")
            }
            Change::Released { up: false } => {
                format!("{service}: {name} is no longer held down, but still fails its checks")
            }
        });
    }

    /// What checks say of a backend.
    #[must_use]
    pub fn view(&self, service: &str, backend: &str) -> View {
        let subject = self
            .subjects
            .get(service)
            .and_then(|subjects| subjects.get(backend));
        let Some(subject) = subject else {
            return View::Unchecked;
        };
        let judge = &subject.judge;
        match (judge.is_up(), judge.is_known(), judge.held_until()) {
            (true, ..) => View::Up,
            (false, false, _) => View::Checking,
            (false, true, Some(_)) => View::Held,
            (false, true, None) => View::Down,
        }
    }

    /// What an operator may want to know of a backend's checks; `None` when there are none.
    #[must_use]
    pub fn details(&self, service: &str, backend: &str) -> Option<Details> {
        let subject = self.subjects.get(service)?.get(backend)?;
        let target = subject
            .target
            .and_then(|number| self.targets.get(number)?.as_ref());
        Some(Details {
            view: self.view(service, backend),
            checks: target.map_or((0, 0), |target| target.checks),
            last: target.and_then(|target| target.last.clone()),
            held_until: subject.judge.held_until(),
        })
    }

    /// Checks of a backend that ended, how many of them failed, and how long the last one took;
    /// `None` when there are none.
    #[must_use]
    pub fn counts(&self, service: &str, backend: &str) -> Option<(u64, u64, Option<Nanos>)> {
        let subject = self.subjects.get(service)?.get(backend)?;
        let target = self.targets.get(subject.target?)?.as_ref()?;
        let last = target.last.as_ref().map(|(_, _, took)| *took);
        Some((target.checks.0, target.checks.1, last))
    }

    /// How long checks of a service's backends took, those that ended.
    #[must_use]
    pub fn durations(&self, service: &str) -> Option<&Histogram> {
        self.durations.get(service)
    }

    /// Whether any backend of a service is checked.
    #[must_use]
    pub fn knows(&self, service: &str) -> bool {
        self.subjects.contains_key(service)
    }

    /// Packets to be sent.
    pub fn take_leaving(&mut self) -> Vec<Leaving> {
        std::mem::take(&mut self.leaving)
    }

    /// Services whose backends may have changed since this was last asked.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Whether there is such a service.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// What happened, for the log.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// What is checked: targets, and checks under way.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.by_key.len(), self.runs.len())
    }

    /// Whether an address and port are those of a check under way.
    #[must_use]
    pub fn is_expecting(&self, own: IpAddr, port: u16) -> bool {
        self.spec_of(port)
            .is_some_and(|spec| spec.path.source == own)
    }
}

impl Target {
    fn extend_subjects(&mut self, who: (String, String)) {
        if !self.subjects.contains(&who) {
            self.subjects.push(who);
        }
    }
}

/// The time over which first checks are spread: by the time that second ones come early, first ones
/// are over.
fn spread(spec: &Spec) -> Nanos {
    let interval = interval(spec);
    (interval - interval / JITTER).max(1)
}

fn timeout(spec: &Spec) -> Nanos {
    u64::try_from(spec.health.timeout.as_nanos()).unwrap_or(u64::MAX / 4)
}

fn interval(spec: &Spec) -> Nanos {
    u64::try_from(spec.health.interval.as_nanos()).unwrap_or(u64::MAX / 4)
}
