//! `full-nat`: source and destination, both ways, for a session.
//!
//! To a backend: from one of weir's own addresses and the session's port there. Back to the client:
//! from the VIP. Client and backend may be of different families; [`super::family`] makes the other
//! header then. TTL goes down by one, as weir is a router here, and checksums are updated, never
//! recomputed: a packet that was damaged before stays damaged. What a backend is told of its client
//! is in [`super::telling`], and touches only sessions that have something to tell.

use weir_engine::buffer::Buffer;
use weir_engine::wire::checksum::{Delta, Folded};
use weir_engine::wire::{ethernet, ipv4, ipv6, protocol, tcp, udp};
use weir_shm::counters::DropReason;

use super::{family, telling};
use crate::address::{Addr, Version};
use crate::parse::Packet;
use crate::session::{Record, Side, SnatAddress, flag};

/// Between whom a packet is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The family of both.
    pub version: Version,
    /// From where.
    pub source: Addr,
    /// From which port.
    pub source_port: u16,
    /// Where to.
    pub destination: Addr,
    /// To which port.
    pub destination_port: u16,
}

impl Ends {
    /// From an address and port to `to`.
    #[must_use]
    pub const fn of(source: Addr, source_port: u16, to: Side) -> Self {
        Self {
            version: to.version,
            source,
            source_port,
            destination: to.address,
            destination_port: to.port,
        }
    }

    /// Hot: both ports as they lie first in TCP and UDP alike.
    #[inline(always)]
    #[must_use]
    pub const fn ports(&self) -> [u8; 4] {
        let [a, b] = self.source_port.to_be_bytes();
        let [c, d] = self.destination_port.to_be_bytes();
        [a, b, c, d]
    }
}

/// Hot: the length that a packet will have between `ends` of this family, in bytes with its IP
/// header. The options and extension headers of one family do not go into the other.
#[inline]
#[must_use]
pub fn length_in(version: Version, packet: &Packet) -> u32 {
    let length = u32::from(packet.ip_len);
    if packet.version == version {
        return length;
    }
    let old = u32::from(packet.transport.saturating_sub(packet.network.into()));
    let new = match version {
        Version::V4 => ipv4::LEN,
        Version::V6 => ipv6::LEN,
    };
    length.saturating_sub(old) + new as u32
}

/// Hot: the length that a client's packet will have on its way to the session's backend. A TCP
/// segment that tells of its client is made to fit as it is told.
#[inline]
#[must_use]
pub fn length_to_backend(packet: &Packet, record: Record<'_>) -> u32 {
    let told = if packet.protocol == protocol::TCP || record.flags() & flag::TELLING == 0 {
        0
    } else {
        telling::pending(record)
    };
    length_in(record.backend().version, packet) + u32::from(told)
}

/// Hot: a client's packet, to the session's backend from `own`, by a port of this MTU.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn to_backend<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    record: Record<'_>,
    own: &SnatAddress,
    worker: u16,
    mtu: u16,
) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::IpTtl);
    }
    let backend = record.backend();
    let ends = Ends::of(own.address, record.snat_port(), backend);
    tell(frame, packet, record, mtu)?;
    translate(frame, packet, &ends, || own.next_id(worker))
}

/// Hot: what a session has to tell of its client, put into the client's packet before it is
/// translated; `mtu` is that of the port by which it leaves.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn tell<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    record: Record<'_>,
    mtu: u16,
) -> Result<(), DropReason> {
    if record.inserted() == 0 && record.flags() & flag::TELLING == 0 {
        return Ok(());
    }
    let mtu = fits_before(mtu, packet.version, record.backend().version);
    telling::client_packet(frame, packet, record, mtu)
}

/// What a packet may be before its header is another, to be no larger than `mtu` behind it.
#[must_use]
pub const fn fits_before(mtu: u16, from: Version, to: Version) -> u16 {
    match (from, to) {
        (Version::V4, Version::V6) => mtu.saturating_sub(family::LONGER),
        (Version::V6, Version::V4) => mtu.saturating_add(family::LONGER),
        _ => mtu,
    }
}

/// Hot: a backend's answer, to the session's client from the VIP; `id` identifies it where it gets an
/// IPv4 header.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn to_client<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    record: Record<'_>,
    id: impl FnOnce() -> u16,
) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::IpTtl);
    }
    let (client, vip) = (record.client(), record.vip());
    let ends = Ends::of(vip.address, vip.port, client);
    if packet.protocol == protocol::TCP
        && (record.inserted() != 0 || record.flags() & flag::TELLING != 0)
    {
        telling::backend_segment(frame, packet, record)?;
    }
    translate(frame, packet, &ends, id)
}

/// Puts a packet between other ends, and takes one off its TTL. The descriptor follows.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn translate<B: Buffer>(
    frame: &mut B,
    packet: &mut Packet,
    ends: &Ends,
    id: impl FnOnce() -> u16,
) -> Result<(), DropReason> {
    match (packet.version, ends.version) {
        (Version::V4, Version::V4) => {
            let network = usize::from(packet.network);
            let header = frame.data_mut().get_mut(network..);
            let header = header.and_then(|rest| rest.first_chunk_mut());
            let mut header = ipv4::HeaderMut(header.ok_or(DropReason::IpLength)?);
            header.decrement_ttl();
            let delta = header.set_source(ends.source.to_v4());
            let delta = delta.and(header.set_destination(ends.destination.to_v4()));
            set_ports(frame.data_mut(), packet, ends, delta)?;
        }
        (Version::V6, Version::V6) => {
            let network = usize::from(packet.network);
            let header = frame.data_mut().get_mut(network..);
            let header = header.and_then(|rest| rest.first_chunk_mut());
            let mut header = ipv6::HeaderMut(header.ok_or(DropReason::IpLength)?);
            header.decrement_hop_limit();
            let delta = header.set_source(&ends.source.to_v6());
            let delta = delta.and(header.set_destination(&ends.destination.to_v6()));
            set_ports(frame.data_mut(), packet, ends, delta)?;
        }
        (Version::V6, Version::V4) => family::to_v4(frame, packet, ends, id())?,
        (Version::V4, Version::V6) => family::to_v6(frame, packet, ends)?,
    }
    packet.version = ends.version;
    packet.source = ends.source;
    packet.destination = ends.destination;
    packet.ttl = packet.ttl.saturating_sub(1);
    Ok(())
}

