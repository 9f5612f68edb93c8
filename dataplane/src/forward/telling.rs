//! How a backend behind `full-nat` learns who its client is: a PROXY protocol header before the
//! stream, or the TCP option TOA.
//!
//! ## PROXY protocol, version 2
//! The header goes before the client's first byte, as payload of the segment that completes the
//! handshake, so that a server that speaks first knows its client. From then on the backend counts
//! `n` bytes more than the client: sequence numbers grow by `n` on their way to the backend, and
//! acknowledgements and SACK blocks shrink by `n` on their way back. Until the backend has
//! acknowledged the header, every segment of the client's that begins with its first byte carries it:
//! a lost header is repeated by the client's own retransmission. weir keeps no copy of anything. The
//! client's segments are smaller by `n`, as the MSS in the backend's SYN says so; where one would
//! still be too large with the header, its end is cut off and comes again by retransmission.
//!
//! A datagram in pieces gets it, too: into the first piece, and the others move behind it. Pieces
//! begin at multiples of eight bytes, so the header has a "no operation" at its end there.
//!
//! ## TOA
//! The option stands in the handshake's ACK and the first segment with data, repeated ones included.
//! A segment without room for it goes as it is.

use arrayvec::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::wire::checksum::Delta;
use weir_engine::wire::tcp::{self, flags};
use weir_engine::wire::{protocol, udp};
use weir_shm::counters::DropReason;
use weir_shm::model::ClientAddress;

use super::tcp_options;
use crate::address::Version;
use crate::parse::Packet;
use crate::session::{Record, Side, flag};

/// The longest PROXY header that weir writes.
const LONGEST: usize = 16 + 36 + NO_OPERATION.len();
/// The first bytes of every PROXY header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// A TLV that says nothing, in four bytes (section 2.2.4 of the specification).
const NO_OPERATION: [u8; 4] = [4, 0, 1, 0];
/// Version 2, a connection on behalf of somebody else.
const PROXY: u8 = 0x21;
/// The TCP option's kind, as DPVS and its kernel modules have it.
const TOA: u8 = 254;
/// Bytes of a TCP header with all options that it can have.
const LONGEST_TCP: usize = 60;

/// Bytes that go before the first of a client of this family.
#[must_use]
pub const fn inserted(how: ClientAddress, client: Version) -> u16 {
    match (how, client) {
        (ClientAddress::ProxyV2, Version::V4) => 28,
        (ClientAddress::ProxyV2, Version::V6) => 52,
        (ClientAddress::None | ClientAddress::Toa, _) => 0,
    }
}

/// Bytes that a client's packet may grow by here, as long as its session has something to tell.
#[must_use]
pub fn pending(record: Record<'_>) -> u16 {
    if record.flags() & flag::TELLING == 0 {
        return 0;
    }
    let client = record.client().version;
    match (record.flags() & flag::TOA, client) {
        (0, _) => inserted(ClientAddress::ProxyV2, client),
        (_, Version::V4) => 8,
        (_, Version::V6) => 20,
    }
}

/// What a session's flags say in the beginning.
#[must_use]
pub const fn first_flags(how: ClientAddress) -> u8 {
    match how {
        ClientAddress::None => 0,
        ClientAddress::ProxyV2 => flag::TELLING,
        ClientAddress::Toa => flag::TELLING | flag::TOA,
    }
}

/// The PROXY header of a connection.
#[must_use]
pub fn proxy_header(client: Side, vip: Side, of: u8) -> ArrayVec<u8, LONGEST> {
    let mut header = ArrayVec::new();
    let mut put = |bytes: &[u8]| {
        // Never full: this is all there is.
        let _ = header.try_extend_from_slice(bytes);
    };
    put(&SIGNATURE);
    let datagram = u8::from(of != protocol::TCP);
    match client.version {
        Version::V4 => {
            put(&[PROXY, 0x11 + datagram, 0, 12]);
            put(&client.address.to_v4());
            put(&vip.address.to_v4());
        }
        Version::V6 => {
            put(&[PROXY, 0x21 + datagram, 0, 36]);
            put(&client.address.to_v6());
            put(&vip.address.to_v6());
        }
    }
    put(&client.port.to_be_bytes());
    put(&vip.port.to_be_bytes());
    header
}

