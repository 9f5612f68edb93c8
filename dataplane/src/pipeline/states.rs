//! What a packet says of its flow, and how a flow's state follows from its packets, as far as one side
//! of it is seen.

use weir_engine::wire::{protocol, tcp::flags};

use crate::conntrack::State;
use crate::parse::Packet;

/// TCP flags that may change a flow's state.
pub(super) const TURNING: u8 = flags::SYN | flags::FIN | flags::RST;

/// Whether the packet opens a TCP connection.
#[inline]
pub(super) const fn is_opening(packet: &Packet) -> bool {
    packet.tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}

/// Whether the packet is of a TCP connection that was opened before, and is not itself its end.
#[inline]
pub(super) const fn is_mid_stream(packet: &Packet) -> bool {
    packet.protocol == protocol::TCP && packet.tcp_flags & (flags::SYN | flags::RST) == 0
}

/// The state of a flow that was not known before this packet.
#[inline]
pub(super) const fn first_state(packet: &Packet) -> State {
    if packet.protocol != protocol::TCP {
        State::UdpNew
    } else if is_opening(packet) {
        State::Syn
    } else if packet.tcp_flags & (flags::RST | flags::FIN) != 0 {
        State::Closing
    } else {
        State::Loose
    }
}

/// The state of a known flow after this packet. Only what the client sends is seen (RFC 9293,
/// section 3.3.2, from one side): anything after the SYN establishes, FIN or RST closes, and
/// nothing but a new SYN opens a closing flow again.
#[inline]
pub(super) const fn next_state(state: State, packet: &Packet) -> State {
    if packet.protocol != protocol::TCP {
        State::Udp
    } else if packet.tcp_flags & (flags::RST | flags::FIN) != 0 {
        State::Closing
    } else if is_opening(packet) {
        state
    } else {
        match state {
            State::Closing => State::Closing,
            _ => State::Established,
        }
    }
}

/// The sequence number of a TCP segment.
#[inline]
pub(super) fn sequence(packet: &Packet, frame: &[u8]) -> u32 {
    let at = usize::from(packet.transport) + 4;
    let bytes = frame.get(at..).and_then(|rest| rest.first_chunk::<4>());
    bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
}
