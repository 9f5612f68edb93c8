//! Which flow the next packet belongs to: each in turn, all alike, or a few favoured (Zipf).
//!
//! Zipf numbers are drawn by rejection-inversion (Hörmann and Derflinger: "Rejection-inversion to
//! generate variates from monotone discrete distributions", ACM TOMACS 6(3), 1996): constant memory
//! whatever the number of flows, and about 1.1 tries a draw.

use std::fmt;
use std::str::FromStr;

use crate::random::Random;

/// How packets are shared among flows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Popularity {
    /// Every flow in turn: `flows` packets open every flow exactly once.
    Sequential,
    /// Each packet picks any flow with equal chance.
    Uniform,
    /// Flow `k` (from 1) has a share proportional to `k^-s`; `s` is above 0 and at most 10.
    Zipf(f64),
}

/// A text that names no popularity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no popularity; accepted are \"uniform\", \"sequential\" and \"zipf:S\" with S above 0 and at most 10, as in zipf:1.1"
)]
pub struct BadPopularity(String);

impl FromStr for Popularity {
    type Err = BadPopularity;

    fn from_str(text: &str) -> Result<Self, BadPopularity> {
        match text {
            "uniform" => return Ok(Self::Uniform),
            "sequential" => return Ok(Self::Sequential),
            _ => {}
        }
        text.strip_prefix("zipf:")
            .and_then(|exponent| exponent.parse::<f64>().ok())
            .filter(|exponent| *exponent > 0.0 && *exponent <= 10.0)
            .map(Self::Zipf)
            .ok_or_else(|| BadPopularity(text.to_owned()))
    }
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sequential => f.write_str("sequential"),
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(exponent) => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Draws flow numbers, 0 up to the number of flows.
#[derive(Debug, Clone)]
pub struct Sampler {
    flows: u32,
    rule: Rule,
}

#[derive(Debug, Clone)]
enum Rule {
    Sequential { next: u32 },
    Uniform,
    Zipf(Zipf),
}

impl Sampler {
    /// A sampler over `flows` flows (at least one is assumed).
    #[must_use]
    pub fn new(popularity: Popularity, flows: u32) -> Self {
        let flows = flows.max(1);
        let rule = match popularity {
            Popularity::Sequential => Rule::Sequential { next: 0 },
            Popularity::Uniform => Rule::Uniform,
            Popularity::Zipf(exponent) => Rule::Zipf(Zipf::new(exponent, flows)),
        };
        Self { flows, rule }
    }

    /// The next packet's flow. Bounded work: at most 64 tries for Zipf, nearly always one.
    #[inline]
    pub fn draw(&mut self, random: &mut Random) -> u32 {
        match &mut self.rule {
            Rule::Sequential { next } => {
                let flow = *next;
                *next = if flow + 1 == self.flows { 0 } else { flow + 1 };
                flow
            }
            Rule::Uniform => random.below(u64::from(self.flows)) as u32,
            Rule::Zipf(zipf) => zipf.draw(random) - 1,
        }
    }
}

/// The constants of rejection-inversion for one exponent and one number of elements.
#[derive(Debug, Clone)]
struct Zipf {
    exponent: f64,
    elements: f64,
    /// The hat's integral at its left end, less the first element's weight.
    left: f64,
    /// The hat's integral at its right end.
    right: f64,
    /// Below this distance a candidate is accepted without computing the hat.
    sure: f64,
}

impl Zipf {
    fn new(exponent: f64, elements: u32) -> Self {
        let elements = f64::from(elements);
        let mut zipf = Self {
            exponent,
            elements,
            left: 0.0,
            right: 0.0,
            sure: 0.0,
        };
        zipf.left = zipf.integral(1.5) - 1.0;
        zipf.right = zipf.integral(elements + 0.5);
        zipf.sure = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The antiderivative of `x^-s`; through `ln_1p`-like helpers so that s = 1 is no special case.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        grown((1.0 - self.exponent) * log) * log
    }

    fn inverse(&self, x: f64) -> f64 {
        let t = (x * (1.0 - self.exponent)).max(-1.0);
        (shrunk(t) * x).exp()
    }

    fn draw(&self, random: &mut Random) -> u32 {
        for _ in 0..64 {
            let u = self.right + random.unit() * (self.left - self.right);
            let x = self.inverse(u);
            let k = x.round().clamp(1.0, self.elements);
            if k - x <= self.sure || u >= self.integral(k + 0.5) - self.weight(k) {
                return k as u32;
            }
        }
        1
    }
}

/// `(exp(x) - 1) / x`, also near zero.
fn grown(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.exp_m1() / x
    } else {
        1.0 + x / 2.0
    }
}

/// `ln(1 + x) / x`, also near zero.
fn shrunk(x: f64) -> f64 {
    if x.abs() > 1e-8 {
        x.ln_1p() / x
    } else {
        1.0 - x / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_read_back_as_they_are_written() {
        for text in ["uniform", "sequential", "zipf:1", "zipf:0.9"] {
            assert_eq!(text.parse::<Popularity>().unwrap().to_string(), text);
        }
        for bad in [
            "", "zipf", "zipf:", "zipf:0", "zipf:-1", "zipf:11", "zipf:NaN", "Uniform",
        ] {
            assert!(bad.parse::<Popularity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sequential_visits_every_flow_once_a_round() {
        let mut sampler = Sampler::new(Popularity::Sequential, 3);
        let mut random = Random::new(0);
        let drawn: Vec<u32> = (0..7).map(|_| sampler.draw(&mut random)).collect();
        assert_eq!(drawn, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn zipf_shares_match_the_law_at_every_rank_that_can_be_measured() {
        for exponent in [0.5, 0.99, 1.0, 1.2, 3.0] {
            let flows = 1_000u32;
            let draws = 400_000;
            let mut sampler = Sampler::new(Popularity::Zipf(exponent), flows);
            let mut random = Random::new(42);
            let mut counts = vec![0f64; flows as usize];
            for _ in 0..draws {
                counts[sampler.draw(&mut random) as usize] += 1.0;
            }
            let harmonic: f64 = (1..=flows).map(|k| f64::from(k).powf(-exponent)).sum();
            for k in 1..=flows {
                let expected = f64::from(draws) * f64::from(k).powf(-exponent) / harmonic;
                if expected >= 200.0 {
                    // Six standard deviations of a binomial count.
                    let off = (counts[k as usize - 1] - expected).abs();
                    assert!(
                        off < 6.0 * expected.sqrt(),
                        "s={exponent} k={k}: off by {off} of {expected}"
                    );
                }
            }
        }
    }

    proptest! {
        #[test]
        fn every_draw_is_a_flow(flows in 1u32..5_000_000, exponent in 0.01f64..10.0, seed: u64) {
            let mut random = Random::new(seed);
            for popularity in [Popularity::Zipf(exponent), Popularity::Uniform, Popularity::Sequential] {
                let mut sampler = Sampler::new(popularity, flows);
                for _ in 0..50 {
                    prop_assert!(sampler.draw(&mut random) < flows);
                }
            }
        }
    }
}
