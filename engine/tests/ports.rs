//! Ports over virtual devices: frames come in and go out unchanged, queues belong to one thread,
//! what was asked for is had or refused with the reason, and every buffer comes home.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use support::{
    assert_full, burst, frame, only_queue, pool, port, port_settings, read_capture, receive, start,
    write_capture,
};
use weir_engine::ArrayVec;
use weir_engine::buffer::Buffer;
use weir_engine::eal::Eal;
use weir_engine::mbuf::{Mbuf, free_bulk};
use weir_engine::mempool::Mempool;
use weir_engine::port::{Port, PortConfig, PortError, Rss};
use weir_engine::rss::SYMMETRIC_KEY;
use weir_engine::worker::Worker;

#[test]
fn a_null_device_takes_and_gives_bursts() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    let mut port = port(&eal, "net_null0,size=100", 1, &pool);
    let mut queue = only_queue(&mut port);
    let mut passed = 0;
    for _ in 0..1_000 {
        let mut burst = ArrayVec::<Mbuf, 32>::new();
        assert_eq!(queue.rx.receive(&mut burst), 32);
        assert!(
            burst
                .iter()
                .all(|mbuf| mbuf.len() == 100 && mbuf.input_port() == port.id())
        );
        // A full burst takes no more.
        assert_eq!(queue.rx.receive(&mut burst), 0);
        passed += queue.tx.send(&mut burst);
        assert!(burst.is_empty());
    }
    assert_eq!(passed, 32_000);
    let statistics = port.statistics().unwrap();
    assert_eq!(
        (statistics.rx_packets, statistics.tx_packets),
        (32_000, 32_000)
    );
    assert!(port.link().unwrap().full_duplex);
    assert_eq!(port.driver(), "net_null");
    drop(queue);
    port.stop().unwrap();
    assert_full(&pool);
    drop(pool);
    eal.stop().unwrap();
}

#[test]
fn a_burst_is_received_behind_what_is_there_and_fills_only_the_room() {
    let eal = start();
    let mut pool = pool(&eal, 1_023);
    let mut port = port(&eal, "net_null0", 1, &pool);
    let mut queue = only_queue(&mut port);
    let mut burst = burst(&mut pool, 0..20);
    assert_eq!(queue.rx.receive(&mut burst), 12);
    assert_eq!(burst.len(), 32);
    for (serial, mbuf) in (0..20).zip(&burst) {
        assert_eq!(mbuf.data(), frame(serial, 60));
    }
    drop((burst, queue, port));
    assert_full(&pool);
}

#[test]
fn what_a_full_ring_does_not_take_stays_in_order_and_is_not_freed_twice() {
    let eal = start();
    let mut pool = pool(&eal, 8_191);
    let mut port = port(&eal, "net_ring0", 1, &pool);
    let mut queue = only_queue(&mut port);
    let mut serial = 0;
    let rest = loop {
        let mut burst = burst(&mut pool, serial..serial + 31);
        let sent = queue.tx.send(&mut burst) as u32;
        assert_eq!(burst.len() as u32, 31 - sent);
        serial += sent;
        if !burst.is_empty() {
            break burst;
        }
        assert!(serial < 8_000, "the ring never filled");
    };
    for (expected, mbuf) in (serial..).zip(&rest) {
        assert_eq!(mbuf.data(), frame(expected, 60));
    }
    assert_eq!(pool.in_use(), serial + rest.len() as u32);
    drop(rest);
    // The ring gives back exactly what it took, in order.
    let back = receive(&mut queue.rx, serial as usize);
    for (expected, mbuf) in (0..).zip(&back) {
        assert_eq!(mbuf.data(), frame(expected, 60));
    }
    drop((back, queue));
    port.stop().unwrap();
    assert_full(&pool);
}

