//! ICMP errors in transit: the packet that one quotes, and its translation.
//!
//! Read first: RFC 792, RFC 1812 (section 4.3), RFC 4443 (section 2.4), RFC 4884 (extensions
//! behind the quote, which no change here touches), RFC 5508 (what NAT does with errors).
//!
//! A router that cannot forward a packet tells its source, and quotes the packet. An error to a VIP
//! is about an answer that some backend sent: the quote says which flow, and so which backend. How
//! much is quoted differs; IPv4 requires no more than 8 bytes behind the IP header, which hold
//! TCP's and UDP's ports and nothing that must be there beyond them.
//!
//! Where addresses are translated, the quote is, too, or its receiver would not know the packet as
//! its own. Everything is updated incrementally, so that what was damaged stays damaged: the
//! quote's own checksums as far as they are quoted, then the ICMP checksum over all of it.

use weir_engine::wire::checksum::{self, Delta};
use weir_engine::wire::{ipv4, ipv6, protocol, tcp, udp};
use weir_shm::counters::DropReason;

use crate::address::{Addr, Version};
use crate::icmp::HEADER_LEN;

/// Bytes of transport header that a quote must hold.
pub const TRANSPORT_QUOTED: usize = 8;
/// IPv6 extension headers looked at in a quote.
const MAX_EXTENSIONS: usize = 8;

/// Where an ICMP message lies in a frame, lengths checked by whoever read the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The IP version of the packet that carries it.
    pub version: Version,
    /// Where that packet starts in the frame.
    pub network: u16,
    /// Where the ICMP header starts.
    pub icmp: u16,
    /// Where the packet ends.
    pub end: u16,
}

/// The packet that an ICMP error quotes. Offsets are from the start of the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Its source: whoever is to be told.
    pub source: Addr,
    /// Its destination.
    pub destination: Addr,
    /// Both ports as they lie in the frame, source first, little-endian; zero for ICMP.
    pub ports: u32,
    /// TCP, UDP, or the ICMP of its version.
    pub protocol: u8,
    /// Where its IP header starts.
    pub network: u16,
    /// Where its transport header starts.
    pub transport: u16,
    /// Where it ends.
    pub end: u16,
}

impl Quote {
    /// Source port.
    #[must_use]
    pub const fn source_port(&self) -> u16 {
        (self.ports as u16).swap_bytes()
    }

    /// Destination port.
    #[must_use]
    pub const fn destination_port(&self) -> u16 {
        ((self.ports >> 16) as u16).swap_bytes()
    }

    /// The ports as the other direction of the flow has them.
    #[must_use]
    pub const fn ports_reversed(&self) -> u32 {
        self.ports.rotate_left(16)
    }
}

/// What an ICMP message is, as far as the packet path cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An echo request.
    EchoRequest,
    /// An error that quotes a packet: destination unreachable, packet too big, time exceeded,
    /// parameter problem.
    Error,
    /// Anything else.
    Other,
}

/// What the message that starts with `icmp` is.
#[must_use]
pub fn kind(version: Version, icmp: &[u8]) -> Kind {
    match (version, icmp.first()) {
        (Version::V4, Some(8)) | (Version::V6, Some(128)) => Kind::EchoRequest,
        // Source quench is for nobody any more (RFC 6633), and a redirect is between neighbours.
        (Version::V4, Some(3 | 11 | 12)) | (Version::V6, Some(1..=4)) => Kind::Error,
        _ => Kind::Other,
    }
}

/// Reads the packet that an ICMP error quotes.
///
/// # Errors
/// [`DropReason::IcmpMalformed`] where the checksum is wrong or the message is cut short, and
/// [`DropReason::IcmpQuote`] where the quote holds less than 8 bytes of a transport header that
/// weir balances, or is of a piece that has none.
#[cold]
pub fn read(frame: &[u8], message: &Message) -> Result<Quote, DropReason> {
    let (icmp, end) = (usize::from(message.icmp), usize::from(message.end));
    let bytes = frame.get(icmp..end).ok_or(DropReason::IcmpMalformed)?;
    if bytes.len() < HEADER_LEN || !is_intact(frame, message, bytes) {
        return Err(DropReason::IcmpMalformed);
    }
    let quoted = bytes.get(HEADER_LEN..).ok_or(DropReason::IcmpMalformed)?;
    let network = icmp + HEADER_LEN;
    let inner = match message.version {
        Version::V4 => inner_v4(quoted),
        Version::V6 => inner_v6(quoted),
    }
    .ok_or(DropReason::IcmpQuote)?;
    let transport = quoted
        .get(inner.header_len..inner.len)
        .and_then(|rest| rest.first_chunk::<TRANSPORT_QUOTED>())
        .ok_or(DropReason::IcmpQuote)?;
    let ports = match (message.version, inner.protocol) {
        (_, protocol::TCP | protocol::UDP) => {
            u32::from_le_bytes([transport[0], transport[1], transport[2], transport[3]])
        }
        (Version::V4, protocol::ICMP) | (Version::V6, protocol::ICMPV6) => 0,
        _ => return Err(DropReason::IcmpQuote),
    };
    Ok(Quote {
        source: inner.source,
        destination: inner.destination,
        ports,
        protocol: inner.protocol,
        network: network as u16,
        transport: (network + inner.header_len) as u16,
        end: (network + inner.len) as u16,
    })
}

