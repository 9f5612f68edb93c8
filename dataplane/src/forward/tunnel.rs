//! Encapsulation, shared by the tunnel modes: outer headers made once, put before each packet.
//!
//! A mode's own file says what lies between the outer IP header and the inner one; the control core
//! makes an [`Outer`] of it for each backend, and [`Outer::encapsulate`] copies that before the
//! inner IP header and writes what differs from packet to packet: length, checksum, the flow's
//! entropy, DSCP and ECN. The inner packet is not touched, not even its TTL; the inner Ethernet
//! header goes.
//!
//! - DSCP and ECN are copied as they are (RFC 6040, section 4.1, normal mode).
//! - IPv4: identification 0 and "don't fragment" (RFC 6864, section 4.1).
//! - The flow's entropy is in the UDP source port (GUE, Geneve), in the IPv6 flow label (RFC 6438)
//!   and in the source address where that comes from a prefix.
//! - The outer UDP checksum is zero (RFC 6935, RFC 6936) or over the whole datagram.

use std::net::IpAddr;

use weir_engine::buffer::Buffer;
use weir_engine::wire::{checksum, ethernet, ethernet::ethertype, ipv4, ipv6, protocol, udp};
use weir_shm::counters::DropReason;
use weir_shm::model::{Forwarding, OuterChecksum, Service, TunnelSource};

use super::{Steered, geneve, gre, gue, ipip};
use crate::address::Version;
use crate::flow::FlowHash;
use crate::parse::Packet;

/// Hot: a client's packet inside another, to its backend.
///
/// # Errors
/// As [`Outer::encapsulate`].
#[inline]
pub fn to_backend<B: Buffer>(frame: &mut B, steered: &Steered<'_>) -> Result<(), DropReason> {
    let outers = &steered.services.outers;
    let outer = outers.get(steered.backend.outer as usize);
    let outer = outer.ok_or(DropReason::NoBackend)?;
    outer.encapsulate(frame, steered.packet, entropy(steered.hash))
}

/// Hot: what tells a flow's outer packets from others': the half of the hash that neither picks the
/// backend nor the conntrack line, so flows of one backend have all values of it.
#[inline(always)]
#[must_use]
pub const fn entropy(hash: FlowHash) -> u64 {
    hash.fingerprint
}

/// The outer headers that a service's packets to `backend` get, from `source`; `None` where its mode
/// is no tunnel.
#[must_use]
pub fn outer(service: &Service, backend: IpAddr, source: TunnelSource) -> Option<Outer> {
    let ends = Ends {
        source,
        destination: backend,
    };
    let inner = match service.vip.is_ipv4() {
        true => Version::V4,
        false => Version::V6,
    };
    let tunnel = &service.tunnel;
    let checksum = tunnel.outer_udp_checksum();
    match service.forwarding {
        Forwarding::DsrIpip => Some(ipip::outer(ends, inner)),
        Forwarding::DsrGue => {
            let (variant, port) = (tunnel.gue_variant(), tunnel.gue_port());
            Some(gue::outer(ends, inner, variant, port, checksum))
        }
        Forwarding::DsrGre => Some(gre::outer(ends, inner, tunnel.gre_key)),
        Forwarding::DsrGeneve => Some(geneve::outer(ends, inner, tunnel.geneve_vni(), checksum)),
        Forwarding::DsrL2 | Forwarding::Nat | Forwarding::DsrDscp | Forwarding::FullNat => None,
    }
}

/// Room for the longest outer headers: IPv6, UDP and 8 bytes of Geneve or GRE with key, and the
/// EtherType before them. A whole number of vector registers, so that they are copied at once.
const ROOM: usize = 64;
/// Where the inner packet lies while it is encapsulated: behind a tagged Ethernet header's addresses
/// and tag, and [`ROOM`].
const FRONT: usize = ethernet::LEN + ethernet::TAG_LEN - 2 + ROOM;
/// TTL and hop limit of outer headers.
const TTL: u8 = 64;
/// Outer UDP source ports are dynamic ones, 49152 to 65535 (RFC 6335; RFC 8086, section 3.2.1).
const FIRST_PORT: u16 = 0xc000;

