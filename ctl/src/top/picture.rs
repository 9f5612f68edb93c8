//! What two readings say together: rates, shares and states, row by row.

use std::time::Duration;

use serde::Serialize;
use weir_shm::counters::{
    ANSWERED, BUSY_NS, BYTES, CONNTRACK_EVICTED, CONNTRACK_HITS, CONNTRACK_MISSES, DropReason,
    FORWARDED, FORWARDED_BYTES, IDLE_NS, NEW_FLOWS, PACKETS, RECEIVED, RECEIVED_BYTES,
    RETURN_BYTES, RETURN_PACKETS, backend_base, drop_index, service_base,
};
use weir_shm::model::Service;
use weir_shm::segment::directory::BackendState;
use weir_shm::segment::port::PortStatus;

use super::sample::Sample;
use crate::output::moment;

/// Everything a frame shows.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Picture {
    pub(super) instance: String,
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) uptime_s: u64,
    pub(super) generation: u64,
    /// Seconds between the two readings; null for the first, which has no rates.
    pub(super) over_s: Option<f64>,
    pub(super) total: Total,
    pub(super) workers: Vec<WorkerRow>,
    pub(super) services: Vec<ServiceRow>,
    pub(super) backends: Vec<BackendRow>,
    pub(super) drops: Vec<DropRow>,
    pub(super) ports: Vec<PortRow>,
    pub(super) events: Vec<EventRow>,
}

/// Sums.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Total {
    pub(super) received_pps: Option<f64>,
    pub(super) received_bps: Option<f64>,
    pub(super) forwarded_pps: Option<f64>,
    pub(super) forwarded_bps: Option<f64>,
    pub(super) answered_pps: Option<f64>,
    pub(super) dropped_pps: Option<f64>,
    pub(super) new_flows_ps: Option<f64>,
    pub(super) flows: Option<u64>,
    pub(super) backends_up: usize,
    pub(super) backends: usize,
}

/// A worker.
#[derive(Debug, Clone, Serialize)]
pub(super) struct WorkerRow {
    pub(super) worker: usize,
    /// Share of its time spent with packets, from 0 to 1.
    pub(super) busy: Option<f64>,
    pub(super) received_pps: Option<f64>,
    pub(super) received_bps: Option<f64>,
    pub(super) forwarded_pps: Option<f64>,
    pub(super) forwarded_bps: Option<f64>,
    pub(super) dropped_pps: Option<f64>,
    /// Share of looked-up packets whose flow was remembered.
    pub(super) conntrack_hits: Option<f64>,
    pub(super) conntrack_entries: Option<u64>,
    pub(super) conntrack_capacity: Option<u64>,
    pub(super) evicted_ps: Option<f64>,
    pub(super) generation: u64,
}

/// A service.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ServiceRow {
    pub(super) service: String,
    pub(super) vip: String,
    pub(super) forwarding: &'static str,
    pub(super) backends_up: usize,
    pub(super) backends: usize,
    pub(super) pps: Option<f64>,
    pub(super) bps: Option<f64>,
    pub(super) new_flows_ps: Option<f64>,
    pub(super) flows: Option<u64>,
    pub(super) return_pps: Option<f64>,
    pub(super) return_bps: Option<f64>,
    /// Its share of all services' packets.
    pub(super) share: Option<f64>,
}

/// A backend of a service.
#[derive(Debug, Clone, Serialize)]
pub(super) struct BackendRow {
    pub(super) backend: String,
    pub(super) service: String,
    pub(super) state: &'static str,
    pub(super) takes_new_flows: bool,
    /// What the last check found.
    pub(super) health: Option<String>,
    pub(super) weight: u32,
    pub(super) pps: Option<f64>,
    pub(super) bps: Option<f64>,
    pub(super) new_flows_ps: Option<f64>,
    pub(super) flows: Option<u64>,
    /// Its share of its service's packets.
    pub(super) share: Option<f64>,
}

/// A reason for which frames were dropped.
#[derive(Debug, Clone, Serialize)]
pub(super) struct DropRow {
    pub(super) reason: &'static str,
    pub(super) dropped_pps: Option<f64>,
    pub(super) total: u64,
    /// Its share of everything received since the start.
    pub(super) share: f64,
    pub(super) why: &'static str,
}

/// A port.
#[derive(Debug, Clone, Serialize)]
pub(super) struct PortRow {
    pub(super) port: String,
    pub(super) link_up: bool,
    pub(super) speed_mbps: u32,
    pub(super) received_pps: Option<f64>,
    pub(super) received_bps: Option<f64>,
    pub(super) sent_pps: Option<f64>,
    pub(super) sent_bps: Option<f64>,
    pub(super) lost_pps: Option<f64>,
    pub(super) lost: u64,
}

/// An event.
#[derive(Debug, Clone, Serialize)]
pub(super) struct EventRow {
    pub(super) number: u64,
    pub(super) time: String,
    pub(super) kind: &'static str,
    pub(super) text: String,
}

