//! Each kind of health check against real servers that die, hang, lie and flap: a DNS server, nginx, TLS, and hosts that
//! answer no ping. How long a dead server goes on getting new flows is measured and printed.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weir_e2e::checks::{
    self, INTERVAL, await_fall, await_states, health, must_say, numbers, states,
};
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::load::requests;
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::Process;
use weir_e2e::quic::Standing;
use weir_e2e::transfer::Echo;
use weir_e2e::{Result, ensure, host, sockets, wait};

const BACKENDS: usize = 3;

fn backends(port: u16) -> Vec<String> {
    checks::backends((1..=BACKENDS).map(backend4), port)
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
    let before = numbers(&weir, "dns", "new_flows")?;
    ensure!(
        ask(&lab.client, 40)? == 40,
        "a question was lost to a server that is down"
    );
    ensure!(
        numbers(&weir, "dns", "new_flows")?[0] == before[0],
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
    let _nginx = Nginx::start_all(&lab)?;
    // What listens where QUIC is expected: one that sends everything back, one that says nothing, and a server.
    let mut echo = Echo::new();
    let (mut silent, mut serving) = (Vec::new(), Vec::new());
    for (i, ns) in lab.backends.iter().enumerate() {
        let at = format!("{}:4433", backend4(i + 1)).parse()?;
        match i {
            0 => echo.udp(sockets::udp(ns, at)?)?,
            1 => silent.push(sockets::udp(ns, at)?),
            _ => serving.push(Standing::start(ns, at)?),
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
        ("tcp-takes", "87", 9006, "kind = \"tcp\"\nport = 9000"),
        ("ping", "88", 9007, "kind = \"icmp\""),
    ] {
        config = service(config, name, vip_port, port, check);
    }
    // One server each, so that each has its own reason.
    for (name, vip_port, n) in [
        ("quic-echoes", "90", 1),
        ("quic-silent", "91", 2),
        ("quic", "92", 3),
    ] {
        let one = [format!("{} 9005", backend4(n))];
        config = config
            .service(name, "nat", "udp", NAT_VIP4, vip_port, &one)
            .service_text(&health("kind = \"quic\"\nport = 4433"));
    }
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    let open = ["fail-open", "fail-open", "fail-open"];
    for service in [
        "http-hangs",
        "https-hangs",
        "https-lies",
        "http-status",
        "http-body",
    ] {
        await_states(&weir, service, &open)?;
    }
    for (service, why) in [
        ("quic-echoes", "another answer than expected"),
        ("quic-silent", "no answer within"),
    ] {
        await_states(&weir, service, &["fail-open"])?;
        must_say(&weir, service, why)?;
    }
    await_states(&weir, "quic", &["up"])?;
    serving[0].stop(true);
    await_fall(&weir, "quic, hanging", "quic", &["fail-open"])?;
    must_say(&weir, "quic", "no answer within")?;
    serving[0].stop(false);
    await_states(&weir, "quic", &["up"])?;
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
fn a_web_server_that_hangs_or_lies_gets_no_connections_until_it_is_itself_again() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut nginx = Vec::new();
    let page = |n: usize| lab.dir().join(format!("page-{n}"));
    for (i, ns) in lab.backends.iter().enumerate() {
        let (n, dir) = (i + 1, lab.dir().display());
        std::fs::write(page(n), "all is well\n")?;
        let servers = format!(
            "server {{ listen 8090; location / {{ root {dir}; try_files /page-{n} =404; }} }}\n"
        );
        nginx.push(Nginx::start_with(
            ns,
            lab.dir(),
            &format!("b{n}"),
            &servers,
        )?);
    }
    let name = instance();
    let config = Config::one_armed(&name)
        .service("web", "nat", "tcp", NAT_VIP4, "80", &backends(8090))
        .service_text(&health("kind = \"http\"\nbody = \"is well\""));
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    let all_up = ["up", "up", "up"];
    await_states(&weir, "web", &all_up)?;
    let no_request_to = |n: usize| -> Result {
        let before = numbers(&weir, "web", "new_flows")?;
        requests(&lab.client, NAT_VIP4, 40)?;
        let after = numbers(&weir, "web", "new_flows")?;
        ensure!(
            after[n - 1] == before[n - 1],
            "server {n} got connections: {before:?}, then {after:?}"
        );
        Ok(())
    };

    // Its kernel takes connections, and nobody reads them.
    nginx[0].signal(Signal::SIGSTOP)?;
    await_fall(&weir, "http, hanging", "web", &["down", "up", "up"])?;
    must_say(&weir, "web", "connected, but not done within")?;
    no_request_to(1)?;
    nginx[0].signal(Signal::SIGCONT)?;
    await_states(&weir, "web", &all_up)?;

    // It answers at once, and with another page.
    std::fs::write(page(2), "sorry, no database\n")?;
    await_fall(&weir, "http, another page", "web", &["up", "down", "up"])?;
    must_say(&weir, "web", "does not hold the text")?;
    no_request_to(2)?;
    std::fs::write(page(2), "all is well\n")?;
    await_states(&weir, "web", &all_up)?;

    // The page is there, under another status.
    std::fs::remove_file(page(3))?;
    await_fall(&weir, "http, no page", "web", &["up", "up", "down"])?;
    must_say(&weir, "web", "404")?;
    no_request_to(3)
}

#[test]
fn a_server_that_comes_and_goes_is_held_down_by_tcp_and_by_http() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut nginx = Nginx::start_all(&lab)?;
    let name = instance();
    let check = |kind: &str| {
        format!(
            "[service.health]\nkind = \"{kind}\"\ninterval = \"200ms\"\ntimeout = \"150ms\"\nfall = 1\nrise = 1\n\
             flap = {{ changes = 4, window = \"60s\", hold = \"4s\" }}\n"
        )
    };
    let services = ["http", "tcp"];
    let mut config = Config::one_armed(&name);
    for (service, port) in services.into_iter().zip([8080, 80]) {
        let (vip_port, listed) = (port.to_string(), backends(port));
        config = config
            .service(service, "nat", "tcp", NAT_VIP4, &vip_port, &listed)
            .service_text(&check(service));
    }
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    let await_both = |wanted: [&str; BACKENDS]| -> Result {
        for service in services {
            await_states(&weir, service, &wanted)?;
        }
        Ok(())
    };
    await_both(["up", "up", "up"])?;
    for time in 0..2 {
        nginx.truncate(2);
        await_both(["up", "up", "down"])?;
        let again = format!("again-{time}");
        nginx.push(Nginx::start(&lab.backends[2], lab.dir(), &again)?);
        await_both(["up", "up", "up"])?;
    }
    nginx.truncate(2);
    await_both(["up", "up", "held-down"])?;
    // It is there again, and has to wait.
    nginx.push(Nginx::start(&lab.backends[2], lab.dir(), "last")?);
    await_both(["up", "up", "up"])?;
    let events = weir.ctl(&["events"])?;
    for service in services {
        for text in [
            "is held down for 4s, having changed too often",
            "is no longer held down, and is up",
        ] {
            let of = format!("{service}: ");
            let mut lines = events.lines();
            let said = lines.any(|line| line.contains(text) && line.contains(&of));
            ensure!(said, "no {text:?} of {service}:\n{events}");
        }
    }
    Ok(())
}

#[test]
fn a_server_that_flaps_is_held_down_ever_longer_and_events_say_so() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let _nginx = Nginx::start_all(&lab)?;
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
