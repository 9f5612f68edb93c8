//! Health checks over the whole pipeline, against simulated servers and simulated time.

#![allow(clippy::unwrap_used)] // a helper that cannot go on fails its test

mod support;

use support::host::{Host, Manner};
use support::world::{MILLI, SECOND, World, config};
use weir_shm::segment::directory::BackendState;

const HTTP: &str = "kind = \"http\"\npath = \"/healthz\"\nbody = \"fine\"\ninterval = \"2s\"\n\
                    timeout = \"1s\"\nfall = 3\nrise = 2\n";

#[test]
fn each_way_to_fail_is_found_in_time_and_named() {
    for (manner, reason, slack) in [
        (Manner::Dead, "no answer within 1s", SECOND),
        (Manner::Refuses, "connection refused", 0),
        (Manner::Slow, "connected, but not done within 1s", SECOND),
        (Manner::Serves("lies"), "the page does not hold the text", 0),
    ] {
        let mut world = World::new(&config("nat", "", HTTP), 8080, None);
        world.run(5 * SECOND);
        assert_eq!(world.states(), ["up", "up", "up"], "{:?}", world.events);
        assert!(world.flows(1000).iter().all(|flows| *flows > 10));
        world.hosts[1].manner = manner.clone();
        let took = world.until(1, BackendState::Down, 60 * SECOND);
        // At most fall × interval + timeout, and never without three failures.
        assert!(took <= 6 * SECOND + slack + 5 * MILLI, "{manner:?}: {took}");
        assert!(took > 3 * SECOND, "{manner:?}: {took}");
        assert_eq!(world.said(reason), 1, "{:?}", world.events);
        assert_eq!(world.flows(2000)[1], 0);
        world.hosts[1].manner = Manner::Serves("it is fine");
        let took = world.until(1, BackendState::Up, 60 * SECOND);
        assert!(took <= 4 * SECOND + 10 * MILLI, "{took}");
        assert!(world.flows(3000)[1] > 10);
    }
}

#[test]
fn a_silent_server_is_found_in_time_whatever_the_time_out() {
    // A time-out as long as the interval outlives the moment at which the next check may come
    // early; a longer one, every next check.
    for timeout in [500, 1850, 1999, 2000, 3000] {
        for manner in [Manner::Dead, Manner::Slow] {
            let health = HTTP.replace("\"1s\"", &format!("\"{timeout}ms\""));
            let mut world = World::new(&config("nat", "", &health), 8080, None);
            world.run(5 * SECOND);
            assert_eq!(world.states(), ["up", "up", "up"], "{:?}", world.events);
            world.hosts[1].manner = manner.clone();
            let took = world.until(1, BackendState::Down, 60 * SECOND);
            let timeout = timeout * MILLI;
            let most = 3 * timeout.max(2 * SECOND) + timeout + 5 * MILLI;
            assert!(took <= most, "{manner:?}, {timeout}: {took}");
            // One check at a time, so never before three of them had their time.
            assert!(took > 3 * timeout, "{manner:?}, {timeout}: {took}");
        }
    }
}

#[test]
fn renewed_certificates_are_used_once_they_are_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    let other = include_str!("data/another-ca.pem");
    let right = include_str!("data/ca.pem");
    std::fs::write(&file, other).unwrap();
    let tls = format!("ca = {file:?}, verify = true, server_name = \"localhost\"");
    let health = format!(
        "kind = \"https\"\ninterval = \"2s\"\ntimeout = \"1s\"\nfall = 1\nrise = 1\ntls = {{ {tls} }}\n"
    );
    let mut world = World::new(&config("nat", "", &health), 8080, None);
    for host in &mut world.hosts {
        host.manner = Manner::ServesTls("fine");
    }
    let renew = |world: &mut World| {
        let pool = world.rig.control.pool().clone();
        let files = world.rig.control.read_files(&pool)?;
        world.rig.control.renew_files(files);
        Ok::<_, String>(())
    };
    world.run(3 * SECOND);
    assert_eq!(
        world.states(),
        ["fail-open"; 3],
        "of an authority that is not trusted: {:?}",
        world.events
    );
    std::fs::write(&file, right).unwrap();
    world.run(3 * SECOND);
    assert_eq!(world.states(), ["fail-open"; 3], "nobody read it again");
    renew(&mut world).unwrap();
    world.run(3 * SECOND);
    assert_eq!(world.states(), ["up"; 3], "{:?}", world.events);
    // A file that cannot be used is told, and what was read before stays in use.
    std::fs::write(&file, "-----BEGIN NONSENSE-----").unwrap();
    let told = renew(&mut world).unwrap_err();
    assert!(
        told.starts_with("service \"web\": health.tls: ") && told.contains("ca.pem"),
        "{told}"
    );
    world.run(3 * SECOND);
    assert_eq!(world.states(), ["up"; 3], "{:?}", world.events);
    std::fs::write(&file, other).unwrap();
    renew(&mut world).unwrap();
    world.run(3 * SECOND);
    assert_eq!(world.states(), ["fail-open"; 3], "{:?}", world.events);
}

