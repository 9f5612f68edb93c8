//! A worker: one core, one queue of each port, round after round.
//!
//! Receive from each port, take the burst through the pipeline, send, quiesce. Nothing here waits
//! for anybody: what a device or the control core cannot take is counted and freed.

use arrayvec::ArrayVec;
use weir_engine::buffer::{Buffer, BufferSource};
use weir_engine::clock::{Clock, Nanos};
use weir_engine::counters::CounterWriter;
use weir_engine::idle::Idle;
use weir_engine::mbuf::{Mbuf, free_bulk};
use weir_engine::mempool::Mempool;
use weir_engine::publish::Reader;
use weir_engine::queue::{RxQueue, TxQueue};
use weir_engine::ring;
use weir_engine::worker::Stop;
use weir_shm::counters::{self, DropReason};

use crate::adjacency::Neighbour;
use crate::capture::Capture;
use crate::conntrack::{self, Tick};
use crate::control::Outgoing;
use crate::pipeline::{BURST, Pipeline, Sink, Snapshot};

use super::crowd;

/// Frames that wait to be sent by one port: what one round can bring at most.
const OUT: usize = 256;
/// Rounds after the stop sign in which what lies in the queues is still taken.
const LAST_ROUNDS: usize = 64;

/// What a worker hands to the control core.
#[derive(Debug)]
pub enum ToControl {
    /// A frame that is not balanced, and the port that it came in by.
    Punt(u16, Mbuf),
    /// A frame for a neighbour whose MAC is not known yet.
    Hold(Neighbour, Mbuf),
}

/// A frame for the kernel: the port that it came in by, and whether it was expected.
pub type ToKernel = (u16, bool, Mbuf);

/// A frame that one worker received and another is to process, and the port that it came in by.
pub type Handed = (u16, Mbuf);

/// A worker's queues on one port.
#[derive(Debug)]
pub struct PortQueues {
    /// The port's number.
    pub number: u16,
    /// Where frames come in.
    pub rx: RxQueue,
    /// Where frames leave.
    pub tx: TxQueue,
}

/// One port's frames on their way out.
struct Out {
    number: u16,
    tx: TxQueue,
    frames: ArrayVec<Mbuf, OUT>,
}

/// The pipeline's sink over a worker's queues.
struct Leaving {
    ports: Vec<Out>,
    to_control: ring::Sender<ToControl>,
    to_kernel: ring::Sender<ToKernel>,
    to_peers: Vec<ring::Sender<Handed>>,
    buffers: Mempool,
    peer_full: u64,
    kernel_full: u64,
    sent: u64,
    sent_bytes: u64,
    answered: u64,
    refused: u64,
    control_full: u64,
}

impl Leaving {
    /// Hot: sends what waits for a port; what the device does not take is freed.
    #[inline]
    fn flush(&mut self, port: usize) {
        let Some(out) = self.ports.get_mut(port) else {
            return;
        };
        if out.frames.is_empty() {
            return;
        }
        self.sent += out.tx.send(&mut out.frames) as u64;
        if !out.frames.is_empty() {
            self.refused += out.frames.len() as u64;
            free_bulk(&mut out.frames);
        }
    }

    fn flush_all(&mut self) {
        for port in 0..self.ports.len() {
            self.flush(port);
        }
    }

    /// Adds what happened since the last time to the worker's counters.
    fn count(&mut self, counters: &mut CounterWriter) {
        for (counter, amount) in [
            (counters::FORWARDED, &mut self.sent),
            (counters::FORWARDED_BYTES, &mut self.sent_bytes),
            (counters::ANSWERED, &mut self.answered),
            (counters::drop_index(DropReason::TxFull), &mut self.refused),
            (
                counters::drop_index(DropReason::ControlQueueFull),
                &mut self.control_full,
            ),
            (
                counters::drop_index(DropReason::PeerQueueFull),
                &mut self.peer_full,
            ),
            (
                counters::drop_index(DropReason::KernelQueueFull),
                &mut self.kernel_full,
            ),
        ] {
            if *amount > 0 {
                counters.add(counter, *amount);
                *amount = 0;
            }
        }
    }

    fn tell(&mut self, message: ToControl) {
        if self.to_control.push(message).is_err() {
            self.control_full += 1;
        }
    }
}

impl Sink<Mbuf> for Leaving {
    #[inline]
    fn send(&mut self, port: u16, frame: Mbuf) {
        let index = usize::from(port);
        let Some(out) = self.ports.get_mut(index) else {
            return;
        };
        self.sent_bytes += Buffer::len(&frame) as u64;
        if let Err(full) = out.frames.try_push(frame) {
            self.flush(index);
            if let Some(out) = self.ports.get_mut(index) {
                // Empty after a flush.
                let _ = out.frames.try_push(full.element());
            }
        }
    }

