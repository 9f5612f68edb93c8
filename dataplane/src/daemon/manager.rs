//! What the service manager hears (sd_notify(3)): that weir is ready, reads its file again, stops,
//! what it balances, and, as often as the manager's watchdog wants, that every worker moves.
//!
//! Without `NOTIFY_SOCKET` nothing is sent. Workers are watched all the same, and the log names one
//! that stands still.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use weir_engine::counters::CounterReader;
use weir_shm::counters::POLLS;
use weir_shm::segment::directory::{BackendState, RunningDirectory};

use super::log;
use super::watchdog::{News, Watchdog};

/// The daemon's side of the service manager.
#[derive(Debug)]
pub struct Manager {
    /// Until every worker has made a round.
    starting: bool,
    /// Whether the manager waits to be told that workers move.
    fed: bool,
    watchdog: Watchdog,
    /// The workers' cores, for messages.
    cores: Vec<usize>,
    status: String,
    /// Whether the manager could not be reached, so that it is said once.
    unreachable: bool,
}

impl Manager {
    /// For workers on these cores; asks the environment whether there is a watchdog to feed.
    #[must_use]
    pub fn new(now: Instant, cores: &[usize]) -> Self {
        let period = sd_notify::watchdog_enabled().filter(|period| *period > Duration::ZERO);
        Self {
            starting: true,
            fed: period.is_some(),
            watchdog: Watchdog::new(now, cores.len(), period),
            cores: cores.to_vec(),
            status: "starting".to_owned(),
            unreachable: false,
        }
    }

    fn send(&mut self, states: &[NotifyState<'_>]) {
        match sd_notify::notify(states) {
            Ok(()) => self.unreachable = false,
            Err(error) if !self.unreachable => {
                self.unreachable = true;
                log::fail(format_args!("the service manager cannot be told: {error}"));
            }
            Err(_) => {}
        }
    }

    /// A pool is in force: what `systemctl status` shows.
    pub fn in_force(&mut self, directory: &RunningDirectory) {
        let status = summary(directory);
        if status == self.status {
            return;
        }
        self.status = status;
        if !self.starting {
            let status = self.status.clone();
            self.send(&[NotifyState::Status(&status)]);
        }
    }

    /// The configuration file is read again.
    pub fn reloading(&mut self) {
        // Managers from version 253 on insist on the time.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(_) => self.send(&[NotifyState::Reloading]),
        }
    }

    /// It has been read, or refused: weir balances as before or as the file says now.
    pub fn reloaded(&mut self) {
        self.send(&[NotifyState::Ready]);
    }

    /// Told to stop.
    pub fn stopping(&mut self) {
        self.send(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Looks at the workers; `blocks` are theirs, and then the control core's own.
    pub fn tick(&mut self, now: Instant, blocks: &[CounterReader]) {
        let workers = blocks.iter().take(self.cores.len());
        let mut rounds = workers.map(|block| block.get(POLLS));
        if self.starting && rounds.clone().all(|rounds| rounds > 0) {
            self.starting = false;
            let status = self.status.clone();
            self.send(&[NotifyState::Ready, NotifyState::Status(&status)]);
            log::say("ready: every worker runs");
        }
        let Some(look) = self.watchdog.look(now, rounds.by_ref()) else {
            return;
        };
        for news in &look.news {
            self.tell(*news);
        }
        if look.all_move && self.fed {
            self.send(&[NotifyState::Watchdog]);
        }
    }

    fn tell(&self, news: News) {
        let core = |number: usize| self.cores.get(number).copied().unwrap_or_default();
        let starving = if self.fed {
            "; the service manager's watchdog is not fed"
        } else {
            ""
        };
        match news {
            News::Stuck(number, still) => log::stuck(
                number,
                format_args!(
                    "worker {number} on core {} has stood still for {still:.1?}{starving}",
                    core(number)
                ),
            ),
            News::Moves(number, still) => log::say(format_args!(
                "worker {number} on core {} moves again after {still:.1?}",
                core(number)
            )),
        }
    }
}

/// `generation 3: 2 services, 9 of 10 backends up`.
fn summary(directory: &RunningDirectory) -> String {
    let backends = || directory.services.iter().flat_map(|entry| &entry.backends);
    let takes = |state| matches!(state, BackendState::Up | BackendState::SlowStart);
    let up = backends().filter(|backend| takes(backend.state)).count();
    let services = directory.services.len();
    format!(
        "generation {}: {services} service{}, {up} of {} backends up",
        directory.generation,
        if services == 1 { "" } else { "s" },
        backends().count()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_shm::segment::directory::{BackendEntry, ServiceEntry};

    #[test]
    fn the_status_line_counts_backends_that_take_flows() {
        let entry = |state| BackendEntry { number: 0, state };
        let directory = RunningDirectory {
            generation: 3,
            services: vec![ServiceEntry {
                number: 0,
                backends: vec![
                    entry(BackendState::Up),
                    entry(BackendState::Down),
                    entry(BackendState::SlowStart),
                ],
            }],
            ..RunningDirectory::default()
        };
        assert_eq!(
            summary(&directory),
            "generation 3: 1 service, 2 of 3 backends up"
        );
    }
}
