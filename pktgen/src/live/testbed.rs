//! A generator that stays open: devices and next hops are found once, then any number of trials are
//! run over them. DPDK starts only once a process, so a search must not close them in between.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_engine::ArrayVec;
use weir_engine::clock::{Clock, Nanos};
use weir_engine::idle;
use weir_engine::queue::Queue;
use weir_engine::wire::ethernet::MacAddr;
use weir_engine::worker::Worker;

use super::LiveError;
use super::progress::{Progress, Signals, sums};
use super::resolve::{Owner, Question, resolve};
use super::session::{Session, Settings};
use super::worker::{Counts, Generator, Outcome, Path};
use crate::frame::Link;
use crate::lane::{Lane, Lanes};
use crate::pace::Throttle;
use crate::profile::Profile;
use crate::random::mix;
use crate::report::{DeviceReport, PoolReport};
use crate::tally::Tally;
use crate::traffic::Traffic;
use crate::trial::{Observer, Trial};

/// How often the watching thread looks.
const WATCH: Duration = Duration::from_millis(10);

/// How long devices stay open after the last packet when no answer tells that it has gone: closing
/// a device forgets what is in its ring.
const LINGER: Duration = Duration::from_millis(200);

/// How long is waited for a worker's thread to run.
const LATE: Duration = Duration::from_secs(10);

/// What comes back, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Answers {
    /// The answers of a reflector.
    Reflected,
    /// The packets themselves: a device under test that passes them on.
    Returned,
}

/// Whom packets go to, and how their answers are known.
#[derive(Debug, Clone)]
pub struct Options {
    /// Source MAC; the device's own by default.
    pub source_mac: Option<MacAddr>,
    /// Destination MAC; the next hop's by default.
    pub destination_mac: Option<MacAddr>,
    /// The next hop; the VIP by default.
    pub next_hop: Option<IpAddr>,
    /// Addresses to answer for besides the clients'.
    pub addresses: Vec<IpAddr>,
    /// How long to look for the next hop.
    pub resolve_timeout: Duration,
    /// How many of the devices, the last ones, only receive.
    pub receivers: u16,
    /// What comes back.
    pub answers: Answers,
}

/// When a trial ends.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// How long a paced sender may take over its time for the packets that it still owes.
    pub grace: Duration,
    /// Answers are waited for until none has come for this long; `None`: no answers are expected.
    pub quiet: Option<Duration>,
    /// They are waited for no longer than this.
    pub most: Duration,
}

/// Open devices, between trials.
#[derive(Debug)]
pub struct Testbed {
    session: Session,
    paths: Vec<Path>,
    cores: Vec<usize>,
    idle: idle::Mode,
    senders: u16,
    queues: u16,
    answers: Answers,
    signals: Signals,
}

impl Testbed {
    /// Opens the devices and finds the next hops.
    ///
    /// # Errors
    /// [`LiveError`]; what was opened is closed.
    pub fn open(
        profile: &Profile,
        settings: &Settings,
        options: &Options,
    ) -> Result<Self, LiveError> {
        let signals = Signals::watch()?;
        let (session, queues) = Session::open(settings)?;
        session.wait_for_links(settings.link_timeout, &signals)?;
        let senders = (settings.devices.len() as u16).saturating_sub(options.receivers);
        let paths = prepare(profile, &session, queues, options, senders, &signals)?;
        Ok(Self {
            session,
            paths,
            cores: settings.cores.clone(),
            idle: settings.idle,
            senders,
            queues: settings.queues,
            answers: options.answers,
            signals,
        })
    }

    /// Whether a signal has asked to end.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.signals.raised()
    }

    /// Sends `profile`'s packets and counts what comes back; `observer` watches.
    ///
    /// # Errors
    /// [`LiveError`]; no further trial can be run then.
    pub fn trial(
        &mut self,
        profile: &Profile,
        end: &End,
        observer: &mut dyn Observer,
    ) -> Result<Trial, LiveError> {
        let generators = self.generators(profile)?;
        // A paced run knows its number of packets, and must not lose the last to the clock.
        let grace = if profile.rate() > 0 {
            end.grace
        } else {
            Duration::ZERO
        };
        let time = profile.wanted().duration.map(|duration| duration + grace);
        let (mut progress, mut running) = (Vec::new(), Vec::new());
        for (core, mut generator) in self.cores.iter().zip(generators) {
            generator.time = time;
            progress.push(Arc::clone(&generator.progress));
            let name = format!("pktgen-{core}");
            running.push(Worker::spawn_registered(
                self.session.eal(),
                &name,
                *core,
                move |stop| generator.run(&stop),
            )?);
        }
        let start = start(&progress, &self.signals);
        watch(&progress, end, &self.signals, observer);
        let mut trial = Trial::new()?;
        let mut counts = Counts::default();
        for worker in running {
            worker.stop();
            let outcome = worker.join()?;
            add(&mut trial, &mut counts, &outcome);
            self.paths.extend(outcome.paths);
        }
        trial.planned = profile.packets();
        trial.sent = counts.written - counts.unsent;
        trial.sent_bytes = counts.written_bytes - counts.unsent_bytes;
        trial.seconds = counts.last.since(start).as_secs_f64();
        trial.answer_seconds = counts.last_answer.since(start).as_secs_f64();
        trial.interrupted = self.signals.raised();
        Ok(trial)
    }

    /// One generator a core, with the paths dealt out to them.
    fn generators(&mut self, profile: &Profile) -> Result<Vec<Generator>, LiveError> {
        let lanes = Arc::new(Lanes::new(profile, self.senders, self.queues));
        let tag = run_tag();
        self.paths.sort_by_key(|path| path.lane);
        let workers = self.cores.len().clamp(1, self.paths.len().max(1));
        let mut dealt: Vec<Vec<Path>> = (0..workers).map(|_| Vec::new()).collect();
        for (index, path) in self.paths.drain(..).enumerate() {
            dealt[index % workers].push(path);
        }
        let mut generators = Vec::new();
        for paths in dealt {
            let mut tally = Tally::new(profile)?;
            if self.answers == Answers::Returned {
                tally = tally.of_returned(tag);
            }
            generators.push(Generator {
                paths,
                lanes: Arc::clone(&lanes),
                traffic: Traffic::new(profile.clone(), tag),
                tally,
                pool: self.session.pool().clone(),
                clock: Clock::new(),
                start: Nanos(0),
                packets: profile.packets().unwrap_or(u64::MAX),
                time: None,
                idle: self.idle,
                progress: Arc::default(),
                counts: Counts::default(),
                throttle: Throttle::new(profile.pace()),
                spare: None,
            });
        }
        Ok(generators)
    }

    /// Closes the devices, counts the buffers, and stops DPDK.
    ///
    /// # Errors
    /// When a device or DPDK does not close.
    pub fn close(self) -> Result<(Vec<DeviceReport>, PoolReport), LiveError> {
        drop(self.paths);
        self.session.close()
    }
}

