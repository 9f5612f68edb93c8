//! Daemon and operator over one segment, and everything that can go wrong between them.

use super::*;
use crate::client::{Client, ClientError, Edit, Outcome};
use crate::counters::{DropReason, PACKETS, backend_base, drop_index, service_base};
use crate::model::{Backend, Pool};
use crate::segment::directory::tests::directory;
use crate::segment::record::tests::{pools, sample};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(5);

fn options() -> ServerOptions {
    ServerOptions {
        workers: 2,
        config_path: "/etc/weir.toml".into(),
        version: "0.1.0".to_owned(),
        ..ServerOptions::default()
    }
}

fn server(folder: &TempDir) -> Server {
    let (mut server, _) = Server::create(folder.path(), "lb1", options()).unwrap();
    server.publish_initial(&directory(1, sample())).unwrap();
    for worker in 0..2 {
        server.acknowledge(worker, 1).unwrap();
    }
    server
}

/// Does what a daemon does with a commit.
fn attend(server: &mut Server) {
    match server.poll() {
        None => {}
        Some(Ok(Incoming { generation, pool })) if pool.service("refuse-me").is_some() => {
            drop(pool);
            server.refuse(generation, "it is to be refused").unwrap();
        }
        Some(Ok(Incoming { generation, pool })) => {
            server.accept(&directory(generation, pool)).unwrap();
            server.acknowledge(0, generation).unwrap();
            server.acknowledge(1, generation).unwrap();
        }
        Some(Err(refusal)) => server.refuse(refusal.generation, &refusal.reason).unwrap(),
    }
    let answer = server.question().map(|question| match question {
        Question::Health { .. }
        | Question::Reload
        | Question::Census { .. }
        | Question::Newest { .. }
        | Question::Capture(_)
        | Question::EndCapture => Answer::Refused {
            reason: "not here".to_owned(),
        },
        Question::Publish => Answer::Published,
        Question::Lookup { .. } => Answer::Lookup(Box::default()),
        Question::Flows { service, .. } => Answer::Refused {
            reason: format!("no {service}"),
        },
    });
    if let Some(answer) = answer {
        server.answer(&answer).unwrap();
    }
}

/// A daemon in a thread of its own, until dropped.
struct Daemon {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Server>>,
}

impl Daemon {
    fn start(mut server: Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                attend(&mut server);
                std::thread::sleep(Duration::from_micros(200));
            }
            server
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> Server {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn client(folder: &TempDir) -> Client {
    Client::open(folder.path(), "lb1").unwrap()
}

fn with_weight(edit: &Edit<'_>, weight: u32) -> Pool {
    let mut pool = edit.base().clone();
    pool.services[0].backends[0].weight = weight;
    pool
}

#[test]
fn a_commit_is_put_in_force_and_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(server(&folder));
    let client = client(&folder);
    assert_eq!(client.running().unwrap().pool, sample());
    let mut edit = client.edit(SOON).unwrap();
    let pool = with_weight(&edit, 9);
    let generation = edit.commit(&pool).unwrap();
    assert_eq!(
        edit.wait(generation, SOON).unwrap(),
        Outcome::Acknowledged { workers: 2 }
    );
    drop(edit);
    assert_eq!((generation, client.running().unwrap().pool), (2, pool));
    assert_eq!(client.acknowledged().unwrap(), [2, 2]);
    daemon.end();
}

#[test]
fn a_thousand_changes_are_coalesced_none_is_lost_and_the_last_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    // A daemon that is busy with each change for longer than the next ones take to come.
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        let mut put_in_force = 0;
        while !until.load(Ordering::Relaxed) {
            let before = server.generation();
            attend(&mut server);
            put_in_force += u32::from(server.generation() != before);
            std::thread::sleep(Duration::from_millis(20));
        }
        put_in_force
    });
    let client = client(&folder);
    let mut edit = client.edit(SOON).unwrap();
    let mut last = 0;
    for change in 0..1_000u32 {
        let mut pool = edit.base().clone();
        // Each adds to what was before, so that one which is lost is missed at the end.
        pool.services[0].backends[0].weight += 1;
        pool.services[0].backends[(change % 3) as usize].port += 1;
        last = edit.commit(&pool).unwrap();
    }
    let expected = edit.base().clone();
    assert_eq!(
        edit.wait(last, SOON).unwrap(),
        Outcome::Acknowledged { workers: 2 }
    );
    drop(edit);
    assert_eq!(client.running().unwrap().pool, expected);
    assert_eq!(
        expected.services[0].backends[0].weight,
        sample().services[0].backends[0].weight + 1_000
    );
    stop.store(true, Ordering::Relaxed);
    let put_in_force = thread.join().unwrap();
    assert!(
        put_in_force < 500,
        "{put_in_force} of 1,000 were put in force one by one"
    );
}

