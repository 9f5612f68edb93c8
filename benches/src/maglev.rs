//! The paper's figures 11 and 12 (NSDI 2016, section 5.3), and how long a table takes to build.
//!
//! Figure 12 is taken as the share of entries of *surviving* backends that change hands: of the two
//! readings it is the one that fits the paper's curve.

use std::time::Instant;

use serde::Serialize;
use weir::maglev::{Member, build};

/// One row: a table of `size` entries over `backends` backends.
#[derive(Debug, Clone, Serialize)]
pub struct Evenness {
    /// Entries.
    pub size: u32,
    /// Backends.
    pub backends: usize,
    /// The smallest share, in percent of the table.
    pub smallest_percent: f64,
    /// The largest share, in percent of the table.
    pub largest_percent: f64,
    /// Milliseconds to build it, median of five.
    pub build_ms: f64,
}

/// One row: `failed` of 1,000 backends gone.
#[derive(Debug, Clone, Serialize)]
pub struct Disruption {
    /// Entries.
    pub size: u32,
    /// Backends that went.
    pub failed: usize,
    /// Entries of surviving backends that changed hands, in percent of the table; mean of ten.
    pub changed_percent: f64,
}

/// `count` backends of equal weight.
#[must_use]
pub fn members(count: usize) -> Vec<Member> {
    (0..count)
        .map(|index| Member {
            name: format!(
                "10.{}.{}.{}:80",
                index >> 16,
                (index >> 8) & 0xff,
                index & 0xff
            ),
            weight: 1,
            slot: index as u16,
        })
        .collect()
}

/// Figure 11, for Maglev alone.
#[must_use]
pub fn evenness(size: u32, backends: usize) -> Evenness {
    let members = members(backends);
    let mut times = Vec::new();
    let mut table = build(&members, size);
    for _ in 0..5 {
        let start = Instant::now();
        table = build(&members, size);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let mut shares = vec![0u32; backends];
    for slot in table.iter() {
        if let Some(share) = shares.get_mut(usize::from(*slot)) {
            *share += 1;
        }
    }
    let percent = |share: Option<&u32>| f64::from(*share.unwrap_or(&0)) * 100.0 / f64::from(size);
    Evenness {
        size,
        backends,
        smallest_percent: percent(shares.iter().min()),
        largest_percent: percent(shares.iter().max()),
        build_ms: crate::median(times),
    }
}

/// Figure 12.
#[must_use]
pub fn disruption(size: u32, failed: usize) -> Disruption {
    const BACKENDS: usize = 1_000;
    const RUNS: usize = 10;
    let members = members(BACKENDS);
    let before = build(&members, size);
    let mut random = crate::Random::new(failed as u64 + 7);
    let mut changed = 0usize;
    for _ in 0..RUNS {
        let mut gone = vec![false; BACKENDS];
        let mut left = failed;
        while left > 0 {
            let index = random.next() as usize % BACKENDS;
            if !std::mem::replace(&mut gone[index], true) {
                left -= 1;
            }
        }
        let survivors: Vec<Member> = members
            .iter()
            .filter(|member| !gone[usize::from(member.slot)])
            .cloned()
            .collect();
        let after = build(&survivors, size);
        changed += before
            .iter()
            .zip(after.iter())
            .filter(|(old, new)| !gone[usize::from(**old)] && old != new)
            .count();
    }
    let changed_percent = changed as f64 * 100.0 / (RUNS as f64 * f64::from(size));
    Disruption {
        size,
        failed,
        changed_percent,
    }
}
