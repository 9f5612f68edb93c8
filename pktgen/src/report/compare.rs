//! Two reports side by side: how each figure has changed, and whether by more than it varies anyway.

use comfy_table::Table;
use serde::{Deserialize, Serialize};

use super::figure::{Better, Case, Figure, quantity, range};
use super::measurement::Measurement;
use super::{align_right, grid};

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The two spreads overlap: it may be chance.
    WithinSpread,
    /// Every new sample is better than every old one.
    Better,
    /// Every new sample is worse than every old one.
    Worse,
    /// Every new sample is beyond every old one, of a figure that is neither good nor bad.
    Different,
    /// There is no such old figure.
    New,
    /// There is no such new figure.
    Gone,
}

impl Verdict {
    /// The words in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::WithinSpread => "within spread",
            Self::Better => "better",
            Self::Worse => "WORSE",
            Self::Different => "different",
            Self::New => "new",
            Self::Gone => "gone",
        }
    }
}

/// A figure's value with its spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// What stands for the samples.
    pub value: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl From<&Figure> for Spread {
    fn from(figure: &Figure) -> Self {
        Self {
            value: figure.value,
            min: figure.min,
            max: figure.max,
        }
    }
}

/// One figure, old and new.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The figure.
    pub name: String,
    /// Its case.
    pub case: Case,
    /// Its unit.
    pub unit: String,
    /// What it was.
    pub old: Option<Spread>,
    /// What it is.
    pub new: Option<Spread>,
    /// New by old, less 1; absent where one is missing, or the old one is 0.
    pub change: Option<f64>,
    /// What that means.
    pub verdict: Verdict,
}

/// Every figure of `new` beside that of `old`, and then those that only `old` has.
#[must_use]
pub fn compare(old: &Measurement, new: &Measurement) -> Vec<Change> {
    let twin = |figure: &Figure, report: &Measurement| -> Option<usize> {
        let mut places = report.figures.iter();
        places.position(|other| {
            other.name == figure.name && other.case == figure.case && other.unit == figure.unit
        })
    };
    let mut changes: Vec<Change> = new
        .figures
        .iter()
        .map(|figure| change(twin(figure, old).map(|place| &old.figures[place]), figure))
        .collect();
    let gone = old
        .figures
        .iter()
        .filter(|figure| twin(figure, new).is_none());
    changes.extend(gone.map(|figure| Change {
        old: Some(figure.into()),
        new: None,
        change: None,
        verdict: Verdict::Gone,
        ..change(None, figure)
    }));
    changes
}

fn change(old: Option<&Figure>, new: &Figure) -> Change {
    let verdict = match old {
        None => Verdict::New,
        Some(old) if old.min <= new.max && new.min <= old.max => Verdict::WithinSpread,
        Some(old) => match (new.better, new.min > old.max) {
            (Better::Neither, _) => Verdict::Different,
            (Better::Higher, true) | (Better::Lower, false) => Verdict::Better,
            (Better::Higher, false) | (Better::Lower, true) => Verdict::Worse,
        },
    };
    let ratio = old
        .filter(|old| old.value != 0.0)
        .map(|old| new.value / old.value - 1.0);
    Change {
        name: new.name.clone(),
        case: new.case.clone(),
        unit: new.unit.clone(),
        old: old.map(Spread::from),
        new: Some(new.into()),
        change: ratio,
        verdict,
    }
}

/// The changes as a table.
#[must_use]
pub fn table(changes: &[Change]) -> Table {
    let mut table = grid(&["figure", "case", "old", "new", "change", "verdict"]);
    for change in changes {
        let [old, new] = [change.old, change.new].map(|side| words(side, &change.unit));
        table.add_row([
            change.name.clone(),
            change.case.to_string(),
            old,
            new,
            percent(change.change),
            change.verdict.name().to_owned(),
        ]);
    }
    align_right(&mut table, 2);
    table
}

/// A value and its spread in words.
#[must_use]
pub fn words(side: Option<Spread>, unit: &str) -> String {
    let Some(Spread { value, min, max }) = side else {
        return String::new();
    };
    let text = quantity(value, unit);
    if min == max {
        return text;
    }
    format!("{text} ({})", range(min, max, unit))
}

/// A change in words.
#[must_use]
pub fn percent(change: Option<f64>) -> String {
    change.map_or_else(String::new, |change| format!("{:+.1} %", change * 100.0))
}

#[cfg(test)]
mod tests {
    use super::super::measurement::tests::rfc2544;
    use super::*;

    fn verdict(better: Better, old: &[f64], new: &[f64]) -> (Verdict, Option<f64>) {
        let figure = |samples: &[f64]| {
            let middle = super::super::figure::Middle::Median;
            Figure::new("a", Case::default(), "ns", better, middle, samples.to_vec())
        };
        let change = change(Some(&figure(old)), &figure(new));
        (change.verdict, change.change)
    }

    #[test]
    fn a_change_counts_only_when_the_spreads_are_apart() {
        use Better::{Higher, Lower, Neither};
        let old = [90.0, 100.0, 110.0];
        for (better, new, expected) in [
            (Higher, [105.0, 120.0, 130.0], Verdict::WithinSpread),
            (Higher, [111.0, 120.0, 130.0], Verdict::Better),
            (Higher, [70.0, 80.0, 89.0], Verdict::Worse),
            (Lower, [70.0, 80.0, 89.0], Verdict::Better),
            (Lower, [111.0, 120.0, 130.0], Verdict::Worse),
            (Neither, [111.0, 120.0, 130.0], Verdict::Different),
            (Lower, [110.0, 120.0, 130.0], Verdict::WithinSpread),
        ] {
            assert_eq!(
                verdict(better, &old, &new).0,
                expected,
                "{better:?} {new:?}"
            );
        }
        let (_, change) = verdict(Higher, &old, &[120.0]);
        assert!((change.unwrap() - 0.2).abs() < 1e-9);
        assert_eq!(verdict(Lower, &[0.0], &[5.0]), (Verdict::Worse, None));
        assert_eq!(
            verdict(Lower, &[0.0], &[0.0]),
            (Verdict::WithinSpread, None)
        );
    }

    #[test]
    fn figures_that_only_one_report_has_are_named() {
        let (mut old, mut new) = (rfc2544(), rfc2544());
        new.figures[0].samples = vec![14e6, 15e6];
        (new.figures[0].value, new.figures[0].min, new.figures[0].max) = (14.5e6, 14e6, 15e6);
        old.figures.remove(2);
        new.figures.remove(1);
        let changes = compare(&old, &new);
        let count = |verdict| changes.iter().filter(|c| c.verdict == verdict).count();
        assert_eq!(
            (
                count(Verdict::Better),
                count(Verdict::New),
                count(Verdict::Gone)
            ),
            (1, 1, 1)
        );
        assert_eq!(changes.len(), new.figures.len() + 1);
        insta::assert_snapshot!("compare", table(&changes));
    }
}
