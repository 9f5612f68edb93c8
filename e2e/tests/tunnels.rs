//! Tunnels between real kernels, in every mode and pair of families: large transfers whose every byte is compared,
//! datagrams in pieces, a web server, and a narrow link between weir and a backend. This kernel may lack tunnel
//! devices, so a small peer takes the outer headers off ([`weir_e2e::decapsulator`]); what is inside goes to the
//! backend's own stack, with the VIP on its loopback, which answers the client directly.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weir_e2e::checks::await_states;
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::decapsulator::Decapsulator;
use weir_e2e::lab::{Arms, DSR_VIP4, DSR_VIP6, Lab, backend4, backend6, instance, wire};
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::capture;
use weir_e2e::transfer::{Echo, tcp_round_trip, udp_round_trips};
use weir_e2e::{Result, ensure, host, sockets};

/// Modes with their keys; each has ports of its own.
const TUNNELS: [(&str, &str); 6] = [
    ("dsr-ipip", ""),
    (
        "dsr-gue",
        "gue_variant = 0\nouter_udp_checksum = \"full\"\n",
    ),
    (
        "dsr-gue",
        "gue_variant = 1\nouter_udp_checksum = \"full\"\n",
    ),
    ("dsr-gre", ""),
    ("dsr-gre", "gre_key = 7\n"),
    ("dsr-geneve", "outer_udp_checksum = \"full\"\n"),
];
const BACKENDS: usize = 2;

/// The TCP port of a mode before IPv4 or IPv6 backends; UDP has the next one.
fn port(mode: usize, outer_v6: bool) -> u16 {
    7000 + 4 * mode as u16 + if outer_v6 { 2 } else { 0 }
}

fn service(
    name: &str,
    protocol: &str,
    vip: &str,
    port: u16,
    mode: (&str, &str),
    to: &[String],
) -> String {
    let (forwarding, keys) = mode;
    let mut text = format!(
        "\n[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
         forwarding = \"{forwarding}\"\n{keys}"
    );
    for address in to {
        text += &format!("[[service.backend]]\naddress = \"{address}\"\n");
    }
    text
}

/// A daemon with all modes on both VIPs, before backends of both families.
fn all_modes(lab: &Lab) -> Result<Daemon> {
    let name = instance();
    let mut text = Config::one_armed(&name).text();
    for (number, mode) in TUNNELS.into_iter().enumerate() {
        for (inner, vip) in [("4", DSR_VIP4), ("6", DSR_VIP6)] {
            for outer_v6 in [false, true] {
                let to: Vec<String> = (1..=BACKENDS)
                    .map(|n| if outer_v6 { backend6(n) } else { backend4(n) })
                    .collect();
                let port = port(number, outer_v6);
                let outer = if outer_v6 { "6" } else { "4" };
                for (protocol, port) in [("tcp", port), ("udp", port + 1)] {
                    let name = format!("{protocol}-{number}-{inner}in{outer}");
                    text += &service(&name, protocol, vip, port, mode, &to);
                }
            }
        }
    }
    Daemon::start(&lab.balancer, lab.dir(), &name, &text)
}

#[test]
fn what_clients_send_through_any_tunnel_arrives_to_the_last_byte() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut echo = Echo::new();
    let mut peers = Vec::new();
    for backend in &lab.backends {
        peers.push(Decapsulator::start(backend)?);
        for (number, _) in TUNNELS.iter().enumerate() {
            for vip in [DSR_VIP4, DSR_VIP6] {
                let vip: IpAddr = vip.parse()?;
                for outer_v6 in [false, true] {
                    let port = port(number, outer_v6);
                    echo.tcp(sockets::listen(backend, SocketAddr::new(vip, port))?, "")?;
                    echo.udp(sockets::udp(backend, SocketAddr::new(vip, port + 1))?)?;
                }
            }
        }
    }
    let mut weir = all_modes(&lab)?;
    for (number, (mode, _)) in TUNNELS.into_iter().enumerate() {
        for vip in [DSR_VIP4, DSR_VIP6] {
            let vip: IpAddr = vip.parse()?;
            for outer_v6 in [false, true] {
                let port = port(number, outer_v6);
                // Full segments do not fit the tunnel until the VIP has said so: path-MTU discovery.
                let plain = vip.is_ipv4() && !outer_v6;
                let length = if plain { 20_000_000 } else { 1_000_000 };
                let stream = sockets::connect(&lab.client, SocketAddr::new(vip, port))?;
                tcp_round_trip(&stream, length, u64::from(port)).map_err(|e| {
                    weir_e2e::Failure::new(format!("{mode} to {vip}:{port}: {e:?}"))
                })?;
                let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let to = SocketAddr::new(vip, port + 1);
                // Of IPv6, pieces are cut by their sender, who has to be told of the tunnel once.
                let socket = sockets::udp(&lab.client, any.parse()?)?;
                socket.set_read_timeout(Some(Duration::from_millis(200)))?;
                socket.send_to(&[7; 8000], to)?;
                let _ = socket.recv_from(&mut [0; 9000]);
                let socket = sockets::udp(&lab.client, any.parse()?)?;
                udp_round_trips(&socket, to, [8000, 0, 1, 1400, 1473, 2961, 8000])
                    .map_err(|e| weir_e2e::Failure::new(format!("{mode} to {to}: {e:?}")))?;
            }
        }
    }
    for peer in &peers {
        ensure!(peer.packets() > 0, "a backend got nothing through tunnels");
    }
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "kernels found errors:\n{errors}");
    weir.process().must_run()
}

