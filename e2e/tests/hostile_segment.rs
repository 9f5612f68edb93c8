//! Garbage in the shared-memory segment is refused with a reason, and the daemon keeps forwarding.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::load::{Load, requests};
use weir_e2e::nginx::Nginx;
use weir_e2e::transfer::pattern;
use weir_e2e::{Failure, Result, ensure, host};

const BACKEND: &str = "10.0.0.11:8080";

struct Scene {
    weir: Daemon,
    segment: File,
    length: u64,
}

impl Scene {
    fn start(lab: &Lab) -> Result<Self> {
        let name = instance();
        let backends = [1, 2].map(|n| format!("{} 8080", backend4(n)));
        let config =
            Config::one_armed(&name).service("web", "nat", "tcp", NAT_VIP4, "80", &backends);
        let weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;
        let segment = OpenOptions::new()
            .read(true)
            .write(true)
            .open(weir.segment())?;
        let length = segment.metadata()?.len();
        Ok(Self {
            weir,
            segment,
            length,
        })
    }

    /// weirctl may refuse, with a reason, but must neither crash nor hang on what it finds.
    fn weirctl_copes(&self, arguments: &[&str]) -> Result<bool> {
        let output = self.weir.ctl_output(arguments)?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        match output.status.code() {
            Some(0) => Ok(true),
            Some(1) if !said.trim().is_empty() => Ok(false),
            _ => Err(Failure::new(format!(
                "weirctl {arguments:?} ended with {}: {said}",
                output.status
            ))),
        }
    }
}

#[test]
fn random_bytes_anywhere_in_the_segment_stop_neither_traffic_nor_the_daemon() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _b1 = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _b2 = Nginx::start(&lab.backends[1], lab.dir(), "b2")?;
    let mut scene = Scene::start(&lab)?;
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;

    let mut random = pattern(20_261_120);
    let mut number = |limit: u64| {
        let mut bytes = [0; 8];
        bytes.fill_with(|| random.next().unwrap_or_default());
        u64::from_le_bytes(bytes) % limit
    };
    for round in 0..200u64 {
        // Mostly the head of the segment, where its structure is; sometimes anywhere; all lengths from a bit to pages.
        let span = if round % 4 == 0 {
            scene.length
        } else {
            scene.length.min(65_536)
        };
        let at = number(span);
        let length = (1 << number(14)).min(scene.length - at);
        let mut before = vec![0; usize::try_from(length)?];
        scene.segment.read_exact_at(&mut before, at)?;
        let mut garbage: Vec<u8> = pattern(round).take(before.len()).collect();
        if length == 1 {
            garbage[0] = before[0] ^ (1 << number(8));
        }
        scene.segment.write_all_at(&garbage, at)?;

        scene.weirctl_copes(&["status"])?;
        scene.weirctl_copes(&["backend", "weight", "web", BACKEND, "2"])?;
        scene.weir.process().must_run()?;
        if round % 20 == 0 {
            requests(&lab.client, NAT_VIP4, 5)?;
        }
        scene.segment.write_all_at(&before, at)?;
    }
    load.stop_without_failures()?;
    requests(&lab.client, NAT_VIP4, 50)?;
    scene.weir.process().must_run()
}

#[test]
fn a_segment_full_of_garbage_is_refused_with_a_reason_and_traffic_goes_on() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _b1 = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _b2 = Nginx::start(&lab.backends[1], lab.dir(), "b2")?;
    let mut scene = Scene::start(&lab)?;
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    for filling in [0x00, 0xff, 0xa5] {
        let garbage = vec![filling; usize::try_from(scene.length)?];
        scene.segment.write_all_at(&garbage, 0)?;
        ensure!(
            !scene.weirctl_copes(&["status"])?,
            "a segment of {filling:#04x} was taken for good"
        );
        ensure!(
            !scene.weirctl_copes(&["backend", "weight", "web", BACKEND, "2"])?,
            "a change was acknowledged through a segment of {filling:#04x}"
        );
        std::thread::sleep(Duration::from_millis(300));
        scene.weir.process().must_run()?;
        requests(&lab.client, NAT_VIP4, 5)?;
    }
    load.stop_without_failures()?;
    scene.weir.process().must_run()
}

#[test]
fn a_truncated_segment_is_refused_with_a_reason_and_traffic_goes_on() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _b1 = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _b2 = Nginx::start(&lab.backends[1], lab.dir(), "b2")?;
    for length in [8192, 100, 0] {
        let mut scene = Scene::start(&lab)?;
        scene.segment.set_len(length)?;
        ensure!(
            !scene.weirctl_copes(&["status"])?,
            "a segment of {length} bytes was taken for good"
        );
        std::thread::sleep(Duration::from_millis(300));
        scene.weir.process().must_run()?;
        requests(&lab.client, NAT_VIP4, 20)?;
        scene.weir.process().must_run()?;
    }
    Ok(())
}
