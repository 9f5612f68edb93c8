//! The generator's loop: send what is due, take in what has come, on one core.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use weir_engine::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::clock::{Clock, Nanos};
use weir_engine::idle::{self, Idle};
use weir_engine::mbuf::{Mbuf, free_bulk};
use weir_engine::mempool::Mempool;
use weir_engine::queue::Queue;
use weir_engine::worker::Stop;

use super::BURST;
use super::progress::Progress;
use super::reclaim;
use super::resolve::{Owner, send};
use crate::frame::Link;
use crate::lane::{Lane, Lanes};
use crate::pace::Throttle;
use crate::receive::{self, Frame};
use crate::stamp::Stamp;
use crate::tally::{Tally, Totals};
use crate::traffic::Traffic;

/// Places in the sequence passed in one round; a worker sends its share of them.
const ROUND: u64 = 64;

/// A queue with what goes over it.
#[derive(Debug)]
pub(crate) struct Path {
    pub lane: Lane,
    pub queue: Queue,
    pub link: Link,
    pub owner: Owner,
    /// Frames that the device has not taken yet.
    pub pending: ArrayVec<Mbuf, BURST>,
}

/// Everything one worker owns.
#[derive(Debug)]
pub(crate) struct Generator {
    pub paths: Vec<Path>,
    pub lanes: Arc<Lanes>,
    pub traffic: Traffic,
    pub tally: Tally,
    pub pool: Mempool,
    pub clock: Clock,
    /// When packet 0 is due; known once all workers run.
    pub start: Nanos,
    /// Places of the sequence to pass; `u64::MAX` without an end.
    pub packets: u64,
    /// How long to send; `None` without an end.
    pub time: Option<Duration>,
    pub idle: idle::Mode,
    pub progress: Arc<Progress>,
    pub counts: Counts,
    pub throttle: Throttle,
    /// A buffer that a place of another worker left over.
    pub spare: Option<Mbuf>,
}

/// What a worker has counted, besides the answers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Frames written, and their bytes.
    pub written: u64,
    pub written_bytes: u64,
    /// Frames that no device took before the end, and their bytes.
    pub unsent: u64,
    pub unsent_bytes: u64,
    /// Bytes of answers.
    pub answer_bytes: u64,
    pub bad_checksum: u64,
    pub other: u64,
    pub neighbour_answers: u64,
    /// Answers to packets sent before this run began.
    pub late: u64,
    /// When the last packet was sent.
    pub last: Nanos,
    /// When the last answer came.
    pub last_answer: Nanos,
}

/// What a worker gives back.
pub(crate) struct Outcome {
    pub counts: Counts,
    pub totals: Totals,
    pub opened: u64,
    pub closed: u64,
    /// The paths, to be used again.
    pub paths: Vec<Path>,
}

impl Generator {
    /// Sends until the end, then receives until told to stop. Gives the queues back.
    pub fn run(mut self, stop: &Stop) -> Outcome {
        let mut idle = Idle::new(self.idle);
        self.wait_for_start(stop);
        let end = self.time.map_or(Nanos(u64::MAX), |time| self.start + time);
        let mut sending = true;
        while !stop.is_raised() {
            let now = self.clock.now();
            let mut moved = 0;
            if sending {
                let halted = self.progress.halt.load(Ordering::Relaxed) || now >= end;
                if !halted {
                    moved += self.write_due(now);
                }
                moved += self.flush();
                let complete = self.traffic.index() >= self.packets;
                let flushed = self.paths.iter().all(|path| path.pending.is_empty());
                if halted || (complete && flushed) {
                    sending = false;
                    self.give_up_pending();
                    self.progress.finished.store(true, Ordering::Release);
                }
            }
            moved += self.receive();
            self.report();
            idle.wait(moved);
        }
        self.give_up_pending();
        for path in &mut self.paths {
            reclaim(&mut path.queue.tx);
        }
        self.report();
        Outcome {
            counts: self.counts,
            totals: self.tally.totals().clone(),
            opened: self.traffic.opened(),
            closed: self.traffic.closed(),
            paths: self.paths,
        }
    }

    /// Says that this thread runs, and waits for the others: a clock that started before would have
    /// the first packets late.
    fn wait_for_start(&mut self, stop: &Stop) {
        self.progress.ready.store(true, Ordering::Release);
        while !stop.is_raised() {
            let start = self.progress.start.load(Ordering::Acquire);
            if start > 0 {
                self.start = Nanos(start);
                break;
            }
            std::thread::yield_now();
        }
        (self.counts.last, self.counts.last_answer) = (self.start, self.start);
    }

