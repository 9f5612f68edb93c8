//! The shape of `weir.toml`: every table and key, each value with its place. Values are judged in
//! `check`, where a message can name the key and what it accepts.

use serde::Deserialize;
use toml::Spanned;
use weir_shm::document::{ServiceDoc, Value};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Document {
    pub instance: Option<Spanned<Instance>>,
    #[serde(default)]
    pub engine: Engine,
    #[serde(default)]
    pub log: Log,
    #[serde(default)]
    pub metrics: Metrics,
    #[serde(default)]
    pub port: Vec<Spanned<Port>>,
    #[serde(default)]
    pub route: Vec<Spanned<Route>>,
    #[serde(default)]
    pub neighbor: Vec<Spanned<Neighbor>>,
    #[serde(default)]
    pub service: Vec<Spanned<ServiceDoc>>,
}

/// `[instance]`: who this weir is.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Instance {
    pub name: Option<Value>,
    pub hash_key: Option<Value>,
    pub owner: Option<Value>,
    pub group: Option<Value>,
}

/// `[engine]`: how the machine is used.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Engine {
    pub workers: Option<Value>,
    pub control_core: Option<Value>,
    pub memory: Option<Value>,
    pub memory_mb: Option<Value>,
    pub idle: Option<Value>,
    pub flows_per_worker: Option<Value>,
    pub file_prefix: Option<Value>,
    pub eal_args: Option<Value>,
}

/// `[log]`: what the daemon writes of what happens.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Log {
    pub level: Option<Value>,
    pub format: Option<Value>,
}

/// `[metrics]`: what is told to Prometheus.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Metrics {
    pub listen: Option<Value>,
}

/// `[[port]]`: a NIC or virtual device, and who weir is on it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Port {
    pub name: Option<Value>,
    pub device: Option<Value>,
    pub addresses: Option<Value>,
    pub mac: Option<Value>,
    pub mtu: Option<Value>,
    pub vlan: Option<Value>,
    pub kernel: Option<Value>,
    pub kernel_rate: Option<Value>,
}

/// `[[route]]`: how a network is reached.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Route {
    pub to: Option<Value>,
    pub via: Option<Value>,
}

/// `[[neighbor]]`: a neighbour that is not to be resolved.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table")]
pub struct Neighbor {
    pub address: Option<Value>,
    pub mac: Option<Value>,
}
