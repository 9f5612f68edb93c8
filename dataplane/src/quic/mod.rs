//! QUIC: which backend a datagram's connection ID names.
//!
//! Servers write their ID into the connection IDs that they give out
//! (draft-ietf-quic-load-balancers-21, QUIC-LB); clients send them back in every packet, whatever
//! address they send from. So a connection stays on its backend while its client moves and the pool
//! changes, without any state here. What cannot be read is no error: the caller steers it by its
//! addresses and ports, as UDP.
//!
//! - `header` finds the connection ID (RFC 8999, and RFC 9000 for which packets have none that a
//!   server made).
//! - `decode` takes the server ID out of it: plaintext, one AES block, or `feistel`'s four passes.
//! - `burst` does so for many packets at once.
//! - `directory` has the backend's number under the ID.
//! - `encode` is the server's side of all this, for tests and for whoever writes a server.
//!
//! Read next to the draft: sections 3 (first octet), 4 (unroutable IDs) and 5 (encodings).

mod burst;
mod decode;
mod directory;
pub mod encode;
mod feistel;
pub mod header;

use weir_shm::model::{QuicConfig, ServerId};

pub use burst::Burst;
use decode::Decoder;
use directory::Directory;
use header::Destination;

/// Values of the three rotation bits, the reserved one included.
const ROTATIONS: usize = 8;

/// How one service reads connection IDs. Made on the control core, read by workers.
#[derive(Debug)]
pub struct Quic {
    by_rotation: [Option<Decoder>; ROTATIONS],
    directory: Directory,
}

impl Quic {
    /// From a service's configurations and its backends' IDs: under a rotation, the number of the
    /// backend with this ID.
    #[must_use]
    pub fn new(configs: &[QuicConfig], ids: impl IntoIterator<Item = (u8, ServerId, u32)>) -> Self {
        let mut by_rotation = [const { None }; ROTATIONS];
        for config in configs {
            // The reserved rotation never gets a decoder: its connection IDs are unroutable.
            if config.rotation < weir_shm::model::ROTATIONS
                && let Some(place) = by_rotation.get_mut(usize::from(config.rotation))
            {
                *place = Decoder::new(config);
            }
        }
        Self {
            by_rotation,
            directory: Directory::new(ids),
        }
    }

    /// Hot: the number of the backend that the datagram's first packet is for; `None` when its
    /// connection ID is unroutable. `datagram` is UDP's payload.
    #[inline]
    #[must_use]
    pub fn backend(&self, datagram: &[u8]) -> Option<u32> {
        match header::destination(datagram) {
            Destination::Server(id) => self.backend_of(id),
            Destination::Client | Destination::None => None,
        }
    }

    /// Hot: the number of the backend that a connection ID names. `id` may be longer than the
    /// connection ID, as behind a short header, which does not tell the length.
    #[inline]
    #[must_use]
    pub fn backend_of(&self, id: &[u8]) -> Option<u32> {
        let rotation = id.first()? >> 5;
        let decoder = self.by_rotation.get(usize::from(rotation))?.as_ref()?;
        self.directory.get(rotation, decoder.server_id(id)?)
    }

    /// What a connection ID says; `None` for one without octets. For explanations, not for packets.
    #[must_use]
    pub fn read(&self, id: &[u8]) -> Option<(u8, Reading)> {
        let rotation = id.first()? >> 5;
        let decoder = self.by_rotation.get(usize::from(rotation));
        let reading = match decoder.and_then(Option::as_ref) {
            None if rotation >= weir_shm::model::ROTATIONS => Reading::Reserved,
            None => Reading::NoConfiguration,
            Some(decoder) => match decoder.server_id(id) {
                None => Reading::TooShort,
                Some(number) => Reading::Server {
                    id: octets_of(number, decoder.server_id_len())?,
                    backend: self.directory.get(rotation, number),
                },
            },
        };
        Some((rotation, reading))
    }

    /// Rotation and server ID of a connection ID that can be decoded, whether or not a backend has
    /// the ID.
    #[must_use]
    pub fn decode(&self, id: &[u8]) -> Option<(u8, ServerId)> {
        match self.read(id)? {
            (rotation, Reading::Server { id, .. }) => Some((rotation, id)),
            _ => None,
        }
    }
}

/// What a connection ID says to a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Its rotation marks IDs that nobody can decode.
    Reserved,
    /// No configuration has its rotation.
    NoConfiguration,
    /// It has fewer octets than the configuration of its rotation asks for.
    TooShort,
    /// A server ID.
    Server {
        /// The ID.
        id: ServerId,
        /// The number of the backend that has it.
        backend: Option<u32>,
    },
}

/// A server ID of `len` octets, from a number.
fn octets_of(number: u128, len: usize) -> Option<ServerId> {
    let octets = number.to_be_bytes();
    ServerId::new(octets.get(octets.len().checked_sub(len)?..)?)
}

#[cfg(test)]
mod tests;
