//! ARP, neighbour discovery and echo for the ports' own addresses and the VIPs.
//!
//! Read first: RFC 826, RFC 5227 (probes), RFC 4861 (sections 7.1 and 7.2), RFC 4443 (section 4),
//! RFC 792. Messages are read and written by smoltcp's wire types. The number of addresses is
//! unbounded (a VIP need not be anybody's interface address), which is why this is not a smoltcp
//! `Interface`.
//!
//! Pure: bytes in, bytes and learned facts out. Who may be answered and what becomes of what was
//! learned is the caller's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv4Message, Icmpv4Packet, Icmpv4Repr,
    Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr, NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};
use weir_engine::wire::ethernet::{self, MacAddr, TAG_LEN, ethertype};
use weir_shm::counters::DropReason;

/// Hop limit of neighbour discovery: proof that a message was not routed (RFC 4861, section 3.1).
const NDP_HOP_LIMIT: u8 = 255;
/// TTL and hop limit of answers (RFC 1700's default).
const TTL: u8 = 64;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What a frame for the control core meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// A neighbour's MAC that the frame told.
    pub learned: Option<Learned>,
    /// The frame to send back by the same port.
    pub reply: Option<Vec<u8>>,
}

/// A neighbour's MAC, and how it became known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learned {
    /// The neighbour.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: MacAddr,
    /// Whether it answered us or asked us; otherwise it told everybody.
    pub directed: bool,
}

/// Reads a frame that came in by a port with address `mac`; `local` says whether an address is a
/// VIP or the port's own.
///
/// # Errors
/// The reason to drop it.
pub fn hear(
    frame: &[u8],
    mac: MacAddr,
    local: impl Fn(IpAddr) -> bool,
) -> Result<Heard, DropReason> {
    let link = Link::of(frame, mac).ok_or(DropReason::Runt)?;
    match link.ethertype {
        ethertype::ARP => hear_arp(&link, local),
        ethertype::IPV4 => hear_ipv4(&link, local),
        ethertype::IPV6 => hear_ipv6(&link, local),
        _ => Err(DropReason::UnknownEthertype),
    }
}

/// A frame's Ethernet header, taken apart so that an answer can be given.
struct Link<'a> {
    mac: MacAddr,
    peer: MacAddr,
    tag: Option<[u8; TAG_LEN]>,
    ethertype: u16,
    payload: &'a [u8],
}

impl<'a> Link<'a> {
    fn of(frame: &'a [u8], mac: MacAddr) -> Option<Self> {
        let (header, payload) = frame.split_first_chunk::<{ ethernet::LEN }>()?;
        let peer = ethernet::source(header);
        let kind = ethertype(header);
        if kind != ethertype::VLAN {
            return Some(Self {
                mac,
                peer,
                tag: None,
                ethertype: kind,
                payload,
            });
        }
        let (rest, payload) = payload.split_first_chunk::<4>()?;
        let tag = Some([header[12], header[13], rest[0], rest[1]]);
        let kind = u16::from_be_bytes([rest[2], rest[3]]);
        Some(Self {
            mac,
            peer,
            tag,
            ethertype: kind,
            payload,
        })
    }

    /// A frame back to where this one came from, with the same tag.
    fn reply(&self, kind: u16, length: usize, emit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        build(self.peer, self.mac, self.tag, kind, length, emit)
    }
}

/// Builds a frame: header, then `length` bytes that `emit` fills, then padding to the minimum.
fn build(
    destination: MacAddr,
    source: MacAddr,
    tag: Option<[u8; TAG_LEN]>,
    kind: u16,
    length: usize,
    emit: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ethernet::MIN_FRAME.max(18 + length));
    frame.extend_from_slice(&ethernet::addresses(destination, source));
    frame.extend_from_slice(tag.as_ref().map_or(&[], |tag| &tag[..]));
    frame.extend_from_slice(&kind.to_be_bytes());
    let start = frame.len();
    frame.resize(start + length, 0);
    emit(&mut frame[start..]);
    frame.resize(frame.len().max(ethernet::MIN_FRAME), 0);
    frame
}

