//! ICMP errors between IPv4 and IPv6: the other message for an error, and for the packet it quotes.
//!
//! Read first: RFC 7915, sections 4.2, 4.3 (IPv4 to IPv6) and 5.2, 5.3 (IPv6 to IPv4); RFC 5508.
//!
//! An error becomes the other family's error that says the same, or nothing where there is none.
//! Lengths, pointers and MTUs are counted in the other family's headers. The packet that it quotes
//! becomes the packet that its receiver sent. Nobody has an address in both families, so the error
//! comes from the one that its receiver speaks to: the VIP, or weir's own address toward a backend.
//!
//! Errors are rare and small: the other message is made aside and its checksum computed anew, after
//! that of the one that came was found right. Extensions (RFC 4884) stay behind, as section 4.2
//! allows, and the quote is cut to what an error may hold.

use arrayvec::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::wire::checksum::{self, Delta};
use weir_engine::wire::ethernet::{self, ethertype};
use weir_engine::wire::{ipv4, ipv6, protocol, tcp, udp};
use weir_shm::counters::DropReason;

use crate::address::Version;
use crate::forward::full_nat::Ends;
use crate::icmp::{HEADER_LEN, MAX_V4, MAX_V6};
use crate::icmp_quote::{Message, Quote};
use crate::parse::Packet;

/// What IPv6 headers are longer by.
const LONGER: u16 = (ipv6::LEN - ipv4::LEN) as u16;
/// The smallest MTU of an IPv6 link.
const LEAST_V6: u16 = 1280;
/// Bytes of a fragment header.
const FRAGMENT_LEN: usize = 8;
/// Sizes of packets on common links, for routers that do not say theirs (RFC 1191, section 7.1).
const PLATEAUS: [u16; 9] = [32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296];

/// An error's header without its checksum.
type Header = [u8; HEADER_LEN];

/// How an error is to travel on.
#[derive(Debug, Clone, Copy)]
pub struct Way {
    /// From and to whom the error goes; its ports mean nothing.
    pub carrier: Ends,
    /// The quoted packet's ends as its sender knows them.
    pub quoted: Ends,
    /// The largest packet that its sender may send, as far as this machine's ports decide.
    pub mtu: u16,
    /// Bytes that were put into the quoted packet here, which its sender does not count.
    pub inserted: u16,
}

/// Makes the other family's error of an ICMP error whose quote has been read. The descriptor
/// follows.
///
/// # Errors
/// [`DropReason::Untranslatable`] where the other family has no such error, [`DropReason::IpTtl`]
/// where it may travel no further.
#[cold]
pub fn translate<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    message: &Message,
    quote: &Quote,
    way: &Way,
) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::IpTtl);
    }
    let network = usize::from(message.network);
    let data = frame.data();
    let class = class_of(data, network, message.version).ok_or(DropReason::IpLength)?;
    let icmp: Header = *data
        .get(usize::from(message.icmp)..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(DropReason::IcmpMalformed)?;
    let header = match message.version {
        Version::V4 => header_v6(icmp, data, quote, way),
        Version::V6 => header_v4(icmp, way),
    }
    .ok_or(DropReason::Untranslatable)?;
    let mut new: ArrayVec<u8, MAX_V6> = ArrayVec::new();
    let (ip_len, max) = match message.version {
        Version::V4 => (ipv6::LEN, MAX_V6),
        Version::V6 => (ipv4::LEN, MAX_V4),
    };
    // The headers are written when the length is known.
    put(&mut new, &[0; ipv6::LEN][..ip_len]);
    put(&mut new, &header);
    put_quoted_header(&mut new, data, quote, message.version, &way.quoted)?;
    let transport = new.len();
    let end = quote_end(icmp, message, quote);
    let quoted = data.get(usize::from(quote.transport)..end);
    let quoted = quoted.ok_or(DropReason::IcmpQuote)?;
    put(&mut new, &quoted[..quoted.len().min(max - transport)]);
    if let Some(quoted) = new.get_mut(transport..) {
        mend_transport(quoted, quote, message.version, &way.quoted);
    }
    finish(&mut new, ip_len, class, packet.ttl - 1, &way.carrier);

    replace(frame, packet, &new, way.carrier.version)?;
    packet.version = way.carrier.version;
    packet.source = way.carrier.source;
    packet.destination = way.carrier.destination;
    packet.ttl -= 1;
    packet.ip_len = new.len() as u16;
    packet.transport = u16::from(packet.network) + ip_len as u16;
    packet.protocol = match way.carrier.version {
        Version::V4 => protocol::ICMP,
        Version::V6 => protocol::ICMPV6,
    };
    Ok(())
}

