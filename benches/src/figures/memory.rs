//! D. What remembering costs: bytes a flow and flows lost at nine tenths of the table's room, and a
//! worker with a hundred million flows.

use std::hint::black_box;
use std::time::Instant;

use weir::address::Addr;
use weir::conntrack::{Conntrack, Details, Lines, Profile, Profiles, State, Tick};
use weir::flow::{FlowHash, FlowHasher, HashKey};
use weir::pipeline::BURST;
use weir_engine::cpu::{Features, Width, Work};
use weir_shm::counters;

use super::{Settings, buffers, on_worker_core};
use crate::record::Record;
use crate::rig::path::{Bed, Path};
use crate::rig::traffic::{Kind, Traffic};
use crate::{Failure, Random};

const MANY: u32 = 100_000_000;
const SOME: u32 = 10_000_000;
/// New flows that come with one burst while the table is filled: as many at most as a burst may make
/// room for by moving others. A flood of nothing but new flows is figure C.
const NEW_IN_A_BURST: usize = 8;

/// Measures all cases.
///
/// # Errors
/// When memory is short, or a packet went where it should not.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let settings = settings.clone();
    on_worker_core(move || all(&settings))
}

fn all(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let udp = Traffic::new(Kind::Udp4);
    let mut records = Vec::new();
    {
        let mut bed = Bed::new("dsr-l2", u64::from(SOME), 1)?;
        let bytes = bed.table_bytes as f64 / f64::from(SOME);
        let path = bed.path()?;
        path.load_short(&udp, NEW_IN_A_BURST);
        path.visit(&udp, SOME);
        let case = "memory per flow at 90 % of the table's entries, 10M flows";
        records.push(Record::new('D', case, "bytes", &[bytes]));
        let case = "live flows evicted or left out at 90 %, 10M flows";
        records.push(Record::new('D', case, "%", &[lost_percent(path, SOME)]));
        path.all_forwarded()?;
    }
    let case = "100M flows: lookup of a burst, by itself";
    records.push(Record::new('D', case, "ns/packet", &look_up(settings)?));
    let mut bed = Bed::new("dsr-l2", u64::from(MANY), 1)?;
    let gib = bed.table_bytes as f64 / f64::from(1 << 30);
    let path = bed.path()?;
    path.load_short(&udp, NEW_IN_A_BURST);
    path.visit(&udp, MANY);
    path.load(&udp);
    let mut random = Random::new(42);
    let packets = buffers::packets(settings, 40.0);
    let times: Vec<f64> = (0..settings.repetitions)
        .map(|_| path.nanoseconds(&udp, MANY, packets, &mut random))
        .collect();
    path.all_forwarded()?;
    records.push(Record::new(
        'D',
        "100M flows: memory of one worker's table",
        "GiB",
        &[gib],
    ));
    let case = "100M flows: the whole pipeline";
    records.push(Record::new('D', case, "ns/packet", &times));
    let case = "100M flows: evicted or left out";
    records.push(Record::new('D', case, "%", &[lost_percent(path, MANY)]));
    Ok(records)
}

/// Flows that lost their place to another, or found none, by those that came once.
fn lost_percent(path: &Path, flows: u32) -> f64 {
    let lost =
        path.counter(counters::CONNTRACK_EVICTED) + path.counter(counters::CONNTRACK_UNTRACKED);
    lost as f64 * 100.0 / f64::from(flows)
}

/// The look-up of a burst as the pipeline does it: all first lines are asked for, then looked into;
/// then the second lines of those that are not there.
struct LookUp<'a> {
    lines: Lines<'a>,
    hashes: &'a [FlowHash],
}

impl Work for LookUp<'_> {
    type Output = usize;

    #[inline(always)]
    fn run<W: Width>(self, width: W) -> usize {
        let Self { lines, hashes } = self;
        let mut places = [(0, 0); BURST];
        for (hash, (line, _)) in hashes.iter().zip(&mut places) {
            *line = lines.prefetch(*hash);
        }
        let mut missed = 0u32;
        for (place, (hash, (line, matches))) in hashes.iter().zip(&mut places).enumerate() {
            *matches = lines.matches(width, *line, *hash);
            missed |= u32::from(*matches == 0) << place;
        }
        let mut rest = missed;
        while rest != 0 {
            let place = rest.trailing_zeros() as usize % BURST;
            rest &= rest - 1;
            places[place].0 = lines.prefetch_second(places[place].0, hashes[place]);
        }
        while missed != 0 {
            let place = missed.trailing_zeros() as usize % BURST;
            missed &= missed - 1;
            places[place].1 = lines.matches(width, places[place].0, hashes[place]);
        }
        let found = places[..hashes.len()].iter().filter_map(|(line, matches)| {
            let held = lines.held(*line, *matches)?;
            Some(black_box(held.details().backend()))
        });
        found.count()
    }
}

/// Nanoseconds to find one of a hundred million known flows, picked at random, its hash not counted.
fn look_up(settings: &Settings) -> Result<Vec<f64>, Failure> {
    let hasher = FlowHasher::new(HashKey::REPLAY);
    let hash = |flow: u32| {
        let client = Addr::from_v4(flow.wrapping_mul(0x9e37_79b1).to_be_bytes());
        hasher.ipv4(client, Addr::from_v4([198, 51, 100, 10]), 80 << 24, 17)
    };
    let profiles = Profiles::new(&[Profile::new(60_000, 60_000, 60_000, 60_000)]);
    let now = Tick(1);
    let mut table = Conntrack::new(MANY.into(), true)?;
    for flow in 0..MANY {
        if (flow as usize).is_multiple_of(NEW_IN_A_BURST) {
            table.begin_burst();
        }
        let details = Details::new(flow % 100, State::Udp, 0, now);
        table.insert(hash(flow), details, now, &profiles);
    }
    let (features, mut random) = (Features::detect(), Random::new(42));
    let rounds = buffers::packets(settings, 40.0)
        .div_ceil(BURST as u32)
        .max(1);
    let mut time = |run: bool| {
        let (start, mut found) = (Instant::now(), 0);
        for _ in 0..rounds {
            let hashes: [FlowHash; BURST] = std::array::from_fn(|_| hash(random.below(MANY)));
            let hashes = black_box(&hashes);
            if run {
                let lines = table.lines();
                found += features.run(LookUp { lines, hashes });
            }
        }
        let packets = f64::from(rounds) * BURST as f64;
        (
            start.elapsed().as_secs_f64() * 1e9 / packets,
            found as f64 / packets,
        )
    };
    let mut times = Vec::new();
    for _ in 0..settings.repetitions {
        let (without, _) = time(false);
        let (with, found) = time(true);
        if found < 0.999 {
            return Err(format!("only {found} of the flows were found").into());
        }
        times.push(with - without);
    }
    Ok(times)
}
