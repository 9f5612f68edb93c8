//! Which services may stand side by side: VIPs that overlap only where one is the more specific,
//! and backends of `nat` whose answers belong to one service.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Forwarding, Pool, PortMatch, Problem, Service, Vip};

/// The ports of one backend of a `nat` service: where answers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Answers {
    first: u16,
    last: u16,
    protocol: Option<u8>,
    service: usize,
    backend: usize,
}

impl Pool {
    /// Of two services whose packets are partly the same, one must be the more specific.
    pub(super) fn check_overlaps(&self) -> Result<(), Problem> {
        let mut groups: HashMap<_, Vec<(PortMatch, usize)>> = HashMap::new();
        for (index, service) in self.services.iter().enumerate() {
            let key = (service.vip, service.protocol.number());
            groups.entry(key).or_default().push((service.port, index));
        }
        let clash = groups.into_values().filter_map(first_clash).min();
        let Some((second, first)) = clash else {
            return Ok(());
        };
        let (Some(service), Some(first)) = (self.services.get(second), self.services.get(first))
        else {
            return Ok(());
        };
        let (field, found, accepted) = if service.port == first.port {
            (
                "vip",
                format!("which service \"{}\" has already", first.name),
                "a VIP, port and protocol that no other service has",
            )
        } else {
            (
                "port",
                format!(
                    "whose ports overlap those of \"{}\", {}",
                    first.name, first.port
                ),
                "ranges of one VIP and protocol that have no port in common",
            )
        };
        let message = format!(
            "found VIP {} for {} in \"{}\", {found}; accepted: {accepted}",
            service.endpoint(),
            service.protocol,
            service.name
        );
        Err(Problem {
            service: Some(second),
            backend: None,
            field,
            message,
        })
    }

    /// No backend is a VIP, and the return map of `nat`, which goes from (backend, port, protocol)
    /// to a VIP, is a map.
    pub(super) fn check_backends_between_services(&self) -> Result<(), Problem> {
        let vips: HashMap<Vip, &str> = self
            .services
            .iter()
            .map(|service| (service.vip, service.name.as_str()))
            .collect();
        // In order, so that the message does not depend on chance.
        let mut prefixes: Vec<&Vip> = vips.keys().filter(|vip| vip.is_prefix()).collect();
        prefixes.sort_unstable();
        let mut answers: Vec<(IpAddr, Answers)> = Vec::new();
        for (index, service) in self.services.iter().enumerate() {
            for (place, backend) in service.backends.iter().enumerate() {
                let exact = Vip::from(backend.address);
                let covering = vips.get_key_value(&exact).or_else(|| {
                    let covering = prefixes.iter().find(|vip| vip.covers(backend.address));
                    covering.and_then(|vip| vips.get_key_value(*vip))
                });
                if let Some((vip, owner)) = covering {
                    let is = if vip.is_prefix() {
                        format!("which is in {vip}, the VIP of service \"{owner}\"")
                    } else {
                        format!("which is the VIP of service \"{owner}\"")
                    };
                    return Err(Problem {
                        service: Some(index),
                        backend: Some(place),
                        field: "address",
                        message: format!(
                            "found backend {} of \"{}\", {is}; accepted: an address of a server",
                            backend.address, service.name
                        ),
                    });
                }
                if service.forwarding == Forwarding::Nat {
                    let (first, last) = match service.port {
                        PortMatch::Exact(_) => (backend.port, backend.port),
                        several => several.bounds(),
                    };
                    let of_backend = Answers {
                        first,
                        last,
                        protocol: service.protocol.number(),
                        service: index,
                        backend: place,
                    };
                    answers.push((backend.address, of_backend));
                }
            }
        }
        answers.sort_unstable();
        let clash = answers
            .chunk_by(|(one, _), (other, _)| one == other)
            .filter(|of_address| of_address.len() > 1)
            .filter_map(|of_address| {
                let of: Vec<Answers> = of_address.iter().map(|(_, answers)| *answers).collect();
                first_shared(&of)
            })
            .min();
        let Some((at, other)) = clash else {
            return Ok(());
        };
        let named = |index: usize| self.services.get(index);
        let (Some(service), Some(other)) = (named(at.service), named(other)) else {
            return Ok(());
        };
        Err(Problem {
            service: Some(at.service),
            backend: Some(at.backend),
            field: "address",
            message: shared(service, at.backend, &other.name),
        })
    }
}

