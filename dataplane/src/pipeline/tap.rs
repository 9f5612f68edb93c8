//! Where a capture looks at a burst: before it is steered, before and after it is rewritten, and at
//! what is set aside.
//!
//! There is a tap only while there is a capture, and only for bursts of which a packet is wanted. A
//! frame is copied before it is rewritten, since it is rewritten in place; what became of it is
//! written over the copy's head afterwards. Nothing here waits, allocates or fails: what finds no
//! room is counted and left out.

use arrayvec::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::wire::{protocol, tcp::flags};
use weir_shm::capture::record::NO_PORT;
use weir_shm::capture::{Direction, Fate, NOBODY, Record, Why};
use weir_shm::counters::DropReason;

use super::lane::{Lane, Places, Verdict};
use super::rewrite::{By, Outcome};
use super::{BURST, Sink, quic};
use crate::adjacency::Neighbour;
use crate::capture::{Capture, Draft, Place};
use crate::conntrack::{Conntrack, Details, State, Tick};
use crate::flow::FlowHasher;
use crate::parse::Packet;
use crate::service::{NO_SERVICE, Services};

/// What is noted of a frame on its way.
#[derive(Debug, Clone, Copy)]
struct Note {
    /// The place of its service, or [`NO_SERVICE`].
    service: u32,
    /// Its backend's number, or [`NOBODY`].
    backend: u32,
    why: Why,
    /// Whether service and backend match.
    matches: bool,
    /// Whether its ends match as it came in.
    ends: bool,
    /// Its copy.
    copy: Option<Place>,
    /// Whether there was no room for that.
    lost: bool,
    /// What conntrack held before it was steered.
    held: Option<Details>,
    /// The backend that its client had.
    pinned: u32,
    /// What was known of it before it was steered.
    verdict: Verdict,
}

const NOTHING: Note = Note {
    service: NO_SERVICE,
    backend: NOBODY,
    why: Why::None,
    matches: false,
    ends: false,
    copy: None,
    lost: false,
    held: None,
    pinned: NOBODY,
    verdict: Verdict::Forward,
};

/// A capture's look at one burst; see the module's text.
pub(super) struct Tap<'a> {
    capture: &'a Capture,
    services: &'a Services,
    draft: Draft<'a>,
    by: By,
    unix_ns: u64,
    /// The frames of the burst that may be wanted.
    wanted: Places,
    /// Of each of those, in order.
    notes: ArrayVec<Note, BURST>,
    /// Those that are set aside, in order: whether they may be wanted.
    asides: ArrayVec<bool, BURST>,
}

impl<'a> Tap<'a> {
    /// For a burst of `count` frames; `None` if none of them is wanted.
    #[cold]
    #[inline(never)]
    pub fn begin(
        capture: &'a Capture,
        services: &'a Services,
        by: By,
        count: usize,
    ) -> Option<Self> {
        let ring = capture.ring(by.worker)?;
        let wanted = if capture.filter.takes_all() {
            ring.due(capture.sample(), count)
        } else {
            u32::MAX.unbounded_shr(u32::BITS.saturating_sub(count as u32))
        };
        (wanted != 0).then(|| Self {
            capture,
            services,
            draft: ring.draft(),
            by,
            unix_ns: capture.now(),
            wanted: Places(wanted),
            notes: ArrayVec::new(),
            asides: ArrayVec::new(),
        })
    }

    /// The places of the frames that may be wanted.
    pub const fn wanted(&self) -> Places {
        self.wanted
    }

    /// Before packets are steered: keeps answers that may be wanted from leaving at once.
    #[cold]
    #[inline(never)]
    pub fn set_apart(&mut self, lanes: &mut [Lane]) {
        for (place, note) in self.wanted.zip(&mut self.notes) {
            if let Some(lane) = lanes.get_mut(place) {
                note.verdict = lane.verdict;
                if lane.verdict == Verdict::Return {
                    lane.verdict = Verdict::Apart;
                }
            }
        }
    }

    /// After packets have been steered: those apart are what they were before.
    #[cold]
    #[inline(never)]
    pub fn put_back(&self, lanes: &mut [Lane]) {
        for (place, note) in self.wanted.zip(&self.notes) {
            if let Some(lane) = lanes.get_mut(place)
                && lane.verdict == Verdict::Apart
            {
                lane.verdict = note.verdict;
            }
        }
    }

    /// Lets the control core have what was captured of the burst.
    pub fn end(self) {
        self.draft.publish();
    }

