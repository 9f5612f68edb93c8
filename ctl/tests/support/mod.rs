//! A daemon for tests: the daemon's side of a real segment, served by a thread that puts every pool
//! in force, and the real `weirctl` run against it.
#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot be set up has failed

mod answers;
pub mod terminal;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use answers::{census, newest, packets, steps};
use tempfile::TempDir;
use weir_shm::capture::{Begun, Request, Writer};
use weir_shm::counters::{
    ANSWERED, BUSY_NS, BUSY_POLLS, BYTES, CONNTRACK_HITS, CONNTRACK_MISSES, DropReason, FORWARDED,
    IDLE_NS, NEW_FLOWS, PACKETS, POLLS, RECEIVED, RETURN_PACKETS, backend_base, drop_index,
    service_base,
};
use weir_shm::document;
use weir_shm::model::{Admin, Forced, Pool};
use weir_shm::segment::directory::{BackendEntry, BackendState, RunningDirectory, ServiceEntry};
use weir_shm::segment::event::EventKind;
use weir_shm::segment::mailbox::{
    Answer, BackendFlows, BackendHealth, ConnectionIdReading, LookupAnswer, Question,
};
use weir_shm::segment::port::PortStatus;
use weir_shm::server::{Incoming, Server, ServerOptions};

/// The configuration that the daemon of a test starts with.
pub const CONFIG: &str = r#"# rack 4
[instance]
name = "lb1"

[[service]]
name = "web" # the shop
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.11"
port = 8080
weight = 1 # old machine
[[service.backend]]
address = "10.0.0.12"
port = 8080

[[service]]
name = "dns"
vip = "2001:db8::53"
port = "any"
protocol = "udp"
forwarding = "dsr-l2"
[[service.backend]]
address = "2001:db8::1:1"
"#;

/// How a test's daemon behaves.
#[derive(Debug, Default)]
pub struct Manner {
    /// It looks at nothing.
    pub deaf: AtomicBool,
    /// It refuses every pool.
    pub refuses: AtomicBool,
    /// Packets keep coming.
    pub traffic: AtomicBool,
    /// Live flows of each backend; one less with each question.
    pub flows: AtomicU64,
    /// They do not end.
    pub lasting: AtomicBool,
    /// The pool in force.
    pool: Mutex<Pool>,
    /// What backends do, by name, from the next pool on; the others as the pool says.
    pub states: Mutex<HashMap<String, BackendState>>,
    /// The change that its configuration file is read for: a pool and its lines.
    pub reloads: Mutex<Option<(Pool, Vec<String>)>>,
    /// The capture that it was asked for last.
    pub asked: Mutex<Option<Request>>,
    /// The file of its capture.
    pub capture: Mutex<Option<Writer>>,
}

/// A daemon in a folder of its own; all goes when it is dropped.
pub struct Daemon {
    pub folder: TempDir,
    pub config: PathBuf,
    pub manner: Arc<Manner>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Server>>,
}

impl Daemon {
    pub fn start() -> Self {
        Self::with_config(CONFIG)
    }

    pub fn with_config(text: &str) -> Self {
        Self::serving(tempfile::tempdir().unwrap(), text)
    }

    /// Another daemon of the same name in the folder of one that ended, which must outlive this one.
    pub fn again(folder: &Path) -> Self {
        let guard = tempfile::tempdir().unwrap();
        Self::begin(folder, guard, CONFIG)
    }

    fn serving(folder: TempDir, text: &str) -> Self {
        let path = folder.path().to_owned();
        Self::begin(&path, folder, text)
    }

    fn begin(path: &Path, folder: TempDir, text: &str) -> Self {
        let config = path.join("lb1.toml");
        std::fs::write(&config, text).unwrap();
        let options = ServerOptions {
            workers: 2,
            config_path: config.clone(),
            version: "0.1.0".to_owned(),
            ..ServerOptions::default()
        };
        let (mut server, _) = Server::create(path, "lb1", options).unwrap();
        let pool = document::parse_services("lb1.toml", text).unwrap().pool;
        let manner = Arc::new(Manner::default());
        *manner.pool.lock().unwrap() = pool.clone();
        server.publish_initial(&directory(1, pool)).unwrap();
        server
            .event(EventKind::Started, "weir 0.1.0 started")
            .unwrap();
        for worker in 0..2 {
            server.acknowledge(worker, 1).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (manner, stop) = (Arc::clone(&manner), Arc::clone(&stop));
            std::thread::spawn(move || {
                let begin = Instant::now();
                while !stop.load(Ordering::Relaxed) {
                    if manner.traffic.load(Ordering::Relaxed) {
                        flow(&mut server, begin.elapsed());
                    }
                    if !manner.deaf.load(Ordering::Relaxed) {
                        serve(&mut server, &manner);
                    }
                    std::thread::sleep(Duration::from_micros(500));
                }
                server
            })
        };
        Self {
            folder,
            config,
            manner,
            stop,
            thread: Some(thread),
        }
    }

