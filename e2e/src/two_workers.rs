//! weir with two workers, a queue of the same veth each, over AF_XDP.

use crate::config::Config;
use crate::daemon::Daemon;
use crate::lab::{LAN_ADDRESSES, Lab, WAN_ADDRESSES, instance};
use crate::{Result, preload};

/// A port with two queues, and no service yet. The lab must have as many, see [`Lab::queued`].
#[must_use]
pub fn config() -> Config {
    let device = "net_af_xdp0,iface=eth0,start_queue=0,queue_count=2";
    let addresses = format!("{WAN_ADDRESSES}, {LAN_ADDRESSES}");
    Config::new(&instance()).port("lan", device, &addresses)
}

/// weir with two workers, with `more` behind its configuration.
///
/// # Errors
/// When it does not start.
pub fn start(lab: &Lab, mut config: Config, more: &str) -> Result<Daemon> {
    let (workers, library) = preload::two_workers(lab.dir())?;
    (config.workers, config.idle) = (workers, "adaptive");
    let (name, text) = (config.instance.clone(), config.text() + more);
    Daemon::start_preloaded(&lab.balancer, lab.dir(), &name, &text, &library)
}

/// A number of each worker, by its name in `weirctl stats`.
///
/// # Errors
/// When weirctl fails.
pub fn of_workers(weir: &Daemon, key: &str) -> Result<Vec<u64>> {
    let stats = weir.ctl_json(&["stats"])?;
    let workers = stats["workers"].as_array().cloned().unwrap_or_default();
    let numbers = workers.iter().map(|worker| worker[key].as_u64());
    Ok(numbers.map(Option::unwrap_or_default).collect())
}
