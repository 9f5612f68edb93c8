//! Captures in and out: pcap and pcapng files read in time order, pcap files written.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

/// The first four bytes of a pcapng file: its section header block's type.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Bytes that a packet record of an output file may hold.
const SNAPLEN: u32 = 262_144;

/// A capture that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a capture, or damaged.
    #[error(
        "{path}: {problem} after {frames} frames; pcap and pcapng files of Ethernet frames are accepted"
    )]
    Damaged {
        /// The file.
        path: String,
        /// What was found.
        problem: String,
        /// Frames read before that.
        frames: u64,
    },
    /// The frames are not Ethernet.
    #[error("{path}: link type {found:?} found; Ethernet (1) is accepted")]
    LinkType {
        /// The file.
        path: String,
        /// What was found.
        found: DataLink,
    },
}

/// A frame and when it was captured, in nanoseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// When.
    pub time: u64,
    /// The bytes that were captured.
    pub bytes: Vec<u8>,
}

enum Format {
    Pcap(PcapReader<Box<dyn Read>>),
    PcapNg(PcapNgReader<Box<dyn Read>>),
}

/// A capture file that is being read, one frame ahead.
pub struct CaptureReader {
    path: String,
    format: Format,
    frames: u64,
    ahead: Option<Frame>,
    problem: Option<CaptureError>,
}

impl CaptureReader {
    /// Opens a file and reads its first frame.
    ///
    /// # Errors
    /// When it cannot be read or is no capture of Ethernet frames.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let name = path.display().to_string();
        let io = |source| CaptureError::Io {
            path: name.clone(),
            source,
        };
        let damaged = |problem: &PcapError| CaptureError::Damaged {
            path: name.clone(),
            problem: cause(problem),
            frames: 0,
        };
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let mut magic = Vec::new();
        file.by_ref().take(4).read_to_end(&mut magic).map_err(io)?;
        let whole: Box<dyn Read> = Box::new(std::io::Cursor::new(magic.clone()).chain(file));
        let format = if magic == PCAPNG_MAGIC {
            Format::PcapNg(PcapNgReader::new(whole).map_err(|problem| damaged(&problem))?)
        } else {
            let reader = PcapReader::new(whole).map_err(|problem| damaged(&problem))?;
            let found = reader.header().datalink;
            if found != DataLink::ETHERNET {
                return Err(CaptureError::LinkType { path: name, found });
            }
            Format::Pcap(reader)
        };
        let mut capture = Self {
            path: name,
            format,
            frames: 0,
            ahead: None,
            problem: None,
        };
        capture.read_ahead();
        Ok(capture)
    }

    /// Whether its time stamps are finer than a microsecond.
    #[must_use]
    pub fn has_nanoseconds(&self) -> bool {
        match &self.format {
            Format::Pcap(reader) => reader.header().ts_resolution == TsResolution::NanoSecond,
            Format::PcapNg(reader) => reader
                .interfaces()
                .iter()
                .any(|interface| resolution(&interface.options) < 1_000),
        }
    }

    /// When the next frame was captured.
    #[must_use]
    pub fn next_time(&self) -> Option<u64> {
        self.ahead.as_ref().map(|frame| frame.time)
    }

    /// Takes the next frame and reads the one after it. A damaged capture ends where the damage
    /// begins, as one that was cut short does; see [`CaptureReader::problem`].
    pub fn take(&mut self) -> Option<Frame> {
        let frame = self.ahead.take();
        self.read_ahead();
        frame
    }

    /// Why the capture ended before its end, once it has.
    #[must_use]
    pub const fn problem(&self) -> Option<&CaptureError> {
        self.problem.as_ref()
    }

    /// As [`CaptureReader::problem`], at the end.
    #[must_use]
    pub fn into_problem(self) -> Option<CaptureError> {
        self.problem
    }

    fn read_ahead(&mut self) {
        if self.problem.is_none() {
            match self.read() {
                Ok(frame) => self.ahead = frame,
                Err(problem) => self.problem = Some(problem),
            }
        }
    }

    fn read(&mut self) -> Result<Option<Frame>, CaptureError> {
        let found = match &mut self.format {
            Format::Pcap(reader) => read_pcap(reader),
            Format::PcapNg(reader) => read_pcapng(reader),
        };
        match found {
            Ok(Some(Found::Frame(frame))) => {
                self.frames += 1;
                Ok(Some(frame))
            }
            Ok(Some(Found::Link(found))) => Err(CaptureError::LinkType {
                path: self.path.clone(),
                found,
            }),
            Ok(None) => Ok(None),
            Err(problem) => Err(CaptureError::Damaged {
                path: self.path.clone(),
                problem: cause(&problem),
                frames: self.frames,
            }),
        }
    }
}

