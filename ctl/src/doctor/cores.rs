//! The workers' cores: whether they are there, alone, and at full speed; and what the processor can.

use super::machine::{Machine, boot_with, numbers, ranges};
use super::subject::Subject;
use super::{Finding, ok, warn, wrong};

pub(super) fn cores(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "cores";
    if subject.workers.is_empty() {
        return vec![ok(AREA, "no configuration names any; give --config FILE")];
    }
    let online = machine.list("/sys/devices/system/cpu/online");
    let mut used = subject.workers.clone();
    used.extend(subject.control_core);
    let gone: Vec<usize> = used
        .into_iter()
        .filter(|core| !online.contains(core))
        .collect();
    if !gone.is_empty() {
        return vec![wrong(
            AREA,
            format!("core {} is not online", ranges(&gone)),
            format!(
                "choose [engine] workers and control_core among {}",
                ranges(&online)
            ),
        )];
    }
    let mut findings = vec![alone(machine, subject)];
    findings.extend(ticks(machine, subject));
    findings.extend(siblings(machine, subject));
    findings
}

fn alone(machine: &Machine, subject: &Subject) -> Finding {
    const AREA: &str = "cores";
    let workers = ranges(&subject.workers);
    let isolated = machine.list("/sys/devices/system/cpu/isolated");
    let shared: Vec<usize> = subject
        .workers
        .iter()
        .copied()
        .filter(|core| !isolated.contains(core))
        .collect();
    if shared.is_empty() {
        ok(AREA, format!("workers' cores {workers} are isolated"))
    } else if subject.adaptive {
        ok(
            AREA,
            format!(
                "cores {} are shared, as idle = \"adaptive\" allows",
                ranges(&shared)
            ),
        )
    } else {
        warn(
            AREA,
            format!(
                "cores {} are not isolated: other threads take packets' time",
                ranges(&shared)
            ),
            isolate(&workers),
        )
    }
}

/// What leaves cores to weir from the next start on: neither threads, ticks nor the kernel's callbacks.
fn isolate(cores: &str) -> String {
    let arguments = format!("isolcpus={cores} nohz_full={cores} rcu_nocbs={cores}");
    boot_with("cores", &arguments)
}

fn ticks(machine: &Machine, subject: &Subject) -> Option<Finding> {
    if subject.adaptive {
        return None;
    }
    let quiet = machine.text("/sys/devices/system/cpu/nohz_full");
    let quiet = numbers(quiet.as_deref().unwrap_or_default());
    let ticking: Vec<usize> = subject
        .workers
        .iter()
        .copied()
        .filter(|core| !quiet.contains(core))
        .collect();
    let workers = ranges(&subject.workers);
    Some(if ticking.is_empty() {
        ok(
            "ticks",
            format!("cores {workers} run without the timer's tick"),
        )
    } else {
        warn(
            "ticks",
            format!(
                "the timer interrupts cores {} up to 1,000 times a second",
                ranges(&ticking)
            ),
            isolate(&workers),
        )
    })
}

/// Two busy threads on one physical core have half a core each.
fn siblings(machine: &Machine, subject: &Subject) -> Option<Finding> {
    for worker in &subject.workers {
        let file = format!("/sys/devices/system/cpu/cpu{worker}/topology/thread_siblings_list");
        let twins = machine.list(&file);
        let twin = twins
            .into_iter()
            .find(|core| core != worker && subject.workers.contains(core));
        if let Some(twin) = twin {
            return Some(warn(
                "cores",
                format!("workers on cores {worker} and {twin} share one physical core"),
                "lscpu -e=CPU,CORE,NODE      # and choose [engine] workers of different CORE",
            ));
        }
    }
    None
}

pub(super) fn governor(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    const AREA: &str = "governor";
    let mut slow = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut governed = false;
    for core in &subject.workers {
        let file = format!("/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        let Some(word) = machine.text(&file) else {
            continue;
        };
        governed = true;
        if word == "performance" {
            continue;
        }
        slow.push(*core);
        if !words.contains(&word) {
            words.push(word);
        }
    }
    vec![match (governed, slow.is_empty()) {
        (false, _) => ok(AREA, "the kernel does not change these cores' frequency"),
        (_, true) => ok(AREA, "performance"),
        _ => warn(
            AREA,
            format!(
                "cores {} are governed by {}",
                ranges(&slow),
                words.join(" and ")
            ),
            format!(
                "sudo cpupower -c {} frequency-set -g performance",
                ranges(&slow)
            ),
        ),
    }]
}

pub(super) fn features(machine: &Machine) -> Vec<Finding> {
    const AREA: &str = "processor";
    const HOST: &str =
        "lscpu | grep Flags      # in a virtual machine, let it see the host's (-cpu host)";
    let info = machine.text("/proc/cpuinfo").unwrap_or_default();
    let line = info
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"));
    let flags: Vec<&str> = line
        .map(|line| line.split_whitespace().collect())
        .unwrap_or_default();
    let has = |flag: &str| flags.contains(&flag);
    if info.contains("CPU implementer") {
        return vec![ok(AREA, "ARM: the general form of the packet path is used")];
    }
    let mut findings = Vec::new();
    if !has("sse4_2") {
        findings.push(wrong(AREA, "no SSE 4.2, which DPDK needs", HOST));
    }
    findings.push(if has("avx2") {
        ok(AREA, "AVX2: the fast form of the packet path is used")
    } else {
        warn(AREA, "no AVX2: the packet path takes its slower form", HOST)
    });
    findings.push(if has("aes") {
        ok(AREA, "AES: encrypted connection IDs are read in hardware")
    } else {
        warn(
            AREA,
            "no AES: services with encrypted connection IDs are slow",
            HOST,
        )
    });
    let wide = if has("avx512f") {
        "AVX-512"
    } else {
        "no AVX-512; weir does without"
    };
    findings.push(ok(AREA, wide));
    findings
}

pub(super) fn clock(machine: &Machine) -> Finding {
    const AREA: &str = "clock";
    const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";
    let current = machine.text(&format!("{FOLDER}/current_clocksource"));
    let available = machine.text(&format!("{FOLDER}/available_clocksource"));
    let has_tsc = available.is_some_and(|all| all.split_whitespace().any(|one| one == "tsc"));
    match current.as_deref() {
        Some("tsc" | "arch_sys_counter") => ok(AREA, "the processor's own counter"),
        Some(other) if has_tsc => warn(
            AREA,
            format!("{other}, which is slow to read, though there is tsc"),
            format!("echo tsc | sudo tee {FOLDER}/current_clocksource"),
        ),
        Some(other) => warn(
            AREA,
            format!("{other}: the kernel does not trust the processor's counter"),
            "sudo dmesg | grep -i -e tsc -e clocksource      # says why",
        ),
        None => warn(
            AREA,
            "not known",
            format!("cat {FOLDER}/current_clocksource"),
        ),
    }
}
