//! Prometheus itself scrapes weir: nothing to complain of, and every query of the dashboard answers.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::load::{Load, requests};
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::{Process, capture};
use weir_e2e::{Failure, Result, ensure, host, wait};

const LISTEN: &str = "127.0.0.1:9100";
const PROMETHEUS: &str = "127.0.0.1:9090";
/// What Grafana would put in the place of its variables.
const VARIABLES: [(&str, &str); 3] = [
    ("$instance", ".*"),
    ("$service", ".*"),
    ("$__rate_interval", "6s"),
];

/// Two backends that answer checks, and one that nobody is.
fn configuration(name: &str) -> Config {
    let mut config = Config::one_armed(name);
    config.engine = format!("flows_per_worker = 100_000\n\n[metrics]\nlisten = \"{LISTEN}\"\n");
    let backends: Vec<String> = (1..=3).map(|n| format!("{} 8080", backend4(n))).collect();
    config
        .service("web", "nat", "tcp", NAT_VIP4, "80", &backends)
        .service_text(
            "[service.health]\nkind = \"http\"\npath = \"/\"\ninterval = \"500ms\"\n\
             timeout = \"200ms\"\nfall = 1\nrise = 1\n",
        )
}

/// What weir's own namespace gets for a path.
fn get(namespace: &Namespace, url: &str) -> Result<String> {
    capture(
        namespace
            .command("curl")
            .args(["-sS", "--fail", "--max-time", "10", url]),
    )
}

/// Asks Prometheus.
fn query(namespace: &Namespace, expression: &str) -> Result<Vec<Value>> {
    let mut curl = namespace.command("curl");
    curl.args(["-sS", "--max-time", "10", "-G", "--data-urlencode"]);
    curl.arg(format!("query={expression}"));
    curl.arg(format!("http://{PROMETHEUS}/api/v1/query"));
    let answer: Value = serde_json::from_str(&capture(&mut curl)?)?;
    ensure!(answer["status"] == "success", "{expression}: {answer}");
    let found = answer["data"]["result"].as_array().cloned();
    found.ok_or_else(|| Failure::new(format!("{expression}: {answer}")))
}

/// Every expression in a dashboard, wherever it stands.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                match value.as_str() {
                    Some(text) if key == "expr" => found.push(text.to_owned()),
                    _ => expressions(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// Names of the families in an exposition.
fn families(text: &str) -> BTreeSet<&str> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|line| line.split(' ').next()).collect()
}

fn promtool_finds_nothing(text: &str) -> Result {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics", "--extended"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = promtool.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    let output = promtool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && said.is_empty(),
        "promtool: {}: {said}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

/// Prometheus with the configuration and the rules in `docs/`, but in a hurry.
fn prometheus(lab: &Lab) -> Result<Process> {
    let folder = host::workspace().join("docs/prometheus");
    let text = std::fs::read_to_string(folder.join("prometheus.yml"))?;
    let text = text.replace("interval: 15s", "interval: 1s").replace(
        "alerts.yml",
        &folder.join("alerts.yml").display().to_string(),
    );
    ensure!(
        text.contains("scrape_interval: 1s"),
        "docs/prometheus/prometheus.yml: {text}"
    );
    let file = lab.dir().join("prometheus.yml");
    std::fs::write(&file, text)?;
    let mut command = lab.balancer.command("prometheus");
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            lab.dir().join("tsdb").display()
        ))
        .arg(format!("--web.listen-address={PROMETHEUS}"));
    let mut process = Process::start("prometheus", &command, &lab.dir().join("prometheus.log"))?;
    wait::until("Prometheus to scrape weir", Duration::from_secs(60), || {
        if let Err(ended) = process.must_run() {
            return Some(Err(ended));
        }
        let up = query(&lab.balancer, "up{job=\"weir\"} == 1").ok()?;
        (!up.is_empty()).then_some(Ok(()))
    })??;
    Ok(process)
}

