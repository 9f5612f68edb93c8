//! `nat`: destination address and port to the backend's, and back on answers.
//!
//! The client's address stays, so answers must come back through weir. They are recognised by
//! backend address and port (a static map), never by flow, so that any worker may handle them. TTL
//! goes down by one in both directions: weir is a router here (RFC 1812, section 5.3.1; RFC 3022).
//! Checksums are updated, never recomputed: a packet that was damaged before stays damaged. What
//! the update adds is the same for all packets of a backend, and known beforehand
//! ([`crate::service::Change`]).

use weir_engine::wire::checksum::Folded;
use weir_engine::wire::{ipv4, ipv6, protocol, tcp, udp};
use weir_shm::counters::DropReason;

use crate::address::{Addr, Version};
use crate::parse::Packet;
use crate::service::{Backend, Service};

/// One end of a packet: its source or its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// Hot: a client's packet, to `backend`.
///
/// # Errors
/// [`DropReason::IpTtl`] where the packet may travel no further.
#[inline(always)]
pub fn to_backend(frame: &mut [u8], packet: &Packet, backend: &Backend) -> Result<(), DropReason> {
    let new = New {
        end: End::Destination,
        address: backend.address,
        port: backend.port,
        network: backend.change.network,
        transport: backend.change.transport,
    };
    translate(frame, packet, &new)
}

/// Hot: an answer of `backend`, from the VIP of `service`.
///
/// # Errors
/// [`DropReason::IpTtl`] where the packet may travel no further.
#[inline(always)]
pub fn to_client(
    frame: &mut [u8],
    packet: &Packet,
    service: &Service,
    backend: &Backend,
) -> Result<(), DropReason> {
    let new = New {
        end: End::Source,
        address: service.vip,
        port: service.port,
        network: backend.change.network_back,
        transport: backend.change.transport_back,
    };
    translate(frame, packet, &new)
}

/// Sets the address of one end and takes one off the TTL, where there is no transport header: in a
/// piece of a datagram that is not its first. The checksum that covers the address is in the first.
///
/// # Errors
/// [`DropReason::IpTtl`] where the packet may travel no further.
#[cold]
pub fn readdress(
    frame: &mut [u8],
    packet: &Packet,
    end: End,
    address: Addr,
) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::IpTtl);
    }
    let rest = frame
        .get_mut(usize::from(packet.network)..)
        .ok_or(DropReason::IpLength)?;
    match packet.version {
        Version::V4 => {
            let fixed = rest.first_chunk_mut().ok_or(DropReason::IpLength)?;
            let mut header = ipv4::HeaderMut(fixed);
            header.decrement_ttl();
            match end {
                End::Source => header.set_source(address.to_v4()),
                End::Destination => header.set_destination(address.to_v4()),
            };
        }
        Version::V6 => {
            let fixed = rest.first_chunk_mut().ok_or(DropReason::IpLength)?;
            let mut header = ipv6::HeaderMut(fixed);
            header.decrement_hop_limit();
            match end {
                End::Source => header.set_source(&address.to_v6()),
                End::Destination => header.set_destination(&address.to_v6()),
            };
        }
    }
    Ok(())
}

/// What one end of a packet becomes.
struct New {
    end: End,
    address: Addr,
    /// Zero keeps it.
    port: [u8; 2],
    network: Folded,
    transport: Folded,
}

