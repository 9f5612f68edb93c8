//! Changing a pool: what is said, what is done, and with which exit code.

mod support;

use std::sync::atomic::Ordering;

use support::{CONFIG, Daemon, failure, weirctl};
use weir_shm::server::{Server, ServerOptions};

#[test]
fn a_change_says_what_was_done_and_that_it_is_not_saved() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.run("backend add web 10.0.0.13:8080 --weight 4"),
        "added backend 10.0.0.13:8080 to web with weight 4\n\
         generation 2: acknowledged by 2 workers\n\
         not saved: `weirctl save` writes it to CONFIG\n"
    );
    assert_eq!(
        daemon.run("backend remove web 10.0.0.13:8080"),
        "removed backend 10.0.0.13:8080 from web\ngeneration 3: acknowledged by 2 workers\n"
    );
    assert_eq!(
        daemon.run("backend enable web 10.0.0.11:8080"),
        "enabled backend 10.0.0.11:8080 of web: nothing to change\n"
    );
}

#[test]
fn a_change_as_json() {
    let daemon = Daemon::start();
    assert_eq!(
        daemon.run("backend weight web 10.0.0.11:8080 3 --output json"),
        r#"{
  "changed": true,
  "generation": 2,
  "workers": 2,
  "changes": [
    "weight 3 for backend 10.0.0.11:8080 of web"
  ],
  "warnings": [],
  "saved": false,
  "config": "CONFIG"
}
"#
    );
}

#[test]
fn every_command_works_and_save_keeps_comments() {
    let daemon = Daemon::start();
    for line in [
        "backend add web 10.0.0.13:8080 --weight 4",
        "backend disable web 10.0.0.12:8080",
        "backend drain dns 2001:db8::1:1 --timeout 90s --force",
        "backend force web 10.0.0.13:8080 down",
        "backend weight web 10.0.0.11:8080 3",
        "service add api --vip 198.51.100.11 --port 443 --protocol tcp --forwarding nat --backend 10.0.0.11:8443",
        "service remove dns",
    ] {
        daemon.run(line);
    }
    let said = daemon.run("save");
    assert!(said.ends_with("saved to CONFIG\n"), "{said}");
    let text = daemon.config_text();
    assert!(text.contains("weight = 3 # old machine\n"), "{text}");
    assert!(
        text.starts_with("# rack 4\n") && text.contains("name = \"web\" # the shop\n"),
        "{text}"
    );
    assert!(
        !text.contains("dns") && text.contains("name = \"api\""),
        "{text}"
    );
    assert_eq!(
        daemon.run("save"),
        "CONFIG says what is in force; nothing to save\n"
    );
    // What was saved is what the daemon would start with.
    assert_eq!(
        daemon.run(&format!("apply {}", daemon.config.display())),
        "the pool is as the file says; nothing to change\n"
    );
    assert!(
        !daemon
            .run("backend enable web 10.0.0.11:8080")
            .contains("not saved")
    );
}

#[test]
fn save_keeps_the_files_mode_and_leaves_nothing_behind() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start();
    std::fs::set_permissions(&daemon.config, std::fs::Permissions::from_mode(0o640)).unwrap();
    daemon.run("backend weight web 10.0.0.11:8080 3");
    daemon.run("save");
    let mode = std::fs::metadata(&daemon.config)
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o640);
    let names = std::fs::read_dir(daemon.folder.path()).unwrap().count();
    assert_eq!(names, 2, "segment and configuration");
}

#[test]
fn apply_is_one_generation_and_a_dry_run_none() {
    let daemon = Daemon::start();
    let file = daemon.folder.path().join("pools.toml");
    let text = CONFIG
        .replace("10.0.0.12", "10.0.0.14")
        .replace("\"dns\"", "\"names\"");
    std::fs::write(&file, text).unwrap();
    let difference = "- service dns ([2001:db8::53]:any/udp, dsr-l2)\n\
                      - backend web 10.0.0.12:8080\n\
                      + backend web 10.0.0.14:8080 (weight 1)\n\
                      + service names ([2001:db8::53]:any/udp, dsr-l2)\n\
                      + backend names 2001:db8::1:1 (weight 1)\n";
    let dry = daemon.run(&format!("apply {} --dry-run", file.display()));
    assert_eq!(dry, format!("{difference}dry run: nothing was changed\n"));
    assert!(
        daemon
            .run("status --output json")
            .contains("\"generation\": 1,")
    );
    let done = daemon.run(&format!("apply {}", file.display()));
    assert!(
        done.starts_with(&format!("{difference}generation 2: ")),
        "{done}"
    );
    std::fs::write(&file, "[[service]]\nname = 5\n").unwrap();
    let (code, said) = daemon.fail(&format!("apply {}", file.display()));
    assert_eq!(code, 1);
    assert!(said.contains("pools.toml:1:1: found no `vip`"), "{said}");
}

