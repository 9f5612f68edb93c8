//! Where a capture looks at a burst: before it is steered, before and after it is rewritten, and at
//! what is set aside.
//!
//! There is a tap only while there is a capture, and only for bursts of which a packet is wanted. A
//! frame is copied before it is rewritten, since it is rewritten in place; what became of it is
//! written over the copy's head afterwards. Nothing here waits, allocates or fails: what finds no
//! room is counted and left out.
//!
//! Where every packet matches, those of a sample are *drawn* before anything is looked at. They are
//! copied at once and go the way that they would go without a capture, with the others of their
//! burst, so that a sample costs what its copies cost. Where there is a filter, who gets a packet has
//! to be known before it is worth a copy: those that may match are kept apart, from leaving as soon
//! as that is known, and go the longer way.
//!
//! A packet of a small sample finds what is done for it cold, and the worker's next packets wait. So one
//! that is drawn and sent is told of by a shorter way, without what filters, drops and frames that are set
//! aside need.

mod countdown;
mod note;
mod watch;

use weir_engine::buffer::Buffer;
use weir_engine::counters::CounterWriter;
use weir_engine::wire::protocol;
use weir_shm::capture::record::NO_PORT;
use weir_shm::capture::{Direction, Fate, NOBODY, Record};
use weir_shm::counters::DropReason;

use super::lane::{Before, Lane, Places, Verdict};
use super::rewrite::{self, By, Outcome};
use super::{Snapshot, quic};
use crate::capture::{Capture, Draft};
use crate::conntrack::{Conntrack, Tick};
use crate::flow::FlowHasher;
use crate::service::{NO_SERVICE, Services};

use note::Note;

pub use countdown::Countdown;
pub use note::Notes;
pub use watch::Watching;

/// A capture's look at one burst; see the module's text.
pub struct Tap<'a> {
    capture: &'a Capture,
    services: &'a Services,
    draft: Draft<'a>,
    by: By,
    unix_ns: u64,
    /// Whether the wanted ones are drawn already, and match.
    drawn: bool,
    /// The frames of the burst that may be wanted.
    wanted: Places,
    /// By the places of those.
    notes: &'a mut Notes,
    /// Those that are set aside, in order, a bit each: whether they may be wanted.
    asides: u32,
}

impl<'a> Tap<'a> {
    /// For a burst of `count` frames that a capture does not let pass; `None` if none of them is wanted.
    #[cold]
    #[inline(never)]
    pub fn open(
        snapshot: &'a Snapshot,
        capture: &'a Capture,
        countdown: &mut Countdown,
        by: By,
        count: usize,
        notes: &'a mut Notes,
    ) -> Option<Self> {
        let ring = capture.ring(by.worker)?;
        let drawn = capture.filter.takes_all();
        let wanted = if drawn {
            countdown.draw(snapshot.capture_number, capture.sample(), count)
        } else {
            u32::MAX.unbounded_shr(u32::BITS.saturating_sub(count as u32))
        };
        (wanted != 0).then(|| Self {
            capture,
            services: &snapshot.services,
            draft: ring.draft(),
            by,
            unix_ns: capture.now(),
            drawn,
            wanted: Places(wanted),
            notes,
            asides: 0,
        })
    }

    /// The places of the frames that may not leave before they have been copied.
    const fn apart(&self) -> Places {
        Places(if self.drawn { 0 } else { self.wanted.0 })
    }

    /// Before packets are steered: what may not be known afterwards, and copies of those that are drawn.
    /// Gives the places of those that may not leave before they have been copied.
    #[cold]
    #[inline(never)]
    pub fn look<B: Buffer>(
        &mut self,
        hasher: &FlowHasher,
        now: Tick,
        conntrack: &Conntrack,
        burst: &[B],
        lanes: &mut [Lane],
    ) -> Places {
        let mut wanted = 0;
        for place in self.wanted {
            let (Some(frame), Some(lane)) = (burst.get(place), lanes.get_mut(place)) else {
                break;
            };
            if !self.drawn && self.is_another(lane) {
                continue;
            }
            wanted |= 1 << place;
            let mut note = Note {
                verdict: lane.verdict,
                ..Note::default()
            };
            if lane.verdict == Verdict::Forward {
                note.service = lane.service;
                lane.before = Before::STEADY;
                if self.remembers() {
                    self.remember(&mut note, hasher, now, conntrack, frame.data(), lane);
                }
            }
            if self.drawn && !is_set_aside(lane.verdict) {
                note.keep(self.capture, &mut self.draft, frame.data());
            }
            self.notes[place] = note;
        }
        self.wanted = Places(wanted);
        self.apart()
    }

