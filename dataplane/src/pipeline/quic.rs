//! Stage 3 for QUIC: the connection ID comes first.
//!
//! In this order, the draft's (section 4.2 of draft-ietf-quic-load-balancers): a connection ID that
//! names a backend which takes packets leads there, and its 4-tuple with it, in conntrack, so that
//! later packets without such an ID follow; everything else goes as UDP does, by conntrack and then
//! by the scheduler. Nothing is dropped for what its connection ID says.
//!
//! Packets of QUIC services are steered here whole, in their order, and leave by `quick` where nothing
//! about them is unusual; the common stage leaves them alone: a burst without QUIC services costs one
//! comparison.

use arrayvec::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::wire::{protocol, udp};

use super::BURST;
use super::choose::Chooser;
use super::lane::{Lane, Places, Verdict};
use super::quick::Quick;
use super::steer::Steering;
use crate::conntrack::{Conntrack, Tick};
use crate::parse::Packet;
use crate::quic::Burst;

/// Hot: steers the packets of QUIC services in a burst; those `apart` stay.
#[inline(never)]
pub fn all<B: Buffer>(
    now: Tick,
    conntrack: &mut Conntrack,
    chooser: &mut Chooser,
    apart: Places,
    quick: &mut Quick<'_>,
    burst: &mut [B],
    lanes: &mut [Lane],
) {
    let (services, counters) = (quick.services, quick.counters);
    // All are decoded before the first is looked up, while conntrack's lines come in.
    let mut ours: ArrayVec<(u8, Option<u32>), BURST> = ArrayVec::new();
    let mut sealed: Burst<'_, BURST> = Burst::new();
    for (place, (frame, lane)) in (0u8..).zip(burst.iter().zip(lanes.iter())) {
        if lane.verdict != Verdict::Forward || lane.packet.protocol != protocol::UDP {
            continue;
        }
        let service = services.get(lane.service);
        if let Some(quic) = service.and_then(|service| service.quic.as_deref()) {
            let index = ours.len() as u8;
            let named = sealed.read(index, quic, datagram(frame.data(), &lane.packet));
            // Never full: a burst has no more packets than this has room.
            let _ = ours.try_push((place, named));
        }
    }
    sealed.open(|index, number| {
        if let Some((_, named)) = ours.get_mut(usize::from(index)) {
            *named = number;
        }
    });
    let mut steering = Steering::new(services, now, conntrack, chooser, counters);
    for (place, named) in ours {
        let stays = apart.has(place.into());
        let place = usize::from(place);
        let (Some(lane), Some(frame)) = (lanes.get_mut(place), burst.get_mut(place)) else {
            continue;
        };
        let named = named.filter(|number| services.keeps(lane.service, *number).is_some());
        let chosen = match named {
            Some(number) => {
                steering.pin(lane, number);
                Verdict::Named
            }
            None => {
                steering.one(lane, frame.data());
                Verdict::Steered
            }
        };
        if lane.verdict != Verdict::Forward {
            continue;
        }
        lane.verdict = chosen;
        if let Some(backend) = services.backends.get(lane.backend as usize)
            && !stays
        {
            quick.forward(frame, lane, backend);
        }
    }
}

/// The payload of a UDP datagram whose headers were checked.
#[inline]
pub(super) fn datagram<'a>(frame: &'a [u8], packet: &Packet) -> &'a [u8] {
    let behind = frame
        .get(usize::from(packet.transport)..)
        .unwrap_or_default();
    let Some((header, rest)) = behind.split_first_chunk::<{ udp::LEN }>() else {
        return &[];
    };
    let length = udp::Header(header).length().saturating_sub(udp::LEN);
    rest.get(..length).unwrap_or(rest)
}
