//! What weir costs, measured: the figures of `docs/performance.md`, each beside a yardstick from the
//! same run, and the guards that keep them.
//!
//! `figures` holds one module a figure, `rig` what they are measured with, `record` and `goal` what a
//! figure is and has to be, `campaign` a run over several, `report` the page with its tables and
//! plots, `guard` what continuous integration checks.

#![forbid(unsafe_code)]

pub mod campaign;
pub mod figures;
pub mod goal;
pub mod guard;
pub mod instructions;
pub mod machine;
pub mod maglev;
pub mod record;
pub mod report;
pub mod rig;

/// Something that keeps a figure from being measured.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A small generator of random numbers (xorshift64*), the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Starts from any seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next 32 random bits.
    #[inline]
    pub const fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A random number below `limit`, each about as likely.
    #[inline]
    pub const fn below(&mut self, limit: u32) -> u32 {
        ((self.next() as u64 * limit as u64) >> 32) as u32
    }
}

/// The median of some figures.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
