//! Services as workers read them: the VIP lookup, the return map of `nat`, each service's table,
//! and all backends by number.
//!
//! Built whole on the control core for each generation and published by one pointer swap; a
//! service that did not change shares its table with the generation before.

use std::sync::Arc;

use weir_engine::memory::prefetch_read;
use weir_engine::wire::checksum::Folded;
use weir_engine::wire::protocol;

use weir_shm::model::{ClientAddress, Ping};

use crate::address::{Addr, Version};
use crate::conntrack::Profiles;
use crate::endpoints::{Endpoint, Endpoints};
use crate::flow::{FlowHash, scale};
use crate::forward::Mode;
use crate::forward::tunnel::Outer;
use crate::parse::Packet;
use crate::quic::Quic;
use crate::session::{FIRST_PORT, LAST_PORT, Sessions, Times};

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
    /// Bytes that its mode adds to a packet.
    pub overhead: u8,
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
        }
    }
}

/// What putting a backend's address and port in place of the VIP's adds to checksums: the same for
/// every packet, so it is summed up once (RFC 1624, equation 3). Putting the VIP back is the
/// complement.
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
    /// The Maglev table: places in `members`.
    pub table: Arc<[u16]>,
    /// The numbers of the backends that take new flows.
    pub members: Arc<[u32]>,
    /// How connection IDs name its backends.
    pub quic: Option<Arc<Quic>>,
}

impl Service {
    /// Hot: asks for the table's entry of a flow.
    #[inline(always)]
    pub fn prefetch(&self, hash: FlowHash) {
        let entry = scale((hash.bucket >> 32) as u32, self.table.len() as u32);
        if let Some(entry) = self.table.get(entry as usize) {
            prefetch_read(entry);
        }
    }

    /// Hot: the number of the backend that the table gives a flow.
    #[inline]
    #[must_use]
    pub fn choose(&self, hash: FlowHash) -> Option<u32> {
        let entry = scale((hash.bucket >> 32) as u32, self.table.len() as u32);
        let member = *self.table.get(entry as usize)?;
        self.members.get(usize::from(member)).copied()
    }
}

/// Whose packet it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// From a client to the VIP of the service with this number.
    Forward(u32),
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
    pub outers: Vec<Outer>,
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
    /// Whether any service has `port = "any"`.
    pub any_port: bool,
    /// Whether connection IDs name backends of any service.
    pub has_quic: bool,
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

    /// Whose packet it is. Exact ports win over `port = "any"`; VIPs win over answers.
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
        let Packet {
            version, protocol, ..
        } = *packet;
        if self.any_port {
            let any = Endpoint::new(version, packet.destination, 0, protocol);
            if let Some(service) = self.vips.get(any) {
                return Owner::Forward(service);
            }
        }
        if let Some(sessions) = &self.sessions
            && (FIRST_PORT..=LAST_PORT).contains(&packet.destination_port())
            && let Some(address) = sessions.find_address(version, packet.destination)
        {
            return Owner::Answer(address);
        }
        self.owner_but_for_sessions(packet)
    }

    /// Whose packet it is that goes to no VIP and is of no session.
    #[inline]
    #[must_use]
    pub fn owner_but_for_sessions(&self, packet: &Packet) -> Owner {
        let Packet {
            version, protocol, ..
        } = *packet;
        let from = |port| Endpoint::new(version, packet.source, port, protocol);
        let exact = self.returns.get(from(packet.source_port()));
        let any = || self.any_port.then(|| self.returns.get(from(0))).flatten();
        if let Some(backend) = exact.or_else(any) {
            return Owner::Return(backend);
        }
        if self.local.has_address(version, packet.destination) {
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

    /// The place of the service that answers for a VIP where there is no port to tell.
    #[must_use]
    pub fn at_vip(&self, version: Version, address: Addr) -> Option<u32> {
        self.local
            .get(Endpoint::address(version, address))
            .filter(|place| *place != OWN)
    }

    /// Whether `address` is a port's own.
    #[inline(never)]
    #[must_use]
    pub fn is_own(&self, version: Version, address: Addr) -> bool {
        self.local.get(Endpoint::address(version, address)) == Some(OWN)
    }

    /// Whether `address` is a VIP or a port's own.
    #[inline]
    #[must_use]
    pub fn is_local(&self, version: Version, address: Addr) -> bool {
        self.local.has_address(version, address)
    }
}

/// The IP protocol number of a configured protocol.
#[must_use]
pub const fn protocol_number(protocol: weir_shm::model::Protocol) -> u8 {
    match protocol {
        weir_shm::model::Protocol::Tcp => protocol::TCP,
        weir_shm::model::Protocol::Udp | weir_shm::model::Protocol::Quic => protocol::UDP,
    }
}
