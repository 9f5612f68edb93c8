//! ICMP errors and pieces of datagrams follow the flow that they belong to: when the pool has
//! changed since it began, and when another worker knows it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::sync::Arc;

use arrayvec::ArrayVec;
use etherparse::PacketBuilder;
use support::rig::Rig;
use support::{CLIENT_MAC, Transport, WEIR_MAC, frame};
use weir::adjacency::Neighbour;
use weir::config::Config;
use weir::conntrack::{Conntrack, Tick};
use weir::control::{Control, PortFacts};
use weir::flow::{FlowHasher, HashKey};
use weir::pipeline::{BURST, Pipeline, Sink, Snapshot};
use weir_engine::buffer::{Buffer, Heap, HeapBuffer};
use weir_engine::counters::{CounterReader, counters};
use weir_engine::publish::Reader;
use weir_engine::wire::ethernet::MacAddr;
use weir_shm::command;
use weir_shm::counters as layout;
use weir_shm::counters::DropReason;

const BACKENDS: u8 = 10;
const MILLI: u64 = 1_000_000;

fn config(forwarding: &str) -> String {
    let mut text = String::from(
        r#"
[engine]
flows_per_worker = 20000
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24"]
[[route]]
to = "0.0.0.0/0"
via = "192.0.2.1"
[[neighbor]]
address = "192.0.2.1"
mac = "02:00:00:00:00:fe"
"#,
    );
    for host in 1..=BACKENDS {
        text += &format!(
            "[[neighbor]]\naddress = \"10.0.0.1{host:02}\"\nmac = \"02:00:00:00:01:{host:02x}\"\n"
        );
    }
    for (name, protocol) in [("web", "tcp"), ("dns", "udp")] {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nvip = \"198.51.100.10\"\nport = 80\n\
             protocol = \"{protocol}\"\nforwarding = \"{forwarding}\"\n"
        );
        if forwarding == "dsr-dscp" {
            text += "dscp = 7\n";
        }
        for host in 1..=BACKENDS {
            text += &format!("[[service.backend]]\naddress = \"10.0.0.1{host:02}\"\n");
        }
    }
    text
}

const VIP: [u8; 4] = [198, 51, 100, 10];

fn client(flow: u16) -> ([u8; 4], u16) {
    ([203, 0, (flow >> 8) as u8, flow as u8], 1000 + flow % 7)
}

fn packet_of(flow: u16, transport: Transport) -> Vec<u8> {
    let ([a, b, c, d], port) = client(flow);
    frame(
        &format!("{a}.{b}.{c}.{d}:{port}"),
        "198.51.100.10:80",
        transport,
    )
    .build()
}

/// "Fragmentation needed" about an answer to the flow, with 8 bytes of its TCP header.
fn error_about(flow: u16) -> Vec<u8> {
    let (address, port) = client(flow);
    let mut answer = Vec::new();
    PacketBuilder::ipv4(VIP, address, 60)
        .tcp(80, port, 1, 1)
        .write(&mut answer, &[0; 1000])
        .unwrap();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, WEIR_MAC)
        .ipv4([192, 0, 2, 77], VIP, 64)
        .icmpv4_raw(3, 4, [0, 0, 5, 0])
        .write(&mut bytes, &answer[..28])
        .unwrap();
    bytes
}

/// The flow's UDP datagram in three pieces.
fn pieces_of(flow: u16, id: u16) -> [Vec<u8>; 3] {
    let (address, port) = client(flow);
    let mut whole = Vec::new();
    PacketBuilder::ipv4(address, VIP, 64)
        .udp(port, 80)
        .write(&mut whole, &[7; 3000])
        .unwrap();
    let payload = &whole[20..];
    [(0, 1200), (1200, 2400), (2400, payload.len())].map(|(from, to)| {
        let mut header = etherparse::Ipv4Header::new(
            (to - from) as u16,
            64,
            etherparse::IpNumber::UDP,
            address,
            VIP,
        )
        .unwrap();
        header.dont_fragment = false;
        header.identification = id;
        header.more_fragments = to < payload.len();
        header.fragment_offset = ((from / 8) as u16).try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = Vec::new();
        bytes.extend(WEIR_MAC);
        bytes.extend(CLIENT_MAC);
        bytes.extend([8, 0]);
        header.write(&mut bytes).unwrap();
        bytes.extend(&payload[from..to]);
        bytes
    })
}

