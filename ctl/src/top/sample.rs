//! One reading of the segment: everything that a frame shows is in it or is the difference of two.
//!
//! The segment is opened anew for each reading, so that a daemon that starts again under the same
//! name is seen at once. Workers notice nothing; the control core is asked for live flows and checks
//! alone, and no more often than takes it a small share of its time.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_shm::client::{Client, ClientError, Counters, Occupancy};
use weir_shm::segment::directory::RunningDirectory;
use weir_shm::segment::event::Event;
use weir_shm::segment::mailbox::Question;
use weir_shm::segment::port::PortStatus;

use super::told::Told;

/// How long the control core may take for a round of questions, and at first for an answer, before the
/// frame goes without.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long it may take for an answer at most, after it did not give one in a shorter time: to count
/// flows of very large tables.
const MOST_PATIENCE: Duration = Duration::from_millis(2400);
/// The shortest time between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A round of questions that took so long is followed by this many times as much silence.
const SILENCE: u32 = 50;

/// A reading.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) unix_ns: u64,
    pub(super) instance: String,
    pub(super) version: String,
    pub(super) pid: u32,
    pub(super) started_ns: u64,
    pub(super) directory: RunningDirectory,
    pub(super) counters: Counters,
    pub(super) acknowledged: Vec<u64>,
    pub(super) occupancy: Vec<Occupancy>,
    pub(super) ports: Vec<PortStatus>,
    pub(super) events: Vec<Event>,
    pub(super) told: Told,
}

/// Where readings come from.
#[derive(Debug)]
pub(super) struct Source {
    folder: PathBuf,
    instance: String,
    told: Told,
    /// How long to wait for an answer.
    patience: Duration,
    /// Not to be asked before.
    silent_until: Instant,
    /// The daemon that was asked last, by its start.
    of: u64,
}

impl Source {
    pub(super) fn new(folder: PathBuf, instance: String) -> Self {
        Self {
            folder,
            instance,
            told: Told::default(),
            patience: PATIENCE,
            silent_until: Instant::now(),
            of: 0,
        }
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// When there is no daemon that runs, or its segment cannot be read.
    pub(super) fn read(&mut self) -> Result<Sample, ClientError> {
        let client = Client::open(&self.folder, &self.instance)?;
        client.must_run()?;
        let directory = client.running()?;
        let counters = client.counters(&directory)?;
        let at = Instant::now();
        self.ask(&client, &directory);
        Ok(Sample {
            at,
            unix_ns: now_ns(),
            instance: client.instance().to_owned(),
            version: client.version().to_owned(),
            pid: client.pid(),
            started_ns: client.started_ns(),
            acknowledged: client.acknowledged()?,
            occupancy: client.occupancy()?,
            ports: client.ports()?,
            events: client.events(0)?,
            told: self.told.clone(),
            directory,
            counters,
        })
    }

    /// Asks for live flows and checks, if it is time to.
    fn ask(&mut self, client: &Client, directory: &RunningDirectory) {
        if client.started_ns() != self.of {
            self.of = client.started_ns();
            self.told = Told::default();
            self.patience = PATIENCE;
        }
        let begin = Instant::now();
        if begin < self.silent_until {
            return;
        }
        let patience = self.patience;
        let is_late = || begin.elapsed() > PATIENCE;
        let mut ask = |question: &Question| client.ask(question, patience);
        if !self.told.round(&directory.pool, &mut ask, &is_late) {
            self.patience = (patience * 2).min(MOST_PATIENCE);
        }
        let silence = (begin.elapsed() * SILENCE).max(ASK_EVERY);
        self.silent_until = Instant::now() + silence;
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}
