//! Measurements of many trials, over whatever can run a trial: real devices, or one that a test
//! simulates.

pub mod churn;
pub mod hook;
pub mod rfc2544;
pub mod scale;
pub mod script;

use std::time::Duration;

use crate::profile::Profile;
use crate::report::figure::Case;
use crate::trial::Trial;

/// How often a trial is repeated in which the generator did not keep up.
const RETRIES: u32 = 3;

/// Something that traffic can be sent to.
pub trait Device {
    /// Why a trial could not be run.
    type Error;

    /// Gets ready for a case: reconfigures the device under test.
    ///
    /// # Errors
    /// When that fails.
    fn prepare(&mut self, case: &Case) -> Result<(), Self::Error>;

    /// Sends `profile`'s packets and counts what comes back; `label` says what for.
    ///
    /// # Errors
    /// When the trial could not be run.
    fn trial(&mut self, profile: &Profile, label: &str) -> Result<Trial, Self::Error>;

    /// One of the measurement's steps is done.
    fn step(&mut self) {}
}

/// Why a measurement ended before its end. What it has measured until then stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop<E> {
    /// A signal came.
    Interrupted,
    /// A trial could not be run.
    Failed(E),
}

impl<E> From<E> for Stop<E> {
    fn from(error: E) -> Self {
        Self::Failed(error)
    }
}

/// How long `packets` may take at most: a device that takes nothing must not hold a measurement up.
fn patience(packets: u64) -> Option<Duration> {
    Some(Duration::from_secs(10) + Duration::from_micros(packets.saturating_mul(10)))
}

/// Runs a trial; a signal that came meanwhile ends the measurement.
fn run<D: Device>(device: &mut D, profile: &Profile, label: &str) -> Result<Trial, Stop<D::Error>> {
    let trial = device.trial(profile, label)?;
    if trial.interrupted {
        return Err(Stop::Interrupted);
    }
    Ok(trial)
}

#[cfg(test)]
pub(crate) mod simulated {
    use super::*;
    use crate::random::Random;

    /// Packets a second that a device passes of a profile in a case.
    type Capacity = Box<dyn Fn(&Profile, &Case) -> f64>;

    /// A device that passes `capacity(size, flows)` packets a second and queues `queue` more, behind
    /// a generator that sends `generator` a second. With `noise`, a trial in ten loses a packet.
    pub struct Simulated {
        pub capacity: Capacity,
        pub queue: f64,
        pub generator: f64,
        pub noise: Option<Random>,
        pub case: Case,
        pub prepared: Vec<Case>,
        pub trials: Vec<(String, u64, Option<u64>, Option<Duration>)>,
        /// Interrupts the trial of this number.
        pub interrupt: Option<usize>,
    }

    impl Simulated {
        pub fn new(capacity: impl Fn(&Profile, &Case) -> f64 + 'static) -> Self {
            Self {
                capacity: Box::new(capacity),
                queue: 512.0,
                generator: 20e6,
                noise: None,
                case: Case::default(),
                prepared: Vec::new(),
                trials: Vec::new(),
                interrupt: None,
            }
        }
    }

    impl Device for Simulated {
        type Error = String;

        fn prepare(&mut self, case: &Case) -> Result<(), String> {
            self.case = case.clone();
            self.prepared.push(case.clone());
            Ok(())
        }

        fn trial(&mut self, profile: &Profile, label: &str) -> Result<Trial, String> {
            let wanted = profile.wanted();
            self.trials.push((
                label.to_owned(),
                profile.rate(),
                wanted.count,
                wanted.duration,
            ));
            let asked = match profile.rate() {
                0 => self.generator,
                rate => (rate as f64).min(self.generator),
            };
            let seconds = match (wanted.count, wanted.duration) {
                (Some(count), Some(_)) => count as f64 / asked,
                (None, Some(duration)) => duration.as_secs_f64(),
                (_, None) => return Err("no bound".into()),
            };
            let sent = (asked * seconds).min(profile.packets().map_or(f64::MAX, |n| n as f64));
            let passed = sent.min((self.capacity)(profile, &self.case) * seconds + self.queue);
            let unlucky = self
                .noise
                .as_mut()
                .is_some_and(|noise| noise.below(10) == 0);
            let mut trial = Trial::new().map_err(|error| error.to_string())?;
            trial.planned = profile.packets();
            trial.sent = sent.round() as u64;
            trial.seconds = seconds;
            trial.totals.answers = passed.round() as u64 - u64::from(unlucky);
            let load = (asked / (self.capacity)(profile, &self.case)).min(1.0);
            for nanos in [2_000.0, 3_000.0, 40_000.0] {
                let _ = trial.totals.latency.record((nanos * (1.0 + load)) as u64);
            }
            trial.interrupted = self.interrupt == Some(self.trials.len());
            Ok(trial)
        }
    }
}
