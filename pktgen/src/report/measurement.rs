//! What `rfc2544`, `scale` and `churn` have found: figures with their spread, and where they were
//! measured. The same JSON is read back by `report` and `--compare`; docs/pktgen.md has its schema.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::Table;
use serde::{Deserialize, Serialize};

use super::figure::{Case, Figure};
use super::{DeviceReport, Move, PoolReport, ProfileReport, Report, VERSION};
use super::{align_right, buffers_line, grid, missed_line, moves_line, pairs, verdict};

/// The machine that measured.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Its processor.
    pub cpu: String,
    /// Its cores.
    pub cores: usize,
    /// Its kernel.
    pub kernel: String,
    /// The version of weir-pktgen.
    pub pktgen: String,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn this() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .and_then(|rest| rest.split_once(':'))
            .map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_owned());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
            pktgen: env!("CARGO_PKG_VERSION").into(),
        }
    }
}

/// What a run had come to at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Seconds from the start.
    pub at_s: f64,
    /// Packets sent until then.
    pub sent: u64,
    /// Packets answered until then.
    pub answers: u64,
    /// Connections that had changed backend until then.
    pub moved: u64,
}

/// A command that was run during a measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Seconds from the start.
    pub at_s: f64,
    /// The command.
    pub command: String,
    /// Its exit code; `null` if it did not end by itself.
    pub exit: Option<i32>,
    /// Milliseconds that it took.
    pub took_ms: f64,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub problem: Option<String>,
}

/// A measurement's report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// [`VERSION`].
    pub version: u32,
    /// `rfc2544`, `scale` or `churn`.
    pub command: String,
    /// When it began, in seconds since 1970 UTC.
    pub started: u64,
    /// Where.
    pub machine: Machine,
    /// What was sent; figures' cases say what was varied.
    pub profile: ProfileReport,
    /// How it was measured, in words.
    pub settings: BTreeMap<String, String>,
    /// Whether a signal ended it before its time.
    pub interrupted: bool,
    /// What was found.
    pub figures: Vec<Figure>,
    /// The course of a run; empty except for `churn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Moment>,
    /// Commands run meanwhile; empty except for `churn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
    /// Changes of backend within a connection; empty except for `churn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
    /// The devices' own counters.
    pub devices: Vec<DeviceReport>,
    /// The packet buffers.
    pub pool: PoolReport,
    /// Expectations that were not met; empty when all is well.
    pub failed: Vec<String>,
}

/// A report that cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It holds something else.
    #[error("{path} is no {wanted}: {source}")]
    Content {
        /// The file.
        path: String,
        /// What was expected.
        wanted: &'static str,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It is of another version.
    #[error(
        "{path} has version {found}; this weir-pktgen reads version {VERSION}: measure again, or use the weir-pktgen that wrote it"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
    },
}

/// Reads a JSON file into what it is `wanted` to hold.
pub(super) fn read_json<T: serde::de::DeserializeOwned>(
    path: &Path,
    wanted: &'static str,
) -> Result<T, Unreadable> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| Unreadable::File {
        path: name.clone(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| Unreadable::Content {
        path: name,
        wanted,
        source,
    })
}

impl Measurement {
    /// Reads a report that `--save` or `--json` wrote.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn load(path: &Path) -> Result<Self, Unreadable> {
        const WANTED: &str = "report of rfc2544, scale or churn";
        let value: serde_json::Value = read_json(path, WANTED)?;
        let found = value.get("version").and_then(serde_json::Value::as_u64);
        let path = path.display().to_string();
        if let Some(found) = found.filter(|found| *found != u64::from(VERSION)) {
            return Err(Unreadable::Version { path, found });
        }
        serde_json::from_value(value).map_err(|source| Unreadable::Content {
            path,
            wanted: WANTED,
            source,
        })
    }

    /// The figures called `name`.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Figure> {
        self.figures
            .iter()
            .filter(move |figure| figure.name == name)
    }

    /// Whether everything that was asked for held.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.failed.is_empty() && self.pool.is_full() && !self.interrupted
    }

    /// When it began: date and time, UTC.
    #[must_use]
    pub fn date(&self) -> String {
        date(self.started)
    }
}

