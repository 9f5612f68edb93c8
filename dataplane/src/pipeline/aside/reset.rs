//! TCP resets: what a client gets whose connection cannot go on.
//!
//! Read first: RFC 9293, section 3.5.2 (which number a reset must carry to be believed) and section
//! 3.10.7.1. A reset is made in place and leaves by the port that the segment came in by.

use weir_engine::buffer::Buffer;
use weir_engine::wire::tcp::flags;
use weir_engine::wire::{checksum, ipv4, protocol};
use weir_shm::counters::DropReason;

use super::Aside;
use crate::address::Version;
use crate::parse::Packet;
use crate::pipeline::rewrite::Outcome;

/// Bytes of a TCP header without options.
const TCP: usize = 20;
/// Bytes of an IPv6 header.
const IPV6: usize = 40;
/// TTL and hop limit.
const TTL: u8 = 64;

impl<B: Buffer> Aside<'_, B> {
    /// A segment whose connection is to be reset.
    pub(super) fn reset(&self, frame: &mut B, packet: &Packet) -> Outcome {
        match make_reset(frame, packet) {
            Some(()) => {
                self.told_off(packet);
                Outcome::Answer(self.port)
            }
            None => Outcome::Drop(DropReason::NoBackend),
        }
    }
}

/// Turns a segment into the reset that answers it. `None` when nothing may answer it: a reset is
/// never answered by a reset.
pub fn make_reset<B: Buffer>(frame: &mut B, packet: &Packet) -> Option<()> {
    let network = usize::from(packet.network);
    let answer = {
        let data = frame.data();
        let end = network + usize::from(packet.ip_len);
        let segment = data.get(usize::from(packet.transport)..end)?;
        Answer::to(segment)?
    };
    let (header, from, to) = match packet.version {
        Version::V4 => (ipv4::LEN, 16..20, 12..16),
        Version::V6 => (IPV6, 24..40, 8..24),
    };
    let ip = frame.data().get(network..network + header)?;
    let mut addresses = [0; 32];
    let length = from.len();
    addresses.get_mut(..length)?.copy_from_slice(ip.get(from)?);
    addresses
        .get_mut(length..2 * length)?
        .copy_from_slice(ip.get(to)?);
    let addresses = addresses.get(..2 * length)?;
    let surplus = frame.len().checked_sub(network + header + TCP)?;
    frame.trim_back(surplus).ok()?;
    let data = frame.data_mut();
    data.first_chunk_mut::<12>()?.rotate_left(6);
    let (ip, tcp) = data.get_mut(network..)?.split_at_mut_checked(header)?;
    answer.write(tcp.first_chunk_mut()?, addresses);
    match packet.version {
        Version::V4 => {
            let ip: &mut [u8; ipv4::LEN] = ip.first_chunk_mut()?;
            *ip = [0; ipv4::LEN];
            ip[0] = 0x45;
            ip[3] = (ipv4::LEN + TCP) as u8;
            // Not to be fragmented, so that the identification may be zero (RFC 6864, section 4.1).
            ip[6] = 0x40;
            ip[8] = TTL;
            ip[9] = protocol::TCP;
            ip.get_mut(12..20)?.copy_from_slice(addresses);
            [ip[10], ip[11]] = checksum::of(ip);
        }
        Version::V6 => {
            let ip: &mut [u8; IPV6] = ip.first_chunk_mut()?;
            ip[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, TCP as u8, protocol::TCP, TTL]);
            ip.get_mut(8..40)?.copy_from_slice(addresses);
        }
    }
    Some(())
}

/// The fields of a reset that depend on what it answers.
struct Answer {
    ports: [u8; 4],
    sequence: u32,
    acknowledgement: u32,
    flags: u8,
}

impl Answer {
    /// RFC 9293, section 3.10.7.1: with the number that the peer expects next, if it said; else with
    /// an acknowledgement of everything that it sent.
    fn to(segment: &[u8]) -> Option<Self> {
        let header: &[u8; TCP] = segment.first_chunk()?;
        let word = |at: usize| {
            let bytes = header.get(at..).and_then(|rest| rest.first_chunk::<4>());
            bytes.map(|bytes| u32::from_be_bytes(*bytes))
        };
        let found = header[13];
        if found & flags::RST != 0 {
            return None;
        }
        let ports = [header[2], header[3], header[0], header[1]];
        if found & flags::ACK != 0 {
            return Some(Self {
                ports,
                sequence: word(8)?,
                acknowledgement: 0,
                flags: flags::RST,
            });
        }
        let offset = usize::from(header[12] >> 4) * 4;
        let payload = segment.len().checked_sub(offset)? as u32;
        let syn = u32::from(found & flags::SYN != 0);
        let fin = u32::from(found & flags::FIN != 0);
        Some(Self {
            ports,
            sequence: 0,
            acknowledgement: word(4)?.wrapping_add(payload + syn + fin),
            flags: flags::RST | flags::ACK,
        })
    }

