//! Whose a packet is that goes to no service: what `lookup` says instead of nothing.

use std::net::{IpAddr, SocketAddr};

use weir_engine::buffer::BufferSource;
use weir_shm::model::Protocol;
use weir_shm::segment::mailbox::Elsewhere;

use super::Control;
use super::lookup::packet;
use crate::address::Version;
use crate::conntrack::Tick;
use crate::parse::Packet;
use crate::service::Owner;
use crate::session::{Record, Side, owner};

impl<S: BufferSource> Control<S> {
    /// What becomes of a packet that is for no service; `None` where one is, and where it is nobody's.
    #[must_use]
    pub fn elsewhere(
        &self,
        now: Tick,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<Elsewhere> {
        let services = self.services();
        let packet = packet(protocol, source, destination);
        match services.owner(&packet) {
            Owner::Forward(_) | Owner::ForwardByAddress(_) | Owner::NotOurs => None,
            Owner::Return(number) => self.given_back(number, source, destination),
            Owner::Answer(address) => Some(match self.session_of(now, address, &packet) {
                Some((worker, record)) => Elsewhere {
                    worker: Some(worker.into()),
                    from: Some(end(record.vip())),
                    to: Some(end(record.client())),
                    ..self.of(record.backend_number(), "session")
                },
                None => match services.owner_but_for_sessions(&packet) {
                    Owner::Return(number) => return self.given_back(number, source, destination),
                    _ => kind("no_session"),
                },
            }),
            Owner::NoService => Some(self.local(destination.ip())),
        }
    }

    /// What is for weir itself: a port's own address, a VIP's other ports, what `full-nat` speaks from.
    fn local(&self, destination: IpAddr) -> Elsewhere {
        let mut ports = self.config.ports.iter();
        let has_it = |port: &&crate::config::Port| {
            let mut own = port.addresses.iter();
            own.any(|own| own.address == destination)
        };
        if let Some(port) = ports.find(has_it) {
            return Elsewhere {
                port: Some(port.name.clone()),
                ..kind("own")
            };
        }
        let services = self.pool.services.iter();
        let services: Vec<String> = services
            .filter(|service| service.vip.covers(destination))
            .map(|service| {
                format!(
                    "{} ({} {})",
                    service.name,
                    service.protocol,
                    service.endpoint()
                )
            })
            .collect();
        if services.is_empty() {
            return kind("no_session");
        }
        Elsewhere {
            services,
            ..kind("other_port")
        }
    }

    /// The live session whose answer a packet is, and the worker that has it.
    fn session_of(&self, now: Tick, address: u16, packet: &Packet) -> Option<(u16, Record<'_>)> {
        let sessions = self.services().sessions.as_ref()?;
        let port = packet.destination_port();
        let worker = owner(port, sessions.workers());
        let session = sessions.address(address)?.session(packet.protocol, port)?;
        let record = sessions.table(worker.into())?.record(session)?;
        let from = Side {
            version: packet.version,
            address: packet.source,
            port: packet.source_port(),
        };
        let is_its = record.fingerprint() != 0 && record.backend() == from && record.is_live(now);
        is_its.then_some((worker, record))
    }

    /// An answer of a `nat` backend, which leaves as from the VIP.
    fn given_back(&self, number: u32, source: SocketAddr, to: SocketAddr) -> Option<Elsewhere> {
        let services = self.services();
        let backend = services.backends.get(number as usize)?;
        let service = services.get(backend.service)?;
        let port = match u16::from_be_bytes(service.port) {
            0 => source.port(),
            port => port,
        };
        let vip = service.vip.to_ip(Version::of(&to.ip()));
        Some(Elsewhere {
            from: Some((vip, port).into()),
            to: Some(to),
            ..self.of(number, "answer")
        })
    }

    fn of(&self, number: u32, what: &str) -> Elsewhere {
        let known = self.book.backend(number);
        Elsewhere {
            service: known.map(|(service, _)| service.to_owned()),
            backend: known.map(|(_, name)| name.to_owned()),
            ..kind(what)
        }
    }
}

fn kind(kind: &str) -> Elsewhere {
    Elsewhere {
        kind: kind.to_owned(),
        ..Elsewhere::default()
    }
}

fn end(side: Side) -> SocketAddr {
    (side.address.to_ip(side.version), side.port).into()
}
