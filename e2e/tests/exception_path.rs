//! A way to the kernel: on the NIC that weir owns, TCP, SSH and a BGP session with BIRD work by the kernel's own stack,
//! and a flood at weir's own address harms neither them nor what weir balances.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use weir_e2e::bird::Bird;
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, LAN_ADDRESSES, Lab, NAT_VIP4, WAN_ADDRESSES, backend4, instance, wire};
use weir_e2e::load::{Load, requests};
use weir_e2e::memif::{self, End};
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::{Process, capture};
use weir_e2e::ssh::Sshd;
use weir_e2e::{Failure, Result, ensure, host, wait};

/// The MAC that DPDK gives a `net_pcap` port.
const PCAP_MAC: &str = "02:70:63:61:70:00";

/// A service with one backend that is checked all the while: checks and the kernel share weir's addresses.
fn with_service(config: Config) -> Config {
    let health = "[service.health]\nkind = \"tcp\"\ninterval = \"200ms\"\ntimeout = \"1s\"\nfall = 2\nrise = 1\n";
    let backends = [format!("{} 8080", backend4(1))];
    config
        .service("web", "nat", "tcp", NAT_VIP4, "80", &backends)
        .service_text(health)
}

fn two_armed(name: &str) -> Config {
    let config = Config::new(name)
        .port("wan", "net_af_xdp0,iface=eth0", WAN_ADDRESSES)
        .port_key("kernel = \"weir-wan\"")
        .port("lan", "net_af_xdp1,iface=eth1", LAN_ADDRESSES)
        .port_key("kernel = \"weir-lan\"");
    with_service(config)
}

/// weir's BIRD: announces the VIP to a neighbour, and holds for no more than nine seconds.
fn announcing(own: &str, neighbour: &str) -> String {
    format!(
        "router id 192.0.2.2;\nprotocol device {{}}\n\
         protocol static vips {{ ipv4; route {NAT_VIP4}/32 blackhole; }}\n\
         protocol bgp upstream {{ local {own} as 65010; neighbor {neighbour} as 65020; hold time 9;\n\
         ipv4 {{ import none; export where proto = \"vips\"; }}; }}\n"
    )
}

/// The neighbour's BIRD: what it is told goes into its kernel.
fn routing(own: &str, neighbour: &str) -> String {
    format!(
        "router id 192.0.2.10;\nprotocol device {{}}\nprotocol kernel {{ ipv4 {{ import none; export all; }}; }}\n\
         protocol bgp weir {{ local {own} as 65020; neighbor {neighbour} as 65010; hold time 9;\n\
         ipv4 {{ import all; export none; }}; }}\n"
    )
}

/// Sends a megabyte to a listener and has it back.
fn echo(server: &Namespace, client: &Namespace, address: &str) -> Result {
    const AMOUNT: usize = 1 << 20;
    let listener = server.run(|| TcpListener::bind(address))??;
    let address: SocketAddr = listener.local_addr()?;
    let reflect = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut bytes = vec![0; AMOUNT];
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)
    });
    let limit = Duration::from_secs(5);
    let mut stream = client.run(|| TcpStream::connect_timeout(&address, limit))??;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let sent: Vec<u8> = (0..AMOUNT).map(|n| (n * 31 % 251) as u8).collect();
    stream.write_all(&sent)?;
    let mut back = vec![0; AMOUNT];
    stream.read_exact(&mut back)?;
    ensure!(back == sent, "{address}: other bytes came back");
    match reflect.join() {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::new("the listener's thread panicked")),
    }
}

/// A counter of weir's, over all workers and the control core.
fn counter(weir: &Daemon, name: &str) -> Result<u64> {
    let stats = weir.ctl_json(&["stats"])?;
    let workers = stats["workers"].as_array().into_iter().flatten();
    let blocks = workers.chain([&stats["control"]]);
    Ok(blocks.filter_map(|block| block[name].as_u64()).sum())
}

fn dropped(weir: &Daemon, reason: &str) -> Result<u64> {
    Ok(weir.ctl_json(&["stats"])?["drops"][reason]
        .as_u64()
        .unwrap_or(0))
}

