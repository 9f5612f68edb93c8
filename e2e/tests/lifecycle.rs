//! Starting, stopping and starting again: one instance of a name, stale segments taken over, nothing left behind.

use std::time::Duration;

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::host::HugePages;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::load::{Load, requests};
use weir_e2e::nginx::Nginx;
use weir_e2e::{Result, ensure, host, wait};

fn configuration(instance: &str) -> Config {
    let backends = [1, 2].map(|n| format!("{} 8080", backend4(n)));
    Config::one_armed(instance).service("web", "nat", "tcp", NAT_VIP4, "80", &backends)
}

fn lab() -> Result<Lab> {
    Lab::new(Arms::One, 2)
}

#[test]
fn a_second_weir_of_the_same_name_refuses_to_start_and_the_first_goes_on() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = lab()?;
    let _servers = Nginx::start_all(&lab)?;
    let name = instance();
    let first = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &configuration(&name).text(),
    )?;
    let before = first.ctl(&["backend", "list", "web"])?;
    {
        let other = weir_e2e::namespace::Namespace::new("other")?;
        // A device that would start anywhere: only the name is in the way.
        let text = configuration(&name)
            .text()
            .replace("net_af_xdp0,iface=eth0", "net_null0");
        let path = lab.dir().join("second.toml");
        std::fs::write(&path, text)?;
        let mut second = second(&other, &lab, &name, &path)?;
        let status = second.wait(Duration::from_secs(15))?;
        ensure!(
            status.code() == Some(1),
            "the second weir ended with {status}:\n{}",
            second.log()
        );
        let said = second.log();
        ensure!(
            said.contains(&name),
            "the refusal does not name the instance: {said}"
        );
    }
    requests(&lab.client, NAT_VIP4, 20)?;
    ensure!(
        first.ctl(&["backend", "list", "web"])?.lines().count() == before.lines().count(),
        "the pool changed"
    );
    Ok(())
}

/// A second weir as a bare process: it must not remove the first one's segment when the test is done with it.
fn second(
    namespace: &weir_e2e::namespace::Namespace,
    lab: &Lab,
    name: &str,
    config: &std::path::Path,
) -> Result<weir_e2e::process::Process> {
    let mut command = namespace.command_on(&weir_e2e::cores::all(), host::binary("weir")?);
    command.args(["run", "--config"]).arg(config);
    weir_e2e::process::Process::start(name, &command, &lab.dir().join("second.log"))
}

#[test]
fn the_segment_of_a_killed_weir_is_taken_over() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = lab()?;
    let _servers = Nginx::start_all(&lab)?;
    let name = instance();
    let mut first = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &configuration(&name).text(),
    )?;
    requests(&lab.client, NAT_VIP4, 10)?;
    first.process().kill()?;
    ensure!(
        first.segment().exists(),
        "a killed process cannot have removed its segment"
    );

    let config = first.config().to_owned();
    let second = Daemon::start_file(&lab.balancer, lab.dir(), &name, &config)?;
    requests(&lab.client, NAT_VIP4, 20)?;
    second.ctl(&["backend", "weight", "web", "10.0.0.11:8080", "3"])?;
    Ok(())
}

#[test]
fn sigterm_under_load_stops_cleanly_and_leaves_the_segment_readable() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = lab()?;
    let _servers = Nginx::start_all(&lab)?;
    let name = instance();
    let mut weir = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &configuration(&name).text(),
    )?;
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    let status = weir.terminate()?;
    ensure!(
        status.success(),
        "weir ended with {status}:\n{}",
        weir.log()
    );
    drop(load);
    buffers_came_back(&weir)?;

    ensure!(weir.segment().exists(), "the segment is gone");
    let last = weir.ctl(&["service", "list"])?;
    ensure!(
        last.contains("web"),
        "the segment of a stopped weir cannot be read: {last}"
    );
    // A stopped daemon acknowledges nothing: a change must not pretend to be in force.
    let said = weir.ctl_refused(&["backend", "weight", "web", "10.0.0.11:8080", "3"])?;
    ensure!(!said.trim().is_empty(), "a refusal without a reason");
    Ok(())
}

#[test]
fn sigint_stops_cleanly_too() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = lab()?;
    let name = instance();
    let mut weir = Daemon::start(
        &lab.balancer,
        lab.dir(),
        &name,
        &configuration(&name).text(),
    )?;
    weir.process().signal(nix::sys::signal::Signal::SIGINT)?;
    let status = weir.process().wait(Duration::from_secs(10))?;
    ensure!(
        status.success(),
        "weir ended with {status}:\n{}",
        weir.log()
    );
    buffers_came_back(&weir)
}

#[test]
fn huge_pages_are_used_and_given_back() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let pages = HugePages::reserve(512)?;
    let (free, files) = (pages.free()?, pages.files()?);
    let lab = lab()?;
    let _servers = Nginx::start_all(&lab)?;
    let name = instance();
    let mut config = configuration(&name);
    config.memory = "hugepages";
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
    requests(&lab.client, NAT_VIP4, 20)?;
    let used = free.saturating_sub(pages.free()?);
    ensure!(
        used > 0,
        "weir runs with memory = \"hugepages\" and uses none"
    );
    let status = weir.terminate()?;
    ensure!(
        status.success(),
        "weir ended with {status}:\n{}",
        weir.log()
    );
    // The kernel lets go of AF_XDP's memory some time after the process has ended.
    let all_free = || pages.free().is_ok_and(|now| now == free);
    wait::until_true(
        "the huge pages to be free again",
        Duration::from_secs(10),
        all_free,
    )?;
    ensure!(
        pages.files()? == files,
        "huge-page files stay behind: {:?}",
        pages.files()?
    );
    buffers_came_back(&weir)
}

/// weir counts its packet buffers at the end, and says so (and ends with 1) when some are missing.
fn buffers_came_back(weir: &Daemon) -> Result {
    let log = weir.log();
    ensure!(
        !log.contains("missing"),
        "not all packet buffers came back:\n{log}"
    );
    Ok(())
}
