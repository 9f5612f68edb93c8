//! The daemon's log: one event a line on standard error, as text or as JSON.
//!
//! Only the control core and the threads that start and stop weir write here; workers count. What
//! the network can cause again and again (backends that come and go, a driver that complains) goes
//! through a [`Limit`], so that a log never grows with traffic; how much was kept back is told.

use std::fmt;
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Instant;

use tracing::level_filters::LevelFilter;
use tracing::{debug, error, info, warn};
use weir_engine::eal;
use weir_shm::segment::event::EventKind;

use crate::config::{Log, LogFormat, LogLevel};

/// Lines of one cause that may come at once.
const BURST: u32 = 50;
/// Lines of one cause a second when they keep coming.
const PER_SECOND: f64 = 5.0;

/// Starts the log of this process; a second start changes nothing.
pub fn start(settings: Log) {
    let level = match settings.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_ansi(!plain && std::io::stderr().is_terminal());
    // An error means that a log has been started, which then goes on.
    let _ = match settings.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .try_init(),
    };
}

/// A line about the daemon itself.
pub fn say(message: impl fmt::Display) {
    info!(target: "daemon", "{message}");
}

/// A line about the configuration file.
pub fn doubt(message: impl fmt::Display) {
    warn!(target: "config", "{message}");
}

/// Why the daemon did not start, or did not end well.
pub fn fail(message: impl fmt::Display) {
    error!(target: "daemon", "{message}");
}

/// A worker that stands still.
pub fn stuck(worker: usize, message: impl fmt::Display) {
    error!(target: "worker", worker, "{message}");
}

/// How much DPDK is asked to tell.
#[must_use]
pub const fn dpdk_level(settings: Log) -> eal::LogLevel {
    match settings.level {
        LogLevel::Error => eal::LogLevel::Error,
        LogLevel::Debug => eal::LogLevel::Info,
        LogLevel::Warn | LogLevel::Info => eal::LogLevel::Warning,
    }
}

/// A line of DPDK's.
pub fn of_dpdk(level: eal::LogLevel, line: &str) {
    static LIMIT: Mutex<Option<Limit>> = Mutex::new(None);
    let now = Instant::now();
    let admitted = match LIMIT.lock() {
        Ok(mut limit) => limit.get_or_insert_with(|| Limit::new(now)).admit(now),
        Err(_) => Some(0),
    };
    let Some(kept_back) = admitted else {
        return;
    };
    if kept_back > 0 {
        warn!(target: "dpdk", lines = kept_back, "lines kept back");
    }
    match level {
        eal::LogLevel::Error => error!(target: "dpdk", "{line}"),
        eal::LogLevel::Warning => warn!(target: "dpdk", "{line}"),
        eal::LogLevel::Info => info!(target: "dpdk", "{line}"),
        eal::LogLevel::Debug => debug!(target: "dpdk", "{line}"),
    }
}

/// A stream of lines of one cause, kept to a bounded rate.
#[derive(Debug)]
pub struct Limit {
    /// Lines that may be written at once.
    tokens: f64,
    since: Instant,
    kept_back: u64,
}

impl Limit {
    /// Nothing written yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            tokens: f64::from(BURST),
            since: now,
            kept_back: 0,
        }
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.tokens = (self.tokens + passed * PER_SECOND).min(f64::from(BURST));
    }

    /// Whether a line may be written now; if so, how many were kept back since the last one.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        self.refill(now);
        if self.tokens < 1.0 {
            self.kept_back += 1;
            return None;
        }
        self.tokens -= 1.0;
        Some(std::mem::take(&mut self.kept_back))
    }

    /// How many lines were kept back, once it is quiet enough to say so.
    pub fn overdue(&mut self, now: Instant) -> Option<u64> {
        if self.kept_back == 0 {
            return None;
        }
        self.refill(now);
        if self.tokens < f64::from(BURST) / 2.0 {
            return None;
        }
        Some(std::mem::take(&mut self.kept_back))
    }
}

/// The log of what becomes of backends, links and the pool; the same texts are events in the
/// segment, where none is left out.
#[derive(Debug)]
pub struct EventLog {
    /// Kinds that the network can cause as often as it likes.
    limits: [(EventKind, Limit); 4],
}

impl EventLog {
    /// Nothing written yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        let kinds = [
            EventKind::Health,
            EventKind::Neighbour,
            EventKind::Link,
            EventKind::Warning,
        ];
        Self {
            limits: kinds.map(|kind| (kind, Limit::new(now))),
        }
    }

    /// Writes an event, unless too many of its kind come.
    pub fn write(&mut self, now: Instant, kind: EventKind, text: &str) {
        let limit = self.limits.iter_mut().find(|(limited, _)| *limited == kind);
        if let Some((_, limit)) = limit {
            match limit.admit(now) {
                None => return,
                Some(0) => {}
                Some(kept_back) => tell_of_kept(kind, kept_back),
            }
        }
        let name = kind.name();
        match kind {
            EventKind::Damage => error!(target: "event", kind = name, "{text}"),
            EventKind::Refused | EventKind::Warning => {
                warn!(target: "event", kind = name, "{text}");
            }
            _ => info!(target: "event", kind = name, "{text}"),
        }
    }

    /// Tells what was kept back, when a storm is over.
    pub fn tick(&mut self, now: Instant) {
        for (kind, limit) in &mut self.limits {
            if let Some(kept_back) = limit.overdue(now) {
                tell_of_kept(*kind, kept_back);
            }
        }
    }
}

fn tell_of_kept(kind: EventKind, lines: u64) {
    warn!(target: "event", kind = kind.name(), lines, "lines kept back; weirctl events has them");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_storm_is_cut_and_what_was_kept_back_is_told_once() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let written = (0..100_000).filter(|_| limit.admit(start).is_some());
        assert_eq!(written.count(), BURST as usize);
        assert_eq!(limit.overdue(start), None, "the storm is not over");
        let later = start + Duration::from_secs(1);
        assert_eq!(limit.admit(later), Some(100_000 - u64::from(BURST)));
        assert_eq!(limit.admit(later), Some(0));
        assert_eq!(limit.overdue(later + Duration::from_secs(60)), None);
    }

    #[test]
    fn what_a_storm_kept_back_is_told_when_it_is_quiet() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let kept = (0..70).filter(|_| limit.admit(start).is_none()).count();
        assert_eq!(kept, 20);
        assert_eq!(limit.overdue(start + Duration::from_secs(60)), Some(20));
        assert_eq!(limit.overdue(start + Duration::from_secs(60)), None);
    }

    #[test]
    fn a_long_storm_writes_so_many_lines_a_second() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let written = (0..60_000u32)
            .filter(|ms| {
                limit
                    .admit(start + Duration::from_millis(u64::from(*ms)))
                    .is_some()
            })
            .count();
        assert!(
            (345..=351).contains(&written),
            "{written} lines in a minute"
        );
    }
}
