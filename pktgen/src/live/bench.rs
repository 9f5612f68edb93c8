//! Measurements over real devices: what `rfc2544`, `scale` and `churn` have in common.

use std::time::Duration;

use super::LiveError;
use super::progress::Steps;
use super::session::Settings;
use super::testbed::{End, Options, Testbed};
use crate::bench::Device;
use crate::bench::hook::{HookError, Task};
use crate::profile::Profile;
use crate::report::figure::Case;
use crate::report::{DeviceReport, PoolReport};
use crate::trial::{Observer, Trial};

/// A paced sender may take this much longer, so that it can send what it still owes.
const GRACE: u32 = 100;
/// Answers are waited for this many times the quiet time at most.
const PATIENCE: u32 = 20;

/// Why a measurement over devices failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The devices did not do their part.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// The device under test could not be reconfigured.
    #[error(transparent)]
    Hook(#[from] HookError),
}

/// What is run before each case.
#[derive(Debug, Clone)]
pub struct Hook {
    /// A shell's command.
    pub command: String,
    /// How long it may take.
    pub limit: Duration,
}

/// Open devices with what the measurements need besides.
#[derive(Debug)]
pub struct Bench {
    testbed: Testbed,
    hook: Option<Hook>,
    quiet: Duration,
    steps: Steps,
}

impl Bench {
    /// Opens the devices; `steps` is about how many there will be, and answers are waited for until
    /// none has come for `quiet`.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn open(
        profile: &Profile,
        (settings, options): (&Settings, &Options),
        hook: Option<Hook>,
        quiet: Duration,
        steps: u64,
    ) -> Result<Self, LiveError> {
        Ok(Self {
            testbed: Testbed::open(profile, settings, options)?,
            hook,
            quiet,
            steps: Steps::new(steps),
        })
    }

    /// The bar.
    pub const fn steps(&mut self) -> &mut Steps {
        &mut self.steps
    }

    /// Runs one trial, watched by `observer`.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn watched(
        &mut self,
        profile: &Profile,
        observer: &mut dyn Observer,
    ) -> Result<Trial, LiveError> {
        let end = self.end(profile);
        self.testbed.trial(profile, &end, observer)
    }

    /// Closes the devices, and takes the bar away.
    ///
    /// # Errors
    /// [`LiveError`].
    pub fn close(self) -> Result<(Vec<DeviceReport>, PoolReport), LiveError> {
        self.steps.finish();
        self.testbed.close()
    }

    fn end(&self, profile: &Profile) -> End {
        let duration = profile.wanted().duration.unwrap_or_default();
        End {
            grace: (duration / GRACE).max(Duration::from_millis(10)),
            quiet: Some(self.quiet),
            most: self.quiet * PATIENCE,
        }
    }
}

impl Device for Bench {
    type Error = BenchError;

    fn prepare(&mut self, case: &Case) -> Result<(), BenchError> {
        let Some(hook) = &self.hook else {
            return Ok(());
        };
        self.steps.label(format!("{case}, reconfiguring"));
        let mut task = Task::shell(&hook.command);
        task.environment = environment(case);
        Ok(task.run(hook.limit)?)
    }

    fn trial(&mut self, profile: &Profile, label: &str) -> Result<Trial, BenchError> {
        let end = self.end(profile);
        self.steps.label(label.to_owned());
        Ok(self.testbed.trial(profile, &end, &mut self.steps)?)
    }

    fn step(&mut self) {
        self.steps.step();
    }
}

/// A case for a command's environment; what plays no part is empty.
fn environment(case: &Case) -> Vec<(&'static str, String)> {
    let text = |value: Option<String>| value.unwrap_or_default();
    vec![
        ("WEIR_PKTGEN_SWEEP", text(case.sweep.clone())),
        ("WEIR_PKTGEN_SIZE", text(case.size.clone())),
        ("WEIR_PKTGEN_FLOWS", text(case.flows.map(|n| n.to_string()))),
        (
            "WEIR_PKTGEN_BACKENDS",
            text(case.backends.map(|n| n.to_string())),
        ),
        (
            "WEIR_PKTGEN_NEW_FLOWS",
            text(case.new_flows.map(|share| share.to_string())),
        ),
    ]
}
