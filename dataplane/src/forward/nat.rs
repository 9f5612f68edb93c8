//! `nat`: destination address and port to the backend's, and back on answers.
//!
//! The client's address stays, so answers must come back through weir. They are recognised by
//! backend address and port (a static map), never by flow, so that any worker may handle them. TTL
//! goes down by one in both directions: weir is a router here (RFC 1812, section 5.3.1; RFC 3022).
//! Checksums are updated, never recomputed: a packet that was damaged before stays damaged.

use weir_engine::wire::checksum::Delta;
use weir_engine::wire::{ipv4, ipv6, protocol, tcp, udp};
use weir_shm::counters::DropReason;

use crate::address::{Addr, Version};
use crate::parse::Packet;
use crate::service::{Backend, Service};

/// One end of a packet: its source or its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

/// Hot: a client's packet, to `backend`.
///
/// # Errors
/// [`DropReason::IpTtl`] where the packet may travel no further.
#[inline]
pub fn to_backend(frame: &mut [u8], packet: &Packet, backend: &Backend) -> Result<(), DropReason> {
    translate(
        frame,
        packet,
        End::Destination,
        backend.address,
        backend.port,
    )
}

/// Hot: a backend's answer, from the VIP of `service`.
///
/// # Errors
/// [`DropReason::IpTtl`] where the packet may travel no further.
#[inline]
pub fn to_client(frame: &mut [u8], packet: &Packet, service: &Service) -> Result<(), DropReason> {
    translate(frame, packet, End::Source, service.vip, service.port)
}

/// Sets address and port (zero keeps it) of one end, takes one off the TTL, and keeps every
/// checksum right.
#[inline]
fn translate(
    frame: &mut [u8],
    packet: &Packet,
    end: End,
    address: Addr,
    port: [u8; 2],
) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::IpTtl);
    }
    let (network, transport) = (usize::from(packet.network), usize::from(packet.transport));
    let delta = match packet.version {
        Version::V4 => {
            let header = frame
                .get_mut(network..)
                .and_then(|rest| rest.first_chunk_mut());
            let mut header = ipv4::HeaderMut(header.ok_or(DropReason::IpLength)?);
            header.decrement_ttl();
            match end {
                End::Source => header.set_source(address.to_v4()),
                End::Destination => header.set_destination(address.to_v4()),
            }
        }
        Version::V6 => {
            let header = frame
                .get_mut(network..)
                .and_then(|rest| rest.first_chunk_mut());
            let mut header = ipv6::HeaderMut(header.ok_or(DropReason::IpLength)?);
            header.decrement_hop_limit();
            match end {
                End::Source => header.set_source(&address.to_v6()),
                End::Destination => header.set_destination(&address.to_v6()),
            }
        }
    };
    match packet.protocol {
        protocol::TCP => {
            let segment = frame
                .get_mut(transport..)
                .and_then(|rest| rest.first_chunk_mut());
            let segment: &mut [u8; tcp::LEN] = segment.ok_or(DropReason::TcpMalformed)?;
            let delta = set_port(segment, end, port).and(delta);
            let old = [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]];
            [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]] = delta.apply(old);
        }
        _ => {
            let datagram = frame
                .get_mut(transport..)
                .and_then(|rest| rest.first_chunk_mut());
            let datagram: &mut [u8; udp::LEN] = datagram.ok_or(DropReason::UdpMalformed)?;
            let delta = set_port(datagram, end, port).and(delta);
            let old = [datagram[udp::CHECKSUM], datagram[udp::CHECKSUM + 1]];
            [datagram[udp::CHECKSUM], datagram[udp::CHECKSUM + 1]] = delta.apply_udp(old);
        }
    }
    Ok(())
}

/// Ports lie first in TCP and UDP alike.
#[inline]
fn set_port<const LEN: usize>(header: &mut [u8; LEN], end: End, port: [u8; 2]) -> Delta {
    if port == [0, 0] {
        return Delta::none();
    }
    let at = match end {
        End::Source => 0,
        End::Destination => 2,
    };
    let old = [header[at], header[at + 1]];
    [header[at], header[at + 1]] = port;
    Delta::none().word16(old, port)
}
