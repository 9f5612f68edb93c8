//! What is shown of the pool in force: one picture, as table or as JSON.

use serde::Serialize;
use serde_json::{Value, json};
use weir_shm::client::{Client, Counters};
use weir_shm::counters::{
    BYTES, NEW_FLOWS, PACKETS, REFUSED, RETURN_BYTES, RETURN_PACKETS, SERVICE_RESETS, backend_base,
    service_base,
};
use weir_shm::duration;
use weir_shm::model::{
    self, Admin, Forwarding, HealthKind, NO_DEADLINE, PortMatch, Protocol, QuicConfig, ServerIds,
};
use weir_shm::segment::directory::{BackendState, RunningDirectory, ServiceEntry};
use weir_shm::segment::mailbox::{Answer, BackendHealth, Question};

use crate::Failure;
use crate::checking::{changes_view, check_view};
use crate::cli::Cli;

/// The pool in force with its counters.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) directory: RunningDirectory,
    pub(crate) counters: Counters,
}

/// A service as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ServiceView {
    pub(crate) name: String,
    pub(crate) vip: String,
    pub(crate) port: Value,
    pub(crate) protocol: &'static str,
    pub(crate) forwarding: &'static str,
    pub(crate) scheduler: &'static str,
    pub(crate) table_size: u32,
    /// Settings of the mode, defaults filled in, by their keys in the configuration.
    pub(crate) settings: serde_json::Map<String, Value>,
    pub(crate) hash: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ring_vnodes: Option<u32>,
    pub(crate) affinity: Option<Value>,
    pub(crate) all_down: &'static str,
    pub(crate) ping: &'static str,
    pub(crate) timeouts: Value,
    pub(crate) health: &'static str,
    /// All that a check goes by; absent where nothing is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health_check: Option<Value>,
    /// How changes of health and of the pool take effect.
    #[serde(flatten)]
    pub(crate) changes: serde_json::Map<String, Value>,
    /// How connection IDs are read, without keys; for QUIC only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) quic: Option<Vec<Value>>,
    /// full-nat only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) snat_pool: Option<Vec<String>>,
    /// full-nat only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_address: Option<&'static str>,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) new_flows: u64,
    pub(crate) return_packets: u64,
    pub(crate) return_bytes: u64,
    /// Clients that weir itself told that there is nothing for them.
    pub(crate) resets: u64,
    pub(crate) backends: Vec<BackendView>,
}

/// A backend as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BackendView {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) port: Option<u16>,
    pub(crate) weight: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_flows: Option<u32>,
    /// What connection IDs call it, if they do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_id: Option<String>,
    /// What the operator wants.
    pub(crate) admin: &'static str,
    pub(crate) drain_timeout: Option<String>,
    pub(crate) force: &'static str,
    /// What it does.
    pub(crate) state: &'static str,
    /// What its checks found; absent when it is not checked or the daemon did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<BackendHealth>,
    /// Live flows; null when they were not asked for or the daemon did not say.
    pub(crate) flows: Option<u64>,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) new_flows: u64,
    /// Connections of clients that it refused, where weir sees its answers.
    pub(crate) refused: u64,
}

impl View {
    /// Reads the pool in force; a live daemon brings its figures up to date first.
    pub(crate) fn read(cli: &Cli, client: &Client) -> Result<Self, Failure> {
        if client.is_alive()?
            && let Err(error) = client.ask(&Question::Publish, cli.ack_timeout)
        {
            eprintln!("weirctl: figures may be old: {error}");
        }
        let directory = client.running()?;
        let counters = client.counters(&directory)?;
        Ok(Self {
            directory,
            counters,
        })
    }

