//! Between the look-up and steering, where there is a `full-nat` service: packets of sessions that
//! conntrack found steady a moment ago leave at once, and conntrack is not asked.
//!
//! A session holds all that conntrack says of its flow, its backend's number too. Conntrack has to hear
//! of the flow now and then all the same, so that it lives there, is counted, and is pinned where
//! clients are: the first packet in each [`Stretch`] of time is steered as any other, and its session
//! notes that. In between a packet needs two lines of memory, not three.
//!
//! Packets of one flow stay in their order. Behind one that is not sent on here none of the same flow
//! is; and behind an answer that closes a session none is at all.

use weir_engine::buffer::Buffer;
use weir_shm::counters;

use super::lane::{Lane, Places, Verdict};
use super::quick::Quick;
use super::sessions::NOBODY;
use super::states::TURNING;
use crate::conntrack::Tick;
use crate::service::Services;
use crate::session::{Record, Sessions, Stretch, Table};

/// Hot: sends on those of the packets at `places` whose sessions are steady. Gives their places.
#[inline(never)]
pub fn all<B: Buffer>(
    sessions: &Sessions,
    worker: u16,
    now: Tick,
    places: Places,
    quick: &mut Quick<'_>,
    burst: &mut [B],
    lanes: &mut [Lane],
) -> Places {
    let mut sent = 0;
    let Some(table) = sessions.table(worker.into()) else {
        return Places(sent);
    };
    for lane in places.of(lanes) {
        lane.session = table.likely(lane.hash).unwrap_or(NOBODY);
        table.prefetch_hot(lane.session);
    }
    let (services, stretch) = (quick.services, Stretch::of(now));
    let mut passed = Passed(0);
    for (place, (frame, lane)) in (0u32..).zip(burst.iter_mut().zip(lanes.iter_mut())) {
        if places.has(place)
            && !passed.may_hold(lane)
            && let Some(record) = steady(services, table, now, stretch, lane)
        {
            record.touch(now);
            lane.backend = record.backend_number();
            lane.verdict = Verdict::Session;
            sent |= 1 << place;
            quick.forward_session(frame, lane, (sessions, worker), record);
        } else {
            passed.note(lane);
        }
    }
    let count = sent.count_ones();
    quick.counters.add(counters::CONNTRACK_HITS, count.into());
    Places(sent)
}

/// Hot: the record of a packet's session, where that decides alone.
#[inline(always)]
fn steady<'a>(
    services: &Services,
    table: &'a Table,
    now: Tick,
    stretch: Stretch,
    lane: &Lane,
) -> Option<Record<'a>> {
    table.record(lane.session).filter(|record| {
        record.fingerprint() == lane.hash.fingerprint
            && record.is_steady(stretch)
            && record.is_live(now)
            && (services.keeps(lane.service, record.backend_number()))
                .is_some_and(|backend| backend.pins == 0)
    })
}

/// The flows of packets that were passed over, a bit for as many of them as there are.
struct Passed(u64);

impl Passed {
    /// Hot: whether one of the same flow was, or one of whatever flow that shares its bit.
    #[inline(always)]
    const fn may_hold(&self, lane: &Lane) -> bool {
        self.0 >> (lane.hash.fingerprint % 64) & 1 != 0
    }

    #[inline(always)]
    fn note(&mut self, lane: &Lane) {
        if lane.verdict == Verdict::Answer {
            // The session that it is of is not known yet.
            if lane.packet.tcp_flags & TURNING != 0 {
                self.0 = u64::MAX;
            }
        } else {
            self.0 |= 1 << (lane.hash.fingerprint % 64);
        }
    }
}