    /// Before packets are steered: what conntrack knows of them.
    #[cold]
    #[inline(never)]
    pub fn look(&mut self, hasher: &FlowHasher, now: Tick, conntrack: &Conntrack, lanes: &[Lane]) {
        let profiles = &self.services.profiles;
        for lane in self.wanted.filter_map(|place| lanes.get(place)) {
            let mut note = NOTHING;
            if lane.verdict == Verdict::Forward {
                let find = |hash| {
                    conntrack
                        .find(hash, now, profiles)
                        .map(|held| held.details())
                };
                note.service = lane.service;
                note.held = find(lane.hash);
                let service = self.services.get(lane.service);
                if note.held.is_none()
                    && let Some(service) = service
                    && let Some(client) = service.affinity
                {
                    let pin = find(client.hash(hasher, &lane.packet, service.number));
                    note.pinned = pin.map_or(NOBODY, Details::backend);
                }
            }
            // Never full: a burst has no more frames than there is room for notes.
            let _ = self.notes.try_push(note);
        }
    }

    /// Before frames are rewritten: what has been decided, and copies of those that may be wanted.
    #[cold]
    #[inline(never)]
    pub fn copy<B: Buffer>(&mut self, burst: &[B], lanes: &[Lane]) {
        let filter = &self.capture.filter;
        for (index, place) in self.wanted.enumerate() {
            let (Some(frame), Some(lane), Some(mut note)) = (
                burst.get(place),
                lanes.get(place),
                self.notes.get(index).copied(),
            ) else {
                return;
            };
            if is_set_aside(lane.verdict) {
                continue;
            }
            self.decided(&mut note, lane, frame.data());
            note.matches = filter.whose(self.number(note.service), known(note.backend));
            note.ends = note.matches && filter.ends(frame.data());
            if note.matches && filter.incoming && filter.by(self.by.port) {
                let data = frame.data();
                let record =
                    (self.capture).record(self.by.worker, self.by.port, Direction::In, data);
                note.copy = self.draft.put(&record, self.capture.cut(data));
                note.lost = note.copy.is_none();
            }
            if let Some(kept) = self.notes.get_mut(index) {
                *kept = note;
            }
        }
    }

    /// Who gets a frame, and why.
    fn decided(&self, note: &mut Note, lane: &Lane, frame: &[u8]) {
        match lane.verdict {
            Verdict::Forward | Verdict::Steered | Verdict::Named | Verdict::Session => {
                note.service = lane.service;
                note.backend = lane.backend;
                note.why = self.why(note, lane, frame);
            }
            Verdict::Return => {
                note.backend = lane.backend;
                note.why = Why::Return;
            }
            Verdict::Answer => {
                let table = (self.services.sessions.as_ref())
                    .and_then(|sessions| sessions.table(self.by.worker.into()));
                let record = table.and_then(|table| table.record(lane.session));
                note.backend = record.map_or(NOBODY, |record| record.backend_number());
                note.why = Why::Session;
            }
            _ => {}
        }
        if note.service == NO_SERVICE
            && let Some(backend) = self.services.backends.get(note.backend as usize)
        {
            note.service = backend.service;
        }
    }

    fn why(&self, note: &Note, lane: &Lane, frame: &[u8]) -> Why {
        if lane.packet.protocol == protocol::UDP
            && let Some(service) = self.services.get(lane.service)
            && let Some(names) = service.quic.as_deref()
            && names.backend(quic::datagram(frame, &lane.packet)) == Some(lane.backend)
        {
            return Why::ConnectionId;
        }
        let opening = flags::SYN | flags::ACK | flags::RST | flags::FIN;
        match note.held {
            Some(held)
                if held.state() == State::Closing
                    && lane.packet.tcp_flags & opening == flags::SYN =>
            {
                Why::Scheduler
            }
            Some(held) if held.backend() == lane.backend => Why::Conntrack,
            Some(_) => Why::Moved,
            None if note.pinned == lane.backend => Why::Affinity,
            None => Why::Scheduler,
        }
    }

    /// The number of the service at a place.
    fn number(&self, place: u32) -> Option<u32> {
        self.services.get(place).map(|service| service.number)
    }

    fn filled(&self, record: Record, note: &Note) -> Record {
        Record {
            why: note.why,
            unix_ns: self.unix_ns,
            service: self.number(note.service).unwrap_or(NOBODY),
            backend: note.backend,
            ..record
        }
    }