    #[inline]
    fn send_burst(&mut self, port: u16, burst: &mut ArrayVec<Mbuf, BURST>) {
        let index = usize::from(port);
        let has_room = |out: &Out| out.frames.remaining_capacity() >= BURST;
        if !self.ports.get(index).is_some_and(has_room) {
            self.flush(index);
        }
        let Some(out) = self.ports.get_mut(index) else {
            return burst.clear();
        };
        let bytes: usize = burst.iter().map(Buffer::len).sum();
        self.sent_bytes += bytes as u64;
        if !out.frames.is_empty() {
            // Empty after a flush, and larger than a burst.
            out.frames.extend(burst.drain(..));
            return;
        }
        // Nothing waits that has to go first: the burst goes from where it lies.
        self.sent += out.tx.send(burst) as u64;
        if !burst.is_empty() {
            self.refused += burst.len() as u64;
            free_bulk(burst);
        }
    }

    fn punt(&mut self, port: u16, frame: Mbuf) {
        let room = crowd::room(frame.data(), self.to_control.capacity());
        if self.to_control.len() < room {
            self.tell(ToControl::Punt(port, frame));
        } else {
            self.control_full += 1;
        }
    }

    fn to_kernel(&mut self, port: u16, expected: bool, frame: Mbuf) {
        if self.to_kernel.push((port, expected, frame)).is_err() {
            self.kernel_full += 1;
        }
    }

    fn hold(&mut self, neighbour: Neighbour, frame: Mbuf) {
        self.tell(ToControl::Hold(neighbour, frame));
    }

    #[cold]
    fn answer(&mut self, port: u16, frame: Mbuf) {
        let Some(out) = self.ports.get_mut(usize::from(port)) else {
            return;
        };
        let mut frames: ArrayVec<Mbuf, 1> = ArrayVec::new();
        let _ = frames.try_push(frame);
        let sent = out.tx.send(&mut frames) as u64;
        self.answered += sent;
        self.refused += 1 - sent;
    }

    fn copy(&mut self, bytes: &[u8]) -> Option<Mbuf> {
        self.buffers.copy_from(bytes)
    }

    fn hand_over(&mut self, worker: u16, port: u16, frame: Mbuf) {
        let peer = self.to_peers.get(usize::from(worker));
        if peer.is_none_or(|peer| peer.push((port, frame)).is_err()) {
            self.peer_full += 1;
        }
    }
}

/// A worker before it runs.
pub struct Worker {
    pipeline: Pipeline<Mbuf>,
    snapshot: Reader<Snapshot>,
    receiving: Vec<(u16, RxQueue)>,
    leaving: Leaving,
    from_control: ring::Receiver<Outgoing<Mbuf>>,
    from_peers: ring::Receiver<Handed>,
    clock: Clock,
    idle: Idle,
    /// When the last round began, and whether it did anything.
    last: (Nanos, bool),
}

/// How a worker is joined to the control core.
pub struct Links {
    /// Frames for the control core.
    pub to_control: ring::Sender<ToControl>,
    /// Frames for the kernel, by the control core.
    pub to_kernel: ring::Sender<ToKernel>,
    /// Frames from the control core, to be sent.
    pub from_control: ring::Receiver<Outgoing<Mbuf>>,
    /// Frames for other workers, by their number.
    pub to_peers: Vec<ring::Sender<Handed>>,
    /// Where new frames come from, for packets that are cut.
    pub buffers: Mempool,
    /// Frames from other workers.
    pub from_peers: ring::Receiver<Handed>,
}

impl Worker {
    /// A worker over its queues, which are in the order of the ports' numbers.
    #[must_use]
    pub fn new(
        pipeline: Pipeline<Mbuf>,
        snapshot: Reader<Snapshot>,
        queues: Vec<PortQueues>,
        links: Links,
        idle: Idle,
    ) -> Self {
        let mut receiving = Vec::new();
        let mut ports = Vec::new();
        for PortQueues { number, rx, tx } in queues {
            receiving.push((number, rx));
            ports.push(Out {
                number,
                tx,
                frames: ArrayVec::new(),
            });
        }
        let leaving = Leaving {
            ports,
            to_control: links.to_control,
            to_kernel: links.to_kernel,
            to_peers: links.to_peers,
            buffers: links.buffers,
            peer_full: 0,
            kernel_full: 0,
            sent: 0,
            sent_bytes: 0,
            answered: 0,
            refused: 0,
            control_full: 0,
        };
        Self {
            pipeline,
            snapshot,
            receiving,
            leaving,
            from_control: links.from_control,
            from_peers: links.from_peers,
            clock: Clock::new(),
            idle,
            last: (Nanos::default(), false),
        }
    }

