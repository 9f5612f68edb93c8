//! Passive signs of a backend's health: connections of clients that it refuses.
//!
//! Where weir sees the answers, workers count the resets that answer a SYN, and the ICMP errors that
//! say of one that it did not arrive. Each counts as a failed check, so that a dead server stops getting new flows before its next check. Only a check brings it
//! back, so only backends that are checked are watched.
//!
//! A server may refuse one client and serve all others; such refusals must not take it down for
//! everybody. They count only while they are as many as half of the flows that it got.

use std::collections::HashMap;

use weir_engine::buffer::BufferSource;
use weir_shm::model::HealthKind;

use super::{Control, Nanos, Who};

/// A backend that is watched.
#[derive(Debug)]
pub(super) struct Watched {
    number: u32,
    who: Who,
    /// Refusals and new flows when they were last looked at; `None` before the first look, as what
    /// a backend's numbers had come to by then is not of its watch.
    seen: Option<(u64, u64)>,
}

impl<S: BufferSource> Control<S> {
    /// Watches the backends that the pool in force has now, those of the first pool from nothing on.
    pub(super) fn watch_from_nothing(&mut self) {
        self.watch_backends();
        for watched in &mut self.watched {
            watched.seen = Some((0, 0));
        }
    }

    /// Watches the backends that the pool in force has now.
    pub(super) fn watch_backends(&mut self) {
        let before: HashMap<u32, Option<(u64, u64)>> = self
            .watched
            .iter()
            .map(|watched| (watched.number, watched.seen))
            .collect();
        self.watched.clear();
        for service in &self.pool.services {
            if !service.forwarding.sees_answers() || service.health.kind == HealthKind::None {
                continue;
            }
            for backend in &service.backends {
                let who = (service.name.clone(), backend.name(service));
                if let Some(number) = self.book.number(&who.0, &who.1) {
                    let seen = before.get(&number).copied().unwrap_or_default();
                    self.watched.push(Watched { number, who, seen });
                }
            }
        }
    }

    /// Looks at what workers counted: `totals` gives refusals and new flows of the backend with a
    /// number, of all workers.
    pub fn look_at_refusals(&mut self, now: Nanos, totals: impl Fn(u32) -> (u64, u64)) {
        for watched in &mut self.watched {
            let (refused, opened) = totals(watched.number);
            let Some((before, opened_before)) = watched.seen.replace((refused, opened)) else {
                continue;
            };
            let news = refused.saturating_sub(before);
            if news > 0 && news * 2 >= opened.saturating_sub(opened_before) {
                let (service, backend) = &watched.who;
                self.checker.refused(now, service, backend, news);
            }
        }
    }
}
