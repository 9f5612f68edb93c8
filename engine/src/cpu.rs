//! Wider instructions where the CPU has them, chosen at run time, so that one binary runs anywhere.
//!
//! What is given to [`Features::run`] is compiled twice: once for the baseline that the binary was
//! built for, once with AVX2, BMI and POPCNT (the x86-64-v3 set, without the floating-point part).
//! Which copy runs is one predicted branch a call, so call it around a whole burst. Only what is
//! inlined profits: mark [`Work::run`] and what it calls `#[inline(always)]`. (That is why this is
//! a trait: a closure cannot be marked.)
//!
//! The work is told which copy it is by a [`Width`], so that it can use the few instructions that the
//! compiler does not find by itself.

// Calling a function that was compiled for more than the baseline, and its instructions.
#![allow(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use crate::memory::CacheLine;

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
        work.run(Baseline)
    }
}

/// Something that is worth compiling for wider instructions.
pub trait Work {
    /// What it gives.
    type Output;

    /// Hot: does it. To be marked `#[inline(always)]`.
    fn run<W: Width>(self, width: W) -> Self::Output;
}

/// Which copy of a [`Work`] is running. Only this module makes one, for a CPU that has what it stands
/// for.
pub trait Width: Copy + sealed::Sealed {
    /// Hot: which of a line's first four words are `word`, a bit each, the first word's lowest. Each
    /// word is read as by a relaxed load.
    fn matches(self, line: &CacheLine, word: u64) -> u32;
}

mod sealed {
    pub trait Sealed {}
}

/// What the binary was built for.
#[derive(Debug, Clone, Copy)]
pub struct Baseline;

impl sealed::Sealed for Baseline {}

impl Width for Baseline {
    #[inline(always)]
    fn matches(self, line: &CacheLine, word: u64) -> u32 {
        (0..4).fold(0, |bits, at| {
            bits | u32::from(line.0[at].load(Relaxed) == word) << at
        })
    }
}

/// A CPU with AVX2; the private field keeps others from making one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl sealed::Sealed for Avx2 {}

#[cfg(target_arch = "x86_64")]
impl Width for Avx2 {
    #[inline(always)]
    fn matches(self, line: &CacheLine, word: u64) -> u32 {
        let bits: u32;
        // SAFETY: an `Avx2` exists only in the copy that runs where AVX2 is. The 32 bytes are the
        // line's, which is aligned to 64. As far as others can see these are four relaxed loads: the
        // CPU reads each aligned quadword of a vector at once, and `readonly` lets nothing be
        // written. Two halves of 16 bytes, so that no register's upper half is left dirty.
        unsafe {
            std::arch::asm!(
                "vmovq {one}, {word}",
                "vpbroadcastq {one}, {one}",
                "vpcmpeqq {other}, {one}, [{line} + 16]",
                "vpcmpeqq {one}, {one}, [{line}]",
                "vpackssdw {one}, {one}, {other}",
                "vmovmskps {bits:e}, {one}",
                word = in(reg) word,
                line = in(reg) std::ptr::from_ref(line),
                one = out(xmm_reg) _,
                other = out(xmm_reg) _,
                bits = lateout(reg) bits,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        bits
    }
}

/// Hot: of which of a line's words the upper half is `half`, a bit each, the first word's lowest. Each
/// word is read as by a relaxed load. Needs nothing that the binary was not built for.
#[inline(always)]
#[must_use]
pub fn upper_halves(line: &CacheLine, half: u32) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        let bits: u32;
        // SAFETY: SSE2 is part of x86-64. The 64 bytes are the line's, which is aligned to 64. As far as
        // others can see these are relaxed loads: the CPU reads each aligned quadword of a vector at
        // once, and `readonly` lets nothing be written.
        unsafe {
            std::arch::asm!(
                "movd {half_x}, {half:e}",
                "pshufd {half_x}, {half_x}, 0",
                "movaps {low}, [{line}]",
                "shufps {low}, [{line} + 16], 0xdd",
                "movaps {high}, [{line} + 32]",
                "shufps {high}, [{line} + 48], 0xdd",
                "pcmpeqd {low}, {half_x}",
                "pcmpeqd {high}, {half_x}",
                "packssdw {low}, {high}",
                "packsswb {low}, {low}",
                "pmovmskb {bits:e}, {low}",
                half = in(reg) half,
                line = in(reg) std::ptr::from_ref(line),
                half_x = out(xmm_reg) _,
                low = out(xmm_reg) _,
                high = out(xmm_reg) _,
                bits = lateout(reg) bits,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        bits & 0xff
    }
    #[cfg(not(target_arch = "x86_64"))]
    (0..8).fold(0, |bits, at| {
        bits | u32::from((line.0[at].load(Relaxed) >> 32) as u32 == half) << at
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,movbe,popcnt")]
#[inline]
fn wide<W: Work>(work: W) -> W::Output {
    work.run(Avx2(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sum<'a>(&'a [u64]);

    impl Work for Sum<'_> {
        type Output = u64;

        #[inline(always)]
        fn run<W: Width>(self, _: W) -> u64 {
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

    struct Matches<'a>(&'a CacheLine, u64);

    impl Work for Matches<'_> {
        type Output = u32;

        #[inline(always)]
        fn run<W: Width>(self, width: W) -> u32 {
            width.matches(self.0, self.1)
        }
    }

    #[test]
    fn upper_halves_are_found_wherever_they_lie() {
        let line = CacheLine::default();
        for half in [0, 1, 7, u32::MAX, 0x8000_0000] {
            for places in 0..=0xffu32 {
                for (at, word) in line.0.iter().enumerate() {
                    let upper = if places >> at & 1 == 1 { half } else { !half };
                    // The lower half is no matter.
                    word.store(u64::from(upper) << 32 | u64::from(half), Relaxed);
                }
                assert_eq!(upper_halves(&line, half), places, "{half:x}");
            }
        }
    }

    #[test]
    fn both_copies_find_a_word_among_the_first_four() {
        let line = CacheLine::default();
        for (at, word) in [7, 1 << 40, u64::MAX, 7, 9, 9, 9, 9]
            .into_iter()
            .enumerate()
        {
            line.0[at].store(word, Relaxed);
        }
        for (word, bits) in [(7, 0b1001), (1 << 40, 2), (u64::MAX, 4), (9, 0), (0, 0)] {
            for features in [Features::detect(), Features::baseline()] {
                assert_eq!(features.run(Matches(&line, word)), bits, "{word}");
            }
        }
    }
}
