//! Stage 1: parse.

use weir_engine::buffer::Buffer;
use weir_shm::counters::DropReason;

use super::lane::{Lanes, Verdict};
use crate::parse::{Filter, Kind, Parsed, parse};

/// Hot: parses the frames of a burst. A transport packet's verdict stays open
/// (`Forward`); ICMP is left to the next stage, which knows whose address it goes to.
#[inline(always)]
pub fn all<B: Buffer>(filter: &Filter, burst: &[B], lanes: &mut Lanes) {
    for frame in burst {
        frame.prefetch();
    }
    for (frame, lane) in burst.iter().zip(lanes) {
        lane.verdict = if frame.is_segmented() {
            Verdict::Drop(DropReason::Segmented)
        } else {
            match parse(frame.data(), filter, &mut lane.packet) {
                Ok(Kind::Transport) => Verdict::Forward,
                Ok(Kind::Other(Parsed::Icmp(packet))) => {
                    lane.packet = packet;
                    Verdict::Icmp
                }
                Ok(Kind::Other(Parsed::Portless(packet))) => {
                    lane.packet = packet;
                    Verdict::Portless
                }
                Ok(Kind::Other(Parsed::Group(packet))) => {
                    lane.packet = packet;
                    Verdict::Ours(DropReason::L2Multicast)
                }
                Ok(Kind::Other(Parsed::Arp | Parsed::Transport(_))) => Verdict::Punt,
                Err(DropReason::Fragment) => Verdict::Piece,
                Err(reason) => Verdict::Drop(reason),
            }
        };
    }
}
