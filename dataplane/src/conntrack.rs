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
//! An entry is dead when it was last seen longer ago than its state's time-out. Nothing sweeps: a
//! dead entry is a miss, and its place is the first to be taken.
//!
//! ## Who may evict whom
//! When both buckets are full of live entries, the newcomer takes the place of the entry closest to
//! its time-out, embryonic ones first. A flow that has proven itself (a TCP flow past its SYN, a UDP
//! flow with a second packet) is evicted only by a newcomer that is not a SYN, and only after half
//! of its time-out has passed in silence. So a SYN flood evicts itself, never an established flow.
//! A newcomer without a place is steered by Maglev alone and counted as untracked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_engine::memory::{CacheLine, HugeSlice, MemoryError, prefetch_write};

use crate::flow::FlowHash;

/// Version of the layout that the module's text describes.
pub const LAYOUT_VERSION: u32 = 1;
/// The number of no backend: the largest that an entry can hold.
pub const NO_BACKEND: u32 = (1 << 21) - 1;
/// Entries of one bucket.
pub const WAYS: usize = 4;

/// Milliseconds on the worker's clock, wrapping after 49 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tick(pub u32);

impl Tick {
    /// From nanoseconds on the same clock.
    #[inline]
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self((nanos / 1_000_000) as u32)
    }

    /// Milliseconds since `earlier`.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// What is known of a flow. The numbers are part of the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// A SYN was seen, nothing after it.
    Syn = 1,
    /// TCP, past its SYN.
    Established = 2,
    /// TCP, FIN or RST seen.
    Closing = 3,
    /// UDP, at least two packets seen.
    Udp = 4,
    /// UDP, one packet seen.
    UdpNew = 5,
    /// TCP, first seen in mid-stream by one packet.
    Loose = 6,
}

impl State {
    #[inline]
    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::Syn,
            2 => Self::Established,
            3 => Self::Closing,
            4 => Self::Udp,
            6 => Self::Loose,
            _ => Self::UdpNew,
        }
    }

    /// Whether the flow has proven itself; see the module's text.
    #[inline]
    const fn is_confirmed(self) -> bool {
        matches!(self, Self::Established | Self::Udp)
    }

    /// In which order entries give way: embryonic first.
    #[inline]
    const fn rank(self) -> u32 {
        match self {
            Self::Syn => 0,
            Self::UdpNew | Self::Loose => 1,
            Self::Closing => 2,
            Self::Established | Self::Udp => 3,
        }
    }
}

/// One service's time-outs by state, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile([u32; 8]);

impl Profile {
    /// From the four configured time-outs, in milliseconds.
    #[must_use]
    pub const fn new(syn: u32, established: u32, closing: u32, udp: u32) -> Self {
        // Indexed by `State`; 0 and 7 are not states.
        Self([0, syn, established, closing, udp, udp, established, 0])
    }

    #[inline]
    const fn timeout(&self, state: State) -> u32 {
        self.0[state as usize & 7]
    }
}

/// All time-out profiles in use; entries name theirs by its place. At most 256.
#[derive(Debug, Clone)]
pub struct Profiles(Box<[Profile; 256]>);

impl Profiles {
    /// Profiles in the order of their numbers; those beyond 256 are left out.
    #[must_use]
    pub fn new(profiles: &[Profile]) -> Self {
        let mut all = Box::new([Profile::new(0, 0, 0, 0); 256]);
        for (place, profile) in all.iter_mut().zip(profiles) {
            *place = *profile;
        }
        Self(all)
    }

    #[inline]
    fn of(&self, details: Details) -> u32 {
        self.0[usize::from(details.profile())].timeout(details.state())
    }
}

/// An entry's second word; see the module's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Details(u64);

impl Details {
    /// Packs an entry's second word.
    #[inline]
    #[must_use]
    pub const fn new(backend: u32, state: State, profile: u8, seen: Tick) -> Self {
        let backend = (backend & NO_BACKEND) as u64;
        Self(backend | (state as u64) << 21 | (profile as u64) << 24 | (seen.0 as u64) << 32)
    }

    /// The backend's number.
    #[inline]
    #[must_use]
    pub const fn backend(self) -> u32 {
        self.0 as u32 & NO_BACKEND
    }

    /// What is known of the flow.
    #[inline]
    #[must_use]
    pub const fn state(self) -> State {
        State::from_bits((self.0 >> 21) as u8 & 7)
    }

    /// Which time-outs hold.
    #[inline]
    #[must_use]
    pub const fn profile(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// When the flow's last packet came.
    #[inline]
    #[must_use]
    pub const fn seen(self) -> Tick {
        Tick((self.0 >> 32) as u32)
    }
}

/// Where a live entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    line: u32,
    way: u8,
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

/// A worker's table. The worker owns it; others get a [`ConntrackReader`].
#[derive(Debug)]
pub struct Conntrack {
    lines: Arc<HugeSlice>,
    count: u32,
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
        Ok(Self { lines, count })
    }

    /// A view for other threads.
    #[must_use]
    pub fn reader(&self) -> ConntrackReader {
        ConntrackReader {
            lines: Arc::clone(&self.lines),
            count: self.count,
        }
    }

    /// Entries in all.
    #[must_use]
    pub fn capacity(&self) -> u64 {
        u64::from(self.count) * WAYS as u64
    }

    /// Hot: asks for the line that holds the flow if it is established.
    #[inline]
    pub fn prefetch(&self, hash: FlowHash) {
        if let Some(line) = self.lines.get(primary(hash, self.count) as usize) {
            prefetch_write(line);
        }
    }

