//! A histogram of durations with fixed bounds, for the control core: adding is a few comparisons.

use std::time::Duration;

/// Upper bounds of the buckets in seconds; behind the last one lies a bucket without a bound.
pub const BOUNDS: [f64; 13] = [
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0,
];

/// Durations, sorted into buckets; see the module's text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Histogram {
    /// One for each bound, and one more for what is above all.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl Histogram {
    /// Adds a duration.
    pub fn add(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum = self.sum.saturating_add(duration);
    }

    /// How many durations were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum in seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// Each bound in seconds, and how many durations are not above it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        BOUNDS
            .iter()
            .zip(&self.counts)
            .scan(0, |sum, (bound, count)| {
                *sum += count;
                Some((*bound, *sum))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_duration_on_a_bound_is_not_above_it() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::from_millis(1));
        histogram.add(Duration::from_secs(60));
        let below = |bound: f64| {
            let mut all = histogram.cumulative();
            all.find(|(found, _)| *found >= bound).map(|(_, it)| it)
        };
        assert_eq!(
            (below(0.000_5), below(0.001), below(5.0)),
            (Some(0), Some(1), Some(1))
        );
        assert_eq!((histogram.count(), histogram.sum()), (2, 60.001));
    }

    proptest! {
        #[test]
        fn counts_grow_with_their_bounds_and_end_with_all(times in prop::collection::vec(0u64..10_000_000_000, 0..50)) {
            let mut histogram = Histogram::default();
            times.iter().for_each(|ns| histogram.add(Duration::from_nanos(*ns)));
            let counts: Vec<u64> = histogram.cumulative().map(|(_, count)| count).collect();
            prop_assert!(counts.is_sorted());
            prop_assert!(counts.iter().all(|count| *count <= histogram.count()));
            prop_assert_eq!(histogram.count(), times.len() as u64);
        }
    }
}
