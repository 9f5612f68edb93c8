//! The harness itself: what the other tests rely on to notice a fault does notice one, and nothing stays behind.

use std::process::Command;
use std::time::Duration;

use weir_e2e::lab::{Arms, Lab, wire};
use weir_e2e::load::{Load, requests};
use weir_e2e::namespace::Namespace;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::Process;
use weir_e2e::tap::{Cable, TAG, spoil_udp, tag, unchanged, untag};
use weir_e2e::transfer::{Echo, tcp_round_trip, udp_round_trips};
use weir_e2e::{Result, ensure, host, sockets, wait};

/// Two namespaces, 10.1.0.1 and 10.1.0.2, on a cable that does `forth` and `back` to the frames.
fn pair(
    forth: weir_e2e::tap::Change,
    back: weir_e2e::tap::Change,
) -> Result<(Namespace, Namespace, Cable)> {
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    let cable = Cable::join(&a, &b, "tap0", forth, back)?;
    a.ip("addr add 10.1.0.1/24 dev tap0")?;
    b.ip("addr add 10.1.0.2/24 dev tap0")?;
    Ok((a, b, cable))
}

#[test]
fn a_wrong_checksum_is_noticed_by_the_kernel() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let (a, b, _cable) = pair(spoil_udp, unchanged)?;
    let mut echo = Echo::new();
    echo.udp(sockets::udp(&b, "10.1.0.2:7".parse()?)?)?;
    let socket = sockets::udp(&a, "10.1.0.1:0".parse()?)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    ensure!(
        udp_round_trips(&socket, "10.1.0.2:7".parse()?, [100]).is_err(),
        "a spoilt datagram was answered"
    );
    let errors = b.checksum_errors()?;
    ensure!(
        errors
            .iter()
            .any(|(name, count)| name == "Udp.InCsumErrors" && *count == 1),
        "counted: {errors:?}"
    );
    Ok(())
}

#[test]
fn a_tagging_cable_shows_tagged_frames_on_one_side_and_plain_ones_on_the_other() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    // a ─ tag → [far] ─ untag → b: two cables, with plain forwarding by a bridge in between.
    let (a, b, far) = (
        Namespace::new("a")?,
        Namespace::new("b")?,
        Namespace::new("far")?,
    );
    let _left = Cable::join(&a, &far, "left", tag, untag)?;
    let _right = Cable::join(&b, &far, "right", tag, untag)?;
    far.ip("link add br0 type bridge stp_state 0 forward_delay 0")?;
    for port in ["left", "right"] {
        far.ip(&format!("link set {port} master br0"))?;
    }
    far.ip("link set br0 up")?;
    a.ip("addr add 10.1.0.1/24 dev left")?;
    b.ip("addr add 10.1.0.2/24 dev right")?;

    let mut capture = far.command("tcpdump");
    capture.args([
        "-i",
        "left",
        "-n",
        "-e",
        "-c",
        "4",
        "--immediate-mode",
        "udp or vlan",
    ]);
    let dir = tempfile_dir()?;
    let log = dir.path().join("tcpdump.log");
    let mut tcpdump = Process::start("tcpdump", &capture, &log)?;
    wait::until_true("tcpdump to listen", Duration::from_secs(5), || {
        tcpdump.log().contains("listening")
    })?;

    let mut echo = Echo::new();
    echo.udp(sockets::udp(&b, "10.1.0.2:7".parse()?)?)?;
    let socket = sockets::udp(&a, "10.1.0.1:0".parse()?)?;
    udp_round_trips(&socket, "10.1.0.2:7".parse()?, [1, 99, 1400])?;
    tcpdump.wait(Duration::from_secs(5))?;
    let vlan = format!("vlan {}", TAG[3]);
    ensure!(
        tcpdump.log().contains(&vlan),
        "no {vlan} in what tcpdump saw:\n{}",
        tcpdump.log()
    );
    Ok(())
}

#[test]
fn data_comes_back_as_it_was_sent_and_load_counts_what_was_answered() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let b1 = &lab.backends[0];
    // Without weir in between: the client reaches the backend's network directly.
    lab.client.ip("addr add 10.0.0.250/24 dev eth0")?;
    let mut echo = Echo::new();
    echo.tcp(sockets::listen(b1, "10.0.0.11:7".parse()?)?, "")?;
    tcp_round_trip(
        &sockets::connect(&lab.client, "10.0.0.11:7".parse()?)?,
        1_000_003,
        1,
    )?;
    ensure!(
        echo.served() == 1,
        "one connection was made, {} were served",
        echo.served()
    );

    let nginx = Nginx::start(b1, lab.dir(), "b1")?;
    let before = nginx.requests()?;
    let seen = requests(&lab.client, "10.0.0.11:8080", 20)?;
    ensure!(seen.get("b1") == Some(&20), "{seen:?}");
    let load = Load::start(&lab.client, lab.dir(), "10.0.0.11:8080")?;
    let loaded = load.stop_without_failures()?;
    let counted = nginx.requests()? - before;
    // wrk does not count answers that were on their way when it was stopped: up to one for each of its connections.
    ensure!(
        (loaded + 20..=loaded + 20 + 17).contains(&counted),
        "curl and wrk made {} requests, nginx counted {counted}",
        loaded + 20
    );
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "{errors}");
    Ok(())
}

#[test]
fn load_on_a_server_that_goes_away_reports_failed_requests() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
    wire(&a, "eth0", &b, "eth0")?;
    a.ip("addr add 10.1.0.1/24 dev eth0")?;
    b.ip("addr add 10.1.0.2/24 dev eth0")?;
    let dir = tempfile_dir()?;
    let nginx = Nginx::start(&b, dir.path(), "b")?;
    let load = Load::start(&a, dir.path(), "10.1.0.2:8080")?;
    drop(nginx);
    std::thread::sleep(Duration::from_millis(500));
    let outcome = load.stop()?;
    ensure!(
        !outcome.failures.is_empty(),
        "the server was killed under load, and wrk saw nothing: {outcome:?}"
    );
    Ok(())
}

#[test]
fn nothing_stays_behind() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::Two, 2)?;
    let names: Vec<String> = lab
        .backends
        .iter()
        .chain([&lab.client, &lab.balancer])
        .map(|n| n.name().to_owned())
        .collect();
    let dir = lab.dir().to_owned();
    let nginx = Nginx::start(&lab.backends[0], &dir, "b1")?;
    drop(nginx);
    drop(lab);
    let left = weir_e2e::process::capture(Command::new("ip").args(["netns", "list"]))?;
    for name in names {
        ensure!(!left.contains(&name), "namespace {name} is still there");
    }
    ensure!(!dir.exists(), "{} is still there", dir.display());
    Ok(())
}

fn tempfile_dir() -> Result<tempfile::TempDir> {
    Ok(tempfile::TempDir::with_prefix("weir-e2e-")?)
}