/// The TCP option TOA of a client.
fn toa(client: Side) -> ArrayVec<u8, 20> {
    let mut option = ArrayVec::new();
    let mut put = |bytes: &[u8]| {
        let _ = option.try_extend_from_slice(bytes);
    };
    match client.version {
        Version::V4 => {
            put(&[TOA, 8]);
            put(&client.port.to_be_bytes());
            put(&client.address.to_v4());
        }
        Version::V6 => {
            put(&[TOA, 20]);
            put(&client.port.to_be_bytes());
            put(&client.address.to_v6());
        }
    }
    option
}

/// Bytes that a client's datagram in pieces grows by, where it is the one to tell of its client: a
/// multiple of eight.
#[must_use]
pub fn pending_in_pieces(record: Record<'_>) -> u16 {
    if record.flags() & flag::TOA != 0 || record.protocol() == protocol::TCP {
        return 0;
    }
    match pending(record) {
        0 => 0,
        bytes => bytes + NO_OPERATION.len() as u16,
    }
}

/// Puts the PROXY header into the first piece of a datagram, which has a whole UDP header.
///
/// # Errors
/// The reason to drop it.
pub fn first_piece<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    record: Record<'_>,
) -> Result<(), DropReason> {
    let mut header = proxy_header(record.client(), record.vip(), packet.protocol);
    // Never full: it has room for this.
    let _ = header.try_extend_from_slice(&NO_OPERATION);
    if let Some(length) = header.get_mut(15) {
        *length += NO_OPERATION.len() as u8;
    }
    let at = usize::from(packet.transport) + udp::LEN;
    insert(frame, packet, at, &header)?;
    record.lower(flag::TELLING);
    Ok(())
}

/// A client's packet of a session that tells, or has told, who it is. `mtu` is what the packet may
/// be as it is now, before its header is another.
///
/// # Errors
/// The reason to drop it.
pub fn client_packet<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    record: Record<'_>,
    mtu: u16,
) -> Result<(), DropReason> {
    if packet.protocol != protocol::TCP {
        if record.flags() & flag::TELLING == 0 {
            return Ok(());
        }
        record.lower(flag::TELLING);
        let header = proxy_header(record.client(), record.vip(), packet.protocol);
        let at = usize::from(packet.transport) + udp::LEN;
        return insert(frame, packet, at, &header);
    }
    let segment = read(frame.data(), packet)?;
    let is = |bit: u8| packet.tcp_flags & bit != 0;
    if record.flags() & flag::TOA != 0 {
        return tell_by_option(frame, packet, record, &segment, mtu);
    }
    if is(flags::SYN) {
        return without_fast_open(frame, packet, &segment);
    }
    let telling = record.flags() & flag::TELLING != 0;
    let at = segment
        .sequence
        .wrapping_sub(record.first_sequence())
        .cast_signed();
    let bytes = record.inserted();
    if at == 0 && telling && !is(flags::RST) {
        let header = proxy_header(record.client(), record.vip(), packet.protocol);
        cut(frame, packet, &segment, mtu.saturating_sub(bytes))?;
        insert(frame, packet, segment.payload, &header)?;
        if packet.tcp_flags & flags::URG != 0 {
            move_urgent(frame.data_mut(), packet, bytes)?;
        }
        record.raise(flag::TOLD);
        return Ok(());
    }
    // A client that resets before the header was sent says nothing about bytes that were not there.
    let untold = is(flags::RST) && at == 0 && record.flags() & flag::TOLD == 0;
    if (at >= 0 || !telling) && !untold {
        let shifted = segment.sequence.wrapping_add(bytes.into());
        set32(frame.data_mut(), packet, tcp::SEQUENCE, shifted)?;
    }
    Ok(())
}

