//! The daemon's side of the segment.
//!
//! The daemon keeps everything it has to say in its own memory and treats the file as network
//! input: it reads and writes with `pread` and `pwrite`, checks what it reads, and puts right what
//! others damaged. A call that cannot write says so and changes nothing else; forwarding never
//! depends on the segment.

mod attention;
mod capture;
mod create;
pub(crate) mod incoming;
mod repair;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::counters;
use crate::model::Pool;
use crate::segment::commit::{self, CommitWord};
use crate::segment::directory::{BackendState, RunningDirectory};
use crate::segment::event::{Event, EventKind};
use crate::segment::header::Header;
use crate::segment::layout;
use crate::segment::lock::{self, Lock};
use crate::segment::mailbox::{ANSWERS, Answer, QUESTIONS, Question};
use crate::segment::port::PortStatus;
use crate::segment::slot;
use crate::segment::status::{DaemonState, REFUSALS, Refusal, Status};

use attention::Attention;
pub use create::{CreateError, ServerOptions, Stale, group_id, user_id};
pub use incoming::Incoming;

/// The daemon's side; see the module's text.
#[derive(Debug)]
pub struct Server {
    file: File,
    path: PathBuf,
    options: ServerOptions,
    header: Header,
    status: Status,
    acks: Vec<u64>,
    /// The running directory as it lies in the file.
    directory: Vec<u8>,
    /// The last commit word that was dealt with.
    word: u64,
    /// The last commit word whose pool could be read.
    good_word: u64,
    /// The highest generation that was accepted or refused.
    dealt_with: u64,
    next_event: u64,
    /// The number of the last question.
    question: u64,
    /// How far the running directory was compared with the file.
    compared: usize,
    /// Whether another file was seen under the segment's name.
    usurped: bool,
    /// Whether both directories in the file are alike but for what became of backends.
    twin: bool,
    attention: Attention,
}

pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Server {
    /// Makes the segment of an instance, and takes over that of a daemon that is gone.
    ///
    /// # Errors
    /// When another daemon lives under this name, or the file cannot be made.
    pub fn create(
        folder: &Path,
        instance: &str,
        options: ServerOptions,
    ) -> Result<(Self, Option<Stale>), CreateError> {
        create::create(folder, instance, options)
    }

    /// The segment's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The generation in force.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.status.generation
    }

    /// The highest generation that was accepted or refused.
    #[must_use]
    pub const fn committed(&self) -> u64 {
        self.dealt_with
    }

    /// When the daemon started: nanoseconds since 1970.
    #[must_use]
    pub const fn started_ns(&self) -> u64 {
        self.header.started_ns
    }

    /// Says what is in force, and that the daemon runs: after a change, and whenever a backend's
    /// state changed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn accept(&mut self, directory: &RunningDirectory) -> io::Result<()> {
        self.status.state = DaemonState::Running;
        self.status.generation = directory.generation;
        self.dealt_with = self.dealt_with.max(directory.generation);
        self.status.directory ^= 1;
        self.directory = directory.filling().encode();
        self.twin = false;
        self.file
            .write_all_at(&self.directory, layout::running(self.status.directory))?;
        self.write_status()
    }

    /// Says what became of some backends of what is in force: the place of the first of them, counted
    /// over all services, and states from there on. Writes little, whatever the pool.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn restate(&mut self, changed: &[(usize, Vec<BackendState>)]) -> io::Result<()> {
        let Some(entries) = slot::restate(&mut self.directory, changed) else {
            return Ok(());
        };
        self.status.directory ^= 1;
        let base = layout::running(self.status.directory);
        match (self.twin, self.directory.get(entries.clone())) {
            (true, Some(part)) => {
                let head = self.directory.get(..layout::SLOT_HEADER);
                self.file.write_all_at(head.unwrap_or_default(), base)?;
                self.file.write_all_at(part, base + entries.start as u64)?;
            }
            _ => self.file.write_all_at(&self.directory, base)?,
        }
        self.twin = true;
        self.write_status()
    }

    /// Says that a generation was not put in force, and why.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn refuse(&mut self, generation: u64, reason: &str) -> io::Result<()> {
        self.dealt_with = self.dealt_with.max(generation);
        self.status.refusals.push(Refusal {
            generation,
            reason: reason.to_owned(),
        });
        let surplus = self.status.refusals.len().saturating_sub(REFUSALS);
        self.status.refusals.drain(..surplus);
        self.write_status()
    }

    /// Says which generation a worker runs.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn acknowledge(&mut self, worker: usize, generation: u64) -> io::Result<()> {
        let Some(ack) = self.acks.get_mut(worker) else {
            return Ok(());
        };
        if *ack == generation {
            return Ok(());
        }
        *ack = generation;
        self.file
            .write_all_at(&generation.to_le_bytes(), layout::ack(worker))
    }

    /// Says how full a worker's flow table is: entries in use, and in all.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn occupy(&mut self, worker: usize, entries: u64, capacity: u64) -> io::Result<()> {
        if worker >= self.acks.len() {
            return Ok(());
        }
        let words = [entries, capacity].map(u64::to_le_bytes);
        self.file
            .write_all_at(words.as_flattened(), layout::occupancy(worker))
    }

    /// Says how long the last change of tables took and how many tables were built so far.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn rebuilt(&mut self, nanoseconds: u64, tables_built: u64) -> io::Result<()> {
        self.status.rebuild_last_ns = nanoseconds;
        self.status.rebuild_max_ns = self.status.rebuild_max_ns.max(nanoseconds);
        self.status.tables_built = tables_built;
        self.write_status()
    }

    /// Copies counters into a block, from index `first` on. Blocks are the workers' in order, and
    /// behind them the control core's, [`Server::control_block`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_counters(&mut self, block: usize, first: usize, values: &[u64]) -> io::Result<()> {
        if block >= self.header.blocks() || first + values.len() > counters::BLOCK {
            return Ok(());
        }
        let mut bytes = Vec::with_capacity(values.len() * 8);
        for value in values {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        self.file
            .write_all_at(&bytes, layout::counter(block, first))
    }

    /// The control core's block of counters.
    #[must_use]
    pub const fn control_block(&self) -> usize {
        self.header.workers
    }

    /// Says how the ports are. Entries behind the last are written, too, so that nothing which
    /// others put there is taken for a port.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_ports(&mut self, ports: &[PortStatus]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for port in ports.iter().take(layout::MAX_PORTS) {
            bytes.extend(port.encode());
        }
        bytes.resize(layout::MAX_PORTS * layout::PORT_LEN as usize, 0);
        self.file.write_all_at(&bytes, layout::PORTS)
    }

    /// Writes an event down.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn event(&mut self, kind: EventKind, text: &str) -> io::Result<()> {
        let number = self.next_event;
        self.next_event += 1;
        Event {
            number,
            unix_ns: unix_ns(),
            kind,
            text: text.to_owned(),
        }
        .write(&self.file)
    }

    /// What was asked since the last call, if anything was. Cheap when nothing was. What cannot be
    /// read is left unanswered: its asker, if there is one, runs into its time-out.
    pub fn question(&mut self) -> Option<Question> {
        let number = QUESTIONS.number(&self.file).ok()?;
        if number == self.question {
            return None;
        }
        self.question = number;
        let (found, question) = QUESTIONS.get(&self.file).ok()?;
        (found == number).then_some(question)
    }

    /// Answers the last question.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        match ANSWERS.put(&self.file, self.question, answer) {
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                let reason = "the answer does not fit the mailbox; ask for one backend".to_owned();
                ANSWERS.put(&self.file, self.question, &Answer::Refused { reason })
            }
            other => other,
        }
    }

    /// Says that the daemon stopped in order. The segment stays, to be read.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn stopped(&mut self) -> io::Result<()> {
        self.status.state = DaemonState::Stopped;
        self.write_status()
    }

    /// Puts a first pool in force: as [`Server::accept`], and in a slot and the commit word, so
    /// that operators have something to change.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn publish_initial(&mut self, directory: &RunningDirectory) -> io::Result<()> {
        self.commit_own(directory.generation, &directory.pool)?;
        self.accept(directory)
    }

    /// Keeps operators from changing the pool, if none of them is at it; for [`Server::commit`].
    ///
    /// # Errors
    /// Of the system.
    pub fn begin_edit(&self) -> io::Result<bool> {
        lock::try_take(&self.file, Lock::Writer)
    }

    /// Lets operators change the pool again.
    ///
    /// # Errors
    /// Of the system.
    pub fn end_edit(&self) -> io::Result<()> {
        lock::release(&self.file, Lock::Writer)
    }

    /// Commits a pool in an operator's stead, who waits for it, or between [`Server::begin_edit`] and
    /// [`Server::end_edit`]; gives its generation. Follow with [`Server::accept`] or
    /// [`Server::refuse`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn commit(&mut self, pool: &Pool) -> io::Result<u64> {
        let word = commit::read(&self.file).ok().and_then(CommitWord::decode);
        let word = word.filter(|word| word.generation <= self.dealt_with + incoming::MAX_LEAP);
        let last = word.map_or(0, |word| word.generation);
        let generation = last.max(self.dealt_with) + 1;
        let slot = word.map_or(0, |word| word.slot ^ 1);
        let filling = incoming::filling(generation, pool).encode();
        self.file.write_all_at(&filling, layout::slot(slot))?;
        let word = CommitWord { generation, slot };
        commit::publish(&self.file, word)?;
        self.word = word.encode();
        self.good_word = self.word;
        Ok(generation)
    }

    fn commit_own(&mut self, generation: u64, pool: &Pool) -> io::Result<()> {
        let (word, filling) = incoming::committed(generation, pool);
        self.file.write_all_at(&filling, layout::slot(0))?;
        self.file
            .write_all_at(&word.to_le_bytes(), layout::COMMIT)?;
        self.word = word;
        self.good_word = word;
        Ok(())
    }

    fn write_status(&self) -> io::Result<()> {
        self.file
            .write_all_at(&self.status.encode(), layout::STATUS)
    }
}

#[cfg(test)]
mod tests;
