//! `run`: workers that send and measure, and the thread that watches over them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_engine::ArrayVec;
use weir_engine::clock::{Clock, Nanos};
use weir_engine::queue::Queue;
use weir_engine::wire::ethernet::MacAddr;
use weir_engine::worker::Worker;

use super::LiveError;
use super::progress::{Bar, Progress, Signals, sums};
use super::resolve::{Owner, Question, resolve};
use super::session::{Session, Settings};
use super::worker::{Counts, Generator, Outcome, Path};
use crate::frame::Link;
use crate::lane::{Lane, Lanes};
use crate::pace::Throttle;
use crate::profile::Profile;
use crate::random::mix;
use crate::report::{self, Expectations, Found, RunFlows, RunReport, VERSION, Volume};
use crate::tally::{Tally, Totals};
use crate::traffic::Traffic;

/// How often the watching thread looks.
const WATCH: Duration = Duration::from_millis(10);

/// How long devices stay open after the last packet when no answer tells that it has gone: closing
/// a device forgets what is in its ring.
const LINGER: Duration = Duration::from_millis(200);

/// What to do besides sending.
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
    /// How long to wait for answers after the last packet.
    pub drain: Duration,
    /// No answers are expected.
    pub one_way: bool,
    /// What must hold.
    pub expectations: Expectations,
}

/// Sends `profile`'s traffic over the devices and reports what came back.
///
/// # Errors
/// [`LiveError`]; devices are closed and DPDK is stopped.
pub fn run(
    profile: &Profile,
    settings: &Settings,
    options: &Options,
) -> Result<RunReport, LiveError> {
    let signals = Signals::watch()?;
    let (session, queues) = Session::open(settings)?;
    session.wait_for_links(settings.link_timeout, &signals)?;
    let paths = prepare(profile, &session, queues, options, &signals)?;
    let (outcomes, start) = send_all(profile, &session, settings, options, paths, &signals)?;
    let (devices, pool) = session.close()?;
    let mut totals = Totals::new()?;
    let (mut counts, mut opened) = (Counts::default(), 0);
    for outcome in &outcomes {
        totals.add(&outcome.totals);
        add(&mut counts, &outcome.counts);
        opened += outcome.opened;
    }
    let seconds = counts.last.since(start).as_secs_f64();
    let sent = counts.written - counts.unsent;
    let loss = (!options.one_way).then(|| report::loss(sent, &totals));
    let found = Found {
        lost: loss.as_ref().map_or(0, |loss| loss.packets),
        misdelivered: totals.moved_flows + totals.unexpected,
        duplicates: totals.duplicates,
        reordered: totals.reordered,
        damaged: counts.bad_checksum,
    };
    Ok(RunReport {
        version: VERSION,
        command: "run",
        profile: profile.into(),
        duration_s: seconds,
        sent: Volume::new(sent, counts.written_bytes - counts.unsent_bytes, seconds),
        answers: Volume::new(totals.answers, counts.answer_bytes, seconds),
        loss,
        duplicates: totals.duplicates,
        reordered: totals.reordered,
        unexpected: totals.unexpected,
        bad_checksum: counts.bad_checksum,
        other: counts.other,
        neighbour_answers: counts.neighbour_answers,
        flows: RunFlows {
            opened,
            answered: totals.answered_flows,
            moved: totals.moved_flows,
        },
        moves: report::moves(&totals.moves),
        backends: totals.backends.clone(),
        latency_ns: (&totals.latency).into(),
        devices,
        pool,
        failed: options.expectations.missed(&found),
    })
}

fn add(sum: &mut Counts, other: &Counts) {
    sum.written += other.written;
    sum.written_bytes += other.written_bytes;
    sum.unsent += other.unsent;
    sum.unsent_bytes += other.unsent_bytes;
    sum.answer_bytes += other.answer_bytes;
    sum.bad_checksum += other.bad_checksum;
    sum.other += other.other;
    sum.neighbour_answers += other.neighbour_answers;
    sum.last = sum.last.max(other.last);
}