/// Lowers the MTU that an error within its family tells, by what was put into the packet here.
#[cold]
pub fn lower_mtu(frame: &mut [u8], message: &Message, inserted: u16) {
    let at = usize::from(message.icmp);
    let Some(header) = frame
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<HEADER_LEN>())
    else {
        return;
    };
    let told = match (message.version, header[0], header[1]) {
        (Version::V4, 3, 4) | (Version::V6, 2, _) => [header[6], header[7]],
        _ => return,
    };
    let mtu = u16::from_be_bytes(told);
    let least = match message.version {
        Version::V4 => 0,
        Version::V6 => LEAST_V6,
    };
    if mtu <= least {
        return;
    }
    let new = mtu.saturating_sub(inserted).max(least).to_be_bytes();
    [header[6], header[7]] = new;
    let delta = Delta::none().word16(told, new);
    [header[2], header[3]] = delta.apply([header[2], header[3]]);
}

/// Never more than there is room for: the longest quote is cut.
fn put(new: &mut ArrayVec<u8, MAX_V6>, bytes: &[u8]) {
    let room = new.remaining_capacity().min(bytes.len());
    let _ = new.try_extend_from_slice(&bytes[..room]);
}

fn class_of(data: &[u8], network: usize, version: Version) -> Option<u8> {
    let [first, second, ..] = data.get(network..)? else {
        return None;
    };
    Some(match version {
        Version::V4 => *second,
        Version::V6 => first << 4 | second >> 4,
    })
}

/// Where the quoted packet ends: before extensions, where there are some (RFC 4884, section 4).
fn quote_end(icmp: Header, message: &Message, quote: &Quote) -> usize {
    let words = match (message.version, icmp[0]) {
        (Version::V4, 3 | 11 | 12) => usize::from(icmp[5]) * 4,
        (Version::V6, 1 | 3) => usize::from(icmp[4]) * 8,
        _ => 0,
    };
    let end = usize::from(quote.end);
    let start = usize::from(message.icmp) + HEADER_LEN;
    // What is claimed to be shorter than a transport header's first bytes is not believed.
    if words > 0 && start + words >= usize::from(quote.transport) + 8 {
        end.min(start + words)
    } else {
        end
    }
}

/// ICMPv6 for an ICMPv4 error (RFC 7915, section 4.2).
fn header_v6(icmp: Header, data: &[u8], quote: &Quote, way: &Way) -> Option<Header> {
    let [kind, code, .., high, low] = icmp;
    let unreachable = |code| Some([1, code, 0, 0, 0, 0, 0, 0]);
    let problem = |code, pointer: u8| Some([4, code, 0, 0, 0, 0, 0, pointer]);
    match (kind, code) {
        (3, 0 | 1 | 5..=8 | 11 | 12) => unreachable(0),
        // The quoted packet's protocol is what is not known: its next header.
        (3, 2) => problem(1, 6),
        (3, 3) => unreachable(4),
        (3, 4) => {
            let told = match u16::from_be_bytes([high, low]) {
                0 => plateau(data, quote),
                mtu => mtu,
            };
            let mtu = told.saturating_sub(way.inserted).saturating_add(LONGER);
            let [high, low] = mtu.min(way.mtu).max(LEAST_V6).to_be_bytes();
            Some([2, 0, 0, 0, 0, 0, high, low])
        }
        (3, 9 | 10 | 13 | 15) => unreachable(1),
        (11, 0 | 1) => Some([3, code, 0, 0, 0, 0, 0, 0]),
        (12, 0 | 2) => problem(0, pointer_v6(icmp[4])?),
        _ => None,
    }
}

