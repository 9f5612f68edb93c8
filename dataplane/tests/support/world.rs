//! weir with three servers on one link, and a clock that a test turns.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

use std::net::IpAddr;

use weir_shm::segment::directory::BackendState;

use super::host::{Host, Manner};
use super::rig::Rig;
use super::{Transport, frame};

pub const SECOND: u64 = 1_000_000_000;
pub const MILLI: u64 = 1_000_000;

pub fn config(forwarding: &str, service: &str, health: &str) -> String {
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
pub struct World {
    pub rig: Rig,
    pub hosts: Vec<Host>,
    pub events: Vec<(u64, String)>,
    pub started: u64,
}

impl World {
    pub fn new(config: &str, port: u16, extra: Option<IpAddr>) -> Self {
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
    pub fn run(&mut self, nanos: u64) {
        self.run_in_steps(nanos, MILLI);
    }

    pub fn run_in_steps(&mut self, nanos: u64, step: u64) {
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

    pub fn states(&self) -> Vec<&'static str> {
        let standings = self.rig.control.standings(0).unwrap();
        let states = standings.backends.iter().map(|one| one.state.name());
        states.collect()
    }

    pub fn state(&self, host: usize) -> BackendState {
        self.rig.control.standings(0).unwrap().backend(host).state
    }

    /// Runs until a host has a state; how long that took.
    pub fn until(&mut self, host: usize, state: BackendState, most: u64) -> u64 {
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
    pub fn flows(&mut self, first_port: u16) -> Vec<usize> {
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

    pub fn said(&self, part: &str) -> usize {
        let lines = self.events.iter();
        lines.filter(|(_, text)| text.contains(part)).count()
    }
}

/// One segment of a client to the VIP, and what comes of it: the address that it goes to, or a
/// reset back to the client.
pub fn segment(world: &mut World, port: u16, transport: Transport) -> String {
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
    if bytes[..6] == super::CLIENT_MAC {
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
pub const BOTH_SIDES: [&str; 2] = ["nat", "full-nat"];

pub fn three_backends(forwarding: &str, service: &str) -> World {
    let config = config(forwarding, service, "kind = \"none\"\n");
    let mut world = World::new(&config, 8080, None);
    // Neighbours are known from here on.
    world.flows(100);
    world.run(2 * SECOND);
    world
}
