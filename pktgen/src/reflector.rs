//! The reflector's mind: what to do with a frame that arrives where the backends are.
//!
//! In `nat` mode a stamped packet for a backend goes back to its source with the backend's number
//! in its stamp. In `dsr` mode it is counted only. In both modes neighbour questions for backends
//! are answered, and every flow's path is remembered. No device is involved here.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use weir_engine::wire::tcp::flags;

use crate::backend::{Backend, Backends};
use crate::frame::Transport;
use crate::neighbour::{self, Message};
use crate::random::mix;
use crate::receive::{self, Frame, Packet};
use crate::stamp::{Kind, Stamp};
use crate::track::{Arrival, Track};
use crate::turnaround;

/// How traffic reaches the backends, and what they do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Packets carry a backend's address; they are answered.
    Nat,
    /// Packets carry the VIP's address and a backend's MAC; they are counted only.
    Dsr,
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was turned into an answer in place: send it.
    Answer,
    /// It was a neighbour question: send this instead.
    Reply(Vec<u8>),
    /// It has been counted: free it.
    Done,
}

/// What one backend got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackendCount {
    /// Stamped packets.
    pub packets: u64,
    /// Bytes of their frames, without FCS.
    pub bytes: u64,
    /// Flows that this backend was the first to get; for TCP, connections.
    pub flows: u64,
}

/// What has arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// All frames.
    pub packets: u64,
    /// Bytes of all frames, without FCS.
    pub bytes: u64,
    /// Stamped packets for a backend, duplicates included.
    pub stamped: u64,
    /// Those that were answered.
    pub answered: u64,
    /// Packets whose IP or transport checksum is wrong; not answered.
    pub bad_checksum: u64,
    /// Packets for a backend's address with another MAC; not answered.
    pub wrong_mac: u64,
    /// Stamped packets for nobody here; not answered.
    pub strangers: u64,
    /// Neighbour questions answered.
    pub neighbour_answers: u64,
    /// Everything else, unstamped packets included.
    pub other: u64,
    /// Stamped packets that came more than once, each repetition counted.
    pub duplicates: u64,
    /// Stamped packets that came after a newer one of their flow.
    pub reordered: u64,
    /// Sequence numbers up to each flow's highest, summed.
    pub expected: u64,
    /// Flows seen.
    pub flows: u64,
    /// Flows that came to more than one backend within one connection.
    pub moved_flows: u64,
    /// Packets of flows beyond the number that is remembered.
    pub untracked: u64,
}

impl Counts {
    /// Packets that never came though a later one of their flow did.
    #[must_use]
    pub const fn gaps(&self) -> u64 {
        let unique = self.stamped - self.duplicates - self.untracked;
        self.expected.saturating_sub(unique)
    }
}

/// A flow's path.
#[derive(Debug, Clone, Copy)]
struct Flow {
    track: Track,
    backend: u16,
    moved: bool,
}

/// Scrambles the one word that a flow's key is. Keys come from generators on a test network.
#[derive(Debug, Default, Clone, Copy)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(word);
    }
}

/// Plays backends and remembers flows.
#[derive(Debug)]
pub struct Reflector {
    backends: Backends,
    mode: Mode,
    most_flows: usize,
    flows: HashMap<u64, Flow, BuildHasherDefault<WordHasher>>,
    counts: Counts,
    per_backend: Vec<BackendCount>,
    /// How often flows changed backend, as (from, to).
    moves: std::collections::BTreeMap<(u16, u16), u64>,
}

impl Reflector {
    /// A reflector that remembers up to `most_flows` flows.
    #[must_use]
    pub fn new(backends: Backends, mode: Mode, most_flows: usize) -> Self {
        let per_backend = vec![BackendCount::default(); backends.list().len()];
        Self {
            backends,
            mode,
            most_flows,
            flows: HashMap::default(),
            counts: Counts::default(),
            per_backend,
            moves: std::collections::BTreeMap::new(),
        }
    }

    /// The backends.
    #[must_use]
    pub const fn backends(&self) -> &Backends {
        &self.backends
    }

    /// What has arrived.
    #[must_use]
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What each backend got, by number.
    #[must_use]
    pub fn per_backend(&self) -> &[BackendCount] {
        &self.per_backend
    }

    /// How often flows changed backend, as (from, to).
    #[must_use]
    pub const fn moves(&self) -> &std::collections::BTreeMap<(u16, u16), u64> {
        &self.moves
    }

