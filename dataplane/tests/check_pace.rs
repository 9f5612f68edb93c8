//! Checks of a large pool never come in bursts: at no time do more begin together than chance would
//! have it of checks that know nothing of each other.
#![allow(clippy::unwrap_used)] // a helper that cannot go on fails its test

use std::fmt::Write;
use std::path::Path;

use weir::config::Config;
use weir::control::health::{Checker, PORTS};
use weir_shm::model::Pool;

const SECOND: u64 = 1_000_000_000;
const BACKENDS: usize = 2_000;
const INTERVAL: u64 = 2;

fn config(timeout: &str) -> Config {
    let mut text = format!(
        "[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\naddresses = [\"10.0.0.1/16\"]\n\
         mac = \"02:00:00:00:00:01\"\n\
         [[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80\nprotocol = \"tcp\"\n\
         forwarding = \"nat\"\n[service.health]\nkind = \"icmp\"\ninterval = \"{INTERVAL}s\"\n\
         timeout = \"{timeout}\"\n"
    );
    for number in 0..BACKENDS {
        let (high, low) = (1 + number / 250, 1 + number % 250);
        writeln!(text, "[[service.backend]]\naddress = \"10.0.{high}.{low}\"").unwrap();
    }
    Config::parse(Path::new("test.toml"), &text).unwrap()
}

/// The answer to an echo request.
fn reply(mut packet: Vec<u8>) -> Vec<u8> {
    let (from, to) = (packet[12..16].to_vec(), packet[16..20].to_vec());
    packet[12..16].copy_from_slice(&to);
    packet[16..20].copy_from_slice(&from);
    assert_eq!(packet[20], 8);
    packet[20] = 0;
    let sum = u32::from(u16::from_be_bytes([packet[22], packet[23]])) + 0x0800;
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[22..24].copy_from_slice(&(sum as u16).to_be_bytes());
    packet
}

/// A checker and when its checks began.
struct Pace {
    checker: Checker,
    now: u64,
    answers: bool,
    begun: Vec<u64>,
}

impl Pace {
    fn run(&mut self, nanos: u64) {
        let end = self.now + nanos;
        while let Some(due) = self.checker.next_due().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.checker.tick(self.now);
            // A check by ICMP is one packet.
            for leaving in self.checker.take_leaving() {
                self.begun.push(self.now);
                if self.answers {
                    assert!(self.checker.hear(self.now, &reply(leaving.packet)));
                }
            }
        }
        self.now = end;
    }

    /// The most checks that began within any time so long.
    fn most_within(&self, window: u64) -> usize {
        let mut first = 0;
        let mut most = 0;
        for (last, at) in self.begun.iter().enumerate() {
            while self.begun[first] + window <= *at {
                first += 1;
            }
            most = most.max(last + 1 - first);
        }
        most
    }
}

#[test]
fn two_thousand_checks_every_two_seconds_never_come_in_bursts() {
    for seed in [1, 2] {
        for (timeout, answers) in [("1s", true), ("1s", false), ("2s", false)] {
            let config = config(timeout);
            let mut pace = Pace {
                checker: Checker::new(Some(seed), PORTS),
                now: SECOND,
                answers,
                begun: Vec::new(),
            };
            pace.checker
                .follow(pace.now, &config, &Pool::default(), &config.pool);
            pace.run(20 * SECOND);
            // A machine that stood still has missed many.
            pace.now += 10 * SECOND;
            pace.run(20 * SECOND);
            // An operator asks for other checks of all of them.
            let mut pool = config.pool.clone();
            pool.services[0].health.timeout /= 2;
            pace.checker.follow(pace.now, &config, &config.pool, &pool);
            pace.run(20 * SECOND);

            // Up to a tenth early, by chance, is a twentieth on average.
            let each_second = BACKENDS as f64 / (INTERVAL as f64 * 0.95);
            let checks = pace.begun.len() as f64 / 60.0;
            assert!(
                checks > 0.9 * each_second && checks < 1.05 * each_second,
                "{checks} a second"
            );
            for window in [SECOND / 100, SECOND / 10, SECOND] {
                let mean = each_second * window as f64 / SECOND as f64;
                let most = pace.most_within(window) as f64;
                // Seven deviations of a Poisson process.
                assert!(
                    most <= mean + 7.0 * mean.sqrt(),
                    "seed {seed}, {timeout}, {answers}: {most} within {window} ns, {mean} on average"
                );
            }
        }
    }
}
