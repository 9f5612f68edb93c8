//! Generator, a balancer of a few lines, and reflector in one thread: what goes wrong between them is
//! done on purpose, and must be reported exactly.
// Helpers of tests are not inside #[test] functions, where clippy.toml allows these.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use weir_engine::wire::checksum::Delta;
use weir_engine::wire::ethernet::MacAddr;
use weir_engine::wire::ipv4::HeaderMut;
use weir_pktgen::backend::Backends;
use weir_pktgen::frame::{Link, Transport};
use weir_pktgen::popularity::Popularity;
use weir_pktgen::profile::{Profile, Protocol, Tracking, Wanted};
use weir_pktgen::receive::{Frame, Packet, read};
use weir_pktgen::reflector::{Counts, Mode, Reflector, Verdict};
use weir_pktgen::report::loss;
use weir_pktgen::schedule::Mix;
use weir_pktgen::size::Sizes;
use weir_pktgen::stamp::Stamp;
use weir_pktgen::tally::{Tally, Totals};
use weir_pktgen::traffic::Traffic;

const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
const BACKENDS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 0, 0, 11),
    Ipv4Addr::new(10, 0, 0, 12),
    Ipv4Addr::new(10, 0, 0, 13),
];

/// What happens to a request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    Lost,
    AnswerLost,
    Doubled,
    /// Sent to the next backend instead.
    Astray,
    /// Held back until the next packet has passed.
    Late,
    Damaged,
}

fn packet(frame: &[u8]) -> Packet {
    match read(frame) {
        Frame::Packet(packet) => packet,
        other => panic!("{other:?}"),
    }
}

/// Changes an IPv4 address and everything that covers it.
fn rewrite(frame: &mut [u8], packet: &Packet, change: impl FnOnce(&mut HeaderMut<'_>) -> Delta) {
    let header: &mut [u8; 20] = (&mut frame[packet.network..packet.network + 20])
        .try_into()
        .unwrap();
    let delta = change(&mut HeaderMut(header));
    let at = packet.segment
        + if packet.transport == Transport::Udp {
            6
        } else {
            16
        };
    let check = [frame[at], frame[at + 1]];
    let new = if packet.transport == Transport::Udp {
        delta.apply_udp(check)
    } else {
        delta.apply(check)
    };
    [frame[at], frame[at + 1]] = new;
}

fn wanted() -> Wanted {
    Wanted {
        vip: VIP.into(),
        port: 80,
        protocol: Protocol::Udp,
        clients: None,
        flows: 50,
        popularity: Popularity::Sequential,
        sizes: Some(Sizes::imix()),
        packets_per_flow: 0,
        rate: 1_000_000,
        count: Some(5_000),
        duration: None,
        seed: 7,
        vlan: None,
        mix: Mix::Steady,
        tracking: Tracking::Flows,
    }
}

struct World {
    profile: Profile,
    reflector: Reflector,
    tally: Tally,
    now: u64,
}

impl World {
    /// One request through the balancer to a backend, and its answer back.
    fn deliver(&mut self, mut frame: Vec<u8>, sent: u32, astray: bool, answer_lost: bool) {
        let request = packet(&frame);
        let flow = usize::from(request.source.port()) + usize::from(astray);
        let backend = BACKENDS[flow % BACKENDS.len()];
        rewrite(&mut frame, &request, |header| {
            header.set_destination(backend.octets())
        });
        let mac = self
            .reflector
            .backends()
            .by_address(backend.into())
            .unwrap()
            .mac;
        frame[..6].copy_from_slice(&mac.0);
        if self.reflector.handle(&mut frame) != Verdict::Answer || answer_lost {
            return;
        }
        let answer = packet(&frame);
        rewrite(&mut frame, &answer, |header| {
            header.set_source(VIP.octets())
        });
        let answer = packet(&frame);
        assert!(answer.intact);
        assert_eq!(answer.source.ip(), IpAddr::from(VIP));
        let stamp = Stamp::read(&frame[answer.payload.clone()]).unwrap();
        assert_eq!(self.profile.client(stamp.flow), answer.destination);
        self.now += 1_000;
        self.tally.answer(&self.profile, stamp, sent, self.now);
    }
}

/// Sends all of a profile's packets, each with the fate that `fate` gives its index.
fn play(wanted: Wanted, fate: impl Fn(u64) -> Fate) -> (Totals, Counts) {
    let profile = Profile::new(wanted).unwrap();
    let args: Vec<_> = BACKENDS
        .iter()
        .map(|address| address.to_string().parse().unwrap())
        .collect();
    let mut world = World {
        reflector: Reflector::new(Backends::new(&args).unwrap(), Mode::Nat, 1_000),
        tally: Tally::new(&profile).unwrap(),
        now: 0,
        profile: profile.clone(),
    };
    let link = Link {
        destination: MacAddr([2; 6]),
        source: MacAddr([4; 6]),
        vlan: None,
    };
    let mut traffic = Traffic::new(profile.clone(), 1);
    let mut held: Option<(Vec<u8>, u32)> = None;
    for _ in 0..profile.packets().unwrap() {
        let planned = traffic.next(|_| true).unwrap();
        let mut frame = vec![0; planned.len];
        traffic
            .write(&planned, &link, world.now, &mut frame)
            .unwrap();
        let sent = planned.sequence + 1;
        match fate(planned.index) {
            Fate::Lost => {}
            Fate::Late => {
                held = Some((frame, sent));
                continue;
            }
            Fate::Damaged => {
                let last = frame.len() - 1;
                frame[last] ^= 0x40;
                let request = packet(&frame);
                assert!(!request.intact);
                world.deliver(frame, sent, false, false);
            }
            Fate::Doubled => {
                world.deliver(frame.clone(), sent, false, false);
                world.deliver(frame, sent, false, false);
            }
            other => world.deliver(
                frame,
                sent,
                other == Fate::Astray,
                other == Fate::AnswerLost,
            ),
        }
        if let Some((frame, sent)) = held.take() {
            world.deliver(frame, sent, false, false);
        }
    }
    (
        world.tally.totals().clone(),
        world.reflector.counts().clone(),
    )
}

fn every(n: u64, what: Fate) -> impl Fn(u64) -> Fate {
    move |index| {
        if index % n == 3 {
            what
        } else {
            Fate::Delivered
        }
    }
}

#[test]
fn an_unimpaired_way_leaves_nothing_to_report() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let packets_per_flow = if protocol == Protocol::Tcp { 7 } else { 0 };
        let (totals, counts) = play(
            Wanted {
                protocol,
                packets_per_flow,
                ..wanted()
            },
            |_| Fate::Delivered,
        );
        assert_eq!(loss(5_000, &totals).packets, 0);
        assert_eq!(
            (
                totals.duplicates,
                totals.reordered,
                totals.moved_flows,
                totals.unexpected
            ),
            (0, 0, 0, 0)
        );
        assert_eq!(
            (totals.answers, totals.answered_flows, totals.latency.len()),
            (5_000, 50, 5_000)
        );
        assert_eq!(totals.by_backend().values().sum::<u64>(), 5_000);
        assert_eq!(
            (
                counts.gaps(),
                counts.duplicates,
                counts.moved_flows,
                counts.bad_checksum
            ),
            (0, 0, 0, 0)
        );
        assert_eq!(counts.stamped, 5_000);
    }
}

