//! Stage 2: whose packet it is, and which flow.

use weir_shm::counters::DropReason;

use super::lane::{Lane, Verdict};
use crate::conntrack::Conntrack;
use crate::flow::FlowHasher;
use crate::parse::Packet;
use crate::service::{Owner, Services};

/// Hot: finds each packet's service, hashes its flow, and asks for its conntrack line.
#[inline(always)]
pub fn all(services: &Services, hasher: &FlowHasher, conntrack: &Conntrack, lanes: &mut [Lane]) {
    for lane in lanes {
        if lane.verdict == Verdict::Forward
            && let Some(service) = services.exact(&lane.packet)
        {
            known(service, hasher, conntrack, lane);
        } else {
            other(services, hasher, conntrack, lane);
        }
    }
}

/// A packet whose service is known.
#[inline(always)]
fn known(service: u32, hasher: &FlowHasher, conntrack: &Conntrack, lane: &mut Lane) {
    lane.service = service;
    lane.hash = hasher.packet(&lane.packet);
    conntrack.prefetch(lane.hash);
}

/// What goes to no VIP's exact port.
#[inline(never)]
fn other(services: &Services, hasher: &FlowHasher, conntrack: &Conntrack, lane: &mut Lane) {
    match lane.verdict {
        Verdict::Forward => {}
        Verdict::Portless => return portless(services, hasher, conntrack, lane),
        _ => return,
    }
    match services.owner_of_other(&lane.packet) {
        Owner::Forward(service) => known(service, hasher, conntrack, lane),
        Owner::ForwardByAddress(service) => by_address(service, hasher, conntrack, lane),
        owner => settle(services, owner, lane),
    }
}

/// What becomes of a packet that is not to a service.
pub fn settle(services: &Services, owner: Owner, lane: &mut Lane) {
    match owner {
        Owner::Forward(service) | Owner::ForwardByAddress(service) => lane.service = service,
        Owner::Answer(address) => {
            lane.backend = address.into();
            lane.verdict = Verdict::Answer;
        }
        Owner::Return(backend) => {
            lane.backend = backend;
            lane.verdict = Verdict::Return;
        }
        Owner::NoService => lane.verdict = to_ourselves(services, &lane.packet),
        Owner::NotOurs => lane.verdict = Verdict::Drop(DropReason::NotOurs),
    }
}

/// A packet to an address of ours that is no service's: an answer to a health check, by its port,
/// or the kernel's, or nothing.
#[cold]
fn to_ourselves(services: &Services, packet: &Packet) -> Verdict {
    let (version, destination) = (packet.version, packet.destination);
    if packet.destination_port() >= services.checks_from && services.is_own(version, destination) {
        Verdict::Punt
    } else if services.is_kernels(version, destination) {
        Verdict::Ours(DropReason::NoService)
    } else {
        Verdict::Drop(DropReason::NoService)
    }
}

/// A packet to a service that tells flows by their addresses alone. TCP's flags say nothing there:
/// what ends is one connection, not all that two addresses have to say to each other.
#[cold]
fn by_address(service: u32, hasher: &FlowHasher, conntrack: &Conntrack, lane: &mut Lane) {
    lane.service = service;
    lane.hash = hasher.addresses(&lane.packet);
    lane.packet.tcp_flags = 0;
    conntrack.prefetch(lane.hash);
}

/// A packet without ports: to a service for any protocol, or from a backend of one.
#[cold]
fn portless(services: &Services, hasher: &FlowHasher, conntrack: &Conntrack, lane: &mut Lane) {
    lane.verdict = Verdict::Forward;
    match services.owner(&lane.packet) {
        Owner::ForwardByAddress(service) => by_address(service, hasher, conntrack, lane),
        Owner::Return(backend) => {
            lane.backend = backend;
            lane.verdict = Verdict::Return;
        }
        Owner::NoService if services.is_kernels(lane.packet.version, lane.packet.destination) => {
            lane.verdict = Verdict::Ours(DropReason::UnknownProtocol);
        }
        Owner::Forward(_) | Owner::Answer(_) | Owner::NoService | Owner::NotOurs => {
            lane.verdict = Verdict::Drop(DropReason::UnknownProtocol);
        }
    }
}