    /// Hot: finds a live entry.
    #[inline]
    #[must_use]
    pub fn find(&self, hash: FlowHash, now: Tick, profiles: &Profiles) -> Option<(Place, Details)> {
        find(&self.lines, self.count, hash, now, profiles)
    }

    /// Hot: replaces the details of an entry that [`Conntrack::find`] has just found.
    #[inline]
    pub fn update(&mut self, place: Place, details: Details) {
        if let Some(line) = self.lines.get(place.line as usize) {
            line.0[WAYS + usize::from(place.way) % WAYS].store(details.0, Relaxed);
        }
    }

    /// Remembers a flow that [`Conntrack::find`] has just not found. Looks at eight entries, no
    /// more.
    pub fn insert(
        &mut self,
        hash: FlowHash,
        details: Details,
        now: Tick,
        profiles: &Profiles,
    ) -> Inserted {
        let first = primary(hash, self.count);
        let candidates = [first, secondary(first, hash, self.count)];
        // The best place so far: its cost, and where it lies. Cost orders places: free or dead (0),
        // then by rank, then by time left.
        let mut best: Option<(u64, Place)> = None;
        for bucket in candidates {
            let Some(line) = self.lines.get(bucket as usize) else {
                continue;
            };
            for way in 0..WAYS {
                let fingerprint = line.0[way].load(Relaxed);
                let held = Details(line.0[WAYS + way].load(Relaxed));
                let cost = if fingerprint == 0 || fingerprint == hash.fingerprint {
                    Some(0)
                } else {
                    eviction_cost(held, details.state(), now, profiles)
                };
                if let Some(cost) = cost
                    && best.is_none_or(|(lowest, _)| cost < lowest)
                {
                    best = Some((
                        cost,
                        Place {
                            line: bucket,
                            way: way as u8,
                        },
                    ));
                }
            }
            if matches!(best, Some((0, _))) {
                break;
            }
        }
        let Some((cost, place)) = best else {
            return Inserted::Untracked;
        };
        let Some(line) = self.lines.get(place.line as usize) else {
            return Inserted::Untracked;
        };
        line.0[usize::from(place.way) % WAYS].store(hash.fingerprint, Relaxed);
        self.update(place, details);
        if cost == 0 {
            Inserted::Free
        } else {
            Inserted::Evicted
        }
    }
}

/// What it costs to give a held entry's place to a newcomer in state `newcomer`: zero for a dead
/// entry, `None` where it may not.
#[inline]
fn eviction_cost(held: Details, newcomer: State, now: Tick, profiles: &Profiles) -> Option<u64> {
    let timeout = profiles.of(held);
    let idle = now.since(held.seen());
    if idle >= timeout {
        return Some(0);
    }
    let state = held.state();
    if state.is_confirmed() && (newcomer == State::Syn || idle <= timeout / 2) {
        return None;
    }
    Some(1 + (u64::from(state.rank()) << 32) + u64::from(timeout - idle))
}

#[inline]
fn primary(hash: FlowHash, count: u32) -> u32 {
    crate::flow::scale(hash.bucket as u32, count)
}

/// The other candidate bucket. An involution for a given fingerprint: an entry's other bucket can be
/// told from the entry and the bucket it lies in.
#[inline]
fn secondary(bucket: u32, hash: FlowHash, count: u32) -> u32 {
    let pivot = crate::flow::scale((hash.fingerprint >> 32) as u32, count);
    if pivot >= bucket {
        pivot - bucket
    } else {
        pivot + (count - bucket)
    }
}

#[inline]
fn find(
    lines: &HugeSlice,
    count: u32,
    hash: FlowHash,
    now: Tick,
    profiles: &Profiles,
) -> Option<(Place, Details)> {
    let first = primary(hash, count);
    let found = find_in(lines, first, hash.fingerprint)
        .or_else(|| find_in(lines, secondary(first, hash, count), hash.fingerprint));
    found.filter(|(_, details)| now.since(details.seen()) < profiles.of(*details))
}

#[inline]
fn find_in(lines: &HugeSlice, bucket: u32, fingerprint: u64) -> Option<(Place, Details)> {
    let CacheLine(words) = lines.get(bucket as usize)?;
    // All four are compared before one is picked: no branch per way.
    let matches = (0..WAYS).fold(0u32, |bits, way| {
        bits | u32::from(words[way].load(Relaxed) == fingerprint) << way
    });
    if matches == 0 {
        return None;
    }
    let way = matches.trailing_zeros() as usize % WAYS;
    let details = Details(words[WAYS + way].load(Relaxed));
    Some((
        Place {
            line: bucket,
            way: way as u8,
        },
        details,
    ))
}

/// Another thread's view of a worker's table: exact when the worker rests, close when it runs.
#[derive(Debug, Clone)]
pub struct ConntrackReader {
    lines: Arc<HugeSlice>,
    count: u32,
}

impl ConntrackReader {
    /// The live entry of a flow.
    #[must_use]
    pub fn find(&self, hash: FlowHash, now: Tick, profiles: &Profiles) -> Option<Details> {
        find(&self.lines, self.count, hash, now, profiles).map(|(_, details)| details)
    }

    /// Calls `visit` with every live entry: a pass over the whole table, for the control core.
    pub fn for_each_live(&self, now: Tick, profiles: &Profiles, mut visit: impl FnMut(Details)) {
        let load = |word: &AtomicU64| word.load(Relaxed);
        for CacheLine(words) in self.lines.iter() {
            for way in 0..WAYS {
                let details = Details(load(&words[WAYS + way]));
                if load(&words[way]) != 0 && now.since(details.seen()) < profiles.of(details) {
                    visit(details);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
