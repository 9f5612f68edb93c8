//! A worker's ring: records as words, written by the worker alone, taken out by the control core.
//!
//! A [`Draft`] is what the worker writes behind the published end. It may take back and change what
//! it wrote until it publishes all of it by one store, so that a frame is copied when it comes in and
//! what became of it is written when that is known. Words are relaxed atomics, which are plain loads
//! and stores; the two positions are what orders them.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use weir_shm::capture::Record;
use weir_shm::capture::record::HEAD;

/// Words of a ring: 4 MiB.
const WORDS: u64 = 1 << 19;
/// Words that are much to carry.
const MUCH: u64 = WORDS / 16;

/// The worker's line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Worker {
    /// Words published so far.
    end: AtomicU64,
    /// Packets that found no room.
    lost: AtomicU64,
    /// Packets since the last one of a sample.
    passed: AtomicU64,
}

/// The control core's line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Taken(AtomicU64);

/// The ring; see the module's text.
#[derive(Debug)]
pub struct Ring {
    words: Box<[AtomicU64]>,
    worker: Worker,
    taken: Taken,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
            worker: Worker::default(),
            taken: Taken::default(),
        }
    }

    fn word(&self, at: u64) -> Option<&AtomicU64> {
        self.words.get((at % WORDS) as usize)
    }

    fn load(&self, at: u64) -> u64 {
        self.word(at).map_or(0, |word| word.load(Relaxed))
    }

    fn store(&self, at: u64, value: u64) {
        if let Some(word) = self.word(at) {
            word.store(value, Relaxed);
        }
    }

    /// Hot while there is a capture: stores some words one behind the other.
    #[inline]
    fn fill(&self, at: u64, words: impl ExactSizeIterator<Item = u64>) {
        let start = (at % WORDS) as usize;
        match self.words.get(start..start + words.len()) {
            Some(slots) => {
                for (slot, word) in slots.iter().zip(words) {
                    slot.store(word, Relaxed);
                }
            }
            // Some lie at the end, and the others at the beginning.
            None => (at..)
                .zip(words)
                .for_each(|(at, word)| self.store(at, word)),
        }
    }

    /// Packets that found no room.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.worker.lost.load(Relaxed)
    }

    /// The worker's: counts a packet that matches, and says whether it is the one in `sample`.
    #[must_use]
    pub fn is_due(&self, sample: u32) -> bool {
        let passed = self.worker.passed.load(Relaxed) + 1;
        let due = passed >= u64::from(sample);
        let passed = if due { 0 } else { passed };
        self.worker.passed.store(passed, Relaxed);
        due
    }

    /// Hot while there is a capture. The worker's: of a burst of `count` packets that all match, those that are one in `sample`, a
    /// bit each.
    #[inline]
    #[must_use]
    pub fn due(&self, sample: u32, count: usize) -> u32 {
        let (sample, count) = (u64::from(sample), count as u64);
        let passed = self.worker.passed.load(Relaxed);
        if passed + count < sample {
            self.worker.passed.store(passed + count, Relaxed);
            return 0;
        }
        // The first is so many places on, each other `sample` behind the last.
        let (mut bits, mut next) = (0, sample.saturating_sub(passed + 1));
        while next < count {
            bits |= 1 << (next % 32);
            next += sample.max(1);
        }
        let passed = (sample + count).saturating_sub(next + 1);
        self.worker.passed.store(passed, Relaxed);
        bits
    }

    /// The worker's: begins to write.
    #[inline]
    #[must_use]
    pub fn draft(&self) -> Draft<'_> {
        let at = self.worker.end.load(Relaxed);
        Draft {
            ring: self,
            at,
            limit: self.taken.0.load(Acquire) + WORDS,
        }
    }

    /// The control core's: whether so much waits that it is better taken out soon.
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.worker.end.load(Relaxed) - self.taken.0.load(Relaxed) >= MUCH
    }

    /// The control core's: takes whole records out, `room` bytes of them at most, and adds them to
    /// `into` as they lie in the file.
    pub fn take(&self, room: usize, into: &mut Vec<u8>) {
        let (from, end) = (self.taken.0.load(Relaxed), self.worker.end.load(Acquire));
        let mut at = from;
        while at < end {
            let words = Record::words(self.load(at) as u16) as u64;
            if (at + words - from) * 8 > room as u64 {
                break;
            }
            at += words;
        }
        into.extend((from..at).flat_map(|at| self.load(at).to_le_bytes()));
        self.taken.0.store(at, Release);
    }

    /// The control core's: throws away what is left, and says how many packets that was.
    pub fn clear(&self) -> u64 {
        let (mut at, end) = (self.taken.0.load(Relaxed), self.worker.end.load(Acquire));
        let mut records = 0;
        while at < end {
            at += Record::words(self.load(at) as u16) as u64;
            records += 1;
        }
        self.taken.0.store(at, Release);
        records
    }
}

