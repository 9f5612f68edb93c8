//! Mbufs keep the buffer contract, belong to one owner, and all come home.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::path::Path;
use std::thread;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use support::{assert_full, burst, frame, only_queue, pool, port, receive, start, write_capture};
use weir_engine::ArrayVec;
use weir_engine::buffer::{Buffer, BufferSource, HeapBuffer};
use weir_engine::mbuf::{HEADROOM, Mbuf, free_bulk};
use weir_engine::mempool::{FRAME_ROOM, Mempool, MempoolConfig, MempoolError};

#[derive(Debug, Clone, Copy)]
enum Change {
    Prepend(usize),
    TrimFront(usize),
    Append(usize),
    TrimBack(usize),
    Write(u8),
}

fn change() -> impl Strategy<Value = Change> {
    let len = prop_oneof![0_usize..200, Just(usize::MAX), Just(65_536)];
    prop_oneof![
        len.clone().prop_map(Change::Prepend),
        len.clone().prop_map(Change::TrimFront),
        len.clone().prop_map(Change::Append),
        len.prop_map(Change::TrimBack),
        any::<u8>().prop_map(Change::Write),
    ]
}

fn apply(buffer: &mut impl Buffer, change: Change) -> bool {
    match change {
        Change::Prepend(len) => {
            let done = buffer.prepend(len).is_ok();
            if done {
                buffer.data_mut()[..len].fill(0xaa);
            }
            done
        }
        Change::Append(len) => {
            let done = buffer.append(len).is_ok();
            if done {
                let at = buffer.len() - len;
                buffer.data_mut()[at..].fill(0xbb);
            }
            done
        }
        Change::TrimFront(len) => buffer.trim_front(len).is_ok(),
        Change::TrimBack(len) => buffer.trim_back(len).is_ok(),
        Change::Write(value) => {
            if let Some(byte) = buffer.data_mut().last_mut() {
                *byte = value;
            }
            true
        }
    }
}

#[test]
fn an_mbuf_behaves_as_a_heap_buffer_with_the_same_room_does() {
    let eal = start();
    let pool = pool(&eal, 127);
    let mut runner = TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(512)
    });
    let cases = (
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(change(), 0..40),
    );
    runner
        .run(&cases, |(bytes, changes)| {
            let mut mbuf = pool.clone().copy_from(&bytes).unwrap();
            let tailroom = usize::from(FRAME_ROOM) - bytes.len();
            let mut heap = HeapBuffer::with_room(&bytes, usize::from(HEADROOM), tailroom);
            for change in changes {
                prop_assert_eq!(apply(&mut mbuf, change), apply(&mut heap, change));
                prop_assert_eq!(mbuf.data(), heap.data());
                prop_assert_eq!(
                    (
                        mbuf.len(),
                        mbuf.headroom(),
                        mbuf.tailroom(),
                        mbuf.is_segmented()
                    ),
                    (
                        heap.len(),
                        heap.headroom(),
                        heap.tailroom(),
                        heap.is_segmented()
                    )
                );
                prop_assert_eq!(mbuf.total_len(), mbuf.len());
            }
            mbuf.prefetch();
            Ok(())
        })
        .unwrap();
    assert_full(&pool);
}

#[test]
fn a_frame_too_long_for_a_buffer_is_refused_and_the_buffer_comes_home() {
    let eal = start();
    let mut pool = pool(&eal, 7);
    assert!(pool.copy_from(&[1; FRAME_ROOM as usize]).is_some());
    assert!(pool.copy_from(&[1; FRAME_ROOM as usize + 1]).is_none());
    assert!(pool.copy_from(&[1; 70_000]).is_none());
    assert_full(&pool);
}

#[test]
fn an_empty_pool_gives_none_until_a_buffer_comes_home() {
    let eal = start();
    let pool = pool(&eal, 63);
    let mut all: Vec<Mbuf> = (0..63).map(|_| pool.alloc().unwrap()).collect();
    assert!(pool.alloc().is_none());
    assert_eq!((pool.in_use(), pool.available()), (63, 0));
    all.pop();
    all.push(pool.alloc().unwrap());
    drop(all);
    assert_full(&pool);
}

#[test]
fn a_bulk_is_all_or_nothing_and_no_more_than_there_is_room_for() {
    let eal = start();
    let pool = pool(&eal, 63);
    let mut burst = ArrayVec::<Mbuf, 40>::new();
    assert_eq!(pool.alloc_bulk(&mut burst, 10), 10);
    assert_eq!(pool.alloc_bulk(&mut burst, 1_000), 30);
    assert_eq!((burst.len(), pool.in_use()), (40, 40));
    assert!(
        burst
            .iter()
            .all(|mbuf| mbuf.is_empty() && mbuf.headroom() == usize::from(HEADROOM))
    );
    let mut more = ArrayVec::<Mbuf, 40>::new();
    assert_eq!((pool.alloc_bulk(&mut more, 24), more.len()), (0, 0));
    assert_eq!(pool.alloc_bulk(&mut more, 23), 23);
    free_bulk(&mut burst);
    assert!(burst.is_empty());
    free_bulk(&mut burst);
    drop(more);
    assert_full(&pool);
}

