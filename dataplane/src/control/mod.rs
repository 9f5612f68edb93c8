//! The control core: everything that is not a balanced packet.
//!
//! It answers ARP, NDP and echo, resolves neighbours, keeps packets that wait for one, puts pools
//! in force, and says what it sees. It never blocks a worker: workers hand frames over through
//! bounded queues and read what it publishes by one pointer.
//!
//! No socket, clock or thread in here: frames and the time come in, frames go to the outbox. The
//! daemon and `replay` drive the same code.

pub mod book;
mod capture;
pub mod census;
mod changes;
pub mod connection;
mod elsewhere;
mod equip;
mod explain;
pub mod health;
mod kernel;
pub mod local;
pub mod lookup;
pub mod neighbours;
pub mod netstack;
mod passive;
mod path_mtu;
pub mod plan;
pub mod standing;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use weir_engine::buffer::{Buffer, BufferSource};
use weir_engine::counters::CounterWriter;
use weir_engine::publish::{Publisher, Reader};
use weir_engine::wire::ethernet::{self, MacAddr};
use weir_shm::capture::record::NO_PORT;
use weir_shm::counters::{self, DropReason};
use weir_shm::model::{self, Pool};
use weir_shm::segment::event::EventKind;

use crate::address::Version;
use crate::adjacency::{Adjacency, Egress, Neighbour, Own};
use crate::capture::Capture;
use crate::config::{Config, Memory};
use crate::conntrack::ConntrackReader;
use crate::flow::FlowHasher;
use crate::newest::NewestReader;
use crate::parse::Accepts;
use crate::pipeline::Snapshot;
use crate::service::Services;
use crate::session::{Settings, Spread};

pub use kernel::{ForKernel, interface_addresses};

use book::{Book, Unbookable};
use changes::Drain;
use health::Checker;
use health::ramp::Ramp;
use kernel::Ways;
use neighbours::{Action, Nanos, Neighbours};
use path_mtu::PathMtus;
use standing::Standings;

/// What a port turned out to be once its device was opened (or, in `replay`, what stands for it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortFacts {
    /// The address that frames leave with.
    pub mac: MacAddr,
    /// Whether frames to other unicast addresses are refused.
    pub filter: bool,
    /// The largest IP packet, in bytes.
    pub mtu: u16,
}

/// Why a pool was not put in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The pool contradicts itself or this machine's configuration.
    #[error("{0}")]
    Invalid(String),
    /// Numbers have run out.
    #[error(transparent)]
    Unbookable(#[from] Unbookable),
}

/// A frame that the control core wants sent.
#[derive(Debug)]
pub struct Outgoing<B> {
    /// By which port.
    pub port: u16,
    /// The frame.
    pub frame: B,
    /// Whether it is a balanced packet that had waited; otherwise weir made it.
    pub balanced: bool,
}

/// Something that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is about.
    pub kind: EventKind,
    /// What happened.
    pub text: String,
}

/// A frame that waits for a neighbour.
#[derive(Debug)]
struct Waiting<B> {
    frame: B,
    /// Whether it is a balanced packet; otherwise weir made it.
    balanced: bool,
}

/// A backend: its service's name and its own.
type Who = (String, String);

/// The control core's state; see the module's text.
pub struct Control<S: BufferSource> {
    config: Arc<Config>,
    facts: Vec<PortFacts>,
    source: S,
    own: Vec<Vec<IpAddr>>,
    hasher: FlowHasher,
    book: Book,
    pool: Pool,
    neighbours: Neighbours<Waiting<S::Buffer>>,
    publisher: Publisher<Snapshot>,
    /// Published versions and the generation of each, oldest first.
    versions: VecDeque<(u64, u64)>,
    counters: CounterWriter,
    tables: Vec<ConntrackReader>,
    newest: Vec<NewestReader>,
    drains: BTreeMap<Who, Drain>,
    drained: HashSet<Who>,
    checker: Checker,
    watched: Vec<passive::Watched>,
    ramps: BTreeMap<Who, Ramp>,
    /// Of each service of the pool, in order.
    standings: Vec<Standings>,
    paths: PathMtus,
    /// When growing shares were last looked at.
    settled_at: Nanos,
    /// Places of services of which something changed by itself.
    stirred: BTreeSet<usize>,
    events: Vec<Event>,
    outbox: Vec<Outgoing<S::Buffer>>,
    actions: Vec<Action<Waiting<S::Buffer>>>,
    ways: Ways,
    capture: Option<Arc<Capture>>,
    /// Captures so far.
    captures: u64,
}

