//! `weir replay`: the pipeline and the control core over captures, with their time as the clock.
//!
//! The same code as the daemon's, on one thread, over heap buffers: frames come from capture files
//! in time order, what would be sent goes to capture files, and nothing else is read (no clock, no
//! randomness, no device), so that one input and configuration always give one output.
//!
//! Health checks are not sent unless that is asked for: a capture seldom holds their answers, and
//! backends would all be found down. Without checks every backend counts as up unless it is forced
//! down. With them, ports and sequence numbers come from one fixed seed, so that a second run can
//! be given the answers to what the first one sent.
//!
//! At one moment, what was due comes first, then script commands, then frames, in the order in
//! which the captures were named.

pub mod capture;
pub mod report;
pub mod script;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use arrayvec::ArrayVec;
use weir_engine::buffer::{Buffer, BufferSource, Heap, HeapBuffer};
use weir_engine::counters::{CounterReader, counters};
use weir_engine::memory::MemoryError;
use weir_engine::publish::Reader;
use weir_engine::wire::ethernet::MacAddr;
use weir_shm::counters as layout;

use crate::adjacency::Neighbour;
use crate::config::Config;
use crate::conntrack::{Conntrack, Tick};
use crate::control::{Control, PortFacts, Refusal};
use crate::flow::{FlowHasher, HashKey};
use crate::pipeline::{BURST, Pipeline, Sink, Snapshot};

use capture::{CaptureError, CaptureReader, CaptureWriter};
use script::Script;

/// The MTU of a port whose configuration names none.
const MTU: u16 = 1_500;

/// Where checks in a replay have their randomness from: always the same.
const CHECK_SEED: u64 = 0x7765_6972;

/// Writes a line to standard error. Where that fails, too, nobody is left to be told.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What a replay is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The configuration.
    pub config: Arc<Config>,
    /// Captures, each with the number of the port that its frames come in by.
    pub inputs: Vec<(u16, PathBuf)>,
    /// Captures of what the kernel sends, each with the number of the port whose interface it is.
    pub from_kernel: Vec<(u16, PathBuf)>,
    /// Where frames that leave go: by one port, or by any.
    pub outputs: Vec<(Option<u16>, PathBuf)>,
    /// Where frames for the kernel go, each with the number of their port.
    pub to_kernel: Vec<(u16, PathBuf)>,
    /// Commands and their moments.
    pub script: Script,
    /// Whether health checks are sent, and their answers looked for in the captures.
    pub checks: bool,
}

/// Why a replay ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A capture cannot be read or written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The configuration's own pool cannot be put in force.
    #[error("the configuration cannot be put in force: {0}")]
    Refused(#[from] Refusal),
    /// There is not enough memory.
    #[error("no memory for {flows} flows: {source}")]
    Memory {
        /// Flows to be tracked.
        flows: u64,
        /// Why not.
        source: MemoryError,
    },
}

/// What came of a replay.
#[derive(Debug)]
pub struct Outcome {
    /// Counters, for people and programs.
    pub report: report::Report,
    /// Script commands that were refused.
    pub refused: usize,
    /// Captures that were damaged or cut short, and where.
    pub damaged: Vec<CaptureError>,
}

/// Plays a plan to its end.
///
/// # Errors
/// When a capture is damaged, an output cannot be written, or there is no memory.
pub fn run(plan: Plan) -> Result<Outcome, ReplayError> {
    let mut player = Player::new(&plan)?;
    let mut script = plan.script.commands.into_iter().peekable();
    let start = player
        .inputs
        .iter()
        .filter_map(|(_, input)| input.next_time())
        .min()
        .unwrap_or(0);
    player.now = start;
    player.start = start;
    if plan.checks {
        player.control.check_health(start, CHECK_SEED)?;
    }
    let mut refused = 0;
    loop {
        let frame = player.earliest();
        let command = script
            .peek()
            .map(|command| start.saturating_add(command.at_nanos));
        let due = player.control.next_due(player.now);
        let next = [frame.map(|(time, _)| time), command]
            .into_iter()
            .flatten()
            .min();
        let Some(next) = next else { break };
        // Captures may go back in time; the clock does not.
        let next = next.max(player.now);
        if let Some(due) = due.filter(|due| *due <= next) {
            player.advance(due.max(player.now))?;
        } else if command.is_some_and(|command| command <= next) {
            player.advance(next)?;
            if let Some(command) = script.next()
                && let Err(reason) = player.carry_out(&command)
            {
                complain(&format!("{}: {reason}", command.origin));
                refused += 1;
            }
        } else if let Some((_, input)) = frame {
            player.now = next;
            player.play(input)?;
        }
    }
    player.finish(refused)
}

