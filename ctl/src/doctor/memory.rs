//! Huge pages, limits on locked memory, and `/dev/shm`.

use super::machine::Machine;
use super::subject::Subject;
use super::{Finding, ok, warn, wrong};

const SIZES: &str = "/sys/kernel/mm/hugepages";
/// Bytes of a conntrack entry.
const ENTRY: u64 = 16;
/// MiB for the buffers of a port, by default.
const PORT_MB: u64 = 64;
/// The pages that commands reserve, and their KiB.
const PAGE: &str = "hugepages-2048kB/nr_hugepages";
const PAGE_KIB: u64 = 2048;
/// Pages to reserve where there are none: EAL and a reload want some beside what is counted here.
const FIRST_PAGES: u64 = 256;

/// The pages of all sizes below a folder: how many MiB are free, and how many there are.
fn pages(machine: &Machine, folder: &str) -> (u64, u64) {
    let mut sum = (0, 0);
    for name in machine.names(folder) {
        let kib = name.strip_prefix("hugepages-");
        let Some(kib) = kib.and_then(|size| size.trim_end_matches("kB").parse::<u64>().ok()) else {
            continue;
        };
        let of = |file: &str| {
            let pages = machine.number(&format!("{folder}/{name}/{file}"));
            pages.map_or(0, |pages| pages.max(0).unsigned_abs() * kib / 1024)
        };
        sum.0 += of("free_hugepages");
        sum.1 += of("nr_hugepages");
    }
    sum
}

/// MiB that the configuration needs, about.
fn need(subject: &Subject) -> u64 {
    let buffers = (subject.memory_mb).unwrap_or(subject.ports.len() as u64 * PORT_MB);
    let flows = subject.flows_per_worker * ENTRY * subject.workers.len() as u64;
    buffers + flows.div_ceil(1 << 20)
}

/// What reserves pages for so many MiB more below a folder. The file takes the number of all pages, so
/// those that are there are counted in: whoever has them keeps them.
fn reserve(machine: &Machine, folder: &str, file: &str, missing: u64) -> String {
    let there = machine.number(&format!("{folder}/{PAGE}"));
    let there = there.map_or(0, |pages| pages.max(0).unsigned_abs());
    let wanted = there + (missing * 1024).div_ceil(PAGE_KIB);
    format!("echo {} | sudo tee {file}", wanted.max(FIRST_PAGES))
}

/// The file for pages of 2 MiB: the short name means pages of the kernel's default size.
fn pages_file(machine: &Machine) -> String {
    let info = machine.text("/proc/meminfo").unwrap_or_default();
    let size = info
        .lines()
        .find_map(|line| line.strip_prefix("Hugepagesize:"));
    match size.and_then(|size| size.split_whitespace().next()) {
        Some(kib) if kib.parse() != Ok(PAGE_KIB) => format!("{SIZES}/{PAGE}"),
        _ => "/proc/sys/vm/nr_hugepages".to_owned(),
    }
}

pub(super) fn huge_pages(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "huge pages";
    if subject.anonymous {
        return vec![ok(AREA, "not needed: memory = \"anonymous\"")];
    }
    let (free, all) = pages(machine, SIZES);
    let needed = need(subject);
    let reserve = || {
        let missing = needed.saturating_sub(free);
        reserve(machine, SIZES, &pages_file(machine), missing)
    };
    let mut findings = Vec::new();
    if subject.running.is_some() {
        findings.push(ok(
            AREA,
            format!("{free} of {all} MiB free; the daemon has its own"),
        ));
        return findings;
    }
    findings.push(if all == 0 {
        wrong(AREA, "none is reserved", reserve())
    } else if free < needed {
        wrong(
            AREA,
            format!("{free} of {all} MiB free, and the configuration needs about {needed}"),
            reserve(),
        )
    } else {
        ok(AREA, format!("{free} of {all} MiB free"))
    });
    let mounts = machine.text("/proc/mounts").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.clone().nth(2) == Some("hugetlbfs")).then(|| words.nth(1))?
    });
    findings.push(match mount {
        Some(place) => ok(
            AREA,
            format!("mounted at {place}; weir makes no file there"),
        ),
        None => ok(AREA, "not mounted; weir needs no mount"),
    });
    findings.extend(of_nodes(machine, subject));
    findings
}

/// A NIC's node must have pages of its own.
fn of_nodes(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (port, address) in subject.nics() {
        let node = machine.number(&format!("/sys/bus/pci/devices/{address}/numa_node"));
        let Some(node) = node.filter(|node| *node >= 0) else {
            continue;
        };
        let folder = format!("/sys/devices/system/node/node{node}/hugepages");
        if machine.exists(&folder) && pages(machine, &folder).0 == 0 {
            findings.push(wrong(
                "huge pages",
                format!("none is free on NUMA node {node}, where port {port} is"),
                reserve(machine, &folder, &format!("{folder}/{PAGE}"), need(subject)),
            ));
        }
    }
    findings
}

pub(super) fn locked_memory(machine: &Machine, subject: &Subject) -> Finding {
    const AREA: &str = "locked memory";
    let process = match &subject.running {
        Some(running) => running.pid.to_string(),
        None => "self".to_owned(),
    };
    let limits = machine.text(&format!("/proc/{process}/limits"));
    let limits = limits.unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    match soft {
        Some("unlimited") => ok(AREA, "unlimited"),
        Some(_) if machine.is_root() => ok(AREA, "limited, but not for root"),
        Some(bytes) => warn(
            AREA,
            format!("limited to {bytes} bytes; NICs and AF_XDP lock what they use"),
            "ulimit -l unlimited      # or LimitMEMLOCK=infinity in the unit",
        ),
        None => warn(
            AREA,
            format!("/proc/{process}/limits does not tell"),
            "ulimit -l",
        ),
    }
}

pub(super) fn shared_memory(machine: &Machine) -> Finding {
    const AREA: &str = "/dev/shm";
    let mount = "sudo mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm";
    let mounts = machine.text("/proc/mounts").unwrap_or_default();
    let kind = mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&"/dev/shm")).then(|| words.get(2).map(|kind| (*kind).to_owned()))?
    });
    match (machine.mode("/dev/shm"), kind) {
        (None, _) => wrong(
            AREA,
            "it is not there, and the segment has no place",
            format!("sudo mkdir -p /dev/shm && {mount}"),
        ),
        (Some(mode), _) if mode & 0o1777 != 0o1777 => {
            let text = format!("its mode is {mode:04o}; only its owner can make a segment");
            if machine.is_root() {
                warn(AREA, text, "sudo chmod 1777 /dev/shm")
            } else {
                wrong(AREA, text, "sudo chmod 1777 /dev/shm")
            }
        }
        (_, Some(kind)) if kind == "tmpfs" => ok(AREA, "tmpfs, mode 1777"),
        (_, kind) => warn(
            AREA,
            format!(
                "not in memory but on {}: counters are written to it all the time",
                kind.unwrap_or_else(|| "the file system of /dev".to_owned())
            ),
            mount,
        ),
    }
}
