//! Real kernels on both sides of weir: what was sent arrives as it was sent, and no kernel finds a wrong checksum.
//!
//! Covers `nat` and `dsr-l2`, IPv4 and IPv6, TCP and UDP, one arm and two, UDP without a checksum, and a VLAN.
//! `harness.rs` shows that the kernels would notice.

use std::net::{IpAddr, SocketAddr};

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{
    Arms, DSR_VIP4, DSR_VIP6, Lab, NAT_VIP4, NAT_VIP6, backend4, backend6, instance,
};
use weir_e2e::namespace::Namespace;
use weir_e2e::tap::{tag, untag};
use weir_e2e::transfer::{Echo, Held, tcp_round_trip, udp_round_trips};
use weir_e2e::{Result, ensure, host, sockets};

/// Every small length, odd ones above, and the largest that fit a frame with IPv4 and with IPv6.
fn lengths(v6: bool) -> impl Iterator<Item = usize> {
    let largest = if v6 { 1452 } else { 1472 };
    (0..=65).chain([127, 255, 511, 513, 999, 1023, 1400, largest - 1, largest])
}

const BACKENDS: usize = 2;

/// Echo servers for TCP on port 7000 and UDP on port 7001 of every address of every backend.
fn echo_servers(backends: &[Namespace]) -> Result<Echo> {
    let mut echo = Echo::new();
    for backend in backends {
        echo.tcp(sockets::listen(backend, "[::]:7000".parse()?)?, "")?;
        // Bound to the addresses one by one: an answer from a wildcard could leave from the wrong one.
        for address in addresses(backend)? {
            echo.udp(sockets::udp(backend, SocketAddr::new(address, 7001))?)?;
        }
    }
    Ok(echo)
}

/// The addresses of a namespace that others can reach.
fn addresses(namespace: &Namespace) -> Result<Vec<IpAddr>> {
    let listed = namespace.ip("-o addr show scope global")?;
    let words = listed
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    Ok(words
        .filter_map(|word| word.split('/').next()?.parse().ok())
        .collect())
}

/// Services `tcp4`, `udp4`, `tcp6`, `udp6` over the given VIPs; `nat` also changes the port.
fn services(mut config: Config, forwarding: &str, vip4: &str, vip6: &str) -> Config {
    let nat = forwarding == "nat";
    for (family, vip) in [(4, vip4), (6, vip6)] {
        for (protocol, own) in [("tcp", 7000), ("udp", 7001)] {
            let backends: Vec<String> = (1..=BACKENDS)
                .map(|n| {
                    if family == 4 {
                        backend4(n)
                    } else {
                        backend6(n)
                    }
                })
                .map(|address| {
                    if nat {
                        format!("{address} {own}")
                    } else {
                        address
                    }
                })
                .collect();
            let port = if nat { own + 1000 } else { own }.to_string();
            let name = format!("{protocol}{family}");
            config = config.service(&name, forwarding, protocol, vip, &port, &backends);
        }
    }
    config
}

/// Sends everything through every service, several connections each so that every backend gets some.
fn exercise(client: &Namespace, vip4: &str, vip6: &str, tcp: u16, udp: u16) -> Result {
    for (vip, any, v6) in [(vip4, "0.0.0.0:0", false), (vip6, "[::]:0", true)] {
        let vip: IpAddr = vip.parse()?;
        for seed in 0..6 {
            let stream = sockets::connect(client, SocketAddr::new(vip, tcp))?;
            tcp_round_trip(&stream, 500_000 + 7 * usize::try_from(seed)?, seed)?;
            let socket = sockets::udp(client, any.parse()?)?;
            udp_round_trips(&socket, SocketAddr::new(vip, udp), lengths(v6))?;
        }
    }
    Ok(())
}

fn nothing_wrong(lab: &Lab) -> Result {
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "kernels found errors:\n{errors}");
    Ok(())
}

#[test]
fn nat_leaves_every_checksum_right_over_one_arm() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    nat(Arms::One)
}

#[test]
fn nat_leaves_every_checksum_right_over_two_arms() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    nat(Arms::Two)
}

fn nat(arms: Arms) -> Result {
    let lab = Lab::new(arms, BACKENDS)?;
    let echo = echo_servers(&lab.backends)?;
    let name = instance();
    let config = if arms == Arms::One {
        Config::one_armed(&name)
    } else {
        Config::two_armed(&name)
    };
    let config = services(config, "nat", NAT_VIP4, NAT_VIP6);
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    exercise(&lab.client, NAT_VIP4, NAT_VIP6, 8000, 8001)?;

    // Without a checksum (RFC 768) there is nothing to keep right, and nothing may be made up.
    let socket = sockets::udp(&lab.client, "0.0.0.0:0".parse()?)?;
    sockets::without_checksum(&socket)?;
    udp_round_trips(
        &socket,
        SocketAddr::new(NAT_VIP4.parse()?, 8001),
        lengths(false),
    )?;

    nothing_wrong(&lab)?;
    ensure!(echo.served() > 0, "no server was reached");
    weir.process().must_run()
}

