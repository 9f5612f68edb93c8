//! Connection tracking: which backend an established flow has, whatever happened to the pool since.
//!
//! A fixed-size, set-associative cache in huge pages, one per worker. A bucket is one 64-byte cache
//! line of four 16-byte entries, so that a prefetched line answers a lookup; a flow has two
//! candidate buckets, so that the table fills far before it evicts. An entry holds a keyed 64-bit
//! fingerprint and no address, the same for IPv4 and IPv6.
//!
//! ## Layout, version 1
//! Eight 64-bit words a line: four fingerprints, then the four entries' *details*, so that one
//! 32-byte compare can test all fingerprints. Details, from the low bits: backend number (21 bits),
//! state (3), time-out profile (8), last seen in milliseconds (32, wrapping). Numbers, never
//! pointers: another process can take the memory over. A fingerprint of zero is an empty entry.
//! The backend's number is its own in the whole pool, not in its service, so that flows can be
//! counted by backend and a VIP that changes services keeps nobody's flows by accident.
//!
//! ## One writer, any reader
//! Words are atomics with relaxed order: plain loads and stores to the CPU. The worker is the only
//! writer; the control core reads along for `lookup` and flow counts, and may see an entry between
//! two states, which costs a diagnosis its exactness and nothing else.
//!
//! ## Time
//! An entry is dead when it was last seen longer ago than its state's time-out: a dead entry is a
//! miss, and its place is as good as an empty one. Nothing sweeps, unless a service chooses by the
//! flows that backends hold: then the worker clears dead entries a few lines at a time (`live`).
//!
//! ## Filling up
//! A newcomer goes into its first bucket while that has room, so that most flows are found in the
//! line that was prefetched (at nine tenths full, 77 in 100; at half, 96), else into its second.
//! When both are full of live entries, one of those eight moves to its own other bucket, or one
//! there moves on first (cuckoo hashing with buckets, chains of one or two moves). So the table can
//! be filled to nine tenths and leaves out fewer than one flow in ten thousand; with one move it
//! would be 8 in 1,000, without moves 74. Moves look at up to 40 more lines, so only `MOVES` are
//! tried in a burst: a flood of new flows cannot buy more work than that.
//!
//! ## Who may evict whom
//! When there is no room either way, the newcomer takes the place of the entry closest to
//! its time-out, embryonic ones first. A flow that has proven itself (a TCP flow past its SYN, a UDP
//! flow with a second packet) is evicted only by a newcomer that is not a SYN, and only after half
//! of its time-out has passed in silence. So a SYN flood evicts itself, never an established flow.
//! A newcomer without a place is steered by Maglev alone and counted as untracked.

mod entry;
mod live;
mod pass;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_engine::cpu::{Baseline, Width};
use weir_engine::memory::{CacheLine, HugeSlice, MemoryError, prefetch_write};

pub use live::{LINES, LINES_ASLEEP, LiveFlows};
pub use pass::{Counts, Pass};

pub use entry::{Details, NO_BACKEND, Profile, Profiles, State, Tick};

use crate::flow::FlowHash;

/// Version of the layout that the module's text describes.
pub const LAYOUT_VERSION: u32 = 1;
/// Entries of one bucket.
pub const WAYS: usize = 4;
/// How often room is made by moving entries in one burst.
const MOVES: u32 = 8;

/// An entry that was found.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    word: &'a AtomicU64,
    details: Details,
}

impl Held<'_> {
    /// What it said when it was found.
    #[inline(always)]
    #[must_use]
    pub const fn details(&self) -> Details {
        self.details
    }

    /// Hot: says something else from now on.
    #[inline(always)]
    pub fn set(&self, details: Details) {
        self.word.store(details.0, Relaxed);
    }
}

/// What became of a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It took a free or dead place.
    Free,
    /// It took the place of a live flow.
    Evicted,
    /// There was no place that it may take.
    Untracked,
}

/// The lines of a table as its worker holds them for a burst.
#[derive(Debug, Clone, Copy)]
pub struct Lines<'a> {
    lines: &'a [CacheLine],
    count: u32,
}

