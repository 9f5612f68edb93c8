//! Services as workers read them: the VIP lookup, the return map of `nat`, each service's table,
//! and all backends by number.
//!
//! Built whole on the control core for each generation and published by one pointer swap; a
//! service that did not change shares its table with the generation before.

use std::sync::Arc;

use weir_engine::wire::checksum::{Delta, Folded};
use weir_engine::wire::protocol;
use weir_shm::counters::DropReason;
use weir_shm::model::{ClientAddress, Ping, TunnelSource};

use crate::address::{Addr, Version};
use crate::adjacency::covers;
use crate::conntrack::Profiles;
use crate::endpoints::{Endpoint, Endpoints};
use crate::flow::{FlowHash, FlowHasher};
use crate::forward::Mode;
use crate::forward::tunnel::Outer;
use crate::listeners::{self, ANY_PROTOCOL, Listeners};
use crate::parse::Packet;
use crate::quic::Quic;
use crate::scheduler::{Key, Scheduler};
use crate::session::{Sessions, Times, is_spoken_from};

/// Which flows a backend takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Takes {
    /// None: removed, disabled, or down. Its flows are steered anew.
    #[default]
    Nothing,
    /// None: down or drained, and its TCP flows are reset.
    Reset,
    /// Those it has: draining, or of weight zero.
    Known,
    /// Those it has and new ones.
    All,
}

/// A backend under its number, in one cache line: all that the packet path needs to know of it. A
/// number without a backend takes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(align(64))]
pub struct Backend {
    /// Its address: of the VIP's family, but in modes that cross families.
    pub address: Addr,
    /// The place of its service; flows of another service are not its own.
    pub service: u32,
    /// Its next hop, an index into the adjacency's hops.
    pub hop: u32,
    /// Its first counter.
    pub counters: u32,
    /// What the change of address and port adds to checksums.
    pub change: Change,
    /// Its port as it lies in the frame; zero keeps the packet's.
    pub port: [u8; 2],
    /// The place of its outer headers, in a tunnel.
    pub outer: u32,
    /// The largest MSS that a SYN may announce, in bytes; zero for any.
    pub mss: u16,
    /// By how many bytes a packet must be smaller than its port's MTU: what its mode adds, and what the
    /// way behind the port is narrower by.
    pub overhead: u16,
    /// What `dsr-dscp` marks its packets with.
    pub dscp: u8,
    /// Its address's family.
    pub version: Version,
    /// Its service's mode.
    pub mode: Mode,
    /// Its service's time-out profile.
    pub profile: u8,
    /// Which flows it takes.
    pub takes: Takes,
    /// How often its service notes anew that a client's flow goes on: when the clock passes a multiple
    /// of two to the power of this, in milliseconds. Zero where clients are not remembered.
    pub pins: u8,
}

const _: () = assert!(size_of::<Backend>() == 64);

/// The place of no service.
pub const NO_SERVICE: u32 = u32::MAX;

impl Default for Backend {
    fn default() -> Self {
        Self {
            address: Addr::default(),
            service: NO_SERVICE,
            hop: 0,
            counters: 0,
            change: Change::default(),
            port: [0; 2],
            outer: 0,
            mss: 0,
            overhead: 0,
            dscp: 0,
            version: Version::V4,
            mode: Mode::default(),
            profile: 0,
            takes: Takes::Nothing,
            pins: 0,
        }
    }
}

/// What other addresses and ports add to checksums: the same for every packet of a `nat` backend or a
/// `full-nat` session, so it is summed up once (RFC 1624, equation 3). The way back is the complement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// Of the addresses alone, with one off the TTL: for the IPv4 header.
    pub network: Folded,
    /// Of addresses and ports: for TCP and UDP.
    pub transport: Folded,
    /// As `network`, of the way back.
    pub network_back: Folded,
    /// As `transport`, of the way back.
    pub transport_back: Folded,
}

impl Change {
    /// Of packets to a backend whose addresses and ports change from the first to the second of each
    /// pair.
    #[must_use]
    pub fn new(addresses: &[(Addr, Addr)], ports: &[(u16, u16)]) -> Self {
        let (mut forth, mut back) = (Delta::none(), Delta::none());
        for (old, new) in addresses {
            // An IPv4 address is one with nothing behind it.
            let (old, new) = (old.to_v6(), new.to_v6());
            (forth, back) = (forth.word128(&old, &new), back.word128(&new, &old));
        }
        // One off the TTL, which lies in front of the protocol.
        let hop = Delta::none().word16([1, 0], [0, 0]);
        let network = (forth.and(hop), back.and(hop));
        for (old, new) in ports {
            let (old, new) = (old.to_be_bytes(), new.to_be_bytes());
            (forth, back) = (forth.word16(old, new), back.word16(new, old));
        }
        Self {
            network: network.0.into(),
            transport: forth.into(),
            network_back: network.1.into(),
            transport_back: back.into(),
        }
    }

