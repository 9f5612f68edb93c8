//! What the control core alone knows: live flows and what checks found, asked in rounds.
//!
//! A round takes a bounded time, however many services there are, and no service waits for ever: flows of
//! all come with one answer, and checks are asked service by service from where the last round stopped.

use std::collections::HashMap;

use weir_shm::client::ClientError;
use weir_shm::model::{HealthKind, Pool};
use weir_shm::segment::mailbox::{Answer, BackendHealth, Question};

/// A service's and a backend's name.
pub(super) type Place = (String, String);

/// What the control core told lately. What it did not tell stays as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Live flows.
    pub(super) flows: HashMap<Place, u64>,
    /// What checks found.
    pub(super) checks: HashMap<Place, BackendHealth>,
    /// All flows together were too many for an answer: each service's are asked for by themselves.
    is_apart: bool,
    /// The service whose flows are asked for next, where they are.
    next_flows: usize,
    /// The service whose checks are asked for next.
    next_checks: usize,
}

impl Told {
    /// Asks for everything once, or for as much as there is time for; whether there was an answer to
    /// each question.
    pub(super) fn round(
        &mut self,
        pool: &Pool,
        ask: &mut dyn FnMut(&Question) -> Result<Answer, ClientError>,
        is_late: &dyn Fn() -> bool,
    ) -> bool {
        if !self.is_apart && !self.all_flows(ask) {
            return false;
        }
        if self.is_apart && !self.flows_in_turn(pool, ask, is_late) {
            return false;
        }
        self.checks_in_turn(pool, ask, is_late)
    }

    fn all_flows(&mut self, ask: &mut dyn FnMut(&Question) -> Result<Answer, ClientError>) -> bool {
        let all = Question::Census {
            service: None,
            backend: None,
        };
        match ask(&all) {
            Ok(Answer::Census(census)) => {
                let services = census.services.into_iter();
                let told = services.flat_map(|service| {
                    let name = service.service;
                    let here = service.backends.into_iter().filter(|one| one.in_pool);
                    here.map(move |one| ((name.clone(), one.backend), one.flows))
                });
                self.flows = told.collect();
                true
            }
            // More than an answer has room for.
            Err(ClientError::Refused(_)) => {
                self.is_apart = true;
                true
            }
            other => other.is_ok(),
        }
    }

    fn flows_in_turn(
        &mut self,
        pool: &Pool,
        ask: &mut dyn FnMut(&Question) -> Result<Answer, ClientError>,
        is_late: &dyn Fn() -> bool,
    ) -> bool {
        let Self {
            flows, next_flows, ..
        } = self;
        let names = pool.services.iter().map(|service| &service.name);
        in_turn(&names.collect::<Vec<_>>(), next_flows, is_late, |name| {
            let question = Question::Flows {
                service: name.to_owned(),
                backend: None,
            };
            let answer = ask(&question);
            if let Ok(Answer::Flows { backends }) = &answer {
                let told = backends.iter();
                renew(flows, name, told.map(|one| (&one.backend, one.flows)));
            }
            answer.is_ok()
        })
    }

    fn checks_in_turn(
        &mut self,
        pool: &Pool,
        ask: &mut dyn FnMut(&Question) -> Result<Answer, ClientError>,
        is_late: &dyn Fn() -> bool,
    ) -> bool {
        let Self {
            checks,
            next_checks,
            ..
        } = self;
        let checked = (pool.services.iter())
            .filter(|service| service.health.kind != HealthKind::None)
            .map(|service| &service.name);
        in_turn(&checked.collect::<Vec<_>>(), next_checks, is_late, |name| {
            let question = Question::Health {
                service: name.to_owned(),
            };
            let answer = ask(&question);
            if let Ok(Answer::Health { backends }) = &answer {
                let told = backends.iter();
                renew(checks, name, told.map(|one| (&one.backend, one.clone())));
            }
            answer.is_ok()
        })
    }
}

/// Puts what was told of a service's backends in the place of what was told before.
fn renew<'a, T>(
    told: &mut HashMap<Place, T>,
    service: &str,
    now: impl Iterator<Item = (&'a String, T)>,
) {
    told.retain(|(of, _), _| of != service);
    told.extend(now.map(|(backend, one)| ((service.to_owned(), backend.clone()), one)));
}

