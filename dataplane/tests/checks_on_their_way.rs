//! Health checks go the way of the traffic: through tunnels, marked, or from the addresses of
//! `full-nat`; each against a server that undoes what the mode did, and one that does not.

#![allow(clippy::unwrap_used)] // a helper that cannot go on fails its test

mod support;

use std::net::IpAddr;

use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket};
use support::host::{Host, Manner};
use support::rig::Rig;
use support::{Transport, frame};

const SECOND: u64 = 1_000_000_000;
const VIP: &str = "198.51.100.10";
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;

fn config(service: &str) -> String {
    let backends: String = (11..13)
        .map(|host| format!("[[service.backend]]\naddress = \"10.0.0.{host}\"\n"))
        .collect();
    format!(
        "[engine]\nflows_per_worker = 4096\n[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\n\
         addresses = [\"10.0.0.1/24\"]\nmac = \"02:00:00:00:00:01\"\n\
         [[neighbor]]\naddress = \"10.0.0.254\"\nmac = \"02:00:00:00:00:fe\"\n\
         [[route]]\nto = \"0.0.0.0/0\"\nvia = \"10.0.0.254\"\n\
         [[service]]\nname = \"web\"\nvip = \"{VIP}\"\nport = 80\nprotocol = \"tcp\"\n{service}\n\
         [service.health]\nkind = \"http\"\nbody = \"fine\"\ninterval = \"1s\"\ntimeout = \"500ms\"\n\
         {backends}"
    )
}

/// What a server makes of a frame before its own stack sees it.
type Undo = fn(&[u8]) -> Option<Vec<u8>>;

fn ipv4(frame: &[u8]) -> Option<Ipv4Packet<&[u8]>> {
    Ipv4Packet::new_checked(frame.get(ETHERNET..)?).ok()
}

/// The frame without `header` bytes behind its outer IPv4 header, if that has this protocol.
fn strip(frame: &[u8], protocol: u8, header: usize) -> Option<Vec<u8>> {
    let outer = ipv4(frame)?;
    if u8::from(outer.next_header()) != protocol {
        return None;
    }
    assert!(outer.verify_checksum() && outer.dont_frag());
    assert_eq!(outer.src_addr().to_string(), "10.0.0.1");
    let inner = frame.get(ETHERNET + IPV4 + header..)?;
    Some([&frame[..ETHERNET], inner].concat())
}

/// As `strip`, of UDP to this port, whose bytes before the inner packet begin with `mark`.
fn strip_udp(frame: &[u8], port: u16, mark: &[u8], header: usize) -> Option<Vec<u8>> {
    let to = frame.get(ETHERNET + IPV4 + 2..ETHERNET + IPV4 + 4)?;
    let inner = frame.get(ETHERNET + IPV4 + UDP..)?;
    if to != port.to_be_bytes() || !inner.starts_with(mark) {
        return None;
    }
    strip(frame, 17, UDP + header)
}

/// Puts the VIP back where the mark says so, as `l3dsr` does.
fn unmark(frame: &[u8]) -> Option<Vec<u8>> {
    if ipv4(frame)?.dscp() != 7 {
        return None;
    }
    let mut frame = frame.to_vec();
    let mut ip = Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]);
    assert!(ip.verify_checksum());
    let (from, to) = (
        IpAddress::Ipv4(ip.src_addr()),
        IpAddress::Ipv4(ip.dst_addr()),
    );
    let vip = VIP.parse().unwrap();
    let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
    assert!(tcp.verify_checksum(&from, &to), "the mode kept it right");
    tcp.fill_checksum(&from, &IpAddress::Ipv4(vip));
    ip.set_dst_addr(vip);
    ip.fill_checksum();
    Some(frame)
}

struct World {
    rig: Rig,
    /// Each with what it makes of frames.
    servers: Vec<(Host, Option<Undo>)>,
    /// Frames of weir's that servers got.
    heard: Vec<Vec<u8>>,
}

impl World {
    /// Two servers that have the VIP; the first can undo what the mode does.
    fn new(service: &str, undo: Option<Undo>) -> Self {
        let mut rig = Rig::new(&config(service));
        rig.control.check_health(rig.now, 7).unwrap();
        let server = |last: u8, undo| {
            let own: IpAddr = format!("10.0.0.{last}").parse().unwrap();
            let vip: IpAddr = VIP.parse().unwrap();
            let mac = [2, 0, 0, 0, 1, last];
            let manner = Manner::Serves("it is fine");
            (Host::new(mac, &[(own, 24), (vip, 32)], 80, manner), undo)
        };
        Self {
            rig,
            servers: vec![server(11, undo), server(12, None)],
            heard: Vec::new(),
        }
    }

