//! ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861): answering for the addresses that are
//! played here, and asking for the next hop's MAC.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv6Packet, Icmpv6Repr,
    NdiscNeighborFlags, NdiscRepr, RawHardwareAddress,
};
use weir_engine::wire::ethernet::{self, MacAddr, ethertype};
use weir_engine::wire::{ipv6, protocol};

use crate::frame::Link;

/// Neighbour messages are valid with this hop limit only (RFC 4861, section 7.1).
const HOPS: u8 = 255;

/// A neighbour message, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// "Who has `target`?"
    Question {
        /// The address asked for.
        target: IpAddr,
        /// Who asks; `None` in an IPv6 probe for duplicates, which has no address yet.
        asker: Option<IpAddr>,
        /// The asker's MAC.
        mac: MacAddr,
        /// The tag of the frame.
        vlan: Option<u16>,
    },
    /// "`address` is at `mac`."
    Answer {
        /// The address.
        address: IpAddr,
        /// Its MAC.
        mac: MacAddr,
    },
}

/// Reads a neighbour message; `None` for anything else, damaged or not.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Message> {
    let header = frame.first_chunk::<{ ethernet::LEN }>()?;
    let (mut kind, mut at, mut vlan) = (ethertype(header), ethernet::LEN, None);
    if kind == ethertype::VLAN {
        let tag = frame.get(14..18)?;
        vlan = Some(u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff);
        kind = u16::from_be_bytes([tag[2], tag[3]]);
        at += ethernet::TAG_LEN;
    }
    match kind {
        ethertype::ARP => read_arp(frame.get(at..)?, vlan),
        ethertype::IPV6 => read_ndp(frame.get(at..)?, ethernet::source(header), vlan),
        _ => None,
    }
}

fn read_arp(packet: &[u8], vlan: Option<u16>) -> Option<Message> {
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&ArpPacket::new_checked(packet).ok()?).ok()?
    else {
        return None;
    };
    let mac = MacAddr(source_hardware_addr.0);
    match operation {
        ArpOperation::Request => Some(Message::Question {
            target: target_protocol_addr.into(),
            asker: Some(source_protocol_addr.into()),
            mac,
            vlan,
        }),
        ArpOperation::Reply => Some(Message::Answer {
            address: source_protocol_addr.into(),
            mac,
        }),
        ArpOperation::Unknown(_) => None,
    }
}

fn read_ndp(packet: &[u8], link_source: MacAddr, vlan: Option<u16>) -> Option<Message> {
    let header = ipv6::Header(packet.first_chunk()?);
    if header.next_header() != protocol::ICMPV6 || header.hop_limit() != HOPS {
        return None;
    }
    let (source, destination) = ((*header.source()).into(), (*header.destination()).into());
    let body = packet.get(ipv6::LEN..ipv6::LEN + header.payload_len())?;
    let body = Icmpv6Packet::new_checked(body).ok()?;
    let repr = Icmpv6Repr::parse(
        &source,
        &destination,
        &body,
        &ChecksumCapabilities::default(),
    )
    .ok()?;
    let mac_of = |option: Option<RawHardwareAddress>| {
        option
            .and_then(|raw| raw.as_bytes().first_chunk().copied())
            .map_or(link_source, MacAddr)
    };
    match repr {
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit {
            target_addr,
            lladdr,
        }) => Some(Message::Question {
            target: target_addr.into(),
            asker: (!source.is_unspecified()).then(|| source.into()),
            mac: mac_of(lladdr),
            vlan,
        }),
        Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
            target_addr,
            lladdr,
            ..
        }) => Some(Message::Answer {
            address: target_addr.into(),
            mac: mac_of(lladdr),
        }),
        _ => None,
    }
}

/// The answer to a question about an address that is played here with MAC `mac`; `None` if the
/// question's addresses are of different families, which [`read`] never gives.
#[must_use]
pub fn answer(question: &Message, mac: MacAddr) -> Option<Vec<u8>> {
    let Message::Question {
        target,
        asker,
        mac: asker_mac,
        vlan,
    } = *question
    else {
        return None;
    };
    match (target, asker) {
        (IpAddr::V4(target), Some(IpAddr::V4(asker))) => {
            let link = Link {
                destination: asker_mac,
                source: mac,
                vlan,
            };
            Some(arp(
                &link,
                ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Reply,
                    source_hardware_addr: EthernetAddress(mac.0),
                    source_protocol_addr: target,
                    target_hardware_addr: EthernetAddress(asker_mac.0),
                    target_protocol_addr: asker,
                },
            ))
        }
        (IpAddr::V6(target), asker) => {
            // A probe for duplicates is answered to all nodes: RFC 4861, section 7.2.4.
            let (destination, flags) = match asker {
                Some(IpAddr::V6(asker)) => (
                    asker,
                    NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE,
                ),
                Some(IpAddr::V4(_)) => return None,
                None => (
                    std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
                    NdiscNeighborFlags::OVERRIDE,
                ),
            };
            let link_destination = if asker.is_some() {
                asker_mac
            } else {
                MacAddr::of_ipv6_multicast(&destination.octets())
            };
            let link = Link {
                destination: link_destination,
                source: mac,
                vlan,
            };
            let advert = NdiscRepr::NeighborAdvert {
                flags,
                target_addr: target,
                lladdr: Some(EthernetAddress(mac.0).into()),
            };
            Some(ndp(&link, target, destination, advert))
        }
        _ => None,
    }
}

