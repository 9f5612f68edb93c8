//! Every metric: its name, its meaning and where its value comes from.
//!
//! Names follow Prometheus's conventions: base units, `_total` for what only grows, few labels, all
//! of them bounded by the configuration. A service or backend that leaves the pool leaves the
//! exposition; it goes on where it was when it comes back.

use prometheus::{Encoder, TextEncoder};
use weir_engine::counters::CounterReader;
use weir_shm::counters::{self, DropReason};
use weir_shm::segment::directory::BackendState;
use weir_shm::segment::port::PortStatus;

use super::Facts;
use super::facts::{BackendFacts, ServiceFacts};
use super::families::{Families, Samples};
use crate::conntrack::Counts;

/// The media type of what [`text`] gives.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a scrape shows.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// What the control core says.
    pub facts: &'a Facts,
    /// How old that is, in seconds.
    pub age: f64,
    /// Counters: of each worker in order, then the control core's own.
    pub blocks: &'a [CounterReader],
    /// What the workers' flow tables hold.
    pub flows: &'a Counts,
    /// Entries that each worker's flow table has room for.
    pub room: &'a [u64],
    /// Scrapes so far, this one included.
    pub scrapes: u64,
}

/// Counters of workers whose names are not made from those in statistics: index, name, factor.
const NAMED: &[(usize, &str, f64)] = &[
    (
        counters::RECEIVED,
        "weir_worker_received_packets_total",
        1.0,
    ),
    (
        counters::FORWARDED,
        "weir_worker_forwarded_packets_total",
        1.0,
    ),
    (
        counters::ANSWERED,
        "weir_worker_answered_packets_total",
        1.0,
    ),
    (counters::PUNTED, "weir_worker_punted_packets_total", 1.0),
    (counters::HELD, "weir_worker_held_packets_total", 1.0),
    (
        counters::HANDED_OVER,
        "weir_worker_handed_over_packets_total",
        1.0,
    ),
    (counters::CONNTRACK_HITS, "weir_conntrack_hits_total", 1.0),
    (
        counters::CONNTRACK_MISSES,
        "weir_conntrack_misses_total",
        1.0,
    ),
    (
        counters::CONNTRACK_INSERTED,
        "weir_conntrack_insertions_total",
        1.0,
    ),
    (
        counters::CONNTRACK_EVICTED,
        "weir_conntrack_evictions_total",
        1.0,
    ),
    (
        counters::CONNTRACK_UNTRACKED,
        "weir_conntrack_insert_failures_total",
        1.0,
    ),
    (counters::POLLS, "weir_worker_rounds_total", 1.0),
    (counters::BUSY_POLLS, "weir_worker_busy_rounds_total", 1.0),
    (counters::BUSY_NS, "weir_worker_busy_seconds_total", 1e-9),
    (counters::IDLE_NS, "weir_worker_idle_seconds_total", 1e-9),
];

/// Counters that are the control core's, or that it shares with the first worker.
const OF_CONTROL: &[usize] = &[
    counters::REPLIES_LOST,
    counters::TO_KERNEL,
    counters::FROM_KERNEL,
];

/// Counters of a service: offset, name, meaning.
const OF_SERVICE: &[(usize, &str, &str)] = &[
    (
        counters::PACKETS,
        "weir_service_packets_total",
        "Packets from clients.",
    ),
    (
        counters::BYTES,
        "weir_service_bytes_total",
        "Bytes of the frames from clients.",
    ),
    (
        counters::NEW_FLOWS,
        "weir_service_new_flows_total",
        "Flows that began.",
    ),
    (
        counters::RETURN_PACKETS,
        "weir_service_return_packets_total",
        "Packets from backends to clients.",
    ),
    (
        counters::RETURN_BYTES,
        "weir_service_return_bytes_total",
        "Bytes of the frames from backends to clients.",
    ),
];

/// Counters of a backend: offset, name, meaning.
const OF_BACKEND: &[(usize, &str, &str)] = &[
    (
        counters::PACKETS,
        "weir_backend_packets_total",
        "Packets from clients.",
    ),
    (
        counters::BYTES,
        "weir_backend_bytes_total",
        "Bytes of the frames from clients.",
    ),
    (
        counters::NEW_FLOWS,
        "weir_backend_new_flows_total",
        "Flows that began.",
    ),
    (
        counters::REFUSED,
        "weir_backend_refused_connections_total",
        "Connections of clients that the backend refused.",
    ),
];

