//! Stages 1 and 2 of a burst: parse each frame, and while its fields are still at hand, look up whose
//! it is.
//!
//! One pass for both: what the parser finds in a common frame goes to the look-up in registers, the
//! IP version known, and conntrack's line is asked for as early as can be.

use weir_engine::buffer::Buffer;
use weir_shm::counters::DropReason;

use super::lane::{Lane, Lanes, Verdict};
use super::look_up::LookUp;
use crate::address::Version;
use crate::parse::{Filter, Kind, Parsed, common, parse};

/// Hot: parses the frames of a burst and looks them up. Gives their bytes.
#[inline(always)]
pub fn all<B: Buffer>(
    filter: &Filter,
    look_up: &LookUp<'_>,
    burst: &[B],
    lanes: &mut Lanes,
) -> usize {
    for frame in burst {
        frame.prefetch();
    }
    let mut bytes = 0;
    for (frame, lane) in burst.iter().zip(lanes) {
        let data = frame.data();
        bytes += data.len();
        // One arm a version, and nothing that both share behind them.
        match common::version(data, filter) {
            Some(Version::V4) if common::ipv4(data, &mut lane.packet) & !frame.is_segmented() => {
                look_up.common(Version::V4, lane);
            }
            Some(Version::V6) if common::ipv6(data, &mut lane.packet) & !frame.is_segmented() => {
                look_up.common(Version::V6, lane);
            }
            _ => other(filter, look_up, frame, lane),
        }
    }
    bytes
}

/// A frame of another shape. A transport packet's verdict stays open (`Forward`); ICMP is left to
/// the end, where it is known whose address it goes to.
#[inline(never)]
fn other<B: Buffer>(filter: &Filter, look_up: &LookUp<'_>, frame: &B, lane: &mut Lane) {
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
    look_up.any(lane);
}
