//! Nanoseconds a packet of the whole pipeline (parse, VIP lookup, conntrack with time stamps,
//! counters, rewrite) over heap buffers, without a device.
//!
//! A burst's frames are written anew before each round, since the pipeline changes them. The same
//! writing without the pipeline is timed in turns with it and taken off.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrayvec::ArrayVec;
use serde::Serialize;
use weir::adjacency::Neighbour;
use weir::config::Config;
use weir::conntrack::{Conntrack, Tick};
use weir::control::{Control, PortFacts};
use weir::flow::{FlowHasher, HashKey};
use weir::pipeline::{BURST, Pipeline, Sink, Snapshot};
use weir_engine::buffer::{Buffer, Heap, HeapBuffer};
use weir_engine::counters::counters;
use weir_engine::publish::Reader;
use weir_engine::wire::checksum;
use weir_engine::wire::ethernet::MacAddr;
use weir_shm::counters as layout;

use crate::Random;

/// Backends of the measured service.
const BACKENDS: u32 = 100;
/// Bytes of a frame: the shortest, without FCS.
const FRAME: usize = 60;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// `dsr-l2`.
    DsrL2,
    /// `nat`, from the client.
    Nat,
}

/// A figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// The forwarding mode.
    pub mode: Mode,
    /// Flows, drawn at random with equal chances.
    pub flows: u32,
    /// Nanoseconds a packet, median.
    pub nanoseconds: f64,
    /// The least and the most of all repetitions.
    pub range: (f64, f64),
    /// Repetitions.
    pub repetitions: usize,
}

/// Takes frames back, to be used again.
#[derive(Default)]
struct Back {
    frames: ArrayVec<HeapBuffer, BURST>,
    lost: u64,
}

impl Sink<HeapBuffer> for Back {
    fn send(&mut self, _: u16, frame: HeapBuffer) {
        if self.frames.try_push(frame).is_err() {
            self.lost += 1;
        }
    }
    fn punt(&mut self, _: u16, _: HeapBuffer) {
        self.lost += 1;
    }
    fn hold(&mut self, _: Neighbour, _: HeapBuffer) {
        self.lost += 1;
    }
    fn answer(&mut self, _: u16, frame: HeapBuffer) {
        // A packet of the bench needs no answer.
        self.free(frame);
    }
    fn hand_over(&mut self, _: u16, _: u16, frame: HeapBuffer) {
        // There is one worker.
        self.free(frame);
    }
    fn free(&mut self, _: HeapBuffer) {
        self.lost += 1;
    }
}

fn config(mode: Mode, flows: u32) -> String {
    let forwarding = match mode {
        Mode::DsrL2 => "dsr-l2",
        Mode::Nat => "nat",
    };
    let mut text = format!(
        "[engine]\nflows_per_worker = {flows}\n[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n\
         addresses = [\"10.0.0.1/16\"]\n[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\n\
         port = 80\nprotocol = \"udp\"\nforwarding = \"{forwarding}\"\n"
    );
    for backend in 0..BACKENDS {
        text += &format!(
            "[[service.backend]]\naddress = \"10.0.1.{}\"\n",
            backend + 1
        );
    }
    for backend in 0..BACKENDS {
        text += &format!(
            "[[neighbor]]\naddress = \"10.0.1.{}\"\nmac = \"02:00:00:00:01:{:02x}\"\n",
            backend + 1,
            backend + 1
        );
    }
    text
}

/// A pipeline with its pool in force, ready to be fed.
struct Bench {
    pipeline: Pipeline<HeapBuffer>,
    snapshot: Reader<Snapshot>,
    // Keeps what is published alive.
    _control: Control<Heap>,
}

/// Something that keeps a figure from being measured.
pub type Failure = Box<dyn std::error::Error>;

