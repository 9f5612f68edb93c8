//! Sums of counters that several commands show.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};
use weir_shm::client::Counters;
use weir_shm::counters::{
    ANSWERED, DropReason, FORWARDED, PIECES_MADE, RECEIVED, WORKER_COUNTERS, drop_index,
};
use weir_shm::segment::port::PortStatus;

/// Frames by what became of them.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Packets {
    pub(crate) received: u64,
    pub(crate) forwarded: u64,
    pub(crate) answered: u64,
    pub(crate) dropped: u64,
}

impl Packets {
    pub(crate) fn sum(counters: &Counters) -> Self {
        Self {
            received: counters.sum(RECEIVED),
            // A packet that was cut is one that came in, however many pieces it became.
            forwarded: counters
                .sum(FORWARDED)
                .saturating_sub(counters.sum(PIECES_MADE)),
            answered: counters.sum(ANSWERED),
            dropped: drops(counters).values().sum(),
        }
    }
}

/// Frames dropped by reason, those that occurred.
pub(crate) fn drops(counters: &Counters) -> BTreeMap<&'static str, u64> {
    let all = DropReason::ALL.iter();
    all.map(|reason| (reason.name(), counters.sum(drop_index(*reason))))
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// How many percent `part` is of it and the `rest`; `None` when there is neither.
pub(crate) fn share(part: u64, rest: u64) -> Option<u64> {
    let whole = u128::from(part) + u128::from(rest);
    let percent = (u128::from(part) * 100).checked_div(whole)?;
    u64::try_from(percent).ok()
}

/// A block's own counters by name.
pub(crate) fn of_block(counters: &Counters, block: usize) -> Map<String, Value> {
    let own = WORKER_COUNTERS.iter();
    own.map(|(index, name, _)| ((*name).to_owned(), json!(counters.of(block, *index))))
        .collect()
}

/// A port for programs.
pub(crate) fn port(port: &PortStatus) -> Value {
    json!({
        "name": port.name,
        "mac": mac(port),
        "link": if port.link_up { "up" } else { "down" },
        "speed_mbps": port.speed_mbps,
        "rx_packets": port.rx_packets,
        "rx_bytes": port.rx_bytes,
        "rx_missed": port.rx_missed,
        "rx_errors": port.rx_errors,
        "rx_no_buffer": port.rx_no_buffer,
        "tx_packets": port.tx_packets,
        "tx_bytes": port.tx_bytes,
        "tx_errors": port.tx_errors,
    })
}

/// A port's MAC address as it is written.
pub(crate) fn mac(port: &PortStatus) -> String {
    port.mac.map(|byte| format!("{byte:02x}")).join(":")
}
