//! `reflect`: one worker that plays the backends on every queue of every device.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weir_engine::ArrayVec;
use weir_engine::buffer::{Buffer, BufferSource};
use weir_engine::clock::{Clock, Nanos};
use weir_engine::idle::{self, Idle};
use weir_engine::mbuf::{Mbuf, free_bulk};
use weir_engine::mempool::Mempool;
use weir_engine::queue::Queue;
use weir_engine::worker::{Stop, Worker};

use super::progress::{Progress, Signals};
use super::session::{Session, Settings};
use super::{BURST, LiveError, reclaim};
use crate::reflector::{Mode, Reflector, Verdict};
use crate::report::{self, Expectations, Found, ReflectFlows, ReflectReport, VERSION, Volume};

/// How often the watching thread looks.
const WATCH: Duration = Duration::from_millis(10);
/// How long answers are offered to a device that takes none.
const PATIENCE: Duration = Duration::from_millis(100);

/// What to do besides answering.
#[derive(Debug, Clone)]
pub struct Options {
    /// `nat` or `dsr`.
    pub mode: Mode,
    /// Stop after this time; by default on SIGINT or SIGTERM.
    pub duration: Option<Duration>,
    /// Print a line on standard error this often.
    pub report_every: Option<Duration>,
    /// What must hold.
    pub expectations: Expectations,
}

/// Plays backends until the time is over or a signal comes.
///
/// # Errors
/// [`LiveError`]; devices are closed and DPDK is stopped.
pub fn reflect(
    reflector: Reflector,
    settings: &Settings,
    options: &Options,
) -> Result<ReflectReport, LiveError> {
    let signals = Signals::watch()?;
    let (session, queues) = Session::open(settings)?;
    let progress = Arc::new(Progress::default());
    let mirror = Mirror {
        sides: queues.into_iter().flatten().map(side).collect(),
        reflector,
        pool: session.pool().clone(),
        idle: settings.idle,
        progress: Arc::clone(&progress),
        unsent: 0,
    };
    let core = settings.cores.first().copied().unwrap_or(0);
    let start = Instant::now();
    let worker = Worker::spawn_registered(session.eal(), "reflect", core, move |stop| {
        mirror.run(&stop)
    })?;
    eprintln!("weir-pktgen: reflecting");
    watch(&progress, options, &signals, || worker.is_finished());
    worker.stop();
    let (reflector, unsent) = worker.join()?;
    let seconds = start.elapsed().as_secs_f64();
    let (devices, pool) = session.close()?;
    let counts = reflector.counts();
    let found = Found {
        lost: counts.gaps() + unsent,
        misdelivered: counts.moved_flows + counts.wrong_mac + counts.strangers,
        duplicates: counts.duplicates,
        reordered: counts.reordered,
        damaged: counts.bad_checksum,
    };
    Ok(ReflectReport {
        version: VERSION,
        command: "reflect",
        mode: match options.mode {
            Mode::Nat => "nat",
            Mode::Dsr => "dsr",
        },
        duration_s: seconds,
        received: Volume::new(counts.packets, counts.bytes, seconds),
        stamped: counts.stamped,
        answered: counts.answered - unsent,
        unsent,
        gaps: counts.gaps(),
        duplicates: counts.duplicates,
        reordered: counts.reordered,
        bad_checksum: counts.bad_checksum,
        wrong_mac: counts.wrong_mac,
        strangers: counts.strangers,
        other: counts.other,
        neighbour_answers: counts.neighbour_answers,
        flows: ReflectFlows {
            seen: counts.flows,
            moved: counts.moved_flows,
            untracked_packets: counts.untracked,
        },
        moves: report::moves(reflector.moves()),
        backends: report::backends(&reflector),
        devices,
        pool,
        failed: options.expectations.missed(&found),
    })
}

fn watch(progress: &Progress, options: &Options, signals: &Signals, ended: impl Fn() -> bool) {
    let start = Instant::now();
    let mut told = start;
    while !signals.raised()
        && !ended()
        && options
            .duration
            .is_none_or(|duration| start.elapsed() < duration)
    {
        std::thread::sleep(WATCH);
        if let Some(every) = options.report_every
            && told.elapsed() >= every
        {
            told = Instant::now();
            let [packets, answers, moved] = [&progress.packets, &progress.answers, &progress.moved]
                .map(|figure| figure.load(Ordering::Relaxed));
            eprintln!(
                "weir-pktgen: {:.1} s: {packets} received, {answers} answered, {moved} flows moved",
                start.elapsed().as_secs_f64()
            );
        }
    }
}

fn side(queue: Queue) -> Side {
    Side {
        queue,
        answers: ArrayVec::new(),
        stuck: None,
    }
}

/// A queue with the answers that its device has not taken yet.
struct Side {
    queue: Queue,
    answers: ArrayVec<Mbuf, BURST>,
    /// Since when it takes none.
    stuck: Option<Nanos>,
}

/// The worker's belongings.
struct Mirror {
    sides: Vec<Side>,
    reflector: Reflector,
    pool: Mempool,
    idle: idle::Mode,
    progress: Arc<Progress>,
    unsent: u64,
}

impl Mirror {
    fn run(mut self, stop: &Stop) -> (Reflector, u64) {
        let mut idle = Idle::new(self.idle);
        let clock = Clock::new();
        let mut sides = std::mem::take(&mut self.sides);
        while !stop.is_raised() {
            let moved = sides.iter_mut().map(|side| self.round(side, &clock)).sum();
            let counts = self.reflector.counts();
            self.progress
                .set(counts.packets, counts.answered, counts.moved_flows);
            idle.wait(moved);
        }
        for side in &mut sides {
            self.give_up(side);
            reclaim(&mut side.queue.tx);
        }
        (self.reflector, self.unsent)
    }

    /// One burst: receive, decide, send. While answers wait, nothing more is received, so that the
    /// pressure is felt where it comes from.
    fn round(&mut self, side: &mut Side, clock: &Clock) -> usize {
        let mut received = 0;
        if side.answers.is_empty() {
            let mut burst: ArrayVec<Mbuf, BURST> = ArrayVec::new();
            received = side.queue.rx.receive(&mut burst);
            for mut mbuf in burst {
                match self.reflector.handle(mbuf.data_mut()) {
                    Verdict::Answer => side.answers.push(mbuf),
                    Verdict::Reply(frame) => side.answers.extend(self.pool.copy_from(&frame)),
                    Verdict::Done => {}
                }
            }
        }
        if side.answers.is_empty() {
            return received;
        }
        let sent = side.queue.tx.send(&mut side.answers);
        if sent > 0 || side.answers.is_empty() {
            side.stuck = None;
        } else if clock.now().since(*side.stuck.get_or_insert(clock.now())) > PATIENCE {
            self.give_up(side);
        }
        received + sent
    }

    fn give_up(&mut self, side: &mut Side) {
        self.unsent += side.answers.len() as u64;
        free_bulk(&mut side.answers);
        side.stuck = None;
    }
}
