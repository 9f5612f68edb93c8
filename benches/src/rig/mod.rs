//! What figures are measured with: the balancer and the yardsticks as processes of their own, the
//! pipeline over buffers, and traffic for both.
//!
//! Whatever a piece puts up, it takes down when dropped.

pub mod balancer;
pub mod kernel;
pub mod pace;
pub mod path;
pub mod probe;
pub mod telemetry;
pub mod testpmd;
pub mod traffic;

use std::path::Path;
use std::process::Command;

use crate::Failure;

/// Writes a capture with one 60-byte UDP frame (64 with FCS) of each of `flows` flows to the VIP.
///
/// # Errors
/// When `weir-pktgen` fails.
pub fn capture(path: &Path, flows: u32) -> Result<(), Failure> {
    let flows = flows.to_string();
    let mut pktgen = Command::new(weir_e2e::host::binary("weir-pktgen").map_err(said)?);
    pktgen
        .args([
            "pcap",
            "--vip",
            balancer::VIP,
            "--size",
            "64",
            "--popularity",
            "sequential",
        ])
        .args([
            "--flows",
            &flows,
            "--count",
            &flows,
            "--dst-mac",
            balancer::PCAP_MAC,
            "--out",
        ])
        .arg(path);
    weir_e2e::process::capture(&mut pktgen).map_err(said)?;
    Ok(())
}

/// The harness's failures are sentences.
#[allow(clippy::needless_pass_by_value)] // for `map_err`
pub fn said(failure: weir_e2e::Failure) -> Failure {
    format!("{failure:?}").into()
}