/// Seconds since 1970 UTC.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// `seconds` since 1970 as `2026-11-21 07:30 UTC` (days to a date by the proleptic Gregorian
/// calendar, whose years begin in March here so that the odd day comes last).
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let in_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let date = in_year - (153 * month + 2) / 5 + 1;
    let civil = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(civil <= 2);
    let (hour, minute) = (rest / 3_600, rest / 60 % 60);
    format!("{year:04}-{civil:02}-{date:02} {hour:02}:{minute:02} UTC")
}

impl Report for Measurement {
    fn tables(&self) -> Vec<Table> {
        let mut summary = vec![
            (
                "machine",
                format!("{}, {} cores", self.machine.cpu, self.machine.cores),
            ),
            (
                "traffic",
                format!("{} to {}", self.profile.protocol, self.profile.vip),
            ),
        ];
        summary.extend(
            self.settings
                .iter()
                .map(|(name, value)| (name.as_str(), value.clone())),
        );
        if self.command == "churn" {
            summary.push(("moves", moves_line(&self.moves)));
        }
        summary.push(("missed, no buffer, errors", missed_line(&self.devices)));
        summary.push(("buffers free", buffers_line(&self.pool)));
        let failed: Vec<&str> = self.failed.iter().map(String::as_str).collect();
        let verdict = if self.interrupted {
            "INTERRUPTED".into()
        } else {
            verdict(&failed, &self.pool)
        };
        summary.push(("verdict", verdict));
        let mut tables = vec![pairs(&self.command, summary)];
        tables.extend(figure_tables(&self.figures));
        if !self.events.is_empty() {
            let mut table = grid(&["at", "command", "exit", "took"]);
            for event in &self.events {
                let exit = event
                    .exit
                    .map_or_else(|| "none".into(), |code| code.to_string());
                table.add_row([
                    format!("{:.3} s", event.at_s),
                    event.command.clone(),
                    exit,
                    format!("{:.1} ms", event.took_ms),
                ]);
            }
            tables.push(table);
        }
        tables
    }
}

