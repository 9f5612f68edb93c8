//! Machines made up of files: each check, where all is well and where it is not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use weir_shm::segment::port::PortStatus;

use super::cases::CASES;
use super::machine::{Machine, numbers, ranges};
use super::subject::{Device, Running, Subject};
use super::{Finding, Verdict, examine, show};
use crate::cli::Output;

pub(super) const NIC: &str = "0000:3b:00.0";

/// A good machine: two nodes, isolated cores 2 and 3, a NIC bound to vfio-pci on node 0.
const GOOD: &[(&str, &str)] = &[
    (
        "proc/mounts",
        "tmpfs /dev/shm tmpfs rw 0 0\nhugetlbfs /dev/hugepages hugetlbfs rw 0 0\n",
    ),
    (
        "proc/self/status",
        "Name:\tdoctor\nUid:\t1000\t1000\t1000\t1000\n",
    ),
    (
        "proc/self/limits",
        "Limit  Soft Limit  Hard Limit  Units\nMax locked memory  unlimited  unlimited  bytes\n",
    ),
    (
        "proc/cpuinfo",
        "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 aes avx512f constant_tsc\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        "1024\n",
    ),
    (
        "sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
        "1000\n",
    ),
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
        "512\n",
    ),
    (
        "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages",
        "500\n",
    ),
    ("sys/devices/system/node/node0/cpulist", "0-3\n"),
    ("sys/devices/system/node/node1/cpulist", "4-7\n"),
    ("sys/devices/system/cpu/online", "0-7\n"),
    ("sys/devices/system/cpu/isolated", "2-3\n"),
    ("sys/devices/system/cpu/nohz_full", "2-3\n"),
    (
        "sys/devices/system/cpu/cpu2/topology/thread_siblings_list",
        "2,6\n",
    ),
    (
        "sys/devices/system/cpu/cpu2/cpufreq/scaling_governor",
        "performance\n",
    ),
    (
        "sys/devices/system/cpu/cpu3/cpufreq/scaling_governor",
        "performance\n",
    ),
    (
        "sys/devices/system/clocksource/clocksource0/current_clocksource",
        "tsc\n",
    ),
    (
        "sys/devices/system/clocksource/clocksource0/available_clocksource",
        "tsc hpet acpi_pm\n",
    ),
    ("sys/kernel/iommu_groups/7/type", "DMA\n"),
    ("sys/bus/pci/devices/0000:3b:00.0/numa_node", "0\n"),
    ("sys/class/net/eth1/flags", "0x1003\n"),
    ("sys/class/net/eth1/carrier", "1\n"),
    ("sys/class/net/eth1/queues/rx-0/rps_cpus", "0\n"),
    ("sys/class/net/eth1/queues/rx-1/rps_cpus", "0\n"),
    (
        "ethtool/eth1",
        "Features for eth1:\nrx-checksumming: off\ntx-checksumming: off\ngeneric-receive-offload: off\nlarge-receive-offload: off [fixed]\n",
    ),
];

const CONFIG: &str = r#"
[engine]
workers = [2, 3]
[[port]]
name = "wan"
device = "0000:3b:00.0"
[[port]]
name = "lan"
device = "net_af_xdp0,iface=eth1"
"#;

pub(super) struct Tree(tempfile::TempDir);