/// The modes in which a packet reaches its backend as it came, if inside another.
const UNCHANGED: [&str; 5] = ["dsr-l2", "dsr-ipip", "dsr-gue", "dsr-gre", "dsr-geneve"];
const MODES: [&str; 7] = [
    "nat",
    "dsr-dscp",
    "dsr-l2",
    "dsr-ipip",
    "dsr-gue",
    "dsr-gre",
    "dsr-geneve",
];

/// Whether a frame carries what another carried, as the mode promises.
fn carries(forwarding: &str, sent: &[u8], came: &[u8]) -> bool {
    !UNCHANGED.contains(&forwarding) || sent.ends_with(&came[14..])
}

/// The host byte of the backend that a frame goes to, by its MAC.
fn backend(sent: &[(u16, Vec<u8>)]) -> u8 {
    let [(_, frame)] = sent else {
        panic!("{} frames were sent", sent.len());
    };
    frame[5]
}

fn command(rig: &mut Rig, line: &str) {
    let mut pool = rig.control.pool().clone();
    let command = command::parse_line(line).unwrap();
    command.apply_to(&mut pool).unwrap();
    let generation = rig.control.generation() + 1;
    rig.control.apply(rig.now, generation, pool).unwrap();
}

#[test]
fn an_error_reaches_the_backend_of_its_flow_when_the_pool_has_changed() {
    for forwarding in MODES {
        let mut rig = Rig::new(&config(forwarding));
        let flows: Vec<(u16, u8)> = (0..500)
            .map(|flow| {
                rig.play(0, &packet_of(flow, Transport::Syn));
                let to = backend(&rig.play(0, &packet_of(flow, Transport::Ack)));
                (flow, to)
            })
            .collect();
        // Most flows would be somewhere else by the table alone.
        for host in 1..BACKENDS {
            command(&mut rig, &format!("backend drain web 10.0.0.1{host:02}:80"));
        }
        for (flow, to) in &flows {
            let error = error_about(*flow);
            let sent = rig.play(0, &error);
            assert_eq!(backend(&sent), *to, "{forwarding}: flow {flow}");
            assert!(carries(forwarding, &sent[0].1, &error), "{forwarding}");
        }
        // Of a flow that nobody knows: the table's answer.
        assert_eq!(backend(&rig.play(0, &error_about(9999))), BACKENDS);
        rig.assert_all_accounted_for();
    }
}

#[test]
fn an_error_keeps_no_flow_alive_and_begins_none() {
    let mut rig = Rig::new(&config("nat"));
    rig.play(0, &error_about(1));
    assert_eq!(rig.count(layout::CONNTRACK_INSERTED), 0);
    rig.play(0, &packet_of(1, Transport::Syn));
    for _ in 0..11 {
        rig.tick(1000 * MILLI);
        rig.play(0, &error_about(1));
    }
    // The SYN's ten seconds are over.
    rig.play(0, &packet_of(1, Transport::Syn));
    assert_eq!(rig.count(layout::CONNTRACK_INSERTED), 2);
}

#[test]
fn pieces_go_where_their_flow_goes_when_the_pool_has_changed() {
    for forwarding in MODES {
        let mut rig = Rig::new(&config(forwarding));
        for flow in 0..100 {
            let to = backend(&rig.play(0, &packet_of(flow, Transport::Udp)));
            let change = if flow % 2 == 0 { "drain" } else { "enable" };
            command(
                &mut rig,
                &format!("backend {change} dns 10.0.0.1{to:02}:80"),
            );
            let [first, second, third] = pieces_of(flow, flow);
            assert!(rig.play(0, &third).is_empty());
            assert!(rig.play(0, &second).is_empty());
            let sent = rig.play(0, &first);
            assert_eq!(sent.len(), 3);
            for ((_, frame), piece) in sent.iter().zip([&first, &third, &second]) {
                assert_eq!(frame[5], to, "{forwarding}: flow {flow}");
                assert!(carries(forwarding, frame, piece), "{forwarding}");
            }
            command(&mut rig, &format!("backend enable dns 10.0.0.1{to:02}:80"));
        }
        rig.assert_all_accounted_for();
    }
}

