//! When each packet is due: packet `i` at `i / rate` seconds after the start.

/// A steady rate, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Packets a second; 0 is as fast as possible.
    rate: u64,
}

const SECOND: u128 = 1_000_000_000;

impl Pace {
    /// `rate` packets a second; 0 for as fast as possible.
    #[must_use]
    pub const fn new(rate: u64) -> Self {
        Self { rate }
    }

    /// How many packets are due `elapsed` ns after the start: the first at once, and all of them
    /// without a rate.
    #[inline]
    #[must_use]
    pub const fn due(self, elapsed: u64) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        (elapsed as u128 * self.rate as u128).div_ceil(SECOND) as u64
    }

    /// When packet `index` is due, in ns after the start; `None` without a rate.
    #[inline]
    #[must_use]
    pub const fn time(self, index: u64) -> Option<u64> {
        match (index as u128 * SECOND).checked_div(self.rate as u128) {
            Some(time) => Some(time as u64),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_second_holds_as_many_packets_as_the_rate_says() {
        assert_eq!(Pace::new(1_000).due(1_000_000_000), 1_000);
        assert_eq!(Pace::new(1_000).due(1), 1);
        assert_eq!(Pace::new(0).due(0), u64::MAX);
        assert_eq!(Pace::new(0).time(5), None);
    }

    proptest! {
        #[test]
        fn a_packet_is_due_once_its_time_has_passed(rate in 1u64..100_000_000, index in 0u64..1_000_000_000) {
            let pace = Pace::new(rate);
            let time = pace.time(index).unwrap();
            prop_assert!(pace.due(time) <= index + 1);
            prop_assert!(pace.due(time + 1) > index);
        }
    }
}
