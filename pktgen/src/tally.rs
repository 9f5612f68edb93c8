//! What came back to the generator: answers counted by flow and backend, and their latency.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::profile::Profile;
use crate::stamp::{Kind, Stamp};
use crate::track::{Arrival, Track};

/// The longest latency told apart, in ns; longer ones count as this.
const LONGEST: u64 = 60_000_000_000;
/// The tag of a flow that no backend has answered.
const NOBODY: u16 = u16::MAX;

/// One flow's answers.
#[derive(Debug, Clone, Copy)]
struct Flow {
    track: Track,
    backend: u16,
    moved: bool,
}

/// Answers, counted.
#[derive(Debug, Clone)]
pub struct Tally {
    flows: Vec<Flow>,
    totals: Totals,
}

/// The sums over all flows; those of several lanes are added up.
#[derive(Debug, Clone)]
pub struct Totals {
    /// Stamped answers of this run, duplicates included.
    pub answers: u64,
    /// Answers that came more than once, each repetition counted.
    pub duplicates: u64,
    /// Answers that came after a newer one of their flow.
    pub reordered: u64,
    /// Answers to packets that were never sent.
    pub unexpected: u64,
    /// Flows with at least one answer.
    pub answered_flows: u64,
    /// Flows whose answers came from more than one backend within one connection.
    pub moved_flows: u64,
    /// How often a flow changed, as (from backend, to backend).
    pub moves: BTreeMap<(u16, u16), u64>,
    /// Answers by backend number.
    pub backends: BTreeMap<u16, u64>,
    /// Time from sending to the answer's arrival, in ns.
    pub latency: Histogram<u64>,
}

/// The latency histogram cannot be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("no latency histogram: {0}")]
pub struct NoHistogram(#[from] hdrhistogram::CreationError);

impl Totals {
    /// Nothing counted yet.
    ///
    /// # Errors
    /// When the histogram cannot be made; its bounds are fixed, so that is a mistake of ours.
    pub fn new() -> Result<Self, NoHistogram> {
        let mut latency = Histogram::new_with_bounds(1, LONGEST, 3)?;
        latency.auto(false);
        Ok(Self {
            answers: 0,
            duplicates: 0,
            reordered: 0,
            unexpected: 0,
            answered_flows: 0,
            moved_flows: 0,
            moves: BTreeMap::new(),
            backends: BTreeMap::new(),
            latency,
        })
    }

    /// Adds another lane's sums.
    pub fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
        self.unexpected += other.unexpected;
        self.answered_flows += other.answered_flows;
        self.moved_flows += other.moved_flows;
        for (change, times) in &other.moves {
            *self.moves.entry(*change).or_default() += times;
        }
        for (backend, answers) in &other.backends {
            *self.backends.entry(*backend).or_default() += answers;
        }
        // Same bounds and no resizing, so it cannot fail.
        let _ = self.latency.add(&other.latency);
    }

    /// Answers counted once each.
    #[must_use]
    pub const fn unique(&self) -> u64 {
        self.answers - self.duplicates
    }
}

impl Tally {
    /// A tally for `profile`'s flows.
    ///
    /// # Errors
    /// See [`Totals::new`].
    pub fn new(profile: &Profile) -> Result<Self, NoHistogram> {
        let empty = Flow {
            track: Track::default(),
            backend: NOBODY,
            moved: false,
        };
        Ok(Self {
            flows: vec![empty; profile.wanted().flows as usize],
            totals: Totals::new()?,
        })
    }

