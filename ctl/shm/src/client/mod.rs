//! The operator's side of the segment.
//!
//! Reading takes nothing from the daemon. Changing goes through an [`Edit`], which keeps other
//! writers out from reading the pool until the daemon has put the changed one in force or refused it.

mod ask;
mod capture;
mod counters;
mod edit;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::segment::bytes::Malformed;
use crate::segment::directory::RunningDirectory;
use crate::segment::event::Event;
use crate::segment::header::{Header, NotOurs};
use crate::segment::lock::{self, Lock};
use crate::segment::port::PortStatus;
use crate::segment::status::{DaemonState, Status};
use crate::segment::{self, layout};

pub use counters::Counters;
pub use edit::{Edit, Outcome};

/// Times that something is read again when the daemon was writing it.
const TRIES: usize = 50;
/// From one reading to the next.
const RETRY: Duration = Duration::from_millis(1);

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No segment has this name.
    #[error("no instance \"{instance}\" in {}; {}", .folder.display(), listed(.known))]
    NoInstance {
        /// What was asked for.
        instance: String,
        /// Where.
        folder: PathBuf,
        /// What is there.
        known: Vec<String>,
    },
    /// No instance was named, and there is not exactly one.
    #[error("{} in {}; name one with --instance or WEIR_INSTANCE", listed(.known), .folder.display())]
    Which {
        /// Where.
        folder: PathBuf,
        /// What is there.
        known: Vec<String>,
    },
    /// The file may not be used.
    #[error("no permission to use {}: join the group that owns it (ls -l), or be root", .0.display())]
    Permission(PathBuf),
    /// The segment is of another weir.
    #[error("the segment of \"{instance}\" has layout version {found}, and this weirctl speaks version {own}; use the weirctl of the same release", own = layout::LAYOUT_VERSION)]
    Version {
        /// The instance.
        instance: String,
        /// Its version.
        found: u32,
    },
    /// The segment is no segment, or damaged.
    #[error("{} cannot be used: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The daemon is not there.
    #[error("instance \"{instance}\" is not running: {how}; start it with \"weir run\"")]
    NotRunning {
        /// The instance.
        instance: String,
        /// How it ended, as far as can be told.
        how: String,
    },
    /// Others kept a lock.
    #[error("another weirctl has been {doing} instance \"{instance}\" for {waited:?}; try again")]
    Busy {
        /// The instance.
        instance: String,
        /// What the other does.
        doing: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The daemon did not answer in time.
    #[error("the daemon of \"{instance}\" did not answer within {waited:?}")]
    NoAnswer {
        /// The instance.
        instance: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The daemon cannot answer.
    #[error("{0}")]
    Refused(String),
    /// The system said no.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn listed(known: &[String]) -> String {
    match known {
        [] => "no instance is there (is weir running?)".to_owned(),
        [one] => format!("there is \"{one}\""),
        many => format!("there are \"{}\"", many.join("\", \"")),
    }
}

/// How full a worker's flow table is; all zero when the daemon does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Occupancy {
    /// Entries that hold a flow, some of which may have timed out unnoticed.
    pub entries: u64,
    /// Entries in all.
    pub capacity: u64,
}

/// A segment, opened.
#[derive(Debug)]
pub struct Client {
    file: File,
    path: PathBuf,
    header: Header,
}

impl Client {
    /// Opens the segment of an instance, live or not.
    ///
    /// # Errors
    /// When there is none, or it is not one that this weirctl can read.
    pub fn open(folder: &Path, instance: &str) -> Result<Self, ClientError> {
        let no_instance = || ClientError::NoInstance {
            instance: instance.to_owned(),
            folder: folder.to_owned(),
            known: segment::instances(folder).unwrap_or_default(),
        };
        if !segment::is_instance_name(instance) {
            return Err(no_instance());
        }
        let path = segment::path(folder, instance);
        let file = segment::open(&path, &mut OpenOptions::new()).map_err(|source| match source
            .kind()
        {
            io::ErrorKind::NotFound => no_instance(),
            io::ErrorKind::PermissionDenied => ClientError::Permission(path.clone()),
            _ => ClientError::Io {
                path: path.clone(),
                source,
            },
        })?;
        let damaged = |reason: String| ClientError::Damaged {
            path: path.clone(),
            reason,
        };
        let header = retried(|| match Header::read(&file) {
            Ok(header) => Ok(Ok(header)),
            Err(NotOurs::Version(found)) => Ok(Err(found)),
            Err(NotOurs::Empty) => Err(Malformed::new("it is empty; a daemon may be starting")),
            Err(NotOurs::Damaged(reason)) => Err(Malformed::new(reason)),
        })
        .map_err(|malformed| damaged(malformed.0))?;
        match header {
            Ok(header) => Ok(Self { file, path, header }),
            Err(found) => Err(ClientError::Version {
                instance: instance.to_owned(),
                found,
            }),
        }
    }

