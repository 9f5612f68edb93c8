//! Slow start: a new or recovered backend's share grows in steps.
//!
//! Each step builds one table, and moves at most a tenth of one backend's entries: existing flows
//! stay where they are, and new ones come to it little by little.

use std::time::Duration;

use crate::control::neighbours::Nanos;

/// Steps to the whole share.
pub const STEPS: u8 = 10;

/// A share that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ramp {
    /// When it began.
    pub since: Nanos,
    /// How long until the whole share.
    pub over: Duration,
}

impl Ramp {
    fn over_nanos(self) -> u128 {
        self.over.as_nanos().max(1)
    }

    /// The share at `now`, of [`STEPS`]; never zero.
    #[must_use]
    pub fn share(self, now: Nanos) -> u8 {
        let elapsed = u128::from(now.saturating_sub(self.since));
        let steps = elapsed * u128::from(STEPS - 1) / self.over_nanos();
        // At most STEPS, so it fits.
        1 + steps.min(u128::from(STEPS - 1)) as u8
    }

    /// When the next step comes; `None` when there is none.
    #[must_use]
    pub fn next(self, now: Nanos) -> Option<Nanos> {
        let share = self.share(now);
        if share >= STEPS {
            return None;
        }
        let after = (u128::from(share) * self.over_nanos()).div_ceil(u128::from(STEPS - 1));
        Some(
            self.since
                .saturating_add(u64::try_from(after).unwrap_or(u64::MAX)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_share_grows_step_by_step_to_the_whole(
            since in 0u64..1 << 50,
            millis in 1u64..10_000_000,
        ) {
            let ramp = Ramp { since, over: Duration::from_millis(millis) };
            let mut now = since;
            let mut shares = vec![ramp.share(now)];
            while let Some(next) = ramp.next(now) {
                prop_assert!(next > now);
                prop_assert_eq!(ramp.share(next - 1), *shares.last().unwrap());
                now = next;
                shares.push(ramp.share(now));
            }
            prop_assert_eq!(shares, (1..=STEPS).collect::<Vec<_>>());
            prop_assert_eq!(now, since + millis * 1_000_000);
        }
    }
}
