//! Each kind of health check against real servers that die, hang, lie and flap: a DNS server, nginx, TLS, and hosts that
//! answer no ping. How long a dead server goes on getting new flows is measured and printed.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::Process;
use weir_e2e::transfer::Echo;
use weir_e2e::{Result, ensure, host, sockets, wait};

const BACKENDS: usize = 3;
const INTERVAL: u64 = 400;
const TIMEOUT: u64 = 250;
const FALL: u64 = 3;
/// What the machine may take on top, since other tests share it.
const SLACK: Duration = Duration::from_millis(500);
/// From a failure to no new flows, at most.
const BOUND: Duration = Duration::from_millis(FALL * INTERVAL + TIMEOUT);

fn health(kind: &str) -> String {
    format!(
        "[service.health]\n{kind}\ninterval = \"{INTERVAL}ms\"\ntimeout = \"{TIMEOUT}ms\"\n\
         fall = {FALL}\nrise = 2\n"
    )
}

fn backends(port: u16) -> Vec<String> {
    (1..=BACKENDS)
        .map(|n| format!("{} {port}", backend4(n)))
        .collect()
}

fn states(weir: &Daemon, service: &str) -> Result<Vec<String>> {
    let listed = weir.ctl_json(&["backend", "list", service])?;
    let listed = listed.as_array().cloned().unwrap_or_default();
    let state = |backend: &serde_json::Value| backend["state"].as_str().unwrap_or("?").to_owned();
    Ok(listed.iter().map(state).collect())
}

fn await_states(weir: &Daemon, service: &str, wanted: &[&str]) -> Result<Duration> {
    let started = Instant::now();
    let reached = wait::until_true(
        &format!("{service} to be {wanted:?}"),
        Duration::from_secs(15),
        || states(weir, service).is_ok_and(|states| states == wanted),
    );
    if reached.is_err() {
        println!(
            "{service}: {:?}\n{}",
            states(weir, service),
            weir.ctl(&["events", "--last", "20"])?
        );
    }
    reached.map(|()| started.elapsed())
}

/// As `await_states` after something went wrong, within the promised time.
fn await_fall(weir: &Daemon, what: &str, service: &str, wanted: &[&str]) -> Result {
    let took = await_states(weir, service, wanted)?;
    println!("{what}: no new flows after {took:?}, promised within {BOUND:?}");
    ensure!(
        took <= BOUND + SLACK,
        "{what}: no new flows only after {took:?}"
    );
    Ok(())
}

/// Flows that each backend has begun.
fn new_flows(weir: &Daemon, service: &str) -> Result<Vec<u64>> {
    let listed = weir.ctl_json(&["backend", "list", service])?;
    let listed = listed.as_array().cloned().unwrap_or_default();
    let flows = listed.iter().map(|backend| backend["new_flows"].as_u64());
    Ok(flows.map(Option::unwrap_or_default).collect())
}

/// A DNS server that knows one name.
fn dnsmasq(ns: &Namespace, dir: &Path, n: usize, answer: &str) -> Result<Process> {
    let mut command = ns.command("dnsmasq");
    command
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
        ])
        .args([
            "--user=root",
            "--pid-file",
            "--bind-interfaces",
            "--log-facility=-",
        ])
        .arg(format!("--listen-address={}", backend4(n)))
        .arg(format!("--host-record=up.test,{answer}"));
    Process::start(
        "dnsmasq",
        &command,
        &dir.join(format!("dns{n}-{answer}.log")),
    )
}

/// A question for the address of `up.test` (RFC 1035, section 4), under this number.
fn question(number: u16) -> Vec<u8> {
    let mut query = number.to_be_bytes().to_vec();
    query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.extend(b"\x02up\x04test\x00\x00\x01\x00\x01");
    query
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("hex:".to_owned(), |text, byte| {
        text + &format!("{byte:02x}")
    })
}

