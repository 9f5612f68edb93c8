//! Putting right what others did to the daemon's parts of the file.

use std::io;
use std::os::unix::fs::FileExt;

use super::{Server, create::is_at};
use crate::segment::layout;

/// Bytes of the running directory that are compared at a time.
const STEP: usize = 64 * 1024;

impl Server {
    /// Compares the daemon's parts of the file with its memory, writes them again where they
    /// differ, and says what was wrong. A bounded piece of work: large directories are compared
    /// over several calls.
    ///
    /// # Errors
    /// When the file can be neither read nor written.
    pub fn repair(&mut self) -> io::Result<Option<String>> {
        if !self.path.try_exists()? {
            self.recreate()?;
            return Ok(Some("the segment was removed; made it anew".to_owned()));
        }
        let mut damage = Vec::new();
        let usurped = !is_at(&self.file, &self.path);
        if usurped && !std::mem::replace(&mut self.usurped, usurped) {
            // Never fight over a name: whoever put another file there has to take it away.
            damage.push("another file has taken its name, and weirctl cannot reach this weir until that is gone".to_owned());
        }
        let len = layout::file_len(self.header.blocks());
        let found = self.file.metadata()?.len();
        if found < len {
            damage.push(format!("it was cut from {len} to {found} bytes"));
            self.file.set_len(len)?;
            self.rewrite()?;
        } else {
            for (offset, bytes, what) in [
                (layout::HEADER, self.header.encode(), "the header"),
                (layout::STATUS, self.status.encode(), "the daemon's status"),
                (
                    layout::EVENTS,
                    self.next_event.to_le_bytes().to_vec(),
                    "the count of events",
                ),
            ] {
                if self.put_right(offset, &bytes)? {
                    damage.push(format!("{what} was overwritten"));
                }
            }
            for worker in 0..self.acks.len() {
                let ack = self.acks.get(worker).copied().unwrap_or(0).to_le_bytes();
                if self.put_right(layout::ack(worker), &ack)? {
                    damage.push(format!("worker {worker}'s acknowledgement was overwritten"));
                }
            }
            if self.compare_directory()? {
                damage.push("the running directory was overwritten".to_owned());
            }
        }
        if damage.is_empty() {
            return Ok(None);
        }
        Ok(Some(format!(
            "the segment was damaged and put right: {}",
            damage.join(", ")
        )))
    }

    /// Writes `bytes` at `offset` if something else is there; says so.
    fn put_right(&self, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let mut found = vec![0; bytes.len()];
        self.file.read_exact_at(&mut found, offset)?;
        if found == bytes {
            return Ok(false);
        }
        self.file.write_all_at(bytes, offset)?;
        Ok(true)
    }

    fn compare_directory(&mut self) -> io::Result<bool> {
        if self.compared >= self.directory.len() {
            self.compared = 0;
        }
        let end = self.directory.len().min(self.compared + STEP);
        let Some(piece) = self.directory.get(self.compared..end) else {
            return Ok(false);
        };
        let base = layout::running(self.status.directory);
        let differs = self.put_right(base + self.compared as u64, piece)?;
        self.compared = end;
        if differs {
            self.file.write_all_at(&self.directory, base)?;
        }
        Ok(differs)
    }

    fn rewrite(&self) -> io::Result<()> {
        self.file
            .write_all_at(&self.header.encode(), layout::HEADER)?;
        self.file
            .write_all_at(&self.next_event.to_le_bytes(), layout::EVENTS)?;
        self.file
            .write_all_at(&self.directory, layout::running(self.status.directory))?;
        for (worker, ack) in self.acks.iter().enumerate() {
            self.file
                .write_all_at(&ack.to_le_bytes(), layout::ack(worker))?;
        }
        self.write_status()
    }
}
