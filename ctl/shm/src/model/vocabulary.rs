//! The closed sets of words in the model: protocols, forwarding modes, schedulers.
//!
//! One table each. A new forwarding mode is one line here; everything that reads, writes, stores
//! or lists the accepted words follows, and `match`es elsewhere stop compiling until they handle it.

use std::fmt;
use std::str::FromStr;

/// A word that is not in its set; says which are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("found {found:?}; accepted: {accepted}")]
pub struct Unknown {
    /// What was found.
    pub found: String,
    /// What is accepted.
    pub accepted: String,
}

/// Lists words for a message: `"a", "b"`.
pub(crate) fn listed(words: impl IntoIterator<Item = &'static str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("{word:?}")).collect();
    words.join(", ")
}

/// Defines an enum with a word and a stable code for each value. Codes are what records in shared
/// memory hold: never reuse one.
macro_rules! vocabulary {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$value_meta:meta])* $value:ident = $code:literal, $word:literal; )+ }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $( $(#[$value_meta])* $value, )+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The word that operators write.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$value => $word),+ }
            }

            /// What a record in shared memory holds for it.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$value => $code),+ }
            }

            /// The value of a code.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$value),)+ _ => None }
            }

            /// The accepted words, for messages.
            #[must_use]
            pub fn accepted() -> String {
                $crate::model::vocabulary::listed(Self::ALL.iter().map(|value| value.name()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let word = String::deserialize(from)?;
                word.parse().map_err(serde::de::Error::custom)
            }
        }

        impl FromStr for $name {
            type Err = $crate::model::Unknown;

            fn from_str(text: &str) -> Result<Self, $crate::model::Unknown> {
                let found = Self::ALL.iter().copied().find(|value| value.name() == text);
                found.ok_or_else(|| $crate::model::Unknown {
                    found: text.to_owned(),
                    accepted: Self::accepted(),
                })
            }
        }
    };
}

pub(crate) use vocabulary;

vocabulary! {
    /// A service's protocol.
    Protocol {
        /// TCP.
        Tcp = 1, "tcp";
        /// UDP.
        Udp = 2, "udp";
        /// QUIC: UDP, with connection IDs that may name a backend.
        Quic = 3, "quic";
        /// Any protocol: flows are told by addresses alone.
        Any = 4, "any";
    }
}

vocabulary! {
    /// How packets get to backends.
    Forwarding {
        /// Destination MAC only; the backend answers the client directly.
        DsrL2 = 1, "dsr-l2";
        /// Destination address and port; the answer comes back through weir.
        Nat = 2, "nat";
        /// In IPv4 or IPv6 (RFC 2003, 2473, 4213); the backend answers the client directly.
        DsrIpip = 3, "dsr-ipip";
        /// In Generic UDP Encapsulation; the backend answers the client directly.
        DsrGue = 4, "dsr-gue";
        /// In GRE (RFC 2784, 2890, 7676); the backend answers the client directly.
        DsrGre = 5, "dsr-gre";
        /// In Geneve (RFC 8926); the backend answers the client directly.
        DsrGeneve = 6, "dsr-geneve";
        /// Destination address and a DSCP that stands for the VIP; the backend answers the client
        /// directly.
        DsrDscp = 7, "dsr-dscp";
        /// Source and destination; the answer comes back to an address of weir's own.
        FullNat = 8, "full-nat";
    }
}

vocabulary! {
    /// How a backend of a `full-nat` service learns the client's address.
    #[derive(Default)]
    ClientAddress {
        /// Not at all.
        #[default]
        None = 0, "none";
        /// From a PROXY protocol v2 header before the stream.
        ProxyV2 = 1, "proxy-v2";
        /// From the TCP option TOA.
        Toa = 2, "toa";
    }
}

vocabulary! {
    /// How backends are chosen for new flows.
    #[derive(Default)]
    Scheduler {
        /// Consistent hashing by a Maglev table.
        #[default]
        Maglev = 1, "maglev";
        /// In turn.
        RoundRobin = 2, "round-robin";
        /// The backend with the fewest flows.
        LeastConnections = 3, "least-connections";
        /// By a Maglev table that is asked with the client's address alone.
        SourceHash = 4, "source-hash";
        /// Consistent hashing by a ring of virtual nodes.
        Ring = 5, "ring";
    }
}

