//! Ethernet II and one IEEE 802.1Q tag.

use std::fmt;
use std::str::FromStr;

/// Bytes of an untagged Ethernet header.
pub const LEN: usize = 14;
/// Bytes that an 802.1Q tag adds.
pub const TAG_LEN: usize = 4;
/// The shortest frame, without FCS (IEEE 802.3).
pub const MIN_FRAME: usize = 60;

/// EtherTypes that weir speaks, and those it names when it refuses them.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
    /// A customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A service VLAN tag (IEEE 802.1ad, "QinQ").
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// A 48-bit MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether the group bit is set (broadcast included).
    #[inline]
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// The multicast MAC of an IPv6 multicast address (RFC 2464, section 7).
    #[must_use]
    pub const fn of_ipv6_multicast(group: &[u8; 16]) -> Self {
        Self([0x33, 0x33, group[12], group[13], group[14], group[15]])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not six hexadecimal octets with colons between them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is not a MAC address; six hexadecimal octets are accepted, as in 02:00:00:00:00:01"
)]
pub struct BadMac(String);

impl FromStr for MacAddr {
    type Err = BadMac;

    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac(text.to_owned());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(bad)?;
            if !part.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(bad());
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        if parts.next().is_some() {
            Err(bad())
        } else {
            Ok(Self(octets))
        }
    }
}

/// Destination address of a header.
#[inline]
#[must_use]
pub const fn destination(header: &[u8; LEN]) -> MacAddr {
    let [a, b, c, d, e, f, ..] = *header;
    MacAddr([a, b, c, d, e, f])
}

/// Source address of a header.
#[inline]
#[must_use]
pub const fn source(header: &[u8; LEN]) -> MacAddr {
    let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *header;
    MacAddr([a, b, c, d, e, f])
}

/// The EtherType, or the tag protocol identifier of a tagged frame.
#[inline]
#[must_use]
pub const fn ethertype(header: &[u8; LEN]) -> u16 {
    u16::from_be_bytes([header[12], header[13]])
}

/// The 12 bytes of both addresses, destination first, as they are written.
#[inline]
#[must_use]
pub const fn addresses(destination: MacAddr, source: MacAddr) -> [u8; 12] {
    let d = destination.0;
    let s = source.0;
    [
        d[0], d[1], d[2], d[3], d[4], d[5], s[0], s[1], s[2], s[3], s[4], s[5],
    ]
}

/// An 802.1Q tag's control field: priority (3 bits), drop eligible (1), VLAN identifier (12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagControl(pub u16);

impl TagControl {
    /// The VLAN identifier, 0 to 4095.
    #[inline]
    #[must_use]
    pub const fn vlan(self) -> u16 {
        self.0 & 0x0fff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; LEN] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];

    #[test]
    fn fields_are_read_from_their_places() {
        assert_eq!(destination(&HEADER), MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(source(&HEADER), MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!(ethertype(&HEADER), ethertype::IPV6);
        assert_eq!(
            addresses(destination(&HEADER), source(&HEADER)),
            HEADER[..12]
        );
    }

    #[test]
    fn a_mac_address_reads_back_as_it_is_written() {
        let text = "02:00:5e:10:00:ff";
        assert_eq!(text.parse::<MacAddr>().unwrap().to_string(), text);
        for bad in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:ff:01",
            "2:0:5e:10:0:ff",
            "02-00-5e-10-00-ff",
            "+2:00:5e:10:00:ff",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
