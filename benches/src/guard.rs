//! What continuous integration holds against the goals: a short comparison with testpmd, which only
//! says something when it is far off, since its machines are busy.

use weir_e2e::host::HugePages;

use crate::Failure;
use crate::figures::device;
use crate::goal::{self, Goal};
use crate::rig::said;

/// Tries before it counts.
const TRIES: usize = 3;
/// Huge pages for weir and for testpmd.
const PAGES: usize = 320;

/// Compares both modes with testpmd; gives whether each reached half of its goal once in three tries.
///
/// # Errors
/// When nothing can be measured.
pub fn ratio() -> Result<bool, Failure> {
    crate::campaign::sweep()?;
    let _pages = HugePages::reserve(PAGES).map_err(said)?;
    let mut good = true;
    for mode in ["dsr-l2", "nat"] {
        let Goal::RatioAtLeast(goal) = goal::of("A", mode) else {
            return Err(format!("figure A has no ratio for {mode}").into());
        };
        let mut reached = false;
        for _ in 0..TRIES {
            let ratio = device::short(mode)?;
            println!(
                "{mode}: {ratio:.2} of testpmd 5tswap on the same device (goal {goal}, alarm below {})",
                goal / 2.0
            );
            reached = ratio >= goal / 2.0;
            if reached {
                break;
            }
        }
        good &= reached;
    }
    Ok(good)
}
