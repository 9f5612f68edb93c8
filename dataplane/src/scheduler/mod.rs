//! How a service chooses a backend for a new flow: one file a scheduler, one shape for all.
//!
//! The control core compiles a service's pool to a [`Scheduler`], whole and anew for each change;
//! workers only read it. `maglev`, `source-hash` and `ring` all compile to a lookup table and differ
//! in how it was filled and what it is asked with ([`Key`]). `round-robin` compiles to a sequence
//! of turns, of which every worker keeps its own place, and `least-connections` to the members'
//! weights, compared with the live flows of all workers.
//!
//! Where a backend holds as many flows as it may (`max_flows`), a scheduler gives its next choice:
//! the next entry, the next turn, the next fewest.

pub mod least_connections;
pub mod ring;
pub mod round_robin;
pub mod table;

use std::sync::Arc;

use weir_engine::memory::prefetch_read;

use crate::flow::scale;
use least_connections::Held;

/// A member of a service's pool: a backend that takes new flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The backend's number.
    pub number: u32,
    /// Flows that it may hold; `u32::MAX` for as many as come.
    pub max_flows: u32,
}

/// What a lookup table is asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The flow's hash.
    Flow,
    /// The flow's hash, and the sequence number of the SYN that opens a TCP connection.
    FlowAndSequence,
    /// The client's address, or the first bits of it.
    Source {
        /// Bits of an IPv4 address that count.
        prefix4: u8,
        /// Bits of an IPv6 address that count.
        prefix6: u8,
    },
}

/// How members are chosen.
#[derive(Debug, Clone)]
pub enum How {
    /// By a lookup table whose entries are places in the members.
    Table(Arc<[u16]>),
    /// In turn; the sequence holds places in the members.
    Turns(Arc<[u16]>),
    /// The one with the fewest flows for its weight; a weight for each member.
    Fewest(Arc<[u32]>),
}

/// A service's scheduler with the members that it chooses from.
#[derive(Debug, Clone)]
pub struct Scheduler {
    how: How,
    members: Arc<[Member]>,
    key: Key,
    /// Whether any member has a limit.
    limited: bool,
    /// Whether a choice is the table's entry of the flow, and no more.
    is_plain: bool,
}

/// What came of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The backend with this number.
    Backend(u32),
    /// The backend with this number, since the first choice holds as many flows as it may.
    Next(u32),
    /// Every backend holds as many flows as it may.
    Full,
    /// There is no backend.
    Nobody,
}

impl Choice {
    /// The backend's number.
    #[inline]
    #[must_use]
    pub const fn backend(self) -> Option<u32> {
        match self {
            Self::Backend(number) | Self::Next(number) => Some(number),
            Self::Full | Self::Nobody => None,
        }
    }
}

/// What a worker knows of its own and others' flows.
pub trait Live {
    /// Flows that the backend with this number holds, of all workers.
    fn flows(&self, number: u32) -> u64;
}

impl Scheduler {
    /// A scheduler over `members`, whose places `how` names, that is asked with `key`.
    #[must_use]
    pub fn new(how: How, members: Arc<[Member]>, key: Key) -> Self {
        let limited = members.iter().any(|member| member.max_flows < u32::MAX);
        let is_plain = !limited && matches!((&how, key), (How::Table(_), Key::Flow));
        Self {
            how,
            members,
            key,
            limited,
            is_plain,
        }
    }

    /// What a table is asked with.
    #[inline]
    #[must_use]
    pub const fn key(&self) -> Key {
        self.key
    }

    /// How members are chosen.
    #[must_use]
    pub const fn how(&self) -> &How {
        &self.how
    }

    /// Hot: asks for the table's entry of a flow.
    #[inline(always)]
    pub fn prefetch(&self, point: u32) {
        if let How::Table(table) = &self.how
            && let Some(entry) = table.get(scale(point, table.len() as u32) as usize)
        {
            prefetch_read(entry);
        }
    }

