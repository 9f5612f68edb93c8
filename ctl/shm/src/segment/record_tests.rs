//! Records lead back to their pool, and nothing else leads to a pool that is not valid.

use super::*;
use crate::model::{
    Affinity, AllDown, HashInput, Health, HealthKind, NO_DEADLINE, OuterChecksum, QuicConfig,
    QuicKey, ServerId, ServerIds, Tunnel,
};
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Duration;

/// A pool with every kind of thing in it.
pub(crate) fn sample() -> Pool {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let mut web = Service::new(
        "web",
        address("198.51.100.10"),
        PortMatch::Exact(80),
        Protocol::Tcp,
        Forwarding::Nat,
    );
    web.health = Health {
        kind: HealthKind::Http,
        path: Some("/healthz".to_owned()),
        host: Some("example.net".to_owned()),
        port: Some(8081),
        method: Some("GET".to_owned()),
        status: vec![(200, 204), (301, 301)],
        body: Some("fine".to_owned()),
        ..Health::default()
    };
    web.slow_start = Duration::from_secs(30);
    web.min_healthy = 500;
    web.on_down = OnDown::Keep;
    web.backends = vec![
        Backend {
            weight: 3,
            ..Backend::new(address("10.0.0.11"), 8080)
        },
        Backend {
            admin: Admin::Disabled,
            ..Backend::new(address("10.0.0.12"), 8080)
        },
        Backend {
            admin: Admin::Drain {
                timeout: Duration::from_secs(300),
            },
            forced: Forced::Down,
            ..Backend::new(address("10.0.0.13"), 8080)
        },
    ];
    let mut far = Service::new(
        "far",
        address("198.51.100.11"),
        PortMatch::Exact(80),
        Protocol::Tcp,
        Forwarding::DsrGue,
    );
    far.tunnel = Tunnel {
        gue_variant: Some(0),
        gue_port: Some(6081),
        outer_udp_checksum: Some(OuterChecksum::Full),
        mss_clamp: Some(1400),
        ..Tunnel::default()
    };
    for source in ["10.0.0.1", "2001:db8:1::/64"] {
        far.tunnel.sources.add(source.parse().unwrap()).unwrap();
    }
    far.backends = vec![Backend::new(address("2001:db8::12"), 80)];
    let mut all = Service::new(
        "all",
        address("2001:db8::10"),
        PortMatch::Any,
        Protocol::Udp,
        Forwarding::DsrL2,
    );
    all.table_size = 251;
    all.ping = Ping::Forward;
    all.health = Health {
        kind: HealthKind::Udp,
        port: Some(53),
        payload: Some(vec![0, 1, 2]),
        answer: Some(Vec::new()),
        ..Health::default()
    };
    all.deregistration_delay = NO_DEADLINE;
    all.timeouts.udp = Duration::from_millis(1500);
    all.backends = vec![Backend {
        admin: Admin::Drain {
            timeout: NO_DEADLINE,
        },
        ..Backend::new(address("2001:db8::11"), 0)
    }];
    let mut quic = Service::new(
        "quic",
        address("198.51.100.10"),
        PortMatch::Exact(443),
        Protocol::Quic,
        Forwarding::Nat,
    );
    quic.quic = vec![
        QuicConfig {
            rotation: 0,
            server_id_length: 3,
            nonce_length: 4,
            key: None,
        },
        QuicConfig {
            rotation: 6,
            server_id_length: 8,
            nonce_length: 8,
            key: Some(QuicKey([0x8f; 16])),
        },
    ];
    let id = |text: &str| text.parse::<ServerId>().unwrap();
    quic.backends = vec![
        Backend {
            server_ids: ServerIds::Each([(0, id("c4605e")), (6, id("ed793a51d49b8f5f"))].into()),
            ..Backend::new(address("10.0.1.11"), 443)
        },
        Backend::new(address("10.0.1.12"), 443),
    ];
    let mut one = Service::new(
        "one",
        address("198.51.100.11"),
        PortMatch::Any,
        Protocol::Quic,
        Forwarding::DsrL2,
    );
    one.quic = vec![QuicConfig {
        rotation: 1,
        server_id_length: 15,
        nonce_length: 4,
        key: None,
    }];
    one.backends = vec![Backend {
        server_ids: ServerIds::Every(id(&"ab".repeat(15))),
        ..Backend::new(address("10.0.2.11"), 0)
    }];
    let mut translated = Service::new(
        "translated",
        address("2001:db8::20"),
        PortMatch::Exact(443),
        Protocol::Tcp,
        Forwarding::FullNat,
    );
    translated.snat_pool = vec![address("10.0.0.5"), address("2001:db8::5")];
    translated.client_address = ClientAddress::ProxyV2;
    translated.backends = vec![Backend::new(address("10.0.0.14"), 8443)];
    Pool {
        services: vec![web, all, quic, one, far, translated],
    }
}

