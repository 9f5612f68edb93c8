//! The newest flows with their addresses: a bounded sample, since conntrack holds no addresses.
//!
//! A worker notes at most [`BUDGET`] new flows a millisecond, over the oldest it has, so that the
//! cost of a flood of new flows does not grow with it; the control core reads along. Only new flows
//! pay, and most of them one comparison. A note is a cache line whose first word says which flow it
//! is: it is cleared before and written after the others, so that a reader never takes two halves
//! for one.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use weir_engine::memory::{CacheLine, HugeSlice, MemoryError};

use crate::address::{Addr, Version};
use crate::conntrack::Tick;
use crate::parse::Packet;

/// Flows that a worker remembers.
pub const KEPT: u64 = 256;
/// Flows that it notes in a millisecond at most.
pub const BUDGET: u32 = 4;

/// A flow that began lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewFlow {
    /// Its family.
    pub version: Version,
    /// The client.
    pub source: Addr,
    /// The VIP.
    pub destination: Addr,
    /// Both ports as they lie in the frame.
    pub ports: u32,
    /// Its protocol's number.
    pub protocol: u8,
    /// The number of the backend that it got.
    pub backend: u32,
    /// When it began.
    pub began: Tick,
}

/// The worker's side.
#[derive(Debug)]
pub struct Newest {
    notes: Arc<HugeSlice>,
    next: Cell<u64>,
    /// The millisecond, and how many may still be noted in it.
    budget: Cell<(Tick, u32)>,
}

/// The control core's side.
#[derive(Debug, Clone)]
pub struct NewestReader(Arc<HugeSlice>);

impl Newest {
    /// Nothing noted yet.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new() -> Result<Self, MemoryError> {
        Ok(Self {
            notes: Arc::new(HugeSlice::zeroed(KEPT as usize, false)?),
            next: Cell::new(1),
            budget: Cell::new((Tick::default(), BUDGET)),
        })
    }

    /// A view for the control core.
    #[must_use]
    pub fn reader(&self) -> NewestReader {
        NewestReader(Arc::clone(&self.notes))
    }

    /// A flow begins with this packet.
    #[inline]
    pub fn note(&self, packet: &Packet, backend: u32, now: Tick) {
        let (millisecond, left) = self.budget.get();
        let left = if millisecond == now { left } else { BUDGET };
        if left > 0 {
            self.budget.set((now, left - 1));
            self.write(packet, backend, now);
        }
    }

    #[cold]
    fn write(&self, packet: &Packet, backend: u32, now: Tick) {
        let number = self.next.get();
        self.next.set(number + 1);
        let Some(CacheLine(words)) = self.notes.get((number % KEPT) as usize) else {
            return;
        };
        let Addr([s0, s1]) = packet.source;
        let Addr([d0, d1]) = packet.destination;
        words[0].store(0, Relaxed);
        fence(Release);
        let kind = u64::from(packet.protocol) | (packet.version as u64) << 8;
        let values = [
            s0,
            s1,
            d0,
            d1,
            u64::from(packet.ports) | u64::from(now.0) << 32,
            u64::from(backend) | kind << 32,
        ];
        for (word, value) in words.iter().skip(1).zip(values) {
            word.store(value, Relaxed);
        }
        words[0].store(number, Release);
    }
}

impl NewestReader {
    /// What is noted, in no order.
    pub fn flows(&self) -> impl Iterator<Item = NewFlow> + '_ {
        self.0.iter().filter_map(|CacheLine(words)| {
            let number = words[0].load(Acquire);
            let [s0, s1, d0, d1, ports, rest] =
                [1, 2, 3, 4, 5, 6].map(|place: usize| words[place].load(Relaxed));
            fence(Acquire);
            if number == 0 || words[0].load(Relaxed) != number {
                return None;
            }
            Some(NewFlow {
                version: if rest >> 40 == 4 {
                    Version::V4
                } else {
                    Version::V6
                },
                source: Addr([s0, s1]),
                destination: Addr([d0, d1]),
                ports: ports as u32,
                protocol: (rest >> 32) as u8,
                backend: rest as u32,
                began: Tick((ports >> 32) as u32),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(port: u16) -> Packet {
        Packet {
            source: "192.0.2.1".parse::<std::net::IpAddr>().unwrap().into(),
            destination: "198.51.100.10".parse::<std::net::IpAddr>().unwrap().into(),
            ports: port.into(),
            protocol: 6,
            ..Packet::default()
        }
    }

    #[test]
    fn a_flood_is_noted_a_few_a_millisecond() {
        let newest = Newest::new().unwrap();
        for n in 0..1000 {
            newest.note(&packet(n), 7, Tick(5));
        }
        assert_eq!(newest.reader().flows().count(), BUDGET as usize);
        for n in 0..1000u16 {
            newest.note(&packet(n), 7, Tick(10 + u32::from(n)));
        }
        let flows: Vec<_> = newest.reader().flows().collect();
        assert_eq!(flows.len(), KEPT as usize);
        assert!(flows.iter().all(|flow| flow.began.0 >= 1010 - KEPT as u32));
        let last = flows.iter().max_by_key(|flow| flow.began.0).unwrap();
        let expected = packet(999);
        assert_eq!((last.ports, last.backend, last.protocol), (999, 7, 6));
        assert_eq!((last.source, last.version), (expected.source, Version::V4));
    }
}
