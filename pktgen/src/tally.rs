//! What came back to the generator: answers counted by flow and backend, and their latency.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use crate::profile::{Profile, Tracking};
use crate::recent::Recent;
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

const UNANSWERED: Flow = Flow {
    track: Track::new(),
    backend: NOBODY,
    moved: false,
};

/// What is remembered of answers.
#[derive(Debug, Clone)]
enum Memory {
    /// Each of the profile's flows.
    Flows(Vec<Flow>),
    /// Flows that come and go, each at its number modulo the places.
    Places(Vec<(u32, Flow)>),
    /// The last packets of the run.
    Packets(Box<Recent>),
}

/// Answers, counted.
#[derive(Debug, Clone)]
pub struct Tally {
    memory: Memory,
    /// The run's own packets are expected back, with this tag, in place of answers.
    returned: Option<u16>,
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
    backends: Vec<u64>,
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
            backends: Vec::new(),
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
        for (backend, answers) in other.by_backend() {
            self.answered_by(backend, answers);
        }
        // Same bounds and no resizing, so it cannot fail.
        let _ = self.latency.add(&other.latency);
    }

    /// Answers by backend number; those that gave none are left out.
    #[must_use]
    pub fn by_backend(&self) -> BTreeMap<u16, u64> {
        let numbered = (0u16..).zip(self.backends.iter().copied());
        numbered.filter(|(_, answers)| *answers > 0).collect()
    }

    #[inline]
    fn answered_by(&mut self, backend: u16, answers: u64) {
        let place = usize::from(backend);
        if place >= self.backends.len() {
            self.backends.resize(place + 1, 0);
        }
        self.backends[place] += answers;
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
        let wanted = profile.wanted();
        let memory = match (wanted.tracking, profile.places()) {
            (Tracking::Packets, _) => Memory::Packets(Box::default()),
            (Tracking::Flows, 0) => Memory::Flows(vec![UNANSWERED; wanted.flows as usize]),
            (Tracking::Flows, places) => {
                Memory::Places(vec![(u32::MAX, UNANSWERED); places as usize])
            }
        };
        Ok(Self {
            memory,
            returned: None,
            totals: Totals::new()?,
        })
    }

    /// The tally of a run whose own packets, which carry `tag`, are expected back unanswered.
    #[must_use]
    pub const fn of_returned(mut self, tag: u16) -> Self {
        self.returned = Some(tag);
        self
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
        let kind = match self.returned {
            Some(tag) => stamp.kind == Kind::Request && stamp.tag == tag,
            None => stamp.kind == Kind::Answer,
        };
        let known = kind && stamp.sequence < sent;
        let totals = &mut self.totals;
        let flow = match &mut self.memory {
            _ if !known => None,
            Memory::Packets(recent) => {
                totals.duplicates += u64::from(recent.repeats(stamp.sequence));
                totals.count(stamp, now, self.returned);
                return;
            }
            Memory::Flows(flows) => flows.get_mut(stamp.flow as usize),
            Memory::Places(places) => {
                let place = stamp.flow as usize % places.len().max(1);
                places.get_mut(place).map(|(owner, flow)| {
                    if *owner != stamp.flow {
                        (*owner, *flow) = (stamp.flow, UNANSWERED);
                    }
                    flow
                })
            }
        };
        let Some(flow) = flow else {
            totals.unexpected += 1;
            return;
        };
        totals.count(stamp, now, self.returned);
        totals.follow(profile, flow, stamp);
    }
}

impl Totals {
    #[inline]
    fn count(&mut self, stamp: Stamp, now: u64, returned: Option<u16>) {
        let _ = self.latency.record(stamp.age(now).clamp(1, LONGEST));
        self.answers += 1;
        if returned.is_none() {
            self.answered_by(stamp.tag, 1);
        }
    }

    /// Notes what an answer says of its flow.
    #[inline]
    fn follow(&mut self, profile: &Profile, flow: &mut Flow, stamp: Stamp) {
        let before = flow.track.next();
        match flow.track.observe(stamp.sequence) {
            Arrival::Newest => {}
            Arrival::Reordered => self.reordered += 1,
            Arrival::Duplicate => self.duplicates += 1,
        }
        if before == 0 {
            self.answered_flows += 1;
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
            *self.moves.entry((flow.backend, stamp.tag)).or_default() += 1;
            self.moved_flows += u64::from(!flow.moved);
            flow.moved = true;
            flow.backend = stamp.tag;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Protocol, Wanted, sample};
    use crate::schedule::Mix;

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
        assert_eq!(totals.by_backend(), BTreeMap::from([(1, 2), (2, 3)]));
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
        assert_eq!(sum.by_backend(), BTreeMap::from([(1, 3), (2, 1)]));
        assert_eq!(sum.latency.len(), 4);
    }

    #[test]
    fn a_place_is_cleared_for_the_connection_that_takes_it_over() {
        let wanted = Wanted {
            protocol: Protocol::Tcp,
            flows: 4,
            mix: Mix::Churn { opens: 1, data: 1 },
            ..sample()
        };
        // Ten places: connection 12 takes that of connection 2.
        let totals = count(
            wanted,
            &[(2, 0, 1), (2, 1, 1), (12, 0, 3), (12, 1, 3), (12, 2, 4)],
        );
        assert_eq!((totals.answered_flows, totals.moved_flows), (2, 1));
        assert_eq!(totals.moves, BTreeMap::from([((3, 4), 1)]));
    }

    #[test]
    fn without_a_memory_of_flows_loss_and_duplicates_are_told_all_the_same() {
        let wanted = Wanted {
            tracking: Tracking::Packets,
            ..sample()
        };
        let profile = Profile::new(wanted).unwrap();
        let mut tally = Tally::new(&profile).unwrap();
        for sequence in [0, 1, 2, 2, 4] {
            tally.answer(&profile, answer(9, sequence, 1), u32::MAX, 1_100);
        }
        let totals = tally.totals();
        assert_eq!(
            (totals.answers, totals.duplicates, totals.unique()),
            (5, 1, 4)
        );
        assert_eq!(totals.moved_flows, 0);
    }

    #[test]
    fn returned_packets_count_by_their_tag() {
        let profile = Profile::new(sample()).unwrap();
        let mut tally = Tally::new(&profile).unwrap().of_returned(7);
        let mine = Stamp {
            kind: Kind::Request,
            ..answer(0, 0, 7)
        };
        tally.answer(&profile, mine, 1, 1_100);
        tally.answer(&profile, Stamp { tag: 8, ..mine }, 1, 1_100);
        tally.answer(&profile, answer(0, 0, 7), 1, 1_100);
        let totals = tally.totals();
        assert_eq!((totals.answers, totals.unexpected), (1, 2));
        assert!(totals.by_backend().is_empty());
    }
}