/// The IP packet in a frame, with or without a tag.
#[must_use]
pub fn ip_packet(frame: &[u8]) -> Option<&[u8]> {
    let link = Link::of(frame, MacAddr::default())?;
    matches!(link.ethertype, ethertype::IPV4 | ethertype::IPV6).then_some(link.payload)
}

/// A frame around an IP packet that weir made.
#[must_use]
pub fn frame(to: MacAddr, from: MacAddr, vlan: Option<u16>, packet: &[u8]) -> Vec<u8> {
    let kind = match packet.first().map(|first| first >> 4) {
        Some(6) => ethertype::IPV6,
        _ => ethertype::IPV4,
    };
    build(to, from, tag_of(vlan), kind, packet.len(), |bytes| {
        bytes.copy_from_slice(packet);
    })
}

/// The 802.1Q tag of `vlan`, priority 0.
fn tag_of(vlan: Option<u16>) -> Option<[u8; TAG_LEN]> {
    vlan.map(|vlan| {
        let [a, b] = ethertype::VLAN.to_be_bytes();
        let [c, d] = (vlan & 0x0fff).to_be_bytes();
        [a, b, c, d]
    })
}

fn hear_arp(link: &Link<'_>, local: impl Fn(IpAddr) -> bool) -> Result<Heard, DropReason> {
    let packet = ArpPacket::new_checked(link.payload).map_err(|_| DropReason::ArpMalformed)?;
    let repr = ArpRepr::parse(&packet).map_err(|_| DropReason::ArpMalformed)?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = repr
    else {
        return Err(DropReason::ArpMalformed);
    };
    let mac = MacAddr(source_hardware_addr.0);
    if mac.is_multicast() || local(source_protocol_addr.into()) {
        // A group address is nobody's, and nobody else may claim ours (RFC 5227, section 2.4).
        return Err(DropReason::ArpNotOurs);
    }
    let for_us = local(target_protocol_addr.into());
    let learned = (!source_protocol_addr.is_unspecified()).then_some(Learned {
        address: source_protocol_addr.into(),
        mac,
        directed: for_us,
    });
    match operation {
        ArpOperation::Request if for_us => {
            let repr = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(link.mac.0),
                source_protocol_addr: target_protocol_addr,
                target_hardware_addr: source_hardware_addr,
                target_protocol_addr: source_protocol_addr,
            };
            let reply = link.reply(ethertype::ARP, repr.buffer_len(), |bytes| {
                repr.emit(&mut ArpPacket::new_unchecked(bytes));
            });
            Ok(Heard {
                learned,
                reply: Some(reply),
            })
        }
        ArpOperation::Reply if for_us => Ok(Heard {
            learned,
            reply: None,
        }),
        // Gratuitous: somebody tells everybody where it is now (RFC 5227, section 3).
        _ if source_protocol_addr == target_protocol_addr => Ok(Heard {
            learned,
            reply: None,
        }),
        _ => Err(DropReason::ArpNotOurs),
    }
}

/// A segment or datagram to an address of our own that no check waits for.
const fn nobody_asked(protocol: IpProtocol) -> DropReason {
    match protocol {
        IpProtocol::Tcp | IpProtocol::Udp => DropReason::NoService,
        _ => DropReason::NotOurs,
    }
}