#[test]
fn of_several_operators_at_once_none_loses_a_change() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(server(&folder));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let client = client(&folder);
                for _ in 0..25 {
                    let mut edit = client.edit(SOON).unwrap();
                    let mut pool = edit.base().clone();
                    pool.services[0].backends[0].weight += 1;
                    let generation = edit.commit(&pool).unwrap();
                    let outcome = edit.wait(generation, SOON).unwrap();
                    assert_eq!(outcome, Outcome::Acknowledged { workers: 2 });
                }
            });
        }
    });
    let running = client(&folder).running().unwrap();
    assert_eq!(
        running.pool.services[0].backends[0].weight,
        sample().services[0].backends[0].weight + 100
    );
    daemon.end();
}

#[test]
fn a_refused_commit_does_not_stand_in_the_way_of_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(server(&folder));
    let client = client(&folder);
    let mut edit = client.edit(SOON).unwrap();
    let mut pool = edit.base().clone();
    pool.services[0].name = "refuse-me".to_owned();
    let generation = edit.commit(&pool).unwrap();
    let reason = "it is to be refused".to_owned();
    assert_eq!(
        edit.wait(generation, SOON).unwrap(),
        Outcome::Refused { reason }
    );
    drop(edit);
    let mut edit = client.edit(SOON).unwrap();
    assert_eq!(edit.base(), &sample());
    let pool = with_weight(&edit, 4);
    let generation = edit.commit(&pool).unwrap();
    assert_eq!(generation, 3);
    assert_eq!(
        edit.wait(generation, SOON).unwrap(),
        Outcome::Acknowledged { workers: 2 }
    );
    daemon.end();
}

#[test]
fn a_worker_that_lags_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    let client = client(&folder);
    let mut edit = client.edit(SOON).unwrap();
    let pool = with_weight(&edit, 9);
    let generation = edit.commit(&pool).unwrap();
    let nothing = Outcome::TimedOut {
        accepted: false,
        missing: vec![0, 1],
    };
    assert_eq!(edit.wait(generation, Duration::ZERO).unwrap(), nothing);
    let incoming = server.poll().unwrap().unwrap();
    server
        .accept(&directory(incoming.generation, incoming.pool))
        .unwrap();
    server.acknowledge(0, generation).unwrap();
    let lagging = Outcome::TimedOut {
        accepted: true,
        missing: vec![1],
    };
    assert_eq!(edit.wait(generation, Duration::ZERO).unwrap(), lagging);
}

#[test]
fn the_largest_pool_fits() {
    let mut pool = Pool::default();
    for number in 0..crate::model::MAX_SERVICES as u32 {
        let vip = std::net::IpAddr::from(std::net::Ipv4Addr::from(0xc612_0000 + number));
        let mut service = crate::model::Service::new(
            &format!("service-{number}"),
            vip,
            crate::model::PortMatch::Exact(80),
            crate::model::Protocol::Tcp,
            crate::model::Forwarding::Nat,
        );
        for backend in 0..32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 + number * 32 + backend).into();
            service.backends.push(Backend::new(address, 8080));
        }
        pool.services.push(service);
    }
    assert_eq!(pool.backend_count(), crate::model::MAX_BACKENDS);
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    let client = client(&folder);
    let mut edit = client.edit(SOON).unwrap();
    let generation = edit.commit(&pool).unwrap();
    let incoming = server.poll().unwrap().unwrap();
    assert!(incoming.pool == pool, "the pool came out otherwise");
    server
        .accept(&directory(generation, incoming.pool))
        .unwrap();
    assert!(
        client.running().unwrap().pool == pool,
        "the directory says otherwise"
    );
    // Nothing ran over into the neighbouring regions.
    for _ in 0..400 {
        assert_eq!(server.repair().unwrap(), None);
    }
    let one_more = Backend::new(std::net::Ipv4Addr::new(10, 200, 0, 1).into(), 80);
    pool.services[0].backends.push(one_more);
    assert!(edit.commit(&pool).is_err());
}

