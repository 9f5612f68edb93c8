//! Stage 2: whose packet it is, and which flow.

use weir_shm::counters::DropReason;

use super::lane::{Lane, Verdict};
use crate::conntrack::Conntrack;
use crate::control::health::PORTS as CHECK_PORTS;
use crate::flow::FlowHasher;
use crate::parse::Packet;
use crate::service::{Owner, Services};

/// Hot: finds each packet's service, hashes its flow, and asks for its conntrack line.
#[inline(always)]
pub fn all(services: &Services, hasher: &FlowHasher, conntrack: &Conntrack, lanes: &mut [Lane]) {
    for lane in lanes {
        match lane.verdict {
            Verdict::Forward => one(services, hasher, conntrack, lane),
            Verdict::Steered
            | Verdict::Return
            | Verdict::Reset
            | Verdict::Icmp
            | Verdict::Piece
            | Verdict::Punt
            | Verdict::Drop(_) => {}
        }
    }
}

#[inline(always)]
fn one(services: &Services, hasher: &FlowHasher, conntrack: &Conntrack, lane: &mut Lane) {
    match services.owner(&lane.packet) {
        Owner::Forward(service) => {
            lane.service = service;
            lane.hash = hasher.packet(&lane.packet);
            conntrack.prefetch(lane.hash);
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
/// or nothing.
#[cold]
fn to_ourselves(services: &Services, packet: &Packet) -> Verdict {
    if CHECK_PORTS.contains(&packet.destination_port())
        && services.is_own(packet.version, packet.destination)
    {
        Verdict::Punt
    } else {
        Verdict::Drop(DropReason::NoService)
    }
}
