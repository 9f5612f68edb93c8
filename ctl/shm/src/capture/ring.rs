//! The capture's file: a ring of bytes with one writer and one reader.
//!
//! ```text
//! page 0   daemon   magic, version, bytes of the ring, the capture's id
//! page 1   daemon   bytes written so far, packets lost so far, whether it has ended
//! page 2   reader   bytes read so far
//! page 3…  daemon   the ring
//! ```
//!
//! Positions only grow. The writer writes no more than the reader has made room for, and takes the
//! reader's word for nothing: a position that cannot be is taken for a full ring. The reader's
//! position is the last thing it writes, the writer's the last it does, so that neither sees bytes
//! that are not there yet.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::record::{HEAD, Record};
use crate::segment;

const MAGIC: u64 = u64::from_le_bytes(*b"WEIRCAP\n");
/// The version of this layout and of records.
const VERSION: u64 = 1;
const PAGE: u64 = 4096;
const WRITTEN: u64 = PAGE;
const READ: u64 = 2 * PAGE;
const DATA: u64 = 3 * PAGE;
/// Bytes of the ring.
const CAPACITY: u64 = 16 << 20;
/// Bytes that a reader takes at once.
const BATCH: u64 = 1 << 20;

/// The daemon's side.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
    written: u64,
}

impl Writer {
    /// Lays the ring out in an empty file that has this path; it is removed with the writer.
    ///
    /// # Errors
    /// Of the system.
    pub fn new(file: File, path: PathBuf, id: u64) -> io::Result<Self> {
        file.set_len(DATA + CAPACITY)?;
        file.write_all_at(&bytes([MAGIC, VERSION, CAPACITY, id]), 0)?;
        Ok(Self {
            file,
            path,
            written: 0,
        })
    }

    /// Bytes that there is room for.
    ///
    /// # Errors
    /// Of the system: the file was cut short, say.
    pub fn room(&self) -> io::Result<usize> {
        let read = number(&self.file, READ)?;
        let waiting = self.written.checked_sub(read);
        let room = waiting.and_then(|waiting| CAPACITY.checked_sub(waiting));
        Ok(room.unwrap_or(0) as usize)
    }

    /// Adds whole records, for which [`Writer::room`] has been found.
    ///
    /// # Errors
    /// Of the system.
    pub fn write(&mut self, records: &[u8], lost: u64) -> io::Result<()> {
        let at = self.written % CAPACITY;
        let (front, back) = records.split_at(records.len().min((CAPACITY - at) as usize));
        self.file.write_all_at(front, DATA + at)?;
        self.file.write_all_at(back, DATA)?;
        self.written += records.len() as u64;
        self.file
            .write_all_at(&bytes([self.written, lost]), WRITTEN)
    }

    /// Says that nothing more comes, and how much was lost in all.
    ///
    /// # Errors
    /// Of the system.
    pub fn end(&mut self, lost: u64) -> io::Result<()> {
        self.file
            .write_all_at(&bytes([self.written, lost, 1]), WRITTEN)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A reader that still has it open reads on.
        std::fs::remove_file(&self.path).ok();
    }
}

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Records were read.
    Read,
    /// There are none at the moment.
    Nothing,
    /// There will be no more.
    Ended,
}

/// `weirctl`'s side.
#[derive(Debug)]
pub struct Reader {
    file: File,
    read: u64,
    lost: u64,
}

impl Reader {
    /// Opens a capture that has begun.
    ///
    /// # Errors
    /// When the file is not there, or not that capture's.
    pub fn open(path: &Path, id: u64) -> io::Result<Self> {
        let file = segment::open(path, &mut std::fs::OpenOptions::new())?;
        let mut header = [0; 32];
        file.read_exact_at(&mut header, 0)?;
        if words(header) != [MAGIC, VERSION, CAPACITY, id] {
            return Err(invalid("it is not this capture's"));
        }
        Ok(Self {
            file,
            read: 0,
            lost: 0,
        })
    }