/// Whether the ICMP checksum of a message is right; `bytes` are the message.
#[must_use]
pub fn is_intact(frame: &[u8], message: &Message, bytes: &[u8]) -> bool {
    let pseudo = match message.version {
        Version::V4 => 0,
        Version::V6 => {
            let network = usize::from(message.network);
            let addresses = frame.get(network + 8..network + ipv6::LEN);
            // The pseudo-header (RFC 8200, section 8.1): addresses, length, next header.
            let length = (bytes.len() as u32).to_be_bytes();
            addresses.map_or(0, checksum::sum)
                + checksum::sum(&length)
                + checksum::sum(&[0, 0, 0, protocol::ICMPV6])
        }
    };
    checksum::fold(checksum::sum(bytes) + pseudo) == 0xffff
}

/// The quoted packet's IP header, read.
struct Inner {
    source: Addr,
    destination: Addr,
    protocol: u8,
    /// Bytes before the transport header.
    header_len: usize,
    /// Bytes of the packet that are quoted.
    len: usize,
}

fn inner_v4(quoted: &[u8]) -> Option<Inner> {
    let fixed = quoted.first_chunk::<{ ipv4::LEN }>()?;
    let header = ipv4::Header(fixed);
    let header_len = header.header_len();
    // A piece but the first has no ports; RFC 1812 (section 4.3.2.7) forbids errors about it.
    let later_piece = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x1fff != 0;
    if header.version() != 4 || header_len < ipv4::LEN || later_piece {
        return None;
    }
    Some(Inner {
        source: Addr::from_v4(header.source().octets()),
        destination: Addr::from_v4(header.destination().octets()),
        protocol: header.protocol(),
        header_len,
        len: header.total_len().min(quoted.len()),
    })
}

fn inner_v6(quoted: &[u8]) -> Option<Inner> {
    let (fixed, rest) = quoted.split_first_chunk::<{ ipv6::LEN }>()?;
    let header = ipv6::Header(fixed);
    if header.version() != 6 {
        return None;
    }
    let mut protocol = header.next_header();
    let mut at = 0;
    for _ in 0..MAX_EXTENSIONS {
        let (next, second, flags) = match protocol {
            protocol::HOP_BY_HOP
            | protocol::DESTINATION_OPTIONS
            | protocol::ROUTING
            | protocol::AUTHENTICATION
            | protocol::FRAGMENT => {
                let extension = rest.get(at..)?.first_chunk::<4>()?;
                let flags = u16::from_be_bytes([extension[2], extension[3]]);
                (extension[0], usize::from(extension[1]), flags)
            }
            _ => break,
        };
        at += match protocol {
            protocol::FRAGMENT if flags & 0xfff8 != 0 => return None,
            protocol::FRAGMENT => 8,
            protocol::AUTHENTICATION => (second + 2) * 4,
            _ => (second + 1) * 8,
        };
        protocol = next;
    }
    Some(Inner {
        source: Addr::from_v6(*header.source()),
        destination: Addr::from_v6(*header.destination()),
        protocol,
        header_len: ipv6::LEN + at,
        len: (ipv6::LEN + header.payload_len()).min(quoted.len()),
    })
}

/// An address with a port as it lies in the frame; port zero keeps the packet's.
pub type End = (Addr, [u8; 2]);

/// What becomes of an ICMP error: new addresses of the packet that carries it, and new ends of the
/// one it quotes. `None` keeps what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Translation {
    /// The error's source.
    pub source: Option<Addr>,
    /// The error's destination.
    pub destination: Option<Addr>,
    /// The quoted packet's source.
    pub quoted_source: Option<End>,
    /// The quoted packet's destination.
    pub quoted_destination: Option<End>,
}

