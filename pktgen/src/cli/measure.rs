//! What `rfc2544`, `scale` and `churn` have in common: devices are opened, something is measured,
//! devices are closed, and the report goes where it is wanted, also when a signal ended it early.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{BedArgs, CommandError, OutputArgs};
use crate::bench::Stop;
use crate::live::bench::{Bench, BenchError, Hook};
use crate::profile::Profile;
use crate::report::figure::Figure;
use crate::report::machine::now;
use crate::report::{Machine, Measurement, VERSION};

/// What is to be known of a measurement besides how it is done.
#[derive(Debug)]
pub(super) struct Outline {
    pub command: &'static str,
    pub settings: BTreeMap<String, String>,
    pub steps: u64,
    pub hook: Option<Hook>,
    pub drain: Duration,
}

/// Measures by `work`, which adds to the figures that it is given, and reports. Gives whether all was
/// well.
pub(super) fn measured(
    outline: &Outline,
    profile: &Profile,
    bed: &BedArgs,
    output: &OutputArgs,
    work: impl FnOnce(&mut Bench, &mut Vec<Figure>) -> Result<(), Stop<BenchError>>,
) -> Result<bool, CommandError> {
    measured_with(outline, profile, bed, output, |bench, report| {
        work(bench, &mut report.figures)
    })
}

/// As [`measured`], for work that fills in more of the report than the figures.
pub(super) fn measured_with(
    outline: &Outline,
    profile: &Profile,
    bed: &BedArgs,
    output: &OutputArgs,
    work: impl FnOnce(&mut Bench, &mut Measurement) -> Result<(), Stop<BenchError>>,
) -> Result<bool, CommandError> {
    let beside = output.beside()?;
    let (settings, options) = bed.checked()?;
    let mut report = Measurement {
        version: VERSION,
        command: outline.command.into(),
        started: now(),
        machine: Machine::this(),
        profile: profile.into(),
        settings: outline.settings.clone(),
        interrupted: false,
        figures: Vec::new(),
        timeline: Vec::new(),
        events: Vec::new(),
        moves: Vec::new(),
        devices: Vec::new(),
        pool: Default::default(),
        failed: Vec::new(),
    };
    let hook = outline.hook.clone();
    let mut bench = Bench::open(
        profile,
        (&settings, &options),
        hook,
        outline.drain,
        outline.steps,
    )?;
    let outcome = work(&mut bench, &mut report);
    let closed = bench.close();
    match outcome {
        Ok(()) => {}
        Err(Stop::Interrupted) => report.interrupted = true,
        Err(Stop::Failed(error)) => {
            // What was measured until then is worth having, if only in the file.
            if let Ok((devices, pool)) = closed {
                (report.devices, report.pool) = (devices, pool);
            }
            report.failed.push("measurement".into());
            output.keep(&report)?;
            return Err(error.into());
        }
    }
    (report.devices, report.pool) = closed?;
    output.give(&report, &beside)?;
    Ok(report.is_well())
}
