//! How a service chooses backends for new flows, beyond the scheduler's name.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::vocabulary::vocabulary;
use super::{Forwarding, Pool, PortMatch, Protocol, Scheduler, Service};
use crate::duration;

/// Virtual nodes of a backend of weight 1 on a `ring`, unless the service says otherwise.
pub const DEFAULT_RING_VNODES: u32 = 160;
/// The most virtual nodes of a backend of weight 1.
pub const MAX_RING_VNODES: u32 = 65_535;
/// Virtual nodes on one ring: what a control core builds in about a second.
pub const MAX_RING: u64 = 4_194_304;

vocabulary! {
    /// What a lookup table is asked with.
    #[derive(Default)]
    HashInput {
        /// Addresses, ports and protocol.
        #[default]
        FiveTuple = 1, "5-tuple";
        /// The same and the sequence number of the SYN, so that connections of one 5-tuple spread.
        FiveTupleIsn = 2, "5-tuple+isn";
    }
}

vocabulary! {
    /// What becomes of packets when health failed everywhere.
    #[derive(Default)]
    AllDown {
        /// To all, as if they were up.
        #[default]
        Forward = 0, "forward";
        /// Dropped.
        Drop = 1, "drop";
        /// TCP is reset, anything else told that it is unreachable.
        Reset = 2, "reset";
    }
}

/// Flows of one client go to one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Affinity {
    /// Bits of an IPv4 address that make a client.
    pub prefix4: u8,
    /// Bits of an IPv6 address that make a client.
    pub prefix6: u8,
    /// How long a client without flows is remembered.
    pub timeout: Duration,
}

impl Default for Affinity {
    fn default() -> Self {
        Self {
            prefix4: 32,
            prefix6: 128,
            timeout: Duration::from_secs(3 * 3600),
        }
    }
}

impl fmt::Display for Affinity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "source, /{} and /{}, {}",
            self.prefix4,
            self.prefix6,
            duration::text(self.timeout)
        )
    }
}

/// See the module's text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Steering {
    /// Virtual nodes of a backend of weight 1, where the scheduler is `ring` and this is not
    /// [`DEFAULT_RING_VNODES`].
    pub ring_vnodes: Option<u32>,
    /// What the table is asked with.
    pub hash: HashInput,
    /// Whether a client's flows stay together.
    pub affinity: Option<Affinity>,
    /// What becomes of packets when all backends are down.
    pub all_down: AllDown,
}

impl Steering {
    /// Virtual nodes of a backend of weight 1.
    #[must_use]
    pub fn vnodes(&self) -> u32 {
        self.ring_vnodes.unwrap_or(DEFAULT_RING_VNODES)
    }
}

/// A key that is wrong, and how.
type Wrong = (&'static str, String);

impl Service {
    /// What can be said of VIP, port and protocol without other services.
    pub(super) fn check_listening(&self) -> Result<(), Wrong> {
        if self.protocol == Protocol::Any && self.port != PortMatch::Any {
            return Err((
                "port",
                format!(
                    "found {} with protocol = \"any\"; accepted: \"any\", since flows are told by \
                     their addresses alone",
                    self.port
                ),
            ));
        }
        if self.protocol == Protocol::Any && self.forwarding == Forwarding::FullNat {
            return Err((
                "protocol",
                "found \"any\" with forwarding = \"full-nat\", which tells flows by the ports that \
                 it sends from; accepted: \"tcp\", \"udp\", \"quic\", or another mode"
                    .to_owned(),
            ));
        }
        if self.vip.is_prefix() && self.forwarding == Forwarding::Nat {
            return Err((
                "vip",
                format!(
                    "found prefix {} with forwarding = \"nat\", whose answers could not be given \
                     the address that the client used; accepted: one address, a \"dsr-\" mode, or \
                     forwarding = \"full-nat\"",
                    self.vip
                ),
            ));
        }
        Ok(())
    }

    pub(super) fn check_steering(&self) -> Result<(), Wrong> {
        let Steering {
            ring_vnodes,
            hash,
            affinity,
            ..
        } = &self.steering;
        match (ring_vnodes, self.scheduler) {
            (Some(count), Scheduler::Ring) if !(1..=MAX_RING_VNODES).contains(count) => {
                return Err((
                    "ring_vnodes",
                    format!("found {count}; accepted: 1 to {MAX_RING_VNODES}"),
                ));
            }
            (Some(_), other) if other != Scheduler::Ring => {
                return Err((
                    "ring_vnodes",
                    format!(
                        "found `ring_vnodes` with scheduler = \"{other}\"; accepted: with \"ring\" only"
                    ),
                ));
            }
            _ => {}
        }
        if self.scheduler == Scheduler::Ring {
            let weights = self
                .backends
                .iter()
                .map(|backend| u64::from(backend.weight));
            let nodes = weights.sum::<u64>() * u64::from(self.steering.vnodes());
            if nodes > MAX_RING {
                return Err((
                    "ring_vnodes",
                    format!(
                        "found {} for each unit of weight, {nodes} virtual nodes in all; accepted: \
                         up to {MAX_RING} a service: lower it, or the weights",
                        self.steering.vnodes()
                    ),
                ));
            }
        }
        if *hash == HashInput::FiveTupleIsn {
            let by_flow = matches!(self.scheduler, Scheduler::Maglev | Scheduler::Ring);
            let problem = if self.protocol != Protocol::Tcp {
                format!(
                    "protocol = \"{}\"; accepted: with \"tcp\" only",
                    self.protocol
                )
            } else if !by_flow {
                format!(
                    "scheduler = \"{}\"; accepted: with \"maglev\" and \"ring\", which hash flows",
                    self.scheduler
                )
            } else if affinity.is_some() {
                "affinity; accepted: one of the two, since one spreads a client's flows and the \
                 other keeps them together"
                    .to_owned()
            } else {
                return Ok(());
            };
            return Err(("hash", format!("found \"{hash}\" with {problem}")));
        }
        if let Some(Affinity {
            prefix4,
            prefix6,
            timeout,
        }) = *affinity
        {
            for (field, bits, most) in [
                ("affinity.prefix4", prefix4, 32),
                ("affinity.prefix6", prefix6, 128),
            ] {
                if !(1..=most).contains(&bits) {
                    return Err((field, format!("found {bits}; accepted: 1 to {most} bits")));
                }
            }
            super::validate::check_duration("affinity.timeout", timeout)?;
        }
        Ok(())
    }
}

impl Pool {
    /// Whether any service keeps a client's flows together.
    #[must_use]
    pub fn has_affinity(&self) -> bool {
        self.services
            .iter()
            .any(|service| service.steering.affinity.is_some())
    }
}
