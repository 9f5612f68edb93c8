//! Whom the kernel talks to: a small table of fixed size, written by the control core when the
//! kernel sends, read by workers when a frame for the kernel comes in.
//!
//! Two words an entry, relaxed: a reader that sees half of a change takes a frame for unexpected,
//! or for expected a moment too long. Nothing is read on the common path. A living entry is never
//! put out by another, so that nobody who makes the kernel answer can push its peers out; TCP
//! connections have a half of the table to themselves, since datagrams are answered more readily.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::conntrack::Tick;
use crate::flow::FlowHash;

/// How long a peer is expected after the kernel has sent to it, in milliseconds: more than the
/// keepalives of BGP take (RFC 4271, section 10: a third of 90 s; BIRD: of 240 s).
const LIFE: u32 = 300_000;
/// Entries of a bucket, and buckets of each kind.
const WAYS: usize = 8;
const BUCKETS: usize = 256;

/// What an entry stands for; each kind has its half of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection.
    Connection = 0,
    /// An address and a protocol.
    Peer = 1,
}

#[derive(Debug, Default)]
struct Entry {
    /// Zero for none.
    fingerprint: AtomicU64,
    at: AtomicU32,
}

impl Entry {
    fn lives(&self, now: Tick) -> bool {
        let at = Tick(self.at.load(Ordering::Relaxed));
        // Workers' clocks may be a little behind the control core's.
        let lives = now.passed_since(at).is_none_or(|age| age < LIFE);
        self.fingerprint.load(Ordering::Relaxed) != 0 && lives
    }
}

/// The table; see the module's text. One thread writes.
#[derive(Debug)]
pub struct Peers(Box<[Entry]>);

impl Default for Peers {
    fn default() -> Self {
        Self((0..2 * BUCKETS * WAYS).map(|_| Entry::default()).collect())
    }
}

impl Peers {
    fn bucket(&self, hash: FlowHash, kind: Kind) -> &[Entry] {
        let number = kind as usize * BUCKETS + hash.bucket as usize % BUCKETS;
        self.0.chunks_exact(WAYS).nth(number).unwrap_or_default()
    }

    /// Expects frames of `hash` from now on, unless the table is full of others; whether there was
    /// room.
    pub fn expect(&self, hash: FlowHash, kind: Kind, now: Tick) -> bool {
        let bucket = self.bucket(hash, kind);
        let is_it = |entry: &&Entry| entry.fingerprint.load(Ordering::Relaxed) == hash.fingerprint;
        let found = bucket.iter().find(is_it);
        let Some(entry) = found.or_else(|| bucket.iter().find(|entry| !entry.lives(now))) else {
            return false;
        };
        entry.at.store(now.0, Ordering::Relaxed);
        entry.fingerprint.store(hash.fingerprint, Ordering::Relaxed);
        true
    }

    /// Whether frames of `hash` are expected. Reads one bucket.
    #[must_use]
    pub fn expects(&self, hash: FlowHash, kind: Kind, now: Tick) -> bool {
        self.bucket(hash, kind).iter().any(|entry| {
            entry.fingerprint.load(Ordering::Relaxed) == hash.fingerprint && entry.lives(now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(n: u64) -> FlowHash {
        FlowHash {
            bucket: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 7,
            fingerprint: n + 1,
        }
    }

    #[test]
    fn a_peer_is_expected_for_five_minutes_after_the_kernel_spoke() {
        let peers = Peers::default();
        assert!(peers.expect(hash(1), Kind::Connection, Tick(u32::MAX - 10)));
        let later = |ms: u32| Tick((u32::MAX - 10).wrapping_add(ms));
        assert!(peers.expects(hash(1), Kind::Connection, later(0)));
        assert!(peers.expects(hash(1), Kind::Connection, later(LIFE - 1)));
        assert!(!peers.expects(hash(1), Kind::Connection, later(LIFE)));
        assert!(peers.expect(hash(1), Kind::Connection, later(LIFE)));
        assert!(peers.expects(hash(1), Kind::Connection, later(LIFE + 1)));
        assert!(!peers.expects(hash(2), Kind::Connection, later(0)));
    }

    #[test]
    fn who_comes_later_puts_nobody_out() {
        let peers = Peers::default();
        assert!(peers.expect(hash(0), Kind::Peer, Tick(0)));
        let room = (1..100_000)
            .filter(|n| peers.expect(hash(*n), Kind::Peer, Tick(1)))
            .count();
        assert!(room < BUCKETS * WAYS, "{room}");
        assert!(peers.expects(hash(0), Kind::Peer, Tick(2)));
        // Datagrams leave connections their half.
        assert!(peers.expect(hash(7), Kind::Connection, Tick(2)));
    }

    #[test]
    fn what_has_died_makes_room() {
        for silence in [LIFE, u32::MAX / 2 + 1, u32::MAX - 60_000] {
            let peers = Peers::default();
            for n in 0..100_000 {
                peers.expect(hash(n), Kind::Peer, Tick(0));
            }
            assert!(!peers.expects(hash(7), Kind::Peer, Tick(silence)));
            assert!(peers.expect(hash(1_000_000), Kind::Peer, Tick(silence)));
        }
    }

    #[test]
    fn a_worker_whose_clock_is_a_little_behind_expects_the_peer_too() {
        let peers = Peers::default();
        assert!(peers.expect(hash(1), Kind::Connection, Tick(3)));
        assert!(peers.expects(hash(1), Kind::Connection, Tick(u32::MAX - 3)));
    }
}
