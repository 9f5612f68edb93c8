//! ICMP: errors to whom they concern, and pings.

use weir_engine::buffer::Buffer;
use weir_engine::wire::{protocol, tcp::flags};
use weir_shm::counters::{self, DropReason};
use weir_shm::model::Ping;

use super::Aside;
use crate::address::Version;
use crate::conntrack::State;
use crate::flow::FlowHash;
use crate::icmp_quote::{self, Kind, Message, Quote};
use crate::parse::Packet;
use crate::pipeline::rewrite::Outcome;
use crate::service::{Backend, Owner};

impl<B: Buffer> Aside<'_, B> {
    /// An ICMP message: an error goes where the packet that it quotes came from, a ping as its VIP's
    /// services say. Neighbour discovery goes to groups, which the netstack checks.
    pub(super) fn icmp(&mut self, frame: &mut B, packet: &Packet) -> Outcome {
        let (version, destination) = (packet.version, packet.destination);
        let message = Message {
            version,
            network: packet.network.into(),
            icmp: packet.transport,
            end: u16::from(packet.network).saturating_add(packet.ip_len),
        };
        let bytes = frame.data().get(usize::from(message.icmp)..);
        let bytes = bytes.unwrap_or_default();
        if version == Version::V6 && destination.to_v6()[0] == 0xff {
            return self.icmp_to_group(packet, bytes);
        }
        match icmp_quote::kind(version, bytes) {
            Kind::Error => self.error(frame, packet, &message),
            Kind::EchoRequest if self.is_local(version, destination) => self.ping(frame, packet),
            _ if self.is_local(version, destination) => self.other_icmp(packet, bytes),
            _ => Outcome::Drop(DropReason::NotOurs),
        }
    }

    fn error(&mut self, frame: &mut B, packet: &Packet, message: &Message) -> Outcome {
        let services = &*self.snapshot.services;
        let (version, destination) = (packet.version, packet.destination);
        let is_vip = services.at_vip(version, destination).is_some();
        if let Some(outcome) = self.error_at_snat(frame, packet, message) {
            return outcome;
        }
        let is_own = || {
            self.is_local(version, destination) || services.is_tunnel_source(version, destination)
        };
        if !is_vip && is_own() {
            return self.error_about_ourselves(frame, packet, message);
        }
        let quote = match icmp_quote::read(frame.data(), message) {
            Ok(quote) if quote.source == destination => quote,
            Ok(_) => return Outcome::Drop(DropReason::IcmpQuote),
            Err(reason) => return Outcome::Drop(reason),
        };
        let asked = asked(&quote, version);
        if matches!(quote.protocol, protocol::ICMP | protocol::ICMPV6) {
            return self.error_about_ping(frame, packet, &asked);
        }
        match services.owner(&asked) {
            Owner::Forward(place) => {
                let hash = self.hasher.packet(&asked);
                self.error_to_backend(frame, packet, (message, &quote), &asked, (place, hash))
            }
            Owner::ForwardByAddress(place) => {
                let hash = self.hasher.addresses(&asked);
                self.error_to_backend(frame, packet, (message, &quote), &asked, (place, hash))
            }
            Owner::Return(number) => {
                self.count_unreachable(frame, message, &quote, number);
                self.to_client(frame, packet, number, |frame, service, backend| {
                    backend
                        .mode
                        .give_back_error(frame, message, &quote, service)
                })
            }
            Owner::Answer(_) | Owner::NoService | Owner::NotOurs if is_vip => {
                Outcome::Drop(DropReason::IcmpNoFlow)
            }
            Owner::Answer(_) | Owner::NoService | Owner::NotOurs => {
                Outcome::Drop(DropReason::NotOurs)
            }
        }
    }

    /// Counts that a client's SYN could not reach its backend, as a connection that was refused.
    fn count_unreachable(&self, frame: &B, message: &Message, quote: &Quote, number: u32) {
        let services = &*self.snapshot.services;
        let Some(backend) = services.backends.get(number as usize) else {
            return;
        };
        if quote.protocol != protocol::TCP || !is_unreachable(frame.data(), message) {
            return;
        }
        let quoted = frame
            .data()
            .get(usize::from(quote.transport)..usize::from(quote.end));
        let is_syn = match quoted.and_then(|segment| segment.get(13)) {
            Some(found) => found & (flags::SYN | flags::ACK) == flags::SYN,
            // No more than the eight bytes that RFC 792 asks for: what is known of the flow says.
            None => self.is_opening(quote, message.version, backend),
        };
        if is_syn {
            let counter = backend.counters as usize + counters::REFUSED;
            self.counters.add(counter, 1);
        }
    }

    /// Whether all that is known of the flow that a packet to a backend of `nat` was of is its SYN.
    fn is_opening(&self, quote: &Quote, version: Version, backend: &Backend) -> bool {
        let services = &*self.snapshot.services;
        let Some(service) = services.get(backend.service) else {
            return false;
        };
        let port = match service.port {
            [0, 0] => quote.destination_port(),
            port => u16::from_be_bytes(port),
        };
        let sent = Packet {
            version,
            source: quote.source,
            destination: service.vip,
            ports: u32::from(quote.source_port().swap_bytes()) | u32::from(port.swap_bytes()) << 16,
            protocol: quote.protocol,
            ..Packet::default()
        };
        let hash = if service.by_address {
            self.hasher.addresses(&sent)
        } else {
            self.hasher.packet(&sent)
        };
        self.details_of(hash)
            .is_some_and(|details| details.state() == State::Syn)
    }

    /// About a packet to a backend of `full-nat`, from an address that it sends from.
    fn error_at_snat(&self, frame: &mut B, packet: &Packet, message: &Message) -> Option<Outcome> {
        let sessions = self.snapshot.services.sessions.as_ref()?;
        sessions.find_address(packet.version, packet.destination)?;
        let quote = icmp_quote::read(frame.data(), message).ok()?;
        let asked = asked(&quote, packet.version);
        (quote.source == packet.destination)
            .then(|| self.error_of_session(frame, packet, (message, &quote), &asked))?
    }

    /// About an answer from a VIP: to the backend that gave it.
    fn error_to_backend(
        &self,
        frame: &mut B,
        packet: &Packet,
        (message, quote): (&Message, &Quote),
        asked: &Packet,
        (place, hash): (u32, FlowHash),
    ) -> Outcome {
        if let Some(outcome) = self.error_to_session(frame, packet, (message, quote), hash) {
            return outcome;
        }
        let Some(number) = self.backend_of(place, asked, hash) else {
            return Outcome::Drop(DropReason::NoBackend);
        };
        self.to_backend(frame, packet, hash, number, |frame, steered| {
            steered
                .backend
                .mode
                .forward_error(frame, steered, message, quote)
        })
    }

    /// About an echo reply from a VIP: to the backend that gave it, if one did.
    fn error_about_ping(&self, frame: &mut B, packet: &Packet, asked: &Packet) -> Outcome {
        let services = &*self.snapshot.services;
        let service = services.at_vip(asked.version, asked.destination);
        match service.and_then(|place| Some((place, services.get(place)?.ping))) {
            Some((place, Ping::Forward)) => self.ping_to_backend(frame, packet, asked, place),
            _ => Outcome::Drop(DropReason::IcmpNoFlow),
        }
    }

    fn ping(&self, frame: &mut B, packet: &Packet) -> Outcome {
        let services = &*self.snapshot.services;
        let Some(place) = services.at_vip(packet.version, packet.destination) else {
            return Outcome::Punt;
        };
        match services.get(place).map(|service| service.ping) {
            Some(Ping::Answer) | None => Outcome::Punt,
            Some(Ping::Drop) => Outcome::Drop(DropReason::PingRefused),
            Some(Ping::Forward) => self.ping_to_backend(frame, packet, packet, place),
        }
    }

    /// To the backend that the table has for the addresses of `asked`: all pings of a client go to
    /// one backend.
    fn ping_to_backend(
        &self,
        frame: &mut B,
        packet: &Packet,
        asked: &Packet,
        place: u32,
    ) -> Outcome {
        let services = &*self.snapshot.services;
        let hash = self.hasher.packet(&Packet { ports: 0, ..*asked });
        let chosen = services.get(place).and_then(|service| service.choose(hash));
        match chosen.filter(|number| services.keeps(place, *number).is_some()) {
            Some(number) => self.to_backend(frame, packet, hash, number, |frame, steered| {
                steered.backend.mode.forward(frame, steered)
            }),
            None => Outcome::Drop(DropReason::PingRefused),
        }
    }
}

/// Whether an error says that its packet could not arrive. That it was too large says nothing of
/// whom it was sent to.
pub(super) fn is_unreachable(data: &[u8], message: &Message) -> bool {
    const TOO_LARGE: u8 = 4;
    let icmp = data.get(usize::from(message.icmp)..);
    match (message.version, icmp) {
        (Version::V4, Some([3, code, ..])) => *code != TOO_LARGE,
        (Version::V6, Some([1, ..])) => true,
        _ => false,
    }
}

/// A quoted packet's other direction: what its sender was asked.
fn asked(quote: &Quote, version: Version) -> Packet {
    Packet {
        version,
        source: quote.destination,
        destination: quote.source,
        ports: quote.ports_reversed(),
        protocol: quote.protocol,
        ..Packet::default()
    }
}
