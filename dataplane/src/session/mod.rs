//! Sessions of `full-nat`: which address and port of weir's own stands for a client, and back.
//!
//! A backend of a `full-nat` service sees an address of weir's ([`SnatAddress`]) with a port that
//! belongs to one session alone. A session is found by its flow (a client's packet) or by its port
//! (an answer), each by one index and one record.
//!
//! ## Who owns what
//! Ports lie in blocks of [`BLOCK`], dealt to the workers in turn, so that whoever gets an answer
//! knows from the port alone which worker's session it is. A worker opens sessions only on ports of
//! its own and in its own [`Table`]; another worker that gets an answer hands the frame over. So
//! nothing here is written by two cores, and there is no lock. Memory is made of relaxed atomics,
//! which are plain loads and stores, so that the control core may read along.
//!
//! Where the devices' RSS is known ([`Spread`]), ports are chosen so that answers arrive at their
//! owner.
//!
//! ## Bounds
//! All memory is taken when the first `full-nat` service is put in force; a session more than there
//! is room or port for is refused, counted, and harms nobody. Nothing sweeps: a wheel of deadlines
//! brings up sessions that may have ended, a few a burst.

pub mod arrival;
mod ids;
mod lookup;
mod ports;
mod record;
mod rest;
mod table;
pub mod tcp;
mod wheel;

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use weir_engine::memory::MemoryError;

use crate::address::{Addr, Version};
use crate::endpoints::{Endpoint, Endpoints, View};

use ids::Ids;

pub use arrival::Spread;
pub use ports::{BLOCK, FIRST_PORT, LAST_PORT, QUARANTINE_MS, SnatAddress, is_spoken_from, owner};
pub use record::{Record, Side, Stretch, flag};
pub use table::{Exhausted, Opening, Table, Times};

/// What sessions are made of, for as long as the daemon runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settings {
    /// Workers that own ports.
    pub workers: usize,
    /// Sessions that each worker can have at once.
    pub capacity: u64,
    /// Whether huge pages are wanted.
    pub prefer_huge: bool,
    /// In which order ports are first used: zero from the lowest up, as `replay` does; anything else
    /// scatters them, so that a daemon does not begin with the ports that the last one began with.
    pub seed: u64,
}

/// What workers read: their tables, and weir's own addresses by number. Published with the services.
#[derive(Debug, Clone)]
pub struct Sessions {
    settings: Settings,
    tables: Arc<[Table]>,
    addresses: Vec<Arc<SnatAddress>>,
    by_address: Endpoints,
    ids: Arc<Ids>,
    /// How devices spread answers over the workers, where that is known.
    spread: Arc<OnceLock<Spread>>,
}

impl Sessions {
    /// Tables for every worker, without an address yet.
    ///
    /// # Errors
    /// When the memory cannot be had.
    pub fn new(settings: Settings) -> Result<Self, MemoryError> {
        let table = |_| Table::new(settings.capacity, settings.prefer_huge);
        let tables: Result<Vec<Table>, MemoryError> =
            (0..settings.workers.max(1)).map(table).collect();
        let tables = tables?;
        Ok(Self {
            settings,
            ids: Arc::new(Ids::new(tables.len() as u16)?),
            tables: tables.into(),
            addresses: Vec::new(),
            by_address: Endpoints::new(&[]),
            spread: Arc::default(),
        })
    }

    /// The number of an address; a new one if it has none yet. Numbers are for life, as sessions
    /// name addresses by them.
    ///
    /// # Errors
    /// When the memory for its ports cannot be had.
    pub fn number(&mut self, address: IpAddr) -> Result<u16, MemoryError> {
        let (version, bytes) = (Version::of(&address), Addr::from(address));
        if let Some(number) = self.by_address.get(Endpoint::address(version, bytes)) {
            return Ok(number as u16);
        }
        let workers = self.tables.len() as u16;
        let new = SnatAddress::new(version, bytes, workers)?;
        new.free_all(own_seed(self.settings.seed, bytes));
        self.addresses.push(Arc::new(new));
        let pairs: Vec<(Endpoint, u32)> = (0u32..)
            .zip(&self.addresses)
            .map(|(number, own)| (Endpoint::address(own.version, own.address), number))
            .collect();
        self.by_address = Endpoints::new(&pairs);
        Ok((self.addresses.len() - 1) as u16)
    }

    /// Puts free ports in another order, before there is a session.
    pub fn scatter_ports(&mut self, seed: u64) {
        self.settings.seed = seed;
        for own in &self.addresses {
            own.free_all(own_seed(seed, own.address));
        }
    }

    /// Says how the devices spread answers over the workers: from then on, ports are chosen so that
    /// answers arrive at their owner. Before there is a session; once.
    pub fn know_spread(&self, spread: Spread) {
        // Whoever says it twice says the same.
        let _ = self.spread.set(spread);
    }

    /// How the devices spread answers over the workers, where that is known.
    #[inline]
    #[must_use]
    pub fn spread(&self) -> Option<&Spread> {
        self.spread.get()
    }

    /// Hot: the number of an address that is weir's.
    #[inline]
    #[must_use]
    pub fn find_address(&self, version: Version, address: Addr) -> Option<u16> {
        let number = self.by_address.get(Endpoint::address(version, address))?;
        Some(number as u16)
    }

    /// Hot: the addresses that are weir's, to look many up in; each maps to its number.
    #[inline]
    #[must_use]
    pub fn addresses_view(&self) -> View<'_> {
        self.by_address.view()
    }

    /// Hot: the address with this number.
    #[inline]
    #[must_use]
    pub fn address(&self, number: u16) -> Option<&SnatAddress> {
        self.addresses.get(usize::from(number)).map(|own| &**own)
    }

    /// All addresses by number.
    #[must_use]
    pub fn addresses(&self) -> &[Arc<SnatAddress>] {
        &self.addresses
    }

    /// Hot: a worker's table. Only that worker may change it.
    #[inline]
    #[must_use]
    pub fn table(&self, worker: usize) -> Option<&Table> {
        self.tables.get(worker)
    }

    /// The next identification for a datagram of `worker` that leaves for a client in pieces.
    #[inline]
    #[must_use]
    pub fn next_id_toward(&self, worker: u16, client: Addr) -> u16 {
        self.ids.next(worker, client)
    }

    /// Workers that own ports.
    #[inline]
    #[must_use]
    pub fn workers(&self) -> u16 {
        self.tables.len() as u16
    }
}

/// An address's own seed: zero stays zero.
const fn own_seed(seed: u64, Addr([low, high]): Addr) -> u64 {
    if seed == 0 {
        0
    } else {
        (seed ^ low ^ high) | 1
    }
}

#[cfg(test)]
mod tests;