/// What a worker writes and has not published.
#[derive(Debug)]
pub struct Draft<'a> {
    ring: &'a Ring,
    at: u64,
    limit: u64,
}

/// Where a record lies in a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(u64);

impl Draft<'_> {
    /// Where the next record will lie.
    #[must_use]
    pub const fn end(&self) -> Place {
        Place(self.at)
    }

    /// Counts a record that found no room.
    pub fn lose(&self) {
        let lost = &self.ring.worker.lost;
        lost.store(lost.load(Relaxed) + 1, Relaxed);
    }

    /// Adds a record of a frame, of which `kept` is kept. Without room it is lost, which is for the
    /// caller to count, as soon as it is known to be wanted.
    pub fn put(&mut self, record: &Record, kept: &[u8]) -> Option<Place> {
        let place = self.keep(kept, record.length.into())?;
        self.amend(place, record);
        Some(place)
    }

    /// Adds a copy of a frame of `length` bytes, of which `kept` is kept, and no record: until it is
    /// moved or amended, or taken back, it is nothing that may be published.
    pub fn keep(&mut self, kept: &[u8], length: usize) -> Option<Place> {
        let short = |length| u16::try_from(length).unwrap_or(u16::MAX);
        let (short_kept, length) = (short(kept.len()), short(length));
        let words = Record::words(short_kept) as u64;
        if self.at + words > self.limit {
            return None;
        }
        let place = Place(self.at);
        self.ring
            .store(self.at, u64::from(short_kept) | u64::from(length) << 16);
        let data = self.at + HEAD as u64;
        let (chunks, rest) = kept.as_chunks::<8>();
        let words_of = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk));
        self.ring.fill(data, words_of);
        if !rest.is_empty() {
            let mut last = [0; 8];
            for (to, from) in last.iter_mut().zip(rest) {
                *to = *from;
            }
            let at = data + chunks.len() as u64;
            self.ring.store(at, u64::from_le_bytes(last));
        }
        self.at += words;
        Some(place)
    }

    /// Bytes kept of the frame whose record lies at `place`, and bytes of it in all.
    #[must_use]
    pub fn length(&self, place: Place) -> (u16, u16) {
        let sizes = self.ring.load(place.0);
        (sizes as u16, (sizes >> 16) as u16)
    }

    /// Says something else of a frame. What is kept of it stays.
    pub fn amend(&self, place: Place, record: &Record) {
        self.ring.fill(place.0, record.encode().into_iter());
    }

    /// Changes what is said of each frame from `place` on.
    pub fn amend_from(&self, place: Place, change: impl Fn(Record) -> Record) {
        let mut at = place.0;
        while at < self.at {
            let mut words = [0; HEAD];
            for (from, word) in (at..).zip(&mut words) {
                *word = self.ring.load(from);
            }
            let Some(record) = Record::decode(words) else {
                return;
            };
            self.amend(Place(at), &change(record));
            at += Record::words(record.kept) as u64;
        }
    }

    /// Moves a record to the front, to `to`, over what is not wanted; gives the place behind it.
    pub fn move_to(&mut self, place: Place, to: Place, record: &Record) -> Place {
        let words = Record::words(record.kept) as u64;
        if place != to {
            for word in 0..words {
                self.ring.store(to.0 + word, self.ring.load(place.0 + word));
            }
        }
        self.amend(to, record);
        Place(to.0 + words)
    }

    /// Takes back what was put from `place` on.
    pub const fn take_back(&mut self, place: Place) {
        self.at = place.0;
    }

    /// Lets the control core have all that there is of it.
    pub fn publish(&self) {
        self.ring.worker.end.store(self.at, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_shm::capture::record::{MAX_WORDS, NO_PORT};
    use weir_shm::capture::{Direction, Fate, NOBODY, Why};

    fn record(kept: u16) -> Record {
        Record {
            kept,
            length: kept,
            direction: Direction::In,
            fate: Fate::Control,
            why: Why::None,
            reason: None,
            unix_ns: 5,
            service: NOBODY,
            backend: NOBODY,
            port: 0,
            other: NO_PORT,
            worker: 0,
        }
    }

    #[test]
    fn a_burst_has_the_packets_due_that_are_so_one_by_one() {
        for sample in [1, 2, 3, 31, 32, 33, 100] {
            let (bursts, alone) = (Ring::new(), Ring::new());
            for count in (0..=32).chain([32; 9]).chain([1; 70]).chain([17, 5, 0, 31]) {
                let one_by_one = (0..count).fold(0, |bits, place| {
                    bits | u32::from(alone.is_due(sample)) << place
                });
                assert_eq!(bursts.due(sample, count), one_by_one, "1 in {sample}");
            }
        }
    }

    #[test]
    fn a_full_ring_loses_packets_and_counts_them() {
        let ring = Ring::new();
        let frame = [7; 1500];
        let mut sent = 0u64;
        while ring.lost() == 0 {
            let mut draft = ring.draft();
            if draft.put(&record(1500), &frame).is_none() {
                draft.lose();
            }
            draft.publish();
            sent += 1;
        }
        let mut out = Vec::new();
        ring.take(10_000, &mut out);
        assert_eq!(out.len() % (Record::words(1500) * 8), 0);
        assert!(out.len() <= 10_000);
        let taken = (out.len() / (Record::words(1500) * 8)) as u64;
        assert_eq!(ring.clear() + taken + ring.lost(), sent);
        assert!(Record::words(u16::MAX) == MAX_WORDS);
    }

    #[test]
    fn what_is_taken_back_is_never_seen_and_what_is_moved_is_whole() {
        let ring = Ring::new();
        for _ in 0..10_000 {
            let mut draft = ring.draft();
            let start = draft.end();
            let unwanted = draft.put(&record(900), &[1; 900]).unwrap();
            let wanted = draft.put(&record(777), &[2; 777]).unwrap();
            let end = draft.move_to(wanted, unwanted, &record(777));
            draft.take_back(end);
            assert_eq!(unwanted, start);
            draft.publish();
            let mut out = Vec::new();
            ring.take(usize::MAX, &mut out);
            assert_eq!(out.len(), Record::words(777) * 8);
            assert_eq!(&out[HEAD * 8..HEAD * 8 + 777], &[2; 777]);
        }
        assert_eq!(ring.lost(), 0);
    }

    #[test]
    fn one_in_n_is_exact() {
        let ring = Ring::new();
        let due: u32 = (0..1000).map(|_| ring.due(7, 13).count_ones()).sum();
        assert_eq!(due, 13_000 / 7);
        assert_eq!(ring.due(1, 32), u32::MAX);
        let due = (0..6 * 7).filter(|_| ring.is_due(7)).count();
        assert_eq!(due, 6);
    }
}
