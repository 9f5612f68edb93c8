//! The highest value at which a trial passes, by halving the interval in which it must lie (RFC 2544,
//! section 24): short trials find a candidate, a full one must confirm it.
//!
//! Devices are noisy. A candidate that does not hold is given up for a lower one, step by step in
//! growing steps, and only full trials decide from then on. So what comes out has passed a full
//! trial, and the search ends after a bounded number of them whatever the trials say.

/// What the search wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// A trial at `value`; `full` if it decides.
    Trial {
        /// The value to be tried.
        value: u64,
        /// Whether the trial is to be of full length.
        full: bool,
    },
    /// It is over: the highest value that passed, 0 if none did.
    Done(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The largest value comes first: it may pass.
    Top,
    Halve,
    Confirm,
    /// The candidate did not hold; look lower, this far below.
    Descend {
        step: u64,
    },
}

/// A search under way: [`Search::ask`] and [`Search::tell`] in turn.
#[derive(Debug, Clone)]
pub struct Search {
    resolution: f64,
    /// Highest value that is thought to pass.
    low: u64,
    /// Whether a full trial at it has passed.
    sure: bool,
    /// Lowest value that did not pass.
    high: u64,
    /// Whether every trial is a full one.
    full: bool,
    phase: Phase,
}

impl Search {
    /// A search up to `top` that stops when the interval is a `resolution` (0 to 1) of its upper end.
    /// With `quick`, short trials find the candidate.
    #[must_use]
    pub const fn new(top: u64, resolution: f64, quick: bool) -> Self {
        Self {
            resolution,
            low: 0,
            sure: false,
            high: top,
            full: !quick,
            phase: Phase::Top,
        }
    }

    /// What is to be done now.
    pub fn ask(&mut self) -> Ask {
        if self.phase == Phase::Halve && self.high - self.low <= self.grain() {
            if self.low == 0 || self.sure {
                return Ask::Done(self.low);
            }
            self.phase = Phase::Confirm;
        }
        let (value, full) = match self.phase {
            Phase::Top => (self.high, self.full),
            Phase::Halve => (self.low + (self.high - self.low) / 2, self.full),
            Phase::Confirm | Phase::Descend { .. } => (self.low, true),
        };
        match value {
            0 => Ask::Done(0),
            _ => Ask::Trial { value, full },
        }
    }

    /// Takes in how the trial that was asked for went.
    pub fn tell(&mut self, passed: bool) {
        match (self.phase, passed) {
            (Phase::Top, true) => {
                (self.low, self.sure) = (self.high, self.full);
                self.high = self.high.saturating_add(1);
                self.phase = Phase::Halve;
            }
            (Phase::Top, false) => self.phase = Phase::Halve,
            (Phase::Halve, true) => {
                self.low = self.low + (self.high - self.low) / 2;
                self.sure = self.full;
            }
            (Phase::Halve, false) => self.high = self.low + (self.high - self.low) / 2,
            (Phase::Confirm | Phase::Descend { .. }, true) => {
                self.sure = true;
                self.phase = Phase::Halve;
            }
            (Phase::Confirm, false) => {
                self.high = self.low;
                self.full = true;
                self.descend(self.grain());
            }
            (Phase::Descend { step }, false) => {
                self.high = self.low;
                self.descend(step.saturating_mul(2));
            }
        }
    }

    fn descend(&mut self, step: u64) {
        self.low = self.high.saturating_sub(step);
        self.phase = if self.low == 0 {
            Phase::Halve
        } else {
            Phase::Descend { step }
        };
    }

    /// An interval this small is not halved any more.
    fn grain(&self) -> u64 {
        ((self.high as f64 * self.resolution) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;
    use proptest::prelude::*;

    /// Runs a search over a device that answers `passes(value, full)`; gives the result, and every
    /// trial with its outcome.
    fn run(
        mut search: Search,
        mut passes: impl FnMut(u64, bool) -> bool,
    ) -> (u64, Vec<(u64, bool, bool)>) {
        let mut trials = Vec::new();
        for _ in 0..500 {
            match search.ask() {
                Ask::Done(value) => return (value, trials),
                Ask::Trial { value, full } => {
                    let passed = passes(value, full);
                    trials.push((value, full, passed));
                    search.tell(passed);
                }
            }
        }
        panic!("no end after {trials:?}");
    }

    #[test]
    fn a_device_that_holds_the_maximum_takes_two_trials() {
        let (value, trials) = run(Search::new(1_000, 0.01, true), |_, _| true);
        assert_eq!(value, 1_000);
        assert_eq!(trials, [(1_000, false, true), (1_000, true, true)]);
        assert_eq!(run(Search::new(1_000, 0.01, false), |_, _| true).1.len(), 1);
    }

    #[test]
    fn a_device_that_passes_nothing_has_no_throughput() {
        assert_eq!(run(Search::new(1_000_000, 0.01, true), |_, _| false).0, 0);
        assert_eq!(run(Search::new(0, 0.01, true), |_, _| true).0, 0);
    }

    #[test]
    fn a_candidate_that_short_trials_flatter_is_corrected_by_full_ones() {
        // A queue of the device holds what a short trial has too many.
        let (value, trials) = run(Search::new(10_000_000, 0.01, true), |rate, full| {
            rate <= if full { 3_000_000 } else { 4_000_000 }
        });
        assert!((2_960_000..=3_000_000).contains(&value), "{value}");
        assert!(trials.len() < 25, "{trials:?}");
    }

    proptest! {
        /// The law of a device with a fixed capacity: never above it, and below it by the resolution
        /// at most.
        #[test]
        fn the_capacity_is_found_to_the_resolution(
            top in 1u64..100_000_000, capacity in 0u64..120_000_000, resolution in 0.001..0.2, quick: bool,
        ) {
            let (value, trials) = run(Search::new(top, resolution, quick), |rate, _| rate <= capacity);
            let reachable = capacity.min(top);
            prop_assert!(value <= reachable);
            let slack = (reachable as f64 * resolution / (1.0 - resolution)).ceil() as u64 + 1;
            prop_assert!(reachable - value <= slack, "{value} of {reachable}");
            prop_assert!(trials.len() <= 40);
            let halvings = (1.0 / resolution).log2().ceil() as usize + 4;
            if capacity >= top / 2 {
                prop_assert!(trials.len() <= halvings, "{} trials", trials.len());
            }
        }

        /// A device that loses packets by chance near its capacity: what comes out has passed a full
        /// trial, and nothing is found where nothing can pass.
        #[test]
        fn a_noisy_device_ends_with_a_value_that_passed_in_full(seed: u64, capacity in 1_000u64..9_000_000) {
            let mut random = Random::new(seed);
            let (value, trials) = run(Search::new(10_000_000, 0.01, true), |rate, full| {
                let load = rate as f64 / capacity as f64;
                let chance = if full { (load - 0.9) * 8.0 } else { (load - 0.95) * 8.0 };
                random.unit() >= chance
            });
            prop_assert!(value as f64 <= capacity as f64 * 1.1);
            prop_assert!(value as f64 >= capacity as f64 * 0.45, "{value} of {capacity}");
            prop_assert!(trials.contains(&(value, true, true)));
        }

        #[test]
        fn it_ends_whatever_the_trials_say(answers in proptest::collection::vec(any::<bool>(), 200), top: u64) {
            let mut answers = answers.into_iter().cycle();
            run(Search::new(top, 0.001, true), |_, _| answers.next().unwrap());
        }
    }
}
