//! From a service's pool to what its workers choose by.
//!
//! A table is built anew only when something that it is made of changed; otherwise the next
//! generation shares it with the one before. Everything but the turns of `round-robin` is made from
//! backends in the order of their names, so that neither the file's order nor history decides.

use std::sync::Arc;

use weir_shm::model::{self, HashInput};

use super::health::ramp::STEPS;
use crate::maglev;
use crate::scheduler::{How, Key, Member, Scheduler, ring, round_robin};

/// A backend that takes new flows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its number.
    pub number: u32,
    /// Its share relative to the others.
    pub weight: u32,
    /// How much of its weight it has now, of [`STEPS`].
    pub share: u8,
    /// Flows that it may hold; `u32::MAX` for as many as come.
    pub max_flows: u32,
}

/// What a table was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MadeOf {
    scheduler: model::Scheduler,
    /// Names and weights (of a ring: virtual nodes), in the order of the table's places.
    members: Vec<maglev::Member>,
    size: u32,
}

/// What is kept of a service from one generation to the next.
#[derive(Debug, Default)]
pub struct Plan {
    built: Option<(MadeOf, How)>,
}

impl Plan {
    /// What workers choose by. `built` counts the tables that had to be built.
    pub fn scheduler(
        &mut self,
        service: &model::Service,
        mut candidates: Vec<Candidate>,
        built: &mut u64,
    ) -> Scheduler {
        if service.scheduler != model::Scheduler::RoundRobin {
            candidates.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        }
        let members = candidates.iter().map(|candidate| Member {
            number: candidate.number,
            max_flows: candidate.max_flows,
        });
        let members: Arc<[Member]> = members.collect();
        // While any backend ramps up, all weights are counted in steps; a ring counts its nodes, so
        // that a backend that ramps up moves no flow between others.
        let is_ramping = candidates.iter().any(|candidate| candidate.share < STEPS);
        let vnodes = service.steering.vnodes();
        let weight = |candidate: &Candidate| {
            let (whole, share) = (candidate.weight, u32::from(candidate.share));
            match service.scheduler {
                model::Scheduler::Ring => {
                    let nodes = u64::from(vnodes) * u64::from(whole) * u64::from(share);
                    nodes.div_ceil(u64::from(STEPS)) as u32
                }
                _ if is_ramping => whole * share,
                _ => whole,
            }
        };
        let made_of = MadeOf {
            scheduler: service.scheduler,
            members: (0u16..)
                .zip(candidates)
                .map(|(slot, candidate)| maglev::Member {
                    weight: weight(&candidate),
                    name: candidate.name,
                    slot,
                })
                .collect(),
            size: service.table_size,
        };
        let how = match &self.built {
            Some((same, how)) if *same == made_of => how.clone(),
            _ => {
                *built += 1;
                let how = build(&made_of);
                self.built = Some((made_of, how.clone()));
                how
            }
        };
        Scheduler::new(how, members, key(service))
    }
}

fn build(made_of: &MadeOf) -> How {
    let MadeOf {
        scheduler,
        members,
        size,
    } = made_of;
    let weights = || members.iter().map(|member| member.weight);
    match scheduler {
        model::Scheduler::Maglev | model::Scheduler::SourceHash => {
            How::Table(maglev::build(members, *size))
        }
        model::Scheduler::Ring => How::Table(ring::build(members, *size).into()),
        model::Scheduler::RoundRobin => {
            How::Turns(round_robin::turns(&weights().collect::<Vec<_>>()).into())
        }
        model::Scheduler::LeastConnections => How::Fewest(weights().collect()),
    }
}

