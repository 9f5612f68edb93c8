//! What is known of datagrams in pieces, and the pieces that wait: bounded in number, in bytes and
//! in time.
//!
//! A set-associative table like conntrack's, known by keyed fingerprints, of which a worker alone
//! reads and writes. It never grows: where it is full, the datagram whose last piece is longest ago
//! gives way, complete ones first. All memory is taken at the start.
//!
//! A datagram is *waiting* until its first piece comes, then *open* until all of its bytes have
//! passed, then *complete*; a piece that overlaps the first one, or a second first one that is not
//! the same, makes it *refused*, and no more of it passes (RFC 5722). Duplicates are let through.

use weir_shm::counters::DropReason;

use super::Piece;
use crate::conntrack::Tick;
use crate::flow::{FlowHash, scale};

/// Datagrams that a worker knows at once.
pub const DATAGRAMS: usize = 4096;
/// Pieces that a worker holds at once.
pub const HELD: usize = 512;
/// Bytes of frames that a worker holds at once.
pub const HELD_BYTES: usize = 1 << 20;
/// Pieces of one datagram that wait at most: what 64 KiB make at an MTU of 1,280.
pub const HELD_OF_ONE: u16 = 56;
/// How long a piece waits for its first one, in milliseconds.
pub const PATIENCE: u32 = 1_000;
/// How long a datagram is known after its last piece, in milliseconds.
pub const MEMORY: u32 = 2_000;

const WAYS: usize = 4;

/// What becomes of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival<D> {
    /// It is the first: decide, and tell by [`Fragments::decide`].
    Decide,
    /// It goes where the first one went.
    Follow(D),
    /// It comes before the first: [`Fragments::hold`] it.
    Wait,
    /// It is dropped.
    Refuse(DropReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Open,
    Complete,
    Refused,
}

/// A datagram. A fingerprint of zero is an empty place.
#[derive(Debug, Clone, Copy)]
struct Entry<D> {
    fingerprint: u64,
    seen: Tick,
    state: State,
    /// Pieces that wait for its first.
    waiting: u16,
    /// Where its first piece ends, and that piece's ports.
    first_end: u16,
    ports: u32,
    /// Bytes of payload that have passed, and that there are; zero until the last piece came.
    passed: u32,
    total: u32,
    decision: Option<D>,
}

impl<D> Entry<D> {
    const EMPTY: Self = Self {
        fingerprint: 0,
        seen: Tick(0),
        state: State::Waiting,
        waiting: 0,
        first_end: 0,
        ports: 0,
        passed: 0,
        total: 0,
        decision: None,
    };

    const fn is_live(&self, now: Tick) -> bool {
        self.fingerprint != 0 && now.since(self.seen) < MEMORY
    }

    /// Who gives way first: nobody, the dead, then the complete, then the one longest silent.
    fn cost(&self, now: Tick) -> u64 {
        if !self.is_live(now) {
            return 0;
        }
        let class: u64 = if self.state == State::Complete { 1 } else { 2 };
        (class << 32) | u64::from(u32::MAX - now.since(self.seen))
    }

    fn pass(&mut self, piece: &Piece) {
        self.passed = self.passed.saturating_add(u32::from(piece.len));
        if !piece.more {
            self.total = u32::from(piece.offset) + u32::from(piece.len);
        }
        if self.state == State::Open && self.total != 0 && self.passed >= self.total {
            self.state = State::Complete;
        }
    }
}

/// What is known of a piece that waits; beside it in `frames`, the frame.
#[derive(Debug, Clone, Copy)]
struct Held {
    fingerprint: u64,
    /// When it came, and in which order.
    since: Tick,
    order: u64,
    bytes: u32,
}

/// Datagrams in pieces: what was decided (`D`) for each, and the frames (`T`) that wait.
#[derive(Debug)]
pub struct Fragments<T, D> {
    entries: Box<[Entry<D>]>,
    held: Box<[Option<Held>]>,
    frames: Box<[Option<T>]>,
    count: usize,
    bytes: usize,
    order: u64,
    /// When the piece that waits longest came.
    oldest: Tick,
}

