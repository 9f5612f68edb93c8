//! The control core's part of the ways to the kernel: what passes, in which form, and whom the
//! kernel talks to.
//!
//! Workers let frames through, each up to the port's whole rate; here the port's rate holds for all
//! of them together. Frames go to the kernel without the port's VLAN tag and come from it without
//! one: the interface is on that VLAN.

use std::net::IpAddr;
use std::sync::Arc;

use weir_engine::buffer::BufferSource;
use weir_engine::wire::ethernet::{MacAddr, TAG_LEN, ethertype};
use weir_shm::counters::{self, DropReason};

use super::{Control, Outgoing, link_local};
use crate::address::Version;
use crate::config::{Config, Port};
use crate::conntrack::Tick;
use crate::control::neighbours::Nanos;
use crate::endpoints::{Endpoint, Endpoints};
use crate::exception::bucket::Bucket;
use crate::exception::peers::Peers;
use crate::exception::{Gate, known_by, teaches};
use crate::parse::{self, Accepts, Parsed};
use crate::service::Services;

/// Where a frame's tag is, or its EtherType.
const TAG: usize = 12;
/// Bursts of several workers come together here, and late: so many times a worker's are taken.
const BURSTS: u64 = 4;
/// Copies of neighbours' answers a second: a link's flood of them is none of the kernel's.
const COPIES: u32 = 1_000;

/// A frame for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForKernel {
    /// The port that it came in by.
    pub port: u16,
    /// The frame as the kernel gets it.
    pub frame: Vec<u8>,
    /// Whether weir heard the frame, too, and counted it.
    copy: bool,
}

/// One port's way.
#[derive(Debug)]
struct Way {
    frames: Bucket,
    copies: Bucket,
    vlan: Option<u16>,
}

/// The ways to the kernel.
#[derive(Debug)]
pub(super) struct Ways {
    /// By the port's number.
    ways: Vec<Option<Way>>,
    peers: Arc<Peers>,
    outbox: Vec<ForKernel>,
}

impl Ways {
    pub(super) fn new(config: &Config) -> Self {
        let way = |port: &Port| {
            port.kernel.as_ref().map(|kernel| Way {
                frames: Bucket::deeper(kernel.rate, BURSTS),
                copies: Bucket::new(COPIES),
                vlan: port.vlan,
            })
        };
        Self {
            ways: config.ports.iter().map(way).collect(),
            peers: Arc::default(),
            outbox: Vec::new(),
        }
    }

    fn way(&mut self, port: u16) -> Option<&mut Way> {
        self.ways.get_mut(usize::from(port))?.as_mut()
    }

    fn push(&mut self, port: u16, vlan: Option<u16>, frame: &[u8], copy: bool) {
        self.outbox.push(ForKernel {
            port,
            frame: without_tag(vlan, frame),
            copy,
        });
    }
}

impl<S: BufferSource> Control<S> {
    /// A worker's gate; `None` where no port has a way to the kernel.
    #[must_use]
    pub fn gate(&self) -> Option<Gate> {
        let ports = &self.config.ports;
        let rates: Vec<Option<u32>> = ports
            .iter()
            .map(|port| port.kernel.as_ref().map(|kernel| kernel.rate))
            .collect();
        let any = rates.iter().any(Option::is_some);
        any.then(|| Gate::new(&rates, Arc::clone(&self.ways.peers), self.hasher.clone()))
    }

    /// A worker let a frame through that came in by `port`.
    pub fn for_kernel(&mut self, now: Nanos, port: u16, expected: bool, frame: &[u8]) {
        let passes = self.ways.way(port).and_then(|way| {
            let passes = way.frames.take(Tick::from_nanos(now), expected);
            passes.then_some(way.vlan)
        });
        match passes {
            Some(vlan) => self.ways.push(port, vlan, frame, false),
            None => {
                let reason = DropReason::KernelRate;
                self.counters.add(counters::drop_index(reason), 1);
                if let Some(capture) = &self.capture {
                    capture.dropped(port, frame, reason);
                }
            }
        }
    }

    /// Lets the kernel have what resolves a neighbour, too; whether it gets it.
    pub(super) fn copy_to_kernel(&mut self, now: Nanos, port: u16, frame: &[u8]) -> bool {
        let Some(way) = self.ways.way(port) else {
            return false;
        };
        let (vlan, passes) = (way.vlan, way.copies.take(Tick::from_nanos(now), true));
        if passes {
            self.ways.push(port, vlan, frame, true);
        }
        passes
    }