/// The question for `target`'s MAC, asked by `asker`; `None` if they are of different families.
#[must_use]
pub fn question(target: IpAddr, asker: IpAddr, mac: MacAddr, vlan: Option<u16>) -> Option<Vec<u8>> {
    match (target, asker) {
        (IpAddr::V4(target), IpAddr::V4(asker)) => {
            let link = Link {
                destination: MacAddr::BROADCAST,
                source: mac,
                vlan,
            };
            Some(arp(
                &link,
                ArpRepr::EthernetIpv4 {
                    operation: ArpOperation::Request,
                    source_hardware_addr: EthernetAddress(mac.0),
                    source_protocol_addr: asker,
                    target_hardware_addr: EthernetAddress([0; 6]),
                    target_protocol_addr: target,
                },
            ))
        }
        (IpAddr::V6(target), IpAddr::V6(asker)) => {
            // The solicited-node address: RFC 4291, section 2.7.1.
            let [.., a, b, c] = target.octets();
            let group = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c];
            let link = Link {
                destination: MacAddr::of_ipv6_multicast(&group),
                source: mac,
                vlan,
            };
            let solicit = NdiscRepr::NeighborSolicit {
                target_addr: target,
                lladdr: Some(EthernetAddress(mac.0).into()),
            };
            Some(ndp(&link, asker, group.into(), solicit))
        }
        _ => None,
    }
}

fn arp(link: &Link, repr: ArpRepr) -> Vec<u8> {
    let start = link.header_len();
    let mut frame = vec![0; (start + repr.buffer_len()).max(ethernet::MIN_FRAME)];
    link.write(ethertype::ARP, &mut frame);
    repr.emit(&mut ArpPacket::new_unchecked(
        &mut frame[start..start + repr.buffer_len()],
    ));
    frame
}

fn ndp(
    link: &Link,
    source: std::net::Ipv6Addr,
    destination: std::net::Ipv6Addr,
    repr: NdiscRepr<'_>,
) -> Vec<u8> {
    let repr = Icmpv6Repr::Ndisc(repr);
    let start = link.header_len();
    let body = start + ipv6::LEN;
    let mut frame = vec![0; body + repr.buffer_len()];
    link.write(ethertype::IPV6, &mut frame);
    let header = &mut frame[start..body];
    header[0] = 0x60;
    header[4..6].copy_from_slice(&(repr.buffer_len() as u16).to_be_bytes());
    header[6] = protocol::ICMPV6;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    let mut packet = Icmpv6Packet::new_unchecked(&mut frame[body..]);
    repr.emit(
        &source,
        &destination,
        &mut packet,
        &ChecksumCapabilities::default(),
    );
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const THERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_question_is_answered_to_its_asker_in_both_families() {
        for (target, asker) in [("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")] {
            for vlan in [None, Some(7)] {
                let (target, asker) = (target.parse().unwrap(), asker.parse().unwrap());
                let asked = question(target, asker, HERE, vlan).unwrap();
                let read_question = read(&asked).unwrap();
                assert_eq!(
                    read_question,
                    Message::Question {
                        target,
                        asker: Some(asker),
                        mac: HERE,
                        vlan
                    }
                );
                let answered = answer(&read_question, THERE).unwrap();
                assert_eq!(answered[..12], ethernet::addresses(HERE, THERE));
                assert_eq!(
                    read(&answered),
                    Some(Message::Answer {
                        address: target,
                        mac: THERE
                    })
                );
                assert!(
                    answered.len() >= ethernet::MIN_FRAME && asked.len() >= ethernet::MIN_FRAME
                );
            }
        }
    }

    #[test]
    fn questions_go_to_the_group_that_listens() {
        let v6 = question(
            "2001:db8::12:3456".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
            HERE,
            None,
        )
        .unwrap();
        assert_eq!(v6[..6], [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
        let v4 = question(
            "192.0.2.2".parse().unwrap(),
            "192.0.2.1".parse().unwrap(),
            HERE,
            None,
        )
        .unwrap();
        assert_eq!(v4[..6], [0xff; 6]);
        assert_eq!(
            question(
                "192.0.2.2".parse().unwrap(),
                "::1".parse().unwrap(),
                HERE,
                None
            ),
            None
        );
    }

    #[test]
    fn a_damaged_solicitation_is_not_answered() {
        let mut frame = question(
            "2001:db8::2".parse().unwrap(),
            "2001:db8::1".parse().unwrap(),
            HERE,
            None,
        )
        .unwrap();
        frame[14 + 7] = 64;
        assert_eq!(read(&frame), None, "hop limit below 255");
        frame[14 + 7] = 255;
        frame[60] ^= 1;
        assert_eq!(read(&frame), None, "checksum");
    }

    proptest! {
        #[test]
        fn no_bytes_crash_it(body in proptest::collection::vec(any::<u8>(), 0..120), cut in 0usize..100, at in 14usize..80, byte: u8) {
            let _ = read(&body);
            let mut frame = question("2001:db8::2".parse().unwrap(), "2001:db8::1".parse().unwrap(), HERE, None).unwrap();
            frame[at] = byte;
            let _ = read(&frame);
            let _ = read(&frame[..frame.len().saturating_sub(cut)]);
        }
    }
}
