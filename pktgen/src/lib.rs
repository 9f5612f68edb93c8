//! weir's traffic generator, reflector and measuring tool.
//!
//! A [`profile`] says what to send; [`traffic`] is its sequence of packets and [`frame`] their
//! bytes. Each payload starts with a [`stamp`], so that a [`reflector`] and a [`tally`] can say what
//! was lost, doubled, reordered or delivered to another backend, and how long it took. All of that
//! is pure; `live` (feature `dpdk`) puts it on devices, [`capture`] into a file.

pub mod backend;
pub mod bench;
pub mod capture;
pub mod cli;
pub mod frame;
pub mod lane;
#[cfg(feature = "dpdk")]
pub mod live;
pub mod neighbour;
pub mod pace;
pub mod popularity;
pub mod profile;
pub mod random;
pub mod range;
pub mod receive;
pub mod recent;
pub mod reflector;
pub mod report;
pub mod schedule;
pub mod search;
pub mod size;
pub mod stamp;
pub mod tally;
pub mod track;
pub mod traffic;
pub mod trial;
pub mod turnaround;
pub mod units;
