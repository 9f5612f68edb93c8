//! IP addresses as the packet path carries them: two machine words, whatever the family.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP version. The number is the one on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Version {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Version {
    /// The version of `address`.
    #[must_use]
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// An address's bytes as two little-endian words; an IPv4 address fills the low half of the first.
/// The family is carried beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Addr(pub [u64; 2]);

impl Addr {
    /// From the four bytes of the frame.
    #[inline]
    #[must_use]
    pub const fn from_v4(bytes: [u8; 4]) -> Self {
        Self([u32::from_le_bytes(bytes) as u64, 0])
    }

    /// From the sixteen bytes of the frame.
    #[inline]
    #[must_use]
    pub const fn from_v6(bytes: [u8; 16]) -> Self {
        let value = u128::from_le_bytes(bytes);
        Self([value as u64, (value >> 64) as u64])
    }

    /// The four bytes of an IPv4 address.
    #[inline]
    #[must_use]
    pub const fn to_v4(self) -> [u8; 4] {
        (self.0[0] as u32).to_le_bytes()
    }

    /// The sixteen bytes of an IPv6 address.
    #[inline]
    #[must_use]
    pub const fn to_v6(self) -> [u8; 16] {
        ((self.0[0] as u128) | (self.0[1] as u128) << 64).to_le_bytes()
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn to_ip(self, version: Version) -> IpAddr {
        match version {
            Version::V4 => {
                let [a, b, c, d] = self.to_v4();
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            Version::V6 => IpAddr::V6(Ipv6Addr::from_octets(self.to_v6())),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::from_v4(address.octets()),
            IpAddr::V6(address) => Self::from_v6(address.octets()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_come_back_unchanged() {
        for text in ["192.0.2.1", "2001:db8::dead:beef", "::ffff:192.0.2.1", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Addr::from(address).to_ip(Version::of(&address)), address);
        }
    }
}