#[test]
fn writers_wait_for_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(server(&folder));
    let threads: Vec<_> = (0..4u32)
        .map(|number| {
            let client = client(&folder);
            std::thread::spawn(move || {
                for round in 0..10u32 {
                    let mut edit = client.edit(SOON).unwrap();
                    let mut pool = edit.base().clone();
                    let address = format!("10.1.{number}.{}", round + 1).parse().unwrap();
                    pool.services[0].backends.push(Backend::new(address, 80));
                    let generation = edit.commit(&pool).unwrap();
                    let outcome = edit.wait(generation, SOON).unwrap();
                    assert_eq!(outcome, Outcome::Acknowledged { workers: 2 });
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let server = daemon.end();
    assert_eq!(server.generation(), 41);
    assert_eq!(
        client(&folder).running().unwrap().pool.services[0]
            .backends
            .len(),
        43
    );
}

#[test]
fn a_writer_that_died_while_filling_a_slot_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    let bytes = incoming::filling(2, &sample()).encode();
    for cut in 0..bytes.len() {
        server
            .file
            .write_all_at(&bytes[..cut], layout::slot(1))
            .unwrap();
        assert!(server.poll().is_none());
    }
    let client = client(&folder);
    let mut edit = client.edit(SOON).unwrap();
    assert_eq!(edit.base(), &sample());
    let pool = with_weight(&edit, 9);
    edit.commit(&pool).unwrap();
    assert_eq!(
        server.poll(),
        Some(Ok(Incoming {
            generation: 2,
            pool
        }))
    );
    assert!(server.poll().is_none());
}

#[test]
fn a_second_daemon_is_refused_and_a_dead_ones_segment_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let first = server(&folder);
    let refused = Server::create(folder.path(), "lb1", options())
        .unwrap_err()
        .to_string();
    let pid = std::process::id().to_string();
    assert!(
        refused.contains("running already") && refused.contains(&pid),
        "{refused}"
    );
    // Another name is another matter.
    drop(Server::create(folder.path(), "lb2", options()).unwrap());
    let old = client(&folder);
    let mut edit = old.edit(SOON).unwrap();
    let pool = with_weight(&edit, 9);
    edit.commit(&pool).unwrap();
    drop(first);
    assert!(!old.is_alive().unwrap());
    let (mut second, stale) = Server::create(folder.path(), "lb1", options()).unwrap();
    let expected = Stale {
        pid: std::process::id(),
        stopped: false,
        pool: Some(pool.clone()),
    };
    assert_eq!(stale, Some(expected));
    // Whoever still holds the old segment cannot reach the new daemon.
    assert!(edit.commit(&pool).is_err());
    second.publish_initial(&directory(1, sample())).unwrap();
    assert!(second.poll().is_none());
    // What was refused was never in force, and is not lost either.
    let client = client(&folder);
    let refused = client.edit(SOON).unwrap().commit(&pool).unwrap();
    assert!(second.poll().unwrap().is_ok());
    second.refuse(refused, "no").unwrap();
    second.stopped().unwrap();
    drop(second);
    let (_third, stale) = Server::create(folder.path(), "lb1", options()).unwrap();
    assert_eq!(
        stale.map(|stale| (stale.stopped, stale.pool)),
        Some((true, None))
    );
}

#[test]
fn garbage_under_the_name_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("weir.lb1"), b"garbage").unwrap();
    let (_server, stale) = Server::create(folder.path(), "lb1", options()).unwrap();
    assert_eq!(stale, None);
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("weir.lb2")).unwrap();
    assert!(Server::create(folder.path(), "lb2", options()).is_err());
    assert!(Server::create(folder.path(), "../lb3", options()).is_err());
}

#[test]
fn the_segment_is_for_owner_and_group() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let server = server(&folder);
    let mode = std::fs::metadata(server.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "a half-made file was left: {names:?}");
    let unknown = ServerOptions {
        group: Some("no-such-group".to_owned()),
        ..options()
    };
    let error = Server::create(folder.path(), "lb2", unknown)
        .unwrap_err()
        .to_string();
    assert!(error.contains("group = \"no-such-group\""), "{error}");
}

