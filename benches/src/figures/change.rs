//! F. A pool change while the worker is at full load: from the start of `weirctl` to its end, when
//! every worker has acknowledged, and the packets that it costs. Then a pool of a thousand services with
//! a hundred backends each, put in force as one change beside the service that carries the load.

use std::fmt::Write as _;
use std::path::Path;
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
    let large = large_pool(&mut balancer, &setup, dir.path(), settings)?;
    balancer.stop()?;
    let mut records = vec![
        Record::new(
            'F',
            "start of weirctl to every worker's acknowledgement, 100 backends, full load",
            "ms",
            &times,
        ),
        Record::new('F', "packets lost in 20 changes", "packets", &lost),
    ];
    records.extend(large);
    Ok(records)
}

/// Services of the large pool, and backends of each.
const LARGE: (u32, u32) = (1_000, 100);

/// A pool of [`LARGE`] services, put in force at once.
fn large_pool(
    balancer: &mut Balancer,
    setup: &Setup,
    dir: &Path,
    settings: &Settings,
) -> Result<Vec<Record>, Failure> {
    let program = weir_e2e::host::binary("weirctl").map_err(said)?;
    let (small, large) = (dir.join("small.toml"), dir.join("large.toml"));
    std::fs::write(&small, setup.service())?;
    let (mut times, mut one, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    let run = |balancer: &mut Balancer, arguments: &[&str]| -> Result<f64, Failure> {
        let mut weirctl = Command::new(&program);
        weirctl
            .args([
                "--instance",
                balancer.daemon().instance(),
                "--ack-timeout",
                "60s",
            ])
            .args(arguments);
        let start = Instant::now();
        weir_e2e::process::capture(&mut weirctl).map_err(said)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let [small_name, large_name] = [&small, &large].map(|path| path.display().to_string());
    for repetition in 0..settings.repetitions.min(3) {
        // Other weights each time, so that every table is built.
        let text = setup.service() + &services(LARGE.0 - 1, LARGE.1, repetition as u32);
        std::fs::write(&large, text)?;
        let before = balancer.count()?;
        times.push(run(balancer, &["apply", &large_name])?);
        let weight = (2 + repetition % 2).to_string();
        let name = backend(repetition as u32);
        one.push(run(balancer, &["backend", "weight", "web", &name, &weight])? * 1e3);
        let after = balancer.count()?;
        if after.forwarded == before.forwarded {
            return Err("there was no load".into());
        }
        lost.push((after.dropped - before.dropped) as f64);
        run(balancer, &["apply", &small_name])?;
    }
    Ok(vec![
        Record::new(
            'F',
            "apply 1,000 x 100, validated, acknowledged, all tables built",
            "s",
            &times,
        ),
        Record::new('F', "one weight in a pool of 100,000 backends", "ms", &one),
        Record::new('F', "packets lost in both", "packets", &lost),
    ])
}

/// Services in TOML that no packet goes to; `round` decides on weights.
fn services(count: u32, backends: u32, round: u32) -> String {
    let mut text = String::new();
    for service in 0..count {
        let _ = write!(
            text,
            "[[service]]\nname = \"s{service}\"\nvip = \"192.88.{}.{}\"\nport = 80\nprotocol = \"tcp\"\n\
             forwarding = \"nat\"\n",
            service / 250,
            service % 250 + 1
        );
        for backend in 0..backends {
            let number = service * backends + backend + 256;
            let _ = write!(
                text,
                "[[service.backend]]\naddress = \"10.{}.{}.{}\"\nweight = {}\n",
                100 + (number >> 16),
                number >> 8 & 0xff,
                number & 0xff,
                1 + (backend + round) % 3
            );
        }
    }
    text
}
