//! Writing a profile's traffic to a capture file: classic pcap, little-endian, microseconds.
//!
//! The clock is the profile's rate, starting at 0; the stamps carry the same times. The same profile
//! and seed give the same bytes.

use std::io::{self, Write};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use crate::frame::{Link, WriteError};
use crate::profile::Profile;
use crate::random::mix;
use crate::traffic::Traffic;

/// Packets a second where the profile asks for "as fast as possible", which a file cannot be.
pub const DEFAULT_RATE: u64 = 1_000_000;

/// Why a capture could not be written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It would never end.
    #[error("a capture needs an end; give --count, or --duration")]
    NoEnd,
    /// The frames cannot be made.
    #[error(transparent)]
    Frame(#[from] WriteError),
    /// The file cannot be written.
    #[error("cannot write the capture: {0}")]
    Write(#[from] io::Error),
}

impl From<PcapError> for CaptureError {
    /// The library calls every failure of a file one of reading; what the system says is within.
    fn from(error: PcapError) -> Self {
        Self::Write(match error {
            PcapError::IoError(cause) => cause,
            other => io::Error::other(other),
        })
    }
}

/// What a capture holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Frames.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Flows with at least one packet.
    pub flows: u64,
    /// The last frame's time.
    pub end: Duration,
}

/// Writes `profile`'s packets to `out`. Its rate must not be 0; see [`DEFAULT_RATE`].
///
/// # Errors
/// [`CaptureError`].
pub fn write(profile: &Profile, link: &Link, out: impl Write) -> Result<Written, CaptureError> {
    let packets = profile.packets().ok_or(CaptureError::NoEnd)?;
    let pace = profile.pace();
    // The tag tells runs apart; here it follows from the seed, so that files can be compared.
    let mut traffic = Traffic::new(profile.clone(), mix(profile.wanted().seed) as u16);
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        endianness: Endianness::Little,
        ts_resolution: TsResolution::MicroSecond,
        ..PcapHeader::default()
    };
    let mut file = PcapWriter::with_header(out, header)?;
    let mut frame = Vec::new();
    let mut written = Written::default();
    while traffic.index() < packets {
        let Some(planned) = traffic.next(|_| true) else {
            continue;
        };
        let time = pace.time(planned.index).unwrap_or(0);
        frame.resize(planned.len, 0);
        traffic.write(&planned, link, time, &mut frame)?;
        written.end = Duration::from_micros(time / 1_000);
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        file.write_packet(&PcapPacket::new(written.end, len, &frame))?;
        written.packets += 1;
        written.bytes += frame.len() as u64;
    }
    written.flows = traffic.opened();
    file.into_writer().flush()?;
    Ok(written)
}
