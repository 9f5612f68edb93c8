//! What a replay counted, as one JSON object or as a few lines for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use weir_engine::counters::CounterReader;
use weir_shm::counters::{self, DropReason, WORKER_COUNTERS};

use crate::control::book::Book;

/// Frames by what became of them: `received = forwarded + answered + dropped`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Packets {
    /// Frames that came in.
    pub received: u64,
    /// Frames balanced and sent, or given back to a client; one that was cut counts once.
    pub forwarded: u64,
    /// Frames that weir itself answered or took to heart (ARP, NDP, echo), or gave to the kernel.
    pub answered: u64,
    /// Frames dropped, for any reason.
    pub dropped: u64,
}

/// A backend's share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct BackendCounts {
    /// Packets from clients.
    pub packets: u64,
    /// Their frames' bytes as they came in.
    pub bytes: u64,
    /// Flows that began.
    pub new_flows: u64,
}

/// A service's counts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct ServiceCounts {
    /// Packets from clients.
    pub packets: u64,
    /// Their frames' bytes as they came in.
    pub bytes: u64,
    /// Flows that began.
    pub new_flows: u64,
    /// By backend, those that have left included.
    pub backends: BTreeMap<String, BackendCounts>,
}

/// Something that happened on the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Happening {
    /// When, in nanoseconds from the first frame.
    pub at_ns: u64,
    /// What it is about.
    pub kind: &'static str,
    /// What happened.
    pub text: String,
}

/// Frames that passed between the ports and the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct KernelCounts {
    /// Frames for the kernel, copies of what weir heard itself included.
    pub to_kernel: u64,
    /// Frames that the kernel sent.
    pub from_kernel: u64,
}

impl KernelCounts {
    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything that a replay counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// By what became of them.
    pub packets: Packets,
    /// Dropped frames by reason; reasons that did not occur are left out.
    pub drops: BTreeMap<&'static str, u64>,
    /// What steering did beyond a choice, by counter; what did not occur is left out.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub steering: BTreeMap<&'static str, u64>,
    /// Everything else that is counted, by the names of `weirctl stats`; what did not occur is left
    /// out.
    pub counters: BTreeMap<&'static str, u64>,
    /// What passed between the ports and the kernel, where anything did.
    #[serde(skip_serializing_if = "KernelCounts::is_none")]
    pub kernel: KernelCounts,
    /// By service, those that have left included.
    pub services: BTreeMap<String, ServiceCounts>,
    /// What happened by itself: drains that ran out, backends that went up or down.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Happening>,
}

impl Report {
    /// Sums several blocks of counters.
    #[must_use]
    pub fn new(book: &Book, blocks: &[CounterReader]) -> Self {
        let sum = |index| blocks.iter().map(|block| block.get(index)).sum::<u64>();
        let drops: BTreeMap<&'static str, u64> = DropReason::ALL
            .iter()
            .map(|reason| (reason.name(), sum(counters::drop_index(*reason))))
            .filter(|(_, count)| *count > 0)
            .collect();
        let steering = [
            ("flows_diverted", counters::FLOWS_DIVERTED),
            ("pinned", counters::PINNED),
        ]
        .map(|(name, counter)| (name, sum(counter)))
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
        let counters = WORKER_COUNTERS
            .iter()
            .map(|(index, name, _)| (*name, sum(*index)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let packets = Packets {
            received: sum(counters::RECEIVED),
            forwarded: sum(counters::FORWARDED).saturating_sub(sum(counters::PIECES_MADE)),
            answered: sum(counters::ANSWERED),
            dropped: drops.values().sum(),
        };
        let backend_counts = |number| {
            let base = counters::backend_base(number);
            BackendCounts {
                packets: sum(base + counters::PACKETS),
                bytes: sum(base + counters::BYTES),
                new_flows: sum(base + counters::NEW_FLOWS),
            }
        };
        let services = book
            .everything_seen()
            .into_iter()
            .map(|(name, (number, backends))| {
                let base = counters::service_base(number);
                let backends = backends
                    .into_iter()
                    .map(|(name, number)| (name.to_owned(), backend_counts(number)))
                    .collect();
                let counts = ServiceCounts {
                    packets: sum(base + counters::PACKETS),
                    bytes: sum(base + counters::BYTES),
                    new_flows: sum(base + counters::NEW_FLOWS),
                    backends,
                };
                (name.to_owned(), counts)
            })
            .collect();
        let kernel = KernelCounts {
            to_kernel: sum(counters::TO_KERNEL),
            from_kernel: sum(counters::FROM_KERNEL),
        };
        Self {
            packets,
            drops,
            steering,
            counters,
            kernel,
            services,
            events: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packets {
            received,
            forwarded,
            answered,
            dropped,
        } = self.packets;
        writeln!(
            f,
            "{received} received = {forwarded} forwarded + {answered} answered + {dropped} dropped"
        )?;
        for (reason, count) in &self.drops {
            writeln!(f, "  dropped {count:>12}  {reason}")?;
        }
        for (name, count) in &self.steering {
            writeln!(f, "  steering {count:>11}  {name}")?;
        }
        // What the first line and the lines of steering tell is told.
        let told = ["received", "forwarded", "answered"];
        let told = |name: &str| told.contains(&name) || self.steering.contains_key(name);
        for (name, count) in self.counters.iter().filter(|(name, _)| !told(name)) {
            writeln!(f, "  counted {count:>12}  {name}")?;
        }
        for (name, service) in &self.services {
            writeln!(
                f,
                "{name}: {} packets, {} bytes, {} new flows",
                service.packets, service.bytes, service.new_flows
            )?;
            for (name, backend) in &service.backends {
                writeln!(
                    f,
                    "  {name:<24} {:>12} packets {:>14} bytes {:>10} new flows",
                    backend.packets, backend.bytes, backend.new_flows
                )?;
            }
        }
        for Happening { at_ns, kind, text } in &self.events {
            let millis = at_ns / 1_000_000;
            writeln!(f, "@{}.{:03} {kind}: {text}", millis / 1000, millis % 1000)?;
        }
        Ok(())
    }
}