/// A backend's segment of such a session.
///
/// # Errors
/// The reason to drop it.
pub fn backend_segment<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    record: Record<'_>,
) -> Result<(), DropReason> {
    let segment = read(frame.data(), packet)?;
    let (held, bytes) = (record.flags(), u32::from(record.inserted()));
    if packet.tcp_flags & flags::SYN != 0 {
        record.set_backend_first(segment.sequence.wrapping_add(1));
        let smaller = match (held & flag::TOA, record.client().version) {
            (0, _) => record.inserted(),
            (_, Version::V4) => 8,
            (_, Version::V6) => 20,
        };
        tcp_options::edit(frame.data_mut(), packet, |options| {
            tcp_options::lower_mss(options, smaller);
        })?;
        shrink_window(frame.data_mut(), packet, record.inserted())?;
    }
    if packet.tcp_flags & flags::ACK == 0 {
        return Ok(());
    }
    let first = record.first_sequence();
    let at = segment.acknowledged.wrapping_sub(first).cast_signed();
    if held & flag::TELLING != 0 && at > 0 && at.cast_unsigned() >= bytes {
        record.lower(flag::TELLING);
    }
    if bytes == 0 {
        return Ok(());
    }
    let acknowledged = unshifted(segment.acknowledged, first, bytes);
    if acknowledged != segment.acknowledged {
        set32(frame.data_mut(), packet, tcp::ACKNOWLEDGEMENT, acknowledged)?;
    }
    if segment.payload > usize::from(packet.transport) + tcp::LEN {
        tcp_options::edit(frame.data_mut(), packet, |options| {
            tcp_options::map_sack(options, |edge| unshifted(edge, first, bytes));
        })?;
    }
    Ok(())
}

/// The client's number of what the backend counts as `number`; all of the header is its first byte.
fn unshifted(number: u32, first: u32, bytes: u32) -> u32 {
    let at = number.wrapping_sub(first).cast_signed();
    if at <= 0 {
        number
    } else if at.cast_unsigned() < bytes {
        first
    } else {
        number.wrapping_sub(bytes)
    }
}

/// The client's number of what the backend of its session counts as `number`.
#[must_use]
pub fn as_the_client_counts(number: u32, record: Record<'_>) -> u32 {
    unshifted(number, record.first_sequence(), record.inserted().into())
}

/// A client's segment in pieces: its first one, whose sequence number grows as a whole segment's
/// does. Nothing is put into pieces.
///
/// # Errors
/// [`DropReason::Fragment`] where the header should go into it: the client sends it again.
pub fn shift_piece<B: Buffer>(
    frame: &mut B,
    packet: &Packet,
    record: Record<'_>,
) -> Result<(), DropReason> {
    if record.flags() & flag::TELLING != 0 {
        return Err(DropReason::Fragment);
    }
    let segment = read(frame.data(), packet)?;
    let shifted = segment.sequence.wrapping_add(record.inserted().into());
    set32(frame.data_mut(), packet, tcp::SEQUENCE, shifted)
}

/// What is needed of a segment.
#[derive(Debug, Clone, Copy)]
struct Segment {
    sequence: u32,
    acknowledged: u32,
    /// Where its payload begins in the frame.
    payload: usize,
    /// Bytes of payload.
    len: usize,
}

fn read(frame: &[u8], packet: &Packet) -> Result<Segment, DropReason> {
    let transport = usize::from(packet.transport);
    let rest = frame.get(transport..).ok_or(DropReason::TcpMalformed)?;
    let header: &[u8; tcp::LEN] = rest.first_chunk().ok_or(DropReason::TcpMalformed)?;
    let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, ..] = *header;
    let payload = transport + tcp::Header(header).header_len();
    let end = usize::from(packet.network) + usize::from(packet.ip_len);
    Ok(Segment {
        sequence: u32::from_be_bytes([s0, s1, s2, s3]),
        acknowledged: u32::from_be_bytes([a0, a1, a2, a3]),
        payload,
        len: end.saturating_sub(payload),
    })
}

fn tell_by_option<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    record: Record<'_>,
    segment: &Segment,
    mtu: u16,
) -> Result<(), DropReason> {
    let is = |bit: u8| packet.tcp_flags & bit != 0;
    let ends_handshake = segment.len == 0 && segment.acknowledged == record.backend_first();
    if record.flags() & flag::TELLING == 0
        || is(flags::SYN | flags::RST)
        || segment.sequence != record.first_sequence()
        || !(ends_handshake || segment.len > 0)
    {
        return Ok(());
    }
    let option = toa(record.client());
    let transport = usize::from(packet.transport);
    let fits = segment.payload - transport + option.len() <= LONGEST_TCP
        && usize::from(packet.ip_len) + option.len() <= usize::from(mtu);
    if !fits {
        record.raise(flag::NO_ROOM);
        return Ok(());
    }
    insert(frame, packet, transport + tcp::LEN, &option)?;
    tcp_options::lengthen(frame.data_mut(), packet, option.len())
}

