//! Whether a backend is up, told from the results of its checks.
//!
//! A backend goes down after `fall` failures in a row and up after `rise` successes. One that
//! changes too often is held down, each time in a row twice as long: it would rather disturb than
//! help. Pure: results and the time come in, changes come out.

use std::collections::VecDeque;
use std::time::Duration;

use weir_shm::model::{Flap, Health};

use crate::control::neighbours::Nanos;

/// The numbers that a service judges its backends by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Failures in a row until down.
    pub fall: u32,
    /// Successes in a row until up.
    pub rise: u32,
    /// When it is held down.
    pub flap: Flap,
}

impl From<&Health> for Rules {
    fn from(health: &Health) -> Self {
        Self {
            fall: health.fall,
            rise: health.rise,
            flap: health.flap,
        }
    }
}

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is up.
    Up,
    /// It is down.
    Down,
    /// It is down, and stays so for this time whatever its checks find.
    Held(Duration),
    /// It is no longer held down; whether it is up at once.
    Released {
        /// It is, since its checks succeeded meanwhile.
        up: bool,
    },
}

/// The judge of one backend; see the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judge {
    up: bool,
    /// Whether any check has ended yet.
    known: bool,
    successes: u32,
    failures: u32,
    /// When it changed, within the window.
    changes: VecDeque<Nanos>,
    held_until: Option<Nanos>,
    /// How often in a row it was held down.
    holds: u32,
    /// When the last hold ended, and how long it was.
    last_hold: Option<(Nanos, Nanos)>,
}

const fn nanos(duration: Duration) -> Nanos {
    let nanos = duration.as_nanos();
    if nanos > u64::MAX as u128 {
        u64::MAX
    } else {
        nanos as u64
    }
}

impl Judge {
    /// A judge who knows nothing yet, and takes the backend for up or for down until its first
    /// check has ended.
    #[must_use]
    pub const fn new(up: bool) -> Self {
        Self {
            up,
            known: false,
            successes: 0,
            failures: 0,
            changes: VecDeque::new(),
            held_until: None,
            holds: 0,
            last_hold: None,
        }
    }