/// Two readings of one daemon.
struct Pair<'a> {
    now: &'a Sample,
    before: Option<&'a Sample>,
    seconds: f64,
}

impl Pair<'_> {
    /// How much a number grew in a second.
    fn rate(&self, of: impl Fn(&Sample) -> u64) -> Option<f64> {
        let before = self.before?;
        let grown = of(self.now).saturating_sub(of(before));
        Some((grown as f64 / self.seconds * 10.0).round() / 10.0)
    }

    fn bits(&self, bytes: impl Fn(&Sample) -> u64) -> Option<f64> {
        self.rate(bytes).map(|bytes| bytes * 8.0)
    }

    /// How much of two numbers' growth was the first's.
    fn part(&self, of: impl Fn(&Sample) -> u64, rest: impl Fn(&Sample) -> u64) -> Option<f64> {
        let (of, rest) = (self.rate(of)?, self.rate(rest)?);
        ratio(of, of + rest)
    }
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| (part / whole * 10_000.0).round() / 10_000.0)
}

fn sum(rates: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    rates.sum()
}

fn dropped(sample: &Sample, block: usize) -> u64 {
    let reasons = DropReason::ALL.iter();
    reasons
        .map(|reason| sample.counters.of(block, drop_index(*reason)))
        .sum()
}

impl Picture {
    /// From the newest reading and the one before, if that is of the same daemon.
    pub(super) fn new(now: &Sample, before: Option<&Sample>) -> Self {
        let before = before.filter(|before| before.started_ns == now.started_ns);
        let over = before.map(|before| now.at.saturating_duration_since(before.at));
        let over = over.filter(|over| *over > Duration::ZERO);
        let pair = Pair {
            now,
            before: over.and(before),
            seconds: over.map_or(1.0, |over| over.as_secs_f64()),
        };
        let backends = backends(&pair);
        let services = services(&pair, &backends);
        let all = |index: usize| pair.rate(|sample| sample.counters.sum(index));
        let total = Total {
            received_pps: all(RECEIVED),
            received_bps: all(RECEIVED_BYTES).map(|bytes| bytes * 8.0),
            forwarded_pps: all(FORWARDED),
            forwarded_bps: all(FORWARDED_BYTES).map(|bytes| bytes * 8.0),
            answered_pps: all(ANSWERED),
            dropped_pps: pair.rate(|sample| {
                (0..sample.counters.blocks())
                    .map(|b| dropped(sample, b))
                    .sum()
            }),
            new_flows_ps: sum(services.iter().map(|service| service.new_flows_ps)),
            // A service that is new to the pool has not been told of yet.
            flows: (services.iter().filter_map(|service| service.flows))
                .reduce(|sum, more| sum + more),
            backends_up: backends.iter().filter(|row| row.takes_new_flows).count(),
            backends: backends.len(),
        };
        Self {
            instance: now.instance.clone(),
            pid: now.pid,
            version: now.version.clone(),
            uptime_s: now.unix_ns.saturating_sub(now.started_ns) / 1_000_000_000,
            generation: now.directory.generation,
            over_s: over.map(|over| (over.as_secs_f64() * 1000.0).round() / 1000.0),
            total,
            workers: (0..now.acknowledged.len())
                .map(|worker| self::worker(&pair, worker))
                .collect(),
            services,
            backends,
            drops: drops(&pair),
            ports: now
                .ports
                .iter()
                .map(|port| self::port(&pair, port))
                .collect(),
            events: events(now),
        }
    }
}

fn worker(pair: &Pair<'_>, worker: usize) -> WorkerRow {
    let of = |index: usize| move |sample: &Sample| sample.counters.of(worker, index);
    let busy = pair.part(of(BUSY_NS), of(IDLE_NS));
    let occupancy = pair.now.occupancy.get(worker);
    let occupancy = occupancy.filter(|occupancy| occupancy.capacity > 0);
    WorkerRow {
        worker,
        busy,
        received_pps: pair.rate(of(RECEIVED)),
        received_bps: pair.bits(of(RECEIVED_BYTES)),
        forwarded_pps: pair.rate(of(FORWARDED)),
        forwarded_bps: pair.bits(of(FORWARDED_BYTES)),
        dropped_pps: pair.rate(|sample| dropped(sample, worker)),
        conntrack_hits: pair.part(of(CONNTRACK_HITS), of(CONNTRACK_MISSES)),
        conntrack_entries: occupancy.map(|occupancy| occupancy.entries),
        conntrack_capacity: occupancy.map(|occupancy| occupancy.capacity),
        evicted_ps: pair.rate(of(CONNTRACK_EVICTED)),
        generation: pair.now.acknowledged.get(worker).copied().unwrap_or(0),
    }
}

/// Whether a backend in this state gets new flows.
fn takes(state: BackendState) -> bool {
    matches!(
        state,
        BackendState::Up | BackendState::SlowStart | BackendState::FailOpen
    )
}

