//! ICMP errors that weir makes: "fragmentation needed" / "packet too big", and time exceeded.
//!
//! Read first: RFC 792, RFC 1191 (section 4), RFC 1812 (sections 4.3.2.3 to 4.3.2.8), RFC 4443
//! (sections 2.4, 3.2, 3.3).
//!
//! The offending frame becomes the answer: its IP packet, cut to what an error may quote, stays
//! where it is, and new headers go before it. So nothing is allocated, and the answer leaves by the
//! port that the frame came in by, to the station that sent it. Call this before the packet is
//! changed: a quote is of the packet as it was received.
//!
//! Errors are limited in rate (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 (f)), each kind by
//! a bucket of its own, so that a traceroute storm does not silence path-MTU discovery.

use weir_engine::buffer::Buffer;
use weir_engine::wire::{checksum, ethernet, ipv4, ipv6, protocol};

use crate::address::Addr;
use crate::conntrack::Tick;

/// The longest ICMP error in an IPv4 packet, IP header included (RFC 1812, section 4.3.2.3).
pub const MAX_V4: usize = 576;
/// The longest ICMPv6 error, IP header included: the minimum MTU (RFC 4443, section 2.4 (c)).
pub const MAX_V6: usize = 1280;
/// Bytes of an ICMP error's own header, before the quote.
pub const HEADER_LEN: usize = 8;

/// TTL and hop limit of what weir makes.
const TTL: u8 = 64;
/// Precedence "internetwork control" (RFC 1812, section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
/// Bytes of transport header that an error must quote to be of use (RFC 792).
const TRANSPORT_QUOTED: usize = 8;

/// What the sender is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The packet does not fit and may not be fragmented: destination unreachable, fragmentation
    /// needed (IPv4: type 3, code 4), or packet too big (IPv6: type 2).
    TooBig {
        /// The largest packet that fits, in bytes with its IP header.
        mtu: u16,
    },
    /// TTL or hop limit used up in transit (IPv4: type 11, code 0; IPv6: type 3, code 0).
    TimeExceeded,
    /// Nobody listens on the port (IPv4: type 3, code 3; IPv6: type 1, code 4).
    PortUnreachable,
    /// The host cannot be reached (IPv4: type 3, code 1; IPv6: type 1, code 3).
    HostUnreachable,
}

impl Error {
    /// Type, code and the rest of the header, whose checksum is still zero.
    fn header_v4(self) -> [u8; HEADER_LEN] {
        match self {
            Self::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [3, 4, 0, 0, 0, 0, high, low]
            }
            Self::TimeExceeded => [11, 0, 0, 0, 0, 0, 0, 0],
            Self::PortUnreachable => [3, 3, 0, 0, 0, 0, 0, 0],
            Self::HostUnreachable => [3, 1, 0, 0, 0, 0, 0, 0],
        }
    }

    fn header_v6(self) -> [u8; HEADER_LEN] {
        match self {
            Self::TooBig { mtu } => {
                let [high, low] = mtu.to_be_bytes();
                [2, 0, 0, 0, 0, 0, high, low]
            }
            Self::TimeExceeded => [3, 0, 0, 0, 0, 0, 0, 0],
            Self::PortUnreachable => [1, 4, 0, 0, 0, 0, 0, 0],
            Self::HostUnreachable => [1, 3, 0, 0, 0, 0, 0, 0],
        }
    }
}

/// The frame is one that no ICMP error may answer (RFC 1812, section 4.3.2.7; RFC 4443, section
/// 2.4 (e)), or it has no room for one. It is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no ICMP error may answer this frame")]
pub struct Unanswerable;

