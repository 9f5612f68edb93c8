//! What goes wrong on a path, between real kernels: datagrams in pieces, a link in the middle with a small MTU, and
//! TTLs that end at weir.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{
    Arms, DSR_VIP4, DSR_VIP6, Lab, NAT_VIP4, NAT_VIP6, backend4, backend6, instance, wire,
};
use weir_e2e::namespace::Namespace;
use weir_e2e::process::capture;
use weir_e2e::transfer::{Echo, tcp_round_trip, udp_round_trips};
use weir_e2e::{Result, ensure, host, sockets};

/// TCP and UDP echo on this port, on every backend.
const PORT: u16 = 7000;
/// Behind the client's namespace, over a link with a small MTU.
const FAR4: &str = "203.0.113.10";
const FAR6: &str = "2001:db8:99::10";
const SMALL_MTU: u16 = 1300;
const BACKENDS: usize = 2;

/// What backends of `full-nat` see instead of clients.
const SNAT4: &str = "10.0.0.5";
const SNAT6: &str = "2001:db8:2::5";
/// `full-nat` with each VIP before backends of the other family.
const CROSSED: &str = "full-nat crossed";

/// Echo servers on the backends' own addresses (`nat`) or on the VIPs (`dsr-l2`).
fn echo_servers(lab: &Lab, forwarding: &str) -> Result<Echo> {
    let mut echo = Echo::new();
    for (n, backend) in (1..).zip(&lab.backends) {
        let addresses = if forwarding != "dsr-l2" {
            [backend4(n), backend6(n)]
        } else {
            [DSR_VIP4.to_owned(), DSR_VIP6.to_owned()]
        };
        for address in addresses {
            let at = SocketAddr::new(address.parse()?, PORT);
            echo.tcp(sockets::listen(backend, at)?, "")?;
            echo.udp(sockets::udp(backend, at)?)?;
        }
    }
    Ok(echo)
}

/// Services for TCP and UDP on both VIPs of a mode.
fn config(name: &str, forwarding: &str) -> Config {
    let mut config = Config::one_armed(name);
    let vips = vips(forwarding);
    let (mut fours, mut sixes) = ([backend4(1), backend4(2)], [backend6(1), backend6(2)]);
    if forwarding == CROSSED {
        std::mem::swap(&mut fours, &mut sixes);
    }
    let mode = forwarding.split(' ').next().unwrap_or(forwarding);
    for (vip, backends) in [(vips[0], fours), (vips[1], sixes)] {
        for protocol in ["tcp", "udp"] {
            let service = format!("{protocol}-{}", if vip.contains(':') { 6 } else { 4 });
            let port = PORT.to_string();
            config = config.service(&service, mode, protocol, vip, &port, &backends);
            if mode == "full-nat" {
                let keys = format!("snat_pool = [\"{SNAT4}\", \"{SNAT6}\"]\n");
                config = config.service_text(&keys);
            }
        }
    }
    // After the services, as any table may stand anywhere.
    for (to, via) in [
        ("203.0.113.0/24", "192.0.2.10"),
        ("2001:db8:99::/64", "2001:db8:1::10"),
    ] {
        config.ports += &format!("\n[[route]]\nto = \"{to}\"\nvia = \"{via}\"\n");
    }
    config
}

fn vips(forwarding: &str) -> [&'static str; 2] {
    if forwarding != "dsr-l2" {
        [NAT_VIP4, NAT_VIP6]
    } else {
        [DSR_VIP4, DSR_VIP6]
    }
}

fn nothing_wrong(lab: &Lab) -> Result {
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "kernels found errors:\n{errors}");
    Ok(())
}

/// Datagrams in up to six pieces there and back, from several sources, so that all backends get some.
fn large_datagrams(forwarding: &str) -> Result {
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let echo = echo_servers(&lab, forwarding)?;
    let name = instance();
    let mut weir = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &config(&name, forwarding).text(),
    )?;
    for vip in vips(forwarding) {
        let any = if vip.contains(':') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let to = SocketAddr::new(vip.parse()?, PORT);
        for _ in 0..8 {
            let socket = sockets::udp(&lab.client, any.parse()?)?;
            udp_round_trips(&socket, to, [8000, 1473, 2961, 4000, 100, 8000])?;
        }
    }
    nothing_wrong(&lab)?;
    ensure!(echo.served() > 0, "no server was reached");
    weir.process().must_run()
}

#[test]
fn datagrams_of_8000_bytes_pass_nat_in_pieces_both_ways() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    large_datagrams("nat")
}

#[test]
fn datagrams_of_8000_bytes_pass_full_nat_in_pieces_within_and_between_families() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    large_datagrams("full-nat")?;
    large_datagrams(CROSSED)
}

#[test]
fn datagrams_of_8000_bytes_reach_dsr_l2_backends_in_pieces() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    large_datagrams("dsr-l2")
}

/// A namespace behind the client's, which becomes a router. The way there has a small MTU, of which the backends are not
/// told: far's SYNs offer large segments.
fn far(lab: &Lab) -> Result<Namespace> {
    let far = Namespace::new("far")?;
    wire(&lab.client, "eth1", &far, "eth0")?;
    lab.client.sysctl("net.ipv4.ip_forward", "1")?;
    lab.client.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    for (namespace, commands) in [
        (
            &lab.client,
            [
                "addr add 203.0.113.1/24 dev eth1",
                "addr add 2001:db8:99::1/64 dev eth1 nodad",
            ],
        ),
        (
            &far,
            [
                "addr add 203.0.113.10/24 dev eth0",
                "addr add 2001:db8:99::10/64 dev eth0 nodad",
            ],
        ),
        (
            &far,
            [
                "route add default via 203.0.113.1 mtu 1300 advmss 1460",
                "route add default via 2001:db8:99::1 mtu 1300 advmss 1440",
            ],
        ),
    ] {
        for command in commands {
            namespace.ip(command)?;
        }
    }
    lab.client.ip(&format!("link set eth1 mtu {SMALL_MTU}"))?;
    // dsr-l2 backends answer by the router itself, not through weir.
    for backend in &lab.backends {
        backend.ip("route add 203.0.113.0/24 via 192.0.2.10 dev eth0 table 20")?;
        backend.ip("-6 route add 2001:db8:99::/64 via 2001:db8:1::10 dev eth0 table 20")?;
    }
    Ok(far)
}