/// The sink of the pipeline: frames that leave are written at once, the others wait until the
/// control core looks at them, which is before the next frame.
#[derive(Debug, Default)]
struct Leaving {
    sent: Vec<(u16, HeapBuffer)>,
    answered: Vec<(u16, HeapBuffer)>,
    punted: Vec<(u16, HeapBuffer)>,
    held: Vec<(Neighbour, HeapBuffer)>,
    for_kernel: Vec<(u16, bool, HeapBuffer)>,
}

impl Sink<HeapBuffer> for Leaving {
    fn send(&mut self, port: u16, frame: HeapBuffer) {
        self.sent.push((port, frame));
    }

    fn punt(&mut self, port: u16, frame: HeapBuffer) {
        self.punted.push((port, frame));
    }

    fn to_kernel(&mut self, port: u16, expected: bool, frame: HeapBuffer) {
        self.for_kernel.push((port, expected, frame));
    }

    fn hold(&mut self, neighbour: Neighbour, frame: HeapBuffer) {
        self.held.push((neighbour, frame));
    }

    fn answer(&mut self, port: u16, frame: HeapBuffer) {
        self.answered.push((port, frame));
    }

    fn copy(&mut self, bytes: &[u8]) -> Option<HeapBuffer> {
        Some(HeapBuffer::new(bytes))
    }

    fn hand_over(&mut self, _: u16, _: u16, frame: HeapBuffer) {
        // There is one worker.
        self.free(frame);
    }
}

/// Where a capture's frames come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// In by this port.
    Port(u16),
    /// From the kernel, by this port's interface.
    Kernel(u16),
}

struct Player {
    now: u64,
    start: u64,
    checks: bool,
    happenings: Vec<report::Happening>,
    inputs: Vec<(Origin, CaptureReader)>,
    outputs: Vec<(Option<u16>, CaptureWriter)>,
    to_kernel: Vec<(u16, CaptureWriter)>,
    pipeline: Pipeline<HeapBuffer>,
    snapshot: Reader<Snapshot>,
    control: Control<Heap>,
    counters: [CounterReader; 2],
    leaving: Leaving,
}

impl Player {
    fn new(plan: &Plan) -> Result<Self, ReplayError> {
        let mut inputs = Vec::new();
        for (port, path) in &plan.inputs {
            inputs.push((Origin::Port(*port), CaptureReader::open(path)?));
        }
        for (port, path) in &plan.from_kernel {
            inputs.push((Origin::Kernel(*port), CaptureReader::open(path)?));
        }
        let nanoseconds = inputs.iter().any(|(_, input)| input.has_nanoseconds());
        let mut outputs = Vec::new();
        for (port, path) in &plan.outputs {
            outputs.push((*port, CaptureWriter::create(path, nanoseconds)?));
        }
        let mut to_kernel = Vec::new();
        for (port, path) in &plan.to_kernel {
            to_kernel.push((*port, CaptureWriter::create(path, nanoseconds)?));
        }
        let flows = plan.config.engine.flows_per_worker;
        let memory = |source| ReplayError::Memory { flows, source };
        let conntrack = Conntrack::new(flows, false).map_err(memory)?;
        let (worker, worker_counters) = counters(layout::BLOCK).map_err(memory)?;
        let (own, own_counters) = counters(layout::BLOCK).map_err(memory)?;
        let hasher = FlowHasher::new(plan.config.instance.hash_key.unwrap_or(HashKey::REPLAY));
        let facts = (0u8..)
            .zip(&plan.config.ports)
            .map(|(number, port)| facts(number, port))
            .collect();
        let config = Arc::clone(&plan.config);
        let (mut control, mut readers) = Control::new(config, facts, hasher.clone(), Heap, own, 1)?;
        control.watch(vec![conntrack.reader()]);
        let pipeline =
            Pipeline::new(control.accepts(), hasher, conntrack, worker).with_gate(control.gate());
        let snapshot = readers.remove(0);
        Ok(Self {
            now: 0,
            start: 0,
            checks: plan.checks,
            happenings: Vec::new(),
            inputs,
            outputs,
            to_kernel,
            pipeline,
            snapshot,
            control,
            counters: [worker_counters, own_counters],
            leaving: Leaving::default(),
        })
    }

    /// The time of the earliest frame to come, and which capture it is in.
    fn earliest(&self) -> Option<(u64, usize)> {
        let times = self.inputs.iter().enumerate();
        times
            .filter_map(|(index, (_, input))| Some((input.next_time()?, index)))
            .min()
    }

    /// Lets time pass to `now`.
    fn advance(&mut self, now: u64) -> Result<(), ReplayError> {
        self.now = now;
        self.control.tick(now);
        self.take_note();
        self.write_outgoing()
    }

