//! Writing stamped frames: Ethernet, one optional VLAN tag, IPv4 or IPv6, UDP or TCP, stamp, zeros.
//!
//! The bytes after the stamp are zero, so checksums cost the same whatever the frame's size.

use std::net::{IpAddr, SocketAddr};

use weir_engine::wire::ethernet::{self, MacAddr, ethertype};
use weir_engine::wire::{checksum, ipv4, ipv6, protocol, tcp, udp};

use crate::stamp::{self, Stamp};

/// TTL or hop limit of frames written here.
pub const HOPS: u8 = 64;
/// The window that TCP segments announce.
const WINDOW: u16 = 0xffff;

/// The Ethernet side of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Destination MAC.
    pub destination: MacAddr,
    /// Source MAC.
    pub source: MacAddr,
    /// VLAN identifier of the tag; no tag without.
    pub vlan: Option<u16>,
}

impl Link {
    /// Bytes of the Ethernet header, tag included.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        ethernet::LEN
            + if self.vlan.is_some() {
                ethernet::TAG_LEN
            } else {
                0
            }
    }

    /// Writes the header to the start of `frame`, which has room for it.
    pub(crate) fn write(&self, kind: u16, frame: &mut [u8]) {
        frame[..12].copy_from_slice(&ethernet::addresses(self.destination, self.source));
        if let Some(vlan) = self.vlan {
            frame[12..14].copy_from_slice(&ethertype::VLAN.to_be_bytes());
            frame[14..16].copy_from_slice(&(vlan & 0x0fff).to_be_bytes());
        }
        let at = self.header_len();
        frame[at - 2..at].copy_from_slice(&kind.to_be_bytes());
    }
}

/// The transport header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP, without options.
    Tcp {
        /// Sequence number of the first payload byte (of the SYN, if it has that flag).
        sequence: u32,
        /// Acknowledgement number.
        acknowledgement: u32,
        /// Control bits, see [`tcp::flags`].
        flags: u8,
    },
}

impl Transport {
    /// Bytes of the transport header.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        match self {
            Self::Udp => udp::LEN,
            Self::Tcp { .. } => tcp::LEN,
        }
    }
}

/// One stamped packet, from the IP header up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Who sends.
    pub source: SocketAddr,
    /// To whom; of the source's family.
    pub destination: SocketAddr,
    /// UDP or TCP.
    pub transport: Transport,
    /// The payload's first bytes.
    pub stamp: Stamp,
}

/// Why a frame cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The buffer cannot hold headers and stamp.
    #[error(
        "a frame of {len} bytes (without FCS) cannot hold headers and stamp, which need {needed}"
    )]
    TooShort {
        /// Bytes of the buffer.
        len: usize,
        /// Bytes of headers and stamp.
        needed: usize,
    },
    /// Source and destination are of different families.
    #[error("source and destination are of different address families")]
    MixedFamilies,
}

/// Bytes of headers and stamp, without FCS: the shortest buffer that [`Segment::write`] takes.
#[must_use]
pub const fn shortest(link_header: usize, ipv6: bool, transport_header: usize) -> usize {
    let network = if ipv6 { ipv6::LEN } else { ipv4::LEN };
    link_header + network + transport_header + stamp::LEN
}