    /// Decides about `frame`, which it may turn into an answer.
    pub fn handle(&mut self, frame: &mut [u8]) -> Verdict {
        self.counts.packets += 1;
        self.counts.bytes += frame.len() as u64;
        match receive::read(frame) {
            Frame::Packet(packet) => self.packet(frame, &packet),
            Frame::Neighbour => self.neighbour(frame),
            Frame::Other => {
                self.counts.other += 1;
                Verdict::Done
            }
        }
    }

    fn neighbour(&mut self, frame: &[u8]) -> Verdict {
        let message = neighbour::read(frame);
        if let Some(question @ Message::Question { target, .. }) = &message {
            let backend = self.backends.by_address(*target);
            if let Some(reply) =
                backend.and_then(|backend| neighbour::answer(question, backend.mac))
            {
                self.counts.neighbour_answers += 1;
                return Verdict::Reply(reply);
            }
        }
        self.counts.other += 1;
        Verdict::Done
    }

    fn packet(&mut self, frame: &mut [u8], packet: &Packet) -> Verdict {
        let stamp =
            Stamp::read(&frame[packet.payload.clone()]).filter(|stamp| stamp.kind == Kind::Request);
        let Some(stamp) = stamp else {
            self.counts.other += 1;
            return Verdict::Done;
        };
        if !packet.intact {
            self.counts.bad_checksum += 1;
            return Verdict::Done;
        }
        let found = match self.mode {
            Mode::Nat => self.backends.by_address(packet.destination.ip()),
            Mode::Dsr => self.backends.by_mac(packet.destination_mac),
        };
        let Some(backend) = found.copied() else {
            self.counts.strangers += 1;
            return Verdict::Done;
        };
        if backend.mac != packet.destination_mac {
            self.counts.wrong_mac += 1;
            return Verdict::Done;
        }
        self.count(frame.len(), packet, stamp, &backend);
        match self.mode {
            Mode::Dsr => Verdict::Done,
            Mode::Nat => {
                turnaround::answer(frame, packet, backend.id);
                self.counts.answered += 1;
                Verdict::Answer
            }
        }
    }

