//! J. HTTP requests from `wrk` to three nginx servers: through weir (`nat`, AF_XDP), through HAProxy in
//! TCP mode, and through nftables DNAT, in the same namespaces.
//!
//! weir's worker and HAProxy have the last core, everything else shares the others; the kernel does
//! nftables' work where the packets come from, as it does by default.

use std::time::Duration;

use weir_e2e::config::Config;
use weir_e2e::lab::{self, Arms, Lab, NAT_VIP4, instance};
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::{Process, capture};
use weir_e2e::{cores, wait};

use super::Settings;
use crate::Failure;
use crate::record::Record;
use crate::rig::balancer::Balancer;
use crate::rig::{kernel, said};

const SERVERS: usize = 3;
const CONNECTIONS: usize = 64;
/// The balancer's kernel addresses, where the kernel has to have some.
const ADDRESSES: [(&str, &str); 3] = [
    ("eth0", "192.0.2.2/24"),
    ("eth1", "10.0.0.1/24"),
    ("lo", "198.51.100.10/32"),
];

/// What wrk saw.
#[derive(Debug, Clone, Copy)]
struct Seen {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// Connections kept alive, and one for each request.
#[derive(Debug, Clone, Copy)]
struct Both {
    kept: Seen,
    closed: Seen,
}

/// Measures all cases.
///
/// # Errors
/// When something cannot be put up, or requests fail.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let lab = Lab::new(Arms::Two, SERVERS).map_err(said)?;
    for namespace in [&lab.client, &lab.balancer] {
        spare_the_search_for_ports(namespace)?;
    }
    let mut servers = Vec::new();
    for (number, backend) in lab.backends.iter().enumerate() {
        let name = format!("b{}", number + 1);
        servers.push(Nginx::start(backend, lab.dir(), &name).map_err(said)?);
    }
    let (mut weir, mut nft, mut haproxy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..settings.repetitions {
        haproxy.push(through_haproxy(&lab, settings)?);
        nft.push(through_nft(&lab, settings)?);
        weir.push(through_weir(&lab, settings)?);
    }
    Ok(records(&weir, &nft, &haproxy))
}

/// Lets a namespace connect however many connections it has closed lately. The few seconds of one
/// repetition close more of them than there are ports; each `connect` after that looks through
/// thousands of ports in `TIME_WAIT`, which took all of the first core for some milliseconds, and
/// measured that instead of what balances.
fn spare_the_search_for_ports(namespace: &Namespace) -> Result<(), Failure> {
    for (name, value) in [
        ("net.ipv4.ip_local_port_range", "1024 65535"),
        ("net.ipv4.tcp_tw_reuse", "1"),
    ] {
        namespace.sysctl(name, value).map_err(said)?;
    }
    Ok(())
}

fn records(weir: &[Both], nft: &[Both], haproxy: &[Both]) -> Vec<Record> {
    let column = |list: &[Both], pick: fn(&Both) -> f64| list.iter().map(pick).collect::<Vec<_>>();
    let mut records = Vec::new();
    type Pick = fn(&Both) -> f64;
    let rows: [(&str, &str, Pick); 6] = [
        ("requests/s, kept alive", "/s", |it| it.kept.per_second),
        ("connections/s", "/s", |it| it.closed.per_second),
        ("p50, kept alive", "µs", |it| it.kept.p50_us),
        ("p99, kept alive", "µs", |it| it.kept.p99_us),
        ("p50, a connection a request", "µs", |it| it.closed.p50_us),
        ("p99, a connection a request", "µs", |it| it.closed.p99_us),
    ];
    for (name, unit, pick) in rows {
        for (other, list) in [("nftables", nft), ("HAProxy", haproxy)] {
            records.push(
                Record::new(
                    'J',
                    &format!("{name}, beside {other}"),
                    unit,
                    &column(weir, pick),
                )
                .beside(other, &column(list, pick)),
            );
        }
    }
    records
}

fn through_weir(lab: &Lab, settings: &Settings) -> Result<Both, Failure> {
    let name = instance();
    let backends: Vec<String> = (1..=SERVERS)
        .map(|number| format!("{} 8080", lab::backend4(number)))
        .collect();
    let config = Config::two_armed(&name).service("web", "nat", "tcp", NAT_VIP4, "80", &backends);
    let balancer = Balancer::start_with(&lab.balancer, lab.dir(), &name, &config.text())?;
    let seen = load(lab, settings)?;
    balancer.stop()?;
    Ok(seen)
}

fn through_nft(lab: &Lab, settings: &Settings) -> Result<Both, Failure> {
    kernel::route(&lab.balancer, &ADDRESSES[..2])?;
    let backends: Vec<String> = (1..=SERVERS).map(lab::backend4).collect();
    let rules = kernel::dnat("tcp", NAT_VIP4, 80, &backends, 8080);
    kernel::nft(&lab.balancer, &rules)?;
    let seen = load(lab, settings);
    kernel::nft(&lab.balancer, "delete table ip lb\n")?;
    kernel::unroute(&lab.balancer, &["eth0", "eth1"])?;
    seen
}

fn through_haproxy(lab: &Lab, settings: &Settings) -> Result<Both, Failure> {
    kernel::route(&lab.balancer, &ADDRESSES)?;
    let config = lab.dir().join("haproxy.cfg");
    std::fs::write(&config, haproxy_text())?;
    let mut command = lab
        .balancer
        .command_on(&cores::worker().to_string(), "haproxy");
    command.args(["-db", "-f"]).arg(&config);
    let log = lab.dir().join("haproxy.log");
    let mut process = Process::start("haproxy", &command, &log).map_err(said)?;
    let seen = load(lab, settings);
    process.must_run().map_err(said)?;
    process.kill().map_err(said)?;
    lab.balancer
        .ip("addr del 198.51.100.10/32 dev lo")
        .map_err(said)?;
    kernel::unroute(&lab.balancer, &["eth0", "eth1"])?;
    seen
}

fn haproxy_text() -> String {
    let mut text = format!(
        "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 30s\n  timeout server 30s\nlisten web\n  bind {NAT_VIP4}:80\n  balance roundrobin\n"
    );
    for number in 1..=SERVERS {
        text += &format!("  server b{number} {}:8080\n", lab::backend4(number));
    }
    text
}

/// Load over connections that are kept alive, then over one for each request.
fn load(lab: &Lab, settings: &Settings) -> Result<Both, Failure> {
    let url = format!("http://{NAT_VIP4}/");
    let answers = || {
        let mut curl = lab.client.command("curl");
        curl.args(["-s", "--max-time", "1", &url]);
        capture(&mut curl).is_ok()
    };
    wait::until_true(
        "an answer through the balancer",
        Duration::from_secs(10),
        answers,
    )
    .map_err(said)?;
    Ok(Both {
        kept: wrk(lab, settings, &[])?,
        closed: wrk(lab, settings, &["-H", "Connection: close"])?,
    })
}

fn wrk(lab: &Lab, settings: &Settings, more: &[&str]) -> Result<Seen, Failure> {
    let seconds = settings.window.as_secs().max(1) + 1;
    let mut wrk = lab.client.command("wrk");
    wrk.args(["-t1", "--latency", "--timeout", "5s"])
        .arg(format!("-c{CONNECTIONS}"))
        .arg(format!("-d{seconds}s"))
        .args(more)
        .arg(format!("http://{NAT_VIP4}/"));
    let report = capture(&mut wrk).map_err(said)?;
    read(&report).ok_or_else(|| format!("wrk's report is not as known:\n{report}").into())
}

/// wrk's report. A few requests that time out are told by wrk and lower the rate; they are no reason
/// to have no figure.
fn read(report: &str) -> Option<Seen> {
    let after = |label: &str| {
        let line = report.lines().find(|line| line.trim().starts_with(label))?;
        line.split_whitespace().last()
    };
    Some(Seen {
        per_second: after("Requests/sec:")?.parse().ok()?,
        p50_us: microseconds(after("50%")?)?,
        p99_us: microseconds(after("99%")?)?,
    })
}

/// `12.34us`, `1.50ms`, `1.20s`, `1.00m`.
fn microseconds(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read() {
        let report = "Running 2s test @ http://198.51.100.10/\n  1 threads and 64 connections\n  Thread Stats   \
                      Avg      Stdev     Max   +/- Stdev\n    Latency   400.00us  100.00us   5.00ms   90.00%\n  \
                      Latency Distribution\n     50%  356.00us\n     75%  400.00us\n     90%    0.90ms\n     99%    \
                      1.50ms\n  200000 requests in 2.00s, 30.00MB read\nRequests/sec: 100000.50\nTransfer/sec:     \
                      15.00MB\n";
        let seen = read(report).unwrap();
        assert_eq!(seen.per_second, 100_000.5);
        assert_eq!(seen.p50_us, 356.0);
        assert_eq!(seen.p99_us, 1_500.0);
        assert!(read("wrk: unable to connect").is_none());
    }
}