impl<S: BufferSource> Control<S> {
    /// A control core over ports that turned out as `facts`, with the configuration's pool in
    /// force, and a reader of what it publishes for each of `workers` workers.
    ///
    /// # Errors
    /// As [`Control::apply`].
    pub fn new(
        config: Arc<Config>,
        facts: Vec<PortFacts>,
        hasher: FlowHasher,
        source: S,
        counters: CounterWriter,
        workers: usize,
    ) -> Result<(Self, Vec<Reader<Snapshot>>), Refusal> {
        let own = own_addresses(&config, &facts);
        let mut neighbours = Neighbours::default();
        for (address, mac) in &config.neighbours {
            for (port, _) in (0u16..)
                .zip(&config.ports)
                .filter(|(_, port)| port.connects(*address))
            {
                neighbours.set_static(
                    Neighbour {
                        port,
                        address: *address,
                    },
                    *mac,
                );
            }
        }
        let pool = config.pool.clone();
        let checker = Checker::new(None, config.check_ports());
        let drains = changes::follow_drains(0, &pool, &BTreeMap::new());
        let facts_of = |service: &model::Service| {
            let facts = changes::facts(service, &checker, &HashSet::new(), &BTreeMap::new(), 0);
            Standings::of(service, &facts)
        };
        let standings: Vec<Standings> = pool.services.iter().map(facts_of).collect();
        let mut book = Book::new(Settings {
            workers,
            capacity: config.engine.flows_per_worker,
            prefer_huge: config.engine.memory == Memory::HugePages,
            seed: 0,
        });
        let ground = Ground {
            config: &config,
            facts: &facts,
            own: &own,
            paths: &PathMtus::default(),
        };
        let services = book_services(&mut book, &mut neighbours, &ground, 1, &pool, &standings)?;
        let adjacency = adjacency(&config, &facts, &mut neighbours);
        neighbours.take_changed();
        let snapshot = Snapshot {
            services: Arc::new(services),
            adjacency: Arc::new(adjacency),
            capture: None,
            capture_number: 0,
        };
        let (publisher, readers) = Publisher::new(snapshot, workers);
        let ways = Ways::new(&config);
        let control = Self {
            config,
            facts,
            source,
            own,
            hasher,
            book,
            pool,
            neighbours,
            versions: VecDeque::from([(publisher.version(), 1)]),
            publisher,
            counters,
            tables: Vec::new(),
            newest: Vec::new(),
            drains,
            drained: HashSet::new(),
            checker,
            watched: Vec::new(),
            ramps: BTreeMap::new(),
            standings,
            paths: PathMtus::default(),
            settled_at: 0,
            stirred: BTreeSet::new(),
            events: Vec::new(),
            outbox: Vec::new(),
            actions: Vec::new(),
            ways,
            capture: None,
            captures: 0,
        };
        Ok((control, readers))
    }

    /// Lets sessions of `full-nat` begin with ports in an order of their own, so that a daemon does
    /// not begin with those that the last one began with. Before workers run.
    pub fn scatter_ports(&mut self, seed: u64) {
        self.book.scatter_ports(seed);
    }

    /// Says how the devices spread answers over the workers, so that sessions of `full-nat` get ports
    /// whose answers arrive at their owner. Before workers run.
    pub fn know_spread(&mut self, spread: Spread) {
        self.book.know_spread(spread);
    }

    /// Lets the control core read the workers' flow tables, for questions about flows.
    pub fn watch(&mut self, tables: Vec<ConntrackReader>) {
        self.tables = tables;
    }

    /// Lets the control core read which flows workers noted last.
    pub fn watch_newest(&mut self, newest: Vec<NewestReader>) {
        self.newest = newest;
    }

