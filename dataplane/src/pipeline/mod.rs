//! The packet path: one burst through parse, look-up, steer and rewrite.
//!
//! Run to completion on one core. Each stage is a loop over the whole burst, so that the cache
//! misses of one packet (headers, then the conntrack line) overlap with work on the others. What a
//! stage learns of a frame goes into the frame's `Lane`:
//!
//! 1. `read`: parse each frame into a descriptor.
//! 2. `look_up`: VIP, flow hash; ask for the conntrack line.
//! 3. `steer`: conntrack, or on a miss the service's table; for `quic`, the connection ID first.
//!    Where there are `full-nat` services, `steady` sends packets on before whose session is enough, and
//!    `sessions` then finds or opens that of each other packet.
//! 4. `rewrite`: the mode's change, then the Ethernet header.
//! 5. `part`: to the sink, or aside.
//!
//! While there is a capture, `tap` looks on between the stages.
//!
//! Everything here is hot: no allocation, lock, log, system call or panic on input. What a packet
//! needs beyond that (ARP, ICMP, a next hop that is not resolved) goes to the control core through
//! the sink.

mod aside;
mod choose;
mod lane;
mod look_up;
mod part;
mod quic;
mod quick;
mod read;
mod rewrite;
mod sessions;
mod states;
mod steady;
mod steer;
mod tap;

use std::cell::Cell;

use arrayvec::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_engine::cpu::{Features, Width, Work};
use weir_shm::counters::{self, DropReason};

use crate::adjacency::{Adjacency, Neighbour};
use crate::capture::Capture;
use crate::conntrack::{Conntrack, ConntrackReader, Tick};
use crate::exception::Gate;
use crate::flow::FlowHasher;
use crate::newest::{Newest, NewestReader};
use crate::parse::{Accepts, Filter};
use crate::service::Services;
use aside::{Aside, Why};
use choose::Chooser;
use lane::{Lanes, Places};
use look_up::LookUp;
use part::Asides;
use quick::Quick;
use tap::{Countdown, Notes, Tap, Watching};

/// Frames of one burst.
pub const BURST: usize = 32;

/// What a worker reads: published whole, by one pointer.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Services, tables and backends.
    pub services: std::sync::Arc<Services>,
    /// Ports, routes and neighbours.
    pub adjacency: std::sync::Arc<Adjacency>,
    /// The capture that there is at the moment.
    pub capture: Option<std::sync::Arc<Capture>>,
    /// Its number, which no other has had, where workers look anyway; the last one's where there is none.
    pub capture_number: u64,
}

/// Where frames go when the pipeline is done with them. Each frame goes to exactly one place.
pub trait Sink<B> {
    /// To be sent by this port.
    fn send(&mut self, port: u16, frame: B);
    /// To be sent by this port, all of them. The burst is empty afterwards.
    #[inline]
    fn send_burst(&mut self, port: u16, burst: &mut ArrayVec<B, BURST>) {
        for frame in burst.drain(..) {
            self.send(port, frame);
        }
    }
    /// For the control core: it came in by this port and is not balanced.
    fn punt(&mut self, port: u16, frame: B);
    /// For the kernel, by the control core: it came in by this port, and may pass; whether it was
    /// expected. Nothing comes here from a pipeline without a gate.
    fn to_kernel(&mut self, _port: u16, _expected: bool, frame: B) {
        self.free(frame);
    }
    /// Rewritten for this neighbour, whose MAC is not known yet: for the control core to keep.
    fn hold(&mut self, neighbour: Neighbour, frame: B);
    /// For the worker with this number, whose flow it is; it came in by this port, has not been
    /// changed, and is counted as received. The other worker's [`Pipeline::process_handed`] takes it.
    fn hand_over(&mut self, worker: u16, port: u16, frame: B);
    /// To be sent by this port: weir's own answer to a frame that came in. Whoever sends it counts
    /// it as answered.
    fn answer(&mut self, port: u16, frame: B);
    /// A new frame that holds a copy of `bytes`; `None` without a free buffer.
    fn copy(&mut self, bytes: &[u8]) -> Option<B>;
    /// Done with; what has to be counted has been.
    fn free(&mut self, frame: B) {
        drop(frame);
    }
    /// Dropped for this reason; the counter has been raised.
    fn refuse(&mut self, _reason: DropReason, frame: B) {
        self.free(frame);
    }
}

/// A worker's packet path and what it alone writes.
pub struct Pipeline<B> {
    filters: Vec<Filter>,
    hasher: FlowHasher,
    conntrack: Conntrack,
    counters: CounterWriter,
    lanes: Box<Lanes>,
    notes: Box<Notes>,
    countdown: Countdown,
    features: Features,
    kept: aside::Kept<B>,
    chooser: Chooser,
    sweep: u32,
}

