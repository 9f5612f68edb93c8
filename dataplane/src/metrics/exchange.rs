//! How the control core hands [`Facts`] to whoever scrapes, without ever waiting.
//!
//! The scraper says that it wants some, and looks for them for a while; the control core sees the
//! wish in its round and puts facts down if nobody is just taking the last ones, else in its next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::Facts;

/// How long a scraper rests between two looks.
const LOOK: Duration = Duration::from_micros(300);

/// Where facts change hands; see the module's text.
#[derive(Debug, Default)]
pub struct Exchange {
    /// How often facts were asked for.
    asked: AtomicU64,
    /// The last facts, and which request they answered.
    given: Mutex<(u64, Option<Arc<Facts>>)>,
}

impl Exchange {
    /// For the control core: the number of a request that it has not answered, if there is one; it
    /// passes the number of the last that it did.
    #[must_use]
    pub fn wanted(&self, answered: u64) -> Option<u64> {
        let asked = self.asked.load(Ordering::Acquire);
        (asked != answered).then_some(asked)
    }

    /// For the control core: puts facts down in answer to a request. Never waits; whether it
    /// succeeded.
    pub fn give(&self, request: u64, facts: Arc<Facts>) -> bool {
        let mut given = match self.given.try_lock() {
            Ok(given) => given,
            Err(TryLockError::Poisoned(given)) => given.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let before = std::mem::replace(&mut *given, (request, Some(facts)));
        drop(given);
        drop(before);
        true
    }

    /// For the scraper: facts that are made after this was called, or, if there are none in time,
    /// the last ones; `None` when there never were any.
    #[must_use]
    pub fn ask(&self, patience: Duration) -> Option<Arc<Facts>> {
        let request = self.asked.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let start = Instant::now();
        loop {
            let (answered, facts) = self
                .given
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            if answered == request || start.elapsed() >= patience {
                return facts;
            }
            thread::sleep(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(generation: u64) -> Arc<Facts> {
        Arc::new(Facts {
            generation,
            ..Facts::default()
        })
    }

    #[test]
    fn a_scraper_gets_facts_made_after_it_asked() {
        let exchange = Exchange::default();
        assert!(exchange.give(0, facts(1)));
        let generation = thread::scope(|scope| {
            let scraper = scope.spawn(|| exchange.ask(Duration::from_secs(20)));
            let request = loop {
                match exchange.wanted(0) {
                    Some(request) => break request,
                    None => thread::yield_now(),
                }
            };
            while !exchange.give(request, facts(2)) {}
            assert_eq!(exchange.wanted(request), None);
            scraper.join().unwrap().unwrap().generation
        });
        assert_eq!(generation, 2);
    }

    #[test]
    fn a_control_core_that_does_not_answer_leaves_the_last_facts() {
        let exchange = Exchange::default();
        assert!(exchange.ask(Duration::ZERO).is_none());
        exchange.give(1, facts(7));
        let found = exchange.ask(Duration::from_millis(1)).unwrap();
        assert_eq!(found.generation, 7);
    }

    #[test]
    fn the_control_core_never_waits_for_a_scraper_that_is_taking_facts() {
        let exchange = Exchange::default();
        let taking = exchange.given.lock().unwrap();
        assert!(!exchange.give(1, facts(1)));
        drop(taking);
        assert!(exchange.give(1, facts(1)));
    }
}
