//! What each figure is to reach, and against what. One table, so that the page shows the same goals
//! that the records were judged by.

use std::fmt;

/// What a value has to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Nothing: it stands in the table to be known.
    Told,
    /// At most this.
    AtMost(f64),
    /// At least this.
    AtLeast(f64),
    /// At least this many times the yardstick.
    RatioAtLeast(f64),
    /// At most this many times the yardstick.
    RatioAtMost(f64),
    /// At most this much more than the yardstick.
    YardstickPlus(f64),
}

impl Goal {
    /// Whether a value meets it. Without the yardstick that it needs, it does not.
    #[must_use]
    pub fn is_met(self, value: f64, yardstick: Option<f64>, ratio: Option<f64>) -> bool {
        match self {
            Self::Told => true,
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::RatioAtLeast(limit) => ratio.is_some_and(|ratio| ratio >= limit),
            Self::RatioAtMost(limit) => ratio.is_some_and(|ratio| ratio <= limit),
            Self::YardstickPlus(more) => yardstick.is_some_and(|it| value <= it + more),
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told => f.write_str("–"),
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::RatioAtLeast(limit) => write!(f, "≥ {limit} × yardstick"),
            Self::RatioAtMost(limit) => write!(f, "≤ {limit} × yardstick"),
            Self::YardstickPlus(more) if *more == 0.0 => f.write_str("≤ yardstick"),
            Self::YardstickPlus(more) => write!(f, "≤ yardstick + {more}"),
        }
    }
}

/// Figure, what its case begins with, goal. The first line that fits counts.
const GOALS: &[(&str, &str, Goal)] = &[
    ("A", "dsr-l2", Goal::RatioAtLeast(0.60)),
    ("A", "nat", Goal::RatioAtLeast(0.50)),
    ("B", "dsr-l2, 1K flows", Goal::AtMost(14.0)),
    ("B", "dsr-l2, 1M flows", Goal::AtMost(22.0)),
    ("B", "dsr-l2, 4M flows", Goal::AtMost(26.0)),
    ("B", "dsr-l2, 16M flows", Goal::AtMost(30.0)),
    ("M", "dsr-l2", Goal::Told),
    ("M", "full-nat", Goal::RatioAtMost(2.0)),
    ("M", "", Goal::RatioAtMost(1.5)),
    ("B", "nat forward", Goal::YardstickPlus(6.0)),
    ("B", "nat return", Goal::YardstickPlus(0.0)),
    ("B", "dsr-l2 over IPv6", Goal::YardstickPlus(4.0)),
    ("C", "", Goal::AtLeast(10.0)),
    ("D", "memory per flow", Goal::AtMost(20.0)),
    ("D", "live flows evicted", Goal::AtMost(0.1)),
    ("D", "100M flows: memory", Goal::AtMost(2.2)),
    ("D", "100M flows: lookup", Goal::AtMost(40.0)),
    ("E", "65,537 entries", Goal::AtMost(0.8)),
    ("E", "655,373 entries", Goal::AtMost(12.0)),
    ("F", "start of weirctl", Goal::AtMost(5.0)),
    ("F", "packets lost", Goal::AtMost(0.0)),
    ("F", "apply 1,000 x 100", Goal::AtMost(2.0)),
    ("G", "", Goal::RatioAtLeast(1.9)),
    ("H", "", Goal::RatioAtMost(1.3)),
    ("I", "loss", Goal::AtMost(0.0)),
    ("O", "cost of being", Goal::AtMost(1.0)),
    (
        "J",
        "requests/s, kept alive, beside nftables",
        Goal::RatioAtLeast(1.0),
    ),
    (
        "J",
        "connections/s, beside HAProxy",
        Goal::RatioAtLeast(1.5),
    ),
    ("Q", "plaintext", Goal::AtMost(15.0)),
    ("Q", "AES", Goal::AtMost(60.0)),
];

/// The goal of a case.
#[must_use]
pub fn of(figure: &str, case: &str) -> Goal {
    GOALS
        .iter()
        .find(|(of, begins, _)| *of == figure && case.starts_with(begins))
        .map_or(Goal::Told, |(_, _, goal)| *goal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_found_by_how_a_case_begins() {
        assert_eq!(of("A", "dsr-l2, 60K flows"), Goal::RatioAtLeast(0.6));
        assert_eq!(of("B", "dsr-l2, 1M flows"), Goal::AtMost(22.0));
        assert_eq!(
            of("B", "dsr-l2 over IPv6, 1M flows"),
            Goal::YardstickPlus(4.0)
        );
        assert_eq!(of("J", "p50, kept alive"), Goal::Told);
    }

    #[test]
    fn a_goal_that_needs_a_yardstick_is_not_met_without() {
        assert!(Goal::RatioAtMost(1.3).is_met(13.0, Some(10.0), Some(1.3)));
        assert!(!Goal::RatioAtMost(1.3).is_met(13.0, None, None));
        assert!(Goal::YardstickPlus(6.0).is_met(26.0, Some(20.0), Some(1.3)));
        assert!(!Goal::YardstickPlus(6.0).is_met(26.1, Some(20.0), Some(1.3)));
        assert!(Goal::AtMost(0.0).is_met(0.0, None, None));
    }
}