#[test]
fn a_segment_cut_short_is_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    for len in [
        0,
        5,
        layout::COMMIT + 4,
        layout::STATUS + 100,
        layout::RUNNING + 70,
        layout::COUNTERS,
    ] {
        File::options()
            .write(true)
            .open(server.path())
            .unwrap()
            .set_len(len)
            .unwrap();
        if let Some(outcome) = server.poll() {
            assert!(outcome.is_err());
        }
        assert_eq!(server.question(), None);
        server.write_counters(0, 0, &[1, 2, 3]).unwrap();
        server.event(EventKind::Warning, "cut").unwrap();
        let damage = server.repair().unwrap().unwrap();
        assert!(damage.contains("put right"), "{damage}");
        let client = client(&folder);
        assert_eq!(client.running().unwrap().pool, sample());
        // The commit word may be gone with the file; the next change works all the same.
        if let Some(Err(refusal)) = server.poll() {
            assert!(refusal.reason.contains("damaged"), "{}", refusal.reason);
            server.refuse(refusal.generation, &refusal.reason).unwrap();
        }
        let mut edit = client.edit(SOON).unwrap();
        assert_eq!(edit.base(), &sample());
        let generation = edit.commit(&sample()).unwrap();
        let incoming = server.poll().unwrap().unwrap();
        assert_eq!(incoming.generation, generation);
        server
            .accept(&directory(generation, incoming.pool))
            .unwrap();
    }
    assert_eq!(server.repair().unwrap(), None);
}

#[test]
fn garbage_behind_the_last_port_is_no_port() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    let len = layout::MAX_PORTS * layout::PORT_LEN as usize;
    server
        .file
        .write_all_at(&vec![0xff; len], layout::PORTS)
        .unwrap();
    let port = PortStatus {
        name: "wan".to_owned(),
        ..PortStatus::default()
    };
    server.write_ports(std::slice::from_ref(&port)).unwrap();
    assert_eq!(client(&folder).ports().unwrap(), [port]);
}

#[test]
fn a_removed_segment_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    std::fs::remove_file(server.path()).unwrap();
    assert!(server.repair().unwrap().unwrap().contains("removed"));
    assert_eq!(server.repair().unwrap(), None);
    assert!(Server::create(folder.path(), "lb1", options()).is_err());
    let client = client(&folder);
    let mut edit = client.edit(SOON).unwrap();
    assert_eq!(edit.base(), &sample());
    let pool = with_weight(&edit, 9);
    edit.commit(&pool).unwrap();
    assert_eq!(
        server.poll(),
        Some(Ok(Incoming {
            generation: 2,
            pool
        }))
    );
}

#[test]
fn another_file_under_the_name_is_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    std::fs::remove_file(server.path()).unwrap();
    std::fs::write(server.path(), b"mine").unwrap();
    assert!(server.repair().unwrap().unwrap().contains("another file"));
    assert_eq!(server.repair().unwrap(), None);
}

#[test]
fn overwritten_parts_of_the_daemon_are_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    for (at, what) in [
        (layout::HEADER + 9, "the header"),
        (layout::STATUS + 3, "status"),
        (layout::EVENTS + 1, "events"),
        (layout::ack(1), "worker 1"),
        (
            layout::running(server.status.directory) + 200,
            "running directory",
        ),
    ] {
        server.file.write_all_at(&[0xa5; 16], at).unwrap();
        let damage = server.repair().unwrap().unwrap();
        assert!(damage.contains(what), "{what}: {damage}");
        assert_eq!(client(&folder).running().unwrap().pool, sample());
        assert_eq!(server.repair().unwrap(), None);
    }
}

#[test]
fn a_damaged_commit_word_is_refused_once_and_overcome() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    let good = server.word;
    for word in [0, u64::MAX, 0x1234_5678] {
        server
            .file
            .write_all_at(&u64::to_le_bytes(word), layout::COMMIT)
            .unwrap();
        let refusal = server.poll().unwrap().unwrap_err();
        assert!(refusal.reason.contains("damaged"), "{}", refusal.reason);
        assert!(server.poll().is_none());
    }
    // Words that could have been published, but not now.
    for generation in [0, 1, u64::MAX] {
        let word = CommitWord {
            generation,
            slot: 1,
        }
        .encode();
        server
            .file
            .write_all_at(&word.to_le_bytes(), layout::COMMIT)
            .unwrap();
        let refusal = server.poll().unwrap().unwrap_err();
        assert!(
            refusal.reason.contains("cannot follow"),
            "{}",
            refusal.reason
        );
        assert_eq!(refusal.generation, 0);
    }
    server
        .file
        .write_all_at(&good.to_le_bytes(), layout::COMMIT)
        .unwrap();
    assert!(server.poll().is_none());
    server
        .file
        .write_all_at(&[0x77; 8], layout::COMMIT)
        .unwrap();
    assert!(server.poll().unwrap().is_err());
    let client = client(&folder);
    let mut edit = client.edit(SOON).unwrap();
    let pool = with_weight(&edit, 5);
    edit.commit(&pool).unwrap();
    assert_eq!(
        server.poll(),
        Some(Ok(Incoming {
            generation: 2,
            pool
        }))
    );
}

