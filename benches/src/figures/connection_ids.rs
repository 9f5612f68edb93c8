//! Q. What it costs to find the backend that a QUIC datagram's connection ID names: header, decoding
//! and the look into the directory of server IDs, over datagrams in cache.

use std::hint::black_box;
use std::time::Instant;

use weir::quic::Quic;
use weir::quic::encode::{Encoder, FirstOctet};
use weir_shm::model::{QuicConfig, QuicKey, ServerId};

use super::{Settings, buffers, on_worker_core};
use crate::record::Record;
use crate::{Failure, Random};

/// Datagrams that are decoded in turn.
const DATAGRAMS: usize = 1_024;
/// Bytes of one.
const LENGTH: usize = 64;

/// A kind of connection ID.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    name: &'static str,
    server_id_length: u8,
    nonce_length: u8,
    encrypted: bool,
    long: bool,
}

const fn case(name: &'static str, id: u8, nonce: u8, encrypted: bool) -> Case {
    Case {
        name,
        server_id_length: id,
        nonce_length: nonce,
        encrypted,
        long: false,
    }
}

/// What is measured.
pub const CASES: [Case; 5] = [
    case("plaintext", 8, 8, false),
    Case {
        long: true,
        ..case("plaintext, long header", 8, 8, false)
    },
    case("AES, one pass", 8, 8, true),
    case("AES, three of four", 4, 6, true),
    case("AES, four of four", 10, 5, true),
];

/// Measures all kinds.
///
/// # Errors
/// When a datagram was not decoded to its backend.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let packets = buffers::packets(settings, 25.0);
    let repetitions = settings.repetitions;
    on_worker_core(move || {
        let mut records = Vec::new();
        for (name, backends) in [("100", 100), ("10,000", 10_000)] {
            for case in CASES {
                let samples = nanoseconds(case, backends, packets, repetitions)?;
                let label = format!("{}, {name} backends", case.name);
                records.push(Record::new('Q', &label, "ns/packet", &samples));
            }
        }
        Ok(records)
    })
}

/// Measures one kind: nanoseconds a packet, repetition by repetition.
fn nanoseconds(
    case: Case,
    backends: u32,
    packets: u32,
    repetitions: usize,
) -> Result<Vec<f64>, Failure> {
    let config = QuicConfig {
        rotation: 2,
        server_id_length: case.server_id_length,
        nonce_length: case.nonce_length,
        key: case.encrypted.then_some(QuicKey([0x5a; 16])),
    };
    let ids = (0..backends).filter_map(|number| Some((2, id_of(&config, number)?, number)));
    let quic = Quic::new(&[config], ids);
    let mut random = Random::new(3);
    let mut datagrams = Vec::with_capacity(DATAGRAMS);
    for _ in 0..DATAGRAMS {
        let number = random.next() % backends;
        let datagram = datagram(&case, &config, number, &mut random)
            .filter(|datagram| quic.backend(datagram) == Some(number));
        datagrams.push(datagram.ok_or("a connection ID does not lead to its backend")?);
    }
    let rounds = (packets as usize / DATAGRAMS).max(1);
    let mut figures = Vec::with_capacity(repetitions);
    for _ in 0..repetitions.max(1) {
        let start = Instant::now();
        let mut sum = 0u64;
        for _ in 0..rounds {
            for datagram in &datagrams {
                sum += u64::from(quic.backend(black_box(datagram)).unwrap_or_default());
            }
        }
        black_box(sum);
        figures.push(start.elapsed().as_secs_f64() * 1e9 / (rounds * DATAGRAMS) as f64);
    }
    Ok(figures)
}

fn id_of(config: &QuicConfig, number: u32) -> Option<ServerId> {
    let mut octets = [0; 16];
    octets
        .iter_mut()
        .zip(number.to_le_bytes())
        .for_each(|(place, octet)| *place = octet);
    ServerId::new(octets.get(..usize::from(config.server_id_length))?)
}

fn datagram(
    case: &Case,
    config: &QuicConfig,
    number: u32,
    random: &mut Random,
) -> Option<[u8; LENGTH]> {
    let nonce: Vec<u8> = (0..config.nonce_length)
        .map(|_| random.next() as u8)
        .collect();
    let cid = Encoder::new(config, FirstOctet::Length)?.encode(&id_of(config, number)?, &nonce)?;
    let mut datagram = [0; LENGTH];
    let head: &[u8] = if case.long {
        &[0xe0, 0, 0, 0, 1, cid.len() as u8]
    } else {
        &[0x40]
    };
    let bytes = head.iter().chain(&cid);
    datagram
        .iter_mut()
        .zip(bytes)
        .for_each(|(place, byte)| *place = *byte);
    Some(datagram)
}