#[test]
fn a_refused_change_says_why_and_exits_with_1() {
    let daemon = Daemon::start();
    for (line, part) in [
        (
            "backend drain nope 10.0.0.11:8080",
            "no service \"nope\"; there are web, dns",
        ),
        (
            "backend drain web 10.0.0.99:8080",
            "it has 10.0.0.11:8080, 10.0.0.12:8080",
        ),
        ("backend add web 10.0.0.11:8080", "there already"),
        ("service show nope", "no service \"nope\""),
        ("backend list nope", "no service \"nope\""),
    ] {
        let (code, said) = daemon.fail(line);
        assert_eq!(code, 1, "{line}");
        assert!(
            said.starts_with("weirctl: refused: ") && said.contains(part),
            "{line}: {said}"
        );
    }
    daemon.manner.refuses.store(true, Ordering::Relaxed);
    let (code, said) = daemon.fail("backend add web 10.9.9.9:80");
    assert_eq!(code, 1);
    assert!(
        said.contains("refused by the daemon: no route to backend 10.9.9.9"),
        "{said}"
    );
    daemon.manner.refuses.store(false, Ordering::Relaxed);
    // The refused pool is not the base of the next change.
    daemon.run("backend weight web 10.0.0.11:8080 3");
    assert!(!daemon.run("backend list web").contains("10.9.9.9"));
}

#[test]
fn a_change_that_is_not_acknowledged_in_time_exits_with_1() {
    let daemon = Daemon::start();
    daemon.manner.deaf.store(true, Ordering::Relaxed);
    let (code, said) = daemon.fail("--ack-timeout 50ms backend weight web 10.0.0.11:8080 3");
    assert_eq!(code, 1);
    assert!(said.contains("not acknowledged within 50ms"), "{said}");
    let (code, said) = daemon.fail("--ack-timeout 50ms lookup tcp 192.0.2.1:1 198.51.100.10:80");
    assert_eq!(code, 1);
    assert!(said.contains("did not answer within 50ms"), "{said}");
}

#[test]
fn wrong_usage_exits_with_2() {
    let daemon = Daemon::start();
    for line in [
        "",
        "explode",
        "backend weight web",
        "backend weight web 10.0.0.11:8080 heavy",
        "backend drain web 10.0.0.11:8080 --timeout 5",
        "service add x --vip 192.0.2.1 --port 0 --protocol tcp --forwarding nat",
        "service add x --vip 192.0.2.1 --port 80 --protocol tcp --forwarding half-nat",
        "lookup tcp 192.0.2.1 198.51.100.10:80",
        "lookup quic 192.0.2.1:1 198.51.100.10:80 --cid 07c",
        "--output xml status",
    ] {
        let (code, said) = daemon.fail(line);
        assert_eq!(code, 2, "{line}: {said}");
    }
}

#[test]
fn the_instance_is_named_or_the_only_one() {
    let mut daemon = Daemon::start();
    let (second, _) =
        Server::create(daemon.folder.path(), "lb2", ServerOptions::default()).unwrap();
    let (code, said) = daemon.fail("status");
    assert_eq!(code, 1);
    assert!(
        said.contains("\"lb1\", \"lb2\"") && said.contains("WEIR_INSTANCE"),
        "{said}"
    );
    assert!(
        daemon
            .run("--instance lb1 status")
            .starts_with("instance    lb1\n")
    );
    assert!(daemon.run("status --instance lb2").contains("starting"));
    let mut by_variable = daemon.weirctl("status");
    assert!(
        by_variable
            .env("WEIR_INSTANCE", "lb1")
            .output()
            .unwrap()
            .status
            .success()
    );
    let (code, said) = daemon.fail("--instance lb3 status");
    assert!(code == 1 && said.contains("no instance \"lb3\""), "{said}");
    drop(second);
    let (_, said) = daemon.fail("--instance lb2 service remove web");
    assert!(said.contains("not running: its process is gone"), "{said}");
    daemon.end().stopped().unwrap();
    let (_, said) = daemon.fail("--instance lb1 service remove web");
    assert!(said.contains("not running: it was stopped"), "{said}");
    // What it left can be read, and saved.
    assert!(
        daemon
            .run("--instance lb1 status")
            .contains("state       stopped")
    );
    assert!(
        daemon
            .run("--instance lb1 service list")
            .contains("198.51.100.10:80/tcp")
    );
    assert!(
        daemon
            .run("--instance lb1 save")
            .contains("nothing to save")
    );
    let empty = tempfile::tempdir().unwrap();
    let (code, said) = failure(weirctl(empty.path()).arg("status").output().unwrap());
    assert!(code == 1 && said.contains("is weir running?"), "{said}");
}