#[test]
fn tcp_and_ssh_work_by_the_port_that_weir_owns() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::Two, 1)?;
    let _nginx = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let name = instance();
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &two_armed(&name).text())?;

    let shown = lab.balancer.ip("addr show dev weir-wan")?;
    for expected in ["192.0.2.2/24", "2001:db8:1::2/64", "mtu 1500", "LOWER_UP"] {
        ensure!(shown.contains(expected), "no {expected} in {shown}");
    }
    // In and out, both families, and by the other port.
    echo(&lab.balancer, &lab.client, "192.0.2.2:7000")?;
    echo(&lab.balancer, &lab.client, "[2001:db8:1::2]:7000")?;
    echo(&lab.client, &lab.balancer, "192.0.2.10:7000")?;
    echo(&lab.client, &lab.balancer, "[2001:db8:1::10]:7000")?;
    echo(&lab.balancer, &lab.backends[0], "10.0.0.1:7000")?;

    let sshd = Sshd::start(&lab.balancer, lab.dir(), &["192.0.2.2", "2001:db8:1::2"])?;
    let said = wait::until("an SSH session", Duration::from_secs(15), || {
        sshd.run(&lab.client, "192.0.2.2", "echo over $SSH_CONNECTION")
            .ok()
    })?;
    ensure!(
        said.contains("over 192.0.2.10 ") && said.contains(" 192.0.2.2 22"),
        "{said}"
    );
    let bulk = sshd.run(
        &lab.client,
        "2001:db8:1::2",
        "head -c 3000000 /dev/zero | tr '\\0' x",
    )?;
    ensure!(bulk.len() == 3_000_000, "{} bytes came by ssh", bulk.len());

    // All the while weir balances, and its checks are answered to it and not to the kernel.
    requests(&lab.client, NAT_VIP4, 20)?;
    ensure!(
        weir.ctl(&["service", "show", "web"])?.contains("up"),
        "the backend is not up"
    );
    ensure!(
        counter(&weir, "to_kernel")? > 100 && counter(&weir, "from_kernel")? > 100,
        "hardly a frame was counted"
    );
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "{errors}");

    ensure!(
        weir.terminate()?.success(),
        "weir did not end well:\n{}",
        weir.log()
    );
    let gone = lab.balancer.ip("link show dev weir-wan");
    ensure!(gone.is_err(), "the interface outlived weir: {gone:?}");
    Ok(())
}

#[test]
fn an_interface_that_is_there_already_is_refused_with_its_name() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::Two, 0)?;
    lab.balancer
        .ip("link add weir-wan type veth peer name other")?;
    let name = instance();
    let path = lab.dir().join("weir.toml");
    std::fs::write(&path, two_armed(&name).text())?;
    let mut weir = Daemon::launch(&lab.balancer, lab.dir(), &name, &path)?;
    let status = weir.process().wait(Duration::from_secs(20))?;
    let log = weir.log();
    ensure!(status.code() == Some(1), "{status}: {log}");
    ensure!(log.contains("port wan: TAP interface weir-wan"), "{log}");
    Ok(())
}

/// Datagrams from a namespace to `to`, as fast as one core gives them.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<u64>>,
}

impl Flood {
    fn start(from: &Namespace, to: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0"))??;
        socket.connect(to)?;
        let stopped = Arc::clone(&stop);
        let send = move || {
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                // A refusal told by ICMP, or a full queue, is no reason to stop.
                sent += u64::from(socket.send(&[0; 18]).is_ok());
            }
            sent
        };
        Ok(Self {
            stop,
            threads: vec![std::thread::spawn(send)],
        })
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads
            .into_iter()
            .filter_map(|thread| thread.join().ok())
            .sum()
    }
}