#[test]
fn dsr_l2_leaves_every_checksum_right_and_backends_answer_directly() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let echo = echo_servers(&lab.backends)?;
    let name = instance();
    let config = services(Config::one_armed(&name), "dsr-l2", DSR_VIP4, DSR_VIP6);
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;

    let received = |interface: &str| -> Result<u64> {
        let path = format!("/sys/class/net/{interface}/statistics/tx_bytes");
        let text = weir_e2e::process::capture(lab.balancer.command("cat").arg(path))?;
        Ok(text.trim().parse()?)
    };
    exercise(&lab.client, DSR_VIP4, DSR_VIP6, 7000, 7001)?;
    // Of 6 MB each way only the requests pass weir; with the answers it would be twice that.
    let sent = received("eth0")?;
    ensure!(
        (5_000_000..9_500_000).contains(&sent),
        "weir sent {sent} bytes; answers should not pass it, requests should"
    );
    nothing_wrong(&lab)?;
    ensure!(echo.served() > 0, "no server was reached");
    weir.process().must_run()
}

#[test]
fn a_vlan_port_sends_and_accepts_its_tag_only() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    // The trunk: what the switch's side sends arrives tagged at weir, and only tagged frames get back.
    let lab = Lab::trunk(BACKENDS, tag, untag)?;
    vlan(&lab, "vlan = 100")
}

#[test]
fn a_port_without_vlan_keeps_the_tag_of_what_it_sends_back() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::trunk(BACKENDS, tag, untag)?;
    // weir cannot know on which VLAN to ask for a neighbour, so they are told to it.
    let mut neighbours = String::new();
    let everyone = [(
        &lab.client,
        ["192.0.2.10".to_owned(), "2001:db8:1::10".to_owned()],
    )];
    let backends = lab.backends.iter().enumerate();
    let backends = backends.map(|(n, namespace)| (namespace, [backend4(n + 1), backend6(n + 1)]));
    for (namespace, addresses) in everyone.into_iter().chain(backends) {
        let mac = namespace.mac("eth0")?;
        for address in addresses {
            neighbours += &format!("[[neighbor]]\naddress = \"{address}\"\nmac = \"{mac}\"\n");
        }
    }
    vlan(&lab, &neighbours)
}

fn vlan(lab: &Lab, key: &str) -> Result {
    let echo = echo_servers(&lab.backends)?;
    let name = instance();
    let config = Config::one_armed(&name).port_key(key);
    let config = services(config, "nat", NAT_VIP4, NAT_VIP6);
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    exercise(&lab.client, NAT_VIP4, NAT_VIP6, 8000, 8001)?;
    nothing_wrong(lab)?;
    ensure!(echo.served() > 0, "no server was reached");
    weir.process().must_run()
}

#[test]
fn a_vlan_port_ignores_frames_without_its_tag() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let name = instance();
    let config = Config::one_armed(&name).port_key("vlan = 100");
    let config = services(config, "nat", NAT_VIP4, NAT_VIP6);
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    ensure!(
        sockets::connect(&lab.client, SocketAddr::new(NAT_VIP4.parse()?, 8000)).is_err(),
        "a port of VLAN 100 answered frames without a tag"
    );
    weir.process().must_run()
}

#[test]
fn a_service_for_any_port_keeps_the_port_and_one_for_a_single_port_comes_first() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut echo = Echo::new();
    for (namespace, greeting) in lab.backends.iter().zip(["any\n", "single\n"]) {
        for port in [7000, 7002, 7004] {
            let address = SocketAddr::new("0.0.0.0".parse()?, port);
            echo.tcp(sockets::listen(namespace, address)?, greeting)?;
        }
    }
    let name = instance();
    let config = Config::one_armed(&name)
        .service("all", "nat", "tcp", NAT_VIP4, "\"any\"", &[backend4(1)])
        .service(
            "one",
            "nat",
            "tcp",
            NAT_VIP4,
            "7002",
            &[format!("{} 7004", backend4(2))],
        );
    let _weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    for (port, due) in [(7000, "any"), (7002, "single"), (7004, "any")] {
        let held = Held::open(&lab.client, SocketAddr::new(NAT_VIP4.parse()?, port))?;
        ensure!(
            held.backend == due,
            "port {port} led to the backend of {}, not of {due}",
            held.backend
        );
    }
    nothing_wrong(&lab)
}
