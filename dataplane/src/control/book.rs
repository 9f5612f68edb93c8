//! The book of services: what each service and backend is numbered, and the tables built for them.
//!
//! Numbers outlive changes. A backend keeps its number for as long as the daemon runs, also while it
//! is removed, so that conntrack entries keep their meaning, a backend that returns finds its flows,
//! and its counters go on where they were.
//!
//! A service's Maglev table is built anew only when its members changed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use weir_engine::memory::MemoryError;
use weir_shm::counters::{self, DropReason};
use weir_shm::model::{self, AllDown, Pool, PortMatch, QuicConfig, ServerId, UnknownTcp};

use super::health;
use super::local::{self, Split};
use super::plan::{Candidate, Plan};
use super::standing::Standings;
use crate::address::Version;
use crate::conntrack::{Profile, Profiles};
use crate::endpoints::{Endpoint, Endpoints};
use crate::quic::Quic;
use crate::service::{
    Backend, Change, Client, FullNat, NO_SERVICE, OWN, Service, Services, Takes, Wide, Without,
};
use crate::session::{Sessions, Settings, Spread, Times};

/// Time-out profiles that conntrack entries can name.
const PROFILES: usize = 256;

/// Why a pool cannot be put in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unbookable {
    /// More services since the start than counters.
    #[error(
        "more than {} services have been seen since the daemon started; restart it",
        counters::MAX_SERVICES
    )]
    Services,
    /// More backends since the start than counters.
    #[error(
        "more than {} backends have been seen since the daemon started; restart it",
        counters::MAX_BACKENDS
    )]
    Backends,
    /// There is no memory for the sessions of `full-nat`.
    #[error("no room for the sessions of \"full-nat\": {0}")]
    Sessions(String),
    /// More different time-outs than entries can name.
    #[error(
        "more than {PROFILES} different sets of time-outs have been seen since the daemon started; restart it"
    )]
    Profiles,
}

/// What the book keeps of a service.
#[derive(Debug, Default)]
struct Chapter {
    number: u32,
    backends: HashMap<String, Known>,
    /// The numbers of those that are in the service now, in its order.
    present: Vec<u32>,
    plan: Plan,
    quic_of: (Vec<QuicConfig>, Vec<ServerIdOf>),
    quic: Option<Arc<Quic>>,
}

/// A rotation, a server ID under it, and the number of the backend that has it.
type ServerIdOf = (u8, ServerId, u32);

/// A backend that was in the service at some time.
#[derive(Debug, Clone, Copy)]
struct Known {
    number: u32,
    address: IpAddr,
    port: u16,
}

/// The book; see the module's text.
#[derive(Debug, Default)]
pub struct Book {
    chapters: HashMap<String, Chapter>,
    /// Service and backend by the backend's number.
    backends: Vec<(String, String)>,
    profiles: Vec<Profile>,
    sessions: Option<Sessions>,
    session_settings: Settings,
    spread: Option<Spread>,
    tables_built: u64,
}

impl Book {
    /// An empty book whose sessions will be as `settings` say, once there is a `full-nat` service.
    #[must_use]
    pub fn new(session_settings: Settings) -> Self {
        Self {
            session_settings,
            ..Self::default()
        }
    }

    /// Puts free ports in an order that `seed` makes, now and for addresses to come. Before the first
    /// session.
    pub fn scatter_ports(&mut self, seed: u64) {
        self.session_settings.seed = seed;
        if let Some(sessions) = &mut self.sessions {
            sessions.scatter_ports(seed);
        }
    }

    /// Says how devices spread answers over the workers. Before the first session.
    pub fn know_spread(&mut self, spread: Spread) {
        if let Some(sessions) = &self.sessions {
            sessions.know_spread(spread.clone());
        }
        self.spread = Some(spread);
    }

