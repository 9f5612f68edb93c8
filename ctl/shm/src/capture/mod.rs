//! Captured packets on their way from the daemon to `weirctl capture`.
//!
//! A file of its own beside the segment, made when a capture begins and removed when it ends: a ring
//! of bytes that the daemon fills with [`record`]s and one reader empties ([`ring`]). Like the
//! segment it is written and read by `pwrite` and `pread` and trusted by nobody: whatever a reader
//! puts there, the daemon loses packets of this capture at worst.
//!
//! One capture at a time: the reader holds [`Lock::Capturer`](crate::segment::lock::Lock) on the
//! segment's file for as long as it lives, so that the daemon notices when it is gone, however it
//! went.

pub mod record;
pub mod ring;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use record::{Direction, Fate, NOBODY, Record, Why};
pub use ring::{Reader, Writer};

/// Bytes of a frame that are kept unless something else is asked for: all.
pub const SNAPLEN: u32 = 65_535;

/// How the names of capture files begin. Not as those of segments do, so that a capture is never
/// taken for an instance.
const PREFIX: &str = "weir-capture.";

/// The file of an instance's capture.
#[must_use]
pub fn path(folder: &Path, instance: &str) -> PathBuf {
    folder.join(format!("{PREFIX}{instance}"))
}

/// Which packets are captured. What is left out matches everything; what is given must match
/// together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Packets of this service, both ways.
    pub service: Option<String>,
    /// Packets to and from backends of this name.
    pub backend: Option<String>,
    /// Packets whose source or destination lies in this network.
    pub address: Option<(IpAddr, u8)>,
    /// Packets that come in or leave by the port of this name; if no port has it and it is a number,
    /// packets with this TCP or UDP port.
    pub port: Option<String>,
    /// Only packets that are dropped.
    pub drops: bool,
    /// Only packets that are dropped for one of these reasons.
    pub reasons: Vec<String>,
    /// Frames as they come in.
    pub incoming: bool,
    /// Frames as they leave.
    pub outgoing: bool,
    /// One in so many of the packets that match.
    pub sample: u32,
    /// Bytes of each frame that are kept.
    pub snaplen: u32,
}

impl Default for Request {
    fn default() -> Self {
        Self {
            service: None,
            backend: None,
            address: None,
            port: None,
            drops: false,
            reasons: Vec::new(),
            incoming: true,
            outgoing: true,
            sample: 1,
            snaplen: SNAPLEN,
        }
    }
}

/// A capture that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// What the header of its file says, too.
    pub id: u64,
    /// The names of the ports, by number.
    pub ports: Vec<String>,
}
