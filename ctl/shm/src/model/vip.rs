//! What a service listens on: an address or a prefix of addresses, and one port, a range, or all.
//!
//! Forms overlap on purpose, and the most specific one that matches a packet wins: the longest
//! prefix, then the port (exact, range, any), then the protocol. Two forms that this order cannot
//! tell apart are a configuration error; see [`Listening::clashes`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::Protocol;

/// The addresses of a service: one, or all of a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vip {
    address: IpAddr,
    prefix: u8,
}

impl Vip {
    /// The addresses that share their first `prefix` bits with `address`; `None` where the prefix is
    /// longer than an address, or `address` has bits set behind it.
    #[must_use]
    pub fn network(address: IpAddr, prefix: u8) -> Option<Self> {
        let vip = Self { address, prefix };
        (prefix <= longest(&address) && masked(address, prefix) == address).then_some(vip)
    }

    /// The address, or the first one of the prefix.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The last address of the prefix, or the address.
    #[must_use]
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => {
                let host = u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Ipv4Addr::from_bits(address.to_bits() | host).into()
            }
            IpAddr::V6(address) => {
                let host = u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0);
                Ipv6Addr::from_bits(address.to_bits() | host).into()
            }
        }
    }

    /// Bits that all addresses share.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The prefix of `length` bits that covers it, itself included; `None` where it is wider.
    #[must_use]
    pub fn within(&self, length: u8) -> Option<Self> {
        (length <= self.prefix).then(|| Self {
            address: masked(self.address, length),
            prefix: length,
        })
    }

    /// Whether it is more than one address.
    #[must_use]
    pub const fn is_prefix(&self) -> bool {
        self.prefix < longest(&self.address)
    }

    /// Whether the addresses are IPv4.
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether the addresses are IPv6.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    /// Whether `address` is one of them.
    #[must_use]
    pub fn covers(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && masked(address, self.prefix) == self.address
    }
}

const fn longest(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// `address` with the bits behind `prefix` cleared.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let host = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !host).into()
        }
        IpAddr::V6(address) => {
            let host = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !host).into()
        }
    }
}

impl From<IpAddr> for Vip {
    fn from(address: IpAddr) -> Self {
        Self {
            address,
            prefix: longest(&address),
        }
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        if self.is_prefix() {
            write!(f, "/{}", self.prefix)?;
        }
        Ok(())
    }
}

/// What a VIP may look like, for messages.
pub const VIP_ACCEPTED: &str = "an address, such as \"192.0.2.1\" or \"2001:db8::1\", or a prefix of addresses, such as \"198.51.100.0/28\"";

impl FromStr for Vip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("found {text:?}; accepted: {VIP_ACCEPTED}");
        let Some((address, prefix)) = text.split_once('/') else {
            return text.parse().map(IpAddr::into).map_err(|_| refused());
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused());
        }
        let prefix: u8 = prefix.parse().map_err(|_| refused())?;
        if prefix > longest(&address) {
            return Err(refused());
        }
        Self::network(address, prefix).ok_or_else(|| {
            format!(
                "found {text:?}, which has bits set behind its prefix; accepted: \"{}/{prefix}\"",
                masked(address, prefix)
            )
        })
    }
}

/// Which ports a service listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// This one, never zero.
    Exact(u16),
    /// From the first to the last, both included, which are never zero and never the same.
    Range(u16, u16),
    /// All that no more specific service has.
    Any,
}

impl PortMatch {
    /// The port as a number; zero for a range or any, where a backend keeps the client's.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Exact(port) => port,
            Self::Range(..) | Self::Any => 0,
        }
    }

    /// Whether it is one port, so that backends may have one of their own and are named with it.
    #[must_use]
    pub const fn is_exact(self) -> bool {
        matches!(self, Self::Exact(_))
    }

    /// The lowest and highest port.
    #[must_use]
    pub const fn bounds(self) -> (u16, u16) {
        match self {
            Self::Exact(port) => (port, port),
            Self::Range(first, last) => (first, last),
            Self::Any => (0, u16::MAX),
        }
    }

    /// Whether some port is in both, and neither is the more specific.
    #[must_use]
    pub const fn clashes(self, other: Self) -> bool {
        let ((first, last), (other_first, other_last)) = (self.bounds(), other.bounds());
        let alike = matches!(
            (self, other),
            (Self::Exact(_), Self::Exact(_))
                | (Self::Range(..), Self::Range(..))
                | (Self::Any, Self::Any)
        );
        alike && first <= other_last && other_first <= last
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(port) => write!(f, "{port}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Any => f.write_str("any"),
        }
    }
}