impl<B: Buffer> Pipeline<B> {
    /// From what each port accepts (by number), the flow hash, and the worker's own memory.
    #[must_use]
    pub fn new(
        accepts: Vec<Accepts>,
        hasher: FlowHasher,
        conntrack: Conntrack,
        counters: CounterWriter,
    ) -> Self {
        let chooser = Chooser::new(hasher.clone(), &conntrack);
        Self {
            filters: accepts.into_iter().map(Filter::from).collect(),
            hasher,
            conntrack,
            counters,
            lanes: Box::default(),
            notes: Box::default(),
            countdown: Countdown::default(),
            features: Features::detect(),
            kept: aside::Kept::default(),
            chooser,
            sweep: u32::MAX,
        }
    }

    /// As one of several workers: this one's number, and all of their conntrack by number, which is
    /// read where a packet's flow may be another worker's.
    #[must_use]
    pub fn among(mut self, worker: u16, peers: Vec<ConntrackReader>) -> Self {
        self.chooser.join(worker, &peers);
        self.kept.worker = worker;
        self.kept.peers = peers;
        self
    }

    /// With ways to the kernel.
    #[must_use]
    pub fn with_gate(mut self, gate: Option<Gate>) -> Self {
        self.kept.gate = gate;
        self
    }

    /// The same path without wider instructions than the binary was built for: to compare.
    #[must_use]
    pub fn with_features(mut self, features: Features) -> Self {
        self.features = features;
        self
    }

    /// With no more than `lines` of conntrack swept at once, where a service needs counts of flows:
    /// a worker has other things to do. Without this a sweep does all that is due.
    #[must_use]
    pub const fn with_sweep(mut self, lines: u32) -> Self {
        self.sweep = lines;
        self
    }

    /// Hot: where a service chooses by how many flows backends hold, looks for flows that are over.
    /// Each burst does; a worker that has none does it, too.
    #[inline]
    pub fn sweep(&mut self, services: &Services, now: Tick) {
        self.sweep_lines(services, now, self.sweep);
    }

    /// As [`Pipeline::sweep`], over another number of lines at most.
    #[inline]
    pub fn sweep_lines(&mut self, services: &Services, now: Tick, lines: u32) {
        if services.counts_flows {
            self.conntrack.sweep(now, &services.profiles, lines);
        }
    }

    /// The worker's number.
    #[must_use]
    pub const fn worker(&self) -> u16 {
        self.kept.worker
    }

    /// The newest flows, for the control core.
    #[must_use]
    pub fn newest(&self) -> Option<NewestReader> {
        self.chooser.newest.as_ref().map(Newest::reader)
    }

    /// The worker's counters.
    pub const fn counters(&mut self) -> &mut CounterWriter {
        &mut self.counters
    }

    /// Hot: takes a burst that came in by `port` at `now` through all stages. The burst is empty
    /// afterwards; every frame has gone to the sink.
    pub fn process<S: Sink<B>>(
        &mut self,
        snapshot: &Snapshot,
        now: Tick,
        port: u16,
        burst: &mut ArrayVec<B, BURST>,
        sink: &mut S,
    ) {
        let frames = burst.len();
        let bytes = self.take_through(snapshot, now, port, burst, sink);
        self.counters.add(counters::RECEIVED, frames as u64);
        self.counters.add(counters::RECEIVED_BYTES, bytes as u64);
    }

    /// As [`Pipeline::process`], for frames that another worker received by `port`, and counted.
    pub fn process_handed<S: Sink<B>>(
        &mut self,
        snapshot: &Snapshot,
        now: Tick,
        port: u16,
        burst: &mut ArrayVec<B, BURST>,
        sink: &mut S,
    ) {
        self.take_through(snapshot, now, port, burst, sink);
    }

    /// Hot: gives the burst's bytes.
    #[inline]
    fn take_through<S: Sink<B>>(
        &mut self,
        snapshot: &Snapshot,
        now: Tick,
        port: u16,
        burst: &mut ArrayVec<B, BURST>,
        sink: &mut S,
    ) -> usize {
        self.tick(now, sink);
        self.sweep(&snapshot.services, now);
        let Some(filter) = self.filters.get(usize::from(port)) else {
            let bytes = burst.iter().map(Buffer::len).sum();
            burst.clear();
            return bytes;
        };
        let Self {
            hasher,
            conntrack,
            counters,
            lanes,
            notes,
            countdown,
            kept,
            chooser,
            ..
        } = self;
        let by = rewrite::By {
            worker: kept.worker,
            port,
        };
        let mut tap = match &snapshot.capture {
            None => None,
            Some(_) if countdown.passes(snapshot.capture_number, burst.len()) => None,
            Some(capture) => Tap::open(snapshot, capture, countdown, by, burst.len(), notes),
        };
        let mut asides = Asides::new();
        let bytes = self.features.run(Stages {
            snapshot,
            now,
            by,
            tap: tap.as_mut(),
            filter,
            hasher,
            conntrack,
            chooser,
            counters,
            lanes,
            burst,
            asides: &mut asides,
            sink,
        });
        if !asides.is_empty() {
            let aside = Aside {
                snapshot,
                now,
                port,
                hasher,
                conntrack,
                chooser,
                counters,
                kept,
                decided: Cell::new(None),
            };
            Self::handle_asides(aside, asides, tap, sink);
        }
        bytes
    }

