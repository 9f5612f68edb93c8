//! F. A pool change while the worker is at full load: from the start of `weirctl` to its end, when
//! every worker has acknowledged, and the packets that it costs.

use std::process::Command;
use std::time::{Duration, Instant};

use weir_e2e::namespace::Namespace;

use super::Settings;
use crate::Failure;
use crate::record::Record;
use crate::rig::balancer::{Balancer, Setup, backend};
use crate::rig::{self, said};

/// Changes a repetition.
const CHANGES: u32 = 20;

/// Measures both cases.
///
/// # Errors
/// When weir or weirctl fails.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let dir = tempfile::tempdir()?;
    let namespace = Namespace::new("bench").map_err(said)?;
    let file = dir.path().join("flows.pcap");
    rig::capture(&file, 4_096)?;
    let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
    let setup = Setup {
        memory_mb: Some(64),
        ..Setup::new("dsr-l2", device)
    };
    let mut balancer = Balancer::start(&namespace, dir.path(), &setup)?;
    std::thread::sleep(settings.settle());
    let program = weir_e2e::host::binary("weirctl").map_err(said)?;
    let (mut times, mut lost) = (Vec::new(), Vec::new());
    for repetition in 0..settings.repetitions {
        let before = balancer.count()?;
        for change in 0..CHANGES {
            let weight = (2 + (repetition as u32 + change) % 2).to_string();
            let name = backend(change % setup.backends);
            let mut weirctl = Command::new(&program);
            weirctl
                .args(["--instance", balancer.daemon().instance()])
                .args(["backend", "weight", "web", &name, &weight]);
            let start = Instant::now();
            weir_e2e::process::capture(&mut weirctl).map_err(said)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            // Changes of an operator, not a queue of them.
            std::thread::sleep(Duration::from_millis(20));
        }
        let after = balancer.count()?;
        if after.forwarded == before.forwarded {
            return Err("there was no load".into());
        }
        lost.push((after.dropped - before.dropped) as f64);
    }
    balancer.stop()?;
    Ok(vec![
        Record::new(
            'F',
            "start of weirctl to every worker's acknowledgement, 100 backends, full load",
            "ms",
            &times,
        ),
        Record::new('F', "packets lost in 20 changes", "packets", &lost),
    ])
}
