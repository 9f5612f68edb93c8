//! I. weir over AF_XDP between two veth pairs, `nat` to four backends, beside nftables DNAT in the
//! same namespaces. The sender (AF_XDP as well) has one core, the balancer another.
//!
//! Delivered is what the backends' interface takes in; it is thrown away there.

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use weir_e2e::lab::{self, instance};
use weir_e2e::namespace::Namespace;
use weir_e2e::process::capture;
use weir_e2e::{cores, host};

use super::Settings;
use crate::Failure;
use crate::record::Record;
use crate::rig::balancer::{Balancer, VIP};
use crate::rig::{kernel, said};

const YARDSTICK: &str = "nftables DNAT";
const BACKENDS: usize = 4;
/// Flows, all of which the balancer knows when it is measured.
const FLOWS: u32 = 1_000_000;
/// Packets a second at which nothing may be lost.
const RATE: u64 = 1_200_000;
/// Entries of the kernel's connection table: its own default is fewer than the flows here.
const CONNTRACK_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Client, balancer and backends in a row.
struct Row {
    client: Namespace,
    balancer: Namespace,
    servers: Namespace,
    dir: TempDir,
}

impl Row {
    fn new() -> Result<Self, Failure> {
        let row = Self {
            client: Namespace::new("client").map_err(said)?,
            balancer: Namespace::new("balancer").map_err(said)?,
            servers: Namespace::new("servers").map_err(said)?,
            dir: tempfile::tempdir()?,
        };
        for namespace in [&row.client, &row.balancer, &row.servers] {
            for which in ["all", "default"] {
                let key = format!("net.ipv6.conf.{which}.disable_ipv6");
                namespace.sysctl(&key, "1").map_err(said)?;
            }
        }
        lab::wire(&row.client, "eth0", &row.balancer, "eth0").map_err(said)?;
        lab::wire(&row.servers, "eth0", &row.balancer, "eth1").map_err(said)?;
        kernel::nft(
            &row.servers,
            "table netdev sink {\n chain in {\n  type filter hook ingress device eth0 priority 0; policy drop;\n }\n}\n",
        )?;
        Ok(row)
    }

    fn backends(&self) -> Vec<String> {
        (1..=BACKENDS).map(lab::backend4).collect()
    }

    /// weir's configuration: neighbours are given, since the backends answer nothing.
    fn config(&self, instance: &str) -> Result<String, Failure> {
        let mac = self.servers.mac("eth0").map_err(said)?;
        let backends = self.backends();
        let neighbour =
            |address: &String| format!("[[neighbor]]\naddress = \"{address}\"\nmac = \"{mac}\"\n");
        let neighbours: String = backends.iter().map(neighbour).collect();
        let mut config = weir_e2e::config::Config::two_armed(instance);
        config.memory = "hugepages";
        config.engine = format!("flows_per_worker = {FLOWS}\n");
        config.ports += "\n[[route]]\nto = \"198.18.0.0/16\"\nvia = \"192.0.2.10\"\n";
        config.ports += &neighbours;
        Ok(config
            .service("web", "nat", "udp", VIP, "80", &backends)
            .text())
    }

    /// Makes the kernel balance.
    fn start_nft(&self) -> Result<(), Failure> {
        kernel::route(
            &self.balancer,
            &[("eth0", "192.0.2.2/24"), ("eth1", "10.0.0.1/24")],
        )?;
        let mac = self.servers.mac("eth0").map_err(said)?;
        for backend in self.backends() {
            let neighbour = format!("neigh replace {backend} lladdr {mac} dev eth1 nud permanent");
            self.balancer.ip(&neighbour).map_err(said)?;
        }
        // Clients' packets come from everywhere.
        for which in ["all", "eth0"] {
            let key = format!("net.ipv4.conf.{which}.rp_filter");
            self.balancer.sysctl(&key, "0").map_err(said)?;
        }
        kernel::nft(
            &self.balancer,
            &kernel::dnat("udp", VIP, 80, &self.backends(), 80),
        )?;
        // The balancer's work on the core that is weir's worker's otherwise.
        let mask = format!("{:x}", 1u64 << cores::worker());
        let set = format!("echo {mask} > /sys/class/net/eth0/queues/rx-0/rps_cpus");
        capture(self.balancer.command("sh").args(["-c", &set])).map_err(said)?;
        Ok(())
    }

    fn stop_nft(&self) -> Result<(), Failure> {
        kernel::nft(&self.balancer, "delete table ip lb\n")?;
        let set = "echo 0 > /sys/class/net/eth0/queues/rx-0/rps_cpus";
        capture(self.balancer.command("sh").args(["-c", set])).map_err(said)?;
        kernel::unroute(&self.balancer, &["eth0", "eth1"])
    }

