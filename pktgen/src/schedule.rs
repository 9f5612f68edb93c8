//! What each packet of the sequence does: carry data on one of the flows, open a new one, or close
//! the oldest.
//!
//! Flows that come and go are a window that slides over the numbers of all possible flows: opening
//! takes the number after the newest, closing gives up the oldest. So the flows that live are known
//! without a list of them, however many come and go.

use crate::popularity::{Popularity, Sampler};
use crate::random::Random;

/// How flows come and go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mix {
    /// The same flows all the time.
    Steady,
    /// Each packet opens a new flow with this chance, and the oldest is forgotten without a word.
    Renewed {
        /// The chance, 0 to 1.
        share: f64,
    },
    /// Connections are opened at a rate, held at the profile's number of flows, and closed.
    Churn {
        /// Connections opened a second.
        opens: u64,
        /// Data segments a second, over all connections.
        data: u64,
    },
}

impl Mix {
    /// Packets a second that follow from it; `None` where it sets none.
    #[must_use]
    pub const fn rate(self) -> Option<u64> {
        match self {
            Self::Churn { opens, data } => Some(opens.saturating_mul(2).saturating_add(data)),
            Self::Steady | Self::Renewed { .. } => None,
        }
    }
}

/// What a packet does to its flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// What its place in its flow says.
    Data,
    /// It is the flow's first.
    Open,
    /// It is the flow's last.
    Close,
}

/// The flow of a packet, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The flow.
    pub flow: u32,
    /// What the packet does to it.
    pub act: Act,
}

/// The steps of a profile, one a packet.
#[derive(Debug, Clone)]
pub struct Schedule(Rule);

#[derive(Debug, Clone)]
enum Rule {
    Steady(Sampler),
    Renewed {
        window: Window,
        chance: u64,
    },
    Churn {
        window: Window,
        most: u32,
        turn: Turn,
        close_next: bool,
    },
}

impl Schedule {
    /// The steps for `flows` flows at a time, out of `universe` that are possible.
    #[must_use]
    pub fn new(mix: Mix, popularity: Popularity, flows: u32, universe: u32) -> Self {
        let flows = flows.max(1);
        Self(match mix {
            Mix::Steady => Rule::Steady(Sampler::new(popularity, flows)),
            Mix::Renewed { share } => Rule::Renewed {
                window: Window {
                    first: 0,
                    live: flows,
                    universe,
                },
                // 2^64 as a float; the cast keeps within bounds.
                chance: (share.clamp(0.0, 1.0) * 18_446_744_073_709_551_616.0) as u64,
            },
            Mix::Churn { opens, data } => Rule::Churn {
                window: Window {
                    first: 0,
                    live: 0,
                    universe,
                },
                most: flows,
                turn: Turn {
                    part: opens,
                    whole: opens * 2 + data,
                    credit: opens + data,
                },
                close_next: false,
            },
        })
    }

    /// The next packet's step.
    #[inline]
    pub fn next(&mut self, random: &mut Random) -> Step {
        match &mut self.0 {
            Rule::Steady(sampler) => data(sampler.draw(random)),
            Rule::Renewed { window, chance } => {
                if *chance > 0 && random.next_u64() <= *chance {
                    window.close();
                    return Step {
                        flow: window.open(),
                        act: Act::Open,
                    };
                }
                data(window.any(random))
            }
            Rule::Churn {
                window,
                most,
                turn,
                close_next,
            } => {
                turn.pass();
                if *close_next {
                    *close_next = false;
                    return Step {
                        flow: window.close(),
                        act: Act::Close,
                    };
                }
                if turn.take() || window.live == 0 {
                    let flow = window.open();
                    *close_next = window.live > *most;
                    return Step {
                        flow,
                        act: Act::Open,
                    };
                }
                data(window.any(random))
            }
        }
    }
}

const fn data(flow: u32) -> Step {
    Step {
        flow,
        act: Act::Data,
    }
}

/// The flows that live: `live` numbers from `first` on, and around at `universe`.
#[derive(Debug, Clone, Copy)]
struct Window {
    first: u32,
    live: u32,
    universe: u32,
}

impl Window {
    fn at(&self, place: u32) -> u32 {
        let number = u64::from(self.first) + u64::from(place);
        (number % u64::from(self.universe.max(1))) as u32
    }

    fn open(&mut self) -> u32 {
        let flow = self.at(self.live);
        self.live += 1;
        flow
    }

    fn close(&mut self) -> u32 {
        let flow = self.first;
        self.first = self.at(1);
        self.live -= 1;
        flow
    }

    fn any(&self, random: &mut Random) -> u32 {
        self.at(random.below(u64::from(self.live)) as u32)
    }
}

/// Gives `part` turns in every `whole`, as evenly as whole numbers can.
#[derive(Debug, Clone, Copy)]
struct Turn {
    part: u64,
    whole: u64,
    credit: u64,
}

impl Turn {
    fn pass(&mut self) {
        self.credit += self.part;
    }

    fn take(&mut self) -> bool {
        let due = self.credit >= self.whole;
        if due {
            self.credit -= self.whole;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashSet, VecDeque};

    fn steps(mix: Mix, flows: u32, universe: u32, count: usize) -> Vec<Step> {
        let mut schedule = Schedule::new(mix, Popularity::Uniform, flows, universe);
        let mut random = Random::new(3);
        (0..count).map(|_| schedule.next(&mut random)).collect()
    }

    #[test]
    fn the_share_of_new_flows_is_the_one_asked_for_and_the_oldest_leaves() {
        for (share, low, high) in [(0.0, 0, 0), (0.1, 900, 1_100), (1.0, 10_000, 10_000)] {
            let mut live: VecDeque<u32> = (0..50).collect();
            let mut opened = 0;
            for step in steps(Mix::Renewed { share }, 50, 1_000_000, 10_000) {
                if step.act == Act::Open {
                    assert!(!live.contains(&step.flow), "a new flow is none of the live");
                    live.pop_front();
                    live.push_back(step.flow);
                    opened += 1;
                } else {
                    assert!(live.contains(&step.flow));
                }
            }
            assert!((low..=high).contains(&opened), "{share}: {opened}");
        }
    }

    #[test]
    fn churn_opens_at_its_rate_holds_the_number_and_closes_the_oldest() {
        for (opens, data) in [(1_000, 8_000), (1_000, 0), (7, 100)] {
            let mut live: VecDeque<u32> = VecDeque::new();
            let (mut opened, mut most) = (0u64, 0);
            let count = 20_000;
            for step in steps(Mix::Churn { opens, data }, 30, 4_096, count) {
                match step.act {
                    Act::Open => {
                        live.push_back(step.flow);
                        opened += 1;
                    }
                    Act::Close => assert_eq!(live.pop_front(), Some(step.flow)),
                    Act::Data => assert!(live.contains(&step.flow)),
                }
                most = most.max(live.len());
            }
            assert_eq!(most, 31, "one more only while the oldest closes");
            assert!(live.len() >= 30);
            let due = count as u64 * opens / (2 * opens + data);
            assert!(opened.abs_diff(due) <= 1, "{opened} opened, {due} due");
        }
    }

    #[test]
    fn numbers_are_used_again_only_after_all_others() {
        let opened: Vec<u32> = steps(Mix::Renewed { share: 1.0 }, 4, 10, 30)
            .iter()
            .map(|step| step.flow)
            .collect();
        for round in opened.windows(10) {
            assert_eq!(round.iter().collect::<HashSet<_>>().len(), 10);
        }
    }
}
