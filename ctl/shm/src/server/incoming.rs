//! Taking in what operators commit.

use std::fs::File;
use std::io;

use super::Server;
use crate::model::Pool;
use crate::segment::bytes::Malformed;
use crate::segment::commit::{self, CommitWord};
use crate::segment::status::Refusal;
use crate::segment::{layout, record, slot::Filling};

/// Times that a commit is read again before it is refused: a writer may be at work on it.
const TRIES: usize = 4;
/// How far a generation may be ahead of the last one. More is not an operator's doing, and would
/// let one bad word use up all generations.
pub(crate) const MAX_LEAP: u64 = 1 << 32;

/// A configuration that was committed and is valid in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Its generation.
    pub generation: u64,
    /// The pool.
    pub pool: Pool,
}

/// The word and the filling of slot 0 for a pool.
pub(super) fn committed(generation: u64, pool: &Pool) -> (u64, Vec<u8>) {
    (
        CommitWord {
            generation,
            slot: 0,
        }
        .encode(),
        filling(generation, pool).encode(),
    )
}

/// A pool as it lies in a slot.
pub(crate) fn filling(generation: u64, pool: &Pool) -> Filling {
    Filling {
        generation,
        services: pool.services.len() as u32,
        backends: pool.backend_count() as u32,
        records: record::encode(pool),
    }
}

/// The pool that a commit word names.
pub(crate) fn read_commit(file: &File, word: CommitWord) -> Result<Pool, Malformed> {
    let filling = Filling::read(file, layout::slot(word.slot), record::encoded_len)?;
    if filling.generation != word.generation {
        return Err(Malformed::new(format!(
            "it holds generation {}",
            filling.generation
        )));
    }
    record::decode(&filling.records, filling.services, filling.backends)
}

impl Server {
    /// What was committed since the last call: a valid pool, or why there is none. Cheap when
    /// nothing was. Each commit is reported once; follow with [`Server::accept`] or
    /// [`Server::refuse`].
    pub fn poll(&mut self) -> Option<Result<Incoming, Refusal>> {
        let mut word = self.changed_word()?;
        if word == self.good_word {
            // A damaged word was put right again.
            self.word = word;
            return None;
        }
        let mut outcome = self.take_in(word);
        for _ in 1..TRIES {
            if outcome.is_ok() {
                break;
            }
            std::thread::yield_now();
            word = self.changed_word()?;
            outcome = self.take_in(word);
        }
        self.word = word;
        if outcome.is_ok() {
            self.good_word = word;
        }
        Some(outcome)
    }

    /// The commit word, if it is another than the last one. A segment cut short has none; the next
    /// repair notices.
    fn changed_word(&self) -> Option<u64> {
        let word: io::Result<u64> = commit::read(&self.file);
        word.ok().filter(|word| *word != self.word)
    }

    fn take_in(&self, word: u64) -> Result<Incoming, Refusal> {
        let unattributed = |reason| Refusal {
            generation: 0,
            reason,
        };
        let word = CommitWord::decode(word).ok_or_else(|| {
            unattributed(format!(
                "the commit word {word:#018x} is damaged; nobody published it"
            ))
        })?;
        let CommitWord { generation, slot } = word;
        if generation <= self.dealt_with || generation > self.dealt_with + MAX_LEAP {
            return Err(unattributed(format!(
                "the commit word names generation {generation}, which cannot follow {}",
                self.dealt_with
            )));
        }
        let pool = read_commit(&self.file, word).map_err(|malformed| Refusal {
            generation,
            reason: format!("slot {slot} of the segment cannot be obeyed: {malformed}"),
        })?;
        Ok(Incoming { generation, pool })
    }
}
