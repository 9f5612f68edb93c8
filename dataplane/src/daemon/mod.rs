//! `weir run`: DPDK, ports and workers brought up, the control core run, everything taken down
//! again.
//!
//! Start: the segment (which refuses a second daemon of the same name), DPDK, pools, ports,
//! workers. Then the main thread becomes the control core until SIGTERM or SIGINT. Stop: workers
//! empty their queues, devices are closed, every buffer is home, the segment stays readable.

mod answers;
mod capturing;
mod crowd;
mod kernel;
pub mod log;
mod manager;
mod metrics;
mod operator;
mod reload;
mod watchdog;
mod worker;

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use weir_engine::clock::Clock;
use weir_engine::counters::{CounterReader, counters};
use weir_engine::eal::{self, Eal, EalConfig, EalError};
use weir_engine::idle;
use weir_engine::memory::MemoryError;
use weir_engine::mempool::{FRAME_ROOM, Mempool, MempoolConfig, MempoolError};
use weir_engine::port::{Port, PortConfig, PortError};
use weir_engine::ring;
use weir_engine::rss::SYMMETRIC_KEY;
use weir_engine::tap::TapError;
use weir_engine::wire::ethernet::MacAddr;
use weir_engine::worker::{Worker, WorkerError};
use weir_shm::counters as layout;

use crate::config::{Config, Idle, Memory};
use crate::conntrack::{self, Conntrack, ConntrackReader};
use crate::control::neighbours::HELD_IN_ALL;
use crate::control::{Control, PortFacts, Refusal};
use crate::flow::{FlowHasher, HashKey};
use crate::fragments::table as fragments;
use crate::metrics::{Exchange, Scraper};
use crate::pipeline::Pipeline;
use crate::session::Spread;

use kernel::Taps;
use operator::Operator;
use worker::{Links, PortQueues};

/// Descriptors of each receive and send queue.
const DESCRIPTORS: u16 = 1_024;
/// Frames that may wait between workers and the control core, each way.
const RING: usize = 4_096;
/// Frames that may wait for the kernel, apart from those: a flood must not be in the way of ARP.
const KERNEL_RING: usize = 1_024;
/// Buffers of one MiB of packet memory, what DPDK needs for itself left out.
const BUFFERS_PER_MB: u32 = 300;

/// Why the daemon did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The segment cannot be had.
    #[error(transparent)]
    Segment(#[from] weir_shm::server::CreateError),
    /// DPDK does not start.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// A pool cannot be made.
    #[error(transparent)]
    Mempool(#[from] MempoolError),
    /// A port cannot be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A worker cannot be started, or panicked.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// There is no memory for flow tables or counters.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A port's interface toward the kernel cannot be made.
    #[error("port {port}: {source}")]
    Tap {
        /// The port.
        port: String,
        /// Why not.
        source: TapError,
    },
    /// The configuration's pool cannot be put in force.
    #[error("the configuration cannot be put in force: {0}")]
    Refused(#[from] Refusal),
    /// Signals cannot be caught.
    #[error("signal handlers: {0}")]
    Signals(std::io::Error),
    /// Nobody can ask for metrics where the configuration says so.
    #[error(
        "{place}: `listen`: {listen} cannot be listened on: {source}; \
         choose another address or port, or end who has it"
    )]
    Metrics {
        /// Where the configuration says so.
        place: String,
        /// The address and port.
        listen: std::net::SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Random numbers cannot be had.
    #[error("no random hash key: {0}")]
    Random(std::io::Error),
    /// Buffers were lost on the way: a bug of ours.
    #[error("{0} packet buffers are missing at the end")]
    BuffersMissing(u32),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Why it did not start, or did not end well.
pub fn run(config: &Arc<Config>) -> Result<(), DaemonError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).map_err(DaemonError::Signals)?;
    }
    let reload = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&reload))
        .map_err(DaemonError::Signals)?;
    let operator = Operator::open(config)?;
    let listener = metrics::listen(config)?;
    let eal = Eal::start(&eal_config(config))?;
    let result = balance(config, &eal, operator, listener, &stop, &reload);
    let stopped = eal.stop();
    result?;
    stopped?;
    log::say("stopped");
    Ok(())
}

