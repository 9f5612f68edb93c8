//! Health checks against real servers: each kind finds them up, and finds out in time when they die, hang or lie.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use weir_e2e::checks::{self, await_fall, await_states, health, numbers, states};
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, DSR_VIP4, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::load::{Load, requests};
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::Process;
use weir_e2e::quic::Standing;
use weir_e2e::tls::{For, Issued, issue};
use weir_e2e::transfer::Echo;
use weir_e2e::{Failure, Result, ensure, host, sockets, wait};

const BACKENDS: usize = 3;

fn backends(port: u16) -> Vec<String> {
    checks::backends((1..=BACKENDS).map(backend4), port)
}

fn tls_server(ns: &Namespace, dir: &Path, n: usize, cert: &str, key: &str) -> Result<Process> {
    let mut command = ns.command("openssl");
    command.args([
        "s_server", "-accept", "8443", "-www", "-quiet", "-cert", cert, "-key", key,
    ]);
    Process::start("openssl", &command, &dir.join(format!("tls{n}.log")))
}

#[test]
fn each_kind_of_check_finds_real_servers_up_and_down() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let Issued { cert, key } = issue(lab.dir(), "tls", For::Name("tls.test"), None)?;
    let mut nginx = Nginx::start_all(&lab)?;
    let mut tls = Vec::new();
    let mut echo = Echo::new();
    for (i, ns) in lab.backends.iter().enumerate() {
        tls.push(tls_server(ns, lab.dir(), i, &cert, &key)?);
        let bind = format!("{}:7000", backend4(i + 1)).parse()?;
        echo.udp(sockets::udp(ns, bind)?)?;
    }
    let quic = (lab.backends.iter().enumerate())
        .map(|(i, ns)| Standing::start(ns, format!("{}:4433", backend4(i + 1)).parse()?))
        .collect::<Result<Vec<_>>>()?;
    let name = instance();
    let vip = NAT_VIP4;
    let https = format!(
        "kind = \"https\"\nhost = \"tls.test\"\ntls = {{ verify = true, ca = \"{cert}\" }}"
    );
    let lying = "kind = \"http\"\nbody = \"b1\"";
    let config = Config::one_armed(&name)
        .service("web", "nat", "tcp", vip, "80", &backends(8080))
        .service_text(&health("kind = \"http\"\npath = \"/\""))
        .service("tls", "nat", "tcp", vip, "443", &backends(8443))
        .service_text(&health(&https))
        .service("echo", "nat", "udp", vip, "7000", &backends(7000))
        .service_text(&health(
            "kind = \"udp\"\npayload = \"ping\"\nanswer = \"ping\"",
        ))
        .service("quic", "nat", "udp", vip, "4433", &backends(4433))
        .service_text(&health("kind = \"quic\""))
        .service("ping", "nat", "tcp", vip, "81", &backends(81))
        .service_text(&health("kind = \"icmp\""))
        .service("tcp", "nat", "tcp", vip, "82", &backends(80))
        .service_text(&health("kind = \"tcp\""))
        .service("liar", "nat", "tcp", vip, "83", &backends(83))
        .service_text(&health(&format!("{lying}\nport = 8080")))
        .service(
            "direct",
            "dsr-l2",
            "tcp",
            DSR_VIP4,
            "80",
            &(1..=BACKENDS).map(backend4).collect::<Vec<_>>(),
        )
        .service_text(&health("kind = \"http\""));
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    let all_up = ["up", "up", "up"];
    for service in ["web", "tls", "echo", "quic", "ping", "tcp", "direct"] {
        await_states(&weir, service, &all_up)?;
    }
    // Two of three serve another page than they should.
    await_states(&weir, "liar", &["up", "down", "down"])?;
    requests(&lab.client, vip, 50)?;

    // Killed: its kernel refuses connections from now on.
    nginx.truncate(2);
    await_fall(&weir, "http, killed", "web", &["up", "up", "down"])?;
    await_states(&weir, "tcp", &["up", "up", "down"])?;
    await_states(&weir, "direct", &["up", "up", "down"])?;
    let seen = requests(&lab.client, vip, 50)?;
    ensure!(
        !seen.contains_key("b3"),
        "a dead server got requests: {seen:?}"
    );

    // Stopped: it accepts and never answers.
    tls[0].signal(Signal::SIGSTOP)?;
    await_fall(&weir, "https, hanging", "tls", &["down", "up", "up"])?;
    tls[0].signal(Signal::SIGCONT)?;
    await_states(&weir, "tls", &all_up)?;

    // Its socket is gone: the kernel says that the port is unreachable.
    drop(quic);
    let open = ["fail-open", "fail-open", "fail-open"];
    await_fall(&weir, "quic, all gone", "quic", &open)?;

    // Unplugged.
    lab.backends[0].ip("link set eth0 down")?;
    await_fall(&weir, "icmp, unplugged", "ping", &["down", "up", "up"])?;
    await_states(&weir, "echo", &["down", "up", "up"])?;
    lab.backends[0].ip("link set eth0 up")?;
    await_states(&weir, "echo", &all_up)?;
    let events = weir.ctl(&["events"])?;
    ensure!(
        events.contains("connection refused") && events.contains("does not hold the text"),
        "the events do not say why:\n{events}"
    );
    Ok(())
}

