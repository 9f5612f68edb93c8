//! `full-nat` between real kernels: both families and across them, and servers that say who their client is, over a
//! path that loses and reorders.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, NAT_VIP6, backend4, backend6, instance};
use weir_e2e::namespace::Namespace;
use weir_e2e::process::{Process, capture};
use weir_e2e::transfer::{Echo, tcp_round_trip, udp_round_trips};
use weir_e2e::{Result, ensure, host, sockets, wait};

/// What backends see instead of clients.
const SNAT: &str = r#"["10.0.0.5", "10.0.0.6", "2001:db8:2::5"]"#;

fn service(
    name: &str,
    protocol: &str,
    vip: &str,
    port: u16,
    to: &[(String, u16)],
    how: &str,
) -> String {
    let mut text = format!(
        "\n[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
         forwarding = \"full-nat\"\nsnat_pool = {SNAT}\nclient_address = \"{how}\"\n"
    );
    for (address, port) in to {
        text += &format!("[[service.backend]]\naddress = \"{address}\"\nport = {port}\n");
    }
    text
}

/// Backends answer from where they were asked, so that nothing but the SNAT address brings answers back to weir.
fn without_default_route(lab: &Lab) -> Result {
    for backend in &lab.backends {
        backend.ip("route del default")?;
        backend.ip("-6 route del default")?;
    }
    Ok(())
}

#[test]
fn data_arrives_as_it_was_sent_within_and_between_families() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    for arms in [Arms::One, Arms::Two] {
        let lab = Lab::new(arms, 2)?;
        without_default_route(&lab)?;
        let mut echo = Echo::new();
        for (n, backend) in (1..).zip(&lab.backends) {
            echo.tcp(sockets::listen(backend, "[::]:7000".parse()?)?, "")?;
            for address in [backend4(n), backend6(n)] {
                let address: IpAddr = address.parse()?;
                echo.udp(sockets::udp(backend, SocketAddr::new(address, 7001))?)?;
            }
        }
        let instance = instance();
        let base = match arms {
            Arms::One => Config::one_armed(&instance),
            Arms::Two => Config::two_armed(&instance),
        };
        let mut text = base.text();
        let fours = |port| (1..=2).map(|n| (backend4(n), port)).collect::<Vec<_>>();
        let sixes = |port| (1..=2).map(|n| (backend6(n), port)).collect::<Vec<_>>();
        for (vip, from) in [(NAT_VIP4, "4"), (NAT_VIP6, "6")] {
            for (to, port, backends) in [("4", 8400, fours as fn(u16) -> _), ("6", 8600, sixes)] {
                let tcp = format!("tcp{from}{to}");
                text += &service(&tcp, "tcp", vip, port, &backends(7000), "none");
                let udp = format!("udp{from}{to}");
                text += &service(&udp, "udp", vip, port + 1, &backends(7001), "none");
            }
        }
        let mut daemon = Daemon::start(&lab.balancer, lab.dir(), &instance, &text)?;
        for vip in [NAT_VIP4, NAT_VIP6] {
            let vip: IpAddr = vip.parse()?;
            for port in [8400, 8600] {
                for seed in 0..4 {
                    let stream = sockets::connect(&lab.client, SocketAddr::new(vip, port))?;
                    tcp_round_trip(&stream, 400_000 + 7 * seed, seed as u64)?;
                }
                let lengths = (0..=33).chain([127, 511, 999, 1399]);
                let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = sockets::udp(&lab.client, any.parse()?)?;
                udp_round_trips(&socket, SocketAddr::new(vip, port + 1), lengths)?;
            }
        }
        ensure!(
            lab.checksum_errors()?.is_empty(),
            "{}",
            lab.checksum_errors()?
        );
        daemon.terminate()?;
    }
    Ok(())
}

/// An nginx and an HAProxy that take the PROXY protocol, log who the client is, and serve and take files. The server
/// behind them answers before it has the whole body, so it lingers longer than a rough cable may be silent.
struct Servers {
    _nginx: Process,
    _haproxy: Process,
}

