//! The packet path alone: pipelines over frames in ordinary memory, fed and timed without a device.
//!
//! The pipeline changes frames, so each burst is written anew before it goes in. The same writing
//! without the pipeline is timed in turns with it and taken off.

use std::fmt::Write as _;
use std::path::Path as File;
use std::sync::Arc;
use std::time::Instant;

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
use weir_shm::capture::Request;
use weir_shm::counters as layout;

use super::traffic::Traffic;
use crate::{Failure, Random};

/// Backends of the measured service.
pub const BACKENDS: u8 = 100;

/// Takes frames back, to be used again.
#[derive(Default)]
pub struct Back {
    frames: ArrayVec<HeapBuffer, BURST>,
    lost: u64,
}

impl Sink<HeapBuffer> for Back {
    fn send(&mut self, _: u16, frame: HeapBuffer) {
        if self.frames.try_push(frame).is_err() {
            self.lost += 1;
        }
    }
    // A worker's burst goes to the device from where it lies. This one stays there, to be used again:
    // moving it would be counted as the pipeline's work.
    fn send_burst(&mut self, port: u16, burst: &mut ArrayVec<HeapBuffer, BURST>) {
        if !self.frames.is_empty() {
            burst.drain(..).for_each(|frame| self.send(port, frame));
        }
    }
    fn punt(&mut self, _: u16, _: HeapBuffer) {
        self.lost += 1;
    }
    fn hold(&mut self, _: Neighbour, _: HeapBuffer) {
        self.lost += 1;
    }
    fn answer(&mut self, _: u16, frame: HeapBuffer) {
        self.free(frame);
    }
    fn copy(&mut self, bytes: &[u8]) -> Option<HeapBuffer> {
        Some(HeapBuffer::new(bytes))
    }
    fn hand_over(&mut self, _: u16, _: u16, frame: HeapBuffer) {
        self.free(frame);
    }
    fn free(&mut self, _: HeapBuffer) {
        self.lost += 1;
    }
}

/// A configuration without services: a port, and the neighbours that are backends.
#[must_use]
pub fn base() -> String {
    let mut text = "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n\
         addresses = [\"10.0.0.1/16\", \"2001:db8:2::1/64\"]\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.2\"\n\
         [[neighbor]]\naddress = \"10.0.0.2\"\nmac = \"02:00:00:00:00:fe\"\n"
        .to_owned();
    for backend in 1..=BACKENDS {
        let _ = write!(
            text,
            "[[neighbor]]\naddress = \"10.0.1.{backend}\"\nmac = \"02:00:00:00:01:{backend:02x}\"\n\
             [[neighbor]]\naddress = \"2001:db8:2::1:{backend:x}\"\nmac = \"02:00:00:00:06:{backend:02x}\"\n"
        );
    }
    text
}

/// The configuration: IPv4 and IPv6 services with a hundred backends each, for UDP and for TCP.
#[must_use]
pub fn config(forwarding: &str) -> String {
    let mut text = base();
    for (name, vip, protocol, net, hexadecimal) in [
        ("web", "198.51.100.10", "udp", "10.0.1.", false),
        ("web-tcp", "198.51.100.10", "tcp", "10.0.1.", false),
        ("web6", "2001:db8:ff::10", "udp", "2001:db8:2::1:", true),
    ] {
        let _ = write!(
            text,
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = 80\nprotocol = \"{protocol}\"\n\
             forwarding = \"{forwarding}\"\nscheduler = \"maglev\"\n"
        );
        for backend in 1..=BACKENDS {
            let host = if hexadecimal {
                format!("{backend:x}")
            } else {
                backend.to_string()
            };
            let _ = write!(text, "[[service.backend]]\naddress = \"{net}{host}\"\n");
        }
    }
    text
}

/// Workers' paths over one control core's tables.
pub struct Bed {
    /// The workers' paths.
    pub paths: Vec<Path>,
    /// Bytes of one worker's flow table.
    pub table_bytes: usize,
    // Keeps what is published alive.
    control: Control<Heap>,
}

/// One worker's path, with frames to feed it.
pub struct Path {
    pipeline: Pipeline<HeapBuffer>,
    snapshot: Reader<Snapshot>,
    counters: CounterReader,
    burst: ArrayVec<HeapBuffer, BURST>,
    back: Back,
}

impl Bed {
    /// Paths for `workers` workers, each with a table for `flows` flows.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(forwarding: &str, flows: u64, workers: usize) -> Result<Self, Failure> {
        Self::of(&config(forwarding), flows, workers)
    }

    /// The same over a configuration of its own.
    ///
    /// # Errors
    /// When memory is short, or the configuration is refused.
    pub fn of(config: &str, flows: u64, workers: usize) -> Result<Self, Failure> {
        let config = Arc::new(Config::parse(File::new("bench.toml"), config)?);
        let facts = vec![PortFacts {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            filter: true,
            mtu: 1500,
        }];
        let hasher = FlowHasher::new(HashKey::REPLAY);
        let (own, _) = counters(layout::BLOCK)?;
        let (control, readers) = Control::new(config, facts, hasher.clone(), Heap, own, workers)?;
        let (mut paths, mut table_bytes) = (Vec::new(), 0);
        for snapshot in readers {
            let conntrack = Conntrack::new(flows, true)?;
            table_bytes = conntrack.bytes();
            let (writer, reader) = counters(layout::BLOCK)?;
            paths.push(Path {
                pipeline: Pipeline::new(control.accepts(), hasher.clone(), conntrack, writer),
                snapshot,
                counters: reader,
                burst: ArrayVec::new(),
                back: Back::default(),
            });
        }
        Ok(Self {
            paths,
            table_bytes,
            control,
        })
    }

    /// Begins to capture one in `sample` of all packets, as they come and as they leave.
    ///
    /// # Errors
    /// When that is refused.
    pub fn capture(&mut self, sample: u32) -> Result<(), Failure> {
        let request = Request {
            sample,
            ..Request::default()
        };
        self.control.begin_capture(&request)?;
        Ok(())
    }

    /// The only path of a bed with one worker.
    ///
    /// # Errors
    /// When there is none.
    pub fn path(&mut self) -> Result<&mut Path, Failure> {
        self.paths
            .first_mut()
            .ok_or_else(|| "a bed has a path".into())
    }
}

