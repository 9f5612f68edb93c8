//! From a connection ID to its server ID, by one configuration (section 5.5 of the draft).

use aes::cipher::{BlockCipherDecrypt, KeyInit};
use aes::{Aes128, Aes128Dec};
use weir_shm::model::QuicConfig;

use super::feistel::{Shape, block};

/// Octets of server ID and nonce that make one AES block.
pub(super) const BLOCK: u8 = 16;

/// Reads connection IDs of one configuration.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Octets of the server ID, 1 to 15.
    id: u8,
    /// Octets of server ID and nonce.
    len: u8,
    cipher: Cipher,
}

/// How the server ID is hidden. The expanded keys are boxed: most services have one configuration,
/// and the others' places should not cost cache lines.
#[derive(Debug)]
enum Cipher {
    /// Not at all.
    Plain,
    /// In one AES block.
    Single(Box<Aes128Dec>),
    /// In the four-pass cipher, in whose left half it is.
    Left(Box<(Shape, Aes128)>),
    /// In the four-pass cipher, longer than the left half.
    Both(Box<(Shape, Aes128)>),
}

impl Decoder {
    /// `None` for lengths that no configuration may have.
    pub(super) fn new(config: &QuicConfig) -> Option<Self> {
        let (id, nonce) = (config.server_id_length, config.nonce_length);
        let len = id.checked_add(nonce)?;
        if id == 0 || nonce < weir_shm::model::MIN_NONCE || len > weir_shm::model::MAX_PLAINTEXT {
            return None;
        }
        let cipher = match config.key {
            None => Cipher::Plain,
            Some(key) if len == BLOCK => Cipher::Single(Box::new(Aes128Dec::new(&key.0.into()))),
            Some(key) => {
                let key = Box::new((Shape::new(len), Aes128::new(&key.0.into())));
                if nonce >= id {
                    Cipher::Left(key)
                } else {
                    Cipher::Both(key)
                }
            }
        };
        Some(Self { id, len, cipher })
    }

    /// Octets of the server ID.
    pub(super) fn server_id_len(&self) -> usize {
        usize::from(self.id)
    }

    /// Hot: the server ID in a connection ID, as a number. `cid` may have more behind the ID; `None`
    /// if it is too short to be one of this configuration.
    #[inline]
    pub(super) fn server_id(&self, cid: &[u8]) -> Option<u128> {
        let (_, text) = cid.split_first()?;
        if text.len() < usize::from(self.len) {
            return None;
        }
        let aligned = match &self.cipher {
            Cipher::Plain => u128::from_be_bytes(block(text)),
            Cipher::Single(aes) => {
                let mut block = (*text.first_chunk::<{ BLOCK as usize }>()?).into();
                aes.decrypt_block(&mut block);
                u128::from_be_bytes(block.into())
            }
            Cipher::Left(key) => {
                let (shape, aes) = &**key;
                u128::from_be_bytes(shape.decrypt_left(aes, shape.split(text)?).left)
            }
            Cipher::Both(key) => {
                let (shape, aes) = &**key;
                let left = shape.decrypt_left(aes, shape.split(text)?);
                shape.join(shape.decrypt_right(aes, left))
            }
        };
        Some(aligned >> (128 - 8 * u32::from(self.id)))
    }
}