/// Large transfers over the small link: the router's errors go to the VIP, and must reach the backend that they are
/// about, who has to know its packet in them.
fn path_mtu(forwarding: &str) -> Result {
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let _echo = echo_servers(&lab, forwarding)?;
    let far = far(&lab)?;
    let name = instance();
    let mut weir = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &config(&name, forwarding).text(),
    )?;
    for vip in vips(forwarding) {
        let to: IpAddr = vip.parse()?;
        for seed in 0..4 {
            let stream = sockets::connect(&far, SocketAddr::new(to, PORT))?;
            let started = Instant::now();
            tcp_round_trip(&stream, 400_000, seed)?;
            ensure!(
                started.elapsed() < Duration::from_secs(20),
                "the transfer to {vip} took {:?}",
                started.elapsed()
            );
        }
    }
    // A backend learnt the MTU of the path to the client: from errors that it could take for its own. Between families
    // it is counted in the backend's headers.
    let (four, six) = match forwarding {
        "full-nat" => ((SNAT4, SMALL_MTU), (SNAT6, SMALL_MTU)),
        CROSSED => ((SNAT4, SMALL_MTU - 20), (SNAT6, SMALL_MTU + 20)),
        _ => ((FAR4, SMALL_MTU), (FAR6, SMALL_MTU)),
    };
    for (family, (far, mtu)) in [("", four), ("-6", six)] {
        let mut learnt = 0;
        for (n, backend) in (1..).zip(&lab.backends) {
            let vip = vips(forwarding)[usize::from(family == "-6")];
            let from = match (forwarding, family) {
                ("dsr-l2", _) => vip.to_owned(),
                (_, "") => backend4(n),
                _ => backend6(n),
            };
            let route = backend.ip(format!("{family} route get {far} from {from}").trim())?;
            learnt += usize::from(route.contains(&format!("mtu {mtu}")));
        }
        ensure!(learnt > 0, "no backend learnt the path's MTU to {far}");
    }
    nothing_wrong(&lab)?;
    weir.process().must_run()
}

#[test]
fn path_mtu_discovery_works_through_nat() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    path_mtu("nat")
}

#[test]
fn path_mtu_discovery_works_through_full_nat_within_and_between_families() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    path_mtu("full-nat")?;
    path_mtu(CROSSED)
}

#[test]
fn path_mtu_discovery_works_with_dsr_l2() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    path_mtu("dsr-l2")
}

#[test]
fn a_refused_port_of_a_backend_is_told_to_the_client_as_the_vips() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let name = instance();
    // Nobody listens behind it.
    let mut weir = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &config(&name, "nat").text(),
    )?;
    for vip in vips("nat") {
        let any = if vip.contains(':') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = sockets::udp(&lab.client, any.parse()?)?;
        socket.connect(SocketAddr::new(vip.parse()?, PORT))?;
        let mut buffer = [0; 16];
        let mut refused = false;
        for _ in 0..20 {
            // The kernel tells a connected socket of an error that quotes what it sent.
            let _ = socket.send(b"anybody?");
            socket.set_read_timeout(Some(Duration::from_millis(200)))?;
            refused |= socket
                .recv(&mut buffer)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
        }
        ensure!(refused, "the socket to {vip} was told of no error");
    }
    weir.process().must_run()
}

#[test]
fn a_ttl_that_ends_at_weir_is_answered_from_its_own_address() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let name = instance();
    let mut weir = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &config(&name, "nat").text(),
    )?;
    for (vip, own) in [(NAT_VIP4, "192.0.2.2"), (NAT_VIP6, "2001:db8:1::2")] {
        // What `traceroute` does, with what every system has.
        let script = format!(
            "import socket, sys\n\
             vip, port, six = '{vip}', {PORT}, ':' in '{vip}'\n\
             family = socket.AF_INET6 if six else socket.AF_INET\n\
             s = socket.socket(family, socket.SOCK_DGRAM)\n\
             s.settimeout(2)\n\
             if six:\n\
             \x20   s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1)\n\
             \x20   s.setsockopt(socket.IPPROTO_IPV6, 25, 1)\n\
             else:\n\
             \x20   s.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 1)\n\
             \x20   s.setsockopt(socket.IPPROTO_IP, 11, 1)\n\
             s.connect((vip, port))\n\
             s.send(b'traced')\n\
             try:\n\
             \x20   s.recv(100)\n\
             except OSError:\n\
             \x20   pass\n\
             _, ancillary, _, _ = s.recvmsg(1000, 1000, socket.MSG_ERRQUEUE)\n\
             data = ancillary[0][2]\n\
             kind, code = data[5], data[6]\n\
             at = 16 + (8 if six else 4)\n\
             address = socket.inet_ntop(family, data[at:at + (16 if six else 4)])\n\
             print(kind, code, address)\n"
        );
        let mut python = lab.client.command("python3");
        let told = capture(python.args(["-c", &script]))?;
        let expected = format!("{} 0 {own}", if vip.contains(':') { 3 } else { 11 });
        ensure!(
            told.trim() == expected,
            "the client was told {told:?}, not {expected:?}"
        );
    }
    weir.process().must_run()
}