#[test]
fn two_queues_are_polled_by_two_workers() {
    let eal = start();
    let pool = pool(&eal, 4_095);
    let mut port = port(&eal, "net_null0", 2, &pool);
    assert_eq!(
        (port.queues(), port.rss_key()),
        (2, Some(&SYMMETRIC_KEY[..]))
    );
    assert_eq!(port.rss_table_size(), Some(128));
    let workers: Vec<_> = port
        .take_queues()
        .unwrap()
        .into_iter()
        .map(|mut queue| {
            let name = format!("w{}", queue.index());
            Worker::spawn_registered(&eal, &name, 0, move |_| {
                let mut burst = ArrayVec::<Mbuf, 32>::new();
                for _ in 0..500 {
                    queue.rx.receive(&mut burst);
                    queue.tx.send(&mut burst);
                    free_bulk(&mut burst);
                }
                queue.index()
            })
            .unwrap()
        })
        .collect();
    let indices: Vec<u16> = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .collect();
    assert_eq!(indices, [0, 1]);
    assert_eq!(port.statistics().unwrap().tx_packets, 2 * 500 * 32);
    port.stop().unwrap();
    assert_full(&pool);
}

#[test]
fn a_capture_goes_in_and_comes_out_byte_for_byte() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (
        folder.path().join("in.pcap"),
        folder.path().join("out.pcap"),
    );
    let frames: Vec<_> = (0..500)
        .map(|i| frame(i, 60 + i as usize % 1_400))
        .collect();
    write_capture(&input, &frames);
    let device = format!(
        "net_pcap0,rx_pcap={},tx_pcap={}",
        input.display(),
        output.display()
    );
    let mut port = port(&eal, &device, 1, &pool);
    let mut queue = only_queue(&mut port);
    let received = receive(&mut queue.rx, frames.len());
    let mut left = received.into_iter();
    while left.len() != 0 {
        let mut burst: ArrayVec<Mbuf, 32> = left.by_ref().take(32).collect();
        queue.tx.send(&mut burst);
        assert!(burst.is_empty());
    }
    drop(queue);
    port.stop().unwrap();
    assert_full(&pool);
    assert_eq!(read_capture(&output), frames);
}

#[test]
fn queue_handles_are_given_once_and_keep_the_port_open() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    let mut port = port(&eal, "net_null0", 1, &pool);
    let mut queue = only_queue(&mut port);
    assert!(port.take_queues().is_none());
    let error = port.stop().unwrap_err();
    assert_eq!(
        error,
        PortError::InUse {
            port: "p".into(),
            handles: 2
        }
    );
    let mut burst = ArrayVec::<Mbuf, 32>::new();
    assert_eq!(queue.rx.receive(&mut burst), 32);
    drop((burst, queue));
    assert_full(&pool);
}

