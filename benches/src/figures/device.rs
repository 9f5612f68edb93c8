//! A. The whole of `weir run` on one core, from a `net_pcap` device that plays a file over and over,
//! beside testpmd `5tswap` on the same device and file.
//!
//! Both get their packets by the same driver, which takes a buffer and copies the packet into it, and
//! send them to the same driver, which frees them. testpmd reads and writes the same header fields
//! as `nat` does, and looks nothing up.

use std::time::Duration;

use weir_e2e::namespace::Namespace;

use super::Settings;
use crate::Failure;
use crate::record::Record;
use crate::rig::balancer::{Balancer, Setup};
use crate::rig::testpmd::Testpmd;
use crate::rig::{self, said};

/// What the yardstick is called.
const YARDSTICK: &str = "testpmd 5tswap";

/// Flows and packets of a file: what it is called, how many, and the megabytes that weir needs for
/// its buffers (a preloaded packet keeps one).
const FILES: [(&str, u32, u32); 2] = [("4K", 4_096, 64), ("60K", 60_000, 256)];

/// Measures all cases.
///
/// # Errors
/// When one of the processes fails.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let mut records = Vec::new();
    for mode in ["dsr-l2", "nat"] {
        for (name, flows, megabytes) in FILES {
            let (weir, testpmd) = case(settings, mode, flows, megabytes)?;
            let case = format!("{mode}, {name} flows");
            records.push(Record::new('A', &case, "Mpps", &weir).beside(YARDSTICK, &testpmd));
        }
    }
    Ok(records)
}

/// Rates of weir and of testpmd, in turns.
///
/// # Errors
/// When one of the processes fails.
pub fn case(
    settings: &Settings,
    mode: &'static str,
    flows: u32,
    megabytes: u32,
) -> Result<(Vec<f64>, Vec<f64>), Failure> {
    let dir = tempfile::tempdir()?;
    let namespace = Namespace::new("bench").map_err(said)?;
    let file = dir.path().join("flows.pcap");
    rig::capture(&file, flows)?;
    let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
    let setup = Setup {
        memory_mb: Some(megabytes),
        ..Setup::new(mode, &device)
    };
    let (mut weir, mut testpmd) = (Vec::new(), Vec::new());
    for _ in 0..settings.repetitions {
        let yardstick =
            Testpmd::start(dir.path(), "5tswap", std::slice::from_ref(&device), 76_800)?;
        testpmd.push(rate(&yardstick, settings)?);
        drop(yardstick);
        let mut balancer = Balancer::start(&namespace, dir.path(), &setup)?;
        weir.push(balancer.rate(settings.settle(), settings.window)?);
        balancer.stop()?;
    }
    Ok((weir, testpmd))
}

fn rate(testpmd: &Testpmd, settings: &Settings) -> Result<f64, Failure> {
    let mut telemetry = testpmd.telemetry()?;
    std::thread::sleep(settings.settle());
    let (start, before) = (std::time::Instant::now(), telemetry.sent(0)?);
    std::thread::sleep(settings.window);
    let (after, elapsed) = (telemetry.sent(0)?, start.elapsed());
    Ok((after - before) as f64 / elapsed.as_secs_f64() / 1e6)
}

/// One pair of short measurements, for continuous integration.
///
/// # Errors
/// When one of the processes fails.
pub fn short(mode: &'static str) -> Result<f64, Failure> {
    let settings = Settings {
        repetitions: 1,
        window: Duration::from_millis(500),
    };
    let (weir, testpmd) = case(&settings, mode, FILES[0].1, FILES[0].2)?;
    Ok(crate::median(weir) / crate::median(testpmd))
}