    fn run(&mut self, seconds: u64) {
        let end = self.rig.now + seconds * SECOND;
        while self.rig.now < end {
            let mut frames = self.rig.tick(SECOND / 100);
            for _ in 0..20 {
                for (_, frame) in frames.drain(..) {
                    self.deliver(&frame);
                }
                let now = self.rig.now;
                let servers = self.servers.iter_mut();
                let answers: Vec<_> = servers.flat_map(|(host, _)| host.run(now)).collect();
                for answer in &answers {
                    frames.extend(self.rig.play(0, answer));
                }
                if answers.is_empty() && frames.is_empty() {
                    break;
                }
            }
        }
    }

    fn deliver(&mut self, frame: &[u8]) {
        let is_arp = frame[12..14] == [0x08, 0x06];
        for (host, undo) in &mut self.servers {
            match undo {
                Some(undo) if !is_arp && frame[..6] == host.mac => {
                    if let Some(inner) = undo(frame) {
                        host.hear(&inner);
                    }
                }
                _ => host.hear(frame),
            }
        }
        if !is_arp {
            self.heard.push(frame.to_vec());
        }
    }

    fn states(&self) -> [&'static str; 2] {
        let standings = self.rig.control.standings(0).unwrap();
        [0, 1].map(|place| standings.backend(place).state.name())
    }
}

#[test]
fn checks_go_through_the_tunnel_and_find_who_does_not_open_it() {
    let cases: [(&str, Undo); 7] = [
        ("forwarding = \"dsr-ipip\"", |frame| strip(frame, 4, 0)),
        ("forwarding = \"dsr-gre\"", |frame| strip(frame, 47, 4)),
        ("forwarding = \"dsr-gre\"\ngre_key = 7", |frame| {
            strip(frame, 47, 8)
        }),
        ("forwarding = \"dsr-gue\"", |frame| {
            strip_udp(frame, 6080, &[0x45], 0)
        }),
        (
            "forwarding = \"dsr-gue\"\ngue_variant = 0\ngue_port = 6081",
            |frame| strip_udp(frame, 6081, &[0, 4, 0, 0], 4),
        ),
        ("forwarding = \"dsr-geneve\"\ngeneve_vni = 9", |frame| {
            strip_udp(frame, 6081, &[0, 0, 0x08, 0, 0, 0, 9], 8)
        }),
        ("forwarding = \"dsr-dscp\"\ndscp = 7", unmark),
    ];
    for (service, undo) in cases {
        let mut world = World::new(service, Some(undo));
        world.run(6);
        assert_eq!(world.states(), ["up", "down"], "{service}");
        assert!(world.servers[0].0.accepted >= 4, "{service}");
        assert_eq!(world.servers[1].0.accepted, 0, "{service}");
        // The server forgets how: its next checks fail.
        world.servers[0].1 = None;
        world.run(5);
        assert_eq!(world.states(), ["fail-open", "fail-open"], "{service}");
        world.servers[0].1 = Some(undo);
        world.run(4);
        assert_eq!(world.states(), ["up", "down"], "{service}");
        world.rig.assert_all_accounted_for();
    }
}

/// The source port of a frame from the SNAT address.
fn snat_port(frame: &[u8]) -> Option<u16> {
    let ip = ipv4(frame)?;
    let tcp = TcpPacket::new_checked(ip.payload()).ok()?;
    (ip.src_addr().to_string() == "10.0.0.5").then(|| tcp.src_port())
}

#[test]
fn checks_and_sessions_of_full_nat_share_an_address_and_no_port() {
    let service = "forwarding = \"full-nat\"\nsnat_pool = [\"10.0.0.5\"]";
    let mut world = World::new(service, None);
    world.run(20);
    assert_eq!(world.states(), ["up", "up"]);
    let checks: Vec<u16> = world
        .heard
        .iter()
        .filter_map(|frame| snat_port(frame))
        .collect();
    assert!(
        checks.len() > 100,
        "they come from the SNAT address: {checks:?}"
    );
    let mut sessions = Vec::new();
    for host in 0..16 {
        for port in 1000..5000 {
            let client = format!("203.0.113.{host}:{port}");
            let mut syn = frame(&client, "198.51.100.10:80", Transport::Syn);
            syn.payload.clear();
            let sent = world.rig.play(0, &syn.build());
            sessions.extend(sent.iter().filter_map(|(_, frame)| snat_port(frame)));
        }
        world.rig.now += SECOND;
    }
    assert!(sessions.len() >= 4096, "{}", sessions.len());
    let last = sessions.iter().max().unwrap();
    let first = checks.iter().min().unwrap();
    assert!(last < first, "sessions up to {last}, checks from {first}");
    // Whatever sessions do, checks have ports.
    world.run(5);
    assert_eq!(world.states(), ["up", "up"]);
}