#[test]
fn a_datagram_in_pieces_opens_a_flow_like_any_other() {
    let mut rig = Rig::new(&config("nat"));
    let [first, ..] = pieces_of(5, 1);
    let to = backend(&rig.play(0, &first));
    assert_eq!(rig.count(layout::CONNTRACK_INSERTED), 1);
    command(&mut rig, &format!("backend drain dns 10.0.0.1{to:02}:80"));
    assert_eq!(backend(&rig.play(0, &packet_of(5, Transport::Udp))), to);
}

#[test]
fn expired_ttls_are_answered_up_to_a_limit() {
    let mut rig = Rig::new(&config("nat"));
    let packet = frame("203.0.113.5:4000", "198.51.100.10:80", Transport::Syn)
        .ttl(1)
        .build();
    let answers = (0..500).map(|_| rig.play(0, &packet).len()).sum::<usize>();
    assert_eq!(answers, 50);
    assert_eq!(rig.dropped(DropReason::IpTtl), 450);
    rig.tick(10 * MILLI);
    let answers = (0..500).map(|_| rig.play(0, &packet).len()).sum::<usize>();
    assert_eq!(answers, 10, "one a millisecond");
    rig.assert_all_accounted_for();
}

#[test]
fn pieces_that_wait_are_bounded_and_counted() {
    let mut rig = Rig::new(&config("nat"));
    for flow in 0..2000 {
        let [_, second, _] = pieces_of(flow, flow);
        assert!(rig.play(0, &second).is_empty());
        rig.assert_all_accounted_for();
    }
    let full = rig.dropped(DropReason::FragmentTableFull);
    assert!((1000..2000).contains(&full), "{full}");
    rig.tick(1001 * MILLI);
    rig.play(0, &packet_of(1, Transport::Udp));
    assert_eq!(rig.dropped(DropReason::FragmentTimeout), 2000 - full);
    rig.assert_all_accounted_for();
}

/// Workers with one control core, whose frames for each other are passed on by hand.
struct Workers {
    pipelines: Vec<(Pipeline<HeapBuffer>, Reader<Snapshot>, CounterReader)>,
    control: Control<Heap>,
    now: u64,
}

#[derive(Default)]
struct Out {
    sent: Vec<(u16, Vec<u8>)>,
    handed: Vec<(u16, u16, HeapBuffer)>,
}

impl Sink<HeapBuffer> for Out {
    fn send(&mut self, port: u16, frame: HeapBuffer) {
        self.sent.push((port, frame.data().to_vec()));
    }
    fn punt(&mut self, _: u16, _: HeapBuffer) {
        panic!("nothing here is for the control core");
    }
    fn hold(&mut self, _: Neighbour, _: HeapBuffer) {
        panic!("all neighbours are known");
    }
    fn answer(&mut self, _: u16, _: HeapBuffer) {
        panic!("nothing here is answered");
    }
    fn copy(&mut self, bytes: &[u8]) -> Option<HeapBuffer> {
        Some(HeapBuffer::new(bytes))
    }
    fn hand_over(&mut self, worker: u16, port: u16, frame: HeapBuffer) {
        self.handed.push((worker, port, frame));
    }
}

impl Workers {
    fn new(count: u16, config: &str) -> Self {
        let config = Config::parse(std::path::Path::new("test.toml"), config).unwrap();
        let facts = vec![PortFacts {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            filter: true,
            mtu: 1500,
        }];
        let hasher = FlowHasher::new(HashKey::REPLAY);
        let (own, _) = counters(layout::BLOCK).unwrap();
        let (control, readers) = Control::new(
            Arc::new(config),
            facts,
            hasher.clone(),
            Heap,
            own,
            count.into(),
        )
        .unwrap();
        let tables: Vec<Conntrack> = (0..count)
            .map(|_| Conntrack::new(10_000, false).unwrap())
            .collect();
        let peers: Vec<_> = tables.iter().map(Conntrack::reader).collect();
        let pipelines = (0u16..)
            .zip(tables)
            .zip(readers)
            .map(|((number, table), reader)| {
                let (writer, counts) = counters(layout::BLOCK).unwrap();
                let pipeline = Pipeline::new(control.accepts(), hasher.clone(), table, writer)
                    .among(number, peers.clone());
                (pipeline, reader, counts)
            })
            .collect();
        Self {
            pipelines,
            control,
            now: 1_000_000_000,
        }
    }

