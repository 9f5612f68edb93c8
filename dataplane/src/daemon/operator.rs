//! The control core's round: frames from workers, the clock, and the operator's segment.
//!
//! Everything that blocks or allocates happens here and never on a worker. The segment is written
//! and read with care and at leisure; when it cannot be written, weir says so once and goes on.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weir_engine::buffer::Buffer;
use weir_engine::clock::Clock;
use weir_engine::counters::CounterReader;
use weir_engine::mbuf::Mbuf;
use weir_engine::mempool::Mempool;
use weir_engine::port::Port;
use weir_engine::ring;
use weir_shm::command::Difference;
use weir_shm::counters::{self as layout, DropReason};
use weir_shm::model::Pool;
use weir_shm::segment;
use weir_shm::segment::event::EventKind;
use weir_shm::segment::mailbox::{Answer, Question};
use weir_shm::segment::port::PortStatus;
use weir_shm::segment::status::Refusal;
use weir_shm::server::{CreateError, Incoming, Server, ServerOptions};

use super::capturing::Capturing;
use super::kernel::Taps;
use super::manager::Manager;
use super::metrics::Telling;
use super::reload::{self, Reloaded};
use super::worker::{ToControl, ToKernel};
use super::{answers, kernel, log};
use crate::config::Config;
use crate::conntrack::Tick;
use crate::control::census::Census;
use crate::control::{Control, Outgoing};
use crate::metrics::Exchange;

/// How long the control core rests between two looks while an operator is at work, and how long it
/// takes one to be after the last word. An operator opens the segment first, which ends a rest at once.
const SHORT_REST: Duration = Duration::from_micros(100);
const ATTENTIVE: Duration = Duration::from_millis(20);
/// How long it rests while packets are captured, at most.
const CAPTURE_REST: Duration = Duration::from_millis(1);
/// The same while frames come and go: answers to what it sent are near.
const FRAMES_REST: Duration = Duration::from_micros(500);
const LIVELY: Duration = Duration::from_millis(5);
/// How long it rests when nothing happened: a worker's frame waits no longer. Each time it wakes takes
/// some microseconds, of a core that may be somebody else's as well.
const REST: Duration = Duration::from_millis(3);
/// How often the segment is looked after, and statistics are written.
const STATISTICS: Duration = Duration::from_millis(100);
/// The part of a core that statistics may take: those of a large pool are written less often.
const STATISTICS_SHARE: u32 = 100;
/// How often the service manager is told at most what became of backends.
const STATUS: Duration = Duration::from_secs(1);
/// How often it is told how full the flow tables are.
const OCCUPANCY: Duration = Duration::from_millis(500);
/// How often refusals of clients' connections are looked at.
const REFUSALS: Duration = Duration::from_millis(20);
/// How often it is told at most that sessions or ports have run out.
const EXHAUSTION: Duration = Duration::from_secs(10);
/// Frames taken from workers before other duties come round again.
const FRAMES: usize = 512;

/// Changes of one generation that the log names.
const TOLD: usize = 20;

/// What the daemon brought up, for the control core to run.
pub struct Running {
    /// The control core's state.
    pub control: Control<Mempool>,
    /// The ports.
    pub ports: Vec<Port>,
    /// Counters: of each worker in order, then the control core's own.
    pub blocks: Vec<CounterReader>,
    /// Frames from workers.
    pub from_workers: ring::Receiver<ToControl>,
    /// Frames for the kernel.
    pub for_kernel: ring::Receiver<ToKernel>,
    /// The ports' interfaces toward the kernel.
    pub taps: Taps,
    /// Frames for the first worker to send.
    pub to_worker: ring::Sender<Outgoing<Mbuf>>,
    /// Raised when the daemon is to stop.
    pub stop: Arc<AtomicBool>,
    /// Raised when the configuration file is to be read again.
    pub reload: Arc<AtomicBool>,
    /// The configuration that the daemon was started with.
    pub config: Arc<Config>,
    /// Pools of packet buffers.
    pub pools: Vec<Mempool>,
    /// Where facts are given to whoever scrapes metrics.
    pub exchange: Arc<Exchange>,
}

