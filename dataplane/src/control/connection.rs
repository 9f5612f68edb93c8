//! The answer to "where would a packet with this connection ID go, and why".
//!
//! What the connection ID says comes first, as on the packet path (`pipeline/quic.rs`); where it leads
//! nowhere, the packet is steered as one without, and [`Control::lookup`] explains that.

use std::net::SocketAddr;

use weir_engine::buffer::BufferSource;
use weir_shm::model::{Protocol, ServerId};

use super::Control;
use super::lookup::{Explanation, Reason, packet};
use crate::conntrack::Tick;
use crate::quic::Reading;
use crate::service::Owner;

/// What came of a connection ID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It names the backend that the packet goes to.
    Routed,
    /// The service is not one of protocol `quic`, or has no configurations.
    NotQuic,
    /// Its rotation is reserved for IDs that nobody can decode.
    ReservedRotation,
    /// The service has no configuration of its rotation.
    NoConfiguration,
    /// It is shorter than those of its configuration.
    TooShort,
    /// No backend of the service has its server ID.
    UnknownServerId,
    /// The backend that has its server ID takes no packets (disabled, down, its drain run out).
    BackendTakesNothing,
}

impl Outcome {
    /// In one word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::NotQuic => "not_quic",
            Self::ReservedRotation => "reserved_rotation",
            Self::NoConfiguration => "no_configuration",
            Self::TooShort => "too_short",
            Self::UnknownServerId => "unknown_server_id",
            Self::BackendTakesNothing => "backend_takes_nothing",
        }
    }
}

/// What a connection ID says to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionReading {
    /// Its first three bits.
    pub rotation: u8,
    /// What came of it.
    pub outcome: Outcome,
    /// The server ID in it.
    pub server_id: Option<ServerId>,
    /// The backend that has this ID.
    pub backend: Option<String>,
}

impl<S: BufferSource> Control<S> {
    /// Explains where a packet with connection ID `cid`, made by a server, goes at `now`. No reading
    /// where no service has the destination.
    #[must_use]
    pub fn lookup_connection(
        &self,
        now: Tick,
        protocol: Protocol,
        source: SocketAddr,
        destination: SocketAddr,
        cid: &[u8],
    ) -> (Explanation, Option<ConnectionReading>) {
        let services = self.services();
        let plain = self.lookup(now, protocol, source, destination);
        let (Owner::Forward(place) | Owner::ForwardByAddress(place)) =
            services.owner(&packet(protocol, source, destination))
        else {
            return (plain, None);
        };
        let quic = services
            .get(place)
            .and_then(|service| service.quic.as_deref());
        let read = quic.and_then(|quic| quic.read(cid));
        let (outcome, server_id, number) = match read {
            None => (Outcome::NotQuic, None, None),
            Some((_, Reading::Reserved)) => (Outcome::ReservedRotation, None, None),
            Some((_, Reading::NoConfiguration)) => (Outcome::NoConfiguration, None, None),
            Some((_, Reading::TooShort)) => (Outcome::TooShort, None, None),
            Some((_, Reading::Server { id, backend })) => {
                let outcome = match backend {
                    None => Outcome::UnknownServerId,
                    Some(number) if services.keeps(place, number).is_some() => Outcome::Routed,
                    Some(_) => Outcome::BackendTakesNothing,
                };
                (outcome, Some(id), backend)
            }
        };
        let named = number.and_then(|number| self.book().backend(number));
        let reading = ConnectionReading {
            rotation: cid.first().map_or(0, |first| first >> 5),
            outcome,
            server_id,
            backend: named.map(|(_, name)| name.to_owned()),
        };
        let explanation = match outcome {
            Outcome::Routed => Explanation {
                backend: reading.backend.clone(),
                reason: Reason::ConnectionId,
                table_entry: None,
                ..plain
            },
            _ => plain,
        };
        (explanation, Some(reading))
    }
}
