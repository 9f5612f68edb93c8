//! Durations as operators write them: a whole number and a unit, `500ms`, `10s`, `3h`.

use std::time::Duration;

use crate::model::NO_DEADLINE;

/// What a duration may look like, for messages.
pub const ACCEPTED: &str = "a whole number with a unit: \"500ms\", \"10s\", \"2m\", \"3h\", \"1d\"";

/// Units with their milliseconds, largest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads a duration.
///
/// # Errors
/// With what was found and what is accepted.
pub fn parse(text: &str) -> Result<Duration, String> {
    let refused = || format!("found {text:?}; accepted: {ACCEPTED}");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let (_, millis) = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(refused)?;
    number
        .checked_mul(*millis)
        .map(Duration::from_millis)
        .ok_or_else(refused)
}

/// Writes a duration with the largest unit that keeps it whole; below a millisecond is cut off.
#[must_use]
pub fn text(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = UNITS
        .iter()
        .find(|(_, unit)| millis.is_multiple_of(*unit) && millis >= *unit);
    match unit {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => "0s".to_owned(),
    }
}

/// As [`text`], and `never` for what has no end.
#[must_use]
pub fn or_never(duration: Duration) -> String {
    if duration == NO_DEADLINE {
        "never".to_owned()
    } else {
        text(duration)
    }
}

/// Reads a duration, or `never`.
///
/// # Errors
/// With what was found and what is accepted.
pub fn parse_or_never(text: &str) -> Result<Duration, String> {
    if text == "never" {
        return Ok(NO_DEADLINE);
    }
    parse(text).map_err(|message| format!("{message}, or \"never\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_with_units_are_durations() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("3h"), Ok(Duration::from_secs(10_800)));
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for bad in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "10 s",
            "10S",
            "99999999999999999999s",
        ] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains(bad) && error.contains("500ms"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn text_leads_back_to_the_duration(millis in 0u64..u64::MAX / 86_400_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&text(duration)), Ok(duration));
        }
    }
}