impl Tree {
    fn good() -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        for (path, text) in GOOD {
            tree.write(path, text);
        }
        fs::create_dir_all(tree.0.path().join("dev/shm")).unwrap();
        tree.mode("dev/shm", 0o1777);
        tree.link(
            &format!("sys/bus/pci/devices/{NIC}/driver"),
            "../../../../bus/pci/drivers/vfio-pci",
        );
        tree.link(
            &format!("sys/bus/pci/devices/{NIC}/iommu_group/devices/{NIC}"),
            "x",
        );
        tree
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn remove(&self, path: &str) {
        let path = self.0.path().join(path);
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    pub(super) fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.0.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn examine(&self, subject: &Subject) -> Vec<Finding> {
        examine(&Machine::below(self.0.path()), subject)
    }
}

fn subject() -> Subject {
    Subject::parse(CONFIG).unwrap()
}

fn text(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|finding| {
        let mend = finding.mend.as_deref().unwrap_or_default();
        format!(
            "{} {}: {} -> {mend}",
            finding.verdict.name(),
            finding.area,
            finding.what
        )
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_good_machine_is_well_in_every_line() {
    let findings = Tree::good().examine(&subject());
    let bad = findings
        .iter()
        .any(|finding| finding.verdict != Verdict::Ok);
    assert!(!bad, "{}", text(&findings));
    insta::assert_snapshot!("good", text(&findings));
}

#[test]
fn each_fault_has_a_line_with_what_mends_it() {
    for (name, change, expected) in CASES {
        let tree = Tree::good();
        change(&tree);
        let told = text(&tree.examine(&subject()));
        let found = told.lines().any(|line| line.starts_with(expected));
        assert!(found, "{name}: no line begins with\n{expected}\nin\n{told}");
    }
}

#[test]
fn every_fault_comes_with_a_command() {
    for (name, change, _) in CASES {
        let tree = Tree::good();
        change(&tree);
        for finding in tree.examine(&subject()) {
            let mends = finding.mend.is_some();
            assert_eq!(mends, finding.verdict != Verdict::Ok, "{name}: {finding:?}");
        }
    }
}

#[test]
fn what_mends_is_a_command_unless_only_the_configuration_can() {
    const PROGRAMS: [&str; 9] = [
        "echo", "ethtool", "ip", "lscpu", "lspci", "sudo", "ulimit", "weir", "weirctl",
    ];
    for (name, change, _) in CASES {
        let tree = Tree::good();
        change(&tree);
        for mend in tree
            .examine(&subject())
            .iter()
            .filter_map(|f| f.mend.as_deref())
        {
            let program = mend.split_whitespace().next().unwrap();
            let is_command = PROGRAMS.contains(&program) || mend.starts_with("choose [engine] ");
            assert!(is_command, "{name}: {mend}");
        }
    }
}

/// The number that a command for huge pages writes.
fn written(findings: &[Finding]) -> Option<u64> {
    let finding = findings.iter().find(|one| one.area == "huge pages")?;
    let command = finding.mend.as_deref()?.strip_prefix("echo ")?;
    command.split(' ').next()?.parse().ok()
}

#[test]
fn findings_as_operators_and_programs_see_them() {
    let tree = Tree::good();
    for (name, change, _) in CASES {
        if [
            "huge pages taken",
            "no IOMMU",
            "cores not isolated",
            "no carrier",
        ]
        .contains(name)
        {
            change(&tree);
        }
    }
    let findings = tree.examine(&subject());
    for (output, name) in [(Output::Table, "shown"), (Output::Json, "shown-json")] {
        let mut out = Vec::new();
        show(output, &findings, &mut out).unwrap();
        insta::assert_snapshot!(name, String::from_utf8(out).unwrap());
    }
    let verdict = |findings: &[Finding]| {
        let mut out = Vec::new();
        show(Output::Json, findings, &mut out).unwrap();
        let all: serde_json::Value = serde_json::from_slice(&out).unwrap();
        all["verdict"].clone()
    };
    let good = Tree::good();
    assert_eq!(verdict(&good.examine(&subject())), "ok");
    assert_eq!(verdict(&findings), "wrong");
    assert_eq!(verdict(&[]), "ok");
}

#[test]
fn huge_pages_that_are_reserved_stay_and_what_is_missing_comes_on_top() {
    const FOLDER: &str = "sys/kernel/mm/hugepages/hugepages-2048kB";
    let needed = 159_u64.div_ceil(2);
    for there in [0, 1, 79, 256, 1024, 100_000] {
        for free in [0, 1, 78, 79, 80, 256] {
            let free = there.min(free);
            let tree = Tree::good();
            tree.write(&format!("{FOLDER}/nr_hugepages"), &there.to_string());
            tree.write(&format!("{FOLDER}/free_hugepages"), &free.to_string());
            let Some(written) = written(&tree.examine(&subject())) else {
                assert!(free >= needed, "{free} of {there} are not enough");
                continue;
            };
            let more = written.checked_sub(there).expect("none is taken away");
            assert!(free + more >= needed, "{free} of {there} became {written}");
        }
    }
}

#[test]
fn an_interface_that_is_down_under_a_running_daemon_is_brought_up() {
    let mut subject = subject();
    let lan = PortStatus {
        name: "lan".to_owned(),
        ..PortStatus::default()
    };
    subject.running = Some(Running {
        ports: vec![lan],
        ..Running::default()
    });
    for (flags, mend) in [
        ("0x1002\n", "sudo ip link set eth1 up"),
        ("0x1003\n", "ethtool eth1"),
    ] {
        let tree = Tree::good();
        tree.write("sys/class/net/eth1/flags", flags);
        let told = text(&tree.examine(&subject));
        let expected = format!(
            "wrong link: port lan: the daemon sees it down: cable, module, or the other end -> {mend}"
        );
        assert!(told.contains(&expected), "{expected}\n{told}");
    }
}

#[test]
fn an_empty_machine_is_no_reason_to_panic() {
    let tree = Tree(tempfile::tempdir().unwrap());
    let findings = tree.examine(&subject());
    assert!(
        findings
            .iter()
            .any(|finding| finding.verdict == Verdict::Wrong)
    );
    assert!(!tree.examine(&Subject::default()).is_empty());
}

#[test]
fn a_running_daemon_tells_of_its_links_and_its_workers_shares() {
    let mut subject = subject();
    let port = |name: &str, link_up| PortStatus {
        name: name.to_owned(),
        link_up,
        ..PortStatus::default()
    };
    subject.running = Some(Running {
        pid: 7,
        ports: vec![port("wan", false), port("lan", true)],
        received: vec![1_000_000, 12],
    });
    let tree = Tree::good();
    tree.write(
        "proc/7/limits",
        "Max locked memory  unlimited  unlimited  bytes\n",
    );
    let told = text(&tree.examine(&subject));
    for expected in [
        "wrong link: port wan: the daemon sees it down",
        "ok link: port lan: the daemon sees it up",
        "warn queues: worker 1 received 12 of 1.00M frames: RSS does not spread",
        "ok huge pages: 2000 of 2048 MiB free; the daemon has its own",
        "ok locked memory: unlimited",
    ] {
        assert!(told.contains(expected), "{expected}\n{told}");
    }
    if let Some(running) = &mut subject.running {
        running.received = vec![500_000, 400_000];
    }
    let told = text(&tree.examine(&subject));
    assert!(
        told.contains("ok queues: RSS spreads 900k frames over 2 workers"),
        "{told}"
    );
}

#[test]
fn what_is_not_needed_is_not_missed() {
    let subject = Subject::parse(
        "[engine]\nworkers = [2]\nmemory = \"anonymous\"\nidle = \"adaptive\"\n[[port]]\nname = \"a\"\ndevice = \"net_null0\"\n",
    )
    .unwrap();
    let tree = Tree::good();
    for gone in [
        "sys/kernel/iommu_groups",
        "sys/devices/system/cpu/isolated",
        "sys/kernel/mm",
    ] {
        tree.remove(gone);
    }
    let findings = tree.examine(&subject);
    let bad = findings
        .iter()
        .any(|finding| finding.verdict != Verdict::Ok);
    assert!(!bad, "{}", text(&findings));
}

#[test]
fn devices_are_told_apart() {
    let devices = |text: &str| {
        let config = format!("[[port]]\ndevice = \"{text}\"\n");
        Subject::parse(&config).unwrap().ports.remove(0).device
    };
    assert_eq!(devices("3B:00.1"), Device::Pci("0000:3b:00.1".to_owned()));
    let interface = Device::Interface {
        driver: "net_af_packet".to_owned(),
        name: "eth1".to_owned(),
    };
    assert_eq!(devices("net_af_packet3,iface=eth1,qpairs=2"), interface);
    assert_eq!(
        devices("net_null0"),
        Device::Virtual("net_null0".to_owned())
    );
    assert!(Subject::parse("[engine").unwrap_err().contains("line 1"));
    assert!(Subject::load(Path::new("/nowhere/x.toml")).is_err());
}

#[test]
fn lists_of_cores_are_read_and_written() {
    assert_eq!(numbers("0-3,8"), [0, 1, 2, 3, 8]);
    assert_eq!(numbers("(null)"), Vec::<usize>::new());
    assert_eq!(ranges(&[8, 0, 1, 2, 3, 3]), "0-3,8");
    assert_eq!(ranges(&[]), "");
}
