//! What a command has found, as JSON (for programs) and as tables (for people).
//!
//! The JSON's `version` grows when a field changes its meaning or goes away; new fields may come at
//! any time. All times in the names' units, all frame bytes without FCS.

use std::collections::BTreeMap;
use std::io::{self, Write};

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::backend::Backend;
use crate::profile::Profile;
use crate::reflector::Reflector;
use crate::tally::Totals;

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
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProfileReport {
    /// Destination address and port.
    pub vip: String,
    /// `udp` or `tcp`.
    pub protocol: &'static str,
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
            protocol: wanted.protocol.name(),
            clients: profile.clients().to_string(),
            flows: wanted.flows,
            popularity: wanted.popularity.to_string(),
            sizes: profile.sizes().to_string(),
            packets_per_flow: wanted.packets_per_flow,
            rate: wanted.rate,
            seed: wanted.seed,
        }
    }
}

/// Packets that did not come back.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Loss {
    /// How many.
    pub packets: u64,
    /// Their share of those sent, 0 to 1.
    pub ratio: f64,
}

/// Times from sending to the answer's arrival, in ns.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Answers measured.
    pub samples: u64,
    /// The shortest.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// The median.
    pub p50: u64,
    /// 90 % were no slower.
    pub p90: u64,
    /// 99 % were no slower.
    pub p99: u64,
    /// 99.9 % were no slower.
    pub p99_9: u64,
    /// 99.99 % were no slower.
    pub p99_99: u64,
    /// The longest.
    pub max: u64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        Self {
            samples: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            p99_99: histogram.value_at_quantile(0.9999),
            max: histogram.max(),
        }
    }
}

/// How often flows went from one backend to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// Flows as the generator sees them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunFlows {
    /// Flows that sent something.
    pub opened: u64,
    /// Flows that got at least one answer.
    pub answered: u64,
    /// Flows answered by more than one backend within a connection.
    pub moved: u64,
}

/// The packet buffers after everything was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// What the generator has found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    /// [`VERSION`].
    pub version: u32,
    /// `run`.
    pub command: &'static str,
    /// What was sent.
    pub profile: ProfileReport,
    /// Seconds from the first packet to the last.
    pub duration_s: f64,
    /// Frames that the devices took.
    pub sent: Volume,
    /// Answers, repetitions included.
    pub answers: Volume,
    /// What did not come back; absent with `--one-way`.
    pub loss: Option<Loss>,
    /// Answers that came more than once, each repetition counted.
    pub duplicates: u64,
    /// Answers that came after a newer one of their flow.
    pub reordered: u64,
    /// Answers to what was not sent in this run.
    pub unexpected: u64,
    /// Packets whose IP or transport checksum is wrong.
    pub bad_checksum: u64,
    /// Frames that are neither answers nor neighbour messages.
    pub other: u64,
    /// Neighbour questions answered.
    pub neighbour_answers: u64,
    /// Flows.
    pub flows: RunFlows,
    /// Changes of backend within a connection.
    pub moves: Vec<Move>,
    /// Answers by backend number.
    pub backends: BTreeMap<u16, u64>,
    /// Latency.
    pub latency_ns: Latency,
    /// The devices' own counters.
    pub devices: Vec<DeviceReport>,
    /// The packet buffers.
    pub pool: PoolReport,
    /// Expectations that were not met; empty when all is well.
    pub failed: Vec<&'static str>,
}

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
    /// [`VERSION`].
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

/// What the capture writer has done.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PcapReport {
    /// [`VERSION`].
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

/// What must hold for a run to succeed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Expectations {
    /// Exit with 1 if a packet was lost.
    #[arg(long)]
    pub fail_on_loss: bool,
    /// Exit with 1 if a flow met more than one backend within a connection, or a packet came where
    /// it does not belong.
    #[arg(long)]
    pub fail_on_misdelivery: bool,
    /// Exit with 1 if a packet came more than once.
    #[arg(long)]
    pub fail_on_duplicates: bool,
    /// Exit with 1 if packets of a flow came in another order than they were sent.
    #[arg(long)]
    pub fail_on_reordering: bool,
    /// Exit with 1 if a checksum was wrong.
    #[arg(long)]
    pub fail_on_damage: bool,
}

impl Expectations {
    /// The names of those that `found` does not meet.
    #[must_use]
    pub fn missed(&self, found: &Found) -> Vec<&'static str> {
        [
            (self.fail_on_loss, found.lost, "loss"),
            (self.fail_on_misdelivery, found.misdelivered, "misdelivery"),
            (self.fail_on_duplicates, found.duplicates, "duplicates"),
            (self.fail_on_reordering, found.reordered, "reordering"),
            (self.fail_on_damage, found.damaged, "damage"),
        ]
        .into_iter()
        .filter(|(asked, count, _)| *asked && *count > 0)
        .map(|(_, _, name)| name)
        .collect()
    }
}

