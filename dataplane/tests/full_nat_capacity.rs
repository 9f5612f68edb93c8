//! `full-nat` with as many sessions as there is room for, through the packet path: every one is found
//! in both directions, beside a conntrack that follows the same flows, and one more is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use support::full_nat::{ALL, Families, answer, ask, source_port};
use support::rig::Rig;
use support::{CLIENT_MAC, Transport};
use weir::session::{FIRST_PORT, LAST_PORT};
use weir_engine::wire::checksum;
use weir_shm::counters::{self as layout, DropReason};

/// Ports of one address.
const PORTS: u32 = (LAST_PORT - FIRST_PORT) as u32 + 1;
const BURST: usize = 32;

/// A balancer for so many flows, with so many addresses to speak from.
fn rig(families: Families, flows: u32, addresses: u32) -> Rig {
    let pool: Vec<String> = (0..addresses)
        .map(|number| format!("\"10.0.0.{}\"", 100 + number))
        .collect();
    let config = families
        .config("")
        .replace(
            "flows_per_worker = 64",
            &format!("flows_per_worker = {flows}"),
        )
        .replace("\"10.0.0.5\", \"2001:db8:a::5\"", &pool.join(", "));
    Rig::new(&config)
}

/// Frames of many flows, made of one: an IPv4 datagram from another address and port each. A UDP
/// checksum of zero is none.
struct Flows {
    frame: Vec<u8>,
}

impl Flows {
    fn new(families: Families) -> Self {
        let frame = ask(families, 0, 1, Transport::UdpUnchecked).build();
        Self { frame }
    }

    fn of(&self, number: u32) -> Vec<u8> {
        let mut frame = self.frame.clone();
        let [_, high, low, port] = number.to_be_bytes();
        frame[28..30].copy_from_slice(&[high, low]);
        frame[35] = port;
        frame[24..26].fill(0);
        let sum = checksum::of(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum);
        frame
    }
}

/// Plays a packet of each flow, in bursts; gives what left, in the flows' order.
fn ask_all(rig: &mut Rig, flows: &Flows, count: u32) -> Vec<Vec<u8>> {
    let mut sent = Vec::with_capacity(count as usize);
    for first in (0..count).step_by(BURST) {
        let burst: Vec<Vec<u8>> = (first..count.min(first + BURST as u32))
            .map(|flow| flows.of(flow))
            .collect();
        let burst: Vec<&[u8]> = burst.iter().map(Vec::as_slice).collect();
        let left = rig.play_burst(0, &burst);
        sent.extend(left.into_iter().map(|(_, frame)| frame));
    }
    sent
}

#[test]
fn a_flow_without_a_port_is_refused_and_counted_and_the_others_go_on() {
    let families = ALL[0];
    let mut rig = rig(families, PORTS + 1_000, 1);
    let flows = Flows::new(families);
    let first = ask_all(&mut rig, &flows, PORTS + 100);
    assert_eq!(first.len(), PORTS as usize);
    assert_eq!(rig.dropped(DropReason::SnatPortsExhausted), 100);
    assert_eq!(rig.dropped(DropReason::SessionsExhausted), 0);
    // Every port once.
    let mut ports: Vec<u16> = first.iter().map(|frame| source_port(frame)).collect();
    ports.sort_unstable();
    assert!(ports.into_iter().eq(FIRST_PORT..=LAST_PORT));
    let again = ask_all(&mut rig, &flows, PORTS);
    assert!(again == first, "flows that have a port keep it");
    rig.assert_all_accounted_for();
}

#[test]
fn a_million_flows_keep_their_ports_and_get_their_answers() {
    const MILLION: u32 = 1_000_000;
    let families = ALL[0];
    let mut rig = rig(families, MILLION, 17);
    let flows = Flows::new(families);
    let first = ask_all(&mut rig, &flows, MILLION);
    assert_eq!(first.len(), MILLION as usize);
    let mut tuples: Vec<[u8; 6]> = first
        .iter()
        .map(|frame| {
            let mut tuple = [0; 6];
            tuple[..4].copy_from_slice(&frame[26..30]);
            tuple[4..].copy_from_slice(&frame[34..36]);
            tuple
        })
        .collect();
    // Conntrack follows them, too: it forgets some when it is full, which sessions do not mind.
    assert_eq!(rig.count(layout::CONNTRACK_INSERTED), u64::from(MILLION));
    let hits = rig.count(layout::CONNTRACK_HITS);
    let again = ask_all(&mut rig, &flows, MILLION);
    assert!(again == first, "a flow keeps its port");
    let hits = rig.count(layout::CONNTRACK_HITS) - hits;
    assert!((900_000..=1_000_000).contains(&hits), "{hits} hits");
    for number in (0..MILLION).step_by(10_007) {
        let own = tuples[number as usize];
        let port = u16::from_be_bytes([own[4], own[5]]);
        let mut reply = answer(families, port, Transport::Udp);
        reply
            .destination
            .set_ip(<[u8; 4]>::try_from(&own[..4]).unwrap().into());
        let sent = rig.play(0, &reply.build());
        assert_eq!((sent.len(), &sent[0].1[..6]), (1, &CLIENT_MAC[..]));
        // To the client whose flow it is.
        let asked = flows.of(number);
        assert_eq!(sent[0].1[30..34], asked[26..30]);
        assert_eq!(sent[0].1[36..38], asked[34..36]);
    }
    tuples.sort_unstable();
    tuples.dedup();
    assert_eq!(tuples.len(), MILLION as usize, "nobody shares");
    rig.assert_all_accounted_for();
}
