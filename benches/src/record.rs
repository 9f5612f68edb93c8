//! A measured figure as `docs/performance.json` keeps it, and how it is put together from samples.
//!
//! The file is a list of [`Record`]s and nothing else; `docs/performance/runs.json` says for each
//! figure on which machine and when it was measured. A run of some figures replaces theirs and leaves
//! the others.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::goal::{self, Goal};
use crate::machine::Machine;
use crate::{Failure, median};

/// One line of the tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// `A` to `J`: what was measured.
    pub figure: String,
    /// Under which circumstances.
    pub case: String,
    /// The median of all repetitions.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// What it is held against, if anything.
    pub yardstick: Option<String>,
    /// The yardstick's median, in the same unit.
    pub yardstick_value: Option<f64>,
    /// Value by yardstick.
    pub ratio: Option<f64>,
    /// How often both were measured.
    pub repetitions: usize,
    /// The smallest value of all repetitions.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Whether the figure's goal is met; a figure without a goal always is.
    pub reached: bool,
}

impl Record {
    /// A figure without a yardstick, from all its repetitions.
    #[must_use]
    pub fn new(figure: char, case: &str, unit: &str, samples: &[f64]) -> Self {
        let mut record = Self {
            figure: figure.to_string(),
            case: case.to_owned(),
            value: rounded(median(samples.to_vec())),
            unit: unit.to_owned(),
            yardstick: None,
            yardstick_value: None,
            ratio: None,
            repetitions: samples.len(),
            min: rounded(samples.iter().copied().fold(f64::INFINITY, f64::min)),
            max: rounded(samples.iter().copied().fold(f64::NEG_INFINITY, f64::max)),
            reached: false,
        };
        record.judge();
        record
    }

    /// Holds it against what was measured beside it.
    #[must_use]
    pub fn beside(self, yardstick: &str, samples: &[f64]) -> Self {
        self.against(yardstick, median(samples.to_vec()))
    }

    /// Holds it against a number.
    #[must_use]
    pub fn against(mut self, yardstick: &str, value: f64) -> Self {
        self.yardstick = Some(yardstick.to_owned());
        self.yardstick_value = Some(rounded(value));
        self.ratio = (value != 0.0).then(|| rounded(self.value / value));
        self.judge();
        self
    }

    /// The goal that it is to meet.
    #[must_use]
    pub fn goal(&self) -> Goal {
        goal::of(&self.figure, &self.case)
    }

    fn judge(&mut self) {
        self.reached = self
            .goal()
            .is_met(self.value, self.yardstick_value, self.ratio);
    }
}

/// Four significant digits: more would be noise, and make every run's file differ everywhere.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(3 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// Where and when a figure was measured, and why not the last time it was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The machine, at the time of the records that are kept.
    pub machine: Option<Machine>,
    /// Why the last attempt gave nothing; the records are older then.
    pub failure: Option<String>,
}

/// All records and runs, as they lie in the documentation.
#[derive(Debug, Default, PartialEq)]
pub struct Book {
    /// `docs/performance.json`.
    pub records: Vec<Record>,
    /// `docs/performance/runs.json`, by figure.
    pub runs: BTreeMap<String, Run>,
}

impl Book {
    /// Reads both files; those that are not there are empty.
    ///
    /// # Errors
    /// When a file is there and not what it should be.
    pub fn read(records: &Path, runs: &Path) -> Result<Self, Failure> {
        Ok(Self {
            records: read(records)?,
            runs: read(runs)?,
        })
    }

    /// Puts a figure's new records in the place of the old ones.
    pub fn measured(&mut self, figure: &str, records: Vec<Record>, machine: Machine) {
        self.records.retain(|record| record.figure != figure);
        self.records.extend(records);
        self.records
            .sort_by(|left, right| left.figure.cmp(&right.figure));
        let run = Run {
            machine: Some(machine),
            failure: None,
        };
        self.runs.insert(figure.to_owned(), run);
    }

    /// Notes that a figure could not be measured; what was known of it stays.
    pub fn failed(&mut self, figure: &str, why: &str) {
        let run = self.runs.entry(figure.to_owned()).or_insert(Run {
            machine: None,
            failure: None,
        });
        run.failure = Some(why.to_owned());
    }

    /// Writes both files.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn write(&self, records: &Path, runs: &Path) -> Result<(), Failure> {
        write(records, &self.records)?;
        write(runs, &self.runs)
    }
}

fn read<T: Default + for<'de> Deserialize<'de>>(path: &Path) -> Result<T, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map_err(|error| format!("{}: {error}", path.display()).into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(T::default()),
        Err(error) => Err(format!("{}: {error}", path.display()).into()),
    }
}

fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)? + "\n";
    std::fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_keys_that_are_promised_and_no_others() {
        let record = Record::new('A', "dsr-l2, 4K flows", "Mpps", &[3.0, 1.0, 2.0])
            .beside("testpmd 5tswap", &[4.0]);
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(
            json,
            r#"{"figure":"A","case":"dsr-l2, 4K flows","value":2.0,"unit":"Mpps","yardstick":"testpmd 5tswap","yardstick_value":4.0,"ratio":0.5,"repetitions":3,"min":1.0,"max":3.0,"reached":false}"#
        );
    }

    #[test]
    fn a_run_of_one_figure_leaves_the_others() {
        let mut book = Book::default();
        book.measured(
            "B",
            vec![Record::new('B', "x", "ns", &[1.0])],
            Machine::here(),
        );
        book.measured(
            "A",
            vec![Record::new('A', "y", "ns", &[2.0])],
            Machine::here(),
        );
        book.measured(
            "B",
            vec![Record::new('B', "z", "ns", &[3.0])],
            Machine::here(),
        );
        book.failed("A", "no huge pages");
        let cases: Vec<_> = book.records.iter().map(|it| it.case.as_str()).collect();
        assert_eq!(cases, ["y", "z"]);
        assert_eq!(book.runs["A"].failure.as_deref(), Some("no huge pages"));
        assert!(book.runs["A"].machine.is_some());
    }

    #[test]
    fn four_digits_are_kept() {
        assert_eq!(rounded(12.345_67), 12.35);
        assert_eq!(rounded(0.000_123_456), 0.000_123_5);
        assert_eq!(rounded(123_456.0), 123_500.0);
        assert_eq!(rounded(0.0), 0.0);
    }
}
