//! What is noted of a frame on its way: who gets it and why, and where its copy lies.

use weir_engine::wire::tcp::flags;
use weir_shm::capture::{NOBODY, Why};

use crate::capture::{Capture, Draft, Place};
use crate::conntrack::State;
use crate::pipeline::BURST;
use crate::pipeline::lane::{Before, Lane, Verdict};
use crate::pipeline::rewrite::By;
use crate::service::{NO_SERVICE, Services};

/// What is noted of the frames of a burst on their way, a worker's own.
pub type Notes = [Note; BURST];

/// What is noted of a frame on its way. Before a frame is wanted, nothing of it is meaningful.
#[derive(Debug, Clone, Copy)]
pub struct Note {
    /// The place of its service, or [`NO_SERVICE`].
    pub(super) service: u32,
    /// Its backend's number, or [`NOBODY`].
    pub(super) backend: u32,
    pub(super) why: Why,
    /// Whether service and backend match.
    pub(super) matches: bool,
    /// Whether its ends match as it came in.
    pub(super) ends: bool,
    /// Its copy.
    pub(super) copy: Option<Place>,
    /// Bytes kept in that, and bytes of the frame.
    pub(super) kept: u16,
    pub(super) length: u16,
    /// Whether there was no room for that.
    pub(super) lost: bool,
    /// The backend that its client had.
    pub(super) pinned: u32,
    /// The backend that its connection ID names.
    pub(super) named: u32,
    /// What was known of it before it was steered.
    pub(super) verdict: Verdict,
}

impl Default for Note {
    /// That nothing is known.
    fn default() -> Self {
        Self {
            service: NO_SERVICE,
            backend: NOBODY,
            why: Why::None,
            matches: false,
            ends: false,
            copy: None,
            kept: 0,
            length: 0,
            lost: false,
            pinned: NOBODY,
            named: NOBODY,
            verdict: Verdict::Forward,
        }
    }
}

impl Note {
    /// Copies a frame as it came in, if that is to be shown.
    #[inline]
    pub(super) fn keep(&mut self, capture: &Capture, draft: &mut Draft<'_>, frame: &[u8]) {
        if capture.filter.incoming {
            (self.kept, self.length) = capture.sizes(frame);
            self.copy = draft.keep(capture.cut(frame));
            self.lost = self.copy.is_none();
        }
    }

    /// Before its frame is rewritten, or after: who gets it, and why.
    pub(super) fn decide(&mut self, services: &Services, by: By, lane: &Lane) {
        let verdict = match lane.verdict {
            // It has been rewritten already: it was what it was, and who gets it is as was decided.
            Verdict::Sent | Verdict::Done => self.verdict,
            verdict => verdict,
        };
        match verdict {
            Verdict::Forward | Verdict::Steered | Verdict::Named | Verdict::Session => {
                self.service = lane.service;
                self.backend = lane.backend;
                self.why = self.named_by(lane);
            }
            Verdict::Return => {
                self.backend = lane.backend;
                self.why = Why::Return;
            }
            Verdict::Answer => {
                let table = (services.sessions.as_ref())
                    .and_then(|sessions| sessions.table(by.worker.into()));
                let record = table.and_then(|table| table.record(lane.session));
                self.backend = record.map_or(NOBODY, |record| record.backend_number());
                self.why = Why::Session;
            }
            _ => {}
        }
        if self.service == NO_SERVICE
            && let Some(backend) = services.backends.get(self.backend as usize)
        {
            self.service = backend.service;
        }
    }

    /// What named the backend of a client's packet.
    fn named_by(&self, lane: &Lane) -> Why {
        if self.named != NOBODY && self.named == lane.backend {
            return Why::ConnectionId;
        }
        let opening = flags::SYN | flags::ACK | flags::RST | flags::FIN;
        match lane.before.held() {
            Some((State::Closing, _)) if lane.packet.tcp_flags & opening == flags::SYN => {
                Why::Scheduler
            }
            Some((_, backend)) if backend == lane.backend => Why::Conntrack,
            Some(_) => Why::Moved,
            None if lane.before == Before::STEADY => Why::Conntrack,
            None if self.pinned == lane.backend => Why::Affinity,
            None => Why::Scheduler,
        }
    }
}