/// Asks the VIP, each time from another port; how many were answered.
fn ask(client: &Namespace, count: u16) -> Result<usize> {
    let mut answered = 0;
    for number in 0..count {
        let socket: UdpSocket = sockets::udp(client, "0.0.0.0:0".parse()?)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        socket.send_to(&question(number), format!("{NAT_VIP4}:53"))?;
        let mut answer = [0; 512];
        if let Ok((length, _)) = socket.recv_from(&mut answer) {
            ensure!(
                answer[..2] == number.to_be_bytes(),
                "an answer to another question"
            );
            ensure!(
                answer[..length].ends_with(&[192, 0, 2, 53]),
                "a wrong address"
            );
            answered += 1;
        }
    }
    Ok(answered)
}

#[test]
fn a_dns_server_that_dies_hangs_or_lies_gets_no_questions() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut servers = Vec::new();
    for (i, ns) in lab.backends.iter().enumerate() {
        servers.push(dnsmasq(ns, lab.dir(), i + 1, "192.0.2.53")?);
    }
    let name = instance();
    let check = format!(
        "kind = \"udp\"\npayload = \"{}\"\nanswer = \"{}\"",
        hex(&question(0x7765)),
        hex(&[192, 0, 2, 53])
    );
    let config = Config::one_armed(&name)
        .service("dns", "nat", "udp", NAT_VIP4, "53", &backends(53))
        .service_text(&health(&check));
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    await_states(&weir, "dns", &["up", "up", "up"])?;
    ensure!(ask(&lab.client, 40)? >= 38, "questions are not answered");

    // It hangs: its socket takes questions and nobody reads them.
    servers[0].signal(Signal::SIGSTOP)?;
    await_fall(&weir, "dns, hanging", "dns", &["down", "up", "up"])?;
    let before = new_flows(&weir, "dns")?;
    ensure!(
        ask(&lab.client, 40)? == 40,
        "a question was lost to a server that is down"
    );
    ensure!(
        new_flows(&weir, "dns")?[0] == before[0],
        "a hanging server got flows"
    );
    servers[0].signal(Signal::SIGCONT)?;
    await_states(&weir, "dns", &["up", "up", "up"])?;

    // It is killed: the kernel says that the port is unreachable.
    servers[1].kill()?;
    await_fall(&weir, "dns, killed", "dns", &["up", "down", "up"])?;

    // It lies.
    servers[1] = dnsmasq(&lab.backends[1], lab.dir(), 2, "192.0.2.66")?;
    std::thread::sleep(3 * Duration::from_millis(INTERVAL));
    ensure!(
        states(&weir, "dns")? == ["up", "down", "up"],
        "a liar counts as up"
    );
    ensure!(ask(&lab.client, 40)? == 40, "a question went to a liar");
    let shown = weir.ctl(&["service", "show", "dns"])?;
    ensure!(shown.contains("another answer than expected"), "{shown}");
    Ok(())
}

