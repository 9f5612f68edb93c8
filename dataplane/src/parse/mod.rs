//! Ethernet, VLAN, IPv4 or IPv6, TCP or UDP: from bytes to a small descriptor, or a named refusal.
//!
//! Read first: RFC 791, RFC 8200 (section 4, extension headers), RFC 9293, RFC 768, RFC 1122
//! (section 3.2.1, what a host discards). Every length is checked here once; what comes after
//! relies on the descriptor's offsets.
//!
//! Two ways lead to a descriptor: `common` recognises the shape that nearly all packets have, and
//! the general parser in this file takes all others and names the reasons of refusals.

pub mod common;

use weir_engine::wire::ethernet::{self, MacAddr, TagControl, ethertype};
use weir_engine::wire::{checksum, ipv4, ipv6, protocol, tcp, udp};
use weir_shm::counters::DropReason;

use crate::address::{Addr, Version};
use crate::exception::is_group_of_link;

/// IPv6 extension headers looked at before a packet is refused: bounded work a packet.
const MAX_EXTENSIONS: usize = 8;

/// What a port accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// Unicast frames must be sent to this address; `None` takes any, as `replay` does for a port
    /// whose address is not configured.
    pub mac: Option<MacAddr>,
    /// Frames must carry this VLAN tag; `None` takes untagged frames and any single tag.
    pub vlan: Option<u16>,
    /// Whether packets to groups of the link are wanted, for the kernel.
    pub groups: bool,
}

/// What a port accepts, ready for the packet path.
#[derive(Debug, Clone, Copy)]
pub struct Filter {
    accepts: Accepts,
    /// The first six bytes of a frame that the port takes, little-endian; more than 48 bits where no
    /// untagged frame can be told by its MAC alone.
    mac: u64,
}

impl From<Accepts> for Filter {
    fn from(accepts: Accepts) -> Self {
        let mac = match accepts {
            Accepts {
                mac: Some(MacAddr([a, b, c, d, e, f])),
                vlan: None,
                ..
            } if a & 1 == 0 => u64::from_le_bytes([a, b, c, d, e, f, 0, 0]),
            _ => u64::MAX,
        };
        Self { accepts, mac }
    }
}

/// A TCP segment or UDP datagram, its headers checked. Offsets are from the start of the frame.
///
/// Fields lie in this order, so that what is the same in all frames of the common shape is written at
/// once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Packet {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Where the TCP or UDP header starts.
    pub transport: u16,
    /// Where the IP header starts: 14, or 18 behind a VLAN tag.
    pub network: u8,
    /// IP version.
    pub version: Version,
    /// The frame's VLAN tag.
    pub tag: Option<TagControl>,
    /// Both ports as they lie in the frame, source first, little-endian.
    pub ports: u32,
    /// Bytes of the IP packet, without Ethernet header and padding.
    pub ip_len: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// [`protocol::TCP`] or [`protocol::UDP`].
    pub protocol: u8,
    /// TCP control bits; zero for UDP.
    pub tcp_flags: u8,
}

impl Default for Packet {
    fn default() -> Self {
        Self {
            source: Addr::default(),
            destination: Addr::default(),
            ports: 0,
            ip_len: 0,
            transport: 0,
            network: 0,
            version: Version::V4,
            protocol: 0,
            tcp_flags: 0,
            ttl: 0,
            tag: None,
        }
    }
}

impl Packet {
    /// Source port.
    #[inline]
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        (self.ports as u16).swap_bytes()
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub const fn destination_port(&self) -> u16 {
        ((self.ports >> 16) as u16).swap_bytes()
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// A TCP segment or a UDP datagram.
    Transport(Packet),
    /// An ICMP or ICMPv6 message; nothing behind its IP header has been looked at, and it has no
    /// ports.
    Icmp(Packet),
    /// A packet of another protocol; nothing behind its IP header has been looked at, and it has no
    /// ports.
    Portless(Packet),
    /// A packet of any kind to a group of the link, where the port accepts such.
    Group(Packet),
    /// An ARP message.
    Arp,
}

/// What a frame is, where its descriptor is kept elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment or a UDP datagram; the descriptor is filled in.
    Transport,
    /// Neither that nor a refusal: ICMP or ARP.
    Other(Parsed),
}

/// Parses one frame of any shape. Fills in `packet` if the frame is a TCP segment or a UDP datagram,
/// and leaves it alone otherwise.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn parse(frame: &[u8], filter: &Filter, packet: &mut Packet) -> Result<Kind, DropReason> {
    match general(frame, filter.accepts)? {
        Parsed::Transport(parsed) => {
            *packet = parsed;
            Ok(Kind::Transport)
        }
        other => Ok(Kind::Other(other)),
    }
}

/// Parses a frame of any shape.
///
/// # Errors
/// The reason to drop it.
#[inline(never)]
pub fn general(frame: &[u8], accepts: Accepts) -> Result<Parsed, DropReason> {
    let (header, rest) = frame
        .split_first_chunk::<{ ethernet::LEN }>()
        .ok_or(DropReason::Runt)?;
    let destination = ethernet::destination(header);
    if destination.is_multicast() {
        return parse_multicast(frame, accepts);
    }
    if accepts.mac.is_some_and(|mac| mac != destination) {
        return Err(DropReason::WrongMac);
    }
    parse_network(ethertype(header), rest, accepts)
}

