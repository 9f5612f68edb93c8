//! What the stages of a burst know of each frame.

use weir_shm::counters::DropReason;

use super::BURST;
use super::rewrite::Outcome;
use crate::flow::FlowHash;
use crate::parse::Packet;

/// One frame's notes. Stages write what they learn; nothing is cleared in between, so only what the
/// verdict names is meaningful.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lane {
    /// Its descriptor, where it is a TCP segment, a UDP datagram or an ICMP message.
    pub packet: Packet,
    /// Its flow, where it goes to a service.
    pub hash: FlowHash,
    /// The place of its service, where it goes to one.
    pub service: u32,
    /// The number of its backend, where that is chosen, or where it comes from one.
    pub backend: u32,
    /// Its session, where it is of one.
    pub session: u32,
    /// The port that it leaves by, where it is sent.
    pub port: u16,
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

/// What becomes of a frame, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// A client's packet to a service.
    #[default]
    Forward,
    /// As `Forward`, its backend chosen already.
    Steered,
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
