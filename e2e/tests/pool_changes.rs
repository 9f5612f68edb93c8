//! An operator changes the pool while requests are under way: nothing fails, and nothing moves that need not.

use std::collections::BTreeMap;
use std::time::Duration;

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, DSR_VIP4, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::load::{Load, requests};
use weir_e2e::nginx::Nginx;
use weir_e2e::transfer::{Echo, Held};
use weir_e2e::{Result, ensure, host, sockets, wait};

const BACKENDS: usize = 3;

/// The two modes that the changes are shown with.
#[derive(Clone, Copy)]
enum Mode {
    Nat,
    Dsr,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Dsr => "dsr-l2",
        }
    }

    fn vip(self) -> &'static str {
        match self {
            Self::Nat => NAT_VIP4,
            Self::Dsr => DSR_VIP4,
        }
    }

    /// The port that backends serve HTTP on; clients use 80 in either mode.
    fn port(self) -> u16 {
        match self {
            Self::Nat => 8080,
            Self::Dsr => 80,
        }
    }

    /// The name of the n-th backend of the web service, counted from 1.
    fn backend(self, n: usize) -> String {
        format!("{}:{}", backend4(n), self.port())
    }

    fn configuration(self, instance: &str) -> Config {
        let listed: Vec<String> = (1..=BACKENDS)
            .map(|n| match self {
                Self::Nat => format!("{} {}", backend4(n), self.port()),
                Self::Dsr => backend4(n),
            })
            .collect();
        Config::one_armed(instance).service("web", self.name(), "tcp", self.vip(), "80", &listed)
    }
}

fn drained_and_removed(mode: Mode) -> Result {
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let servers = Nginx::start_all(&lab)?;
    let name = instance();
    let text = mode.configuration(&name).text();
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
    let third = mode.backend(3);

    let load = Load::start(&lab.client, lab.dir(), mode.vip())?;
    weir.ctl(&["backend", "drain", "web", &third])?;
    wait::until_true(
        "the drained backend's connections to end",
        Duration::from_secs(20),
        || servers[2].connections().is_ok_and(|open| open == 0),
    )?;
    weir.ctl(&["backend", "remove", "web", &third])?;
    let before = servers[2].requests()?;
    std::thread::sleep(Duration::from_secs(1));
    let after = servers[2].requests()?;
    load.stop_without_failures()?;
    // The question itself is one request.
    ensure!(
        after == before + 1,
        "{} requests reached a removed backend",
        after - before - 1
    );

    let load = Load::start(&lab.client, lab.dir(), mode.vip())?;
    weir.ctl(&["backend", "add", "web", &third, "--weight", "1"])?;
    std::thread::sleep(Duration::from_secs(1));
    load.stop_without_failures()?;
    let taken = servers[2].requests()? - after - 1;
    ensure!(taken > 0, "an added backend got no request under load");
    Ok(())
}

#[test]
fn with_nat_a_drain_a_removal_and_an_addition_under_load_fail_no_request() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    drained_and_removed(Mode::Nat)
}

#[test]
fn with_dsr_l2_a_drain_a_removal_and_an_addition_under_load_fail_no_request() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    drained_and_removed(Mode::Dsr)
}

#[test]
fn weights_decide_the_share_of_new_connections() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let _servers = Nginx::start_all(&lab)?;
    let name = instance();
    let text = Mode::Nat.configuration(&name).text();
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
    weir.ctl(&["backend", "weight", "web", &Mode::Nat.backend(1), "8"])?;
    weir.ctl(&["backend", "weight", "web", &Mode::Nat.backend(2), "0"])?;
    let seen = requests(&lab.client, NAT_VIP4, 900)?;
    let share = |name: &str| seen.get(name).copied().unwrap_or(0);
    // 800 of 900 are due, and the standard deviation is 9.4.
    ensure!(
        (750..=850).contains(&share("b1")),
        "weights 8, 0, 1, but: {seen:?}"
    );
    ensure!(
        share("b2") == 0,
        "weight 0 takes no new connections, but: {seen:?}"
    );
    Ok(())
}

/// Thirty connections that are held open, to a service `echo` whose backends greet with their names.
struct HeldPool {
    held: Vec<Held>,
    _echo: Echo,
}

impl HeldPool {
    fn open(lab: &Lab) -> Result<Self> {
        let mut echo = Echo::new();
        for (namespace, greeting) in lab.backends.iter().zip(["b1\n", "b2\n", "b3\n"]) {
            echo.tcp(
                sockets::listen(namespace, "0.0.0.0:7000".parse()?)?,
                greeting,
            )?;
        }
        let mut pool = Self {
            held: Vec::new(),
            _echo: echo,
        };
        for _ in 0..30 {
            pool.held.push(Held::open(
                &lab.client,
                format!("{NAT_VIP4}:7000").parse()?,
            )?);
        }
        let spread = pool.by_backend();
        ensure!(
            spread.len() == BACKENDS,
            "30 connections reached only {spread:?}"
        );
        Ok(pool)
    }

