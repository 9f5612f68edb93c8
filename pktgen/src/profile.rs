//! What to send: the checked description of a run's traffic, and the flows that it consists of.

mod error;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weir_engine::wire::{ethernet, tcp, udp};

pub use self::error::ProfileError;

use crate::frame;
use crate::pace::Pace;
use crate::popularity::Popularity;
use crate::random::mix;
use crate::range::AddressRange;
use crate::schedule::{Mix, Schedule};
use crate::size::{FCS, MAX, Sizes};

/// The first source port used.
const FIRST_PORT: u16 = 1024;
/// Source ports a client address has.
const PORTS: u64 = 65_536 - FIRST_PORT as u64;

/// Transport of the traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// A SYN, data segments, and a FIN after `packets_per_flow` packets.
    Tcp,
}

impl Protocol {
    /// The name on the command line and in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }

    const fn header_len(self) -> usize {
        match self {
            Self::Udp => udp::LEN,
            Self::Tcp => tcp::LEN,
        }
    }
}

/// What the two ends remember of a run's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// Every flow by itself: duplicates, order and moves are told, for memory that grows with the
    /// number of flows.
    Flows,
    /// The last packets of the run, whatever their flow: loss, duplicates and latency are told, in
    /// memory that does not grow. Stamps number the run's packets, not the flow's.
    Packets,
}

/// What was asked for, as it was asked for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Destination address.
    pub vip: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// Source addresses; by default 198.18.0.0/16 (RFC 2544) or 2001:2::/48 (RFC 5180).
    pub clients: Option<AddressRange>,
    /// Number of flows.
    pub flows: u32,
    /// How packets are shared among them.
    pub popularity: Popularity,
    /// Frame sizes, FCS and tag included; by default the smallest that headers and stamp allow.
    pub sizes: Option<Sizes>,
    /// Packets of a TCP connection, SYN and FIN included; 0 for connections that never end.
    pub packets_per_flow: u32,
    /// Packets a second; 0 for as fast as possible.
    pub rate: u64,
    /// Stop after this many packets.
    pub count: Option<u64>,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// Seed of everything random.
    pub seed: u64,
    /// VLAN identifier of the frames' tag.
    pub vlan: Option<u16>,
    /// How flows come and go.
    pub mix: Mix,
    /// What is remembered of them.
    pub tracking: Tracking,
}

/// Traffic that can be sent: every field is known to fit the others.
#[derive(Debug, Clone)]
pub struct Profile {
    wanted: Wanted,
    clients: AddressRange,
    sizes: Sizes,
}

impl Profile {
    /// Checks `wanted` and fills in what follows from it.
    ///
    /// # Errors
    /// The first thing that does not fit, and what would.
    pub fn new(wanted: Wanted) -> Result<Self, ProfileError> {
        let clients = wanted
            .clients
            .map_or_else(|| default_clients(wanted.vip), Some);
        let clients = clients.unwrap_or_else(|| AddressRange::single(wanted.vip));
        if clients.is_ipv6() != wanted.vip.is_ipv6() {
            return Err(ProfileError::MixedFamilies {
                clients,
                vip: wanted.vip,
            });
        }
        if wanted.flows == 0 {
            return Err(ProfileError::NoFlows);
        }
        if u64::from(wanted.flows) > all_flows(clients) {
            return Err(ProfileError::TooManyFlows {
                flows: wanted.flows,
                clients: clients.count(),
            });
        }
        match (wanted.protocol, wanted.packets_per_flow) {
            (Protocol::Tcp, 1) => return Err(ProfileError::ConnectionTooShort),
            (Protocol::Udp, ends @ 1..) => return Err(ProfileError::UdpHasNoEnd(ends)),
            _ => {}
        }
        check_mix(&wanted, clients)?;
        if let Some(vlan) = wanted.vlan.filter(|vlan| !(1..=4094).contains(vlan)) {
            return Err(ProfileError::BadVlan(vlan));
        }
        let needed = smallest_size(&wanted);
        let sizes = match &wanted.sizes {
            None => Sizes::fixed(needed),
            Some(sizes) => sizes.clone().lifted(needed),
        };
        if sizes.smallest() < needed {
            let stack = stack_name(&wanted);
            return Err(ProfileError::FrameTooSmall {
                found: sizes.smallest(),
                stack,
                needed,
            });
        }
        if sizes.largest() > MAX - ethernet::TAG_LEN as u16 && wanted.vlan.is_none() {
            return Err(ProfileError::FrameTooLarge {
                found: sizes.largest(),
            });
        }
        Ok(Self {
            wanted,
            clients,
            sizes,
        })
    }

    /// What was asked for.
    #[must_use]
    pub const fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// The client addresses.
    #[must_use]
    pub const fn clients(&self) -> AddressRange {
        self.clients
    }