fn hear_ipv4(link: &Link<'_>, local: impl Fn(IpAddr) -> bool) -> Result<Heard, DropReason> {
    let packet = Ipv4Packet::new_checked(link.payload).map_err(|_| DropReason::IpLength)?;
    if !local(packet.dst_addr().into()) {
        return Err(DropReason::NotOurs);
    }
    if packet.next_header() != IpProtocol::Icmp {
        return Err(nobody_asked(packet.next_header()));
    }
    let checksums = ChecksumCapabilities::default();
    let icmp =
        Icmpv4Packet::new_checked(packet.payload()).map_err(|_| DropReason::IcmpMalformed)?;
    if !icmp.verify_checksum() {
        return Err(DropReason::IcmpMalformed);
    }
    if icmp.msg_type() != Icmpv4Message::EchoRequest {
        return Err(DropReason::IcmpUnsupported);
    }
    let Ok(Icmpv4Repr::EchoRequest {
        ident,
        seq_no,
        data,
    }) = Icmpv4Repr::parse(&icmp, &checksums)
    else {
        return Err(DropReason::IcmpMalformed);
    };
    let answer = Icmpv4Repr::EchoReply {
        ident,
        seq_no,
        data,
    };
    let header = Ipv4Repr {
        src_addr: packet.dst_addr(),
        dst_addr: packet.src_addr(),
        next_header: IpProtocol::Icmp,
        payload_len: answer.buffer_len(),
        hop_limit: TTL,
    };
    let length = header.buffer_len() + answer.buffer_len();
    let reply = link.reply(ethertype::IPV4, length, |bytes| {
        let (head, body) = bytes.split_at_mut(header.buffer_len());
        answer.emit(&mut Icmpv4Packet::new_unchecked(body), &checksums);
        // The header's fields are set over the whole packet's length.
        let mut packet = Ipv4Packet::new_unchecked(head);
        header.emit(&mut packet, &checksums);
    });
    Ok(Heard {
        learned: None,
        reply: Some(reply),
    })
}

fn hear_ipv6(link: &Link<'_>, local: impl Fn(IpAddr) -> bool) -> Result<Heard, DropReason> {
    let packet = Ipv6Packet::new_checked(link.payload).map_err(|_| DropReason::IpLength)?;
    if matches!(packet.next_header(), IpProtocol::Tcp | IpProtocol::Udp) {
        return Err(nobody_asked(packet.next_header()));
    }
    if packet.next_header() != IpProtocol::Icmpv6 {
        return Err(DropReason::Ipv6Extension);
    }
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let checksums = ChecksumCapabilities::default();
    let icmp =
        Icmpv6Packet::new_checked(packet.payload()).map_err(|_| DropReason::IcmpMalformed)?;
    if !icmp.verify_checksum(&source, &destination) {
        return Err(DropReason::IcmpMalformed);
    }
    let kind = icmp.msg_type();
    match kind {
        Icmpv6Message::EchoRequest if local(destination.into()) => {
            let Ok(Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data,
            }) = Icmpv6Repr::parse(&source, &destination, &icmp, &checksums)
            else {
                return Err(DropReason::IcmpMalformed);
            };
            let answer = Icmpv6Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            let reply = link.reply_icmpv6(destination, source, TTL, &answer);
            Ok(Heard {
                learned: None,
                reply: Some(reply),
            })
        }
        Icmpv6Message::NeighborSolicit | Icmpv6Message::NeighborAdvert => {
            if packet.hop_limit() != NDP_HOP_LIMIT || icmp.msg_code() != 0 {
                return Err(DropReason::NdpMalformed);
            }
            match Icmpv6Repr::parse(&source, &destination, &icmp, &checksums) {
                Ok(Icmpv6Repr::Ndisc(message)) => hear_ndp(link, source, &message, local),
                _ => Err(DropReason::NdpMalformed),
            }
        }
        Icmpv6Message::RouterSolicit | Icmpv6Message::RouterAdvert | Icmpv6Message::Redirect => {
            Err(DropReason::NdpNotOurs)
        }
        _ if local(destination.into()) => Err(DropReason::IcmpUnsupported),
        _ => Err(DropReason::NotOurs),
    }
}

