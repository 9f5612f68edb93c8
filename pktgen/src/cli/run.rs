//! `weir-pktgen run`.

use std::io::stdout;
use std::time::Duration;

use clap::Args;

use super::{BedArgs, CommandError, ProfileArgs};
use crate::live::generate::{self, Options};
use crate::profile::Profile;
use crate::report::{Expectations, Report};
use crate::units;

/// Send stamped traffic, and measure what comes back.
///
/// Flows are spread over devices and queues as a NIC's receive-side scaling would spread them; each
/// worker (one a --core) serves some of the queues. Ends after --count packets or --duration,
/// otherwise on SIGINT. Exit code 1 if an expectation is not met or a packet buffer is lost.
#[derive(Debug, Args)]
#[command(
    after_help = "Example, 10 s of 100k flows through a balancer at 192.0.2.2, which reaches clients through 192.0.2.1:\n  \
    weir-pktgen run --device net_af_xdp0,iface=eth1 --vip 198.51.100.10 --port 80 \\\n      \
    --next-hop 192.0.2.2 --address 192.0.2.1 --flows 100k --rate 200k --duration 10s \\\n      \
    --fail-on-loss --fail-on-misdelivery --json"
)]
pub struct RunArgs {
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// How long to wait for answers after the last packet; ends early when all have come.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::duration)]
    pub drain: Duration,
    /// Expect no answers, as with direct server return; loss is the reflector's to tell.
    #[arg(long, conflicts_with = "fail_on_loss")]
    pub one_way: bool,
    /// What must hold.
    #[command(flatten)]
    pub expectations: Expectations,
    /// What to send.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// Where it goes, and comes back from.
    #[command(flatten)]
    pub bed: BedArgs,
}

impl RunArgs {
    /// Runs, and prints the report. Gives whether all was well.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn execute(&self) -> Result<bool, CommandError> {
        let profile = Profile::new(self.profile.wanted())?;
        let (settings, testbed) = self.bed.checked()?;
        let options = Options {
            testbed,
            drain: self.drain,
            one_way: self.one_way,
            expectations: self.expectations,
        };
        let report = generate::run(&profile, &settings, &options)?;
        report.print(self.json, &mut stdout().lock())?;
        Ok(report.failed.is_empty() && report.pool.is_full())
    }
}
