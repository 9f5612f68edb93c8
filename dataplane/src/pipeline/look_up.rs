//! Stage 2: whose packet it is, and which flow.

use weir_shm::counters::DropReason;

use super::lane::{Lane, Verdict};
use crate::conntrack::Conntrack;
use crate::flow::FlowHasher;
use crate::service::{Owner, Services};

/// Hot: finds each packet's service, hashes its flow, and asks for its conntrack line.
#[inline(always)]
pub fn all(services: &Services, hasher: &FlowHasher, conntrack: &Conntrack, lanes: &mut [Lane]) {
    for lane in lanes {
        match lane.verdict {
            Verdict::Forward => one(services, hasher, conntrack, lane),
            Verdict::Steered
            | Verdict::Return
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
        Owner::NoService => lane.verdict = Verdict::Drop(DropReason::NoService),
        Owner::NotOurs => lane.verdict = Verdict::Drop(DropReason::NotOurs),
    }
}