#[test]
fn a_bulk_of_several_pools_goes_home_to_each() {
    let eal = start();
    let pools: Vec<Mempool> = (0..3)
        .map(|i| {
            let config = MempoolConfig {
                name: format!("p{i}"),
                buffers: 63,
                ..Default::default()
            };
            Mempool::new(&eal, &config).unwrap()
        })
        .collect();
    for _ in 0..20 {
        let mut mixed = ArrayVec::<Mbuf, 64>::new();
        for i in 0..64 {
            mixed.push(pools[i * i % 3].alloc().unwrap());
        }
        free_bulk(&mut mixed);
        pools.iter().for_each(assert_full);
    }
}

#[test]
fn a_segmented_frame_is_seen_as_one_and_comes_home_whole() {
    let eal = start();
    let pool = pool(&eal, 1_023);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.pcap");
    let long = frame(2, 5_000);
    write_capture(&path, &[frame(1, 60), long.clone(), frame(3, 60)]);
    let mut port = port(
        &eal,
        &format!("net_pcap0,rx_pcap={}", path.display()),
        1,
        &pool,
    );
    let mut queue = only_queue(&mut port);
    let mut frames = receive(&mut queue.rx, 3);
    assert_eq!(
        frames.iter().map(Buffer::is_segmented).collect::<Vec<_>>(),
        [false, true, false]
    );
    let jumbo = &mut frames[1];
    assert!(jumbo.segments() > 1);
    assert_eq!(
        (jumbo.total_len(), jumbo.data()),
        (5_000, &long[..jumbo.len()])
    );
    // Its end is in another piece: nothing may be added or taken there.
    assert!(jumbo.append(1).is_err() && jumbo.trim_back(1).is_err() && jumbo.tailroom() == 0);
    jumbo.trim_front(14).unwrap();
    assert_eq!(jumbo.total_len(), 4_986);
    let mut bulk: ArrayVec<Mbuf, 3> = frames.into_iter().collect();
    free_bulk(&mut bulk);
    drop(queue);
    port.stop().unwrap();
    assert_full(&pool);
}

#[test]
fn a_buffer_outlives_every_handle_to_its_pool() {
    let eal = start();
    let prefix = eal.config().file_prefix.clone();
    let mut pool = pool(&eal, 127);
    let mut mbuf = pool.copy_from(&[7; 100]).unwrap();
    drop((pool, eal));
    mbuf.prepend(10).unwrap();
    assert_eq!(mbuf.data()[10..], [7; 100]);
    thread::spawn(move || drop(mbuf)).join().unwrap();
    // DPDK's memory stayed, for the buffer's sake; its run-time folder did not.
    for parent in ["/var/run/dpdk", "/tmp/dpdk"] {
        assert!(!Path::new(parent).join(&prefix).exists());
    }
}

#[test]
fn a_pool_given_back_makes_room_for_another_of_its_name() {
    let eal = start();
    for _ in 0..50 {
        let mut pool = pool(&eal, 2_047);
        drop(burst(&mut pool, 0..32));
        assert_full(&pool);
    }
    let first = pool(&eal, 127);
    let config = MempoolConfig {
        buffers: 127,
        ..first.config().clone()
    };
    let error = Mempool::new(&eal, &config).unwrap_err();
    assert!(matches!(error, MempoolError::Create { .. }), "{error}");
}

#[test]
fn a_pool_that_cannot_be_is_refused_with_numbers() {
    let eal = start();
    let refuse = |config: MempoolConfig| Mempool::new(&eal, &config).unwrap_err();
    let error = refuse(MempoolConfig {
        buffers: 1 << 20,
        ..Default::default()
    });
    let MempoolError::Create {
        buffers, megabytes, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*buffers, (1 << 21) - 1);
    assert!(*megabytes > 4_000, "{error}");
    assert!(matches!(
        refuse(MempoolConfig {
            buffers: 0,
            ..Default::default()
        }),
        MempoolError::Size { .. }
    ));
    for name in ["", "a\0b", &"x".repeat(26)] {
        let config = MempoolConfig {
            name: name.into(),
            ..Default::default()
        };
        assert!(
            matches!(refuse(config), MempoolError::Name { .. }),
            "{name:?}"
        );
    }
    let config = MempoolConfig {
        frame_room: u16::MAX,
        ..Default::default()
    };
    assert!(matches!(refuse(config), MempoolError::FrameRoom { .. }));
    let tiny = MempoolConfig {
        buffers: 1,
        cache: 512,
        ..Default::default()
    };
    let tiny = Mempool::new(&eal, &tiny).unwrap();
    assert_eq!((tiny.capacity(), tiny.config().cache), (1, 0));
}
