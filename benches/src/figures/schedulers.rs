//! S. What a new flow costs by scheduler: every packet a SYN of a flow never seen before, steered and
//! remembered. All cases are measured in turns, each over a pool and a table of its own.

use std::fmt::Write as _;

use weir_shm::counters::CONNTRACK_INSERTED;

use super::{Settings, on_worker_core};
use crate::record::Record;
use crate::rig::path::{BACKENDS, Bed, base};
use crate::rig::traffic::{Kind, Traffic};
use crate::{Failure, median};

/// New flows a repetition of each case.
const FLOWS: u32 = 400_000;

/// A way to steer.
struct Case {
    name: &'static str,
    /// Keys of the service.
    keys: &'static str,
    backends: u8,
    /// Keys of the backend with this number, from 1.
    backend: fn(u8) -> String,
    /// Entries of conntrack that a flow takes.
    entries: u64,
}

const fn case(name: &'static str, keys: &'static str) -> Case {
    Case {
        name,
        keys,
        backends: BACKENDS,
        backend: |_| String::new(),
        entries: 1,
    }
}

/// Weights 1 to 8.
fn weight(backend: u8) -> String {
    format!("weight = {}\n", 1 + backend % 8)
}

const MAGLEV: &str = "scheduler = \"maglev\"";
const ROUND_ROBIN: &str = "scheduler = \"round-robin\"";
const LEAST_CONNECTIONS: &str = "scheduler = \"least-connections\"";

/// What is measured; the first is what the others are held against.
const CASES: [Case; 15] = [
    case("maglev", MAGLEV),
    Case {
        backend: weight,
        ..case("maglev, weights 1 to 8", MAGLEV)
    },
    case("ring", "scheduler = \"ring\""),
    case("source-hash", "scheduler = \"source-hash\""),
    case("round-robin", ROUND_ROBIN),
    Case {
        backend: weight,
        ..case("round-robin, weights 1 to 8", ROUND_ROBIN)
    },
    Case {
        backends: 10,
        ..case("least-connections, 10 backends", LEAST_CONNECTIONS)
    },
    case("least-connections", LEAST_CONNECTIONS),
    Case {
        backend: weight,
        ..case("least-connections, weights 1 to 8", LEAST_CONNECTIONS)
    },
    case("maglev, hash 5-tuple+isn", "hash = \"5-tuple+isn\""),
    Case {
        entries: 2,
        ..case(
            "maglev, affinity, every client new",
            "affinity = \"source\"",
        )
    },
    // Clients are /16s, so that every flow but a few comes from one that is known.
    case(
        "maglev, affinity, clients known",
        "affinity = { by = \"source\", prefix4 = 16 }",
    ),
    case(
        "round-robin, affinity, clients known",
        "scheduler = \"round-robin\"\naffinity = { by = \"source\", prefix4 = 16 }",
    ),
    Case {
        backend: |_| "max_flows = 10000000\n".to_owned(),
        ..case("maglev, max_flows, none full", MAGLEV)
    },
    Case {
        backend: |backend| {
            format!(
                "max_flows = {}\n",
                if backend % 2 == 0 { 1 } else { 10_000_000 }
            )
        },
        ..case("maglev, max_flows, half the backends full", MAGLEV)
    },
];

fn config(case: &Case) -> String {
    let mut text = base();
    let _ = write!(
        text,
        "[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80\nprotocol = \"tcp\"\n\
         forwarding = \"dsr-l2\"\n{}\n",
        case.keys
    );
    for backend in 1..=case.backends {
        let _ = write!(
            text,
            "[[service.backend]]\naddress = \"10.0.1.{backend}\"\n{}",
            (case.backend)(backend)
        );
    }
    text
}

/// Measures all cases.
///
/// # Errors
/// When memory is short, or a flow was not steered and remembered.
pub fn measure(settings: &Settings) -> Result<Vec<Record>, Failure> {
    let repetitions = settings.repetitions;
    on_worker_core(move || all(repetitions))
}

fn all(repetitions: usize) -> Result<Vec<Record>, Failure> {
    // A round goes before the first that counts: it touches the table's memory.
    let total = (1 + repetitions as u64) * u64::from(FLOWS);
    let syn = Traffic::new(Kind::Syn4);
    let mut beds = Vec::new();
    for case in &CASES {
        let mut bed = Bed::of(&config(case), total * case.entries, 1)?;
        bed.path()?.load(&syn);
        beds.push((bed, 0u32, Vec::new()));
    }
    for round in 0..=repetitions {
        for (bed, flow, samples) in &mut beds {
            let path = bed.path()?;
            let mut next = || {
                *flow += 1;
                *flow
            };
            let mut written = 0u32;
            let without = path.time(&syn, FLOWS, false, || {
                written += 1;
                written
            });
            let with = path.time(&syn, FLOWS, true, &mut next);
            if round > 0 {
                samples.push(with - without);
            }
        }
    }
    let mut records: Vec<Record> = Vec::new();
    let yardstick = beds.first().map(|(.., samples)| median(samples.clone()));
    for (case, (bed, _, samples)) in CASES.iter().zip(&mut beds) {
        let path = bed.path()?;
        path.all_forwarded()?;
        let remembered = path.counter(CONNTRACK_INSERTED);
        if (remembered as f64) < total as f64 * 0.999 {
            let name = case.name;
            return Err(format!("{name}: {total} new flows, but {remembered} remembered").into());
        }
        let record = Record::new('S', case.name, "ns/packet", samples);
        records.push(match yardstick {
            Some(value) if !records.is_empty() => record.against("maglev", value),
            _ => record,
        });
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_case_is_a_configuration() {
        for case in &CASES {
            let parsed = weir::config::Config::parse(Path::new("s.toml"), &config(case));
            assert!(parsed.is_ok(), "{}: {}", case.name, parsed.unwrap_err());
        }
    }
}