    /// After frames have been rewritten: what became of them, and copies of those that leave.
    #[cold]
    #[inline(never)]
    pub fn tell<B: Buffer>(&mut self, burst: &[B], lanes: &[Lane]) {
        let (capture, by) = (self.capture, self.by);
        let filter = &capture.filter;
        let sample = (!filter.takes_all()).then(|| capture.sample());
        let mut front = self.notes.iter().find_map(|note| note.copy);
        let mut leaving: ArrayVec<(u8, u8), BURST> = ArrayVec::new();
        for (place, lane) in (0u32..).zip(lanes) {
            if has_gone_aside(lane) {
                let _ = self.asides.try_push(self.wanted.has(place));
            }
        }
        for (index, place) in (0u8..).zip(self.wanted) {
            let (Some(frame), Some(lane), Some(note)) = (
                burst.get(place),
                lanes.get(place),
                self.notes.get(usize::from(index)).copied(),
            ) else {
                break;
            };
            if has_gone_aside(lane) {
                continue;
            }
            let (fate, other, reason) = match (lane.verdict, lane.outcome) {
                (Verdict::Done, Some(outcome)) => fate_of(outcome),
                _ => (Fate::Sent, lane.port, None),
            };
            let is_drop =
                |drops: crate::capture::Reasons| reason.is_some_and(|reason| drops.has(reason));
            let matches = note.matches
                && filter.drops.is_none_or(is_drop)
                && (note.ends || fate == Fate::Sent && filter.ends(frame.data()))
                && (filter.by(by.port) || fate == Fate::Sent && filter.by(other));
            let ring = capture.ring(by.worker);
            let due = |sample| ring.is_some_and(|ring| ring.is_due(sample));
            if !matches || !sample.is_none_or(due) {
                continue;
            }
            if let (Some(copy), Some(to)) = (note.copy, front) {
                let length = self.draft.length(copy);
                let record = Record {
                    kept: length.0,
                    length: length.1,
                    fate,
                    other,
                    reason,
                    ..capture.record(by.worker, by.port, Direction::In, &[])
                };
                front = Some(self.draft.move_to(copy, to, &self.filled(record, &note)));
            } else if note.lost {
                self.draft.lose();
            }
            if fate == Fate::Sent && filter.outgoing && filter.by(other) {
                let _ = leaving.try_push((place as u8, index));
            }
        }
        if let Some(front) = front {
            self.draft.take_back(front);
        }
        for (place, index) in leaving {
            let place = usize::from(place);
            let (Some(frame), Some(lane), Some(note)) = (
                burst.get(place),
                lanes.get(place),
                self.notes.get(usize::from(index)),
            ) else {
                break;
            };
            let record = Record {
                fate: Fate::Sent,
                other: by.port,
                ..capture.record(by.worker, lane.port, Direction::Out, frame.data())
            };
            let record = self.filled(record, note);
            if self.draft.put(&record, capture.cut(frame.data())).is_none() {
                self.draft.lose();
            }
        }
    }

    /// Of the next frame that was set aside: begins to watch what becomes of it, if it may be wanted.
    pub fn watch(&mut self, frame: &[u8]) -> Option<Watch> {
        if !self.asides.pop_at(0).unwrap_or(false) {
            return None;
        }
        let filter = &self.capture.filter;
        let start = self.draft.end();
        let By { worker, port } = self.by;
        let record = self.capture.record(worker, port, Direction::In, frame);
        let is_shown = filter.incoming && filter.by(port);
        let copy = is_shown.then(|| self.draft.put(&record, self.capture.cut(frame)));
        Some(Watch {
            start,
            record,
            lost: u64::from(copy == Some(None)),
            copy: copy.flatten(),
            matches: filter.by(port) && filter.ends(frame),
            fate: None,
        })
    }

    /// A frame that was set aside leaves, or an answer to it.
    fn leaves(&mut self, watch: &mut Watch, fate: Fate, port: u16, frame: &[u8]) {
        let (capture, filter) = (self.capture, &self.capture.filter);
        let matches = filter.by(port) && filter.ends(frame);
        watch.matches |= matches;
        if filter.outgoing && filter.by(port) {
            let record = Record {
                fate,
                other: self.by.port,
                unix_ns: self.unix_ns,
                ..capture.record(self.by.worker, port, Direction::Out, frame)
            };
            let put = self.draft.put(&record, capture.cut(frame));
            watch.lost += u64::from(put.is_none());
        }
        watch.settle((fate, port, None));
    }

    /// A frame that was set aside has been dealt with; `backend` is the number of its backend, if one
    /// was found, and `packet` its descriptor, unless it is a piece.
    #[cold]
    pub fn settled(&mut self, watch: &Watch, packet: Option<&Packet>, backend: Option<u32>) {
        let filter = &self.capture.filter;
        let (fate, other, reason) = watch.fate.unwrap_or((Fate::Waits, NO_PORT, None));
        let mut note = NOTHING;
        if let Some(number) = backend {
            note.backend = number;
            note.why = Why::Related;
            let backend = self.services.backends.get(number as usize);
            note.service = backend.map_or(NO_SERVICE, |backend| backend.service);
        } else if let Some(packet) = packet {
            let at_vip = || (self.services).at_vip(packet.version, packet.destination);
            let exact = self.services.exact(packet);
            note.service = exact.or_else(at_vip).unwrap_or(NO_SERVICE);
        }
        let is_drop =
            |drops: crate::capture::Reasons| reason.is_some_and(|reason| drops.has(reason));
        let matches = watch.matches
            && filter.whose(self.number(note.service), known(note.backend))
            && filter.drops.is_none_or(is_drop);
        let sample = self.capture.sample();
        let due = || {
            filter.takes_all()
                || (self.capture.ring(self.by.worker)).is_some_and(|ring| ring.is_due(sample))
        };
        if !matches || !due() {
            return self.draft.take_back(watch.start);
        }
        for _ in 0..watch.lost {
            self.draft.lose();
        }
        if let Some(copy) = watch.copy {
            let record = Record {
                fate,
                other,
                reason,
                ..watch.record
            };
            self.draft.amend(copy, &self.filled(record, &note));
        }
        let service = self.number(note.service).unwrap_or(NOBODY);
        self.draft.amend_from(watch.start, |record| Record {
            why: note.why,
            service,
            backend: note.backend,
            ..record
        });
    }
}

