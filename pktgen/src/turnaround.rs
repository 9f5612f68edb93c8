//! Turning a stamped packet around in place: what a backend would answer.

use weir_engine::wire::checksum::Delta;
use weir_engine::wire::tcp::{self, flags};
use weir_engine::wire::{ethernet, udp};

use crate::frame::{HOPS, Transport};
use crate::receive::Packet;
use crate::stamp::{self, Kind};
use crate::traffic::server_isn;

/// Turns a stamped packet around: addresses and ports swapped, a fresh TTL, the backend's number in
/// the stamp, and for TCP the segment that a server would send.
pub fn answer(frame: &mut [u8], packet: &Packet, backend: u16) {
    let macs = ethernet::addresses(packet.source_mac, packet.destination_mac);
    frame[..12].copy_from_slice(&macs);
    let network = &mut frame[packet.network..packet.segment];
    if packet.source.is_ipv4() {
        let old = [network[8], network[9]];
        network[8] = HOPS;
        let delta = Delta::none().word16(old, [network[8], network[9]]);
        [network[10], network[11]] = delta.apply([network[10], network[11]]);
        let (source, destination) = network[12..20].split_at_mut(4);
        source.swap_with_slice(destination);
    } else {
        network[7] = HOPS;
        let (source, destination) = network[8..40].split_at_mut(16);
        source.swap_with_slice(destination);
    }
    // Swapped addresses and ports leave the checksum's sum as it is; what follows does not.
    let payload = packet.payload.start - packet.segment;
    let payload_len = packet.payload.len() as u32;
    let segment = &mut frame[packet.segment..packet.payload.end];
    let (source, destination) = segment[..4].split_at_mut(2);
    source.swap_with_slice(destination);
    let mut delta = Delta::none();
    let mut put = |at: usize, new: [u8; 2]| {
        delta = delta.word16([segment[at], segment[at + 1]], new);
        [segment[at], segment[at + 1]] = new;
    };
    put(payload + stamp::MAGIC, Kind::Answer.magic());
    put(payload + stamp::TAG, backend.to_be_bytes());
    match packet.transport {
        Transport::Udp => {
            let check = [segment[udp::CHECKSUM], segment[udp::CHECKSUM + 1]];
            [segment[udp::CHECKSUM], segment[udp::CHECKSUM + 1]] = delta.apply_udp(check);
        }
        Transport::Tcp {
            sequence,
            acknowledgement,
            flags: asked,
        } => {
            let (mine, control) = if asked & flags::SYN != 0 {
                (server_isn(sequence), flags::SYN | flags::ACK)
            } else {
                (acknowledgement, flags::ACK | asked & flags::FIN)
            };
            let consumed = u32::from(asked & (flags::SYN | flags::FIN) != 0) + payload_len;
            let [a, b, c, d] = mine.to_be_bytes();
            put(4, [a, b]);
            put(6, [c, d]);
            let [a, b, c, d] = sequence.wrapping_add(consumed).to_be_bytes();
            put(8, [a, b]);
            put(10, [c, d]);
            let offset = frame[packet.segment + 12];
            let segment = &mut frame[packet.segment..packet.payload.end];
            delta = delta.word16([offset, segment[13]], [offset, control]);
            segment[13] = control;
            let check = [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]];
            [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]] = delta.apply(check);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Link, Segment};
    use crate::receive::{self, Frame};
    use crate::stamp::Stamp;
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use weir_engine::wire::ethernet::MacAddr;

    fn request(to: &str, flow: u32, transport: Transport, size: usize) -> Vec<u8> {
        let destination: SocketAddr = to.parse().unwrap();
        let source = if destination.is_ipv4() {
            "198.18.0.1:1024"
        } else {
            "[2001:2::1]:1024"
        };
        let segment = Segment {
            source: source.parse().unwrap(),
            destination,
            transport,
            stamp: Stamp {
                kind: Kind::Request,
                flow,
                sequence: 0,
                tag: 3,
                time: 77,
            },
        };
        let mut frame = vec![0; size];
        let link = Link {
            destination: MacAddr([2; 6]),
            source: MacAddr([4; 6]),
            vlan: None,
        };
        segment.write(&link, &mut frame).unwrap();
        frame
    }

    fn read(frame: &[u8]) -> Packet {
        match receive::read(frame) {
            Frame::Packet(packet) => packet,
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn an_answer_goes_back_intact_with_the_backends_number(
            flow: u32, sequence: u32, acknowledgement: u32, control in 0usize..4, v6: bool, extra in 0usize..50,
        ) {
            let to = if v6 { "[2001:db8::b]:80" } else { "10.0.0.12:80" };
            let transport = match control {
                0 => Transport::Udp,
                1 => Transport::Tcp { sequence, acknowledgement: 0, flags: flags::SYN },
                2 => Transport::Tcp { sequence, acknowledgement, flags: flags::ACK | flags::PSH },
                _ => Transport::Tcp { sequence, acknowledgement, flags: flags::ACK | flags::FIN },
            };
            let mut frame = request(to, flow, transport, 100 + extra);
            let asked = read(&frame);
            answer(&mut frame, &asked, 1);
            let given = read(&frame);
            prop_assert!(given.intact);
            prop_assert_eq!((given.source, given.destination), (asked.destination, asked.source));
            prop_assert_eq!((given.source_mac, given.destination_mac), (asked.destination_mac, asked.source_mac));
            let stamp = Stamp::read(&frame[given.payload.clone()]).unwrap();
            prop_assert_eq!(stamp, Stamp { kind: Kind::Answer, flow, sequence: 0, tag: 1, time: 77 });
            let len = given.payload.len() as u32;
            let expected = match control {
                0 => Transport::Udp,
                1 => Transport::Tcp {
                    sequence: server_isn(sequence),
                    acknowledgement: sequence.wrapping_add(1 + len),
                    flags: flags::SYN | flags::ACK,
                },
                2 => Transport::Tcp {
                    sequence: acknowledgement,
                    acknowledgement: sequence.wrapping_add(len),
                    flags: flags::ACK,
                },
                _ => Transport::Tcp {
                    sequence: acknowledgement,
                    acknowledgement: sequence.wrapping_add(1 + len),
                    flags: flags::ACK | flags::FIN,
                },
            };
            prop_assert_eq!(given.transport, expected);
        }
    }

    #[test]
    fn an_unchecked_datagram_is_answered_unchecked() {
        let mut frame = request("10.0.0.11:80", 0, Transport::Udp, 80);
        frame[40..42].fill(0);
        let asked = read(&frame);
        answer(&mut frame, &asked, 1);
        assert_eq!(frame[40..42], [0, 0]);
        assert!(read(&frame).intact);
    }
}
