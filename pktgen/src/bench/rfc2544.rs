//! RFC 2544's measurements: throughput (section 26.1), back-to-back frames (26.4), and latency
//! (26.2) at shares of the throughput.
//!
//! Latency is taken of every packet rather than of one in a trial, and told as percentiles, since
//! software devices differ in their slowest packets rather than in their mean.

use std::time::Duration;

use super::{Device, RETRIES, Stop, patience, run};
use crate::profile::Profile;
use crate::report::figure::{Better, Case, Figure, Limit, Middle, median};
use crate::search::{Ask, Search};
use crate::size::Sizes;
use crate::trial::Trial;

/// Bytes of preamble, start delimiter and gap that a frame takes on the wire besides its size.
const WIRE: f64 = 20.0;

/// The percentiles of a latency, with their names.
pub const PERCENTILES: [(&str, f64); 6] = [
    ("p50", 0.5),
    ("p90", 0.9),
    ("p99", 0.99),
    ("p99.9", 0.999),
    ("p99.99", 0.9999),
    ("max", 1.0),
];

/// A test of RFC 2544.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Test {
    /// The highest rate without loss.
    Throughput,
    /// The longest burst at full speed without loss.
    BackToBack,
    /// Latency at shares of the throughput.
    Latency,
}

/// What to measure, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The tests; latency measures throughput too, whose shares it needs.
    pub tests: Vec<Test>,
    /// How often each figure is measured.
    pub trials: u32,
    /// Length of the trials that decide.
    pub duration: Duration,
    /// Length of the trials that look for a candidate.
    pub search: Duration,
    /// Where the search ends: the interval's share of its upper end.
    pub resolution: f64,
    /// Share of packets that may be lost.
    pub tolerance: f64,
    /// The highest rate tried; by default what the generator manages.
    pub max_rate: Option<u64>,
    /// The longest burst tried, as time at the highest rate.
    pub burst: Duration,
    /// Loads at which latency is measured, as shares of the throughput.
    pub loads: Vec<f64>,
}

impl Plan {
    /// How many steps the progress bar has for `sizes` frame sizes.
    #[must_use]
    pub fn steps(&self, sizes: usize) -> u64 {
        let trials = u64::from(self.trials);
        let wanted = |test: Test| u64::from(self.tests.contains(&test));
        let throughput = u64::from(self.needs_throughput());
        let loads = wanted(Test::Latency) * self.loads.len() as u64;
        sizes as u64 * trials * (throughput + wanted(Test::BackToBack) + loads)
    }

    fn needs_throughput(&self) -> bool {
        self.tests
            .iter()
            .any(|test| matches!(test, Test::Throughput | Test::Latency))
    }
}

/// The sizes of RFC 2544, section 9.1, and IMIX.
#[must_use]
pub fn standard_sizes() -> Vec<Sizes> {
    let fixed = [64, 128, 256, 512, 1024, 1280, 1518].map(Sizes::fixed);
    fixed.into_iter().chain([Sizes::imix()]).collect()
}

/// Measures every profile (one a frame size) and adds what it finds to `figures`.
///
/// # Errors
/// [`Stop`]; the figures found until then are in `figures`.
pub fn measure<D: Device>(
    device: &mut D,
    profiles: &[Profile],
    plan: &Plan,
    figures: &mut Vec<Figure>,
) -> Result<(), Stop<D::Error>> {
    for profile in profiles {
        let case = Case {
            size: Some(profile.sizes().label()),
            ..Case::default()
        };
        device.prepare(&case)?;
        let top = top(device, profile, plan)?;
        let mut throughput = 0.0;
        if plan.needs_throughput() {
            throughput = measure_throughput(device, profile, plan, &case, top, figures)?;
        }
        if plan.tests.contains(&Test::BackToBack) {
            back_to_back(device, profile, plan, &case, top, figures)?;
        }
        if plan.tests.contains(&Test::Latency) {
            latency(device, profile, plan, &case, throughput, figures)?;
        }
    }
    Ok(())
}

/// The highest rate to try, in packets a second.
fn top<D: Device>(device: &mut D, profile: &Profile, plan: &Plan) -> Result<u64, Stop<D::Error>> {
    if let Some(rate) = plan.max_rate {
        return Ok(rate);
    }
    let label = format!("{} bytes, full speed", profile.sizes().label());
    let trial = run(device, &profile.at(0, None, Some(plan.search)), &label)?;
    Ok(trial.rate() as u64)
}

