//! `kill -9` of weirctl at any moment: what was committed last stays in force, and the next weirctl
//! works.

#![allow(clippy::unwrap_used)] // a test that cannot be set up has failed

mod support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use support::Daemon;
use weir_shm::client::Client;
use weir_shm::command::Difference;
use weir_shm::model::Pool;

/// Writers killed before they had ended.
const KILLS: u32 = 220;
/// Writers started at most, those that were too quick included.
const ROUNDS: u32 = 2000;
const BACKENDS: u32 = 1000;

/// A pool whose slot takes a while to fill.
fn config(backends: u32) -> String {
    let mut text = support::CONFIG.to_owned();
    for number in 0..backends {
        text += &format!("[[service.backend]]\naddress = \"2001:db8::2:{number:x}\"\n");
    }
    text
}

/// A small generator, so that the moments are many and the same each time (xorshift64).
fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

#[test]
fn a_killed_writer_leaves_the_last_commit_in_force() {
    let daemon = Daemon::with_config(&config(BACKENDS));
    let files: Vec<_> = [1, 2]
        .into_iter()
        .map(|weight| {
            let file = daemon.folder.path().join(format!("{weight}.toml"));
            let text = config(BACKENDS).replace("weight = 1 #", &format!("weight = {weight} #"));
            std::fs::write(&file, text).unwrap();
            file
        })
        .collect();
    let client = Client::open(daemon.folder.path(), "lb1").unwrap();
    let initial = client.running().unwrap().pool;
    let mut other = initial.clone();
    other.services[0].backends[0].weight = 2;

    // How long a whole run takes, so that kills fall everywhere in it; corrected as it goes on,
    // since the machine does other things, too.
    let started = Instant::now();
    daemon.run(&format!("apply {}", files[1].display()));
    let mut whole = started.elapsed();

    let (mut state, mut killed, mut changed) = (0x5eed_0bad_cafe, 0, 0);
    let mut before = client.running().unwrap();
    for round in 0..ROUNDS {
        if killed == KILLS {
            break;
        }
        let moment = whole.mul_f64(random(&mut state) as f64 / u64::MAX as f64);
        let file = &files[round as usize % 2];
        let mut writer = daemon
            .weirctl(&format!("apply {}", file.display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(moment);
        let ended = writer.try_wait().unwrap().is_some();
        killed += u32::from(!ended);
        whole = whole.mul_f64(if ended { 0.97 } else { 1.005 });
        writer.kill().ok();
        writer.wait().unwrap();
        // What is in force is one of the two pools, whole, and never an older generation. What the
        // writer committed just before it died may still be on its way.
        let after = settled(&client);
        assert!(
            is_same(&after.pool, &initial) || is_same(&after.pool, &other),
            "round {round}"
        );
        assert!(after.generation >= before.generation);
        assert!(
            client.status().unwrap().refusals.is_empty(),
            "{:?}",
            client.status()
        );
        changed += u32::from(after.generation > before.generation);
        before = after;
        if round % 20 == 0 {
            // And the next weirctl works.
            let weight = 100 + round;
            daemon.run(&format!("backend weight web 10.0.0.12:8080 {weight}"));
            daemon.run("backend weight web 10.0.0.12:8080 1");
            before = client.running().unwrap();
        }
    }
    println!("{killed} kills, {changed} changes went through");
    assert_eq!(
        killed, KILLS,
        "too many writers had ended before they were killed"
    );
    daemon.run(&format!("apply {}", files[0].display()));
    daemon.run(&format!("apply {}", files[1].display()));
    assert!(is_same(&client.running().unwrap().pool, &other));
}

fn is_same(one: &Pool, other: &Pool) -> bool {
    Difference::between(one, other).is_empty()
}

/// The pool in force once the daemon has looked at whatever was committed: it looks every half
/// millisecond.
fn settled(client: &Client) -> weir_shm::segment::directory::RunningDirectory {
    std::thread::sleep(Duration::from_millis(3));
    client.running().unwrap()
}
