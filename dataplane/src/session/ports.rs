//! An address that weir speaks to backends from, and its ports.
//!
//! A word for each port and protocol: the session that has the port, or the port's place in its
//! owner's queue of free ports. The port that has been free for longest is taken first. A port that
//! was given back rests for [`QUARANTINE_MS`] before it speaks to the *same* backend again, which
//! may still remember it (TIME-WAIT, RFC 9293, section 3.6.1); to others it is as good as new. The
//! last backend is in the port's word, those before it in [`Rests`]; a port that more backends may
//! remember than can be noted speaks to nobody until one of them has forgotten it.
//!
//! ## A port's word
//! | | bit 63 | 62..48 | 47..32 | 31..0 |
//! |---|---|---|---|---|
//! | taken | 1 | 0 | 0 | the session's number |
//! | free | 0 | tag of the last backend, 0 for never used | next free port | when it was given back |

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_engine::memory::{HugeSlice, MemoryError, prefetch_read};
use weir_engine::wire::protocol;

use super::rest::Rests;
use crate::address::{Addr, Version};
use crate::conntrack::Tick;

/// The lowest port that sessions get.
pub const FIRST_PORT: u16 = 1024;
/// The highest port that sessions get. The 4,096 behind it are left to what weir itself says from
/// the address: health checks.
pub const LAST_PORT: u16 = 61_439;
/// Hot: whether a session may have this port.
#[inline(always)]
#[must_use]
pub const fn is_spoken_from(port: u16) -> bool {
    port >= FIRST_PORT && port <= LAST_PORT
}

/// Ports of a block, which one worker owns: whole cache lines of words.
pub const BLOCK: u16 = 64;
/// How long a port rests before it speaks to the same backend again: twice the maximum segment
/// lifetime as Linux and the BSDs count it.
pub const QUARANTINE_MS: u32 = 60_000;
/// Resting ports that are looked at before a session is refused, at least: the search goes on there
/// when the client asks again.
const TRIES: u32 = 16;
/// Resting ports more that are looked at within a millisecond, for whichever sessions need it: a
/// flood that finds all ports resting costs no more than this.
const SPARE_TRIES: u32 = 1_024;

const PORTS: usize = 1 << 16;
const WORDS: usize = 8;
const TAKEN: u64 = 1 << 63;

/// The worker that owns a port.
#[inline]
#[must_use]
pub const fn owner(port: u16, workers: u16) -> u16 {
    (port / BLOCK) % if workers == 0 { 1 } else { workers }
}

/// An address of weir's own; see the module's text.
#[derive(Debug)]
pub struct SnatAddress {
    /// Its family.
    pub version: Version,
    /// The address.
    pub address: Addr,
    workers: u16,
    words: HugeSlice,
    rests: Rests,
    /// A line for each worker and protocol: `[head 16 | tail 16 | free ports 32]`, a counter for the
    /// identification of IPv4 datagrams, and `[now 32 | spare tries used at that time 32]`.
    queues: HugeSlice,
}

/// Which half of the words: sessions of TCP and UDP do not share ports.
#[inline]
const fn half(of: u8) -> usize {
    (of != protocol::TCP) as usize
}

/// The place of a port's word.
#[inline]
const fn place(of: u8, port: u16) -> usize {
    half(of) * PORTS + port as usize
}

impl SnatAddress {
    /// An address without a port to use yet.
    pub(super) fn new(version: Version, address: Addr, workers: u16) -> Result<Self, MemoryError> {
        let workers = workers.max(1);
        Ok(Self {
            version,
            address,
            workers,
            words: HugeSlice::zeroed(2 * PORTS / WORDS, false)?,
            rests: Rests::new(2 * PORTS)?,
            queues: HugeSlice::zeroed(2 * usize::from(workers), false)?,
        })
    }