    /// Hot: the choice where it is nothing but the table's entry of the flow.
    #[inline(always)]
    #[must_use]
    pub fn plain(&self, point: u32) -> Option<Choice> {
        match &self.how {
            How::Table(table) if self.is_plain => Some(self.told(table::entry(table, point))),
            _ => None,
        }
    }

    /// Where worker `worker` of `workers` begins in the sequence of turns.
    #[must_use]
    pub fn begin(&self, worker: u32, workers: u32) -> u32 {
        match &self.how {
            How::Turns(turns) => round_robin::start(worker, workers, turns.len() as u32),
            How::Table(_) | How::Fewest(_) => 0,
        }
    }

    /// The entry of the table at `point`, and the table's size, where there is a table.
    #[must_use]
    pub fn entry(&self, point: u32) -> Option<(u32, u32)> {
        match &self.how {
            How::Table(table) => Some((scale(point, table.len() as u32), table.len() as u32)),
            How::Turns(_) | How::Fewest(_) => None,
        }
    }

    /// The members.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Whether choices depend on how many flows backends hold.
    #[must_use]
    pub const fn counts_flows(&self) -> bool {
        self.limited || matches!(self.how, How::Fewest(_))
    }

    /// Whether the same packet, asked about again, may be given another backend: then only conntrack
    /// keeps a flow where it is.
    #[must_use]
    pub const fn forgets(&self) -> bool {
        self.limited
            || !matches!(self.how, How::Table(_))
            || matches!(self.key, Key::FlowAndSequence)
    }

    /// Hot for new flows: the backend for a flow at `point` (32 bits of the hash of the key). `turn`
    /// is the worker's place in the service's sequence, which moves on when a turn is taken; of a
    /// table, where the worker looked for room last.
    #[inline]
    #[must_use]
    pub fn choose(&self, point: u32, turn: &mut u32, live: &impl Live) -> Choice {
        match &self.how {
            How::Table(table) if !self.limited => self.told(table::entry(table, point)),
            _ => self.choose_with_care(point, turn, live),
        }
    }

    /// Whether a member may hold one more flow.
    #[must_use]
    pub fn has_room(&self, number: u32, live: &impl Live) -> bool {
        let limit = |member: &Member| u64::from(member.max_flows);
        let member = self.members.iter().find(|member| member.number == number);
        !self.limited || member.is_some_and(|member| live.flows(number) < limit(member))
    }

    /// The backend that a flow at `point` gets wherever nothing is remembered of it: the same for
    /// every packet, whatever the scheduler, as long as the members are the same.
    #[must_use]
    pub fn fixed(&self, point: u32) -> Choice {
        self.told(match &self.how {
            How::Table(table) | How::Turns(table) => table::entry(table, point),
            How::Fewest(weights) => least_connections::fixed(weights, point),
        })
    }

    /// Schedulers that look at more than a table.
    #[inline(never)]
    fn choose_with_care(&self, point: u32, turn: &mut u32, live: &impl Live) -> Choice {
        let has_room = |place: u16| match self.members.get(usize::from(place)) {
            Some(member) if member.max_flows == u32::MAX => true,
            Some(member) => live.flows(member.number) < u64::from(member.max_flows),
            None => false,
        };
        let (first, chosen) = match &self.how {
            How::Table(table) => {
                let first = table::entry(table, point);
                (
                    first,
                    table::next(table, point, turn, self.members.len(), has_room),
                )
            }
            How::Turns(sequence) => {
                let first = round_robin::peek(sequence, *turn);
                (
                    first,
                    round_robin::take(sequence, turn, self.members.len(), has_room),
                )
            }
            How::Fewest(weights) => {
                let limit = |place: usize| Some(self.members.get(place)?.max_flows);
                let flows = |place: usize| Some(live.flows(self.members.get(place)?.number));
                least_connections::fewest(weights, point, |place| {
                    let (limit, flows) = (limit(place)?, flows(place)?);
                    let has_room = limit == u32::MAX || flows < u64::from(limit);
                    Some(Held { flows, has_room })
                })
            }
        };
        match (first, chosen) {
            (_, None) if self.members.is_empty() => Choice::Nobody,
            (_, None) => Choice::Full,
            (first, chosen) if first == chosen => self.told(chosen),
            (_, chosen) => match self.told(chosen) {
                Choice::Backend(number) => Choice::Next(number),
                other => other,
            },
        }
    }

