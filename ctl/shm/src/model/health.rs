//! How a service's backends are checked. The model carries it; this release does not check yet.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::vocabulary::vocabulary;

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
        /// Starts a QUIC handshake.
        Quic = 6, "quic";
    }
}

/// The longest path or host name of a check, in bytes.
pub const MAX_TEXT: usize = 255;

/// A service's health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// What a check does.
    pub kind: HealthKind,
    /// From the start of one check to the next.
    pub interval: Duration,
    /// How long a check may take.
    pub timeout: Duration,
    /// Checks in a row that must fail before a backend is down.
    pub fall: u32,
    /// Checks in a row that must succeed before a backend is up.
    pub rise: u32,
    /// The port that is checked; the backend's own if absent.
    pub port: Option<u16>,
    /// The page that `http` and `https` ask for.
    pub path: Option<String>,
    /// The host name that `http` and `https` send; the backend's address if absent.
    pub host: Option<String>,
    /// The lowest and highest HTTP status that counts as healthy.
    pub status: (u16, u16),
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
            path: None,
            host: None,
            status: (200, 399),
        }
    }
}

impl HealthKind {
    /// Whether `path`, `host` and `status` mean anything to it.
    #[must_use]
    pub const fn asks_for_a_page(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}