/// Valid pools: addresses and ports are made distinct by their place.
pub(crate) fn pools() -> impl Strategy<Value = Pool> {
    let backend = (0u32..=65_535, 0u8..3, any::<u32>(), 0u8..3);
    let service = (
        any::<bool>(),
        0u8..4,
        any::<bool>(),
        "[A-Za-z0-9._-]{1,40}",
        proptest::collection::vec(backend, 0..8),
        1u64..1_000_000,
        proptest::option::of("/[a-z/]{0,40}"),
    );
    proptest::collection::vec(service, 0..12).prop_map(|services| {
        let mut pool = Pool::default();
        for (number, service) in services.into_iter().enumerate() {
            let (v6, protocol, nat, name, backends, timeout, path) = service;
            let ip = |kind: u8, place: usize| -> IpAddr {
                if v6 {
                    format!("2001:db8:{kind}::{number:x}:{}", place + 1)
                        .parse()
                        .unwrap()
                } else {
                    format!("10.{kind}.{number}.{}", place + 1).parse().unwrap()
                }
            };
            let protocol = Protocol::ALL[usize::from(protocol)];
            let forwarding = if nat {
                Forwarding::Nat
            } else {
                Forwarding::DsrL2
            };
            let port = match (nat, protocol) {
                (_, Protocol::Any) => PortMatch::Any,
                (true, _) => PortMatch::Exact(443),
                (false, _) if number % 3 == 0 => PortMatch::Range(1_000, 2_000),
                (false, _) => PortMatch::Any,
            };
            let vip = match Vip::network(ip(1, 15), 28) {
                Some(vip) if !nat && !v6 => vip,
                _ => ip(1, 0).into(),
            };
            let mut service =
                Service::new(&format!("{name}.{number}"), vip, port, protocol, forwarding);
            service.timeouts.established = Duration::from_millis(timeout);
            service.scheduler = Scheduler::ALL[timeout as usize % Scheduler::ALL.len()];
            service.steering.all_down = AllDown::ALL[timeout as usize % AllDown::ALL.len()];
            if service.scheduler == Scheduler::Ring {
                service.steering.ring_vnodes = Some(1 + timeout as u32 % 8);
            }
            if timeout % 3 == 0 {
                service.steering.affinity = Some(Affinity {
                    prefix4: 1 + (timeout % 32) as u8,
                    prefix6: 1 + (timeout % 128) as u8,
                    timeout: Duration::from_millis(timeout),
                });
            } else if protocol == Protocol::Tcp && service.scheduler == Scheduler::Maglev {
                service.steering.hash = HashInput::FiveTupleIsn;
            }
            if protocol == Protocol::Quic {
                service.quic = vec![QuicConfig {
                    rotation: (timeout % 7) as u8,
                    server_id_length: 2,
                    nonce_length: 4 + (timeout % 14) as u8,
                    key: v6.then_some(QuicKey([timeout as u8; 16])),
                }];
            }
            if let Some(path) = path {
                service.health.kind = HealthKind::Https;
                service.health.path = Some(path);
                service.health.tls.verify = true;
                service.health.tls.ca = Some("/etc/ssl/ca.pem".to_owned());
                service.health.port = Some(443);
            }
            for (place, (weight, admin, timeout, forced)) in backends.into_iter().enumerate() {
                let mut backend =
                    Backend::new(ip(2, place), if port.is_exact() { 8080 } else { 0 });
                backend.weight = weight;
                backend.max_flows = (weight % 2 == 1).then_some(weight);
                backend.admin = match admin {
                    0 => Admin::Enabled,
                    1 => Admin::Disabled,
                    _ => Admin::Drain {
                        timeout: Duration::from_millis(timeout.min(1 << 30).into()),
                    },
                };
                backend.forced = Forced::from_code(forced).unwrap();
                let id = ServerId::new(&[forced, place as u8]).unwrap();
                backend.server_ids = match service.quic.first() {
                    Some(_) if forced == 1 => ServerIds::Every(id),
                    Some(one) if forced == 2 => ServerIds::Each([(one.rotation, id)].into()),
                    _ => ServerIds::None,
                };
                service.backends.push(backend);
            }
            pool.services.push(service);
        }
        pool
    })
}

fn counts(pool: &Pool) -> (u32, u32) {
    (pool.services.len() as u32, pool.backend_count() as u32)
}

#[test]
fn the_sample_is_valid() {
    sample().validate().unwrap();
}

#[test]
fn counts_that_do_not_fit_are_refused() {
    let pool = sample();
    let bytes = encode(&pool);
    for (services, backends) in [
        (4, 8),
        (5, 7),
        (6, 8),
        (u32::MAX, u32::MAX),
        (4097, 0),
        (0, 131_073),
    ] {
        assert!(
            decode(&bytes, services, backends).is_err(),
            "{services} {backends}"
        );
    }
}

proptest! {
    #[test]
    fn records_lead_back_to_their_pool(pool in pools()) {
        pool.validate().unwrap();
        let (services, backends) = counts(&pool);
        prop_assert_eq!(decode(&encode(&pool), services, backends), Ok(pool));
    }

    #[test]
    fn changed_records_are_another_valid_pool_or_refused(
        pool in pools(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let (services, backends) = counts(&pool);
        let mut bytes = encode(&pool);
        if !bytes.is_empty() {
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
        }
        // Never a panic; and what is accepted has exactly one form.
        if let Ok(pool) = decode(&bytes, services, backends) {
            pool.validate().unwrap();
            prop_assert_eq!(encode(&pool), bytes);
        }
    }
}