/// What happened in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    No,
    /// Frames came or went.
    Frames,
    /// An operator changed or asked something.
    Operator,
}

/// The segment's side of the control core.
pub struct Operator {
    server: Server,
    /// Whether backends' states changed since the service manager was told.
    stirred: bool,
    /// Whether the segment could not be written, so that it is said once.
    broken: bool,
    log: log::EventLog,
    manager: Manager,
    /// What is told with metrics.
    telling: Telling,
    capturing: Capturing,
    /// Flows that are being counted, and the question that they are counted for.
    census: Option<(Census, Question)>,
}

impl Operator {
    /// Makes the segment, before anything is touched that a second daemon could disturb.
    ///
    /// # Errors
    /// When another daemon of this name runs, or the file cannot be made.
    pub fn open(config: &Config) -> Result<Self, CreateError> {
        let path = std::path::absolute(&config.path).unwrap_or_else(|_| config.path.clone());
        let options = ServerOptions {
            workers: config.engine.workers.len(),
            config_path: path,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            owner: config.instance.owner.clone(),
            group: config.instance.group.clone(),
        };
        let folder = segment::folder();
        let (server, stale) = Server::create(&folder, &config.instance.name, options)?;
        let mut operator = Self {
            server,
            stirred: false,
            broken: false,
            log: log::EventLog::new(Instant::now()),
            manager: Manager::new(Instant::now(), &config.engine.workers),
            telling: Telling::default(),
            capturing: Capturing::default(),
            census: None,
        };
        if let Some(stale) = stale {
            let how = if stale.stopped { "stopped" } else { "died" };
            operator.tell(
                EventKind::Started,
                &format!("took over from process {}, which {how}", stale.pid),
            );
            if let Some(pool) = stale.pool {
                operator.tell_of_unsaved(&pool, &config.pool);
            }
        }
        Ok(operator)
    }

    /// Changes that were made at run time and not saved end with the daemon that they were made to.
    fn tell_of_unsaved(&mut self, before: &Pool, now: &Pool) {
        let lost = Difference::between(now, before);
        if !lost.is_empty() {
            let lines = lost.lines();
            self.tell(
                EventKind::Warning,
                &format!(
                    "{} unsaved changes of the last run are gone: {}",
                    lines.len(),
                    lines.join("; ")
                ),
            );
        }
    }

    /// Says something in the log and among the events.
    fn tell(&mut self, kind: EventKind, text: &str) {
        self.log.write(Instant::now(), kind, text);
        self.telling.event(kind);
        let written = self.server.event(kind, text);
        self.note(written);
    }

