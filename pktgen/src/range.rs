//! Ranges of addresses: the clients that a generator plays, the backends that a reflector plays.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A text that is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no range of addresses; accepted are a prefix as in 198.18.0.0/16 or 2001:2::/48, an address, and first-last as in 10.0.0.11-10.0.0.20"
)]
pub struct BadRange(String);

/// Consecutive addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    /// At least one; for IPv6 prefixes shorter than /64 what 64 bits can count.
    count: u64,
}

impl AddressRange {
    /// One address.
    #[must_use]
    pub const fn single(address: IpAddr) -> Self {
        Self {
            first: address,
            count: 1,
        }
    }

    /// The addresses of a prefix. An IPv4 prefix shorter than /31 gives its hosts, without network
    /// and broadcast address; an IPv6 prefix shorter than /127 leaves out its subnet-router anycast
    /// address (RFC 4291, section 2.6.1). `None` when the prefix is too long for the family.
    #[must_use]
    pub fn prefix(address: IpAddr, length: u8) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => {
                let host_bits = 32u32.checked_sub(u32::from(length))?;
                let size = 1u64 << host_bits;
                let network = u64::from(u32::from(v4)) & !(size - 1);
                let (first, count) = if host_bits > 1 {
                    (network + 1, size - 2)
                } else {
                    (network, size)
                };
                Some(Self {
                    first: Ipv4Addr::from(first as u32).into(),
                    count,
                })
            }
            IpAddr::V6(v6) => {
                let host_bits = 128u32.checked_sub(u32::from(length))?;
                let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                let size = 1u64.checked_shl(host_bits).unwrap_or(u64::MAX);
                let network = u128::from(v6) & mask;
                let (first, count) = if host_bits > 1 {
                    (network + 1, size - 1)
                } else {
                    (network, size)
                };
                Some(Self {
                    first: Ipv6Addr::from(first).into(),
                    count,
                })
            }
        }
    }

    /// How many addresses there are.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The address number `index`, counted modulo the range's size.
    #[inline]
    #[must_use]
    pub fn nth(&self, index: u64) -> IpAddr {
        let offset = index % self.count;
        match self.first {
            IpAddr::V4(first) => {
                Ipv4Addr::from(u32::from(first).wrapping_add(offset as u32)).into()
            }
            IpAddr::V6(first) => {
                Ipv6Addr::from(u128::from(first).wrapping_add(u128::from(offset))).into()
            }
        }
    }

    /// Whether `address` lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                u64::from(u32::from(address).wrapping_sub(u32::from(first))) < self.count
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                u128::from(address).wrapping_sub(u128::from(first)) < u128::from(self.count)
            }
            _ => false,
        }
    }

    /// Whether the addresses are IPv6.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.first.is_ipv6()
    }

    /// All addresses, in order.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        (0..self.count).map(move |index| self.nth(index))
    }
}

impl FromStr for AddressRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        if let Some((address, length)) = text.split_once('/') {
            let address = address.parse().map_err(|_| bad())?;
            let length = length.parse().map_err(|_| bad())?;
            return Self::prefix(address, length).ok_or_else(bad);
        }
        let Some((first, last)) = text.split_once('-') else {
            return text.parse().map(Self::single).map_err(|_| bad());
        };
        let first: IpAddr = first.parse().map_err(|_| bad())?;
        let distance = match (first, last.parse().map_err(|_| bad())?) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                u32::from(last).checked_sub(u32::from(first)).map(u64::from)
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => u128::from(last)
                .checked_sub(u128::from(first))
                .and_then(|distance| u64::try_from(distance).ok()),
            _ => None,
        };
        let count = distance
            .and_then(|distance| distance.checked_add(1))
            .ok_or_else(bad)?;
        Ok(Self { first, count })
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{}", self.first),
            count => write!(f, "{}-{}", self.first, self.nth(count - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> AddressRange {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv4_prefix_gives_its_hosts() {
        let hosts = range("198.18.0.77/24");
        assert_eq!(hosts.to_string(), "198.18.0.1-198.18.0.254");
        assert_eq!(range("10.0.0.0/31").to_string(), "10.0.0.0-10.0.0.1");
        assert_eq!(range("10.0.0.9/32").to_string(), "10.0.0.9");
        assert_eq!(range("0.0.0.0/0").count(), (1 << 32) - 2);
    }

    #[test]
    fn an_ipv6_prefix_leaves_out_the_anycast_address() {
        assert_eq!(range("2001:2::/112").to_string(), "2001:2::1-2001:2::ffff");
        assert_eq!(
            range("2001:2::/48").nth(1 << 40).to_string(),
            "2001:2::100:0:1"
        );
        assert_eq!(range("2001:2::5/128").count(), 1);
    }

    #[test]
    fn membership_agrees_with_the_listing() {
        for text in [
            "10.0.0.250-10.0.1.3",
            "2001:2::fffe-2001:2::1:2",
            "192.0.2.4",
        ] {
            let range = range(text);
            assert!(
                range.iter().all(|address| range.contains(address)),
                "{text}"
            );
            assert_eq!(range.to_string(), text);
        }
        assert!(!range("10.0.0.0/30").contains("10.0.0.0".parse().unwrap()));
        assert!(!range("10.0.0.0/30").contains("10.0.0.3".parse().unwrap()));
        assert!(!range("10.0.0.0/30").contains("::a00:1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.2-10.0.0.1",
            "10.0.0.1-::1",
            "10.0.0/8",
            "a-b",
        ] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }
}
