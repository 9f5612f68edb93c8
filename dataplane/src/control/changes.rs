//! How changes come in force: those that an operator makes, and those that time and checks bring.
//!
//! An operator's pool is validated, followed by drains and checks, and published whole. Between
//! two pools, backends go up and down, drains run out and shares grow: what came together is put
//! in force together, and only when it makes a difference.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use weir_engine::buffer::BufferSource;
use weir_shm::model::{Admin, Backend, HealthKind, OnDown, Pool, Service, percent};
use weir_shm::segment::directory::BackendState;
use weir_shm::segment::event::EventKind;

use super::health::ramp::{Ramp, STEPS};
use super::health::{Checker, Identities};
use super::neighbours::Nanos;
use super::path_mtu::Told;
use super::standing::{Facts, Standings, takes_new_flows};
use super::{Control, Event, Ground, Refusal, Who, adjacency, book_services};

/// A drain under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drain {
    timeout: Duration,
    /// When what is left of its flows is taken away.
    pub(super) due: Nanos,
}

/// What of a pool is as it was in the one before.
struct Kept {
    /// Of each service, the place that it had if it is the same.
    places: Vec<Option<usize>>,
    /// Whether the pools have the same services in the same order, with the same addresses and ports,
    /// and the same backends in the same order.
    is_alike: bool,
    /// Whether the same backends are checked.
    is_watched_alike: bool,
}

impl Kept {
    fn of(before: &Pool, after: &Pool) -> Self {
        let named = before.services.iter().map(|service| service.name.as_str());
        let were: HashMap<&str, usize> = named.zip(0..).collect();
        let same = |service: &Service| {
            let place = were.get(service.name.as_str()).copied()?;
            (before.services.get(place) == Some(service)).then_some(place)
        };
        let places: Vec<Option<usize>> = after.services.iter().map(same).collect();
        let pairs = || {
            before
                .services
                .iter()
                .zip(&after.services)
                .zip(&places)
                .enumerate()
        };
        let is_alike = before.services.len() == after.services.len()
            && pairs().all(|(at, ((was, is), place))| *place == Some(at) || is_alike(was, is));
        let is_checked = |service: &Service| service.health.kind != HealthKind::None;
        Self {
            is_alike,
            is_watched_alike: is_alike
                && pairs().all(|(_, ((was, is), _))| is_checked(was) == is_checked(is)),
            places,
        }
    }

    /// The place that the service at this place had, if it is the same.
    fn was_at(&self, place: usize) -> Option<usize> {
        self.places.get(place).copied().flatten()
    }
}

/// Whether packets of a service come from and go to the same addresses and ports as before.
fn is_alike(was: &Service, is: &Service) -> bool {
    let endpoint = |backend: &Backend| (backend.address, backend.port);
    let backends = || was.backends.iter().zip(&is.backends);
    (&was.name, was.vip, was.port, was.protocol, was.forwarding)
        == (&is.name, is.vip, is.port, is.protocol, is.forwarding)
        && (&was.tunnel, &was.snat_pool) == (&is.tunnel, &is.snat_pool)
        && was.backends.len() == is.backends.len()
        && backends().all(|(was, is)| endpoint(was) == endpoint(is))
}

/// All drains of a pool: one that was under way with the same time-out keeps its deadline.
pub(super) fn follow_drains(
    now: Nanos,
    pool: &Pool,
    before: &BTreeMap<Who, Drain>,
) -> BTreeMap<Who, Drain> {
    let mut drains = BTreeMap::new();
    for service in &pool.services {
        for backend in &service.backends {
            if let Admin::Drain { timeout } = backend.admin {
                let who = (service.name.clone(), backend.name(service));
                let due = now.saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
                let known = before.get(&who).filter(|drain| drain.timeout == timeout);
                drains.insert(who, known.copied().unwrap_or(Drain { timeout, due }));
            }
        }
    }
    drains
}

/// What is known of a service's backends, in order.
pub(super) fn facts(
    service: &Service,
    checker: &Checker,
    drained: &HashSet<Who>,
    ramps: &BTreeMap<Who, Ramp>,
    now: Nanos,
) -> Vec<Facts> {
    let backends = service.backends.iter();
    // Most services need no names looked up.
    if !checker.knows(&service.name) && drained.is_empty() && ramps.is_empty() {
        let healthy = Facts {
            view: super::health::View::Unchecked,
            drained: false,
            share: STEPS,
        };
        return backends.map(|_| healthy).collect();
    }
    let facts = backends.map(|backend| {
        let who = (service.name.clone(), backend.name(service));
        Facts {
            view: checker.view(&who.0, &who.1),
            drained: drained.contains(&who),
            share: ramps.get(&who).map_or(STEPS, |ramp| ramp.share(now)),
        }
    });
    facts.collect()
}

