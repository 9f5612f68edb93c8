//! The options of `service add` about health checks: `--health http --path /healthz …`.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::duration;
use crate::model::health::bytes_of_text;
use crate::model::{Flap, Health, HealthKind, Tls};

/// See [`Health`]; what is not given stays as it is without.
#[derive(Debug, Clone, PartialEq, Eq, Default, Args)]
#[command(next_help_heading = "Health checks")]
pub struct HealthArgs {
    /// How backends are checked: none, tcp, http, https, udp, icmp or quic [default: none]
    #[arg(long, value_name = "KIND")]
    pub health: Option<HealthKind>,
    /// From one check to the next [default: 2s]
    #[arg(long, value_name = "DURATION", requires = "health", value_parser = duration::parse)]
    pub interval: Option<Duration>,
    /// How long a check may take [default: 1s]
    #[arg(long, value_name = "DURATION", requires = "health", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// Checks in a row that must fail before a backend is down [default: 3]
    #[arg(long, value_name = "COUNT", requires = "health")]
    pub fall: Option<u32>,
    /// Checks in a row that must succeed before a backend is up [default: 2]
    #[arg(long, value_name = "COUNT", requires = "health")]
    pub rise: Option<u32>,
    /// The port that is checked [default: the backend's]
    #[arg(long, value_name = "PORT", requires = "health", value_parser = clap::value_parser!(u16).range(1..))]
    pub health_port: Option<u16>,
    /// http, https: the method [default: GET]
    #[arg(long, requires = "health")]
    pub method: Option<String>,
    /// http, https: the page to ask for [default: /]
    #[arg(long, requires = "health")]
    pub path: Option<String>,
    /// http, https: the host name to send [default: the backend's address]
    #[arg(long, value_name = "NAME", requires = "health")]
    pub host: Option<String>,
    /// http, https: a status that is healthy, or a range; may be repeated, or a list with commas
    /// [default: 200-399]
    #[arg(
        long,
        value_name = "STATUS[-STATUS]",
        value_delimiter = ',',
        requires = "health"
    )]
    pub status: Vec<StatusRange>,
    /// http, https: what the page must hold somewhere
    #[arg(long, value_name = "TEXT", requires = "health")]
    pub body: Option<String>,
    /// udp: what is sent: a text, or hex: and two digits a byte
    #[arg(long, value_name = "BYTES", requires = "health", value_parser = Bytes::from_str)]
    pub payload: Option<Bytes>,
    /// udp: what the answer must hold; empty: no answer is needed
    #[arg(long, value_name = "BYTES", requires = "health", value_parser = Bytes::from_str)]
    pub answer: Option<Bytes>,
    /// https: the backend's certificate must lead to --tls-ca and be for --tls-server-name
    #[arg(long, requires = "health")]
    pub tls_verify: bool,
    /// https: a PEM file of trusted certificates; the daemon reads it
    #[arg(long, value_name = "FILE", requires = "health")]
    pub tls_ca: Option<String>,
    /// https: the name in SNI [default: --host]
    #[arg(long, value_name = "NAME", requires = "health")]
    pub tls_server_name: Option<String>,
    /// https: a PEM file with the certificate to show
    #[arg(long, value_name = "FILE", requires = "health")]
    pub tls_certificate: Option<String>,
    /// https: a PEM file with its private key
    #[arg(long, value_name = "FILE", requires = "health")]
    pub tls_key: Option<String>,
    /// Changes of state within the window that are borne; 0: never held down [default: 6]
    #[arg(long, value_name = "COUNT", requires = "health")]
    pub flap_changes: Option<u32>,
    /// The time in which changes are counted [default: 2m]
    #[arg(long, value_name = "DURATION", requires = "health", value_parser = duration::parse)]
    pub flap_window: Option<Duration>,
    /// How long a backend is held down the first time; each time in a row twice as long [default:
    /// 30s]
    #[arg(long, value_name = "DURATION", requires = "health", value_parser = duration::parse)]
    pub flap_hold: Option<Duration>,
    /// The longest time it is held down [default: 10m]
    #[arg(long, value_name = "DURATION", requires = "health", value_parser = duration::parse)]
    pub flap_max_hold: Option<Duration>,
}

/// The bytes of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(Vec<u8>);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        bytes_of_text(text).map(Self)
    }
}

/// `200`, or `200-399`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusRange(pub u16, pub u16);

impl FromStr for StatusRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) => Ok(Self(low, high)),
            _ => Err(format!(
                "found {text:?}; accepted: a status such as 200, or a range such as 200-399"
            )),
        }
    }
}

impl HealthArgs {
    /// The check that was described.
    pub(super) fn settings(&self) -> Health {
        let mut health = Health {
            kind: self.health.unwrap_or_default(),
            port: self.health_port,
            method: self.method.clone(),
            path: self.path.clone(),
            host: self.host.clone(),
            body: self.body.clone(),
            payload: self.payload.clone().map(|Bytes(bytes)| bytes),
            answer: self.answer.clone().map(|Bytes(bytes)| bytes),
            tls: Tls {
                verify: self.tls_verify,
                ca: self.tls_ca.clone(),
                server_name: self.tls_server_name.clone(),
                certificate: self.tls_certificate.clone(),
                key: self.tls_key.clone(),
            },
            ..Health::default()
        };
        set(&mut health.interval, self.interval);
        set(&mut health.timeout, self.timeout);
        set(&mut health.fall, self.fall);
        set(&mut health.rise, self.rise);
        if !self.status.is_empty() {
            health.status = self.status.iter().map(|one| (one.0, one.1)).collect();
        }
        health.flap = self.flap();
        health.without_usual_words()
    }

    fn flap(&self) -> Flap {
        let mut flap = Flap::default();
        set(&mut flap.changes, self.flap_changes);
        set(&mut flap.window, self.flap_window);
        set(&mut flap.hold, self.flap_hold);
        // As in a file: who wants to hold longer need not say so twice.
        flap.max_hold = self.flap_max_hold.unwrap_or(flap.max_hold.max(flap.hold));
        flap
    }
}

fn set<T: Copy>(place: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *place = given;
    }
}
