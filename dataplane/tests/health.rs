//! Health checks over the whole pipeline, against simulated servers and simulated time.

#![allow(clippy::unwrap_used)] // a helper that cannot go on fails its test

mod support;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use support::host::{Host, Manner};
use support::rig::Rig;
use support::{Transport, frame};
use weir::config::Config;
use weir_shm::segment::directory::BackendState;

const SECOND: u64 = 1_000_000_000;
const MILLI: u64 = 1_000_000;

fn config(forwarding: &str, service: &str, health: &str) -> String {
    let port = if forwarding.ends_with("nat") {
        8080
    } else {
        80
    };
    let pool = if forwarding == "full-nat" {
        "snat_pool = [\"10.0.0.5\"]\nclient_address = \"proxy-v2\""
    } else {
        ""
    };
    let backends: String = (11..14)
        .map(|host| format!("[[service.backend]]\naddress = \"10.0.0.{host}\"\nport = {port}\n"))
        .collect();
    format!(
        "[engine]\nflows_per_worker = 4096\n[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\n\
         addresses = [\"10.0.0.1/24\"]\nmac = \"02:00:00:00:00:01\"\n\
         [[neighbor]]\naddress = \"10.0.0.254\"\nmac = \"02:00:00:00:00:fe\"\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.254\"\n\
         [[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80\nprotocol = \"tcp\"\n\
         forwarding = \"{forwarding}\"\n{pool}\n{service}\n[service.health]\n{health}\n{backends}"
    )
}

/// weir with its servers on one link.
struct World {
    rig: Rig,
    hosts: Vec<Host>,
    events: Vec<(u64, String)>,
    started: u64,
}

impl World {
    fn new(config: &str, port: u16, extra: Option<IpAddr>) -> Self {
        let mut rig = Rig::new(config);
        let started = rig.now;
        rig.control.check_health(rig.now, 7).unwrap();
        let hosts = (11..14)
            .map(|last| {
                let own: IpAddr = format!("10.0.0.{last}").parse().unwrap();
                let mut addresses = vec![(own, 24)];
                addresses.extend(extra.map(|vip| (vip, 32)));
                Host::new(
                    [2, 0, 0, 0, 1, last],
                    &addresses,
                    port,
                    Manner::Serves("fine"),
                )
            })
            .collect();
        Self {
            rig,
            hosts,
            events: Vec::new(),
            started,
        }
    }

    /// Lets time pass, in steps of a millisecond.
    fn run(&mut self, nanos: u64) {
        self.run_in_steps(nanos, MILLI);
    }

    fn run_in_steps(&mut self, nanos: u64, step: u64) {
        let end = self.rig.now + nanos;
        while self.rig.now < end {
            let mut frames = self.rig.tick(step);
            // What one sends the other hears within the same step.
            for _ in 0..20 {
                for (_, frame) in frames.drain(..) {
                    self.hosts.iter_mut().for_each(|host| host.hear(&frame));
                }
                let now = self.rig.now;
                let answers: Vec<Vec<u8>> = self
                    .hosts
                    .iter_mut()
                    .flat_map(|host| host.run(now))
                    .collect();
                for answer in &answers {
                    frames.extend(self.rig.play(0, answer));
                }
                frames.extend(self.rig.tick(0));
                if answers.is_empty() && frames.is_empty() {
                    break;
                }
            }
            let at = self.rig.now - self.started;
            let news = self.rig.control.take_events().into_iter();
            self.events.extend(news.map(|event| (at, event.text)));
        }
    }

    fn states(&self) -> Vec<&'static str> {
        let standings = self.rig.control.standings(0).unwrap();
        let states = standings.backends.iter().map(|one| one.state.name());
        states.collect()
    }

    fn state(&self, host: usize) -> BackendState {
        self.rig.control.standings(0).unwrap().backend(host).state
    }

    /// Runs until a host has a state; how long that took.
    fn until(&mut self, host: usize, state: BackendState, most: u64) -> u64 {
        let from = self.rig.now;
        while self.state(host) != state {
            assert!(
                self.rig.now - from < most,
                "{:?} {:?}",
                self.states(),
                self.events
            );
            self.run(MILLI);
        }
        self.rig.now - from
    }

    /// Which hosts a hundred new flows reach.
    fn flows(&mut self, first_port: u16) -> Vec<usize> {
        let mut counts = vec![0; self.hosts.len()];
        for port in first_port..first_port + 100 {
            let client = format!("203.0.113.5:{port}");
            let mut syn = frame(&client, "198.51.100.10:80", Transport::Syn);
            syn.payload.clear();
            for (_, sent) in self.rig.play(0, &syn.build()) {
                let host = self.hosts.iter().position(|host| sent[..6] == host.mac);
                if let Some(host) = host {
                    counts[host] += 1;
                }
            }
        }
        counts
    }

    fn said(&self, part: &str) -> usize {
        let lines = self.events.iter();
        lines.filter(|(_, text)| text.contains(part)).count()
    }
}

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

