//! What the ways to tunnels' backends take: told by routers between weir and a backend.
//!
//! Read first: RFC 2003 (section 5.1, tunnel MTU discovery), RFC 4459 (section 3.2), RFC 1191 and RFC
//! 8201 (sections 4 and 6.3: how long a path's MTU is believed).
//!
//! Outer packets must not be fragmented, so a router that cannot pass one on tells their source: weir.
//! The error says nothing to the client, whose packet it does not quote as the client knows it. weir
//! remembers the size for that backend's address, and answers the client's next packet that is too
//! large itself, as it does where a port's own MTU is in the way.
//!
//! An error is believed only if it quotes an outer header that weir writes to a backend of today, and
//! never so far that the least packets of a family no longer pass. What was told is forgotten after
//! ten minutes, so that a path that grew is used again.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weir_engine::wire::{ipv4, ipv6};

use super::neighbours::Nanos;
use crate::address::{Addr, Version};
use crate::forward::Mode;
use crate::icmp::HEADER_LEN;
use crate::icmp_family::plateau_below;
use crate::icmp_quote::{Message, is_intact};
use crate::service::Services;

const SECOND: Nanos = 1_000_000_000;
/// How long a path's MTU is believed (RFC 8201, section 4).
const BELIEVED: Nanos = 600 * SECOND;
/// Backends whose paths are remembered at most; they have to be in the pool, too.
const MOST: usize = 16_384;
/// Changes come in force at most this often, however many errors come.
const PAUSE: Nanos = SECOND / 20;

/// What an error says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The backend.
    pub to: IpAddr,
    /// The largest packet that passes, in bytes with its outer IP header.
    pub mtu: u16,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    mtu: u16,
    until: Nanos,
}

/// What is known of paths; see the module's text.
#[derive(Debug, Default)]
pub struct PathMtus {
    known: BTreeMap<IpAddr, Known>,
    changed: bool,
    /// When a change may next come in force.
    due: Nanos,
}

impl PathMtus {
    /// Hears what an error says. Says so where it is news.
    pub fn learn(&mut self, now: Nanos, told: Told) -> bool {
        let until = now + BELIEVED;
        let is_full = self.known.len() >= MOST;
        match self.known.get_mut(&told.to) {
            // Another path may take more; only time tells (RFC 1191, section 6.3).
            Some(known) if known.mtu < told.mtu => false,
            Some(known) if known.mtu == told.mtu => {
                known.until = until;
                false
            }
            None if is_full => false,
            _ => {
                let mtu = told.mtu;
                self.known.insert(told.to, Known { mtu, until });
                self.changed = true;
                true
            }
        }
    }

    /// What the way to a backend takes, if somebody told.
    #[must_use]
    pub fn get(&self, backend: IpAddr) -> Option<u16> {
        self.known.get(&backend).map(|known| known.mtu)
    }

    /// Forgets what is too old; whether changes are to come in force now.
    pub fn settle(&mut self, now: Nanos) -> bool {
        let before = self.known.len();
        if self.known.values().any(|known| known.until <= now) {
            self.known.retain(|_, known| known.until > now);
        }
        self.changed |= self.known.len() != before;
        let settles = self.changed && self.due <= now;
        if settles {
            self.changed = false;
            self.due = now + PAUSE;
        }
        settles
    }

    /// When something is due next.
    #[must_use]
    pub fn next_due(&self) -> Option<Nanos> {
        let oldest = self.known.values().map(|known| known.until).min();
        oldest
            .into_iter()
            .chain(self.changed.then_some(self.due))
            .min()
    }
}

/// Reads an ICMP error about the size of an outer packet of ours; `packet` is the IP packet.
#[must_use]
pub fn read(packet: &[u8], services: &Services) -> Option<Told> {
    let (version, icmp_at, end) = match packet.first()? >> 4 {
        4 => {
            let header = ipv4::Header(packet.first_chunk()?);
            let is_icmp = header.protocol() == weir_engine::wire::protocol::ICMP;
            let whole = (header.total_len() <= packet.len()).then_some(header.total_len());
            (Version::V4, is_icmp.then_some(header.header_len())?, whole?)
        }
        6 => {
            let header = ipv6::Header(packet.first_chunk()?);
            let end = ipv6::LEN + header.payload_len();
            let is_icmp = header.next_header() == weir_engine::wire::protocol::ICMPV6;
            (is_icmp && end <= packet.len()).then_some((Version::V6, ipv6::LEN, end))?
        }
        _ => return None,
    };
    let message = Message {
        version,
        network: 0,
        icmp: icmp_at as u16,
        end: end as u16,
    };
    let icmp = packet.get(icmp_at..end)?;
    let header: &[u8; HEADER_LEN] = icmp.first_chunk()?;
    let quoted = icmp.get(HEADER_LEN..)?;
    let told = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let mtu = match (version, header[0], header[1]) {
        (Version::V4, 3, 4) => match told as u16 {
            0 => plateau_below(u16::from_be_bytes([*quoted.get(2)?, *quoted.get(3)?])),
            mtu => mtu,
        },
        (Version::V6, 2, _) => u16::try_from(told).unwrap_or(u16::MAX),
        _ => return None,
    };
    if !is_intact(packet, &message, icmp) {
        return None;
    }
    let to = match version {
        Version::V4 => Addr::from_v4(*quoted.get(16..20)?.first_chunk()?),
        Version::V6 => Addr::from_v6(*quoted.get(24..40)?.first_chunk()?),
    };
    let is_ours = services.backends.iter().any(|backend| {
        backend.mode == Mode::Tunnel
            && backend.version == version
            && backend.address == to
            && services
                .outers
                .get(backend.outer as usize)
                .is_some_and(|outer| outer.wrote(quoted))
    });
    let to = to.to_ip(version);
    is_ours.then_some(Told { to, mtu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(mtu: u16) -> Told {
        let to = IpAddr::from([10, 0, 0, 11]);
        Told { to, mtu }
    }

    #[test]
    fn a_path_only_shrinks_until_it_is_forgotten() {
        let mut paths = PathMtus::default();
        assert!(paths.learn(0, told(1400)));
        assert!(!paths.learn(1, told(1450)));
        assert!(!paths.learn(2, told(1400)));
        assert!(paths.learn(3, told(1300)));
        assert_eq!(paths.get(told(0).to), Some(1300));
        assert!(paths.settle(4));
        assert!(!paths.settle(5), "nothing changed");
        assert_eq!(paths.next_due(), Some(3 + BELIEVED));
        assert!(paths.settle(3 + BELIEVED));
        assert_eq!((paths.get(told(0).to), paths.next_due()), (None, None));
    }

    #[test]
    fn many_changes_come_in_force_now_and_then() {
        let mut paths = PathMtus::default();
        let mut settled = 0;
        for step in 0..1_000u16 {
            let now = Nanos::from(step) * SECOND / 1_000;
            paths.learn(now, told(9_000 - step));
            settled += u32::from(paths.settle(now));
        }
        assert_eq!(settled, 20);
    }
}
