//! Connections that come and go at a rate while the pool changes: what happens to those that are
//! open, and how many packets it costs.

use std::time::Duration;

use super::hook::{HookError, Running};
use super::rfc2544::PERCENTILES;
use super::script::Agenda;
use crate::profile::{Profile, ProfileError, Tracking, Wanted};
use crate::report::figure::{Better, Case, Figure, Middle};
use crate::report::{Event, Moment};
use crate::schedule::Mix;
use crate::trial::{Look, Observer, Trial};

/// Moments of a run that are kept for its plot.
const MOMENTS: u32 = 500;
/// The shortest time between two of them.
const CLOSEST: Duration = Duration::from_millis(50);
/// Events that are kept.
const MOST_EVENTS: usize = 10_000;

/// The connections wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Connections held.
    pub connections: u32,
    /// Connections opened a second; as many are closed once that number is reached.
    pub opens: u64,
    /// Data segments a second, over all connections.
    pub data: u64,
    /// How long.
    pub duration: Duration,
}

impl Plan {
    /// The traffic to the target of `wanted`.
    ///
    /// # Errors
    /// When the clients are too few.
    pub fn profile(&self, wanted: &Wanted) -> Result<Profile, ProfileError> {
        Profile::new(Wanted {
            flows: self.connections,
            packets_per_flow: 0,
            rate: 0,
            count: None,
            duration: Some(self.duration),
            mix: Mix::Churn {
                opens: self.opens,
                data: self.data,
            },
            tracking: Tracking::Flows,
            ..wanted.clone()
        })
    }
}

/// Watches a run: takes its figures at intervals, and runs the commands of an agenda, one at a time.
#[derive(Debug)]
pub struct Recorder<O> {
    agenda: Agenda,
    limit: Duration,
    interval: Duration,
    running: Option<(Duration, Running)>,
    moments: Vec<Moment>,
    events: Vec<Event>,
    /// Events beyond those that are kept.
    forgotten: u64,
    /// Who else watches.
    pub other: O,
}

impl<O: Observer> Recorder<O> {
    /// A recorder of a run of `duration`, whose commands may take `limit` each.
    #[must_use]
    pub fn new(agenda: Agenda, duration: Duration, limit: Duration, other: O) -> Self {
        Self {
            agenda,
            limit,
            interval: (duration / MOMENTS).max(CLOSEST),
            running: None,
            moments: Vec::new(),
            events: Vec::new(),
            forgotten: 0,
            other,
        }
    }

    /// The moments and the events; a command that still runs is given its time, and one whose moment
    /// has not come is not run.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Moment>, Vec<Event>) {
        while self.running.is_some() {
            self.poll();
            std::thread::sleep(Duration::from_millis(5));
        }
        (self.moments, self.events)
    }

    fn begin(&mut self, elapsed: Duration) {
        let Some(task) = self.agenda.due(elapsed) else {
            return;
        };
        match task.start() {
            Ok(running) => self.running = Some((elapsed, running)),
            Err(error) => self.note(
                elapsed,
                &task.text,
                None,
                Duration::ZERO,
                &error.to_string(),
            ),
        }
    }

    fn poll(&mut self) {
        let Some((at, mut running)) = self.running.take() else {
            return;
        };
        match running.finished(self.limit) {
            Ok(None) => self.running = Some((at, running)),
            Ok(Some(end)) => {
                let problem = if end.code == Some(0) { "" } else { &end.status };
                self.note(at, running.text(), end.code, end.took, problem);
            }
            Err(error @ HookError::TooLong { limit, .. }) => {
                self.note(at, running.text(), None, limit, &error.to_string());
            }
            Err(error) => {
                self.note(at, running.text(), None, Duration::ZERO, &error.to_string());
            }
        }
    }

    fn note(
        &mut self,
        at: Duration,
        command: &str,
        exit: Option<i32>,
        took: Duration,
        problem: &str,
    ) {
        if self.events.len() >= MOST_EVENTS {
            self.forgotten += 1;
            return;
        }
        self.events.push(Event {
            at_s: at.as_secs_f64(),
            command: command.to_owned(),
            exit,
            took_ms: took.as_secs_f64() * 1e3,
            problem: (!problem.is_empty()).then(|| problem.to_owned()),
        });
    }
}

impl<O: Observer> Observer for Recorder<O> {
    fn look(&mut self, elapsed: Duration, look: Look) {
        self.poll();
        if self.running.is_none() {
            self.begin(elapsed);
        }
        let due = self.interval * self.moments.len() as u32;
        if elapsed >= due && self.moments.len() <= MOMENTS as usize * 2 {
            self.moments.push(Moment {
                at_s: elapsed.as_secs_f64(),
                sent: look.sent,
                answers: look.answers,
                moved: look.moved,
            });
        }
        self.other.look(elapsed, look);
    }
}