const RARELY: &str = "kind = \"http\"\ninterval = \"60s\"\ntimeout = \"1s\"\nfall = 3\nrise = 1\n";

/// Sixty clients' SYNs; those frames that reach the first server.
fn knock(world: &mut World, first_port: u16) -> Vec<Vec<u8>> {
    let mut reached = Vec::new();
    for port in first_port..first_port + 60 {
        let client = format!("203.0.113.5:{port}");
        let mut syn = frame(&client, "198.51.100.10:80", Transport::Syn);
        syn.payload.clear();
        let sent = world.rig.play(0, &syn.build()).into_iter();
        reached.extend(sent.map(|(_, sent)| sent));
    }
    reached.retain(|sent| sent[..6] == world.hosts[0].mac);
    assert!(reached.len() > 10);
    reached
}

/// The same, all of them heard by the server, whose resets come back through weir.
fn knock_and_be_refused(world: &mut World, first_port: u16) {
    world.hosts[0].manner = Manner::Refuses;
    for sent in knock(world, first_port) {
        world.hosts[0].hear(&sent);
    }
    world.run(MILLI);
}

#[test]
fn refused_clients_take_a_server_down_before_its_next_check() {
    for forwarding in BOTH_SIDES {
        let mut world = World::new(&config(forwarding, "", RARELY), 8080, None);
        world.run(65 * SECOND);
        knock_and_be_refused(&mut world, 5000);
        let before = world.said("is down");
        world.rig.look_at_refusals();
        world.run(MILLI);
        assert_eq!(
            world.said("is down") - before,
            1,
            "{forwarding}: {:?}",
            world.events
        );
        assert_eq!(world.said("connections of clients refused"), 1);
        assert_eq!(world.flows(6000)[0], 0);
    }
}

#[test]
fn what_was_refused_before_a_server_was_watched_counts_for_nothing() {
    for forwarding in BOTH_SIDES {
        let mut world = three_backends(forwarding, "");
        knock_and_be_refused(&mut world, 5000);
        world.rig.look_at_refusals();
        let mut pool = world.rig.control.pool().clone();
        let health = Config::parse(Path::new("test.toml"), &config(forwarding, "", RARELY));
        pool.services[0].health = health.unwrap().pool.services[0].health.clone();
        world.rig.control.apply(world.rig.now, 2, pool).unwrap();
        world.rig.look_at_refusals();
        world.run(MILLI);
        assert_eq!(world.said("is down"), 0, "{:?}", world.events);
        // What is refused from then on counts.
        knock_and_be_refused(&mut world, 6000);
        world.rig.look_at_refusals();
        world.run(MILLI);
        assert_eq!(
            world.said("connections of clients refused"),
            1,
            "{forwarding}: {:?}",
            world.events
        );
    }
}

/// What the router before the server says of a frame: that the host cannot be reached, quoting so
/// much of the segment.
fn unreachable(sent: &[u8], quoted: usize) -> Vec<u8> {
    let unreachable = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::Host,
    );
    let mut error = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 9], support::WEIR_MAC)
        .ipv4([10, 0, 0, 9], sent[26..30].try_into().unwrap(), 64)
        .icmpv4(unreachable)
        .write(&mut error, &sent[14..34 + quoted])
        .unwrap();
    error
}

#[test]
fn errors_about_clients_syns_take_a_server_down_before_its_next_check() {
    for forwarding in BOTH_SIDES {
        // RFC 792 asks for no more than eight bytes, in which a segment's flags are not.
        for quoted in [20, 8] {
            let mut world = World::new(&config(forwarding, "", RARELY), 8080, None);
            world.run(65 * SECOND);
            world.rig.look_at_refusals();
            world.hosts[0].manner = Manner::Dead;
            for sent in knock(&mut world, 5000) {
                assert_eq!(world.rig.play(0, &unreachable(&sent, quoted)).len(), 1);
            }
            world.rig.look_at_refusals();
            world.run(MILLI);
            assert_eq!(
                world.said("connections of clients refused"),
                1,
                "{forwarding}, {quoted} bytes: {:?}",
                world.events
            );
            assert_eq!(world.state(0), BackendState::Down);
        }
    }
}