    #[inline]
    fn told(&self, place: Option<u16>) -> Choice {
        let member = place.and_then(|place| self.members.get(usize::from(place)));
        member.map_or(Choice::Nobody, |member| Choice::Backend(member.number))
    }
}

/// A point of the table for a flow at `point` whose SYN has this sequence number.
#[inline]
#[must_use]
pub const fn with_sequence(point: u32, sequence: u32) -> u32 {
    // Flow and sequence number share one multiplication, whose upper half depends on both.
    let mixed = ((point as u64) << 32 | sequence as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 32) as u32
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// Flows by backend, kept by a test.
    #[derive(Debug, Default)]
    pub(crate) struct Flows(pub(crate) HashMap<u32, u64>);

    impl Live for Flows {
        fn flows(&self, number: u32) -> u64 {
            self.0.get(&number).copied().unwrap_or(0)
        }
    }

    fn members(limits: &[u32]) -> Arc<[Member]> {
        (10u32..)
            .zip(limits)
            .map(|(number, max_flows)| Member {
                number,
                max_flows: *max_flows,
            })
            .collect()
    }

    fn schedulers(limits: &[u32]) -> Vec<Scheduler> {
        let weights = vec![1; limits.len()];
        let named: Vec<crate::maglev::Member> = (0u16..)
            .zip(limits)
            .map(|(slot, _)| crate::maglev::Member {
                name: format!("10.0.0.{slot}:80"),
                weight: 1,
                slot,
            })
            .collect();
        let table = crate::maglev::build(&named, 251);
        vec![
            Scheduler::new(How::Table(table), members(limits), Key::Flow),
            Scheduler::new(
                How::Turns(round_robin::turns(&weights).into()),
                members(limits),
                Key::Flow,
            ),
            Scheduler::new(How::Fewest(weights.into()), members(limits), Key::Flow),
        ]
    }

    #[test]
    fn nobody_is_chosen_where_nobody_is() {
        for scheduler in schedulers(&[]) {
            let choice = scheduler.choose(7, &mut 0, &Flows::default());
            assert_eq!(
                (choice, scheduler.fixed(7)),
                (Choice::Nobody, Choice::Nobody)
            );
        }
    }

    proptest! {
        #[test]
        fn no_backend_ever_gets_more_flows_than_it_may_and_room_is_always_found(
            limits in proptest::collection::vec(0u32..6, 1..12),
            points in proptest::collection::vec(any::<u32>(), 0..80),
        ) {
            let room: u32 = limits.iter().sum();
            for scheduler in schedulers(&limits) {
                let (mut live, mut turn) = (Flows::default(), 0);
                for (taken, point) in (0u32..).zip(&points) {
                    match scheduler.choose(*point, &mut turn, &live).backend() {
                        Some(number) => *live.0.entry(number).or_default() += 1,
                        None => prop_assert!(taken >= room),
                    }
                }
                for (number, limit) in (10u32..).zip(&limits) {
                    prop_assert!(live.flows(number) <= u64::from(*limit));
                }
            }
        }

        #[test]
        fn the_fixed_choice_is_the_same_for_every_packet(point: u32, count in 1usize..9) {
            for scheduler in schedulers(&vec![u32::MAX; count]) {
                prop_assert!(scheduler.fixed(point).backend().is_some());
                prop_assert_eq!(scheduler.fixed(point), scheduler.fixed(point));
            }
        }

        #[test]
        fn sequence_numbers_spread_connections_of_one_flow(point: u32, start: u32) {
            let spread: std::collections::HashSet<u32> = (0..64)
                .map(|more| with_sequence(point, start.wrapping_add(more * 64_000)) >> 28)
                .collect();
            prop_assert!(spread.len() > 8);
        }
    }
}