    /// Plays a frame into a worker; gives what was sent, by whichever worker.
    fn play(&mut self, worker: u16, frame: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut out = Out::default();
        let tick = Tick::from_nanos(self.now);
        let mut burst: ArrayVec<HeapBuffer, BURST> = ArrayVec::new();
        burst.push(HeapBuffer::new(frame));
        let (pipeline, reader, _) = &mut self.pipelines[usize::from(worker)];
        pipeline.process(reader.get(), tick, 0, &mut burst, &mut out);
        reader.quiesce();
        for (owner, port, frame) in std::mem::take(&mut out.handed) {
            assert_ne!(owner, worker, "a worker hands nothing to itself");
            burst.push(frame);
            let (pipeline, reader, _) = &mut self.pipelines[usize::from(owner)];
            pipeline.process_handed(reader.get(), tick, port, &mut burst, &mut out);
            reader.quiesce();
            assert!(out.handed.is_empty(), "a frame is handed over once");
        }
        out.sent
    }

    fn count(&self, counter: usize) -> u64 {
        let counts = self.pipelines.iter();
        counts.map(|(_, _, counts)| counts.get(counter)).sum()
    }
}

/// Drains what a flow's table entry names, so that only conntrack leads to its backend.
fn drain(workers: &mut Workers, service: &str, host: u8) {
    let mut pool = workers.control.pool().clone();
    let line = format!("backend drain {service} 10.0.0.1{host:02}:80");
    command::parse_line(&line)
        .unwrap()
        .apply_to(&mut pool)
        .unwrap();
    let generation = workers.control.generation() + 1;
    workers
        .control
        .apply(workers.now, generation, pool)
        .unwrap();
}

#[test]
fn an_error_reaches_its_backend_whichever_worker_receives_it() {
    for mode in MODES {
        let mut workers = Workers::new(3, &config(mode));
        for flow in 0..100 {
            workers.play(flow % 3, &packet_of(flow, Transport::Syn));
            let to = backend(&workers.play(flow % 3, &packet_of(flow, Transport::Ack)));
            if flow < u16::from(BACKENDS) - 2 {
                drain(&mut workers, "web", to);
            }
            for worker in 0..3 {
                let error = error_about(flow);
                let sent = workers.play(worker, &error);
                assert_eq!(backend(&sent), to, "{mode}: flow {flow}, worker {worker}");
                assert!(carries(mode, &sent[0].1, &error), "{mode}: flow {flow}");
            }
        }
    }
}

#[test]
fn all_pieces_meet_whichever_workers_receive_them() {
    for mode in MODES {
        all_pieces_meet(mode);
    }
}

fn all_pieces_meet(mode: &str) {
    let mut workers = Workers::new(3, &config(mode));
    let mut frames = 0;
    for flow in 0..100 {
        let to = backend(&workers.play(flow % 3, &packet_of(flow, Transport::Udp)));
        frames += 1;
        if flow < u16::from(BACKENDS) - 2 {
            drain(&mut workers, "dns", to);
        }
        for id in 0..6 {
            let mut sent = Vec::new();
            for (place, piece) in (0u16..).zip(pieces_of(flow, flow * 10 + id).iter().rev()) {
                sent.extend(workers.play((place * id + flow) % 3, piece));
                frames += 1;
            }
            assert_eq!(sent.len(), 3);
            for (_, frame) in sent {
                assert_eq!(frame[5], to, "{mode}: flow {flow}, datagram {id}");
            }
        }
    }
    assert_eq!(workers.count(layout::RECEIVED), frames);
    for reason in DropReason::ALL {
        assert_eq!(workers.count(layout::drop_index(*reason)), 0, "{reason:?}");
    }
}