    /// Frees all ports that sessions may have, to be first used in the order that `seed` makes; zero
    /// is from the lowest up.
    pub(super) fn free_all(&self, seed: u64) {
        self.free_no_more_than(FIRST_PORT..=LAST_PORT, seed);
    }

    /// Frees these ports and leaves all others out.
    pub(super) fn free_no_more_than(&self, ports: RangeInclusive<u16>, seed: u64) {
        for worker in 0..self.workers {
            let mut ports: Vec<u16> = ports
                .clone()
                .filter(|port| owner(*port, self.workers) == worker)
                .collect();
            shuffle(&mut ports, seed);
            for of in [protocol::TCP, protocol::UDP] {
                if let Some(queue) = self.queue(worker, of) {
                    queue[0].store(0, Relaxed);
                }
                for port in &ports {
                    self.push_back(worker, of, *port, 0);
                }
            }
        }
    }

    #[inline]
    fn word(&self, of: u8, port: u16) -> Option<&AtomicU64> {
        let index = place(of, port);
        self.words
            .get(index / WORDS)
            .map(|line| &line.0[index % WORDS])
    }

    fn queue(&self, worker: u16, of: u8) -> Option<&[AtomicU64; WORDS]> {
        let line = usize::from(worker) * 2 + half(of);
        self.queues.get(line).map(|line| &line.0)
    }

    /// Hot: asks for the word of a port.
    #[inline]
    pub fn prefetch(&self, of: u8, port: u16) {
        if let Some(word) = self.word(of, port) {
            prefetch_read(word);
        }
    }

    /// Hot: the session that has the port.
    #[inline]
    #[must_use]
    pub fn session(&self, of: u8, port: u16) -> Option<u32> {
        let word = self.word(of, port)?.load(Relaxed);
        (word & TAKEN != 0).then_some(word as u32)
    }

    /// Takes a free port of `worker` for a session with `backend`, one that `fits` if there is one
    /// among the first `look`. `None` when there is no free port, or those that are free rest.
    #[allow(clippy::too_many_arguments)] // whose, for whom, and which will do: no two belong together
    pub fn take(
        &self,
        worker: u16,
        of: u8,
        session: u32,
        backend: (Addr, u16),
        now: Tick,
        look: usize,
        fits: impl Fn(u16) -> bool,
    ) -> Option<u16> {
        let tag = tag(backend);
        let spare = self.spare_tries(worker, of, now);
        // Nobody is looked at twice.
        let all = (TRIES + spare).min(self.free(worker, of));
        let (mut to_look, mut tries) = (look, all);
        let taken = loop {
            if tries == 0 {
                break None;
            }
            let (port, free) = self.pop_front(worker, of)?;
            if to_look > 0 && !fits(port) {
                to_look -= 1;
            } else if self.rests_for(of, port, free, tag, now) {
                tries -= 1;
            } else {
                break Some(port);
            }
            self.push_back(worker, of, port, free);
        };
        self.spend_tries(worker, of, now, (all - tries).saturating_sub(TRIES));
        let port = taken?;
        self.word(of, port)?
            .store(TAKEN | u64::from(session), Relaxed);
        Some(port)
    }

    /// Whether a free port may not speak to a backend yet. One that may is to be taken: its last
    /// backend is among the others then.
    fn rests_for(&self, of: u8, port: u16, free: u64, tag: u16, now: Tick) -> bool {
        let (last, since) = (free_tag(free), Tick(free as u32));
        if last == 0 || now.since(since) >= QUARANTINE_MS {
            // Whoever had it before the last has forgotten it, too.
            return false;
        }
        last == tag || !self.rests.pass(place(of, port), tag, (last, since), now)
    }

    /// Tries that there are beyond the usual at this time.
    fn spare_tries(&self, worker: u16, of: u8, now: Tick) -> u32 {
        let spent = self
            .queue(worker, of)
            .map_or(0, |queue| queue[2].load(Relaxed));
        if spent as u32 == now.0 {
            SPARE_TRIES.saturating_sub((spent >> 32) as u32)
        } else {
            SPARE_TRIES
        }
    }