#[test]
fn a_bgp_session_announces_the_vip_and_survives_a_flood_at_its_own_address() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::Two, 1)?;
    let _nginx = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let name = instance();
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &two_armed(&name).text())?;
    // The way to the VIP is to be learned, and weir's own port leads nowhere else.
    lab.client.ip("route del 198.51.100.0/24 via 192.0.2.2")?;
    let router = Bird::start(
        &lab.client,
        lab.dir(),
        "router",
        &routing("192.0.2.10", "192.0.2.2"),
    )?;
    let own = Bird::start(
        &lab.balancer,
        lab.dir(),
        "weir",
        &announcing("192.0.2.2", "192.0.2.10"),
    )?;
    let before = (
        own.wait_established("upstream")?,
        router.wait_established("weir")?,
    );
    wait::until_true("the route to the VIP", Duration::from_secs(10), || {
        let routes = lab.client.ip("route show 198.51.100.10");
        routes.is_ok_and(|routes| routes.contains("via 192.0.2.2"))
    })?;
    requests(&lab.client, NAT_VIP4, 20)?;

    // Three times as long as the session holds without a word.
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    let (received, began) = (counter(&weir, "received")?, Instant::now());
    let flood = Flood::start(&lab.client, "192.0.2.2:179")?;
    std::thread::sleep(Duration::from_secs(27));
    let sent = flood.stop();
    let took = began.elapsed().as_secs_f64();
    let rate = (counter(&weir, "received")? - received) as f64 / took;
    // Sender, wire and servers share one core: what is lost on the way to weir is not weir's to answer for.
    let served = load.stop()?.requests;
    let (to_kernel, cut) = (counter(&weir, "to_kernel")?, dropped(&weir, "kernel_rate")?);
    eprintln!(
        "{took:.1} s: {sent} datagrams sent, {rate:.0} frames/s received, {to_kernel} to the kernel, {cut} cut, \
         {served} requests served"
    );
    ensure!(cut > 200_000, "of {sent} datagrams {cut} were cut");
    let after = (own.session("upstream")?, router.session("weir")?);
    ensure!(
        after == before,
        "the session flapped: {before:?}, then {after:?}\n{}",
        router.log()
    );
    wait::until_true("the backend to be up", Duration::from_secs(5), || {
        let shown = weir.ctl(&["service", "show", "web"]);
        shown.is_ok_and(|shown| shown.contains("up"))
    })?;
    requests(&lab.client, NAT_VIP4, 20)?;
    for full in ["control_queue_full", "kernel_queue_full", "kernel_refused"] {
        let count = dropped(&weir, full)?;
        ensure!(count == 0, "{full}: {count}");
    }
    Ok(())
}

#[test]
fn the_manuals_configuration_for_bird_is_one() -> Result {
    let manual = std::fs::read_to_string(host::workspace().join("docs/operations.md"))?;
    let example = manual
        .split("```")
        .find(|part| part.contains("protocol bgp"));
    let example =
        example.ok_or_else(|| Failure::new("the manual has no configuration for BIRD"))?;
    let dir = tempfile::TempDir::with_prefix("weir-e2e-")?;
    let path = dir.path().join("bird.conf");
    std::fs::write(&path, example)?;
    let mut check = Command::new("bird");
    capture(check.arg("-p").arg("-c").arg(path)).map(drop)
}

/// `weir-pktgen` with these words, a JSON report and a device, away from the worker's core.
fn pktgen(namespace: &Namespace, words: &str, device: &str) -> Result<Command> {
    let mut command = namespace.command(host::binary("weir-pktgen")?);
    command.args(words.split_whitespace());
    command.args(["--json", "--core", "0", "--device", device]);
    Ok(command)
}

fn report(process: &mut Process) -> Result<Value> {
    process.must_run()?;
    process.signal(Signal::SIGINT)?;
    let status = process.wait(Duration::from_secs(20))?;
    let log = process.log();
    let line = log.lines().rev().find(|line| line.starts_with('{'));
    let line = line.ok_or_else(|| Failure::new(format!("no report ({status}):\n{log}")))?;
    Ok(serde_json::from_str(line)?)
}

fn number(report: &Value, path: &str) -> Result<u64> {
    let found = report.pointer(path).and_then(Value::as_u64);
    found.ok_or_else(|| Failure::new(format!("no {path} in {report}")))
}

