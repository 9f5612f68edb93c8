//! One fragment of a datagram, read from its bytes.

use weir_engine::wire::ethernet::TagControl;
use weir_engine::wire::{ipv4, ipv6, protocol, tcp, udp};
use weir_shm::counters::DropReason;

use crate::address::{Addr, Version};
use crate::flow::{FlowHash, FlowHasher};
use crate::parse::Packet;

/// IPv6 extension headers looked at before a packet is refused.
const MAX_EXTENSIONS: usize = 8;
/// All pieces but the last hold a multiple of this many bytes.
const UNIT: u16 = 8;
/// Stands for the protocol in an IPv6 datagram's key: the pieces' own words on what follows may
/// differ (RFC 8200, section 4.5).
const ANY_PROTOCOL: u8 = protocol::FRAGMENT;

/// A piece of a datagram, its lengths checked. Offsets in the frame are from the frame's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// What all pieces of the datagram have in common.
    pub id: u32,
    /// The first byte of the datagram's payload that it holds.
    pub offset: u16,
    /// Bytes of the datagram's payload that it holds, never zero.
    pub len: u16,
    /// Whether another piece follows this one.
    pub more: bool,
    /// IP version.
    pub version: Version,
    /// What the payload is: of a first IPv6 piece, perhaps an extension header.
    pub protocol: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Where the IP header starts in the frame.
    pub network: u8,
    /// Where the piece's payload starts in the frame.
    pub payload: u16,
    /// Bytes of the IP packet, without Ethernet header and padding.
    pub ip_len: u16,
    /// The frame's VLAN tag.
    pub tag: Option<TagControl>,
}

impl Piece {
    /// Reads the fragment whose IP header starts at `network`. The Ethernet header and, for IPv4,
    /// the header checksum have been checked; everything that makes a piece is checked here.
    ///
    /// # Errors
    /// The reason to drop it.
    #[cold]
    pub fn read(
        frame: &[u8],
        network: u8,
        version: Version,
        tag: Option<TagControl>,
    ) -> Result<Self, DropReason> {
        let bytes = frame
            .get(usize::from(network)..)
            .ok_or(DropReason::IpLength)?;
        let piece = match version {
            Version::V4 => read_v4(bytes)?,
            Version::V6 => read_v6(bytes)?,
        };
        // All but the last hold whole units, and none reaches past what a datagram can hold.
        let end = u32::from(piece.offset) + u32::from(piece.len);
        let whole = piece.len > 0 && end <= u32::from(u16::MAX);
        if !whole || (piece.more && !piece.len.is_multiple_of(UNIT)) {
            return Err(DropReason::FragmentMalformed);
        }
        Ok(Self {
            network,
            payload: piece.payload + u16::from(network),
            tag,
            ..piece
        })
    }

    /// What the datagram is known by.
    #[must_use]
    pub fn key(&self, hasher: &FlowHasher) -> FlowHash {
        let (source, destination) = (self.source, self.destination);
        match self.version {
            Version::V4 => hasher.ipv4(source, destination, self.id, self.protocol),
            Version::V6 => hasher.ipv6(source, destination, self.id, ANY_PROTOCOL),
        }
    }

    /// Whether it is the datagram's first piece.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// A first piece as the packet that it begins: with its transport header, which must be there
    /// whole (RFC 1858, section 2; RFC 7112). Without ports where the protocol has none.
    ///
    /// # Errors
    /// [`DropReason::FragmentMalformed`] where the piece is too small for its headers, and
    /// [`DropReason::TcpMalformed`] or [`DropReason::UdpMalformed`] where they are impossible.
    #[cold]
    pub fn begun(&self, frame: &[u8]) -> Result<Packet, DropReason> {
        let start = usize::from(self.payload);
        let payload = frame
            .get(start..start + usize::from(self.len))
            .ok_or(DropReason::IpLength)?;
        let (protocol, extensions) = match self.version {
            Version::V4 => (self.protocol, 0),
            Version::V6 => skip_extensions(self.protocol, payload)?,
        };
        let payload = payload
            .get(extensions..)
            .ok_or(DropReason::FragmentMalformed)?;
        let mut packet = Packet {
            protocol,
            transport: self.payload + extensions as u16,
            ..self.later()
        };
        match protocol {
            protocol::TCP => {
                let fixed = payload
                    .first_chunk::<{ tcp::LEN }>()
                    .ok_or(DropReason::FragmentMalformed)?;
                let header = tcp::Header(fixed);
                if header.header_len() < tcp::LEN {
                    return Err(DropReason::TcpMalformed);
                }
                if header.header_len() > payload.len() {
                    return Err(DropReason::FragmentMalformed);
                }
                packet.ports = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
                packet.tcp_flags = header.flags();
            }
            protocol::UDP => {
                let fixed = payload
                    .first_chunk::<{ udp::LEN }>()
                    .ok_or(DropReason::FragmentMalformed)?;
                // The length is the whole datagram's, more than this piece has.
                if udp::Header(fixed).length() < udp::LEN {
                    return Err(DropReason::UdpMalformed);
                }
                packet.ports = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]);
            }
            _ => {}
        }
        Ok(packet)
    }

    /// The piece as a packet without a transport header: its protocol is [`protocol::FRAGMENT`], so
    /// that nobody takes its bytes for one.
    #[must_use]
    pub const fn later(&self) -> Packet {
        Packet {
            source: self.source,
            destination: self.destination,
            ports: 0,
            ip_len: self.ip_len,
            transport: self.payload,
            network: self.network,
            version: self.version,
            protocol: protocol::FRAGMENT,
            tcp_flags: 0,
            ttl: self.ttl,
            tag: self.tag,
        }
    }
}

