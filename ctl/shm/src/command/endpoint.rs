//! A backend as commands name it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::model::{PortMatch, Service};

/// What a backend's name may look like, for messages.
pub const ACCEPTED: &str = "ADDRESS:PORT (10.0.0.11:8080, [2001:db8::11]:8080), or the address alone if the service has several ports";

/// An address, perhaps with a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port; absent for the service's own, or where the service has several.
    pub port: Option<u16>,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(with_port) = text.parse::<SocketAddr>()
            && with_port.port() != 0
        {
            return Ok(Self {
                address: with_port.ip(),
                port: Some(with_port.port()),
            });
        }
        let bracketed = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = match bracketed {
            Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6),
            None => text.parse(),
        };
        match address {
            Ok(address) => Ok(Self {
                address,
                port: None,
            }),
            Err(_) => Err(format!("found {text:?}; accepted: {ACCEPTED}")),
        }
    }
}

impl Endpoint {
    /// The port of a backend of `service` that this names.
    ///
    /// # Errors
    /// When it names a port in a service for several ports.
    pub fn port_in(&self, service: &Service) -> Result<u16, String> {
        match (service.port, self.port) {
            (PortMatch::Exact(port), own) => Ok(own.unwrap_or(port)),
            (PortMatch::Range(..) | PortMatch::Any, None) => Ok(0),
            (several, Some(port)) => Err(format!(
                "found port {port}, but the port of \"{}\" is \"{several}\"; accepted: the address alone, {}",
                service.name, self.address
            )),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_named_with_or_without_a_port() {
        for (text, shown) in [
            ("10.0.0.11:8080", "10.0.0.11:8080"),
            ("10.0.0.11", "10.0.0.11"),
            ("[2001:db8::1]:8080", "[2001:db8::1]:8080"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_is_accepted() {
        for bad in [
            "",
            "web",
            "10.0.0.11:",
            "10.0.0.11:0",
            "10.0.0.11:65536",
            "[10.0.0.1]",
            "1.2.3",
        ] {
            let error = bad.parse::<Endpoint>().unwrap_err();
            assert!(
                error.contains(bad) && error.contains("ADDRESS:PORT"),
                "{error}"
            );
        }
    }
}
