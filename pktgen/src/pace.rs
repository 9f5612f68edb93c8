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

/// Keeps a sender that was held up from catching up all at once: it may go a quarter faster than the
/// rate until it is in time again, and send bursts of 32 packets or 100 µs' worth, whichever is more.
/// A queue of 256 packets (a veth has no more) would overflow otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Throttle {
    rate: u128,
    last: u64,
    /// Packets that may be sent now, in billionths.
    credit: u128,
}

/// The burst that is always allowed.
const BURST: u128 = 32 * SECOND;

impl Throttle {
    /// A throttle at `pace`, for a sender that starts at time 0.
    #[must_use]
    pub const fn new(pace: Pace) -> Self {
        Self {
            rate: pace.rate as u128,
            last: 0,
            credit: BURST,
        }
    }

    /// How many packets may go `elapsed` ns after the start.
    #[inline]
    pub fn allowed(&mut self, elapsed: u64) -> u64 {
        if self.rate == 0 {
            return u64::MAX;
        }
        let passed = u128::from(elapsed.saturating_sub(self.last));
        self.last = self.last.max(elapsed);
        let most = BURST.max(self.rate * 100_000);
        self.credit = (self.credit + passed * (self.rate + self.rate.div_ceil(4))).min(most);
        (self.credit / SECOND) as u64
    }

    /// Takes `packets` that have gone off what is allowed.
    #[inline]
    pub fn spend(&mut self, packets: u64) {
        self.credit = self.credit.saturating_sub(u128::from(packets) * SECOND);
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

    /// A sender that looks every 10 µs but is away from `stall` to `back` (µs). Gives the largest
    /// burst and how many have gone after `end` µs.
    fn sender(rate: u64, stall: u64, back: u64, end: u64) -> (u64, u64) {
        let pace = Pace::new(rate);
        let (mut throttle, mut sent, mut largest) = (Throttle::new(pace), 0, 0);
        for micros in (0..end).step_by(10).filter(|m| !(stall..back).contains(m)) {
            let burst = (pace.due(micros * 1_000) - sent).min(throttle.allowed(micros * 1_000));
            throttle.spend(burst);
            (sent, largest) = (sent + burst, largest.max(burst));
        }
        (largest, sent)
    }

    #[test]
    fn a_sender_that_was_held_up_catches_up_in_small_bursts() {
        // 10 ms away at 100,000/s are 1,000 packets behind, which 25,000/s more make up in 40 ms.
        let (largest, sent) = sender(100_000, 20_000, 30_000, 75_000);
        assert!(largest <= 32, "{largest}");
        assert_eq!(sent, 7_499, "in time again");
        let (_, behind) = sender(100_000, 20_000, 30_000, 40_000);
        assert!((3_200..3_400).contains(&behind), "{behind} of 4,000");
    }

    #[test]
    fn a_sender_in_time_is_not_slowed() {
        for rate in [1_000, 100_000, 10_000_000] {
            assert_eq!(
                sender(rate, 0, 0, 100_000).1,
                Pace::new(rate).due(99_990_000)
            );
        }
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