fn eal_config(config: &Config) -> EalConfig {
    let engine = &config.engine;
    let prefix = engine.file_prefix.clone();
    EalConfig {
        file_prefix: prefix.unwrap_or_else(|| format!("weir-{}", config.instance.name)),
        memory: match engine.memory {
            Memory::HugePages => eal::Memory::HugePages,
            Memory::Anonymous => eal::Memory::Anonymous,
        },
        memory_mb: engine.memory_mb,
        main_core: engine.control_core,
        devices: config
            .ports
            .iter()
            .filter(|port| matches!(port.device, crate::config::Device::Pci(_)))
            .map(|port| port.device.as_str().to_owned())
            .collect(),
        log_level: log::dpdk_level(config.log),
        log_sink: Some(log::of_dpdk),
        extra_args: engine.eal_args.clone(),
        ..EalConfig::default()
    }
}

/// Brings ports and workers up, runs, and takes them down.
fn balance(
    config: &Arc<Config>,
    eal: &Eal,
    operator: Operator,
    listener: Option<TcpListener>,
    stop: &Arc<AtomicBool>,
    reload: &Arc<AtomicBool>,
) -> Result<(), DaemonError> {
    let pools = Pools::new(config, eal)?;
    let mut ports = Vec::new();
    for port in &config.ports {
        ports.push(open(config, eal, port, &pools)?);
    }
    let key = match config.instance.hash_key {
        Some(key) => key,
        None => random_key().map_err(DaemonError::Random)?,
    };
    let hasher = FlowHasher::new(key);
    let facts: Vec<PortFacts> = ports
        .iter()
        .map(|port| PortFacts {
            mac: MacAddr(port.mac()),
            filter: true,
            mtu: port.mtu(),
        })
        .collect();
    let taps = Taps::open(config, &facts)?;
    let (own, own_counters) = counters(layout::BLOCK)?;
    let count = config.engine.workers.len();
    let source = pools.any.clone();
    let (mut control, readers) = Control::new(
        Arc::clone(config),
        facts,
        hasher.clone(),
        source,
        own,
        count,
    )?;

    control.scatter_ports(random_seed().map_err(DaemonError::Random)?);
    if let Some(spread) = spread(&ports) {
        control.know_spread(spread);
    }
    let mut queues: Vec<Vec<PortQueues>> = (0..count).map(|_| Vec::new()).collect();
    for (number, port) in (0u16..).zip(&mut ports) {
        let taken = port.take_queues().unwrap_or_default();
        for (worker, queue) in queues.iter_mut().zip(taken) {
            worker.push(PortQueues {
                number,
                rx: queue.rx,
                tx: queue.tx,
            });
        }
    }
    let mode = match config.engine.idle {
        Idle::Poll => idle::Mode::Poll,
        Idle::Adaptive => idle::Mode::Adaptive,
    };
    let huge = config.engine.memory == Memory::HugePages;
    let (to_control, from_workers) = ring::ring(RING);
    let (to_kernel, for_kernel) = ring::ring(KERNEL_RING);
    let (to_worker, from_control) = ring::ring(RING);
    let mut from_control = Some(from_control);
    let mut blocks: Vec<CounterReader> = Vec::new();
    let mut prepared = Vec::new();
    let mut newest = Vec::new();
    let conntracks = (0..count)
        .map(|_| Conntrack::new(config.engine.flows_per_worker, huge))
        .collect::<Result<Vec<_>, _>>()?;
    let tables: Vec<ConntrackReader> = conntracks.iter().map(Conntrack::reader).collect();
    let (to_peers, from_peers): (Vec<_>, Vec<_>) = (0..count).map(|_| ring::ring(RING)).unzip();
    let mut from_peers = from_peers.into_iter();
    let each = (0u16..).zip(readers).zip(queues).zip(conntracks);
    for (((number, snapshot), queues), conntrack) in each {
        let (writer, reader) = counters(layout::BLOCK)?;
        blocks.push(reader);
        let pipeline = Pipeline::new(control.accepts(), hasher.clone(), conntrack, writer)
            .among(number, tables.clone())
            .with_gate(control.gate())
            .with_sweep(conntrack::LINES);
        newest.extend(pipeline.newest());
        // The first worker also sends for the control core; the others get an empty queue.
        let from_control = from_control.take().unwrap_or_else(|| ring::ring(1).1);
        let links = Links {
            to_control: to_control.clone(),
            to_kernel: to_kernel.clone(),
            from_control,
            to_peers: to_peers.clone(),
            buffers: pools.any.clone(),
            from_peers: from_peers.next().unwrap_or_else(|| ring::ring(1).1),
        };
        prepared.push(worker::Worker::new(
            pipeline,
            snapshot,
            queues,
            links,
            idle::Idle::new(mode),
        ));
    }
    let exchange = Arc::new(Exchange::default());
    control.watch(tables.clone());
    control.watch_newest(newest);
    let seed = random_key().map_err(DaemonError::Random)?.0;
    let seed = u64::from_le_bytes(*seed.first_chunk().unwrap_or(&[0; 8]));
    control.check_health(Clock::new().now().0, seed)?;
    blocks.push(own_counters);

    let mut workers = Vec::new();
    for (number, (worker, core)) in prepared.into_iter().zip(&config.engine.workers).enumerate() {
        let name = format!("weir-worker-{number}");
        workers.push(Worker::spawn_registered(eal, &name, *core, move |stop| {
            worker.run(&stop);
        })?);
    }
    for port in &ports {
        log::say(format_args!(
            "port {}: {}, {}, MAC {}, MTU {}",
            port.name(),
            port.driver(),
            match port.link() {
                Ok(link) if link.up => "link up",
                Ok(_) => "link down",
                Err(_) => "link unknown",
            },
            MacAddr(port.mac()),
            port.mtu()
        ));
    }
    drop((to_control, to_kernel));
    let metrics = listener.map(|listener| {
        let scraper = Scraper::new(Arc::clone(&exchange), blocks.clone(), tables);
        metrics::serve(listener, scraper, config.engine.control_core)
    });
    let metrics = metrics.transpose()?;
    // DPDK's AF_XDP driver never gives back what lies in its fill rings.
    let driver_keeps = ports.iter().any(|port| port.driver() == "net_af_xdp");
    let running = operator::Running {
        control,
        ports,
        blocks,
        from_workers,
        for_kernel,
        taps,
        to_worker,
        stop: Arc::clone(stop),
        reload: Arc::clone(reload),
        config: Arc::clone(config),
        pools: pools.by_node.values().cloned().collect(),
        exchange,
    };
    control_core(config, eal, operator, running, workers)?;
    if let Some(metrics) = metrics {
        metrics.stop();
        metrics.join()?;
    }
    match pools.missing() {
        0 => log::say("every packet buffer is home"),
        kept if driver_keeps => log::say(format_args!(
            "{kept} packet buffers stay with the AF_XDP driver"
        )),
        missing => return Err(DaemonError::BuffersMissing(missing)),
    }
    Ok(())
}

