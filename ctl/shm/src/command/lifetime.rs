//! The options of `service add` about time: how long flows are remembered, and how changes of
//! health and of the pool take effect.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::duration;
use crate::model::{
    DEFAULT_DEREGISTRATION_DELAY, OnDown, Service, Timeouts, UnknownTcp, parse_share,
};

/// See the fields of [`Service`].
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Flows and changes")]
pub struct LifetimeArgs {
    /// How long flows are remembered without a packet, by state: syn, established, closing, udp
    #[arg(
        long,
        value_name = "STATE=DURATION",
        value_delimiter = ',',
        long_help = "How long flows are remembered without a packet, by state: syn, established, \
closing, udp; a list with commas, such as syn=10s,established=350s"
    )]
    pub timeouts: Vec<Timeout>,
    /// Over how long a new or recovered backend's weight grows to its own [default: at once]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub slow_start: Option<Duration>,
    /// The share of weight that must be up; with less the pool fails open: 0.5 or 50%
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub min_healthy: Option<u16>,
    /// What becomes of a backend's flows when it goes down: re-steer, keep or reset
    #[arg(long, value_name = "FATE", default_value_t = OnDown::ReSteer)]
    pub on_down: OnDown,
    /// What becomes of TCP in mid-stream whose flow is not known: steer or reset
    #[arg(long, value_name = "FATE", default_value_t = UnknownTcp::Steer)]
    pub unknown_tcp: UnknownTcp,
    /// How long a drain waits for flows to end, or "never" to take them away [default: 300s]
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_or_never)]
    pub deregistration_delay: Option<Duration>,
}

/// A flow's state and its time-out: `established=350s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeout {
    of: State,
    after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Syn,
    Established,
    Closing,
    Udp,
}

impl FromStr for Timeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "found {text:?}; accepted: syn, established, closing or udp, \"=\" and a duration, \
                 such as established=350s"
            )
        };
        let (state, after) = text.split_once('=').ok_or_else(refused)?;
        let of = match state {
            "syn" => State::Syn,
            "established" => State::Established,
            "closing" => State::Closing,
            "udp" => State::Udp,
            _ => return Err(refused()),
        };
        let after = duration::parse(after)?;
        Ok(Self { of, after })
    }
}

impl LifetimeArgs {
    /// Sets what was given.
    pub(super) fn set(&self, service: &mut Service) {
        for Timeout { of, after } in &self.timeouts {
            let Timeouts {
                syn,
                established,
                closing,
                udp,
            } = &mut service.timeouts;
            let place = match of {
                State::Syn => syn,
                State::Established => established,
                State::Closing => closing,
                State::Udp => udp,
            };
            *place = *after;
        }
        service.slow_start = self.slow_start.unwrap_or_default();
        service.min_healthy = self.min_healthy.unwrap_or_default();
        service.on_down = self.on_down;
        service.unknown_tcp = self.unknown_tcp;
        service.deregistration_delay = self
            .deregistration_delay
            .unwrap_or(DEFAULT_DEREGISTRATION_DELAY);
    }
}