/// The figures of a run.
#[must_use]
pub fn figures(trial: &Trial) -> Vec<Figure> {
    let totals = &trial.totals;
    let loss = trial.loss();
    let one = |name: &str, unit: &str, better: Better, value: f64| {
        let case = Case::default();
        Figure::new(name, case, unit, better, Middle::Median, vec![value])
    };
    let (lower, neither) = (Better::Lower, Better::Neither);
    let (opened, closed) = (trial.opened as f64, trial.closed as f64);
    let seconds = trial.seconds.max(1e-9);
    let mut figures = vec![
        one("opened", "connections", neither, opened),
        one("closed", "connections", neither, closed),
        one("held-at-end", "connections", neither, opened - closed),
        one(
            "unanswered",
            "connections",
            lower,
            trial.opened.saturating_sub(totals.answered_flows) as f64,
        ),
        one("moved", "connections", lower, totals.moved_flows as f64),
        one(
            "open-rate",
            "connections/s",
            Better::Higher,
            opened / seconds,
        ),
        one("throughput", "packets/s", Better::Higher, trial.rate()),
        one("lost", "packets", lower, loss.packets as f64),
        one("loss", "ratio", lower, loss.ratio),
        one("duplicates", "packets", lower, totals.duplicates as f64),
        one("reordered", "packets", lower, totals.reordered as f64),
        one("damaged", "packets", lower, trial.bad_checksum as f64),
    ];
    if !totals.latency.is_empty() {
        for (name, quantile) in PERCENTILES {
            let case = Case {
                percentile: Some(name.into()),
                ..Case::default()
            };
            let nanos = totals.latency.value_at_quantile(quantile) as f64;
            let samples = vec![nanos];
            figures.push(Figure::new(
                "latency",
                case,
                "ns",
                lower,
                Middle::Median,
                samples,
            ));
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Protocol, sample};
    use crate::traffic::Traffic;

    const PLAN: Plan = Plan {
        connections: 100,
        opens: 1_000,
        data: 3_000,
        duration: Duration::from_secs(2),
    };

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_traffic_opens_and_closes_at_the_rate_and_holds_the_number() {
        let wanted = Wanted {
            protocol: Protocol::Tcp,
            ..sample()
        };
        let profile = PLAN.profile(&wanted).unwrap();
        assert_eq!((profile.rate(), profile.packets()), (5_000, Some(10_000)));
        let mut traffic = Traffic::new(profile, 1);
        for _ in 0..10_000 {
            traffic.next(|_| true).unwrap();
        }
        assert_eq!((traffic.opened(), traffic.closed()), (2_000, 1_900));
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_connections_opened() {
        let profile = PLAN.profile(&sample()).unwrap();
        assert_eq!(profile.places(), 202);
        assert_eq!(profile.universe() % 202, 0);
    }

    #[test]
    fn commands_are_run_at_their_moments_and_their_ends_are_noted() {
        let agenda =
            Agenda::parse("a", "@0.1 -c 'exit 0'\n@0.2 -c 'exit 3'\n", &["sh".into()]).unwrap();
        let mut recorder = Recorder::new(agenda, at(1_000), at(30_000), ());
        for tick in 0..100 {
            let look = Look {
                sent: tick * 10,
                answers: tick * 10,
                moved: 0,
            };
            recorder.look(at(tick * 10), look);
            std::thread::sleep(at(2));
        }
        let (moments, events) = recorder.finish();
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!((events[0].at_s, events[0].exit), (0.1, Some(0)));
        assert_eq!(events[0].problem, None);
        assert_eq!(events[1].exit, Some(3));
        assert!(events[1].at_s >= 0.2);
        assert!(
            events[1]
                .problem
                .as_deref()
                .is_some_and(|text| text.contains('3'))
        );
        assert_eq!(moments.len(), 20, "every 50 ms");
        assert!(moments.is_sorted_by(|a, b| a.at_s < b.at_s));
    }

    #[test]
    fn a_command_that_cannot_be_run_is_an_event_too() {
        let agenda = Agenda::parse("a", "@0 status\n", &["/nowhere/weirctl".into()]).unwrap();
        let mut recorder = Recorder::new(agenda, at(100), at(100), ());
        recorder.look(at(0), Look::default());
        let (_, events) = recorder.finish();
        assert!(
            events[0]
                .problem
                .as_deref()
                .is_some_and(|text| text.contains("cannot run"))
        );
    }

    #[test]
    fn moments_are_bounded_whatever_the_length_of_the_run() {
        let mut recorder = Recorder::new(Agenda::default(), at(100_000_000), at(1), ());
        for tick in 0..20_000 {
            recorder.look(at(tick * 10_000), Look::default());
        }
        assert!(recorder.finish().0.len() <= 1_001);
    }
}