impl Segment {
    /// Writes the whole frame over all of `frame`, whose length is the frame's without FCS.
    ///
    /// # Errors
    /// When `frame` is too short for headers and stamp, or the families differ; `frame` is then
    /// unchanged.
    pub fn write(&self, link: &Link, frame: &mut [u8]) -> Result<(), WriteError> {
        let start = link.header_len();
        let needed = shortest(start, self.source.is_ipv6(), self.transport.header_len());
        if frame.len() < needed {
            return Err(WriteError::TooShort {
                len: frame.len(),
                needed,
            });
        }
        if self.source.is_ipv6() != self.destination.is_ipv6() {
            return Err(WriteError::MixedFamilies);
        }
        frame[needed..].fill(0);
        let (kind, network_len, pseudo) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = &mut frame[start..];
                self.write_ipv4(source.octets(), destination.octets(), header);
                (ethertype::IPV4, ipv4::LEN, checksum::sum(&header[12..20]))
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = &mut frame[start..];
                self.write_ipv6(&source.octets(), &destination.octets(), header);
                (ethertype::IPV6, ipv6::LEN, checksum::sum(&header[8..40]))
            }
            _ => return Err(WriteError::MixedFamilies),
        };
        link.write(kind, frame);
        self.write_transport(pseudo, &mut frame[start + network_len..]);
        Ok(())
    }

    fn protocol(&self) -> u8 {
        match self.transport {
            Transport::Udp => protocol::UDP,
            Transport::Tcp { .. } => protocol::TCP,
        }
    }

    fn write_ipv4(&self, source: [u8; 4], destination: [u8; 4], packet: &mut [u8]) {
        let total = packet.len() as u16;
        let header = &mut packet[..ipv4::LEN];
        header.fill(0);
        header[0] = 0x45;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        // Don't Fragment, identification zero: RFC 6864, section 4.1.
        header[6] = 0x40;
        header[8] = HOPS;
        header[9] = self.protocol();
        header[12..16].copy_from_slice(&source);
        header[16..20].copy_from_slice(&destination);
        let check = checksum::of(header);
        header[10..12].copy_from_slice(&check);
    }

    fn write_ipv6(&self, source: &[u8; 16], destination: &[u8; 16], packet: &mut [u8]) {
        let payload = (packet.len() - ipv6::LEN) as u16;
        let header = &mut packet[..ipv6::LEN];
        header[..4].copy_from_slice(&[0x60, 0, 0, 0]);
        header[4..6].copy_from_slice(&payload.to_be_bytes());
        header[6] = self.protocol();
        header[7] = HOPS;
        header[8..24].copy_from_slice(source);
        header[24..40].copy_from_slice(destination);
    }

    /// Writes transport header, stamp and checksum; `pseudo` is the sum of the addresses.
    fn write_transport(&self, pseudo: u64, segment: &mut [u8]) {
        let len = segment.len() as u16;
        let header_len = self.transport.header_len();
        segment[..2].copy_from_slice(&self.source.port().to_be_bytes());
        segment[2..4].copy_from_slice(&self.destination.port().to_be_bytes());
        let checksum_at = match self.transport {
            Transport::Udp => {
                segment[4..6].copy_from_slice(&len.to_be_bytes());
                udp::CHECKSUM
            }
            Transport::Tcp {
                sequence,
                acknowledgement,
                flags,
            } => {
                segment[4..8].copy_from_slice(&sequence.to_be_bytes());
                segment[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
                segment[12] = (tcp::LEN as u8 / 4) << 4;
                segment[13] = flags;
                segment[14..16].copy_from_slice(&WINDOW.to_be_bytes());
                segment[18..20].fill(0);
                tcp::CHECKSUM
            }
        };
        segment[checksum_at..checksum_at + 2].fill(0);
        segment[header_len..header_len + stamp::LEN].copy_from_slice(&self.stamp.to_bytes());
        // What follows the stamp is zero and adds nothing.
        let sum = pseudo
            + pseudo_tail(self.protocol(), len)
            + checksum::sum(&segment[..header_len + stamp::LEN]);
        let check = match ((!checksum::fold(sum)).to_ne_bytes(), self.transport) {
            // Zero would say "not computed": RFC 768.
            ([0, 0], Transport::Udp) => [0xff, 0xff],
            (check, _) => check,
        };
        segment[checksum_at..checksum_at + 2].copy_from_slice(&check);
    }
}