/// The figures that expectations are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Found {
    /// Packets lost.
    pub lost: u64,
    /// Flows moved, and packets at the wrong place.
    pub misdelivered: u64,
    /// Repetitions.
    pub duplicates: u64,
    /// Packets out of order.
    pub reordered: u64,
    /// Wrong checksums.
    pub damaged: u64,
}

/// The loss that `totals` leaves of `sent` packets.
#[must_use]
pub fn loss(sent: u64, totals: &Totals) -> Loss {
    let packets = sent.saturating_sub(totals.unique());
    Loss {
        packets,
        ratio: if sent == 0 {
            0.0
        } else {
            packets as f64 / sent as f64
        },
    }
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
    let mut table = Table::new();
    table.load_preset(UTF8_BORDERS_ONLY).set_header([title, ""]);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    align_right(&mut table, 1);
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

fn verdict(failed: &[&'static str], pool: &PoolReport) -> String {
    match (failed.is_empty(), pool.is_full()) {
        (true, true) => "passed".into(),
        (false, _) => format!("FAILED: {}", failed.join(", ")),
        (true, false) => "FAILED: buffers lost".into(),
    }
}

fn micros(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1e3)
}

impl Report for RunReport {
    fn tables(&self) -> Vec<Table> {
        let lost = match &self.loss {
            Some(loss) => format!("{} ({:.4} %)", loss.packets, loss.ratio * 100.0),
            None => "not measured (one way)".into(),
        };
        let figures = vec![
            (
                "traffic",
                format!(
                    "{} {} flows to {}",
                    self.profile.flows, self.profile.protocol, self.profile.vip
                ),
            ),
            (
                "sent",
                format!(
                    "{} in {:.3} s ({:.0}/s)",
                    self.sent.packets, self.duration_s, self.sent.pps
                ),
            ),
            ("answers", self.answers.packets.to_string()),
            ("lost", lost),
            ("duplicates", self.duplicates.to_string()),
            ("reordered", self.reordered.to_string()),
            (
                "unexpected, damaged, other",
                format!("{}, {}, {}", self.unexpected, self.bad_checksum, self.other),
            ),
            (
                "flows opened, answered",
                format!("{}, {}", self.flows.opened, self.flows.answered),
            ),
            (
                "flows moved to another backend",
                self.flows.moved.to_string(),
            ),
            ("moves", moves_line(&self.moves)),
            ("missed, no buffer, errors", missed_line(&self.devices)),
            ("buffers free", buffers_line(&self.pool)),
            ("verdict", verdict(&self.failed, &self.pool)),
        ];
        let l = &self.latency_ns;
        let latency = vec![
            ("min", micros(l.min)),
            ("mean", micros(l.mean as u64)),
            ("p50", micros(l.p50)),
            ("p90", micros(l.p90)),
            ("p99", micros(l.p99)),
            ("p99.9", micros(l.p99_9)),
            ("p99.99", micros(l.p99_99)),
            ("max", micros(l.max)),
        ];
        let mut tables = vec![pairs("run", figures)];
        if l.samples > 0 {
            tables.push(pairs("latency", latency));
        }
        if !self.backends.is_empty() {
            let mut table = Table::new();
            table
                .load_preset(UTF8_BORDERS_ONLY)
                .set_header(["backend", "answers", "share"]);
            for (id, answers) in &self.backends {
                let share = *answers as f64 / self.answers.packets.max(1) as f64 * 100.0;
                table.add_row([id.to_string(), answers.to_string(), format!("{share:.2} %")]);
            }
            align_right(&mut table, 0);
            tables.push(table);
        }
        tables
    }
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
        let mut table = Table::new();
        table
            .load_preset(UTF8_BORDERS_ONLY)
            .set_header(["backend", "address", "MAC", "packets", "share", "flows"]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_and_is_not_met_is_reported() {
        let found = Found {
            lost: 1,
            misdelivered: 2,
            ..Found::default()
        };
        let asked = Expectations {
            fail_on_loss: true,
            fail_on_duplicates: true,
            ..Expectations::default()
        };
        assert_eq!(asked.missed(&found), ["loss"]);
        assert_eq!(Expectations::default().missed(&found), [""; 0]);
    }

    #[test]
    fn loss_is_what_was_sent_less_what_came_back_once() {
        let mut totals = Totals::new().unwrap();
        totals.answers = 95;
        totals.duplicates = 5;
        assert_eq!(
            loss(100, &totals),
            Loss {
                packets: 10,
                ratio: 0.1
            }
        );
        assert_eq!(loss(0, &Totals::new().unwrap()), Loss::default());
    }

    #[test]
    fn an_empty_histogram_has_no_percentiles() {
        assert_eq!(
            Latency::from(&Totals::new().unwrap().latency),
            Latency::default()
        );
    }
}