fn add(trial: &mut Trial, sum: &mut Counts, outcome: &Outcome) {
    let counts = &outcome.counts;
    sum.written += counts.written;
    sum.written_bytes += counts.written_bytes;
    sum.unsent += counts.unsent;
    sum.unsent_bytes += counts.unsent_bytes;
    sum.last = sum.last.max(counts.last);
    sum.last_answer = sum.last_answer.max(counts.last_answer);
    trial.answer_bytes += counts.answer_bytes;
    trial.bad_checksum += counts.bad_checksum;
    trial.other += counts.other;
    trial.neighbour_answers += counts.neighbour_answers;
    trial.late += counts.late;
    trial.opened += outcome.opened;
    trial.closed += outcome.closed;
    trial.totals.add(&outcome.totals);
}

/// Finds every sending device's next hop, and makes a path of each queue.
fn prepare(
    profile: &Profile,
    session: &Session,
    queues: Vec<Vec<Queue>>,
    options: &Options,
    senders: u16,
    signals: &Signals,
) -> Result<Vec<Path>, LiveError> {
    let vlan = profile.wanted().vlan;
    let mut paths = Vec::new();
    for (device, (port, mut queues)) in (0u16..).zip(session.ports().iter().zip(queues)) {
        let mac = options.source_mac.unwrap_or(MacAddr(port.mac()));
        let owner = Owner {
            clients: profile.clients(),
            addresses: options.addresses.clone(),
            mac,
        };
        let destination = match options.destination_mac {
            Some(mac) => mac,
            // Nothing is sent on it but neighbour answers, which have destinations of their own.
            None if device >= senders => mac,
            None => {
                let question = Question {
                    device: port.name(),
                    hop: options.next_hop.unwrap_or(profile.wanted().vip),
                    vlan,
                    limit: options.resolve_timeout,
                };
                resolve(
                    &question,
                    &owner,
                    &mut session.pool().clone(),
                    &mut queues,
                    signals,
                )?
            }
        };
        let link = Link {
            destination,
            source: mac,
            vlan,
        };
        paths.extend(queues.into_iter().map(|queue| Path {
            lane: Lane {
                device,
                queue: queue.index(),
            },
            queue,
            link,
            owner: owner.clone(),
            pending: ArrayVec::new(),
        }));
    }
    Ok(paths)
}

/// Starts all workers at one moment, once they run.
fn start(progress: &[Arc<Progress>], signals: &Signals) -> Nanos {
    let ready = |one: &Arc<Progress>| one.ready.load(Ordering::Acquire);
    let asked = Instant::now();
    while !signals.raised() && asked.elapsed() < LATE && !progress.iter().all(ready) {
        std::thread::sleep(Duration::from_micros(100));
    }
    let start = Clock::new().now();
    for one in progress {
        one.start.store(start.0.max(1), Ordering::Release);
    }
    start
}

/// Returns when everything is sent and answered, or will not be.
fn watch(progress: &[Arc<Progress>], end: &End, signals: &Signals, observer: &mut dyn Observer) {
    let start = Instant::now();
    let finished = || {
        progress
            .iter()
            .all(|one| one.finished.load(Ordering::Acquire))
    };
    while !finished() {
        if signals.raised() {
            progress
                .iter()
                .for_each(|one| one.halt.store(true, Ordering::Relaxed));
        }
        observer.look(start.elapsed(), sums(progress));
        std::thread::sleep(WATCH);
    }
    let Some(quiet) = end.quiet else {
        std::thread::sleep(LINGER);
        observer.look(start.elapsed(), sums(progress));
        return;
    };
    let drain = Instant::now();
    let (mut answers, mut since) = (0, drain);
    while drain.elapsed() < end.most && since.elapsed() < quiet {
        let look = sums(progress);
        observer.look(start.elapsed(), look);
        if look.answers >= look.sent {
            break;
        }
        if look.answers != answers {
            (answers, since) = (look.answers, Instant::now());
        }
        std::thread::sleep(WATCH);
    }
}

/// A tag that tells this run from others that a reflector may have seen.
fn run_tag() -> u16 {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    mix(time ^ u64::from(std::process::id()) << 40) as u16
}
