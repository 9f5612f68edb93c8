//! Which device and queue a flow is sent on: the one that a NIC's receive-side scaling would choose.

use std::net::IpAddr;

use weir_engine::rss;

use crate::profile::Profile;
use crate::schedule::Mix;

/// A device's queue, as a place in the sending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane {
    /// The device, in the order given.
    pub device: u16,
    /// The queue of that device.
    pub queue: u16,
}

/// The lane of each flow.
#[derive(Debug, Clone)]
pub struct Lanes(Rule);

#[derive(Debug, Clone)]
enum Rule {
    /// There is only one.
    One,
    /// Computed once for each flow.
    Listed(Vec<Lane>),
    /// Computed each time, since flows come and go.
    Hashed(Box<Profile>, Shape),
}

/// How many lanes there are.
#[derive(Debug, Clone, Copy)]
struct Shape {
    devices: u32,
    queues: u16,
}

impl Lanes {
    /// Spreads `profile`'s flows: devices in turn, and on each the queue that the Toeplitz hash of
    /// addresses and ports leads to under the engine's symmetric key.
    #[must_use]
    pub fn new(profile: &Profile, devices: u16, queues: u16) -> Self {
        let shape = Shape {
            devices: u32::from(devices.max(1)),
            queues,
        };
        if shape.devices == 1 && queues <= 1 {
            return Self(Rule::One);
        }
        if profile.wanted().mix != Mix::Steady {
            return Self(Rule::Hashed(Box::new(profile.clone()), shape));
        }
        let flows = 0..profile.wanted().flows;
        Self(Rule::Listed(
            flows.map(|flow| shape.lane(profile, flow)).collect(),
        ))
    }

    /// The lane of `flow`.
    #[inline]
    #[must_use]
    pub fn of(&self, flow: u32) -> Lane {
        const FIRST: Lane = Lane {
            device: 0,
            queue: 0,
        };
        match &self.0 {
            Rule::One => FIRST,
            Rule::Listed(lanes) => lanes.get(flow as usize).copied().unwrap_or(FIRST),
            Rule::Hashed(profile, shape) => shape.lane(profile, flow),
        }
    }
}

impl Shape {
    fn lane(self, profile: &Profile, flow: u32) -> Lane {
        Lane {
            device: (flow % self.devices) as u16,
            queue: rss::queue_for(hash(profile, flow), self.queues),
        }
    }
}

fn hash(profile: &Profile, flow: u32) -> u32 {
    let (client, service) = (profile.client(flow), profile.service());
    match (client.ip(), service.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            rss::ipv4_ports(&rss::SYMMETRIC_KEY, from, to, client.port(), service.port())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            rss::ipv6_ports(&rss::SYMMETRIC_KEY, from, to, client.port(), service.port())
        }
        // A profile's clients are of the VIP's family.
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Wanted, sample};
    use std::collections::HashMap;

    #[test]
    fn flows_are_spread_over_all_devices_and_queues() {
        let profile = Profile::new(Wanted {
            flows: 8_000,
            ..sample()
        })
        .unwrap();
        let lanes = Lanes::new(&profile, 2, 4);
        let mut counts: HashMap<Lane, u32> = HashMap::new();
        for flow in 0..8_000 {
            *counts.entry(lanes.of(flow)).or_default() += 1;
        }
        assert_eq!(counts.len(), 8);
        assert!(
            counts.values().all(|count| (600..1_400).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_queue_is_the_one_that_the_nics_hash_leads_to() {
        let profile = Profile::new(sample()).unwrap();
        let lanes = Lanes::new(&profile, 1, 3);
        let client = profile.client(5);
        let IpAddr::V4(from) = client.ip() else {
            panic!("an IPv4 profile")
        };
        let hash = rss::ipv4_ports(
            &rss::SYMMETRIC_KEY,
            from,
            [198, 51, 100, 10].into(),
            client.port(),
            80,
        );
        assert_eq!(lanes.of(5).queue, rss::queue_for(hash, 3));
    }

    #[test]
    fn flows_that_come_and_go_have_the_lanes_of_those_that_stay() {
        let steady = Profile::new(sample()).unwrap();
        let coming = Profile::new(Wanted {
            mix: Mix::Churn { opens: 1, data: 1 },
            ..sample()
        })
        .unwrap();
        let (listed, hashed) = (Lanes::new(&steady, 2, 3), Lanes::new(&coming, 2, 3));
        assert!((0..100).all(|flow| listed.of(flow) == hashed.of(flow)));
    }
}