type OfPort = (&'static str, &'static str, fn(&PortStatus) -> u64);

/// Counters of a port: name, meaning, value.
const OF_PORT: &[OfPort] = &[
    (
        "weir_port_received_packets_total",
        "Frames that the device received.",
        |port| port.rx_packets,
    ),
    (
        "weir_port_received_bytes_total",
        "Bytes that the device received.",
        |port| port.rx_bytes,
    ),
    (
        "weir_port_receive_missed_packets_total",
        "Frames that the device dropped since its queue was full: the workers are too slow.",
        |port| port.rx_missed,
    ),
    (
        "weir_port_receive_errors_total",
        "Frames that the device found broken.",
        |port| port.rx_errors,
    ),
    (
        "weir_port_receive_no_buffer_total",
        "Frames that found no packet buffer.",
        |port| port.rx_no_buffer,
    ),
    (
        "weir_port_sent_packets_total",
        "Frames that the device sent.",
        |port| port.tx_packets,
    ),
    (
        "weir_port_sent_bytes_total",
        "Bytes that the device sent.",
        |port| port.tx_bytes,
    ),
    (
        "weir_port_send_errors_total",
        "Frames that the device could not send.",
        |port| port.tx_errors,
    ),
];

/// The exposition of what a scrape shows, in Prometheus's text format 0.0.4.
///
/// # Errors
/// When the encoder refuses a family: a bug of ours.
pub fn text(seen: &Seen<'_>) -> Result<Vec<u8>, prometheus::Error> {
    let mut families = Families::default();
    daemon(&mut families, seen);
    services(&mut families, seen);
    backends(&mut families, seen);
    drops(&mut families, seen);
    workers(&mut families, seen);
    ports(&mut families, seen);
    let mut text = Vec::new();
    TextEncoder::new().encode(&families.done(), &mut text)?;
    Ok(text)
}

