//! A token bucket of which half is kept for frames that are expected.

use crate::conntrack::Tick;

/// What a frame costs, in the bucket's unit.
const COST: u64 = 1_000;
/// How long it takes to fill an empty bucket, in milliseconds.
const DEPTH_MS: u64 = 20;
/// Frames that any bucket holds at least.
const LEAST: u64 = 32;

/// So many frames a second. Frames that are not expected find the bucket empty when half of it is
/// left, so that they cannot take it all, however many they are; in quiet times they get the whole
/// rate.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Thousandths of a frame: what a millisecond is worth at one frame a second.
    credit: u64,
    full: u64,
    rate: u64,
    /// `None` before the first frame.
    seen: Option<Tick>,
}

impl Bucket {
    /// A full bucket for `rate` frames a second.
    #[must_use]
    pub fn new(rate: u32) -> Self {
        Self::deeper(rate, 1)
    }

    /// A bucket that takes bursts `times` as long.
    #[must_use]
    pub fn deeper(rate: u32, times: u64) -> Self {
        let rate = u64::from(rate);
        let full = (rate * DEPTH_MS).max(LEAST * COST) * times;
        Self {
            credit: full,
            full,
            rate,
            seen: None,
        }
    }

    /// Whether a frame may pass at `now`; if so it is paid for.
    pub fn take(&mut self, now: Tick, expected: bool) -> bool {
        let passed = self.seen.map_or(Some(0), |seen| now.passed_since(seen));
        // A clock that steps back earns nothing.
        if let Some(passed) = passed {
            let earned = u64::from(passed) * self.rate;
            self.credit = self.credit.saturating_add(earned).min(self.full);
            self.seen = Some(now);
        }
        let kept = if expected { 0 } else { self.full / 2 };
        let passes = self.credit >= kept + COST;
        if passes {
            self.credit -= COST;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_idle_bucket_is_full_whatever_the_clock_says_first() {
        for start in [0, 1, u32::MAX] {
            let mut bucket = Bucket::new(1_000);
            let passed = (0..1_000)
                .filter(|_| bucket.take(Tick(start), true))
                .count();
            assert_eq!(passed, 32);
        }
    }

    #[test]
    fn strangers_get_the_whole_rate_when_nobody_else_comes() {
        let mut bucket = Bucket::new(10_000);
        let offered = (0..1_000u32).flat_map(|ms| (0..50).map(move |_| Tick(ms)));
        let passed = offered.filter(|now| bucket.take(*now, false)).count();
        assert!((9_900..=10_200).contains(&passed), "{passed}");
    }

    #[test]
    fn a_clock_that_steps_back_earns_nothing() {
        let mut bucket = Bucket::new(1_000);
        while bucket.take(Tick(5_000), true) {}
        assert!(!bucket.take(Tick(1_000), true));
        assert!(!bucket.take(Tick(5_000), true));
        assert!(bucket.take(Tick(5_001), true));
    }

    proptest! {
        #[test]
        fn after_any_silence_the_bucket_is_full_again(
            start: u32, silence in 32u32..u32::MAX - 60_000,
        ) {
            let mut bucket = Bucket::new(1_000);
            let mut passed = |at| (0..100).filter(|_| bucket.take(Tick(at), true)).count();
            prop_assert_eq!(passed(start), 32);
            prop_assert_eq!(passed(start.wrapping_add(silence)), 32);
        }

        #[test]
        fn never_more_than_the_rate_and_a_burst_passes(
            rate in 1u32..2_000_000,
            steps in prop::collection::vec((0u32..20, 0usize..200, any::<bool>()), 1..200),
        ) {
            let mut bucket = Bucket::new(rate);
            let (mut now, mut passed) = (0, 0u64);
            for (pause, frames, expected) in steps {
                now += pause;
                for _ in 0..frames {
                    passed += u64::from(bucket.take(Tick(now), expected));
                }
            }
            let most = (u64::from(rate) * u64::from(now)).div_ceil(1_000)
                + (u64::from(rate) * DEPTH_MS / 1_000).max(LEAST);
            prop_assert!(passed <= most, "{passed} of {most}");
        }

        #[test]
        fn expected_frames_within_half_the_burst_always_pass(
            rate in 100u32..1_000_000, strangers in prop::collection::vec(0usize..500, 50),
        ) {
            let mut bucket = Bucket::new(rate);
            for (ms, strangers) in (0u32..).zip(strangers) {
                for _ in 0..strangers {
                    bucket.take(Tick(ms), false);
                }
                // One in a hundred milliseconds at the least rate is less than what comes in.
                if ms % 10 == 0 {
                    prop_assert!(bucket.take(Tick(ms), true));
                }
            }
        }
    }
}
