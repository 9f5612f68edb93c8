//! What one stretch of traffic has come to: sent at a rate, for a time, and answered or not.

use crate::report::{Loss, loss};
use crate::tally::{NoHistogram, Totals};

/// What is sent and comes back may be this much less than planned before a generator is said not to
/// keep up: the clock ends a trial between two bursts.
const SHORT: f64 = 0.005;

/// A finished trial.
#[derive(Debug, Clone)]
pub struct Trial {
    /// Packets that were to be sent, where that was known.
    pub planned: Option<u64>,
    /// Packets that devices took.
    pub sent: u64,
    /// Their bytes, without FCS.
    pub sent_bytes: u64,
    /// Bytes of answers.
    pub answer_bytes: u64,
    /// Packets whose IP or transport checksum is wrong.
    pub bad_checksum: u64,
    /// Frames that are neither answers nor neighbour messages.
    pub other: u64,
    /// Neighbour questions answered.
    pub neighbour_answers: u64,
    /// Answers to packets of an earlier trial.
    pub late: u64,
    /// Seconds from the first packet to the last.
    pub seconds: f64,
    /// Seconds from the first packet to the last answer.
    pub answer_seconds: f64,
    /// Flows that sent something, as far as they are followed.
    pub opened: u64,
    /// Connections that sent their last packet, where they come and go.
    pub closed: u64,
    /// Whether a signal ended it.
    pub interrupted: bool,
    /// The answers.
    pub totals: Totals,
}

impl Trial {
    /// A trial in which nothing has happened yet.
    ///
    /// # Errors
    /// See [`Totals::new`].
    pub fn new() -> Result<Self, NoHistogram> {
        Ok(Self {
            planned: None,
            sent: 0,
            sent_bytes: 0,
            answer_bytes: 0,
            bad_checksum: 0,
            other: 0,
            neighbour_answers: 0,
            late: 0,
            seconds: 0.0,
            answer_seconds: 0.0,
            opened: 0,
            closed: 0,
            interrupted: false,
            totals: Totals::new()?,
        })
    }

    /// What did not come back.
    #[must_use]
    pub fn loss(&self) -> Loss {
        loss(self.sent, &self.totals)
    }

    /// Packets sent a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        per_second(self.sent, self.seconds)
    }

    /// Packets answered a second, each counted once, from the first packet to the last answer.
    #[must_use]
    pub fn answer_rate(&self) -> f64 {
        per_second(self.totals.unique(), self.answer_seconds.max(self.seconds))
    }

    /// Whether as much was sent as was planned, give or take half a percent.
    #[must_use]
    pub fn kept_up(&self) -> bool {
        self.planned
            .is_none_or(|planned| self.sent as f64 >= planned as f64 * (1.0 - SHORT))
    }

    /// Whether something was sent, and no larger share of it than `tolerance` was lost.
    #[must_use]
    pub fn lost_at_most(&self, tolerance: f64) -> bool {
        self.sent > 0 && self.loss().ratio <= tolerance
    }
}

fn per_second(packets: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        packets as f64 / seconds
    } else {
        0.0
    }
}

/// What a trial has come to so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// Packets sent.
    pub sent: u64,
    /// Packets answered.
    pub answers: u64,
    /// Flows that moved.
    pub moved: u64,
}

/// Watches a trial, some hundred times a second.
pub trait Observer {
    /// `elapsed` after the trial's start, this is what it has come to.
    fn look(&mut self, elapsed: std::time::Duration, look: Look);
}

impl Observer for () {
    fn look(&mut self, _: std::time::Duration, _: Look) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(planned: u64, sent: u64, answers: u64) -> Trial {
        let mut trial = Trial::new().unwrap();
        (trial.planned, trial.sent, trial.seconds) = (Some(planned), sent, 2.0);
        trial.totals.answers = answers;
        trial
    }

    #[test]
    fn a_trial_passes_when_it_lost_no_more_than_it_may() {
        assert!(trial(1_000, 1_000, 1_000).lost_at_most(0.0));
        assert!(!trial(1_000, 1_000, 999).lost_at_most(0.0));
        assert!(trial(1_000, 1_000, 999).lost_at_most(0.001));
        assert!(!trial(1_000, 0, 0).lost_at_most(1.0), "nothing was sent");
    }

    #[test]
    fn a_generator_keeps_up_when_it_sends_what_was_planned() {
        assert!(trial(1_000, 995, 995).kept_up());
        assert!(!trial(1_000, 994, 994).kept_up());
    }

    #[test]
    fn answers_that_take_longer_than_sending_come_at_a_lower_rate() {
        let mut trial = trial(1_000, 1_000, 1_000);
        assert_eq!((trial.rate(), trial.answer_rate()), (500.0, 500.0));
        trial.answer_seconds = 4.0;
        assert_eq!(trial.answer_rate(), 250.0);
    }
}