/// Finds every device's next hop, and makes a path of each of its queues.
fn prepare(
    profile: &Profile,
    session: &Session,
    queues: Vec<Vec<Queue>>,
    options: &Options,
    signals: &Signals,
) -> Result<Vec<Path>, LiveError> {
    let vlan = profile.wanted().vlan;
    let mut paths = Vec::new();
    for (device, (port, mut queues)) in session.ports().iter().zip(queues).enumerate() {
        let mac = options.source_mac.unwrap_or(MacAddr(port.mac()));
        let owner = Owner {
            clients: profile.clients(),
            addresses: options.addresses.clone(),
            mac,
        };
        let destination = match options.destination_mac {
            Some(mac) => mac,
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
                device: device as u16,
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

/// Starts one worker a core, deals the paths out to them, and waits for the end of the run.
fn send_all(
    profile: &Profile,
    session: &Session,
    settings: &Settings,
    options: &Options,
    paths: Vec<Path>,
    signals: &Signals,
) -> Result<(Vec<Outcome>, Nanos), LiveError> {
    let clock = Clock::new();
    let lanes = Arc::new(Lanes::new(
        profile,
        settings.devices.len() as u16,
        settings.queues,
    ));
    let tag = run_tag();
    let workers = settings.cores.len().clamp(1, paths.len().max(1));
    let mut dealt: Vec<Vec<Path>> = (0..workers).map(|_| Vec::new()).collect();
    for (index, path) in paths.into_iter().enumerate() {
        dealt[index % workers].push(path);
    }
    let mut generators = Vec::new();
    for paths in dealt {
        generators.push(Generator {
            paths,
            lanes: Arc::clone(&lanes),
            traffic: Traffic::new(profile.clone(), tag),
            tally: Tally::new(profile)?,
            pool: session.pool().clone(),
            clock,
            start: Nanos(0),
            packets: profile.packets().unwrap_or(u64::MAX),
            end: Nanos(u64::MAX),
            idle: settings.idle,
            progress: Arc::default(),
            counts: Counts::default(),
            throttle: Throttle::new(profile.pace()),
            spare: None,
        });
    }
    // A moment for the threads to start, so that the first packets are not late.
    let start = clock.now() + Duration::from_millis(5);
    let end = profile
        .wanted()
        .duration
        .map_or(Nanos(u64::MAX), |duration| start + duration);
    let (mut progress, mut running) = (Vec::new(), Vec::new());
    for (core, mut generator) in settings.cores.iter().zip(generators) {
        // A paced run knows its number of packets, and must not lose the last to the clock.
        let paced = profile.wanted().rate > 0;
        let grace = if paced {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        };
        (generator.start, generator.end) = (start, end + grace);
        generator.counts.last = start;
        progress.push(Arc::clone(&generator.progress));
        let name = format!("pktgen-{core}");
        running.push(Worker::spawn_registered(
            session.eal(),
            &name,
            *core,
            move |stop| generator.run(&stop),
        )?);
    }
    watch(&progress, profile, options, signals);
    let mut outcomes = Vec::new();
    for worker in running {
        worker.stop();
        outcomes.push(worker.join()?);
    }
    Ok((outcomes, start))
}

/// Shows the progress; returns when everything is sent and answered, or will not be.
fn watch(progress: &[Arc<Progress>], profile: &Profile, options: &Options, signals: &Signals) {
    let bar = Bar::new(profile.packets(), profile.wanted().duration);
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
        let (sent, answers) = sums(progress);
        bar.show(sent, answers, start.elapsed());
        std::thread::sleep(WATCH);
    }
    if options.one_way {
        std::thread::sleep(LINGER);
    }
    let drain = Instant::now();
    while !options.one_way && drain.elapsed() < options.drain {
        let (sent, answers) = sums(progress);
        if answers >= sent {
            break;
        }
        std::thread::sleep(WATCH);
    }
    bar.finish();
}

/// A tag that tells this run from others that a reflector may have seen.
fn run_tag() -> u16 {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    mix(time ^ u64::from(std::process::id()) << 40) as u16
}