/// Puts bytes into a packet whose payload or options begin at `at`, an even number of bytes behind
/// the transport header's start. Lengths and checksums follow; what lies before moves.
fn insert<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    at: usize,
    bytes: &[u8],
) -> Result<(), DropReason> {
    let more = bytes.len();
    let longer = u16::try_from(usize::from(packet.ip_len) + more);
    let longer = longer.map_err(|_| DropReason::TooLarge)?;
    frame.prepend(more).map_err(|_| DropReason::NoBuffer)?;
    let data = frame.data_mut();
    if data.len() < at + more {
        return Err(DropReason::Runt);
    }
    data.copy_within(more..more + at, 0);
    if let Some(place) = data.get_mut(at..at + more) {
        place.copy_from_slice(bytes);
    }
    let mut delta = Delta::none();
    for pair in bytes.chunks(2) {
        delta = delta.word16([0; 2], [pair[0], pair.get(1).copied().unwrap_or(0)]);
    }
    set_length(data, packet, longer, delta)
}

/// Cuts a segment's payload so that the packet has at most `mtu` bytes: the client sends the rest
/// again.
fn cut<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    segment: &Segment,
    mtu: u16,
) -> Result<(), DropReason> {
    let excess = usize::from(packet.ip_len.saturating_sub(mtu));
    if excess == 0 {
        return Ok(());
    }
    // At an even place, so that what goes is whole words of the checksum.
    let keep = segment.len.saturating_sub(excess) & !1;
    if segment.len == 0 || keep == 0 {
        return Err(DropReason::TooLarge);
    }
    shorten(frame, packet, segment, keep)?;
    // What comes last in the segment has not been said yet.
    set_flags(frame.data_mut(), packet, !(flags::FIN | flags::PSH))
}

/// Takes everything behind the first `keep` bytes, an even number, off a segment's payload.
fn shorten<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    segment: &Segment,
    keep: usize,
) -> Result<(), DropReason> {
    let from = segment.payload + keep;
    let gone = frame.data().get(from..segment.payload + segment.len);
    let gone = gone.ok_or(DropReason::TcpMalformed)?;
    let mut delta = Delta::none();
    for pair in gone.chunks(2) {
        delta = delta.word16([pair[0], pair.get(1).copied().unwrap_or(0)], [0; 2]);
    }
    let shorter = packet.ip_len.saturating_sub(gone.len() as u16);
    let beyond = frame.len() - from;
    frame.trim_back(beyond).map_err(|_| DropReason::Runt)?;
    set_length(frame.data_mut(), packet, shorter, delta)
}

/// TCP Fast Open has no room for a header before its data (RFC 7413): the backend gets a SYN
/// without, and the client sends its data again once the connection stands.
fn without_fast_open<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    segment: &Segment,
) -> Result<(), DropReason> {
    if segment.len > 0 {
        shorten(frame, packet, segment, 0)?;
    }
    if segment.payload == usize::from(packet.transport) + tcp::LEN {
        return Ok(());
    }
    tcp_options::edit(frame.data_mut(), packet, tcp_options::blank_fast_open)
}

