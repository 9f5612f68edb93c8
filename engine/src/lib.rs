//! The engine: cores, queues, buffers, header bytes, time, publishing to workers, counters.
//!
//! It knows nothing of services, backends or balancing. With the `dpdk` feature (the default) it
//! owns NICs through DPDK; without it, what remains is pure and runs anywhere.

pub mod buffer;
pub mod counters;
pub mod memory;
pub mod publish;
pub mod wire;
