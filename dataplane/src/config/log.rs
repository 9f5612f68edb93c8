//! `[log]`: how much the daemon writes of what happens, and in what form.

use std::fmt;
use std::str::FromStr;

/// What is written: this level and worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// What stops weir, or makes it lose packets.
    Error,
    /// What an operator should look at.
    Warn,
    /// What an operator should know of: changes of state.
    #[default]
    Info,
    /// What the devices and DPDK say of themselves, too.
    Debug,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people: time, level, area, text.
    #[default]
    Text,
    /// For programs: one JSON object a line.
    Json,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    /// `level`.
    pub level: LogLevel,
    /// `format`.
    pub format: LogFormat,
}

impl LogLevel {
    /// Every level by its name, the default first.
    pub const WORDS: &[(&str, Self)] = &[
        ("info", Self::Info),
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("debug", Self::Debug),
    ];
}

impl LogFormat {
    /// Every format by its name, the default first.
    pub const WORDS: &[(&str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// Reads and shows a word of a list.
macro_rules! words {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let word = Self::WORDS.iter().find(|(_, value)| value == self);
                f.write_str(word.map_or("", |(word, _)| word))
            }
        }

        impl FromStr for $type {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                if let Some((_, value)) = Self::WORDS.iter().find(|(word, _)| *word == text) {
                    return Ok(*value);
                }
                let words: Vec<&str> = Self::WORDS.iter().map(|(word, _)| *word).collect();
                Err(format!("found {text:?}; accepted: {}", words.join(", ")))
            }
        }
    };
}
words!(LogLevel);
words!(LogFormat);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_others_refused() {
        for (word, level) in LogLevel::WORDS {
            assert_eq!(word.parse(), Ok(*level));
            assert_eq!(level.to_string(), *word);
        }
        assert_eq!("json".parse(), Ok(LogFormat::Json));
        let refused = "xml".parse::<LogFormat>().unwrap_err();
        assert_eq!(refused, "found \"xml\"; accepted: text, json");
        assert_eq!(Log::default().level, LogLevel::WORDS[0].1);
    }
}
