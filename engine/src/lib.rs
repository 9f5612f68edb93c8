//! The engine: cores, queues, buffers, header bytes, time, publishing to workers, counters.
//!
//! It knows nothing of services, backends or balancing. With the `dpdk` feature (the default) it
//! owns NICs through DPDK; without it, what remains is pure and runs anywhere.
//!
//! A forwarder takes an [`eal::Eal`], a [`mempool::Mempool`], a [`port::Port`] each way, and a
//! [`worker::Worker`] that moves bursts from their receive queues to their send queues; see
//! `examples/l2fwd.rs`.

pub mod buffer;
pub mod clock;
pub mod counters;
pub mod cpu;
#[cfg(feature = "dpdk")]
pub mod eal;
pub mod idle;
#[cfg(feature = "dpdk")]
pub mod mbuf;
pub mod memory;
#[cfg(feature = "dpdk")]
pub mod mempool;
#[cfg(feature = "dpdk")]
pub mod port;
pub mod publish;
#[cfg(feature = "dpdk")]
pub mod queue;
pub mod ring;
pub mod rss;
#[cfg(target_os = "linux")]
pub mod tap;
pub mod wire;
pub mod worker;

/// Re-exported: bursts are passed in it.
pub use arrayvec::ArrayVec;
