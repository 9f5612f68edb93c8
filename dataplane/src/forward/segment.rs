//! Segments and datagrams that grow, shrink, and are counted otherwise: what telling of a client needs
//! to change, with lengths and checksums following.

use weir_engine::buffer::Buffer;
use weir_engine::wire::checksum::Delta;
use weir_engine::wire::tcp::{self, flags};
use weir_engine::wire::{protocol, udp};
use weir_shm::counters::DropReason;

use super::tcp_options;
use crate::address::Version;
use crate::parse::Packet;

/// What is needed of a segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub sequence: u32,
    pub acknowledged: u32,
    /// Where its payload begins in the frame.
    pub payload: usize,
    /// Bytes of payload.
    pub len: usize,
}

#[inline]
pub(super) fn read(frame: &[u8], packet: &Packet) -> Result<Segment, DropReason> {
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

/// Puts bytes into a packet whose payload or options begin at `at`, an even number of bytes behind
/// the transport header's start. Lengths and checksums follow; what lies before moves.
pub(super) fn insert<B: Buffer>(
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
pub(super) fn cut<B: Buffer>(
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
pub(super) fn shorten<B: Buffer>(
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

/// Sets the packet's length in IP header, UDP header and pseudo-header; `delta` is what else the
/// transport checksum has to follow.
pub(super) fn set_length(
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

#[inline]
pub(super) fn set32(
    frame: &mut [u8],
    packet: &Packet,
    at: usize,
    value: u32,
) -> Result<(), DropReason> {
    let place = usize::from(packet.transport) + at;
    let field = frame
        .get_mut(place..)
        .and_then(|rest| rest.first_chunk_mut());
    let field: &mut [u8; 4] = field.ok_or(DropReason::TcpMalformed)?;
    let delta = Delta::none().word32(*field, value.to_be_bytes());
    *field = value.to_be_bytes();
    tcp_options::apply(frame, packet, delta)
}

pub(super) fn set16(
    frame: &mut [u8],
    packet: &Packet,
    at: usize,
    value: [u8; 2],
) -> Result<(), DropReason> {
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
pub(super) fn move_urgent(frame: &mut [u8], packet: &Packet, bytes: u16) -> Result<(), DropReason> {
    const POINTER: usize = 18;
    let place = usize::from(packet.transport) + POINTER;
    let field = frame.get(place..).and_then(|rest| rest.first_chunk::<2>());
    let pointer = u16::from_be_bytes(*field.ok_or(DropReason::TcpMalformed)?);
    let moved = pointer.saturating_add(bytes).to_be_bytes();
    set16(frame, packet, POINTER, moved)
}

/// Keeps only the control bits of `mask`.
pub(super) fn set_flags(frame: &mut [u8], packet: &mut Packet, mask: u8) -> Result<(), DropReason> {
    let place = usize::from(packet.transport) + 12;
    let field = frame.get(place..).and_then(|rest| rest.first_chunk::<2>());
    let [offset, bits] = *field.ok_or(DropReason::TcpMalformed)?;
    packet.tcp_flags &= mask;
    set16(frame, packet, 12, [offset, bits & mask])
}

/// The backend's first window, which is never scaled (RFC 7323, section 2.2), leaves room for the
/// header.
pub(super) fn shrink_window(
    frame: &mut [u8],
    packet: &Packet,
    bytes: u16,
) -> Result<(), DropReason> {
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
