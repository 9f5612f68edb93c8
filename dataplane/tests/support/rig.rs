//! Pipeline and control core in memory, driven frame by frame.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::path::Path;
use std::sync::Arc;

use arrayvec::ArrayVec;
use weir::adjacency::Neighbour;
use weir::config::Config;
use weir::conntrack::{Conntrack, Tick};
use weir::control::{Control, PortFacts};
use weir::flow::{FlowHasher, HashKey};
use weir::pipeline::{BURST, Pipeline, Sink, Snapshot};
use weir_engine::buffer::{Buffer, Heap, HeapBuffer};
use weir_engine::counters::{CounterReader, counters};
use weir_engine::publish::Reader;
use weir_engine::wire::ethernet::MacAddr;
use weir_shm::counters as layout;
use weir_shm::counters::DropReason;

/// A frame that left, and by which port.
pub type Sent = (u16, Vec<u8>);

#[derive(Default)]
struct Out {
    sent: Vec<(u16, HeapBuffer)>,
    answered: usize,
    punted: Vec<(u16, HeapBuffer)>,
    held: Vec<(Neighbour, HeapBuffer)>,
    freed: usize,
    copied: usize,
}

impl Sink<HeapBuffer> for Out {
    fn send(&mut self, port: u16, frame: HeapBuffer) {
        self.sent.push((port, frame));
    }
    fn punt(&mut self, port: u16, frame: HeapBuffer) {
        self.punted.push((port, frame));
    }
    fn hold(&mut self, neighbour: Neighbour, frame: HeapBuffer) {
        self.held.push((neighbour, frame));
    }
    fn answer(&mut self, port: u16, frame: HeapBuffer) {
        self.answered += 1;
        self.sent.push((port, frame));
    }
    fn copy(&mut self, bytes: &[u8]) -> Option<HeapBuffer> {
        self.copied += 1;
        Some(HeapBuffer::new(bytes))
    }

    fn hand_over(&mut self, _: u16, _: u16, frame: HeapBuffer) {
        // There is one worker.
        self.free(frame);
    }
    fn free(&mut self, _: HeapBuffer) {
        self.freed += 1;
    }
}

/// Carries out a command, as an operator's.
pub fn carry_out(control: &mut Control<Heap>, now: u64, line: &str) {
    let mut pool = control.pool().clone();
    let command = weir_shm::command::parse_line(line).unwrap();
    command.apply_to(&mut pool).unwrap();
    let generation = control.generation() + 1;
    control.apply(now, generation, pool).unwrap();
}

pub struct Rig {
    pub control: Control<Heap>,
    pipeline: Pipeline<HeapBuffer>,
    snapshot: Reader<Snapshot>,
    counters: [CounterReader; 2],
    pub now: u64,
}

impl Rig {
    pub fn new(config: &str) -> Self {
        let config =
            Config::parse(Path::new("test.toml"), config).unwrap_or_else(|e| panic!("{e}"));
        let config = Arc::new(config);
        let facts = config
            .ports
            .iter()
            .enumerate()
            .map(|(number, port)| PortFacts {
                mac: port
                    .mac
                    .unwrap_or(MacAddr([2, 0, 0, 0, 0, number as u8 + 1])),
                filter: true,
                mtu: port.mtu.unwrap_or(1500),
            })
            .collect();
        let hasher = FlowHasher::new(HashKey::REPLAY);
        let conntrack = Conntrack::new(config.engine.flows_per_worker, false).unwrap();
        let (worker, worker_counters) = counters(layout::BLOCK).unwrap();
        let (own, own_counters) = counters(layout::BLOCK).unwrap();
        let (mut control, mut readers) =
            Control::new(config, facts, hasher.clone(), Heap, own, 1).unwrap();
        control.watch(vec![conntrack.reader()]);
        let pipeline = Pipeline::new(control.accepts(), hasher, conntrack, worker);
        control.watch_newest(pipeline.newest().into_iter().collect());
        Self {
            control,
            pipeline,
            snapshot: readers.remove(0),
            counters: [worker_counters, own_counters],
            now: 1_000_000_000,
        }
    }

    /// Plays one frame into `port` and gives what left.
    pub fn play(&mut self, port: u16, frame: &[u8]) -> Vec<Sent> {
        self.play_burst(port, &[frame])
    }

    /// Plays up to a burst of frames into `port` and gives what left, in order.
    pub fn play_burst(&mut self, port: u16, frames: &[&[u8]]) -> Vec<Sent> {
        let mut burst: ArrayVec<HeapBuffer, BURST> =
            frames.iter().map(|frame| HeapBuffer::new(frame)).collect();
        let mut out = Out::default();
        let tick = Tick::from_nanos(self.now);
        let waited = self.pipeline.waiting();
        self.pipeline
            .process(self.snapshot.get(), tick, port, &mut burst, &mut out);
        assert!(burst.is_empty());
        let gone = out.sent.len() + out.punted.len() + out.held.len() + out.freed;
        assert_eq!(
            gone + self.pipeline.waiting(),
            frames.len() + waited + out.copied,
            "every frame goes to exactly one place, or waits"
        );
        self.snapshot.quiesce();
        self.pipeline
            .counters()
            .add(layout::FORWARDED, (out.sent.len() - out.answered) as u64);
        self.pipeline
            .counters()
            .add(layout::ANSWERED, out.answered as u64);
        for (port, frame) in out.punted {
            self.control.punted(self.now, port, frame.data());
        }
        for (neighbour, frame) in out.held {
            self.control.hold(self.now, neighbour, frame);
        }
        let mut sent: Vec<Sent> = out
            .sent
            .into_iter()
            .map(|(port, frame)| (port, frame.data().to_vec()))
            .collect();
        sent.extend(self.outgoing());
        sent
    }

    /// Carries out a command, as an operator's.
    pub fn command(&mut self, line: &str) {
        carry_out(&mut self.control, self.now, line);
    }

    /// Lets the control core look at refused clients.
    pub fn look_at_refusals(&mut self) {
        let blocks = &self.counters;
        self.control.look_at_refusals(self.now, |number| {
            let first = layout::backend_base(number);
            let sum = |counter| blocks.iter().map(|block| block.get(first + counter)).sum();
            (sum(layout::REFUSED), sum(layout::NEW_FLOWS))
        });
    }

    pub fn tick(&mut self, nanos: u64) -> Vec<Sent> {
        self.now += nanos;
        self.control.tick(self.now);
        self.outgoing()
    }

    fn outgoing(&mut self) -> Vec<Sent> {
        let outgoing: Vec<_> = self.control.take_outgoing().collect();
        let released = outgoing.iter().filter(|outgoing| outgoing.balanced).count();
        self.pipeline
            .counters()
            .add(layout::FORWARDED, released as u64);
        outgoing
            .into_iter()
            .map(|outgoing| (outgoing.port, outgoing.frame.data().to_vec()))
            .collect()
    }

    pub fn count(&self, counter: usize) -> u64 {
        self.counters.iter().map(|block| block.get(counter)).sum()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.count(layout::drop_index(reason))
    }

    /// Panics unless received = forwarded + answered + dropped + waiting.
    pub fn assert_all_accounted_for(&self) {
        let dropped: u64 = DropReason::ALL
            .iter()
            .map(|reason| self.dropped(*reason))
            .sum();
        let forwarded = self.count(layout::FORWARDED) - self.count(layout::PIECES_MADE);
        let accounted = forwarded + self.count(layout::ANSWERED) + dropped;
        assert_eq!(
            self.count(layout::RECEIVED),
            accounted + (self.control.held() + self.pipeline.waiting()) as u64
        );
    }
}