/// Backends that are up and take new flows for being so.
fn up(service: &Service, standings: &Standings) -> HashSet<String> {
    let pairs = service.backends.iter().zip(&standings.backends);
    let is_up = |state| matches!(state, BackendState::Up | BackendState::SlowStart);
    pairs
        .filter(|(backend, standing)| takes_new_flows(backend) && is_up(standing.state))
        .map(|(backend, _)| backend.name(service))
        .collect()
}

impl<S: BufferSource> Control<S> {
    /// Begins to check backends; `seed` is where checks have their randomness from.
    ///
    /// # Errors
    /// When a file that a check needs cannot be used.
    pub fn check_health(&mut self, now: Nanos, seed: u64) -> Result<(), Refusal> {
        self.checker = Checker::new(Some(seed), self.config.check_ports());
        self.checker.prepare(&self.pool).map_err(Refusal::Invalid)?;
        let nothing = Pool::default();
        self.checker.follow(now, &self.config, &nothing, &self.pool);
        self.watch_from_nothing();
        Ok(())
    }

    /// Reads all files that checks of a pool need, which may have been renewed; nothing changes yet.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn read_files(&self, pool: &Pool) -> Result<Identities, String> {
        self.checker.read_again(pool)
    }

    /// Checks with files that were read for the pool in force.
    pub fn renew_files(&mut self, identities: Identities) {
        self.checker.renew(identities);
    }

    /// Puts a pool in force as `generation`.
    ///
    /// # Errors
    /// Why not; what was in force stays so.
    pub fn apply(&mut self, now: Nanos, generation: u64, pool: Pool) -> Result<(), Refusal> {
        pool.validate()
            .map_err(|problem| Refusal::Invalid(problem.to_string()))?;
        self.apply_valid(now, generation, pool)
    }

    /// As [`Control::apply`], for a pool that was found valid already.
    ///
    /// # Errors
    /// As [`Control::apply`].
    pub fn apply_valid(&mut self, now: Nanos, generation: u64, pool: Pool) -> Result<(), Refusal> {
        let kept = Kept::of(&self.pool, &pool);
        self.config
            .check_reach_of(&pool, |place| kept.was_at(place).is_none())
            .map_err(|problem| Refusal::Invalid(problem.to_string()))?;
        self.checker.prepare(&pool).map_err(Refusal::Invalid)?;
        let drains = follow_drains(now, &pool, &self.drains);
        let over = drains.iter().filter(|(_, drain)| drain.due <= now);
        let drained: HashSet<Who> = over.map(|(who, _)| who.clone()).collect();
        let ramps = self.ramps.clone();
        self.checker.follow(now, &self.config, &self.pool, &pool);
        let mut stirred = self.checker.take_changed();
        let differently = drained.symmetric_difference(&self.drained);
        stirred.extend(differently.map(|(service, _)| service.clone()));
        let is_kept = |place, service: &Service| {
            let was = kept.was_at(place);
            was.filter(|_| !stirred.contains(&service.name))
        };
        let standings = self.standings_of(now, &pool, &drained, &is_kept);
        let changed = kept.is_alike.then(|| {
            let services = pool.services.iter().enumerate();
            services
                .filter(|(place, service)| is_kept(*place, service).is_none())
                .map(|(place, _)| place)
                .collect::<Vec<_>>()
        });
        let put = self.put_in_force(generation, &pool, &standings, changed.as_deref());
        if let Err(refusal) = put {
            self.checker.follow(now, &self.config, &pool, &self.pool);
            self.ramps = ramps;
            return Err(refusal);
        }
        self.tell_of_edges(&pool, &standings);
        self.pool = pool;
        self.standings = standings;
        self.drains = drains;
        self.drained = drained;
        self.checker.take_changed();
        if !kept.is_watched_alike {
            self.watch_backends();
        }
        let names: HashSet<&str> = self
            .pool
            .services
            .iter()
            .map(|service| service.name.as_str())
            .collect();
        self.ramps
            .retain(|(service, _), _| names.contains(service.as_str()));
        Ok(())
    }

    /// What becomes of all backends of a pool that is to follow the one in force. `kept` gives the
    /// place that a service had, if nothing about it changed.
    fn standings_of(
        &mut self,
        now: Nanos,
        pool: &Pool,
        drained: &HashSet<Who>,
        kept: &impl Fn(usize, &Service) -> Option<usize>,
    ) -> Vec<Standings> {
        let places: HashMap<String, usize> = self
            .pool
            .services
            .iter()
            .map(|service| service.name.clone())
            .zip(0..)
            .collect();
        let mut all = Vec::with_capacity(pool.services.len());
        for (place, service) in pool.services.iter().enumerate() {
            let stood = kept(place, service).and_then(|place| self.standings.get(place));
            if let Some(stood) = stood {
                all.push(stood.clone());
                continue;
            }
            // Only growing shares depend on what was before.
            let place = places.get(&service.name);
            let place = place.filter(|_| !service.slow_start.is_zero());
            let before = place.and_then(|place| {
                let standings = self.standings.get(*place)?;
                let service = self.pool.services.get(*place)?;
                Some((service.clone(), standings.clone()))
            });
            let before = before
                .as_ref()
                .map(|(service, standings)| (service, standings));
            all.push(self.standings_of_service(now, service, before, drained));
        }
        all
    }

    /// What becomes of a service's backends, after what became of them `before`. Those that are up
    /// only since then begin to grow, if the service says so and others can carry the load.
    fn standings_of_service(
        &mut self,
        now: Nanos,
        service: &Service,
        before: Option<(&Service, &Standings)>,
        drained: &HashSet<Who>,
    ) -> Standings {
        let facts_now = facts(service, &self.checker, drained, &self.ramps, now);
        let standings = Standings::of(service, &facts_now);
        if service.slow_start.is_zero() {
            return standings;
        }
        let Some((was, stood)) = before else {
            return standings;
        };
        let (were_up, are_up) = (up(was, stood), up(service, &standings));
        let who = |name: &String| (service.name.clone(), name.clone());
        let carried = are_up.iter().any(|name| {
            were_up.contains(name)
                && self
                    .ramps
                    .get(&who(name))
                    .is_none_or(|ramp| ramp.next(now).is_none())
        });
        self.ramps
            .retain(|(of, name), _| *of != service.name || are_up.contains(name));
        for name in are_up.difference(&were_up) {
            if carried {
                let ramp = Ramp {
                    since: now,
                    over: service.slow_start,
                };
                self.ramps.insert(who(name), ramp);
            }
        }
        let facts_now = facts(service, &self.checker, drained, &self.ramps, now);
        Standings::of(service, &facts_now)
    }

    /// Publishes a pool. `changed` are the places of services that changed and have their addresses
    /// and ports, and their backends theirs; without it, everything is made anew.
    fn put_in_force(
        &mut self,
        generation: u64,
        pool: &Pool,
        standings: &[Standings],
        changed: Option<&[usize]>,
    ) -> Result<(), Refusal> {
        if let Some(places) = changed {
            let before = self.publisher.current();
            let adjacency = Arc::clone(&before.adjacency);
            let book = &mut self.book;
            let services = book.follow(&before.services, generation, pool, standings, places)?;
            self.publish(Arc::new(services), adjacency);
            return Ok(());
        }
        let ground = Ground {
            config: &self.config,
            facts: &self.facts,
            own: &self.own,
            paths: &self.paths,
        };
        let services = book_services(
            &mut self.book,
            &mut self.neighbours,
            &ground,
            generation,
            pool,
            standings,
        )?;
        let adjacency = adjacency(&self.config, &self.facts, &mut self.neighbours);
        self.neighbours.take_changed();
        self.publish(Arc::new(services), Arc::new(adjacency));
        Ok(())
    }

    /// Does what is due at `now`. Cheap when nothing is.
    pub fn tick(&mut self, now: Nanos) {
        self.neighbours.tick(now, &mut self.actions);
        self.act();
        self.checker.tick(now);
        self.send_checks(now);
        self.publish_neighbours();
        self.settle(now);
        self.settle_paths(now);
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due(&self, now: Nanos) -> Option<Nanos> {
        if self.checker.has_changed() {
            return Some(now);
        }
        let drains = self
            .drains
            .iter()
            .filter(|(who, _)| !self.drained.contains(*who))
            .map(|(_, drain)| drain.due);
        let ramps = self.ramps.values().filter_map(|ramp| {
            // A step that is due but not taken yet is due now.
            ramp.next(self.settled_at)
        });
        drains
            .chain(ramps)
            .chain(self.neighbours.next_due())
            .chain(self.checker.next_due())
            .chain(self.paths.next_due())
            .min()
    }

    /// Puts in force what checks, drains and growing shares changed.
    fn settle(&mut self, now: Nanos) {
        let mut changed: BTreeSet<String> = self.checker.take_changed();
        let news = self.checker.take_news().into_iter().map(|text| Event {
            kind: EventKind::Health,
            text,
        });
        self.events.extend(news);
        self.end_drains(now, &mut changed);
        let steps = self
            .ramps
            .iter()
            .filter(|(_, ramp)| ramp.share(now) != ramp.share(self.settled_at));
        changed.extend(steps.map(|((service, _), _)| service.clone()));
        self.settled_at = now;
        self.ramps.retain(|_, ramp| ramp.next(now).is_some());
        if changed.is_empty() {
            return;
        }
        let mut standings = self.standings.clone();
        let places = (0..self.pool.services.len()).filter(|place| {
            let service = self.pool.services.get(*place);
            service.is_some_and(|service| changed.contains(&service.name))
        });
        for place in places.collect::<Vec<_>>() {
            let (Some(service), Some(stood)) = (
                self.pool.services.get(place).cloned(),
                self.standings.get(place).cloned(),
            ) else {
                continue;
            };
            let drained = std::mem::take(&mut self.drained);
            let stands =
                self.standings_of_service(now, &service, Some((&service, &stood)), &drained);
            self.drained = drained;
            self.tell_of_failing_open(&service, stood.fails_open, &stands);
            if let Some(entry) = standings.get_mut(place) {
                *entry = stands;
            }
        }
        let pairs = standings.iter().zip(&self.standings).enumerate();
        let places: Vec<usize> = pairs
            .filter(|(_, (stands, stood))| stands != stood)
            .map(|(place, _)| place)
            .collect();
        if places.is_empty() {
            return;
        }
        let (generation, pool) = (self.generation(), std::mem::take(&mut self.pool));
        // No number is given out here, so this cannot be refused; if it were, things would only
        // stay as they are for longer.
        let put = self.put_in_force(generation, &pool, &standings, Some(&places));
        if put.is_ok() {
            self.standings = standings;
        }
        self.pool = pool;
        self.stirred.extend(places);
    }

    /// Hears what a router says of the way to a backend.
    pub(super) fn hear_of_path(&mut self, now: Nanos, told: Told) {
        if self.paths.learn(now, told) {
            self.events.push(Event {
                kind: EventKind::Neighbour,
                text: format!("the way to {} takes packets of {} bytes", told.to, told.mtu),
            });
        }
        self.settle_paths(now);
    }

    /// Puts in force what is known of paths.
    fn settle_paths(&mut self, now: Nanos) {
        if !self.paths.settle(now) {
            return;
        }
        let (generation, pool) = (self.generation(), std::mem::take(&mut self.pool));
        let standings = std::mem::take(&mut self.standings);
        // No number is given out here, so this cannot be refused; if it were, errors would only
        // come for longer.
        let _ = self.put_in_force(generation, &pool, &standings, None);
        (self.pool, self.standings) = (pool, standings);
    }

    /// Tells which services begin to fail open, or no longer do, with a pool that an operator made.
    fn tell_of_edges(&mut self, pool: &Pool, standings: &[Standings]) {
        let pairs = self.pool.services.iter().zip(&self.standings);
        let did: HashSet<String> = pairs
            .filter(|(_, stood)| stood.fails_open)
            .map(|(service, _)| service.name.clone())
            .collect();
        for (service, stands) in pool.services.iter().zip(standings) {
            self.tell_of_failing_open(service, did.contains(&service.name), stands);
        }
    }

    /// Tells when a service begins to fail open or, if it `did`, no longer does.
    fn tell_of_failing_open(&mut self, service: &Service, did: bool, stands: &Standings) {
        if did == stands.fails_open {
            return;
        }
        let name = &service.name;
        let healthy = percent(stands.healthy);
        let text = match (stands.fails_open, service.min_healthy) {
            (false, _) if !service.backends.iter().any(takes_new_flows) => {
                format!("{name}: no backend may take new flows; it no longer fails open")
            }
            (true, 0) => format!("{name}: all backends are down; it fails open"),
            (true, least) => format!(
                "{name}: {healthy} of weight is healthy, less than {}; it fails open",
                percent(least)
            ),
            (false, _) => {
                format!("{name}: {healthy} of weight is healthy; it no longer fails open")
            }
        };
        let kind = EventKind::Health;
        self.events.push(Event { kind, text });
    }

    /// Takes the flows of backends whose drain has run out.
    fn end_drains(&mut self, now: Nanos, changed: &mut BTreeSet<String>) {
        let newly: Vec<Who> = self
            .drains
            .iter()
            .filter(|(who, drain)| drain.due <= now && !self.drained.contains(*who))
            .map(|(who, _)| who.clone())
            .collect();
        for who in newly {
            let (service, backend) = &who;
            let on_down = self.pool.service(service).map(|service| service.on_down);
            let fate = match on_down {
                Some(OnDown::Reset) => "reset",
                _ => "steered anew",
            };
            self.events.push(Event {
                kind: EventKind::Drain,
                text: format!("{service}: drain of {backend} ended; what was left is {fate}"),
            });
            changed.insert(service.clone());
            self.drained.insert(who);
        }
    }

    /// The places of services that changed, other than by an operator, since this was last asked.
    pub fn take_stirred(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.stirred)
    }
}