    /// What each port accepts, by number: for the workers' pipelines.
    #[must_use]
    pub fn accepts(&self) -> Vec<Accepts> {
        self.config
            .ports
            .iter()
            .zip(&self.facts)
            .map(|(port, facts)| Accepts {
                mac: facts.filter.then_some(facts.mac),
                vlan: port.vlan,
                groups: port.kernel.is_some(),
            })
            .collect()
    }

    /// The pool in force.
    #[must_use]
    pub const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The book of numbers.
    #[must_use]
    pub const fn book(&self) -> &Book {
        &self.book
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.publisher.current().services.generation
    }

    /// What the workers read, and how far each has come.
    #[must_use]
    pub const fn publisher(&self) -> &Publisher<Snapshot> {
        &self.publisher
    }

    fn publish(&mut self, services: Arc<Services>, adjacency: Arc<Adjacency>) {
        let generation = services.generation;
        let version = self.publisher.publish(Snapshot {
            services,
            adjacency,
            capture: self.capture.clone(),
            capture_number: self.captures,
        });
        self.versions.push_back((version, generation));
    }

    /// The generation that a worker runs; zero before its first round.
    #[must_use]
    pub fn acknowledged(&self, worker: usize) -> u64 {
        let seen = self.publisher.seen(worker);
        let versions = self.versions.iter().rev();
        versions
            .copied()
            .find(|(version, _)| *version <= seen)
            .map_or(0, |(_, it)| it)
    }

    /// Frees what no worker reads any more.
    pub fn reclaim(&mut self) {
        if self.publisher.waiting() == 0 {
            return;
        }
        self.publisher.reclaim();
        // One version that everybody has is enough to look back on.
        let oldest = (0..self.tables.len())
            .map(|worker| self.publisher.seen(worker))
            .min();
        while let (Some(oldest), Some((next, _))) = (oldest, self.versions.get(1))
            && *next <= oldest
        {
            self.versions.pop_front();
        }
    }

    /// The control core's own counters.
    pub const fn counters(&mut self) -> &mut CounterWriter {
        &mut self.counters
    }

    /// Packets that wait for a neighbour.
    #[must_use]
    pub const fn held(&self) -> usize {
        self.neighbours.held()
    }