const fn known(number: u32) -> Option<u32> {
    if number == NOBODY { None } else { Some(number) }
}

/// Whether a lane's frame goes aside behind the stages.
const fn has_gone_aside(lane: &Lane) -> bool {
    matches!(lane.verdict, Verdict::Done)
        && matches!(
            lane.outcome,
            Some(Outcome::Aside(_) | Outcome::Drop(DropReason::IpTtl))
        )
}

/// Whether a frame is looked at apart, whatever rewriting says.
const fn is_set_aside(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::Icmp | Verdict::Piece | Verdict::Reset | Verdict::Refuse(_)
    )
}

/// A fate, the port or worker that goes with it, and why.
type Ending = (Fate, u16, Option<DropReason>);

const fn fate_of(outcome: Outcome) -> Ending {
    match outcome {
        Outcome::Send(port) => (Fate::Sent, port, None),
        Outcome::Answer(port) => (Fate::Answered, port, None),
        Outcome::Punt | Outcome::Kernel { .. } => (Fate::Control, NO_PORT, None),
        Outcome::Hold(neighbour) => (Fate::Held, neighbour.port, None),
        Outcome::HandOver(worker) => (Fate::HandedOver, worker, None),
        Outcome::Drop(reason) => (Fate::Dropped, NO_PORT, Some(reason)),
        Outcome::Aside(_) => (Fate::Waits, NO_PORT, None),
    }
}

/// A frame that was set aside, while it is dealt with.
pub(super) struct Watch {
    start: Place,
    record: Record,
    copy: Option<Place>,
    /// Records that found no room.
    lost: u64,
    matches: bool,
    fate: Option<Ending>,
}

impl Watch {
    /// What happens first is what became of it; what happens then is what came of that.
    fn settle(&mut self, ending: Ending) {
        self.fate.get_or_insert(ending);
    }
}

/// A sink that lets a tap see what goes through it.
pub(super) struct Watching<'a, 'b, S> {
    pub sink: &'a mut S,
    pub tap: Option<(&'a mut Tap<'b>, Watch)>,
}

impl<S> Watching<'_, '_, S> {
    fn leaves(&mut self, fate: Fate, port: u16, frame: &[u8]) {
        if let Some((tap, watch)) = &mut self.tap {
            tap.leaves(watch, fate, port, frame);
        }
    }

    fn ends(&mut self, ending: Ending) {
        if let Some((_, watch)) = &mut self.tap {
            watch.settle(ending);
        }
    }
}

impl<B: Buffer, S: Sink<B>> Sink<B> for Watching<'_, '_, S> {
    fn send(&mut self, port: u16, frame: B) {
        self.leaves(Fate::Sent, port, frame.data());
        self.sink.send(port, frame);
    }

    fn punt(&mut self, port: u16, frame: B) {
        self.ends(fate_of(Outcome::Punt));
        self.sink.punt(port, frame);
    }

    fn to_kernel(&mut self, port: u16, expected: bool, frame: B) {
        self.ends(fate_of(Outcome::Kernel { expected }));
        self.sink.to_kernel(port, expected, frame);
    }

    fn hold(&mut self, neighbour: Neighbour, frame: B) {
        self.ends(fate_of(Outcome::Hold(neighbour)));
        self.sink.hold(neighbour, frame);
    }

    fn hand_over(&mut self, worker: u16, port: u16, frame: B) {
        self.ends(fate_of(Outcome::HandOver(worker)));
        self.sink.hand_over(worker, port, frame);
    }

    fn answer(&mut self, port: u16, frame: B) {
        self.leaves(Fate::Answered, port, frame.data());
        self.sink.answer(port, frame);
    }

    fn copy(&mut self, bytes: &[u8]) -> Option<B> {
        self.sink.copy(bytes)
    }

    fn free(&mut self, frame: B) {
        self.sink.free(frame);
    }

    fn refuse(&mut self, reason: DropReason, frame: B) {
        self.ends(fate_of(Outcome::Drop(reason)));
        self.sink.refuse(reason, frame);
    }
}
