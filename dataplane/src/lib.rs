//! The dataplane of weir: services, backends, Maglev, conntrack, rewriting, neighbours.
//!
//! The packet path (`parse`, `service`, `conntrack`, `maglev`, `forward`, `pipeline`) and the
//! control core (`control`) are pure: bytes and the time come in, bytes go out. `replay` drives them
//! from capture files; `daemon`, behind the `dpdk` feature, from NICs.

#![forbid(unsafe_code)]

pub mod address;
pub mod adjacency;
pub mod capture;
pub mod config;
pub mod conntrack;
pub mod control;
#[cfg(feature = "dpdk")]
pub mod daemon;
pub mod endpoints;
pub mod exception;
pub mod flow;
pub mod forward;
pub mod fragment;
pub mod fragments;
pub mod icmp;
pub mod icmp_family;
pub mod icmp_quote;
pub mod listeners;
pub mod maglev;
pub mod metrics;
pub mod newest;
pub mod parse;
pub mod pipeline;
pub mod quic;
pub mod replay;
pub mod scheduler;
pub mod service;
pub mod session;