    /// Opens the named instance, or the only one there is, or the only one of several that runs.
    ///
    /// # Errors
    /// As [`Client::open`], and when none is named and it is not clear which is meant.
    pub fn open_or_only(folder: &Path, instance: Option<&str>) -> Result<Self, ClientError> {
        if let Some(instance) = instance {
            return Self::open(folder, instance);
        }
        let known = segment::instances(folder).map_err(|source| ClientError::Io {
            path: folder.to_owned(),
            source,
        })?;
        match known.as_slice() {
            [only] => Self::open(folder, only),
            _ => Self::only_living(folder, &known).ok_or_else(|| ClientError::Which {
                folder: folder.to_owned(),
                known,
            }),
        }
    }

    /// The one instance among several whose daemon lives; `None` if none or more than one does.
    fn only_living(folder: &Path, known: &[String]) -> Option<Self> {
        let opened = known
            .iter()
            .filter_map(|instance| Self::open(folder, instance).ok());
        let mut living = opened.filter(|client| client.is_alive().unwrap_or(false));
        let first = living.next()?;
        living.next().is_none().then_some(first)
    }

    /// The instance's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.header.instance
    }

    /// The daemon's process.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.header.pid
    }

    /// The daemon's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.header.version
    }

    /// When the daemon started, in nanoseconds since 1970.
    #[must_use]
    pub const fn started_ns(&self) -> u64 {
        self.header.started_ns
    }

    /// The daemon's workers.
    #[must_use]
    pub const fn workers(&self) -> usize {
        self.header.workers
    }

    /// The daemon's configuration file.
    #[must_use]
    pub fn config_path(&self) -> &Path {
        Path::new(&self.header.config_path)
    }

    /// Whether the daemon lives.
    ///
    /// # Errors
    /// Of the system.
    pub fn is_alive(&self) -> Result<bool, ClientError> {
        lock::is_taken(&self.file, Lock::Daemon).map_err(|source| self.io(source))
    }

    /// What the daemon says of itself.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn status(&self) -> Result<Status, ClientError> {
        retried(|| Status::read(&self.file)).map_err(|malformed| self.damaged(malformed))
    }

    /// The pool in force.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn running(&self) -> Result<RunningDirectory, ClientError> {
        retried(|| {
            let status = Status::read(&self.file)?;
            if status.generation == 0 {
                return Err(Malformed::new("no pool is in force yet"));
            }
            let directory = RunningDirectory::read(&self.file, status.directory)?;
            if directory.generation == status.generation {
                Ok(directory)
            } else {
                Err(Malformed::new(
                    "the running directory is of another generation",
                ))
            }
        })
        .map_err(|malformed| self.damaged(malformed))
    }

    /// The generation that each worker runs.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn acknowledged(&self) -> Result<Vec<u64>, ClientError> {
        (0..self.header.workers)
            .map(|worker| {
                let mut bytes = [0; 8];
                self.file
                    .read_exact_at(&mut bytes, layout::ack(worker))
                    .map_err(|source| self.io(source))?;
                Ok(u64::from_le_bytes(bytes))
            })
            .collect()
    }

    /// How full each worker's flow table is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn occupancy(&self) -> Result<Vec<Occupancy>, ClientError> {
        (0..self.header.workers)
            .map(|worker| {
                let mut bytes = [0; 16];
                self.file
                    .read_exact_at(&mut bytes, layout::occupancy(worker))
                    .map_err(|source| self.io(source))?;
                let [entries, capacity] = [0, 8].map(|at| {
                    let word = bytes.get(at..).and_then(<[u8]>::first_chunk);
                    u64::from_le_bytes(*word.unwrap_or(&[0; 8]))
                });
                Ok(Occupancy { entries, capacity })
            })
            .collect()
    }

    /// Events from number `from` on that are still kept.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn events(&self, from: u64) -> Result<Vec<Event>, ClientError> {
        Event::read_from(&self.file, from).map_err(|malformed| self.damaged(malformed))
    }

    /// The ports.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn ports(&self) -> Result<Vec<PortStatus>, ClientError> {
        retried(|| PortStatus::read_all(&self.file)).map_err(|malformed| self.damaged(malformed))
    }

    /// The counters of everything in `directory`.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn counters(&self, directory: &RunningDirectory) -> Result<Counters, ClientError> {
        Counters::read(&self.file, self.header.blocks(), directory)
            .map_err(|source| self.io(source))
    }

    /// An error unless the daemon lives and runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn must_run(&self) -> Result<(), ClientError> {
        if self.is_alive()? {
            return Ok(());
        }
        let stopped = self
            .status()
            .is_ok_and(|status| status.state == DaemonState::Stopped);
        let how = if stopped {
            "it was stopped"
        } else {
            "its process is gone"
        };
        Err(ClientError::NotRunning {
            instance: self.header.instance.clone(),
            how: format!("{how} (it was process {})", self.header.pid),
        })
    }

    fn io(&self, source: io::Error) -> ClientError {
        ClientError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn damaged(&self, malformed: Malformed) -> ClientError {
        ClientError::Damaged {
            path: self.path.clone(),
            reason: malformed.0,
        }
    }
}

/// Reads until what is read is whole: the daemon may be writing it.
fn retried<T>(read: impl Fn() -> Result<T, Malformed>) -> Result<T, Malformed> {
    let mut outcome = read();
    for _ in 1..TRIES {
        if outcome.is_ok() {
            break;
        }
        std::thread::sleep(RETRY);
        outcome = read();
    }
    outcome
}