    /// The sums.
    #[must_use]
    pub const fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Counts an answer that arrived at `now` (ns on the clock of the stamps). `sent` says how many
    /// packets its flow has sent.
    #[inline]
    pub fn answer(&mut self, profile: &Profile, stamp: Stamp, sent: u32, now: u64) {
        let known = stamp.kind == Kind::Answer && stamp.sequence < sent;
        let Some(flow) = self.flows.get_mut(stamp.flow as usize).filter(|_| known) else {
            self.totals.unexpected += 1;
            return;
        };
        let totals = &mut self.totals;
        let before = flow.track.next();
        let _ = totals.latency.record(stamp.age(now).clamp(1, LONGEST));
        totals.answers += 1;
        *totals.backends.entry(stamp.tag).or_default() += 1;
        match flow.track.observe(stamp.sequence) {
            Arrival::Newest => {}
            Arrival::Reordered => totals.reordered += 1,
            Arrival::Duplicate => totals.duplicates += 1,
        }
        if before == 0 {
            totals.answered_flows += 1;
            flow.backend = stamp.tag;
            return;
        }
        let (present, its) = (
            profile.connection(before - 1),
            profile.connection(stamp.sequence),
        );
        if its > present {
            flow.backend = stamp.tag;
        } else if its == present && stamp.tag != flow.backend {
            *totals.moves.entry((flow.backend, stamp.tag)).or_default() += 1;
            totals.moved_flows += u64::from(!flow.moved);
            flow.moved = true;
            flow.backend = stamp.tag;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Protocol, Wanted, sample};

    fn answer(flow: u32, sequence: u32, backend: u16) -> Stamp {
        Stamp {
            kind: Kind::Answer,
            flow,
            sequence,
            tag: backend,
            time: 100,
        }
    }

    fn count(wanted: Wanted, answers: &[(u32, u32, u16)]) -> Totals {
        let profile = Profile::new(wanted).unwrap();
        let mut tally = Tally::new(&profile).unwrap();
        for (flow, sequence, backend) in answers {
            tally.answer(&profile, answer(*flow, *sequence, *backend), 10, 1_100);
        }
        tally.totals().clone()
    }

    #[test]
    fn a_flow_that_changes_backend_is_counted_once_with_every_change_listed() {
        let totals = count(
            sample(),
            &[(0, 0, 1), (0, 1, 2), (0, 2, 1), (5, 0, 2), (5, 1, 2)],
        );
        assert_eq!((totals.moved_flows, totals.answered_flows), (1, 2));
        assert_eq!(totals.moves, BTreeMap::from([((1, 2), 1), ((2, 1), 1)]));
        assert_eq!(totals.backends, BTreeMap::from([(1, 2), (2, 3)]));
    }

    #[test]
    fn a_new_connection_may_go_to_another_backend() {
        let wanted = Wanted {
            protocol: Protocol::Tcp,
            packets_per_flow: 3,
            ..sample()
        };
        let moved = |answers: &[_]| count(wanted.clone(), answers).moved_flows;
        assert_eq!(moved(&[(0, 0, 1), (0, 2, 1), (0, 3, 2), (0, 4, 2)]), 0);
        assert_eq!(
            moved(&[(0, 0, 1), (0, 3, 2), (0, 1, 1), (0, 4, 2)]),
            0,
            "a late answer of the old connection"
        );
        assert_eq!(moved(&[(0, 0, 1), (0, 3, 2), (0, 4, 1)]), 1);
    }

    #[test]
    fn duplicates_and_answers_to_nothing_are_told_apart_from_the_rest() {
        let totals = count(
            sample(),
            &[
                (0, 0, 1),
                (0, 0, 1),
                (0, 10, 1),
                (100, 0, 1),
                (0, 2, 1),
                (0, 1, 1),
            ],
        );
        assert_eq!(
            (totals.answers, totals.duplicates, totals.unexpected),
            (4, 1, 2)
        );
        assert_eq!((totals.reordered, totals.unique()), (1, 3));
        assert_eq!(totals.latency.max(), 1_000);
    }

    #[test]
    fn lanes_add_up() {
        let mut sum = count(sample(), &[(0, 0, 1), (0, 1, 2)]);
        sum.add(&count(sample(), &[(1, 0, 1), (1, 0, 1)]));
        assert_eq!(
            (
                sum.answers,
                sum.duplicates,
                sum.moved_flows,
                sum.answered_flows
            ),
            (4, 1, 1, 2)
        );
        assert_eq!(sum.backends, BTreeMap::from([(1, 3), (2, 1)]));
        assert_eq!(sum.latency.len(), 4);
    }
}