/// Translates an ICMP error within its family, and takes one off its TTL. The quoted packet's
/// checksums change with it, as far as they are quoted.
///
/// # Errors
/// [`DropReason::IpTtl`] where the error may travel no further; the frame is unchanged then.
#[cold]
pub fn translate(
    frame: &mut [u8],
    message: &Message,
    quote: &Quote,
    translation: &Translation,
) -> Result<(), DropReason> {
    let outer = usize::from(message.network);
    let pseudo = forward(frame, message.version, outer, translation)?;
    let mut inside = Delta::none();
    let network = usize::from(quote.network);
    let mut addresses = Delta::none();
    for (end, source) in [
        (translation.quoted_source, true),
        (translation.quoted_destination, false),
    ] {
        let Some((address, _)) = end else { continue };
        let (of_address, of_header) = set_address(frame, message.version, network, source, address)
            .ok_or(DropReason::IcmpQuote)?;
        addresses = addresses.and(of_address);
        inside = inside.and(of_address).and(of_header);
    }
    if matches!(quote.protocol, protocol::TCP | protocol::UDP) {
        let transport = usize::from(quote.transport);
        let mut ports = Delta::none();
        for (end, at) in [
            (translation.quoted_source, transport),
            (translation.quoted_destination, transport + 2),
        ] {
            match end {
                Some((_, port)) if port != [0, 0] => {
                    ports = ports.and(set_word(frame, at, port).ok_or(DropReason::IcmpQuote)?);
                }
                _ => {}
            }
        }
        inside = inside.and(ports);
        inside = inside.and(update_transport_checksum(
            frame,
            quote,
            addresses.and(ports),
        ));
    }
    let covered = match message.version {
        Version::V4 => inside,
        Version::V6 => inside.and(pseudo),
    };
    let at = usize::from(message.icmp) + 2;
    if let Some([first, second]) = frame.get_mut(at..at + 2) {
        [*first, *second] = covered.apply([*first, *second]);
    }
    Ok(())
}

/// The carrying packet's TTL and addresses; gives what the change adds to the pseudo-header.
fn forward(
    frame: &mut [u8],
    version: Version,
    network: usize,
    translation: &Translation,
) -> Result<Delta, DropReason> {
    let mut pseudo = Delta::none();
    let rest = frame.get_mut(network..).ok_or(DropReason::IpLength)?;
    match version {
        Version::V4 => {
            let fixed = rest.first_chunk_mut().ok_or(DropReason::IpLength)?;
            if ipv4::Header(fixed).ttl() <= 1 {
                return Err(DropReason::IpTtl);
            }
            ipv4::HeaderMut(fixed).decrement_ttl();
        }
        Version::V6 => {
            let fixed = rest.first_chunk_mut().ok_or(DropReason::IpLength)?;
            if ipv6::Header(fixed).hop_limit() <= 1 {
                return Err(DropReason::IpTtl);
            }
            ipv6::HeaderMut(fixed).decrement_hop_limit();
        }
    }
    for (address, source) in [(translation.source, true), (translation.destination, false)] {
        let Some(address) = address else { continue };
        let (delta, _) =
            set_address(frame, version, network, source, address).ok_or(DropReason::IpLength)?;
        pseudo = pseudo.and(delta);
    }
    Ok(pseudo)
}

/// Sets an address of the IP header at `network`, and its checksum. Gives what the address adds to
/// sums over it, and what the header's checksum does.
fn set_address(
    frame: &mut [u8],
    version: Version,
    network: usize,
    source: bool,
    address: Addr,
) -> Option<(Delta, Delta)> {
    let rest = frame.get_mut(network..)?;
    match version {
        Version::V4 => {
            let fixed: &mut [u8; ipv4::LEN] = rest.first_chunk_mut()?;
            let old = [fixed[10], fixed[11]];
            let mut header = ipv4::HeaderMut(fixed);
            let delta = if source {
                header.set_source(address.to_v4())
            } else {
                header.set_destination(address.to_v4())
            };
            let of_header = Delta::none().word16(old, [fixed[10], fixed[11]]);
            Some((delta, of_header))
        }
        Version::V6 => {
            let mut header = ipv6::HeaderMut(rest.first_chunk_mut()?);
            let delta = if source {
                header.set_source(&address.to_v6())
            } else {
                header.set_destination(&address.to_v6())
            };
            Some((delta, Delta::none()))
        }
    }
}

fn set_word(frame: &mut [u8], at: usize, new: [u8; 2]) -> Option<Delta> {
    let [first, second] = frame.get_mut(at..at + 2)? else {
        return None;
    };
    let old = [*first, *second];
    [*first, *second] = new;
    Some(Delta::none().word16(old, new))
}

/// Updates the quoted TCP or UDP checksum if it is quoted; gives what that adds to sums over it.
fn update_transport_checksum(frame: &mut [u8], quote: &Quote, change: Delta) -> Delta {
    let is_udp = quote.protocol == protocol::UDP;
    let at = usize::from(quote.transport) + if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
    if at + 2 > usize::from(quote.end) {
        return Delta::none();
    }
    let Some([first, second]) = frame.get(at..at + 2) else {
        return Delta::none();
    };
    let old = [*first, *second];
    let new = if is_udp {
        change.apply_udp(old)
    } else {
        change.apply(old)
    };
    set_word(frame, at, new).unwrap_or_default()
}

#[cfg(test)]
mod tests;