    /// The frame sizes, FCS included.
    #[must_use]
    pub const fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// Bytes of headers and stamp, without FCS.
    #[must_use]
    pub const fn shortest(&self) -> usize {
        shortest(&self.wanted)
    }

    /// Packets a second; 0 for as fast as possible.
    #[must_use]
    pub const fn rate(&self) -> u64 {
        match self.wanted.mix.rate() {
            Some(rate) => rate,
            None => self.wanted.rate,
        }
    }

    /// When each packet is due.
    #[must_use]
    pub const fn pace(&self) -> Pace {
        Pace::new(self.rate())
    }

    /// The same traffic with another rate and another end.
    #[must_use]
    pub fn at(&self, rate: u64, count: Option<u64>, duration: Option<Duration>) -> Self {
        let mut other = self.clone();
        other.wanted.rate = rate;
        other.wanted.count = count;
        other.wanted.duration = duration;
        other
    }

    /// Which flow each packet belongs to, and what it does there.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let Wanted {
            mix,
            popularity,
            flows,
            ..
        } = self.wanted;
        Schedule::new(mix, popularity, flows, self.universe())
    }

    /// How many flow numbers are used before the first is used again.
    #[must_use]
    pub fn universe(&self) -> u32 {
        let all = all_flows(self.clients).min(u64::from(u32::MAX));
        // Whole rounds of the places in which flows are remembered.
        (all - all % u64::from(self.places()).max(1)) as u32
    }

    /// In how many places flows that come and go are remembered: those that live, and as many that
    /// have just closed and whose last answers may be on their way.
    #[must_use]
    pub const fn places(&self) -> u32 {
        match self.wanted.mix {
            Mix::Churn { .. } => self.wanted.flows.saturating_add(1).saturating_mul(2),
            Mix::Steady | Mix::Renewed { .. } => 0,
        }
    }

    /// How many packets to send, if that is known: `count`, or what rate and duration give.
    #[must_use]
    pub fn packets(&self) -> Option<u64> {
        let by_time = match (self.wanted.duration, self.rate()) {
            (Some(duration), 1..) => Some(self.pace().due(duration.as_nanos() as u64)),
            _ => None,
        };
        match (self.wanted.count, by_time) {
            (Some(count), Some(by_time)) => Some(count.min(by_time)),
            (count, by_time) => count.or(by_time),
        }
    }

    /// A flow's client: every address in turn, each with its own order of ports.
    #[inline]
    #[must_use]
    pub fn client(&self, flow: u32) -> SocketAddr {
        let flow = u64::from(flow);
        let (host, round) = (flow % self.clients.count(), flow / self.clients.count());
        let port = (mix(host ^ self.wanted.seed) % PORTS + round) % PORTS;
        SocketAddr::new(self.clients.nth(host), FIRST_PORT + port as u16)
    }

    /// The VIP with its port.
    #[must_use]
    pub const fn service(&self) -> SocketAddr {
        SocketAddr::new(self.wanted.vip, self.wanted.port)
    }

    /// Which of a flow's TCP connections a sequence number belongs to; 0 where flows do not end.
    #[inline]
    #[must_use]
    pub const fn connection(&self, sequence: u32) -> u32 {
        match sequence.checked_div(self.wanted.packets_per_flow) {
            Some(connection) => connection,
            None => 0,
        }
    }
}

/// Flows that `clients` can have.
fn all_flows(clients: AddressRange) -> u64 {
    clients.count().saturating_mul(PORTS)
}

/// Whether flows can come and go as `wanted` says.
fn check_mix(wanted: &Wanted, clients: AddressRange) -> Result<(), ProfileError> {
    match (wanted.mix, wanted.tracking) {
        (Mix::Steady, _) => return Ok(()),
        (Mix::Renewed { .. }, Tracking::Flows) => return Err(ProfileError::RenewedFollowed),
        (Mix::Churn { opens: 0, .. }, _) => return Err(ProfileError::NoOpens),
        (Mix::Renewed { .. } | Mix::Churn { .. }, _) => {}
    }
    let most = all_flows(clients).min(u64::from(u32::MAX));
    if (u64::from(wanted.flows) + 1) * 2 > most {
        return Err(ProfileError::TooManyComing {
            flows: wanted.flows,
            clients: clients.count(),
        });
    }
    Ok(())
}

fn default_clients(vip: IpAddr) -> Option<AddressRange> {
    if vip.is_ipv4() {
        "198.18.0.0/16"
    } else {
        "2001:2::/48"
    }
    .parse()
    .ok()
}

/// Bytes of headers and stamp, without FCS.
const fn shortest(wanted: &Wanted) -> usize {
    let link = ethernet::LEN
        + if wanted.vlan.is_some() {
            ethernet::TAG_LEN
        } else {
            0
        };
    frame::shortest(link, wanted.vip.is_ipv6(), wanted.protocol.header_len())
}

