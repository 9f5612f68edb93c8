//! The end of the path: every frame goes to the sink, or is set aside.

use arrayvec::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_shm::counters::DropReason;

use super::aside::Why;
use super::lane::{Lane, Verdict};
use super::rewrite::{Outcome, finish};
use super::{BURST, Sink};
use crate::parse::Packet;

/// Frames of a burst that are set aside, each with its descriptor and the reason.
pub(super) type Asides<B> = ArrayVec<(B, Packet, Why), BURST>;

/// Hot: hands the frames of a burst that came in by `port` to the sink. A burst of which every frame
/// leaves by one port, as most do, goes as a whole. Gives what has to be looked at one by one.
#[inline(always)]
pub fn all<B: Buffer, S: Sink<B>>(
    port: u16,
    counters: &CounterWriter,
    burst: &mut ArrayVec<B, BURST>,
    lanes: &[Lane],
    asides: &mut Asides<B>,
    sink: &mut S,
) {
    let Some(first) = lanes.first() else {
        return;
    };
    let together = lanes
        .iter()
        .fold(true, |all, lane| all & lane.is_sent_by(first.port));
    if together {
        sink.send_burst(first.port, burst);
    } else {
        each(port, counters, burst, lanes, asides, sink);
    }
}

/// Frames of several fates.
#[inline(never)]
fn each<B: Buffer, S: Sink<B>>(
    port: u16,
    counters: &CounterWriter,
    burst: &mut ArrayVec<B, BURST>,
    lanes: &[Lane],
    asides: &mut Asides<B>,
    sink: &mut S,
) {
    for (frame, lane) in burst.drain(..).zip(lanes) {
        // Never full: a burst has no more frames than `asides` has room.
        match (lane.verdict, lane.outcome) {
            (Verdict::Done, Some(Outcome::Aside(why))) => {
                let _ = asides.try_push((frame, lane.packet, why));
            }
            (Verdict::Done, Some(Outcome::Drop(DropReason::IpTtl))) => {
                let _ = asides.try_push((frame, lane.packet, Why::Expired));
            }
            (Verdict::Done, Some(outcome)) => finish(outcome, port, counters, frame, sink),
            _ => sink.send(lane.port, frame),
        }
    }
}
