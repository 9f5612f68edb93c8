//! What the stages of a burst know of each frame.

use weir_shm::counters::DropReason;

use super::BURST;
use super::rewrite::Outcome;
use crate::conntrack::{Details, State};
use crate::flow::FlowHash;
use crate::parse::Packet;

/// One frame's notes. Stages write what they learn; nothing is cleared in between, so only what the
/// verdict names is meaningful. Two cache lines, so that a lane is found by a shift.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
pub struct Lane {
    /// Its descriptor, where it is a TCP segment, a UDP datagram or an ICMP message.
    pub packet: Packet,
    /// Its flow, where it goes to a service.
    pub hash: FlowHash,
    /// The conntrack line that its flow is looked for first in, where it goes to a service.
    pub line: u32,
    /// Which of that line's entries are its own, a bit each, where that has been looked at.
    pub matches: u32,
    /// The place of its service, where it goes to one.
    pub service: u32,
    /// The number of its backend, where that is chosen, or where it comes from one.
    pub backend: u32,
    /// Its session, where it is of one.
    pub session: u32,
    /// The port that it leaves by, where it is sent.
    pub port: u16,
    /// What conntrack held of it, where a capture wants it and it goes to a service.
    pub before: Before,
    /// What becomes of it.
    pub verdict: Verdict,
    /// What has become of it, where that is rare.
    pub outcome: Option<Outcome>,
}

impl Lane {
    /// Whether the frame is sent, and by this port.
    #[inline(always)]
    pub fn is_sent_by(&self, port: u16) -> bool {
        (self.verdict == Verdict::Sent) & (self.port == port)
    }
}

/// What conntrack held of a client's packet before it was steered. Steering says so where it is not
/// what nearly always is, so that the steady way needs not to. A word, since a lane has no room for more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Before(u32);

impl Before {
    /// Its flow, steady, with the backend that it goes to. No flow has this word, whose state is a pin's.
    pub const STEADY: Self = Self(u32::MAX);
    /// Nothing.
    pub const NOTHING: Self = Self(u32::MAX - 1);

    /// What was found of its flow.
    pub fn of(held: Option<Details>) -> Self {
        held.map_or(Self::NOTHING, |held| Self(held.half()))
    }

    /// State and backend of its flow, where that was neither steady nor unknown.
    pub fn held(self) -> Option<(State, u32)> {
        let half = Details::from_half(self.0);
        let is_held = self != Self::STEADY && self != Self::NOTHING;
        is_held.then(|| (half.state(), half.backend()))
    }
}

const _: () = assert!(size_of::<Lane>() == 128);

/// What becomes of a frame, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// A client's packet to a service.
    #[default]
    Forward,
    /// As `Forward`, its backend chosen already.
    Steered,
    /// As `Steered`, by the packet itself: by its connection ID.
    Named,
    /// Steered, or an answer, and kept from leaving at once, for a capture to look at.
    Apart,
    /// A backend's answer.
    Return,
    /// A client's packet to a `full-nat` service, its session found or opened.
    Session,
    /// To an address that `full-nat` sends from, whose number stands for the backend's; in the end:
    /// an answer of a session.
    Answer,
    /// An answer of another worker's session.
    HandOver(u16),
    /// An ICMP message, its addressee not looked at yet.
    Icmp,
    /// A packet of a protocol without ports that weir knows, its addressee not looked at yet.
    Portless,
    /// A piece of a datagram, of which nothing is known yet but that it is one.
    Piece,
    /// To us, and nothing that weir speaks: for the kernel, or dropped for this reason.
    Ours(DropReason),
    /// Of a TCP connection that is to be reset.
    Reset,
    /// Rewritten, to be sent.
    Sent,
    /// Done with: its outcome says how.
    Done,
    /// For the control core.
    Punt,
    /// Refused, and the sender is told.
    Refuse(DropReason),
    /// Refused.
    Drop(DropReason),
}

/// The lanes of one burst, a worker's own.
pub type Lanes = [Lane; BURST];

/// Which lanes of a burst, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places(pub u32);

const _: () = assert!(BURST <= u32::BITS as usize);

impl Places {
    /// Whether this lane is one of them.
    #[inline(always)]
    pub const fn has(self, place: u32) -> bool {
        self.0 >> (place % u32::BITS) & 1 != 0
    }

    /// Hot: the lanes themselves.
    #[inline(always)]
    pub fn of(self, lanes: &mut [Lane]) -> impl Iterator<Item = &mut Lane> {
        let mut rest = lanes.iter_mut();
        let mut passed = 0;
        self.map_while(move |place| {
            let lane = rest.nth(place - passed);
            passed = place + 1;
            lane
        })
    }
}

impl Iterator for Places {
    type Item = usize;

    /// Hot: the next, in the frames' order.
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let place = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(place % BURST)
    }
}