/// Broadcast and multicast frames carry nothing but ARP and neighbour discovery for us, and what the
/// kernel may want of the groups of the link: an IP
/// packet to a unicast address in such a frame is to be discarded (RFC 1122, section 3.3.6).
#[cold]
fn parse_multicast(frame: &[u8], accepts: Accepts) -> Result<Parsed, DropReason> {
    let (header, rest) = frame
        .split_first_chunk::<{ ethernet::LEN }>()
        .ok_or(DropReason::Runt)?;
    match parse_network(ethertype(header), rest, accepts)? {
        Parsed::Arp => Ok(Parsed::Arp),
        Parsed::Icmp(packet)
            if packet.version == Version::V6
                && (packet.destination.to_v6()[0] == 0xff
                    || ethernet::destination(header) != MacAddr::BROADCAST) =>
        {
            Ok(Parsed::Icmp(packet))
        }
        Parsed::Icmp(packet) | Parsed::Transport(packet) | Parsed::Portless(packet)
            if accepts.groups && is_group_of_link(packet.version, packet.destination) =>
        {
            Ok(Parsed::Group(packet))
        }
        Parsed::Icmp(_) | Parsed::Transport(_) | Parsed::Portless(_) | Parsed::Group(_) => {
            Err(DropReason::L2Multicast)
        }
    }
}

#[inline]
fn parse_network(kind: u16, rest: &[u8], accepts: Accepts) -> Result<Parsed, DropReason> {
    let (kind, tag, rest) = if kind == ethertype::VLAN {
        let (tag, rest) = rest.split_first_chunk::<4>().ok_or(DropReason::Runt)?;
        let control = TagControl(u16::from_be_bytes([tag[0], tag[1]]));
        (u16::from_be_bytes([tag[2], tag[3]]), Some(control), rest)
    } else {
        (kind, None, rest)
    };
    if let Some(vlan) = accepts.vlan
        && tag.map(TagControl::vlan) != Some(vlan)
    {
        return Err(DropReason::VlanMismatch);
    }
    match kind {
        ethertype::IPV4 => parse_ipv4(rest, tag),
        ethertype::IPV6 => parse_ipv6(rest, tag),
        ethertype::ARP => Ok(Parsed::Arp),
        _ => Err(unknown(kind, tag, rest)),
    }
}

/// Why nothing is done with a frame that holds neither IP nor ARP. A service tag (IEEE 802.1ad) by
/// itself is no second tag, and none of the kind that is taken.
#[cold]
fn unknown(kind: u16, tag: Option<TagControl>, rest: &[u8]) -> DropReason {
    let is_tag = |kind| matches!(kind, ethertype::VLAN | ethertype::SERVICE_VLAN);
    let inner = rest
        .first_chunk::<4>()
        .map(|tag| u16::from_be_bytes([tag[2], tag[3]]));
    if is_tag(kind) && (tag.is_some() || inner.is_some_and(is_tag)) {
        DropReason::VlanStacked
    } else {
        DropReason::UnknownEthertype
    }
}

#[inline]
const fn network_offset(tag: Option<TagControl>) -> u8 {
    match tag {
        None => ethernet::LEN as u8,
        Some(_) => (ethernet::LEN + ethernet::TAG_LEN) as u8,
    }
}

#[inline]
fn parse_ipv4(bytes: &[u8], tag: Option<TagControl>) -> Result<Parsed, DropReason> {
    let fixed = bytes
        .first_chunk::<{ ipv4::LEN }>()
        .ok_or(DropReason::IpLength)?;
    let header = ipv4::Header(fixed);
    if header.version() != 4 {
        return Err(DropReason::IpVersion);
    }
    let (header_len, total_len) = (header.header_len(), header.total_len());
    if header_len < ipv4::LEN {
        return Err(DropReason::IpHeaderLength);
    }
    if total_len < header_len || total_len > bytes.len() {
        return Err(DropReason::IpLength);
    }
    // The common header has no options; its sum is over a fixed 20 bytes.
    let intact = if header_len == ipv4::LEN {
        checksum::is_valid(fixed)
    } else {
        bytes.get(..header_len).is_some_and(checksum::is_valid)
    };
    if !intact {
        return Err(DropReason::IpChecksum);
    }
    if header.is_fragment() {
        return Err(DropReason::Fragment);
    }
    let source = header.source().octets();
    // "This network", loopback, multicast, reserved and broadcast are no source addresses (RFC
    // 1122, section 3.2.1.3).
    if source[0] == 0 || source[0] == 127 || source[0] >= 224 {
        return Err(DropReason::MartianSource);
    }
    let Some(payload) = bytes.get(header_len..total_len) else {
        return Err(DropReason::IpLength);
    };
    let network = network_offset(tag);
    let base = Packet {
        source: Addr::from_v4(source),
        destination: Addr::from_v4(header.destination().octets()),
        ports: 0,
        ip_len: total_len as u16,
        transport: u16::from(network) + header_len as u16,
        network,
        version: Version::V4,
        protocol: header.protocol(),
        tcp_flags: 0,
        ttl: header.ttl(),
        tag,
    };
    parse_transport(payload, base)
}

