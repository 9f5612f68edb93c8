//! What operators are told of flows: how many live, which began last, and how one is steered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a helper that cannot go on fails its test

mod support;

use support::bases::TWO_PORTS;
use support::rig::Rig;
use support::{Transport, frame};
use weir::conntrack::Tick;
use weir::control::census::Census;
use weir_shm::model::Protocol;
use weir_shm::segment::mailbox::{Answer, LookupSteps, NewFlow, ServiceCensus};

const SERVICES: &str = r#"
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
forwarding = "full-nat"
snat_pool = ["10.0.0.5"]
affinity = "source"
[[service.backend]]
address = "10.0.0.11"
port = 8080
[[service]]
name = "all"
vip = "198.51.100.0/24"
port = "any"
protocol = "udp"
forwarding = "dsr-l2"
[[service.backend]]
address = "10.0.0.12"
max_flows = 100
[[service]]
name = "narrow"
vip = "198.51.100.10"
port = "1000-2000"
protocol = "udp"
forwarding = "dsr-l2"
[[service.backend]]
address = "10.0.0.12"
"#;

fn config() -> String {
    TWO_PORTS.to_owned() + SERVICES
}

fn tick(rig: &Rig) -> Tick {
    Tick::from_nanos(rig.now)
}

fn census(rig: &Rig, service: Option<&str>, backend: Option<&str>) -> Vec<ServiceCensus> {
    let census = Census::whole(&rig.control, tick(rig));
    match census.answer(&rig.control, service, backend) {
        Answer::Census(census) => census.services,
        other => panic!("{other:?}"),
    }
}

fn newest(rig: &Rig, service: Option<&str>, most: u32) -> Vec<NewFlow> {
    match rig.control.newest(tick(rig), service, None, most) {
        Answer::Newest { flows } => flows,
        other => panic!("{other:?}"),
    }
}

fn tcp(rig: &mut Rig, host: u8, transport: Transport) {
    let client = format!("203.0.113.{host}:5000");
    rig.play(0, &frame(&client, "198.51.100.10:80", transport).build());
}

fn udp(rig: &mut Rig, host: u8) {
    let client = format!("203.0.113.{host}:5000");
    rig.play(
        0,
        &frame(&client, "198.51.100.77:53", Transport::Udp).build(),
    );
}

#[test]
fn flows_are_counted_by_backend_state_and_time_since_their_last_packet() {
    let mut rig = Rig::new(&config());
    for host in 1..=10 {
        tcp(&mut rig, host, Transport::Syn);
    }
    for host in 1..=6 {
        tcp(&mut rig, host, Transport::Ack);
    }
    tcp(&mut rig, 6, Transport::Fin);
    udp(&mut rig, 1);
    rig.tick(5_000_000_000);
    udp(&mut rig, 2);
    udp(&mut rig, 2);
    let all = census(&rig, None, None);
    let names: Vec<&str> = all.iter().map(|one| one.service.as_str()).collect();
    assert_eq!(names, ["web", "all", "narrow"]);
    let web = &all[0].backends[0];
    assert_eq!(
        (web.backend.as_str(), web.in_pool),
        ("10.0.0.11:8080", true)
    );
    assert_eq!(web.states, [4, 5, 1, 0, 0, 0]);
    assert_eq!((web.flows, web.idle), (10, [0, 10, 0, 0, 0]));
    assert_eq!(web.sessions, Some(10));
    let udp = &all[1].backends[0];
    assert_eq!(udp.states, [0, 0, 0, 0, 1, 1]);
    assert_eq!((udp.idle, udp.sessions), ([1, 1, 0, 0, 0], None));
    assert_eq!(rig.control.flows(tick(&rig)).iter().sum::<u64>(), 12);

    assert_eq!(census(&rig, Some("narrow"), None).len(), 1);
    assert_eq!(census(&rig, None, Some("10.0.0.11:8080")).len(), 1);
    // Half-open flows time out, and with them their sessions.
    rig.tick(6_000_000_000);
    assert_eq!(census(&rig, Some("web"), None)[0].backends[0].states[0], 0);
}

#[test]
fn a_backend_that_left_is_shown_while_it_has_flows() {
    let mut rig = Rig::new(&config());
    udp(&mut rig, 1);
    rig.command("backend add all 10.0.0.11");
    rig.command("backend remove all 10.0.0.12");
    let all = census(&rig, Some("all"), None);
    let backends: Vec<_> = (all[0].backends.iter())
        .map(|one| (one.backend.as_str(), one.in_pool, one.flows))
        .collect();
    assert_eq!(backends, [("10.0.0.11", true, 0), ("10.0.0.12", false, 1)]);
}

