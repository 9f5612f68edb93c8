//! Packets a second against the number of flows, the number of backends, and the share of packets
//! that open a new flow: each varied by itself, the others at their base values.
//!
//! Cases are measured in rounds, each case once a round, so that a machine that gets slower meanwhile
//! does not make the later cases look worse. Before a case is measured, every flow is sent once:
//! what is measured is a device under test that knows its flows, not one that is learning them.

use std::time::Duration;

use super::{Device, RETRIES, Stop, patience, run};
use crate::popularity::Popularity;
use crate::profile::{Profile, ProfileError, Tracking, Wanted};
use crate::report::figure::{Better, Case, Figure, Limit, Middle};
use crate::schedule::Mix;
use crate::search::{Ask, Search};
use crate::trial::Trial;

/// What is varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Number of flows.
    Flows,
    /// Number of backends.
    Backends,
    /// Share of packets that open a flow.
    NewFlows,
}

impl Sweep {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Backends => "backends",
            Self::NewFlows => "new-flows",
        }
    }
}

/// How a case's packets a second are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// Send at full speed (or --max-rate), and count what comes back.
    Saturate,
    /// Look for the highest rate without loss, as rfc2544 does.
    LossFree,
}

/// What to measure, and how thoroughly.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Numbers of flows.
    pub flows: Vec<u32>,
    /// Numbers of backends.
    pub backends: Vec<u32>,
    /// Shares of new flows.
    pub new_flows: Vec<f64>,
    /// Flows in the other sweeps.
    pub base_flows: u32,
    /// Backends in the other sweeps, where they are known.
    pub base_backends: Option<u32>,
    /// Rounds.
    pub trials: u32,
    /// Length of a trial.
    pub duration: Duration,
    /// Whether every flow is sent once before a case is measured.
    pub warm_up: bool,
    /// How a case is measured.
    pub method: Method,
    /// Where a search ends: the interval's share of its upper end.
    pub resolution: f64,
    /// Share of packets that may be lost in a search.
    pub tolerance: f64,
    /// The highest rate; by default what the generator manages.
    pub max_rate: Option<u64>,
}

impl Plan {
    /// The cases, in the order of measuring.
    #[must_use]
    pub fn cases(&self) -> Vec<Case> {
        let case = |sweep: Sweep, flows: u32, backends: Option<u32>, share: f64| Case {
            sweep: Some(sweep.name().into()),
            flows: Some(flows),
            backends,
            new_flows: Some(share),
            ..Case::default()
        };
        let (flows, backends) = (self.base_flows, self.base_backends);
        let by_flows = self.flows.iter();
        let by_backends = self.backends.iter();
        let by_share = self.new_flows.iter();
        by_flows
            .map(|&n| case(Sweep::Flows, n, backends, 0.0))
            .chain(by_backends.map(|&n| case(Sweep::Backends, flows, Some(n), 0.0)))
            .chain(by_share.map(|&share| case(Sweep::NewFlows, flows, backends, share)))
            .collect()
    }

    /// How many steps the progress bar has.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.cases().len() as u64 * u64::from(self.trials)
    }
}

/// The traffic of a case: `wanted` with the case's flows, which nobody follows one by one, so that
/// the generator costs the same however many there are.
///
/// # Errors
/// When the clients are too few for the flows.
pub fn profile(wanted: &Wanted, case: &Case) -> Result<Profile, ProfileError> {
    let share = case.new_flows.unwrap_or(0.0);
    Profile::new(Wanted {
        flows: case.flows.unwrap_or(wanted.flows),
        packets_per_flow: 0,
        mix: if share > 0.0 {
            Mix::Renewed { share }
        } else {
            Mix::Steady
        },
        tracking: Tracking::Packets,
        ..wanted.clone()
    })
}

/// Measures all cases and adds what it finds to `figures`, cases that were not finished included.
///
/// # Errors
/// [`Stop`]; the figures of what was measured until then are in `figures`.
pub fn measure<D: Device>(
    device: &mut D,
    cases: &[(Case, Profile)],
    plan: &Plan,
    figures: &mut Vec<Figure>,
) -> Result<(), Stop<D::Error>> {
    let mut found: Vec<Found> = cases.iter().map(|_| Found::default()).collect();
    let outcome = rounds(device, cases, plan, &mut found);
    for ((case, _), found) in cases.iter().zip(found) {
        found.report(case, figures);
    }
    outcome
}

/// The samples of a case.
#[derive(Debug, Default)]
struct Found {
    rates: Vec<f64>,
    losses: Vec<f64>,
    limits: Vec<Limit>,
}