#[test]
fn every_query_of_the_dashboard_answers_from_a_prometheus_that_scrapes_weir() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _servers = [
        Nginx::start(&lab.backends[0], lab.dir(), "b1")?,
        Nginx::start(&lab.backends[1], lab.dir(), "b2")?,
    ];
    let name = instance();
    let weir = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &configuration(&name).text(),
    )?;
    let mut process = prometheus(&lab)?;
    wait::until_true(
        "the dead backend to be found",
        Duration::from_secs(20),
        || {
            get(&lab.balancer, &format!("http://{LISTEN}/metrics"))
                .is_ok_and(|text| text.contains("backend=\"10.0.0.13:8080\",state=\"down\"} 1"))
        },
    )?;

    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    weir.ctl(&["backend", "weight", "web", "10.0.0.11:8080", "3"])?;
    let text = std::fs::read_to_string(host::workspace().join("docs/grafana/weir.json"))?;
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&text)?, &mut found);
    ensure!(
        found.len() > 60,
        "only {} expressions in the dashboard",
        found.len()
    );
    // Long enough for rates over the interval, with scrapes a second apart.
    std::thread::sleep(Duration::from_secs(8));
    let mut silent = Vec::new();
    for expression in &found {
        let mut asked = expression.clone();
        for (variable, value) in VARIABLES {
            asked = asked.replace(variable, value);
        }
        // An annotation marks moments: there may be none.
        if asked.starts_with("changes(") {
            query(&lab.balancer, &asked)?;
            continue;
        }
        let data = query(&lab.balancer, &asked)?;
        let number = |sample: &Value| sample["value"][1].as_str().is_some_and(|it| it != "NaN");
        if !data.iter().any(number) {
            silent.push(asked);
        }
    }
    ensure!(silent.is_empty(), "no data for:\n{}", silent.join("\n"));
    load.stop_without_failures()?;

    for (alert, expression) in [
        (
            "a backend is down",
            "ALERTS{alertname=\"WeirBackendDown\", backend=\"10.0.0.13:8080\"}",
        ),
        (
            "nothing else is amiss",
            "absent(ALERTS{alertname=~\"WeirGone|WeirWorkerStuck|WeirControlCoreStuck|WeirLinkDown|\
             WeirConntrackFull|WeirWorkerBehind|WeirConfigurationRefused\"})",
        ),
        (
            "a worker's time is all accounted for",
            "abs(rate(weir_worker_busy_seconds_total[6s]) + rate(weir_worker_idle_seconds_total[6s]) - 1) < 0.1",
        ),
        (
            "requests were counted",
            "sum(weir_service_packets_total{service=\"web\"}) > 1000",
        ),
        (
            "answers were counted",
            "sum(weir_service_return_packets_total{service=\"web\"}) > 1000",
        ),
        (
            "weir was busy",
            "sum(weir_worker_busy_seconds_total) > 0.001",
        ),
        ("flows live", "sum(weir_backend_flows) > 0"),
        ("the pool was changed", "weir_generation == 2"),
    ] {
        ensure!(
            !query(&lab.balancer, expression)?.is_empty(),
            "{alert}: {expression}"
        );
    }
    process.terminate(Duration::from_secs(20))?;
    Ok(())
}

