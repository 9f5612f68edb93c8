//! Pieces for end-to-end tests: the release binaries of weir between real kernel network stacks, each in a network
//! namespace of its own. Whatever a piece puts up (a namespace, a process, a segment) it takes down when dropped,
//! also when the test fails; what a test killed from outside has left is swept by the next one.
//!
//! The tests are in `tests/`, one promise a file. They need root, and they say so by failing: a promise that nobody
//! checked must not look kept. On a machine where that is not wanted, `WEIR_E2E_SKIP=1` leaves them out, except on CI.

pub mod between;
pub mod bird;
pub mod checks;
pub mod config;
pub mod cores;
pub mod daemon;
pub mod decapsulator;
pub mod failure;
pub mod host;
pub mod lab;
pub mod load;
pub mod memif;
pub mod namespace;
pub mod nginx;
pub mod preload;
pub mod process;
pub mod quic;
pub mod sockets;
pub mod ssh;
mod sys;
pub mod tap;
pub mod tls;
pub mod transfer;
pub mod two_workers;
pub mod wait;

pub use failure::{Failure, Result};