/// Makes an ICMP error of the frame that it is about, in place: Ethernet addresses exchanged, a
/// VLAN tag kept, the IP packet at `network` quoted as far as it may be. `from` is the answer's
/// source: the VIP, or the port's own address, of the frame's family.
///
/// # Errors
/// [`Unanswerable`] for a fragment but the first, an ICMP error, a sender that is no single
/// station, or a frame that is not whole.
#[cold]
pub fn make_error<B: Buffer>(
    frame: &mut B,
    network: usize,
    from: Addr,
    error: Error,
) -> Result<(), Unanswerable> {
    let data = frame.data();
    let link: [u8; 12] = *data.first_chunk().ok_or(Unanswerable)?;
    let packet = data.get(network..).ok_or(Unanswerable)?;
    // A group's frame is answered by no error, as it would be answered by many.
    if link[0] & 1 != 0 || link[6] & 1 != 0 || network < ethernet::LEN {
        return Err(Unanswerable);
    }
    let offending = match packet.first().map(|first| first >> 4) {
        Some(4) => offending_v4(packet)?,
        Some(6) => offending_v6(packet)?,
        _ => return Err(Unanswerable),
    };
    let quoted = offending.len.min(offending.max - offending.headers);
    let grown = offending.headers;
    if frame.headroom() < grown {
        return Err(Unanswerable);
    }
    let surplus = frame.len() - network - quoted;
    frame.trim_back(surplus).map_err(|_| Unanswerable)?;
    frame.prepend(grown).map_err(|_| Unanswerable)?;
    let data = frame.data_mut();
    // The Ethernet header, tag included, moves to the new front, its addresses exchanged.
    data.copy_within(grown..grown + network, 0);
    if let Some(addresses) = data.first_chunk_mut::<12>() {
        addresses.rotate_left(6);
    }
    let (headers, quote) = data
        .get_mut(network..)
        .ok_or(Unanswerable)?
        .split_at_mut(grown);
    match offending.to {
        To::V4(to) => write_v4(headers, quote, from.to_v4(), to, error),
        To::V6(to) => write_v6(headers, quote, from.to_v6(), to, error),
    }
    Ok(())
}

/// Whom the error goes to, and what may be quoted.
struct Offending {
    to: To,
    /// Bytes of the offending packet.
    len: usize,
    /// Bytes of IP and ICMP header that go before the quote.
    headers: usize,
    /// The longest answer.
    max: usize,
}

enum To {
    V4([u8; 4]),
    V6([u8; 16]),
}

fn offending_v4(packet: &[u8]) -> Result<Offending, Unanswerable> {
    let header = ipv4::Header(packet.first_chunk().ok_or(Unanswerable)?);
    let (len, header_len) = (header.total_len(), header.header_len());
    let offset = u16::from_be_bytes([header.0[6], header.0[7]]) & 0x1fff;
    if len > packet.len() || header_len < ipv4::LEN || len < header_len || offset != 0 {
        return Err(Unanswerable);
    }
    let source = header.source();
    let destination = header.destination();
    let nobody = source.is_unspecified()
        || source.is_loopback()
        || source.octets()[0] == 0
        || source.octets()[0] >= 224
        || destination.is_multicast()
        || destination.is_broadcast();
    let payload = packet.get(header_len..len).unwrap_or_default();
    if nobody || (header.protocol() == protocol::ICMP && !is_query_v4(payload)) {
        return Err(Unanswerable);
    }
    Ok(Offending {
        to: To::V4(source.octets()),
        len,
        headers: ipv4::LEN + HEADER_LEN,
        max: MAX_V4,
    })
}

/// Whether an ICMP message is a query and no error: echo, timestamp, address mask and their
/// replies.
fn is_query_v4(message: &[u8]) -> bool {
    matches!(message.first(), Some(0 | 8 | 13..=18))
}

fn offending_v6(packet: &[u8]) -> Result<Offending, Unanswerable> {
    let header = ipv6::Header(packet.first_chunk().ok_or(Unanswerable)?);
    let len = ipv6::LEN + header.payload_len();
    if len > packet.len() {
        return Err(Unanswerable);
    }
    let (source, destination) = (*header.source(), header.destination());
    let nobody = source[0] == 0xff || u128::from_be_bytes(source) <= 1 || destination[0] == 0xff;
    // Types below 128 are errors (RFC 4443, section 2.1); a query has its first bit set.
    let payload = packet.get(ipv6::LEN..len).unwrap_or_default();
    let icmp_error =
        header.next_header() == protocol::ICMPV6 && payload.first().is_none_or(|kind| *kind < 128);
    let later_fragment = header.next_header() == protocol::FRAGMENT
        && payload
            .first_chunk::<4>()
            .is_none_or(|piece| u16::from_be_bytes([piece[2], piece[3]]) & 0xfff8 != 0);
    if nobody || icmp_error || later_fragment || payload.len() < TRANSPORT_QUOTED {
        return Err(Unanswerable);
    }
    Ok(Offending {
        to: To::V6(source),
        len,
        headers: ipv6::LEN + HEADER_LEN,
        max: MAX_V6,
    })
}