    /// Sends by these options of the generator.
    fn send(&self, options: &[&str]) -> Result<Delivery, Failure> {
        let mac = self.balancer.mac("eth0").map_err(said)?;
        let flows = FLOWS.to_string();
        let program = host::binary("weir-pktgen").map_err(said)?;
        let mut pktgen = self.client.command_on("0", "timeout");
        pktgen.args(["-k", "2", "20"]).arg(program);
        pktgen
            .args([
                "run",
                "--device",
                "net_af_xdp0,iface=eth0",
                "--memory",
                "hugepages",
            ])
            .args([
                "--core",
                "0",
                "--idle",
                "poll",
                "--one-way",
                "--drain",
                "100ms",
            ])
            .args(["--vip", VIP, "--dst-mac", &mac, "--flows", &flows, "--json"])
            .args(options);
        let before = kernel::received(&self.servers, "eth0")?;
        let output = pktgen.output()?;
        // AF_XDP's driver keeps buffers, for which the generator ends with 1; its report counts.
        let report: Value = serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("weir-pktgen: {}", String::from_utf8_lossy(&output.stderr)))?;
        let settled = Instant::now() + Duration::from_millis(200);
        std::thread::sleep(settled - Instant::now());
        let after = kernel::received(&self.servers, "eth0")?;
        let sent = report["sent"]["packets"].as_u64();
        let seconds = report["duration_s"].as_f64();
        let (Some(sent), Some(seconds)) = (sent, seconds) else {
            return Err(format!("weir-pktgen's report is not as known: {report}").into());
        };
        Ok(Delivery {
            sent: sent as f64,
            delivered: (after - before) as f64,
            seconds,
        })
    }
}

/// What a sender sent and the backends got.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    sent: f64,
    delivered: f64,
    seconds: f64,
}

impl Delivery {
    fn mpps(self) -> f64 {
        self.delivered / self.seconds / 1e6
    }
    fn offered(self) -> f64 {
        self.sent / self.seconds / 1e6
    }
    fn lost_percent(self) -> f64 {
        ((1.0 - self.delivered / self.sent.max(1.0)) * 100.0).max(0.0)
    }
}

/// Measures all cases.
///
/// # Errors
/// When something cannot be put up.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let row = Row::new()?;
    let before = raise_conntrack(u64::from(FLOWS) * 2);
    let result = in_turns(&row, settings);
    if let Some(before) = before {
        std::fs::write(CONNTRACK_MAX, before)?;
    }
    let (weir, nft) = result?;
    let column =
        |list: &[Sends], pick: fn(&Sends) -> f64| list.iter().map(pick).collect::<Vec<_>>();
    let record = |case: &str, unit: &str, yardstick: &str, pick: fn(&Sends) -> f64| {
        Record::new('I', case, unit, &column(&weir, pick)).beside(yardstick, &column(&nft, pick))
    };
    Ok(vec![
        record(
            "delivered as fast as it is sent, nat, 1M flows",
            "Mpps",
            YARDSTICK,
            |it| it.full.mpps(),
        ),
        record("sent as fast as it goes", "Mpps", "to nftables", |it| {
            it.full.offered()
        }),
        record(
            "loss at a rate of 1.2 Mpps, nat, 1M flows",
            "%",
            YARDSTICK,
            |it| it.paced.lost_percent(),
        ),
        record("sent at a rate of 1.2 Mpps", "Mpps", "to nftables", |it| {
            it.paced.offered()
        }),
    ])
}

/// As fast as it goes, and at the rate at which nothing may be lost.
struct Sends {
    full: Delivery,
    paced: Delivery,
}

fn in_turns(row: &Row, settings: &Settings) -> Result<(Vec<Sends>, Vec<Sends>), Failure> {
    let time = format!("{}ms", settings.window.as_millis());
    let flows = FLOWS.to_string();
    let sends = || -> Result<Sends, Failure> {
        row.send(&[
            "--popularity",
            "sequential",
            "--count",
            &flows,
            "--duration",
            "4s",
        ])?;
        Ok(Sends {
            full: row.send(&["--duration", &time])?,
            paced: row.send(&["--duration", &time, "--rate", &RATE.to_string()])?,
        })
    };
    let (mut weir, mut nft) = (Vec::new(), Vec::new());
    for _ in 0..settings.repetitions {
        row.start_nft()?;
        nft.push(sends()?);
        row.stop_nft()?;
        let name = instance();
        let text = row.config(&name)?;
        let balancer = Balancer::start_with(&row.balancer, row.dir.path(), &name, &text)?;
        weir.push(sends()?);
        balancer.stop()?;
    }
    Ok((weir, nft))
}

/// Makes room in the kernel's connection table; gives what was set before, if it was less.
fn raise_conntrack(wanted: u64) -> Option<String> {
    let before = std::fs::read_to_string(CONNTRACK_MAX).ok()?;
    if before.trim().parse::<u64>().ok()? >= wanted {
        return None;
    }
    std::fs::write(CONNTRACK_MAX, wanted.to_string()).ok()?;
    Some(before)
}