#[test]
fn a_backend_without_the_vip_is_down_and_reload_puts_the_file_in_force() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let _nginx = Nginx::start_all(&lab)?;
    let name = instance();
    let listed: Vec<String> = (1..=BACKENDS).map(backend4).collect();
    let config = Config::one_armed(&name)
        .service("direct", "dsr-l2", "tcp", DSR_VIP4, "80", &listed)
        .service_text(&health("kind = \"http\""));
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    await_states(&weir, "direct", &["up", "up", "up"])?;
    lab.backends[1].ip(&format!("address del {DSR_VIP4}/32 dev lo"))?;
    await_states(&weir, "direct", &["up", "down", "up"])?;

    // The same file with a service more, and one key that cannot change.
    let more = config
        .service("web", "nat", "tcp", NAT_VIP4, "80", &backends(8080))
        .text()
        .replace("idle = \"poll\"", "idle = \"adaptive\"");
    std::fs::write(weir.config(), more)?;
    let said = weir.ctl(&["reload"])?;
    ensure!(
        said.contains("+ service web") && said.contains("left alone: [engine] idle"),
        "{said}"
    );
    requests(&lab.client, NAT_VIP4, 10)?;
    ensure!(
        states(&weir, "direct")? == ["up", "down", "up"],
        "a reload forgot what checks had found"
    );
    std::fs::write(weir.config(), config_without_web(weir.config())?)?;
    weir.process().signal(Signal::SIGHUP)?;
    wait::until_true("the service to go", Duration::from_secs(5), || {
        weir.ctl(&["service", "list"])
            .is_ok_and(|list| !list.contains("web"))
    })
}

/// The file without its last service.
fn config_without_web(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path)?;
    let cut = text.rfind("\n[[service]]").unwrap_or(text.len());
    Ok(text[..cut].to_owned())
}

#[test]
fn under_load_a_drain_fails_no_request() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let _nginx = Nginx::start_all(&lab)?;
    let name = instance();
    let config = Config::one_armed(&name)
        .service("web", "nat", "tcp", NAT_VIP4, "80", &backends(8080))
        .service_text("slow_start = \"3s\"\n")
        .service_text(&health("kind = \"http\""));
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    await_states(&weir, "web", &["up", "up", "up"])?;

    let first = weir.nth_backend("web", 0)?;
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    weir.ctl(&[
        "backend",
        "drain",
        "web",
        &first,
        "--timeout",
        "20s",
        "--wait",
    ])?;
    load.stop_without_failures()?;
    weir.ctl(&["backend", "enable", "web", &first])?;
    let took = await_states(&weir, "web", &["up", "up", "up"])?;
    println!("slow start of an enabled backend: whole after {took:?}");
    Ok(())
}

#[test]
fn a_server_killed_under_load_fails_only_the_requests_that_it_held() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    // Connections last, so that those that it holds at its end are those that are counted before.
    let mut nginx = Vec::new();
    for (n, ns) in (1..).zip(&lab.backends) {
        let lasting = format!(
            "server {{ listen 8090; keepalive_requests 100000000; location / {{ return 200 \"b{n}\\n\"; }} }}\n"
        );
        nginx.push(Nginx::start_with(
            ns,
            lab.dir(),
            &format!("b{n}"),
            &lasting,
        )?);
    }
    let name = instance();
    let config = Config::one_armed(&name)
        .service("web", "nat", "tcp", NAT_VIP4, "80", &backends(8090))
        .service_text(&health("kind = \"http\""));
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    await_states(&weir, "web", &["up", "up", "up"])?;

    // Sixteen connections: once in some hundred times the third server gets none of them.
    let mut under_way = None;
    for _ in 0..5 {
        let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
        let begun = numbers(&weir, "web", "new_flows")?;
        let flows = numbers(&weir, "web", "flows")?;
        if flows[2] > 0 {
            under_way = Some((load, flows[2], begun[2]));
            break;
        }
        load.stop()?;
    }
    let (load, held, begun) = under_way.ok_or_else(|| Failure::new("it never gets a flow"))?;
    nginx.truncate(2);
    await_fall(
        &weir,
        "http, killed under load",
        "web",
        &["up", "up", "down"],
    )?;
    std::thread::sleep(Duration::from_secs(1));
    let outcome = load.stop()?;
    // Each connection that it held fails one request. Until it is found out, those that are begun anew may be given to
    // it again, and are refused, or reset where it died between the handshake and the request.
    let given = numbers(&weir, "web", "new_flows")?[2] - begun;
    let refused = numbers(&weir, "web", "refused")?[2];
    println!(
        "killed under load: {held} flows held, {given} more given ({refused} refused), {outcome:?}"
    );
    ensure!(
        outcome.requests > 1000,
        "hardly any request was answered: {outcome:?}"
    );
    ensure!(
        outcome.failed <= held + given,
        "{} requests failed, of {held} flows and {given} that were given to it since: {outcome:?}",
        outcome.failed
    );
    let seen = requests(&lab.client, NAT_VIP4, 60)?;
    ensure!(
        !seen.contains_key("b3"),
        "a dead server got requests: {seen:?}"
    );
    Ok(())
}