/// Asks about each service once, beginning with `next`, until it is late: about one at least. Whether
/// all that were asked about were answered.
fn in_turn(
    services: &[&String],
    next: &mut usize,
    is_late: &dyn Fn() -> bool,
    mut ask: impl FnMut(&str) -> bool,
) -> bool {
    let first = *next % services.len().max(1);
    let in_order = (services.iter().enumerate().cycle().skip(first)).take(services.len());
    for (place, name) in in_order {
        *next = place + 1;
        if !ask(name) {
            return false;
        }
        if is_late() {
            break;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use weir_shm::document;
    use weir_shm::segment::mailbox::{BackendCensus, BackendFlows, Census, ServiceCensus};

    /// As many services with a checked backend each.
    fn pool(services: usize) -> Pool {
        let text: String = (0..services)
            .map(|n| {
                format!(
                    "[[service]]\nname = \"s{n}\"\nvip = \"198.51.100.{n}\"\nport = 80\nprotocol = \"tcp\"\n\
                     forwarding = \"dsr-l2\"\nhealth = {{ kind = \"tcp\" }}\n\
                     [[service.backend]]\naddress = \"10.0.0.{n}\"\n"
                )
            })
            .collect();
        document::parse_services("pool.toml", &text).unwrap().pool
    }

    fn place(n: usize) -> Place {
        (format!("s{n}"), format!("10.0.0.{n}:80"))
    }

    /// A control core that answers three questions before it is late.
    struct Core {
        pool: Pool,
        asked: Cell<usize>,
        /// Questions for the flows of all services.
        censuses: Cell<usize>,
        /// Whether all flows fit into an answer.
        fits: bool,
        silent: bool,
    }

    impl Core {
        fn new(services: usize) -> Self {
            Self {
                pool: pool(services),
                asked: Cell::new(0),
                censuses: Cell::new(0),
                fits: true,
                silent: false,
            }
        }

        fn answer(&self, question: &Question) -> Result<Answer, ClientError> {
            self.asked.set(self.asked.get() + 1);
            if matches!(question, Question::Census { .. }) {
                self.censuses.set(self.censuses.get() + 1);
            }
            let backends = |name: &str| {
                let found = self.pool.service(name).unwrap();
                found.backends.iter().map(|one| one.name(found))
            };
            if self.silent {
                let (instance, waited) = ("lb1".to_owned(), std::time::Duration::ZERO);
                return Err(ClientError::NoAnswer { instance, waited });
            }
            Ok(match question {
                Question::Census { .. } if !self.fits => {
                    return Err(ClientError::Refused("too long".to_owned()));
                }
                Question::Census { .. } => Answer::Census(Census {
                    services: (self.pool.services.iter())
                        .map(|service| ServiceCensus {
                            service: service.name.clone(),
                            backends: backends(&service.name)
                                .map(|backend| BackendCensus {
                                    backend,
                                    in_pool: true,
                                    flows: 7,
                                    ..BackendCensus::default()
                                })
                                .collect(),
                        })
                        .collect(),
                }),
                Question::Flows { service, .. } => Answer::Flows {
                    backends: backends(service)
                        .map(|backend| BackendFlows { backend, flows: 7 })
                        .collect(),
                },
                Question::Health { service } => Answer::Health {
                    backends: backends(service)
                        .map(|backend| BackendHealth {
                            backend,
                            ..BackendHealth::default()
                        })
                        .collect(),
                },
                other => panic!("{other:?}"),
            })
        }

        fn round(&self, told: &mut Told) -> bool {
            self.asked.set(0);
            let is_late = || self.asked.get() >= 3;
            told.round(&self.pool, &mut |question| self.answer(question), &is_late)
        }
    }

    #[test]
    fn flows_of_all_services_come_with_the_first_round() {
        let (core, mut told) = (Core::new(100), Told::default());
        assert!(core.round(&mut told));
        assert_eq!(told.flows.len(), 100);
        assert!((0..100).all(|n| told.flows.get(&place(n)) == Some(&7)));
    }

    #[test]
    fn no_service_waits_for_ever_for_its_checks() {
        let (core, mut told) = (Core::new(9), Told::default());
        for round in 1..=9 {
            assert!(core.round(&mut told));
            assert!(core.asked.get() <= 3);
            // One question of the three is for flows.
            assert_eq!(told.checks.len(), (2 * round).min(9));
        }
    }

    #[test]
    fn flows_too_many_for_an_answer_are_asked_for_service_by_service() {
        let (mut core, mut told) = (Core::new(10), Told::default());
        core.fits = false;
        for _ in 0..10 {
            assert!(core.round(&mut told));
        }
        assert_eq!(core.censuses.get(), 1, "what was refused is asked once");
        assert_eq!((told.flows.len(), told.checks.len()), (10, 10));
    }

    #[test]
    fn what_left_is_forgotten_and_what_is_not_told_stays() {
        let (mut core, mut told) = (Core::new(4), Told::default());
        core.round(&mut told);
        core.silent = true;
        assert!(!core.round(&mut told));
        assert_eq!(core.asked.get(), 1, "who does not answer is asked no more");
        assert_eq!(told.flows.len(), 4);
        (core.silent, core.pool) = (false, pool(1));
        core.round(&mut told);
        assert_eq!(told.flows.keys().collect::<Vec<_>>(), [&place(0)]);
    }
}