/// Every trial's throughput as one figure; gives the median.
fn measure_throughput<D: Device>(
    device: &mut D,
    profile: &Profile,
    plan: &Plan,
    case: &Case,
    top: u64,
    figures: &mut Vec<Figure>,
) -> Result<f64, Stop<D::Error>> {
    let (mut samples, mut limits) = (Vec::new(), Vec::new());
    for _ in 0..plan.trials {
        let (rate, limit) = search_rate(device, profile, plan, top)?;
        samples.push(rate as f64);
        limits.push(limit);
        device.step();
    }
    let limit = most_common(&limits);
    let bits = (profile.sizes().mean() + WIRE) * 8.0 / 1e9;
    let on_the_wire = samples.iter().map(|rate| rate * bits).collect();
    let median = median(&samples);
    let figure = |name: &str, unit: &str, samples: Vec<f64>| {
        let (higher, middle) = (Better::Higher, Middle::Median);
        Figure::new(name, case.clone(), unit, higher, middle, samples).limited(limit)
    };
    figures.push(figure("throughput", "packets/s", samples));
    figures.push(figure("throughput-bits", "Gbit/s", on_the_wire));
    Ok(median)
}

/// One search for the highest rate without loss, and what keeps it from being higher.
fn search_rate<D: Device>(
    device: &mut D,
    profile: &Profile,
    plan: &Plan,
    top: u64,
) -> Result<(u64, Limit), Stop<D::Error>> {
    let mut search = Search::new(top, plan.resolution, plan.search < plan.duration);
    let highest = if plan.max_rate.is_some() {
        Limit::Maximum
    } else {
        Limit::Generator
    };
    let mut failed: Option<(u64, Limit)> = None;
    loop {
        let (value, full) = match search.ask() {
            Ask::Done(rate) => return Ok((rate, failed.map_or(highest, |(_, limit)| limit))),
            Ask::Trial { value, full } => (value, full),
        };
        let length = if full { plan.duration } else { plan.search };
        let word = if full { "confirming" } else { "trying" };
        let label = format!(
            "{} bytes, throughput, {word} {value}/s",
            profile.sizes().label()
        );
        let timed = profile.at(value, None, Some(length));
        let mut limit = refused(&run(device, &timed, &label)?, plan.tolerance);
        // A generator that was held up says nothing of the device: it may try again.
        for _ in 0..RETRIES {
            if limit != Some(Limit::Generator) {
                break;
            }
            limit = refused(&run(device, &timed, &label)?, plan.tolerance);
        }
        if let Some(limit) = limit
            && failed.is_none_or(|(lowest, _)| value <= lowest)
        {
            failed = Some((value, limit));
        }
        search.tell(limit.is_none());
    }
}

/// Why a trial does not pass, if it does not.
fn refused(trial: &Trial, tolerance: f64) -> Option<Limit> {
    if !trial.lost_at_most(tolerance) {
        Some(Limit::Device)
    } else if !trial.kept_up() {
        Some(Limit::Generator)
    } else {
        None
    }
}

fn most_common(limits: &[Limit]) -> Limit {
    let times = |limit: Limit| limits.iter().filter(|&&other| other == limit).count();
    [Limit::Device, Limit::Generator, Limit::Maximum]
        .into_iter()
        .max_by_key(|&limit| times(limit))
        .unwrap_or(Limit::Device)
}

/// The longest burst that all comes back, averaged over the trials as the RFC wants it.
fn back_to_back<D: Device>(
    device: &mut D,
    profile: &Profile,
    plan: &Plan,
    case: &Case,
    top: u64,
    figures: &mut Vec<Figure>,
) -> Result<(), Stop<D::Error>> {
    let longest = ((top as f64 * plan.burst.as_secs_f64()) as u64).max(1);
    let rate = plan.max_rate.unwrap_or(0);
    let mut samples = Vec::new();
    let mut limit = Limit::Maximum;
    for _ in 0..plan.trials {
        let mut search = Search::new(longest, plan.resolution, false);
        let burst = loop {
            let value = match search.ask() {
                Ask::Done(value) => break value,
                Ask::Trial { value, .. } => value,
            };
            let label = format!(
                "{} bytes, back to back, {value} frames",
                profile.sizes().label()
            );
            let trial = run(
                device,
                &profile.at(rate, Some(value), patience(value)),
                &label,
            )?;
            let passed = trial.lost_at_most(plan.tolerance);
            if !passed {
                limit = Limit::Device;
            }
            search.tell(passed);
        };
        samples.push(burst as f64);
        device.step();
    }
    let (higher, mean) = (Better::Higher, Middle::Mean);
    figures.push(
        Figure::new(
            "back-to-back",
            case.clone(),
            "packets",
            higher,
            mean,
            samples,
        )
        .limited(limit),
    );
    Ok(())
}

