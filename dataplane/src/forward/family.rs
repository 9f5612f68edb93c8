//! Between IPv4 and IPv6: the other header for a packet, and checksums that fit it.
//!
//! Read first: RFC 7915, sections 4.1 (IPv4 to IPv6) and 5.1 (IPv6 to IPv4). Addresses are the
//! session's, not derived from each other. IPv4 options are not translated, as section 4.1 says, but
//! a source route that has not ended is refused; IPv6 extension headers are passed over, but for an
//! authentication header, which no translated packet can satisfy.

use weir_engine::buffer::Buffer;
use weir_engine::wire::checksum::{self, Delta, Folded};
use weir_engine::wire::ethernet::ethertype;
use weir_engine::wire::{ethernet, ipv4, ipv6, protocol, udp};
use weir_shm::counters::DropReason;

use super::full_nat::{BEHIND4, BEHIND6, Ends, set_ports, set_transport};
use crate::parse::Packet;

/// Bytes that an IPv6 header is longer than an IPv4 header without options.
pub const LONGER: u16 = (ipv6::LEN - ipv4::LEN) as u16;
/// Packets up to this size may be fragmented again on their way (RFC 7915, section 5.1): as IPv6
/// packets they are no larger than every link takes.
pub const MAY_FRAGMENT: u16 = 1260;
/// Where the checksum of an untagged datagram lies that is behind an IPv4 header without options.
const CHECKSUM4: usize = BEHIND4 + udp::CHECKSUM;
/// Loose and strict source route (RFC 791, section 3.1).
const SOURCE_ROUTES: [u8; 2] = [131, 137];

