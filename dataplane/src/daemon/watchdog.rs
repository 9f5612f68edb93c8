//! Whether every worker still goes round its loop.
//!
//! A worker cannot say that it is stuck, so the control core looks at the counter of its rounds:
//! one that has not moved from one look to the next stands still. The watchdog is fed only while
//! all move, so that a service manager restarts a weir of which a part hangs.

use std::time::{Duration, Instant};

/// How often workers are looked at when no service manager wants to hear of it.
const UNASKED: Duration = Duration::from_secs(2);
/// Looks in one period of the service manager's watchdog: more than two, so that one that comes
/// late is no alarm.
const LOOKS: u32 = 3;
/// The shortest time between two looks; a worker makes thousands of rounds in it.
const SHORTEST: Duration = Duration::from_millis(20);

/// What is new of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It has made no round for this long.
    Stuck(usize, Duration),
    /// It goes round again, after this long.
    Moves(usize, Duration),
}

/// A worker as it was last seen.
#[derive(Debug, Clone, Copy)]
struct Seen {
    rounds: u64,
    /// When it had last moved.
    moved: Instant,
    stuck: bool,
}

/// Looks at workers now and then.
#[derive(Debug)]
pub struct Watchdog {
    every: Duration,
    looked: Instant,
    workers: Vec<Seen>,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether every worker moved since the last look.
    pub all_move: bool,
    /// What is new.
    pub news: Vec<News>,
}

impl Watchdog {
    /// Over so many workers; `period` is the time within which the service manager wants to hear
    /// that all is well, if it does.
    #[must_use]
    pub fn new(now: Instant, workers: usize, period: Option<Duration>) -> Self {
        let every = period.map_or(UNASKED, |period| (period / LOOKS).max(SHORTEST));
        let seen = Seen {
            rounds: 0,
            moved: now,
            stuck: false,
        };
        Self {
            every,
            looked: now,
            workers: vec![seen; workers],
        }
    }

    /// Looks, if it is time to; `rounds` are those that each worker has made, in order.
    pub fn look(&mut self, now: Instant, rounds: impl Iterator<Item = u64>) -> Option<Look> {
        if now.saturating_duration_since(self.looked) < self.every {
            return None;
        }
        self.looked = now;
        let mut look = Look {
            all_move: true,
            news: Vec::new(),
        };
        for (number, (worker, rounds)) in self.workers.iter_mut().zip(rounds).enumerate() {
            let still = now.saturating_duration_since(worker.moved);
            if rounds == worker.rounds {
                look.all_move = false;
                if !worker.stuck {
                    worker.stuck = true;
                    look.news.push(News::Stuck(number, still));
                }
                continue;
            }
            worker.rounds = rounds;
            worker.moved = now;
            if worker.stuck {
                worker.stuck = false;
                look.news.push(News::Moves(number, still));
            }
        }
        Some(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(3);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_fed_more_than_twice_a_period_while_all_move() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(start, 2, Some(PERIOD));
        let mut fed = Vec::new();
        for ms in 0..9_000u64 {
            let now = start + Duration::from_millis(ms);
            let look = watchdog.look(now, [ms + 1, 2 * ms + 1].into_iter());
            if look.is_some_and(|look| look.all_move && look.news.is_empty()) {
                fed.push(ms);
            }
        }
        assert_eq!(fed.len(), 8, "{fed:?}");
        assert!(
            fed.windows(2).all(|pair| pair[1] - pair[0] <= 1_500),
            "{fed:?}"
        );
    }

    #[test]
    fn a_worker_that_stands_still_is_named_once_and_stops_the_feeding() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(start, 2, Some(PERIOD));
        let mut look = |second, rounds: [u64; 2]| {
            watchdog
                .look(after(start, second), rounds.into_iter())
                .unwrap()
        };
        assert!(look(1, [10, 10]).all_move);
        let first = look(2, [20, 10]);
        assert!(!first.all_move);
        assert_eq!(first.news, [News::Stuck(1, Duration::from_secs(1))]);
        for second in 3..60 {
            let look = look(second, [second * 10, 10]);
            assert!(!look.all_move && look.news.is_empty(), "second {second}");
        }
        let again = look(60, [9_000, 11]);
        assert!(again.all_move);
        assert_eq!(again.news, [News::Moves(1, Duration::from_secs(59))]);
    }

    #[test]
    fn a_worker_that_never_began_stands_still() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(start, 1, None);
        let look = watchdog.look(after(start, 2), [0].into_iter()).unwrap();
        assert_eq!(look.news, [News::Stuck(0, Duration::from_secs(2))]);
        assert_eq!(watchdog.look(after(start, 3), [0].into_iter()), None);
    }
}
