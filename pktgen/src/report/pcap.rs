//! What the capture writer has done.

use comfy_table::Table;
use serde::Serialize;

use super::{ProfileReport, Report, pairs};

/// What the capture writer has done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PcapReport {
    /// [`super::VERSION`].
    pub version: u32,
    /// `pcap`.
    pub command: &'static str,
    /// What was written.
    pub profile: ProfileReport,
    /// The file.
    pub out: String,
    /// Frames.
    pub packets: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
    /// Flows with at least one packet.
    pub flows: u64,
    /// Seconds from the first frame to the last.
    pub duration_s: f64,
}

impl Report for PcapReport {
    fn tables(&self) -> Vec<Table> {
        let figures = vec![
            ("file", self.out.clone()),
            ("packets", self.packets.to_string()),
            ("bytes", self.bytes.to_string()),
            ("flows", self.flows.to_string()),
            ("time", format!("{:.6} s", self.duration_s)),
        ];
        vec![pairs("pcap", figures)]
    }
}