/// How the devices spread packets over the workers, if all do alike and weir knows how. The key is
/// the same on all ports, but for its length beyond what is hashed.
fn spread(ports: &[Port]) -> Option<Spread> {
    let of = |port: &Port| {
        let key = port.rss_key()?.get(..SYMMETRIC_KEY.len())?.to_vec();
        Some(Spread::new(
            key,
            port.rss_table_size()?.into(),
            port.queues(),
        ))
    };
    let (first, others) = ports.split_first()?;
    let spread = of(first)?;
    let alike = others.iter().all(|port| of(port).as_ref() == Some(&spread));
    alike.then_some(spread)
}

/// Runs the control core on its own core until it is told to stop, then stops the workers, takes
/// what they left, and closes the devices.
fn control_core(
    config: &Config,
    eal: &Eal,
    mut operator: Operator,
    mut running: operator::Running,
    workers: Vec<Worker<()>>,
) -> Result<(), DaemonError> {
    let core = config.engine.control_core;
    let control = Worker::spawn_registered(eal, "weir-control", core, move |_| {
        operator.run(&mut running, || workers.iter().any(Worker::is_finished));
        workers.iter().for_each(Worker::stop);
        let ended: Result<Vec<()>, WorkerError> = workers.into_iter().map(Worker::join).collect();
        operator.finish(&mut running);
        ended
    })?;
    control.join()??;
    Ok(())
}

