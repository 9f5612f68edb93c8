//! Two workers, and a device that brings answers to whichever it likes: every session's answers reach
//! its client, whoever receives them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use std::path::Path;
use std::sync::Arc;

use arrayvec::ArrayVec;
use proptest::prelude::*;
use support::{Transport, WEIR_MAC, frame};
use weir::adjacency::Neighbour;
use weir::config::Config;
use weir::conntrack::{Conntrack, Tick};
use weir::control::{Control, PortFacts};
use weir::flow::{FlowHasher, HashKey};
use weir::pipeline::{BURST, Pipeline, Sink, Snapshot};
use weir::session::{FIRST_PORT, LAST_PORT, Spread, owner};
use weir_engine::buffer::{Buffer, Heap, HeapBuffer};
use weir_engine::counters::{CounterReader, counters};
use weir_engine::publish::Reader;
use weir_engine::rss;
use weir_engine::wire::ethernet::MacAddr;
use weir_shm::counters as layout;

const BACKEND_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x0b];
const CONFIG: &str = r#"
[engine]
flows_per_worker = 100
[[port]]
name = "wan"
device = "net_null0"
mac = "02:00:00:00:00:01"
addresses = ["192.0.2.2/24", "10.0.0.1/24"]
[[neighbor]]
address = "192.0.2.9"
mac = "02:00:00:00:00:fe"
[[neighbor]]
address = "10.0.0.11"
mac = "02:00:00:00:00:0b"
[[service]]
name = "web"
table_size = 13
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "full-nat"
snat_pool = ["10.0.0.5"]
[[service.backend]]
address = "10.0.0.11"
"#;

struct Worker {
    pipeline: Pipeline<HeapBuffer>,
    snapshot: Reader<Snapshot>,
    counters: CounterReader,
}

#[derive(Default)]
struct Out {
    sent: Vec<HeapBuffer>,
    handed: Vec<(u16, u16, HeapBuffer)>,
    freed: usize,
}

impl Sink<HeapBuffer> for Out {
    fn send(&mut self, _: u16, frame: HeapBuffer) {
        self.sent.push(frame);
    }
    fn punt(&mut self, _: u16, _: HeapBuffer) {
        panic!("punted");
    }
    fn hold(&mut self, _: Neighbour, _: HeapBuffer) {
        panic!("held");
    }
    fn copy(&mut self, bytes: &[u8]) -> Option<HeapBuffer> {
        Some(HeapBuffer::new(bytes))
    }
    fn hand_over(&mut self, worker: u16, port: u16, frame: HeapBuffer) {
        self.handed.push((worker, port, frame));
    }
    fn answer(&mut self, _: u16, _: HeapBuffer) {
        panic!("answered");
    }
    fn free(&mut self, _: HeapBuffer) {
        self.freed += 1;
    }
}

fn workers(count: u16) -> (Control<Heap>, Vec<Worker>) {
    let config = Arc::new(Config::parse(Path::new("test.toml"), CONFIG).unwrap());
    let facts = vec![PortFacts {
        mac: MacAddr(WEIR_MAC),
        filter: true,
        mtu: 1500,
    }];
    let hasher = FlowHasher::new(HashKey::REPLAY);
    let (own, _) = counters(layout::BLOCK).unwrap();
    let (control, readers) =
        Control::new(config, facts, hasher.clone(), Heap, own, count.into()).unwrap();
    let workers = (0..count).zip(readers).map(|(number, snapshot)| {
        let (writer, reader) = counters(layout::BLOCK).unwrap();
        let conntrack = Conntrack::new(100, false).unwrap();
        let pipeline = Pipeline::new(control.accepts(), hasher.clone(), conntrack, writer);
        Worker {
            pipeline: pipeline.among(number, Vec::new()),
            snapshot,
            counters: reader,
        }
    });
    let workers = workers.collect();
    (control, workers)
}