fn backends(pair: &Pair<'_>) -> Vec<BackendRow> {
    let directory = &pair.now.directory;
    let mut rows = Vec::new();
    for (service, entry) in directory.pool.services.iter().zip(&directory.services) {
        let first = rows.len();
        for (backend, entry) in service.backends.iter().zip(&entry.backends) {
            let base = backend_base(entry.number);
            let of = |index: usize| move |sample: &Sample| sample.counters.sum(base + index);
            let name = backend.name(service);
            let place = (service.name.clone(), name);
            let check = pair.now.told.checks.get(&place);
            rows.push(BackendRow {
                state: entry.state.name(),
                takes_new_flows: takes(entry.state),
                health: check.and_then(|check| check.last.clone()),
                weight: backend.weight,
                pps: pair.rate(of(PACKETS)),
                bps: pair.bits(of(BYTES)),
                new_flows_ps: pair.rate(of(NEW_FLOWS)),
                flows: pair.now.told.flows.get(&place).copied(),
                share: None,
                service: place.0,
                backend: place.1,
            });
        }
        let rows = rows.get_mut(first..).unwrap_or_default();
        let all = sum(rows.iter().map(|row| row.pps));
        for row in rows {
            row.share = row.pps.zip(all).and_then(|(pps, all)| ratio(pps, all));
        }
    }
    rows
}

fn services(pair: &Pair<'_>, backends: &[BackendRow]) -> Vec<ServiceRow> {
    let directory = &pair.now.directory;
    let mut rest = backends;
    let mut rows = Vec::new();
    for (service, entry) in directory.pool.services.iter().zip(&directory.services) {
        // Rows of backends are in the order of services.
        let count = service.backends.len().min(entry.backends.len());
        let (own, others) = rest.split_at_checked(count).unwrap_or_default();
        rest = others;
        let base = service_base(entry.number);
        let of = |index: usize| move |sample: &Sample| sample.counters.sum(base + index);
        let known = own.iter().any(|row| row.flows.is_some());
        rows.push(ServiceRow {
            service: service.name.clone(),
            vip: endpoint(service),
            forwarding: service.forwarding.name(),
            backends_up: own.iter().filter(|row| row.takes_new_flows).count(),
            backends: count,
            pps: pair.rate(of(PACKETS)),
            bps: pair.bits(of(BYTES)),
            new_flows_ps: pair.rate(of(NEW_FLOWS)),
            flows: known.then(|| own.iter().filter_map(|row| row.flows).sum()),
            return_pps: pair.rate(of(RETURN_PACKETS)),
            return_bps: pair.bits(of(RETURN_BYTES)),
            share: None,
        });
    }
    let all = sum(rows.iter().map(|row| row.pps));
    for row in &mut rows {
        row.share = row.pps.zip(all).and_then(|(pps, all)| ratio(pps, all));
    }
    rows
}

/// `198.51.100.10:80/tcp`.
fn endpoint(service: &Service) -> String {
    let (vip, port, protocol) = (service.vip, service.port, service.protocol.name());
    let vip = vip.to_string();
    if vip.contains(':') {
        format!("[{vip}]:{port}/{protocol}")
    } else {
        format!("{vip}:{port}/{protocol}")
    }
}

fn drops(pair: &Pair<'_>) -> Vec<DropRow> {
    let received = pair.now.counters.sum(RECEIVED) as f64;
    let reasons = DropReason::ALL.iter();
    let rows = reasons.map(|reason| {
        let index = drop_index(*reason);
        let total = pair.now.counters.sum(index);
        DropRow {
            reason: reason.name(),
            dropped_pps: pair.rate(|sample| sample.counters.sum(index)),
            total,
            share: ratio(total as f64, received).unwrap_or(0.0),
            why: reason.description(),
        }
    });
    rows.filter(|row| row.total > 0).collect()
}

fn port(pair: &Pair<'_>, port: &PortStatus) -> PortRow {
    let of = |number: fn(&PortStatus) -> u64| {
        move |sample: &Sample| {
            let found = sample.ports.iter().find(|found| found.name == port.name);
            found.map_or(0, number)
        }
    };
    let lost = |port: &PortStatus| {
        let received = port.rx_missed.saturating_add(port.rx_errors);
        received
            .saturating_add(port.rx_no_buffer)
            .saturating_add(port.tx_errors)
    };
    PortRow {
        port: port.name.clone(),
        link_up: port.link_up,
        speed_mbps: port.speed_mbps,
        received_pps: pair.rate(of(|port| port.rx_packets)),
        received_bps: pair.bits(of(|port| port.rx_bytes)),
        sent_pps: pair.rate(of(|port| port.tx_packets)),
        sent_bps: pair.bits(of(|port| port.tx_bytes)),
        lost_pps: pair.rate(of(lost)),
        lost: lost(port),
    }
}

/// The newest first.
fn events(sample: &Sample) -> Vec<EventRow> {
    let events = sample.events.iter().rev();
    let rows = events.map(|event| EventRow {
        number: event.number,
        time: moment(event.unix_ns),
        kind: event.kind.name(),
        text: event.text.clone(),
    });
    rows.collect()
}
