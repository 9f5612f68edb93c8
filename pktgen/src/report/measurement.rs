//! What `rfc2544`, `scale` and `churn` have found: figures with their spread, and where they were
//! measured. The same JSON is read back by `report` and `--compare`; docs/pktgen.md has its schema.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::figure::Figure;
use super::machine::{Machine, date};
use super::{DeviceReport, Move, PoolReport, ProfileReport, VERSION};

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

#[cfg(test)]
#[path = "../../tests/common/schema.rs"]
mod schema;

#[cfg(test)]
pub(crate) mod tests {
    use super::super::Report;
    use super::super::figure::{Better, Case, Limit, Middle};
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
}
