//! Links, queues and offloads: of the kernel's interfaces, and as the daemon sees its ports.

use super::machine::Machine;
use super::subject::Subject;
use super::{Finding, ok, warn, wrong};
use crate::output::count;

pub(super) fn links(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "link";
    let mut findings = Vec::new();
    for (port, _, interface) in subject.interfaces() {
        let folder = format!("/sys/class/net/{interface}");
        if !machine.exists(&folder) {
            findings.push(wrong(
                AREA,
                format!("port {port}: there is no interface {interface}"),
                "ip -brief link      # lists those there are",
            ));
            continue;
        }
        // An interface that is down tells no carrier.
        let carrier = machine.number(&format!("{folder}/carrier"));
        findings.push(if is_down(machine, interface) {
            wrong(
                AREA,
                format!("port {port}: {interface} is down"),
                format!("sudo ip link set {interface} up"),
            )
        } else if carrier == Some(1) {
            ok(AREA, format!("port {port}: {interface} is up"))
        } else {
            wrong(
                AREA,
                format!("port {port}: {interface} has no carrier: cable, module, or the other end"),
                format!("ethtool {interface}"),
            )
        });
    }
    for port in subject.running.iter().flat_map(|running| &running.ports) {
        let interface = (subject.interfaces())
            .find(|(name, ..)| *name == port.name)
            .map(|(_, _, interface)| interface);
        let mend = match interface {
            Some(interface) if is_down(machine, interface) => {
                format!("sudo ip link set {interface} up")
            }
            Some(interface) => format!("ethtool {interface}"),
            None => "weirctl events | grep link".to_owned(),
        };
        findings.push(if port.link_up {
            ok(AREA, format!("port {}: the daemon sees it up", port.name))
        } else {
            wrong(
                AREA,
                format!(
                    "port {}: the daemon sees it down: cable, module, or the other end",
                    port.name
                ),
                mend,
            )
        });
    }
    if findings.is_empty() {
        findings.push(ok(
            AREA,
            "no port of which it is known while weir does not run",
        ));
    }
    findings
}

/// Whether an interface was taken down, or never brought up.
fn is_down(machine: &Machine, interface: &str) -> bool {
    // The flags are hexadecimal; bit 0 is up.
    let flags = machine.text(&format!("/sys/class/net/{interface}/flags"));
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    flags.is_some_and(|flags| flags & 1 == 0)
}

pub(super) fn queues(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "queues";
    let workers = subject.workers.len();
    let mut findings = Vec::new();
    for (port, driver, interface) in subject.interfaces() {
        let queues = machine.names(&format!("/sys/class/net/{interface}/queues"));
        let queues = queues.iter().filter(|name| name.starts_with("rx-")).count();
        if driver != "net_af_xdp" || queues == 0 {
            continue;
        }
        findings.push(if queues == workers {
            ok(AREA, format!("port {port}: {interface} has one for each worker"))
        } else {
            wrong(
                AREA,
                format!("port {port}: {interface} has {queues}, and there are {workers} workers; frames of the others are lost or not spread"),
                format!("sudo ethtool -L {interface} combined {workers}"),
            )
        });
    }
    findings.extend(spread(subject));
    if findings.is_empty() {
        findings.push(ok(AREA, "weir gives each port one for each worker"));
    }
    findings
}

/// Whether RSS gives every worker its share.
fn spread(subject: &Subject) -> Option<Finding> {
    const AREA: &str = "queues";
    /// Fewer frames a worker say nothing.
    const ENOUGH: u64 = 10_000;
    let received = &subject.running.as_ref()?.received;
    let workers = received.len() as u64;
    let all: u64 = received.iter().sum();
    if workers < 2 || all < ENOUGH * workers {
        return None;
    }
    let least = received
        .iter()
        .enumerate()
        .min_by_key(|(_, frames)| **frames)?;
    let share = all / workers;
    Some(if *least.1 < share / 10 {
        warn(
            AREA,
            format!(
                "worker {} received {} of {} frames: RSS does not spread, or one flow is that large",
                least.0,
                count(*least.1),
                count(all)
            ),
            "weirctl top      # table 1; the NIC needs RSS over addresses and ports",
        )
    } else {
        ok(
            AREA,
            format!("RSS spreads {} frames over {workers} workers", count(all)),
        )
    })
}

pub(super) fn offloads(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "offloads";
    /// What merges frames on their way in, and its word for `ethtool -K`.
    const MERGING: [(&str, &str); 2] = [
        ("generic-receive-offload", "gro"),
        ("large-receive-offload", "lro"),
    ];
    /// What leaves work to a wire that an interface without one does not have.
    const UNFINISHED: [(&str, &str); 4] = [
        ("rx-checksumming", "rx"),
        ("tx-checksumming", "tx"),
        ("tcp-segmentation-offload", "tso"),
        ("generic-segmentation-offload", "gso"),
    ];
    let mut findings = Vec::new();
    for (port, _, interface) in subject.interfaces() {
        let Some(said) = machine.offloads(interface) else {
            findings.push(warn(
                AREA,
                format!("port {port}: what {interface} offloads is not known"),
                format!("sudo apt install ethtool && ethtool -k {interface}"),
            ));
            continue;
        };
        let wireless = !machine.exists(&format!("/sys/class/net/{interface}/device"));
        let on = |key: &str| said.lines().any(|line| line.trim() == format!("{key}: on"));
        let bad: Vec<&str> = MERGING
            .iter()
            .chain(UNFINISHED.iter().filter(|_| wireless))
            .filter(|(key, _)| on(key))
            .map(|(_, word)| *word)
            .collect();
        findings.push(if bad.is_empty() {
            ok(
                AREA,
                format!("port {port}: {interface} leaves frames as they are"),
            )
        } else {
            let off: Vec<String> = bad.iter().map(|word| format!("{word} off")).collect();
            warn(
                AREA,
                format!(
                    "port {port}: {interface} merges frames or leaves checksums to a wire ({})",
                    bad.join(", ")
                ),
                format!("sudo ethtool -K {interface} {}", off.join(" ")),
            )
        });
    }
    if findings.is_empty() {
        findings.push(ok(AREA, "no port is an interface of the kernel's"));
    }
    findings
}
