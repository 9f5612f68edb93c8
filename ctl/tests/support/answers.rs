//! What the control core of a test's daemon answers, whatever is asked.

use weir_shm::capture::{Direction, Fate, Record, Why};
use weir_shm::segment::mailbox::{
    AffinityStep, BackendCensus, BackendStep, Census, ConntrackStep, ForwardingStep, LookupSteps,
    NewFlow, PoolStep, SchedulerStep, ServiceCensus, VipStep,
};

/// Two captured packets of the first service: as one came and as it left.
pub fn packets() -> Vec<u8> {
    let frame: Vec<u8> = [
        &[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0xfe, 8, 0][..],
        &[
            0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 203, 0, 113, 5, 198, 51, 100, 10,
        ][..],
        &[0x13, 0x88, 0, 80, 0, 8, 0, 0][..],
    ]
    .concat();
    let length = frame.len() as u16;
    let incoming = Record {
        kept: length,
        length,
        direction: Direction::In,
        fate: Fate::Sent,
        why: Why::Scheduler,
        reason: None,
        unix_ns: 1_795_209_304_123_456_789,
        service: 0,
        backend: 1,
        port: 0,
        other: 1,
        worker: 1,
    };
    let outgoing = Record {
        direction: Direction::Out,
        port: 1,
        other: 0,
        ..incoming
    };
    let mut bytes = Vec::new();
    for record in [incoming, outgoing] {
        bytes.extend(record.encode().iter().flat_map(|word| word.to_le_bytes()));
        bytes.extend(&frame);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes
}

pub fn census() -> Census {
    let backend = |name: &str, in_pool, states: [u64; 6], idle| BackendCensus {
        backend: name.to_owned(),
        in_pool,
        flows: states.iter().sum(),
        states,
        idle,
        sessions: None,
    };
    Census {
        services: vec![
            ServiceCensus {
                service: "web".to_owned(),
                backends: vec![
                    backend(
                        "10.0.0.11:8080",
                        true,
                        [12, 4000, 31, 2, 0, 0],
                        [900, 2000, 1000, 100, 45],
                    ),
                    backend("10.0.0.9:8080", false, [0, 3, 0, 0, 0, 0], [0, 0, 0, 1, 2]),
                ],
            },
            ServiceCensus {
                service: "dns".to_owned(),
                backends: vec![BackendCensus {
                    sessions: Some(70_000),
                    ..backend(
                        "2001:db8::1:1",
                        true,
                        [0, 0, 0, 0, 90_000, 1_000],
                        [91_000, 0, 0, 0, 0],
                    )
                }],
            },
        ],
    }
}

pub fn newest() -> Vec<NewFlow> {
    vec![
        NewFlow {
            protocol: 6,
            source: "203.0.113.5:51234".parse().unwrap(),
            destination: "198.51.100.10:80".parse().unwrap(),
            service: "web".to_owned(),
            backend: "10.0.0.11:8080".to_owned(),
            worker: 0,
            age_ms: 12,
            state: Some("syn".to_owned()),
        },
        NewFlow {
            protocol: 17,
            source: "[2001:db8:1::5]:5353".parse().unwrap(),
            destination: "[2001:db8::53]:53".parse().unwrap(),
            service: "dns".to_owned(),
            backend: "2001:db8::1:1".to_owned(),
            worker: 1,
            age_ms: 65_000,
            state: None,
        },
    ]
}

pub fn steps() -> LookupSteps {
    LookupSteps {
        vip: VipStep {
            listener: "tcp 198.51.100.10:80".to_owned(),
            form: "exact".to_owned(),
            less_specific: vec!["all".to_owned()],
        },
        hash: "00c0ffee00c0ffee".to_owned(),
        conntrack: vec![
            ConntrackStep::default(),
            ConntrackStep {
                worker: 1,
                hit: true,
                state: Some("established".to_owned()),
                backend: Some("10.0.0.11:8080".to_owned()),
                kept: Some(true),
                idle_ms: Some(12),
                left_ms: Some(349_988),
            },
        ],
        affinity: Some(AffinityStep::default()),
        scheduler: SchedulerStep {
            scheduler: "maglev".to_owned(),
            pick: Some("10.0.0.12:8080".to_owned()),
            choice: "first".to_owned(),
            members: 2,
        },
        pool: PoolStep {
            policy: "forward".to_owned(),
            healthy: 1000,
            ..PoolStep::default()
        },
        backend: Some(BackendStep {
            backend: "10.0.0.11:8080".to_owned(),
            state: "up".to_owned(),
            weight: 1,
            max_flows: Some(5000),
            last_check: Some("ok".to_owned()),
        }),
        session: None,
        forwarding: ForwardingStep {
            mode: "nat".to_owned(),
            next_hop: Some("10.0.0.11".to_owned()),
            mac: Some("02:00:00:00:00:0b".to_owned()),
            port: Some("lan".to_owned()),
        },
    }
}