    /// Writes frames for the places in the sequence that are due, up to a round's worth; stops
    /// early when a path is full or the pool empty. Returns how many places it passed.
    fn write_due(&mut self, now: Nanos) -> usize {
        let elapsed = now.0.saturating_sub(self.start.0);
        let due = self.traffic.profile().pace().due(elapsed).min(self.packets);
        let allowed = self.throttle.allowed(elapsed).min(ROUND);
        let mut passed = 0;
        while passed < allowed && self.traffic.index() < due {
            if self.paths.iter().any(|path| path.pending.is_full()) {
                break;
            }
            // The buffer comes first: a place that was passed must be sent.
            let Some(mut mbuf) = self.spare.take().or_else(|| self.pool.alloc()) else {
                break;
            };
            passed += 1;
            let (lanes, paths) = (&self.lanes, &self.paths);
            let mine = |flow| paths.iter().any(|path| path.lane == lanes.of(flow));
            let Some(planned) = self.traffic.next(mine) else {
                self.spare = Some(mbuf);
                continue;
            };
            let lane = self.lanes.of(planned.flow);
            let Some(path) = self.paths.iter_mut().find(|path| path.lane == lane) else {
                continue;
            };
            let room = mbuf.append(planned.len).is_ok();
            if room
                && self
                    .traffic
                    .write(&planned, &path.link, now.0, mbuf.data_mut())
                    .is_ok()
            {
                self.counts.written += 1;
                self.counts.written_bytes += planned.len as u64;
                path.pending.push(mbuf);
            }
        }
        self.throttle.spend(passed);
        passed as usize
    }

    fn flush(&mut self) -> usize {
        let mut sent = 0;
        for path in self
            .paths
            .iter_mut()
            .filter(|path| !path.pending.is_empty())
        {
            sent += path.queue.tx.send(&mut path.pending);
        }
        if sent > 0 {
            self.counts.last = self.clock.now();
        }
        sent
    }

    /// Frees what no device took, and says so in the counts.
    fn give_up_pending(&mut self) {
        for path in &mut self.paths {
            self.counts.unsent += path.pending.len() as u64;
            self.counts.unsent_bytes += path
                .pending
                .iter()
                .map(|mbuf| mbuf.len() as u64)
                .sum::<u64>();
            free_bulk(&mut path.pending);
        }
    }

    fn receive(&mut self) -> usize {
        let mut received = 0;
        let mut burst: ArrayVec<Mbuf, BURST> = ArrayVec::new();
        for index in 0..self.paths.len() {
            received += self.paths[index].queue.rx.receive(&mut burst);
            if burst.is_empty() {
                continue;
            }
            let now = self.clock.now();
            for mbuf in &burst {
                self.take_in(index, mbuf, now);
            }
            free_bulk(&mut burst);
        }
        received
    }

    fn take_in(&mut self, index: usize, mbuf: &Mbuf, now: Nanos) {
        let frame = mbuf.data();
        match receive::read(frame) {
            Frame::Packet(packet) if !packet.intact => self.counts.bad_checksum += 1,
            Frame::Packet(packet) => match Stamp::read(&frame[packet.payload.clone()]) {
                Some(stamp) => self.answered(stamp, frame.len(), now),
                None => self.counts.other += 1,
            },
            Frame::Neighbour => {
                let path = &mut self.paths[index];
                match path.owner.answer(frame) {
                    Some(reply) if send(&mut self.pool, &mut path.queue.tx, &reply) => {
                        self.counts.neighbour_answers += 1;
                    }
                    _ => self.counts.other += 1,
                }
            }
            Frame::Other => self.counts.other += 1,
        }
    }

    fn answered(&mut self, stamp: Stamp, bytes: usize, now: Nanos) {
        // What was sent before this run began answers an earlier one.
        if stamp.age(now.0) > now.0.saturating_sub(self.start.0) {
            self.counts.late += 1;
            return;
        }
        self.counts.answer_bytes += bytes as u64;
        self.counts.last_answer = now;
        let lane = self.lanes.of(stamp.flow);
        // Another worker's flow may be answered here; how many packets it has sent is not known.
        let mine = self.paths.iter().any(|path| path.lane == lane);
        let sent = if mine {
            self.traffic.sent(stamp.flow)
        } else {
            u32::MAX
        };
        self.tally
            .answer(self.traffic.profile(), stamp, sent, now.0);
    }

    fn report(&self) {
        let pending: u64 = self
            .paths
            .iter()
            .map(|path| path.pending.len() as u64)
            .sum();
        let sent = self.counts.written - self.counts.unsent - pending;
        let totals = self.tally.totals();
        self.progress.set(sent, totals.unique(), totals.moved_flows);
    }
}
