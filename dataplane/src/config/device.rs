//! Device strings: a PCI address, or a DPDK virtual device with its arguments.

use std::fmt;

/// DPDK's virtual network drivers (22.11), by the name that a device string starts with.
const DRIVERS: &[&str] = &[
    "net_af_packet",
    "net_af_xdp",
    "net_bonding",
    "net_failsafe",
    "net_memif",
    "net_null",
    "net_pcap",
    "net_ring",
    "net_softnic",
    "net_tap",
    "net_vdev_netvsc",
    "net_vhost",
    "net_virtio_user",
];

/// Where a port's frames come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Device {
    /// A NIC, by its PCI address.
    Pci(String),
    /// A virtual device, by its DPDK device string.
    Virtual(String),
}

impl Device {
    /// Reads a device string.
    ///
    /// # Errors
    /// What was found and what is accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        if is_pci_address(text) {
            return Ok(Self::Pci(text.to_owned()));
        }
        let name = text.split(',').next().unwrap_or_default();
        let driver = name.trim_end_matches(|c: char| c.is_ascii_digit());
        if DRIVERS.contains(&driver) {
            // Letters may follow a driver's name only through a number, as in "net_ring0".
            return Ok(Self::Virtual(text.to_owned()));
        }
        Err(format!(
            "unknown device \"{text}\"; accepted are a PCI address, as \"0000:3b:00.0\", or a DPDK \
             virtual device, as \"net_af_xdp0,iface=eth1\" (drivers: {})",
            DRIVERS.join(", ")
        ))
    }

    /// The name without arguments, which is unique in a process.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Pci(address) => address,
            Self::Virtual(text) => text.split(',').next().unwrap_or_default(),
        }
    }

    /// The whole device string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pci(text) | Self::Virtual(text) => text,
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `DDDD:BB:DD.F`, or `BB:DD.F` in domain zero.
fn is_pci_address(text: &str) -> bool {
    let Some((rest, function)) = text.rsplit_once('.') else {
        return false;
    };
    let parts: Vec<&str> = rest.split(':').collect();
    let hex = |part: &str, digits: usize| {
        part.len() == digits && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let (domain, rest) = match parts.as_slice() {
        [domain, rest @ ..] if rest.len() == 2 => (hex(domain, 4), rest),
        rest if rest.len() == 2 => (true, rest),
        _ => return false,
    };
    domain && rest.iter().all(|part| hex(part, 2)) && matches!(function.as_bytes(), [b'0'..=b'7'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses_and_virtual_devices_are_accepted() {
        for text in [
            "0000:3b:00.0",
            "3b:00.1",
            "net_af_xdp0,iface=eth1",
            "net_null0",
            "net_ring12",
        ] {
            assert!(Device::parse(text).is_ok(), "{text}");
        }
        assert_eq!(
            Device::parse("net_pcap0,rx_pcap=a").unwrap().name(),
            "net_pcap0"
        );
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for text in [
            "",
            "eth0",
            "net_bogus0",
            "0000:3b:00",
            "0000:3b:00.8",
            "net_nullx",
        ] {
            let error = Device::parse(text).unwrap_err();
            assert!(
                error.contains("PCI address") && error.contains("net_af_xdp"),
                "{error}"
            );
        }
    }
}