fn read_v4(bytes: &[u8]) -> Result<Piece, DropReason> {
    let fixed = bytes
        .first_chunk::<{ ipv4::LEN }>()
        .ok_or(DropReason::IpLength)?;
    let header = ipv4::Header(fixed);
    let (header_len, total_len) = (header.header_len(), header.total_len());
    if header_len < ipv4::LEN || total_len < header_len || total_len > bytes.len() {
        return Err(DropReason::IpLength);
    }
    let source = header.source().octets();
    if source[0] == 0 || source[0] == 127 || source[0] >= 224 {
        return Err(DropReason::MartianSource);
    }
    let field = u16::from_be_bytes([fixed[6], fixed[7]]);
    Ok(Piece {
        source: Addr::from_v4(source),
        destination: Addr::from_v4(header.destination().octets()),
        id: u32::from(u16::from_be_bytes([fixed[4], fixed[5]])),
        offset: (field & 0x1fff) * UNIT,
        len: (total_len - header_len) as u16,
        more: field & 0x2000 != 0,
        version: Version::V4,
        protocol: header.protocol(),
        ttl: header.ttl(),
        network: 0,
        payload: header_len as u16,
        ip_len: total_len as u16,
        tag: None,
    })
}

fn read_v6(bytes: &[u8]) -> Result<Piece, DropReason> {
    let (fixed, rest) = bytes
        .split_first_chunk::<{ ipv6::LEN }>()
        .ok_or(DropReason::IpLength)?;
    let header = ipv6::Header(fixed);
    let payload = rest
        .get(..header.payload_len())
        .ok_or(DropReason::IpLength)?;
    let source = *header.source();
    if source[0] == 0xff || u128::from_be_bytes(source) <= 1 {
        return Err(DropReason::MartianSource);
    }
    let at = find_fragment_header(header.next_header(), payload)?;
    let (own, rest) = payload
        .get(at..)
        .and_then(|rest| rest.split_first_chunk::<8>())
        .ok_or(DropReason::Ipv6Extension)?;
    let field = u16::from_be_bytes([own[2], own[3]]);
    let ip_len = ipv6::LEN + header.payload_len();
    Ok(Piece {
        source: Addr::from_v6(source),
        destination: Addr::from_v6(*header.destination()),
        id: u32::from_be_bytes([own[4], own[5], own[6], own[7]]),
        offset: field & 0xfff8,
        len: rest.len().min(usize::from(u16::MAX)) as u16,
        more: field & 1 != 0,
        version: Version::V6,
        protocol: own[0],
        ttl: header.hop_limit(),
        network: 0,
        payload: (ipv6::LEN + at + 8) as u16,
        ip_len: ip_len.min(usize::from(u16::MAX)) as u16,
        tag: None,
    })
}

/// Where the fragment header lies in the payload of a packet whose first header is `first`: behind
/// what each router reads (RFC 8200, section 4.5).
fn find_fragment_header(first: u8, payload: &[u8]) -> Result<usize, DropReason> {
    let mut next = first;
    let mut at = 0;
    for _ in 0..MAX_EXTENSIONS {
        if next == protocol::FRAGMENT {
            return Ok(at);
        }
        let (following, length) = step(next, at, payload).ok_or(DropReason::Ipv6Extension)?;
        next = following;
        at += length;
    }
    Err(DropReason::Ipv6Extension)
}

/// Passes over the extension headers between a first piece's fragment header and its transport
/// header: gives the transport protocol and the bytes passed over.
fn skip_extensions(first: u8, payload: &[u8]) -> Result<(u8, usize), DropReason> {
    let mut next = first;
    let mut at = 0;
    for _ in 0..MAX_EXTENSIONS {
        match next {
            // These may not stand here: a second fragmentation, and what each router reads.
            protocol::FRAGMENT | protocol::HOP_BY_HOP => return Err(DropReason::Ipv6Extension),
            protocol::ROUTING | protocol::DESTINATION_OPTIONS | protocol::AUTHENTICATION => {}
            _ => return Ok((next, at)),
        }
        let (following, length) = step(next, at, payload).ok_or(DropReason::FragmentMalformed)?;
        next = following;
        at += length;
    }
    Err(DropReason::Ipv6Extension)
}

/// The extension header at `at`: what follows it, and its length. `None` where it is cut short, is
/// none, or says that the destination is not the final one.
fn step(kind: u8, at: usize, payload: &[u8]) -> Option<(u8, usize)> {
    let header = payload.get(at..)?.first_chunk::<4>()?;
    let length = match kind {
        protocol::HOP_BY_HOP if at == 0 => (usize::from(header[1]) + 1) * 8,
        protocol::DESTINATION_OPTIONS => (usize::from(header[1]) + 1) * 8,
        protocol::ROUTING if header[3] == 0 => (usize::from(header[1]) + 1) * 8,
        protocol::AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
        _ => return None,
    };
    (at + length <= payload.len()).then_some((header[0], length))
}
