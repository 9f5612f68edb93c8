//! What weir's packet path costs, measured over buffers without a device, and how Maglev behaves.
//!
//! `pipeline` holds the packet cases, `quic` the decoding of connection IDs, `maglev` the paper's
//! figures. The binary prints tables and
//! JSON; `make bench` runs it, and the comparison with testpmd beside it.

#![forbid(unsafe_code)]

pub mod maglev;
pub mod pipeline;
pub mod quic;

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
}

/// The median of some figures.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
