//! Workers that hand frames to each other, driven frame by frame.
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

use super::WEIR_MAC;
use super::rig::carry_out;

struct Worker {
    pipeline: Pipeline<HeapBuffer>,
    snapshot: Reader<Snapshot>,
    counters: CounterReader,
}

/// What a worker did with a frame.
#[derive(Default)]
pub struct Out {
    pub sent: Vec<Vec<u8>>,
    /// For which worker.
    pub handed: Vec<(u16, Vec<u8>)>,
    pub freed: usize,
}

impl Sink<HeapBuffer> for Out {
    fn send(&mut self, _: u16, frame: HeapBuffer) {
        self.sent.push(frame.data().to_vec());
    }
    fn punt(&mut self, _: u16, _: HeapBuffer) {
        panic!("punted");
    }
    fn hold(&mut self, _: Neighbour, _: HeapBuffer) {
        panic!("held");
    }
    fn copy(&mut self, bytes: &[u8]) -> Option<HeapBuffer> {
        Some(HeapBuffer::new(bytes))
    }
    fn hand_over(&mut self, worker: u16, port: u16, frame: HeapBuffer) {
        assert_eq!(port, 0);
        self.handed.push((worker, frame.data().to_vec()));
    }
    fn answer(&mut self, _: u16, frame: HeapBuffer) {
        self.sent.push(frame.data().to_vec());
    }
    fn free(&mut self, _: HeapBuffer) {
        self.freed += 1;
    }
}

/// Workers with flows and sessions of their own, over one control core.
pub struct Crew {
    pub control: Control<Heap>,
    workers: Vec<Worker>,
    pub now: u64,
}

impl Crew {
    pub fn new(config: &str, count: u16) -> Self {
        let config = Config::parse(Path::new("test.toml"), config);
        let config = Arc::new(config.unwrap_or_else(|e| panic!("{e}")));
        let facts = vec![PortFacts {
            mac: MacAddr(WEIR_MAC),
            filter: true,
            mtu: 1500,
        }];
        let hasher = FlowHasher::new(HashKey::REPLAY);
        let flows = config.engine.flows_per_worker;
        let (own, _) = counters(layout::BLOCK).unwrap();
        let (control, readers) =
            Control::new(config, facts, hasher.clone(), Heap, own, count.into()).unwrap();
        let tables: Vec<Conntrack> = (0..count)
            .map(|_| Conntrack::new(flows, false).unwrap())
            .collect();
        let peers: Vec<_> = tables.iter().map(Conntrack::reader).collect();
        let workers = (0..count).zip(tables).zip(readers);
        let workers = workers.map(|((number, conntrack), snapshot)| {
            let (writer, reader) = counters(layout::BLOCK).unwrap();
            let pipeline = Pipeline::new(control.accepts(), hasher.clone(), conntrack, writer);
            Worker {
                pipeline: pipeline.among(number, peers.clone()),
                snapshot,
                counters: reader,
            }
        });
        Self {
            workers: workers.collect(),
            control,
            now: 1_000_000_000,
        }
    }

    /// Carries out a command, as an operator's.
    pub fn command(&mut self, line: &str) {
        carry_out(&mut self.control, self.now, line);
    }

    /// What one worker does with a frame that it received, or was handed.
    pub fn step(&mut self, worker: u16, frame: &[u8], handed: bool) -> Out {
        let mut burst: ArrayVec<HeapBuffer, BURST> = ArrayVec::new();
        burst.push(HeapBuffer::new(frame));
        let (mut out, tick) = (Out::default(), Tick::from_nanos(self.now));
        let Worker {
            pipeline, snapshot, ..
        } = &mut self.workers[usize::from(worker)];
        let waited = pipeline.waiting();
        if handed {
            pipeline.process_handed(snapshot.get(), tick, 0, &mut burst, &mut out);
        } else {
            pipeline.process(snapshot.get(), tick, 0, &mut burst, &mut out);
        }
        let gone = out.sent.len() + out.handed.len() + out.freed;
        assert_eq!(gone + pipeline.waiting(), 1 + waited, "one place a frame");
        snapshot.quiesce();
        out
    }

    /// What leaves for a frame that `worker` received, whoever sends it.
    pub fn play(&mut self, worker: u16, frame: &[u8]) -> Vec<Vec<u8>> {
        let mut out = self.step(worker, frame, false);
        for _ in 0..self.workers.len() {
            let Some((to, frame)) = out.handed.pop() else {
                break;
            };
            out = self.step(to, &frame, true);
        }
        assert!(out.handed.is_empty(), "handed on and on");
        out.sent
    }

    pub fn count(&self, counter: usize) -> u64 {
        let workers = self.workers.iter();
        workers.map(|worker| worker.counters.get(counter)).sum()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.count(layout::drop_index(reason))
    }
}