    /// Writes the header, its checksum over `addresses`, source first.
    fn write(&self, tcp: &mut [u8; TCP], addresses: &[u8]) {
        *tcp = [0; TCP];
        tcp[..4].copy_from_slice(&self.ports);
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        tcp[12] = (TCP as u8 / 4) << 4;
        tcp[13] = self.flags;
        let pseudo = [0, protocol::TCP, 0, TCP as u8];
        let sum = checksum::sum(addresses) + checksum::sum(&pseudo) + checksum::sum(tcp);
        [tcp[16], tcp[17]] = (!checksum::fold(sum)).to_ne_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Accepts, Filter, Kind, parse};
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use weir_engine::buffer::HeapBuffer;

    /// The reset that answers a frame, read by an independent implementation, which checks sums.
    fn reset(bytes: &[u8]) -> Option<etherparse::TcpHeader> {
        let mut packet = Packet::default();
        let any = Accepts {
            mac: None,
            vlan: None,
            groups: false,
        };
        let kind = parse(bytes, &Filter::from(any), &mut packet);
        assert!(matches!(kind, Ok(Kind::Transport)), "{kind:?}");
        let mut frame = HeapBuffer::new(bytes);
        make_reset(&mut frame, &packet)?;
        let data = frame.data();
        assert_eq!((&data[..6], &data[6..12]), (&bytes[6..12], &bytes[..6]));
        let sliced = SlicedPacket::from_ethernet(data).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else {
            panic!("no TCP")
        };
        let header = tcp.to_header();
        let sum = match sliced.net.unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                assert_eq!(ip.calc_header_checksum(), ip.header_checksum);
                header.calc_checksum_ipv4(&ip, &[]).unwrap()
            }
            etherparse::NetSlice::Ipv6(ip) => header
                .calc_checksum_ipv6(&ip.header().to_header(), &[])
                .unwrap(),
            other => panic!("{other:?}"),
        };
        assert_eq!(sum, header.checksum);
        assert!(header.rst && tcp.payload().is_empty());
        Some(header)
    }

    fn built(v6: bool, edit: impl FnOnce(&mut etherparse::TcpHeader), payload: &[u8]) -> Vec<u8> {
        let mut header = etherparse::TcpHeader::new(51_234, 80, 1000, 4096);
        edit(&mut header);
        let link = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut bytes = Vec::new();
        if v6 {
            let (a, b) = ([0x20; 16], [0x21; 16]);
            let builder = link.ipv6(a, b, 64).tcp_header(header);
            builder.write(&mut bytes, payload).unwrap();
        } else {
            let builder = link
                .ipv4([203, 0, 113, 5], [198, 51, 100, 10], 64)
                .tcp_header(header);
            builder.write(&mut bytes, payload).unwrap();
        }
        bytes
    }

    #[test]
    fn a_segment_with_an_acknowledgement_gets_that_number() {
        for v6 in [false, true] {
            let bytes = built(
                v6,
                |tcp| (tcp.ack, tcp.acknowledgment_number) = (true, 7777),
                b"hello",
            );
            let reset = reset(&bytes).unwrap();
            assert_eq!((reset.sequence_number, reset.ack), (7777, false));
            assert_eq!((reset.source_port, reset.destination_port), (80, 51_234));
        }
    }

    #[test]
    fn a_segment_without_one_gets_all_of_it_acknowledged() {
        let bytes = built(false, |tcp| tcp.fin = true, b"hello");
        let reset = reset(&bytes).unwrap();
        assert_eq!((reset.sequence_number, reset.ack), (0, true));
        assert_eq!(reset.acknowledgment_number, 1006);
    }

    #[test]
    fn a_reset_is_never_answered_by_a_reset() {
        assert!(reset(&built(true, |tcp| tcp.rst = true, b"")).is_none());
    }

    #[test]
    fn options_of_the_segment_do_not_come_back() {
        let options = [etherparse::TcpOptionElement::Timestamp(1, 2)];
        let bytes = built(
            false,
            |tcp| {
                tcp.set_options(&options).unwrap();
                (tcp.ack, tcp.acknowledgment_number) = (true, 5);
            },
            b"data",
        );
        assert_eq!(reset(&bytes).unwrap().options.len(), 0);
    }
}