    /// Frames to be sent, in order.
    pub fn take_outgoing(&mut self) -> std::vec::Drain<'_, Outgoing<S::Buffer>> {
        self.outbox.drain(..)
    }

    /// A frame that a worker did not balance came in by `port`.
    pub fn punted(&mut self, now: Nanos, port: u16, frame: &[u8]) {
        match self.hear(now, port, frame) {
            Ok(()) => self.counters.add(counters::ANSWERED, 1),
            Err(reason) => {
                self.counters.add(counters::drop_index(reason), 1);
                if let Some(capture) = &self.capture {
                    capture.dropped(port, frame, reason);
                }
            }
        }
        self.send_checks(now);
        self.publish_neighbours();
    }

    fn hear(&mut self, now: Nanos, port: u16, frame: &[u8]) -> Result<(), DropReason> {
        let Some(facts) = self.facts.get(usize::from(port)) else {
            return Err(DropReason::NotOurs);
        };
        if netstack::ip_packet(frame).is_some_and(|packet| self.checker.hear(now, packet)) {
            return Ok(());
        }
        let services = Arc::clone(&self.publisher.current().services);
        if let Some(told) = netstack::ip_packet(frame).and_then(|it| path_mtu::read(it, &services))
        {
            self.hear_of_path(now, told);
            return Ok(());
        }
        let heard = netstack::hear(frame, facts.mac, |address| {
            services.is_local(Version::of(&address), address.into())
        })?;
        // What resolves a neighbour may be what the kernel waits for.
        let mut of_use = heard.reply.is_none()
            && heard.learned.is_some()
            && self.copy_to_kernel(now, port, frame);
        if let Some(learned) = heard.learned
            && self
                .config
                .ports
                .get(usize::from(port))
                .is_some_and(|own| own.connects(learned.address))
        {
            let neighbour = Neighbour {
                port,
                address: learned.address,
            };
            of_use |= self.neighbours.learn(
                now,
                neighbour,
                learned.mac,
                learned.directed,
                &mut self.actions,
            );
            self.act();
        }
        match heard.reply {
            Some(reply) => {
                let frame = self.source.copy_from(&reply).ok_or(DropReason::NoBuffer)?;
                self.outbox.push(Outgoing {
                    port,
                    frame,
                    balanced: false,
                });
                Ok(())
            }
            None if of_use => Ok(()),
            None => Err(DropReason::NeighbourIgnored),
        }
    }

    /// A worker has a packet for a neighbour that is not resolved.
    pub fn hold(&mut self, now: Nanos, neighbour: Neighbour, frame: S::Buffer) {
        let waiting = Waiting {
            frame,
            balanced: true,
        };
        self.neighbours
            .hold(now, neighbour, waiting, &mut self.actions);
        self.act();
        self.publish_neighbours();
    }

    /// At the end of a run: packets that still wait are dropped with their reason.
    pub fn give_up(&mut self) {
        self.neighbours.give_up(&mut self.actions);
        self.act();
    }

    fn act(&mut self) {
        for action in std::mem::take(&mut self.actions) {
            match action {
                Action::Ask(neighbour, known) => self.ask(neighbour, known),
                Action::Release(neighbour, mac, mut waiting) => {
                    if let Some(destination) = waiting.frame.data_mut().first_chunk_mut::<6>() {
                        *destination = mac.0;
                    }
                    self.outbox.push(Outgoing {
                        port: neighbour.port,
                        frame: waiting.frame,
                        balanced: waiting.balanced,
                    });
                }
                Action::Drop(reason, waiting) => {
                    if let Some(capture) = &self.capture {
                        capture.dropped(NO_PORT, waiting.frame.data(), reason);
                    }
                    // What weir made itself never came in, and is missed by the check.
                    if waiting.balanced {
                        self.counters.add(counters::drop_index(reason), 1);
                    }
                }
            }
        }
    }

    /// Sends a request for a neighbour's MAC. Without a buffer for it the retry comes instead.
    fn ask(&mut self, neighbour: Neighbour, known: Option<MacAddr>) {
        let number = usize::from(neighbour.port);
        let (Some(port), Some(facts)) = (self.config.ports.get(number), self.facts.get(number))
        else {
            return;
        };
        let source = port.address_toward(neighbour.address);
        let request = match (neighbour.address, source) {
            (IpAddr::V4(target), Some(IpAddr::V4(source))) => {
                netstack::arp_request(facts.mac, port.vlan, source, target, known)
            }
            (IpAddr::V6(target), Some(IpAddr::V6(source))) => {
                netstack::neighbour_solicitation(facts.mac, port.vlan, source, target, known)
            }
            _ => return,
        };
        if let Some(frame) = self.source.copy_from(&request) {
            self.outbox.push(Outgoing {
                port: neighbour.port,
                frame,
                balanced: false,
            });
        }
    }

    /// Sends what checks have to send.
    fn send_checks(&mut self, now: Nanos) {
        for health::Leaving { hop, packet } in self.checker.take_leaving() {
            let number = usize::from(hop.port);
            let (Some(port), Some(facts)) = (self.config.ports.get(number), self.facts.get(number))
            else {
                continue;
            };
            let known = self.neighbours.mac_in_use(now, hop);
            let to = known.unwrap_or_default();
            let bytes = netstack::frame(to, facts.mac, port.vlan, &packet);
            // Without a buffer the check misses its answer, as it should.
            let Some(frame) = self.source.copy_from(&bytes) else {
                continue;
            };
            if known.is_some() {
                self.outbox.push(Outgoing {
                    port: hop.port,
                    frame,
                    balanced: false,
                });
            } else {
                let waiting = Waiting {
                    frame,
                    balanced: false,
                };
                self.neighbours.hold(now, hop, waiting, &mut self.actions);
                self.act();
            }
        }
    }

    /// Tells workers of neighbours that changed.
    fn publish_neighbours(&mut self) {
        if !self.neighbours.take_changed() {
            return;
        }
        let services = Arc::clone(&self.publisher.current().services);
        let adjacency = Arc::new(adjacency(&self.config, &self.facts, &mut self.neighbours));
        self.publish(services, adjacency);
    }

    /// The services in force.
    #[must_use]
    pub fn services(&self) -> &Services {
        &self.publisher.current().services
    }

    /// What became of the backends of the service at this place.
    #[must_use]
    pub fn standings(&self, place: usize) -> Option<&Standings> {
        self.standings.get(place)
    }

    /// Who is checked, and how they are.
    #[must_use]
    pub const fn checker(&self) -> &Checker {
        &self.checker
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

/// What services stand on.
struct Ground<'a> {
    config: &'a Config,
    facts: &'a [PortFacts],
    own: &'a [Vec<IpAddr>],
    paths: &'a PathMtus,
}