impl Path {
    /// Gives it whole bursts of this kind.
    pub fn load(&mut self, traffic: &Traffic) {
        self.load_short(traffic, BURST);
    }

    /// Gives it bursts of `frames` frames.
    pub fn load_short(&mut self, traffic: &Traffic, frames: usize) {
        self.burst = (0..frames.min(BURST))
            .map(|_| HeapBuffer::new(traffic.template()))
            .collect();
    }

    /// One burst: written for the flows that `flow` gives, and through the pipeline if `run`.
    #[inline]
    pub fn round(&mut self, traffic: &Traffic, mut flow: impl FnMut() -> u32, run: bool, now: u32) {
        for frame in &mut self.burst {
            traffic.write(frame, flow());
        }
        if run {
            self.process(now);
        }
    }

    /// The frames that go in next; after a round, those that came out.
    pub fn frames(&mut self) -> &mut [HeapBuffer] {
        &mut self.burst
    }

    /// Takes the burst as it is through the pipeline.
    #[inline]
    pub fn process(&mut self, now: u32) {
        let snapshot = self.snapshot.get();
        self.pipeline
            .process(snapshot, Tick(now), 0, &mut self.burst, &mut self.back);
        if self.burst.is_empty() {
            std::mem::swap(&mut self.burst, &mut self.back.frames);
        }
        self.snapshot.quiesce();
    }

    /// The same as a function of its own, which callgrind finds by its name.
    #[inline(never)]
    pub fn collected(&mut self, now: u32) {
        self.process(now);
    }

    /// Every flow twice, so that all are known, and known to go on.
    pub fn visit(&mut self, traffic: &Traffic, flows: u32) {
        for _ in 0..2 {
            let mut next = 0;
            for _ in 0..flows.div_ceil(self.burst.len().max(1) as u32) {
                let each = || {
                    next = if next + 1 >= flows { 0 } else { next + 1 };
                    next
                };
                self.round(traffic, each, true, 1);
            }
        }
    }

    /// Nanoseconds a packet over uniformly random flows, writing the frames not counted: the mean of
    /// `packets`.
    pub fn nanoseconds(
        &mut self,
        traffic: &Traffic,
        flows: u32,
        packets: u32,
        random: &mut Random,
    ) -> f64 {
        let mut any = || random.below(flows);
        let without = self.time(traffic, packets, false, &mut any);
        self.time(traffic, packets, true, &mut any) - without
    }

    /// Nanoseconds a packet, writing the frames included: the mean of `packets`, of the flows that
    /// `flow` gives; only the writing unless `run`.
    pub fn time(
        &mut self,
        traffic: &Traffic,
        packets: u32,
        run: bool,
        mut flow: impl FnMut() -> u32,
    ) -> f64 {
        let rounds = packets.div_ceil(BURST as u32).max(1);
        let start = Instant::now();
        for _ in 0..rounds {
            self.round(traffic, &mut flow, run, 2);
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds * BURST as u32)
    }

    /// Nanoseconds a packet of `packets` that are written over each other in turn from `frames`; only
    /// the writing unless `run`.
    pub fn replay(&mut self, frames: &[Vec<u8>], packets: u32, run: bool) -> f64 {
        if self.burst.len() < BURST {
            let longest = frames.iter().max_by_key(|frame| frame.len());
            let frame = longest.map(Vec::as_slice).unwrap_or_default();
            self.burst = (0..BURST).map(|_| HeapBuffer::new(frame)).collect();
        }
        let rounds = packets.div_ceil(BURST as u32).max(1);
        let mut next = frames.iter().cycle();
        let start = Instant::now();
        for _ in 0..rounds {
            for (place, frame) in self.burst.iter_mut().zip(&mut next) {
                place.data_mut().copy_from_slice(frame);
            }
            if run {
                self.process(2);
            }
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds * BURST as u32)
    }

    /// One of the worker's own counters.
    #[must_use]
    pub fn counter(&self, index: usize) -> u64 {
        let mut value = [0];
        self.counters.copy_into(index..index + 1, &mut value);
        value[0]
    }

    /// Fails if a frame went anywhere but out: no figure is better than a wrong one.
    ///
    /// # Errors
    /// With how many did.
    pub fn all_forwarded(&self) -> Result<(), Failure> {
        match self.back.lost {
            0 => Ok(()),
            lost => Err(format!("{lost} packets were not forwarded").into()),
        }
    }
}