    #[cold]
    #[inline(never)]
    fn handle_asides<S: Sink<B>>(
        mut aside: Aside<'_, B>,
        asides: Asides<B>,
        mut tap: Option<Tap<'_>>,
        sink: &mut S,
    ) {
        for (frame, packet, why) in asides {
            let watch = match &mut tap {
                None => None,
                Some(tap) => tap.watch(frame.data()).map(|watch| (tap, watch)),
            };
            aside.decided.set(None);
            let mut watching = Watching {
                sink: &mut *sink,
                tap: watch,
            };
            aside.handle(frame, &packet, why, &mut watching);
            if let Some((tap, watch)) = watching.tap {
                let packet = (why != Why::Piece).then_some(&packet);
                tap.settled(&watch, packet, aside.decided.get());
            }
        }
        if let Some(tap) = &tap {
            tap.show();
        }
    }

    /// Pieces of datagrams that wait for their first piece: received, and neither forwarded nor
    /// dropped yet.
    #[inline]
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.kept.fragments.waiting()
    }

    /// Hot: lets time pass to `now`: drops the pieces that have waited too long.
    #[inline]
    pub fn tick<S: Sink<B>>(&mut self, now: Tick, sink: &mut S) {
        while let Some((_, frame)) = self.kept.fragments.expired(now) {
            self.time_out(frame, sink);
        }
    }

    /// Drops the pieces that wait, however long: nothing comes any more.
    pub fn give_up<S: Sink<B>>(&mut self, sink: &mut S) {
        while let Some((_, frame)) = self.kept.fragments.give_up() {
            self.time_out(frame, sink);
        }
    }

    #[cold]
    fn time_out<S: Sink<B>>(&self, frame: B, sink: &mut S) {
        let counter = counters::drop_index(DropReason::FragmentTimeout);
        self.counters.add(counter, 1);
        sink.refuse(DropReason::FragmentTimeout, frame);
    }
}

/// One burst and all that the stages need for it.
struct Stages<'a, 't, B, S> {
    snapshot: &'a Snapshot,
    now: Tick,
    by: rewrite::By,
    tap: Option<&'a mut Tap<'t>>,
    filter: &'a Filter,
    hasher: &'a FlowHasher,
    conntrack: &'a mut Conntrack,
    chooser: &'a mut Chooser,
    counters: &'a CounterWriter,
    lanes: &'a mut Lanes,
    burst: &'a mut ArrayVec<B, BURST>,
    asides: &'a mut Asides<B>,
    sink: &'a mut S,
}

impl<B: Buffer, S: Sink<B>> Work for Stages<'_, '_, B, S> {
    type Output = usize;

    #[inline(always)]
    fn run<W: Width>(self, width: W) -> usize {
        let Self {
            snapshot,
            now,
            by,
            mut tap,
            conntrack,
            chooser,
            counters,
            burst,
            sink,
            ..
        } = self;
        let services = &*snapshot.services;
        let look_up = LookUp::new(services, self.hasher, conntrack.lines());
        let bytes = read::all(self.filter, &look_up, burst, self.lanes);
        let lanes = &mut self.lanes[..burst.len()];
        // What a capture may want does not leave before it has been copied.
        let apart = match &mut tap {
            None => Places(0),
            Some(tap) => tap.look(self.hasher, now, conntrack, burst, lanes),
        };
        let mut quick = Quick::new(snapshot, counters);
        if services.has_quic {
            quic::all(now, conntrack, chooser, apart, &mut quick, burst, lanes);
        }
        let asked = (services.sessions.as_ref())
            .map(|sessions| sessions::ask(services, sessions, by.worker, now, lanes));
        if apart != Places(0)
            && let Some(tap) = &tap
        {
            tap.set_apart(lanes);
            steer::set_apart(apart, now, conntrack, &quick, lanes);
        }
        // What is left for conntrack, and then for its session.
        let (mut steer, mut find) = (true, false);
        if let (Some(asked), Some(sessions)) = (asked, &services.sessions) {
            let all = u32::MAX >> (u32::BITS - burst.len().clamp(1, BURST) as u32);
            let plain = Places(asked.plain.0 & !apart.0);
            let mut sent = Places(0);
            if plain != sent {
                sent = steady::all(sessions, by.worker, now, plain, &mut quick, burst, lanes);
            }
            (steer, find) = (sent.0 | asked.answers.0 != all, sent.0 != all);
        }
        if steer {
            steer::all(width, now, conntrack, chooser, &mut quick, burst, lanes);
        }
        if apart != Places(0)
            && let Some(tap) = &tap
        {
            tap.put_back(lanes);
        }
        if let Some(sessions) = &services.sessions
            && find
        {
            sessions::all(sessions, by.worker, now, apart, &mut quick, burst, lanes);
        }
        let together = quick.end(burst.len());
        if let Some(tap) = tap {
            tap.see_out(snapshot, counters, together.is_some(), burst, lanes);
        } else if together.is_none() {
            rewrite::all(snapshot, by, counters, burst, lanes);
        }
        if let Some(port) = together {
            if !burst.is_empty() {
                sink.send_burst(port, burst);
            }
            return bytes;
        }
        part::all(by.port, counters, burst, lanes, self.asides, sink);
        bytes
    }
}