impl<'a> Lines<'a> {
    /// Hot: the first line that may hold the flow; asks for it.
    #[inline(always)]
    #[must_use]
    pub fn prefetch(&self, hash: FlowHash) -> u32 {
        let first = primary(hash, self.count);
        if let Some(line) = self.lines.get(first as usize) {
            prefetch_write(line);
        }
        first
    }

    /// Hot: the second line that may hold a flow whose first is `line`; asks for it.
    #[inline(always)]
    #[must_use]
    pub fn prefetch_second(&self, line: u32, hash: FlowHash) -> u32 {
        let second = secondary(line, hash.fingerprint, self.count);
        if let Some(line) = self.lines.get(second as usize) {
            prefetch_write(line);
        }
        second
    }

    /// Hot: which entries of a line are the flow's, dead or alive: a bit each. All four are compared
    /// and none is picked: no branch, so that nothing is guessed wrong.
    #[inline(always)]
    #[must_use]
    pub fn matches<W: Width>(&self, width: W, line: u32, hash: FlowHash) -> u32 {
        let line = self.lines.get(line as usize);
        line.map_or(0, |line| width.matches(line, hash.fingerprint))
    }

    /// Hot: the first entry of those that [`Lines::matches`] gave; none where it gave none.
    #[inline(always)]
    #[must_use]
    pub fn held(&self, line: u32, matches: u32) -> Option<Held<'a>> {
        if matches == 0 {
            return None;
        }
        let line = self.lines.get(line as usize)?;
        let word = &line.0[WAYS + matches.trailing_zeros() as usize % WAYS];
        let details = Details(word.load(Relaxed));
        Some(Held { word, details })
    }
}

/// A worker's table. The worker owns it; others get a [`ConntrackReader`].
#[derive(Debug)]
pub struct Conntrack {
    lines: Arc<HugeSlice>,
    count: u32,
    moves_left: u32,
    live: live::Live,
}