#[test]
fn a_server_that_lacks_the_vip_is_found_down_where_checks_go_to_the_vip() {
    let vip = Some("198.51.100.10".parse().unwrap());
    let mut world = World::new(&config("dsr-l2", "", HTTP), 80, vip);
    world.run(5 * SECOND);
    assert_eq!(world.states(), ["up", "up", "up"], "{:?}", world.events);
    // The same server without the VIP on its loopback.
    let own = "10.0.0.12".parse().unwrap();
    let manner = Manner::Serves("fine");
    world.hosts[1] = Host::new([2, 0, 0, 0, 1, 12], &[(own, 24)], 80, manner);
    world.until(1, BackendState::Down, 10 * SECOND);
    assert_eq!(world.states(), ["up", "down", "up"]);
}

#[test]
fn a_server_that_flaps_is_held_down() {
    let health = "kind = \"http\"\ninterval = \"1s\"\ntimeout = \"500ms\"\nfall = 1\nrise = 1\n\
                  flap = { changes = 4, window = \"60s\", hold = \"30s\" }\n";
    let mut world = World::new(&config("nat", "", health), 8080, None);
    world.run(3 * SECOND);
    for _ in 0..2 {
        world.hosts[2].manner = Manner::Refuses;
        world.until(2, BackendState::Down, 3 * SECOND);
        world.hosts[2].manner = Manner::Serves("fine");
        world.until(2, BackendState::Up, 3 * SECOND);
    }
    world.hosts[2].manner = Manner::Refuses;
    world.until(2, BackendState::Held, 3 * SECOND);
    assert_eq!(world.said("is held down for 30s"), 1, "{:?}", world.events);
    world.hosts[2].manner = Manner::Serves("fine");
    let held = world.until(2, BackendState::Up, 60 * SECOND);
    assert!((29 * SECOND..31 * SECOND).contains(&held), "{held}");
    assert!(world.flows(1000)[2] > 10);
}

#[test]
fn below_min_healthy_the_pool_fails_open_and_both_edges_are_told() {
    let mut world = World::new(&config("nat", "min_healthy = 0.5\n", HTTP), 8080, None);
    world.run(3 * SECOND);
    world.hosts[0].manner = Manner::Refuses;
    world.until(0, BackendState::Down, 8 * SECOND);
    assert_eq!(world.flows(1000)[0], 0);
    world.hosts[1].manner = Manner::Refuses;
    world.until(1, BackendState::FailOpen, 8 * SECOND);
    assert!(world.flows(2000).iter().all(|flows| *flows > 10));
    assert_eq!(world.said("33.3% of weight is healthy, less than 50%"), 1);
    world.hosts[1].manner = Manner::Serves("fine");
    world.until(1, BackendState::Up, 8 * SECOND);
    assert_eq!(world.said("no longer fails open"), 1);
    assert_eq!(world.flows(3000)[0], 0);
}

#[test]
fn edges_of_failing_open_that_an_operator_causes_are_told_too() {
    let health = "kind = \"none\"\n";
    let mut world = World::new(&config("nat", "min_healthy = 0.5\n", health), 8080, None);
    world.run(MILLI);
    // One line for each edge, none for what is no edge.
    for (command, edge) in [
        ("backend force web 10.0.0.11:8080 down", ""),
        (
            "backend force web 10.0.0.12:8080 down",
            "web: 33.3% of weight is healthy, less than 50%; it fails open",
        ),
        ("backend weight web 10.0.0.12:8080 2", ""),
        (
            "backend weight web 10.0.0.13:8080 3",
            "web: 50% of weight is healthy; it no longer fails open",
        ),
        (
            "backend remove web 10.0.0.13:8080",
            "web: 0% of weight is healthy, less than 50%; it fails open",
        ),
        ("backend disable web 10.0.0.11:8080", ""),
        (
            "backend disable web 10.0.0.12:8080",
            "web: no backend may take new flows; it no longer fails open",
        ),
        (
            "backend enable web 10.0.0.12:8080",
            "web: 0% of weight is healthy, less than 50%; it fails open",
        ),
        (
            "backend force web 10.0.0.12:8080 auto",
            "web: 100% of weight is healthy; it no longer fails open",
        ),
    ] {
        world.events.clear();
        world.rig.command(command);
        world.run(MILLI);
        let told: Vec<&str> = world.events.iter().map(|(_, text)| text.as_str()).collect();
        let edge = Some(edge).filter(|edge| !edge.is_empty());
        assert_eq!(told, edge.into_iter().collect::<Vec<_>>(), "{command}");
    }
}

