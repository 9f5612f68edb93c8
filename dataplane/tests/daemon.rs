//! The daemon as a service: its log, and what it tells the service manager. A device without a wire
//! is enough for that, so these need neither root nor namespaces.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test
#![cfg(feature = "dpdk")]

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use tempfile::TempDir;
use weir::replay::capture::CaptureWriter;
use weir_shm::client::{Client, ClientError, Outcome};
use weir_shm::segment::event::EventKind;
use weir_shm::segment::mailbox::{Answer, Question};

const CONFIG: &str = r#"
[instance]
name = "lb1"
[engine]
workers = [1]
memory = "anonymous"
idle = "adaptive"
flows_per_worker = 1000
[[port]]
name = "wan"
device = "net_null0"
addresses = ["192.0.2.2/24"]
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "192.0.2.11"
[[service.backend]]
address = "192.0.2.12"
"#;

const LIMIT: Duration = Duration::from_secs(60);

/// A running `weir`, killed when it is dropped.
struct Weir {
    folder: TempDir,
    child: Child,
}

impl Weir {
    fn start(
        folder: TempDir,
        config: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let file = folder.path().join("lb1.toml");
        std::fs::write(&file, config).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["run", "--config"])
            .arg(&file)
            .args(arguments)
            .env("WEIR_SHM_DIR", folder.path())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC")
            .env_remove("WATCHDOG_PID")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { folder, child }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    fn wait_for(&mut self, text: &str) {
        let begin = Instant::now();
        while !self.log().contains(text) {
            assert!(begin.elapsed() < LIMIT, "no {text:?} in:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Somebody who changes pools and looks at what runs, once it does.
    fn client(&mut self) -> Client {
        self.wait_for("ready");
        Client::open(self.folder.path(), "lb1").unwrap()
    }

    fn end(&mut self) -> ExitStatus {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begin.elapsed() < LIMIT, "it does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The thread of a name.
    fn thread(&self, name: &str) -> Pid {
        let tasks = format!("/proc/{}/task", self.child.id());
        let entries = std::fs::read_dir(tasks).unwrap().flatten();
        let found = entries
            .filter(|entry| {
                let comm = std::fs::read_to_string(entry.path().join("comm"));
                comm.is_ok_and(|comm| comm.trim() == name)
            })
            .find_map(|entry| entry.file_name().to_str()?.parse().ok());
        Pid::from_raw(found.unwrap())
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stopped_in_order(weir: &mut Weir) {
    weir.signal(Signal::SIGTERM);
    let status = weir.end();
    assert!(status.success(), "{status}:\n{}", weir.log());
}

#[test]
fn every_line_of_a_json_log_is_an_object_with_time_level_area_and_message() {
    let folder = tempfile::tempdir().unwrap();
    let mut weir = Weir::start(folder, CONFIG, &["--log-format", "json"], &[]);
    weir.wait_for("ready");
    stopped_in_order(&mut weir);
    let log = weir.log();
    let mut messages = Vec::new();
    for line in log.lines() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["timestamp", "level", "target", "message"] {
            assert!(object[key].is_string(), "{key} in {line}");
        }
        messages.push(format!(
            "{} {} {}",
            object["level"].as_str().unwrap(),
            object["target"].as_str().unwrap(),
            object["message"].as_str().unwrap()
        ));
    }
    for wanted in [
        "WARN config",
        "INFO event started: 1 services, 2 backends, 1 workers",
        "INFO event stopped in order",
        "INFO daemon every packet buffer is home",
        "INFO daemon stopped",
    ] {
        let found = messages.iter().any(|message| message.starts_with(wanted));
        assert!(found, "{wanted:?} in {messages:#?}");
    }
}

#[test]
fn a_text_log_has_no_colours_where_there_is_no_terminal_and_keeps_to_its_level() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!("[log]\nlevel = \"warn\"\n{CONFIG}");
    let mut weir = Weir::start(folder, &config, &[], &[]);
    weir.wait_for("hash_key");
    let segment = weir.folder.path().join("weir.lb1");
    let begin = Instant::now();
    while !segment.exists() && begin.elapsed() < LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    stopped_in_order(&mut weir);
    let log = weir.log();
    assert!(!log.contains('\u{1b}'), "{log:?}");
    let levels = log.lines().map(|line| line.split_whitespace().nth(1));
    for level in levels {
        assert!(matches!(level, Some("WARN" | "ERROR")), "{log}");
    }
}

/// SYNs of so many clients, to 198.51.100.10:80 by way of a `net_pcap` port.
fn clients(file: &Path, count: u16) {
    const PCAP_MAC: [u8; 6] = [2, 0x70, 0x63, 0x61, 0x70, 0];
    let mut writer = CaptureWriter::create(file, false).unwrap();
    for number in 0..count {
        let [high, low] = number.to_be_bytes();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], PCAP_MAC)
            .ipv4([203, 0, high, low], [198, 51, 100, 10], 64)
            .tcp(4_000, 80, 1, 64_000)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        writer.write(u64::from(number), &frame).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn an_event_tells_that_sessions_have_run_out_and_how_many_flows_were_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in.pcap");
    clients(&file, 1_500);
    let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
    let config = CONFIG
        .replace("net_null0", &device)
        .replace("\"nat\"", "\"full-nat\"\nsnat_pool = [\"192.0.2.5\"]");
    let mut weir = Weir::start(folder, &config, &[], &[]);
    weir.wait_for("new flows refused (sessions_exhausted): ");
    stopped_in_order(&mut weir);
    assert!(!weir.log().contains("snat_ports_exhausted"));
}

/// The service manager's end of the socket.
struct Socket(UnixDatagram);

impl Socket {
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        Self(socket)
    }

    /// What comes within `limit`, with when; ends early at a message that holds `last`.
    fn hear(&self, limit: Duration, last: &str) -> Vec<(Instant, String)> {
        let begin = Instant::now();
        let mut heard = Vec::new();
        let mut buffer = [0; 1024];
        while begin.elapsed() < limit {
            let Ok(length) = self.0.recv(&mut buffer) else {
                continue;
            };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let done = !last.is_empty() && text.contains(last);
            heard.push((Instant::now(), text));
            if done {
                break;
            }
        }
        heard
    }

    /// Waits for a message.
    fn await_text(&self, text: &str) -> String {
        let heard = self.hear(LIMIT, text);
        match heard
            .into_iter()
            .find(|(_, message)| message.contains(text))
        {
            Some((_, message)) => message,
            None => panic!("the service manager never heard {text}"),
        }
    }
}

#[test]
fn the_service_manager_hears_of_readiness_reloads_stuck_workers_and_the_end() {
    const PERIOD: Duration = Duration::from_secs(3);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = Socket::bind(&path);
    let variables = [
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "3000000"),
    ];
    let mut weir = Weir::start(folder, CONFIG, &[], &variables);
    let ready = socket.await_text("READY=1");
    assert!(
        ready.contains("STATUS=generation 1: 1 service, 2 of 2 backends up"),
        "{ready}"
    );

    let fed: Vec<Instant> = socket
        .hear(2 * PERIOD, "")
        .into_iter()
        .filter(|(_, text)| text.contains("WATCHDOG=1"))
        .map(|(when, _)| when)
        .collect();
    assert!(fed.len() >= 5, "fed {} times in two periods", fed.len());
    for pair in fed.windows(2) {
        assert!(pair[1] - pair[0] < PERIOD / 2, "{:?}", pair[1] - pair[0]);
    }

    weir.signal(Signal::SIGHUP);
    let reloading = socket.await_text("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    socket.await_text("READY=1");

    // Only the worker's thread is halted, as a debugger halts one; the control core goes on.
    let worker = weir.thread("weir-worker-0");
    ptrace::seize(worker, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(worker).unwrap();
    waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
    weir.wait_for("worker 0 on core 1 has stood still for");
    socket.hear(Duration::from_millis(100), "");
    let heard = socket.hear(PERIOD, "");
    let fed = heard.iter().any(|(_, text)| text.contains("WATCHDOG=1"));
    assert!(!fed, "fed while a worker stands still: {heard:?}");
    ptrace::detach(worker, None).unwrap();
    socket.await_text("WATCHDOG=1");
    weir.wait_for("worker 0 on core 1 moves again");

    weir.signal(Signal::SIGTERM);
    socket.await_text("STOPPING=1");
    let status = weir.end();
    assert!(status.success(), "{status}:\n{}", weir.log());
}

#[test]
fn of_a_thousand_changes_in_a_row_none_is_lost_and_few_are_built() {
    let mut weir = Weir::start(tempfile::tempdir().unwrap(), CONFIG, &[], &[]);
    let clients = [weir.client(), weir.client()];
    let before = clients[0].status().unwrap();
    let mut last = 0;
    for change in 0..1_000 {
        // Each is an edit of its own, and adds to what was before: one that is lost is missed.
        let mut edit = clients[change % 2].edit(LIMIT).unwrap();
        let mut pool = edit.base().clone();
        pool.services[0].backends[change % 2].weight += 1;
        last = edit.commit(&pool).unwrap();
    }
    assert_eq!(last, before.generation + 1_000);
    let edit = clients[0].edit(LIMIT).unwrap();
    let outcome = edit.wait(last, LIMIT).unwrap();
    assert_eq!(outcome, Outcome::Acknowledged { workers: 1 });
    drop(edit);
    let running = clients[0].running().unwrap().pool;
    let backends = running.services[0].backends.iter();
    let weights: Vec<u32> = backends.map(|backend| backend.weight).collect();
    assert_eq!(weights, [501, 501]);
    let after = clients[0].status().unwrap();
    assert!(after.refusals.is_empty(), "{:?}", after.refusals);
    let built = after.tables_built - before.tables_built;
    assert!((1..500).contains(&built), "{built} of 1,000 were built");
    stopped_in_order(&mut weir);
}

#[test]
fn a_reload_that_is_refused_leaves_everything_as_it_was_and_is_told() {
    let mut weir = Weir::start(tempfile::tempdir().unwrap(), CONFIG, &[], &[]);
    let client = weir.client();
    let file = weir.folder.path().join("lb1.toml");
    let (was, generation) = (client.running().unwrap().pool, client.status().unwrap());
    let third = "[[service.backend]]\naddress = \"192.0.2.13\"\n";
    let secured = "[service.health]\nkind = \"https\"\n\
                   tls = { verify = true, ca = \"/nowhere/ca.pem\" }\n";
    let clash = CONFIG[CONFIG.find("[[service]]").unwrap()..].replace("\"web\"", "\"twin\"");
    // What is broken: its form, its sense, a file that it names.
    for (broken, why) in [
        (format!("{CONFIG}{third}port ="), "lb1.toml:"),
        (format!("{CONFIG}{third}{clash}"), "twin"),
        (
            format!("{CONFIG}{third}").replacen(
                "[[service.backend]]",
                &format!("{secured}[[service.backend]]"),
                1,
            ),
            "/nowhere/ca.pem",
        ),
    ] {
        std::fs::write(&file, &broken).unwrap();
        let told = |client: &Client| {
            let events = client.events(0).unwrap().into_iter();
            let refused = events.filter(|event| event.kind == EventKind::Refused);
            refused
                .filter(|event| {
                    event.text.starts_with("reload refused: ") && event.text.contains(why)
                })
                .count()
        };
        // As `weirctl reload` asks, which ends with 1 by this answer.
        let Err(ClientError::Refused(reason)) = client.ask(&Question::Reload, LIMIT) else {
            panic!("{why} is not refused")
        };
        assert!(reason.contains(why), "{reason}");
        assert_eq!(told(&client), 1, "{why}");
        weir.signal(Signal::SIGHUP);
        let begin = Instant::now();
        while told(&client) < 2 {
            assert!(begin.elapsed() < LIMIT, "{}", weir.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(client.running().unwrap().pool, was);
        assert_eq!(client.status().unwrap().generation, generation.generation);
    }
    // Once it is mended, the next one does it.
    std::fs::write(&file, format!("{CONFIG}{third}")).unwrap();
    let answer = client.ask(&Question::Reload, LIMIT).unwrap();
    assert!(matches!(answer, Answer::Reloaded { .. }), "{answer:?}");
    assert_eq!(client.running().unwrap().pool.services[0].backends.len(), 3);
    stopped_in_order(&mut weir);
}

#[test]
fn a_reload_reads_the_files_of_checks_again_though_nothing_else_changed() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, include_str!("data/ca.pem")).unwrap();
    let secured = format!(
        "[service.health]\nkind = \"https\"\ntls = {{ verify = true, ca = {ca:?} }}\n\
         [[service.backend]]"
    );
    let config = CONFIG.replacen("[[service.backend]]", &secured, 1);
    let mut weir = Weir::start(folder, &config, &[], &[]);
    let client = weir.client();
    let reload = || match client.ask(&Question::Reload, LIMIT) {
        Ok(Answer::Reloaded { changes, .. }) => Ok(changes),
        Err(ClientError::Refused(reason)) => Err(reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(reload(), Ok(Vec::new()));
    std::fs::write(&ca, "nothing of the kind").unwrap();
    let reason = reload().unwrap_err();
    assert!(reason.contains("ca.pem"), "{reason}");
    std::fs::write(&ca, include_str!("data/another-ca.pem")).unwrap();
    assert_eq!(reload(), Ok(Vec::new()));
    stopped_in_order(&mut weir);
}

#[test]
fn systemd_finds_nothing_to_complain_of_in_the_unit() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/systemd/weir@.service");
    // The programs need not be installed for the rest to be right.
    let text = std::fs::read_to_string(unit).unwrap();
    let text = text.replace("/usr/local/bin/weir", "/bin/true");
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("weir@.service");
    std::fs::write(&copy, text).unwrap();
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&copy)
        .output()
        .expect("systemd-analyze is in Debian's package systemd");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}