/// What a port of a service may be, for messages.
pub const PORT_ACCEPTED: &str =
    "a number from 1 to 65535, a range such as \"8000-8100\", or \"any\"";

impl FromStr for PortMatch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("found {text:?}; accepted: {PORT_ACCEPTED}");
        let number = |text: &str| match text.parse::<u16>() {
            Ok(port) if port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ => Err(refused()),
        };
        if text == "any" {
            return Ok(Self::Any);
        }
        let Some((first, last)) = text.split_once('-') else {
            return Ok(Self::Exact(number(text)?));
        };
        match (number(first)?, number(last)?) {
            (first, last) if first == last => Ok(Self::Exact(first)),
            (first, last) if first < last => Ok(Self::Range(first, last)),
            _ => Err(format!(
                "found {text:?}, which ends before it begins; accepted: {PORT_ACCEPTED}"
            )),
        }
    }
}

/// Everything that decides which packets are a service's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// To which addresses.
    pub vip: Vip,
    /// To which ports.
    pub port: PortMatch,
    /// Over which protocol.
    pub protocol: Protocol,
}

impl Listening {
    /// Whether some packet matches both, and neither is the more specific.
    #[must_use]
    pub fn clashes(&self, other: &Self) -> bool {
        self.vip == other.vip
            && self.protocol.number() == other.protocol.number()
            && self.port.clashes(other.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_vip_is_an_address_or_a_prefix() {
        for (text, shown, covered, not) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.1/32", "192.0.2.1", "192.0.2.1", "192.0.2.0"),
            (
                "198.51.100.0/28",
                "198.51.100.0/28",
                "198.51.100.15",
                "198.51.100.16",
            ),
            (
                "2001:db8::/64",
                "2001:db8::/64",
                "2001:db8::ffff",
                "2001:db8:0:1::",
            ),
            (
                "2001:db8::1/128",
                "2001:db8::1",
                "2001:db8::1",
                "2001:db8::",
            ),
        ] {
            let vip: Vip = text.parse().unwrap();
            assert_eq!(vip.to_string(), shown);
            assert!(vip.covers(covered.parse().unwrap()), "{text}");
            assert!(!vip.covers(not.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for bad in [
            "",
            "web",
            "192.0.2.1/",
            "192.0.2.0/33",
            "192.0.2.0/+8",
            "2001:db8::/129",
            "/8",
        ] {
            let error = bad.parse::<Vip>().unwrap_err();
            assert!(
                error.contains(bad) && error.contains("198.51.100.0/28"),
                "{error}"
            );
        }
        let error = "198.51.100.5/28".parse::<Vip>().unwrap_err();
        assert!(error.contains("accepted: \"198.51.100.0/28\""), "{error}");
    }

    #[test]
    fn a_port_is_a_number_a_range_or_any() {
        assert_eq!("80".parse(), Ok(PortMatch::Exact(80)));
        assert_eq!("any".parse(), Ok(PortMatch::Any));
        assert_eq!("8000-8100".parse(), Ok(PortMatch::Range(8000, 8100)));
        assert_eq!("80-80".parse(), Ok(PortMatch::Exact(80)));
        for bad in [
            "0", "65536", "-1", "http", "", "80-", "0-9", "1-65536", "9-8", "+80", "1-2-3",
        ] {
            let error = bad.parse::<PortMatch>().unwrap_err();
            assert!(error.contains(bad) && error.contains("65535"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_prefix_covers_what_lies_from_its_first_to_its_last_address(
            bits: u32, prefix in 0u8..=32, other: u32,
        ) {
            let address = IpAddr::V4(Ipv4Addr::from_bits(bits));
            let vip = Vip::network(masked(address, prefix), prefix).unwrap();
            let other = IpAddr::V4(Ipv4Addr::from_bits(other));
            prop_assert!(vip.covers(address) && vip.covers(vip.last()));
            prop_assert_eq!(vip.covers(other), vip.address() <= other && other <= vip.last());
        }
    }

    #[test]
    fn a_prefix_covers_what_lies_within_it() {
        let vip = |text: &str| text.parse::<Vip>().unwrap();
        for (inner, length, outer) in [
            ("198.51.100.10", 24, Some("198.51.100.0/24")),
            ("198.51.100.10", 32, Some("198.51.100.10")),
            ("198.51.100.0/28", 0, Some("0.0.0.0/0")),
            ("198.51.100.0/28", 29, None),
            ("2001:db8::10", 64, Some("2001:db8::/64")),
        ] {
            assert_eq!(
                vip(inner).within(length),
                outer.map(vip),
                "{inner} {length}"
            );
        }
    }
}
