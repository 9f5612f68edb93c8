//! What the reflector has found.

use comfy_table::Table;
use serde::Serialize;

use super::{DeviceReport, Move, PoolReport, Report, Volume};
use super::{align_right, buffers_line, grid, missed_line, moves_line, pairs, verdict};
use crate::backend::Backend;
use crate::reflector::Reflector;

/// One backend as the reflector sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendReport {
    /// Its number in answers.
    pub id: u16,
    /// Its address.
    pub address: String,
    /// Its MAC.
    pub mac: String,
    /// Stamped packets.
    pub packets: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// Flows (for TCP, connections) that it was the first to get.
    pub flows: u64,
}

/// Flows as the reflector sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReflectFlows {
    /// Flows seen.
    pub seen: u64,
    /// Flows that came to more than one backend within a connection.
    pub moved: u64,
    /// Packets of flows beyond the number that is remembered.
    pub untracked_packets: u64,
}

/// What the reflector has found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReflectReport {
    /// [`super::VERSION`].
    pub version: u32,
    /// `reflect`.
    pub command: &'static str,
    /// `nat` or `dsr`.
    pub mode: &'static str,
    /// Seconds from the start to the end.
    pub duration_s: f64,
    /// All frames.
    pub received: Volume,
    /// Stamped packets for a backend, duplicates included.
    pub stamped: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Answers that the device did not take.
    pub unsent: u64,
    /// Packets that never came though a later one of their flow did.
    pub gaps: u64,
    /// Stamped packets that came more than once, each repetition counted.
    pub duplicates: u64,
    /// Stamped packets that came after a newer one of their flow.
    pub reordered: u64,
    /// Packets whose IP or transport checksum is wrong.
    pub bad_checksum: u64,
    /// Packets for a backend's address with another MAC.
    pub wrong_mac: u64,
    /// Stamped packets for nobody here.
    pub strangers: u64,
    /// Everything else.
    pub other: u64,
    /// Neighbour questions answered.
    pub neighbour_answers: u64,
    /// Flows.
    pub flows: ReflectFlows,
    /// Changes of backend within a connection.
    pub moves: Vec<Move>,
    /// The backends.
    pub backends: Vec<BackendReport>,
    /// The devices' own counters.
    pub devices: Vec<DeviceReport>,
    /// The packet buffers.
    pub pool: PoolReport,
    /// Expectations that were not met; empty when all is well.
    pub failed: Vec<&'static str>,
}

/// The backends' part of a reflector's report.
#[must_use]
pub fn backends(reflector: &Reflector) -> Vec<BackendReport> {
    let pairs = reflector
        .backends()
        .list()
        .iter()
        .zip(reflector.per_backend());
    pairs
        .map(|(&Backend { id, address, mac }, count)| BackendReport {
            id,
            address: address.to_string(),
            mac: mac.to_string(),
            packets: count.packets,
            bytes: count.bytes,
            flows: count.flows,
        })
        .collect()
}

impl Report for ReflectReport {
    fn tables(&self) -> Vec<Table> {
        let figures = vec![
            ("mode", self.mode.to_owned()),
            (
                "received",
                format!("{} in {:.3} s", self.received.packets, self.duration_s),
            ),
            (
                "stamped, answered",
                format!("{}, {}", self.stamped, self.answered),
            ),
            ("answers not sent", self.unsent.to_string()),
            ("gaps", self.gaps.to_string()),
            ("duplicates", self.duplicates.to_string()),
            ("reordered", self.reordered.to_string()),
            ("damaged", self.bad_checksum.to_string()),
            (
                "wrong MAC, for nobody, other",
                format!("{}, {}, {}", self.wrong_mac, self.strangers, self.other),
            ),
            ("flows", self.flows.seen.to_string()),
            (
                "flows moved to another backend",
                self.flows.moved.to_string(),
            ),
            ("moves", moves_line(&self.moves)),
            ("missed, no buffer, errors", missed_line(&self.devices)),
            ("buffers free", buffers_line(&self.pool)),
            ("verdict", verdict(&self.failed, &self.pool)),
        ];
        let mut table = grid(&["backend", "address", "MAC", "packets", "share", "flows"]);
        for backend in &self.backends {
            let share = backend.packets as f64 / self.stamped.max(1) as f64 * 100.0;
            table.add_row([
                backend.id.to_string(),
                backend.address.clone(),
                backend.mac.clone(),
                backend.packets.to_string(),
                format!("{share:.2} %"),
                backend.flows.to_string(),
            ]);
        }
        align_right(&mut table, 3);
        vec![pairs("reflect", figures), table]
    }
}
