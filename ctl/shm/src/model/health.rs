//! How a service's backends are checked, and what makes such a check valid.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::vocabulary::vocabulary;
use super::{MAX_TIMEOUT, PortMatch, Service};
use crate::duration;

vocabulary! {
    /// What a check does.
    #[derive(Default)]
    HealthKind {
        /// Nothing: every backend counts as up.
        #[default]
        None = 0, "none";
        /// Opens a TCP connection.
        Tcp = 1, "tcp";
        /// Asks for a page over HTTP.
        Http = 2, "http";
        /// Asks for a page over HTTPS.
        Https = 3, "https";
        /// Sends a datagram.
        Udp = 4, "udp";
        /// Sends an echo request.
        Icmp = 5, "icmp";
        /// Asks for the versions of QUIC that the backend speaks (RFC 9000, section 6).
        Quic = 6, "quic";
    }
}

/// The longest text of a check (path, host name, body, file name) and the longest datagram, in
/// bytes.
pub const MAX_TEXT: usize = 255;
/// The longest HTTP method of a check, in bytes.
pub const MAX_METHOD: usize = 16;
/// The most ranges of HTTP statuses that count as healthy.
pub const MAX_STATUSES: usize = 8;

/// A service's health check.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Health {
    /// What a check does.
    pub kind: HealthKind,
    /// From the start of one check to the next, at most.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Checks in a row that must fail before a backend is down.
    pub fall: u32,
    /// Checks in a row that must succeed before a backend is up.
    pub rise: u32,
    /// The port that is checked; the backend's own if absent.
    pub port: Option<u16>,
    /// The method of `http` and `https`; `GET` if absent.
    pub method: Option<String>,
    /// The page that `http` and `https` ask for; `/` if absent.
    pub path: Option<String>,
    /// The host name that `http` and `https` send; the backend's address if absent.
    pub host: Option<String>,
    /// The HTTP statuses that count as healthy: lowest and highest of each range.
    pub status: Vec<(u16, u16)>,
    /// What the page must hold somewhere in its first 64 KiB.
    pub body: Option<String>,
    /// What `udp` sends; an empty datagram if absent.
    pub payload: Option<Vec<u8>>,
    /// What the answer to `udp` must hold: anything if absent. If empty, no answer is needed, and
    /// only an ICMP error is a failure.
    pub answer: Option<Vec<u8>>,
    /// How `https` speaks TLS.
    pub tls: Tls,
    /// When a backend that keeps changing is held down.
    pub flap: Flap,
}

/// How `https` checks speak TLS. Files are read by the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Tls {
    /// Whether the backend's certificate must lead to `ca` and be for `server_name`.
    pub verify: bool,
    /// A PEM file of trusted certificates.
    pub ca: Option<String>,
    /// The name in SNI, which the certificate must be for; `host` if absent.
    pub server_name: Option<String>,
    /// A PEM file with the certificate that is shown to the backend.
    pub certificate: Option<String>,
    /// A PEM file with its private key.
    pub key: Option<String>,
}

/// When a backend that keeps changing its state is held down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flap {
    /// Changes of state within `window` that are borne; one more and it is held. Zero: never held.
    pub changes: u32,
    /// The time in which changes are counted.
    pub window: Duration,
    /// How long it is held down the first time; each time in a row twice as long.
    pub hold: Duration,
    /// The longest time it is held down.
    pub max_hold: Duration,
}

impl Default for Flap {
    fn default() -> Self {
        Self {
            changes: 6,
            window: Duration::from_secs(120),
            hold: Duration::from_secs(30),
            max_hold: Duration::from_secs(600),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            kind: HealthKind::None,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            fall: 3,
            rise: 2,
            port: None,
            method: None,
            path: None,
            host: None,
            status: vec![(200, 399)],
            body: None,
            payload: None,
            answer: None,
            tls: Tls::default(),
            flap: Flap::default(),
        }
    }
}

impl HealthKind {
    /// Whether `method`, `path`, `host`, `status` and `body` mean anything to it.
    #[must_use]
    pub const fn asks_for_a_page(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }

    /// Whether a check goes to a port.
    #[must_use]
    pub const fn needs_a_port(self) -> bool {
        !matches!(self, Self::None | Self::Icmp)
    }
}

