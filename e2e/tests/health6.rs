//! Checks over IPv6, outside tunnels: each kind finds real servers up, and finds out in time when one is gone.

use nix::sys::signal::Signal;
use weir_e2e::checks::{self, at, await_fall, await_states, health};
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, DSR_VIP6, Lab, NAT_VIP6, backend6, instance};
use weir_e2e::load::requests;
use weir_e2e::nginx::Nginx;
use weir_e2e::quic::Standing;
use weir_e2e::tls::{For, issue};
use weir_e2e::transfer::Echo;
use weir_e2e::{Result, ensure, host, sockets};

const BACKENDS: usize = 2;

fn backends(port: u16) -> Vec<String> {
    checks::backends((1..=BACKENDS).map(backend6), port)
}

#[test]
fn over_ipv6_each_kind_of_check_finds_real_servers_up_and_down() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let own = issue(lab.dir(), "tls", For::Name("tls.test"), None)?;
    let tls = format!(
        "server {{ listen [::]:8443 ssl; ssl_certificate {}; ssl_certificate_key {}; location / {{ return 200 \"well\\n\"; }} }}\n",
        own.cert, own.key
    );
    let mut echo = Echo::new();
    let (mut nginx, mut quic) = (Vec::new(), Vec::new());
    for (n, ns) in (1..).zip(&lab.backends) {
        nginx.push(Nginx::start_with(ns, lab.dir(), &format!("b{n}"), &tls)?);
        echo.udp(sockets::udp(ns, at(&backend6(n), 7000).parse()?)?)?;
        quic.push(Standing::start(ns, at(&backend6(n), 4433).parse()?)?);
    }
    let https = format!(
        "kind = \"https\"\nhost = \"tls.test\"\ntls = {{ verify = true, ca = \"{}\" }}",
        own.cert
    );
    let nat = |config: Config, name: &str, protocol: &str, port: u16, check: &str| {
        config
            .service(
                name,
                "nat",
                protocol,
                NAT_VIP6,
                &port.to_string(),
                &backends(port),
            )
            .service_text(&health(check))
    };
    let name = instance();
    let mut config = Config::one_armed(&name);
    for (name, protocol, port, check) in [
        ("http", "tcp", 8080, "kind = \"http\"\nbody = \"b\""),
        ("tcp", "tcp", 80, "kind = \"tcp\""),
        ("https", "tcp", 8443, &*https),
        (
            "udp",
            "udp",
            7000,
            "kind = \"udp\"\npayload = \"ping\"\nanswer = \"ping\"",
        ),
        ("quic", "udp", 4433, "kind = \"quic\""),
        ("icmp", "tcp", 81, "kind = \"icmp\""),
    ] {
        config = nat(config, name, protocol, port, check);
    }
    let direct: Vec<String> = (1..=BACKENDS).map(backend6).collect();
    let config = config
        .service("direct", "dsr-l2", "tcp", DSR_VIP6, "80", &direct)
        .service_text(&health("kind = \"http\""));
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    for service in ["http", "tcp", "https", "udp", "quic", "icmp", "direct"] {
        await_states(&weir, service, &["up", "up"])?;
    }
    requests(&lab.client, &at(NAT_VIP6, 8080), 20)?;

    nginx[0].signal(Signal::SIGSTOP)?;
    await_fall(&weir, "http over IPv6, hanging", "http", &["down", "up"])?;
    await_states(&weir, "https", &["down", "up"])?;
    await_states(&weir, "direct", &["down", "up"])?;
    // To take connections is all that is asked here.
    await_states(&weir, "tcp", &["up", "up"])?;
    nginx[0].signal(Signal::SIGCONT)?;
    for service in ["http", "https", "direct"] {
        await_states(&weir, service, &["up", "up"])?;
    }
    nginx.truncate(1);
    await_fall(&weir, "tcp over IPv6, killed", "tcp", &["up", "down"])?;
    for service in ["http", "https", "direct"] {
        await_states(&weir, service, &["up", "down"])?;
    }
    for vip in [NAT_VIP6, DSR_VIP6] {
        let port = if vip == NAT_VIP6 { 8080 } else { 80 };
        let seen = requests(&lab.client, &at(vip, port), 20)?;
        ensure!(
            !seen.contains_key("b2"),
            "a dead server got requests: {seen:?}"
        );
    }
    quic[0].stop(true);
    await_fall(&weir, "quic over IPv6, hanging", "quic", &["down", "up"])?;
    // The kernel says that the port is unreachable.
    quic.truncate(1);
    await_fall(
        &weir,
        "quic over IPv6, both gone",
        "quic",
        &["fail-open", "fail-open"],
    )?;
    lab.backends[1].sysctl("net.ipv6.icmp.echo_ignore_all", "1")?;
    await_fall(&weir, "ping over IPv6, ignored", "icmp", &["up", "down"])?;
    lab.backends[0].ip("link set eth0 down")?;
    await_fall(&weir, "udp over IPv6, unplugged", "udp", &["down", "up"])
}
