//! From a connection ID to its server ID, by one configuration (section 5.5 of the draft).
//!
//! In two steps, so that the encrypted IDs of a burst go through AES together: [`Decoder::take`] cuts
//! the text out of a connection ID, [`Decoder::open`] decrypts texts, and [`Decoder::server_id_of`]
//! reads the ID.

use aes::cipher::consts::U16;
use aes::cipher::{
    Array, BlockCipherDecBackend, BlockCipherDecClosure, BlockCipherDecrypt, BlockSizeUser, KeyInit,
};
use aes::{Aes128Dec, Aes128Enc};
use weir_shm::model::QuicConfig;

use super::feistel::{Halves, Shape, block};

/// Octets of server ID and nonce that make one AES block.
pub(super) const BLOCK: u8 = 16;

/// Reads connection IDs of one configuration.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Octets of the server ID, 1 to 15.
    id: u8,
    /// Octets of server ID and nonce.
    len: u8,
    /// Bits from the start of a text's left half to that of its right one.
    right: u8,
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
    Left(Box<(Shape, Aes128Enc)>),
    /// In the four-pass cipher, longer than the left half.
    Both(Box<(Shape, Aes128Enc)>),
}

/// What is behind the first octet of a connection ID.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text {
    /// The server ID, as a number.
    Plain(u128),
    /// Server ID and nonce, encrypted.
    Sealed(Halves),
}

impl Decoder {
    /// `None` for lengths that no configuration may have.
    pub(super) fn new(config: &QuicConfig) -> Option<Self> {
        let (id, nonce) = (config.server_id_length, config.nonce_length);
        let len = id.checked_add(nonce)?;
        if id == 0 || nonce < weir_shm::model::MIN_NONCE || len > weir_shm::model::MAX_PLAINTEXT {
            return None;
        }
        let mut right = 0;
        let cipher = match config.key {
            None => Cipher::Plain,
            Some(key) if len == BLOCK => Cipher::Single(Box::new(Aes128Dec::new(&key.0.into()))),
            Some(key) => {
                let shape = Shape::new(len);
                right = 8 * shape.offset() as u8;
                let key = Box::new((shape, Aes128Enc::new(&key.0.into())));
                if nonce >= id {
                    Cipher::Left(key)
                } else {
                    Cipher::Both(key)
                }
            }
        };
        Some(Self {
            id,
            len,
            right,
            cipher,
        })
    }

    /// Octets of the server ID.
    pub(super) fn server_id_len(&self) -> usize {
        usize::from(self.id)
    }

    /// Hot: the text in a connection ID. `cid` may have more behind the ID; `None` if it is too short
    /// to be one of this configuration.
    #[inline]
    pub(super) fn take(&self, cid: &[u8]) -> Option<Text> {
        let (_, text) = cid.split_first()?;
        if text.len() < usize::from(self.len) {
            return None;
        }
        Some(match &self.cipher {
            Cipher::Plain => Text::Plain(self.cut(u128::from_be_bytes(block(text)))),
            Cipher::Single(_) => Text::Sealed(Halves {
                left: block(text),
                right: [0; BLOCK as usize],
            }),
            Cipher::Left(key) | Cipher::Both(key) => Text::Sealed(key.0.split(text)?),
        })
    }

    /// Hot: decrypts texts that this decoder took.
    #[inline]
    pub(super) fn open(&self, texts: &mut [impl AsMut<Halves>]) {
        match &self.cipher {
            Cipher::Plain => {}
            Cipher::Single(aes) => aes.decrypt_with_backend(Blocks(texts)),
            Cipher::Left(key) => key.0.decrypt_left(&key.1, texts),
            Cipher::Both(key) => key.0.decrypt(&key.1, texts),
        }
    }

    /// Hot: the server ID in a decrypted text, as a number.
    #[inline]
    pub(super) fn server_id_of(&self, text: Halves) -> u128 {
        // What a right half has left over from encryption lies behind the server ID.
        let [left, right] = [text.left, text.right].map(u128::from_be_bytes);
        self.cut(left | right >> self.right)
    }

    /// Hot: the server ID at the front of 16 octets.
    #[inline]
    fn cut(&self, octets: u128) -> u128 {
        octets >> (128 - 8 * u32::from(self.id))
    }

    /// The server ID in one connection ID.
    #[inline]
    pub(super) fn server_id(&self, cid: &[u8]) -> Option<u128> {
        match self.take(cid)? {
            Text::Plain(id) => Some(id),
            Text::Sealed(mut text) => {
                self.open(std::slice::from_mut(&mut text));
                Some(self.server_id_of(text))
            }
        }
    }
}

/// Texts of one block each, to be decrypted where the AES instructions are.
struct Blocks<'a, T>(&'a mut [T]);

impl<T> BlockSizeUser for Blocks<'_, T> {
    type BlockSize = U16;
}

impl<T: AsMut<Halves>> BlockCipherDecClosure for Blocks<'_, T> {
    #[inline(always)]
    fn call<B: BlockCipherDecBackend<BlockSize = U16>>(self, aes: &B) {
        for text in self.0 {
            let text = text.as_mut();
            let mut block = Array::from(text.left);
            aes.decrypt_block_inplace(&mut block);
            text.left = block.into();
        }
    }
}
