//! A worker's ring: records as words, written by the worker alone, taken out by the control core.
//!
//! A [`Draft`] is what the worker writes behind the published end. It may take back and change what
//! it wrote until it publishes all of it by one store, so that a frame is copied when it comes in and
//! what became of it is written when that is known. Words are relaxed atomics, which are plain loads
//! and stores; the two positions are what orders them.
//!
//! A record lies in one piece: one that begins near the end goes on behind it, where there is room for
//! the longest. The control core has read the lines that come next, or they have left the caches since;
//! a worker asks for them when it publishes, so that its next copies do not wait for them.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use weir_engine::memory::prefetch_write;
use weir_shm::capture::Record;
use weir_shm::capture::record::{HEAD, MAX_WORDS};

/// Words of a ring: 4 MiB.
const WORDS: u64 = 1 << 19;
/// Words that are much to carry.
const MUCH: u64 = WORDS / 16;
/// Words of a cache line.
const LINE: usize = 8;
/// Lines that are asked for before they are written: a short frame's, as it comes and as it leaves.
const AHEAD: usize = 6;

/// The worker's line.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Worker {
    /// Words published so far.
    end: AtomicU64,
    /// Packets that found no room.
    lost: AtomicU64,
    /// Packets, of those that are counted one by one, since the last one of a sample.
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
            words: (0..WORDS as usize + MAX_WORDS)
                .map(|_| AtomicU64::new(0))
                .collect(),
            worker: Worker::default(),
            taken: Taken::default(),
        }
    }

    /// So many words of the record that begins at a position; fewer than that of none.
    #[inline]
    fn slots(&self, at: u64, count: usize) -> &[AtomicU64] {
        let start = (at % WORDS) as usize;
        self.words.get(start..start + count).unwrap_or_default()
    }

    /// The first word of the record that begins at a position.
    fn first(&self, at: u64) -> u64 {
        let slots = self.slots(at, 1);
        slots.first().map_or(0, |word| word.load(Relaxed))
    }

    /// Words of the record that begins at a position.
    fn length(&self, at: u64) -> u64 {
        Record::words(self.first(at) as u16) as u64
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
            let words = self.length(at);
            if (at + words - from) * 8 > room as u64 {
                break;
            }
            let record = self.slots(at, words as usize).iter();
            into.extend(record.flat_map(|word| word.load(Relaxed).to_le_bytes()));
            at += words;
        }
        self.taken.0.store(at, Release);
    }

    /// The control core's: throws away what is left, and says how many packets that was.
    pub fn clear(&self) -> u64 {
        let (mut at, end) = (self.taken.0.load(Relaxed), self.worker.end.load(Acquire));
        let mut records = 0;
        while at < end {
            at += self.length(at);
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
        let place = self.keep(kept)?;
        self.amend(place, record);
        Some(place)
    }

    /// Adds a copy of what is kept of a frame, 65,535 bytes at most, and no record: until it is moved or
    /// amended, or taken back, it is nothing that may be published.
    #[inline]
    pub fn keep(&mut self, kept: &[u8]) -> Option<Place> {
        let words = HEAD + kept.len().div_ceil(8);
        let end = self.at + words as u64;
        let slots = self.ring.slots(self.at, words).get(HEAD..)?;
        if end > self.limit {
            return None;
        }
        let (chunks, rest) = kept.as_chunks::<8>();
        for (slot, chunk) in slots.iter().zip(chunks) {
            slot.store(u64::from_le_bytes(*chunk), Relaxed);
        }
        if !rest.is_empty()
            && let Some(slot) = slots.last()
        {
            slot.store(padded(kept, rest), Relaxed);
        }
        let place = Place(self.at);
        self.at = end;
        Some(place)
    }

    /// Says something else of a frame. What is kept of it stays.
    #[inline]
    pub fn amend(&self, place: Place, record: &Record) {
        let slots = self.ring.slots(place.0, HEAD);
        for (slot, word) in slots.iter().zip(record.encode()) {
            slot.store(word, Relaxed);
        }
    }

    /// Changes what is said of each frame from `place` on.
    pub fn amend_from(&self, place: Place, change: impl Fn(Record) -> Record) {
        let mut at = place.0;
        while at < self.at {
            let mut words = [0; HEAD];
            for (slot, word) in self.ring.slots(at, HEAD).iter().zip(&mut words) {
                *word = slot.load(Relaxed);
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
        let words = Record::words(record.kept);
        if place != to {
            let [from, slots] = [place, to].map(|place| self.ring.slots(place.0, words));
            for (slot, from) in slots.iter().zip(from) {
                slot.store(from.load(Relaxed), Relaxed);
            }
        }
        self.amend(to, record);
        Place(to.0 + words as u64)
    }

    /// Takes back what was put from `place` on.
    pub const fn take_back(&mut self, place: Place) {
        self.at = place.0;
    }

    /// Lets the control core have all that there is of it.
    pub fn publish(&self) {
        self.ring.worker.end.store(self.at, Release);
        let next = self.ring.slots(self.at, AHEAD * LINE);
        for word in next.iter().step_by(LINE) {
            prefetch_write(word);
        }
    }
}

/// The last bytes of a frame as a word, with zeros behind them.
#[inline]
fn padded(kept: &[u8], rest: &[u8]) -> u64 {
    match kept.last_chunk::<8>() {
        // No loop: the bytes before them are shifted out.
        Some(last) => u64::from_le_bytes(*last) >> (8 * (8 - rest.len() % 8)),
        None => (rest.iter().rev()).fold(0, |word, byte| word << 8 | u64::from(*byte)),
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
    fn what_is_kept_of_a_frame_is_its_bytes_however_many() {
        let ring = Ring::new();
        let frame: Vec<u8> = (1..=200).collect();
        for kept in 0..=200 {
            let mut draft = ring.draft();
            draft.put(&record(kept), &frame[..kept.into()]).unwrap();
            draft.publish();
            let mut out = Vec::new();
            ring.take(usize::MAX, &mut out);
            let (bytes, padding) = out[HEAD * 8..].split_at(kept.into());
            assert_eq!(bytes, &frame[..kept.into()]);
            assert!(padding.len() < 8 && padding.iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn one_in_n_is_exact() {
        let ring = Ring::new();
        let due = (0..6 * 7).filter(|_| ring.is_due(7)).count();
        assert_eq!(due, 6);
    }
}