    fn note(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => self.broken = false,
            Err(error) if !self.broken => {
                self.broken = true;
                log::fail(format_args!(
                    "{} cannot be written: {error}; forwarding goes on, weirctl sees old figures",
                    self.server.path().display()
                ));
            }
            Err(_) => {}
        }
    }

    /// The control core, until it is told to stop. Workers have stopped when `workers_gone` says
    /// so; what they left is dealt with then.
    pub fn run(&mut self, running: &mut Running, mut stop_workers: impl FnMut() -> bool) {
        let initial = answers::directory(&running.control);
        self.manager.in_force(&initial);
        let written = self.server.publish_initial(&initial);
        self.note(written);
        let written = self
            .server
            .rebuilt(0, running.control.book().tables_built());
        self.note(written);
        let pool = running.control.pool();
        let text = format!(
            "started: {} services, {} backends, {} workers",
            pool.services.len(),
            pool.backend_count(),
            running.blocks.len().saturating_sub(1)
        );
        self.tell(EventKind::Started, &text);
        let clock = Clock::new();
        let mut statistics = Statistics::new(&running.ports);
        let mut last = Instant::now();
        let (mut looked, mut written, mut told) = (last, last, last);
        let mut spare = STATISTICS;
        let (mut lively_until, mut attentive_until) = (last, last + ATTENTIVE);
        while !running.stop.load(Ordering::Acquire) {
            let busy = self.round(running, clock.now().0, &mut statistics);
            self.manager.tick(Instant::now(), &running.blocks);
            if looked.elapsed() >= REFUSALS {
                looked = Instant::now();
                let blocks = &running.blocks;
                running
                    .control
                    .look_at_refusals(clock.now().0, |number| refusals(blocks, number));
            }
            if last.elapsed() >= STATISTICS {
                last = Instant::now();
                if last - written >= spare {
                    written = last;
                    self.publish(running, &mut statistics);
                    spare = STATISTICS.max(last.elapsed() * STATISTICS_SHARE);
                }
                if self.stirred && last - told >= STATUS {
                    told = last;
                    self.stirred = false;
                    self.manager.in_force(&answers::directory(&running.control));
                }
                self.look_after_segment();
                self.log.tick(last);
                self.reload_on_signal(running, clock.now().0);
                if stop_workers() {
                    break;
                }
            }
            let now = Instant::now();
            match busy {
                Busy::No => {}
                Busy::Frames => lively_until = now + LIVELY,
                Busy::Operator => attentive_until = now + ATTENTIVE,
            }
            if busy != Busy::No {
                continue;
            }
            let due = until_due(running, clock.now().0);
            if now < attentive_until {
                std::thread::sleep(SHORT_REST);
                continue;
            }
            let is_lively = now < lively_until;
            let most = if is_lively { due.min(FRAMES_REST) } else { due };
            // Packets may come at any time, and nobody wakes anybody for them.
            let most = if self.capturing.is_on() {
                most.min(CAPTURE_REST)
            } else {
                most
            };
            if self.server.rest(most) {
                attentive_until = Instant::now() + ATTENTIVE;
            }
        }
        self.manager.stopping();
    }

    /// After the workers have stopped: what they left, last figures, the last word.
    pub fn finish(&mut self, running: &mut Running) {
        let now = Clock::new().now().0;
        let mut statistics = Statistics::new(&running.ports);
        while self.round(running, now, &mut statistics) != Busy::No {}
        running.control.give_up();
        self.publish(running, &mut statistics);
        self.tell(EventKind::Stopped, "stopped in order");
        let written = self.server.stopped();
        self.note(written);
    }

    /// One round; what happened.
    fn round(&mut self, running: &mut Running, now: u64, statistics: &mut Statistics) -> Busy {
        let mut busy = Busy::No;
        for message in running.from_workers.drain(FRAMES) {
            busy = Busy::Frames;
            match message {
                ToControl::Punt(port, frame) => running.control.punted(now, port, frame.data()),
                ToControl::Hold(neighbour, frame) => running.control.hold(now, neighbour, frame),
            }
        }
        if kernel::exchange(running, now) {
            busy = Busy::Frames;
        }
        if running.control.next_due(now).is_some_and(|due| due <= now) {
            let (start, built) = (Instant::now(), running.control.book().tables_built());
            running.control.tick(now);
            if running.control.book().tables_built() != built {
                self.telling.rebuilt(start.elapsed());
            }
        }
        self.tell_of_changes(running);
        let outgoing: Vec<_> = running.control.take_outgoing().collect();
        for frame in outgoing {
            busy = Busy::Frames;
            if let Err(frame) = running.to_worker.push(frame) {
                // What weir made itself never came in, and is missed by whoever waits for it.
                let lost = if frame.balanced {
                    layout::drop_index(DropReason::ControlQueueFull)
                } else {
                    layout::REPLIES_LOST
                };
                running.control.counters().add(lost, 1);
            }
        }
        if let Some(committed) = self.server.poll() {
            busy = Busy::Operator;
            self.take_in(running, now, committed);
        }
        if let Some(question) = self.server.question() {
            busy = Busy::Operator;
            // Whoever asked before has given up waiting.
            self.census = None;
            self.hear(running, now, statistics, question);
        }
        if self.count(running, now) {
            busy = Busy::Operator;
        }
        if self.capturing.is_on() && self.capturing.carry(&self.server, &mut running.control) {
            busy = Busy::Operator;
        }
        running.control.reclaim();
        self.acknowledge(running);
        self.telling.answer(running, &self.server, now);
        busy
    }

    /// Answers a question, or begins to look for the answer.
    fn hear(
        &mut self,
        running: &mut Running,
        now: u64,
        statistics: &mut Statistics,
        question: Question,
    ) {
        if question == Question::Publish {
            self.publish(running, statistics);
        }
        let control = &mut running.control;
        let answer = match question {
            Question::Reload => self.reload(running, now),
            Question::Capture(request) => self.capturing.begin(&self.server, control, &request),
            Question::EndCapture => {
                self.capturing.end(control);
                Answer::CaptureEnds
            }
            Question::Flows { .. } | Question::Census { .. } => {
                self.census = Some((Census::default(), question));
                return;
            }
            _ => answers::answer(control, now, &question),
        };
        let written = self.server.answer(&answer);
        self.note(written);
    }

    /// Goes on counting flows, if somebody asked for them; whether anybody did.
    fn count(&mut self, running: &Running, now: u64) -> bool {
        let Some((census, question)) = &mut self.census else {
            return false;
        };
        if census.step(&running.control, Tick::from_nanos(now)) {
            let answer = answers::counted(&running.control, census, question);
            self.census = None;
            let written = self.server.answer(&answer);
            self.note(written);
        }
        true
    }

    fn acknowledge(&mut self, running: &Running) {
        for worker in 0..running.blocks.len().saturating_sub(1) {
            let generation = running.control.acknowledged(worker);
            let written = self.server.acknowledge(worker, generation);
            self.note(written);
        }
    }

    /// Says what time and checks changed.
    fn tell_of_changes(&mut self, running: &mut Running) {
        for event in running.control.take_events() {
            self.tell(event.kind, &event.text);
        }
        let stirred = running.control.take_stirred();
        if stirred.is_empty() {
            return;
        }
        self.stirred = true;
        let mut changed = Vec::with_capacity(stirred.len());
        let mut first = 0;
        for (place, service) in running.control.pool().services.iter().enumerate() {
            if stirred.contains(&place) {
                changed.push((first, answers::states(&running.control, place)));
            }
            first += service.backends.len();
        }
        let written = self.server.restate(&changed);
        self.note(written);
    }

    /// Brings the pool in force, with what its backends do, to those who look at it.
    fn take_stock(&mut self, running: &Running) {
        let directory = answers::directory(&running.control);
        self.manager.in_force(&directory);
        let written = self.server.accept(&directory);
        self.note(written);
    }

    /// An operator committed a pool.
    fn take_in(&mut self, running: &mut Running, now: u64, committed: Result<Incoming, Refusal>) {
        match committed {
            Ok(incoming) => {
                self.put_in_force(running, now, incoming).ok();
            }
            Err(Refusal { generation, reason }) => self.refuse(generation, &reason),
        }
    }

    /// Puts a committed pool in force, and says so or why not.
    fn put_in_force(
        &mut self,
        running: &mut Running,
        now: u64,
        Incoming { generation, pool }: Incoming,
    ) -> Result<(), String> {
        let difference = Difference::between(running.control.pool(), &pool);
        let start = Instant::now();
        if let Err(refusal) = running.control.apply_valid(now, generation, pool) {
            let reason = refusal.to_string();
            self.refuse(generation, &reason);
            return Err(reason);
        }
        let took = start.elapsed();
        self.telling.rebuilt(took);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.take_stock(running);
        let built = running.control.book().tables_built();
        let written = self.server.rebuilt(nanoseconds, built);
        self.note(written);
        let first = difference.first_lines(TOLD).join("; ");
        let what = match difference.entries().len() {
            0 => "no change".to_owned(),
            all if all > TOLD => format!("{first}; and {} more", all - TOLD),
            _ => first,
        };
        self.tell(
            EventKind::Configuration,
            &format!("generation {generation}: {what}"),
        );
        Ok(())
    }

    /// Reads the configuration file again because of a signal, when no operator is at work.
    fn reload_on_signal(&mut self, running: &mut Running, now: u64) {
        if !running.reload.load(Ordering::Acquire) {
            return;
        }
        match self.server.begin_edit() {
            // Somebody changes the pool: next time.
            Ok(false) => return,
            Ok(true) => {}
            Err(error) => self.note(Err(error)),
        }
        running.reload.store(false, Ordering::Release);
        self.reload(running, now);
        let ended = self.server.end_edit();
        self.note(ended);
    }

    /// Puts in force what the configuration file says by now.
    fn reload(&mut self, running: &mut Running, now: u64) -> Answer {
        self.manager.reloading();
        let answer = self.read_again(running, now);
        self.manager.reloaded();
        if let Answer::Refused { reason } = &answer {
            self.tell(EventKind::Refused, &format!("reload refused: {reason}"));
        }
        answer
    }

    fn read_again(&mut self, running: &mut Running, now: u64) -> Answer {
        let read = reload::read(&running.config, &running.config.path);
        let Reloaded {
            pool,
            left_alone,
            warnings,
        } = match read {
            Ok(reloaded) => reloaded,
            Err(reason) => return Answer::Refused { reason },
        };
        if !left_alone.is_empty() {
            let text = format!(
                "reload: left alone, since it needs a restart: {}",
                left_alone.join(", ")
            );
            self.tell(EventKind::Warning, &text);
        }
        // Certificates may have been renewed under the same names, in a pool that is the same.
        let files = match running.control.read_files(&pool) {
            Ok(files) => files,
            Err(reason) => return Answer::Refused { reason },
        };
        let changes = Difference::between(running.control.pool(), &pool).lines();
        let mut generation = None;
        if !changes.is_empty() {
            let committed = match self.server.commit(&pool) {
                Ok(committed) => committed,
                Err(error) => {
                    return Answer::Refused {
                        reason: error.to_string(),
                    };
                }
            };
            let incoming = Incoming {
                generation: committed,
                pool,
            };
            if let Err(reason) = self.put_in_force(running, now, incoming) {
                return Answer::Refused { reason };
            }
            generation = Some(committed);
        }
        running.control.renew_files(files);
        Answer::Reloaded {
            generation,
            changes,
            left_alone,
            warnings,
        }
    }

    fn refuse(&mut self, generation: u64, reason: &str) {
        let written = self.server.refuse(generation, reason);
        self.note(written);
        self.tell(
            EventKind::Refused,
            &format!("generation {generation} refused: {reason}"),
        );
    }

    /// New flows of `full-nat` that found no session or port, once in a while.
    fn tell_of_exhaustion(&mut self, running: &Running, statistics: &mut Statistics) {
        for (reason, told) in &mut statistics.exhausted {
            let counter = layout::drop_index(*reason);
            let sum: u64 = running.blocks.iter().map(|block| block.get(counter)).sum();
            let due = told.1.is_none_or(|last| last.elapsed() >= EXHAUSTION);
            if sum > told.0 && due {
                let text = format!(
                    "{} new flows refused ({}): {}",
                    sum - told.0,
                    reason.name(),
                    reason.description()
                );
                *told = (sum, Some(Instant::now()));
                self.tell(EventKind::Warning, &text);
            }
        }
    }

    fn look_after_segment(&mut self) {
        match self.server.repair() {
            Ok(None) => {}
            Ok(Some(damage)) => self.tell(EventKind::Damage, &damage),
            Err(error) => self.note(Err(error)),
        }
    }

    /// Brings counters and ports in the segment up to date.
    fn publish(&mut self, running: &Running, statistics: &mut Statistics) {
        let (services, backends) = running.control.book().numbered();
        let ranges = [
            0..layout::SERVICES,
            layout::SERVICES..layout::SERVICES + services * layout::SERVICE_LEN,
            layout::BACKENDS..layout::BACKENDS + backends * layout::BACKEND_LEN,
        ];
        for (block, reader) in running.blocks.iter().enumerate() {
            for range in &ranges {
                statistics.scratch.resize(range.len(), 0);
                reader.copy_into(range.clone(), &mut statistics.scratch);
                let written = self
                    .server
                    .write_counters(block, range.start, &statistics.scratch);
                self.note(written);
            }
        }
        self.tell_of_exhaustion(running, statistics);
        if statistics.occupancy_due() {
            for (worker, (entries, capacity)) in running.control.occupancy().enumerate() {
                let written = self.server.occupy(worker, entries, capacity);
                self.note(written);
            }
        }
        let ports: Vec<PortStatus> = running.ports.iter().map(port_status).collect();
        for (before, port) in statistics.links.iter_mut().zip(&ports) {
            if *before != port.link_up {
                *before = port.link_up;
                let state = if port.link_up { "up" } else { "down" };
                self.tell(
                    EventKind::Link,
                    &format!("port {}: link {state}", port.name),
                );
            }
        }
        let written = self.server.write_ports(&ports);
        self.note(written);
        self.telling.ports = ports;
    }
}

