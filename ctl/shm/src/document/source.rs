//! A text with its file's name, and complaints that point into it.

use std::fmt;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use toml::Spanned;

use crate::duration;

/// A value of any type with its place.
pub type Value = Spanned<toml::Value>;

/// A complaint about a place in a file; shows as `file:line:column: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file's name as it was given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What was found and what is accepted.
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )
    }
}

impl std::error::Error for Diagnostic {}

/// The text of a file that was read.
///
/// # Errors
/// With the place of the first byte that is no UTF-8.
pub fn text_of(file: &str, bytes: Vec<u8>) -> Result<String, Diagnostic> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let byte = error.as_bytes().get(good).copied().unwrap_or_default();
        let text = String::from_utf8_lossy(error.as_bytes());
        let message = format!("found the byte 0x{byte:02x}, no character; accepted: text in UTF-8");
        Source::new(file, &text).diagnostic(good..good, &message)
    })
}

/// A text with its file's name.
#[derive(Debug, Clone)]
pub struct Source {
    file: String,
    text: String,
}

impl Source {
    /// A text that came from `file`.
    #[must_use]
    pub fn new(file: &str, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Reads the text as a `T`.
    ///
    /// # Errors
    /// With the place of what does not fit.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Diagnostic> {
        toml::from_str(&self.text).map_err(|error| self.from_toml_error(&error))
    }

    /// A complaint about the start of `span`.
    #[must_use]
    pub fn diagnostic(&self, span: Range<usize>, message: &str) -> Diagnostic {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = self.text.get(..start).unwrap_or_default();
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before
            .get(line_start..)
            .map_or(0, |text| text.chars().count())
            + 1;
        Diagnostic {
            file: self.file.clone(),
            line,
            column,
            message: message.to_owned(),
        }
    }

    /// What the TOML reader says, in our words.
    #[must_use]
    #[allow(clippy::wrong_self_convention)] // the source is what makes the error complete
    pub fn from_toml_error(&self, error: &toml::de::Error) -> Diagnostic {
        let span = error.span().unwrap_or(0..0);
        let at = self.text.get(span.clone()).unwrap_or_default();
        self.diagnostic(span, &reworded(error.message(), at))
    }

    /// A complaint about the value of a key.
    #[must_use]
    pub fn refused(&self, key: &str, value: &Value, found: &str, accepted: &str) -> Diagnostic {
        self.diagnostic(
            value.span(),
            &format!("`{key}`: found {found}; accepted: {accepted}"),
        )
    }

    fn wrong_type(&self, key: &str, value: &Value, accepted: &str) -> Diagnostic {
        self.refused(key, value, &shown(value.get_ref()), accepted)
    }