    /// Hot: works until it is told to stop, then takes what is left in the queues.
    pub fn run(mut self, stop: &Stop) {
        self.last = (self.clock.now(), false);
        while !stop.is_raised() {
            let received = self.round();
            self.idle.wait(received);
        }
        for _ in 0..LAST_ROUNDS {
            if self.round() == 0 {
                break;
            }
        }
        self.pipeline.give_up(&mut self.leaving);
    }

    /// Hot: one round; gives the number of frames that came in or were sent for the control core.
    fn round(&mut self) -> usize {
        let now = self.clock.now();
        self.account(now);
        let now = Tick::from_nanos(now.0);
        let mut received = 0;
        let snapshot = self.snapshot.get();
        for (port, rx) in &mut self.receiving {
            let mut burst: ArrayVec<Mbuf, BURST> = ArrayVec::new();
            let count = rx.receive(&mut burst);
            if count > 0 {
                received += count;
                self.pipeline
                    .process(snapshot, now, *port, &mut burst, &mut self.leaving);
            }
        }
        if !self.from_peers.is_empty() {
            received += take_handed(
                &mut self.from_peers,
                &mut self.pipeline,
                snapshot,
                now,
                &mut self.leaving,
            );
        }
        if self.pipeline.waiting() > 0 {
            self.pipeline.tick(now, &mut self.leaving);
        }
        if received == 0 {
            let lines = if self.idle.next_sleep().is_zero() {
                conntrack::LINES
            } else {
                conntrack::LINES_ASLEEP
            };
            self.pipeline.sweep_lines(&snapshot.services, now, lines);
        }
        if received > 0 {
            self.leaving.flush_all();
            self.leaving.count(self.pipeline.counters());
            self.pipeline.counters().add(counters::BUSY_POLLS, 1);
        }
        if !self.from_control.is_empty() {
            received += send_for_control(
                &mut self.from_control,
                &mut self.pipeline,
                snapshot.capture.as_deref(),
                &mut self.leaving,
            );
        }
        self.pipeline.counters().add(counters::POLLS, 1);
        self.snapshot.quiesce();
        self.last.1 = received > 0;
        received
    }

    /// Hot: the time since the last round began was busy if that round did anything, and idle
    /// otherwise. The clock is the one reading that a round takes anyway.
    #[inline]
    fn account(&mut self, now: Nanos) {
        let (began, busy) = self.last;
        let counter = if busy {
            counters::BUSY_NS
        } else {
            counters::IDLE_NS
        };
        let passed = now.0.saturating_sub(began.0);
        self.pipeline.counters().add(counter, passed);
        self.last.0 = now;
    }
}

/// Sends what the control core made or released. Bounded by a burst a round.
#[cold]
fn send_for_control(
    from_control: &mut ring::Receiver<Outgoing<Mbuf>>,
    pipeline: &mut Pipeline<Mbuf>,
    capture: Option<&Capture>,
    leaving: &mut Leaving,
) -> usize {
    let worker = pipeline.worker();
    let mut count = 0;
    for outgoing in from_control.drain(BURST) {
        count += 1;
        let mut ports = leaving.ports.iter_mut();
        let Some(out) = ports.find(|out| out.number == outgoing.port) else {
            continue;
        };
        if let Some(capture) = capture {
            let data = outgoing.frame.data();
            capture.made(worker, outgoing.port, data, outgoing.balanced);
        }
        let mut frame: ArrayVec<Mbuf, 1> = ArrayVec::new();
        let bytes = Buffer::len(&outgoing.frame) as u64;
        let _ = frame.try_push(outgoing.frame);
        let sent = out.tx.send(&mut frame) as u64;
        let counters = pipeline.counters();
        if outgoing.balanced {
            // The frame waited and was counted by nobody yet.
            counters.add(counters::FORWARDED, sent);
            counters.add(counters::FORWARDED_BYTES, sent * bytes);
            counters.add(counters::drop_index(DropReason::TxFull), 1 - sent);
        }
    }
    count
}

/// Processes what other workers received for this one. Bounded by a burst a round; frames that came
/// in by one port go through the pipeline together.
#[cold]
fn take_handed(
    from_peers: &mut ring::Receiver<Handed>,
    pipeline: &mut Pipeline<Mbuf>,
    snapshot: &Snapshot,
    now: Tick,
    leaving: &mut Leaving,
) -> usize {
    let mut count = 0;
    let mut burst: ArrayVec<Mbuf, BURST> = ArrayVec::new();
    let mut port = 0;
    for (came_by, frame) in from_peers.drain(BURST) {
        if came_by != port {
            pipeline.process_handed(snapshot, now, port, &mut burst, leaving);
            port = came_by;
        }
        count += 1;
        // Never full: a burst is drained at most.
        let _ = burst.try_push(frame);
    }
    pipeline.process_handed(snapshot, now, port, &mut burst, leaving);
    count
}
