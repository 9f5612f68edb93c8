//! Two workers with a queue each, over AF_XDP: clients' packets come to both, and answers, whose queue nobody chose, to the
//! worker that owns the session or to the other, which hands them over. Transfers are compared byte for byte.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use weir_e2e::checks::backends;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, NAT_VIP6, backend4, backend6};
use weir_e2e::load::Load;
use weir_e2e::nginx::Nginx;
use weir_e2e::transfer::{Echo, tcp_round_trip, udp_round_trips};
use weir_e2e::two_workers::{config, of_workers, start};
use weir_e2e::{Result, ensure, host, sockets};

const BACKENDS: usize = 2;
/// Modes with the first of their ports at the VIPs and at backends: TCP, and UDP behind it.
const MODES: [(&str, &str, u16); 2] = [
    ("nat", "", 7000),
    (
        "full-nat",
        "snat_pool = [\"10.0.0.5\", \"2001:db8:2::5\"]\n",
        7100,
    ),
];
/// Connections, and sockets for datagrams, of each mode and family: one in 2^24 runs gives all to one worker.
const FLOWS: u64 = 24;

#[test]
fn two_workers_share_the_work_and_hand_over_answers_of_full_nat_sessions() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::queued(Arms::One, BACKENDS, 2)?;
    let mut echo = Echo::new();
    for (n, backend) in (1..).zip(&lab.backends) {
        for (_, _, port) in MODES {
            for address in [backend4(n), backend6(n)] {
                let at = SocketAddr::new(address.parse()?, port);
                echo.tcp(sockets::listen(backend, at)?, "")?;
                let at = SocketAddr::new(address.parse()?, port + 1);
                echo.udp(sockets::udp(backend, at)?)?;
            }
        }
    }
    let mut config = config();
    for (mode, keys, port) in MODES {
        for (family, vip, address) in [
            ("4", NAT_VIP4, backend4 as fn(usize) -> String),
            ("6", NAT_VIP6, backend6),
        ] {
            for (protocol, port) in [("tcp", port), ("udp", port + 1)] {
                let to = backends((1..=BACKENDS).map(address), port);
                let name = format!("{mode}-{protocol}-{family}");
                config = config
                    .service(&name, mode, protocol, vip, &port.to_string(), &to)
                    .service_text(keys);
            }
        }
    }
    let mut weir = start(&lab, config, "")?;
    for (mode, _, port) in MODES {
        let before = of_workers(&weir, "forwarded")?;
        ensure!(before.len() == 2, "not two workers: {before:?}");
        for vip in [NAT_VIP4, NAT_VIP6] {
            let vip: IpAddr = vip.parse()?;
            let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            for seed in 0..FLOWS {
                let stream = sockets::connect(&lab.client, SocketAddr::new(vip, port))?;
                tcp_round_trip(&stream, 300_000, seed)?;
                let socket = sockets::udp(&lab.client, any.parse()?)?;
                let lengths = [0, 1, 1400, 8000];
                udp_round_trips(&socket, SocketAddr::new(vip, port + 1), lengths)?;
            }
        }
        let after = of_workers(&weir, "forwarded")?;
        let forwarded: Vec<u64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
        let handed_over = of_workers(&weir, "handed_over")?;
        println!("{mode}: workers forwarded {forwarded:?}, handed over {handed_over:?} so far");
        ensure!(
            forwarded.iter().all(|frames| *frames > 100),
            "{mode}: a worker did nothing: {forwarded:?}"
        );
        if mode == "full-nat" {
            ensure!(
                handed_over.iter().all(|frames| *frames > 0),
                "no answer came to the other worker: {handed_over:?}"
            );
        }
    }
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "kernels found errors:\n{errors}");
    // Every buffer is home.
    ensure!(
        weir.terminate()?.success(),
        "weir did not end well:\n{}",
        weir.log()
    );
    Ok(())
}

#[test]
fn with_two_workers_a_pool_that_changes_under_load_fails_no_request() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::queued(Arms::One, BACKENDS + 1, 2)?;
    let _servers = Nginx::start_all(&lab)?;
    let mut all = config();
    for ((mode, keys, _), vip, port) in
        [(MODES[0], NAT_VIP4, 8080), (MODES[1], "198.51.100.11", 80)]
    {
        let to = backends((1..=BACKENDS + 1).map(backend4), port);
        all = all
            .service(mode, mode, "tcp", vip, "80", &to)
            .service_text(keys);
    }
    let mut weir = start(&lab, all, "")?;
    for (service, vip) in [("nat", NAT_VIP4), ("full-nat", "198.51.100.11")] {
        let before = of_workers(&weir, "forwarded")?;
        let load = Load::start(&lab.client, lab.dir(), vip)?;
        let third = weir.nth_backend(service, 2)?;
        weir.ctl(&["backend", "drain", service, &third, "--wait"])?;
        weir.ctl(&["backend", "remove", service, &third])?;
        weir.ctl(&["backend", "add", service, &third, "--weight", "3"])?;
        let first = weir.nth_backend(service, 0)?;
        weir.ctl(&["backend", "weight", service, &first, "2"])?;
        std::thread::sleep(Duration::from_secs(1));
        let requests = load.stop_without_failures()?;
        let after = of_workers(&weir, "forwarded")?;
        println!("{service}: {requests} requests, frames by worker {before:?}, then {after:?}");
        let moved = after.iter().zip(&before).all(|(a, b)| a > b);
        ensure!(moved, "{service}: a worker did nothing");
    }
    ensure!(
        weir.terminate()?.success(),
        "weir did not end well:\n{}",
        weir.log()
    );
    Ok(())
}
