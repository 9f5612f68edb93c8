//! Metrics in the daemon: the thread that serves them, and what the control core has to say.
//!
//! The thread runs on the control core with a lower priority than it, so that a scrape takes what
//! the control core leaves and workers' cores nothing.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use weir_engine::buffer::BufferSource;
use weir_engine::worker::Worker;
use weir_shm::segment::event::EventKind;
use weir_shm::segment::port::PortStatus;
use weir_shm::server::Server;

use super::operator::Running;
use super::{DaemonError, log};
use crate::config::Config;
use crate::control::Control;
use crate::metrics::facts::{BackendFacts, CheckFacts, PoolFacts, ServiceFacts, WorkerFacts};
use crate::metrics::http::connection::plain;
use crate::metrics::http::{self, CONTENT_HTML, Page};
use crate::metrics::{Exchange, Facts, Histogram, Scraper, exposition};

/// How much the thread gives way to others on its core: the kernel's nice value.
const NICE: i32 = 10;

/// The page at `/`.
const FRONT: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><title>weir</title></head>\
    <body><h1>weir</h1><p><a href=\"/metrics\">Metrics</a></p></body></html>\n";

/// Takes the port that metrics are asked for by, if the configuration names one.
pub fn listen(config: &Config) -> Result<Option<TcpListener>, DaemonError> {
    let Some(metrics) = &config.metrics else {
        return Ok(None);
    };
    let listener = TcpListener::bind(metrics.listen).map_err(|source| DaemonError::Metrics {
        place: metrics.place.clone(),
        listen: metrics.listen,
        source,
    })?;
    log::say(format_args!("metrics: http://{}/metrics", metrics.listen));
    Ok(Some(listener))
}

/// Serves metrics until the worker is told to stop.
pub fn serve(
    listener: TcpListener,
    mut scraper: Scraper,
    core: usize,
) -> Result<Worker<()>, DaemonError> {
    let worker = Worker::spawn("weir-metrics", core, move |stop| {
        // Of this thread alone; without it, metrics come all the same.
        let _ = rustix::process::setpriority_process(None, NICE);
        let page = |path: &str| match path {
            "/metrics" => Some(scraper.page().map_or_else(
                || plain("503 Service Unavailable", "weir is starting"),
                |body| Page {
                    status: "200 OK",
                    content_type: exposition::CONTENT_TYPE,
                    body,
                },
            )),
            "/" => Some(Page {
                status: "200 OK",
                content_type: CONTENT_HTML,
                body: FRONT.as_bytes().into(),
            }),
            _ => None,
        };
        if let Err(error) = http::serve(&listener, &stop, page) {
            log::say(format_args!("metrics are no longer served: {error}"));
        }
    })?;
    Ok(worker)
}

/// What the control core remembers for metrics.
#[derive(Debug, Default)]
pub struct Telling {
    /// The number of the last request for facts that was answered.
    answered: u64,
    events: [u64; EventKind::ALL.len()],
    rebuilds: Histogram,
    /// The ports as they last were.
    pub ports: Vec<PortStatus>,
}

impl Telling {
    /// Something happened.
    pub fn event(&mut self, kind: EventKind) {
        let kinds = EventKind::ALL.iter().zip(&mut self.events);
        for (_, count) in kinds.filter(|(known, _)| **known == kind) {
            *count += 1;
        }
    }

    /// Tables were changed.
    pub fn rebuilt(&mut self, took: Duration) {
        self.rebuilds.add(took);
    }

    /// Gives facts to who asked for them, if anybody did. Costs one load otherwise.
    pub fn answer(&mut self, running: &Running, server: &Server, now: u64) {
        let exchange: &Exchange = &running.exchange;
        let Some(request) = exchange.wanted(self.answered) else {
            return;
        };
        if exchange.give(request, Arc::new(self.facts(running, server, now))) {
            self.answered = request;
        }
    }

    fn facts(&self, running: &Running, server: &Server, now: u64) -> Facts {
        let control = &running.control;
        let sessions = control.services().sessions.as_ref();
        let of_worker = |worker| WorkerFacts {
            generation: control.acknowledged(worker),
            sessions: sessions
                .and_then(|sessions| sessions.table(worker))
                .map(|table| (table.live(), u64::from(table.capacity()))),
        };
        let workers = running.blocks.len().saturating_sub(1);
        Facts {
            at_ns: now,
            instance: running.config.instance.name.clone(),
            started: server.started_ns() as f64 * 1e-9,
            generation: control.generation(),
            committed: server.committed(),
            tables_built: control.book().tables_built(),
            rebuilds: self.rebuilds.clone(),
            held: control.held(),
            workers: (0..workers).map(of_worker).collect(),
            services: services(control),
            ports: self.ports.clone(),
            pools: running
                .pools
                .iter()
                .map(|pool| PoolFacts {
                    name: pool.config().name.clone(),
                    buffers: pool.capacity(),
                    in_use: pool.in_use(),
                })
                .collect(),
            events: EventKind::ALL.iter().copied().zip(self.events).collect(),
            profiles: Some(control.services().profiles.clone()),
        }
    }
}

fn services<S: BufferSource>(control: &Control<S>) -> Vec<ServiceFacts> {
    let (book, checker) = (control.book(), control.checker());
    let of = |(place, service): (usize, &weir_shm::model::Service)| {
        let standings = control.standings(place);
        let backends = service
            .backends
            .iter()
            .enumerate()
            .filter_map(|(nth, backend)| {
                let name = backend.name(service);
                let checks = checker.counts(&service.name, &name);
                Some(BackendFacts {
                    number: book.number(&service.name, &name)?,
                    state: standings?.backend(nth).state,
                    weight: backend.weight,
                    checks: checks.map(|(ended, failed, last_ns)| CheckFacts {
                        ended,
                        failed,
                        last_ns,
                    }),
                    name,
                })
            });
        ServiceFacts {
            name: service.name.clone(),
            number: book.service_number(&service.name).unwrap_or_default(),
            healthy: standings.map_or(0, |standings| standings.healthy),
            checks: checker.durations(&service.name).cloned(),
            backends: backends.collect(),
        }
    };
    control.pool().services.iter().enumerate().map(of).collect()
}