    /// A string.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn string<'a>(
        &self,
        key: &str,
        value: &'a Value,
        accepted: &str,
    ) -> Result<&'a str, Diagnostic> {
        value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.wrong_type(key, value, accepted))
    }

    /// A whole number in a range.
    ///
    /// # Errors
    /// When it is of another type or out of range.
    pub fn integer(
        &self,
        key: &str,
        value: &Value,
        range: RangeInclusive<u64>,
    ) -> Result<u64, Diagnostic> {
        let found = value
            .get_ref()
            .as_integer()
            .and_then(|number| u64::try_from(number).ok());
        found
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let accepted = format!("a whole number from {} to {}", range.start(), range.end());
                self.wrong_type(key, value, &accepted)
            })
    }

    /// A truth value.
    ///
    /// # Errors
    /// When it is of another type.
    pub fn boolean(&self, key: &str, value: &Value) -> Result<bool, Diagnostic> {
        value
            .get_ref()
            .as_bool()
            .ok_or_else(|| self.wrong_type(key, value, "true or false"))
    }

    /// A duration such as "10s".
    ///
    /// # Errors
    /// When it is none.
    pub fn duration(&self, key: &str, value: &Value) -> Result<Duration, Diagnostic> {
        let text = self.string(key, value, duration::ACCEPTED)?;
        duration::parse(text)
            .map_err(|message| self.diagnostic(value.span(), &format!("`{key}`: {message}")))
    }

    /// An IP address.
    ///
    /// # Errors
    /// When it is none.
    pub fn address(&self, key: &str, value: &Value) -> Result<IpAddr, Diagnostic> {
        const ACCEPTED: &str = "an address, such as \"192.0.2.1\" or \"2001:db8::1\"";
        let text = self.string(key, value, ACCEPTED)?;
        text.parse()
            .map_err(|_| self.refused(key, value, &format!("{text:?}"), ACCEPTED))
    }

    /// An array of IP addresses.
    ///
    /// # Errors
    /// When it is none, or one of its items is no address.
    pub fn addresses(&self, key: &str, value: &Value) -> Result<Vec<IpAddr>, Diagnostic> {
        const ACCEPTED: &str = "an array of addresses, such as [\"192.0.2.1\", \"2001:db8::1\"]";
        let Some(items) = value.get_ref().as_array() else {
            return Err(self.wrong_type(key, value, ACCEPTED));
        };
        let address = |item: &toml::Value| {
            item.as_str()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| self.refused(key, value, &shown(item), ACCEPTED))
        };
        items.iter().map(address).collect()
    }

    /// A word of a closed set, whose `FromStr` says what was found and what is accepted.
    ///
    /// # Errors
    /// When it is no string, or not in the set; `accepted` lists the set.
    pub fn word<T: FromStr>(
        &self,
        key: &str,
        value: &Value,
        accepted: &str,
    ) -> Result<T, Diagnostic> {
        let text = self.string(key, value, accepted)?;
        text.parse()
            .map_err(|_| self.refused(key, value, &format!("{text:?}"), accepted))
    }

    /// A key that must be there. `head` is the head of its table, `table` how it is written.
    ///
    /// # Errors
    /// When it is not.
    pub fn required<'a, T>(
        &self,
        value: Option<&'a T>,
        key: &str,
        head: Range<usize>,
        table: &str,
    ) -> Result<&'a T, Diagnostic> {
        value.ok_or_else(|| {
            self.diagnostic(head, &format!("found no `{key}` in {table}; it needs one"))
        })
    }
}

/// A value as a message shows it.
fn shown(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => format!("{text:?}"),
        toml::Value::Integer(number) => number.to_string(),
        toml::Value::Float(number) => format!("the fraction {number}"),
        toml::Value::Boolean(value) => value.to_string(),
        toml::Value::Datetime(time) => format!("the time {time}"),
        toml::Value::Array(_) => "an array".to_owned(),
        toml::Value::Table(_) => "a table".to_owned(),
    }
}

/// The TOML reader's message, as "found …; accepted: …" where it says as much.
fn reworded(message: &str, at: &str) -> String {
    let message = message.trim();
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let (found, accepted) = rest.split_once(", ").unwrap_or((rest, "expected nothing"));
        return format!("found unknown key {found}; accepted: {}", listed(accepted));
    }
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let (found, accepted) = rest.split_once(", ").unwrap_or((rest, "expected nothing"));
        return format!("found {found}; accepted: {}", listed(accepted));
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("found no {key}; it needs one");
    }
    if message == "duplicate key" {
        return format!("found `{at}` twice; accepted: each key once");
    }
    let mismatch = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, accepted)) = mismatch.and_then(|rest| rest.split_once(", expected ")) {
        let head = at.strip_prefix('[').and_then(|at| at.strip_suffix(']'));
        if let (Some(name), "a sequence") = (head, accepted) {
            return format!("found {at}; accepted: [[{name}]], since there may be several");
        }
        return format!("found {}; accepted: {}", plain(found), plain(accepted));
    }
    format!("not valid TOML: {message}")
}

fn listed(accepted: &str) -> &str {
    let accepted = accepted.strip_prefix("expected ").unwrap_or(accepted);
    accepted.strip_prefix("one of ").unwrap_or(accepted)
}

/// A type in the words of TOML.
fn plain(name: &str) -> &str {
    match name {
        "map" => "a table",
        "sequence" => "an array",
        "a sequence" => "an array of tables",
        other => other,
    }
}
