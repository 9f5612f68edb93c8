//! Q. What it costs to find the backend that a QUIC datagram's connection ID names: header, decoding
//! and the look into the directory of server IDs, over datagrams in cache, in bursts as on the packet
//! path. Then the whole packet path, beside the same frames steered as UDP.

use std::hint::black_box;
use std::time::Instant;

use arrayvec::ArrayVec;
use weir::pipeline::BURST;
use weir::quic::encode::{Encoder, FirstOctet};
use weir::quic::{Burst, Quic};
use weir_engine::wire::checksum;
use weir_shm::model::{QuicConfig, QuicKey, ServerId};

use super::{Settings, buffers, on_worker_core};
use crate::record::Record;
use crate::rig::path::{BACKENDS, Bed, base};
use crate::rig::traffic::udp4;
use crate::{Failure, Random, median};

/// Datagrams that are decoded in turn.
const DATAGRAMS: usize = 1_024;
/// Bytes of Ethernet, IPv4 and UDP before it.
const HEADERS: usize = 42;
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

impl Case {
    fn config(&self) -> QuicConfig {
        QuicConfig {
            rotation: 2,
            server_id_length: self.server_id_length,
            nonce_length: self.nonce_length,
            key: self.encrypted.then_some(QuicKey([0x5a; 16])),
        }
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
        records.extend(whole_paths(packets, repetitions)?);
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
    let config = case.config();
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
            for datagrams in datagrams.chunks(BURST) {
                sum += numbers(&quic, datagrams);
            }
        }
        black_box(sum);
        figures.push(start.elapsed().as_secs_f64() * 1e9 / (rounds * DATAGRAMS) as f64);
    }
    Ok(figures)
}

/// The sum of the backends' numbers of a burst, decoded together.
#[inline(never)]
fn numbers(quic: &Quic, datagrams: &[[u8; LENGTH]]) -> u64 {
    let mut named: ArrayVec<Option<u32>, BURST> = ArrayVec::new();
    let mut sealed: Burst<'_, BURST> = Burst::new();
    for datagram in datagrams {
        let place = named.len() as u8;
        let number = sealed.read(place, quic, black_box(datagram));
        let _ = named.try_push(number);
    }
    sealed.open(|place, number| {
        if let Some(place) = named.get_mut(usize::from(place)) {
            *place = number;
        }
    });
    let numbers = named.iter().map(|number| number.unwrap_or_default());
    numbers.map(u64::from).sum()
}

/// The whole packet path over a thousand known flows: as UDP, and by connection IDs of every kind.
fn whole_paths(packets: u32, repetitions: usize) -> Result<Vec<Record>, Failure> {
    let mut cases = Vec::new();
    for case in std::iter::once(None).chain(CASES.iter().filter(|case| !case.long).map(Some)) {
        // What is steered as UDP carries connection IDs, too.
        let carried = case.unwrap_or(&CASES[0]);
        let mut random = Random::new(4);
        let frames: Option<Vec<Vec<u8>>> = (0..DATAGRAMS as u32)
            .map(|flow| frame(carried, flow, &mut random))
            .collect();
        let frames = frames.ok_or("a connection ID cannot be made")?;
        let mut bed = Bed::of(&config(case)?, DATAGRAMS as u64 * 4, 1)?;
        // Every flow twice, so that all are known.
        bed.path()?.replay(&frames, 2 * DATAGRAMS as u32, true);
        cases.push((case, bed, frames, Vec::new()));
    }
    for _ in 0..repetitions.max(1) {
        for (_, bed, frames, samples) in &mut cases {
            let path = bed.path()?;
            let without = path.replay(frames, packets / 4, false);
            samples.push(path.replay(frames, packets / 4, true) - without);
        }
    }
    let mut records = Vec::new();
    let as_udp = cases.first().map(|(.., samples)| median(samples.clone()));
    for (case, bed, _, samples) in &mut cases {
        bed.path()?.all_forwarded()?;
        let name = case.map_or("protocol udp", |case| case.name);
        let record = Record::new('Q', &format!("whole path, {name}"), "ns/packet", samples);
        records.push(match (case, as_udp) {
            (Some(_), Some(value)) => record.against("protocol udp", value),
            _ => record,
        });
    }
    Ok(records)
}

/// A configuration whose backends have server IDs; one of protocol `udp` without a case.
fn config(case: Option<&Case>) -> Result<String, Failure> {
    let mut text = base();
    text +=
        "[[service]]\nname = \"q\"\nvip = \"198.51.100.10\"\nport = 80\nforwarding = \"dsr-l2\"\n";
    text += match case {
        None => "protocol = \"udp\"\n",
        Some(_) => "protocol = \"quic\"\n",
    };
    let quic = case.map(Case::config);
    if let Some(config) = &quic {
        let key = config
            .key
            .map(|key| format!(", key = \"{}\"", key.reveal()));
        text += &format!(
            "[service.quic]\nconfigs = [{{ rotation = {}, server_id_length = {}, nonce_length = {}{} }}]\n",
            config.rotation,
            config.server_id_length,
            config.nonce_length,
            key.unwrap_or_default()
        );
    }
    for backend in 1..=BACKENDS {
        text += &format!("[[service.backend]]\naddress = \"10.0.1.{backend}\"\n");
        if let Some(config) = &quic {
            let id = id_of(config, backend.into()).ok_or("a server ID cannot be made")?;
            text += &format!("server_id = \"{id}\"\n");
        }
    }
    Ok(text)
}

/// A UDP frame to the VIP whose datagram has a connection ID of one of the backends.
fn frame(case: &Case, flow: u32, random: &mut Random) -> Option<Vec<u8>> {
    let backend = 1 + random.next() % u32::from(BACKENDS);
    let datagram = datagram(case, &case.config(), backend, random)?;
    let mut frame = udp4().get(..HEADERS)?.to_vec();
    frame.extend(datagram);
    let length = (frame.len() - HEADERS + 8) as u16;
    frame
        .get_mut(16..18)?
        .copy_from_slice(&(length + 20).to_be_bytes());
    frame
        .get_mut(38..40)?
        .copy_from_slice(&length.to_be_bytes());
    let [_, b, c, d] = flow.to_be_bytes();
    frame.get_mut(26..30)?.copy_from_slice(&[11, b, c, d]);
    frame
        .get_mut(34..36)?
        .copy_from_slice(&[0x40 | (d & 0x3f), c]);
    let sum = checksum::of(frame.get(14..34)?);
    frame.get_mut(24..26)?.copy_from_slice(&sum);
    Some(frame)
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