#[test]
fn a_question_about_nobody_is_refused() {
    let rig = Rig::new(&config());
    let census = Census::whole(&rig.control, tick(&rig));
    for (service, backend, reason) in [
        (Some("mail"), None, "no service \"mail\""),
        (
            Some("web"),
            Some("10.0.0.12"),
            "no backend 10.0.0.12 in service \"web\"",
        ),
        (
            None,
            Some("10.0.0.99"),
            "no backend 10.0.0.99 in any service",
        ),
    ] {
        let reason = reason.to_owned();
        let answer = census.answer(&rig.control, service, backend);
        assert_eq!(answer, Answer::Refused { reason });
    }
}

#[test]
fn the_newest_flows_have_their_addresses() {
    let mut rig = Rig::new(&config());
    for host in 1..=20 {
        tcp(&mut rig, host, Transport::Syn);
        tcp(&mut rig, host, Transport::Ack);
        rig.tick(1_000_000);
    }
    udp(&mut rig, 9);
    let flows = newest(&rig, None, 5);
    assert_eq!(flows.len(), 5);
    assert_eq!(flows[0].source.to_string(), "203.0.113.9:5000");
    assert_eq!(flows[0].destination.to_string(), "198.51.100.77:53");
    assert_eq!((flows[0].service.as_str(), flows[0].age_ms), ("all", 0));
    assert_eq!(flows[0].state.as_deref(), Some("udp"));
    let web = newest(&rig, Some("web"), 100);
    assert_eq!(web.len(), 20);
    assert_eq!(web[0].source.to_string(), "203.0.113.20:5000");
    assert!(web.is_sorted_by_key(|flow| flow.age_ms));
    assert_eq!(web[0].state.as_deref(), Some("established"));
    rig.tick(3_600_000_000_000);
    assert_eq!(newest(&rig, Some("web"), 1)[0].state, None, "it is over");
}

fn steps(rig: &Rig, protocol: Protocol, from: &str, to: &str) -> Option<LookupSteps> {
    let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
    let found = rig.control.lookup(tick(rig), protocol, from, to);
    (rig.control).explain(tick(rig), protocol, from, to, found.backend.as_deref())
}

#[test]
fn each_step_of_a_lookup_is_told() {
    let mut rig = Rig::new(&config());
    let (from, to) = ("203.0.113.1:5000", "198.51.100.10:80");
    let before = steps(&rig, Protocol::Tcp, from, to).unwrap();
    assert_eq!(before.vip.listener, "tcp 198.51.100.10:80");
    assert_eq!(before.vip.form, "exact");
    assert!(!before.conntrack[0].hit);
    assert_eq!(before.affinity.unwrap().backend, None);
    assert_eq!(before.session, None);
    tcp(&mut rig, 1, Transport::Syn);
    rig.tick(2_000_000_000);
    let after = steps(&rig, Protocol::Tcp, from, to).unwrap();
    let held = &after.conntrack[0];
    assert_eq!((held.hit, held.kept), (true, Some(true)));
    assert_eq!(held.state.as_deref(), Some("syn"));
    assert_eq!((held.idle_ms, held.left_ms), (Some(2_000), Some(8_000)));
    let affinity = after.affinity.unwrap();
    assert_eq!(affinity.backend.as_deref(), Some("10.0.0.11:8080"));
    assert!(affinity.takes_new);
    let session = after.session.unwrap();
    assert_eq!(session.from.ip().to_string(), "10.0.0.5");
    assert_eq!(session.to.to_string(), "10.0.0.11:8080");
    assert_eq!(after.scheduler.scheduler, "maglev");
    assert_eq!(after.scheduler.pick.as_deref(), Some("10.0.0.11:8080"));
    assert_eq!((after.scheduler.members, after.pool.healthy), (1, 1000));
    let forwarding = after.forwarding;
    assert_eq!(forwarding.mode, "full-nat");
    assert_eq!(forwarding.next_hop.as_deref(), Some("10.0.0.11"));
    assert_eq!(forwarding.mac.as_deref(), Some("02:00:00:00:00:0b"));
    assert_eq!(forwarding.port.as_deref(), Some("lan"));
}

#[test]
fn a_lookup_tells_the_form_of_the_vip_and_which_others_were_less_specific() {
    let mut rig = Rig::new(&config());
    let vip = |rig: &Rig, to: &str| steps(rig, Protocol::Udp, "203.0.113.1:5000", to);
    let range = vip(&rig, "198.51.100.10:1500").unwrap();
    assert_eq!(
        (range.vip.form.as_str(), range.vip.less_specific),
        ("range", vec!["all".to_owned()])
    );
    let prefix = vip(&rig, "198.51.100.10:53").unwrap();
    assert_eq!(prefix.vip.form, "prefix-any-port");
    assert_eq!(prefix.backend.unwrap().max_flows, Some(100));
    assert_eq!(vip(&rig, "203.0.113.200:53"), None);
    rig.command("backend force all 10.0.0.12 down");
    let down = vip(&rig, "198.51.100.10:53").unwrap();
    assert!(down.pool.all_down && down.pool.fails_open);
    assert_eq!(down.backend.unwrap().state, "fail-open");
}