/// ICMPv4 for an ICMPv6 error (RFC 7915, section 5.2).
fn header_v4(icmp: Header, way: &Way) -> Option<Header> {
    let [kind, code, ..] = icmp;
    let number = u32::from_be_bytes([icmp[4], icmp[5], icmp[6], icmp[7]]);
    let unreachable = |code| Some([3, code, 0, 0, 0, 0, 0, 0]);
    match (kind, code) {
        (1, 0 | 2 | 3) => unreachable(1),
        (1, 1) => unreachable(10),
        (1, 4) => unreachable(3),
        (2, _) => {
            let told = u16::try_from(number).unwrap_or(u16::MAX);
            let mtu = told.saturating_sub(LONGER + way.inserted);
            let [high, low] = mtu.min(way.mtu).to_be_bytes();
            Some([3, 4, 0, 0, 0, 0, high, low])
        }
        (3, 0 | 1) => Some([11, code, 0, 0, 0, 0, 0, 0]),
        (4, 0) => Some([12, 0, 0, 0, pointer_v4(number)?, 0, 0, 0]),
        (4, 1) => unreachable(2),
        _ => None,
    }
}

/// The largest of the common sizes below that of the quoted packet.
fn plateau(data: &[u8], quote: &Quote) -> u16 {
    let at = usize::from(quote.network) + 2;
    let total = match data.get(at..at + 2) {
        Some([high, low]) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    plateau_below(total)
}

/// The largest of the common sizes of packets below this one (RFC 1191, section 7.1).
#[must_use]
pub fn plateau_below(total: u16) -> u16 {
    let smaller = PLATEAUS.iter().find(|size| **size < total);
    smaller.copied().unwrap_or(68)
}

/// Where in an IPv6 header the field is that lies at `pointer` in IPv4's (RFC 7915, figure 3).
const fn pointer_v6(pointer: u8) -> Option<u8> {
    match pointer {
        0 | 1 => Some(pointer),
        2 | 3 => Some(4),
        8 => Some(7),
        9 => Some(6),
        12..=15 => Some(8),
        16..=19 => Some(24),
        _ => None,
    }
}

/// Where in an IPv4 header the field is that lies at `pointer` in IPv6's (RFC 7915, figure 6).
const fn pointer_v4(pointer: u32) -> Option<u8> {
    match pointer {
        0 => Some(0),
        1 => Some(1),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    }
}

/// The quoted packet's IP header in the other family: with its own TTL and length.
fn put_quoted_header(
    new: &mut ArrayVec<u8, MAX_V6>,
    data: &[u8],
    quote: &Quote,
    version: Version,
    ends: &Ends,
) -> Result<(), DropReason> {
    let cut = DropReason::IcmpQuote;
    let (start, transport) = (usize::from(quote.network), usize::from(quote.transport));
    let quoted = data.get(start..transport).ok_or(cut)?;
    let class = class_of(quoted, 0, version).ok_or(cut)?;
    match version {
        Version::V4 => {
            let fixed: &[u8; ipv4::LEN] = quoted.first_chunk().ok_or(cut)?;
            let place = u16::from_be_bytes([fixed[6], fixed[7]]);
            let is_piece = place & 0x2000 != 0;
            let payload = ipv4::Header(fixed).total_len().saturating_sub(quoted.len());
            let extension = if is_piece { FRAGMENT_LEN } else { 0 };
            let mut header = [0; ipv6::LEN];
            header[0] = 0x60 | class >> 4;
            header[1] = class << 4;
            header[4..6].copy_from_slice(&((payload + extension) as u16).to_be_bytes());
            header[6] = if is_piece {
                protocol::FRAGMENT
            } else {
                quote.protocol
            };
            header[7] = fixed[8];
            header[8..24].copy_from_slice(&ends.source.to_v6());
            header[24..40].copy_from_slice(&ends.destination.to_v6());
            put(new, &header);
            if is_piece {
                put(new, &[quote.protocol, 0, 0, 1, 0, 0, fixed[4], fixed[5]]);
            }
        }
        Version::V6 => {
            let fixed: &[u8; ipv6::LEN] = quoted.first_chunk().ok_or(cut)?;
            let payload =
                (ipv6::LEN + ipv6::Header(fixed).payload_len()).saturating_sub(quoted.len());
            let mut header = [0; ipv4::LEN];
            header[0] = 0x45;
            header[1] = class;
            header[2..4].copy_from_slice(&((payload + ipv4::LEN) as u16).to_be_bytes());
            match fragment_header(quoted) {
                Some(fields) => {
                    [header[4], header[5]] = [fields[6], fields[7]];
                    header[6] = (fields[3] & 1) << 5;
                }
                None => header[6] = 0x40,
            }
            header[8] = fixed[7];
            header[9] = quote.protocol;
            header[12..16].copy_from_slice(&ends.source.to_v4());
            header[16..20].copy_from_slice(&ends.destination.to_v4());
            let check = checksum::of(&header);
            header[10..12].copy_from_slice(&check);
            put(new, &header);
        }
    }
    Ok(())
}

/// The fragment header of an IPv6 packet of which these are all headers; whoever read the quote has
/// followed them.
fn fragment_header(quoted: &[u8]) -> Option<&[u8; FRAGMENT_LEN]> {
    let (fixed, mut rest) = quoted.split_first_chunk::<{ ipv6::LEN }>()?;
    let mut next = fixed[6];
    while let [following, length, ..] = rest {
        if next == protocol::FRAGMENT {
            return rest.first_chunk();
        }
        let size = match next {
            protocol::AUTHENTICATION => (usize::from(*length) + 2) * 4,
            _ => (usize::from(*length) + 1) * 8,
        };
        next = *following;
        rest = rest.get(size..)?;
    }
    None
}

/// The quoted ports and checksum, as far as they are quoted, between the other ends.
fn mend_transport(transport: &mut [u8], quote: &Quote, was: Version, ends: &Ends) {
    if !matches!(quote.protocol, protocol::TCP | protocol::UDP) {
        return;
    }
    let pseudo = match was {
        Version::V4 => Delta::none()
            .word32(quote.source.to_v4(), [0; 4])
            .word32(quote.destination.to_v4(), [0; 4])
            .word128(&[0; 16], &ends.source.to_v6())
            .word128(&[0; 16], &ends.destination.to_v6()),
        Version::V6 => Delta::none()
            .word128(&quote.source.to_v6(), &[0; 16])
            .word128(&quote.destination.to_v6(), &[0; 16])
            .word32([0; 4], ends.source.to_v4())
            .word32([0; 4], ends.destination.to_v4()),
    };
    let Some(ports) = transport.first_chunk_mut::<4>() else {
        return;
    };
    let ([a, b], [c, d]) = (
        ends.source_port.to_be_bytes(),
        ends.destination_port.to_be_bytes(),
    );
    let delta = pseudo.word32(*ports, [a, b, c, d]);
    *ports = [a, b, c, d];
    let is_udp = quote.protocol == protocol::UDP;
    let at = if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
    if let Some([first, second]) = transport.get_mut(at..at + 2) {
        let old = [*first, *second];
        [*first, *second] = if is_udp {
            delta.apply_udp(old)
        } else {
            delta.apply(old)
        };
    }
}

/// The IP header before the error, and the error's checksum.
fn finish(new: &mut [u8], ip_len: usize, class: u8, ttl: u8, carrier: &Ends) {
    let total = new.len();
    let Some((ip, icmp)) = new.split_at_mut_checked(ip_len) else {
        return;
    };
    let mut sum = checksum::sum(icmp);
    match carrier.version {
        Version::V4 => {
            ip[0] = 0x45;
            ip[1] = class;
            ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            // Not to be fragmented, so that the identification may be zero (RFC 6864, section 4.1).
            ip[6] = 0x40;
            ip[8] = ttl;
            ip[9] = protocol::ICMP;
            ip[12..16].copy_from_slice(&carrier.source.to_v4());
            ip[16..20].copy_from_slice(&carrier.destination.to_v4());
            let check = checksum::of(ip);
            ip[10..12].copy_from_slice(&check);
        }
        Version::V6 => {
            let payload = (icmp.len() as u16).to_be_bytes();
            ip[0] = 0x60 | class >> 4;
            ip[1] = class << 4;
            ip[4..6].copy_from_slice(&payload);
            ip[6] = protocol::ICMPV6;
            ip[7] = ttl;
            ip[8..24].copy_from_slice(&carrier.source.to_v6());
            ip[24..40].copy_from_slice(&carrier.destination.to_v6());
            // The pseudo-header (RFC 8200, section 8.1): addresses, length, next header.
            let pseudo = [0, 0, payload[0], payload[1], 0, 0, 0, protocol::ICMPV6];
            sum += checksum::sum(&ip[8..40]) + checksum::sum(&pseudo);
        }
    }
    if let Some(place) = icmp.get_mut(2..4) {
        place.copy_from_slice(&(!checksum::fold(sum)).to_ne_bytes());
    }
}

/// Puts the new packet in place of the old one, behind the same Ethernet header but for its type.
fn replace<B: Buffer>(
    frame: &mut B,
    packet: &Packet,
    new: &[u8],
    version: Version,
) -> Result<(), DropReason> {
    let network = usize::from(packet.network);
    if network < ethernet::LEN {
        return Err(DropReason::Runt);
    }
    let held = frame.len().saturating_sub(network);
    if held > new.len() {
        let surplus = held - new.len();
        frame.trim_back(surplus).map_err(|_| DropReason::IpLength)?;
    } else {
        let more = new.len() - held;
        frame.prepend(more).map_err(|_| DropReason::NoBuffer)?;
        frame.data_mut().copy_within(more..more + network, 0);
    }
    let kind = match version {
        Version::V4 => ethertype::IPV4,
        Version::V6 => ethertype::IPV6,
    };
    let data = frame.data_mut();
    if let Some(place) = data.get_mut(network - 2..network) {
        place.copy_from_slice(&kind.to_be_bytes());
    }
    if let Some(place) = data.get_mut(network..network + new.len()) {
        place.copy_from_slice(new);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(mtu: u16, inserted: u16) -> Way {
        let ends = Ends {
            version: Version::V4,
            source: crate::address::Addr::default(),
            source_port: 0,
            destination: crate::address::Addr::default(),
            destination_port: 0,
        };
        Way {
            carrier: ends,
            quoted: ends,
            mtu,
            inserted,
        }
    }

    /// A quote of an IPv4 packet of 1,500 bytes.
    fn quote() -> ([u8; 20], Quote) {
        let mut data = [0; 20];
        data[2..4].copy_from_slice(&1500u16.to_be_bytes());
        let nobody = crate::address::Addr::default();
        let quote = Quote {
            source: nobody,
            destination: nobody,
            ports: 0,
            protocol: protocol::TCP,
            network: 0,
            transport: 20,
            end: 20,
        };
        (data, quote)
    }

    fn v6(kind: u8, code: u8, rest: [u8; 4]) -> Option<(u8, u8, u32)> {
        let (data, quote) = quote();
        let [a, b, c, d] = rest;
        let icmp = [kind, code, 9, 9, a, b, c, d];
        let header = header_v6(icmp, &data, &quote, &way(9000, 0))?;
        let number = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Some((header[0], header[1], number))
    }

    /// Type and code.
    type Kind = (u8, u8);

    fn v4(kind: u8, code: u8, number: u32) -> Option<(u8, u8, [u8; 4])> {
        let [a, b, c, d] = number.to_be_bytes();
        let header = header_v4([kind, code, 9, 9, a, b, c, d], &way(9000, 0))?;
        Some((
            header[0],
            header[1],
            [header[4], header[5], header[6], header[7]],
        ))
    }

    #[test]
    fn types_and_codes_are_those_of_rfc_7915_section_4_2() {
        let expected: [(u8, u8, Option<Kind>); 22] = [
            (3, 0, Some((1, 0))),
            (3, 1, Some((1, 0))),
            (3, 2, Some((4, 1))),
            (3, 3, Some((1, 4))),
            (3, 4, Some((2, 0))),
            (3, 5, Some((1, 0))),
            (3, 6, Some((1, 0))),
            (3, 7, Some((1, 0))),
            (3, 8, Some((1, 0))),
            (3, 9, Some((1, 1))),
            (3, 10, Some((1, 1))),
            (3, 11, Some((1, 0))),
            (3, 12, Some((1, 0))),
            (3, 13, Some((1, 1))),
            (3, 14, None),
            (3, 15, Some((1, 1))),
            (3, 16, None),
            (11, 0, Some((3, 0))),
            (11, 1, Some((3, 1))),
            (12, 0, Some((4, 0))),
            (12, 1, None),
            (12, 2, Some((4, 0))),
        ];
        for (kind, code, to) in expected {
            let got = v6(kind, code, [0; 4]).map(|(kind, code, _)| (kind, code));
            assert_eq!(got, to, "{kind}/{code}");
        }
        assert_eq!(v6(3, 2, [0; 4]), Some((4, 1, 6)));
    }

    #[test]
    fn types_and_codes_are_those_of_rfc_7915_section_5_2() {
        let expected: [(u8, u8, Option<Kind>); 14] = [
            (1, 0, Some((3, 1))),
            (1, 1, Some((3, 10))),
            (1, 2, Some((3, 1))),
            (1, 3, Some((3, 1))),
            (1, 4, Some((3, 3))),
            (1, 5, None),
            (2, 0, Some((3, 4))),
            (3, 0, Some((11, 0))),
            (3, 1, Some((11, 1))),
            (4, 0, Some((12, 0))),
            (4, 1, Some((3, 2))),
            (4, 2, None),
            (5, 0, None),
            (129, 0, None),
        ];
        for (kind, code, to) in expected {
            let got = v4(kind, code, 0).map(|(kind, code, _)| (kind, code));
            assert_eq!(got, to, "{kind}/{code}");
        }
    }

    #[test]
    fn pointers_name_the_same_field() {
        let to_v6 = [
            Some(0),
            Some(1),
            Some(4),
            Some(4),
            None,
            None,
            None,
            None,
            Some(7),
            Some(6),
            None,
            None,
            Some(8),
            Some(8),
            Some(8),
            Some(8),
            Some(24),
            Some(24),
            Some(24),
            Some(24),
            None,
        ];
        for (pointer, to) in (0..).zip(to_v6) {
            assert_eq!(
                v6(12, 0, [pointer, 0, 0, 0]).map(|it| it.2),
                to,
                "{pointer}"
            );
        }
        let to_v4 = |pointer| v4(4, 0, pointer).map(|it| it.2[0]);
        let fields = [
            (0, 0),
            (1, 1),
            (4, 2),
            (5, 2),
            (6, 9),
            (7, 8),
            (8, 12),
            (23, 12),
            (24, 16),
            (39, 16),
        ];
        for (pointer, to) in fields {
            assert_eq!(to_v4(pointer), Some(to), "{pointer}");
        }
        for pointer in [2, 3, 40, u32::MAX] {
            assert_eq!(to_v4(pointer), None, "{pointer}");
        }
    }

    #[test]
    fn mtus_are_counted_in_the_other_familys_headers() {
        let told = |mtu: u16| {
            let [high, low] = mtu.to_be_bytes();
            v6(3, 4, [0, 0, high, low]).unwrap().2
        };
        assert_eq!((told(1400), told(1260), told(576)), (1420, 1280, 1280));
        // A router that does not say: the next common size below 1,500, and IPv6's header.
        assert_eq!(told(0), 1512);
        assert_eq!(v4(2, 0, 1400).unwrap().2, [0, 0, 5, 0x64]);
        assert_eq!(v4(2, 0, 1280).unwrap().2, [0, 0, 4, 0xec]);
        assert_eq!(v4(2, 0, u32::MAX).unwrap().2, 9000u32.to_be_bytes());
        let [a, b, c, d] = 1400u32.to_be_bytes();
        let header = header_v4([2, 0, 9, 9, a, b, c, d], &way(9000, 28)).unwrap();
        assert_eq!(header[6..], 1352u16.to_be_bytes());
    }
}
