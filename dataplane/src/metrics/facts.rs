//! What only the control core knows, as of one moment.

use weir_shm::segment::directory::BackendState;
use weir_shm::segment::event::EventKind;
use weir_shm::segment::port::PortStatus;

use super::Histogram;
use crate::conntrack::Profiles;

/// What only the control core knows; see the module's text.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// When this was so: nanoseconds of weir's own clock.
    pub at_ns: u64,
    /// The instance's name.
    pub instance: String,
    /// When the daemon started: seconds since 1970.
    pub started: f64,
    /// The generation in force.
    pub generation: u64,
    /// The highest generation that was committed and dealt with, be it that it was refused.
    pub committed: u64,
    /// Tables built since the start.
    pub tables_built: u64,
    /// How long changes of tables took.
    pub rebuilds: Histogram,
    /// Packets that wait for a neighbour.
    pub held: usize,
    /// The workers, in order.
    pub workers: Vec<WorkerFacts>,
    /// The services in force, in order.
    pub services: Vec<ServiceFacts>,
    /// The ports, in order.
    pub ports: Vec<PortStatus>,
    /// Pools of packet buffers.
    pub pools: Vec<PoolFacts>,
    /// Events so far, of each kind that there is.
    pub events: Vec<(EventKind, u64)>,
    /// By which time-outs entries of flow tables are judged; `None` where there are no tables.
    pub profiles: Option<Profiles>,
}

/// A worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WorkerFacts {
    /// The generation it runs.
    pub generation: u64,
    /// Its sessions of `full-nat`: those that live, and those there is room for. `None` while no
    /// service needs any.
    pub sessions: Option<(u64, u64)>,
}

/// A service in force.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Names its counters.
    pub number: u32,
    /// The share of weight that is up, in thousandths.
    pub healthy: u16,
    /// How long checks took; `None` where nothing is checked.
    pub checks: Option<Histogram>,
    /// Its backends, in order.
    pub backends: Vec<BackendFacts>,
}

/// A backend in force.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendFacts {
    /// Its name.
    pub name: String,
    /// Names its counters.
    pub number: u32,
    /// What it does.
    pub state: BackendState,
    /// Its weight.
    pub weight: u32,
    /// What came of its checks; `None` where nothing is checked.
    pub checks: Option<CheckFacts>,
}

/// What came of a backend's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckFacts {
    /// Checks that ended.
    pub ended: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// How long the last one took, in nanoseconds.
    pub last_ns: Option<u64>,
}

/// A pool of packet buffers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolFacts {
    /// Its name.
    pub name: String,
    /// Buffers in all.
    pub buffers: u32,
    /// Those of them that are in use.
    pub in_use: u32,
}