    /// Whether the backend counts as up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.up
    }

    /// Whether any check has ended yet.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.known
    }

    /// Until when it is held down.
    #[must_use]
    pub const fn held_until(&self) -> Option<Nanos> {
        self.held_until
    }

    /// Successes or failures in a row; one of them is zero.
    #[must_use]
    pub const fn in_a_row(&self) -> (u32, u32) {
        (self.successes, self.failures)
    }

    /// A check succeeded or failed at `now`. The first result decides at once, in either direction.
    pub fn result(&mut self, now: Nanos, healthy: bool, rules: &Rules) -> Option<Change> {
        let released = self.tick(now, rules);
        let first = !std::mem::replace(&mut self.known, true);
        if healthy {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
        }
        if first {
            if healthy == self.up {
                return None;
            }
            self.up = healthy;
            return Some(if healthy { Change::Up } else { Change::Down });
        }
        let enough = if self.up {
            self.failures >= rules.fall
        } else {
            self.successes >= rules.rise
        };
        if !enough || self.held_until.is_some() {
            return released;
        }
        Some(self.change(now, rules))
    }

    /// Changes the state, or holds it down for having changed too often.
    fn change(&mut self, now: Nanos, rules: &Rules) -> Change {
        let flap = &rules.flap;
        let window = nanos(flap.window);
        while self
            .changes
            .front()
            .is_some_and(|at| now.saturating_sub(*at) > window)
        {
            self.changes.pop_front();
        }
        self.changes.push_back(now);
        if flap.changes > 0 && self.changes.len() > flap.changes as usize {
            return Change::Held(self.hold(now, rules));
        }
        self.up = !self.up;
        if self.up { Change::Up } else { Change::Down }
    }

    fn hold(&mut self, now: Nanos, rules: &Rules) -> Duration {
        let flap = &rules.flap;
        // Good behaviour for longer than the last hold, and for a window, wipes the slate clean.
        if self
            .last_hold
            .is_some_and(|(end, length)| now.saturating_sub(end) > length.max(nanos(flap.window)))
        {
            self.holds = 0;
        }
        let doubled = nanos(flap.hold)
            .checked_shl(self.holds)
            .filter(|doubled| doubled >> self.holds == nanos(flap.hold));
        let length = doubled.unwrap_or(u64::MAX).min(nanos(flap.max_hold));
        self.holds = self.holds.saturating_add(1).min(63);
        let end = now.saturating_add(length);
        self.held_until = Some(end);
        self.last_hold = Some((end, length));
        self.changes.clear();
        self.up = false;
        Duration::from_nanos(length)
    }

    /// Ends a hold whose time has come.
    pub fn tick(&mut self, now: Nanos, rules: &Rules) -> Option<Change> {
        self.held_until.filter(|end| *end <= now)?;
        self.held_until = None;
        self.up = self.successes >= rules.rise;
        if self.up {
            self.changes.push_back(now);
        }
        Some(Change::Released { up: self.up })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Nanos = 1_000_000_000;

    fn rules(fall: u32, rise: u32, changes: u32) -> Rules {
        Rules {
            fall,
            rise,
            flap: Flap {
                changes,
                window: Duration::from_secs(60),
                hold: Duration::from_secs(30),
                max_hold: Duration::from_secs(100),
            },
        }
    }

    #[test]
    fn the_first_result_decides_at_once() {
        let rules = rules(3, 3, 0);
        let mut hopeful = Judge::new(true);
        assert_eq!(hopeful.result(0, false, &rules), Some(Change::Down));
        let mut wary = Judge::new(false);
        assert_eq!(wary.result(0, true, &rules), Some(Change::Up));
    }

    #[test]
    fn it_falls_after_so_many_failures_and_rises_after_so_many_successes() {
        let rules = rules(3, 2, 0);
        let mut judge = Judge::new(true);
        let told: Vec<_> = [true, false, false, true, false, false, false, true, true]
            .into_iter()
            .map(|healthy| judge.result(0, healthy, &rules))
            .collect();
        let nothing = None;
        assert_eq!(
            told,
            [
                nothing,
                nothing,
                nothing,
                nothing,
                nothing,
                nothing,
                Some(Change::Down),
                nothing,
                Some(Change::Up)
            ]
        );
    }

    #[test]
    fn one_that_flaps_is_held_down_each_time_twice_as_long() {
        let rules = rules(1, 1, 2);
        let mut judge = Judge::new(true);
        let mut now = 0;
        judge.result(now, true, &rules);
        let mut holds = Vec::new();
        for round in 0..60 {
            now += SECOND;
            match judge.result(now, round % 2 == 1, &rules) {
                Some(Change::Held(time)) => {
                    holds.push(time.as_secs());
                    assert!(!judge.is_up());
                    now = judge.held_until().unwrap();
                    judge.tick(now, &rules);
                }
                _ => assert!(judge.held_until().is_none()),
            }
        }
        assert_eq!(&holds[..4], [30, 60, 100, 100]);
    }

    #[test]
    fn a_long_time_of_good_behaviour_wipes_the_slate_clean() {
        let rules = rules(1, 1, 2);
        let mut judge = Judge::new(true);
        judge.result(0, true, &rules);
        let flap = |judge: &mut Judge, mut now: Nanos| loop {
            now += SECOND;
            let healthy = !judge.is_up();
            if let Some(Change::Held(time)) = judge.result(now, healthy, &rules) {
                return (now, time.as_secs());
            }
        };
        let (now, first) = flap(&mut judge, 0);
        let (_, second) = flap(&mut judge.clone(), now + 31 * SECOND);
        let (_, later) = flap(&mut judge, now + 200 * SECOND);
        assert_eq!((first, second, later), (30, 60, 30));
    }

    #[test]
    fn after_a_hold_it_is_up_at_once_if_its_checks_succeeded_meanwhile() {
        let rules = rules(1, 2, 1);
        let mut judge = Judge::new(true);
        for (at, healthy) in [(0, true), (1, false), (2, true), (3, true)] {
            judge.result(at * SECOND, healthy, &rules);
        }
        assert_eq!(judge.held_until(), Some(33 * SECOND));
        judge.result(20 * SECOND, true, &rules);
        assert!(!judge.is_up());
        assert_eq!(
            judge.tick(33 * SECOND, &rules),
            Some(Change::Released { up: true })
        );
    }

    proptest! {
        #[test]
        fn the_judge_keeps_its_laws(
            fall in 1u32..5,
            rise in 1u32..5,
            changes in 0u32..6,
            results in proptest::collection::vec((any::<bool>(), 1u64..20), 1..300),
        ) {
            let rules = rules(fall, rise, changes);
            let mut judge = Judge::new(true);
            let mut now = 0;
            let mut row = (0u32, 0u32);
            let mut ups: Vec<Nanos> = Vec::new();
            for (healthy, seconds) in results {
                now += seconds * SECOND;
                let first = !judge.is_known();
                let before = judge.is_up();
                let change = judge.result(now, healthy, &rules);
                row = if healthy { (row.0 + 1, 0) } else { (0, row.1 + 1) };
                prop_assert_eq!(judge.in_a_row(), row);
                // Enough failures always bring it down; without them it never falls.
                if row.1 >= fall {
                    prop_assert!(!judge.is_up());
                }
                if before && !judge.is_up() {
                    prop_assert!(first || row.1 >= fall);
                }
                // Held means down; not held and enough successes means up.
                if judge.held_until().is_some_and(|end| end > now) {
                    prop_assert!(!judge.is_up());
                } else if row.0 >= rise {
                    prop_assert!(judge.is_up());
                }
                if !before && judge.is_up() && !first {
                    ups.push(now);
                    ups.retain(|at| now - at <= 60 * SECOND);
                    // Never more often up within a window than changes are borne, but for the
                    // end of a hold.
                    if changes > 0 {
                        prop_assert!(ups.len() <= changes as usize + 2);
                    }
                }
                if let Some(Change::Held(time)) = change {
                    prop_assert!(time >= Duration::from_secs(30) && time <= Duration::from_secs(100));
                }
            }
        }
    }
}
