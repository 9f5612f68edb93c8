//! `weir-pktgen reflect`.

use std::io::stdout;
use std::time::Duration;

use clap::Args;

use super::{CommandError, DeviceArgs};
use crate::backend::{BackendArg, Backends};
use crate::live::reflect::{self, Options};
use crate::reflector::{Mode, Reflector};
use crate::report::{Expectations, Report};
use crate::units;

/// Play backends: answer stamped traffic, or count it.
///
/// Answers ARP and NDP for every backend. Remembers which backend each flow came to. Ends after
/// --duration, otherwise on SIGINT or SIGTERM, and then reports. A reflector that is started after
/// its generator counts what it missed as gaps. Exit code 1 if an expectation is not met or a packet
/// buffer is lost.
#[derive(Debug, Args)]
#[command(
    after_help = "Example, ten backends behind a balancer that rewrites addresses:\n  \
    weir-pktgen reflect --device net_af_xdp0,iface=eth2 --backend 10.0.0.11-10.0.0.20 \\\n      \
    --duration 30s --fail-on-misdelivery --json"
)]
pub struct ReflectArgs {
    /// A backend: ADDR, ADDR,MAC, a range first-last or a prefix; repeatable. They are numbered from
    /// 0 in this order. Without MAC: 02:00 and the IPv4 address, 02:06 and the last four bytes of the
    /// IPv6 address.
    #[arg(long = "backend", value_name = "ADDR[,MAC]", required = true)]
    pub backends: Vec<BackendArg>,
    /// How traffic reaches the backends.
    #[arg(long, value_enum, default_value = "nat")]
    pub mode: Mode,
    /// Stop after this time, as in 30s.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub duration: Option<Duration>,
    /// Print a line on standard error this often.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    pub report_every: Option<Duration>,
    /// How many flows are remembered; packets of others are answered but not followed.
    #[arg(long, value_name = "N", default_value = "4M", value_parser = units::count)]
    pub max_flows: u64,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// What must hold; loss is what is missing between a flow's packets that came.
    #[command(flatten)]
    pub expectations: Expectations,
    /// Where the backends are.
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl ReflectArgs {
    /// Reflects, and prints the report. Gives whether all was well.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn execute(&self) -> Result<bool, CommandError> {
        if self.device.cores.len() > 1 {
            return Err(CommandError::Usage(
                "a reflector has one worker; give one --core".into(),
            ));
        }
        let backends = Backends::new(&self.backends)?;
        let most = usize::try_from(self.max_flows).unwrap_or(usize::MAX);
        let reflector = Reflector::new(backends, self.mode, most);
        let options = Options {
            mode: self.mode,
            duration: self.duration,
            report_every: self.report_every,
            expectations: self.expectations,
        };
        let report = reflect::reflect(reflector, &self.device.settings(true), &options)?;
        report.print(self.json, &mut stdout().lock())?;
        Ok(report.failed.is_empty() && report.pool.is_full())
    }
}
