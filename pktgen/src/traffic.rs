//! The packets of a profile, one after the other, each with its place in its flow.
//!
//! There is one sequence of packets for a profile and a seed, whoever sends it. Several lanes
//! (threads, queues) each walk the whole sequence and send the packets of their own flows: together
//! they send exactly what one lane would, no state is shared, and a flow never changes lane.

use weir_engine::wire::tcp::flags;

use crate::frame::{Link, Segment, Transport, WriteError};
use crate::popularity::Sampler;
use crate::profile::{Profile, Protocol};
use crate::random::{Random, mix};
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

/// The sequence of packets.
#[derive(Debug, Clone)]
pub struct Traffic {
    profile: Profile,
    random: Random,
    sampler: Sampler,
    flows: Vec<Sent>,
    index: u64,
    tag: u16,
}

impl Traffic {
    /// The sequence that belongs to `profile`; stamps carry `tag`, which tells runs apart.
    #[must_use]
    pub fn new(profile: Profile, tag: u16) -> Self {
        let wanted = profile.wanted();
        Self {
            random: Random::new(wanted.seed),
            sampler: Sampler::new(wanted.popularity, wanted.flows),
            flows: vec![Sent::default(); wanted.flows as usize],
            index: 0,
            tag,
            profile,
        }
    }

    /// The profile.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// How many packets of the sequence have been passed.
    #[must_use]
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// How many packets `flow` has sent.
    #[inline]
    #[must_use]
    pub fn sent(&self, flow: u32) -> u32 {
        self.flows.get(flow as usize).map_or(0, |sent| sent.next)
    }

    /// How many flows have sent something.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.flows.iter().filter(|sent| sent.next > 0).count() as u64
    }

    /// Passes the sequence's next packet, and gives it if `mine` claims its flow.
    #[inline]
    pub fn next(&mut self, mine: impl Fn(u32) -> bool) -> Option<Planned> {
        let flow = self.sampler.draw(&mut self.random);
        let size = self.profile.sizes().draw(&mut self.random);
        let index = self.index;
        self.index += 1;
        if !mine(flow) {
            return None;
        }
        let len = usize::from(size - FCS);
        let sequence = self.flows[flow as usize].next;
        let transport = match self.profile.wanted().protocol {
            Protocol::Udp => Transport::Udp,
            Protocol::Tcp => self.tcp(flow, sequence, len),
        };
        self.flows[flow as usize].next = sequence.wrapping_add(1);
        Some(Planned {
            index,
            flow,
            sequence,
            len,
            transport,
        })
    }

    /// The TCP header of packet `sequence` of `flow`, in a frame of `len` bytes.
    fn tcp(&mut self, flow: u32, sequence: u32, len: usize) -> Transport {
        let ends = self.profile.wanted().packets_per_flow;
        let place = sequence.checked_rem(ends).unwrap_or(sequence);
        let connection = u64::from(self.profile.connection(sequence));
        let isn = mix(self.profile.wanted().seed ^ (u64::from(flow) << 32 | connection)) as u32;
        // Everything after the headers; the profile has checked that they fit.
        let payload = len + stamp::LEN - self.profile.shortest();
        let sent = &mut self.flows[flow as usize];
        if place == 0 {
            sent.bytes = payload as u32;
            return Transport::Tcp {
                sequence: isn,
                acknowledgement: 0,
                flags: flags::SYN,
            };
        }
        let offset = sent.bytes.wrapping_add(1);
        sent.bytes = sent.bytes.wrapping_add(payload as u32);
        let last = place + 1 == ends;
        Transport::Tcp {
            sequence: isn.wrapping_add(offset),
            acknowledgement: server_isn(isn).wrapping_add(offset),
            flags: flags::ACK | if last { flags::FIN } else { flags::PSH },
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::popularity::Popularity;
    use crate::profile::{Wanted, sample};
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
}