impl Ground<'_> {
    /// By how many bytes the way to a backend is narrower than the port that leads there, if it takes
    /// `least`.
    fn narrower(&self, backend: IpAddr, least: u16) -> u16 {
        let port = self.config.next_hop(backend).map(|hop| hop.port);
        let facts = port.and_then(|port| self.facts.get(usize::from(port)));
        match (facts, self.paths.get(backend)) {
            (Some(facts), Some(mtu)) => facts.mtu.saturating_sub(mtu.max(least)),
            _ => 0,
        }
    }
}

fn book_services(
    book: &mut Book,
    neighbours: &mut Neighbours<impl Sized>,
    ground: &Ground<'_>,
    generation: u64,
    pool: &Pool,
    standings: &[Standings],
) -> Result<Services, Refusal> {
    let config = ground.config;
    let own: Vec<IpAddr> = ground.own.iter().flatten().copied().collect();
    let hop = |_: &model::Service, backend: &model::Backend| {
        // Reach was checked; an address without a next hop gets a number that no hop has.
        config
            .next_hop(backend.address)
            .map_or(u32::MAX, |hop| neighbours.number(hop))
    };
    let mut services = book.services(generation, pool, standings, &own, hop)?;
    let number = |service: &str, backend: &str| book.number(service, backend);
    let narrower = |backend: IpAddr, least: u16| ground.narrower(backend, least);
    equip::equip(&mut services, pool, config, number, narrower);
    services.checks_from = *config.check_ports().start();
    services.kernels = kernel::shared_addresses(config, &services, &own);
    Ok(services)
}

fn adjacency(
    config: &Config,
    facts: &[PortFacts],
    neighbours: &mut Neighbours<impl Sized>,
) -> Adjacency {
    let ports = config
        .ports
        .iter()
        .zip(facts)
        .map(|(port, facts)| Egress {
            mac: facts.mac,
            vlan: port.vlan,
            mtu: facts.mtu,
        })
        .collect();
    let routes = config.routes_with(|neighbour| neighbours.number(neighbour));
    let own = (0u16..).zip(&config.ports).flat_map(|(number, port)| {
        port.addresses.iter().map(move |network| Own {
            port: number,
            address: network.address,
            prefix: network.prefix,
        })
    });
    Adjacency::new(ports, routes, neighbours.hops().list()).with_own(own.collect())
}

/// The ports' addresses, and the link-local one of each port that speaks IPv6 (RFC 4291, appendix
/// A: modified EUI-64).
fn own_addresses(config: &Config, facts: &[PortFacts]) -> Vec<Vec<IpAddr>> {
    config
        .ports
        .iter()
        .zip(facts)
        .map(|(port, facts)| {
            let mut own: Vec<IpAddr> = port
                .addresses
                .iter()
                .map(|network| network.address)
                .collect();
            if own.iter().any(IpAddr::is_ipv6) {
                own.push(link_local(facts.mac).into());
            }
            own
        })
        .collect()
}

/// The link-local address of a MAC.
#[must_use]
pub const fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from_octets([
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ])
}

/// The largest frame that the control core makes or answers, in bytes.
pub const MAX_FRAME: usize = ethernet::LEN + ethernet::TAG_LEN + u16::MAX as usize;