    /// Packets that the daemon had no room for so far.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Hands the records that are there to `take`, at most about a megabyte of them.
    ///
    /// # Errors
    /// When the file cannot be read or holds what no daemon writes; what `take` says.
    pub fn read(
        &mut self,
        mut take: impl FnMut(&Record, &[u8]) -> io::Result<()>,
    ) -> io::Result<Progress> {
        let mut state = [0; 32];
        self.file.read_exact_at(&mut state, WRITTEN)?;
        let [written, lost, ended, _] = words(state);
        self.lost = lost;
        let waiting = written
            .checked_sub(self.read)
            .filter(|waiting| *waiting <= CAPACITY)
            .ok_or_else(|| invalid("positions in it contradict each other"))?;
        if waiting == 0 {
            return Ok(match ended {
                0 => Progress::Nothing,
                _ => Progress::Ended,
            });
        }
        let mut batch = vec![0; waiting.min(BATCH) as usize];
        let at = self.read % CAPACITY;
        let (front, back) = {
            let front = batch.len().min((CAPACITY - at) as usize);
            batch.split_at_mut(front)
        };
        self.file.read_exact_at(front, DATA + at)?;
        self.file.read_exact_at(back, DATA)?;
        let mut rest = batch.as_slice();
        let mut taken = 0;
        while let Some((head, behind)) = rest.split_first_chunk::<{ HEAD * 8 }>() {
            let record = Record::decode(words(*head))
                .ok_or_else(|| invalid("it holds what is no packet"))?;
            let padded = Record::words(record.kept) * 8 - HEAD * 8;
            let Some((data, others)) = behind.split_at_checked(padded) else {
                break;
            };
            take(&record, data.get(..record.kept.into()).unwrap_or_default())?;
            rest = others;
            taken += (HEAD * 8 + padded) as u64;
        }
        if taken == 0 {
            return Err(invalid("it holds half a packet"));
        }
        self.read += taken;
        self.file.write_all_at(&self.read.to_le_bytes(), READ)?;
        Ok(Progress::Read)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn number(file: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_le_bytes(bytes))
}

fn bytes<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words(bytes: [u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::record::NO_PORT;
    use crate::capture::{Direction, Fate, NOBODY, Why};

    fn both() -> (tempfile::TempDir, Writer, Reader) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ring");
        let file = File::create_new(&path).unwrap();
        // Opened for reading, too, as the daemon does.
        drop(file);
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let writer = Writer::new(file, path.clone(), 7).unwrap();
        assert!(Reader::open(&path, 8).is_err(), "another capture's");
        let reader = Reader::open(&path, 7).unwrap();
        (dir, writer, reader)
    }

    fn record(data: &[u8], unix_ns: u64) -> Vec<u8> {
        let kept = data.len() as u16;
        let head = Record {
            kept,
            length: kept,
            direction: Direction::In,
            fate: Fate::Control,
            why: Why::None,
            reason: None,
            unix_ns,
            service: NOBODY,
            backend: NOBODY,
            port: 1,
            other: NO_PORT,
            worker: 0,
        };
        let mut all = bytes(head.encode());
        all.extend(data);
        all.resize(Record::words(kept) * 8, 0);
        all
    }

    #[test]
    fn packets_go_round_and_round_unharmed() {
        let (_dir, mut writer, mut reader) = both();
        let mut seen = 0u64;
        for round in 0..60u64 {
            let mut chunk = Vec::new();
            for n in 0..300 {
                chunk.extend(record(&vec![n as u8; 1000 + n], round * 300 + n as u64));
            }
            assert!(writer.room().unwrap() >= chunk.len());
            writer.write(&chunk, round).unwrap();
            while reader
                .read(|record, data| {
                    let n = (seen % 300) as usize;
                    assert_eq!(record.unix_ns, seen);
                    assert_eq!(data, vec![n as u8; 1000 + n]);
                    seen += 1;
                    Ok(())
                })
                .unwrap()
                == Progress::Read
            {}
        }
        assert_eq!((seen, reader.lost()), (18_000, 59));
        writer.end(60).unwrap();
        assert_eq!(reader.read(|_, _| Ok(())).unwrap(), Progress::Ended);
        assert_eq!(reader.lost(), 60);
    }

    #[test]
    fn a_reader_that_rests_leaves_no_room_and_one_that_lies_neither() {
        let (dir, mut writer, _reader) = both();
        let chunk = record(&[0; 1000], 1);
        while writer.room().unwrap() >= chunk.len() {
            writer.write(&chunk, 0).unwrap();
        }
        assert!(writer.room().unwrap() < chunk.len());
        let path = dir.path().join("ring");
        let file = File::options().write(true).open(&path).unwrap();
        for lie in [u64::MAX, writer.written + 1, 1 << 63] {
            file.write_all_at(&lie.to_le_bytes(), READ).unwrap();
            assert_eq!(writer.room().unwrap(), 0);
        }
        file.set_len(0).unwrap();
        assert!(writer.room().is_err(), "cut short is an error, no crash");
        drop(writer);
        assert!(!path.exists());
    }

    #[test]
    fn rubbish_is_refused_by_the_reader() {
        let (dir, mut writer, mut reader) = both();
        writer.write(&record(&[1; 64], 1), 0).unwrap();
        let path = dir.path().join("ring");
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff; 64], DATA).unwrap();
        assert!(reader.read(|_, _| Ok(())).is_err());
        file.write_all_at(&[0xff; 8], WRITTEN).unwrap();
        assert!(reader.read(|_, _| Ok(())).is_err());
    }
}