/// The two ends of a tunnel.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    /// Where outer source addresses come from.
    pub source: TunnelSource,
    /// The backend.
    pub destination: IpAddr,
}

/// What lies between the outer IP header and the inner one.
#[derive(Debug, Clone, Copy)]
pub enum Shim<'a> {
    /// Bytes behind the outer IP header, which names this protocol.
    Direct(u8, &'a [u8]),
    /// Bytes behind a UDP header with this destination port.
    Udp(u16, OuterChecksum, &'a [u8]),
}

/// The outer headers of one backend; see the module's text.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Outer {
    /// EtherType, IP header and shim, at the end. The fields that differ by packet are zero.
    bytes: [u8; ROOM],
    /// The source address's low bits are `base + (span * entropy >> 64)`.
    base: u64,
    span: u64,
    /// The IPv4 header's sum without what differs by packet.
    sum: u32,
    /// Bytes of IP header and shim.
    len: u8,
    /// Bytes of the shim, the UDP header included.
    shim: u8,
    version: Version,
    udp: Udp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Udp {
    None,
    Zero,
    Full,
}

impl Outer {
    /// Outer headers from and to `ends`, with `shim` behind them.
    #[must_use]
    pub fn new(ends: Ends, shim: Shim<'_>) -> Self {
        let mut behind = [0; ROOM];
        let (next, udp, shim_len) = match shim {
            Shim::Direct(next, bytes) => {
                behind[..bytes.len()].copy_from_slice(bytes);
                (next, Udp::None, bytes.len())
            }
            Shim::Udp(port, checksum, bytes) => {
                behind[2..4].copy_from_slice(&port.to_be_bytes());
                behind[udp::LEN..udp::LEN + bytes.len()].copy_from_slice(bytes);
                let udp = match checksum {
                    OuterChecksum::Zero => Udp::Zero,
                    OuterChecksum::Full => Udp::Full,
                };
                (protocol::UDP, udp, udp::LEN + bytes.len())
            }
        };
        let mut header = [0; ipv6::LEN];
        let (kind, header_len, version) = match (ends.source.address, ends.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                header[0] = 0x45;
                header[6] = 0x40;
                header[8] = TTL;
                header[9] = next;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                (ethertype::IPV4, ipv4::LEN, Version::V4)
            }
            (source, destination) => {
                let octets = |address: IpAddr| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                header[0] = 0x60;
                header[6] = next;
                header[7] = TTL;
                header[8..24].copy_from_slice(&octets(source));
                header[24..40].copy_from_slice(&octets(destination));
                (ethertype::IPV6, ipv6::LEN, Version::V6)
            }
        };
        let (base, span) = entropy_range(ends.source);
        if version == Version::V4 {
            header[12..16].fill(0);
        }
        let len = header_len + shim_len;
        let mut bytes = [0; ROOM];
        bytes[ROOM - len - 2..ROOM - len].copy_from_slice(&kind.to_be_bytes());
        bytes[ROOM - len..ROOM - shim_len].copy_from_slice(&header[..header_len]);
        bytes[ROOM - shim_len..].copy_from_slice(&behind[..shim_len]);
        Self {
            bytes,
            base,
            span,
            sum: u32::from(checksum::fold(checksum::sum(&header[..ipv4::LEN]))),
            len: len as u8,
            shim: shim_len as u8,
            version,
            udp,
        }
    }

    /// Bytes that it adds to a packet.
    #[inline]
    #[must_use]
    pub const fn overhead(&self) -> u16 {
        self.len as u16
    }

    /// Whether `quoted`, the first bytes of a packet, are outer headers as these: their ends,
    /// protocol and, behind UDP, destination port.
    #[must_use]
    pub fn wrote(&self, quoted: &[u8]) -> bool {
        let (len, shim) = (usize::from(self.len), usize::from(self.shim));
        let ours = self.bytes.get(ROOM - len..).unwrap_or_default();
        let header_len = len - shim;
        let (next, low, high, to) = match self.version {
            Version::V4 => (9, 12..16, 12..12, 16..20),
            Version::V6 => (6, 16..24, 8..16, 24..40),
        };
        let (Some(theirs), Some(version)) = (quoted.get(..header_len), quoted.first()) else {
            return false;
        };
        // What weir writes has no options.
        let same = |at: std::ops::Range<usize>| theirs.get(at.clone()) == ours.get(at);
        let source = theirs.get(low).unwrap_or_default();
        let source = source
            .iter()
            .fold(0, |all, byte| all << 8 | u64::from(*byte));
        let udp = header_len + 2..header_len + 4;
        version >> 4 == if self.version == Version::V4 { 4 } else { 6 }
            && same(next..next + 1)
            && same(high)
            && same(to)
            && source.wrapping_sub(self.base) < self.span
            && (self.udp == Udp::None || quoted.get(udp.clone()) == ours.get(udp))
    }

    /// Hot: puts the outer headers between the frame's Ethernet header and its packet. The flow's
    /// packets all have one `entropy`. Padding behind the packet goes, a VLAN tag stays for
    /// [`super::link`] to judge; the Ethernet addresses are left to it, too.
    ///
    /// # Errors
    /// [`DropReason::NoBuffer`] without headroom, [`DropReason::TooLarge`] beyond 65,535 bytes.
    #[inline]
    pub fn encapsulate<B: Buffer>(
        &self,
        frame: &mut B,
        packet: &Packet,
        entropy: u64,
    ) -> Result<(), DropReason> {
        let network = usize::from(packet.network);
        if network == ethernet::LEN {
            return self.encapsulate_untagged(frame, packet, entropy);
        }
        let tag = frame.data().get(12..);
        let tag = tag.and_then(|rest| rest.first_chunk::<4>()).copied();
        self.put(frame, packet, (network, tag), entropy)
    }

    /// Hot: as [`Outer::encapsulate`], for a frame without a VLAN tag.
    ///
    /// # Errors
    /// As there.
    #[inline(always)]
    pub fn encapsulate_untagged<B: Buffer>(
        &self,
        frame: &mut B,
        packet: &Packet,
        entropy: u64,
    ) -> Result<(), DropReason> {
        self.put(frame, packet, (ethernet::LEN, None), entropy)
    }

    /// Hot: the outer headers before the packet at `network`, and the tag that was before it.
    #[inline(always)]
    fn put<B: Buffer>(
        &self,
        frame: &mut B,
        packet: &Packet,
        (network, tag): (usize, Option<[u8; 4]>),
        entropy: u64,
    ) -> Result<(), DropReason> {
        let (len, shim) = (usize::from(self.len), usize::from(self.shim));
        let total = len + usize::from(packet.ip_len);
        let data = frame.data();
        let (Some([first, second, ..]), Ok(total)) = (data.get(network..), u16::try_from(total))
        else {
            return Err(DropReason::TooLarge);
        };
        let traffic_class = match packet.version {
            Version::V4 => *second,
            Version::V6 => first << 4 | second >> 4,
        };
        let padding = data
            .len()
            .saturating_sub(network + usize::from(packet.ip_len));
        if padding > 0 {
            frame.trim_back(padding).map_err(|_| DropReason::IpLength)?;
        }
        frame
            .prepend(FRONT - network)
            .map_err(|_| DropReason::NoBuffer)?;
        let data = frame.data_mut();
        let Some(room) = data
            .get_mut(FRONT - ROOM..)
            .and_then(|rest| rest.first_chunk_mut())
        else {
            return Err(DropReason::NoBuffer);
        };
        *room = self.bytes;
        self.fill_ip(room, len, total, traffic_class, entropy);
        if self.udp != Udp::None {
            let length = (total as usize - (len - shim)) as u16;
            fill_udp(room, shim, length, entropy);
            if self.udp == Udp::Full {
                self.fill_checksum(data);
            }
        }
        // What is left of the Ethernet header ends where the EtherType begins.
        let kind = FRONT - len - 2;
        let front = match tag {
            None => kind - 12,
            Some(tag) => {
                if let Some(place) = data.get_mut(kind - 4..kind) {
                    place.copy_from_slice(&tag);
                }
                kind - 16
            }
        };
        frame.trim_front(front).map_err(|_| DropReason::Runt)
    }

    #[inline(always)]
    fn fill_ip(
        &self,
        room: &mut [u8; ROOM],
        len: usize,
        total: u16,
        traffic_class: u8,
        entropy: u64,
    ) {
        let Some(header) = room.get_mut(ROOM - len..) else {
            return;
        };
        let low = self.base.wrapping_add(scale(entropy, self.span));
        match self.version {
            Version::V4 => {
                if let Some(header) = header.first_chunk_mut::<{ ipv4::LEN }>() {
                    let length = total.to_be_bytes();
                    let source = (low as u32).to_be_bytes();
                    let halves = u32::from_ne_bytes(source);
                    let sum = self.sum
                        + u32::from(u16::from_ne_bytes([0, traffic_class]))
                        + u32::from(u16::from_ne_bytes(length))
                        + (halves & 0xffff)
                        + (halves >> 16);
                    header[1] = traffic_class;
                    [header[2], header[3]] = length;
                    [header[10], header[11]] = (!checksum::fold_few(sum)).to_ne_bytes();
                    [header[12], header[13], header[14], header[15]] = source;
                }
            }
            Version::V6 => {
                if let Some(header) = header.first_chunk_mut::<{ ipv6::LEN }>() {
                    // The flow label is for routers to tell flows apart, and zero tells nothing.
                    let label = (entropy >> 20) as u32 & 0x000f_ffff | 1;
                    let first = 6 << 28 | u32::from(traffic_class) << 20 | label;
                    [header[0], header[1], header[2], header[3]] = first.to_be_bytes();
                    let payload = total - ipv6::LEN as u16;
                    [header[4], header[5]] = payload.to_be_bytes();
                    if let Some(place) = header[16..].first_chunk_mut::<8>() {
                        *place = low.to_be_bytes();
                    }
                }
            }
        }
    }

    /// The UDP checksum over the whole datagram (RFC 768; RFC 8200, section 8.1).
    #[cold]
    fn fill_checksum(&self, data: &mut [u8]) {
        let at = FRONT - usize::from(self.shim);
        let addresses = match self.version {
            Version::V4 => 8,
            Version::V6 => 32,
        };
        let Some(pseudo) = data.get(at - addresses..at).map(checksum::sum) else {
            return;
        };
        let Some(datagram) = data.get_mut(at..) else {
            return;
        };
        let length = (datagram.len() as u16).to_be_bytes();
        let sum = pseudo
            + u64::from(u16::from_ne_bytes(length))
            + u64::from(u16::from_ne_bytes([0, protocol::UDP]))
            + checksum::sum(datagram);
        if let Some(place) = datagram.get_mut(udp::CHECKSUM..udp::CHECKSUM + 2) {
            place.copy_from_slice(&checksum::of_udp(sum));
        }
    }
}

