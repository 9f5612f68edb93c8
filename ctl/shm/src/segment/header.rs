//! The segment's header: what it is and whose.

use std::fs::File;

use super::bytes::{Malformed, Reader, Writer};
use super::layout::{self, HEADER, LAYOUT_VERSION, MAGIC, MAX_WORKERS, PAGE};
use super::slot::read_exact;

/// What a daemon writes down once, when it makes the segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) pid: u32,
    pub(crate) workers: usize,
    pub(crate) started_ns: u64,
    pub(crate) instance: String,
    pub(crate) version: String,
    pub(crate) config_path: String,
}

/// Why a file's header is not one of this weir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NotOurs {
    /// It is not filled yet.
    Empty,
    /// It is of another layout version.
    Version(u32),
    /// It is something else, or damaged.
    Damaged(String),
}

impl From<Malformed> for NotOurs {
    fn from(malformed: Malformed) -> Self {
        Self::Damaged(malformed.0)
    }
}

impl Header {
    /// Blocks of counters: the workers' and the control core's.
    pub(crate) const fn blocks(&self) -> usize {
        self.workers + 1
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.raw(&MAGIC);
        writer.u32(LAYOUT_VERSION);
        writer.u32(self.pid);
        writer.u64(layout::file_len(self.blocks()));
        writer.u32(self.workers as u32);
        writer.u64(self.started_ns);
        writer.text(&self.instance, 64);
        writer.text(&self.version, 64);
        writer.text(&self.config_path, 3072);
        writer.pad_to(PAGE as usize - 4);
        let mut bytes = writer.done();
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn read(file: &File) -> Result<Self, NotOurs> {
        let mut bytes = [0; PAGE as usize];
        read_exact(file, &mut bytes, HEADER).map_err(|malformed| {
            let empty = file.metadata().is_ok_and(|metadata| metadata.len() == 0);
            if empty {
                NotOurs::Empty
            } else {
                malformed.into()
            }
        })?;
        let mut reader = Reader::new(&bytes);
        let magic: [u8; 8] = reader.array()?;
        if magic == [0; 8] {
            return Err(NotOurs::Empty);
        }
        if magic != MAGIC {
            return Err(NotOurs::Damaged(
                "it does not begin with a segment's mark".to_owned(),
            ));
        }
        let version = reader.u32()?;
        if version != LAYOUT_VERSION {
            return Err(NotOurs::Version(version));
        }
        let (covered, sum) = bytes.split_at(bytes.len() - 4);
        if crc32fast::hash(covered).to_le_bytes() != sum {
            return Err(NotOurs::Damaged(
                "its header's checksum is wrong".to_owned(),
            ));
        }
        let pid = reader.u32()?;
        let len = reader.u64()?;
        let workers = reader.u32()? as usize;
        let started_ns = reader.u64()?;
        let instance = reader.text(64, "the instance's name")?;
        let version = reader.text(64, "weir's version")?;
        let config_path = reader.text(3072, "the configuration's path")?;
        let header = Self {
            pid,
            workers,
            started_ns,
            instance,
            version,
            config_path,
        };
        if workers > MAX_WORKERS || len != layout::file_len(header.blocks()) {
            return Err(NotOurs::Damaged(format!(
                "{workers} workers do not fit {len} bytes"
            )));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn header() -> Header {
        Header {
            pid: 4711,
            workers: 3,
            started_ns: 5,
            instance: "lb1".to_owned(),
            version: "0.1.0".to_owned(),
            config_path: "/etc/weir.toml".to_owned(),
        }
    }

    #[test]
    fn a_header_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&header().encode(), 0).unwrap();
        assert_eq!(Header::read(&file), Ok(header()));
    }

    #[test]
    fn what_is_no_header_is_told_apart() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Header::read(&file), Err(NotOurs::Empty));
        file.set_len(PAGE).unwrap();
        assert_eq!(Header::read(&file), Err(NotOurs::Empty));
        file.write_all_at(b"garbage!", 0).unwrap();
        assert!(matches!(Header::read(&file), Err(NotOurs::Damaged(_))));
        file.write_all_at(&header().encode(), 0).unwrap();
        file.write_all_at(&[1], 100).unwrap();
        assert!(matches!(Header::read(&file), Err(NotOurs::Damaged(_))));
        file.write_all_at(&99u32.to_le_bytes(), 8).unwrap();
        assert_eq!(Header::read(&file), Err(NotOurs::Version(99)));
        file.set_len(100).unwrap();
        assert!(matches!(Header::read(&file), Err(NotOurs::Damaged(_))));
    }
}
