//! What is told of a packet that was drawn for a sample and sent at once, as nearly all are: no filter
//! has to be asked, no copy moved and no frame set aside.

use weir_engine::buffer::Buffer;
use weir_shm::capture::{Direction, Fate, NOBODY, Record};

use super::{Tap, number};
use crate::pipeline::lane::Lane;

impl Tap<'_> {
    /// After all frames of a burst have been sent: what has been decided of those that are drawn, and
    /// copies as they leave.
    pub(super) fn tell_sent<B: Buffer>(&mut self, burst: &[B], lanes: &[Lane]) {
        let (capture, by) = (self.capture, self.by);
        for place in self.wanted {
            let (Some(frame), Some(lane)) = (burst.get(place), lanes.get(place)) else {
                break;
            };
            let note = &mut self.notes[place];
            note.decide(self.services, by, lane);
            let arrived = Record {
                kept: note.kept,
                length: note.length,
                direction: Direction::In,
                fate: Fate::Sent,
                why: note.why,
                reason: None,
                unix_ns: self.unix_ns,
                service: number(self.services, note.service).unwrap_or(NOBODY),
                backend: note.backend,
                port: by.port,
                other: lane.port,
                worker: by.worker,
            };
            if let Some(copy) = note.copy {
                self.draft.amend(copy, &arrived);
            } else if note.lost {
                self.draft.lose();
            }
            if !capture.filter.outgoing {
                continue;
            }
            let data = frame.data();
            let kept = capture.cut(data);
            let left = Record {
                kept: kept.len() as u16,
                length: u16::try_from(data.len()).unwrap_or(u16::MAX),
                direction: Direction::Out,
                port: lane.port,
                other: by.port,
                ..arrived
            };
            if self.draft.put(&left, kept).is_none() {
                self.draft.lose();
            }
        }
    }
}
