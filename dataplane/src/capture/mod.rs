//! Captures: copies of packets, with what the packet path decided, for `weirctl capture`.
//!
//! A capture is part of what workers read ([`crate::pipeline::Snapshot`]), so that one that is not
//! there costs a worker a comparison a burst and nothing else, and beginning and ending one is a
//! pointer swap like any other change. Each worker copies into a ring of its own (`ring`), in the
//! daemon's memory, where nobody else reaches; the control core carries what it finds there into the
//! file that `weirctl` reads. Nobody waits for anybody: a ring that is full because the file is full
//! because nobody reads costs the capture packets, which are counted, and the traffic nothing.

mod filter;
mod ring;

use std::time::{SystemTime, UNIX_EPOCH};

use weir_engine::clock::Clock;
use weir_shm::capture::record::NO_PORT;
use weir_shm::capture::{Direction, Fate, NOBODY, Record, Why};
use weir_shm::counters::DropReason;

pub use filter::{Filter, Reasons};
pub use ring::{Draft, Place, Ring};

/// A capture; see the module's text.
#[derive(Debug)]
pub struct Capture {
    /// What is captured.
    pub filter: Filter,
    /// One in so many of the packets that match.
    sample: u32,
    /// Bytes of a frame that are kept.
    snaplen: u16,
    /// One for each worker, and the control core's.
    rings: Box<[Ring]>,
    clock: Clock,
    /// What has to be added to the clock for the nanoseconds since 1970.
    epoch: u64,
}

impl Capture {
    /// A capture from so many workers.
    #[must_use]
    pub fn new(filter: Filter, sample: u32, snaplen: u32, workers: usize) -> Self {
        let clock = Clock::new();
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let unix_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Self {
            filter,
            sample: sample.max(1),
            snaplen: u16::try_from(snaplen).unwrap_or(u16::MAX),
            rings: (0..=workers).map(|_| Ring::new()).collect(),
            clock,
            epoch: unix_ns.wrapping_sub(clock.now().0),
        }
    }

    /// Nanoseconds since 1970.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.clock.now().0.wrapping_add(self.epoch)
    }

    /// One in so many of the packets that match.
    #[inline]
    #[must_use]
    pub const fn sample(&self) -> u32 {
        self.sample
    }

    /// The ring of a worker; behind the last the control core's.
    #[inline]
    #[must_use]
    pub fn ring(&self, worker: u16) -> Option<&Ring> {
        self.rings.get(usize::from(worker))
    }

    /// All rings.
    #[must_use]
    pub const fn rings(&self) -> &[Ring] {
        &self.rings
    }

    /// The number of the control core's ring.
    #[must_use]
    pub const fn control(&self) -> u16 {
        self.rings.len().saturating_sub(1) as u16
    }

    /// Packets that found their ring full, so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.rings.iter().map(Ring::lost).sum()
    }

    /// What is kept of a frame.
    #[inline]
    #[must_use]
    pub fn cut<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        frame.get(..usize::from(self.snaplen)).unwrap_or(frame)
    }

    /// How many bytes of a frame are kept, and how many it has.
    #[inline]
    #[must_use]
    pub fn sizes(&self, frame: &[u8]) -> (u16, u16) {
        let length = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        (length.min(self.snaplen), length)
    }

    /// A record of a frame of which nothing is known yet.
    #[inline]
    #[must_use]
    pub fn record(&self, worker: u16, port: u16, direction: Direction, frame: &[u8]) -> Record {
        let (kept, length) = self.sizes(frame);
        Record {
            kept,
            length,
            direction,
            fate: Fate::Control,
            why: Why::None,
            reason: None,
            unix_ns: 0,
            service: NOBODY,
            backend: NOBODY,
            port,
            other: NO_PORT,
            worker,
        }
    }

    /// A frame of the control core's leaves by `port`; `worker` sends it.
    #[cold]
    pub fn made(&self, worker: u16, port: u16, frame: &[u8], balanced: bool) {
        let filter = &self.filter;
        if !filter.outgoing || filter.drops.is_some() {
            return;
        }
        let fate = if balanced { Fate::Released } else { Fate::Made };
        let record = Record {
            fate,
            unix_ns: self.now(),
            ..self.record(worker, port, Direction::Out, frame)
        };
        self.alone(&record, frame);
    }

    /// The control core drops a frame that came in by `port`.
    #[cold]
    pub fn dropped(&self, port: u16, frame: &[u8], reason: DropReason) {
        let filter = &self.filter;
        if !filter.incoming || !filter.drops.is_some_and(|drops| drops.has(reason)) {
            // Without a filter by drops the worker that handed it over has shown it.
            return;
        }
        let record = Record {
            fate: Fate::Dropped,
            reason: Some(reason),
            unix_ns: self.now(),
            ..self.record(self.control(), port, Direction::In, frame)
        };
        self.alone(&record, frame);
    }

    /// A frame that is in no burst.
    fn alone(&self, record: &Record, frame: &[u8]) {
        let filter = &self.filter;
        let Some(ring) = self.ring(record.worker) else {
            return;
        };
        if filter.whose(None, None)
            && filter.by(record.port)
            && filter.ends(frame)
            && ring.is_due(self.sample)
        {
            let mut draft = ring.draft();
            if draft.put(record, self.cut(frame)).is_none() {
                draft.lose();
            }
            draft.publish();
        }
    }
}