#[test]
fn a_web_server_behind_each_tunnel_answers_the_client_directly() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let _peer = Decapsulator::start(&lab.backends[0])?;
    let _nginx = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let name = instance();
    let base = Config::one_armed(&name).text();
    for mode in TUNNELS {
        let mut text = base.clone();
        for (vip, to) in [(DSR_VIP4, backend4(1)), (DSR_VIP6, backend6(1))] {
            text += &service(&format!("web-{}", text.len()), "tcp", vip, 80, mode, &[to]);
        }
        let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
        for vip in [DSR_VIP4.to_owned(), format!("[{DSR_VIP6}]")] {
            let mut curl = lab.client.command("curl");
            curl.args(["-sS", "--fail", "--max-time", "10", "--noproxy", "*"]);
            let said = capture(curl.arg(format!("http://{vip}/")))?;
            ensure!(said.contains("b1"), "{mode:?}: {said}");
        }
        weir.terminate()?;
    }
    Ok(())
}

/// Waits until the only backend of each service is in this state.
fn await_state(weir: &Daemon, services: &[String], wanted: &str) -> Result {
    for service in services {
        await_states(weir, service, &[wanted])?;
    }
    Ok(())
}

#[test]
fn checks_go_through_the_tunnel_to_the_vip() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let _nginx = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let name = instance();
    let health = "[service.health]\nkind = \"http\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\nfall = 2\nrise = 2\n";
    let (mut text, mut services) = (Config::one_armed(&name).text(), Vec::new());
    for (number, mode) in TUNNELS.into_iter().enumerate() {
        for (family, vip, to) in [("4", DSR_VIP4, backend4(1)), ("6", DSR_VIP6, backend6(1))] {
            let name = format!("web-{number}-{family}");
            text += &service(&name, "tcp", vip, port(number, false), mode, &[to]);
            text += &format!("{health}port = 80\n");
            services.push(name);
        }
    }
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
    // The server runs all the while; only the tunnel's other end comes and goes. The only backend of a
    // service that is down lets the service fail open.
    await_state(&weir, &services, "fail-open")?;
    let peer = Decapsulator::start(&lab.backends[0])?;
    await_state(&weir, &services, "up")?;
    drop(peer);
    await_state(&weir, &services, "fail-open")?;
    weir.terminate()?;
    Ok(())
}

/// A backend behind the first one, which becomes a router, over a link of 1,400 bytes.
fn behind_a_narrow_link(lab: &Lab) -> Result<Namespace> {
    let router = &lab.backends[0];
    let far = Namespace::new("far")?;
    wire(router, "eth1", &far, "eth0")?;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    for command in [
        "addr add 10.9.0.1/24 dev eth1",
        "addr add 2001:db8:9::1/64 dev eth1 nodad",
        "link set eth1 mtu 1400",
        // Clients are on the same switch.
        "route add 192.0.2.0/24 dev eth0",
        "-6 route add 2001:db8:1::/64 dev eth0",
        // Nothing here is for the router itself.
        &format!("addr del {DSR_VIP4}/32 dev lo"),
        &format!("addr del {DSR_VIP6}/128 dev lo"),
    ] {
        router.ip(command)?;
    }
    far.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    for command in [
        "addr add 10.9.0.2/24 dev eth0",
        "addr add 2001:db8:9::2/64 dev eth0 nodad",
        "link set eth0 mtu 1400",
        "link set lo up",
        "route add default via 10.9.0.1",
        "-6 route add default via 2001:db8:9::1",
        &format!("addr add {DSR_VIP4}/32 dev lo"),
        &format!("addr add {DSR_VIP6}/128 dev lo nodad"),
    ] {
        far.ip(command)?;
    }
    Ok(far)
}

#[test]
fn a_narrow_link_on_the_way_to_a_backend_is_found_out_and_told() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let far = behind_a_narrow_link(&lab)?;
    let _peer = Decapsulator::start(&far)?;
    let mut echo = Echo::new();
    for vip in [DSR_VIP4, DSR_VIP6] {
        echo.tcp(
            sockets::listen(&far, SocketAddr::new(vip.parse()?, 7000))?,
            "",
        )?;
    }
    let name = instance();
    let base = Config::one_armed(&name);
    let mut text = base.text();
    for (to, via) in [
        ("10.9.0.0/24", backend4(1)),
        ("2001:db8:9::/64", backend6(1)),
    ] {
        text += &format!("\n[[route]]\nto = \"{to}\"\nvia = \"{via}\"\n");
    }
    for (vip, to) in [(DSR_VIP4, "10.9.0.2"), (DSR_VIP6, "2001:db8:9::2")] {
        let name = format!("tcp-{}", to.len());
        text += &service(&name, "tcp", vip, 7000, TUNNELS[0], &[to.to_owned()]);
    }
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
    for vip in [DSR_VIP4, DSR_VIP6] {
        let stream = sockets::connect(&lab.client, SocketAddr::new(vip.parse()?, 7000))?;
        tcp_round_trip(&stream, 2_000_000, 9)?;
    }
    let events = weir.ctl(&["events"])?;
    for to in ["10.9.0.2", "2001:db8:9::2"] {
        let news = format!("the way to {to} takes packets of 1400 bytes");
        ensure!(events.contains(&news), "no event says {news:?}:\n{events}");
    }
    weir.process().must_run()
}