#[test]
fn promtool_has_nothing_to_complain_of() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let folder = host::workspace().join("docs/prometheus");
    capture(
        Command::new("promtool")
            .args(["check", "rules"])
            .arg(folder.join("alerts.yml")),
    )?;
    capture(
        Command::new("promtool")
            .args(["check", "config"])
            .arg(folder.join("prometheus.yml")),
    )?;
    let lab = Lab::new(Arms::One, 1)?;
    let _server = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let name = instance();
    let config = configuration(&name).service(
        "secret",
        "full-nat",
        "tcp",
        "198.51.100.30",
        "80",
        &[format!("{} 8080", backend4(1))],
    );
    let config = config.service_text("snat_pool = [\"10.0.0.200\"]\n");
    let _weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    wait::until_true("checks to have ended", Duration::from_secs(20), || {
        get(&lab.balancer, &format!("http://{LISTEN}/metrics"))
            .is_ok_and(|text| text.contains("weir_service_check_duration_seconds_count"))
    })?;
    requests(&lab.client, "198.51.100.30", 5)?;
    // Workers publish what they counted between bursts, a little later.
    let mut text = String::new();
    wait::until_true("five connections", Duration::from_secs(5), || {
        text = get(&lab.balancer, &format!("http://{LISTEN}/metrics")).unwrap_or_default();
        text.contains("weir_service_new_flows_total{service=\"secret\"} 5\n")
    })?;
    promtool_finds_nothing(&text)?;
    let operations = std::fs::read_to_string(host::workspace().join("docs/operations.md"))?;
    for family in families(&text) {
        let row = format!("| `{family}` | ");
        ensure!(
            operations.contains(&row),
            "docs/operations.md has no row of {family}"
        );
    }
    let front = get(&lab.balancer, &format!("http://{LISTEN}/"))?;
    ensure!(front.contains("href=\"/metrics\""), "{front}");
    ensure!(
        get(&lab.balancer, &format!("http://{LISTEN}/other")).is_err(),
        "/other is a page"
    );
    Ok(())
}

#[test]
fn hostile_clients_keep_neither_prometheus_nor_traffic_waiting() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _servers = [
        Nginx::start(&lab.backends[0], lab.dir(), "b1")?,
        Nginx::start(&lab.backends[1], lab.dir(), "b2")?,
    ];
    let name = instance();
    let weir = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &configuration(&name).text(),
    )?;
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    let connect = || -> std::io::Result<Vec<TcpStream>> {
        let says: [&[u8]; 4] = [
            b"",
            b"GET /metr",
            b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n",
            &[0xff; 9_000],
        ];
        let mut all = Vec::new();
        for number in 0..200 {
            let mut stream = TcpStream::connect(LISTEN)?;
            // The other end may have gone already.
            let _ = stream.write_all(says[number % says.len()]);
            all.push(stream);
        }
        Ok(all)
    };
    let mut hostile = lab.balancer.run(connect)??;
    for _ in 0..5 {
        let start = Instant::now();
        let text = get(&lab.balancer, &format!("http://{LISTEN}/metrics"))?;
        ensure!(text.contains("weir_start_time_seconds"), "{text}");
        ensure!(
            start.elapsed() < Duration::from_secs(3),
            "it took {:?}",
            start.elapsed()
        );
    }
    weir.ctl(&["backend", "weight", "web", "10.0.0.11:8080", "2"])?;
    load.stop_without_failures()?;
    for stream in &mut hostile {
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        let mut rest = Vec::new();
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => return Err(Failure::new(format!("a client is still held: {error}"))),
        }
    }
    Ok(())
}

#[test]
fn a_port_that_somebody_has_is_a_start_error_with_its_place() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let taken = lab.balancer.run(|| TcpListener::bind(LISTEN))??;
    let name = instance();
    let file = lab.dir().join("taken.toml");
    let text = configuration(&name).text();
    std::fs::write(&file, &text)?;
    let line = text
        .lines()
        .take_while(|line| !line.starts_with("listen"))
        .count()
        + 1;
    let mut weir = Daemon::launch(&lab.balancer, lab.dir(), &name, &file)?;
    let status = weir.process().wait(Duration::from_secs(20))?;
    let place = format!("{}:{line}:10: `listen`: {LISTEN} ", file.display());
    ensure!(
        status.code() == Some(1) && weir.log().contains(&place),
        "{status}; {place} is not in:\n{}",
        weir.log()
    );
    drop(taken);
    Ok(())
}
