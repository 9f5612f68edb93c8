//! What is for weir itself is answered by weir itself: ARP, NDP and ping of its own addresses and of VIPs.

use weir_e2e::config::Config;
use weir_e2e::daemon::Daemon;
use weir_e2e::lab::{Arms, Lab, NAT_VIP4, NAT_VIP6, backend4, backend6, instance};
use weir_e2e::load::requests;
use weir_e2e::nginx::Nginx;
use weir_e2e::process::capture;
use weir_e2e::{Result, ensure, host};

fn started(lab: &Lab) -> Result<Daemon> {
    let name = instance();
    let config = Config::one_armed(&name)
        .service(
            "web",
            "nat",
            "tcp",
            NAT_VIP4,
            "80",
            &[format!("{} 8080", backend4(1))],
        )
        .service(
            "web6",
            "nat",
            "tcp",
            NAT_VIP6,
            "80",
            &[format!("{} 8080", backend6(1))],
        );
    Daemon::start(&lab.balancer, lab.dir(), &name, &config.text())
}

#[test]
fn own_addresses_and_vips_answer_pings() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let _weir = started(&lab)?;
    for (namespace, address) in [
        (&lab.client, "192.0.2.2"),
        (&lab.client, "2001:db8:1::2"),
        (&lab.client, NAT_VIP4),
        (&lab.client, NAT_VIP6),
        (&lab.backends[0], "10.0.0.1"),
        (&lab.backends[0], "2001:db8:2::1"),
    ] {
        for size in ["0", "56", "57", "1400"] {
            let mut ping = namespace.command("ping");
            capture(ping.args([
                "-n", "-c", "3", "-i", "0.05", "-W", "2", "-s", size, address,
            ]))?;
        }
    }
    let errors = lab.checksum_errors()?;
    ensure!(errors.is_empty(), "{errors}");
    Ok(())
}

#[test]
fn the_first_packet_to_a_backend_that_is_not_resolved_yet_is_not_lost() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let _nginx = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _weir = started(&lab)?;
    for vip in [NAT_VIP4.to_owned(), format!("[{NAT_VIP6}]")] {
        // Were the first SYN lost, the kernel would send it again after a second.
        let mut curl = lab.client.command("curl");
        curl.args([
            "-sS",
            "--fail",
            "--max-time",
            "0.9",
            &format!("http://{vip}/"),
        ]);
        ensure!(
            capture(&mut curl)?.trim() == "b1",
            "another server answered"
        );
    }
    Ok(())
}

#[test]
fn an_address_that_nobody_has_is_not_answered_for() -> Result {
    if !host::ready()? {
        return Ok(());
    }
    let lab = Lab::new(Arms::One, 1)?;
    let _nginx = Nginx::start(&lab.backends[0], lab.dir(), "b1")?;
    let _weir = started(&lab)?;
    requests(&lab.client, NAT_VIP4, 1)?;
    let mut ping = lab.client.command("ping");
    ping.args(["-n", "-c", "1", "-W", "1", "192.0.2.77"]);
    ensure!(
        capture(&mut ping).is_err(),
        "192.0.2.77 is nobody's, and something answered for it"
    );
    Ok(())
}