impl Bench {
    fn new(mode: Mode, flows: u32) -> Result<Self, Failure> {
        let config = Arc::new(Config::parse(
            Path::new("bench.toml"),
            &config(mode, flows),
        )?);
        let facts = vec![PortFacts {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            filter: true,
            mtu: 1500,
        }];
        let hasher = FlowHasher::new(HashKey::REPLAY);
        let conntrack = Conntrack::new(u64::from(flows), true)?;
        let (worker, _) = counters(layout::BLOCK)?;
        let (own, _) = counters(layout::BLOCK)?;
        let (control, mut readers) = Control::new(config, facts, hasher.clone(), Heap, own, 1)?;
        let pipeline = Pipeline::new(control.accepts(), hasher, conntrack, worker);
        let snapshot = readers.pop().ok_or("a publisher has a reader")?;
        Ok(Self {
            pipeline,
            snapshot,
            _control: control,
        })
    }
}

/// The frame that all flows share but for source address and port.
fn template() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    frame[6..14].copy_from_slice(&[2, 0, 0, 0, 0, 0xfe, 8, 0]);
    frame[14..34].copy_from_slice(&[
        0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 198, 51, 100, 10,
    ]);
    frame[36..38].copy_from_slice(&80u16.to_be_bytes());
    frame[38..40].copy_from_slice(&26u16.to_be_bytes());
    frame
}

/// Writes a flow's frame.
#[inline]
fn write(frame: &mut HeapBuffer, template: &[u8; FRAME], flow: u32) {
    if let Some(bytes) = frame.data_mut().first_chunk_mut::<FRAME>() {
        *bytes = *template;
        let [a, b, c, d] = flow.to_be_bytes();
        bytes[26..30].copy_from_slice(&[11 + a, b, c, d]);
        bytes[34..36].copy_from_slice(&[0x40 | (d & 0x3f), c]);
        let sum = checksum::of(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum);
    }
}

/// Measures one case.
///
/// # Errors
/// When memory is short, or a packet went where it should not: no figure is better than a wrong one.
pub fn measure(
    mode: Mode,
    flows: u32,
    packets: u32,
    repetitions: usize,
) -> Result<Figure, Failure> {
    let mut bench = Bench::new(mode, flows)?;
    let template = template();
    let mut random = Random::new(42);
    let mut back = Back::default();
    let mut burst: ArrayVec<HeapBuffer, BURST> =
        (0..BURST).map(|_| HeapBuffer::new(&template)).collect();
    let scale = |random: u32| ((u64::from(random) * u64::from(flows)) >> 32) as u32;
    let mut round = |burst: &mut ArrayVec<HeapBuffer, BURST>,
                     flow: &mut dyn FnMut() -> u32,
                     run: bool,
                     tick: u32| {
        for frame in burst.iter_mut() {
            write(frame, &template, flow());
        }
        if run {
            let snapshot = bench.snapshot.get();
            bench
                .pipeline
                .process(snapshot, Tick(tick), 0, burst, &mut back);
            std::mem::swap(burst, &mut back.frames);
            bench.snapshot.quiesce();
        }
    };
    // Every flow once, so that all are known.
    let mut next = 0;
    for _ in 0..flows.div_ceil(BURST as u32) {
        round(
            &mut burst,
            &mut || {
                next = (next + 1) % flows;
                next
            },
            true,
            1,
        );
    }
    let rounds = packets / BURST as u32;
    let mut figures = Vec::new();
    for repetition in 0..repetitions {
        let mut time = |run: bool| {
            let start = Instant::now();
            for _ in 0..rounds {
                round(
                    &mut burst,
                    &mut || scale(random.next()),
                    run,
                    2 + repetition as u32,
                );
            }
            start.elapsed().as_secs_f64() * 1e9 / f64::from(rounds * BURST as u32)
        };
        let (without, with) = (time(false), time(true));
        figures.push(with - without);
    }
    if back.lost > 0 {
        return Err(format!("{} packets were not forwarded", back.lost).into());
    }
    let range = figures
        .iter()
        .fold((f64::INFINITY, 0f64), |(low, high), figure| {
            (low.min(*figure), high.max(*figure))
        });
    Ok(Figure {
        mode,
        flows,
        nanoseconds: crate::median(figures),
        range,
        repetitions,
    })
}