#[test]
fn questions_are_answered_or_time_out() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(server(&folder));
    let client = client(&folder);
    assert_eq!(
        client.ask(&Question::Publish, SOON).unwrap(),
        Answer::Published
    );
    assert_eq!(
        client.ask(&Question::Publish, SOON).unwrap(),
        Answer::Published
    );
    let flows = Question::Flows {
        service: "nope".to_owned(),
        backend: None,
    };
    assert_eq!(client.ask(&flows, SOON).unwrap_err().to_string(), "no nope");
    let mut server = daemon.end();
    let error = client
        .ask(&Question::Publish, Duration::from_millis(20))
        .unwrap_err();
    assert!(matches!(error, ClientError::NoAnswer { .. }), "{error}");
    let other = Client::open(folder.path(), "lb1").unwrap();
    assert!(server.question().is_some());
    let late = client
        .ask(&Question::Publish, Duration::from_millis(20))
        .unwrap_err();
    server.answer(&Answer::Published).unwrap();
    assert!(
        matches!(late, ClientError::NoAnswer { .. }),
        "an old answer was taken: {late}"
    );
    drop(server);
    let error = other.ask(&Question::Publish, SOON).unwrap_err().to_string();
    assert!(error.contains("its process is gone"), "{error}");
}

#[test]
fn counters_events_and_ports_are_seen_by_operators() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    server
        .write_counters(0, service_base(1) + PACKETS, &[5])
        .unwrap();
    server
        .write_counters(1, service_base(1) + PACKETS, &[6])
        .unwrap();
    server
        .write_counters(0, backend_base(3) + PACKETS, &[7])
        .unwrap();
    let control = server.control_block();
    server
        .write_counters(control, drop_index(DropReason::NoRoute), &[8])
        .unwrap();
    // Out of the block: nothing happens.
    server.write_counters(3, 0, &[9]).unwrap();
    server
        .write_counters(0, counters::BLOCK - 1, &[9, 9])
        .unwrap();
    server.event(EventKind::Started, "up").unwrap();
    server.event(EventKind::Drain, "drained").unwrap();
    server
        .write_ports(&[PortStatus {
            name: "wan".to_owned(),
            ..PortStatus::default()
        }])
        .unwrap();
    server.rebuilt(500, 2).unwrap();
    server.rebuilt(400, 3).unwrap();
    let client = client(&folder);
    let counters = client.counters(&client.running().unwrap()).unwrap();
    assert_eq!(counters.blocks(), 3);
    assert_eq!(counters.sum(service_base(1) + PACKETS), 11);
    assert_eq!(counters.of(1, service_base(1) + PACKETS), 6);
    assert_eq!(counters.sum(backend_base(3) + PACKETS), 7);
    assert_eq!(counters.sum(drop_index(DropReason::NoRoute)), 8);
    let texts = |from| -> Vec<String> {
        client
            .events(from)
            .unwrap()
            .into_iter()
            .map(|event| event.text)
            .collect()
    };
    assert_eq!(
        (texts(0), texts(2)),
        (
            vec!["up".to_owned(), "drained".to_owned()],
            vec!["drained".to_owned()]
        )
    );
    assert_eq!(client.ports().unwrap()[0].name, "wan");
    let status = client.status().unwrap();
    assert_eq!(
        (
            status.rebuild_last_ns,
            status.rebuild_max_ns,
            status.tables_built
        ),
        (400, 500, 3)
    );
}

#[test]
fn of_several_segments_the_only_living_daemons_is_meant() {
    let folder = tempfile::tempdir().unwrap();
    let _living = server(&folder);
    let (gone, _) = Server::create(folder.path(), "lb2", options()).unwrap();
    drop(gone);
    let client = Client::open_or_only(folder.path(), None).unwrap();
    assert_eq!(client.instance(), "lb1");
}