/// What is wrong; of a file that failed, what the system says.
fn cause(problem: &PcapError) -> String {
    match problem {
        PcapError::IoError(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

/// The library calls a write that failed an error of reading; what the system says is within.
fn unwritten(problem: PcapError) -> std::io::Error {
    match problem {
        PcapError::IoError(cause) => cause,
        other => std::io::Error::other(other),
    }
}

enum Found {
    Frame(Frame),
    Link(DataLink),
}

fn read_pcap(reader: &mut PcapReader<Box<dyn Read>>) -> Result<Option<Found>, PcapError> {
    let scale = match reader.header().ts_resolution {
        TsResolution::MicroSecond => 1_000,
        TsResolution::NanoSecond => 1,
    };
    let Some(packet) = reader.next_raw_packet() else {
        return Ok(None);
    };
    let packet = packet?;
    let time = u64::from(packet.ts_sec) * 1_000_000_000 + u64::from(packet.ts_frac) * scale;
    Ok(Some(Found::Frame(Frame {
        time,
        bytes: packet.data.into_owned(),
    })))
}

fn read_pcapng(reader: &mut PcapNgReader<Box<dyn Read>>) -> Result<Option<Found>, PcapError> {
    loop {
        let Some(block) = reader.next_block() else {
            return Ok(None);
        };
        let (interface, ticks, bytes) = match block? {
            // The library gives the time stamp's ticks as nanoseconds, whatever they are.
            Block::EnhancedPacket(packet) => (
                packet.interface_id,
                packet.timestamp.as_nanos() as u64,
                packet.data.into_owned(),
            ),
            Block::Packet(packet) => (
                u32::from(packet.interface_id),
                packet.timestamp,
                packet.data.into_owned(),
            ),
            _ => continue,
        };
        let Some(interface) = reader.interfaces().get(interface as usize) else {
            return Err(PcapError::InvalidInterfaceId(interface));
        };
        if interface.linktype != DataLink::ETHERNET {
            return Ok(Some(Found::Link(interface.linktype)));
        }
        // Resolutions finer than a nanosecond lose what is below it.
        let time = match resolution(&interface.options) {
            0 => ticks / 1_000,
            nanos => ticks.saturating_mul(nanos),
        };
        return Ok(Some(Found::Frame(Frame { time, bytes })));
    }
}

/// Nanoseconds of one tick of a pcapng interface (option `if_tsresol`; microseconds by default);
/// zero where it is a picosecond.
fn resolution(options: &[InterfaceDescriptionOption<'_>]) -> u64 {
    let exponent = options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(exponent) => Some(*exponent),
        _ => None,
    });
    match exponent {
        Some(exponent @ 0..=9) => 10u64.pow(9 - u32::from(exponent)),
        Some(exponent @ 0x80..=0x9e) => 1_000_000_000 >> (exponent & 0x7f),
        Some(_) => 0,
        None => 1_000,
    }
}

/// A pcap file that is being written, little-endian on every machine.
pub struct CaptureWriter {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
    scale: u64,
}

impl CaptureWriter {
    /// Creates a file; with time stamps in nanoseconds if asked, otherwise in microseconds.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, nanoseconds: bool) -> Result<Self, CaptureError> {
        let io = |source| CaptureError::Io {
            path: path.display().to_string(),
            source,
        };
        let file = File::create(path).map_err(io)?;
        let (ts_resolution, scale) = if nanoseconds {
            (TsResolution::NanoSecond, 1)
        } else {
            (TsResolution::MicroSecond, 1_000)
        };
        let header = PcapHeader {
            snaplen: SNAPLEN,
            datalink: DataLink::ETHERNET,
            ts_resolution,
            endianness: Endianness::Little,
            ..PcapHeader::default()
        };
        let writer = PcapWriter::with_header(BufWriter::new(file), header)
            .map_err(|problem| io(unwritten(problem)))?;
        Ok(Self {
            path: path.to_owned(),
            writer,
            scale,
        })
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, time: u64, bytes: &[u8]) -> Result<(), CaptureError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let packet = RawPcapPacket {
            ts_sec: (time / 1_000_000_000) as u32,
            ts_frac: (time % 1_000_000_000 / self.scale) as u32,
            incl_len: length,
            orig_len: length,
            data: bytes.into(),
        };
        let written = self.writer.write_raw_packet(&packet);
        written
            .map(|_| ())
            .map_err(|problem| self.io(unwritten(problem)))
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<(), CaptureError> {
        let path = self.path.display().to_string();
        let mut file = self.writer.into_writer();
        file.flush()
            .map_err(|source| CaptureError::Io { path, source })
    }

    fn io(&self, source: std::io::Error) -> CaptureError {
        CaptureError::Io {
            path: self.path.display().to_string(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for nanoseconds in [false, true] {
            let path = folder.path().join("frames.pcap");
            let mut writer = CaptureWriter::create(&path, nanoseconds).unwrap();
            let frames: Vec<Frame> = (0..5u64)
                .map(|i| Frame {
                    time: 1_700_000_000_000_000_000 + i * 1_001_000,
                    bytes: vec![i as u8; 60],
                })
                .collect();
            for frame in &frames {
                writer.write(frame.time, &frame.bytes).unwrap();
            }
            writer.finish().unwrap();
            let mut reader = CaptureReader::open(&path).unwrap();
            assert_eq!(reader.has_nanoseconds(), nanoseconds);
            let mut back = Vec::new();
            while let Some(frame) = reader.take() {
                back.push(frame);
            }
            assert_eq!(back, frames);
        }
    }

    #[test]
    fn a_capture_that_was_cut_short_gives_what_is_whole_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.pcap");
        let mut writer = CaptureWriter::create(&path, false).unwrap();
        (0..3).for_each(|time| writer.write(time, &[7; 60]).unwrap());
        writer.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
        let mut reader = CaptureReader::open(&path).unwrap();
        assert!(reader.take().is_some() && reader.take().is_some() && reader.take().is_none());
        let problem = reader.problem().unwrap().to_string();
        assert!(
            problem.contains("cut.pcap") && problem.contains("after 2 frames"),
            "{problem}"
        );
    }

    #[test]
    fn a_file_that_is_no_capture_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "not a capture, but long enough to hold a header").unwrap();
        let error = CaptureReader::open(&path).err().unwrap().to_string();
        assert!(
            error.contains("notes.txt") && error.contains("accepted"),
            "{error}"
        );
    }

    #[test]
    fn pcapng_time_stamps_have_the_interfaces_resolution() {
        assert_eq!(resolution(&[]), 1_000);
        assert_eq!(resolution(&[InterfaceDescriptionOption::IfTsResol(9)]), 1);
        assert_eq!(
            resolution(&[InterfaceDescriptionOption::IfTsResol(3)]),
            1_000_000
        );
        assert_eq!(resolution(&[InterfaceDescriptionOption::IfTsResol(12)]), 0);
    }
}
