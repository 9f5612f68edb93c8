//! `weir-pktgen run`.

use std::io::stdout;
use std::net::IpAddr;
use std::time::Duration;

use clap::Args;

use super::{CommandError, DeviceArgs, LinkArgs, ProfileArgs};
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
    /// The address whose MAC frames go to, found by ARP or NDP [default: the VIP].
    #[arg(long, value_name = "ADDR")]
    pub next_hop: Option<IpAddr>,
    /// An address to answer ARP and NDP for besides the clients': the gateway through which the
    /// balancer reaches them; repeatable.
    #[arg(long = "address", value_name = "ADDR")]
    pub addresses: Vec<IpAddr>,
    /// How long to look for the next hop's MAC.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = units::duration)]
    pub resolve_timeout: Duration,
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
    /// The frames' MACs.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Where to send it.
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl RunArgs {
    /// Runs, and prints the report. Gives whether all was well.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn execute(&self) -> Result<bool, CommandError> {
        let profile = Profile::new(self.profile.wanted())?;
        let queues = self.device.devices.len() * usize::from(self.device.queues);
        if self.device.cores.len() > queues {
            return Err(CommandError::Usage(format!(
                "{} cores for {queues} queues; a worker needs a queue at least: give more --queues or fewer --core",
                self.device.cores.len()
            )));
        }
        let options = Options {
            source_mac: self.link.src_mac,
            destination_mac: self.link.dst_mac,
            next_hop: self.next_hop,
            addresses: self.addresses.clone(),
            resolve_timeout: self.resolve_timeout,
            drain: self.drain,
            one_way: self.one_way,
            expectations: self.expectations,
        };
        // Answers come to the frames' source MAC; another than the device's needs all frames.
        let settings = self.device.settings(self.link.src_mac.is_some());
        let report = generate::run(&profile, &settings, &options)?;
        report.print(self.json, &mut stdout().lock())?;
        Ok(report.failed.is_empty() && report.pool.is_full())
    }
}
