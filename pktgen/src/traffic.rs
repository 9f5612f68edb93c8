//! The packets of a profile, one after the other, each with its place in its flow.
//!
//! There is one sequence of packets for a profile and a seed, whoever sends it. Several lanes
//! (threads, queues) each walk the whole sequence and send the packets of their own flows: together
//! they send exactly what one lane would, no state is shared, and a flow never changes lane.

use weir_engine::wire::tcp::flags;

use crate::frame::{Link, Segment, Transport, WriteError};
use crate::profile::{Profile, Protocol, Tracking};
use crate::random::{Random, mix};
use crate::schedule::{Act, Schedule, Step};
use crate::size::FCS;
use crate::stamp::{self, Kind, Stamp};

/// The server's initial sequence number that answers a client's. Generator and reflector agree on
/// it, so that acknowledgements look right though nobody waits for the handshake.
#[inline]
#[must_use]
pub const fn server_isn(client_isn: u32) -> u32 {
    mix(client_isn as u64) as u32
}

/// A packet to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Its place in the whole sequence, from 0.
    pub index: u64,
    /// Its flow.
    pub flow: u32,
    /// Its place in its flow, from 0.
    pub sequence: u32,
    /// Bytes of its frame without FCS.
    pub len: usize,
    /// Its transport header.
    pub transport: Transport,
}

/// How far a flow has come.
#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    /// Sequence number of its next packet.
    next: u32,
    /// Payload bytes sent in the present connection.
    bytes: u32,
}

/// What is remembered of flows.
#[derive(Debug, Clone)]
enum Memory {
    /// Each of the profile's flows.
    Flows(Vec<Sent>),
    /// Those that live and those that have just closed, each at its number modulo the places.
    Places(Vec<(u32, Sent)>),
    /// Nothing.
    Nothing,
}

/// No flow has this number.
const NO_FLOW: u32 = u32::MAX;

/// The sequence of packets.
#[derive(Debug, Clone)]
pub struct Traffic {
    profile: Profile,
    random: Random,
    schedule: Schedule,
    memory: Memory,
    index: u64,
    /// Flows opened and closed by the schedule.
    opened: u64,
    closed: u64,
    tag: u16,
}

impl Traffic {
    /// The sequence that belongs to `profile`; stamps carry `tag`, which tells runs apart.
    #[must_use]
    pub fn new(profile: Profile, tag: u16) -> Self {
        let wanted = profile.wanted();
        let memory = match (wanted.tracking, profile.places()) {
            (Tracking::Packets, _) => Memory::Nothing,
            (Tracking::Flows, 0) => Memory::Flows(vec![Sent::default(); wanted.flows as usize]),
            (Tracking::Flows, places) => {
                Memory::Places(vec![(NO_FLOW, Sent::default()); places as usize])
            }
        };
        Self {
            random: Random::new(wanted.seed),
            schedule: profile.schedule(),
            memory,
            index: 0,
            opened: 0,
            closed: 0,
            tag,
            profile,
        }
    }

    /// The profile.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The tag of the stamps.
    #[must_use]
    pub const fn tag(&self) -> u16 {
        self.tag
    }

    /// How many packets of the sequence have been passed.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// How many packets `flow` has sent; 0 once it is forgotten. Without a memory of flows, as many
    /// as a number can say.
    #[inline]
    #[must_use]
    pub fn sent(&self, flow: u32) -> u32 {
        match &self.memory {
            Memory::Flows(flows) => flows.get(flow as usize).map_or(0, |sent| sent.next),
            Memory::Places(places) => match places.get(flow as usize % places.len().max(1)) {
                Some((owner, sent)) if *owner == flow => sent.next,
                _ => 0,
            },
            Memory::Nothing => u32::MAX,
        }
    }

    /// How many flows have sent something, as far as that is remembered.
    #[must_use]
    pub fn opened(&self) -> u64 {
        match &self.memory {
            Memory::Flows(flows) => flows.iter().filter(|sent| sent.next > 0).count() as u64,
            Memory::Places(_) | Memory::Nothing => self.opened,
        }
    }