#[test]
fn a_million_frames_a_second_at_an_own_address_cost_balanced_traffic_nothing() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let (balancer, router) = (Namespace::new("balancer")?, Namespace::new("router")?);
    wire(&balancer, "eth0", &router, "eth0")?;
    router.ip("addr add 192.0.2.10/24 dev eth0")?;
    let dir = tempfile::TempDir::with_prefix("weir-e2e-")?;
    let server = |index, name| memif::device(index, dir.path(), name, End::Server);
    let client = |name| memif::device(0, dir.path(), name, End::Client);
    // A device that plays a file over and over: the flood comes as fast as the worker takes it, and needs no core of
    // its own.
    let file = dir.path().join("flood.pcap");
    let words = format!(
        "pcap --vip 172.16.0.2 --port 179 --protocol tcp --clients 198.18.0.0/15 --flows 4000 --count 4000 \
         --dst-mac {PCAP_MAC} --out {}",
        file.display()
    );
    let mut flood = Command::new(host::binary("weir-pktgen")?);
    capture(flood.args(words.split_whitespace()))?;
    let flood = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
    let name = instance();
    let neighbours = "[[route]]\nto = \"198.18.0.0/15\"\nvia = \"203.0.113.1\"\n\
                      [[neighbor]]\naddress = \"203.0.113.1\"\nmac = \"02:00:00:00:00:c1\"\n\
                      [[neighbor]]\naddress = \"10.0.0.11\"\nmac = \"02:00:0a:00:00:0b\"";
    let config = Config::new(&name)
        .port("bgp", "net_af_xdp0,iface=eth0", r#""192.0.2.2/24""#)
        .port_key("kernel = \"weir-bgp\"")
        .port("flood", &flood, r#""172.16.0.2/24""#)
        .port_key("kernel = \"weir-flood\"")
        .port("lan", &server(1, "lan"), r#""10.0.0.1/24""#)
        .port("wan", &server(0, "wan"), r#""203.0.113.2/24""#)
        .port_key(neighbours)
        .service(
            "web",
            "nat",
            "udp",
            NAT_VIP4,
            "80",
            &[format!("{} 8080", backend4(1))],
        );
    let weir = Daemon::start(&balancer, dir.path(), &name, &config.text())?;
    let peer = Bird::start(
        &router,
        dir.path(),
        "router",
        &routing("192.0.2.10", "192.0.2.2"),
    )?;
    let own = Bird::start(
        &balancer,
        dir.path(),
        "weir",
        &announcing("192.0.2.2", "192.0.2.10"),
    )?;

    let reflect = pktgen(
        &balancer,
        "reflect --mode nat --backend 10.0.0.11",
        &client("lan"),
    )?;
    let mut backends = Process::start(
        "weir-pktgen reflect",
        &reflect,
        &dir.path().join("reflect.log"),
    )?;
    wait::until_true("the link to the backend", Duration::from_secs(10), || {
        let status = weir.ctl_json(&["status"]);
        status.is_ok_and(|status| status["ports"][2]["link"] == "up")
    })?;
    let words = format!(
        "run --vip {NAT_VIP4} --protocol udp --next-hop 203.0.113.2 --address 203.0.113.1 --clients 198.18.0.0/15 \
         --src-mac 02:00:00:00:00:c1 --flows 1000 --rate 10k --duration 120s"
    );
    let run = pktgen(&balancer, &words, &client("wan"))?;
    let mut clients = Process::start("weir-pktgen run", &run, &dir.path().join("run.log"))?;
    let before = (
        own.wait_established("upstream")?,
        peer.wait_established("weir")?,
    );
    wait::until_true("balanced traffic", Duration::from_secs(20), || {
        weir.new_flows("web").is_ok_and(|flows| flows >= 1_000)
    })?;

    wait::until_true("the flood", Duration::from_secs(20), || {
        dropped(&weir, "kernel_rate").is_ok_and(|cut| cut > 100_000)
    })?;
    let (cut, began) = (dropped(&weir, "kernel_rate")?, Instant::now());
    std::thread::sleep(Duration::from_secs(27));
    let took = began.elapsed().as_secs_f64();
    let rate = (dropped(&weir, "kernel_rate")? - cut) as f64 / took;
    let after = (own.session("upstream")?, peer.session("weir")?);
    let (clients, _) = (report(&mut clients)?, report(&mut backends)?);
    let stats = weir.ctl(&["stats"])?;
    eprintln!("{took:.1} s of {rate:.0} frames/s cut\nclients: {clients}\n{stats}");
    ensure!(
        rate > 1_000_000.0,
        "the flood came at {rate:.0} frames/s only"
    );
    ensure!(
        after == before,
        "the session flapped: {before:?}, then {after:?}\n{}",
        peer.log()
    );
    ensure!(
        number(&clients, "/loss/packets")? == 0,
        "balanced packets were lost: {clients}"
    );
    ensure!(
        number(&clients, "/sent/packets")? > 100_000,
        "hardly anything was balanced: {clients}"
    );
    ensure!(
        dropped(&weir, "control_queue_full")? == 0,
        "the control core's queue was full:\n{stats}"
    );
    Ok(())
}