impl Servers {
    fn start(namespace: &Namespace, dir: &Path) -> Result<Self> {
        let home = dir.join("servers");
        std::fs::create_dir(&home)?;
        std::fs::write(home.join("large"), large())?;
        let at = home.display();
        let nginx = format!(
            "user root;\nmaster_process off;\ndaemon off;\npid {at}/pid;\nerror_log {at}/error.log warn;\n\
             events {{ worker_connections 512; }}\nhttp {{\n\
             log_format told '$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $request_length';\n\
             access_log {at}/access.log told;\nclient_body_temp_path {at}/body;\nproxy_temp_path {at}/proxy;\n\
             fastcgi_temp_path {at}/fastcgi;\nuwsgi_temp_path {at}/uwsgi;\nscgi_temp_path {at}/scgi;\n\
             client_max_body_size 10m;\n\
             server {{ listen 8080 proxy_protocol; listen [::]:8080 proxy_protocol; root {at};\n\
             location = /large {{ }}\n\
             location / {{ client_body_in_file_only on; proxy_pass http://127.0.0.1:8082; }} }}\n\
             server {{ listen 127.0.0.1:8082; lingering_time 60s; lingering_timeout 60s; location / {{ return 200 \"taken\\n\"; }} }}\n}}\n"
        );
        std::fs::write(home.join("nginx.conf"), nginx)?;
        let mut command = namespace.command("nginx");
        command
            .arg("-e")
            .arg(home.join("error.log"))
            .arg("-p")
            .arg(&home);
        command.arg("-c").arg(home.join("nginx.conf"));
        let nginx = Process::start("nginx", &command, &home.join("nginx.log"))?;
        let haproxy = "global\n  log stdout format raw local0\ndefaults\n  mode http\n  log global\n  \
             timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  log-format \"told %ci %cp %fi\"\n\
             frontend f\n  bind 0.0.0.0:8081 accept-proxy\n  bind [::]:8081 v6only accept-proxy\n  \
             default_backend b\nbackend b\n  server s 127.0.0.1:8082\n";
        std::fs::write(home.join("haproxy.cfg"), haproxy)?;
        let mut command = namespace.command("haproxy");
        command.arg("-db").arg("-f").arg(home.join("haproxy.cfg"));
        let haproxy = Process::start("haproxy", &command, &home.join("haproxy.log"))?;
        wait::until("the servers to listen", Duration::from_secs(10), || {
            let listening = capture(namespace.command("ss").arg("-Hltn")).ok()?;
            let all = [":8080", ":8081", ":8082"];
            all.iter()
                .all(|port| listening.contains(port))
                .then_some(())
        })?;
        Ok(Self {
            _nginx: nginx,
            _haproxy: haproxy,
        })
    }
}

thread_local! {
    /// A random state, and a frame that is overtaken. One for each direction of the cable.
    static ROUGH: RefCell<(u64, Option<Vec<u8>>)> = const { RefCell::new((88_172_645_463_325_252, None)) };
}

/// Loses one IP packet in fifty and lets others overtake one in twenty, as `tc netem` does where the kernel has it.
fn rough(frame: Vec<u8>) -> Option<Vec<u8>> {
    if !matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd])) {
        return Some(frame);
    }
    ROUGH.with_borrow_mut(|(state, held)| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        match (*state >> 32) % 100 {
            0 | 1 => None,
            2..7 => held.replace(frame),
            _ => Some(frame),
        }
    })
}

/// 1.5 MB without a short period.
fn large() -> Vec<u8> {
    weir_e2e::transfer::pattern(7).take(1_500_000).collect()
}

#[test]
fn servers_know_their_client_by_the_proxy_protocol_under_loss_and_reordering() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::trunk(1, rough, rough)?;
    without_default_route(&lab)?;
    let backend = &lab.backends[0];
    let _servers = Servers::start(backend, lab.dir())?;
    let instance = instance();
    let mut text = Config::one_armed(&instance).text();
    for (vip, from) in [(NAT_VIP4, "4"), (NAT_VIP6, "6")] {
        for (to, address, port) in [("4", backend4(1), 80), ("6", backend6(1), 81)] {
            let nginx = [(address.clone(), 8080)];
            text += &service(
                &format!("nginx{from}{to}"),
                "tcp",
                vip,
                port,
                &nginx,
                "proxy-v2",
            );
            let haproxy = [(address, 8081)];
            let name = format!("haproxy{from}{to}");
            text += &service(&name, "tcp", vip, port + 100, &haproxy, "proxy-v2");
        }
    }
    let mut daemon = Daemon::start(&lab.balancer, lab.dir(), &instance, &text)?;
    std::fs::write(lab.dir().join("upload"), large())?;
    for (vip, client) in [(NAT_VIP4, "192.0.2.10"), (NAT_VIP6, "2001:db8:1::10")] {
        let host = if vip.contains(':') {
            format!("[{vip}]")
        } else {
            vip.to_owned()
        };
        for port in [80, 81] {
            let got = lab.dir().join("got");
            let curl = |arguments: &[&str]| -> Result<String> {
                let mut command = lab.client.command("curl");
                command.args(["-sS", "--fail", "--max-time", "60", "--noproxy", "*"]);
                capture(command.args(arguments))
            };
            let out = got.to_string_lossy().into_owned();
            curl(&["-o", &out, &format!("http://{host}:{port}/large")])?;
            ensure!(std::fs::read(&got)? == large(), "the download differs");
            let upload = format!("@{}", lab.dir().join("upload").display());
            for port in [port, port + 100] {
                let url = format!("http://{host}:{port}/up");
                let said = curl(&["--data-binary", &upload, "-H", "Expect:", &url])?;
                ensure!(said == "taken\n", "{said}");
            }
        }
        let home = lab.dir().join("servers");
        let access = std::fs::read_to_string(home.join("access.log"))?;
        let told = access
            .lines()
            .filter(|line| line.starts_with(&format!("{client} ")));
        ensure!(told.count() == 4, "nginx was told otherwise:\n{access}");
        let log = std::fs::read_to_string(home.join("haproxy.log"))?;
        let told = log
            .lines()
            .filter(|line| line.contains(&format!("told {client} ")));
        ensure!(told.count() == 2, "HAProxy was told otherwise:\n{log}");
    }
    // What nginx got of the uploads, to the byte.
    let mut bodies = 0;
    for body in std::fs::read_dir(lab.dir().join("servers/body"))? {
        ensure!(std::fs::read(body?.path())? == large(), "an upload differs");
        bodies += 1;
    }
    ensure!(bodies == 4, "{bodies} uploads");
    daemon.terminate()?;
    Ok(())
}