#[test]
fn errors_about_connections_that_are_made_say_nothing_of_a_server() {
    for forwarding in BOTH_SIDES {
        for quoted in [20, 8] {
            let mut world = World::new(&config(forwarding, "", RARELY), 8080, None);
            world.run(65 * SECOND);
            let reached = knock(&mut world, 5000);
            for sent in &reached {
                let ip: [u8; 4] = sent[26..30].try_into().unwrap();
                let port = support::full_nat::source_port(sent);
                let asker = SocketAddr::new(ip.into(), port);
                let answer = frame("10.0.0.11:8080", &asker.to_string(), Transport::Syn)
                    .macs(world.hosts[0].mac, support::WEIR_MAC);
                assert_eq!(world.rig.play(0, &answer.build()).len(), 1);
                // Where weir keeps no session, the client's next segment says that it has its answer.
                if forwarding == "nat" {
                    segment(&mut world, port, Transport::Ack);
                }
                let mut data = sent.clone();
                data[47] = 0x10;
                world.rig.play(0, &unreachable(&data, quoted));
            }
            world.rig.look_at_refusals();
            world.run(MILLI);
            assert_eq!(
                world.said("connections of clients refused"),
                0,
                "{forwarding}, {quoted} bytes"
            );
        }
    }
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

/// One segment of a client to the VIP, and what comes of it: the address that it goes to, or a
/// reset back to the client.
fn segment(world: &mut World, port: u16, transport: Transport) -> String {
    let client = format!("203.0.113.5:{port}");
    let sent = world
        .rig
        .play(0, &frame(&client, "198.51.100.10:80", transport).build());
    let Some((_, bytes)) = sent.first() else {
        return "nothing".to_owned();
    };
    let sliced = etherparse::SlicedPacket::from_ethernet(bytes).unwrap();
    let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport else {
        return "no TCP".to_owned();
    };
    if bytes[..6] == support::CLIENT_MAC {
        // The number that the client expects next, so that it believes the reset.
        assert!(tcp.rst() && tcp.sequence_number() == 1);
        return format!(
            "reset from {} to {}",
            tcp.source_port(),
            tcp.destination_port()
        );
    }
    format!("host {}", bytes[5] - 10)
}

/// The modes whose answers come back through weir.
const BOTH_SIDES: [&str; 2] = ["nat", "full-nat"];

fn three_backends(forwarding: &str, service: &str) -> World {
    let config = config(forwarding, service, "kind = \"none\"\n");
    let mut world = World::new(&config, 8080, None);
    // Neighbours are known from here on.
    world.flows(100);
    world.run(2 * SECOND);
    world
}

/// A client port whose connection is with the first backend.
fn client_of_the_first(world: &mut World) -> u16 {
    let found = (20_000..21_000).find(|port| {
        segment(world, *port, Transport::Syn) == "host 1"
            && segment(world, *port, Transport::Ack) == "host 1"
    });
    found.unwrap()
}

#[test]
fn a_backend_that_goes_down_has_its_flows_steered_anew_kept_or_reset() {
    for forwarding in BOTH_SIDES {
        for (on_down, expected) in [
            ("re-steer", "host"),
            ("keep", "host 1"),
            ("reset", "reset from 80 to"),
        ] {
            let mut world = three_backends(forwarding, &format!("on_down = \"{on_down}\"\n"));
            let client = client_of_the_first(&mut world);
            world.rig.command("backend force web 10.0.0.11:8080 down");
            let came = segment(&mut world, client, Transport::Ack);
            assert!(
                came.starts_with(expected),
                "{forwarding}, {on_down}: {came}"
            );
            assert_eq!(came == "host 1", on_down == "keep");
            // The client asks again before it believes: the same answer.
            assert_eq!(segment(&mut world, client, Transport::Ack), came);
            // A new connection never goes there, and is never reset.
            let opened = segment(&mut world, client + 2000, Transport::Syn);
            assert!(opened.starts_with("host") && opened != "host 1", "{opened}");
            world.rig.command("backend force web 10.0.0.11:8080 auto");
            world.rig.assert_all_accounted_for();
        }
    }
}

#[test]
fn a_drain_that_ran_out_resets_what_is_left_where_the_service_says_so() {
    for forwarding in BOTH_SIDES {
        let mut world = three_backends(
            forwarding,
            "on_down = \"reset\"\nderegistration_delay = \"10s\"\n",
        );
        let client = client_of_the_first(&mut world);
        world.rig.command("backend drain web 10.0.0.11:8080");
        world.run(9 * SECOND);
        assert_eq!(segment(&mut world, client, Transport::Ack), "host 1");
        world.run(2 * SECOND);
        let came = segment(&mut world, client, Transport::Ack);
        assert_eq!(came, format!("reset from 80 to {client}"));
        assert_eq!(world.said("what was left is reset"), 1);
        // The same client may open a new connection at once.
        let opened = segment(&mut world, client, Transport::Syn);
        assert!(opened.starts_with("host") && opened != "host 1", "{opened}");
    }
}

#[test]
fn unknown_tcp_in_mid_stream_is_steered_or_reset() {
    for forwarding in BOTH_SIDES {
        let mut steered = three_backends(forwarding, "");
        assert!(segment(&mut steered, 30_000, Transport::Ack).starts_with("host"));
        let mut reset = three_backends(forwarding, "unknown_tcp = \"reset\"\n");
        let came = segment(&mut reset, 30_000, Transport::Ack);
        assert_eq!(came, "reset from 80 to 30000");
        // Known flows and new ones are no strangers.
        assert!(segment(&mut reset, 30_001, Transport::Syn).starts_with("host"));
        assert!(segment(&mut reset, 30_001, Transport::Ack).starts_with("host"));
        // Nor is a reset answered, but where there is no session there is nobody to give it to.
        let came = segment(&mut reset, 30_002, Transport::Rst);
        match forwarding {
            "nat" => assert!(came.starts_with("host"), "{came}"),
            _ => assert_eq!(came, "nothing"),
        }
        reset.rig.assert_all_accounted_for();
    }
}

#[test]
fn a_stranger_in_pieces_is_reset_like_any_other() {
    for forwarding in BOTH_SIDES {
        let mut world = three_backends(forwarding, "unknown_tcp = \"reset\"\n");
        let stranger = frame("203.0.113.5:30000", "198.51.100.10:80", Transport::Ack)
            .payload(&[7; 200])
            .build();
        let sent: Vec<Vec<u8>> = support::full_nat::pieces(&stranger, 104, 5)
            .iter()
            .flat_map(|piece| world.rig.play(0, piece))
            .map(|(_, sent)| sent)
            .collect();
        assert_eq!(sent.len(), 1, "{forwarding}");
        assert_eq!(sent[0][..6], support::CLIENT_MAC, "{forwarding}");
        support::full_nat::assert_checksums(&sent[0]);
        assert_eq!(world.rig.count(weir_shm::counters::RESETS), 1);
    }
}

/// A client of the first backend that a session knows and conntrack does not: only the server spoke
/// for longer than the flow is remembered.
fn forgotten_by_conntrack(service: &str) -> (World, u16) {
    let service = format!("timeouts = {{ established = \"10s\" }}\n{service}");
    let mut world = three_backends("full-nat", &service);
    let syn = |port: u16| {
        let client = format!("203.0.113.5:{port}");
        frame(&client, "198.51.100.10:80", Transport::Syn).build()
    };
    let (client, sent) = (20_000..21_000)
        .map(|port| (port, world.rig.play(0, &syn(port)).remove(0).1))
        .find(|(_, sent)| sent[5] == 11)
        .unwrap();
    let own = SocketAddr::new(
        "10.0.0.5".parse().unwrap(),
        support::full_nat::source_port(&sent),
    );
    let answer = |transport| {
        frame("10.0.0.11:8080", &own.to_string(), transport)
            .macs([2, 0, 0, 0, 1, 11], support::WEIR_MAC)
            .build()
    };
    world.rig.play(0, &answer(Transport::Syn));
    assert_eq!(segment(&mut world, client, Transport::Ack), "host 1");
    for _ in 0..4 {
        world.run(6 * SECOND);
        assert_eq!(world.rig.play(0, &answer(Transport::Ack)).len(), 1);
    }
    (world, client)
}

#[test]
fn a_session_knows_better_than_conntrack_what_is_a_stranger() {
    let (mut world, client) = forgotten_by_conntrack("unknown_tcp = \"reset\"\n");
    for _ in 0..3 {
        assert_eq!(segment(&mut world, client, Transport::Ack), "host 1");
    }
    let stranger = segment(&mut world, client + 1_000, Transport::Ack);
    assert!(stranger.starts_with("reset"), "{stranger}");
    world.rig.assert_all_accounted_for();
}

#[test]
fn a_session_is_reset_with_its_backend_also_when_conntrack_has_forgotten_it() {
    let (mut world, client) = forgotten_by_conntrack("on_down = \"reset\"\n");
    world.rig.command("backend force web 10.0.0.11:8080 down");
    for _ in 0..3 {
        let came = segment(&mut world, client, Transport::Ack);
        assert_eq!(came, format!("reset from 80 to {client}"));
    }
    let opened = segment(&mut world, client, Transport::Syn);
    assert!(opened.starts_with("host") && opened != "host 1", "{opened}");
    world.rig.assert_all_accounted_for();
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
