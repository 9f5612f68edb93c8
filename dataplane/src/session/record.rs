//! A session's record: two cache lines, the first of which is all that a client's packet needs.
//!
//! | word | hot line | cold line |
//! |---|---|---|
//! | 0 | the flow's fingerprint; zero is no session | client's address |
//! | 1 | last seen 32, time-out 32 (ms) | |
//! | 2 | SNAT port 16, SNAT address 16, backend's number 32 | VIP |
//! | 3 | first sequence number 32, inserted bytes 16, backend's port 16 | |
//! | 4 | backend's address | client's port 16, VIP's port 16, service's counters 32 |
//! | 5 | | backend's first sequence number 32, place on the wheel 32 |
//! | 6 | what checksums change by, 16 each | time-outs: established 32, closing 32 |
//! | 7 | state 8, flags 8, protocol 8, begun by a piece 1, when steady 7, bucket 32 | neighbours on the wheel: before 32, after 32 |
//!
//! Numbers stand from the low bits up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use weir_engine::memory::CacheLine;

use super::tcp::State;
use crate::address::{Addr, Version};
use crate::conntrack::Tick;
use crate::service::Change;

/// Bits of [`Record::flags`].
pub mod flag {
    /// The client has sent FIN.
    pub const CLIENT_FIN: u8 = 1;
    /// The backend has sent FIN.
    pub const BACKEND_FIN: u8 = 2;
    /// The client speaks IPv6.
    pub const CLIENT_V6: u8 = 4;
    /// The backend speaks IPv6.
    pub const BACKEND_V6: u8 = 8;
    /// The client's address is still to be told, or not known to have arrived.
    pub const TELLING: u8 = 16;
    /// It is told by the TCP option TOA, not by a PROXY header.
    pub const TOA: u8 = 32;
    /// The PROXY header has been sent at least once.
    pub const TOLD: u8 = 64;
    /// The option found no room; it was counted.
    pub const NO_ROOM: u8 = 128;
}

/// A stretch of time, a quarter of a second long, by a number that is never zero and comes again after
/// half a minute. Whoever takes an old stretch for this one is wrong for no longer than it lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch(u8);

impl Stretch {
    /// That of a moment.
    #[inline]
    #[must_use]
    pub const fn of(now: Tick) -> Self {
        Self(((now.0 >> 8) % 127 + 1) as u8)
    }
}

/// One end of a session's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// Its family.
    pub version: Version,
    /// Its address.
    pub address: Addr,
    /// Its port.
    pub port: u16,
}

/// A session's record, read and written by its owner.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    pub(super) hot: &'a [AtomicU64; 8],
    pub(super) cold: &'a [AtomicU64; 8],
}

const fn version(flags: u8, bit: u8) -> Version {
    if flags & bit == 0 {
        Version::V4
    } else {
        Version::V6
    }
}

/// Replaces `bits` bits of a word from bit `at` on.
#[inline]
fn set_bits(word: &AtomicU64, at: u32, bits: u32, value: u64) {
    let mask = (u64::MAX >> (64 - bits)) << at;
    word.store(word.load(Relaxed) & !mask | value << at & mask, Relaxed);
}

impl<'a> Record<'a> {
    pub(super) const fn new(CacheLine(hot): &'a CacheLine, CacheLine(cold): &'a CacheLine) -> Self {
        Self { hot, cold }
    }

