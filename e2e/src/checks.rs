//! Health checks of a running weir: a table for the configuration, what checks found, and how soon they must.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::{Result, ensure, wait};

/// What [`health`] tells the checks, in milliseconds.
pub const INTERVAL: u64 = 400;
const TIMEOUT: u64 = 250;
const FALL: u64 = 3;
/// From a failure to no new flows, at most.
pub const BOUND: Duration = Duration::from_millis(FALL * INTERVAL + TIMEOUT);
/// What the machine may take on top, since other tests share it.
const SLACK: Duration = Duration::from_millis(500);

/// A `[service.health]` table with this kind, and further keys, for the service that was added last.
pub fn health(kind: &str) -> String {
    format!(
        "[service.health]\n{kind}\ninterval = \"{INTERVAL}ms\"\ntimeout = \"{TIMEOUT}ms\"\n\
         fall = {FALL}\nrise = 2\n"
    )
}

/// Backends at these addresses, as a configuration takes them.
pub fn backends(addresses: impl IntoIterator<Item = String>, port: u16) -> Vec<String> {
    let addresses = addresses.into_iter();
    addresses
        .map(|address| format!("{address} {port}"))
        .collect()
}

/// An address and a port as they are written: IPv6 in brackets.
pub fn at(address: &str, port: u16) -> String {
    match address.parse() {
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

/// The states of a service's backends, in order.
pub fn states(weir: &Daemon, service: &str) -> Result<Vec<String>> {
    let listed = weir.ctl_json(&["backend", "list", service])?;
    let listed = listed.as_array().cloned().unwrap_or_default();
    let state = |backend: &serde_json::Value| backend["state"].as_str().unwrap_or("?").to_owned();
    Ok(listed.iter().map(state).collect())
}

/// A number of each backend of a service, by its key in `weirctl backend list`.
pub fn numbers(weir: &Daemon, service: &str, key: &str) -> Result<Vec<u64>> {
    let listed = weir.ctl_json(&["backend", "list", service])?;
    let listed = listed.as_array().cloned().unwrap_or_default();
    let numbers = listed.iter().map(|backend| backend[key].as_u64());
    Ok(numbers.map(Option::unwrap_or_default).collect())
}

/// Whether each backend of a service was checked: at the start they count as up until a check fails.
fn are_checked(weir: &Daemon, service: &str) -> bool {
    let Ok(listed) = weir.ctl_json(&["backend", "list", service]) else {
        return false;
    };
    let mut listed = listed.as_array().into_iter().flatten();
    listed.all(|backend| backend["health"]["checks"].as_u64() > Some(0))
}

/// Waits until the states are as wanted, and each backend was checked; how long that took.
pub fn await_states(weir: &Daemon, service: &str, wanted: &[&str]) -> Result<Duration> {
    let started = Instant::now();
    let reached = wait::until_true(
        &format!("{service} to be {wanted:?}"),
        Duration::from_secs(15),
        || states(weir, service).is_ok_and(|states| states == wanted) && are_checked(weir, service),
    );
    if reached.is_err() {
        println!(
            "{service}: {:?}\n{}\n{}",
            states(weir, service),
            weir.ctl(&["service", "show", service])?,
            weir.ctl(&["events", "--last", "20"])?
        );
    }
    reached.map(|()| started.elapsed())
}

/// [`await_states`] after something went wrong, within the promised time, which is printed beside what it took.
pub fn await_fall(weir: &Daemon, what: &str, service: &str, wanted: &[&str]) -> Result {
    let took = await_states(weir, service, wanted)?;
    println!("{what}: no new flows after {took:?}, promised within {BOUND:?}");
    ensure!(
        took <= BOUND + SLACK,
        "{what}: no new flows only after {took:?}"
    );
    Ok(())
}

/// `weirctl service show` must hold these words: what the last check found.
pub fn must_say(weir: &Daemon, service: &str, words: &str) -> Result {
    let shown = weir.ctl(&["service", "show", service])?;
    ensure!(shown.contains(words), "no {words:?} in\n{shown}");
    Ok(())
}
