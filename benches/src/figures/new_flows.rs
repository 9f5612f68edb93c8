//! C. Every packet a SYN of a flow never seen before, steered by the table and remembered.

use super::{Settings, on_worker_core};
use crate::Failure;
use crate::record::Record;
use crate::rig::path::Bed;
use crate::rig::traffic::{Kind, Traffic};

/// New flows a repetition.
const FLOWS: u32 = 2_000_000;

/// Measures it.
///
/// # Errors
/// When memory is short, or a flow was not remembered.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let settings = settings.clone();
    on_worker_core(move || all(&settings))
}

fn all(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let total = settings.repetitions as u64 * u64::from(FLOWS);
    let mut bed = Bed::new("dsr-l2", total, 1)?;
    let syn = Traffic::new(Kind::Syn4);
    let path = bed.path()?;
    path.load(&syn);
    let mut rates = Vec::new();
    // The table fills from empty to full of live flows from the first repetition to the last.
    let (mut flow, mut written) = (0u32, 0u32);
    for _ in 0..settings.repetitions {
        let without = path.time(&syn, FLOWS, false, || {
            written = written.wrapping_add(1);
            written
        });
        let with = path.time(&syn, FLOWS, true, || {
            flow += 1;
            flow
        });
        rates.push(1e3 / (with - without));
    }
    path.all_forwarded()?;
    let remembered = path.counter(weir_shm::counters::CONNTRACK_INSERTED);
    if (remembered as f64) < total as f64 * 0.999 {
        return Err(format!("{total} new flows, but {remembered} remembered").into());
    }
    Ok(vec![
        Record::new(
            'C',
            "new flows a second, each packet a SYN, inserted",
            "M/s",
            &rates,
        )
        .against("Katran, inserting (earlier, elsewhere)", 1.17),
    ])
}