    /// Frames for the kernel, in order. Each is to be followed by [`Control::kernel_has`].
    pub fn take_for_kernel(&mut self) -> Vec<ForKernel> {
        std::mem::take(&mut self.ways.outbox)
    }

    /// The kernel took a frame, or did not.
    pub fn kernel_has(&mut self, frame: &ForKernel, taken: bool) {
        let of_frame = if taken {
            counters::ANSWERED
        } else {
            counters::drop_index(DropReason::KernelRefused)
        };
        if taken {
            self.counters.add(counters::TO_KERNEL, 1);
        }
        if !frame.copy {
            self.counters.add(of_frame, 1);
        }
    }

    /// The kernel sent a frame by the interface of `port`: it leaves by the port.
    pub fn from_kernel(&mut self, now: Nanos, port: u16, frame: &[u8]) {
        let Some(way) = self.ways.way(port) else {
            return;
        };
        let tagged = with_tag(way.vlan, frame);
        let any = Accepts {
            mac: None,
            vlan: None,
            groups: false,
        };
        if let Ok(Parsed::Transport(packet) | Parsed::Portless(packet)) = parse::general(frame, any)
            && let Some(expected) = teaches(&packet)
        {
            let (hash, kind) = known_by(&self.hasher, &expected);
            self.ways.peers.expect(hash, kind, Tick::from_nanos(now));
        }
        // Without a buffer the frame is lost, as on a wire.
        if let Some(frame) = self.source.copy_from(&tagged) {
            self.counters.add(counters::FROM_KERNEL, 1);
            self.outbox.push(Outgoing {
                port,
                frame,
                balanced: false,
            });
        }
    }
}

/// What the interface of a port has for addresses: the port's, and the link-local one that goes
/// with its MAC where it speaks IPv6.
#[must_use]
pub fn interface_addresses(port: &Port, mac: MacAddr) -> Vec<(IpAddr, u8)> {
    let networks = port.addresses.iter();
    let mut addresses: Vec<(IpAddr, u8)> = networks
        .map(|network| (network.address, network.prefix))
        .collect();
    if addresses.iter().any(|(address, _)| address.is_ipv6()) {
        addresses.push((link_local(mac).into(), 64));
    }
    addresses
}

/// The ports' own addresses, as far as no service has them for a VIP; none where no port has a way
/// to the kernel.
pub(super) fn shared_addresses(config: &Config, services: &Services, own: &[IpAddr]) -> Endpoints {
    if config.ports.iter().all(|port| port.kernel.is_none()) {
        return Endpoints::new(&[]);
    }
    let shared: Vec<(Endpoint, u32)> = own
        .iter()
        .map(|address| (Version::of(address), (*address).into()))
        .filter(|(version, address)| services.is_own(*version, *address))
        .map(|(version, address)| (Endpoint::address(version, address), 0))
        .collect();
    Endpoints::new(&shared)
}

/// The frame without the tag of the port's VLAN, which it came in with.
fn without_tag(vlan: Option<u16>, frame: &[u8]) -> Vec<u8> {
    match (vlan, frame.get(..TAG), frame.get(TAG + TAG_LEN..)) {
        (Some(_), Some(addresses), Some(rest)) => [addresses, rest].concat(),
        _ => frame.to_vec(),
    }
}

/// The frame with the tag of the port's VLAN.
fn with_tag(vlan: Option<u16>, frame: &[u8]) -> Vec<u8> {
    match (vlan, frame.split_at_checked(TAG)) {
        (Some(vlan), Some((addresses, rest))) => {
            let [a, b] = ethertype::VLAN.to_be_bytes();
            let [c, d] = vlan.to_be_bytes();
            [addresses, &[a, b, c, d], rest].concat()
        }
        _ => frame.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_interface_is_on_the_ports_vlan() {
        let plain: Vec<u8> = (0..60).collect();
        let tagged = with_tag(Some(100), &plain);
        assert_eq!(tagged[12..16], [0x81, 0, 0, 100]);
        assert_eq!(without_tag(Some(100), &tagged), plain);
        assert_eq!(with_tag(None, &plain), plain);
        assert_eq!(without_tag(None, &tagged), tagged);
    }
}
