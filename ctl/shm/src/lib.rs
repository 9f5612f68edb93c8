//! What the daemon and its operators share.
//!
//! - [`model`]: services and backends, and what makes a pool valid.
//! - [`document`]: pools as TOML, with file, line and column in every complaint.
//! - [`command`]: the vocabulary of pool changes, for `weirctl` and for replay scripts.
//! - [`counters`]: which counter stands where, for those who count and those who read.
//! - [`segment`]: the shared-memory file. [`server`] is the daemon's side of it, [`client`] the
//!   operator's.
//! - [`capture`]: captured packets on their way from the one to the other.
//!
//! Knows nothing of DPDK or of the packet pipeline.

pub mod capture;
pub mod client;
pub mod command;
pub mod counters;
pub mod document;
pub mod duration;
pub mod model;
pub mod segment;
pub mod server;
