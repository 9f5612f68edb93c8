//! Which packets of bursts are those of a sample, where every packet matches.
//!
//! A worker counts by itself, not in the capture, whose lines it would have to touch for each burst.

/// A worker's count down to the next packet of a sample.
#[derive(Debug, Default)]
pub struct Countdown {
    /// The number of the capture that it is for.
    capture: u64,
    /// Packets up to the next one of the sample, and with it. None where a capture looks at all.
    left: u64,
}

impl Countdown {
    /// Hot while there is a capture: counts a burst of `count` packets, if none of them is one of the
    /// sample; whether that is known.
    #[inline(always)]
    pub const fn passes(&mut self, capture: u64, count: usize) -> bool {
        let passes = self.capture == capture && self.left > count as u64;
        if passes {
            self.left -= count as u64;
        }
        passes
    }

    /// Counts a burst of `count` packets, 32 at most, of which one in `sample` is drawn: those, a bit
    /// each.
    pub fn draw(&mut self, capture: u64, sample: u32, count: usize) -> u32 {
        let (sample, count) = (u64::from(sample.max(1)), count as u64);
        if self.capture != capture {
            (self.capture, self.left) = (capture, sample);
        }
        let (mut bits, mut next) = (0, self.left.saturating_sub(1));
        while next < count {
            bits |= 1 << (next % 32);
            next += sample;
        }
        self.left = next + 1 - count;
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bursts of many sizes.
    fn bursts() -> impl Iterator<Item = usize> {
        ((0..=32).chain([32; 9]))
            .chain([1; 70])
            .chain([17, 5, 0, 31])
    }

    /// As the packet path asks.
    fn drawn(countdown: &mut Countdown, capture: u64, sample: u32, count: usize) -> u32 {
        if countdown.passes(capture, count) {
            0
        } else {
            countdown.draw(capture, sample, count)
        }
    }

    #[test]
    fn one_in_n_is_drawn_wherever_bursts_begin_and_end() {
        for sample in [1, 2, 3, 31, 32, 33, 100] {
            let (mut countdown, mut seen) = (Countdown::default(), 0);
            for count in bursts() {
                let expected = (0..count).fold(0, |bits, place| {
                    seen += 1;
                    bits | u32::from(seen % sample == 0) << place
                });
                assert_eq!(drawn(&mut countdown, 1, sample, count), expected);
            }
        }
    }

    #[test]
    fn another_capture_is_counted_for_anew() {
        let mut countdown = Countdown::default();
        assert_eq!(drawn(&mut countdown, 1, 1_000_000, 32), 0);
        assert_eq!(drawn(&mut countdown, 2, 10, 32), 1 << 9 | 1 << 19 | 1 << 29);
        assert_eq!(drawn(&mut countdown, 2, 10, 32), 1 << 7 | 1 << 17 | 1 << 27);
    }
}