/// Makes an IPv4 packet of an IPv6 one. The TTL is one less; the descriptor's offsets and length
/// follow, its addresses are the caller's.
///
/// # Errors
/// The reason to drop it.
pub fn to_v4<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    ends: &Ends,
    id: u16,
) -> Result<(), DropReason> {
    let (network, header_len) = (usize::from(packet.network), header_len(packet)?);
    let fixed: &[u8; ipv6::LEN] = frame
        .data()
        .get(network..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(DropReason::IpLength)?;
    let class = fixed[0] << 4 | fixed[1] >> 4;
    if header_len > ipv6::LEN {
        let extensions = frame.data().get(network + ipv6::LEN..network + header_len);
        refuse_authentication(fixed[6], extensions.unwrap_or_default())?;
    }
    let total = usize::from(packet.ip_len) - header_len + ipv4::LEN;
    let total = u16::try_from(total).map_err(|_| DropReason::TooLarge)?;
    let delta = Delta::none()
        .word128(&packet.source.to_v6(), &[0; 16])
        .word128(&packet.destination.to_v6(), &[0; 16])
        .word32([0; 4], ends.source.to_v4())
        .word32([0; 4], ends.destination.to_v4());
    set_ports(frame.data_mut(), packet, ends, delta)?;

    let addresses = Delta::none()
        .word32([0; 4], ends.source.to_v4())
        .word32([0; 4], ends.destination.to_v4());
    let header = ipv4_header(packet, ends, class, total, id, addresses.into());
    replace_header(frame, packet, header_len, &header, ethertype::IPV4)?;
    packet.ip_len = total;
    Ok(())
}

/// Makes an IPv6 packet of an IPv4 one; otherwise as [`to_v4`].
///
/// # Errors
/// The reason to drop it.
pub fn to_v6<B: Buffer>(frame: &mut B, packet: &mut Packet, ends: &Ends) -> Result<(), DropReason> {
    let (network, header_len) = (usize::from(packet.network), header_len(packet)?);
    let class = *frame.data().get(network + 1).ok_or(DropReason::IpLength)?;
    if header_len > ipv4::LEN {
        let options = frame.data().get(network + ipv4::LEN..network + header_len);
        refuse_source_route(options.unwrap_or_default())?;
    }
    let payload = usize::from(packet.ip_len) - header_len;
    let total = u16::try_from(payload + ipv6::LEN).map_err(|_| DropReason::TooLarge)?;
    let delta = Delta::none()
        .word32(packet.source.to_v4(), [0; 4])
        .word32(packet.destination.to_v4(), [0; 4])
        .word128(&[0; 16], &ends.source.to_v6())
        .word128(&[0; 16], &ends.destination.to_v6());
    if packet.protocol == protocol::UDP {
        compute_missing_checksum(frame.data_mut(), packet, payload)?;
    }
    set_ports(frame.data_mut(), packet, ends, delta)?;

    let header = ipv6_header(packet, ends, class, payload as u16, packet.protocol);
    replace_header(frame, packet, header_len, &header, ethertype::IPV6)?;
    packet.ip_len = total;
    Ok(())
}

/// Hot: as [`to_v6`], for an untagged packet without options whose transport checksum changes by
/// `transport`; false, with nothing changed, for any other, and where the packet may travel no further.
/// The Ethernet addresses are the caller's to set.
#[inline(always)]
pub fn quickly_to_v6<B: Buffer>(
    frame: &mut B,
    packet: &Packet,
    ends: &Ends,
    transport: Folded,
) -> bool {
    let is_tcp = packet.protocol == protocol::TCP;
    let payload = usize::from(packet.ip_len).saturating_sub(ipv4::LEN);
    let Some(old) = frame.data().first_chunk::<{ BEHIND4 + udp::LEN }>() else {
        return false;
    };
    let class = old[ethernet::LEN + 1];
    let is_missing = !is_tcp && [old[CHECKSUM4], old[CHECKSUM4 + 1]] == [0, 0];
    let is_common = usize::from(packet.transport) == BEHIND4
        && (is_tcp || packet.protocol == protocol::UDP)
        && packet.ttl > 1
        && payload + ipv6::LEN <= usize::from(u16::MAX);
    // Nothing but the checksum is changed where there is more to it after all.
    if !is_common
        || is_missing && compute_missing_checksum(frame.data_mut(), packet, payload).is_err()
        || frame.prepend(LONGER.into()).is_err()
    {
        return false;
    }
    let Some((head, segment)) = frame.data_mut().split_first_chunk_mut::<BEHIND6>() else {
        return false;
    };
    head[12..14].copy_from_slice(&ethertype::IPV6.to_be_bytes());
    let header = ipv6_header(packet, ends, class, payload as u16, packet.protocol);
    head[ethernet::LEN..].copy_from_slice(&header);
    set_transport(segment, ends, is_tcp, transport);
    true
}

/// Hot: as [`to_v4`]; otherwise as [`quickly_to_v6`]. What the ends' addresses add to the header's
/// checksum is known.
#[inline(always)]
pub fn quickly_to_v4<B: Buffer>(
    frame: &mut B,
    packet: &Packet,
    ends: &Ends,
    (addresses, transport): (Folded, Folded),
    id: impl FnOnce() -> u16,
) -> bool {
    let is_tcp = packet.protocol == protocol::TCP;
    let Some(old) = frame.data().first_chunk::<BEHIND6>() else {
        return false;
    };
    let class = old[ethernet::LEN] << 4 | old[ethernet::LEN + 1] >> 4;
    let is_common = usize::from(packet.transport) == BEHIND6
        && (is_tcp || packet.protocol == protocol::UDP)
        && packet.ttl > 1;
    if !is_common || frame.trim_front(LONGER.into()).is_err() {
        return false;
    }
    let Some((head, segment)) = frame.data_mut().split_first_chunk_mut::<BEHIND4>() else {
        return false;
    };
    let total = packet.ip_len - LONGER;
    head[12..14].copy_from_slice(&ethertype::IPV4.to_be_bytes());
    let header = ipv4_header(packet, ends, class, total, id(), addresses);
    head[ethernet::LEN..].copy_from_slice(&header);
    set_transport(segment, ends, is_tcp, transport);
    true
}

/// Hot: the header of the IPv4 packet, of `total` bytes, that a packet becomes; `addresses` is what the
/// ends' add to its checksum.
#[inline(always)]
fn ipv4_header(
    packet: &Packet,
    ends: &Ends,
    class: u8,
    total: u16,
    id: u16,
    addresses: Folded,
) -> [u8; ipv4::LEN] {
    let fragment = if total <= MAY_FRAGMENT { 0 } else { 0x4000 };
    let words = [
        0x4500 | u16::from(class),
        total,
        id,
        fragment,
        u16::from(packet.ttl.saturating_sub(1)) << 8 | u16::from(packet.protocol),
    ];
    // The sum of all words but the addresses, in the order in which numbers are added.
    let sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
    let check = addresses.apply((!checksum::fold_few(sum)).to_be_bytes());

    let mut header = [0; ipv4::LEN];
    for (place, word) in header.as_chunks_mut().0.iter_mut().zip(words) {
        *place = word.to_be_bytes();
    }
    header[10..12].copy_from_slice(&check);
    header[12..16].copy_from_slice(&ends.source.to_v4());
    header[16..20].copy_from_slice(&ends.destination.to_v4());
    header
}

/// Hot: the header of the IPv6 packet that a packet becomes, with `payload` bytes behind it that begin
/// with a header of kind `next`.
#[inline(always)]
fn ipv6_header(packet: &Packet, ends: &Ends, class: u8, payload: u16, next: u8) -> [u8; ipv6::LEN] {
    let mut header = [0; ipv6::LEN];
    header[0] = 0x60 | class >> 4;
    header[1] = class << 4;
    header[4..6].copy_from_slice(&payload.to_be_bytes());
    header[6] = next;
    header[7] = packet.ttl.saturating_sub(1);
    header[8..24].copy_from_slice(&ends.source.to_v6());
    header[24..40].copy_from_slice(&ends.destination.to_v6());
    header
}

/// Where a piece of a datagram belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// What the datagram carries.
    pub protocol: u8,
    /// What its pieces are known by; 16 bits of it in IPv4.
    pub id: u32,
    /// The first byte of the payload that the piece holds, a multiple of eight.
    pub offset: u16,
    /// Whether another piece follows.
    pub more: bool,
}

