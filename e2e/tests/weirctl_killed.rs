//! `kill -9` of weirctl at any moment leaves the last committed configuration in force, and the next weirctl works.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, backend4, instance};
use weir_e2e::load::requests;
use weir_e2e::nginx::Nginx;
use weir_e2e::{Result, ensure, host};

/// Times that weirctl is killed before it is done.
const KILLS: u64 = 250;
/// Attempts at most.
const MOST: u64 = 2000;
const BACKEND: &str = "10.0.0.11:8080";

/// Moments that cover `0..limit` evenly without repeating: multiples of the golden ratio.
fn moment(round: u64, limit: Duration) -> Duration {
    let fraction = (round as f64 * 0.618_033_988_749_895).fract();
    limit.mul_f64(fraction)
}

/// Starts a change of the backend's weight.
fn change(weir: &Daemon, weight: &str) -> Result<Child> {
    let mut command = weir.weirctl()?;
    command.args(["backend", "weight", "web", BACKEND, weight]);
    Ok(command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?)
}

#[test]
fn weirctl_killed_at_random_points_leaves_the_last_commit_in_force() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 2)?;
    let _b1 = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _b2 = Nginx::start(&lab.backends[1], lab.dir(), "b2")?;
    let name = instance();
    let backends = [1, 2].map(|n| format!("{} 8080", backend4(n)));
    let config = Config::one_armed(&name).service("web", "nat", "tcp", NAT_VIP4, "80", &backends);
    let mut weir = Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())?;

    // How long a change takes at least when nobody kills it.
    let mut quickest = Duration::MAX;
    for weight in ["2", "3", "4", "5", "2", "3", "4", "5"] {
        let began = Instant::now();
        let status = change(&weir, weight)?.wait()?;
        ensure!(status.success(), "weirctl ended with {status}");
        quickest = quickest.min(began.elapsed());
    }

    let (mut weight, mut killed, mut done) = (5, 0, 0);
    for round in 0..MOST {
        if killed >= KILLS {
            break;
        }
        let wanted = 1 + (weight + 1) % 9;
        let mut child = change(&weir, &wanted.to_string())?;
        std::thread::sleep(moment(round, quickest));
        child.kill()?;
        if child.wait()?.success() {
            done += 1;
        } else {
            killed += 1;
        }
        // The next weirctl works, and finds either the old state or the new one.
        let found = weir.weight("web", BACKEND)?;
        ensure!(
            found == weight || found == wanted,
            "round {round}: weight {found}, neither {weight} nor {wanted}"
        );
        weight = found;
        if round % 25 == 0 {
            let next = 1 + (weight + 1) % 9;
            weir.ctl(&["backend", "weight", "web", BACKEND, &next.to_string()])?;
            weight = next;
            requests(&lab.client, NAT_VIP4, 5)?;
        }
        weir.process().must_run()?;
    }
    eprintln!("{killed} killed, {done} done before; a change takes {quickest:?} at least");
    ensure!(
        killed >= KILLS,
        "only {killed} were killed in time, {done} had finished"
    );
    requests(&lab.client, NAT_VIP4, 50)?;
    weir.ctl(&["backend", "weight", "web", BACKEND, "1"])?;
    ensure!(
        weir.weight("web", BACKEND)? == 1,
        "the last change is not in force"
    );
    Ok(())
}
