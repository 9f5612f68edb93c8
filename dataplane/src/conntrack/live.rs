//! How many flows of each backend a worker's table holds.
//!
//! Kept for schedulers that choose by it, in cells that the worker alone writes, on lines of its own;
//! whoever chooses adds up those of all workers. Every entry of a flow counts from when it is
//! written until another takes its place or the sweep finds it dead, so that counts are exact but
//! for flows that timed out within the last [`PASS`].
//!
//! Counting costs a new flow a load and a store, an established one nothing. The sweep runs only
//! while some service needs it.

use std::sync::atomic::Ordering::Relaxed;

use weir_engine::counters::{CounterReader, CounterWriter, counters};
use weir_engine::memory::{CacheLine, MemoryError};
use weir_shm::counters::MAX_BACKENDS;

use super::{Conntrack, Details, Profiles, Tick, WAYS};

/// Milliseconds in which the sweep passes over the whole table, if it may.
pub const PASS: u32 = 128;

/// Lines that a worker sweeps in a round of its loop: no packet waits longer for it than for a few others.
pub const LINES: u32 = 64;
/// Lines that it sweeps before it sleeps, which takes it less time than the sleep: enough for the pass
/// over five million entries, as rounds are rare then.
pub const LINES_ASLEEP: u32 = 4_096;

/// The counting side, with the sweep's place.
#[derive(Debug)]
pub(super) struct Live {
    flows: CounterWriter,
    reader: CounterReader,
    /// The line that the sweep looks at next.
    next: u32,
    /// Lines that it should have looked at, and has not.
    owed: u64,
    /// Up to when lines have been owed.
    until: Tick,
}

/// How many flows of each backend a worker holds, for any thread.
#[derive(Debug, Clone)]
pub struct LiveFlows(CounterReader);

impl LiveFlows {
    /// Flows of the backend with this number. For a moment it may be one too few, and less than
    /// none: add the workers' up with wrap-around.
    #[inline]
    #[must_use]
    pub fn of(&self, backend: u32) -> u64 {
        self.0.get(backend as usize)
    }
}

impl Live {
    pub(super) fn new() -> Result<Self, MemoryError> {
        let (flows, reader) = counters(MAX_BACKENDS)?;
        Ok(Self {
            flows,
            reader,
            next: 0,
            owed: 0,
            until: Tick::default(),
        })
    }

    pub(super) fn reader(&self) -> LiveFlows {
        LiveFlows(self.reader.clone())
    }

    /// A flow begins.
    #[inline]
    pub(super) fn add(&self, details: Details) {
        if !details.state().is_pin() {
            self.flows.add(details.backend() as usize, 1);
        }
    }

    /// A flow ends.
    #[inline]
    fn take(&self, details: Details) {
        if !details.state().is_pin() {
            self.flows.add(details.backend() as usize, u64::MAX);
        }
    }

    /// An entry goes, if there is one.
    #[inline]
    pub(super) fn forget(&self, line: &CacheLine, way: usize) {
        if line.0[way % WAYS].load(Relaxed) != 0 {
            self.take(Details(line.0[WAYS + way % WAYS].load(Relaxed)));
        }
    }

    /// An entry takes the place of what is there, if anything.
    #[inline]
    pub(super) fn replace(&self, line: &CacheLine, way: usize, details: Details) {
        self.forget(line, way);
        self.add(details);
    }
}

impl Conntrack {
    /// A flow that was found goes on with other details.
    #[inline]
    pub fn recount(&self, before: Details, after: Details) {
        if before.backend() != after.backend() {
            self.live.take(before);
            self.live.add(after);
        }
    }

    /// Clears dead entries: as many lines as `PASS` asks for since the last time, `most` at most.
    pub fn sweep(&mut self, now: Tick, profiles: &Profiles, most: u32) {
        let elapsed = now.since(self.live.until);
        if elapsed > 0 {
            let lines = u64::from(self.count) * u64::from(elapsed.min(PASS)) / u64::from(PASS);
            self.live.owed = (self.live.owed + lines.max(1)).min(u64::from(self.count));
            self.live.until = now;
        }
        let due = self.live.owed.min(u64::from(most));
        self.live.owed -= due;
        for _ in 0..due {
            if let Some(line) = self.lines.get(self.live.next as usize) {
                self.sweep_line(line, now, profiles);
            }
            self.live.next += 1;
            if self.live.next >= self.count {
                self.live.next = 0;
            }
        }
    }

