//! Counters as operators read them: copied out once, then summed over workers.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::counters::{self, BACKEND_LEN, SERVICE_LEN};
use crate::segment::directory::RunningDirectory;
use crate::segment::layout;

/// A copy of all blocks, as far as a directory's services and backends reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    blocks: Vec<Block>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    /// From the block's start over the services.
    front: Vec<u64>,
    /// From [`counters::BACKENDS`] on.
    backends: Vec<u64>,
}

impl Counters {
    pub(super) fn read(
        file: &File,
        blocks: usize,
        directory: &RunningDirectory,
    ) -> io::Result<Self> {
        let entries = &directory.services;
        let services = entries
            .iter()
            .map(|entry| entry.number as usize + 1)
            .max()
            .unwrap_or(0);
        let backends = entries.iter().flat_map(|entry| &entry.backends);
        let backends = backends
            .map(|entry| entry.number as usize + 1)
            .max()
            .unwrap_or(0);
        let blocks = (0..blocks)
            .map(|block| {
                let front = counters::SERVICES + services * SERVICE_LEN;
                Ok(Block {
                    front: words(file, layout::counter(block, 0), front)?,
                    backends: words(
                        file,
                        layout::counter(block, counters::BACKENDS),
                        backends * BACKEND_LEN,
                    )?,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { blocks })
    }

    /// Blocks: the workers' in order, then the control core's.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// One counter of one block; zero where nothing was copied.
    #[must_use]
    pub fn of(&self, block: usize, index: usize) -> u64 {
        let value =
            self.blocks
                .get(block)
                .and_then(|block| match index.checked_sub(counters::BACKENDS) {
                    Some(index) => block.backends.get(index),
                    None => block.front.get(index),
                });
        value.copied().unwrap_or(0)
    }

    /// One counter over all blocks.
    #[must_use]
    pub fn sum(&self, index: usize) -> u64 {
        (0..self.blocks.len()).fold(0, |sum: u64, block| sum.wrapping_add(self.of(block, index)))
    }
}

fn words(file: &File, offset: u64, count: usize) -> io::Result<Vec<u64>> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, offset)?;
    let words = bytes.as_chunks::<8>().0;
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}
