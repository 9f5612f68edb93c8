//! A capture on its way to its reader: from the workers' rings into the file.
//!
//! A little each round of the control core, and only what the file has room for; what stays in the
//! rings is lost there when they are full. The capture ends when its reader says so, is gone, or has
//! spoilt the file.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_engine::mempool::Mempool;
use weir_shm::capture::{Begun, Request, Writer};
use weir_shm::segment::mailbox::Answer;
use weir_shm::server::Server;

use crate::capture::{Capture, Ring};
use crate::control::Control;

/// Bytes that are carried in one round.
const BATCH: usize = 1 << 20;
/// How often a little is carried; much is carried at once.
const EVERY: Duration = Duration::from_millis(1);
/// How often it is looked whether the reader lives.
const WATCH: Duration = Duration::from_millis(100);
/// How long workers may take to read that a capture has ended.
const LAST: Duration = Duration::from_millis(200);

/// The capture that there is.
struct Carried {
    capture: Arc<Capture>,
    writer: Writer,
    /// Packets that were lost when the file says so last.
    lost: u64,
    watched: Instant,
    /// When something was carried last.
    last: Instant,
    /// The ring that is emptied first, each in turn.
    turn: usize,
    /// When it was told to end.
    ending: Option<Instant>,
}

/// Captures, one at a time.
#[derive(Default)]
pub struct Capturing {
    carried: Option<Carried>,
    scratch: Vec<u8>,
    id: u64,
}

impl Capturing {
    /// Begins a capture. One whose reader has gone gives way.
    pub fn begin(
        &mut self,
        server: &Server,
        control: &mut Control<Mempool>,
        request: &Request,
    ) -> Answer {
        self.id += 1;
        // Unlike those of a daemon before this one.
        let id = u64::from(std::process::id()) << 32 | self.id;
        // The old file goes first, since it has the same name.
        self.carried = None;
        let capture = match control.begin_capture(request) {
            Ok(capture) => capture,
            Err(reason) => {
                control.end_capture();
                return Answer::Refused { reason };
            }
        };
        match server.begin_capture(id) {
            Ok(writer) => {
                self.carried = Some(Carried {
                    capture,
                    writer,
                    lost: 0,
                    watched: Instant::now(),
                    last: Instant::now(),
                    turn: 0,
                    ending: None,
                });
                Answer::Capturing(Begun {
                    id,
                    ports: control.port_names(),
                })
            }
            Err(error) => {
                control.end_capture();
                Answer::Refused {
                    reason: format!("the capture's file cannot be made: {error}"),
                }
            }
        }
    }

    /// Begins to end the capture: workers are told, and what they have is still carried.
    pub fn end(&mut self, control: &mut Control<Mempool>) {
        if let Some(carried) = &mut self.carried
            && carried.ending.is_none()
        {
            carried.ending = Some(Instant::now());
            control.end_capture();
        }
    }

    /// Carries what there is, where that is much or has waited; whether there may be more by now.
    pub fn carry(&mut self, server: &Server, control: &mut Control<Mempool>) -> bool {
        let Some(carried) = &mut self.carried else {
            return false;
        };
        let moved = carried.carry(&mut self.scratch);
        if carried.watched.elapsed() >= WATCH {
            carried.watched = Instant::now();
            if !server.is_captured() {
                self.end(control);
                self.carried = None;
                return true;
            }
        }
        match moved {
            Ok(Moved::Much) => true,
            Ok(Moved::Little) => false,
            Ok(Moved::Nothing) => {
                let is_over = carried.ending.is_some_and(|since| {
                    control.publisher().waiting() == 0 || since.elapsed() >= LAST
                });
                if is_over {
                    carried.finish().ok();
                    self.carried = None;
                }
                false
            }
            // The reader spoilt its file; that costs it the capture.
            Err(_) => {
                self.end(control);
                self.carried = None;
                false
            }
        }
    }

    /// Whether a capture is under way.
    pub const fn is_on(&self) -> bool {
        self.carried.is_some()
    }
}

/// What was carried.
enum Moved {
    Nothing,
    Little,
    Much,
}

impl Carried {
    fn carry(&mut self, scratch: &mut Vec<u8>) -> io::Result<Moved> {
        let rings = self.capture.rings();
        // A round of the control core costs its core's neighbour something, and one for each packet of a
        // sample would be a round after the other.
        let is_much = rings.iter().any(Ring::is_filling);
        if !is_much && self.ending.is_none() && self.last.elapsed() < EVERY {
            return Ok(Moved::Little);
        }
        self.last = Instant::now();
        scratch.clear();
        let room = self.writer.room()?.min(BATCH);
        let (later, sooner) = rings.split_at(self.turn % rings.len().max(1));
        self.turn = self.turn.wrapping_add(1);
        for ring in sooner.iter().chain(later) {
            ring.take(room - scratch.len(), scratch);
        }
        let lost = self.capture.lost();
        if scratch.is_empty() && lost == self.lost {
            return Ok(Moved::Nothing);
        }
        self.lost = lost;
        self.writer.write(scratch, lost)?;
        Ok(match scratch.len() {
            0 => Moved::Nothing,
            _ if is_much => Moved::Much,
            _ => Moved::Little,
        })
    }

    /// What no room was found for is lost.
    fn finish(&mut self) -> io::Result<()> {
        let left: u64 = (self.capture.rings().iter()).map(Ring::clear).sum();
        self.writer.end(self.capture.lost() + left)
    }
}