fn shared(service: &Service, backend: usize, other: &str) -> String {
    let name = service
        .backends
        .get(backend)
        .map_or_else(String::new, |backend| backend.name(service));
    format!(
        "found backend {name} of \"{}\" also in \"{other}\": two \"nat\" services cannot share a \
         backend address and port, since its answers would belong to both; accepted: another \
         address or port, or forwarding = \"full-nat\"",
        service.name
    )
}

/// The first service of a group (of one VIP and protocol) that clashes with one before it in the
/// file, and the one it clashes with.
fn first_clash(mut group: Vec<(PortMatch, usize)>) -> Option<(usize, usize)> {
    // By form, then by first port: what overlaps any before it overlaps the one that reaches
    // furthest.
    group.sort_unstable();
    let mut furthest: Option<(PortMatch, usize)> = None;
    let mut clashes = Vec::new();
    for (port, index) in group {
        match furthest {
            Some((before, other)) if before.clashes(port) => {
                clashes.push((index.max(other), index.min(other)));
                if before.bounds().1 < port.bounds().1 {
                    furthest = Some((port, index));
                }
            }
            _ => furthest = Some((port, index)),
        }
    }
    clashes.into_iter().min()
}

/// The first backend (in the order of the file) at one address whose answers belong to a service
/// before it, too, and that service. Within a service answers are always distinct.
fn first_shared(all: &[Answers]) -> Option<(Answers, usize)> {
    let mut clashes = Vec::new();
    let mut protocols: Vec<Option<u8>> = all.iter().map(|one| one.protocol).collect();
    protocols.sort_unstable();
    protocols.dedup();
    for protocol in protocols {
        let mut same: Vec<Answers> = all
            .iter()
            .filter(|one| one.protocol == protocol || one.protocol.is_none())
            .copied()
            .collect();
        same.sort_unstable();
        let mut furthest: Option<Answers> = None;
        for one in same {
            match furthest {
                Some(before) if one.first <= before.last => {
                    if one.service != before.service {
                        let (later, earlier) = if one.service > before.service {
                            (one, before)
                        } else {
                            (before, one)
                        };
                        clashes.push((later.service, later.backend, later, earlier.service));
                    }
                    if before.last < one.last {
                        furthest = Some(one);
                    }
                }
                _ => furthest = Some(one),
            }
        }
    }
    let first = clashes.into_iter().min();
    first.map(|(_, _, at, other)| (at, other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ports() -> impl Strategy<Value = PortMatch> {
        prop_oneof![
            (1u16..20).prop_map(PortMatch::Exact),
            (1u16..20, 1u16..5).prop_map(|(first, more)| PortMatch::Range(first, first + more)),
            Just(PortMatch::Any),
        ]
    }

    proptest! {
        #[test]
        fn a_clash_is_found_exactly_if_some_pair_clashes(
            group in proptest::collection::vec(ports(), 0..12),
        ) {
            let numbered: Vec<(PortMatch, usize)> = group.iter().copied().zip(0..).collect();
            let pairs = numbered.iter().flat_map(|one| numbered.iter().map(move |other| (one, other)));
            let any = pairs
                .into_iter()
                .any(|((port, one), (other_port, other))| one != other && port.clashes(*other_port));
            let found = first_clash(numbered);
            prop_assert_eq!(found.is_some(), any);
            if let Some((second, first)) = found {
                prop_assert!(first < second && group[first].clashes(group[second]));
            }
        }
    }
}