#[test]
fn a_recovered_server_starts_slowly() {
    let mut world = World::new(&config("nat", "slow_start = \"90s\"\n", HTTP), 8080, None);
    world.run(3 * SECOND);
    assert_eq!(
        world.states(),
        ["up", "up", "up"],
        "nobody grows at the start"
    );
    world.hosts[0].manner = Manner::Refuses;
    world.until(0, BackendState::Down, 8 * SECOND);
    world.hosts[0].manner = Manner::Serves("fine");
    world.until(0, BackendState::SlowStart, 8 * SECOND);
    let mut shares = Vec::new();
    for step in 0..10 {
        shares.push(world.flows(1000 + step * 500)[0]);
        world.run(10 * SECOND);
    }
    assert!(shares[0] < 12 && shares[9] > 25, "{shares:?}");
    assert_eq!(world.states(), ["up", "up", "up"]);
    assert!(world.rig.control.book().tables_built() >= 12);
}

#[test]
fn one_check_serves_all_services_that_ask_the_same() {
    let first = config(
        "dsr-l2",
        "",
        "kind = \"icmp\"\ninterval = \"1s\"\ntimeout = \"1s\"\n",
    );
    let second = first[first.find("[[service]]").unwrap()..]
        .replace("\"web\"", "\"other\"")
        .replace("port = 80\nprotocol", "port = 81\nprotocol")
        .replace("port = 80\n[[", "port = 81\n[[")
        .replace(".13\"\nport = 80", ".13\"\nport = 81");
    let vip = Some("198.51.100.10".parse().unwrap());
    let mut world = World::new(&format!("{first}{second}"), 80, vip);
    world.run(10 * SECOND);
    assert_eq!(world.states(), ["up", "up", "up"], "{:?}", world.events);
    assert_eq!(world.rig.control.checker().size().0, 3);
    let details = world.rig.control.checker().details("other", "10.0.0.11:81");
    let checks = details.unwrap().checks;
    assert!((9..=12).contains(&checks.0) && checks.1 == 0, "{checks:?}");
    world.rig.assert_all_accounted_for();
}

#[test]
fn a_new_server_must_prove_itself_before_it_gets_flows() {
    let mut world = World::new(&config("nat", "", HTTP), 8080, None);
    world.run(3 * SECOND);
    world.rig.command("backend add web 10.0.0.14:8080");
    assert_eq!(world.state(3), BackendState::Checking);
    world.run(10 * SECOND);
    assert_eq!(world.state(3), BackendState::Down, "nobody is there");
    let own = "10.0.0.15".parse().unwrap();
    let manner = Manner::Serves("fine");
    world
        .hosts
        .push(Host::new([2, 0, 0, 0, 1, 15], &[(own, 24)], 8080, manner));
    world.rig.command("backend add web 10.0.0.15:8080");
    let took = world.until(4, BackendState::Up, 3 * SECOND);
    assert!(took < 100 * MILLI, "{took}");
}

/// Two hours of a server that works for four seconds and then fails for four, over and over.
fn two_hours_of_flapping() -> Vec<(u64, String)> {
    let health = "kind = \"http\"\ninterval = \"1s\"\ntimeout = \"500ms\"\nfall = 2\nrise = 2\n\
                  flap = { changes = 4, window = \"60s\", hold = \"30s\", max_hold = \"10m\" }\n";
    let mut world = World::new(&config("nat", "", health), 8080, None);
    for round in 0..900 {
        world.hosts[1].manner = Manner::Serves("fine");
        world.run_in_steps(4 * SECOND, 100 * MILLI);
        world.hosts[1].manner = Manner::Refuses;
        world.run_in_steps(4 * SECOND, 100 * MILLI);
        assert_eq!(
            (world.states()[0], world.states()[2]),
            ("up", "up"),
            "{round}"
        );
    }
    world.rig.assert_all_accounted_for();
    world.events
}

#[test]
fn two_hours_of_flapping_are_held_down_ever_longer_and_always_alike() {
    let events = two_hours_of_flapping();
    let held: Vec<&str> = events
        .iter()
        .filter_map(|(_, text)| text.split("held down for ").nth(1)?.split(',').next())
        .collect();
    assert_eq!(&held[..6], ["30s", "1m", "2m", "4m", "8m", "10m"]);
    assert!(held[6..].iter().all(|time| *time == "10m"), "{held:?}");
    // Without holds it would have gone up 900 times.
    let ups = events
        .iter()
        .filter(|(_, text)| text.ends_with("is up"))
        .count();
    assert!(ups < 60, "{ups}");
    assert_eq!(events, two_hours_of_flapping());
}
