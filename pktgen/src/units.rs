//! How numbers with units are written on the command line: `200k` packets, `1.5M` a second, `10s`.

use std::time::Duration;

/// A text that is not a number with one of the accepted suffixes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUnit {
    /// Not a count.
    #[error(
        "\"{0}\" is not a count; a number is accepted, with k, M or G after it, as in 200k or 1.5M"
    )]
    Count(String),
    /// Not a share.
    #[error("\"{0}\" is no share; 0 to 1 or 0% to 100% are accepted, as in 0.01 or 1%")]
    Share(String),
    /// Not a span of time.
    #[error(
        "\"{0}\" is not a duration; a number with us, ms, s, m or h is accepted, as in 10s or 1.5s"
    )]
    Duration(String),
}

/// Reads a count: `1000`, `200k`, `1.5M`, `2G`. Fractions are rounded to whole numbers.
///
/// # Errors
/// [`BadUnit::Count`] when it is no such number.
pub fn count(text: &str) -> Result<u64, BadUnit> {
    if let Ok(whole) = text.parse::<u64>() {
        return Ok(whole);
    }
    let bad = || BadUnit::Count(text.to_owned());
    let (digits, factor) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        Some(b'G') => (&text[..text.len() - 1], 1e9),
        _ => (text, 1.0),
    };
    let value = positive(digits).ok_or_else(bad)? * factor;
    if value < 1e18 {
        Ok(value.round() as u64)
    } else {
        Err(bad())
    }
}

/// Reads a span of time: `10s`, `250ms`, `1.5s`, `2m`, `1h`.
///
/// # Errors
/// [`BadUnit::Duration`] when it is no such number, or longer than a year.
pub fn duration(text: &str) -> Result<Duration, BadUnit> {
    let bad = || BadUnit::Duration(text.to_owned());
    let unit = text
        .find(|c: char| c.is_ascii_alphabetic())
        .ok_or_else(bad)?;
    let seconds = match &text[unit..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(bad()),
    };
    let value = positive(&text[..unit]).ok_or_else(bad)? * seconds;
    if value <= 366.0 * 86_400.0 {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(bad())
    }
}

/// Reads a share of a whole: `0.01`, `1%`.
///
/// # Errors
/// [`BadUnit::Share`] when it is none, or not from 0 to 1.
pub fn share(text: &str) -> Result<f64, BadUnit> {
    let value = match text.strip_suffix('%') {
        Some(percent) => positive(percent).map(|value| value / 100.0),
        None => positive(text),
    };
    value
        .filter(|value| *value <= 1.0)
        .ok_or_else(|| BadUnit::Share(text.to_owned()))
}

fn positive(digits: &str) -> Option<f64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    digits
        .parse::<f64>()
        .ok()
        .filter(|value| plain && value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_with_and_without_suffix() {
        for (text, value) in [
            ("0", 0),
            ("17", 17),
            ("200k", 200_000),
            ("1.5M", 1_500_000),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(count(text), Ok(value), "{text}");
        }
        for bad in ["", "k", "-1", "1e3", "10s", "NaN", "inf", "5T", " 5"] {
            assert!(count(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "10", "s", "-1s", "1d", "1s2", "1e9h", "99999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shares_are_read_with_and_without_percent() {
        for (text, value) in [
            ("0", 0.0),
            ("1", 1.0),
            ("0.25", 0.25),
            ("1%", 0.01),
            ("100%", 1.0),
        ] {
            assert_eq!(share(text), Ok(value), "{text}");
        }
        for bad in ["", "%", "2", "101%", "-1%", "1e-3", "NaN", "5 %"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }
}