impl<T, D: Copy> Default for Fragments<T, D> {
    fn default() -> Self {
        Self {
            entries: vec![Entry::EMPTY; DATAGRAMS].into_boxed_slice(),
            held: vec![None; HELD].into_boxed_slice(),
            frames: std::iter::repeat_with(|| None).take(HELD).collect(),
            count: 0,
            bytes: 0,
            order: 0,
            oldest: Tick(0),
        }
    }
}

impl<T, D: Copy> Fragments<T, D> {
    /// Pieces that wait.
    #[inline]
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.count
    }

    /// What becomes of a piece of the datagram `key`; `ports` are a first piece's. Bounded: looks
    /// at four entries.
    #[cold]
    pub fn arrive(&mut self, key: FlowHash, piece: &Piece, ports: u32, now: Tick) -> Arrival<D> {
        let Some(entry) = self.find(key, now) else {
            return if piece.is_first() {
                Arrival::Decide
            } else {
                Arrival::Wait
            };
        };
        entry.seen = now;
        let is_same_first = entry.first_end == piece.len && entry.ports == ports;
        match (entry.state, piece.is_first()) {
            (State::Refused, _) => Arrival::Refuse(DropReason::FragmentOverlap),
            (State::Waiting, false) => Arrival::Wait,
            (State::Waiting, true) => Arrival::Decide,
            // The identification has come round: a new datagram.
            (State::Complete, true) if !is_same_first => Arrival::Decide,
            (State::Open, true) if !is_same_first => {
                entry.state = State::Refused;
                Arrival::Refuse(DropReason::FragmentOverlap)
            }
            (State::Open | State::Complete, false) if piece.offset < entry.first_end => {
                entry.state = State::Refused;
                Arrival::Refuse(DropReason::FragmentOverlap)
            }
            (State::Open | State::Complete, first) => {
                if !first {
                    entry.pass(piece);
                }
                match entry.decision {
                    Some(decision) => Arrival::Follow(decision),
                    None => Arrival::Refuse(DropReason::Fragment),
                }
            }
        }
    }

    /// Remembers what was decided for a first piece; `None` where all of the datagram is to be
    /// dropped as belonging to nobody. Pieces that waited for it are then to be had from
    /// [`Fragments::release`].
    #[cold]
    pub fn decide(
        &mut self,
        key: FlowHash,
        piece: &Piece,
        ports: u32,
        decision: Option<D>,
        now: Tick,
    ) {
        let waiting = self.find(key, now).map_or(0, |entry| entry.waiting);
        let entry = self.place(key, now);
        *entry = Entry {
            fingerprint: key.fingerprint,
            seen: now,
            state: State::Open,
            waiting,
            first_end: piece.len,
            ports,
            decision,
            ..Entry::EMPTY
        };
        entry.pass(piece);
    }

    /// Keeps a piece that came before its first one.
    ///
    /// # Errors
    /// The frame, to be dropped for [`DropReason::FragmentTableFull`].
    #[cold]
    pub fn hold(&mut self, key: FlowHash, frame: T, bytes: usize, now: Tick) -> Result<(), T> {
        if self.count >= HELD || self.bytes + bytes > HELD_BYTES {
            return Err(frame);
        }
        if self
            .find(key, now)
            .is_some_and(|entry| entry.waiting >= HELD_OF_ONE)
        {
            return Err(frame);
        }
        let Some(slot) = self.held.iter().position(Option::is_none) else {
            return Err(frame);
        };
        let known = self.find(key, now).is_some();
        let entry = self.place(key, now);
        if !known {
            *entry = Entry {
                fingerprint: key.fingerprint,
                seen: now,
                ..Entry::EMPTY
            };
        }
        entry.waiting += 1;
        self.order += 1;
        let held = Held {
            fingerprint: key.fingerprint,
            since: now,
            order: self.order,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        };
        if self.count == 0 {
            self.oldest = now;
        }
        if let (Some(place), Some(room)) = (self.held.get_mut(slot), self.frames.get_mut(slot)) {
            (*place, *room) = (Some(held), Some(frame));
            self.count += 1;
            self.bytes += bytes;
        }
        Ok(())
    }

    /// The next piece that waited for the first one of `key`, in the order in which they came.
    /// Bounded: looks at each piece that waits, and only where one waits for this.
    #[cold]
    pub fn release(&mut self, key: FlowHash, now: Tick) -> Option<T> {
        let entry = self.find(key, now)?;
        if entry.waiting == 0 || entry.state == State::Waiting {
            return None;
        }
        entry.waiting -= 1;
        let of_this = |held: &Option<Held>| {
            held.filter(|held| held.fingerprint == key.fingerprint)
                .map(|held| held.order)
        };
        let (_, slot) = self
            .held
            .iter()
            .enumerate()
            .filter_map(|(slot, held)| Some((of_this(held)?, slot)))
            .min()?;
        self.take(slot)
    }

    /// A piece that has waited too long, if there is one: to be dropped for
    /// [`DropReason::FragmentTimeout`]. Call until there is none.
    #[inline]
    pub fn expired(&mut self, now: Tick) -> Option<T> {
        if self.count == 0 || now.since(self.oldest) < PATIENCE {
            return None;
        }
        self.expire(now)
    }

    #[cold]
    fn expire(&mut self, now: Tick) -> Option<T> {
        let (_, slot, held) = self
            .held
            .iter()
            .enumerate()
            .filter_map(|(slot, held)| held.map(|held| (held.order, slot, held)))
            .min_by_key(|(order, ..)| *order)?;
        // Order is order of arrival, so the lowest is the oldest.
        self.oldest = held.since;
        if now.since(held.since) < PATIENCE {
            return None;
        }
        let bucket = Self::bucket(held.fingerprint);
        if let Some(entry) = self
            .entries
            .get_mut(bucket..bucket + WAYS)
            .and_then(|ways| {
                ways.iter_mut()
                    .find(|entry| entry.fingerprint == held.fingerprint)
            })
        {
            entry.waiting = entry.waiting.saturating_sub(1);
        }
        self.take(slot)
    }

    /// Any piece that waits, however long: for the end, when nothing may be left behind.
    pub fn give_up(&mut self) -> Option<T> {
        let slot = self.held.iter().position(Option::is_some)?;
        self.take(slot)
    }

    fn take(&mut self, slot: usize) -> Option<T> {
        let held = self.held.get_mut(slot)?.take()?;
        self.count -= 1;
        self.bytes -= held.bytes as usize;
        self.frames.get_mut(slot)?.take()
    }

    /// The first way of a fingerprint's bucket. The fingerprint is as evenly spread as the bucket
    /// half, and all that a piece which waits needs to carry.
    const fn bucket(fingerprint: u64) -> usize {
        scale((fingerprint >> 32) as u32, (DATAGRAMS / WAYS) as u32) as usize * WAYS
    }

    fn find(&mut self, key: FlowHash, now: Tick) -> Option<&mut Entry<D>> {
        let bucket = Self::bucket(key.fingerprint);
        self.entries
            .get_mut(bucket..bucket + WAYS)?
            .iter_mut()
            .find(|entry| entry.fingerprint == key.fingerprint && entry.is_live(now))
    }

    /// The datagram's own entry, or the one that gives way to it.
    fn place(&mut self, key: FlowHash, now: Tick) -> &mut Entry<D> {
        let bucket = Self::bucket(key.fingerprint);
        let cost = |entry: &Entry<D>| {
            if entry.fingerprint == key.fingerprint {
                None
            } else {
                Some(entry.cost(now))
            }
        };
        let way = (0..WAYS)
            .min_by_key(|way| self.entries.get(bucket + way).and_then(cost))
            .unwrap_or(0);
        &mut self.entries[bucket + way]
    }
}