#[test]
fn a_server_that_comes_back_under_load_gets_its_share_in_steps() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    const RAMP: u64 = 10;
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let mut nginx = Nginx::start_all(&lab)?;
    let name = instance();
    let config = Config::one_armed(&name)
        .service("web", "nat", "tcp", NAT_VIP4, "80", &backends(8080))
        .service_text(&format!("slow_start = \"{RAMP}s\"\n"))
        .service_text(&health("kind = \"http\""));
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    await_states(&weir, "web", &["up", "up", "up"])?;
    nginx.truncate(2);
    await_states(&weir, "web", &["up", "up", "down"])?;
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    nginx.push(Nginx::start(&lab.backends[2], lab.dir(), "back")?);
    await_states(&weir, "web", &["up", "up", "slow-start"])?;
    let started = Instant::now();
    let mut before = numbers(&weir, "web", "new_flows")?;
    let mut shares: Vec<(f64, f64)> = Vec::new();
    while started.elapsed() < Duration::from_secs(RAMP + 4) {
        std::thread::sleep(Duration::from_secs(1));
        let now = numbers(&weir, "web", "new_flows")?;
        let begun: Vec<u64> = now.iter().zip(&before).map(|(a, b)| a - b).collect();
        let all: u64 = begun.iter().sum();
        if all > 0 {
            let share = begun[2] as f64 / all as f64;
            shares.push((started.elapsed().as_secs_f64(), share));
        }
        before = now;
    }
    load.stop_without_failures()?;
    let line: Vec<String> = shares
        .iter()
        .map(|(at, share)| format!("{at:.0}s {:.0}%", share * 100.0))
        .collect();
    println!("share of new flows: {}", line.join(", "));
    if let Some(file) = std::env::var_os("WEIR_PLOT") {
        std::fs::write(file, plot(&shares, RAMP as f64))?;
    }
    let mean = |range: std::ops::Range<usize>| {
        let part = shares.get(range).unwrap_or_default();
        part.iter().map(|(_, share)| share).sum::<f64>() / part.len().max(1) as f64
    };
    let (early, late) = (mean(0..3), mean(RAMP as usize..shares.len()));
    ensure!(early < 0.15, "a third at once: {line:?}");
    ensure!(late > 0.23, "it never gets its third: {line:?}");
    Ok(())
}

/// Shares over time as SVG, with the time of the slow start and the fair share marked.
fn plot(shares: &[(f64, f64)], ramp: f64) -> String {
    let (x, y) = (
        |at: f64| 60.0 + at * 40.0,
        |share: f64| 240.0 - share * 500.0,
    );
    let points: Vec<String> = shares
        .iter()
        .map(|(at, share)| format!("{:.1},{:.1}", x(*at), y(*share)))
        .collect();
    let (right, fair, end) = (x(15.0), y(1.0 / 3.0), x(ramp));
    let mut marks = String::new();
    for second in (0..=14).step_by(2) {
        let at = x(f64::from(second));
        marks += &format!("<text x=\"{at}\" y=\"258\" text-anchor=\"middle\">{second}</text>\n");
    }
    for percent in [0, 10, 20, 30, 40] {
        let at = y(f64::from(percent) / 100.0);
        marks += &format!("<text x=\"52\" y=\"{at}\" text-anchor=\"end\">{percent}</text>\n");
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 680 290\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<title>Slow start under load</title>\n\
         <rect width=\"680\" height=\"290\" fill=\"white\"/>\n\
         <path d=\"M60 30V240H{right}\" fill=\"none\" stroke=\"black\"/>\n\
         <path d=\"M60 {fair}H{right}M{end} 30V240\" fill=\"none\" stroke=\"grey\" stroke-dasharray=\"4\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#1f77b4\" stroke-width=\"2\"/>\n{marks}\
         <text x=\"360\" y=\"280\" text-anchor=\"middle\">seconds since the server was up again</text>\n\
         <text x=\"60\" y=\"20\">% of new flows; one of three servers, slow_start = \"{ramp}s\"</text>\n</svg>\n",
        points.join(" ")
    )
}