/// One table for each run of figures with the same name; latency has a column for each percentile.
fn figure_tables(figures: &[Figure]) -> Vec<Table> {
    let plain: Vec<&Figure> = figures
        .iter()
        .filter(|f| f.case.percentile.is_none())
        .collect();
    let mut tables = Vec::new();
    if !plain.is_empty() {
        let mut table = grid(&["figure", "case", "value", "spread", "limited by"]);
        for figure in plain {
            table.add_row([
                figure.name.clone(),
                figure.case.to_string(),
                figure.text(),
                figure.spread(),
                figure.limited_by.map_or("", |limit| limit.name()).into(),
            ]);
        }
        for column in [2, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
        tables.push(table);
    }
    tables.extend(latency_table(figures));
    tables
}

fn latency_table(figures: &[Figure]) -> Option<Table> {
    let rows = latency_rows(figures);
    let (_, first) = rows.first()?;
    let names = first.iter().filter_map(|f| f.case.percentile.as_deref());
    let header: Vec<&str> = ["latency"].into_iter().chain(names).collect();
    let mut table = grid(&header);
    for (case, figures) in &rows {
        let cells = figures.iter().map(|figure| figure.text());
        table.add_row([case.to_string()].into_iter().chain(cells));
    }
    align_right(&mut table, 1);
    Some(table)
}

/// The figures of each case that has percentiles, in the order of the percentiles.
#[must_use]
pub fn latency_rows(figures: &[Figure]) -> Vec<(Case, Vec<&Figure>)> {
    let mut rows: Vec<(Case, Vec<&Figure>)> = Vec::new();
    for figure in figures.iter().filter(|f| f.case.percentile.is_some()) {
        let case = Case {
            percentile: None,
            ..figure.case.clone()
        };
        match rows.iter_mut().find(|(other, _)| *other == case) {
            Some((_, row)) => row.push(figure),
            None => rows.push((case, vec![figure])),
        }
    }
    rows
}

#[cfg(test)]
#[path = "../../tests/common/schema.rs"]
mod schema;

#[cfg(test)]
pub(crate) mod tests {
    use super::super::figure::{Better, Limit, Middle};
    use super::*;
    use crate::profile::{Profile, sample};

    fn figure(name: &str, case: Case, unit: &str, better: Better, samples: &[f64]) -> Figure {
        Figure::new(name, case, unit, better, Middle::Median, samples.to_vec())
    }

    fn frame(command: &str, figures: Vec<Figure>) -> Measurement {
        Measurement {
            version: VERSION,
            command: command.into(),
            started: 1_795_246_200,
            machine: Machine {
                cpu: "A <fast> & small one".into(),
                cores: 2,
                kernel: "6.1.0".into(),
                pktgen: "0.1.0".into(),
            },
            profile: (&Profile::new(sample()).unwrap()).into(),
            settings: [("duration".into(), "10s".into())].into(),
            interrupted: false,
            figures,
            timeline: Vec::new(),
            events: Vec::new(),
            moves: Vec::new(),
            devices: vec![DeviceReport {
                device: "net_ring0".into(),
                driver: "net_ring".into(),
                rx_packets: 10,
                rx_missed: 0,
                rx_errors: 0,
                rx_no_buffer: 0,
                tx_packets: 10,
                tx_errors: 0,
            }],
            pool: PoolReport {
                size: 8_191,
                free: 8_191,
                held_by_driver: 0,
            },
            failed: Vec::new(),
        }
    }

    /// A report of `rfc2544` with two sizes, two loads.
    pub(crate) fn rfc2544() -> Measurement {
        let mut figures = Vec::new();
        for (size, rate) in [("64", 12.5e6), ("1518", 0.81e6)] {
            let case = Case {
                size: Some(size.into()),
                ..Case::default()
            };
            let samples = [rate * 0.98, rate, rate * 1.01];
            let rates = figure(
                "throughput",
                case.clone(),
                "packets/s",
                Better::Higher,
                &samples,
            );
            figures.push(rates.limited(Limit::Device));
            let bursts = figure(
                "back-to-back",
                case.clone(),
                "packets",
                Better::Higher,
                &[512.0],
            );
            figures.push(bursts.limited(Limit::Device));
            for load in [0.5, 0.9] {
                for (place, percentile) in ["p50", "p90", "p99", "p99.9", "max"].iter().enumerate()
                {
                    let case = Case {
                        load: Some(load),
                        percentile: Some((*percentile).into()),
                        ..case.clone()
                    };
                    let nanos = 3_000.0 * load * 3f64.powi(place as i32);
                    let samples = [nanos * 0.9, nanos, nanos * 1.2];
                    figures.push(figure("latency", case, "ns", Better::Lower, &samples));
                }
            }
        }
        frame("rfc2544", figures)
    }

    /// A report of `scale` with three sweeps.
    pub(crate) fn scale() -> Measurement {
        let mut figures = Vec::new();
        let case = |sweep: &str, flows, backends, share| Case {
            sweep: Some(sweep.into()),
            flows: Some(flows),
            backends: Some(backends),
            new_flows: Some(share),
            ..Case::default()
        };
        let by_flows = (3..=8).map(|power| {
            (
                case("flows", 10u32.pow(power), 100, 0.0),
                16e6 - 1e6 * f64::from(power),
            )
        });
        let by_backends = [1, 10, 100, 1_000].map(|n| (case("backends", 1_000_000, n, 0.0), 9.5e6));
        let by_share = [0.0, 0.01, 0.1, 0.5, 1.0]
            .map(|s| (case("new-flows", 1_000_000, 100, s), 10e6 - 4e6 * s));
        for (case, rate) in by_flows.chain(by_backends).chain(by_share) {
            let samples = [rate * 0.97, rate, rate * 1.02];
            figures.push(
                figure(
                    "throughput",
                    case.clone(),
                    "packets/s",
                    Better::Higher,
                    &samples,
                )
                .limited(Limit::Device),
            );
            figures.push(figure(
                "loss",
                case,
                "ratio",
                Better::Neither,
                &[0.01, 0.02, 0.03],
            ));
        }
        frame("scale", figures)
    }

    /// A report of `churn` with two pool changes.
    pub(crate) fn churn() -> Measurement {
        let mut report = frame(
            "churn",
            vec![
                figure(
                    "opened",
                    Case::default(),
                    "connections",
                    Better::Neither,
                    &[20_000.0],
                ),
                figure(
                    "moved",
                    Case::default(),
                    "connections",
                    Better::Lower,
                    &[17.0],
                ),
                figure("lost", Case::default(), "packets", Better::Lower, &[3.0]),
            ],
        );
        report.timeline = (0..=100u64)
            .map(|tick| Moment {
                at_s: tick as f64 / 10.0,
                sent: tick * 5_000,
                answers: tick * 5_000 - if tick > 52 { 3 } else { 0 },
                moved: if tick > 30 { 17 } else { 0 },
            })
            .collect();
        let event = |at_s, command: &str, exit: i32| Event {
            at_s,
            command: command.into(),
            exit: Some(exit),
            took_ms: 2.5,
            problem: (exit != 0).then(|| "exit status: 1".into()),
        };
        report.events = vec![
            event(3.0, "backend remove web 10.0.0.12:80", 0),
            event(6.0, "backend add web 10.0.0.12:80", 1),
        ];
        report.moves = vec![Move {
            from: 1,
            to: 2,
            times: 17,
        }];
        report.failed = vec!["command".into()];
        report
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_795_246_200, "2026-11-21 07:30 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn a_report_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for report in [rfc2544(), scale(), churn()] {
            let path = folder.path().join(&report.command);
            let mut text = Vec::new();
            report.print(true, &mut text).unwrap();
            fs::write(&path, text).unwrap();
            assert_eq!(Measurement::load(&path).unwrap(), report);
        }
    }

    #[test]
    fn a_report_of_another_version_or_of_something_else_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.json");
        for (text, words) in [
            (
                "{\"version\": 99}",
                "has version 99; this weir-pktgen reads version 1",
            ),
            (
                "{\"version\": 1, \"command\": \"pcap\"}",
                "old.json is no report of rfc2544, scale or churn",
            ),
            ("no JSON", "is no report"),
        ] {
            fs::write(&path, text).unwrap();
            let message = Measurement::load(&path).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        let nothing = Measurement::load(&folder.path().join("none")).unwrap_err();
        assert!(nothing.to_string().starts_with("cannot read"));
    }

    #[test]
    fn every_report_is_as_the_documentation_says() {
        let documented = schema::documented();
        for mut report in [rfc2544(), scale(), churn()] {
            let value = serde_json::to_value(&report).unwrap();
            assert_eq!(schema::differences(&value, &documented), [""; 0]);
            report.figures.clear();
            let value = serde_json::to_value(&report).unwrap();
            assert_eq!(schema::differences(&value, &documented), [""; 0]);
        }
    }

    #[test]
    fn what_the_documentation_does_not_say_is_noticed() {
        let documented = schema::documented();
        let mut value = serde_json::to_value(churn()).unwrap();
        value["version"] = 2.into();
        value["figures"][0]["better"] = "sideways".into();
        value["figures"][1]["extra"] = 1.into();
        value["pool"]["free"] = "all".into();
        value.as_object_mut().unwrap().remove("machine");
        let differences = schema::differences(&value, &documented).join("\n");
        for words in [
            "$ has no",
            "$.version is 2",
            "[0].better",
            "[1].extra is not documented",
            "$.pool.free",
        ] {
            assert!(differences.contains(words), "{words} in {differences}");
        }
    }

    fn tables(report: &Measurement) -> String {
        let mut text = Vec::new();
        report.print(false, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn the_tables_of_each_command_are_the_ones_people_know() {
        insta::assert_snapshot!("tables-rfc2544", tables(&rfc2544()));
        insta::assert_snapshot!("tables-scale", tables(&scale()));
        insta::assert_snapshot!("tables-churn", tables(&churn()));
    }
}
