//! The options of `service add` that decide which backend a flow gets.

use std::str::FromStr;
use std::time::Duration;

use clap::Args;

use crate::duration;
use crate::model::{Affinity, AllDown, HashInput, Scheduler, Steering, Vip};

/// What decides on backends.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct SteeringArgs {
    /// maglev, round-robin, least-connections, source-hash or ring
    #[arg(long, default_value_t = Scheduler::Maglev)]
    pub scheduler: Scheduler,
    /// Virtual nodes on the ring for each unit of weight [default: 160]
    #[arg(long, value_name = "COUNT")]
    pub ring_vnodes: Option<u32>,
    /// What the table is asked with: 5-tuple or 5-tuple+isn
    #[arg(long, value_name = "INPUT", default_value_t = HashInput::FiveTuple)]
    pub hash: HashInput,
    /// Keep a client's flows together, a client being an address or its first bits
    #[arg(long, value_name = "source[/BITS]")]
    pub affinity: Option<Client>,
    /// First bits of an IPv4 address that make a client [default: 32]
    #[arg(long, value_name = "BITS", requires = "affinity")]
    pub affinity_prefix4: Option<u8>,
    /// First bits of an IPv6 address that make a client [default: 128]
    #[arg(long, value_name = "BITS", requires = "affinity")]
    pub affinity_prefix6: Option<u8>,
    /// How long a client without flows keeps its backend [default: 3h]
    #[arg(long, value_name = "DURATION", requires = "affinity", value_parser = duration::parse)]
    pub affinity_timeout: Option<Duration>,
    /// What becomes of packets when all backends are down: forward, drop or reset
    #[arg(long, default_value_t = AllDown::Forward)]
    pub all_down: AllDown,
}

/// `source`, or `source/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client(Option<u8>);

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("found {text:?}; accepted: source, or source/BITS such as source/24");
        match text.strip_prefix("source").ok_or_else(refused)? {
            "" => Ok(Self(None)),
            bits => {
                let bits = bits.strip_prefix('/').and_then(|bits| bits.parse().ok());
                bits.map(|bits| Self(Some(bits))).ok_or_else(refused)
            }
        }
    }
}

impl SteeringArgs {
    /// The settings of a service that listens on `vip`, whose family decides what bits mean.
    pub(super) fn settings(&self, vip: Vip) -> Steering {
        let affinity = self.affinity.map(|Client(bits)| {
            let mut affinity = Affinity::default();
            match bits {
                Some(bits) if vip.is_ipv4() => affinity.prefix4 = bits,
                Some(bits) => affinity.prefix6 = bits,
                None => {}
            }
            affinity.prefix4 = self.affinity_prefix4.unwrap_or(affinity.prefix4);
            affinity.prefix6 = self.affinity_prefix6.unwrap_or(affinity.prefix6);
            affinity.timeout = self.affinity_timeout.unwrap_or(affinity.timeout);
            affinity
        });
        Steering {
            ring_vnodes: self.ring_vnodes,
            hash: self.hash,
            affinity,
            all_down: self.all_down,
        }
    }
}