    #[inline]
    fn sweep_line(&self, line: &CacheLine, now: Tick, profiles: &Profiles) {
        for way in 0..WAYS {
            let details = Details(line.0[WAYS + way].load(Relaxed));
            if line.0[way].load(Relaxed) != 0 && !profiles.is_alive(details, now) {
                self.live.take(details);
                line.0[way].store(0, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::{Inserted, Profile, State};
    use crate::flow::FlowHash;
    use proptest::prelude::*;

    fn hash(flow: u64) -> FlowHash {
        let mix = |x: u64| {
            let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            x ^ (x >> 31)
        };
        FlowHash {
            bucket: mix(flow * 2 + 1),
            fingerprint: mix(flow * 2 + 2).max(1),
        }
    }

    fn profiles() -> Profiles {
        Profiles::new(&[Profile::new(100, 1_000, 100, 500).with_affinity(10_000)])
    }

    #[test]
    fn clients_that_are_remembered_are_not_flows() {
        let mut table = Conntrack::new(100, false).unwrap();
        let pin = Details::new(3, State::PinNew, 0, Tick(1));
        table.insert(hash(1), pin, Tick(1), &profiles());
        assert_eq!(table.reader().live().of(3), 0);
        let mut flows = 0;
        table
            .reader()
            .for_each_live(Tick(2), &profiles(), |_| flows += 1);
        assert_eq!(flows, 0);
    }

    #[test]
    fn a_sweep_forgets_what_is_dead_within_its_time() {
        let mut table = Conntrack::new(20_000, false).unwrap();
        let live = table.reader().live().clone();
        for flow in 0..4_000 {
            let details = Details::new(7, State::Syn, 0, Tick(1));
            table.insert(hash(flow), details, Tick(1), &profiles());
        }
        table.sweep(Tick(50), &profiles(), u32::MAX);
        assert_eq!(live.of(7), 4_000);
        let mut now = 101;
        while live.of(7) > 0 && now < 1_000 {
            table.sweep(Tick(now), &profiles(), u32::MAX);
            now += 1;
        }
        assert!(now <= 101 + 2 * PASS, "{now}");
        table.sweep(Tick(5_000), &profiles(), 1);
        assert!(table.live.owed > 0, "bounded");
    }

    #[test]
    fn a_worker_that_mostly_sleeps_keeps_the_time_of_a_pass() {
        let mut table = Conntrack::new(1_000_000, false).unwrap();
        let live = table.reader().live().clone();
        for flow in 0..1_000 {
            let details = Details::new(7, State::Syn, 0, Tick(1));
            table.insert(hash(flow), details, Tick(1), &profiles());
        }
        // The longest sleep, with the kernel's slack: a round in 0.4 ms.
        let mut rounds = 0;
        while live.of(7) > 0 && rounds < 10_000 {
            rounds += 1;
            let now = Tick(101 + rounds * 2 / 5);
            table.sweep(now, &profiles(), LINES_ASLEEP);
        }
        assert!(rounds * 2 / 5 <= 2 * PASS, "{} ms", rounds * 2 / 5);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn counts_agree_with_the_table_whatever_happens(
            steps in proptest::collection::vec((0u64..200, 0u32..5, 0u8..4, 0u32..60), 1..400),
        ) {
            // Room for few, so that entries move, and give way to others.
            let mut table = Conntrack::new(60, false).unwrap();
            let (reader, profiles) = (table.reader(), profiles());
            let mut now = Tick(1);
            for (flow, backend, kind, later) in steps {
                now = Tick(now.0 + later);
                table.begin_burst();
                let state = [State::Syn, State::Established, State::UdpNew, State::PinNew];
                let details = Details::new(backend, state[usize::from(kind)], 0, now);
                match table.find(hash(flow), now, &profiles) {
                    Some(held) => {
                        let state = held.details().state();
                        let other = Details::new(backend, state, 0, now);
                        table.recount(held.details(), other);
                        held.set(other);
                    }
                    None => {
                        let _: Inserted = table.insert(hash(flow), details, now, &profiles);
                    }
                }
                if kind == 0 {
                    table.sweep(now, &profiles, 7);
                }
            }
            table.live.owed = u64::from(table.count);
            table.sweep(now, &profiles, u32::MAX);
            let mut counted = [0u64; 5];
            reader.for_each_live(now, &profiles, |held| counted[held.backend() as usize] += 1);
            for (backend, count) in (0u32..).zip(counted) {
                prop_assert_eq!(reader.live().of(backend), count);
            }
        }
    }
}