    /// As 64 bits, to be kept.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        [
            self.network,
            self.transport,
            self.network_back,
            self.transport_back,
        ]
        .iter()
        .rev()
        .fold(0, |bits, change| bits << 16 | u64::from(change.to_bits()))
    }

    /// Hot: what [`Change::to_bits`] gave.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            network: Folded::from_bits(bits as u16),
            transport: Folded::from_bits((bits >> 16) as u16),
            network_back: Folded::from_bits((bits >> 32) as u16),
            transport_back: Folded::from_bits((bits >> 48) as u16),
        }
    }
}

/// What a `full-nat` service has beyond others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullNat {
    /// The numbers of the IPv4 addresses that it speaks from.
    pub from4: Box<[u16]>,
    /// Those of the IPv6 addresses.
    pub from6: Box<[u16]>,
    /// How backends learn the client's address.
    pub client_address: ClientAddress,
    /// How long its TCP sessions live.
    pub tcp: Times,
    /// How long its UDP sessions live.
    pub udp: Times,
}

impl FullNat {
    /// How long sessions of a protocol live.
    #[must_use]
    pub const fn times(&self, of: u8) -> Times {
        if of == protocol::TCP {
            self.tcp
        } else {
            self.udp
        }
    }
}

/// One service.
#[derive(Debug, Clone)]
pub struct Service {
    /// How its packets are forwarded.
    pub mode: Mode,
    /// The VIP.
    pub vip: Addr,
    /// The VIP's port as it lies in the frame; zero for any.
    pub port: [u8; 2],
    /// What becomes of pings to the VIP.
    pub ping: Ping,
    /// Its time-out profile's number.
    pub profile: u8,
    /// Its first counter.
    pub counters: u32,
    /// Whether TCP in mid-stream whose flow is not known is reset.
    pub resets_unknown: bool,
    /// What it has as a `full-nat` service.
    pub full_nat: Option<Arc<FullNat>>,
    /// How connection IDs name its backends.
    pub quic: Option<Arc<Quic>>,
    /// Its number, which outlives changes of the pool.
    pub number: u32,
    /// How it chooses among the backends that take new flows.
    pub scheduler: Scheduler,
    /// Whether flows are told by their addresses alone.
    pub by_address: bool,
    /// What makes a client, where clients are remembered.
    pub affinity: Option<Client>,
    /// What becomes of a flow for which there is no backend.
    pub without: Without,
}

/// What makes a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Bits of an IPv4 address that count.
    pub prefix4: u8,
    /// Bits of an IPv6 address that count.
    pub prefix6: u8,
}

/// What becomes of a flow for which there is no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Without {
    /// Why there is none.
    pub reason: DropReason,
    /// Whether the client is told.
    pub reset: bool,
}

impl Client {
    /// The hash of a packet's client; `of` is a service's number, or zero for a client of any.
    #[must_use]
    pub fn hash(self, hasher: &FlowHasher, packet: &Packet, of: u32) -> FlowHash {
        /// No packet's.
        const PROTOCOL: u8 = 0xff;
        let nobody = Addr([u64::from(of), 0]);
        match packet.version {
            Version::V4 => {
                let source = listeners::network(Version::V4, packet.source, self.prefix4);
                hasher.ipv4(source, nobody, 0, PROTOCOL)
            }
            Version::V6 => {
                let source = listeners::network(Version::V6, packet.source, self.prefix6);
                hasher.ipv6(source, nobody, 0, PROTOCOL)
            }
        }
    }
}

impl Service {
    /// Where a flow falls on the table when nothing is remembered of it.
    #[inline]
    #[must_use]
    pub fn point(&self, hasher: &FlowHasher, packet: &Packet, hash: FlowHash) -> u32 {
        match self.scheduler.key() {
            Key::Flow | Key::FlowAndSequence => hash.point(),
            Key::Source { prefix4, prefix6 } => {
                Client { prefix4, prefix6 }.hash(hasher, packet, 0).point()
            }
        }
    }

    /// Hot: asks for the table's entry of a flow.
    #[inline(always)]
    pub fn prefetch(&self, hash: FlowHash) {
        self.scheduler.prefetch(hash.point());
    }