fn daemon(families: &mut Families, seen: &Seen<'_>) {
    let facts = seen.facts;
    let labels = [
        ("name", &*facts.instance),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    families.gauges(
        "weir_build_info",
        "The instance's name and weir's version; always 1.",
        |to| {
            to.gauge(&labels, 1.0);
        },
    );
    let mut gauge = |name: &str, help: &str, value: f64| {
        families.gauges(name, help, |to| to.gauge(&[], value));
    };
    gauge(
        "weir_start_time_seconds",
        "When the daemon started, since 1970.",
        facts.started,
    );
    gauge(
        "weir_generation",
        "The generation of the pool in force.",
        facts.generation as f64,
    );
    gauge(
        "weir_generation_committed",
        "The last generation that was committed, put in force or refused.",
        facts.committed as f64,
    );
    gauge(
        "weir_control_held_packets",
        "Packets that wait for a neighbour.",
        facts.held as f64,
    );
    gauge(
        "weir_facts_age_seconds",
        "How old what the control core says is; large when it is stuck.",
        seen.age,
    );
    families.counters("weir_scrapes_total", "Scrapes so far.", |to| {
        to.counter(&[], seen.scrapes as f64);
    });
    families.counters(
        "weir_tables_built_total",
        "Tables of services that were built.",
        |to| {
            to.counter(&[], facts.tables_built as f64);
        },
    );
    families.histograms(
        "weir_rebuild_duration_seconds",
        "How long changes of tables took, from the pool or state that changed to what workers read.",
        |to| to.histogram(&[], &facts.rebuilds),
    );
    families.counters(
        "weir_events_total",
        "Events, as `weirctl events` shows them, by kind.",
        |to| {
            for (kind, count) in &facts.events {
                to.counter(&[("kind", kind.name())], *count as f64);
            }
        },
    );
    let control = seen.blocks.last();
    let of = |index| control.map_or(0, |block| block.get(index)) as f64;
    families.counters(
        "weir_control_answered_packets_total",
        "Frames that the control core answered or took to heart (ARP, NDP, echo).",
        |to| to.counter(&[], of(counters::ANSWERED)),
    );
    families.counters(
        "weir_control_replies_lost_total",
        "Frames that the control core made and that found the queue to the worker full.",
        |to| to.counter(&[], of(counters::REPLIES_LOST)),
    );
    for (index, name, help) in [
        (
            counters::TO_KERNEL,
            "weir_to_kernel_packets_total",
            "Frames handed to the kernel by a port's interface there.",
        ),
        (
            counters::FROM_KERNEL,
            "weir_from_kernel_packets_total",
            "Frames of the kernel's, sent by the port whose interface it chose.",
        ),
    ] {
        families.counters(name, help, |to| to.counter(&[], seen.sum(index)));
    }
}

fn services(families: &mut Families, seen: &Seen<'_>) {
    let each = |to: &mut Samples, fill: &dyn Fn(&mut Samples, &ServiceFacts)| {
        for service in &seen.facts.services {
            fill(to, service);
        }
    };
    for (offset, name, help) in OF_SERVICE {
        families.counters(name, help, |to| {
            each(to, &|to, service| {
                let index = counters::service_base(service.number) + offset;
                to.counter(&[("service", &service.name)], seen.sum(index));
            });
        });
    }
    families.gauges(
        "weir_service_backends",
        "Backends in the service's pool.",
        |to| {
            each(to, &|to, service| {
                to.gauge(&[("service", &service.name)], service.backends.len() as f64);
            });
        },
    );
    families.gauges(
        "weir_service_healthy_ratio",
        "The share of its backends' weight that is up, from 0 to 1.",
        |to| {
            each(to, &|to, service| {
                let share = f64::from(service.healthy) / 1000.0;
                to.gauge(&[("service", &service.name)], share);
            });
        },
    );
    families.histograms(
        "weir_service_check_duration_seconds",
        "How long health checks of the service's backends took.",
        |to| {
            each(to, &|to, service| {
                if let Some(checks) = &service.checks {
                    to.histogram(&[("service", &service.name)], checks);
                }
            });
        },
    );
}

fn backends(families: &mut Families, seen: &Seen<'_>) {
    type Labels<'a> = [(&'static str, &'a str); 2];
    let each = |to: &mut Samples, fill: &dyn Fn(&mut Samples, Labels<'_>, &BackendFacts)| {
        for service in &seen.facts.services {
            for backend in &service.backends {
                let labels = [("service", &*service.name), ("backend", &*backend.name)];
                fill(to, labels, backend);
            }
        }
    };
    for (offset, name, help) in OF_BACKEND {
        families.counters(name, help, |to| {
            each(to, &|to, labels, backend| {
                let index = counters::backend_base(backend.number) + offset;
                to.counter(&labels, seen.sum(index));
            });
        });
    }
    families.gauges(
        "weir_backend_flows",
        "Flows that live, as of the last pass over the workers' flow tables.",
        |to| {
            each(to, &|to, labels, backend| {
                to.gauge(&labels, seen.flows.of_backend(backend.number) as f64);
            });
        },
    );
    families.gauges("weir_backend_weight", "The backend's weight.", |to| {
        each(to, &|to, labels, backend| {
            to.gauge(&labels, f64::from(backend.weight));
        });
    });
    families.gauges(
        "weir_backend_up",
        "Whether the backend is healthy and takes new flows.",
        |to| {
            each(to, &|to, labels, backend| {
                let up = matches!(backend.state, BackendState::Up | BackendState::SlowStart);
                to.gauge(&labels, f64::from(u8::from(up)));
            });
        },
    );
    families.gauges(
        "weir_backend_state",
        "1 for the state that the backend is in, as `weirctl backend list` names it.",
        |to| {
            each(to, &|to, [service, name], backend| {
                to.gauge(&[service, name, ("state", backend.state.name())], 1.0);
            });
        },
    );
    families.counters(
        "weir_backend_checks_total",
        "Health checks that ended, by result.",
        |to| {
            each(to, &|to, [service, name], backend| {
                if let Some(checks) = backend.checks {
                    let passed = checks.ended.saturating_sub(checks.failed) as f64;
                    to.counter(&[service, name, ("result", "success")], passed);
                    to.counter(
                        &[service, name, ("result", "failure")],
                        checks.failed as f64,
                    );
                }
            });
        },
    );
    families.gauges(
        "weir_backend_last_check_duration_seconds",
        "How long the last health check took.",
        |to| {
            each(to, &|to, labels, backend| {
                if let Some(last) = backend.checks.and_then(|checks| checks.last_ns) {
                    to.gauge(&labels, last as f64 * 1e-9);
                }
            });
        },
    );
}

fn drops(families: &mut Families, seen: &Seen<'_>) {
    families.counters(
        "weir_dropped_packets_total",
        "Frames that were dropped, by reason.",
        |to| {
            for reason in DropReason::ALL {
                let sum = seen.sum(counters::drop_index(*reason));
                to.counter(&[("reason", reason.name())], sum);
            }
        },
    );
}

fn workers(families: &mut Families, seen: &Seen<'_>) {
    let blocks = &seen.blocks[..seen.blocks.len().saturating_sub(1)];
    let names: Vec<String> = (0..blocks.len()).map(|worker| worker.to_string()).collect();
    for (index, name, help) in counters::WORKER_COUNTERS {
        if OF_CONTROL.contains(index) {
            continue;
        }
        let named = NAMED.iter().find(|(named, ..)| named == index);
        let (name, factor) = match named {
            Some((_, name, factor)) => ((*name).to_owned(), *factor),
            None => (format!("weir_worker_{name}_total"), 1.0),
        };
        let help = match *index {
            counters::BUSY_NS => "Time of rounds in which a frame came in or went out.",
            counters::IDLE_NS => {
                "Time of rounds in which nothing did, pauses between them included."
            }
            _ => help,
        };
        families.counters(&name, help, |to| {
            for (worker, block) in names.iter().zip(blocks) {
                to.counter(&[("worker", worker)], block.get(*index) as f64 * factor);
            }
        });
    }
    let mut gauges = |name: &str, help: &str, value: &dyn Fn(usize) -> Option<f64>| {
        families.gauges(name, help, |to| {
            for (number, worker) in names.iter().enumerate() {
                if let Some(value) = value(number) {
                    to.gauge(&[("worker", worker)], value);
                }
            }
        });
    };
    let facts = |worker: usize| seen.facts.workers.get(worker);
    gauges(
        "weir_worker_generation",
        "The generation of the pool that the worker runs.",
        &|worker| facts(worker).map(|facts| facts.generation as f64),
    );
    gauges(
        "weir_conntrack_entries",
        "Entries of the worker's flow table that live, as of the last pass over it.",
        &|worker| Some(seen.flows.of_worker(worker) as f64),
    );
    gauges(
        "weir_conntrack_entries_limit",
        "Entries that the worker's flow table has room for.",
        &|worker| seen.room.get(worker).map(|room| *room as f64),
    );
    gauges(
        "weir_sessions",
        "Sessions of full-nat that live.",
        &|worker| Some(facts(worker)?.sessions?.0 as f64),
    );
    gauges(
        "weir_sessions_limit",
        "Sessions of full-nat that there is room for.",
        &|worker| Some(facts(worker)?.sessions?.1 as f64),
    );
    families.counters(
        "weir_sessions_exhausted_total",
        "New flows of full-nat that found no session or no port.",
        |to| {
            for (worker, block) in names.iter().zip(blocks) {
                let of = |reason| block.get(counters::drop_index(reason));
                let sum = of(DropReason::SessionsExhausted)
                    .wrapping_add(of(DropReason::SnatPortsExhausted));
                to.counter(&[("worker", worker)], sum as f64);
            }
        },
    );
}

fn ports(families: &mut Families, seen: &Seen<'_>) {
    let facts = seen.facts;
    for (name, help, value) in OF_PORT {
        families.counters(name, help, |to| {
            for port in &facts.ports {
                to.counter(&[("port", &port.name)], value(port) as f64);
            }
        });
    }
    families.gauges(
        "weir_port_link_up",
        "Whether the port's link is up.",
        |to| {
            for port in &facts.ports {
                to.gauge(&[("port", &port.name)], f64::from(u8::from(port.link_up)));
            }
        },
    );
    families.gauges(
        "weir_port_speed_bytes",
        "The link's speed in bytes a second; absent when the device does not know.",
        |to| {
            for port in facts.ports.iter().filter(|port| port.speed_mbps > 0) {
                let bytes = f64::from(port.speed_mbps) * 1e6 / 8.0;
                to.gauge(&[("port", &port.name)], bytes);
            }
        },
    );
    families.gauges("weir_pool_buffers", "Packet buffers in the pool.", |to| {
        for pool in &facts.pools {
            to.gauge(&[("pool", &pool.name)], f64::from(pool.buffers));
        }
    });
    families.gauges(
        "weir_pool_buffers_in_use",
        "Packet buffers that hold a frame or wait in a queue for one.",
        |to| {
            for pool in &facts.pools {
                to.gauge(&[("pool", &pool.name)], f64::from(pool.in_use));
            }
        },
    );
}

impl Seen<'_> {
    /// A counter over all blocks.
    fn sum(&self, index: usize) -> f64 {
        let blocks = self.blocks.iter();
        blocks.fold(0, |sum: u64, block| sum.wrapping_add(block.get(index))) as f64
    }
}
