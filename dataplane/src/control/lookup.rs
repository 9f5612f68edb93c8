//! The answer to "which backend would this packet get, and why".

use std::net::SocketAddr;

use weir_engine::buffer::BufferSource;
use weir_shm::model::Protocol;

use super::Control;
use crate::address::{Addr, Version};
use crate::conntrack::{Details, State, Tick};
use crate::flow::FlowHash;
use crate::parse::Packet;
use crate::service::{Owner, Takes, protocol_number};

/// What steers a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Conntrack holds the flow.
    Conntrack,
    /// Conntrack does not hold it; the Maglev table chooses.
    Maglev,
    /// Conntrack holds it, but its backend has gone; the table chooses anew.
    Moved,
    /// No service has this VIP, port and protocol.
    NoService,
    /// The service has no backend that takes the flow.
    NoBackend,
}

impl Reason {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conntrack => "conntrack",
            Self::Maglev => "maglev",
            Self::Moved => "moved",
            Self::NoService => "no_service",
            Self::NoBackend => "no_backend",
        }
    }
}

/// What is known of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The service, if the destination is one's.
    pub service: Option<String>,
    /// The backend that the next packet goes to.
    pub backend: Option<String>,
    /// Why that one.
    pub reason: Reason,
    /// The worker whose conntrack holds the flow.
    pub worker: Option<usize>,
    /// The flow's state there.
    pub state: Option<&'static str>,
    /// Milliseconds since its last packet.
    pub idle_ms: Option<u32>,
    /// The entry of the Maglev table that the flow falls on, and the table's size.
    pub table_entry: Option<(u32, u32)>,
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Syn => "syn",
        State::Established => "established",
        State::Closing => "closing",
        State::Udp | State::UdpNew => "udp",
        State::Loose => "mid-stream",
    }
}

impl<S: BufferSource> Control<S> {
    /// Explains where a packet from `source` to `destination` goes at `now`.
    #[must_use]
    pub fn lookup(
        &self,
        now: Tick,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Explanation {
        let nothing = |reason| Explanation {
            service: None,
            backend: None,
            reason,
            worker: None,
            state: None,
            idle_ms: None,
            table_entry: None,
        };
        let services = self.services();
        let packet = packet(protocol, source, destination);
        let Owner::Forward(number) = services.owner(&packet) else {
            return nothing(Reason::NoService);
        };
        let (Some(service), Some(model)) = (
            services.get(number),
            self.pool.services.get(number as usize),
        ) else {
            return nothing(Reason::NoService);
        };
        let hash = self.hasher.packet(&packet);
        let size = service.table.len() as u32;
        let entry = crate::flow::scale((hash.bucket >> 32) as u32, size);
        let found = self.find_flow(now, hash);
        let kept = found.filter(|(_, held)| services.keeps(number, held.backend()).is_some());
        let (number, reason) = match kept {
            Some((_, held)) => (Some(held.backend()), Reason::Conntrack),
            None => {
                let reason = if found.is_some() {
                    Reason::Moved
                } else {
                    Reason::Maglev
                };
                (service.choose(hash), reason)
            }
        };
        let backend = number
            .and_then(|number| self.book.backend(number))
            .map(|(_, name)| name);
        Explanation {
            service: Some(model.name.clone()),
            backend: backend.map(str::to_owned),
            reason: if backend.is_some() {
                reason
            } else {
                Reason::NoBackend
            },
            worker: found.map(|(worker, _)| worker),
            state: found.map(|(_, held)| state_name(held.state())),
            idle_ms: found.map(|(_, held)| now.since(held.seen())),
            table_entry: Some((entry, size)),
        }
    }

    fn find_flow(&self, now: Tick, hash: FlowHash) -> Option<(usize, Details)> {
        let profiles = &self.services().profiles;
        self.tables
            .iter()
            .enumerate()
            .find_map(|(worker, table)| Some((worker, table.find(hash, now, profiles)?)))
    }

    /// Live flows by backend number, of all workers: one pass over their tables.
    #[must_use]
    pub fn flows(&self, now: Tick) -> Vec<u64> {
        let services = self.services();
        let mut flows = vec![0; services.backends.len()];
        for table in &self.tables {
            table.for_each_live(now, &services.profiles, |held| {
                if let Some(count) = flows.get_mut(held.backend() as usize) {
                    *count += 1;
                }
            });
        }
        flows
    }

    /// Which flows a backend takes.
    #[must_use]
    pub fn takes(&self, service: &str, backend: &str) -> Takes {
        let number = self.book.number(service, backend);
        let backend = number.and_then(|number| self.services().backends.get(number as usize));
        backend.map_or(Takes::Nothing, |backend| backend.takes)
    }
}

fn packet(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Packet {
    let [a, b] = source.port().to_be_bytes();
    let [c, d] = destination.port().to_be_bytes();
    Packet {
        source: Addr::from(source.ip()),
        destination: Addr::from(destination.ip()),
        ports: u32::from_le_bytes([a, b, c, d]),
        ip_len: 0,
        transport: 0,
        network: 0,
        version: Version::of(&destination.ip()),
        protocol: protocol_number(protocol),
        tcp_flags: 0,
        ttl: 64,
        tag: None,
    }
}