    fn by_backend(&self) -> BTreeMap<&str, usize> {
        let mut count = BTreeMap::new();
        for held in &self.held {
            *count.entry(held.backend.as_str()).or_insert(0) += 1;
        }
        count
    }

    /// Connections that still echo, by backend.
    fn alive(&mut self, limit: Duration) -> BTreeMap<String, usize> {
        let mut count = BTreeMap::new();
        for held in &mut self.held {
            *count.entry(held.backend.clone()).or_insert(0) += usize::from(held.echoes(limit));
        }
        count
    }
}

fn echo_configuration(instance: &str) -> Config {
    let listed: Vec<String> = (1..=BACKENDS).map(backend4).collect();
    Config::one_armed(instance).service("echo", "nat", "tcp", NAT_VIP4, "7000", &listed)
}

#[test]
fn a_drain_lets_connections_finish_and_takes_no_new_ones() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let name = instance();
    let text = echo_configuration(&name).text();
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
    let mut pool = HeldPool::open(&lab)?;
    weir.ctl(&["backend", "drain", "echo", "10.0.0.13:7000"])?;
    let alive = pool.alive(Duration::from_secs(2));
    ensure!(
        alive.values().sum::<usize>() == 30,
        "connections died at a drain: {alive:?}"
    );
    for _ in 0..30 {
        let new = Held::open(&lab.client, format!("{NAT_VIP4}:7000").parse()?)?;
        ensure!(
            new.backend != "b3",
            "a draining backend got a new connection"
        );
    }
    weir.ctl(&["backend", "enable", "echo", "10.0.0.13:7000"])?;
    let alive = pool.alive(Duration::from_secs(2));
    ensure!(
        alive.values().sum::<usize>() == 30,
        "connections died at an enable: {alive:?}"
    );
    Ok(())
}

#[test]
fn disabling_a_backend_takes_its_connections_and_no_others() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let name = instance();
    let text = echo_configuration(&name).text();
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
    let mut pool = HeldPool::open(&lab)?;
    let before: BTreeMap<String, usize> = pool
        .by_backend()
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count))
        .collect();
    weir.ctl(&["backend", "disable", "echo", "10.0.0.13:7000"])?;
    let alive = pool.alive(Duration::from_secs(1));
    ensure!(
        alive["b3"] == 0,
        "a disabled backend kept connections: {alive:?}"
    );
    for name in ["b1", "b2"] {
        ensure!(
            alive[name] == before[name],
            "disabling b3 cost {name} connections: {before:?}, {alive:?}"
        );
    }
    Ok(())
}

#[test]
fn adding_backends_and_changing_weights_moves_no_established_connection() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let name = instance();
    let text = echo_configuration(&name).text();
    let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
    let mut pool = HeldPool::open(&lab)?;
    for round in 0..20 {
        let weight = (round % 5 + 1).to_string();
        weir.ctl(&["backend", "weight", "echo", "10.0.0.11:7000", &weight])?;
        // 10.0.0.99 is nobody: it may take new flows, and must take none of these.
        weir.ctl(&["backend", "add", "echo", "10.0.0.99:7000"])?;
        weir.ctl(&["backend", "remove", "echo", "10.0.0.99:7000"])?;
    }
    let alive = pool.alive(Duration::from_secs(2));
    ensure!(
        alive.values().sum::<usize>() == 30,
        "60 changes cost connections: {alive:?}"
    );
    Ok(())
}

#[test]
fn what_was_saved_survives_a_restart_and_what_was_not_is_said() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, BACKENDS)?;
    let _servers = Nginx::start_all(&lab)?;
    let name = instance();
    let text = format!(
        "# kept: the reason for it all\n{}",
        Mode::Nat.configuration(&name).text()
    );
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &text)?;
    let first = Mode::Nat.backend(1);

    let said = weir.ctl_output(&["backend", "weight", "web", &first, "7"])?;
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    ensure!(
        said.contains("weirctl save"),
        "nothing said that a restart would undo it: {said}"
    );
    weir.ctl(&["save"])?;
    let written = std::fs::read_to_string(weir.config())?;
    ensure!(
        written.starts_with("# kept: the reason for it all\n"),
        "the comment is gone:\n{written}"
    );
    weir.ctl(&["backend", "weight", "web", &first, "9"])?;

    ensure!(
        weir.terminate()?.success(),
        "weir did not end well:\n{}",
        weir.log()
    );
    let config = weir.config().to_owned();
    let weir = Daemon::start_file(&lab.balancer, lab.dir(), &name, &config)?;
    ensure!(
        weir.weight("web", &first)? == 7,
        "saved was 7, in force is {}",
        weir.weight("web", &first)?
    );
    Ok(())
}