/// What one worker does with a frame; `handed` if another received it.
fn play(worker: &mut Worker, bytes: &[u8], handed: bool) -> Out {
    let mut burst: ArrayVec<HeapBuffer, BURST> = ArrayVec::new();
    burst.push(HeapBuffer::new(bytes));
    let mut out = Out::default();
    let snapshot = worker.snapshot.get();
    if handed {
        let path = &mut worker.pipeline;
        path.process_handed(snapshot, Tick(1_000), 0, &mut burst, &mut out);
    } else {
        let path = &mut worker.pipeline;
        path.process(snapshot, Tick(1_000), 0, &mut burst, &mut out);
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn an_answer_reaches_its_client_whoever_receives_it(
        count in 1u16..5,
        flows in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u16..), 1..60),
    ) {
        let (_control, mut workers) = workers(count);
        let mut ports = std::collections::HashSet::new();
        for (host, (asked, answered, port)) in flows.into_iter().enumerate() {
            let (asked, answered) = (asked.index(count.into()), answered.index(count.into()));
            let client = format!("192.0.2.9:{port}");
            let request = frame(&client, &format!("198.51.100.10:{}", 80), Transport::Syn);
            let _ = host;
            let mut out = play(&mut workers[asked], &request.build(), false);
            prop_assert_eq!(out.sent.len(), 1);
            let sent = out.sent.remove(0);
            let snat = u16::from_be_bytes([sent.data()[34], sent.data()[35]]);
            prop_assert_eq!(usize::from(owner(snat, count)), asked);
            ports.insert(snat);
            let answer = frame("10.0.0.11:80", &format!("10.0.0.5:{snat}"), Transport::Ack);
            let answer = answer.macs(BACKEND_MAC, WEIR_MAC).build();
            let mut out = play(&mut workers[answered], &answer, false);
            if asked != answered {
                prop_assert_eq!((out.sent.len(), out.handed.len()), (0, 1));
                let (to, port, frame) = out.handed.remove(0);
                prop_assert_eq!((usize::from(to), port, frame.data()), (asked, 0, &answer[..]));
                out = play(&mut workers[asked], frame.data(), true);
            }
            prop_assert_eq!(out.sent.len(), 1);
            let back = out.sent[0].data();
            prop_assert_eq!(&back[26..34], &[198, 51, 100, 10, 192, 0, 2, 9]);
            prop_assert_eq!(u16::from_be_bytes([back[36], back[37]]), port);
        }
        let received: u64 = workers.iter().map(|worker| worker.counters.get(layout::RECEIVED)).sum();
        let handed: u64 = workers.iter().map(|worker| worker.counters.get(layout::HANDED_OVER)).sum();
        prop_assert!(handed <= received / 2, "a handed frame is received once");
    }

    #[test]
    fn where_the_devices_spread_is_known_answers_arrive_at_their_owner(
        count in 2u16..6,
        key in prop::collection::vec(any::<u8>(), 40..53),
        symmetric: bool,
        size in prop::sample::select(vec![64usize, 128, 512]),
        seed in 1u64..,
        flows in prop::collection::vec((any::<prop::sample::Index>(), 1u16..), 1..60),
    ) {
        let key = if symmetric { rss::SYMMETRIC_KEY.to_vec() } else { key };
        let (mut control, mut workers) = workers(count);
        control.scatter_ports(seed);
        control.know_spread(Spread::new(key.clone(), size, count));
        let arrives = |port: u16| {
            let (from, to) = ([10, 0, 0, 11].into(), [10, 0, 0, 5].into());
            rss::queue_in_table(rss::ipv4_ports(&key, from, to, 80, port), size, count)
        };
        // A key that hardly looks at ports leaves hardly a choice.
        let good = (FIRST_PORT..=LAST_PORT).filter(|port| arrives(*port) == owner(*port, count));
        let mut choice = vec![0; count.into()];
        good.for_each(|port| choice[usize::from(arrives(port))] += 1);
        let fair = usize::from(LAST_PORT - FIRST_PORT) / usize::from(count * count);
        prop_assume!(choice.iter().all(|ports| ports * 2 > fair));
        for (asked, port) in flows {
            let asked = asked.index(count.into());
            let client = format!("192.0.2.9:{port}");
            let request = frame(&client, "198.51.100.10:80", Transport::Syn);
            let sent = play(&mut workers[asked], &request.build(), false).sent.remove(0);
            let snat = u16::from_be_bytes([sent.data()[34], sent.data()[35]]);
            prop_assert_eq!(usize::from(arrives(snat)), asked);
            let answer = frame("10.0.0.11:80", &format!("10.0.0.5:{snat}"), Transport::Ack);
            let answer = answer.macs(BACKEND_MAC, WEIR_MAC).build();
            let out = play(&mut workers[asked], &answer, false);
            prop_assert_eq!((out.sent.len(), out.handed.len()), (1, 0));
        }
    }
}