#[test]
fn servers_that_hang_or_lie_are_down_whatever_the_kind_of_check() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut named = lab.backends.iter().enumerate();
    let _nginx = named
        .by_ref()
        .map(|(i, ns)| Nginx::start(ns, lab.dir(), &format!("b{}", i + 1)))
        .collect::<Result<Vec<_>>>()?;
    // What listens where QUIC is expected: one that sends everything back, and two that say nothing.
    let mut echo = Echo::new();
    let mut silent = Vec::new();
    for (i, ns) in lab.backends.iter().enumerate() {
        let socket = sockets::udp(ns, format!("{}:4433", backend4(i + 1)).parse()?)?;
        if i == 0 {
            echo.udp(socket)?;
        } else {
            silent.push(socket);
        }
    }
    // What listens where HTTP and TLS are expected, and only takes connections.
    let mut deaf = Vec::new();
    for (i, ns) in lab.backends.iter().enumerate() {
        deaf.push(sockets::listen(
            ns,
            format!("{}:9000", backend4(i + 1)).parse()?,
        )?);
    }
    let name = instance();
    let service = |config: Config, name: &str, vip_port: &str, port: u16, check: &str| {
        config
            .service(name, "nat", "tcp", NAT_VIP4, vip_port, &backends(port))
            .service_text(&health(check))
    };
    let mut config = Config::one_armed(&name);
    for (name, vip_port, port, check) in [
        ("http-hangs", "81", 9000, "kind = \"http\""),
        ("https-hangs", "82", 9001, "kind = \"https\"\nport = 9000"),
        ("https-lies", "83", 9002, "kind = \"https\"\nport = 8080"),
        (
            "http-status",
            "84",
            9003,
            "kind = \"http\"\nport = 8080\nstatus = 204",
        ),
        (
            "http-body",
            "85",
            9004,
            "kind = \"http\"\nport = 8080\nbody = \"no such text\"",
        ),
        ("quic-lies", "86", 9005, "kind = \"quic\"\nport = 4433"),
        ("tcp-takes", "87", 9006, "kind = \"tcp\"\nport = 9000"),
        ("ping", "88", 9007, "kind = \"icmp\""),
    ] {
        config = service(config, name, vip_port, port, check);
    }
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    let open = ["fail-open", "fail-open", "fail-open"];
    for service in [
        "http-hangs",
        "https-hangs",
        "https-lies",
        "http-status",
        "http-body",
        "quic-lies",
    ] {
        await_states(&weir, service, &open)?;
    }
    // To take connections is all that is asked here.
    await_states(&weir, "tcp-takes", &["up", "up", "up"])?;
    await_states(&weir, "ping", &["up", "up", "up"])?;
    lab.backends[1].sysctl("net.ipv4.icmp_echo_ignore_all", "1")?;
    await_fall(&weir, "ping, ignored", "ping", &["up", "down", "up"])?;
    drop(deaf.remove(2));
    await_fall(&weir, "tcp, killed", "tcp-takes", &["up", "up", "down"])?;
    let events = weir.ctl(&["events"])?;
    for why in [
        "connected, but not done",
        "no answer within",
        "connection refused",
        "does not hold the text",
    ] {
        ensure!(events.contains(why), "nobody says {why:?}:\n{events}");
    }
    Ok(())
}

#[test]
fn a_server_that_flaps_is_held_down_ever_longer_and_events_say_so() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let named = lab.backends.iter().enumerate();
    let _nginx = named
        .map(|(i, ns)| Nginx::start(ns, lab.dir(), &format!("b{}", i + 1)))
        .collect::<Result<Vec<_>>>()?;
    let name = instance();
    let check = "[service.health]\nkind = \"icmp\"\ninterval = \"200ms\"\ntimeout = \"150ms\"\nfall = 1\nrise = 1\n\
                 flap = { changes = 4, window = \"60s\", hold = \"3s\" }\n";
    let config = Config::one_armed(&name)
        .service("web", "nat", "tcp", NAT_VIP4, "80", &backends(8080))
        .service_text(check);
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    await_states(&weir, "web", &["up", "up", "up"])?;
    let answers = |answers: bool| {
        let ignore = if answers { "0" } else { "1" };
        lab.backends[2].sysctl("net.ipv4.icmp_echo_ignore_all", ignore)
    };
    for _ in 0..2 {
        answers(false)?;
        await_states(&weir, "web", &["up", "up", "down"])?;
        answers(true)?;
        await_states(&weir, "web", &["up", "up", "up"])?;
    }
    answers(false)?;
    await_states(&weir, "web", &["up", "up", "held-down"])?;
    let held = Instant::now();
    answers(true)?;
    let shown = weir.ctl(&["service", "show", "web"])?;
    ensure!(shown.contains("held") && shown.contains("more"), "{shown}");
    await_states(&weir, "web", &["up", "up", "up"])?;
    println!("flapping: held down for {:?} of 3s", held.elapsed());
    ensure!(
        held.elapsed() > Duration::from_secs(2),
        "held for {:?} only",
        held.elapsed()
    );
    let events = weir.ctl(&["events"])?;
    ensure!(
        events.contains("is held down for 3s, having changed too often")
            && events.contains("is no longer held down, and is up"),
        "{events}"
    );
    // So soon again: twice as long.
    answers(false)?;
    await_states(&weir, "web", &["up", "up", "down"])?;
    answers(true)?;
    wait::until_true("it to be held again", Duration::from_secs(20), || {
        let _ = answers(false);
        std::thread::sleep(Duration::from_millis(500));
        let _ = answers(true);
        std::thread::sleep(Duration::from_millis(500));
        weir.ctl(&["events"])
            .is_ok_and(|events| events.contains("is held down for 6s"))
    })
}
