//! Wider instructions where the CPU has them, chosen at run time, so that one binary runs anywhere.
//!
//! What is given to [`Features::run`] is compiled twice: once for the baseline that the binary was
//! built for, once with AVX2, BMI and POPCNT (the x86-64-v3 set, without the floating-point part).
//! Which copy runs is one predicted branch a call, so call it around a whole burst. Only what is
//! inlined profits: mark [`Work::run`] and what it calls `#[inline(always)]`. (That is why this is
//! a trait: a closure cannot be marked.)

// Calling a function that was compiled for more than the baseline.
#![allow(unsafe_code)]

/// What the CPU that this was made on can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    wide: bool,
}

impl Features {
    /// Asks the CPU.
    #[must_use]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        let wide = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("movbe")
            && is_x86_feature_detected!("popcnt");
        #[cfg(not(target_arch = "x86_64"))]
        let wide = false;
        Self { wide }
    }

    /// Nothing beyond what the binary was built for.
    #[must_use]
    pub const fn baseline() -> Self {
        Self { wide: false }
    }

    /// `x86-64-v3` or `baseline`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        if self.wide { "x86-64-v3" } else { "baseline" }
    }

    /// Hot: does `work`, compiled for what the CPU can do.
    #[inline(always)]
    pub fn run<W: Work>(self, work: W) -> W::Output {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            // SAFETY: `wide` is set only where `detect` found all of these features.
            return unsafe { wide(work) };
        }
        work.run()
    }
}

/// Something that is worth compiling for wider instructions.
pub trait Work {
    /// What it gives.
    type Output;

    /// Hot: does it. To be marked `#[inline(always)]`.
    fn run(self) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,movbe,popcnt")]
#[inline]
fn wide<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum<'a>(&'a [u64]);

    impl Work for Sum<'_> {
        type Output = u64;

        #[inline(always)]
        fn run(self) -> u64 {
            self.0.iter().fold(0, |sum, word| sum.rotate_left(7) ^ word)
        }
    }

    #[test]
    fn both_copies_give_the_same() {
        let words: Vec<u64> = (0..1000u64)
            .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
            .collect();
        let sum = |features: Features| features.run(Sum(&words));
        assert_eq!(sum(Features::detect()), sum(Features::baseline()));
    }
}
