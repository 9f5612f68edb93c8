//! Waiting with a bound. Nothing in these tests sleeps in the hope that something has happened by then.

use std::time::{Duration, Instant};

use crate::{Failure, Result};

const PAUSE: Duration = Duration::from_millis(50);

/// Asks `probe` again and again until it yields something, for at most `limit`; `what` names it in the failure.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if Instant::now() >= end {
            return Err(Failure::new(format!(
                "waited {limit:?} in vain for: {what}"
            )));
        }
        std::thread::sleep(PAUSE);
    }
}

/// [`until`] for something that is either so or not.
pub fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) -> Result {
    until(what, limit, || probe().then_some(()))
}