    /// Takes the next frame of a capture through the pipeline.
    fn play(&mut self, input: usize) -> Result<(), ReplayError> {
        let Some((origin, capture)) = self.inputs.get_mut(input) else {
            return Ok(());
        };
        let origin = *origin;
        let Some(frame) = capture.take() else {
            return Ok(());
        };
        let port = match origin {
            Origin::Port(port) => port,
            Origin::Kernel(port) => {
                self.control.from_kernel(self.now, port, &frame.bytes);
                return self.write_outgoing();
            }
        };
        let mut burst: ArrayVec<HeapBuffer, BURST> = ArrayVec::new();
        burst.extend(Heap.copy_from(&frame.bytes));
        let tick = Tick::from_nanos(self.now);
        self.pipeline.process(
            self.snapshot.get(),
            tick,
            port,
            &mut burst,
            &mut self.leaving,
        );
        self.snapshot.quiesce();
        for (port, frame) in std::mem::take(&mut self.leaving.sent) {
            self.forwarded(&frame);
            self.write(port, &frame)?;
        }
        for (port, frame) in std::mem::take(&mut self.leaving.answered) {
            self.pipeline.counters().add(layout::ANSWERED, 1);
            self.write(port, &frame)?;
        }
        for (port, frame) in std::mem::take(&mut self.leaving.punted) {
            self.control.punted(self.now, port, frame.data());
        }
        for (neighbour, frame) in std::mem::take(&mut self.leaving.held) {
            self.control.hold(self.now, neighbour, frame);
        }
        for (port, expected, frame) in std::mem::take(&mut self.leaving.for_kernel) {
            self.control
                .for_kernel(self.now, port, expected, frame.data());
        }
        for frame in self.control.take_for_kernel() {
            for (port, output) in &mut self.to_kernel {
                if *port == frame.port {
                    output.write(self.now, &frame.frame)?;
                }
            }
            self.control.kernel_has(&frame, true);
        }
        if self.checks {
            let counters = &self.counters;
            self.control.look_at_refusals(self.now, |number| {
                let first = layout::backend_base(number);
                let sum = |counter| {
                    counters
                        .iter()
                        .map(|block| block.get(first + counter))
                        .sum()
                };
                (sum(layout::REFUSED), sum(layout::NEW_FLOWS))
            });
        }
        self.write_outgoing()
    }

    /// Keeps what happened for the report.
    fn take_note(&mut self) {
        let at_ns = self.now.saturating_sub(self.start);
        let events = self.control.take_events().into_iter();
        self.happenings
            .extend(events.map(|event| report::Happening {
                at_ns,
                kind: event.kind.name(),
                text: event.text,
            }));
    }

    fn carry_out(&mut self, command: &script::Timed) -> Result<(), String> {
        let mut pool = self.control.pool().clone();
        command
            .command
            .apply_to(&mut pool)
            .map_err(|refused| refused.to_string())?;
        let generation = self.control.generation() + 1;
        self.control
            .apply(self.now, generation, pool)
            .map_err(|refusal| refusal.to_string())?;
        self.control.reclaim();
        Ok(())
    }

    fn write_outgoing(&mut self) -> Result<(), ReplayError> {
        let outgoing: Vec<_> = self.control.take_outgoing().collect();
        for frame in outgoing {
            if frame.balanced {
                self.forwarded(&frame.frame);
            }
            self.write(frame.port, &frame.frame)?;
        }
        self.control.reclaim();
        Ok(())
    }

    fn forwarded(&mut self, frame: &HeapBuffer) {
        let counters = self.pipeline.counters();
        counters.add(layout::FORWARDED, 1);
        counters.add(layout::FORWARDED_BYTES, frame.len() as u64);
    }

    fn write(&mut self, port: u16, frame: &HeapBuffer) -> Result<(), ReplayError> {
        for (only, output) in &mut self.outputs {
            if only.is_none_or(|only| only == port) {
                output.write(self.now, frame.data())?;
            }
        }
        Ok(())
    }

    fn finish(mut self, refused: usize) -> Result<Outcome, ReplayError> {
        self.control.give_up();
        self.pipeline.give_up(&mut self.leaving);
        let to_kernel = self.to_kernel.into_iter().map(|(_, output)| output);
        let outputs = self.outputs.into_iter().map(|(_, output)| output);
        for output in outputs.chain(to_kernel) {
            output.finish()?;
        }
        let mut report = report::Report::new(self.control.book(), &self.counters);
        report.events = self.happenings;
        let damaged = self
            .inputs
            .into_iter()
            .filter_map(|(_, input)| input.into_problem())
            .collect();
        Ok(Outcome {
            report,
            refused,
            damaged,
        })
    }
}

/// What stands for an opened device: the configured address and MTU, or defaults that are the same
/// on every machine. A port without a configured address takes frames to any.
fn facts(number: u8, port: &crate::config::Port) -> PortFacts {
    PortFacts {
        mac: port
            .mac
            .unwrap_or(MacAddr([0x02, b'w', b'e', b'i', b'r', number])),
        filter: port.mac.is_some(),
        mtu: port.mtu.unwrap_or(MTU),
    }
}