    /// What a `full-nat` service has beyond others; its addresses get their numbers.
    fn full_nat(&mut self, service: &model::Service) -> Result<Option<Arc<FullNat>>, Unbookable> {
        if service.forwarding != model::Forwarding::FullNat {
            return Ok(None);
        }
        let failed = |error: MemoryError| Unbookable::Sessions(error.to_string());
        let sessions = match &mut self.sessions {
            Some(sessions) => sessions,
            none => {
                let sessions = Sessions::new(self.session_settings).map_err(failed)?;
                if let Some(spread) = &self.spread {
                    sessions.know_spread(spread.clone());
                }
                none.insert(sessions)
            }
        };
        let (mut from4, mut from6) = (Vec::new(), Vec::new());
        for address in &service.snat_pool {
            let number = sessions.number(*address).map_err(failed)?;
            if address.is_ipv4() {
                from4.push(number);
            } else {
                from6.push(number);
            }
        }
        let timeouts = &service.timeouts;
        let udp = Times {
            opening: millis(timeouts.udp),
            established: millis(timeouts.udp),
            closing: millis(timeouts.udp),
        };
        let tcp = Times {
            opening: millis(timeouts.syn),
            established: millis(timeouts.established),
            closing: millis(timeouts.closing),
        };
        Ok(Some(Arc::new(FullNat {
            from4: from4.into(),
            from6: from6.into(),
            client_address: service.client_address,
            tcp,
            udp,
        })))
    }

    /// The services of a pool. `hop` numbers a backend's next hop; `standings` say what becomes of
    /// the backends of each service; `own` are the ports' addresses.
    ///
    /// # Errors
    /// When numbers have run out; the book is unharmed.
    pub fn services(
        &mut self,
        generation: u64,
        pool: &Pool,
        standings: &[Standings],
        own: &[IpAddr],
        mut hop: impl FnMut(&model::Service, &model::Backend) -> u32,
    ) -> Result<Services, Unbookable> {
        let mut services = Vec::with_capacity(pool.services.len());
        let mut backends = vec![Backend::default(); self.backends.len()];
        let nobody = Standings::default();
        for (place, service) in (0u32..).zip(&pool.services) {
            let standings = standings.get(place as usize).unwrap_or(&nobody);
            let profile = self.profile(service)?;
            let full_nat = self.full_nat(service)?;
            let entry =
                self.service(service, place, profile, standings, &mut backends, &mut hop)?;
            services.push(Service { full_nat, ..entry });
        }
        let has_quic = services.iter().any(|service| service.quic.is_some());
        let has_affinity = services.iter().any(|service| service.affinity.is_some());
        let (returns, wide) = self.returns(pool, own, &mut backends);
        let counts_flows = services
            .iter()
            .any(|service: &Service| service.scheduler.counts_flows());
        let local = local_addresses(pool, own);
        Ok(Services {
            generation,
            services,
            backends,
            outers: Arc::new([]),
            tunnel_sources: Vec::new(),
            profiles: Profiles::new(&self.profiles),
            vips: local::exact_vips(pool),
            returns,
            local: Endpoints::new(&local),
            sessions: self.sessions.clone(),
            has_quic,
            has_affinity,
            wide: wide.map(Arc::new),
            counts_flows,
            checks_from: *health::PORTS.start(),
            kernels: Endpoints::new(&[]),
        })
    }

    /// The services of a pool in which only the services at `places` differ from those that `before`
    /// was made of, and not in where their packets come from and go to: what backends take, weights,
    /// settings. Everything else is shared with `before`.
    ///
    /// # Errors
    /// As [`Book::services`].
    pub fn follow(
        &mut self,
        before: &Services,
        generation: u64,
        pool: &Pool,
        standings: &[Standings],
        places: &[usize],
    ) -> Result<Services, Unbookable> {
        let mut services = before.services.clone();
        let mut backends = before.backends.clone();
        for place in places {
            let (Some(service), Some(standings), Some(entry)) = (
                pool.services.get(*place),
                standings.get(*place),
                services.get_mut(*place),
            ) else {
                continue;
            };
            let profile = self.profile(service)?;
            let full_nat = self.full_nat(service)?;
            let were: Vec<Backend> = self
                .numbers(&service.name)
                .iter()
                .filter_map(|number| before.backends.get(*number as usize).copied())
                .collect();
            let mut hops = were.iter().map(|line| line.hop);
            let hop = &mut |_: &model::Service, _: &model::Backend| hops.next().unwrap_or(u32::MAX);
            let place = *place as u32;
            let made = self.service(service, place, profile, standings, &mut backends, hop)?;
            *entry = Service { full_nat, ..made };
            for (number, was) in self.numbers(&service.name).iter().zip(&were) {
                if let Some(line) = backends.get_mut(*number as usize) {
                    line.outer = was.outer;
                    line.overhead = was.overhead;
                    line.mss = was.mss;
                    line.dscp = was.dscp;
                }
            }
        }
        Ok(Services {
            generation,
            has_quic: services.iter().any(|service| service.quic.is_some()),
            has_affinity: services.iter().any(|service| service.affinity.is_some()),
            counts_flows: services
                .iter()
                .any(|service| service.scheduler.counts_flows()),
            services,
            backends,
            outers: Arc::clone(&before.outers),
            tunnel_sources: before.tunnel_sources.clone(),
            profiles: Profiles::new(&self.profiles),
            vips: before.vips.clone(),
            returns: before.returns.clone(),
            local: before.local.clone(),
            sessions: self.sessions.clone(),
            wide: before.wide.clone(),
            checks_from: before.checks_from,
            kernels: before.kernels.clone(),
        })
    }