#[inline(always)]
fn fill_udp(room: &mut [u8; ROOM], shim: usize, length: u16, entropy: u64) {
    let header = room.get_mut(ROOM - shim..);
    if let Some(header) = header.and_then(|rest| rest.first_chunk_mut::<{ udp::LEN }>()) {
        let port = FIRST_PORT | entropy as u16;
        [header[0], header[1]] = port.to_be_bytes();
        [header[4], header[5]] = length.to_be_bytes();
    }
}

/// The number under `span` that `entropy` picks, evenly.
#[inline]
const fn scale(entropy: u64, span: u64) -> u64 {
    ((entropy as u128 * span as u128) >> 64) as u64
}

fn low_bits(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(address) => u64::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits() as u64,
    }
}

/// The first low bits of a source and how many follow. All-zero and all-one host parts stand for
/// the network and everybody on it (in IPv6, for any router), so they are left out, but from a
/// prefix of two (RFC 3021, RFC 6164). Of an IPv6 prefix, the low 64 bits carry entropy.
fn entropy_range(source: TunnelSource) -> (u64, u64) {
    let low = low_bits(source.address);
    let host_bits = match source.address {
        IpAddr::V4(_) => 32 - u32::from(source.prefix.min(32)),
        IpAddr::V6(_) => (128 - u32::from(source.prefix.min(128))).min(64),
    };
    match host_bits {
        0 => (low, 1),
        1 => (low, 2),
        64 => (low.wrapping_add(1), u64::MAX - 1),
        bits => (low + 1, (1 << bits) - 2),
    }
}

#[cfg(test)]
mod tests;