/// What a service's table is asked with. Where clients are remembered, they are also told by what
/// makes a client, so that several workers, and several machines, agree on those that are new.
const fn key(service: &model::Service) -> Key {
    let steering = &service.steering;
    match (&steering.affinity, service.scheduler, steering.hash) {
        (Some(affinity), ..) => Key::Source {
            prefix4: affinity.prefix4,
            prefix6: affinity.prefix6,
        },
        (None, model::Scheduler::SourceHash, _) => Key::Source {
            prefix4: 32,
            prefix6: 128,
        },
        (None, _, HashInput::FiveTupleIsn) => Key::FlowAndSequence,
        (None, _, HashInput::FiveTuple) => Key::Flow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_shm::model::{Forwarding, PortMatch, Protocol};

    fn service(scheduler: model::Scheduler) -> model::Service {
        let vip: std::net::IpAddr = "198.51.100.10".parse().unwrap();
        let mut service = model::Service::new(
            "web",
            vip,
            PortMatch::Exact(80),
            Protocol::Tcp,
            Forwarding::DsrL2,
        );
        service.scheduler = scheduler;
        service.table_size = 251;
        service
    }

    fn candidates(order: &[u32]) -> Vec<Candidate> {
        let one = |number: &u32| Candidate {
            name: format!("10.0.0.{number}:80"),
            number: *number,
            weight: 1 + number % 3,
            share: STEPS,
            max_flows: u32::MAX,
        };
        order.iter().map(one).collect()
    }

    /// Whom 500 points lead to.
    fn choices(scheduler: &Scheduler) -> Vec<Option<u32>> {
        struct Nothing;
        impl crate::scheduler::Live for Nothing {
            fn flows(&self, _: u32) -> u64 {
                0
            }
        }
        let mut turn = 0;
        let points = (0..500u32).map(|point| point.wrapping_mul(0x9e37_79b9));
        points
            .map(|point| scheduler.choose(point, &mut turn, &Nothing).backend())
            .collect()
    }

    #[test]
    fn the_files_order_decides_nothing_but_turns() {
        for scheduler in model::Scheduler::ALL {
            let service = service(*scheduler);
            let [one, other] = [[1, 2, 3, 4, 5], [4, 2, 5, 1, 3]].map(|order| {
                let mut built = 0;
                choices(&Plan::default().scheduler(&service, candidates(&order), &mut built))
            });
            let same = *scheduler != model::Scheduler::RoundRobin;
            assert_eq!(one == other, same, "{scheduler}");
        }
    }

    #[test]
    fn a_backend_that_ramps_up_has_its_share_of_its_weight_under_every_scheduler() {
        for scheduler in model::Scheduler::ALL {
            let mut service = service(*scheduler);
            service.table_size = 65_537;
            let mut all = candidates(&[3, 6, 9]);
            all[1].share = STEPS / 2;
            let scheduler = Plan::default().scheduler(&service, all, &mut 0);
            let (mut live, mut turn) = (crate::scheduler::tests::Flows::default(), 0);
            for point in (0..5_000u32).map(|flow| flow.wrapping_mul(0x9e37_79b9)) {
                let number = scheduler.choose(point, &mut turn, &live).backend().unwrap();
                *live.0.entry(number).or_default() += 1;
            }
            // One, a half and one.
            let got = live.0[&6];
            // Tables are drawn, and a ring's shares differ by one in the root of its nodes besides.
            let slack = match service.scheduler {
                model::Scheduler::Ring => 300,
                model::Scheduler::Maglev | model::Scheduler::SourceHash => 120,
                model::Scheduler::RoundRobin | model::Scheduler::LeastConnections => 2,
            };
            assert!(got.abs_diff(1_000) <= slack, "{}: {got}", service.scheduler);
        }
    }

    #[test]
    fn nothing_is_built_twice() {
        let mut service = service(model::Scheduler::Ring);
        let (mut plan, mut built) = (Plan::default(), 0);
        plan.scheduler(&service, candidates(&[1, 2]), &mut built);
        plan.scheduler(&service, candidates(&[2, 1]), &mut built);
        assert_eq!(built, 1);
        service.steering.ring_vnodes = Some(7);
        plan.scheduler(&service, candidates(&[1, 2]), &mut built);
        service.scheduler = model::Scheduler::Maglev;
        plan.scheduler(&service, candidates(&[1, 2]), &mut built);
        plan.scheduler(&service, candidates(&[1]), &mut built);
        assert_eq!(built, 4);
    }
}