impl Found {
    fn report(self, case: &Case, figures: &mut Vec<Figure>) {
        if self.rates.is_empty() {
            return;
        }
        let figure = |name: &str, unit: &str, better: Better, samples: Vec<f64>| {
            Figure::new(name, case.clone(), unit, better, Middle::Median, samples)
        };
        let mut rate = figure("throughput", "packets/s", Better::Higher, self.rates);
        rate.limited_by = self.limits.last().copied();
        figures.push(rate);
        figures.push(figure("loss", "ratio", Better::Neither, self.losses));
    }
}

fn rounds<D: Device>(
    device: &mut D,
    cases: &[(Case, Profile)],
    plan: &Plan,
    found: &mut [Found],
) -> Result<(), Stop<D::Error>> {
    for _ in 0..plan.trials {
        for ((case, profile), found) in cases.iter().zip(found.iter_mut()) {
            device.prepare(case)?;
            if plan.warm_up {
                warm_up(device, case, profile, plan)?;
            }
            match plan.method {
                Method::Saturate => saturate(device, case, profile, plan, found)?,
                Method::LossFree => loss_free(device, case, profile, plan, found)?,
            }
            device.step();
        }
    }
    Ok(())
}

/// Sends every flow once.
fn warm_up<D: Device>(
    device: &mut D,
    case: &Case,
    profile: &Profile,
    plan: &Plan,
) -> Result<(), Stop<D::Error>> {
    let flows = u64::from(profile.wanted().flows);
    let wanted = Wanted {
        mix: Mix::Steady,
        popularity: Popularity::Sequential,
        ..profile.wanted().clone()
    };
    // The profile was accepted with more; what it says of sizes and clients holds here too.
    let Ok(every) = Profile::new(wanted) else {
        return Ok(());
    };
    let rate = plan.max_rate.unwrap_or(0);
    run(
        device,
        &every.at(rate, Some(flows), patience(flows)),
        &format!("{case}, warming up"),
    )?;
    Ok(())
}

fn saturate<D: Device>(
    device: &mut D,
    case: &Case,
    profile: &Profile,
    plan: &Plan,
    found: &mut Found,
) -> Result<(), Stop<D::Error>> {
    let rate = plan.max_rate.unwrap_or(0);
    let profile = profile.at(rate, None, Some(plan.duration));
    let trial = run(device, &profile, &case.to_string())?;
    found.rates.push(trial.answer_rate());
    found.losses.push(trial.loss().ratio);
    // A device with room left loses nothing.
    found.limits.push(if !trial.lost_at_most(0.0) {
        Limit::Device
    } else if plan.max_rate.is_some() && trial.kept_up() {
        Limit::Maximum
    } else {
        Limit::Generator
    });
    Ok(())
}