    /// The flow's fingerprint; zero where there is no session.
    #[inline]
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.hot[0].load(Relaxed)
    }

    /// When its last packet came.
    #[inline]
    #[must_use]
    pub fn seen(&self) -> Tick {
        Tick(self.hot[1].load(Relaxed) as u32)
    }

    /// How long it lives from there, in milliseconds.
    #[inline]
    #[must_use]
    pub fn timeout(&self) -> u32 {
        (self.hot[1].load(Relaxed) >> 32) as u32
    }

    /// A packet of it came.
    #[inline]
    pub fn touch(&self, now: Tick) {
        set_bits(&self.hot[1], 0, 32, u64::from(now.0));
    }

    /// As a packet of the session comes to a worker that is not its owner: seen now. Whatever the
    /// owner writes meanwhile stands.
    pub fn touch_from_afar(&self, now: Tick) {
        let before = self.hot[1].load(Relaxed);
        let after = before & !0xffff_ffff | u64::from(now.0);
        // Who was faster has touched it, too.
        let _ = self.hot[1].compare_exchange(before, after, Relaxed, Relaxed);
    }

    pub(super) fn set_timeout(&self, timeout: u32) {
        set_bits(&self.hot[1], 32, 32, u64::from(timeout));
    }

    /// Whether it still lives.
    #[inline]
    #[must_use]
    pub fn is_live(&self, now: Tick) -> bool {
        now.since(self.seen()) < self.timeout()
    }

    /// The port that stands for the client.
    #[inline]
    #[must_use]
    pub fn snat_port(&self) -> u16 {
        self.hot[2].load(Relaxed) as u16
    }

    /// The number of the address that stands for the client.
    #[inline]
    #[must_use]
    pub fn snat_address(&self) -> u16 {
        (self.hot[2].load(Relaxed) >> 16) as u16
    }

    /// The backend's number, which is its own for life.
    #[inline]
    #[must_use]
    pub fn backend_number(&self) -> u32 {
        (self.hot[2].load(Relaxed) >> 32) as u32
    }

    /// TCP: the sequence number of the client's first byte.
    #[inline]
    #[must_use]
    pub fn first_sequence(&self) -> u32 {
        self.hot[3].load(Relaxed) as u32
    }

    /// TCP: bytes that were put before the client's first.
    #[inline]
    #[must_use]
    pub fn inserted(&self) -> u16 {
        (self.hot[3].load(Relaxed) >> 32) as u16
    }

    /// The backend.
    #[inline]
    #[must_use]
    pub fn backend(&self) -> Side {
        Side {
            version: version(self.flags(), flag::BACKEND_V6),
            address: Addr([self.hot[4].load(Relaxed), self.hot[5].load(Relaxed)]),
            port: (self.hot[3].load(Relaxed) >> 48) as u16,
        }
    }

    /// What is known of the connection.
    #[inline]
    #[must_use]
    pub fn state(&self) -> State {
        State::from_bits(self.hot[7].load(Relaxed) as u8)
    }

    /// Bits of [`flag`].
    #[inline]
    #[must_use]
    pub fn flags(&self) -> u8 {
        (self.hot[7].load(Relaxed) >> 8) as u8
    }

    /// The IP protocol's number.
    #[inline]
    #[must_use]
    pub fn protocol(&self) -> u8 {
        (self.hot[7].load(Relaxed) >> 16) as u8
    }

    /// A session that changes is not steady until it is found to be so again.
    #[inline]
    pub(super) fn set_state(&self, state: State, flags: u8) {
        set_bits(
            &self.hot[7],
            0,
            16,
            u64::from(state as u8) | u64::from(flags) << 8,
        );
        set_bits(&self.hot[7], 25, 7, 0);
    }

    /// Sets bits of [`flag`].
    #[inline]
    pub fn raise(&self, flags: u8) {
        set_bits(&self.hot[7], 8, 8, u64::from(self.flags() | flags));
    }

    /// Clears bits of [`flag`].
    #[inline]
    pub fn lower(&self, flags: u8) {
        set_bits(&self.hot[7], 8, 8, u64::from(self.flags() & !flags));
    }

    /// Whether it was begun by a piece of a datagram, so that whole packets of its flow may come to
    /// another worker.
    #[must_use]
    pub fn is_begun_by_piece(&self) -> bool {
        self.hot[7].load(Relaxed) >> 24 & 1 != 0
    }

    pub(super) fn set_begun_by_piece(&self) {
        set_bits(&self.hot[7], 24, 1, 1);
    }

    /// Hot: whether conntrack has found its flow steady in this stretch of time, and nothing has
    /// changed since.
    #[inline]
    #[must_use]
    pub fn is_steady(&self, stretch: Stretch) -> bool {
        self.hot[7].load(Relaxed) >> 25 & 0x7f == u64::from(stretch.0)
    }

    /// Notes that conntrack has found its flow steady, if it is so itself: established, and nobody
    /// has begun to close it.
    #[inline]
    pub fn note_steady(&self, stretch: Stretch) {
        const CLOSING: u8 = flag::CLIENT_FIN | flag::BACKEND_FIN;
        if matches!(self.state(), State::Established | State::Udp) && self.flags() & CLOSING == 0 {
            set_bits(&self.hot[7], 25, 7, stretch.0.into());
        }
    }

    pub(super) fn bucket(&self) -> u32 {
        (self.hot[7].load(Relaxed) >> 32) as u32
    }

    /// The client.
    #[inline]
    #[must_use]
    pub fn client(&self) -> Side {
        Side {
            version: version(self.flags(), flag::CLIENT_V6),
            address: Addr([self.cold[0].load(Relaxed), self.cold[1].load(Relaxed)]),
            port: self.cold[4].load(Relaxed) as u16,
        }
    }

    /// Where the client sent its first packet to.
    #[inline]
    #[must_use]
    pub fn vip(&self) -> Side {
        Side {
            version: version(self.flags(), flag::CLIENT_V6),
            address: Addr([self.cold[2].load(Relaxed), self.cold[3].load(Relaxed)]),
            port: (self.cold[4].load(Relaxed) >> 16) as u16,
        }
    }

    /// The service's first counter.
    #[inline]
    #[must_use]
    pub fn service_counters(&self) -> u32 {
        (self.cold[4].load(Relaxed) >> 32) as u32
    }

    /// TCP: the sequence number of the backend's first byte, once it has answered.
    #[inline]
    #[must_use]
    pub fn backend_first(&self) -> u32 {
        self.cold[5].load(Relaxed) as u32
    }

    /// Notes the sequence number of the backend's first byte.
    pub fn set_backend_first(&self, sequence: u32) {
        set_bits(&self.cold[5], 0, 32, u64::from(sequence));
    }

    /// Time-outs of an established and of a closing session, in milliseconds.
    #[must_use]
    pub(super) fn times(&self) -> (u32, u32) {
        let times = self.cold[6].load(Relaxed);
        (times as u32, (times >> 32) as u32)
    }

    /// What its packets' checksums change by.
    #[inline]
    #[must_use]
    pub fn change(&self) -> Change {
        Change::from_bits(self.hot[6].load(Relaxed))
    }

    pub(super) fn set_change(&self, change: Change) {
        self.hot[6].store(change.to_bits(), Relaxed);
    }

    /// Whether nothing is told of the client, or has been.
    #[inline]
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.flags() & flag::TELLING == 0 && self.inserted() == 0
    }

    pub(super) fn before(&self) -> u32 {
        self.cold[7].load(Relaxed) as u32
    }

    pub(super) fn after(&self) -> u32 {
        (self.cold[7].load(Relaxed) >> 32) as u32
    }

    pub(super) fn set_before(&self, session: u32) {
        set_bits(&self.cold[7], 0, 32, u64::from(session));
    }

    pub(super) fn set_after(&self, session: u32) {
        set_bits(&self.cold[7], 32, 32, u64::from(session));
    }

    pub(super) fn wheel_slot(&self) -> u32 {
        (self.cold[5].load(Relaxed) >> 32) as u32
    }

    pub(super) fn set_wheel_slot(&self, slot: u32) {
        set_bits(&self.cold[5], 32, 32, u64::from(slot));
    }
}