    /// Whether anything of any client's packet may not be known after it has been steered.
    const fn remembers(&self) -> bool {
        self.services.has_affinity | self.services.has_quic
    }

    /// Whether a packet is known already not to be of the service or backend that is asked for.
    fn is_another(&self, lane: &Lane) -> bool {
        let (service, backend) = match lane.verdict {
            Verdict::Forward => (lane.service, None),
            Verdict::Return => {
                let backend = self.services.backends.get(lane.backend as usize);
                let service = backend.map_or(NO_SERVICE, |backend| backend.service);
                (service, Some(lane.backend))
            }
            _ => return false,
        };
        let filter = &self.capture.filter;
        let number = number(self.services, service);
        match backend {
            Some(_) => !filter.whose(number, backend),
            None => filter.service.is_some() && filter.service != number,
        }
    }

    /// What is known of a client's packet, and may not be afterwards: where its client's flows go, and
    /// whom it names.
    #[inline(never)]
    fn remember(
        &self,
        note: &mut Note,
        hasher: &FlowHasher,
        now: Tick,
        conntrack: &Conntrack,
        frame: &[u8],
        lane: &Lane,
    ) {
        let Some(service) = self.services.get(lane.service) else {
            return;
        };
        if let Some(client) = service.affinity {
            let client = client.hash(hasher, &lane.packet, service.number);
            let pin = conntrack.find(client, now, &self.services.profiles);
            note.pinned = pin.map_or(NOBODY, |pin| pin.details().backend());
        }
        if lane.packet.protocol == protocol::UDP
            && let Some(names) = service.quic.as_deref()
        {
            let named = names.backend(quic::datagram(frame, &lane.packet));
            note.named = named.unwrap_or(NOBODY);
        }
    }

    /// Before packets are steered: keeps answers that may be wanted from leaving at once.
    #[cold]
    #[inline(never)]
    pub fn set_apart(&self, lanes: &mut [Lane]) {
        for lane in self.apart().of(lanes) {
            if lane.verdict == Verdict::Return {
                lane.verdict = Verdict::Apart;
            }
        }
    }

    /// After packets have been steered: those apart are what they were before.
    #[cold]
    #[inline(never)]
    pub fn put_back(&self, lanes: &mut [Lane]) {
        for (place, lane) in self.wanted.zip(self.wanted.of(lanes)) {
            if lane.verdict == Verdict::Apart {
                lane.verdict = self.notes[place].verdict;
            }
        }
    }

    /// In place of `rewrite`, which it does: what has been decided before, and what became of it after.
    /// All frames may have been rewritten already. Those that are set aside are still to be watched.
    #[cold]
    #[inline(never)]
    pub fn see_out<B: Buffer>(
        &mut self,
        snapshot: &Snapshot,
        counters: &CounterWriter,
        is_over: bool,
        burst: &mut [B],
        lanes: &mut [Lane],
    ) {
        if is_over && self.drawn {
            self.tell_sent(burst, lanes);
        } else {
            self.decide(burst, lanes);
            if !is_over {
                rewrite::all(snapshot, self.by, counters, burst, lanes);
                self.part(lanes);
            }
            self.tell(burst, lanes);
        }
        self.show();
    }

    /// Before the last frames are rewritten: what has been decided, and copies of those that may be
    /// wanted and are not drawn.
    fn decide<B: Buffer>(&mut self, burst: &[B], lanes: &[Lane]) {
        let (capture, services, by) = (self.capture, self.services, self.by);
        for place in self.wanted {
            let (Some(frame), Some(lane)) = (burst.get(place), lanes.get(place)) else {
                return;
            };
            let note = &mut self.notes[place];
            if is_set_aside(lane.verdict) {
                continue;
            }
            note.decide(services, by, lane);
            if !self.drawn {
                let filter = &capture.filter;
                let service = number(services, note.service);
                note.matches = filter.whose(service, known(note.backend));
                note.ends = note.matches && filter.ends(frame.data());
                if note.matches && filter.by(by.port) {
                    note.keep(capture, &mut self.draft, frame.data());
                }
            }
        }
    }