#[test]
fn an_operator_is_told_which_instances_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let error = Client::open(folder.path(), "lb1").unwrap_err().to_string();
    assert!(
        error.contains("no instance \"lb1\"") && error.contains("is weir running?"),
        "{error}"
    );
    let first = server(&folder);
    assert_eq!(
        Client::open_or_only(folder.path(), None)
            .unwrap()
            .instance(),
        "lb1"
    );
    let (_second, _) = Server::create(folder.path(), "lb2", options()).unwrap();
    let error = Client::open_or_only(folder.path(), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"lb1\", \"lb2\"") && error.contains("--instance"),
        "{error}"
    );
    let error = Client::open(folder.path(), "lb3").unwrap_err().to_string();
    assert!(error.contains("there are \"lb1\", \"lb2\""), "{error}");
    first.file.write_all_at(&77u32.to_le_bytes(), 8).unwrap();
    let error = Client::open(folder.path(), "lb1").unwrap_err().to_string();
    assert!(error.contains("layout version 77"), "{error}");
    let (mut second, _) = Server::create(folder.path(), "lb4", options()).unwrap();
    second.stopped().unwrap();
    drop(second);
    let error = Client::open(folder.path(), "lb4")
        .unwrap()
        .edit(SOON)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("not running") && error.contains("it was stopped"),
        "{error}"
    );
}

/// A region that operators, or anybody, may write to.
fn corruptions() -> impl Strategy<Value = Vec<(u64, Vec<u8>)>> {
    let records = (layout::SLOT_HEADER + 2 * layout::SERVICE_RECORD) as u64;
    let place = prop_oneof![
        layout::COMMIT..layout::COMMIT + 8,
        layout::slot(0)..layout::slot(0) + records,
        layout::slot(1)..layout::slot(1) + records,
        layout::QUESTION..layout::QUESTION + 40,
        layout::STATUS..layout::STATUS + 64,
        layout::HEADER..layout::HEADER + 64,
        layout::RUNNING..layout::RUNNING + records,
        layout::EVENTS..layout::EVENTS + 16,
        0..layout::COUNTERS,
    ];
    let bytes = proptest::collection::vec(any::<u8>(), 1..64);
    proptest::collection::vec((place, bytes), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Garbage anywhere: never a panic, never a pool that is not valid, and operators can go on.
    #[test]
    fn random_corruption_is_refused_and_overcome(
        pool in pools(),
        steps in corruptions(),
        cut in proptest::option::of(0..layout::COUNTERS),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut server = server(&folder);
        let file = File::options().write(true).open(server.path()).unwrap();
        for (at, bytes) in steps {
            file.write_all_at(&bytes, at).unwrap();
            if let Some(outcome) = server.poll() {
                match outcome {
                    Ok(incoming) => {
                        incoming.pool.validate().unwrap();
                        server.accept(&directory(incoming.generation, incoming.pool)).unwrap();
                    }
                    Err(refusal) => {
                        prop_assert!(!refusal.reason.is_empty());
                        server.refuse(refusal.generation, &refusal.reason).unwrap();
                    }
                }
            }
            server.question();
        }
        if let Some(cut) = cut {
            file.set_len(cut).unwrap();
            server.poll();
            server.question();
        }
        server.repair().unwrap();
        if let Some(Err(refusal)) = server.poll() {
            server.refuse(refusal.generation, &refusal.reason).unwrap();
        }
        let client = client(&folder);
        let mut edit = client.edit(SOON).unwrap();
        let generation = edit.commit(&pool).unwrap();
        let incoming = server.poll().unwrap().unwrap();
        prop_assert_eq!((incoming.generation, incoming.pool), (generation, pool));
    }
}

#[test]
fn states_change_without_the_pool_being_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = server(&folder);
    let client = client(&folder);
    let mut expected = directory(1, sample());
    let second: usize = expected.services[0].backends.len();
    assert!(second >= 2 && expected.services.len() >= 2);
    let last = |directory: &mut RunningDirectory, state| {
        directory.services[0].backends[second - 1].state = state;
    };
    for round in 0..5 {
        let state = [BackendState::Down, BackendState::Up][round % 2];
        last(&mut expected, state);
        expected.services[1].backends[0].state = state;
        let changed = [
            (second - 1, vec![state]),
            (second, vec![expected.services[1].backends[0].state]),
        ];
        server.restate(&changed).unwrap();
        assert_eq!(client.running().unwrap(), expected, "{round}");
        assert_eq!(server.repair().unwrap(), None);
    }
    // A new pool, then states again.
    expected.generation = 2;
    expected.pool.services[0].backends[0].weight += 1;
    server.accept(&expected).unwrap();
    last(&mut expected, BackendState::Held);
    server
        .restate(&[(second - 1, vec![BackendState::Held])])
        .unwrap();
    assert_eq!(client.running().unwrap(), expected);
    // What cannot be is not written.
    server
        .restate(&[(1 << 20, vec![BackendState::Up])])
        .unwrap();
    assert_eq!(client.running().unwrap(), expected);
}