    fn count(&mut self, bytes: usize, packet: &Packet, stamp: Stamp, backend: &Backend) {
        self.counts.stamped += 1;
        let its = &mut self.per_backend[usize::from(backend.id)];
        its.packets += 1;
        its.bytes += bytes as u64;
        let key = u64::from(stamp.tag) << 32 | u64::from(stamp.flow);
        if self.flows.len() >= self.most_flows && !self.flows.contains_key(&key) {
            self.counts.untracked += 1;
            return;
        }
        let fresh = Flow {
            track: Track::default(),
            backend: backend.id,
            moved: false,
        };
        let flow = self.flows.entry(key).or_insert(fresh);
        let before = flow.track.next();
        match flow.track.observe(stamp.sequence) {
            Arrival::Newest => {}
            Arrival::Reordered => self.counts.reordered += 1,
            Arrival::Duplicate => self.counts.duplicates += 1,
        }
        self.counts.expected += u64::from(flow.track.next() - before);
        let opens = matches!(packet.transport, Transport::Tcp { flags, .. } if flags & flags::SYN != 0)
            && stamp.sequence >= before;
        if before == 0 {
            self.counts.flows += 1;
            its.flows += 1;
        } else if opens {
            its.flows += 1;
            flow.backend = backend.id;
        } else if flow.backend != backend.id {
            *self.moves.entry((flow.backend, backend.id)).or_default() += 1;
            self.counts.moved_flows += u64::from(!flow.moved);
            flow.moved = true;
            flow.backend = backend.id;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Link, Segment};
    use std::net::SocketAddr;

    fn reflector(mode: Mode) -> Reflector {
        let args = [
            "10.0.0.11-10.0.0.12".parse().unwrap(),
            "2001:db8::b".parse().unwrap(),
        ];
        Reflector::new(Backends::new(&args).unwrap(), mode, 100)
    }

    fn request(to: &str, flow: u32, sequence: u32, transport: Transport, size: usize) -> Vec<u8> {
        let destination: SocketAddr = to.parse().unwrap();
        let source = if destination.is_ipv4() {
            "198.18.0.1:1024"
        } else {
            "[2001:2::1]:1024"
        };
        let mac = crate::backend::derived_mac(destination.ip());
        let segment = Segment {
            source: source.parse().unwrap(),
            destination,
            transport,
            stamp: Stamp {
                kind: Kind::Request,
                flow,
                sequence,
                tag: 3,
                time: 77,
            },
        };
        let mut frame = vec![0; size];
        let link = Link {
            destination: mac,
            source: "02:00:00:00:00:fe".parse().unwrap(),
            vlan: None,
        };
        segment.write(&link, &mut frame).unwrap();
        frame
    }

    fn udp(to: &str, flow: u32, sequence: u32) -> Vec<u8> {
        request(to, flow, sequence, Transport::Udp, 80)
    }

    #[test]
    fn a_flow_at_two_backends_is_noticed_unless_it_opens_anew() {
        let mut reflector = reflector(Mode::Nat);
        for (to, flow, sequence) in [
            ("10.0.0.11:80", 0, 0),
            ("10.0.0.12:80", 0, 1),
            ("10.0.0.12:80", 1, 0),
        ] {
            reflector.handle(&mut udp(to, flow, sequence));
        }
        assert_eq!(
            (reflector.counts().flows, reflector.counts().moved_flows),
            (2, 1)
        );
        assert_eq!(reflector.moves().get(&(0, 1)), Some(&1));
        let syn = Transport::Tcp {
            sequence: 9,
            acknowledgement: 0,
            flags: flags::SYN,
        };
        reflector.handle(&mut request("10.0.0.11:80", 1, 1, syn, 80));
        assert_eq!(reflector.counts().moved_flows, 1);
        assert_eq!(
            reflector
                .per_backend()
                .iter()
                .map(|b| b.flows)
                .collect::<Vec<_>>(),
            [2, 1, 0]
        );
    }

    #[test]
    fn gaps_and_duplicates_are_counted() {
        let mut reflector = reflector(Mode::Dsr);
        for sequence in [0, 1, 4, 4, 3] {
            assert_eq!(
                reflector.handle(&mut udp("10.0.0.11:80", 0, sequence)),
                Verdict::Done
            );
        }
        let counts = reflector.counts();
        assert_eq!(
            (
                counts.gaps(),
                counts.duplicates,
                counts.reordered,
                counts.answered
            ),
            (1, 1, 1, 0)
        );
    }

    #[test]
    fn what_is_not_for_a_backend_is_not_answered() {
        let mut reflector = reflector(Mode::Nat);
        let mut wrong_mac = udp("10.0.0.11:80", 0, 0);
        wrong_mac[5] ^= 1;
        let mut damaged = udp("10.0.0.11:80", 0, 0);
        damaged[50] ^= 1;
        let mut unstamped = udp("10.0.0.11:80", 0, 0);
        unstamped[42] ^= 1;
        for mut frame in [
            wrong_mac,
            damaged,
            unstamped,
            udp("10.0.0.99:80", 0, 0),
            vec![0; 60],
        ] {
            assert_eq!(reflector.handle(&mut frame), Verdict::Done);
        }
        let counts = reflector.counts();
        assert_eq!(
            (
                counts.wrong_mac,
                counts.bad_checksum,
                counts.strangers,
                counts.other
            ),
            (1, 1, 1, 2)
        );
        assert_eq!((counts.stamped, counts.packets), (0, 5));
    }

    #[test]
    fn each_backend_answers_neighbour_questions_with_its_own_mac() {
        let mut reflector = reflector(Mode::Nat);
        for (target, asker, mac) in [
            ("10.0.0.12", "10.0.0.1", "02:00:0a:00:00:0c"),
            ("2001:db8::b", "2001:db8::1", "02:06:00:00:00:0b"),
        ] {
            let asked = neighbour::question(
                target.parse().unwrap(),
                asker.parse().unwrap(),
                "02:00:00:00:00:fe".parse().unwrap(),
                None,
            );
            let Verdict::Reply(reply) = reflector.handle(&mut asked.unwrap()) else {
                panic!("no reply")
            };
            let expected = Message::Answer {
                address: target.parse().unwrap(),
                mac: mac.parse().unwrap(),
            };
            assert_eq!(neighbour::read(&reply), Some(expected));
        }
        let other = neighbour::question(
            "10.0.0.99".parse().unwrap(),
            "10.0.0.1".parse().unwrap(),
            Default::default(),
            None,
        );
        assert_eq!(reflector.handle(&mut other.unwrap()), Verdict::Done);
    }

    #[test]
    fn memory_for_flows_is_bounded() {
        let mut reflector = reflector(Mode::Nat);
        for flow in 0..150 {
            assert_eq!(
                reflector.handle(&mut udp("10.0.0.11:80", flow, 0)),
                Verdict::Answer
            );
        }
        assert_eq!(
            (reflector.counts().flows, reflector.counts().untracked),
            (100, 50)
        );
        assert_eq!(reflector.counts().gaps(), 0);
    }
}
