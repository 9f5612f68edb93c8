//! Real devices: the generator and the reflector over DPDK ports.

pub mod bench;
pub mod generate;
pub mod progress;
pub mod reflect;
pub mod resolve;
pub mod session;
pub mod testbed;
mod worker;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use weir_engine::ArrayVec;
use weir_engine::eal::EalError;
use weir_engine::mbuf::Mbuf;
use weir_engine::mempool::MempoolError;
use weir_engine::port::PortError;
use weir_engine::queue::TxQueue;
use weir_engine::worker::WorkerError;

use crate::frame::WriteError;
use crate::tally::NoHistogram;

/// Packets handled at a time.
pub(crate) const BURST: usize = 32;

/// Lets a driver take back the buffers of frames that have left, which some (AF_XDP) do only when
/// they are asked to send. Sends nothing; takes about a millisecond.
pub(crate) fn reclaim(queue: &mut TxQueue) {
    let mut nothing: ArrayVec<Mbuf, 1> = ArrayVec::new();
    for _ in 0..RECLAIMS {
        queue.send(&mut nothing);
        std::thread::sleep(Duration::from_micros(10));
    }
}

/// How often a driver is asked; each time AF_XDP's takes back up to 32 of at most 2,048.
const RECLAIMS: u32 = 64;

/// Why a run over devices failed.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// DPDK did not start or stop.
    #[error(transparent)]
    Eal(#[from] EalError),
    /// No packet buffers.
    #[error(transparent)]
    Pool(#[from] MempoolError),
    /// A device could not be used.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A worker did not start or ended badly.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The answers cannot be measured.
    #[error(transparent)]
    Histogram(#[from] NoHistogram),
    /// A frame could not be written.
    #[error(transparent)]
    Frame(#[from] WriteError),
    /// Signals cannot be caught.
    #[error("cannot watch for SIGINT and SIGTERM: {0}")]
    Signals(#[source] io::Error),
    /// A link that stays down.
    #[error(
        "device {device} has no link after {waited:?}; check that its other end is up, or wait longer with --link-timeout"
    )]
    NoLink {
        /// The device.
        device: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Nobody answers for the next hop.
    #[error(
        "nobody on {device} answers for next hop {hop} within {waited:?}; check --next-hop and --vlan, or give the MAC with --dst-mac"
    )]
    Unresolved {
        /// The device.
        device: String,
        /// The address asked for.
        hop: IpAddr,
        /// How long was waited.
        waited: Duration,
    },
    /// No address of the next hop's family to ask from.
    #[error(
        "next hop {hop} is of another address family than {asker}, which would ask for it; give an --address of its family, or --dst-mac"
    )]
    NoAsker {
        /// The address asked for.
        hop: IpAddr,
        /// Who would have asked.
        asker: IpAddr,
    },
    /// It was stopped before it began.
    #[error("interrupted before the first packet")]
    Interrupted,
    /// The devices' queues were handed out twice.
    #[error("the queues of {0} are taken already")]
    QueuesTaken(String),
}
