//! Sends stamped frames into a memif at an even rate and takes what comes back, on one core: latency
//! through whatever is at the other end, as long as that leaves the payload alone.

use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use weir_engine::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::clock::Clock;
use weir_engine::eal::{Eal, EalConfig, Memory};
use weir_engine::mempool::{Mempool, MempoolConfig};
use weir_engine::port::{Port, PortConfig};
use weir_engine::queue::Queue;
use weir_engine::worker::Worker;

use super::{pace, traffic};
use crate::Failure;

/// Bytes of the stamp, and where it lies: in the UDP payload.
const STAMP: std::ops::Range<usize> = 42..50;
/// How far behind its rate the probe may fall before it lets packets go.
const BEHIND: u64 = 64;

/// What a probe found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Frames that the device took.
    pub sent: u64,
    /// Frames that came back.
    pub received: u64,
    /// Their latencies, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Found {
    /// The latency that this share of frames did not exceed, in microseconds.
    #[must_use]
    pub fn microseconds(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// DPDK in this process, and buffers to send.
pub struct Probe {
    eal: Eal,
    pool: Mempool,
    opened: usize,
}

impl Probe {
    /// Starts DPDK; once a process.
    ///
    /// # Errors
    /// When DPDK does not start.
    pub fn new() -> Result<Self, Failure> {
        let eal = Eal::start(&EalConfig {
            file_prefix: format!("weir-bench-probe-{}", std::process::id()),
            memory: Memory::HugePages,
            ..EalConfig::default()
        })?;
        let pool = Mempool::new(&eal, &MempoolConfig::default())?;
        Ok(Self {
            eal,
            pool,
            opened: 0,
        })
    }

    /// Sends `rate` frames a second of `flows` flows to the memif behind `socket` for `window`, after
    /// a warm-up of the same flows.
    ///
    /// # Errors
    /// When the device cannot be opened, has no link within five seconds, or gives nothing back.
    pub fn latency(
        &mut self,
        socket: &Path,
        flows: u32,
        rate: u64,
        warm_up: Duration,
        window: Duration,
    ) -> Result<Found, Failure> {
        // Another name each time: a device that was unplugged is not always forgotten at once.
        let device = format!(
            "net_memif{},role=client,socket={},bsize=2048,rsize=11,socket-abstract=no",
            self.opened,
            socket.display()
        );
        self.opened += 1;
        let mut port = Port::open(&self.eal, &PortConfig::new(&device), &self.pool)?;
        let end = Instant::now() + Duration::from_secs(5);
        while !port.link()?.up {
            if Instant::now() > end {
                return Err(format!("{device} has no link after 5 s").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let queue = port.take_queues().and_then(|mut all| all.pop());
        let queue = queue.ok_or("a port has a queue")?;
        let pool = self.pool.clone();
        let work = move |_| exchange(queue, &pool, flows, rate, warm_up, window);
        let worker = Worker::spawn_registered(&self.eal, "probe", pace::probe_core(), work)?;
        let found = worker.join()??;
        if found.received == 0 {
            return Err(format!("none of {} frames came back from {device}", found.sent).into());
        }
        Ok(found)
    }
}

/// Sends and receives, evenly paced.
fn exchange(
    mut queue: Queue,
    pool: &Mempool,
    flows: u32,
    rate: u64,
    warm_up: Duration,
    window: Duration,
) -> Result<Found, Failure> {
    let clock = Clock::new();
    let template = traffic::udp4();
    let interval = 1_000_000_000 / rate.max(1);
    let start = clock.now().0;
    let measured = start + warm_up.as_nanos() as u64;
    let end = measured + window.as_nanos() as u64;
    let mut latency = Histogram::<u64>::new(3)?;
    let (mut sent, mut received, mut flow) = (0, 0, 0);
    let mut due = start;
    let mut out: ArrayVec<_, 8> = ArrayVec::new();
    let mut back: ArrayVec<_, 32> = ArrayVec::new();
    loop {
        let now = clock.now().0;
        // What is still on the way comes within a moment, or not at all.
        if now >= end + 10_000_000 {
            break;
        }
        if now >= due && now < end {
            // A probe that did not get to run does not make up for it with a burst.
            due = due.max(now.saturating_sub(BEHIND * interval)) + interval;
            if let Some(mut frame) = pool.alloc() {
                frame.append(template.len())?;
                flow = (flow + 1) % flows.max(1);
                if let Some(bytes) = frame.data_mut().first_chunk_mut() {
                    traffic::write_udp4(bytes, &template, flow);
                    bytes[STAMP].copy_from_slice(&now.to_ne_bytes());
                }
                let _ = out.try_push(frame);
                let count = queue.tx.send(&mut out) as u64;
                sent += if now >= measured { count } else { 0 };
                out.clear();
            }
        }
        if queue.rx.receive(&mut back) > 0 {
            let now = clock.now().0;
            for frame in back.drain(..) {
                let stamp = frame.data().get(STAMP).and_then(|it| it.try_into().ok());
                let stamp = stamp.map_or(0, u64::from_ne_bytes);
                if (measured..end).contains(&stamp) {
                    received += 1;
                    latency.record(now.saturating_sub(stamp).max(1))?;
                }
            }
        }
    }
    Ok(Found {
        sent,
        received,
        latency,
    })
}
