//! Changes of large pools: what is built anew, what is shared, and that what is shared is right.

#![allow(clippy::unwrap_used)] // a helper that cannot go on fails its test

mod support;

use std::fmt::Write as _;

use proptest::prelude::*;
use support::rig::Rig;
use weir::service::Services;

const HEAD: &str = "[engine]\nflows_per_worker = 4096\n[[port]]\nname = \"lan\"\n\
                    device = \"net_null0\"\naddresses = [\"10.0.0.1/8\"]\n\
                    mac = \"02:00:00:00:00:01\"\n";

/// Services with backends; their modes take turns.
fn pool(services: usize, backends: usize) -> String {
    let mut text = String::new();
    for service in 0..services {
        let mode = [
            "forwarding = \"nat\"",
            "forwarding = \"dsr-l2\"",
            "forwarding = \"dsr-gue\"\nmss_clamp = 1400",
            "forwarding = \"dsr-dscp\"\ndscp = 7",
        ][service % 4];
        write!(
            text,
            "[[service]]\nname = \"s{service}\"\nvip = \"198.51.{}.{}\"\nport = 80\n\
             protocol = \"tcp\"\ntable_size = 251\n{mode}\n",
            service / 250,
            service % 250 + 1
        )
        .unwrap();
        for backend in 0..backends {
            let number = service * backends + backend + 256;
            let (a, b, c) = (1 + (number >> 16), number >> 8 & 255, number & 255);
            write!(text, "[[service.backend]]\naddress = \"10.{a}.{b}.{c}\"\n").unwrap();
        }
    }
    text
}

fn tables_built(rig: &Rig) -> u64 {
    rig.control.book().tables_built()
}

#[test]
fn of_a_thousand_services_only_those_that_changed_are_built_anew() {
    let mut rig = Rig::new(&format!("{HEAD}{}", pool(1, 100)));
    let before = tables_built(&rig);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pool(1_000, 100)).unwrap();
    rig.command(&format!("apply {}", file.path().display()));
    assert_eq!(
        tables_built(&rig) - before,
        999,
        "the first one is as it was"
    );
    let backend = rig.control.pool().services[500].backends[7].address;
    rig.command(&format!("backend weight s500 {backend}:80 7"));
    assert_eq!(tables_built(&rig) - before, 1_000);
    // Nothing that a table is made of.
    let backend = rig.control.pool().services[501].backends[7].address;
    rig.command(&format!("backend force s501 {backend}:80 up"));
    assert_eq!(tables_built(&rig) - before, 1_000);
    rig.command(&format!(
        "backend remove s500 {}:80",
        rig.control.pool().services[500].backends[7].address
    ));
    assert_eq!(tables_built(&rig) - before, 1_001);
    rig.command("service remove s3");
    assert_eq!(tables_built(&rig) - before, 1_001);
}

/// What workers make of a pool: each backend's line, and whom many points lead to.
fn made(services: &Services) -> Vec<String> {
    let line = |backend| format!("{backend:?}");
    let lines = services.backends.iter().map(line);
    let choices = services.services.iter().map(|service| {
        let points = (0..64u32).map(|point| point << 26);
        let chosen: Vec<_> = points
            .map(|point| service.scheduler.fixed(point).backend())
            .collect();
        format!("{service:?} {chosen:?}")
    });
    lines.chain(choices).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Changes that share what they can lead to the same as a start with the last pool.
    #[test]
    fn a_pool_is_the_same_whatever_led_to_it(
        changes in proptest::collection::vec((0usize..8, 0usize..5, 0usize..9), 1..20),
    ) {
        let mut rig = Rig::new(&format!("{HEAD}{}", pool(8, 5)));
        for (service, backend, change) in changes {
            let mut pool = rig.control.pool().clone();
            let of = &mut pool.services[service];
            let name = of.backends[backend].name(of);
            let line = match change {
                0 => format!("backend weight s{service} {name} 0"),
                1 => format!("backend weight s{service} {name} 3"),
                2 => format!("backend disable s{service} {name}"),
                3 => format!("backend enable s{service} {name}"),
                4 => format!("backend force s{service} {name} down"),
                5 => format!("backend force s{service} {name} auto"),
                6 => format!("backend drain s{service} {name} --force"),
                _ => {
                    if change == 7 {
                        of.timeouts.udp += std::time::Duration::from_secs(1);
                    } else {
                        of.table_size = if of.table_size == 251 { 257 } else { 251 };
                    }
                    let generation = rig.control.generation() + 1;
                    rig.control.apply(rig.now, generation, pool).unwrap();
                    continue;
                }
            };
            rig.command(&line);
        }
        let last = rig.control.pool().clone();
        let mut anew = Rig::new(&format!("{HEAD}{}", pool(8, 5)));
        // All at once, and made anew since the services stand in another order for a moment.
        let mut turned = last.clone();
        turned.services.reverse();
        anew.control.apply(anew.now, 2, turned).unwrap();
        anew.control.apply(anew.now, 3, last).unwrap();
        // Numbers of time-out profiles are those of history.
        let told = |rig: &Rig| -> Vec<String> {
            let lines = made(rig.control.services()).into_iter();
            let parts = lines.map(|line| {
                let parts = line.split(", ").filter(|part| !part.starts_with("profile: "));
                parts.collect::<Vec<_>>().join(", ")
            });
            parts.collect()
        };
        prop_assert_eq!(told(&rig), told(&anew));
    }
}
