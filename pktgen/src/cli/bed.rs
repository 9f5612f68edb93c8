//! The options that say whom packets go to and how their answers are known, the same for every
//! command that sends.

use std::net::IpAddr;
use std::time::Duration;

use clap::Args;

use super::{CommandError, DeviceArgs, LinkArgs};
use crate::live::session::Settings;
use crate::live::testbed::{Answers, Options};
use crate::units;

/// Next hop, answers, devices.
#[derive(Debug, Clone, Args)]
pub struct BedArgs {
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
    /// What comes back: a reflector's answers, or the packets themselves, from a device under test
    /// that passes them on (direct server return, a plain forwarder).
    #[arg(long, value_enum, default_value = "reflected")]
    pub answers: Answers,
    /// A further device that only receives, as --device; repeatable. With direct server return: the
    /// backends' side.
    #[arg(long = "receive-on", value_name = "DEV")]
    pub receive_on: Vec<String>,
    /// The frames' MACs.
    #[command(flatten)]
    pub link: LinkArgs,
    /// Where to send them.
    #[command(flatten)]
    pub device: DeviceArgs,
}

impl BedArgs {
    /// The options as settings of a session and of a testbed.
    ///
    /// # Errors
    /// [`CommandError::Usage`] when there are more workers than queues.
    pub fn checked(&self) -> Result<(Settings, Options), CommandError> {
        let devices = self.device.devices.len() + self.receive_on.len();
        let queues = devices * usize::from(self.device.queues);
        if self.device.cores.len() > queues {
            return Err(CommandError::Usage(format!(
                "{} cores for {queues} queues; a worker needs a queue at least: give more --queues or fewer --core",
                self.device.cores.len()
            )));
        }
        // Answers come to the frames' source MAC, and passed on frames to any; another MAC than the
        // device's needs all frames.
        let promiscuous = self.link.src_mac.is_some() || !self.receive_on.is_empty();
        let mut settings = self.device.settings(promiscuous);
        settings.devices.extend(self.receive_on.iter().cloned());
        let options = Options {
            source_mac: self.link.src_mac,
            destination_mac: self.link.dst_mac,
            next_hop: self.next_hop,
            addresses: self.addresses.clone(),
            resolve_timeout: self.resolve_timeout,
            receivers: self.receive_on.len() as u16,
            answers: self.answers,
        };
        Ok((settings, options))
    }
}