fn hear_ndp(
    link: &Link<'_>,
    source: Ipv6Addr,
    message: &NdiscRepr<'_>,
    local: impl Fn(IpAddr) -> bool,
) -> Result<Heard, DropReason> {
    match *message {
        NdiscRepr::NeighborSolicit {
            target_addr,
            lladdr,
        } => {
            if !local(target_addr.into()) {
                return Err(DropReason::NdpNotOurs);
            }
            let learned = (!source.is_unspecified())
                .then(|| mac_of(lladdr))
                .flatten()
                .map(|mac| Learned {
                    address: source.into(),
                    mac,
                    directed: true,
                });
            // A probe for a duplicate comes from nobody and is answered to everybody (RFC 4861,
            // section 7.2.4).
            let (to, flags) = if source.is_unspecified() {
                (ALL_NODES, NdiscNeighborFlags::OVERRIDE)
            } else {
                (
                    source,
                    NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
                )
            };
            let answer = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
                flags,
                target_addr,
                lladdr: Some(RawHardwareAddress::from_bytes(&link.mac.0)),
            });
            let reply = link.reply_icmpv6(target_addr, to, NDP_HOP_LIMIT, &answer);
            Ok(Heard {
                learned,
                reply: Some(reply),
            })
        }
        NdiscRepr::NeighborAdvert {
            flags,
            target_addr,
            lladdr,
        } => {
            if local(target_addr.into()) {
                return Err(DropReason::NdpNotOurs);
            }
            let mac = mac_of(lladdr).unwrap_or(link.peer);
            if mac.is_multicast() {
                return Err(DropReason::NdpMalformed);
            }
            let directed = flags.contains(NdiscNeighborFlags::SOLICITED);
            let learned = Learned {
                address: target_addr.into(),
                mac,
                directed,
            };
            Ok(Heard {
                learned: Some(learned),
                reply: None,
            })
        }
        _ => Err(DropReason::NdpNotOurs),
    }
}

fn mac_of(address: Option<RawHardwareAddress>) -> Option<MacAddr> {
    let address = address?;
    address
        .as_bytes()
        .first_chunk::<6>()
        .map(|octets| MacAddr(*octets))
        .filter(|mac| !mac.is_multicast())
}

impl Link<'_> {
    fn reply_icmpv6(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        hop_limit: u8,
        answer: &Icmpv6Repr<'_>,
    ) -> Vec<u8> {
        let to = if destination.is_multicast() {
            MacAddr::of_ipv6_multicast(&destination.octets())
        } else {
            self.peer
        };
        icmpv6(
            to,
            self.mac,
            self.tag,
            (source, destination),
            hop_limit,
            answer,
        )
    }
}

fn icmpv6(
    to: MacAddr,
    from: MacAddr,
    tag: Option<[u8; TAG_LEN]>,
    (source, destination): (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    message: &Icmpv6Repr<'_>,
) -> Vec<u8> {
    let header = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: message.buffer_len(),
        hop_limit,
    };
    let length = header.buffer_len() + message.buffer_len();
    build(to, from, tag, ethertype::IPV6, length, |bytes| {
        let (head, body) = bytes.split_at_mut(header.buffer_len());
        header.emit(&mut Ipv6Packet::new_unchecked(head));
        let mut packet = Icmpv6Packet::new_unchecked(body);
        message.emit(
            &source,
            &destination,
            &mut packet,
            &ChecksumCapabilities::default(),
        );
    })
}

/// An ARP request for `target`, to everybody, or to `known` alone when an address is only checked
/// (RFC 1122, section 2.3.2.1).
#[must_use]
pub fn arp_request(
    mac: MacAddr,
    vlan: Option<u16>,
    source: Ipv4Addr,
    target: Ipv4Addr,
    known: Option<MacAddr>,
) -> Vec<u8> {
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac.0),
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: target,
    };
    let to = known.unwrap_or(MacAddr::BROADCAST);
    build(
        to,
        mac,
        tag_of(vlan),
        ethertype::ARP,
        repr.buffer_len(),
        |bytes| {
            repr.emit(&mut ArpPacket::new_unchecked(bytes));
        },
    )
}

/// A neighbour solicitation for `target`, to its solicited-node group (RFC 4291, section 2.7.1), or
/// to `known` alone when an address is only checked.
#[must_use]
pub fn neighbour_solicitation(
    mac: MacAddr,
    vlan: Option<u16>,
    source: Ipv6Addr,
    target: Ipv6Addr,
    known: Option<MacAddr>,
) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let (to, destination) = match known {
        Some(known) => (known, target),
        None => (MacAddr::of_ipv6_multicast(&group.octets()), group),
    };
    let message = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
        target_addr: target,
        lladdr: Some(RawHardwareAddress::from_bytes(&mac.0)),
    });
    icmpv6(
        to,
        mac,
        tag_of(vlan),
        (source, destination),
        NDP_HOP_LIMIT,
        &message,
    )
}
