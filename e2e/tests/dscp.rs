//! `dsr-dscp` between real kernels: backends know the VIP by the DSCP of what comes to their own address, as with
//! VPP's L3DSR; a rule of nftables there puts the VIP back. What clients send arrives to the last byte, in pieces, too,
//! and the backend answers them directly.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use weir_e2e::checks::{await_states, health, must_say};
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, DSR_VIP4, DSR_VIP6, Lab, backend4, backend6, instance};
use weir_e2e::load::requests;
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::transfer::{Echo, tcp_round_trip, udp_round_trips};
use weir_e2e::{Result, ensure, host, sockets};

const BACKENDS: usize = 2;
/// VIPs with the DSCP that stands for each at its backends.
const VIPS: [(&str, u8); 2] = [(DSR_VIP4, 7), (DSR_VIP6, 9)];
const TCP: u16 = 7000;
const UDP: u16 = 7001;

fn nft(namespace: &Namespace, rules: &str) -> Result {
    let mut nft = namespace.command("nft");
    let mut child = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        pipe.write_all(rules.as_bytes())?;
    }
    let status = child.wait()?;
    ensure!(status.success(), "nft ended with {status}:\n{rules}");
    Ok(())
}

/// From the DSCP to the VIP: before routing, and with the transport's checksum.
fn know_the_vips(backend: &Namespace) -> Result {
    let mut rules = String::new();
    for (vip, dscp) in VIPS {
        let family = if vip.contains(':') { "ip6" } else { "ip" };
        rules += &format!(
            "table {family} vips {{\nchain back {{\ntype filter hook prerouting priority raw;\n\
             {family} dscp {dscp} {family} daddr set {vip}\n}}\n}}\n"
        );
    }
    nft(backend, &rules)
}

fn forget_the_vips(backend: &Namespace) -> Result {
    nft(backend, "delete table ip vips\ndelete table ip6 vips\n")
}

fn backends(vip: &str) -> Vec<String> {
    let address = if vip.contains(':') {
        backend6
    } else {
        backend4
    };
    (1..=BACKENDS).map(address).collect()
}

/// A service of each VIP at a port.
fn services(mut config: Config, name: &str, protocol: &str, port: u16, check: &str) -> Config {
    for (vip, dscp) in VIPS {
        let family = if vip.contains(':') { '6' } else { '4' };
        let (name, port) = (format!("{name}{family}"), port.to_string());
        config = config
            .service(&name, "dsr-dscp", protocol, vip, &port, &backends(vip))
            .service_text(&format!("dscp = {dscp}\n"))
            .service_text(check);
    }
    config
}

#[test]
fn what_clients_send_by_dscp_arrives_to_the_last_byte_in_pieces_too() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut echo = Echo::new();
    for backend in &lab.backends {
        know_the_vips(backend)?;
        for (vip, _) in VIPS {
            // Bound to the VIP: what keeps its own address is not for them.
            let vip: IpAddr = vip.parse()?;
            echo.tcp(sockets::listen(backend, SocketAddr::new(vip, TCP))?, "")?;
            echo.udp(sockets::udp(backend, SocketAddr::new(vip, UDP))?)?;
        }
    }
    let name = instance();
    let config = services(Config::one_armed(&name), "tcp", "tcp", TCP, "");
    let config = services(config, "udp", "udp", UDP, "");
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    for (vip, _) in VIPS {
        let vip: IpAddr = vip.parse()?;
        for seed in 0..4 {
            let stream = sockets::connect(&lab.client, SocketAddr::new(vip, TCP))?;
            tcp_round_trip(&stream, 5_000_000, seed)?;
        }
        let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        for _ in 0..4 {
            let socket = sockets::udp(&lab.client, any.parse()?)?;
            let lengths = [8000, 0, 1, 1400, 1473, 2961, 8000];
            udp_round_trips(&socket, SocketAddr::new(vip, UDP), lengths)?;
        }
    }
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "kernels found errors:\n{errors}");
    weir.process().must_run()
}

#[test]
fn web_servers_that_know_the_vip_by_its_dscp_answer_directly_and_are_down_without() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut nginx = Vec::new();
    for (n, backend) in (1..).zip(&lab.backends) {
        nginx.push(Nginx::start(backend, lab.dir(), &format!("b{n}"))?);
        know_the_vips(backend)?;
    }
    let name = instance();
    let check = health("kind = \"http\"");
    let config = services(Config::one_armed(&name), "web", "tcp", 80, &check);
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    let await_both = |states: [&str; BACKENDS]| -> Result {
        await_states(&weir, "web4", &states)?;
        await_states(&weir, "web6", &states).map(drop)
    };
    await_both(["up", "up"])?;
    let asked = || -> Result<Vec<String>> {
        let mut all = Vec::new();
        for vip in [DSR_VIP4.to_owned(), format!("[{DSR_VIP6}]")] {
            all.extend(requests(&lab.client, &vip, 40)?.into_keys());
        }
        Ok(all)
    };
    ensure!(
        asked()? == ["b1", "b2", "b1", "b2"],
        "not both servers answer"
    );

    // It goes on serving its own address, and does not know what the DSCP stands for.
    forget_the_vips(&lab.backends[0])?;
    await_both(["down", "up"])?;
    must_say(&weir, "web4", "no answer within")?;
    ensure!(
        asked()? == ["b2", "b2"],
        "a server without the VIP got connections"
    );
    know_the_vips(&lab.backends[0])?;
    await_both(["up", "up"])?;
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "kernels found errors:\n{errors}");
    weir.process().must_run()
}