    /// The number of the backend that a flow gets of which nothing is remembered anywhere.
    #[inline]
    #[must_use]
    pub fn choose(&self, hash: FlowHash) -> Option<u32> {
        self.scheduler.fixed(hash.point()).backend()
    }
}

/// Whose packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// From a client to the VIP of the service with this number.
    Forward(u32),
    /// The same, of a service that tells flows by their addresses alone.
    ForwardByAddress(u32),
    /// To the address with this number, which `full-nat` speaks from.
    Answer(u16),
    /// From the `nat` backend with this number to a client.
    Return(u32),
    /// To an address that is ours, but to no service.
    NoService,
    /// To nobody we know.
    NotOurs,
}

/// What [`Services::local`] holds for a port's own address.
pub const OWN: u32 = u32::MAX;

/// All services of one generation.
#[derive(Debug)]
pub struct Services {
    /// The generation.
    pub generation: u64,
    /// The services; their numbers are their places here.
    pub services: Vec<Service>,
    /// Backends; their numbers are their places here.
    pub backends: Vec<Backend>,
    /// Outer headers of tunnels, by the places that backends name.
    pub outers: Arc<[Outer]>,
    /// The time-out profiles that services and conntrack entries name.
    pub profiles: Profiles,
    /// VIPs with port and protocol, to services.
    pub vips: Endpoints,
    /// Backends of `nat` services with port and protocol, and their addresses alone, to backends'
    /// numbers.
    pub returns: Endpoints,
    /// VIPs and the ports' own addresses, alone: [`OWN`], or the place of the service that answers
    /// for the VIP where there is no port to tell.
    pub local: Endpoints,
    /// Sessions of `full-nat` services, if there ever was one.
    pub sessions: Option<Sessions>,
    /// Whether connection IDs name backends of any service.
    pub has_quic: bool,
    /// Whether clients of any service keep their backends.
    pub has_affinity: bool,
    /// VIPs and backends that stand for many endpoints, where there are such.
    pub wide: Option<Arc<Wide>>,
    /// Where tunnels' outer source addresses come from: what routers say of outer packets goes there.
    pub tunnel_sources: Vec<TunnelSource>,
    /// Whether any service chooses by how many flows backends hold.
    pub counts_flows: bool,
    /// The first of the ports that checks are sent from; the others are the rest.
    pub checks_from: u16,
    /// The ports' own addresses that are the kernel's, too; empty where no port has a way to it.
    pub kernels: Endpoints,
}

/// What stands for many endpoints: ranges of ports, any port, any protocol, prefixes of addresses.
#[derive(Debug)]
pub struct Wide {
    /// VIPs of one address, to services.
    pub hosts: Listeners,
    /// Prefixes of addresses, to services. The ports' own addresses are not in them.
    pub prefixes: Listeners,
    /// Backends of `nat` services, to their numbers.
    pub returns: Listeners,
    /// Those that have left their service, as long as nobody else is there.
    pub departed: Listeners,
    /// All VIPs that are prefixes, whatever the port, to services.
    pub local: Listeners,
    /// The ports' own addresses.
    pub own: Endpoints,
}

impl Wide {
    /// The service of a packet that no exact VIP is for.
    fn service(&self, packet: &Packet) -> Option<u32> {
        let Packet {
            version,
            destination,
            protocol,
            ..
        } = *packet;
        let port = packet.destination_port();
        let host = self.hosts.get(version, destination, port, protocol);
        host.or_else(|| {
            let own = self.own.has_address(version, destination);
            let prefix = || self.prefixes.get(version, destination, port, protocol);
            if own { None } else { prefix() }
        })
    }

    /// The backend that a packet comes from.
    fn backend(&self, packet: &Packet) -> Option<u32> {
        let Packet {
            version,
            source,
            protocol,
            ..
        } = *packet;
        let port = packet.source_port();
        let here = self.returns.get(version, source, port, protocol);
        here.or_else(|| self.departed.get(version, source, port, protocol))
    }
}

impl Services {
    /// Hot: the service whose VIP, port and protocol the packet goes to exactly: one look-up, which
    /// answers for nearly every packet.
    #[inline(always)]
    #[must_use]
    pub fn exact(&self, packet: &Packet) -> Option<u32> {
        self.vips.get(Endpoint::new(
            packet.version,
            packet.destination,
            packet.destination_port(),
            packet.protocol,
        ))
    }

    /// Whose packet it is. The most specific VIP wins; VIPs win over answers.
    #[inline]
    #[must_use]
    pub fn owner(&self, packet: &Packet) -> Owner {
        match self.exact(packet) {
            Some(service) => Owner::Forward(service),
            None => self.owner_of_other(packet),
        }
    }

