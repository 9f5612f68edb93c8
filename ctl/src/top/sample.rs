//! One reading of the segment: everything that a frame shows is in it or is the difference of two.
//!
//! The segment is opened anew for each reading, so that a daemon that starts again under the same
//! name is seen at once. Workers notice nothing; the control core is asked for live flows and checks
//! alone, and no more often than takes it a small share of its time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_shm::client::{Client, ClientError, Counters, Occupancy};
use weir_shm::model::HealthKind;
use weir_shm::segment::directory::RunningDirectory;
use weir_shm::segment::event::Event;
use weir_shm::segment::mailbox::{Answer, BackendHealth, Question};
use weir_shm::segment::port::PortStatus;

/// How long the control core may take for an answer before the frame goes without.
const PATIENCE: Duration = Duration::from_millis(300);
/// The shortest time between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// A round of questions that took so long is followed by this many times as much silence.
const SILENCE: u32 = 50;

/// A service's and a backend's name.
pub(super) type Place = (String, String);

/// What the control core told lately.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    /// Live flows.
    pub(super) flows: HashMap<Place, u64>,
    /// What checks found.
    pub(super) checks: HashMap<Place, BackendHealth>,
}

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

    /// Asks for live flows and checks, if it is time to. What is not told stays as it was.
    fn ask(&mut self, client: &Client, directory: &RunningDirectory) {
        if client.started_ns() != self.of {
            self.of = client.started_ns();
            self.told = Told::default();
        }
        let begin = Instant::now();
        if begin < self.silent_until {
            return;
        }
        for service in &directory.pool.services {
            let flows = Question::Flows {
                service: service.name.clone(),
                backend: None,
            };
            match client.ask(&flows, PATIENCE) {
                Ok(Answer::Flows { backends }) => {
                    for told in backends {
                        let place = (service.name.clone(), told.backend);
                        self.told.flows.insert(place, told.flows);
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
            if service.health.kind != HealthKind::None {
                let health = Question::Health {
                    service: service.name.clone(),
                };
                if let Ok(Answer::Health { backends }) = client.ask(&health, PATIENCE) {
                    for told in backends {
                        let place = (service.name.clone(), told.backend.clone());
                        self.told.checks.insert(place, told);
                    }
                }
            }
            if begin.elapsed() > PATIENCE {
                break;
            }
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
