//! Why a profile cannot be sent, and what could be.

use std::net::IpAddr;

use crate::range::AddressRange;

/// Why a profile cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A frame too small for its headers.
    #[error(
        "frame size {found} is too small: {stack} and the 18-byte stamp need at least {needed} bytes, FCS included"
    )]
    FrameTooSmall {
        /// The smallest size asked for.
        found: u16,
        /// The headers, in words.
        stack: String,
        /// The smallest size that holds them.
        needed: u16,
    },
    /// A frame larger than Ethernet's, which only a tag may make it.
    #[error(
        "frame size {found} is too large; up to 1518 bytes are accepted, FCS included, and 1522 with --vlan"
    )]
    FrameTooLarge {
        /// The largest size asked for.
        found: u16,
    },
    /// Clients of the other family.
    #[error(
        "clients {clients} and VIP {vip} are of different address families; give both as IPv4 or both as IPv6"
    )]
    MixedFamilies {
        /// The clients.
        clients: AddressRange,
        /// The VIP.
        vip: IpAddr,
    },
    /// More flows than client addresses and ports.
    #[error(
        "{flows} flows need more than the {clients} client addresses with 64512 ports each; give a larger --clients"
    )]
    TooManyFlows {
        /// Flows asked for.
        flows: u32,
        /// Client addresses.
        clients: u64,
    },
    /// No flow at all.
    #[error("0 flows send nothing; give --flows 1 or more")]
    NoFlows,
    /// A TCP connection that cannot hold SYN and FIN.
    #[error(
        "a TCP connection of 1 packet has no room for SYN and FIN; give --packets-per-flow 2 or more, or 0 for connections that never end"
    )]
    ConnectionTooShort,
    /// Ends of connections without connections.
    #[error("--packets-per-flow {0} needs --protocol tcp; UDP flows have no end")]
    UdpHasNoEnd(u32),
    /// Too few clients for flows that come and go.
    #[error(
        "{flows} flows that come and go need a client address and port for twice as many, and {clients} client addresses have 64512 ports each; give a larger --clients"
    )]
    TooManyComing {
        /// Flows at a time.
        flows: u32,
        /// Client addresses.
        clients: u64,
    },
    /// New flows cannot be followed one by one.
    #[error("flows that are followed one by one cannot be renewed; count packets only")]
    RenewedFollowed,
    /// Connections that nobody opens.
    #[error("connections opened at a rate of 0 carry nothing; give a rate of 1 a second or more")]
    NoOpens,
    /// A VLAN identifier out of range.
    #[error("VLAN {0} is out of range; 1 to 4094 are accepted")]
    BadVlan(u16),
}
