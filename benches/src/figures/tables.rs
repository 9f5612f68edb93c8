//! E. How long a weighted Maglev table takes to build. And, without a goal, the paper's figures 11
//! and 12 for it: shares, and entries that move when backends go.

use std::time::Instant;

use weir::maglev::{Member, build};

use super::Settings;
use crate::Failure;
use crate::maglev;
use crate::record::Record;

/// Backends of every table.
const BACKENDS: usize = 1_000;
/// Builds a sample is the mean of, so that a timer's tick does not show.
const BUILDS: u32 = 8;

/// Measures all cases.
///
/// # Errors
/// Never; other figures do.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let mut members = maglev::members(BACKENDS);
    for (weight, member) in (0u32..).zip(&mut members) {
        member.weight = 1 + weight % 8;
    }
    let mut records = Vec::new();
    for (name, size) in [("65,537", 65_537), ("655,373", 655_373)] {
        let samples: Vec<f64> = (0..settings.repetitions)
            .map(|_| milliseconds(&members, size))
            .collect();
        let case = format!("{name} entries, 1,000 backends, weights 1 to 8");
        records.push(Record::new('E', &case, "ms", &samples));
    }
    for (name, size) in [("65,537", 65_537), ("655,373", 655_373)] {
        let even = maglev::evenness(size, BACKENDS);
        let per_backend = 100.0 / BACKENDS as f64;
        for (what, share) in [
            ("smallest", even.smallest_percent),
            ("largest", even.largest_percent),
        ] {
            let case = format!("{what} share of 1,000 equal backends, {name} entries");
            let percent = share / per_backend * 100.0;
            records.push(Record::new('E', &case, "% of even", &[percent]));
        }
        for failed in [1, 10] {
            let moved = maglev::disruption(size, failed).changed_percent;
            let case =
                format!("entries of survivors that move, {failed} of 1,000 gone, {name} entries");
            records.push(Record::new('E', &case, "% of table", &[moved]));
        }
    }
    Ok(records)
}

fn milliseconds(members: &[Member], size: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..BUILDS {
        std::hint::black_box(build(std::hint::black_box(members), size));
    }
    start.elapsed().as_secs_f64() * 1e3 / f64::from(BUILDS)
}
