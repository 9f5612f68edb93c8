//! What becomes of a frame that was set aside, for the capture that wants it: one frame at a time, and all
//! that comes of it.

use weir_engine::buffer::Buffer;
use weir_shm::capture::record::NO_PORT;
use weir_shm::capture::{Direction, Fate, NOBODY, Record, Why};
use weir_shm::counters::DropReason;

use super::{Ending, Note, Tap, fate_of, known, number};
use crate::adjacency::Neighbour;
use crate::capture::Place;
use crate::parse::Packet;
use crate::pipeline::Sink;
use crate::pipeline::rewrite::{By, Outcome};
use crate::service::NO_SERVICE;

impl Tap<'_> {
    /// Of the next frame that was set aside: begins to watch what becomes of it, if it may be wanted.
    pub fn watch(&mut self, frame: &[u8]) -> Option<Watch> {
        let is_wanted = self.asides & 1 != 0;
        self.asides >>= 1;
        if !is_wanted {
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
        let mut note = Note::default();
        if let Some(backend) = backend {
            note.backend = backend;
            note.why = Why::Related;
            let backend = self.services.backends.get(backend as usize);
            note.service = backend.map_or(NO_SERVICE, |backend| backend.service);
        } else if let Some(packet) = packet {
            let at_vip = || (self.services).at_vip(packet.version, packet.destination);
            let exact = self.services.exact(packet);
            note.service = exact.or_else(at_vip).unwrap_or(NO_SERVICE);
        }
        let matches = watch.matches
            && filter.whose(number(self.services, note.service), known(note.backend))
            && filter.why(reason)
            && (self.drawn || self.is_due());
        if !matches {
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
        let service = number(self.services, note.service).unwrap_or(NOBODY);
        self.draft.amend_from(watch.start, |record| Record {
            why: note.why,
            service,
            backend: note.backend,
            ..record
        });
    }
}

/// A frame that was set aside, while it is dealt with.
pub struct Watch {
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
pub struct Watching<'a, 'b, S> {
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
