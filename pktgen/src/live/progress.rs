//! What workers tell while they run, the signals that end a run, and the bar on the terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::LiveError;
use crate::trial::{Look, Observer};

/// SIGINT and SIGTERM, remembered. A second one ends the process at once.
#[derive(Debug, Clone)]
pub struct Signals(Arc<AtomicBool>);

impl Signals {
    /// Starts to watch.
    ///
    /// # Errors
    /// [`LiveError::Signals`].
    pub fn watch() -> Result<Self, LiveError> {
        let raised = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, 1, Arc::clone(&raised))
                .map_err(LiveError::Signals)?;
            flag::register(signal, Arc::clone(&raised)).map_err(LiveError::Signals)?;
        }
        Ok(Self(raised))
    }

    /// Whether one has come.
    #[must_use]
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's figures while it runs; written by it alone. On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Progress {
    /// Packets that devices took, or, of a reflector, that came.
    pub packets: AtomicU64,
    /// Answers received once each, or, of a reflector, given.
    pub answers: AtomicU64,
    /// Flows that moved.
    pub moved: AtomicU64,
    /// Whether its thread runs and waits for the start.
    pub ready: AtomicBool,
    /// Set by the main thread once all are ready: when packet 0 is due, in ns; 0 before.
    pub start: AtomicU64,
    /// Whether it has sent everything it is to send.
    pub finished: AtomicBool,
    /// Set by the main thread: send nothing more.
    pub halt: AtomicBool,
}

impl Progress {
    /// Writes the figures.
    #[inline]
    pub fn set(&self, packets: u64, answers: u64, moved: u64) {
        self.packets.store(packets, Ordering::Relaxed);
        self.answers.store(answers, Ordering::Relaxed);
        self.moved.store(moved, Ordering::Relaxed);
    }
}

/// The sums of several workers' figures.
#[must_use]
pub fn sums(all: &[Arc<Progress>]) -> Look {
    all.iter().fold(Look::default(), |sum, one| Look {
        sent: sum.sent + one.packets.load(Ordering::Relaxed),
        answers: sum.answers + one.answers.load(Ordering::Relaxed),
        moved: sum.moved + one.moved.load(Ordering::Relaxed),
    })
}

/// A bar on standard error, if that is a terminal; otherwise nothing. `total` packets, or seconds of
/// `duration`, or just a count.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    duration: Option<Duration>,
    total: Option<u64>,
}

impl Bar {
    /// A bar for what is known of the end.
    #[must_use]
    pub fn new(total: Option<u64>, duration: Option<Duration>) -> Self {
        let length = total.or(duration.map(|d| d.as_millis() as u64));
        let (bar, template) = match length {
            Some(length) => (ProgressBar::new(length), "{bar:40} {percent}% {msg}"),
            None => (ProgressBar::new_spinner(), "{spinner} {msg}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self {
            bar,
            duration,
            total,
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Bar {
    fn look(&mut self, elapsed: Duration, look: Look) {
        let Look { sent, answers, .. } = look;
        let position = match (self.total, self.duration) {
            (Some(_), _) => sent,
            (None, Some(duration)) => elapsed.min(duration).as_millis() as u64,
            (None, None) => sent,
        };
        self.bar.set_position(position);
        let rate = sent as f64 / elapsed.as_secs_f64().max(1e-3);
        self.bar
            .set_message(format!("{sent} sent, {answers} answered, {rate:.0}/s"));
    }
}

/// The bar of a measurement of many trials: how many of them are done, which one is run, and how far
/// that one is. On standard error, if that is a terminal.
#[derive(Debug)]
pub struct Steps {
    bar: ProgressBar,
    label: String,
}

impl Steps {
    /// A bar for about `total` trials.
    #[must_use]
    pub fn new(total: u64) -> Self {
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            label: String::new(),
        }
    }

    /// Says what the next trial is for.
    pub fn label(&mut self, label: String) {
        self.bar.set_message(label.clone());
        self.label = label;
    }

    /// One of the measurement's steps is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Steps {
    fn look(&mut self, elapsed: Duration, look: Look) {
        let rate = look.sent as f64 / elapsed.as_secs_f64().max(1e-3);
        self.bar.set_message(format!(
            "{}: {} sent, {} answered, {rate:.0}/s",
            self.label, look.sent, look.answers
        ));
    }
}
