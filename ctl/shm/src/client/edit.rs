//! Changing the pool: lock, read, write, publish, wait.

use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use super::{Client, ClientError};
use crate::model::Pool;
use crate::segment::commit::{self, CommitWord, MAX_GENERATION};
use crate::segment::layout;
use crate::segment::lock::{self, Lock};
use crate::server::incoming::{MAX_LEAP, filling, read_commit};

/// The pause between two looks at the acknowledgements at first, while a change of an ordinary pool
/// takes effect.
const SHORT_PAUSE: Duration = Duration::from_micros(100);
/// How long that is.
const PROMPT: Duration = Duration::from_millis(20);
/// The longest pause.
const PAUSE: Duration = Duration::from_millis(10);

/// A change under way. Other writers wait until it is dropped.
#[derive(Debug)]
pub struct Edit<'a> {
    client: &'a Client,
    base: Pool,
    /// The last generation that anybody has used.
    last: u64,
    /// The slot that nobody needs.
    free: u8,
}

/// What became of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All workers run it.
    Acknowledged {
        /// How many.
        workers: usize,
    },
    /// The daemon refused it; what was in force stays so.
    Refused {
        /// Why.
        reason: String,
    },
    /// Not all workers ran it in time. It stays committed.
    TimedOut {
        /// Whether the daemon put it in force at all.
        accepted: bool,
        /// The workers that run an older one.
        missing: Vec<usize>,
    },
}

impl Client {
    /// Begins a change, waiting up to `timeout` for other writers.
    ///
    /// # Errors
    /// When the daemon does not run or others do not finish.
    pub fn edit(&self, timeout: Duration) -> Result<Edit<'_>, ClientError> {
        self.must_run()?;
        if !lock::take(&self.file, Lock::Writer, timeout).map_err(|source| self.io(source))? {
            return Err(ClientError::Busy {
                instance: self.header.instance.clone(),
                doing: "changing",
                waited: timeout,
            });
        }
        let edit = self.begin();
        if edit.is_err() {
            // The edit was not made, so nothing else would give the lock back.
            lock::release(&self.file, Lock::Writer).ok();
        }
        edit
    }

    /// With the lock held: what was committed, if the daemon can take it, else what it runs. A slot
    /// that was damaged or refused never stands in the way of the next change.
    fn begin(&self) -> Result<Edit<'_>, ClientError> {
        let status = self.status()?;
        let refused = status
            .refusals
            .iter()
            .map(|refusal| refusal.generation)
            .max()
            .unwrap_or(0);
        let dealt_with = status.generation.max(refused);
        let word = commit::read(&self.file).ok().and_then(CommitWord::decode);
        let word = word.filter(|word| word.generation <= dealt_with.saturating_add(MAX_LEAP));
        let committed = word
            .filter(|word| {
                word.generation >= status.generation && status.refusal(word.generation).is_none()
            })
            .and_then(|word| read_commit(&self.file, word).ok());
        let base = match committed {
            Some(committed) => committed,
            None => self.running()?.pool,
        };
        Ok(Edit {
            client: self,
            base,
            last: word.map_or(dealt_with, |word| dealt_with.max(word.generation)),
            free: word.map_or(0, |word| word.slot ^ 1),
        })
    }
}

impl Edit<'_> {
    /// The pool to change.
    #[must_use]
    pub const fn base(&self) -> &Pool {
        &self.base
    }

    /// Commits a pool; gives its generation. Killed at any moment before the one store that
    /// publishes it, the last commit stays in force.
    ///
    /// # Errors
    /// When the pool is not valid, the segment cannot be written, or it was replaced by a new daemon's.
    pub fn commit(&mut self, pool: &Pool) -> Result<u64, ClientError> {
        let generation = self.last + 1;
        let io = |source| self.client.io(source);
        if generation > MAX_GENERATION {
            return Err(io(io::Error::other(
                "generations are used up; restart the daemon",
            )));
        }
        // A slot has room for what a valid pool can be, and for no more.
        if let Err(problem) = pool.validate() {
            return Err(ClientError::Refused(problem.message));
        }
        let bytes = filling(generation, pool).encode();
        let file = &self.client.file;
        file.write_all_at(&bytes, layout::slot(self.free))
            .map_err(io)?;
        let named = std::fs::symlink_metadata(&self.client.path).map_err(io)?;
        let open = file.metadata().map_err(io)?;
        if (named.dev(), named.ino()) != (open.dev(), open.ino()) {
            return Err(ClientError::NotRunning {
                instance: self.client.header.instance.clone(),
                how: "the daemon was replaced by another meanwhile; try again".to_owned(),
            });
        }
        commit::publish(
            file,
            CommitWord {
                generation,
                slot: self.free,
            },
        )
        .map_err(io)?;
        self.last = generation;
        self.free ^= 1;
        self.base = pool.clone();
        Ok(generation)
    }

    /// Waits until all workers run a generation, the daemon refuses it, or time is up.
    ///
    /// # Errors
    /// When the daemon is gone.
    pub fn wait(&self, generation: u64, timeout: Duration) -> Result<Outcome, ClientError> {
        let started = Instant::now();
        let deadline = started + timeout;
        let mut pause = SHORT_PAUSE;
        loop {
            let status = self.client.status()?;
            if let Some(refusal) = status.refusal(generation) {
                return Ok(Outcome::Refused {
                    reason: refusal.reason.clone(),
                });
            }
            let accepted = status.generation >= generation;
            let acknowledged = self.client.acknowledged()?;
            let missing: Vec<usize> = (0..)
                .zip(&acknowledged)
                .filter(|(_, of_worker)| **of_worker < generation)
                .map(|(worker, _)| worker)
                .collect();
            if accepted && missing.is_empty() {
                return Ok(Outcome::Acknowledged {
                    workers: acknowledged.len(),
                });
            }
            if Instant::now() >= deadline {
                self.client.must_run()?;
                return Ok(Outcome::TimedOut { accepted, missing });
            }
            std::thread::sleep(pause);
            if started.elapsed() > PROMPT {
                pause = (pause * 2).min(PAUSE);
            }
        }
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        // If the system refuses, the lock goes with the file at the latest.
        lock::release(&self.client.file, Lock::Writer).ok();
    }
}