/// How long the control core may rest: until something is due, at most [`REST`].
fn until_due(running: &Running, now: u64) -> Duration {
    let due = running.control.next_due(now);
    let left = due.map_or(REST, |due| Duration::from_nanos(due.saturating_sub(now)));
    left.clamp(Duration::from_micros(1), REST)
}

/// A backend's refusals and new flows, as all workers counted them.
fn refusals(blocks: &[CounterReader], number: u32) -> (u64, u64) {
    let first = layout::backend_base(number);
    let sum = |counter| blocks.iter().map(|block| block.get(first + counter)).sum();
    (sum(layout::REFUSED), sum(layout::NEW_FLOWS))
}

/// What publishing statistics needs from one time to the next.
struct Statistics {
    /// What has run out, how often when it was last told, and when that was.
    exhausted: [(DropReason, (u64, Option<Instant>)); 2],
    /// When occupancy was last written.
    occupancy: Option<Instant>,
    scratch: Vec<u64>,
    links: Vec<bool>,
}

impl Statistics {
    fn new(ports: &[Port]) -> Self {
        let links = ports.iter().map(|port| port_status(port).link_up).collect();
        let exhausted = [
            DropReason::SessionsExhausted,
            DropReason::SnatPortsExhausted,
        ];
        Self {
            exhausted: exhausted.map(|reason| (reason, (0, None))),
            occupancy: None,
            scratch: Vec::new(),
            links,
        }
    }
}

impl Statistics {
    /// Whether occupancy is to be written now.
    fn occupancy_due(&mut self) -> bool {
        let due = self
            .occupancy
            .is_none_or(|last| last.elapsed() >= OCCUPANCY);
        if due {
            self.occupancy = Some(Instant::now());
        }
        due
    }
}

fn port_status(port: &Port) -> PortStatus {
    let link = port.link().ok();
    let statistics = port.statistics().unwrap_or_default();
    PortStatus {
        name: port.name().to_owned(),
        mac: port.mac(),
        link_up: link.is_some_and(|link| link.up),
        speed_mbps: link.and_then(|link| link.speed_mbps).unwrap_or(0),
        rx_packets: statistics.rx_packets,
        rx_bytes: statistics.rx_bytes,
        rx_missed: statistics.rx_missed,
        rx_errors: statistics.rx_errors,
        rx_no_buffer: statistics.rx_no_buffer,
        tx_packets: statistics.tx_packets,
        tx_bytes: statistics.tx_bytes,
        tx_errors: statistics.tx_errors,
    }
}
