//! What a command has found, as JSON (for programs) and as tables (for people).
//!
//! The JSON's `version` grows when a field changes its meaning or goes away; new fields may come at
//! any time. All times in the names' units, all frame bytes without FCS.

pub mod compare;
mod expect;
pub mod figure;
pub mod machine;
pub mod maglev;
pub mod measurement;
pub mod page;
mod pcap;
mod reflect;
mod run;
pub mod tables;

use std::collections::BTreeMap;
use std::io::{self, Write};

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::{Deserialize, Serialize};

pub use self::expect::{Expectations, Found};
pub use self::machine::Machine;
pub use self::measurement::{Event, Measurement, Moment};
pub use self::pcap::PcapReport;
pub use self::reflect::{BackendReport, ReflectFlows, ReflectReport, backends};
pub use self::run::{Latency, Loss, RunFlows, RunReport, loss};

use crate::profile::Profile;

/// The version of the JSON reports.
pub const VERSION: u32 = 1;

/// Packets and bytes of one direction.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Volume {
    /// Frames.
    pub packets: u64,
    /// Their bytes, without FCS.
    pub bytes: u64,
    /// Frames a second, over the time of sending.
    pub pps: f64,
}

impl Volume {
    /// `packets` and `bytes` in `seconds`.
    #[must_use]
    pub fn new(packets: u64, bytes: u64, seconds: f64) -> Self {
        let pps = if seconds > 0.0 {
            packets as f64 / seconds
        } else {
            0.0
        };
        Self {
            packets,
            bytes,
            pps,
        }
    }
}

/// What was sent, in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileReport {
    /// Destination address and port.
    pub vip: String,
    /// `udp` or `tcp`.
    pub protocol: String,
    /// Client addresses.
    pub clients: String,
    /// Number of flows.
    pub flows: u32,
    /// How packets are shared among them.
    pub popularity: String,
    /// Frame sizes with their shares, FCS included.
    pub sizes: String,
    /// Packets of a TCP connection; 0: it does not end.
    pub packets_per_flow: u32,
    /// Packets a second asked for; 0: as fast as possible.
    pub rate: u64,
    /// The seed.
    pub seed: u64,
}

impl From<&Profile> for ProfileReport {
    fn from(profile: &Profile) -> Self {
        let wanted = profile.wanted();
        Self {
            vip: profile.service().to_string(),
            protocol: wanted.protocol.name().into(),
            clients: profile.clients().to_string(),
            flows: wanted.flows,
            popularity: wanted.popularity.to_string(),
            sizes: profile.sizes().to_string(),
            packets_per_flow: wanted.packets_per_flow,
            rate: profile.rate(),
            seed: wanted.seed,
        }
    }
}

/// How often flows went from one backend to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// The backend before.
    pub from: u16,
    /// The backend after.
    pub to: u16,
    /// How often.
    pub times: u64,
}

/// The list of moves behind a map of them.
#[must_use]
pub fn moves(map: &BTreeMap<(u16, u16), u64>) -> Vec<Move> {
    map.iter()
        .map(|(&(from, to), &times)| Move { from, to, times })
        .collect()
}

/// The packet buffers after everything was closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolReport {
    /// Buffers in all.
    pub size: u32,
    /// Buffers in the pool.
    pub free: u32,
    /// Buffers that a driver took when its device was opened and is known not to give back when it
    /// is closed: AF_XDP's fill ring. Counted before the first packet, so that none is among them
    /// that passed through here.
    pub held_by_driver: u32,
}

impl PoolReport {
    /// Whether every buffer is accounted for.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.free + self.held_by_driver >= self.size
    }
}

/// A device's own counters at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceReport {
    /// The device as it was given.
    pub device: String,
    /// Its driver.
    pub driver: String,
    /// Frames it received.
    pub rx_packets: u64,
    /// Frames it dropped because nobody fetched them in time.
    pub rx_missed: u64,
    /// Frames it received in error.
    pub rx_errors: u64,
    /// Frames it lost because there were no buffers.
    pub rx_no_buffer: u64,
    /// Frames it sent.
    pub tx_packets: u64,
    /// Frames it took and could not send.
    pub tx_errors: u64,
}

/// A report that can be printed.
pub trait Report: Serialize {
    /// The report as tables, for people.
    fn tables(&self) -> Vec<Table>;

    /// Prints the report: one JSON object on one line, or tables.
    ///
    /// # Errors
    /// What writing to `out` gives.
    fn print(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        for table in self.tables() {
            writeln!(out, "{table}")?;
        }
        Ok(())
    }
}

fn pairs(title: &str, rows: Vec<(&str, String)>) -> Table {
    let mut table = grid(&[title, ""]);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    align_right(&mut table, 1);
    table
}

fn grid(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header(header);
    table
}

fn align_right(table: &mut Table, from: usize) {
    for column in table.column_iter_mut().skip(from) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn moves_line(moves: &[Move]) -> String {
    if moves.is_empty() {
        return "none".into();
    }
    let line: Vec<String> = moves
        .iter()
        .map(|m| format!("{}→{}: {}", m.from, m.to, m.times))
        .collect();
    line.join(", ")
}

fn missed_line(devices: &[DeviceReport]) -> String {
    let sum = |figure: fn(&DeviceReport) -> u64| devices.iter().map(figure).sum::<u64>();
    let (missed, starved) = (sum(|d| d.rx_missed), sum(|d| d.rx_no_buffer));
    format!(
        "{missed}, {starved}, {}",
        sum(|d| d.rx_errors) + sum(|d| d.tx_errors)
    )
}

fn buffers_line(pool: &PoolReport) -> String {
    match pool.held_by_driver {
        0 => format!("{} of {}", pool.free, pool.size),
        held => format!("{} of {}, {held} held by the driver", pool.free, pool.size),
    }
}

fn verdict(failed: &[&str], pool: &PoolReport) -> String {
    match (failed.is_empty(), pool.is_full()) {
        (true, true) => "passed".into(),
        (false, _) => format!("FAILED: {}", failed.join(", ")),
        (true, false) => "FAILED: buffers lost".into(),
    }
}