/// A pool on each NUMA node that has a port.
struct Pools {
    by_node: HashMap<Option<u32>, Mempool>,
    any: Mempool,
}

impl Pools {
    fn new(config: &Config, eal: &Eal) -> Result<Self, DaemonError> {
        let mut nodes: HashMap<Option<u32>, u32> = HashMap::new();
        for port in &config.ports {
            *nodes
                .entry(Port::numa_node_of(eal, port.device.as_str())?)
                .or_default() += 1;
        }
        let workers = config.engine.workers.len() as u32;
        let mut by_node = HashMap::new();
        for (index, (node, ports)) in nodes.iter().enumerate() {
            // Both rings of every queue full, every worker's cache full, and all that may wait.
            let needed = ports * workers * 2 * u32::from(DESCRIPTORS)
                + workers * (1_024 + fragments::HELD) as u32
                + (RING + KERNEL_RING + HELD_IN_ALL) as u32;
            let given = config.engine.memory_mb.unwrap_or(0) / nodes.len() as u32 * BUFFERS_PER_MB;
            // A pool is rounded up to a power of two less one, and anonymous memory cannot grow.
            let given = match config.engine.memory {
                Memory::HugePages => given,
                Memory::Anonymous => (given + 2).next_power_of_two() / 2 - 1,
            };
            let mtu = config
                .ports
                .iter()
                .filter_map(|port| port.mtu)
                .max()
                .unwrap_or(0);
            let pool = MempoolConfig {
                name: format!("weir{index}"),
                buffers: needed.max(given),
                frame_room: FRAME_ROOM.max(mtu + 64),
                numa_node: *node,
                ..MempoolConfig::default()
            };
            by_node.insert(*node, Mempool::new(eal, &pool)?);
        }
        // There is a port, so there is a pool.
        let any = by_node.values().next().cloned();
        let any = match any {
            Some(pool) => pool,
            None => Mempool::new(eal, &MempoolConfig::default())?,
        };
        Ok(Self { by_node, any })
    }

    fn of(&self, node: Option<u32>) -> &Mempool {
        self.by_node.get(&node).unwrap_or(&self.any)
    }

    /// Buffers that are not home.
    fn missing(&self) -> u32 {
        self.by_node.values().map(Mempool::in_use).sum()
    }
}

fn open(
    config: &Config,
    eal: &Eal,
    port: &crate::config::Port,
    pools: &Pools,
) -> Result<Port, DaemonError> {
    let node = Port::numa_node_of(eal, port.device.as_str())?;
    let settings = PortConfig {
        name: port.name.clone(),
        device: port.device.as_str().to_owned(),
        queues: config.engine.workers.len() as u16,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
        mtu: port.mtu,
        mac: port.mac.map(|mac| mac.0),
        ..PortConfig::default()
    };
    Ok(Port::open(eal, &settings, pools.of(node))?)
}

/// Never zero, which stands for no randomness.
fn random_seed() -> std::io::Result<u64> {
    let HashKey(bytes) = random_key()?;
    let [a, b, c, d, e, f, g, h, ..] = bytes;
    Ok(u64::from_le_bytes([a, b, c, d, e, f, g, h]) | 1)
}

fn random_key() -> std::io::Result<HashKey> {
    use std::io::Read;
    let mut key = [0; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    Ok(HashKey(key))
}