/// The sum of the pseudo-header's protocol and length fields (RFC 9293, section 3.1; RFC 8200,
/// section 8.1), in native order as [`checksum`] keeps it.
#[must_use]
pub fn pseudo_tail(protocol: u8, len: u16) -> u64 {
    checksum::sum(&[0, protocol]) + checksum::sum(&len.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Kind;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice, VlanSlice};
    use proptest::prelude::*;

    const MACS: (MacAddr, MacAddr) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));

    fn any_segment() -> impl Strategy<Value = Segment> {
        let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>())
            .prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        let v6 = (any::<[u8; 16]>(), any::<[u8; 16]>())
            .prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b)));
        let tcp =
            any::<(u32, u32, u8)>().prop_map(|(sequence, acknowledgement, flags)| Transport::Tcp {
                sequence,
                acknowledgement,
                flags: flags & 0x3f,
            });
        let transport = prop_oneof![Just(Transport::Udp), tcp];
        let stamp = any::<(u32, u32, u16, u32)>().prop_map(|(flow, sequence, tag, time)| Stamp {
            kind: Kind::Request,
            flow,
            sequence,
            tag,
            time: u64::from(time),
        });
        (prop_oneof![v4, v6], any::<(u16, u16)>(), transport, stamp).prop_map(
            |((source, destination), (from, to), transport, stamp)| Segment {
                source: SocketAddr::new(source, from),
                destination: SocketAddr::new(destination, to),
                transport,
                stamp,
            },
        )
    }

    proptest! {
        /// The oracle is etherparse: lengths, addresses, ports and all checksums.
        #[test]
        fn frames_are_what_another_parser_reads(
            segment in any_segment(),
            vlan in proptest::option::of(0u16..4096),
            extra in 0usize..1400,
            dirt: u8,
        ) {
            let link = Link { destination: MACS.0, source: MACS.1, vlan };
            let needed = shortest(link.header_len(), segment.source.is_ipv6(), segment.transport.header_len());
            let mut frame = vec![dirt; needed + extra];
            segment.write(&link, &mut frame).unwrap();

            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            let tag = match packet.vlan() {
                Some(VlanSlice::SingleVlan(tag)) => Some(tag.vlan_identifier().value()),
                _ => None,
            };
            prop_assert_eq!(tag, vlan);
            let (source, destination) = match packet.net.as_ref().unwrap() {
                NetSlice::Ipv4(v4) => {
                    let header = v4.header().to_header();
                    prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                    prop_assert_eq!(usize::from(header.total_len), frame.len() - link.header_len());
                    (IpAddr::from(header.source), IpAddr::from(header.destination))
                }
                NetSlice::Ipv6(v6) => {
                    let header = v6.header().to_header();
                    prop_assert_eq!(usize::from(header.payload_length), frame.len() - link.header_len() - 40);
                    (IpAddr::from(header.source), IpAddr::from(header.destination))
                }
                other => panic!("no IP: {other:?}"),
            };
            prop_assert_eq!((source, destination), (segment.source.ip(), segment.destination.ip()));
            let ip = match (source, destination) {
                (IpAddr::V4(s), IpAddr::V4(d)) => Ok((s.octets(), d.octets())),
                (IpAddr::V6(s), IpAddr::V6(d)) => Err((s.octets(), d.octets())),
                _ => unreachable!(),
            };
            let payload = match packet.transport.unwrap() {
                TransportSlice::Udp(slice) => {
                    let header = slice.to_header();
                    let expected = match ip {
                        Ok((s, d)) => header.calc_checksum_ipv4_raw(s, d, slice.payload()).unwrap(),
                        Err((s, d)) => header.calc_checksum_ipv6_raw(s, d, slice.payload()).unwrap(),
                    };
                    prop_assert_eq!(header.checksum, expected);
                    prop_assert_ne!(header.checksum, 0);
                    prop_assert_eq!(header.source_port, segment.source.port());
                    slice.payload().to_vec()
                }
                TransportSlice::Tcp(slice) => {
                    let header = slice.to_header();
                    let expected = match ip {
                        Ok((s, d)) => header.calc_checksum_ipv4_raw(s, d, slice.payload()).unwrap(),
                        Err((s, d)) => header.calc_checksum_ipv6_raw(s, d, slice.payload()).unwrap(),
                    };
                    prop_assert_eq!(header.checksum, expected);
                    prop_assert_eq!(header.destination_port, segment.destination.port());
                    let Transport::Tcp { sequence, acknowledgement, flags } = segment.transport else {
                        panic!("a TCP header in a UDP segment");
                    };
                    prop_assert_eq!((header.sequence_number, header.acknowledgment_number), (sequence, acknowledgement));
                    prop_assert_eq!(slice.slice()[13], flags);
                    slice.payload().to_vec()
                }
                other => panic!("no transport: {other:?}"),
            };
            prop_assert_eq!(payload.len(), stamp::LEN + extra);
            prop_assert_eq!(Stamp::read(&payload), Some(segment.stamp));
            prop_assert!(payload[stamp::LEN..].iter().all(|byte| *byte == 0));
        }

        #[test]
        fn too_short_a_buffer_is_refused_unchanged(segment in any_segment(), missing in 1usize..80) {
            let link = Link { destination: MACS.0, source: MACS.1, vlan: None };
            let needed = shortest(link.header_len(), segment.source.is_ipv6(), segment.transport.header_len());
            let len = needed.saturating_sub(missing);
            let mut frame = vec![7; len];
            prop_assert_eq!(segment.write(&link, &mut frame), Err(WriteError::TooShort { len, needed }));
            prop_assert!(frame.iter().all(|byte| *byte == 7));
        }
    }
}
