//! The server's side: connection IDs that carry a server ID (section 5.4 of the draft).
//!
//! weir makes no connection IDs; this is for its tests and benches, and for a server's
//! connection-ID generator. Nonces are the caller's: with a key, none may come twice; without,
//! they must look random (section 9.6).

use aes::Aes128Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use arrayvec::ArrayVec;
use weir_shm::model::{MAX_PLAINTEXT, QuicConfig, ServerId};

use super::decode::BLOCK;
use super::feistel::Shape;

/// A connection ID of QUIC version 1: 20 octets at most.
pub type ConnectionId = ArrayVec<u8, { MAX_PLAINTEXT as usize + 1 }>;

/// The low five bits of a connection ID's first octet (section 3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstOctet {
    /// The length of what follows the octet.
    Length,
    /// Anything; of these bits the low five count.
    Random(u8),
}

/// Makes connection IDs under one configuration.
#[derive(Debug)]
pub struct Encoder {
    config: QuicConfig,
    first: FirstOctet,
    aes: Option<Aes128Enc>,
}

impl Encoder {
    /// An encoder; `None` for a configuration that weir would refuse.
    #[must_use]
    pub fn new(config: &QuicConfig, first: FirstOctet) -> Option<Self> {
        super::decode::Decoder::new(config)?;
        (config.rotation < weir_shm::model::ROTATIONS).then(|| Self {
            config: *config,
            first,
            aes: config.key.map(|key| Aes128Enc::new(&key.0.into())),
        })
    }

    /// The connection ID of a server ID and a nonce; `None` if either is not as long as configured.
    #[must_use]
    pub fn encode(&self, id: &ServerId, nonce: &[u8]) -> Option<ConnectionId> {
        let config = &self.config;
        let octets = id.octets();
        if octets.len() != usize::from(config.server_id_length)
            || nonce.len() != usize::from(config.nonce_length)
        {
            return None;
        }
        let len = config.server_id_length + config.nonce_length;
        let low = match self.first {
            FirstOctet::Length => len,
            FirstOctet::Random(bits) => bits & 0x1f,
        };
        let mut cid = ConnectionId::new();
        cid.push(config.rotation << 5 | low);
        cid.try_extend_from_slice(octets).ok()?;
        cid.try_extend_from_slice(nonce).ok()?;
        if let (Some(aes), Some((_, text))) = (&self.aes, cid.split_first_mut()) {
            encrypt(aes, len, text)?;
        }
        Some(cid)
    }
}

fn encrypt(aes: &Aes128Enc, len: u8, text: &mut [u8]) -> Option<()> {
    if len == BLOCK {
        let mut block = <[u8; BLOCK as usize]>::try_from(&*text).ok()?.into();
        aes.encrypt_block(&mut block);
        text.copy_from_slice(&block);
        return Some(());
    }
    let shape = Shape::new(len);
    let halves = shape.encrypt(aes, shape.split(text)?);
    text.fill(0);
    for (start, half) in [(0, halves.left), (shape.offset(), halves.right)] {
        for (place, octet) in text.get_mut(start..)?.iter_mut().zip(half) {
            *place |= octet;
        }
    }
    Some(())
}