    /// Of frames that are drawn, after all of their burst have been sent: what has been decided, and
    /// copies as they leave. No filter is to be asked, no copy moved, and nothing has gone aside.
    fn tell_sent<B: Buffer>(&mut self, burst: &[B], lanes: &[Lane]) {
        for place in self.wanted {
            let Some(lane) = lanes.get(place) else {
                break;
            };
            self.notes[place].decide(self.services, self.by, lane);
            let note = &self.notes[place];
            if let Some(copy) = note.copy {
                let record = self.arrived(note, (Fate::Sent, lane.port, None));
                self.draft.amend(copy, &record);
            } else if note.lost {
                self.draft.lose();
            }
        }
        if self.capture.filter.outgoing {
            self.show_leaving(self.wanted, burst, lanes);
        }
    }

    /// What is told of a frame as it came in.
    fn arrived(&self, note: &Note, (fate, other, reason): Ending) -> Record {
        let By { worker, port } = self.by;
        let record = Record {
            kept: note.kept,
            length: note.length,
            fate,
            other,
            reason,
            ..self.capture.record(worker, port, Direction::In, &[])
        };
        self.filled(record, note)
    }

    fn filled(&self, record: Record, note: &Note) -> Record {
        Record {
            why: note.why,
            unix_ns: self.unix_ns,
            service: number(self.services, note.service).unwrap_or(NOBODY),
            backend: note.backend,
            ..record
        }
    }

    /// After frames have been rewritten: which are set aside. None is where all have left at once.
    fn part(&mut self, lanes: &[Lane]) {
        let mut count = 0;
        for (place, lane) in (0u32..).zip(lanes) {
            if has_gone_aside(lane) {
                self.asides |= u32::from(self.wanted.has(place)) << (count % u32::BITS);
                count += 1;
            }
        }
    }

    /// After frames have been rewritten: what became of them, and copies of those that leave.
    fn tell<B: Buffer>(&mut self, burst: &[B], lanes: &[Lane]) {
        let (filter, by) = (&self.capture.filter, self.by);
        let copies = |mut places: Places| places.find_map(|place| self.notes[place].copy);
        let mut front = copies(self.wanted);
        let mut leaving = 0;
        for place in self.wanted {
            let (Some(frame), Some(lane)) = (burst.get(place), lanes.get(place)) else {
                break;
            };
            let note = &self.notes[place];
            if has_gone_aside(lane) {
                continue;
            }
            let (fate, other, reason) = match (lane.verdict, lane.outcome) {
                (Verdict::Done, Some(outcome)) => fate_of(outcome),
                _ => (Fate::Sent, lane.port, None),
            };
            let is_sent = fate == Fate::Sent;
            let matches = self.drawn
                || note.matches
                    && filter.why(reason)
                    && (note.ends || is_sent && filter.ends(frame.data()))
                    && (filter.by(by.port) || is_sent && filter.by(other))
                    && self.is_due();
            if !matches {
                continue;
            }
            if let (Some(copy), Some(to)) = (note.copy, front) {
                let record = self.arrived(note, (fate, other, reason));
                front = Some(self.draft.move_to(copy, to, &record));
            } else if note.lost {
                self.draft.lose();
            }
            if is_sent && filter.outgoing && filter.by(other) {
                leaving |= 1 << place;
            }
        }
        if let Some(front) = front {
            self.draft.take_back(front);
        }
        if leaving != 0 {
            self.show_leaving(Places(leaving), burst, lanes);
        }
    }

    /// Copies frames as they leave.
    fn show_leaving<B: Buffer>(&mut self, leaving: Places, burst: &[B], lanes: &[Lane]) {
        let (capture, by) = (self.capture, self.by);
        for place in leaving {
            let (Some(frame), Some(lane)) = (burst.get(place), lanes.get(place)) else {
                break;
            };
            let record = Record {
                fate: Fate::Sent,
                other: by.port,
                ..capture.record(by.worker, lane.port, Direction::Out, frame.data())
            };
            let record = self.filled(record, &self.notes[place]);
            if self.draft.put(&record, capture.cut(frame.data())).is_none() {
                self.draft.lose();
            }
        }
    }

    /// Counts a packet that matches, where none is drawn; whether it is one of the sample.
    fn is_due(&self) -> bool {
        let ring = self.capture.ring(self.by.worker);
        ring.is_some_and(|ring| ring.is_due(self.capture.sample()))
    }

    /// Lets the control core have what has been captured so far.
    pub fn show(&self) {
        self.draft.publish();
    }
}

/// The number of the service at a place.
fn number(services: &Services, place: u32) -> Option<u32> {
    services.get(place).map(|service| service.number)
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
