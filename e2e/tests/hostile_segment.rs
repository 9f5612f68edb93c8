//! Garbage in the shared-memory segment is refused, said to be there, and put right; the daemon keeps forwarding.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::load::{Load, requests};
use weir_e2e::nginx::Nginx;
use weir_e2e::transfer::pattern;
use weir_e2e::{Failure, Result, ensure, host, wait};

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

    /// The daemon says that it found damage (for the n-th time), has put it right, and obeys as before.
    fn is_put_right(&mut self, damages: usize) -> Result {
        wait::until_true(
            "the daemon to notice the damage",
            Duration::from_secs(10),
            || {
                self.weir
                    .log()
                    .matches("the segment was damaged and put right")
                    .count()
                    >= damages
            },
        )?;
        // What the daemon writes now and then (figures of ports and workers) is put right when it is due.
        let pid = self.weir.process().pid();
        wait::until_true(
            "weirctl to read the segment again",
            Duration::from_secs(5),
            || {
                let status = self.weir.ctl_json(&["status"]);
                status.is_ok_and(|status| status["pid"] == pid && status["state"] == "running")
            },
        )?;
        let weight = 2 + self.weir.weight("web", BACKEND)? % 5;
        self.weir
            .ctl(&["backend", "weight", "web", BACKEND, &weight.to_string()])?;
        ensure!(
            self.weir.weight("web", BACKEND)? == weight,
            "a change is not in force"
        );
        Ok(())
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
fn random_bytes_anywhere_in_the_segment_are_put_right_and_traffic_goes_on() -> Result {
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
        let weight = (round % 9 + 1).to_string();
        scene.weirctl_copes(&["backend", "weight", "web", BACKEND, &weight])?;
        scene.weir.process().must_run()?;
        if round % 20 == 0 {
            requests(&lab.client, NAT_VIP4, 5)?;
        }
    }
    load.stop_without_failures()?;
    requests(&lab.client, NAT_VIP4, 50)?;
    scene.is_put_right(1)
}

#[test]
fn a_segment_full_of_garbage_is_put_right_and_traffic_goes_on() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _b1 = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _b2 = Nginx::start(&lab.backends[1], lab.dir(), "b2")?;
    let mut scene = Scene::start(&lab)?;
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    for (damages, filling) in [(1, 0x00), (2, 0xff), (3, 0xa5)] {
        let garbage = vec![filling; usize::try_from(scene.length)?];
        scene.segment.write_all_at(&garbage, 0)?;
        scene.weirctl_copes(&["backend", "weight", "web", BACKEND, "7"])?;
        scene.is_put_right(damages)?;
        requests(&lab.client, NAT_VIP4, 5)?;
    }
    load.stop_without_failures()?;
    scene.weir.process().must_run()
}

#[test]
fn a_truncated_segment_is_put_right_and_traffic_goes_on() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _b1 = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _b2 = Nginx::start(&lab.backends[1], lab.dir(), "b2")?;
    let mut scene = Scene::start(&lab)?;
    let load = Load::start(&lab.client, lab.dir(), NAT_VIP4)?;
    for (damages, length) in [(1, 8192), (2, 100), (3, 0)] {
        scene.segment.set_len(length)?;
        scene.weirctl_copes(&["status"])?;
        scene.is_put_right(damages)?;
        requests(&lab.client, NAT_VIP4, 5)?;
    }
    load.stop_without_failures()?;
    scene.weir.process().must_run()
}

#[test]
fn a_removed_segment_is_made_anew_and_traffic_goes_on() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _b1 = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _b2 = Nginx::start(&lab.backends[1], lab.dir(), "b2")?;
    let mut scene = Scene::start(&lab)?;
    std::fs::remove_file(scene.weir.segment())?;
    wait::until_true("the segment to be back", Duration::from_secs(10), || {
        scene
            .weir
            .ctl(&["backend", "weight", "web", BACKEND, "3"])
            .is_ok()
    })?;
    ensure!(
        scene.weir.weight("web", BACKEND)? == 3,
        "a change is not in force"
    );
    requests(&lab.client, NAT_VIP4, 20)?;
    scene.weir.process().must_run()
}