/// The smallest frame size, FCS included, that holds headers and stamp.
fn smallest_size(wanted: &Wanted) -> u16 {
    (shortest(wanted).max(ethernet::MIN_FRAME) as u16) + FCS
}

fn stack_name(wanted: &Wanted) -> String {
    let vlan = if wanted.vlan.is_some() {
        " with a VLAN tag"
    } else {
        ""
    };
    let ip = if wanted.vip.is_ipv6() { "IPv6" } else { "IPv4" };
    format!("{} over {ip}{vlan}", wanted.protocol.name().to_uppercase())
}

/// A profile for tests: UDP over IPv4, 100 flows, a million packets a second.
#[cfg(test)]
pub(crate) fn sample() -> Wanted {
    Wanted {
        vip: IpAddr::from([198, 51, 100, 10]),
        port: 80,
        protocol: Protocol::Udp,
        clients: None,
        flows: 100,
        popularity: Popularity::Uniform,
        sizes: None,
        packets_per_flow: 0,
        rate: 1_000_000,
        count: None,
        duration: None,
        seed: 1,
        vlan: None,
        mix: Mix::Steady,
        tracking: Tracking::Flows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn smallest(vip: &str, protocol: Protocol, vlan: Option<u16>) -> u16 {
        let wanted = Wanted {
            vip: vip.parse().unwrap(),
            protocol,
            vlan,
            ..sample()
        };
        let smallest = Profile::new(wanted.clone()).unwrap().sizes().smallest();
        for (size, fits) in [(smallest, true), (smallest - 1, false)] {
            if size >= 64 {
                let wanted = Wanted {
                    sizes: Some(Sizes::fixed(size)),
                    ..wanted.clone()
                };
                assert_eq!(Profile::new(wanted).is_ok(), fits, "{size}");
            }
        }
        smallest
    }

    #[test]
    fn the_smallest_frame_follows_from_the_headers() {
        use Protocol::{Tcp, Udp};
        assert_eq!(smallest("192.0.2.1", Udp, None), 64);
        assert_eq!(smallest("192.0.2.1", Udp, Some(5)), 68);
        assert_eq!(smallest("192.0.2.1", Tcp, None), 76);
        assert_eq!(smallest("2001:db8::1", Udp, None), 84);
        assert_eq!(smallest("2001:db8::1", Tcp, None), 96);
        assert_eq!(smallest("2001:db8::1", Tcp, Some(5)), 100);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_remedy() {
        let refusals: [(Wanted, &str); 7] = [
            (
                Wanted {
                    sizes: Some(Sizes::fixed(1519)),
                    ..sample()
                },
                "frame size 1519 is too large",
            ),
            (
                Wanted {
                    protocol: Protocol::Tcp,
                    sizes: Some(Sizes::fixed(64)),
                    ..sample()
                },
                "frame size 64 is too small: TCP over IPv4 and the 18-byte stamp need at least 76 bytes, FCS included",
            ),
            (
                Wanted {
                    clients: Some("2001:2::/64".parse().unwrap()),
                    ..sample()
                },
                "different address families",
            ),
            (
                Wanted {
                    clients: Some("192.0.2.1".parse().unwrap()),
                    flows: 64_513,
                    ..sample()
                },
                "give a larger --clients",
            ),
            (
                Wanted {
                    flows: 0,
                    ..sample()
                },
                "--flows 1 or more",
            ),
            (
                Wanted {
                    packets_per_flow: 5,
                    ..sample()
                },
                "needs --protocol tcp",
            ),
            (
                Wanted {
                    vlan: Some(4095),
                    ..sample()
                },
                "1 to 4094",
            ),
        ];
        for (wanted, words) in refusals {
            let message = Profile::new(wanted).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn every_flow_has_its_own_address_and_port() {
        let wanted = Wanted {
            clients: Some("10.0.0.0/30".parse().unwrap()),
            flows: 129_024,
            ..sample()
        };
        let profile = Profile::new(wanted).unwrap();
        let tuples: HashSet<SocketAddr> = (0..129_024).map(|flow| profile.client(flow)).collect();
        assert_eq!(tuples.len(), 129_024);
        assert!(tuples.iter().all(|tuple| tuple.port() >= FIRST_PORT));
    }

    #[test]
    fn the_number_of_packets_is_the_smaller_of_count_and_time() {
        let two = Some(Duration::from_secs(2));
        let packets = |count, duration, rate| {
            Profile::new(Wanted {
                count,
                duration,
                rate,
                ..sample()
            })
            .unwrap()
            .packets()
        };
        assert_eq!(packets(None, None, 10), None);
        assert_eq!(packets(None, two, 0), None);
        assert_eq!(packets(None, two, 10), Some(20));
        assert_eq!(packets(Some(5), two, 10), Some(5));
        assert_eq!(packets(Some(50), two, 10), Some(20));
    }
}
