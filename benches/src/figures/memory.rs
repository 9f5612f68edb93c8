//! D. What remembering costs: bytes a flow and flows lost at nine tenths of the table's room, and a
//! worker with a hundred million flows.

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
    let case = "100M flows: lookup, with all the rest of the pipeline";
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
