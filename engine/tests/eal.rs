//! DPDK starts once, stops without a trace, and leaves the process's threads as they were.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use support::{assert_full, burst, pool, settings, start};
use weir_engine::eal::{Eal, EalConfig, EalError, Memory};
use weir_engine::worker::Worker;

#[test]
fn a_second_start_is_refused_also_after_a_stop() {
    let eal = start();
    assert_eq!(
        Eal::start(&settings()).unwrap_err(),
        EalError::AlreadyStarted
    );
    eal.stop().unwrap();
    assert_eq!(
        Eal::start(&settings()).unwrap_err(),
        EalError::AlreadyStarted
    );
}

#[test]
fn a_stop_says_who_still_uses_it_and_then_waits_for_them() {
    let eal = start();
    let pool = pool(&eal, 127);
    assert_eq!(eal.stop().unwrap_err(), EalError::InUse { holders: 1 });
    assert!(pool.alloc().is_some());
    assert_full(&pool);
}

#[test]
fn the_calling_thread_keeps_its_affinity_and_eals_threads_keep_to_the_main_core() {
    let before = allowed_cores("self");
    let eal = start();
    assert_eq!(allowed_cores("self"), before);
    let others: Vec<String> = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|id| {
            let name = fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap();
            name.starts_with("eal-intr") || name.starts_with("dpdk-intr")
        })
        .collect();
    assert!(!others.is_empty(), "EAL has a thread for interrupts");
    for id in others {
        assert_eq!(allowed_cores(&format!("self/task/{id}")), "0");
    }
    eal.stop().unwrap();
}

#[test]
fn a_main_core_that_does_not_exist_is_refused() {
    for main_core in [1_023, usize::MAX] {
        let error = Eal::start(&EalConfig {
            main_core,
            ..settings()
        })
        .unwrap_err();
        // Whatever failed, there is one start a process.
        assert!(
            matches!(error, EalError::MainCore { .. } | EalError::AlreadyStarted),
            "{error}"
        );
    }
}

#[test]
fn a_start_that_dpdk_refuses_is_an_error_with_advice() {
    let config = EalConfig {
        extra_args: vec!["--no-such-option".into()],
        ..settings()
    };
    let error = Eal::start(&config).unwrap_err();
    let EalError::Start { arguments, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        arguments.last().map(String::as_str),
        Some("--no-such-option")
    );
    assert!(error.to_string().contains("extra arguments"), "{error}");
}

#[test]
fn a_refused_prefix_or_argument_does_not_use_up_the_one_start() {
    let config = EalConfig {
        file_prefix: "../x".into(),
        ..settings()
    };
    assert!(matches!(
        Eal::start(&config).unwrap_err(),
        EalError::FilePrefix { .. }
    ));
    let config = EalConfig {
        extra_args: vec!["a\0b".into()],
        ..settings()
    };
    assert!(matches!(
        Eal::start(&config).unwrap_err(),
        EalError::Nul { .. }
    ));
    start().stop().unwrap();
}

#[test]
fn nothing_is_left_of_a_stopped_one() {
    let config = settings();
    let eal = Eal::start(&config).unwrap();
    drop(pool(&eal, 127));
    eal.stop().unwrap();
    assert_eq!(left_overs(&config.file_prefix), Vec::<PathBuf>::new());
}

#[test]
fn registered_workers_take_and_give_through_their_own_caches_and_lose_nothing() {
    let eal = start();
    let mut shared = pool(&eal, 1_023);
    let workers: Vec<_> = (0..4)
        .map(|i| {
            let mut pool = shared.clone();
            Worker::spawn_registered(&eal, &format!("w{i}"), 0, move |_| {
                for _ in 0..100 {
                    drop(burst(&mut pool, 0..32));
                }
                // Goes home on another thread.
                burst(&mut pool, 0..8)
            })
            .unwrap()
        })
        .collect();
    let mut held: Vec<_> = workers
        .into_iter()
        .map(|worker| worker.join().unwrap())
        .collect();
    held.push(burst(&mut shared, 0..8));
    assert_eq!(shared.in_use(), 5 * 8);
    drop(held);
    assert_full(&shared);
    drop(shared);
    eal.stop().unwrap();
}

/// Needs root, to reserve huge pages where none are free.
#[test]
fn a_process_killed_on_huge_pages_leaves_no_file() {
    const CHILD: &str = "WEIR_TEST_HUGE_PAGE_CHILD";
    if let Some(prefix) = env::var_os(CHILD) {
        let file_prefix = prefix.into_string().unwrap();
        let config = EalConfig {
            file_prefix,
            memory: Memory::HugePages,
            memory_mb: Some(32),
            ..Default::default()
        };
        let eal = Eal::start(&config).unwrap();
        let _pool = pool(&eal, 1_023);
        println!("\nready");
        thread::sleep(Duration::from_secs(60));
        return;
    }
    let _pages = HugePages::reserve(64);
    let prefix = format!("weir-killed-{}", std::process::id());
    let mut child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "a_process_killed_on_huge_pages_leaves_no_file",
            "--nocapture",
        ])
        .env(CHILD, &prefix)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.any(|line| line.is_ok_and(|line| line == "ready"));
    let in_use = huge_kilobytes(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let files = left_overs(&prefix);
    let full: Vec<_> = files.iter().filter(|file| !is_empty_folder(file)).collect();
    let full = format!("{full:?}");
    for folder in files {
        let _ = fs::remove_dir_all(folder);
    }
    assert!(ready, "the child ended before it had its huge pages");
    assert!(in_use >= 32 << 10, "{in_use} KiB of huge pages were in use");
    assert_eq!(full, "[]");
}

/// Kilobytes of huge pages that a process has mapped.
fn huge_kilobytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("HugetlbPages:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

fn allowed_cores(of: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{of}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    line.trim().to_owned()
}

/// What is named after the prefix where DPDK keeps its files.
fn left_overs(prefix: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = [
        "/var/run/dpdk",
        "/run/dpdk",
        "/tmp/dpdk",
        "/dev/hugepages",
        "/mnt/huge",
    ]
    .map(Into::into)
    .into();
    folders.extend(env::var_os("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("dpdk")));
    folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_string_lossy()
                .starts_with(prefix)
        })
        .collect()
}

fn is_empty_folder(path: &Path) -> bool {
    !path.exists() || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

/// Huge pages reserved for a test; given back on drop.
struct HugePages {
    before: u64,
    reserved: u64,
}

impl HugePages {
    const RESERVED: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

    fn reserve(count: u64) -> Self {
        let before = Self::read(Self::RESERVED);
        let mut this = Self {
            before,
            reserved: before,
        };
        if Self::free() < count {
            this.reserved = before + count;
            if let Err(error) = fs::write(Self::RESERVED, this.reserved.to_string()) {
                panic!("this test needs root, to reserve huge pages: {error}");
            }
        }
        assert!(
            Self::free() >= count,
            "the machine has no room for {count} huge pages"
        );
        this
    }

    fn free() -> u64 {
        Self::read(Self::FREE)
    }

    fn read(path: &str) -> u64 {
        fs::read_to_string(path).unwrap().trim().parse().unwrap()
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // Only what this test added, in case somebody else changed the number since. A page that
        // another process has taken meanwhile comes free when it ends.
        for _ in 0..20 {
            let now = Self::read(Self::RESERVED);
            if self.reserved == self.before || now == self.before || now > self.reserved {
                break;
            }
            let _ = fs::write(Self::RESERVED, self.before.to_string());
            thread::sleep(Duration::from_millis(50));
        }
    }
}
