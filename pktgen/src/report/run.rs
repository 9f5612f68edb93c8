//! What the generator has found.

use std::collections::BTreeMap;

use comfy_table::Table;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{DeviceReport, Move, PoolReport, ProfileReport, Report, Volume};
use super::{align_right, buffers_line, grid, missed_line, moves_line, pairs, verdict};
use crate::tally::Totals;

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

/// What the generator has found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    /// [`super::VERSION`].
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
            let mut table = grid(&["backend", "answers", "share"]);
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

fn micros(ns: u64) -> String {
    format!("{:.1} µs", ns as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

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
