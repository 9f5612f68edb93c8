//! The backends that a reflector plays: their addresses, MACs and numbers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::str::FromStr;

use weir_engine::wire::ethernet::{BadMac, MacAddr};

use crate::range::{AddressRange, BadRange};

/// The most backends one reflector plays: numbers are 16 bits, and the last means "nobody".
pub const MOST: usize = 65_535;

/// `ADDR`, `ADDR,MAC` or a range of addresses, as given to `--backend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackendArg {
    addresses: AddressRange,
    mac: Option<MacAddr>,
}

/// Why a text or a list of texts names no backends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBackend {
    /// No address.
    #[error(transparent)]
    Range(#[from] BadRange),
    /// No MAC.
    #[error(transparent)]
    Mac(#[from] BadMac),
    /// One MAC for many addresses.
    #[error(
        "\"{0}\" gives one MAC to a range of addresses; a MAC can be given with a single address only"
    )]
    MacOfRange(String),
    /// A group address as a MAC.
    #[error("{0} is a group address; a backend's MAC is that of one machine")]
    GroupMac(MacAddr),
    /// The same address twice.
    #[error("backend {0} is given twice; give every address once")]
    TwiceAddress(IpAddr),
    /// The same MAC twice.
    #[error(
        "backends {0} and {1} would both have MAC {2}; give one of them another, as in --backend {1},02:00:00:00:00:99"
    )]
    TwiceMac(IpAddr, IpAddr, MacAddr),
    /// Too many.
    #[error("more than 65535 backends; numbers have 16 bits")]
    TooMany,
    /// None at all.
    #[error("no backends; give at least one --backend")]
    None,
}

impl FromStr for BackendArg {
    type Err = BadBackend;

    fn from_str(text: &str) -> Result<Self, BadBackend> {
        let Some((address, mac)) = text.split_once(',') else {
            return Ok(Self {
                addresses: text.parse()?,
                mac: None,
            });
        };
        let (addresses, mac): (AddressRange, MacAddr) = (address.parse()?, mac.parse()?);
        if addresses.count() > 1 {
            return Err(BadBackend::MacOfRange(text.to_owned()));
        }
        if mac.is_multicast() {
            return Err(BadBackend::GroupMac(mac));
        }
        Ok(Self {
            addresses,
            mac: Some(mac),
        })
    }
}

/// One backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backend {
    /// Its number in answers and reports.
    pub id: u16,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: MacAddr,
}

/// All backends of a reflector.
#[derive(Debug, Clone)]
pub struct Backends {
    list: Vec<Backend>,
    by_address: HashMap<IpAddr, u16>,
    by_mac: HashMap<MacAddr, u16>,
}

impl Backends {
    /// The backends of `args`, numbered from 0 in their order.
    ///
    /// # Errors
    /// No backends, too many of them, or an address or MAC twice.
    pub fn new(args: &[BackendArg]) -> Result<Self, BadBackend> {
        let mut backends = Self {
            list: Vec::new(),
            by_address: HashMap::new(),
            by_mac: HashMap::new(),
        };
        for arg in args {
            if arg.addresses.count() > (MOST - backends.list.len()) as u64 {
                return Err(BadBackend::TooMany);
            }
            for address in arg.addresses.iter() {
                let (id, mac) = (
                    backends.list.len() as u16,
                    arg.mac.unwrap_or_else(|| derived_mac(address)),
                );
                if backends.by_address.insert(address, id).is_some() {
                    return Err(BadBackend::TwiceAddress(address));
                }
                if let Some(other) = backends.by_mac.insert(mac, id) {
                    return Err(BadBackend::TwiceMac(
                        backends.list[usize::from(other)].address,
                        address,
                        mac,
                    ));
                }
                backends.list.push(Backend { id, address, mac });
            }
        }
        if backends.list.is_empty() {
            Err(BadBackend::None)
        } else {
            Ok(backends)
        }
    }

    /// All of them, by number.
    #[must_use]
    pub fn list(&self) -> &[Backend] {
        &self.list
    }

    /// The one with this address.
    #[inline]
    #[must_use]
    pub fn by_address(&self, address: IpAddr) -> Option<&Backend> {
        self.by_address
            .get(&address)
            .and_then(|id| self.list.get(usize::from(*id)))
    }

    /// The one with this MAC.
    #[inline]
    #[must_use]
    pub fn by_mac(&self, mac: MacAddr) -> Option<&Backend> {
        self.by_mac
            .get(&mac)
            .and_then(|id| self.list.get(usize::from(*id)))
    }
}

/// The MAC of a backend that was given none: 02:00 and the IPv4 address, or 02:06 and the last four
/// bytes of the IPv6 address.
#[must_use]
pub const fn derived_mac(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            MacAddr([2, 0, a, b, c, d])
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            MacAddr([2, 6, a, b, c, d])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(args: &[&str]) -> Result<Backends, BadBackend> {
        let args: Result<Vec<BackendArg>, _> = args.iter().map(|arg| arg.parse()).collect();
        Backends::new(&args?)
    }

    #[test]
    fn ranges_and_single_addresses_are_numbered_in_order() {
        let backends = backends(&[
            "10.0.0.11-10.0.0.13",
            "10.0.0.5,02:aa:00:00:00:05",
            "2001:db8::7",
        ])
        .unwrap();
        let last = backends.by_address("2001:db8::7".parse().unwrap()).unwrap();
        assert_eq!(
            (last.id, last.mac.to_string().as_str()),
            (4, "02:06:00:00:00:07")
        );
        assert_eq!(backends.list()[1].mac.to_string(), "02:00:0a:00:00:0c");
        assert_eq!(
            backends
                .by_mac("02:aa:00:00:00:05".parse().unwrap())
                .unwrap()
                .id,
            3
        );
        assert_eq!(backends.by_address("10.0.0.14".parse().unwrap()), None);
    }

    #[test]
    fn what_would_be_ambiguous_is_refused() {
        let refusal = |args: &[&str]| backends(args).unwrap_err().to_string();
        assert!(refusal(&["10.0.0.1", "10.0.0.1"]).contains("given twice"));
        assert!(refusal(&["2001:db8::1", "2001:db8:1::1"]).contains("both have MAC"));
        assert!(refusal(&["10.0.0.1-10.0.0.2,02:00:00:00:00:01"]).contains("single address"));
        assert!(refusal(&["10.0.0.1,33:33:00:00:00:01"]).contains("group address"));
        assert!(refusal(&["10.0.0.0/8"]).contains("more than 65535"));
        assert!(refusal(&["10.0.0"]).contains("no range of addresses"));
        assert!(refusal(&[]).contains("at least one"));
    }
}
