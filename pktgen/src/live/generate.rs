//! `run`: one trial over freshly opened devices, and everything that is known of it.

use std::time::Duration;

use super::LiveError;
use super::progress::Bar;
use super::session::Settings;
use super::testbed::{self, End, Testbed};
use crate::profile::Profile;
use crate::report::{self, Expectations, Found, RunFlows, RunReport, VERSION, Volume};

/// How long a paced sender may take over its time for the packets that it still owes.
const GRACE: Duration = Duration::from_secs(1);

/// What to do besides sending.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whom packets go to, and how answers are known.
    pub testbed: testbed::Options,
    /// How long to wait for answers after the last packet.
    pub drain: Duration,
    /// No answers are expected.
    pub one_way: bool,
    /// What must hold.
    pub expectations: Expectations,
}

/// Sends `profile`'s traffic over the devices and reports what came back.
///
/// # Errors
/// [`LiveError`]; devices are closed and DPDK is stopped.
pub fn run(
    profile: &Profile,
    settings: &Settings,
    options: &Options,
) -> Result<RunReport, LiveError> {
    let mut testbed = Testbed::open(profile, settings, &options.testbed)?;
    let end = End {
        grace: GRACE,
        quiet: (!options.one_way).then_some(options.drain),
        most: options.drain,
    };
    let mut bar = Bar::new(profile.packets(), profile.wanted().duration);
    let trial = testbed.trial(profile, &end, &mut bar)?;
    bar.finish();
    let (devices, pool) = testbed.close()?;
    let totals = &trial.totals;
    let loss = (!options.one_way).then(|| trial.loss());
    let found = Found {
        lost: loss.as_ref().map_or(0, |loss| loss.packets),
        misdelivered: totals.moved_flows + totals.unexpected + trial.late,
        duplicates: totals.duplicates,
        reordered: totals.reordered,
        damaged: trial.bad_checksum,
    };
    Ok(RunReport {
        version: VERSION,
        command: "run",
        profile: profile.into(),
        duration_s: trial.seconds,
        sent: Volume::new(trial.sent, trial.sent_bytes, trial.seconds),
        answers: Volume::new(totals.answers, trial.answer_bytes, trial.seconds),
        loss,
        duplicates: totals.duplicates,
        reordered: totals.reordered,
        unexpected: totals.unexpected + trial.late,
        bad_checksum: trial.bad_checksum,
        other: trial.other,
        neighbour_answers: trial.neighbour_answers,
        flows: RunFlows {
            opened: trial.opened,
            answered: totals.answered_flows,
            moved: totals.moved_flows,
        },
        moves: report::moves(&totals.moves),
        backends: totals.by_backend(),
        latency_ns: (&totals.latency).into(),
        devices,
        pool,
        failed: options.expectations.missed(&found),
    })
}