#[inline]
fn parse_ipv6(bytes: &[u8], tag: Option<TagControl>) -> Result<Parsed, DropReason> {
    let (fixed, rest) = bytes
        .split_first_chunk::<{ ipv6::LEN }>()
        .ok_or(DropReason::IpLength)?;
    let header = ipv6::Header(fixed);
    if header.version() != 6 {
        return Err(DropReason::IpVersion);
    }
    let payload = rest
        .get(..header.payload_len())
        .ok_or(DropReason::IpLength)?;
    let (protocol, extensions) = match header.next_header() {
        direct @ (protocol::TCP | protocol::UDP | protocol::ICMPV6) => (direct, 0),
        first => skip_extensions(first, payload)?,
    };
    let Some(payload) = payload.get(extensions..) else {
        return Err(DropReason::Ipv6Extension);
    };
    let source = *header.source();
    // Multicast and loopback are no source addresses (RFC 4291, sections 2.5.3 and 2.7); the
    // unspecified address is one only in neighbour discovery.
    let unspecified_or_loopback = u128::from_be_bytes(source) <= 1;
    if source[0] == 0xff || (unspecified_or_loopback && protocol != protocol::ICMPV6) {
        return Err(DropReason::MartianSource);
    }
    let network = network_offset(tag);
    let base = Packet {
        source: Addr::from_v6(source),
        destination: Addr::from_v6(*header.destination()),
        ports: 0,
        ip_len: (ipv6::LEN + header.payload_len()).min(usize::from(u16::MAX)) as u16,
        transport: u16::from(network) + (ipv6::LEN + extensions) as u16,
        network,
        version: Version::V6,
        protocol,
        tcp_flags: 0,
        ttl: header.hop_limit(),
        tag,
    };
    parse_transport(payload, base)
}

/// Passes over extension headers (RFC 8200, section 4): gives the upper-layer protocol and the
/// bytes passed over. Looks at [`MAX_EXTENSIONS`] headers, no more.
fn skip_extensions(first: u8, payload: &[u8]) -> Result<(u8, usize), DropReason> {
    let mut next = first;
    let mut at = 0;
    for _ in 0..MAX_EXTENSIONS {
        let length = match next {
            protocol::TCP | protocol::UDP | protocol::ICMPV6 => return Ok((next, at)),
            // Hop-by-hop options may only come first (RFC 8200, section 4.1).
            protocol::HOP_BY_HOP if at > 0 => return Err(DropReason::Ipv6Extension),
            protocol::HOP_BY_HOP | protocol::DESTINATION_OPTIONS => 8,
            protocol::ROUTING => 8,
            protocol::AUTHENTICATION => 4,
            protocol::FRAGMENT => 0,
            other => return Ok((other, at)),
        };
        let header = payload
            .get(at..)
            .and_then(|rest| rest.first_chunk::<4>())
            .ok_or(DropReason::Ipv6Extension)?;
        let size = match length {
            0 => {
                // A fragment with offset 0 and no more to come is whole ("atomic", RFC 6946).
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff9 != 0 {
                    return Err(DropReason::Fragment);
                }
                8
            }
            4 => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        // While segments are left, the address in the fixed header is not the final one.
        if next == protocol::ROUTING && header[3] != 0 {
            return Err(DropReason::Ipv6Extension);
        }
        next = header[0];
        at += size;
        if at > payload.len() {
            return Err(DropReason::Ipv6Extension);
        }
    }
    Err(DropReason::Ipv6Extension)
}

#[inline]
fn parse_transport(payload: &[u8], base: Packet) -> Result<Parsed, DropReason> {
    match base.protocol {
        protocol::TCP => {
            let fixed = payload
                .first_chunk::<{ tcp::LEN }>()
                .ok_or(DropReason::TcpMalformed)?;
            let header = tcp::Header(fixed);
            if header.header_len() < tcp::LEN || header.header_len() > payload.len() {
                return Err(DropReason::TcpMalformed);
            }
            let ports = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
            Ok(Parsed::Transport(Packet {
                ports,
                tcp_flags: header.flags(),
                ..base
            }))
        }
        protocol::UDP => {
            let fixed = payload
                .first_chunk::<{ udp::LEN }>()
                .ok_or(DropReason::UdpMalformed)?;
            let header = udp::Header(fixed);
            if header.length() < udp::LEN || header.length() > payload.len() {
                return Err(DropReason::UdpMalformed);
            }
            let ports = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
            Ok(Parsed::Transport(Packet { ports, ..base }))
        }
        protocol::ICMP if base.version == Version::V4 => Ok(Parsed::Icmp(base)),
        protocol::ICMPV6 if base.version == Version::V6 => Ok(Parsed::Icmp(base)),
        // Hop-by-hop options are none of IPv4's, and zero stands for any protocol here.
        0 => Err(DropReason::UnknownProtocol),
        _ => Ok(Parsed::Portless(base)),
    }
}