vocabulary! {
    /// What becomes of echo requests ("ping") to the VIP's address.
    #[derive(Default)]
    Ping {
        /// weir answers them, whatever the pool's health.
        #[default]
        Answer = 0, "answer";
        /// They go to a backend, which answers directly.
        Forward = 1, "forward";
        /// They are dropped.
        Drop = 2, "drop";
    }
}

vocabulary! {
    /// Whether the operator overrides a backend's health.
    #[derive(Default)]
    Forced {
        /// Health decides.
        #[default]
        Auto = 0, "auto";
        /// Up, whatever checks find.
        Up = 1, "up";
        /// Down, whatever checks find.
        Down = 2, "down";
    }
}

vocabulary! {
    /// What becomes of a backend's flows when it goes down.
    #[derive(Default)]
    OnDown {
        /// They are steered anew at once.
        #[default]
        ReSteer = 0, "re-steer";
        /// They stay with it.
        Keep = 1, "keep";
        /// Their clients get a TCP reset.
        Reset = 2, "reset";
    }
}

vocabulary! {
    /// What becomes of a TCP packet in mid-stream whose flow is not known.
    #[derive(Default)]
    UnknownTcp {
        /// The table chooses a backend, as for a new flow.
        #[default]
        Steer = 0, "steer";
        /// Its client gets a TCP reset.
        Reset = 1, "reset";
    }
}

impl Protocol {
    /// What is on the wire: services that differ in more than this cannot share a VIP and port.
    #[must_use]
    pub const fn wire(self) -> Self {
        match self {
            Self::Quic => Self::Udp,
            other => other,
        }
    }

    /// Its number in the IP header (IANA); `None` for all of them.
    #[must_use]
    pub const fn number(self) -> Option<u8> {
        match self {
            Self::Tcp => Some(6),
            Self::Udp | Self::Quic => Some(17),
            Self::Any => None,
        }
    }
}

impl Forwarding {
    /// Whether answers come back through weir, so that it sees both sides of a connection.
    #[must_use]
    pub const fn sees_answers(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// Whether a backend's port may differ from the service's.
    #[must_use]
    pub const fn rewrites_port(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// Whether packets go to backends inside others.
    #[must_use]
    pub const fn is_tunnel(self) -> bool {
        matches!(
            self,
            Self::DsrIpip | Self::DsrGue | Self::DsrGre | Self::DsrGeneve
        )
    }

    /// Whether packets go to backends inside UDP datagrams.
    #[must_use]
    pub const fn is_udp_tunnel(self) -> bool {
        matches!(self, Self::DsrGue | Self::DsrGeneve)
    }

    /// Whether a backend may be of another family than the VIP.
    #[must_use]
    pub const fn crosses_families(self) -> bool {
        self.is_tunnel() || matches!(self, Self::FullNat)
    }

    /// Whether backends own the VIP and answer clients directly.
    #[must_use]
    pub const fn returns_directly(self) -> bool {
        match self {
            Self::DsrL2
            | Self::DsrIpip
            | Self::DsrGue
            | Self::DsrGre
            | Self::DsrGeneve
            | Self::DsrDscp => true,
            Self::Nat | Self::FullNat => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_codes_lead_back_to_their_value() {
        for mode in Forwarding::ALL {
            assert_eq!(mode.name().parse(), Ok(*mode));
            assert_eq!(Forwarding::from_code(mode.code()), Some(*mode));
        }
        assert_eq!(Forwarding::from_code(0), None);
    }

    #[test]
    fn an_unknown_word_is_refused_with_the_known_ones() {
        let error = "half-nat".parse::<Forwarding>().unwrap_err().to_string();
        assert_eq!(
            error,
            r#"found "half-nat"; accepted: "dsr-l2", "nat", "dsr-ipip", "dsr-gue", "dsr-gre", "dsr-geneve", "dsr-dscp", "full-nat""#
        );
        let error = "half-nat".parse::<Forwarding>().unwrap_err().to_string();
        assert!(error.starts_with(r#"found "half-nat"; accepted: "dsr-l2", "nat""#));
    }
}