    fn service(
        &mut self,
        service: &model::Service,
        place: u32,
        profile: u8,
        standings: &Standings,
        all: &mut Vec<Backend>,
        hop: &mut impl FnMut(&model::Service, &model::Backend) -> u32,
    ) -> Result<Service, Unbookable> {
        let seen = self.chapters.len();
        if !self.chapters.contains_key(&service.name) && seen >= counters::MAX_SERVICES {
            return Err(Unbookable::Services);
        }
        let Self {
            chapters,
            backends: names,
            tables_built,
            ..
        } = self;
        let chapter = chapters
            .entry(service.name.clone())
            .or_insert_with(|| Chapter {
                number: seen as u32,
                ..Chapter::default()
            });
        let mut members = Vec::new();
        chapter.present.clear();
        for (nth, backend) in service.backends.iter().enumerate() {
            let name = backend.name(service);
            let number = chapter.backend(&name, service, backend, names)?;
            chapter.present.push(number);
            let takes = standings.backend(nth).takes;
            if number as usize >= all.len() {
                all.resize(number as usize + 1, Backend::default());
            }
            all[number as usize] = Backend {
                takes,
                hop: hop(service, backend),
                ..line(
                    service,
                    place,
                    profile,
                    number,
                    backend.address,
                    backend.port,
                )
            };
            if takes == Takes::All {
                members.push(Candidate {
                    name,
                    number,
                    weight: backend.weight,
                    share: standings.backend(nth).share,
                    max_flows: backend.max_flows.unwrap_or(u32::MAX),
                });
            }
        }
        let port = service.port.number().to_be_bytes();
        Ok(Service {
            mode: service.forwarding.into(),
            vip: service.vip.address().into(),
            port,
            ping: service.ping,
            profile,
            resets_unknown: service.unknown_tcp == UnknownTcp::Reset,
            counters: counters::service_base(chapter.number) as u32,
            full_nat: None,
            quic: chapter.quic(service),
            number: chapter.number,
            scheduler: chapter.plan.scheduler(service, members, tables_built),
            by_address: service.protocol.number().is_none(),
            affinity: service.steering.affinity.map(|affinity| Client {
                prefix4: affinity.prefix4,
                prefix6: affinity.prefix6,
            }),
            without: Without {
                reason: if standings.all_down {
                    DropReason::AllDown
                } else {
                    DropReason::NoBackend
                },
                reset: service.steering.all_down == AllDown::Reset,
            },
        })
    }