#[test]
fn every_lost_request_is_counted_at_both_ends() {
    let (totals, counts) = play(wanted(), every(101, Fate::Lost));
    // Indices 3, 104, … below 5,000.
    assert_eq!(loss(5_000, &totals).packets, 50);
    assert_eq!(counts.stamped, 4_950);
    // A gap shows once a later packet of the flow arrives. The last loss (4,952 of 5,000, with 50
    // flows in turn) is its flow's last packet, so only the generator knows of it.
    assert_eq!(counts.gaps(), 49);
    assert_eq!(
        (totals.duplicates, totals.reordered, totals.moved_flows),
        (0, 0, 0)
    );
}

#[test]
fn a_lost_answer_is_loss_to_the_generator_only() {
    let (totals, counts) = play(wanted(), every(100, Fate::AnswerLost));
    assert_eq!(loss(5_000, &totals).packets, 50);
    assert_eq!((counts.gaps(), counts.answered), (0, 5_000));
}

#[test]
fn a_doubled_request_is_a_duplicate_at_both_ends_and_hides_no_loss() {
    let both = |index: u64| match index % 100 {
        3 => Fate::Doubled,
        50 => Fate::Lost,
        _ => Fate::Delivered,
    };
    let (totals, counts) = play(wanted(), both);
    assert_eq!((totals.duplicates, counts.duplicates), (50, 50));
    assert_eq!((totals.answers, loss(5_000, &totals).packets), (5_000, 50));
}

#[test]
fn a_packet_at_another_backend_moves_its_flow_there_and_back() {
    let (totals, counts) = play(wanted(), |index| {
        if index == 503 {
            Fate::Astray
        } else {
            Fate::Delivered
        }
    });
    assert_eq!((totals.moved_flows, counts.moved_flows), (1, 1));
    let times: BTreeMap<_, _> = totals.moves.clone();
    assert_eq!(times.values().sum::<u64>(), 2);
    let (from, to) = times.keys().next().copied().unwrap();
    assert!(times.contains_key(&(to, from)), "there and back: {times:?}");
    assert_eq!(loss(5_000, &totals).packets, 0);
}

#[test]
fn a_late_packet_is_reordered_within_its_flow() {
    let one_flow = Wanted {
        flows: 1,
        ..wanted()
    };
    let (totals, counts) = play(one_flow, every(100, Fate::Late));
    assert_eq!((totals.reordered, counts.reordered), (50, 50));
    assert_eq!(
        (
            totals.duplicates,
            loss(5_000, &totals).packets,
            counts.gaps()
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_damaged_packet_is_counted_and_not_answered() {
    let (totals, counts) = play(wanted(), every(100, Fate::Damaged));
    assert_eq!((counts.bad_checksum, counts.stamped), (50, 4_950));
    assert_eq!(loss(5_000, &totals).packets, 50);
}

#[test]
fn connections_may_change_backend_only_between_fin_and_syn() {
    // With seven packets a connection and one flow, index 7 k is a SYN.
    let tcp = Wanted {
        protocol: Protocol::Tcp,
        packets_per_flow: 7,
        flows: 1,
        ..wanted()
    };
    let whole = |index: u64| {
        if index / 7 % 2 == 1 {
            Fate::Astray
        } else {
            Fate::Delivered
        }
    };
    let (totals, counts) = play(tcp.clone(), whole);
    assert_eq!((totals.moved_flows, counts.moved_flows), (0, 0));
    assert_eq!(totals.by_backend().len(), 2);
    let (totals, counts) = play(tcp, |index| {
        if index == 10 {
            Fate::Astray
        } else {
            Fate::Delivered
        }
    });
    assert_eq!((totals.moved_flows, counts.moved_flows), (1, 1));
}