    /// Whose packet it is that goes to no VIP exactly.
    #[inline(never)]
    #[must_use]
    pub fn owner_of_other(&self, packet: &Packet) -> Owner {
        if let Some(wide) = &self.wide
            && let Some(service) = wide.service(packet)
        {
            return match self.get(service) {
                Some(service_of) if service_of.by_address => Owner::ForwardByAddress(service),
                _ => Owner::Forward(service),
            };
        }
        match self.spoken_from(packet) {
            Some(address) => Owner::Answer(address),
            None => self.owner_but_for_sessions(packet),
        }
    }

    /// Hot: the number of the address that a packet goes to, where `full-nat` sends from it and from
    /// such a port.
    #[inline]
    #[must_use]
    pub fn spoken_from(&self, packet: &Packet) -> Option<u16> {
        let sessions = self.sessions.as_ref()?;
        is_spoken_from(packet.destination_port())
            .then(|| sessions.find_address(packet.version, packet.destination))
            .flatten()
    }

    /// Whose packet it is that goes to no VIP and is of no session.
    #[inline]
    #[must_use]
    pub fn owner_but_for_sessions(&self, packet: &Packet) -> Owner {
        let Packet {
            version, protocol, ..
        } = *packet;
        let from = Endpoint::new(version, packet.source, packet.source_port(), protocol);
        if let Some(backend) = self.returns.get(from) {
            return Owner::Return(backend);
        }
        if let Some(wide) = &self.wide
            && let Some(backend) = wide.backend(packet)
        {
            return Owner::Return(backend);
        }
        if self.is_local(version, packet.destination) {
            Owner::NoService
        } else {
            Owner::NotOurs
        }
    }

    /// Hot: the service with this number.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, number: u32) -> Option<&Service> {
        self.services.get(number as usize)
    }

    /// Hot: the backend with this number, if it belongs to `service` and still takes flows that it
    /// has.
    #[inline(always)]
    #[must_use]
    pub fn keeps(&self, service: u32, number: u32) -> Option<&Backend> {
        self.backends
            .get(number as usize)
            .filter(|backend| backend.service == service && backend.takes > Takes::Reset)
    }

    /// Whether the flows that this backend of a service had are reset.
    #[must_use]
    pub fn resets(&self, service: u32, number: u32) -> bool {
        let backend = self.backends.get(number as usize);
        backend.is_some_and(|backend| backend.service == service && backend.takes == Takes::Reset)
    }

    /// The place of the service that answers for a VIP where there is no port to tell.
    #[must_use]
    pub fn at_vip(&self, version: Version, address: Addr) -> Option<u32> {
        match self.local.get(Endpoint::address(version, address)) {
            Some(OWN) => None,
            Some(place) => Some(place),
            None => self.vip_prefix(version, address),
        }
    }

    /// Whether `address` is a port's own.
    #[inline(never)]
    #[must_use]
    pub fn is_own(&self, version: Version, address: Addr) -> bool {
        self.local.get(Endpoint::address(version, address)) == Some(OWN)
    }

    /// Whether tunnels speak from `address`. Looks at each of their few sources.
    #[must_use]
    pub fn is_tunnel_source(&self, version: Version, address: Addr) -> bool {
        let address = address.to_ip(version);
        let mut sources = self.tunnel_sources.iter();
        sources.any(|source| covers(source.address, source.prefix, address))
    }

    /// Whether the kernel has `address`, too: a port's own that is no VIP.
    #[inline(never)]
    #[must_use]
    pub fn is_kernels(&self, version: Version, address: Addr) -> bool {
        self.kernels.has_address(version, address)
    }

    /// Whether `address` is a VIP or a port's own.
    #[inline]
    #[must_use]
    pub fn is_local(&self, version: Version, address: Addr) -> bool {
        self.local.has_address(version, address) || self.vip_prefix(version, address).is_some()
    }

    /// The service whose VIP is the longest prefix that covers `address`, whatever the port.
    #[inline]
    #[must_use]
    pub fn vip_prefix(&self, version: Version, address: Addr) -> Option<u32> {
        let wide = self.wide.as_ref()?;
        wide.local.get(version, address, 0, ANY_PROTOCOL)
    }
}

/// The IP protocol number of a configured protocol; [`ANY_PROTOCOL`] for all.
#[must_use]
pub const fn protocol_number(protocol: weir_shm::model::Protocol) -> u8 {
    match protocol.number() {
        Some(number) => number,
        None => ANY_PROTOCOL,
    }
}
