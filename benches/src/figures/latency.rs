//! H. Latency that weir adds: 60-byte frames at a million a second through a memif and back, beside
//! testpmd `macswap` in weir's place.
//!
//! Once of a hundred flows and once of ten thousand: at this rate a packet is alone in its burst, and
//! nothing hides what it costs to bring in a line of the flow table that was last used 10 ms ago.

use weir_e2e::namespace::Namespace;

use super::Settings;
use crate::Failure;
use crate::record::Record;
use crate::rig::balancer::{Balancer, Setup};
use crate::rig::probe::{Found, Probe};
use crate::rig::testpmd::Testpmd;
use crate::rig::{pace, said};

const YARDSTICK: &str = "testpmd macswap";
const RATE: u64 = 1_000_000;
const FLOWS: [(u32, &str); 2] = [(100, "100 flows"), (10_000, "10K flows")];
/// Frames that may be missing, as a share: more, and it is not the latency of this rate.
const MISSING: f64 = 0.01;

/// Measures all percentiles.
///
/// # Errors
/// When a process fails, or frames do not come back.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let mut probe = Probe::new()?;
    let mut records = Vec::new();
    for (flows, name) in FLOWS {
        records.extend(of(settings, &mut probe, flows, name)?);
    }
    Ok(records)
}

fn of(
    settings: &Settings,
    probe: &mut Probe,
    flows: u32,
    flows_name: &str,
) -> Result<[Record; 3], Failure> {
    let dir = tempfile::tempdir()?;
    let namespace = Namespace::new("bench").map_err(said)?;
    let (mut weir, mut testpmd) = (Vec::new(), Vec::new());
    let server = |name: String| {
        let socket = dir.path().join(name);
        let device = format!(
            "net_memif0,role=server,socket={},bsize=2048,rsize=11,socket-abstract=no",
            socket.display()
        );
        (socket, device)
    };
    for repetition in 0..settings.repetitions {
        let mut ask = |socket: &std::path::Path| -> Result<Found, Failure> {
            let found = probe.latency(socket, flows, RATE, settings.settle(), settings.window)?;
            let missing = 1.0 - found.received as f64 / found.sent.max(1) as f64;
            let full = found.sent as f64 >= RATE as f64 * settings.window.as_secs_f64() * 0.9;
            if missing > MISSING || !full {
                return Err(format!(
                    "{} frames sent, {} came back: this is not the latency at {RATE} frames a second",
                    found.sent, found.received
                )
                .into());
            }
            Ok(found)
        };
        let (socket, device) = server(format!("testpmd{repetition}.sock"));
        let yardstick = Testpmd::start(dir.path(), "macswap", &[device], 16_384)?;
        testpmd.push(ask(&socket)?);
        drop(yardstick);

        let (socket, device) = server(format!("weir{repetition}.sock"));
        let setup = Setup {
            mac: Some("02:00:00:00:00:01"),
            ..Setup::new("dsr-l2", device)
        };
        let mut balancer = Balancer::start(&namespace, dir.path(), &setup)?;
        pace::give_way(balancer.daemon().process().pid(), "weir-control")?;
        weir.push(ask(&socket)?);
        balancer.stop()?;
    }
    let percentile = |found: &[Found], quantile: f64| -> Vec<f64> {
        found.iter().map(|it| it.microseconds(quantile)).collect()
    };
    let record = |(name, quantile)| {
        let case = format!("{name} of dsr-l2 at 1 Mpps, {flows_name}");
        Record::new('H', &case, "µs", &percentile(&weir, quantile))
            .beside(YARDSTICK, &percentile(&testpmd, quantile))
    };
    Ok([("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)].map(record))
}
