//! O. What being watched costs: the rate of a worker at full load with metrics scraped every second,
//! and with a capture of one packet in a thousand beside it, against the same weir left alone.
//!
//! Both are taken in turns, a window each, the first of a pair being now the one and now the other,
//! so that a machine that grows slower or faster does not tell against either. What others do on the
//! machine only ever makes a window slower, by more than what is looked for, and for some tenths of a
//! second at a time. So each window is cut into tenths, and of each tenth of all windows, those few that
//! were least disturbed are compared: what is done once in a window is in its tenth of all. How far that
//! can be trusted is told by leaving out the windows of one repetition after the other.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weir_e2e::lab;
use weir_e2e::namespace::Namespace;
use weir_e2e::process::Process;

use super::Settings;
use crate::Failure;
use crate::record::Record;
use crate::rig::balancer::{Balancer, Setup};
use crate::rig::{self, said};

/// Where metrics are asked for, in the namespace of the figure.
const LISTEN: &str = "127.0.0.1:9100";
/// From one scrape to the next.
const INTERVAL: Duration = Duration::from_secs(1);
/// The shortest window: with a scrape in it.
const WINDOW: Duration = Duration::from_secs(1);
/// Pairs of windows a repetition: what is looked for is smaller than what two windows differ by anyway.
const PAIRS: usize = 8;
/// How long a scrape may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Parts of a window.
const PARTS: usize = 10;
/// Flows of the load: as many as a worker's second-level cache holds. With more, what the machine's other
/// tenants do to the cache that is shared is ten times what is looked for. A packet takes least time
/// then, so that what a capture adds to it weighs most.
const FLOWS: u32 = 4_096;

/// Measures both ways to watch.
///
/// # Errors
/// When weir or a watcher fails, or nothing was watched.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let dir = tempfile::tempdir()?;
    let namespace = Namespace::new("bench").map_err(said)?;
    let file = dir.path().join("flows.pcap");
    rig::capture(&file, FLOWS)?;
    let device = format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display());
    let setup = Setup {
        memory_mb: Some(256),
        ..Setup::new("dsr-l2", device)
    };
    let instance = lab::instance();
    let text = format!(
        "{}[metrics]\nlisten = \"{LISTEN}\"\n",
        setup.text(&instance)
    );
    let mut balancer = Balancer::start_with(&namespace, dir.path(), &instance, &text)?;
    std::thread::sleep(settings.settle().max(Duration::from_secs(1)));
    let window = settings.window.max(WINDOW);
    let weirctl = balancer.daemon().weirctl().map_err(said)?;
    let mut records = Vec::new();
    for (case, captures) in [
        ("scraped every second", false),
        ("scraped every second, 1 packet in 1,000 captured", true),
    ] {
        let (mut alone, mut watched, mut costs) = (Vec::new(), Vec::new(), Vec::new());
        let mut rates = || -> Result<Vec<f64>, Failure> {
            let part = window / PARTS as u32;
            (0..PARTS)
                .map(|_| balancer.rate(Duration::ZERO, part))
                .collect()
        };
        for turn in 0..settings.repetitions * PAIRS {
            let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
            for place in order {
                let rate = if place == 0 {
                    rates()?
                } else {
                    let capture = captures
                        .then(|| capture(&weirctl, dir.path()))
                        .transpose()?;
                    let rate = scraped(&namespace, &mut rates)?;
                    if let Some(capture) = capture {
                        end(capture, dir.path())?;
                    }
                    rate
                };
                [&mut alone, &mut watched][place].push(rate);
            }
        }
        for repetition in 0..settings.repetitions {
            let [left, seen] = [&alone, &watched].map(|windows| without(windows, repetition));
            costs.push((1.0 - undisturbed(&seen) / undisturbed(&left)) * 100.0);
        }
        let [alone, watched] = [&alone, &watched].map(|windows| whole(windows));
        records.push(
            Record::new('O', &format!("rate, {case}"), "Mpps", &watched)
                .beside("left alone", &alone),
        );
        records.push(Record::new(
            'O',
            &format!("cost of being {case}"),
            "%",
            &costs,
        ));
    }
    balancer.stop()?;
    Ok(records)
}

/// The rates of whole windows.
fn whole(windows: &[Vec<f64>]) -> Vec<f64> {
    let mean = |parts: &Vec<f64>| parts.iter().sum::<f64>() / parts.len() as f64;
    windows.iter().map(mean).collect()
}