impl Conntrack {
    /// A table for `flows` flows at 90 % load, zeroed, in huge pages if `prefer_huge` and there are
    /// any.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(flows: u64, prefer_huge: bool) -> Result<Self, MemoryError> {
        let entries = flows.max(1).saturating_mul(10).div_ceil(9);
        let buckets = entries.div_ceil(WAYS as u64).max(2);
        // Beyond 2^32 buckets no memory could hold the table; the request says so.
        let count = u32::try_from(buckets).unwrap_or(u32::MAX);
        let lines = Arc::new(HugeSlice::zeroed(count as usize, prefer_huge)?);
        Ok(Self {
            lines,
            count,
            moves_left: MOVES,
            live: live::Live::new()?,
        })
    }

    /// A view for other threads.
    #[must_use]
    pub fn reader(&self) -> ConntrackReader {
        ConntrackReader {
            lines: Arc::clone(&self.lines),
            count: self.count,
            live: self.live.reader(),
        }
    }

    /// Entries in all.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        u64::from(self.count) * WAYS as u64
    }

    /// Bytes of memory that the table takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(&**self.lines)
    }

    /// Hot: a new burst begins: as many entries may move again as in the last.
    #[inline(always)]
    pub fn begin_burst(&mut self) {
        self.moves_left = MOVES;
    }

    /// Hot: the lines, to look many flows up in.
    #[inline(always)]
    #[must_use]
    pub fn lines(&self) -> Lines<'_> {
        Lines {
            lines: &self.lines,
            count: self.count,
        }
    }

    /// Hot: finds a live entry, in either line.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: FlowHash, now: Tick, profiles: &Profiles) -> Option<Held<'_>> {
        find(self.lines(), hash).filter(|held| profiles.is_alive(held.details, now))
    }

    /// Remembers a flow that [`Conntrack::find`] has just not found.
    pub fn insert(
        &mut self,
        hash: FlowHash,
        details: Details,
        now: Tick,
        profiles: &Profiles,
    ) -> Inserted {
        let first = primary(hash, self.count);
        let second = secondary(first, hash.fingerprint, self.count);
        let [Some(one), Some(two)] = [first, second].map(|line| self.lines.get(line as usize))
        else {
            return Inserted::Untracked;
        };
        let (free, other) = (
            Free::of(one, hash, now, profiles),
            Free::of(two, hash, now, profiles),
        );
        // Where it lies dead, so that it is never there twice; else where there is room.
        let place = (free.own.map(|way| (one, way)))
            .or_else(|| other.own.map(|way| (two, way)))
            .or_else(|| free.way.map(|way| (one, way)))
            .or_else(|| other.way.map(|way| (two, way)));
        if let Some((line, way)) = place {
            self.live.replace(line, way, details);
            put(line, way, hash.fingerprint, details.0);
            return Inserted::Free;
        }
        if self.moves_left > 0 {
            self.moves_left -= 1;
            if let Some((line, way)) = self.make_room([first, second], now, profiles) {
                self.live.add(details);
                put(line, way, hash.fingerprint, details.0);
                return Inserted::Free;
            }
        }
        let entries = [one, two]
            .into_iter()
            .flat_map(|line| (0..WAYS).map(move |way| (line, way)));
        let cheapest = entries
            .filter_map(|(line, way)| {
                let held = Details(line.0[WAYS + way].load(Relaxed));
                Some((
                    eviction_cost(held, details.state(), now, profiles)?,
                    line,
                    way,
                ))
            })
            .min_by_key(|(cost, ..)| *cost);
        match cheapest {
            Some((_, line, way)) => {
                self.live.replace(line, way, details);
                put(line, way, hash.fingerprint, details.0);
                Inserted::Evicted
            }
            None => Inserted::Untracked,
        }
    }

    /// Makes room in one of two full buckets by moving an entry of theirs to its other bucket, or
    /// one there to its other bucket first. Gives the place that became free.
    #[inline(never)]
    fn make_room(
        &self,
        buckets: [u32; 2],
        now: Tick,
        profiles: &Profiles,
    ) -> Option<(&CacheLine, usize)> {
        let entries = || buckets.into_iter().flat_map(|bucket| self.movable(bucket));
        // All eight lines are asked for before the first is read.
        for entry in entries() {
            if let Some(line) = self.lines.get(entry.other as usize) {
                prefetch_write(line);
            }
        }
        for entry in entries() {
            if self.move_over(&entry, now, profiles) {
                return Some((entry.line, entry.way));
            }
        }
        for entry in entries() {
            for next in self.movable(entry.other) {
                if self.move_over(&next, now, profiles) && self.move_over(&entry, now, profiles) {
                    return Some((entry.line, entry.way));
                }
            }
        }
        None
    }

    fn movable(&self, bucket: u32) -> impl Iterator<Item = Movable<'_>> {
        let line = self.lines.get(bucket as usize);
        line.into_iter().flat_map(move |line| {
            (0..WAYS).map(move |way| Movable {
                line,
                way,
                other: secondary(bucket, line.0[way].load(Relaxed), self.count),
            })
        })
    }

    /// Moves an entry into its other bucket, if there is room.
    fn move_over(&self, entry: &Movable<'_>, now: Tick, profiles: &Profiles) -> bool {
        let Some(other) = self.lines.get(entry.other as usize) else {
            return false;
        };
        let [fingerprint, details] =
            [entry.way, WAYS + entry.way].map(|word| entry.line.0[word].load(Relaxed));
        let free = (0..WAYS).find(|way| is_free(other, *way, now, profiles));
        free.is_some_and(|way| {
            // A dead entry that goes was counted; the one that moves is counted already.
            self.live.forget(other, way);
            put(other, way, fingerprint, details);
            entry.line.0[entry.way % WAYS].store(0, Relaxed);
            true
        })
    }
}

/// An entry that may move to its other bucket.
struct Movable<'a> {
    line: &'a CacheLine,
    way: usize,
    other: u32,
}

/// The places of a line that a newcomer could take.
struct Free {
    /// Where the newcomer itself lies, dead.
    own: Option<usize>,
    /// One that is empty or dead.
    way: Option<usize>,
}

impl Free {
    #[inline]
    fn of(line: &CacheLine, hash: FlowHash, now: Tick, profiles: &Profiles) -> Self {
        Self {
            own: (0..WAYS).find(|way| line.0[*way].load(Relaxed) == hash.fingerprint),
            way: (0..WAYS).find(|way| is_free(line, *way, now, profiles)),
        }
    }
}