fn loss_free<D: Device>(
    device: &mut D,
    case: &Case,
    profile: &Profile,
    plan: &Plan,
    found: &mut Found,
) -> Result<(), Stop<D::Error>> {
    let mut attempt = |rate: u64| -> Result<Trial, Stop<D::Error>> {
        let profile = profile.at(rate, None, Some(plan.duration));
        let label = format!("{case}, {rate}/s");
        let mut trial = run(device, &profile, &label)?;
        // A generator that was held up says nothing of the device: it may try again.
        for _ in 0..RETRIES {
            if trial.kept_up() || !trial.lost_at_most(plan.tolerance) {
                break;
            }
            trial = run(device, &profile, &label)?;
        }
        Ok(trial)
    };
    let (top, highest) = match plan.max_rate {
        Some(rate) => (rate, Limit::Maximum),
        None => (attempt(0)?.rate() as u64, Limit::Generator),
    };
    let mut search = Search::new(top, plan.resolution, false);
    let (mut limit, mut loss) = (highest, 0.0);
    let rate = loop {
        let value = match search.ask() {
            Ask::Done(value) => break value,
            Ask::Trial { value, .. } => value,
        };
        let trial = attempt(value)?;
        let clean = trial.lost_at_most(plan.tolerance);
        if !clean {
            limit = Limit::Device;
        } else if trial.kept_up() {
            loss = trial.loss().ratio;
        } else {
            limit = Limit::Generator;
        }
        search.tell(clean && trial.kept_up());
    };
    found.rates.push(rate as f64);
    found.losses.push(loss);
    found.limits.push(limit);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::simulated::Simulated;
    use super::*;
    use crate::profile::sample;

    fn plan() -> Plan {
        Plan {
            flows: vec![1_000, 1_000_000, 100_000_000],
            backends: vec![10, 1_000],
            new_flows: vec![0.0, 0.5, 1.0],
            base_flows: 1_000_000,
            base_backends: Some(100),
            trials: 3,
            duration: Duration::from_secs(1),
            warm_up: true,
            method: Method::Saturate,
            resolution: 0.01,
            tolerance: 0.0,
            max_rate: None,
        }
    }

    /// Slower with more flows, more backends and more new flows.
    fn capacity(profile: &Profile, case: &Case) -> f64 {
        let flows = f64::from(profile.wanted().flows).log10();
        let backends = f64::from(case.backends.unwrap_or(1)).log10();
        let share = case.new_flows.unwrap_or(0.0);
        1e9 / (20.0 + 2.0 * flows + backends + 40.0 * share)
    }

    fn cases(plan: &Plan) -> Vec<(Case, Profile)> {
        let profiled = |case: Case| {
            let profile = profile(&sample(), &case).unwrap();
            (case, profile)
        };
        plan.cases().into_iter().map(profiled).collect()
    }

    fn device() -> Simulated {
        let mut device = Simulated::new(capacity);
        device.generator = 60e6;
        device
    }

    #[test]
    fn each_sweep_varies_one_thing_and_finds_its_curve() {
        for method in [Method::Saturate, Method::LossFree] {
            let plan = Plan { method, ..plan() };
            let cases = cases(&plan);
            let mut figures = Vec::new();
            measure(&mut device(), &cases, &plan, &mut figures).unwrap();
            let rates: Vec<&Figure> = figures.iter().filter(|f| f.name == "throughput").collect();
            assert_eq!(rates.len(), 8);
            for (figure, (case, profile)) in rates.iter().zip(&cases) {
                let share = figure.value / capacity(profile, case);
                assert!((0.98..1.01).contains(&share), "{figure:?}");
                assert_eq!(figure.samples.len(), 3);
                assert_eq!(figure.limited_by, Some(Limit::Device));
                assert_eq!(figure.case, *case);
            }
            let of = |sweep: &str| -> Vec<f64> {
                let its = rates
                    .iter()
                    .filter(|f| f.case.sweep.as_deref() == Some(sweep));
                its.map(|f| f.value).collect()
            };
            for (sweep, cases) in [("flows", 3), ("backends", 2), ("new-flows", 3)] {
                let values = of(sweep);
                assert_eq!(values.len(), cases);
                assert!(values.is_sorted_by(|a, b| a > b), "{sweep}: {values:?}");
            }
        }
    }

    #[test]
    fn rounds_interleave_the_cases_and_each_is_prepared_and_warmed_up() {
        let plan = Plan {
            backends: vec![],
            new_flows: vec![],
            trials: 2,
            ..plan()
        };
        let cases = cases(&plan);
        let mut device = device();
        measure(&mut device, &cases, &plan, &mut Vec::new()).unwrap();
        let flows: Vec<u32> = device
            .prepared
            .iter()
            .filter_map(|case| case.flows)
            .collect();
        assert_eq!(flows, [plan.flows.clone(), plan.flows.clone()].concat());
        let counts: Vec<Option<u64>> = device.trials.iter().map(|trial| trial.2).collect();
        let round = [
            Some(1_000),
            None,
            Some(1_000_000),
            None,
            Some(100_000_000),
            None,
        ];
        assert_eq!(counts, [round, round].concat());
    }

    #[test]
    fn a_device_that_is_never_full_is_said_to_be_limited_by_the_generator() {
        let mut device = Simulated::new(|_, _| 1e9);
        let plan = plan();
        let mut figures = Vec::new();
        measure(&mut device, &cases(&plan), &plan, &mut figures).unwrap();
        assert_eq!(figures[0].limited_by, Some(Limit::Generator));
        assert_eq!((figures[1].name.as_str(), figures[1].value), ("loss", 0.0));
    }

    #[test]
    fn a_measurement_that_is_interrupted_in_the_second_round_keeps_the_first() {
        let mut device = device();
        device.interrupt = Some(20);
        let plan = plan();
        let mut figures = Vec::new();
        let stop = measure(&mut device, &cases(&plan), &plan, &mut figures);
        assert_eq!(stop, Err(Stop::Interrupted));
        let samples: Vec<usize> = figures.iter().map(|f| f.samples.len()).collect();
        assert_eq!(samples.len(), 16);
        assert_eq!((samples[0], samples[15]), (2, 1));
    }
}