/// A problem of a key, not yet placed.
type Wrong = (&'static str, String);

/// The method of a check that names none.
pub const DEFAULT_METHOD: &str = "GET";
/// The page that a check asks for that names none.
pub const DEFAULT_PATH: &str = "/";

impl Health {
    /// The same check, without the keys of a page that say what is so without them: one meaning has
    /// one form.
    #[must_use]
    pub fn without_usual_words(mut self) -> Self {
        if self.kind.asks_for_a_page() {
            self.method.take_if(|method| method == DEFAULT_METHOD);
            self.path.take_if(|path| path == DEFAULT_PATH);
        }
        self
    }

    /// Checks what can be checked without the rest of the pool.
    pub(super) fn check(&self, service: &Service) -> Result<(), Wrong> {
        self.check_numbers()?;
        self.check_port(service)?;
        self.check_texts()?;
        self.check_statuses()?;
        self.check_datagrams()?;
        self.check_tls()
    }

    fn check_numbers(&self) -> Result<(), Wrong> {
        let Flap {
            window,
            hold,
            max_hold,
            changes,
        } = self.flap;
        for (field, value) in [
            ("health.interval", self.interval),
            ("health.timeout", self.timeout),
            ("health.flap.window", window),
            ("health.flap.hold", hold),
            ("health.flap.max_hold", max_hold),
        ] {
            super::validate::check_duration(field, value)?;
        }
        for (field, count) in [("health.fall", self.fall), ("health.rise", self.rise)] {
            if count == 0 || count > 1000 {
                return Err((field, format!("found {count}; accepted: 1 to 1000")));
            }
        }
        if changes > 1000 {
            return Err((
                "health.flap.changes",
                format!("found {changes} changes; accepted: 0 (never held down) to 1000"),
            ));
        }
        if max_hold < hold {
            return Err((
                "health.flap.max_hold",
                format!(
                    "found `max_hold` {} below `hold` {}; accepted: at least as long, up to {}",
                    duration::text(max_hold),
                    duration::text(hold),
                    duration::text(MAX_TIMEOUT)
                ),
            ));
        }
        Ok(())
    }

    fn check_port(&self, service: &Service) -> Result<(), Wrong> {
        if self.port == Some(0) {
            return Err(("health.port", "found 0; accepted: 1 to 65535".to_owned()));
        }
        if self.port.is_none()
            && self.kind.needs_a_port()
            && !matches!(service.port, PortMatch::Exact(_))
        {
            return Err((
                "health.kind",
                format!(
                    "found \"{}\" without a port in a service for port {}; accepted: with \
                     `port` in [service.health], or kind \"icmp\" or \"none\"",
                    self.kind, service.port
                ),
            ));
        }
        Ok(())
    }

    fn check_texts(&self) -> Result<(), Wrong> {
        let graphic = |byte: u8| byte.is_ascii_graphic();
        let path = |text: &str| text.starts_with('/') && text.bytes().all(graphic);
        let word = |text: &str| text.bytes().all(graphic);
        let method = |text: &str| {
            text.len() <= MAX_METHOD && text.bytes().all(|byte| byte.is_ascii_uppercase())
        };
        let any = |text: &str| !text.bytes().any(|byte| byte == 0);
        type Rule<'a> = &'a dyn Fn(&str) -> bool;
        let table: [(&'static str, &Option<String>, Rule<'_>, &str); 4] = [
            (
                "health.method",
                &self.method,
                &method,
                "up to 16 capital letters, such as \"GET\" or \"HEAD\"",
            ),
            (
                "health.path",
                &self.path,
                &path,
                "up to 255 printable characters without spaces, the first a \"/\"",
            ),
            (
                "health.host",
                &self.host,
                &word,
                "up to 255 printable characters without spaces",
            ),
            ("health.body", &self.body, &any, "1 to 255 bytes of text"),
        ];
        for (field, text, rule, accepted) in table {
            let Some(text) = text else { continue };
            if text.is_empty() || text.len() > MAX_TEXT || !rule(text) {
                return Err((field, format!("found {text:?}; accepted: {accepted}")));
            }
            if !self.kind.asks_for_a_page() {
                return Err(self.only_with(field, "\"http\" and \"https\""));
            }
        }
        if self.body.is_some() && self.method.as_deref() == Some("HEAD") {
            return Err((
                "health.body",
                "found `body` with method = \"HEAD\", whose answers have no body; accepted: with \
                 another method"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    fn only_with(&self, field: &'static str, kinds: &str) -> Wrong {
        (
            field,
            format!(
                "found `{}` with kind = \"{}\"; accepted: with {kinds} only",
                super::validate::last_key(field),
                self.kind
            ),
        )
    }

    fn check_statuses(&self) -> Result<(), Wrong> {
        let ranges = &self.status;
        let good = |(low, high): &(u16, u16)| low <= high && *low >= 100 && *high <= 599;
        if ranges.is_empty() || ranges.len() > MAX_STATUSES || !ranges.iter().all(good) {
            return Err((
                "health.status",
                format!(
                    "found {}; accepted: 1 to {MAX_STATUSES} statuses or ranges from 100 to 599, \
                     the lower first",
                    self.statuses()
                ),
            ));
        }
        Ok(())
    }

    fn check_datagrams(&self) -> Result<(), Wrong> {
        for (field, bytes) in [
            ("health.payload", &self.payload),
            ("health.answer", &self.answer),
        ] {
            let Some(bytes) = bytes else { continue };
            if bytes.len() > MAX_TEXT {
                return Err((
                    field,
                    format!(
                        "found {} bytes; accepted: up to {MAX_TEXT} bytes",
                        bytes.len()
                    ),
                ));
            }
            if self.kind != HealthKind::Udp {
                return Err(self.only_with(field, "\"udp\""));
            }
        }
        Ok(())
    }

    fn check_tls(&self) -> Result<(), Wrong> {
        let tls = &self.tls;
        if *tls == Tls::default() {
            return Ok(());
        }
        if self.kind != HealthKind::Https {
            return Err(self.only_with("health.tls", "\"https\""));
        }
        for (field, text) in [
            ("health.tls.ca", &tls.ca),
            ("health.tls.server_name", &tls.server_name),
            ("health.tls.certificate", &tls.certificate),
            ("health.tls.key", &tls.key),
        ] {
            let Some(text) = text else { continue };
            let printable = text.bytes().all(|byte| byte >= b' ' && byte != 0x7f);
            if text.is_empty() || text.len() > MAX_TEXT || !printable {
                return Err((
                    field,
                    format!(
                        "found `{}` {text:?}; accepted: 1 to {MAX_TEXT} printable characters",
                        super::validate::last_key(field)
                    ),
                ));
            }
        }
        if tls.verify && tls.ca.is_none() {
            return Err((
                "health.tls",
                "found verify = true without a `ca`; accepted: with a PEM file of the \
                 certificates to trust"
                    .to_owned(),
            ));
        }
        if !tls.verify && tls.ca.is_some() {
            return Err((
                "health.tls",
                "found a `ca` without verify = true; accepted: together".to_owned(),
            ));
        }
        if tls.certificate.is_some() != tls.key.is_some() {
            return Err((
                "health.tls",
                "found one of `certificate` and `key`; accepted: both or none".to_owned(),
            ));
        }
        Ok(())
    }

    /// The healthy statuses as they are written: `200`, `200-399`, `200, 204`.
    #[must_use]
    pub fn statuses(&self) -> String {
        let range = |(low, high): &(u16, u16)| {
            if low == high {
                low.to_string()
            } else {
                format!("{low}-{high}")
            }
        };
        self.status.iter().map(range).collect::<Vec<_>>().join(", ")
    }
}

/// Bytes of a datagram as they are written: a text, or `hex:` and two digits a byte.
pub const BYTES_ACCEPTED: &str =
    "a text, or \"hex:\" followed by two hexadecimal digits for each byte";

/// Reads what [`bytes_text`] writes.
///
/// # Errors
/// When what follows `hex:` is no hexadecimal.
pub fn bytes_of_text(text: &str) -> Result<Vec<u8>, String> {
    let Some(digits) = text.strip_prefix("hex:") else {
        return Ok(text.as_bytes().to_vec());
    };
    let refused = || format!("found {text:?}; accepted: {BYTES_ACCEPTED}");
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(refused());
    }
    (0..digits.len() / 2)
        .map(|at| {
            let pair = digits.get(2 * at..2 * at + 2).ok_or_else(refused)?;
            u8::from_str_radix(pair, 16).map_err(|_| refused())
        })
        .collect()
}

/// Writes bytes as a text where they are one, else as `hex:…`.
#[must_use]
pub fn bytes_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.starts_with("hex:") && !text.chars().any(char::is_control) => {
            text.to_owned()
        }
        _ => bytes.iter().fold("hex:".to_owned(), |text, byte| {
            text + &format!("{byte:02x}")
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_text_or_hexadecimal() {
        assert_eq!(bytes_of_text("ping"), Ok(b"ping".to_vec()));
        assert_eq!(bytes_of_text("hex:00fF"), Ok(vec![0, 255]));
        assert!(bytes_of_text("hex:0").is_err() && bytes_of_text("hex:0g").is_err());
    }

    proptest! {
        #[test]
        fn the_text_of_bytes_leads_back_to_them(bytes: Vec<u8>) {
            prop_assert_eq!(bytes_of_text(&bytes_text(&bytes)), Ok(bytes));
        }
    }
}