/// Makes an IPv4 piece of an IPv6 one; otherwise as [`to_v4`] (RFC 7915, section 5.1.1).
///
/// # Errors
/// The reason to drop it.
#[cold]
pub fn piece_to_v4<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    ends: &Ends,
    cut: Cut,
) -> Result<(), DropReason> {
    let kept = packet.protocol;
    packet.protocol = cut.protocol;
    let first = kept != protocol::FRAGMENT;
    let result = if first {
        to_v4(frame, packet, ends, cut.id as u16)
    } else {
        later_to_v4(frame, packet, ends, cut.id as u16)
    };
    result?;
    let start = usize::from(packet.network);
    let header = frame
        .data_mut()
        .get_mut(start..)
        .and_then(|rest| rest.first_chunk_mut());
    let header: &mut [u8; ipv4::LEN] = header.ok_or(DropReason::IpLength)?;
    let place = (cut.offset / 8) | if cut.more { 0x2000 } else { 0 };
    let old = [header[6], header[7]];
    [header[6], header[7]] = place.to_be_bytes();
    let delta = Delta::none().word16(old, place.to_be_bytes());
    [header[10], header[11]] = delta.apply([header[10], header[11]]);
    Ok(())
}

/// As [`to_v4`], of a piece without a transport header.
fn later_to_v4<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    ends: &Ends,
    id: u16,
) -> Result<(), DropReason> {
    let carried = packet.protocol;
    packet.protocol = protocol::FRAGMENT;
    to_v4(frame, packet, ends, id)?;
    let at = usize::from(packet.network) + 8;
    let fields = frame
        .data_mut()
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<4>());
    let [ttl, kind, high, low] = fields.ok_or(DropReason::IpLength)?;
    let delta = Delta::none().word16([*ttl, *kind], [*ttl, carried]);
    *kind = carried;
    [*high, *low] = delta.apply([*high, *low]);
    Ok(())
}

/// Makes an IPv6 piece of an IPv4 one, with a fragment header; otherwise as [`to_v6`] (RFC 7915,
/// section 4.1). The checksum that an IPv4 datagram may lack cannot be computed from a piece.
///
/// # Errors
/// The reason to drop it.
#[cold]
pub fn piece_to_v6<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    ends: &Ends,
    cut: Cut,
) -> Result<(), DropReason> {
    let (network, header_len) = (usize::from(packet.network), header_len(packet)?);
    let class = *frame.data().get(network + 1).ok_or(DropReason::IpLength)?;
    if header_len > ipv4::LEN {
        let options = frame.data().get(network + ipv4::LEN..network + header_len);
        refuse_source_route(options.unwrap_or_default())?;
    }
    let check = usize::from(packet.transport) + udp::CHECKSUM;
    if packet.protocol == protocol::UDP && frame.data().get(check..check + 2) == Some(&[0; 2][..]) {
        return Err(DropReason::Untranslatable);
    }
    let payload = usize::from(packet.ip_len) - header_len + 8;
    let total = u16::try_from(payload + ipv6::LEN).map_err(|_| DropReason::TooLarge)?;
    let delta = Delta::none()
        .word32(packet.source.to_v4(), [0; 4])
        .word32(packet.destination.to_v4(), [0; 4])
        .word128(&[0; 16], &ends.source.to_v6())
        .word128(&[0; 16], &ends.destination.to_v6());
    set_ports(frame.data_mut(), packet, ends, delta)?;
    let mut header = [0; ipv6::LEN + 8];
    let fixed = ipv6_header(packet, ends, class, payload as u16, protocol::FRAGMENT);
    header[..ipv6::LEN].copy_from_slice(&fixed);
    header[40] = cut.protocol;
    header[42..44].copy_from_slice(&(cut.offset | u16::from(cut.more)).to_be_bytes());
    header[44..48].copy_from_slice(&cut.id.to_be_bytes());
    replace_header(frame, packet, header_len, &header, ethertype::IPV6)?;
    packet.ip_len = total;
    Ok(())
}

