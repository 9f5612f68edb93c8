//! What the tests over DPDK share: EAL on anonymous memory, a pool, capture files.
//!
//! EAL starts once a process, so each test needs a process of its own: run them with cargo-nextest.
#![allow(dead_code, reason = "each test file takes what it needs")]

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use weir_engine::ArrayVec;
use weir_engine::buffer::BufferSource;
use weir_engine::eal::{Eal, EalConfig, Memory};
use weir_engine::mbuf::Mbuf;
use weir_engine::mempool::{Mempool, MempoolConfig};
use weir_engine::port::{Port, PortConfig};
use weir_engine::queue::{Queue, RxQueue};

/// EAL as any user may start it: no huge pages, no root.
pub fn start() -> Eal {
    Eal::start(&settings()).unwrap()
}

pub fn settings() -> EalConfig {
    EalConfig {
        memory: Memory::Anonymous,
        memory_mb: Some(64),
        ..Default::default()
    }
}

pub fn pool(eal: &Eal, buffers: u32) -> Mempool {
    Mempool::new(
        eal,
        &MempoolConfig {
            buffers,
            cache: 32,
            ..Default::default()
        },
    )
    .unwrap()
}

pub fn port(eal: &Eal, device: &str, queues: u16, pool: &Mempool) -> Port {
    let config = PortConfig {
        queues,
        ..port_settings(device)
    };
    Port::open(eal, &config, pool).unwrap()
}

pub fn port_settings(device: &str) -> PortConfig {
    PortConfig {
        name: "p".into(),
        device: device.into(),
        rx_descriptors: 256,
        tx_descriptors: 256,
        ..Default::default()
    }
}

/// The port's only queue.
pub fn only_queue(port: &mut Port) -> Queue {
    let mut queues = port.take_queues().unwrap();
    assert_eq!(queues.len(), 1);
    queues.remove(0)
}

/// A frame that can be told from others: `serial` in its first four bytes behind the header.
pub fn frame(serial: u32, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len)
        .map(|i| (i as u32).wrapping_mul(7).wrapping_add(serial) as u8)
        .collect();
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5]);
    frame[14..18].copy_from_slice(&serial.to_be_bytes());
    frame
}

/// A burst of such frames.
pub fn burst(pool: &mut Mempool, serials: std::ops::Range<u32>) -> ArrayVec<Mbuf, 32> {
    serials
        .map(|serial| pool.copy_from(&frame(serial, 60)).unwrap())
        .collect()
}

/// Receives until `count` frames are there, for ten seconds at most.
pub fn receive(rx: &mut RxQueue, count: usize) -> Vec<Mbuf> {
    let until = Instant::now() + Duration::from_secs(10);
    let mut all = Vec::new();
    while all.len() < count {
        let mut burst = ArrayVec::<Mbuf, 32>::new();
        if rx.receive(&mut burst) == 0 {
            assert!(
                Instant::now() < until,
                "{} of {count} frames after 10 s",
                all.len()
            );
            thread::sleep(Duration::from_millis(1));
        }
        all.extend(burst);
    }
    all
}

/// The law of every test that passes packets.
pub fn assert_full(pool: &Mempool) {
    assert_eq!(
        (pool.in_use(), pool.available()),
        (0, pool.capacity()),
        "buffers were lost"
    );
}

pub fn write_capture(path: &Path, frames: &[Vec<u8>]) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for (i, frame) in frames.iter().enumerate() {
        let time = Duration::from_micros(i as u64);
        writer
            .write_packet(&PcapPacket::new(time, frame.len() as u32, frame))
            .unwrap();
    }
}

pub fn read_capture(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.into_owned());
    }
    frames
}
