//! What `lookup` says of packets that are for no service, and what becomes of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use support::bases::TWO_PORTS;
use support::rig::Rig;
use support::{Transport, frame};
use weir::conntrack::Tick;
use weir_shm::model::Protocol;
use weir_shm::segment::mailbox::Elsewhere;

const SERVICES: &str = r#"
[[service]]
name = "full"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "full-nat"
snat_pool = ["10.0.0.5"]
[[service.backend]]
address = "10.0.0.11"
port = 8080
[[service]]
name = "web"
vip = "198.51.100.11"
port = 80
protocol = "tcp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.12"
port = 8080
[[service]]
name = "ports"
vip = "198.51.100.12"
port = "8000-8100"
protocol = "udp"
forwarding = "nat"
[[service.backend]]
address = "10.0.0.12"
"#;

fn config() -> String {
    TWO_PORTS.to_owned() + SERVICES
}

fn elsewhere(rig: &Rig, protocol: Protocol, from: &str, to: &str) -> Option<Elsewhere> {
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    rig.control
        .elsewhere(Tick::from_nanos(rig.now), protocol, from, to)
}

fn ends(found: &Elsewhere) -> (String, String) {
    (
        found.from.unwrap().to_string(),
        found.to.unwrap().to_string(),
    )
}

#[test]
fn an_answer_of_a_nat_backend_is_told_with_where_it_leaves_from() {
    let mut rig = Rig::new(&config());
    let client = "203.0.113.5:1000";
    for (protocol, from, service, vip, transport) in [
        (
            Protocol::Tcp,
            "10.0.0.12:8080",
            "web",
            "198.51.100.11:80",
            Transport::Ack,
        ),
        (
            Protocol::Udp,
            "10.0.0.12:8050",
            "ports",
            "198.51.100.12:8050",
            Transport::Udp,
        ),
    ] {
        let found = elsewhere(&rig, protocol, from, client).unwrap();
        assert_eq!(
            (found.kind.as_str(), found.service.as_deref()),
            ("answer", Some(service))
        );
        assert_eq!(ends(&found), (vip.to_owned(), client.to_owned()));
        // It is what becomes of the packet.
        let answer = frame(from, client, transport).macs([2, 0, 0, 0, 0, 0x0c], [2, 0, 0, 0, 0, 2]);
        let sent = rig.play(1, &answer.build());
        let leaves = ends_of(&sent[0].1);
        assert_eq!(leaves, ends(&found));
    }
}

#[test]
fn an_answer_to_a_session_is_told_with_its_client() {
    let mut rig = Rig::new(&config());
    let (client, vip) = ("203.0.113.5:1000", "198.51.100.10:80");
    let sent = rig.play(0, &frame(client, vip, Transport::Syn).build());
    let (snat, backend) = ends_of(&sent[0].1);
    let found = elsewhere(&rig, Protocol::Tcp, &backend, &snat).unwrap();
    assert_eq!((found.kind.as_str(), found.worker), ("session", Some(0)));
    assert_eq!(found.service.as_deref(), Some("full"));
    assert_eq!(found.backend.as_deref(), Some("10.0.0.11:8080"));
    assert_eq!(ends(&found), (vip.to_owned(), client.to_owned()));
    // Somebody else's packet is none of it.
    for (protocol, from) in [
        (Protocol::Tcp, "10.0.0.11:8081"),
        (Protocol::Udp, &*backend),
    ] {
        let found = elsewhere(&rig, protocol, from, &snat).unwrap();
        assert_eq!(found.kind, "no_session", "{from}");
    }
}

#[test]
fn what_is_for_weir_itself_is_told_and_what_is_nobodys_is_not() {
    let rig = Rig::new(&config());
    let to = |to: &str| elsewhere(&rig, Protocol::Tcp, "203.0.113.5:1000", to);
    let own = to("192.0.2.2:22").unwrap();
    assert_eq!(
        (own.kind.as_str(), own.port.as_deref()),
        ("own", Some("wan"))
    );
    let other = to("198.51.100.10:81").unwrap();
    assert_eq!(other.kind, "other_port");
    assert_eq!(other.services, ["full (tcp 198.51.100.10:80)"]);
    assert_eq!(to("10.0.0.5:99").unwrap().kind, "no_session");
    assert_eq!(to("10.0.0.5:2000").unwrap().kind, "no_session");
    assert_eq!(to("198.51.100.99:80"), None);
    assert_eq!(to("198.51.100.10:80"), None, "a service's own");
}

/// Source and destination of a frame.
fn ends_of(frame: &[u8]) -> (String, String) {
    let end = |address: usize, port: usize| {
        let octets: [u8; 4] = frame[address..address + 4].try_into().unwrap();
        let number = u16::from_be_bytes([frame[port], frame[port + 1]]);
        format!("{}:{number}", std::net::Ipv4Addr::from(octets))
    };
    (end(26, 34), end(30, 36))
}