/// Sets address and port of one end, takes one off the TTL, and keeps every checksum right.
#[inline(always)]
fn translate(frame: &mut [u8], packet: &Packet, new: &New) -> Result<(), DropReason> {
    if packet.ttl <= 1 {
        return Err(DropReason::IpTtl);
    }
    let (network, transport) = (usize::from(packet.network), usize::from(packet.transport));
    let rest = frame.get_mut(network..);
    match packet.version {
        Version::V4 => {
            let header: Option<&mut [u8; ipv4::LEN]> = rest.and_then(|rest| rest.first_chunk_mut());
            let header = header.ok_or(DropReason::IpLength)?;
            header[8] = packet.ttl - 1;
            [header[10], header[11]] = new.network.apply([header[10], header[11]]);
            let at = match new.end {
                End::Source => 12,
                End::Destination => 16,
            };
            header[at..at + 4].copy_from_slice(&new.address.to_v4());
        }
        Version::V6 => {
            let header: Option<&mut [u8; ipv6::LEN]> = rest.and_then(|rest| rest.first_chunk_mut());
            let header = header.ok_or(DropReason::IpLength)?;
            header[7] = packet.ttl - 1;
            let at = match new.end {
                End::Source => 8,
                End::Destination => 24,
            };
            header[at..at + 16].copy_from_slice(&new.address.to_v6());
        }
    }
    let rest = frame.get_mut(transport..);
    if packet.protocol == protocol::TCP {
        let segment: Option<&mut [u8; tcp::LEN]> = rest.and_then(|rest| rest.first_chunk_mut());
        let segment = segment.ok_or(DropReason::TcpMalformed)?;
        set_port(segment, new);
        let old = [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]];
        [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]] = new.transport.apply(old);
    } else if packet.protocol == protocol::UDP {
        let datagram: Option<&mut [u8; udp::LEN]> = rest.and_then(|rest| rest.first_chunk_mut());
        let datagram = datagram.ok_or(DropReason::UdpMalformed)?;
        set_port(datagram, new);
        let old = [datagram[udp::CHECKSUM], datagram[udp::CHECKSUM + 1]];
        [datagram[udp::CHECKSUM], datagram[udp::CHECKSUM + 1]] = new.transport.apply_udp(old);
    }
    Ok(())
}

/// Ethernet, IPv4 without options, TCP without options: what a quick change needs to be there. UDP is
/// shorter, and the shortest frame longer.
const QUICK: usize = 14 + ipv4::LEN + tcp::LEN;

/// Hot: as [`to_backend`], for an untagged frame of the shape that nearly all have; false, with
/// nothing changed, for any other, and where the packet may travel no further.
#[inline(always)]
pub fn quickly_to_backend(frame: &mut [u8], packet: &Packet, backend: &Backend) -> bool {
    let new = New {
        end: End::Destination,
        address: backend.address,
        port: backend.port,
        network: backend.change.network,
        transport: backend.change.transport,
    };
    translate_quickly(frame, packet, &new)
}

/// Hot: as [`to_client`], and as [`quickly_to_backend`].
#[inline(always)]
pub fn quickly_to_client(
    frame: &mut [u8],
    packet: &Packet,
    service: &Service,
    backend: &Backend,
) -> bool {
    let new = New {
        end: End::Source,
        address: service.vip,
        port: service.port,
        network: backend.change.network_back,
        transport: backend.change.transport_back,
    };
    translate_quickly(frame, packet, &new)
}

#[inline(always)]
fn translate_quickly(frame: &mut [u8], packet: &Packet, new: &New) -> bool {
    // Only an untagged IPv4 packet without options has its transport header there.
    let is_tcp = packet.protocol == protocol::TCP;
    if usize::from(packet.transport) != 14 + ipv4::LEN
        || !(is_tcp || packet.protocol == protocol::UDP)
    {
        return translate(frame, packet, new).is_ok();
    }
    let Some(head) = frame.first_chunk_mut::<QUICK>() else {
        return translate(frame, packet, new).is_ok();
    };
    if packet.ttl <= 1 {
        return false;
    }
    head[22] = packet.ttl - 1;
    [head[24], head[25]] = new.network.apply([head[24], head[25]]);
    let (address, port) = match new.end {
        End::Source => (26, 34),
        End::Destination => (30, 36),
    };
    head[address..address + 4].copy_from_slice(&new.address.to_v4());
    if new.port != [0, 0] {
        [head[port], head[port + 1]] = new.port;
    }
    if is_tcp {
        const AT: usize = 14 + ipv4::LEN + tcp::CHECKSUM;
        [head[AT], head[AT + 1]] = new.transport.apply([head[AT], head[AT + 1]]);
    } else {
        const AT: usize = 14 + ipv4::LEN + udp::CHECKSUM;
        [head[AT], head[AT + 1]] = new.transport.apply_udp([head[AT], head[AT + 1]]);
    }
    true
}

/// Ports lie first in TCP and UDP alike.
#[inline(always)]
fn set_port<const LEN: usize>(header: &mut [u8; LEN], new: &New) {
    if new.port == [0, 0] {
        return;
    }
    let at = match new.end {
        End::Source => 0,
        End::Destination => 2,
    };
    [header[at], header[at + 1]] = new.port;
}
