//! A session's state, from what both sides send (RFC 9293, section 3.3.2, seen from between them).
//!
//! Nothing here judges sequence numbers: weir forwards what it is given, and a forged segment can at
//! worst shorten a session's time-out, which the next real one prolongs again.

use weir_engine::wire::{protocol, tcp::flags};

use super::record::flag;

/// What is known of a session. The numbers are part of the record's layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// TCP: the client's SYN was seen.
    Opening = 1,
    /// TCP: the backend has answered it.
    Answered = 2,
    /// TCP: the client has confirmed the answer.
    Established = 3,
    /// TCP: both have sent FIN, or one RST.
    Closing = 4,
    /// UDP.
    Udp = 5,
    /// TCP that was first seen in mid-stream, and that the backend has said nothing to.
    Loose = 6,
}

impl State {
    #[inline]
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Opening,
            2 => Self::Answered,
            3 => Self::Established,
            4 => Self::Closing,
            6 => Self::Loose,
            _ => Self::Udp,
        }
    }

    /// The state of a session that begins with this packet of a client.
    #[must_use]
    pub const fn first(protocol: u8, tcp_flags: u8) -> Self {
        if protocol != protocol::TCP {
            Self::Udp
        } else if opens(tcp_flags) {
            Self::Opening
        } else {
            Self::Loose
        }
    }
}

/// Whether a segment opens a connection.
#[inline]
#[must_use]
pub const fn opens(tcp_flags: u8) -> bool {
    tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}

/// Hot: state and flags after a client's segment.
#[inline]
#[must_use]
pub const fn from_client(state: State, held: u8, tcp_flags: u8) -> (State, u8) {
    if tcp_flags & flags::RST != 0 {
        return (State::Closing, held);
    }
    let held = if tcp_flags & flags::FIN != 0 {
        held | flag::CLIENT_FIN
    } else {
        held
    };
    match state {
        State::Answered if tcp_flags & flags::ACK != 0 => closed_by_both(State::Established, held),
        _ => closed_by_both(state, held),
    }
}

/// Hot: state and flags after a backend's segment.
#[inline]
#[must_use]
pub const fn from_backend(state: State, held: u8, tcp_flags: u8) -> (State, u8) {
    if tcp_flags & flags::RST != 0 {
        return (State::Closing, held);
    }
    let held = if tcp_flags & flags::FIN != 0 {
        held | flag::BACKEND_FIN
    } else {
        held
    };
    match state {
        State::Opening if tcp_flags & flags::SYN != 0 => (State::Answered, held),
        State::Loose => closed_by_both(State::Established, held),
        _ => closed_by_both(state, held),
    }
}

#[inline]
const fn closed_by_both(state: State, held: u8) -> (State, u8) {
    const BOTH: u8 = flag::CLIENT_FIN | flag::BACKEND_FIN;
    match state {
        State::Udp => (state, held),
        _ if held & BOTH == BOTH => (State::Closing, held),
        _ => (state, held),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: u8 = flags::SYN;
    const ACK: u8 = flags::ACK;
    const FIN: u8 = flags::FIN;

    #[test]
    fn a_connection_opens_by_three_segments_and_closes_by_two_fins() {
        let mut now = (State::first(protocol::TCP, SYN), 0);
        assert_eq!(now.0, State::Opening);
        now = from_backend(now.0, now.1, SYN | ACK);
        assert_eq!(now.0, State::Answered);
        now = from_client(now.0, now.1, ACK);
        assert_eq!(now.0, State::Established);
        now = from_client(now.0, now.1, FIN | ACK);
        assert_eq!(now.0, State::Established, "the backend may go on sending");
        now = from_backend(now.0, now.1, FIN | ACK);
        assert_eq!(now.0, State::Closing);
        now = from_client(now.0, now.1, ACK);
        assert_eq!(now.0, State::Closing);
    }

    #[test]
    fn a_repeated_syn_changes_nothing() {
        for state in [State::Opening, State::Answered, State::Established] {
            assert_eq!(from_client(state, 0, SYN).0, state);
        }
    }

    #[test]
    fn a_reset_of_either_side_closes() {
        assert_eq!(
            from_client(State::Established, 0, flags::RST).0,
            State::Closing
        );
        assert_eq!(
            from_backend(State::Opening, 0, flags::RST | ACK).0,
            State::Closing
        );
    }

    #[test]
    fn what_was_seen_in_mid_stream_proves_itself_by_an_answer() {
        let state = State::first(protocol::TCP, ACK);
        assert_eq!(state, State::Loose);
        assert_eq!(from_client(state, 0, ACK).0, State::Loose);
        assert_eq!(from_backend(state, 0, ACK).0, State::Established);
    }
}
