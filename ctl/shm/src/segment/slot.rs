//! A configuration or running directory in its region: a header with generation, counts, length
//! and checksum, then the records.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::bytes::{Malformed, Reader, Writer};
use super::directory::BackendState;
use super::layout::{ENTRY_RECORD, SLOT_HEADER};
use super::record;

/// Header fields that the checksum covers.
const COVERED: usize = 24;

/// What lies in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filling {
    pub(crate) generation: u64,
    pub(crate) services: u32,
    pub(crate) backends: u32,
    pub(crate) records: Vec<u8>,
}

impl Filling {
    /// Header and records as they lie in the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u64(self.generation);
        writer.u32(self.services);
        writer.u32(self.backends);
        writer.u64(self.records.len() as u64);
        let mut header = writer.done();
        let checksum = checksum(&header, &self.records);
        header.extend_from_slice(&checksum.to_le_bytes());
        header.resize(SLOT_HEADER, 0);
        header.extend_from_slice(&self.records);
        header
    }

    /// Reads the slot at `offset`; `len` is how many bytes of records its counts take.
    pub(crate) fn read(
        file: &File,
        offset: u64,
        len: impl Fn(u32, u32) -> Option<usize>,
    ) -> Result<Self, Malformed> {
        let mut header = [0; SLOT_HEADER];
        read_exact(file, &mut header, offset)?;
        let mut reader = Reader::new(&header);
        let generation = reader.u64()?;
        let (services, backends) = (reader.u32()?, reader.u32()?);
        let claimed = reader.u64()?;
        let sum = reader.u32()?;
        reader.padding("its header")?;
        let expected = len(services, backends).ok_or_else(|| {
            Malformed::new(format!(
                "it claims {services} services and {backends} backends"
            ))
        })?;
        if claimed != expected as u64 {
            return Err(Malformed::new(format!(
                "it claims {claimed} bytes, not {expected}"
            )));
        }
        let mut records = vec![0; expected];
        read_exact(file, &mut records, offset + SLOT_HEADER as u64)?;
        let covered = header.get(..COVERED).unwrap_or_default();
        if checksum(covered, &records) != sum {
            return Err(Malformed::new("its checksum is wrong"));
        }
        Ok(Self {
            generation,
            services,
            backends,
            records,
        })
    }
}

/// Writes the states of some backends into an encoded running directory: the place of the first of
/// them, counted over all services, and states from there on. Gives the range of all entries, or
/// `None` when this is no directory of them.
pub(crate) fn restate(
    directory: &mut [u8],
    changed: &[(usize, Vec<BackendState>)],
) -> Option<Range<usize>> {
    let mut reader = Reader::new(directory);
    reader.u64().ok()?;
    let (services, backends) = (reader.u32().ok()?, reader.u32().ok()?);
    let records = SLOT_HEADER + record::encoded_len(services, backends)?;
    for (first, states) in changed {
        for (place, state) in (*first..).zip(states) {
            let at = records + (services as usize + place) * ENTRY_RECORD + 4;
            let code = u32::from(state.code()).to_le_bytes();
            directory.get_mut(at..at + 4)?.copy_from_slice(&code);
        }
    }
    let (header, body) = directory.split_at_mut_checked(SLOT_HEADER)?;
    let sum = checksum(header.get(..COVERED)?, body);
    header
        .get_mut(COVERED..COVERED + 4)?
        .copy_from_slice(&sum.to_le_bytes());
    Some(records..directory.len())
}

fn checksum(header: &[u8], records: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(records);
    hasher.finalize()
}

pub(crate) fn read_exact(file: &File, bytes: &mut [u8], offset: u64) -> Result<(), Malformed> {
    file.read_exact_at(bytes, offset)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Malformed::new("the segment is cut short"),
            _ => Malformed::new(format!("the segment cannot be read: {error}")),
        })
}