/// Percentiles of the latency at each load.
fn latency<D: Device>(
    device: &mut D,
    profile: &Profile,
    plan: &Plan,
    case: &Case,
    throughput: f64,
    figures: &mut Vec<Figure>,
) -> Result<(), Stop<D::Error>> {
    for &load in &plan.loads {
        let rate = (throughput * load) as u64;
        let mut samples = vec![Vec::new(); PERCENTILES.len()];
        for _ in 0..plan.trials {
            device.step();
            if rate == 0 {
                continue;
            }
            let label = format!("{} bytes, latency at {rate}/s", profile.sizes().label());
            let trial = run(device, &profile.at(rate, None, Some(plan.duration)), &label)?;
            let latency = &trial.totals.latency;
            if latency.is_empty() {
                continue;
            }
            for (samples, (_, quantile)) in samples.iter_mut().zip(PERCENTILES) {
                samples.push(latency.value_at_quantile(quantile) as f64);
            }
        }
        for (samples, (name, _)) in samples.into_iter().zip(PERCENTILES) {
            if samples.is_empty() {
                continue;
            }
            let case = Case {
                load: Some(load),
                percentile: Some(name.into()),
                ..case.clone()
            };
            let (lower, median) = (Better::Lower, Middle::Median);
            figures.push(Figure::new("latency", case, "ns", lower, median, samples));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Simulated;
    use super::*;
    use crate::profile::{Wanted, sample};
    use crate::random::Random;

    fn plan() -> Plan {
        Plan {
            tests: vec![Test::Throughput, Test::BackToBack, Test::Latency],
            trials: 3,
            duration: Duration::from_secs(10),
            search: Duration::from_secs(1),
            resolution: 0.01,
            tolerance: 0.0,
            max_rate: None,
            burst: Duration::from_secs(2),
            loads: vec![0.5, 0.9],
        }
    }

    fn profile(size: u16) -> Profile {
        Profile::new(Wanted {
            sizes: Some(Sizes::fixed(size)),
            ..sample()
        })
        .unwrap()
    }

    fn measured(device: &mut Simulated, plan: &Plan, sizes: &[u16]) -> Vec<Figure> {
        let profiles: Vec<Profile> = sizes.iter().map(|size| profile(*size)).collect();
        let mut figures = Vec::new();
        measure(device, &profiles, plan, &mut figures).unwrap();
        figures
    }

    fn the<'a>(figures: &'a [Figure], name: &str, size: &str) -> &'a Figure {
        figures
            .iter()
            .find(|figure| figure.name == name && figure.case.size.as_deref() == Some(size))
            .unwrap()
    }

    #[test]
    fn the_capacity_of_a_simulated_device_is_found_for_every_size() {
        let mut device = Simulated::new(|profile, _| 10e9 / 8.0 / (profile.sizes().mean() + 20.0));
        let figures = measured(&mut device, &plan(), &[64, 512, 1518]);
        for (size, capacity) in [
            ("64", 14_880_952.0),
            ("512", 2_349_624.0),
            ("1518", 812_743.0),
        ] {
            let rate = the(&figures, "throughput", size);
            let share = rate.value / capacity;
            assert!((0.985..=1.0001).contains(&share), "{size}: {}", rate.value);
            assert_eq!(rate.limited_by, Some(Limit::Device));
            let bits = the(&figures, "throughput-bits", size);
            assert!((9.85..=10.001).contains(&bits.value), "{bits:?}");
            assert_eq!(rate.samples.len(), 3);
        }
    }

    #[test]
    fn a_device_that_loses_nothing_is_limited_by_the_generator_or_by_the_maximum() {
        let mut device = Simulated::new(|_, _| 1e9);
        let figures = measured(&mut device, &plan(), &[64]);
        let rate = the(&figures, "throughput", "64");
        assert_eq!(
            (rate.value, rate.limited_by),
            (20e6, Some(Limit::Generator))
        );
        let bounded = Plan {
            max_rate: Some(1_000_000),
            ..plan()
        };
        let figures = measured(&mut device, &bounded, &[64]);
        let rate = the(&figures, "throughput", "64");
        assert_eq!((rate.value, rate.limited_by), (1e6, Some(Limit::Maximum)));
        let beyond = Plan {
            max_rate: Some(50_000_000),
            ..plan()
        };
        let figures = measured(&mut device, &beyond, &[64]);
        let rate = the(&figures, "throughput", "64");
        assert!((19.7e6..20.2e6).contains(&rate.value), "{rate:?}");
        assert_eq!(rate.limited_by, Some(Limit::Generator));
    }

    #[test]
    fn a_noisy_device_needs_a_tolerance() {
        let noisy = || {
            let mut device = Simulated::new(|_, _| 5e6);
            device.noise = Some(Random::new(11));
            device
        };
        let tolerant = Plan {
            tolerance: 1e-5,
            ..plan()
        };
        let figures = measured(&mut noisy(), &tolerant, &[64]);
        let rate = the(&figures, "throughput", "64");
        assert!((4.9e6..=5.01e6).contains(&rate.value), "{rate:?}");
        let strict = measured(&mut noisy(), &plan(), &[64]);
        let rate = the(&strict, "throughput", "64");
        assert!(rate.value > 0.0 && rate.value <= 5.01e6, "{rate:?}");
    }

    #[test]
    fn the_longest_burst_is_what_the_device_queues_while_it_works() {
        // 20 M/s come in, 5 M/s go out: the queue of 512 is full after 512 / 15 M s.
        let mut device = Simulated::new(|_, _| 5e6);
        let figures = measured(&mut device, &plan(), &[64]);
        let burst = the(&figures, "back-to-back", "64");
        let expected = 512.0 / (1.0 - 5.0 / 20.0);
        assert!((burst.value / expected - 1.0).abs() < 0.02, "{burst:?}");
        assert_eq!(burst.limited_by, Some(Limit::Device));
        let mut device = Simulated::new(|_, _| 1e9);
        let figures = measured(&mut device, &plan(), &[64]);
        let burst = the(&figures, "back-to-back", "64");
        assert_eq!(
            (burst.value, burst.limited_by),
            (40e6, Some(Limit::Maximum))
        );
    }

    #[test]
    fn latency_is_measured_at_shares_of_the_throughput() {
        let mut device = Simulated::new(|_, _| 4e6);
        let figures = measured(&mut device, &plan(), &[64]);
        let rate = the(&figures, "throughput", "64").value;
        let asked: Vec<u64> = device
            .trials
            .iter()
            .filter(|trial| trial.0.contains("latency"))
            .map(|trial| trial.1)
            .collect();
        let shares = [0.5, 0.9].map(|load| (rate * load) as u64);
        assert_eq!(asked, [[shares[0]; 3], [shares[1]; 3]].concat());
        let latency: Vec<&Figure> = figures.iter().filter(|f| f.name == "latency").collect();
        assert_eq!(latency.len(), 2 * PERCENTILES.len());
        assert!(
            latency
                .iter()
                .all(|f| f.value > 2_000.0 && f.better == Better::Lower)
        );
    }

    #[test]
    fn an_interrupted_measurement_keeps_what_it_has() {
        let mut device = Simulated::new(|_, _| 4e6);
        let mut figures = Vec::new();
        let profiles = [profile(64), profile(512)];
        let only = Plan {
            tests: vec![Test::Throughput],
            trials: 1,
            ..plan()
        };
        measure(&mut device, &profiles[..1], &only, &mut figures).unwrap();
        let first = device.trials.len();
        device.trials.clear();
        figures.clear();
        device.interrupt = Some(first + 2);
        let stop = measure(&mut device, &profiles, &only, &mut figures);
        assert_eq!(stop, Err(Stop::Interrupted));
        assert_eq!(figures.len(), 2, "throughput and bits of the first size");
    }

    #[test]
    fn the_standard_sizes_are_those_of_section_9_1_and_a_mix() {
        let names: Vec<String> = standard_sizes().iter().map(Sizes::label).collect();
        assert_eq!(
            names[..7],
            ["64", "128", "256", "512", "1024", "1280", "1518"]
        );
        assert_eq!(names.len(), 8);
    }
}