    /// All services, in order.
    pub(crate) fn services(&self) -> impl Iterator<Item = ServiceView> + '_ {
        let pairs = self
            .directory
            .pool
            .services
            .iter()
            .zip(&self.directory.services);
        pairs.map(|(service, entry)| self.service_view(service, entry))
    }

    /// One service.
    pub(crate) fn service(&self, name: &str) -> Result<ServiceView, Failure> {
        let mut pairs = self
            .directory
            .pool
            .services
            .iter()
            .zip(&self.directory.services);
        match pairs.find(|(service, _)| service.name == name) {
            Some((service, entry)) => Ok(self.service_view(service, entry)),
            None => Err(weir_shm::command::unknown_service(&self.directory.pool, name).into()),
        }
    }

    fn service_view(&self, service: &model::Service, entry: &ServiceEntry) -> ServiceView {
        let count = |index| self.counters.sum(service_base(entry.number) + index);
        let timeouts = service.timeouts;
        let full_nat = service.forwarding == Forwarding::FullNat;
        ServiceView {
            name: service.name.clone(),
            vip: service.vip.to_string(),
            port: match service.port {
                PortMatch::Exact(port) => json!(port),
                several => json!(several.to_string()),
            },
            protocol: service.protocol.name(),
            forwarding: service.forwarding.name(),
            scheduler: service.scheduler.name(),
            table_size: service.table_size,
            settings: settings(service),
            hash: service.steering.hash.name(),
            ring_vnodes: (service.scheduler == model::Scheduler::Ring)
                .then(|| service.steering.vnodes()),
            affinity: service.steering.affinity.map(|affinity| {
                json!({
                    "by": "source",
                    "prefix4": affinity.prefix4,
                    "prefix6": affinity.prefix6,
                    "timeout": duration::text(affinity.timeout),
                })
            }),
            all_down: service.steering.all_down.name(),
            ping: service.ping.name(),
            timeouts: json!({
                "syn": duration::text(timeouts.syn),
                "established": duration::text(timeouts.established),
                "closing": duration::text(timeouts.closing),
                "udp": duration::text(timeouts.udp),
            }),
            health: service.health.kind.name(),
            health_check: check_view(&service.health),
            changes: changes_view(service),
            quic: (service.protocol == Protocol::Quic)
                .then(|| service.quic.iter().map(quic_view).collect()),
            snat_pool: full_nat
                .then(|| service.snat_pool.iter().map(ToString::to_string).collect()),
            client_address: full_nat.then(|| service.client_address.name()),
            packets: count(PACKETS),
            bytes: count(BYTES),
            new_flows: count(NEW_FLOWS),
            return_packets: count(RETURN_PACKETS),
            return_bytes: count(RETURN_BYTES),
            resets: count(SERVICE_RESETS),
            backends: service
                .backends
                .iter()
                .zip(&entry.backends)
                .map(|(backend, entry)| {
                    self.backend_view(service, backend, entry.number, entry.state)
                })
                .collect(),
        }
    }

    fn backend_view(
        &self,
        service: &model::Service,
        backend: &model::Backend,
        number: u32,
        state: BackendState,
    ) -> BackendView {
        let count = |index| self.counters.sum(backend_base(number) + index);
        BackendView {
            name: backend.name(service),
            address: backend.address.to_string(),
            port: service.port.is_exact().then_some(backend.port),
            weight: backend.weight,
            max_flows: backend.max_flows,
            server_id: match &backend.server_ids {
                ServerIds::None => None,
                ids => Some(ids.to_string()),
            },
            admin: backend.admin.name(),
            drain_timeout: match backend.admin {
                Admin::Drain { timeout } if timeout != NO_DEADLINE => Some(duration::text(timeout)),
                _ => None,
            },
            force: backend.forced.name(),
            state: state.name(),
            health: None,
            flows: None,
            packets: count(PACKETS),
            bytes: count(BYTES),
            new_flows: count(NEW_FLOWS),
            refused: count(REFUSED),
        }
    }
}

/// A QUIC configuration without its key.
fn quic_view(config: &QuicConfig) -> Value {
    json!({
        "rotation": config.rotation,
        "server_id_length": config.server_id_length,
        "nonce_length": config.nonce_length,
        "encrypted": config.key.is_some(),
    })
}

/// Settings of the mode: numbers as numbers, addresses and words as texts.
fn settings(service: &model::Service) -> serde_json::Map<String, Value> {
    let pairs = service.tunnel.effective(service.forwarding);
    // What is written here in TOML reads the same in JSON.
    let value = |text: String| serde_json::from_str(&text).unwrap_or(Value::String(text));
    pairs
        .into_iter()
        .map(|(key, text)| (key.to_owned(), value(text)))
        .collect()
}

impl ServiceView {
    /// The VIP and port as they are written.
    pub(crate) fn endpoint(&self) -> String {
        let port = self
            .port
            .as_str()
            .map_or_else(|| self.port.to_string(), str::to_owned);
        if self.vip.contains(':') {
            format!("[{}]:{port}", self.vip)
        } else {
            format!("{}:{port}", self.vip)
        }
    }

    /// Fills in what checks found, if there are any and the daemon tells.
    pub(crate) fn ask_health(&mut self, cli: &Cli, client: &Client) {
        if self.health == HealthKind::None.name() {
            return;
        }
        let question = Question::Health {
            service: self.name.clone(),
        };
        match client.ask(&question, cli.ack_timeout) {
            Ok(Answer::Health { backends }) => {
                for backend in &mut self.backends {
                    let told = backends.iter().find(|told| told.backend == backend.name);
                    backend.health = told.cloned();
                }
            }
            Ok(_) => {}
            Err(error) => eprintln!("weirctl: checks are not known: {error}"),
        }
    }

    /// Fills in live flows, if the daemon tells.
    pub(crate) fn ask_flows(&mut self, cli: &Cli, client: &Client) {
        let question = Question::Flows {
            service: self.name.clone(),
            backend: None,
        };
        match client.ask(&question, cli.ack_timeout) {
            Ok(Answer::Flows { backends }) => {
                for backend in &mut self.backends {
                    let told = backends.iter().find(|told| told.backend == backend.name);
                    backend.flows = told.map(|told| told.flows);
                }
            }
            Ok(_) => {}
            Err(error) => eprintln!("weirctl: live flows are not known: {error}"),
        }
    }
}