/// Sets the packet's length in IP header, UDP header and pseudo-header; `delta` is what else the
/// transport checksum has to follow.
fn set_length(
    frame: &mut [u8],
    packet: &mut Packet,
    length: u16,
    delta: Delta,
) -> Result<(), DropReason> {
    let (network, transport) = (usize::from(packet.network), usize::from(packet.transport));
    let header_len = (transport - network) as u16;
    let before = packet.ip_len.saturating_sub(header_len).to_be_bytes();
    let after = length.saturating_sub(header_len).to_be_bytes();
    let mut delta = delta.word16(before, after);
    let header = frame.get_mut(network..).ok_or(DropReason::IpLength)?;
    match packet.version {
        Version::V4 => {
            let header: &mut [u8; 20] = header.first_chunk_mut().ok_or(DropReason::IpLength)?;
            let old = [header[2], header[3]];
            [header[2], header[3]] = length.to_be_bytes();
            let change = Delta::none().word16(old, length.to_be_bytes());
            [header[10], header[11]] = change.apply([header[10], header[11]]);
        }
        Version::V6 => {
            let header: &mut [u8; 40] = header.first_chunk_mut().ok_or(DropReason::IpLength)?;
            [header[4], header[5]] = length.saturating_sub(40).to_be_bytes();
        }
    }
    packet.ip_len = length;
    if packet.protocol == protocol::UDP {
        let rest = frame
            .get_mut(transport..)
            .and_then(|rest| rest.first_chunk_mut());
        let header: &mut [u8; udp::LEN] = rest.ok_or(DropReason::UdpMalformed)?;
        // A datagram may be shorter than its packet; it grows as much.
        let old = [header[4], header[5]];
        let grown = u16::from_be_bytes(old)
            .wrapping_add(u16::from_be_bytes(after))
            .wrapping_sub(u16::from_be_bytes(before));
        [header[4], header[5]] = grown.to_be_bytes();
        delta = delta.word16(old, grown.to_be_bytes());
        let check = [header[udp::CHECKSUM], header[udp::CHECKSUM + 1]];
        [header[udp::CHECKSUM], header[udp::CHECKSUM + 1]] = delta.apply_udp(check);
        return Ok(());
    }
    tcp_options::apply(frame, packet, delta)
}

fn set32(frame: &mut [u8], packet: &Packet, at: usize, value: u32) -> Result<(), DropReason> {
    let place = usize::from(packet.transport) + at;
    let field = frame
        .get_mut(place..)
        .and_then(|rest| rest.first_chunk_mut());
    let field: &mut [u8; 4] = field.ok_or(DropReason::TcpMalformed)?;
    let delta = Delta::none().word32(*field, value.to_be_bytes());
    *field = value.to_be_bytes();
    tcp_options::apply(frame, packet, delta)
}

fn set16(frame: &mut [u8], packet: &Packet, at: usize, value: [u8; 2]) -> Result<(), DropReason> {
    let place = usize::from(packet.transport) + at;
    let field = frame
        .get_mut(place..)
        .and_then(|rest| rest.first_chunk_mut());
    let field: &mut [u8; 2] = field.ok_or(DropReason::TcpMalformed)?;
    let delta = Delta::none().word16(*field, value);
    *field = value;
    tcp_options::apply(frame, packet, delta)
}

/// The urgent pointer counts from the segment's first byte (RFC 9293, section 3.1), which is the
/// header's now.
fn move_urgent(frame: &mut [u8], packet: &Packet, bytes: u16) -> Result<(), DropReason> {
    const POINTER: usize = 18;
    let place = usize::from(packet.transport) + POINTER;
    let field = frame.get(place..).and_then(|rest| rest.first_chunk::<2>());
    let pointer = u16::from_be_bytes(*field.ok_or(DropReason::TcpMalformed)?);
    let moved = pointer.saturating_add(bytes).to_be_bytes();
    set16(frame, packet, POINTER, moved)
}

/// Keeps only the control bits of `mask`.
fn set_flags(frame: &mut [u8], packet: &mut Packet, mask: u8) -> Result<(), DropReason> {
    let place = usize::from(packet.transport) + 12;
    let field = frame.get(place..).and_then(|rest| rest.first_chunk::<2>());
    let [offset, bits] = *field.ok_or(DropReason::TcpMalformed)?;
    packet.tcp_flags &= mask;
    set16(frame, packet, 12, [offset, bits & mask])
}

/// The backend's first window, which is never scaled (RFC 7323, section 2.2), leaves room for the
/// header.
fn shrink_window(frame: &mut [u8], packet: &Packet, bytes: u16) -> Result<(), DropReason> {
    if bytes == 0 {
        return Ok(());
    }
    let place = usize::from(packet.transport) + 14;
    let field = frame.get(place..).and_then(|rest| rest.first_chunk::<2>());
    let window = u16::from_be_bytes(*field.ok_or(DropReason::TcpMalformed)?);
    set16(
        frame,
        packet,
        14,
        window.saturating_sub(bytes).to_be_bytes(),
    )
}
