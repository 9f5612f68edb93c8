//! The IP packets of checks: datagrams and echo requests are written, and whatever comes back is
//! read as far as a check must understand it.
//!
//! Read first: RFC 768, RFC 792, RFC 4443. Written and read by smoltcp's wire types.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    IpRepr, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket, UdpRepr,
};

/// TTL and hop limit (RFC 1700's default).
const TTL: u8 = 64;

/// What came in for a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A TCP segment to this port.
    Tcp(u16),
    /// A datagram: from which port, to which, and what it says.
    Udp {
        /// The peer's port.
        from: u16,
        /// weir's port.
        to: u16,
        /// What it says.
        payload: &'a [u8],
    },
    /// An answer to an echo request with this identifier and sequence number.
    Echo(u16, u16),
    /// A packet of ours did not arrive: where it went, by which port or identifier it was sent,
    /// and why it did not arrive.
    Unreachable(IpAddr, u16, &'static str),
}

/// A UDP datagram as an IP packet.
#[must_use]
pub fn udp(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let repr = UdpRepr {
        src_port: from.1,
        dst_port: to.1,
    };
    ip(
        from.0,
        to.0,
        IpProtocol::Udp,
        repr.header_len() + payload.len(),
        |bytes| {
            let mut packet = UdpPacket::new_unchecked(bytes);
            repr.emit(
                &mut packet,
                &from.0.into(),
                &to.0.into(),
                payload.len(),
                |room| room.copy_from_slice(payload),
                &ChecksumCapabilities::default(),
            );
        },
    )
}

/// An echo request as an IP packet.
#[must_use]
pub fn echo(from: IpAddr, to: IpAddr, ident: u16, seq_no: u16) -> Vec<u8> {
    const DATA: &[u8] = b"weir health check";
    let checksums = ChecksumCapabilities::default();
    match (from, to) {
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let repr = Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data: DATA,
            };
            ip(from, to, IpProtocol::Icmpv6, repr.buffer_len(), |bytes| {
                let mut packet = Icmpv6Packet::new_unchecked(bytes);
                repr.emit(&source, &target, &mut packet, &checksums);
            })
        }
        _ => {
            let repr = Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data: DATA,
            };
            ip(from, to, IpProtocol::Icmp, repr.buffer_len(), |bytes| {
                repr.emit(&mut Icmpv4Packet::new_unchecked(bytes), &checksums);
            })
        }
    }
}

fn ip(
    from: IpAddr,
    to: IpAddr,
    protocol: IpProtocol,
    length: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let header = IpRepr::new(from.into(), to.into(), protocol, length, TTL);
    let mut packet = vec![0; header.buffer_len()];
    let start = header.header_len();
    if let Some(payload) = packet.get_mut(start..) {
        emit(payload);
    }
    header.emit(packet.as_mut_slice(), &ChecksumCapabilities::default());
    packet
}

/// Reads an IP packet: who sent it, to whom, and what it means to a check. `None` when it means
/// nothing, or is malformed.
#[must_use]
pub fn read(packet: &[u8]) -> Option<(IpAddr, IpAddr, Heard<'_>)> {
    match packet.first()? >> 4 {
        4 => {
            let packet = Ipv4Packet::new_checked(packet).ok()?;
            let (source, destination) = (packet.src_addr(), packet.dst_addr());
            let heard = match packet.next_header() {
                IpProtocol::Icmp => icmpv4(packet.payload())?,
                other => transport(source.into(), destination.into(), other, packet.payload())?,
            };
            Some((source.into(), destination.into(), heard))
        }
        6 => {
            let packet = Ipv6Packet::new_checked(packet).ok()?;
            let (source, destination) = (packet.src_addr(), packet.dst_addr());
            let heard = match packet.next_header() {
                IpProtocol::Icmpv6 => {
                    let icmp = Icmpv6Packet::new_checked(packet.payload()).ok()?;
                    if !icmp.verify_checksum(&source, &destination) {
                        return None;
                    }
                    icmpv6(packet.payload())?
                }
                other => transport(source.into(), destination.into(), other, packet.payload())?,
            };
            Some((source.into(), destination.into(), heard))
        }
        _ => None,
    }
}

fn transport(
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    payload: &[u8],
) -> Option<Heard<'_>> {
    match protocol {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(payload).ok()?;
            // Its checksum is for the connection's own stack to check.
            Some(Heard::Tcp(segment.dst_port()))
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(payload).ok()?;
            if !datagram.verify_checksum(&source.into(), &destination.into()) {
                return None;
            }
            let (from, to) = (datagram.src_port(), datagram.dst_port());
            let length = usize::from(datagram.len());
            Some(Heard::Udp {
                from,
                to,
                payload: payload.get(8..length)?,
            })
        }
        _ => None,
    }
}

/// The first bytes of a message: identifier and sequence number of an echo.
fn identifiers(message: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *message.get(4..)?.first_chunk::<4>()?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

fn icmpv4(message: &[u8]) -> Option<Heard<'_>> {
    let icmp = Icmpv4Packet::new_checked(message).ok()?;
    if !icmp.verify_checksum() {
        return None;
    }
    match icmp.msg_type() {
        Icmpv4Message::EchoReply => {
            let (ident, seq_no) = identifiers(message)?;
            Some(Heard::Echo(ident, seq_no))
        }
        Icmpv4Message::DstUnreachable => {
            let quoted = message.get(8..)?;
            let header = quoted.first_chunk::<20>()?;
            let length = usize::from(header[0] & 0x0f) * 4;
            let port = quoted_port(IpProtocol::from(header[9]), quoted.get(length..)?)?;
            let target: [u8; 4] = header[16..].try_into().ok()?;
            // RFC 792: the codes of "destination unreachable".
            let why = match icmp.msg_code() {
                0 => "no route to the network",
                1 => "no route to the host",
                3 => "no such port",
                9 | 10 | 13 => "prohibited by a filter",
                _ => "destination unreachable",
            };
            Some(Heard::Unreachable(IpAddr::from(target), port, why))
        }
        _ => None,
    }
}

