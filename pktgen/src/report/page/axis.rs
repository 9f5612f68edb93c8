//! Axes of a plot: linear, logarithmic, or of names, with ticks where people expect them.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// How values become places on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

/// An axis. Its places are the values themselves, their logarithms, or the numbers of names.
#[derive(Debug, Clone)]
pub struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From `low` to at least `high`, with about `wanted` ticks at round numbers, in words by `text`.
    pub fn linear(low: f64, high: f64, wanted: u32, text: impl Fn(f64) -> String) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        let step = round_step((high - low) / f64::from(wanted.max(1)));
        let (first, last) = ((low / step).floor() as i64, (high / step).ceil() as i64);
        let ticks: Vec<(f64, String)> = (first..=last)
            .map(|n| n as f64 * step)
            .map(|value| (value, text(value)))
            .collect();
        Self {
            scale: Scale::Linear,
            from: first as f64 * step,
            to: last as f64 * step,
            ticks,
        }
    }

    /// As wide as the values from `low` to `high` (above 0), with ticks at powers of ten, and at their
    /// doubles and fivefolds if there are few.
    pub fn log(low: f64, high: f64, text: impl Fn(f64) -> String) -> Self {
        let low = low.max(1e-9);
        let high = high.max(low * 1.000_1);
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        let between: &[f64] = if last - first <= 2 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let every: Vec<f64> = (first..=last)
            .flat_map(|power| between.iter().map(move |n| n * 10f64.powi(power)))
            .collect();
        let nearly = 1.0 + 1e-9;
        let from = every
            .iter()
            .copied()
            .filter(|v| *v <= low * nearly)
            .fold(f64::NAN, f64::max);
        let to = every
            .iter()
            .copied()
            .filter(|v| *v * nearly >= high)
            .fold(f64::NAN, f64::min);
        let shown = every.iter().filter(|v| (from..=to).contains(*v));
        Self {
            scale: Scale::Log,
            from: from.log10(),
            to: to.log10(),
            ticks: shown.map(|v| (v.log10(), text(*v))).collect(),
        }
    }

    /// A place for each name.
    #[must_use]
    pub fn names(names: &[String]) -> Self {
        let places = (0..names.len()).map(|place| place as f64);
        Self {
            scale: Scale::Linear,
            from: -0.5,
            to: names.len() as f64 - 0.5,
            ticks: places.zip(names.iter().cloned()).collect(),
        }
    }

    /// A logarithmic axis with some room at both ends.
    #[must_use]
    pub fn with_room(mut self) -> Self {
        let room = (self.to - self.from) * 0.04;
        self.from -= room;
        self.to += room;
        self
    }

    /// Where `value` lies.
    #[must_use]
    pub fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(1e-9).log10(),
        }
        .clamp(self.from, self.to)
    }

    /// Its lower end, as a place.
    #[must_use]
    pub const fn from(&self) -> f64 {
        self.from
    }

    /// Its upper end, as a place.
    #[must_use]
    pub const fn to(&self) -> f64 {
        self.to
    }
}

/// The smallest of 1, 2, 5, 10, 20, … and their tenths that is no less than `step`.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|n| n * power)
        .find(|round| *round >= step * (1.0 - 1e-9))
        .unwrap_or(10.0 * power)
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.from) / (self.to - self.from);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.iter().map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|(place, _)| place == value);
        tick.map_or_else(String::new, |(_, text)| text.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::figure::count;
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|(_, text)| text.as_str()).collect()
    }

    #[test]
    fn ticks_are_at_round_numbers() {
        let axis = Axis::linear(0.0, 12.6e6, 5, count);
        assert_eq!(texts(&axis), ["0", "5M", "10M", "15M"]);
        let axis = Axis::linear(97.0, 103.0, 5, count);
        assert_eq!(texts(&axis), ["96", "98", "100", "102", "104"]);
        assert_eq!(texts(&Axis::linear(0.0, 0.0, 5, count)).first(), Some(&"0"));
    }

    #[test]
    fn logarithmic_ticks_are_powers_of_ten_and_more_where_there_is_room() {
        let axis = Axis::log(1e3, 1e8, count);
        assert_eq!(texts(&axis), ["1k", "10k", "100k", "1M", "10M", "100M"]);
        let axis = Axis::log(1_500.0, 30_000.0, count);
        assert_eq!(texts(&axis), ["1k", "2k", "5k", "10k", "20k", "50k"]);
        let axis = Axis::log(15.0, 30.0, count);
        assert_eq!(texts(&axis), ["10", "20", "50"]);
        assert_eq!(axis.place(20.0), 20f64.log10());
    }

    #[test]
    fn places_map_onto_pixels_also_upside_down() {
        let axis = Axis::names(&["a".into(), "b".into()]);
        assert_eq!(
            (axis.map(&0.0, (0, 100)), axis.map(&1.0, (100, 0))),
            (25, 25)
        );
        assert_eq!(
            (axis.format_ext(&1.0), axis.format_ext(&0.3)),
            ("b".into(), String::new())
        );
    }
}