    /// How many connections have sent their last packet; 0 where they end by their length.
    #[must_use]
    pub const fn closed(&self) -> u64 {
        self.closed
    }

    /// Passes the sequence's next packet, and gives it if `mine` claims its flow.
    #[inline]
    pub fn next(&mut self, mine: impl Fn(u32) -> bool) -> Option<Planned> {
        let Step { flow, act } = self.schedule.next(&mut self.random);
        let size = self.profile.sizes().draw(&mut self.random);
        let index = self.index;
        self.index += 1;
        if !mine(flow) {
            return None;
        }
        match act {
            Act::Open => self.opened += 1,
            Act::Close => self.closed += 1,
            Act::Data => {}
        }
        let len = usize::from(size - FCS);
        let tcp = self.profile.wanted().protocol == Protocol::Tcp;
        // Everything after the headers; the profile has checked that they fit.
        let payload = (len + stamp::LEN - self.profile.shortest()) as u32;
        let (sequence, transport) = match self.memory.of(flow, act) {
            Some(sent) => {
                let sequence = sent.next;
                sent.next = sequence.wrapping_add(1);
                let transport = if tcp {
                    segment(&self.profile, flow, sequence, act, payload, sent)
                } else {
                    Transport::Udp
                };
                (sequence, transport)
            }
            None if tcp => (
                index as u32,
                segment_of_stranger(&self.profile, flow, act, payload),
            ),
            None => (index as u32, Transport::Udp),
        };
        Some(Planned {
            index,
            flow,
            sequence,
            len,
            transport,
        })
    }

    /// Writes a planned packet over all of `frame`, whose length is `planned.len`.
    ///
    /// # Errors
    /// When `frame` is shorter than the headers.
    #[inline]
    pub fn write(
        &self,
        planned: &Planned,
        link: &Link,
        time: u64,
        frame: &mut [u8],
    ) -> Result<(), WriteError> {
        let stamp = Stamp {
            kind: Kind::Request,
            flow: planned.flow,
            sequence: planned.sequence,
            tag: self.tag,
            time,
        };
        let segment = Segment {
            source: self.profile.client(planned.flow),
            destination: self.profile.service(),
            transport: planned.transport,
            stamp,
        };
        segment.write(link, frame)
    }
}

impl Memory {
    /// What is known of `flow`, all of it forgotten if it is opened now.
    #[inline]
    fn of(&mut self, flow: u32, act: Act) -> Option<&mut Sent> {
        match self {
            Self::Flows(flows) => flows.get_mut(flow as usize),
            Self::Places(places) => {
                let place = flow as usize % places.len().max(1);
                let (owner, sent) = places.get_mut(place)?;
                if act == Act::Open {
                    (*owner, *sent) = (flow, Sent::default());
                }
                Some(sent)
            }
            Self::Nothing => None,
        }
    }
}

/// A connection's initial sequence number.
#[inline]
fn isn(profile: &Profile, flow: u32, connection: u32) -> u32 {
    mix(profile.wanted().seed ^ (u64::from(flow) << 32 | u64::from(connection))) as u32
}

/// The TCP header of packet `sequence` of `flow`, which carries `payload` bytes; `sent` counts them.
fn segment(
    profile: &Profile,
    flow: u32,
    sequence: u32,
    act: Act,
    payload: u32,
    sent: &mut Sent,
) -> Transport {
    let ends = profile.wanted().packets_per_flow;
    let place = sequence.checked_rem(ends).unwrap_or(sequence);
    let isn = isn(profile, flow, profile.connection(sequence));
    if place == 0 {
        sent.bytes = payload;
        return Transport::Tcp {
            sequence: isn,
            acknowledgement: 0,
            flags: flags::SYN,
        };
    }
    let offset = sent.bytes.wrapping_add(1);
    sent.bytes = sent.bytes.wrapping_add(payload);
    let last = place + 1 == ends || act == Act::Close;
    Transport::Tcp {
        sequence: isn.wrapping_add(offset),
        acknowledgement: server_isn(isn).wrapping_add(offset),
        flags: flags::ACK | if last { flags::FIN } else { flags::PSH },
    }
}