    /// Backends of `nat` services, to their numbers.
    ///
    /// Answers of backends that have left a service are still on their way, and some servers finish
    /// what they began: they go on coming from the VIP, unless the address and port belong to
    /// somebody in the pool now. Of two pairs with one endpoint the first counts.
    fn returns(
        &self,
        pool: &Pool,
        own: &[IpAddr],
        all: &mut [Backend],
    ) -> (Endpoints, Option<Wide>) {
        let (mut present, mut departed) = (Split::default(), Split::default());
        for (place, service) in (0u32..).zip(&pool.services) {
            let Some(chapter) = self.chapters.get(&service.name) else {
                continue;
            };
            if service.forwarding != model::Forwarding::Nat {
                continue;
            }
            let mut known: Vec<Known> = chapter.backends.values().copied().collect();
            known.sort_unstable_by_key(|known| known.number);
            for Known {
                number,
                address,
                port,
            } in known
            {
                let answers = local::answers(service, address, port);
                match all.get_mut(number as usize) {
                    Some(backend) if backend.service == NO_SERVICE => {
                        *backend = line(service, place, 0, number, address, port);
                        departed.push(answers, number);
                    }
                    _ => present.push(answers, number),
                }
            }
        }
        let wide = local::wide(pool, own, &present.wide, &departed.wide);
        // What a listener in the pool answers for is no departed backend's any more.
        let taken = |endpoint: &Endpoint| {
            let (version, address, port, protocol) = endpoint.parts();
            let wide = wide.as_ref();
            wide.is_some_and(|wide| wide.returns.get(version, address, port, protocol).is_some())
        };
        let mut exact = present.exact;
        let gone = departed.exact.into_iter();
        exact.extend(gone.filter(|(endpoint, _)| !taken(endpoint)));
        // Pieces of datagrams, but for the first, have no port.
        let listening = present.wide.iter().chain(&departed.wide);
        let alone: Vec<(Endpoint, u32)> = exact
            .iter()
            .map(|(_, number)| *number)
            .chain(listening.map(|(_, number)| *number))
            .filter_map(|number| {
                let backend = all.get(number as usize)?;
                let service = pool.services.get(backend.service as usize)?;
                let version = Version::of(&service.vip.address());
                Some((Endpoint::address(version, backend.address), number))
            })
            .collect();
        exact.extend(alone);
        (Endpoints::new(&exact), wide)
    }

    fn profile(&mut self, service: &model::Service) -> Result<u8, Unbookable> {
        let timeouts = &service.timeouts;
        let profile = Profile::new(
            millis(timeouts.syn),
            millis(timeouts.established),
            millis(timeouts.closing),
            millis(timeouts.udp),
        );
        let profile = match service.steering.affinity {
            Some(affinity) => profile.with_affinity(millis(affinity.timeout)),
            None => profile,
        };
        if let Some(known) = self.profiles.iter().position(|known| *known == profile) {
            return Ok(known as u8);
        }
        if self.profiles.len() >= PROFILES {
            return Err(Unbookable::Profiles);
        }
        self.profiles.push(profile);
        Ok((self.profiles.len() - 1) as u8)
    }

    /// A service's number, which is that of its counters, if it was ever in the pool.
    #[must_use]
    pub fn service_number(&self, service: &str) -> Option<u32> {
        self.chapters.get(service).map(|chapter| chapter.number)
    }

    /// The numbers of the backends that are in a service now, in its order.
    #[must_use]
    pub fn numbers(&self, service: &str) -> &[u32] {
        let chapter = self.chapters.get(service);
        chapter.map_or(&[], |chapter| &chapter.present)
    }

    /// A backend's number, which is that of its counters, if it was ever in the service.
    #[must_use]
    pub fn number(&self, service: &str, backend: &str) -> Option<u32> {
        self.chapters
            .get(service)?
            .backends
            .get(backend)
            .map(|known| known.number)
    }

    /// Service and name of the backend with this number.
    #[must_use]
    pub fn backend(&self, number: u32) -> Option<(&str, &str)> {
        let (service, name) = self.backends.get(number as usize)?;
        Some((service, name))
    }

    /// Every service ever seen with its number, and its backends with theirs, in order of name.
    #[must_use]
    pub fn everything_seen(&self) -> BTreeMap<&str, (u32, BTreeMap<&str, u32>)> {
        self.chapters
            .iter()
            .map(|(name, chapter)| {
                let backends = chapter
                    .backends
                    .iter()
                    .map(|(name, known)| (name.as_str(), known.number));
                (name.as_str(), (chapter.number, backends.collect()))
            })
            .collect()
    }

    /// Services and backends numbered so far: how much of the counters is in use.
    #[must_use]
    pub fn numbered(&self) -> (usize, usize) {
        (self.chapters.len(), self.backends.len())
    }

    /// Tables built since the start.
    #[must_use]
    pub const fn tables_built(&self) -> u64 {
        self.tables_built
    }
}