/// All windows but those of one repetition, unless there is no other.
fn without(windows: &[Vec<f64>], repetition: usize) -> Vec<Vec<f64>> {
    let repetitions = || windows.chunks(PAIRS).enumerate();
    let is_only = repetitions().count() == 1;
    repetitions()
        .filter(|(number, _)| is_only || *number != repetition)
        .flat_map(|(_, windows)| windows.iter().cloned())
        .collect()
}

/// The rate that one window in eight reached in each of its parts: the mean over the parts.
fn undisturbed(windows: &[Vec<f64>]) -> f64 {
    let reached = |part: usize| {
        let mut rates: Vec<f64> = (windows.iter())
            .filter_map(|parts| parts.get(part).copied())
            .collect();
        rates.sort_unstable_by(f64::total_cmp);
        rates.get(rates.len() * 7 / 8).copied().unwrap_or(f64::NAN)
    };
    (0..PARTS).map(reached).sum::<f64>() / PARTS as f64
}

/// Does something while metrics are scraped.
fn scraped<T>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (stop, scrapes) = (AtomicBool::new(false), AtomicU64::new(0));
    let outcome = std::thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            namespace
                .run(|| -> std::io::Result<()> {
                    while !stop.load(Ordering::Acquire) {
                        let start = Instant::now();
                        scrape()?;
                        scrapes.fetch_add(1, Ordering::Relaxed);
                        while start.elapsed() < INTERVAL && !stop.load(Ordering::Acquire) {
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    }
                    Ok(())
                })
                .map_err(said)
        });
        let outcome = work();
        stop.store(true, Ordering::Release);
        let scraped = scraper.join().map_err(|_| "the scraper panicked")?;
        scraped??;
        outcome
    })?;
    match scrapes.load(Ordering::Relaxed) {
        0 => Err("metrics were not scraped".into()),
        _ => Ok(outcome),
    }
}

/// One scrape, as Prometheus does it.
fn scrape() -> std::io::Result<()> {
    let mut stream = TcpStream::connect(LISTEN)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: weir\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    if page.contains("weir_worker_busy_seconds_total") {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("no metrics: {page}")))
    }
}

/// Starts `weirctl capture` into a file.
fn capture(weirctl: &std::process::Command, dir: &Path) -> Result<Process, Failure> {
    let file = dir.join("watched.pcapng");
    let mut command = std::process::Command::new(weirctl.get_program());
    command.args(weirctl.get_args());
    for (key, value) in weirctl.get_envs() {
        if let Some(value) = value {
            command.env(key, value);
        }
    }
    command
        .args(["capture", "--sample", "1000", "--write"])
        .arg(file);
    let capture = Process::start("weirctl", &command, &dir.join("capture.log")).map_err(said)?;
    // It has begun before the clock does.
    std::thread::sleep(Duration::from_millis(300));
    Ok(capture)
}

/// Ends a capture, which must have seen packets.
fn end(mut capture: Process, dir: &Path) -> Result<(), Failure> {
    capture.must_run().map_err(said)?;
    capture
        .signal(nix::sys::signal::Signal::SIGINT)
        .map_err(said)?;
    let status = capture.wait(Duration::from_secs(10)).map_err(said)?;
    let size = std::fs::metadata(dir.join("watched.pcapng"))?.len();
    if status.success() && size > 10_000 {
        return Ok(());
    }
    Err(format!(
        "the capture of {size} bytes ended with {status}: {}",
        capture.log()
    )
    .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_slow_in_one_part_of_every_window_counts_and_what_is_slow_now_and_then_does_not() {
        let quiet = || vec![20.0; PARTS];
        let alone: Vec<_> = (0..8)
            .map(|window| {
                let mut rates = quiet();
                rates[window % PARTS] = 11.0;
                rates
            })
            .collect();
        assert_eq!(undisturbed(&alone), 20.0);
        let mut scraped = alone.clone();
        scraped.iter_mut().for_each(|rates| rates[0] = 18.0);
        assert!((undisturbed(&scraped) - 19.8).abs() < 1e-9);
        assert!((whole(&scraped)[1] - 18.9).abs() < 1e-9);
    }

    #[test]
    fn each_repetition_is_left_out_once_unless_it_is_the_only_one() {
        let windows: Vec<_> = (0..3 * PAIRS).map(|number| vec![number as f64]).collect();
        let others = without(&windows, 1);
        assert_eq!(others.len(), 2 * PAIRS);
        assert!(others.iter().all(|rates| (rates[0] as usize) / PAIRS != 1));
        assert_eq!(without(&windows[..PAIRS], 0), windows[..PAIRS]);
    }
}
