//! What a worker does when a round brought nothing.

use std::hint;
use std::thread;
use std::time::Duration;

/// How a worker idles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Never lets go of the core: the lowest latency, and a core at 100 %.
    #[default]
    Poll,
    /// Backs off: first pauses, then sleeps that grow to [`LONGEST_SLEEP`]. The first packet after
    /// a silence waits that long at most; a loaded worker never sleeps.
    Adaptive,
}

/// Empty rounds before a worker first pauses: some microseconds. A pause takes twice as long as the
/// rest of an empty round, and a packet that comes meanwhile waits for its end; so there is none
/// between the packets of anything above some 300,000 a second. After that the core's other thread, if
/// it has one, and its power draw are worth more.
const EAGER_ROUNDS: u32 = 256;

/// Empty rounds before an adaptive worker first sleeps: some tens of microseconds of pauses.
const PAUSED_ROUNDS: u32 = 1_024;

/// The first sleep; each further one is twice as long.
const SHORTEST_SLEEP: Duration = Duration::from_micros(20);

/// The bound of an adaptive worker's sleep, to which the kernel adds its timer slack (about 50 µs).
pub const LONGEST_SLEEP: Duration = Duration::from_micros(320);

/// Keeps count of empty rounds, and waits accordingly.
#[derive(Debug, Clone)]
pub struct Idle {
    mode: Mode,
    empty_rounds: u32,
}

impl Idle {
    /// An idler that has seen no empty round yet.
    #[must_use]
    pub const fn new(mode: Mode) -> Self {
        Self {
            mode,
            empty_rounds: 0,
        }
    }

    /// To be called once a round with the number of packets that it received. Returns at once
    /// after a round with traffic, and after the first few without; otherwise pauses or sleeps as the
    /// mode says.
    #[inline]
    pub fn wait(&mut self, received: usize) {
        if received != 0 {
            self.empty_rounds = 0;
        } else {
            if self.empty_rounds >= EAGER_ROUNDS {
                self.rest();
            }
            self.empty_rounds = self.empty_rounds.saturating_add(1);
        }
    }

    /// How long the next empty round will sleep; zero while it only pauses.
    #[must_use]
    pub fn next_sleep(&self) -> Duration {
        match (self.mode, self.empty_rounds.checked_sub(PAUSED_ROUNDS)) {
            (Mode::Poll, _) | (_, None) => Duration::ZERO,
            (Mode::Adaptive, Some(sleeps)) => SHORTEST_SLEEP
                .saturating_mul(1 << sleeps.min(16))
                .min(LONGEST_SLEEP),
        }
    }

    #[cold]
    fn rest(&self) {
        hint::spin_loop();
        let sleep = self.next_sleep();
        if !sleep.is_zero() {
            thread::sleep(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_never_sleeps() {
        let mut idle = Idle::new(Mode::Poll);
        (0..10_000).for_each(|_| idle.wait(0));
        assert_eq!(idle.next_sleep(), Duration::ZERO);
    }

    #[test]
    fn adaptive_idling_grows_to_its_bound_and_traffic_resets_it() {
        let mut idle = Idle::new(Mode::Adaptive);
        (0..PAUSED_ROUNDS).for_each(|_| {
            assert_eq!(idle.next_sleep(), Duration::ZERO);
            idle.wait(0);
        });
        let mut last = Duration::ZERO;
        for _ in 0..6 {
            assert!(idle.next_sleep() >= last && !idle.next_sleep().is_zero());
            last = idle.next_sleep();
            idle.wait(0);
        }
        assert_eq!(idle.next_sleep(), LONGEST_SLEEP);
        idle.wait(1);
        assert_eq!(idle.next_sleep(), Duration::ZERO);
    }
}