#[test]
fn too_few_queues_are_refused_with_both_numbers() {
    let eal = start();
    let pool = pool(&eal, 127);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.pcap");
    write_capture(&path, &[frame(0, 60)]);
    let device = format!("net_pcap0,rx_pcap={}", path.display());
    let error = refused(
        &eal,
        &pool,
        &PortConfig {
            queues: 2,
            ..port_settings(&device)
        },
    );
    let PortError::TooFewQueues {
        asked, available, ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((asked, available), (2, 1));
    let error = refused(
        &eal,
        &pool,
        &PortConfig {
            queues: 0,
            ..port_settings(&device)
        },
    );
    assert_eq!(error, PortError::NoQueues { port: "p".into() });
    // The failures left the device closed: it opens now.
    port(&eal, &device, 1, &pool).stop().unwrap();
    assert_full(&pool);
}

#[test]
fn a_device_that_is_not_there_is_refused_by_name() {
    let eal = start();
    let pool = pool(&eal, 127);
    for device in [
        "net_nothing0",
        "0000:ff:1f.7",
        "eth0",
        "net_pcap0,rx_pcap=/nonexistent",
    ] {
        let error = refused(&eal, &pool, &port_settings(device));
        let PortError::NotFound { device: named, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(named, device);
    }
    for device in ["", "net_null0\0"] {
        let error = refused(&eal, &pool, &port_settings(device));
        assert!(matches!(error, PortError::DeviceName { .. }), "{error}");
    }
}

#[test]
fn a_device_opens_once_at_a_time_and_again_after_it_was_closed() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    for _ in 0..3 {
        let first = port(&eal, "net_null0,size=80", 1, &pool);
        let error = refused(&eal, &pool, &port_settings("net_null0,size=80"));
        assert!(matches!(error, PortError::AlreadyOpen { .. }), "{error}");
        first.stop().unwrap();
    }
    assert_full(&pool);
}

#[test]
fn a_device_named_at_the_start_is_found() {
    let mut settings = support::settings();
    settings.devices = vec!["net_null7,size=99".into()];
    let eal = Eal::start(&settings).unwrap();
    let pool = pool(&eal, 1_023);
    let mut port = port(&eal, "net_null7,size=99", 1, &pool);
    let mut queue = only_queue(&mut port);
    assert_eq!(receive(&mut queue.rx, 1)[0].len(), 99);
    drop(queue);
    port.stop().unwrap();
    assert_full(&pool);
}

#[test]
fn a_mac_address_is_set_or_kept_in_software_or_refused() {
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    let eal = start();
    let pool = pool(&eal, 1_023);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.pcap");
    write_capture(&path, &[frame(0, 60)]);
    // net_null can be given an address, net_pcap cannot, but takes in every frame.
    for device in [
        "net_null0".to_owned(),
        format!("net_pcap0,rx_pcap={}", path.display()),
    ] {
        let own = port(&eal, &device, 1, &pool).mac();
        assert_ne!(own, MAC);
        let config = PortConfig {
            mac: Some(MAC),
            ..port_settings(&device)
        };
        assert_eq!(
            Port::open(&eal, &config, &pool).unwrap().mac(),
            MAC,
            "{device}"
        );
    }
    let config = PortConfig {
        mac: Some([1, 0, 0, 0, 0, 1]),
        ..port_settings("net_null0")
    };
    let error = refused(&eal, &pool, &config);
    assert!(error.to_string().contains("01:00:00:00:00:01"), "{error}");
    assert_full(&pool);
}

#[test]
fn an_mtu_is_had_or_refused_with_what_would_do() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    assert_eq!(port(&eal, "net_null0", 1, &pool).mtu(), 1_500);
    let open = |mtu| {
        let config = PortConfig {
            mtu: Some(mtu),
            ..port_settings("net_null0")
        };
        Port::open(&eal, &config, &pool)
    };
    assert_eq!(open(1_400).unwrap().mtu(), 1_400);
    assert_eq!(open(1_600).unwrap().mtu(), 1_600);
    let error = open(9_000).unwrap_err();
    assert!(
        error.to_string().contains("2048 bytes (at most 2026)"),
        "{error}"
    );
    assert_full(&pool);
}

#[test]
fn an_rss_key_that_was_asked_for_is_insisted_on() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    let key: Vec<u8> = (0..40).collect();
    let with = |device: &str, key: &[u8]| {
        let rss = Some(Rss { key: key.to_vec() });
        Port::open(
            &eal,
            &PortConfig {
                queues: 2,
                rss,
                ..port_settings(device)
            },
            &pool,
        )
    };
    assert_eq!(with("net_null0", &key).unwrap().rss_key(), Some(&key[..]));
    let error = with("net_null0", &key[1..]).unwrap_err();
    assert!(error.to_string().contains("39 bytes") && error.to_string().contains("takes 40"));
    let error = with("net_ring0", &key).unwrap_err();
    assert!(error.to_string().contains("has no RSS"), "{error}");
    assert_full(&pool);
}

#[test]
fn a_capture_that_repeats_gives_its_preloaded_buffers_back() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.pcap");
    write_capture(&path, &(0..100).map(|i| frame(i, 60)).collect::<Vec<_>>());
    let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", path.display());
    let config = PortConfig {
        promiscuous: Some(true),
        ..port_settings(&device)
    };
    let mut port = Port::open(&eal, &config, &pool).unwrap();
    assert!(pool.in_use() >= 100);
    let mut queue = only_queue(&mut port);
    let frames = receive(&mut queue.rx, 300);
    for (serial, mbuf) in (0..300).zip(&frames) {
        assert_eq!(mbuf.data(), frame(serial % 100, 60));
    }
    drop((frames, queue));
    port.stop().unwrap();
    assert_full(&pool);
}

#[test]
fn a_virtual_device_is_on_no_numa_node() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    assert_eq!(Port::numa_node_of(&eal, "net_ring0").unwrap(), None);
    // Asking has not plugged it in.
    port(&eal, "net_ring0", 1, &pool).stop().unwrap();
    assert_full(&pool);
}

fn refused(eal: &Eal, pool: &Mempool, config: &PortConfig) -> PortError {
    Port::open(eal, config, pool).unwrap_err()
}
