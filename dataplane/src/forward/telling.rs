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
use weir_engine::wire::tcp::{self, flags};
use weir_engine::wire::{protocol, udp};
use weir_shm::counters::DropReason;
use weir_shm::model::ClientAddress;

use super::segment::{Segment, cut, insert, move_urgent, read, set32, shorten, shrink_window};
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