fn icmpv6(message: &[u8]) -> Option<Heard<'_>> {
    let icmp = Icmpv6Packet::new_checked(message).ok()?;
    match icmp.msg_type() {
        Icmpv6Message::EchoReply => {
            let (ident, seq_no) = identifiers(message)?;
            Some(Heard::Echo(ident, seq_no))
        }
        Icmpv6Message::DstUnreachable => {
            let quoted = message.get(8..)?;
            let header = quoted.first_chunk::<40>()?;
            let port = quoted_port(IpProtocol::from(header[6]), quoted.get(40..)?)?;
            let target: [u8; 16] = header[24..].try_into().ok()?;
            // RFC 4443, section 3.1.
            let why = match icmp.msg_code() {
                0 => "no route to the host",
                1 | 5 | 6 => "prohibited by a filter",
                3 => "the address cannot be reached",
                4 => "no such port",
                _ => "destination unreachable",
            };
            Some(Heard::Unreachable(IpAddr::from(target), port, why))
        }
        _ => None,
    }
}

/// The port or identifier that the quoted packet was sent by.
fn quoted_port(protocol: IpProtocol, transport: &[u8]) -> Option<u16> {
    match protocol {
        IpProtocol::Tcp | IpProtocol::Udp => {
            let [a, b] = *transport.first_chunk::<2>()?;
            Some(u16::from_be_bytes([a, b]))
        }
        IpProtocol::Icmp | IpProtocol::Icmpv6 => Some(identifiers(transport)?.0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// An ICMP error that quotes a packet's header and eight bytes more, as routers send them.
    fn unreachable(packet: &[u8], code: u8) -> Vec<u8> {
        let (source, target) = match packet[0] >> 4 {
            4 => ("10.0.0.11", "10.0.0.1"),
            _ => ("2001:db8::11", "2001:db8::1"),
        };
        let (source, target) = (address(source), address(target));
        let header = if source.is_ipv4() { 20 } else { 40 };
        let kind = if source.is_ipv4() { 3 } else { 1 };
        let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(&packet[..header + 8]);
        let protocol = if source.is_ipv4() {
            IpProtocol::Icmp
        } else {
            IpProtocol::Icmpv6
        };
        ip(source, target, protocol, message.len(), |bytes| {
            bytes.copy_from_slice(&message);
            match (source, target) {
                (IpAddr::V6(source), IpAddr::V6(target)) => {
                    Icmpv6Packet::new_unchecked(bytes).fill_checksum(&source, &target);
                }
                _ => Icmpv4Packet::new_unchecked(bytes).fill_checksum(),
            }
        })
    }

    #[test]
    fn datagrams_are_read_as_they_were_written() {
        for (from, to) in [("10.0.0.1", "10.0.0.11"), ("2001:db8::1", "2001:db8::11")] {
            let (from, to) = (address(from), address(to));
            let packet = udp((from, 4000), (to, 53), b"question");
            let heard = Heard::Udp {
                from: 4000,
                to: 53,
                payload: b"question",
            };
            assert_eq!(read(&packet), Some((from, to, heard)));
            let mut damaged = packet;
            *damaged.last_mut().unwrap() ^= 1;
            assert_eq!(read(&damaged), None);
        }
    }

    #[test]
    fn errors_name_what_they_are_about() {
        for (from, to, code) in [
            ("10.0.0.1", "10.0.0.11", 3),
            ("2001:db8::1", "2001:db8::11", 4),
        ] {
            let (from, to) = (address(from), address(to));
            let (_, _, heard) = read(&unreachable(&udp((from, 4000), (to, 53), b"x"), code))
                .map_or_else(
                    || panic!("not understood"),
                    |(source, destination, heard)| (source, destination, format!("{heard:?}")),
                );
            assert_eq!(
                heard,
                format!("Unreachable({to:?}, 4000, \"no such port\")")
            );
            let error = unreachable(&echo(from, to, 77, 1), code);
            let (_, _, heard) = read(&error).unwrap();
            assert_eq!(heard, Heard::Unreachable(to, 77, "no such port"));
        }
    }

    #[test]
    fn an_echo_request_is_one_that_an_independent_reader_accepts() {
        for (from, to) in [("10.0.0.1", "10.0.0.11"), ("2001:db8::1", "2001:db8::11")] {
            let packet = echo(address(from), address(to), 77, 1);
            let parsed = etherparse::SlicedPacket::from_ip(&packet).unwrap();
            match parsed.transport.unwrap() {
                etherparse::TransportSlice::Icmpv4(icmp) => assert!(matches!(
                    icmp.icmp_type(),
                    etherparse::Icmpv4Type::EchoRequest(header) if header.id == 77
                )),
                etherparse::TransportSlice::Icmpv6(icmp) => {
                    let (IpAddr::V6(from), IpAddr::V6(to)) = (address(from), address(to)) else {
                        panic!("IPv6")
                    };
                    assert!(icmp.is_checksum_valid(from.octets(), to.octets()));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_makes_it_panic(mut bytes: Vec<u8>, version in 4u8..7) {
            let _ = read(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = version << 4 | 5;
            }
            let _ = read(&bytes);
            let mut message = vec![3, 3, 0, 0, 0, 0, 0, 0];
            message.extend(&bytes);
            let _ = (icmpv4(&message), icmpv6(&message));
        }
    }
}