/// The TCP header of a packet whose flow nobody follows: a SYN if it opens, otherwise the segment
/// after the SYN, again and again.
fn segment_of_stranger(profile: &Profile, flow: u32, act: Act, payload: u32) -> Transport {
    let isn = isn(profile, flow, 0);
    if act == Act::Open {
        return Transport::Tcp {
            sequence: isn,
            acknowledgement: 0,
            flags: flags::SYN,
        };
    }
    let offset = payload.wrapping_add(1);
    Transport::Tcp {
        sequence: isn.wrapping_add(offset),
        acknowledgement: server_isn(isn).wrapping_add(offset),
        flags: flags::ACK | flags::PSH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::popularity::Popularity;
    use crate::profile::{Wanted, sample};
    use crate::schedule::Mix;
    use crate::size::Sizes;
    use proptest::prelude::*;

    fn traffic(wanted: Wanted) -> Traffic {
        Traffic::new(Profile::new(wanted).unwrap(), 7)
    }

    fn take(traffic: &mut Traffic, packets: usize) -> Vec<Planned> {
        (0..packets)
            .filter_map(|_| traffic.next(|_| true))
            .collect()
    }

    #[test]
    fn a_connection_is_a_syn_data_and_a_fin_with_numbers_that_follow() {
        let wanted = Wanted {
            protocol: Protocol::Tcp,
            flows: 1,
            packets_per_flow: 4,
            sizes: Some("100,200".parse().unwrap()),
            ..sample()
        };
        let packets = take(&mut traffic(wanted), 8);
        for connection in packets.chunks(4) {
            let numbers: Vec<(u32, u32, u8)> = connection
                .iter()
                .map(|packet| match packet.transport {
                    Transport::Tcp {
                        sequence,
                        acknowledgement,
                        flags,
                    } => (sequence, acknowledgement, flags),
                    Transport::Udp => panic!("UDP in a TCP profile"),
                })
                .collect();
            let seen: Vec<u8> = numbers.iter().map(|n| n.2).collect();
            assert_eq!(
                seen,
                [
                    flags::SYN,
                    flags::ACK | flags::PSH,
                    flags::ACK | flags::PSH,
                    flags::ACK | flags::FIN
                ]
            );
            let isn = numbers[0].0;
            let mut expected = isn.wrapping_add(1);
            for (index, packet) in connection.iter().enumerate() {
                if index > 0 {
                    assert_eq!(numbers[index].0, expected);
                    let server = server_isn(isn).wrapping_add(expected.wrapping_sub(isn));
                    assert_eq!(numbers[index].1, server);
                }
                expected = expected.wrapping_add((packet.len - 54) as u32);
            }
        }
        assert_ne!(
            packets[0].transport, packets[4].transport,
            "connections start at numbers of their own"
        );
    }

    #[test]
    fn sequence_numbers_of_a_flow_count_from_zero() {
        let mut traffic = traffic(Wanted {
            popularity: Popularity::Zipf(1.0),
            ..sample()
        });
        let mut next = vec![0; 100];
        for packet in take(&mut traffic, 5_000) {
            assert_eq!(packet.sequence, next[packet.flow as usize]);
            next[packet.flow as usize] += 1;
        }
        assert_eq!(
            (0..100).map(|flow| traffic.sent(flow)).collect::<Vec<_>>(),
            next
        );
    }

    proptest! {
        /// The law that lets threads share a run without sharing memory.
        #[test]
        fn lanes_together_send_what_one_lane_would(lanes in 1u32..5, seed: u64, tcp: bool, zipf: bool) {
            let wanted = Wanted {
                seed,
                protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
                packets_per_flow: if tcp { 5 } else { 0 },
                popularity: if zipf { Popularity::Zipf(1.1) } else { Popularity::Uniform },
                sizes: Some(Sizes::imix()),
                flows: 20,
                ..sample()
            };
            let whole = take(&mut traffic(wanted.clone()), 500);
            let mut parts = Vec::new();
            for lane in 0..lanes {
                let mut traffic = traffic(wanted.clone());
                parts.extend((0..500).filter_map(|_| traffic.next(|flow| flow % lanes == lane)));
            }
            parts.sort_by_key(|packet| packet.index);
            prop_assert_eq!(parts, whole);
        }

        #[test]
        fn the_same_seed_gives_the_same_frames_and_another_does_not(seed: u64) {
            let frames = |seed| {
                let mut traffic = traffic(Wanted { seed, ..sample() });
                let link = Link { destination: Default::default(), source: Default::default(), vlan: None };
                take(&mut traffic, 50).iter().map(|planned| {
                    let mut frame = vec![0; planned.len];
                    traffic.write(planned, &link, planned.index, &mut frame).unwrap();
                    frame
                }).collect::<Vec<_>>()
            };
            prop_assert_eq!(frames(seed), frames(seed));
            prop_assert_ne!(frames(seed), frames(seed.wrapping_add(1)));
        }
    }

    #[test]
    fn a_connection_that_comes_and_goes_is_a_syn_data_and_a_fin() {
        let wanted = Wanted {
            protocol: Protocol::Tcp,
            flows: 20,
            mix: Mix::Churn {
                opens: 100,
                data: 400,
            },
            ..sample()
        };
        let mut traffic = traffic(wanted);
        let mut seen: std::collections::BTreeMap<u32, Vec<(u32, u8)>> = Default::default();
        for packet in take(&mut traffic, 6_000) {
            let Transport::Tcp { flags, .. } = packet.transport else {
                panic!("UDP in a TCP profile")
            };
            seen.entry(packet.flow)
                .or_default()
                .push((packet.sequence, flags));
        }
        assert_eq!(traffic.opened() - traffic.closed(), 20);
        assert!(seen.len() >= 990, "{}", seen.len());
        for (flow, packets) in seen {
            let closed = u64::from(flow) < traffic.closed();
            for (place, (sequence, control)) in packets.iter().enumerate() {
                assert_eq!(*sequence as usize, place);
                let (first, last) = (place == 0, place + 1 == packets.len());
                assert_eq!(control & flags::SYN != 0, first);
                assert_eq!(control & flags::FIN != 0, last && closed, "flow {flow}");
            }
        }
    }

    #[test]
    fn a_closed_connection_is_remembered_for_as_long_as_it_lived() {
        let wanted = Wanted {
            flows: 10,
            mix: Mix::Churn { opens: 1, data: 0 },
            ..sample()
        };
        let mut traffic = traffic(wanted);
        take(&mut traffic, 100);
        let newest = traffic.opened() as u32 - 1;
        let known: Vec<u32> = (0..=newest)
            .filter(|flow| traffic.sent(*flow) > 0)
            .collect();
        assert_eq!(known, (newest - 21..=newest).collect::<Vec<_>>());
    }

    #[test]
    fn packets_of_flows_that_nobody_follows_are_numbered_through() {
        let wanted = Wanted {
            protocol: Protocol::Tcp,
            tracking: Tracking::Packets,
            mix: Mix::Renewed { share: 0.3 },
            ..sample()
        };
        let mut traffic = traffic(wanted);
        let packets = take(&mut traffic, 1_000);
        for (index, packet) in packets.iter().enumerate() {
            assert_eq!(
                (packet.index, packet.sequence),
                (index as u64, index as u32)
            );
        }
        let syns = packets.iter().filter(|packet| {
            matches!(packet.transport, Transport::Tcp { flags, .. } if flags & flags::SYN != 0)
        });
        assert_eq!(syns.count() as u64, traffic.opened());
        assert!((200..400).contains(&traffic.opened()));
    }
}
