//! Several workers in memory, each with its own flows, over one control core.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::path::Path;
use std::sync::Arc;

use arrayvec::ArrayVec;
use weir::adjacency::Neighbour;
use weir::config::Config;
use weir::conntrack::{Conntrack, Tick};
use weir::control::lookup::Explanation;
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
use weir_shm::model::Protocol;

use super::Transport;

/// Servers that the configuration knows the MAC of: 10.0.0.101 and so on.
pub const SERVERS: u8 = 20;

#[derive(Default)]
struct Out {
    sent: Vec<Vec<u8>>,
    answered: Vec<Vec<u8>>,
}

impl Sink<HeapBuffer> for Out {
    fn send(&mut self, _: u16, frame: HeapBuffer) {
        self.sent.push(frame.data().to_vec());
    }
    fn punt(&mut self, _: u16, _: HeapBuffer) {
        panic!("nothing here is for the control core");
    }
    fn hold(&mut self, _: Neighbour, _: HeapBuffer) {
        panic!("all neighbours are known");
    }
    fn hand_over(&mut self, _: u16, _: u16, _: HeapBuffer) {
        panic!("no flow here belongs to one worker alone");
    }
    fn copy(&mut self, bytes: &[u8]) -> Option<HeapBuffer> {
        Some(HeapBuffer::new(bytes))
    }
    fn answer(&mut self, _: u16, frame: HeapBuffer) {
        self.answered.push(frame.data().to_vec());
    }
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Went {
    /// To the server with this last byte of its address, as this frame.
    To(u8, Vec<u8>),
    /// Back, as this answer.
    Back(Vec<u8>),
    /// Nowhere.
    Nowhere,
}

impl Went {
    pub fn server(&self) -> Option<u8> {
        match self {
            Self::To(server, _) => Some(*server),
            _ => None,
        }
    }
}

pub struct Workers {
    pub control: Control<Heap>,
    workers: Vec<(Pipeline<HeapBuffer>, Reader<Snapshot>, CounterReader)>,
    pub now: u64,
}

/// A configuration whose services are `services`, with servers on 10.0.0.0/24 and 2001:db8:1::/64.
pub fn config(services: &str) -> String {
    let mut text = String::from(
        "[engine]\nflows_per_worker = 20000\n\
         [[port]]\nname = \"wan\"\ndevice = \"net_null0\"\nmac = \"02:00:00:00:00:01\"\n\
         addresses = [\"192.0.2.2/24\", \"10.0.0.1/24\", \"2001:db8:1::1/64\"]\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"192.0.2.1\"\n\
         [[neighbor]]\naddress = \"192.0.2.1\"\nmac = \"02:00:00:00:00:fe\"\n",
    );
    for server in 101..=100 + SERVERS {
        for address in [format!("10.0.0.{server}"), format!("2001:db8:1::{server}")] {
            text += &format!(
                "[[neighbor]]\naddress = \"{address}\"\nmac = \"02:00:00:00:01:{server:02x}\"\n"
            );
        }
    }
    text + services
}

/// A service on 198.51.100.10, with more keys, over so many servers.
pub fn service(keys: &str, servers: u8) -> String {
    let mut text = format!(
        "[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nforwarding = \"dsr-l2\"\n{keys}\n"
    );
    if !keys.contains("port") {
        text += "port = 80\n";
    }
    if !keys.contains("protocol") {
        text += "protocol = \"tcp\"\n";
    }
    for server in 101..=100 + servers {
        text += &format!("[[service.backend]]\naddress = \"10.0.0.{server}\"\n");
    }
    text
}

impl Workers {
    pub fn new(count: u16, services: &str) -> Self {
        let text = config(services);
        let config = Config::parse(Path::new("test.toml"), &text).unwrap_or_else(|e| panic!("{e}"));
        let facts = vec![PortFacts {
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            filter: true,
            mtu: 1500,
        }];
        let hasher = FlowHasher::new(HashKey::REPLAY);
        let flows = config.engine.flows_per_worker;
        let (own, _) = counters(layout::BLOCK).unwrap();
        let (mut control, readers) = Control::new(
            Arc::new(config),
            facts,
            hasher.clone(),
            Heap,
            own,
            count.into(),
        )
        .unwrap();
        let tables: Vec<Conntrack> = (0..count)
            .map(|_| Conntrack::new(flows, false).unwrap())
            .collect();
        let peers: Vec<_> = tables.iter().map(Conntrack::reader).collect();
        control.watch(peers.clone());
        let workers = (0u16..)
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
            control,
            workers,
            now: 1_000_000_000,
        }
    }

    /// Plays a frame into a worker.
    pub fn play(&mut self, worker: u16, frame: &[u8]) -> Went {
        let mut out = Out::default();
        let tick = Tick::from_nanos(self.now);
        let mut burst: ArrayVec<HeapBuffer, BURST> = ArrayVec::new();
        burst.push(HeapBuffer::new(frame));
        let (pipeline, reader, _) = &mut self.workers[usize::from(worker)];
        pipeline.process(reader.get(), tick, 0, &mut burst, &mut out);
        reader.quiesce();
        match (out.sent.pop(), out.answered.pop()) {
            (Some(frame), _) => Went::To(frame[5], frame),
            (None, Some(frame)) => Went::Back(frame),
            (None, None) => Went::Nowhere,
        }
    }

    /// Plays a client's packet to 198.51.100.10:80; gives the server that got it.
    pub fn send(&mut self, worker: u16, client: &str, transport: Transport) -> Option<u8> {
        let frame = super::frame(client, "198.51.100.10:80", transport).build();
        self.play(worker, &frame).server()
    }

    /// A command as an operator gives it.
    pub fn command(&mut self, line: &str) {
        self.try_command(line)
            .unwrap_or_else(|e| panic!("{line}: {e}"));
    }

    pub fn try_command(&mut self, line: &str) -> Result<(), String> {
        let mut pool = self.control.pool().clone();
        let command = command::parse_line(line).map_err(|e| e.to_string())?;
        command.apply_to(&mut pool).map_err(|e| e.to_string())?;
        let generation = self.control.generation() + 1;
        self.control
            .apply(self.now, generation, pool)
            .map_err(|e| e.to_string())
    }

    pub fn wait(&mut self, seconds: u64) {
        self.now += seconds * 1_000_000_000;
        self.control.tick(self.now);
    }

    pub fn lookup(&self, protocol: Protocol, from: &str, to: &str) -> Explanation {
        let tick = Tick::from_nanos(self.now);
        self.control
            .lookup(tick, protocol, from.parse().unwrap(), to.parse().unwrap())
    }

    pub fn count(&self, counter: usize) -> u64 {
        let counts = self.workers.iter();
        counts.map(|(_, _, counts)| counts.get(counter)).sum()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.count(layout::drop_index(reason))
    }
}