fn write_v4(headers: &mut [u8], quote: &[u8], from: [u8; 4], to: [u8; 4], error: Error) {
    let Some((ip, icmp)) = headers.split_first_chunk_mut::<{ ipv4::LEN }>() else {
        return;
    };
    let total = ipv4::LEN + HEADER_LEN + quote.len();
    let [high, low] = (total as u16).to_be_bytes();
    *ip = [0; ipv4::LEN];
    ip[0] = 0x45;
    ip[1] = INTERNETWORK_CONTROL;
    [ip[2], ip[3]] = [high, low];
    // Not to be fragmented, so that the identification may be zero (RFC 6864, section 4.1).
    ip[6] = 0x40;
    ip[8] = TTL;
    ip[9] = protocol::ICMP;
    [ip[12], ip[13], ip[14], ip[15]] = from;
    [ip[16], ip[17], ip[18], ip[19]] = to;
    [ip[10], ip[11]] = checksum::of(ip);
    if let Some(icmp) = icmp.first_chunk_mut::<HEADER_LEN>() {
        *icmp = error.header_v4();
        let sum = checksum::sum(icmp) + checksum::sum(quote);
        [icmp[2], icmp[3]] = (!checksum::fold(sum)).to_ne_bytes();
    }
}

fn write_v6(headers: &mut [u8], quote: &[u8], from: [u8; 16], to: [u8; 16], error: Error) {
    let Some((ip, icmp)) = headers.split_first_chunk_mut::<{ ipv6::LEN }>() else {
        return;
    };
    let payload = HEADER_LEN + quote.len();
    let [high, low] = (payload as u16).to_be_bytes();
    *ip = [0; ipv6::LEN];
    ip[0] = 0x60;
    [ip[4], ip[5]] = [high, low];
    ip[6] = protocol::ICMPV6;
    ip[7] = TTL;
    if let Some((source, destination)) = ip[8..].split_first_chunk_mut::<16>() {
        *source = from;
        destination.copy_from_slice(&to);
    }
    if let Some(icmp) = icmp.first_chunk_mut::<HEADER_LEN>() {
        *icmp = error.header_v6();
        // The pseudo-header (RFC 8200, section 8.1): addresses, length, next header.
        let pseudo = [0, 0, high, low, 0, 0, 0, protocol::ICMPV6];
        let sum = checksum::sum(&from)
            + checksum::sum(&to)
            + checksum::sum(&pseudo)
            + checksum::sum(icmp)
            + checksum::sum(quote);
        [icmp[2], icmp[3]] = (!checksum::fold(sum)).to_ne_bytes();
    }
}

/// How many errors of a kind a worker may make.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Thousandths of an error.
    credit: u32,
    /// `None` before the first error.
    seen: Option<Tick>,
}

/// Errors of a kind that may be made a second, by each worker.
pub const RATE: u32 = 1000;
/// Errors of a kind that may be made at once.
pub const BURST: u32 = 50;
/// What an error costs.
const COST: u32 = 1000;

impl Bucket {
    const FULL: Self = Self {
        credit: BURST * COST,
        seen: None,
    };

    /// Refilled by the clock, whose milliseconds are worth [`RATE`] thousandths each.
    fn take(&mut self, now: Tick) -> bool {
        let passed = self.seen.map_or(Some(0), |seen| now.passed_since(seen));
        // A clock that steps back earns nothing.
        if let Some(passed) = passed {
            let earned = passed.saturating_mul(RATE);
            self.credit = self.credit.saturating_add(earned).min(BURST * COST);
            self.seen = Some(now);
        }
        let granted = self.credit >= COST;
        if granted {
            self.credit -= COST;
        }
        granted
    }
}

/// A worker's limits; see the module's text.
#[derive(Debug, Clone, Copy)]
pub struct Limiter {
    too_big: Bucket,
    time_exceeded: Bucket,
    unreachable: Bucket,
}

impl Default for Limiter {
    fn default() -> Self {
        Self {
            too_big: Bucket::FULL,
            time_exceeded: Bucket::FULL,
            unreachable: Bucket::FULL,
        }
    }
}

impl Limiter {
    /// Whether an error of this kind may be made at `now`; if so it is spent.
    pub fn allows(&mut self, error: Error, now: Tick) -> bool {
        match error {
            Error::TooBig { .. } => self.too_big.take(now),
            Error::TimeExceeded => self.time_exceeded.take(now),
            Error::PortUnreachable | Error::HostUnreachable => self.unreachable.take(now),
        }
    }
}

#[cfg(test)]
mod tests;
