//! What `full-nat` asks of a service: addresses to send from, of each family that its backends have.

use std::collections::HashMap;
use std::net::IpAddr;

use super::validate::{Wrong, nonsense};
use super::{ClientAddress, Forwarding, Pool, Problem, Protocol, Service};

/// Addresses that a service's `snat_pool` can hold.
pub const MAX_SNAT: usize = 64;

impl Service {
    /// The address of its own that a `full-nat` service speaks to `backend` from: for what is sent
    /// once in a while, such as health checks.
    #[must_use]
    pub fn snat_toward(&self, backend: IpAddr) -> Option<IpAddr> {
        self.snat_pool
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == backend.is_ipv4())
    }

    pub(super) fn check_full_nat(&self) -> Result<(), Wrong> {
        if self.forwarding != Forwarding::FullNat {
            let only = |field, found: String| {
                let accepted = "it with forwarding = \"full-nat\" only";
                Err((field, format!("found {found}; accepted: {accepted}")))
            };
            if let Some(address) = self.snat_pool.first() {
                return only("snat_pool", format!("{address} in \"{}\"", self.forwarding));
            }
            if self.client_address != ClientAddress::None {
                let found = format!("\"{}\" in \"{}\"", self.client_address, self.forwarding);
                return only("client_address", found);
            }
            return Ok(());
        }
        let count = self.snat_pool.len();
        if count == 0 || count > MAX_SNAT {
            return Err((
                "snat_pool",
                format!(
                    "found {count} addresses for \"full-nat\"; accepted: 1 to {MAX_SNAT}, such as \
                     [\"10.0.0.5\"]"
                ),
            ));
        }
        for (place, address) in self.snat_pool.iter().enumerate() {
            let problem = match nonsense(*address) {
                Some(what) => what,
                None if self.snat_pool[..place].contains(address) => "twice",
                None => continue,
            };
            return Err((
                "snat_pool",
                format!(
                    "found {address}, {problem}; accepted: unicast addresses of weir's, each once"
                ),
            ));
        }
        if self.client_address == ClientAddress::Toa && self.protocol != Protocol::Tcp {
            return Err((
                "client_address",
                format!(
                    "found \"toa\", a TCP option, in a service for {}; accepted: \"proxy-v2\", \"none\"",
                    self.protocol
                ),
            ));
        }
        Ok(())
    }

    /// A `full-nat` service needs an address to speak to a backend from.
    pub(super) fn check_snat_toward(&self, backend: IpAddr) -> Result<(), Wrong> {
        if self.forwarding != Forwarding::FullNat || self.snat_toward(backend).is_some() {
            return Ok(());
        }
        let family = if backend.is_ipv4() { "IPv4" } else { "IPv6" };
        Err((
            "address",
            format!(
                "found {backend}, and no {family} address in the snat_pool of \"{}\"; accepted: a \
                 backend of a family that the pool has",
                self.name
            ),
        ))
    }
}

impl Pool {
    /// A SNAT address belongs to weir: it is nobody's VIP and no server.
    pub(super) fn check_snat_addresses(&self) -> Result<(), Problem> {
        let mut taken: HashMap<IpAddr, &str> = HashMap::new();
        if self
            .services
            .iter()
            .all(|service| service.snat_pool.is_empty())
        {
            return Ok(());
        }
        for service in &self.services {
            for backend in &service.backends {
                taken.insert(backend.address, "a backend");
            }
        }
        for (index, service) in self.services.iter().enumerate() {
            for address in &service.snat_pool {
                let mut vips = self.services.iter().map(|service| &service.vip);
                let what = if vips.any(|vip| vip.covers(*address)) {
                    Some("a VIP")
                } else {
                    taken.get(address).copied()
                };
                if let Some(what) = what {
                    return Err(Problem {
                        service: Some(index),
                        backend: None,
                        field: "snat_pool",
                        message: format!(
                            "found {address} in the snat_pool of \"{}\", which is {what}; accepted: \
                             addresses that weir alone sends from",
                            service.name
                        ),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Backend, PortMatch, Vip};

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn service() -> Service {
        let port = PortMatch::Exact(80);
        let vip = address("198.51.100.10");
        let mut service = Service::new("web", vip, port, Protocol::Tcp, Forwarding::FullNat);
        service.snat_pool = vec![address("10.0.0.5"), address("2001:db8::5")];
        service.backends = vec![
            Backend::new(address("10.0.0.11"), 8080),
            Backend::new(address("2001:db8::11"), 8080),
        ];
        service
    }

    fn complaint(services: Vec<Service>) -> String {
        Pool { services }.validate().unwrap_err().message
    }

    #[test]
    fn backends_of_both_families_and_shared_ones_are_fine() {
        let mut other = service();
        other.name = "other".to_owned();
        other.vip = Vip::from(address("2001:db8:f::10"));
        let services = vec![service(), other];
        assert_eq!(Pool { services }.validate(), Ok(Vec::new()));
    }

    #[test]
    fn a_pool_without_an_address_of_the_backends_family_is_refused() {
        let mut service = service();
        service.snat_pool.pop();
        let complaint = complaint(vec![service]);
        assert!(
            complaint.contains("2001:db8::11") && complaint.contains("IPv6"),
            "{complaint}"
        );
    }

    #[test]
    fn addresses_that_are_not_weirs_alone_are_refused() {
        for (snat, word) in [
            ("198.51.100.10", "a VIP"),
            ("10.0.0.11", "a backend"),
            ("224.0.0.1", "multicast"),
            ("2001:db8::5", "twice"),
        ] {
            let mut service = service();
            service.snat_pool[0] = address(snat);
            let complaint = complaint(vec![service]);
            assert!(
                complaint.contains(snat) && complaint.contains(word),
                "{complaint}"
            );
        }
        let mut none = service();
        none.snat_pool.clear();
        assert!(complaint(vec![none]).contains("1 to 64"));
    }

    #[test]
    fn its_keys_belong_to_full_nat_and_toa_to_tcp() {
        let mut nat = service();
        nat.forwarding = Forwarding::Nat;
        nat.backends.pop();
        assert!(complaint(vec![nat.clone()]).contains("full-nat"));
        nat.snat_pool.clear();
        nat.client_address = ClientAddress::ProxyV2;
        assert!(complaint(vec![nat]).contains("full-nat"));
        let mut udp = service();
        udp.protocol = Protocol::Udp;
        udp.client_address = ClientAddress::ProxyV2;
        assert!(
            Pool {
                services: vec![udp.clone()]
            }
            .validate()
            .is_ok()
        );
        udp.client_address = ClientAddress::Toa;
        assert!(complaint(vec![udp]).contains("toa"));
    }
}