fn header_len(packet: &Packet) -> Result<usize, DropReason> {
    let header_len = usize::from(packet.transport).saturating_sub(packet.network.into());
    if header_len > usize::from(packet.ip_len) {
        return Err(DropReason::IpLength);
    }
    Ok(header_len)
}

/// Puts a header of another length before the transport header. What lies before moves along, with
/// another EtherType.
fn replace_header<B: Buffer, const LEN: usize>(
    frame: &mut B,
    packet: &mut Packet,
    old_len: usize,
    header: &[u8; LEN],
    kind: u16,
) -> Result<(), DropReason> {
    let network = usize::from(packet.network);
    let (from, to) = if LEN > old_len {
        let more = LEN - old_len;
        frame.prepend(more).map_err(|_| DropReason::NoBuffer)?;
        (more, 0)
    } else {
        (0, old_len - LEN)
    };
    let bytes = frame.data_mut();
    if bytes.len() < network + old_len.max(LEN) {
        return Err(DropReason::Runt);
    }
    bytes.copy_within(from..from + network, to);
    let start = to + network;
    if let Some(field) = bytes.get_mut(start - 2..start) {
        field.copy_from_slice(&kind.to_be_bytes());
    }
    if let Some(place) = bytes.get_mut(start..start + LEN) {
        place.copy_from_slice(header);
    }
    frame.trim_front(to).map_err(|_| DropReason::Runt)?;
    packet.transport = (network + LEN) as u16;
    Ok(())
}

/// A UDP checksum that IPv4 left out is needed in IPv6 (RFC 7915, section 4.5). `payload` is all that
/// lies behind the IP header, in bytes.
///
/// # Errors
/// [`DropReason::UdpMalformed`] where the datagram is not whole.
pub fn compute_missing_checksum(
    frame: &mut [u8],
    packet: &Packet,
    payload: usize,
) -> Result<(), DropReason> {
    let transport = usize::from(packet.transport);
    let malformed = DropReason::UdpMalformed;
    let datagram = frame
        .get_mut(transport..transport + payload)
        .ok_or(malformed)?;
    let header: &[u8; udp::LEN] = datagram.first_chunk().ok_or(malformed)?;
    if [header[udp::CHECKSUM], header[udp::CHECKSUM + 1]] != [0, 0] {
        return Ok(());
    }
    let length = udp::Header(header).length();
    let datagram = datagram.get_mut(..length).ok_or(malformed)?;
    let [high, low] = (length as u16).to_be_bytes();
    let pseudo = [0, protocol::UDP, high, low];
    let sum = checksum::sum(datagram)
        + checksum::sum(&packet.source.to_v4())
        + checksum::sum(&packet.destination.to_v4())
        + checksum::sum(&pseudo);
    if let Some(field) = datagram.get_mut(udp::CHECKSUM..udp::CHECKSUM + 2) {
        field.copy_from_slice(&checksum::of_udp(sum));
    }
    Ok(())
}

/// Looks at each option once.
#[cold]
fn refuse_source_route(mut options: &[u8]) -> Result<(), DropReason> {
    while let [kind, rest @ ..] = options {
        options = match kind {
            0 => return Ok(()),
            1 => rest,
            _ => {
                let length = usize::from(rest.first().copied().unwrap_or(0));
                let ended = rest
                    .get(1)
                    .is_some_and(|pointer| usize::from(*pointer) > length);
                if SOURCE_ROUTES.contains(kind) && !ended {
                    return Err(DropReason::Untranslatable);
                }
                options.get(length.max(2)..).unwrap_or_default()
            }
        };
    }
    Ok(())
}

/// Looks at each extension header once; `parse` has found them well-formed.
#[cold]
fn refuse_authentication(mut next: u8, mut extensions: &[u8]) -> Result<(), DropReason> {
    while let [following, length, ..] = extensions {
        if next == protocol::AUTHENTICATION {
            return Err(DropReason::Untranslatable);
        }
        let size = match next {
            protocol::FRAGMENT => 8,
            _ => (usize::from(*length) + 1) * 8,
        };
        next = *following;
        extensions = extensions.get(size..).unwrap_or_default();
    }
    Ok(())
}