    /// Ends the thread and gives the daemon's side to the test.
    pub fn end(&mut self) -> Server {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }

    /// A `weirctl` command against this daemon, not yet run.
    pub fn weirctl(&self, line: &str) -> Command {
        let mut command = weirctl(self.folder.path());
        command.args(line.split_whitespace());
        command
    }

    /// What a command prints; it must succeed.
    pub fn run(&self, line: &str) -> String {
        let output = self.weirctl(line).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "weirctl {line}: {errors}");
        assert_eq!(errors, "", "weirctl {line}");
        let printed = String::from_utf8(output.stdout).unwrap();
        printed.replace(&self.config.display().to_string(), "CONFIG")
    }

    /// Exit code and complaint of a command that must fail.
    pub fn fail(&self, line: &str) -> (i32, String) {
        failure(self.weirctl(line).output().unwrap())
    }

    /// The configuration file as it is now.
    pub fn config_text(&self) -> String {
        std::fs::read_to_string(&self.config).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// `weirctl` over the segments of a folder.
pub fn weirctl(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weirctl"));
    command
        .env("WEIR_SHM_DIR", folder)
        .env_remove("WEIR_INSTANCE");
    command
}

/// Exit code and complaint.
pub fn failure(output: Output) -> (i32, String) {
    assert!(!output.status.success(), "it did not fail: {output:?}");
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A directory that numbers services and backends in order.
pub fn directory(generation: u64, pool: Pool) -> RunningDirectory {
    let mut next = 0;
    let mut services = Vec::new();
    for (number, service) in (0..).zip(&pool.services) {
        let mut backends = Vec::new();
        for backend in &service.backends {
            let state = match (backend.admin, backend.forced) {
                (Admin::Disabled, _) => BackendState::Disabled,
                (_, Forced::Down) => BackendState::Down,
                (Admin::Drain { .. }, _) => BackendState::Draining,
                _ if backend.weight == 0 => BackendState::Idle,
                _ => BackendState::Up,
            };
            backends.push(BackendEntry {
                number: next,
                state,
            });
            next += 1;
        }
        services.push(ServiceEntry { number, backends });
    }
    RunningDirectory {
        generation,
        pool,
        services,
    }
}

fn put_in_force(server: &mut Server, manner: &Manner, generation: u64, pool: Pool) {
    let mut directory = directory(generation, pool);
    let states = manner.states.lock().unwrap();
    for (service, entry) in directory.pool.services.iter().zip(&mut directory.services) {
        for (backend, entry) in service.backends.iter().zip(&mut entry.backends) {
            let state = states.get(&backend.name(service));
            entry.state = state.copied().unwrap_or(entry.state);
        }
    }
    server.accept(&directory).unwrap();
    *manner.pool.lock().unwrap() = directory.pool;
    for worker in 0..2 {
        server.acknowledge(worker, generation).unwrap();
    }
    let text = format!("generation {generation}");
    server.event(EventKind::Configuration, &text).unwrap();
}

fn serve(server: &mut Server, manner: &Manner) {
    match server.poll() {
        None => {}
        Some(Ok(Incoming { generation, .. })) if manner.refuses.load(Ordering::Relaxed) => {
            server
                .refuse(generation, "no route to backend 10.9.9.9")
                .unwrap();
        }
        Some(Ok(Incoming { generation, pool })) => put_in_force(server, manner, generation, pool),
        Some(Err(refusal)) => server.refuse(refusal.generation, &refusal.reason).unwrap(),
    }
    match server.question() {
        None => {}
        Some(Question::Publish) => {
            publish(server);
            server.answer(&Answer::Published).unwrap();
        }
        Some(Question::Flows { service, backend }) => {
            let flows = manner.flows.load(Ordering::Relaxed);
            if !manner.lasting.load(Ordering::Relaxed) {
                let left = flows.saturating_sub(1);
                manner.flows.store(left, Ordering::Relaxed);
            }
            let pool = manner.pool.lock().unwrap();
            let names = match (backend, pool.service(&service)) {
                (Some(backend), _) => vec![backend],
                (None, Some(found)) => found.backends.iter().map(|one| one.name(found)).collect(),
                (None, None) => Vec::new(),
            };
            let backends = names
                .into_iter()
                .map(|backend| BackendFlows { backend, flows })
                .collect();
            server.answer(&Answer::Flows { backends }).unwrap();
        }
        Some(Question::Reload) if manner.refuses.load(Ordering::Relaxed) => {
            let reason = "CONFIG:12:8: found weight = -1".to_owned();
            server.answer(&Answer::Refused { reason }).unwrap();
        }
        Some(Question::Reload) => {
            let changed = manner.reloads.lock().unwrap().take();
            let (generation, changes) = match changed {
                Some((pool, changes)) => {
                    let generation = server.commit(&pool).unwrap();
                    put_in_force(server, manner, generation, pool);
                    (Some(generation), changes)
                }
                None => (None, Vec::new()),
            };
            let answer = Answer::Reloaded {
                generation,
                changes,
                left_alone: vec!["[engine] workers".to_owned()],
                warnings: Vec::new(),
            };
            server.answer(&answer).unwrap();
        }
        Some(Question::Health { .. }) => {
            let backends = vec![
                BackendHealth {
                    backend: "10.0.0.11:8080".to_owned(),
                    checks: 120,
                    last: Some("ok".to_owned()),
                    last_ago_ms: Some(700),
                    last_took_us: Some(1_250),
                    share: 100,
                    ..BackendHealth::default()
                },
                BackendHealth {
                    backend: "10.0.0.12:8080".to_owned(),
                    checks: 120,
                    failed: 9,
                    last: Some("connection refused".to_owned()),
                    last_ago_ms: Some(1_900),
                    last_took_us: Some(80),
                    held_ms: Some(29_000),
                    share: 30,
                },
            ];
            server.answer(&Answer::Health { backends }).unwrap();
        }
        Some(Question::Lookup {
            connection_id: Some(id),
            ..
        }) => {
            // One configuration, of rotation 0; one of its server IDs is known.
            let (outcome, server_id) = match id.octets() {
                [0..0x20, 0xc4, ..] => ("routed", Some("c4605e")),
                [0..0x20, ..] => ("unknown_server_id", Some("0badc0")),
                [0xe0..=0xff, ..] => ("reserved_rotation", None),
                _ => ("no_configuration", None),
            };
            let is_routed = outcome == "routed";
            let answer = LookupAnswer {
                service: Some("h3".to_owned()),
                backend: Some("10.0.0.11:443".to_owned()),
                reason: if is_routed { "connection-id" } else { "maglev" }.to_owned(),
                table_entry: (!is_routed).then_some(4711),
                table_size: (!is_routed).then_some(65_537),
                connection_id: Some(ConnectionIdReading {
                    rotation: id.octets().first().map_or(0, |first| first >> 5),
                    outcome: outcome.to_owned(),
                    server_id: server_id.map(str::to_owned),
                    backend: is_routed.then(|| "10.0.0.11:443".to_owned()),
                }),
                ..LookupAnswer::default()
            };
            server.answer(&Answer::Lookup(Box::new(answer))).unwrap();
        }
        Some(Question::Lookup { source, .. }) => {
            let answer = if source.port() == 9 {
                LookupAnswer {
                    reason: "no_service".to_owned(),
                    ..LookupAnswer::default()
                }
            } else {
                LookupAnswer {
                    service: Some("web".to_owned()),
                    backend: Some("10.0.0.11:8080".to_owned()),
                    reason: "conntrack".to_owned(),
                    worker: Some(1),
                    state: Some("established".to_owned()),
                    idle_ms: Some(12),
                    table_entry: Some(4711),
                    table_size: Some(65_537),
                    steps: Some(steps()),
                    ..LookupAnswer::default()
                }
            };
            server.answer(&Answer::Lookup(Box::new(answer))).unwrap();
        }
        Some(Question::Census { .. }) => server.answer(&Answer::Census(census())).unwrap(),
        Some(Question::Newest { most, .. }) => {
            let mut flows = newest();
            flows.truncate(most as usize);
            server.answer(&Answer::Newest { flows }).unwrap();
        }
        Some(Question::Capture(request)) => {
            *manner.asked.lock().unwrap() = Some(request.clone());
            if request.service.as_deref() == Some("mail") {
                let reason = "no service \"mail\"".to_owned();
                return server.answer(&Answer::Refused { reason }).unwrap();
            }
            // The old file goes first: it has the same name.
            manner.capture.lock().unwrap().take();
            let mut writer = server.begin_capture(7).unwrap();
            writer.write(&packets(), 0).unwrap();
            writer.end(5).unwrap();
            *manner.capture.lock().unwrap() = Some(writer);
            let ports = vec!["wan".to_owned(), "lan".to_owned()];
            server
                .answer(&Answer::Capturing(Begun { id: 7, ports }))
                .unwrap();
        }
        Some(Question::EndCapture) => server.answer(&Answer::CaptureEnds).unwrap(),
    }
}

/// Counters after so much time of even traffic: web has 30,000 packets a second, two thirds of them
/// for its second backend, dns has 10,000, and worker 0 drops 500.
fn flow(server: &mut Server, time: Duration) {
    let of = |a_second: u64| a_second * u64::try_from(time.as_millis()).unwrap() / 1000;
    for (block, index, value) in [
        (0, RECEIVED, of(30_500)),
        (1, RECEIVED, of(10_000)),
        (0, FORWARDED, of(30_000)),
        (1, FORWARDED, of(10_000)),
        (0, BUSY_NS, of(750_000_000)),
        (0, IDLE_NS, of(250_000_000)),
        (1, BUSY_NS, of(100_000_000)),
        (1, IDLE_NS, of(900_000_000)),
        (0, drop_index(DropReason::NoService), of(500)),
        (0, service_base(0) + PACKETS, of(30_000)),
        (0, service_base(0) + BYTES, of(30_000_000)),
        (0, service_base(0) + NEW_FLOWS, of(100)),
        (1, service_base(1) + PACKETS, of(10_000)),
        (0, backend_base(0) + PACKETS, of(10_000)),
        (0, backend_base(1) + PACKETS, of(20_000)),
        (1, backend_base(2) + PACKETS, of(10_000)),
    ] {
        server.write_counters(block, index, &[value]).unwrap();
    }
    server.occupy(0, 120_000, 1_000_000).unwrap();
    server.occupy(1, 950_000, 1_000_000).unwrap();
}

fn publish(server: &mut Server) {
    for (block, index, value) in [
        (0, RECEIVED, 1_000_000),
        (1, RECEIVED, 234_567),
        (0, FORWARDED, 999_000),
        (1, FORWARDED, 234_000),
        (2, ANSWERED, 60),
        (2, drop_index(DropReason::ArpNotOurs), 7),
        (0, drop_index(DropReason::NoService), 1500),
        (0, POLLS, 2000),
        (0, BUSY_POLLS, 500),
        (0, BUSY_NS, 150_000_000_000),
        (0, IDLE_NS, 450_000_000_000),
        (0, CONNTRACK_HITS, 990),
        (0, CONNTRACK_MISSES, 10),
        (0, service_base(0) + PACKETS, 1_200_000),
        (0, service_base(0) + BYTES, 1_800_000_000),
        (0, service_base(0) + NEW_FLOWS, 80_000),
        (0, service_base(0) + RETURN_PACKETS, 33),
        (0, backend_base(0) + PACKETS, 700_000),
        (1, backend_base(1) + PACKETS, 500_000),
        (0, backend_base(1) + NEW_FLOWS, 40_000),
    ] {
        server.write_counters(block, index, &[value]).unwrap();
    }
    server.rebuilt(2_345_678, 2).unwrap();
    let wan = PortStatus {
        name: "wan".to_owned(),
        mac: [2, 0, 0, 0, 0, 1],
        link_up: true,
        speed_mbps: 10_000,
        rx_packets: 1_234_567,
        tx_packets: 1_233_000,
        rx_missed: 5,
        ..PortStatus::default()
    };
    server.write_ports(&[wan]).unwrap();
}
