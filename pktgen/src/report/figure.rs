//! A figure with its spread: what a measurement repeated several times has come to, in one case.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which way a figure is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// It is neither; it describes.
    Neither,
}

/// What kept a throughput from being higher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// The device under test lost packets above it.
    Device,
    /// The generator sends no faster.
    Generator,
    /// It was not to be tried.
    Maximum,
}

impl Limit {
    /// The word in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Generator => "generator",
            Self::Maximum => "maximum",
        }
    }
}

/// What a figure was measured for. What is absent played no part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Case {
    /// What is varied: `flows`, `backends` or `new-flows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweep: Option<String>,
    /// Frame size, FCS included, or a mix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// Flows at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<u32>,
    /// Backends behind the device under test.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends: Option<u32>,
    /// Share of packets that open a new flow, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_flows: Option<f64>,
    /// Load as a share of the throughput, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// `p50`, `p99` and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentile: Option<String>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| format!("{} %", decimal(share * 100.0));
        let parts = [
            self.size.clone(),
            self.flows
                .map(|n| format!("{} {}", count(f64::from(n)), many(n, "flow"))),
            self.backends.map(|n| format!("{n} {}", many(n, "backend"))),
            self.new_flows
                .map(|share| format!("{} new", percent(share))),
            self.load.map(|share| format!("at {}", percent(share))),
            self.percentile.clone(),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join(", "))
    }
}

fn many(number: u32, noun: &str) -> String {
    format!("{noun}{}", if number == 1 { "" } else { "s" })
}

/// A figure: the median (or mean, where the method wants that) of several samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// What it is: `throughput`, `latency` and so on.
    pub name: String,
    /// What it was measured for.
    pub case: Case,
    /// `packets/s`, `ns` and so on.
    pub unit: String,
    /// Which way it is to go.
    pub better: Better,
    /// Median, or mean for `back-to-back`.
    pub value: f64,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// Every sample, in the order of measuring.
    pub samples: Vec<f64>,
    /// What kept it from being higher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<Limit>,
}

/// What stands for several samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Middle {
    /// The middle one.
    Median,
    /// Their sum by their number.
    Mean,
}

impl Figure {
    /// The figure that `samples` (at least one) come to.
    #[must_use]
    pub fn new(
        name: &str,
        case: Case,
        unit: &str,
        better: Better,
        middle: Middle,
        samples: Vec<f64>,
    ) -> Self {
        let value = match middle {
            Middle::Median => median(&samples),
            Middle::Mean => samples.iter().sum::<f64>() / samples.len().max(1) as f64,
        };
        Self {
            name: name.into(),
            case,
            unit: unit.into(),
            better,
            value,
            min: samples.iter().copied().reduce(f64::min).unwrap_or(0.0),
            max: samples.iter().copied().reduce(f64::max).unwrap_or(0.0),
            samples,
            limited_by: None,
        }
    }

    /// The same figure with what limits it.
    #[must_use]
    pub const fn limited(mut self, by: Limit) -> Self {
        self.limited_by = Some(by);
        self
    }

    /// The value in words.
    #[must_use]
    pub fn text(&self) -> String {
        quantity(self.value, &self.unit)
    }

    /// The smallest and the largest sample in words; nothing if there is one sample.
    #[must_use]
    pub fn spread(&self) -> String {
        if self.samples.len() < 2 {
            return String::new();
        }
        range(self.min, self.max, &self.unit)
    }
}

/// The middle sample, or the mean of the two in the middle; 0 of none.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

/// A value with its unit, as people write it; small numbers of things to the last one.
#[must_use]
pub fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "ns" | "ratio" | "packets" | "connections" => bare(value, unit),
        _ => format!("{} {unit}", bare(value, unit)),
    }
}

/// From a value to another.
#[must_use]
pub fn range(low: f64, high: f64, unit: &str) -> String {
    format!("{} – {}", bare(low, unit), bare(high, unit))
}

/// A value without the unit's name, where that can be left out.
fn bare(value: f64, unit: &str) -> String {
    match unit {
        "ns" => nanos(value),
        "ratio" => format!("{} %", decimal(value * 100.0)),
        "packets" | "connections" if value.fract() == 0.0 && value < 1e9 => format!("{value}"),
        _ => count(value),
    }
}

/// A number with `k`, `M` or `G`, to four places.
#[must_use]
pub fn count(value: f64) -> String {
    for (factor, suffix) in [(1e9, "G"), (1e6, "M"), (1e3, "k")] {
        if value.abs() >= factor {
            return format!("{}{suffix}", decimal(value / factor));
        }
    }
    decimal(value)
}

/// A time in the unit that suits it.
#[must_use]
pub fn nanos(value: f64) -> String {
    for (factor, unit) in [(1e9, "s"), (1e6, "ms"), (1e3, "µs")] {
        if value >= factor {
            return format!("{} {unit}", decimal(value / factor));
        }
    }
    format!("{} ns", decimal(value))
}

/// Four significant places at most, and no zeros at the end.
fn decimal(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 {
            "0".into()
        } else {
            value.to_string()
        };
    }
    let whole = value.abs().log10().floor() as i32 + 1;
    let places = (4 - whole).clamp(0, 9) as usize;
    let text = format!("{value:.places$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_for_the_samples_and_their_ends_are_the_spread() {
        let figure = |samples: &[f64]| {
            let case = Case::default();
            Figure::new(
                "throughput",
                case,
                "packets/s",
                Better::Higher,
                Middle::Median,
                samples.to_vec(),
            )
        };
        let odd = figure(&[3e6, 1e6, 2e6]);
        assert_eq!((odd.value, odd.min, odd.max), (2e6, 1e6, 3e6));
        assert_eq!(figure(&[1.0, 2.0, 4.0, 9.0]).value, 3.0);
        assert_eq!(
            (odd.text(), odd.spread()),
            ("2M packets/s".into(), "1M – 3M".into())
        );
        assert_eq!(figure(&[7.0]).spread(), "");
    }

    #[test]
    fn quantities_are_short_and_lose_nothing_that_matters() {
        let texts: Vec<String> = [
            0.0,
            1.0,
            12.5,
            999.0,
            1_234.0,
            65_537.0,
            14_880_952.0,
            100e6,
        ]
        .into_iter()
        .map(count)
        .collect();
        assert_eq!(
            texts,
            [
                "0", "1", "12.5", "999", "1.234k", "65.54k", "14.88M", "100M"
            ]
        );
        assert_eq!(nanos(950.0), "950 ns");
        assert_eq!(nanos(2_544.0), "2.544 µs");
        assert_eq!(quantity(0.000_001, "ratio"), "0.0001 %");
        assert_eq!(quantity(3.2, "Gbit/s"), "3.2 Gbit/s");
        assert_eq!(quantity(1_234_567.0, "packets"), "1234567");
    }

    #[test]
    fn a_case_reads_like_a_label() {
        let case = Case {
            flows: Some(1_000_000),
            new_flows: Some(0.1),
            load: Some(0.5),
            percentile: Some("p99".into()),
            ..Case::default()
        };
        assert_eq!(case.to_string(), "1M flows, 10 % new, at 50 %, p99");
    }
}