impl Chapter {
    /// The backend's number: the one it had, or the next.
    fn backend(
        &mut self,
        name: &str,
        service: &model::Service,
        backend: &model::Backend,
        names: &mut Vec<(String, String)>,
    ) -> Result<u32, Unbookable> {
        if let Some(known) = self.backends.get(name) {
            return Ok(known.number);
        }
        if names.len() >= counters::MAX_BACKENDS {
            return Err(Unbookable::Backends);
        }
        let number = names.len() as u32;
        names.push((service.name.clone(), name.to_owned()));
        let known = Known {
            number,
            address: backend.address,
            port: backend.port,
        };
        self.backends.insert(name.to_owned(), known);
        Ok(number)
    }

    /// How the service reads connection IDs, made anew only when that changed. IDs of backends that
    /// take nothing are in it: whether a backend is to be followed is seen at each packet.
    fn quic(&mut self, service: &model::Service) -> Option<Arc<Quic>> {
        if service.quic.is_empty() {
            self.quic = None;
            return None;
        }
        let mut ids = Vec::new();
        for backend in &service.backends {
            let known = self.backends.get(&backend.name(service));
            for config in &service.quic {
                if let (Some(known), Some(id)) = (known, backend.server_ids.under(config.rotation))
                {
                    ids.push((config.rotation, id, known.number));
                }
            }
        }
        let of = (service.quic.clone(), ids);
        if self.quic.is_none() || self.quic_of != of {
            self.quic = Some(Arc::new(Quic::new(&of.0, of.1.iter().copied())));
            self.quic_of = of;
        }
        self.quic.clone()
    }
}

/// Milliseconds of a time-out, as workers count them.
fn millis(duration: Duration) -> u32 {
    let whole = u32::try_from(duration.as_millis()).unwrap_or(u32::MAX / 2);
    whole.min(u32::MAX / 2)
}

/// A backend's line, but for what changes from one generation to the next.
fn line(
    service: &model::Service,
    place: u32,
    profile: u8,
    number: u32,
    address: IpAddr,
    port: u16,
) -> Backend {
    let version = Version::of(&address);
    let ports = match service.port {
        PortMatch::Exact(vip) => vec![(vip, port)],
        PortMatch::Range(..) | PortMatch::Any => Vec::new(),
    };
    let vip = service.vip.address();
    // Between families nothing is added up beforehand.
    let change = if vip.is_ipv4() == address.is_ipv4() {
        Change::new(&[(vip.into(), address.into())], &ports)
    } else {
        Change::default()
    };
    Backend {
        address: address.into(),
        service: place,
        hop: 0,
        counters: counters::backend_base(number) as u32,
        change,
        port: port.to_be_bytes(),
        version,
        mode: service.forwarding.into(),
        profile,
        pins: service
            .steering
            .affinity
            .map_or(0, |affinity| renewal(millis(affinity.timeout))),
        ..Backend::default()
    }
}

/// How often a client with traffic is noted anew, as [`Backend::pins`] has it: at least four times in its
/// time-out, in milliseconds, and at least once in 66 seconds.
const fn renewal(timeout: u32) -> u8 {
    let often = if timeout / 4 < 1 << 16 {
        timeout / 4
    } else {
        1 << 16
    };
    // Zero has a meaning of its own.
    if often < 2 { 1 } else { often.ilog2() as u8 }
}

/// VIPs, each to the first of its services by protocol, port and name, and own addresses.
fn local_addresses(pool: &Pool, own: &[IpAddr]) -> Vec<(Endpoint, u32)> {
    let key = |address: IpAddr| Endpoint::address(Version::of(&address), address.into());
    let mut services: Vec<(u32, &model::Service)> = (0u32..).zip(&pool.services).collect();
    services.retain(|(_, service)| !service.vip.is_prefix());
    services.sort_by_key(|(_, service)| (service.protocol, service.port, &service.name));
    let snat = pool.services.iter().flat_map(|service| &service.snat_pool);
    services
        .into_iter()
        .map(|(place, service)| (key(service.vip.address()), place))
        .chain(own.iter().chain(snat).map(|address| (key(*address), OWN)))
        .collect()
}
