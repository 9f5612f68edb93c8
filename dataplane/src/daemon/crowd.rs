//! Who gets room in the queue to the control core when it is crowded.
//!
//! A worker and the control core share one queue for all that weir itself has to see: neighbours,
//! answers to health checks, echo requests. Anybody can send more of the last than the control core
//! can answer, so that they must not push the others out: what anybody can send gets a quarter of the
//! queue, what looks like an answer to a check a half, and what neighbours are resolved by, all of it.

use weir_engine::wire::ethernet::ethertype;
use weir_engine::wire::{ethernet, ipv6, protocol};

/// Places of a queue that a frame may find taken and still gets one, of `capacity`.
pub fn room(frame: &[u8], capacity: usize) -> usize {
    capacity / 4 * quarters(frame)
}

fn quarters(frame: &[u8]) -> usize {
    let kind = |at: usize| {
        let field = frame.get(at..at + 2);
        field.map_or(0, |field| u16::from_be_bytes([field[0], field[1]]))
    };
    let tagged = kind(ethernet::LEN - 2) == ethertype::VLAN;
    let network = ethernet::LEN + if tagged { 4 } else { 0 };
    let octet = |at: usize| frame.get(network + at).copied().unwrap_or(0);
    match kind(network - 2) {
        ethertype::ARP => 4,
        ethertype::IPV4 => match octet(9) {
            protocol::TCP | protocol::UDP => 2,
            _ => 1,
        },
        ethertype::IPV6 => match octet(6) {
            protocol::TCP | protocol::UDP => 2,
            // Neighbour discovery (RFC 4861, section 4).
            protocol::ICMPV6 if (133..=137).contains(&octet(ipv6::LEN)) => 4,
            _ => 1,
        },
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u16, protocol_at: usize, protocol: u8, first: u8, tag: bool) -> Vec<u8> {
        let mut frame = vec![0; 12];
        if tag {
            frame.extend([0x81, 0, 0, 7]);
        }
        frame.extend(kind.to_be_bytes());
        let network = frame.len();
        frame.resize(network + 60, 0);
        frame[network + protocol_at] = protocol;
        frame[network + 40] = first;
        frame
    }

    #[test]
    fn whoever_resolves_neighbours_goes_first_then_checks_then_anybody() {
        for tag in [false, true] {
            let arp = frame(ethertype::ARP, 9, 0, 0, tag);
            let advertisement = frame(ethertype::IPV6, 6, protocol::ICMPV6, 136, tag);
            let answer4 = frame(ethertype::IPV4, 9, protocol::TCP, 0, tag);
            let answer6 = frame(ethertype::IPV6, 6, protocol::UDP, 0, tag);
            let echo4 = frame(ethertype::IPV4, 9, protocol::ICMP, 0, tag);
            let echo6 = frame(ethertype::IPV6, 6, protocol::ICMPV6, 128, tag);
            let rooms = [&arp, &advertisement, &answer4, &answer6, &echo4, &echo6]
                .map(|frame| room(frame, 4096));
            assert_eq!(rooms, [4096, 4096, 2048, 2048, 1024, 1024]);
        }
    }

    #[test]
    fn a_frame_too_short_to_tell_is_anybodys() {
        let whole = frame(ethertype::ARP, 9, 0, 0, true);
        for length in 0..17 {
            assert_eq!(room(&whole[..length], 4096), 1024);
        }
    }
}