/// Where the transport header of an untagged packet without options or extensions lies.
pub(super) const BEHIND4: usize = ethernet::LEN + ipv4::LEN;
pub(super) const BEHIND6: usize = ethernet::LEN + ipv6::LEN;

/// Hot: as [`translate`], for an untagged frame of the shape that nearly all have, whose checksums
/// change by what its session began with; false, with nothing changed, for any other, and where the
/// packet may travel no further. The Ethernet addresses are the caller's to set.
#[inline(always)]
pub fn translate_quickly<B: Buffer>(
    frame: &mut B,
    packet: &Packet,
    ends: &Ends,
    (network, transport): (Folded, Folded),
    id: impl FnOnce() -> u16,
) -> bool {
    match (packet.version, ends.version) {
        (Version::V4, Version::V6) => family::quickly_to_v6(frame, packet, ends, transport),
        (Version::V6, Version::V4) => {
            family::quickly_to_v4(frame, packet, ends, (network, transport), id)
        }
        _ => exchange(frame.data_mut(), packet, ends, network, transport),
    }
}

/// Hot: other ends of the same family.
#[inline(always)]
fn exchange(
    frame: &mut [u8],
    packet: &Packet,
    ends: &Ends,
    network: Folded,
    transport: Folded,
) -> bool {
    let is_tcp = packet.protocol == protocol::TCP;
    if packet.ttl <= 1 || !(is_tcp || packet.protocol == protocol::UDP) {
        return false;
    }
    match packet.version {
        Version::V4 if usize::from(packet.transport) == BEHIND4 => {
            let Some(head) = frame.first_chunk_mut::<{ BEHIND4 + tcp::LEN }>() else {
                return false;
            };
            head[22] = packet.ttl - 1;
            [head[24], head[25]] = network.apply([head[24], head[25]]);
            head[26..30].copy_from_slice(&ends.source.to_v4());
            head[30..34].copy_from_slice(&ends.destination.to_v4());
            set_transport(&mut head[BEHIND4..], ends, is_tcp, transport);
        }
        Version::V6 if usize::from(packet.transport) == BEHIND6 => {
            let length = BEHIND6 + if is_tcp { tcp::LEN } else { udp::LEN };
            let Some(head) = frame.get_mut(..length) else {
                return false;
            };
            let Some((head, rest)) = head.split_first_chunk_mut::<BEHIND6>() else {
                return false;
            };
            head[21] = packet.ttl - 1;
            head[22..38].copy_from_slice(&ends.source.to_v6());
            head[38..54].copy_from_slice(&ends.destination.to_v6());
            set_transport(rest, ends, is_tcp, transport);
        }
        _ => return false,
    }
    true
}

/// Hot: both ports, and the checksum of TCP, or of UDP.
#[inline(always)]
pub(super) fn set_transport(segment: &mut [u8], ends: &Ends, is_tcp: bool, change: Folded) {
    if let Some(ports) = segment.first_chunk_mut() {
        *ports = ends.ports();
    }
    let at = if is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    if let Some(field) = segment
        .get_mut(at..)
        .and_then(|rest| rest.first_chunk_mut::<2>())
    {
        *field = if is_tcp {
            change.apply(*field)
        } else {
            change.apply_udp(*field)
        };
    }
}

/// Sets both ports, and the transport checksum right after this and `delta`, the change of the
/// pseudo-header.
#[inline]
pub(super) fn set_ports(
    frame: &mut [u8],
    packet: &Packet,
    ends: &Ends,
    delta: Delta,
) -> Result<(), DropReason> {
    // A later piece of a datagram has no ports.
    if packet.protocol == protocol::FRAGMENT {
        return Ok(());
    }
    let transport = usize::from(packet.transport);
    let ports = ends.ports();
    let rest = frame.get_mut(transport..);
    if packet.protocol == protocol::TCP {
        let segment: &mut [u8; tcp::LEN] = rest
            .and_then(|rest| rest.first_chunk_mut())
            .ok_or(DropReason::TcpMalformed)?;
        let old = [segment[0], segment[1], segment[2], segment[3]];
        [segment[0], segment[1], segment[2], segment[3]] = ports;
        let held = [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]];
        let delta = delta.word32(old, ports);
        [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]] = delta.apply(held);
    } else {
        let datagram: &mut [u8; udp::LEN] = rest
            .and_then(|rest| rest.first_chunk_mut())
            .ok_or(DropReason::UdpMalformed)?;
        let old = [datagram[0], datagram[1], datagram[2], datagram[3]];
        [datagram[0], datagram[1], datagram[2], datagram[3]] = ports;
        let held = [datagram[udp::CHECKSUM], datagram[udp::CHECKSUM + 1]];
        let delta = delta.word32(old, ports);
        [datagram[udp::CHECKSUM], datagram[udp::CHECKSUM + 1]] = delta.apply_udp(held);
    }
    Ok(())
}