    fn spend_tries(&self, worker: u16, of: u8, now: Tick, tries: u32) {
        if let Some(queue) = self.queue(worker, of).filter(|_| tries > 0) {
            let before = SPARE_TRIES - self.spare_tries(worker, of, now);
            let spent = u64::from(before + tries) << 32 | u64::from(now.0);
            queue[2].store(spent, Relaxed);
        }
    }

    /// Gives a port back whose session with `backend` was over at `end`: it rests from then on.
    pub fn give_back(&self, of: u8, port: u16, backend: (Addr, u16), end: Tick) {
        let free = u64::from(tag(backend)) << 48 | u64::from(end.0);
        self.push_back(owner(port, self.workers), of, port, free);
    }

    /// Free ports of a worker, resting ones included.
    #[must_use]
    pub fn free(&self, worker: u16, of: u8) -> u32 {
        self.queue(worker, of)
            .map_or(0, |queue| (queue[0].load(Relaxed) >> 32) as u32)
    }

    /// The next identification for a datagram of `worker` that goes to a backend in pieces: no other
    /// worker gives the same one out before 65,536 have gone.
    #[inline]
    #[must_use]
    pub fn next_id(&self, worker: u16) -> u16 {
        let Some(queue) = self.queue(worker, protocol::TCP) else {
            return 0;
        };
        let count = queue[1].load(Relaxed);
        queue[1].store(count.wrapping_add(1), Relaxed);
        (count.wrapping_mul(u64::from(self.workers)) as u16).wrapping_add(worker)
    }

    fn pop_front(&self, worker: u16, of: u8) -> Option<(u16, u64)> {
        let queue = self.queue(worker, of)?;
        let held = queue[0].load(Relaxed);
        let (head, tail, count) = (held as u16, (held >> 16) as u16, held >> 32);
        if count == 0 {
            return None;
        }
        let free = self.word(of, head)?.load(Relaxed);
        let next = (free >> 32) as u16;
        let ends = u64::from(next) | u64::from(tail) << 16;
        queue[0].store(ends | (count - 1) << 32, Relaxed);
        Some((head, free))
    }

    /// `free` is the port's word but for the next free port.
    fn push_back(&self, worker: u16, of: u8, port: u16, free: u64) {
        let (Some(queue), Some(word)) = (self.queue(worker, of), self.word(of, port)) else {
            return;
        };
        word.store(free & !(0xffff << 32), Relaxed);
        let held = queue[0].load(Relaxed);
        let (head, tail, count) = (held as u16, (held >> 16) as u16, held >> 32);
        let head = if count == 0 {
            port
        } else {
            if let Some(last) = self.word(of, tail) {
                let linked = last.load(Relaxed) & !(0xffff << 32) | u64::from(port) << 32;
                last.store(linked, Relaxed);
            }
            head
        };
        let ends = u64::from(head) | u64::from(port) << 16;
        queue[0].store(ends | (count + 1) << 32, Relaxed);
    }
}

#[inline]
const fn free_tag(word: u64) -> u16 {
    (word >> 48) as u16 & 0x7fff
}

/// 15 bits that stand for a backend, never zero. Two backends with one tag only rest more ports than
/// they must.
const fn tag((Addr([low, high]), port): (Addr, u16)) -> u16 {
    let mixed =
        (low ^ high.rotate_left(32) ^ (port as u64) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 49) as u16 | 1
}

/// Fisher and Yates, over Vigna's xorshift64*; nothing here has to be hard to guess for long.
fn shuffle(ports: &mut [u16], seed: u64) {
    if seed == 0 {
        return;
    }
    let mut state = seed;
    for last in (1..ports.len()).rev() {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let draw = (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize;
        ports.swap(last, draw % (last + 1));
    }
}