/// Whether a place is empty, or its entry dead.
#[inline]
fn is_free(line: &CacheLine, way: usize, now: Tick, profiles: &Profiles) -> bool {
    let held = Details(line.0[WAYS + way % WAYS].load(Relaxed));
    line.0[way % WAYS].load(Relaxed) == 0 || !profiles.is_alive(held, now)
}

#[inline]
fn put(line: &CacheLine, way: usize, fingerprint: u64, details: u64) {
    line.0[way % WAYS].store(fingerprint, Relaxed);
    line.0[WAYS + way % WAYS].store(details, Relaxed);
}

/// What it costs to give a live entry's place to a newcomer in state `newcomer`; `None` where it may
/// not be had.
#[inline]
fn eviction_cost(held: Details, newcomer: State, now: Tick, profiles: &Profiles) -> Option<u64> {
    let timeout = profiles.of(held);
    let idle = now.since(held.seen());
    let confirmed = held.is_confirmed() || held.state() == State::Pin;
    let unproven = matches!(newcomer, State::Syn | State::PinNew);
    if confirmed && (unproven || idle <= timeout / 2) {
        return None;
    }
    let left = u64::from(timeout.saturating_sub(idle));
    Some((u64::from(held.state().rank()) << 32) + left)
}

#[inline(always)]
fn primary(hash: FlowHash, count: u32) -> u32 {
    crate::flow::scale(hash.bucket as u32, count)
}

/// The other candidate bucket of a fingerprint that lies in `bucket`. An involution: an entry's
/// other bucket can be told from the entry and the bucket it lies in.
#[inline(always)]
fn secondary(bucket: u32, fingerprint: u64, count: u32) -> u32 {
    let pivot = crate::flow::scale((fingerprint >> 32) as u32, count);
    if pivot >= bucket {
        pivot - bucket
    } else {
        pivot + (count - bucket)
    }
}

#[inline]
fn find(lines: Lines<'_>, hash: FlowHash) -> Option<Held<'_>> {
    let first = primary(hash, lines.count);
    let second = || secondary(first, hash.fingerprint, lines.count);
    let in_line = |line| lines.held(line, lines.matches(Baseline, line, hash));
    in_line(first).or_else(|| in_line(second()))
}

/// Another thread's view of a worker's table: exact when the worker rests, close when it runs.
#[derive(Debug, Clone)]
pub struct ConntrackReader {
    lines: Arc<HugeSlice>,
    count: u32,
    live: LiveFlows,
}

impl ConntrackReader {
    /// How many flows the worker holds of each backend.
    #[must_use]
    pub const fn live(&self) -> &LiveFlows {
        &self.live
    }

    /// Entries in all.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        u64::from(self.count) * WAYS as u64
    }

    /// The live entry of a flow.
    #[must_use]
    pub fn find(&self, hash: FlowHash, now: Tick, profiles: &Profiles) -> Option<Details> {
        let lines = Lines {
            lines: &self.lines,
            count: self.count,
        };
        let found = find(lines, hash).map(|held| held.details);
        found.filter(|held| profiles.is_alive_elsewhere(*held, now))
    }

    /// Calls `visit` with every live flow: a pass over the whole table, for the control core.
    pub fn for_each_live(&self, now: Tick, profiles: &Profiles, visit: impl FnMut(Details)) {
        self.for_each_live_in(0..self.lines(), now, profiles, visit);
    }

    /// Lines of the table.
    #[must_use]
    pub const fn lines(&self) -> u32 {
        self.count
    }

    /// Calls `visit` with every live flow in some of the table's lines.
    pub fn for_each_live_in(
        &self,
        lines: Range<u32>,
        now: Tick,
        profiles: &Profiles,
        mut visit: impl FnMut(Details),
    ) {
        let load = |word: &AtomicU64| word.load(Relaxed);
        let lines = self.lines.get(lines.start as usize..lines.end as usize);
        for CacheLine(words) in lines.unwrap_or_default() {
            for way in 0..WAYS {
                let details = Details(load(&words[WAYS + way]));
                let is_flow = load(&words[way]) != 0 && !details.state().is_pin();
                if is_flow && profiles.is_alive_elsewhere(details, now) {
                    visit(details);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
