//! Where answers arrive: which queue, and so which worker, a device's RSS brings a packet to.
//!
//! Where the device's key and table are known, a session's port is chosen so that the answers to it
//! arrive at the session's owner, and no frame has to be handed over. The hash is linear in the
//! packet's bits, so that all but the port is worked out once a session.

use weir_engine::rss;

use super::record::Side;
use crate::address::{Addr, Version};

/// How a device spreads what comes in: its key, the size of its table, and how many queues it has,
/// one a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    key: Vec<u8>,
    table_size: usize,
    queues: u16,
}

/// The part of an answer's hash that its destination port has no part in.
#[derive(Debug, Clone, Copy)]
pub struct Partial {
    hash: u32,
    version: Version,
}

impl Spread {
    /// Of a device with this key, whose table deals its entries to the queues in turn.
    #[must_use]
    pub const fn new(key: Vec<u8>, table_size: usize, queues: u16) -> Self {
        Self {
            key,
            table_size,
            queues,
        }
    }

    /// How many packets differ in nothing but their port before one of them arrives at a certain
    /// queue: not more than this, as good as always.
    #[inline]
    #[must_use]
    pub fn tries(&self) -> usize {
        (usize::from(self.queues) * 16).min(512)
    }

    /// Of answers from `backend` to one of weir's own addresses.
    #[must_use]
    pub fn partial(&self, backend: Side, own: Addr) -> Partial {
        let hash = match backend.version {
            Version::V4 => rss::ipv4_ports(
                &self.key,
                backend.address.to_v4().into(),
                own.to_v4().into(),
                backend.port,
                0,
            ),
            Version::V6 => rss::ipv6_ports(
                &self.key,
                backend.address.to_v6().into(),
                own.to_v6().into(),
                backend.port,
                0,
            ),
        };
        Partial {
            hash,
            version: backend.version,
        }
    }

    /// The worker that gets answers to this port.
    #[must_use]
    pub fn worker(&self, partial: Partial, port: u16) -> u16 {
        // Addresses and the source port lie before it in what is hashed.
        let before = match partial.version {
            Version::V4 => 4 + 4 + 2,
            Version::V6 => 16 + 16 + 2,
        };
        let key = self.key.get(before..).unwrap_or_default();
        let hash = partial.hash ^ rss::toeplitz(key, &port.to_be_bytes());
        rss::queue_in_table(hash, self.table_size, self.queues)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_parts_make_the_hash_of_the_whole(
            key in proptest::collection::vec(any::<u8>(), 40..53),
            size in 1usize..600, queues in 1u16..17,
            v6: bool, from: [u8; 16], to: [u8; 16], from_port: u16, port: u16,
        ) {
            let address = |bytes: [u8; 16]| match v6 {
                true => Addr::from_v6(bytes),
                false => Addr::from_v4([bytes[0], bytes[1], bytes[2], bytes[3]]),
            };
            let version = if v6 { Version::V6 } else { Version::V4 };
            let backend = Side { version, address: address(from), port: from_port };
            let own = address(to);
            let spread = Spread::new(key.clone(), size, queues);
            let whole = if v6 {
                rss::ipv6_ports(&key, from.into(), to.into(), from_port, port)
            } else {
                let (from, to) = (backend.address.to_v4(), own.to_v4());
                rss::ipv4_ports(&key, from.into(), to.into(), from_port, port)
            };
            let queue = spread.worker(spread.partial(backend, own), port);
            prop_assert_eq!(queue, rss::queue_in_table(whole, size, queues));
        }
    }
}
