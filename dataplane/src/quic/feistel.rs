//! The four-pass cipher of QUIC-LB (section 5.4.2 of the draft): a Feistel network of four rounds
//! over AES-128, for server ID and nonce of any length but 16 octets together.
//!
//! A half of the plaintext is held left-aligned in 128 bits, which is how it goes into the AES block;
//! the block's last two octets are the plaintext's length and the number of the pass. With an odd
//! length the middle octet belongs to both halves, a nibble to each: the left half's last four bits
//! and the right half's first four are zero, which `left` and `right`, the masks, see to.

use aes::Aes128;
use aes::cipher::BlockCipherEncrypt;

/// Server ID and nonce, split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Halves {
    pub(super) left: u128,
    pub(super) right: u128,
}

/// Where the halves of a plaintext of a given length are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Octets of the whole, 5 to 19.
    pub(super) len: u8,
    left: u128,
    right: u128,
}

impl Shape {
    pub(super) const fn new(len: u8) -> Self {
        let whole = u128::MAX << (128 - 8 * len.div_ceil(2));
        if len.is_multiple_of(2) {
            Self {
                len,
                left: whole,
                right: whole,
            }
        } else {
            Self {
                len,
                left: whole << 4,
                right: whole & u128::MAX >> 4,
            }
        }
    }

    /// Octets from the start of the left half to the start of the right one.
    #[inline]
    pub(super) const fn offset(self) -> u8 {
        self.len / 2
    }

    /// Splits `text`, server ID and nonce, possibly with more behind. `None` if it is too short.
    #[inline]
    pub(super) fn split(self, text: &[u8]) -> Option<Halves> {
        let text = text.get(..usize::from(self.len))?;
        let right = text.get(usize::from(self.offset())..)?;
        Some(Halves {
            left: left_aligned(text) & self.left,
            right: left_aligned(right) & self.right,
        })
    }

    /// The beginning of the joined halves, left-aligned: 16 octets of them at most.
    #[inline]
    pub(super) const fn join(self, halves: Halves) -> u128 {
        halves.left | halves.right >> (8 * self.offset())
    }

    /// The `expand` of the draft.
    #[inline]
    const fn expand(self, half: u128, pass: u8) -> u128 {
        half | (self.len as u128) << 8 | pass as u128
    }
}

/// Up to 16 octets as the top of a number.
#[inline]
pub(super) fn left_aligned(octets: &[u8]) -> u128 {
    match octets.first_chunk::<16>() {
        Some(block) => u128::from_be_bytes(*block),
        None => {
            let mut block = [0; 16];
            block
                .iter_mut()
                .zip(octets)
                .for_each(|(place, octet)| *place = *octet);
            u128::from_be_bytes(block)
        }
    }
}

#[inline]
fn aes(cipher: &Aes128, block: u128) -> u128 {
    let mut block = block.to_be_bytes().into();
    cipher.encrypt_block(&mut block);
    u128::from_be_bytes(block.into())
}

/// Encrypts: passes 1 to 4.
pub(super) fn encrypt(cipher: &Aes128, shape: Shape, plain: Halves) -> Halves {
    let Halves {
        mut left,
        mut right,
    } = plain;
    right ^= aes(cipher, shape.expand(left, 1)) & shape.right;
    left ^= aes(cipher, shape.expand(right, 2)) & shape.left;
    right ^= aes(cipher, shape.expand(left, 3)) & shape.right;
    left ^= aes(cipher, shape.expand(right, 4)) & shape.left;
    Halves { left, right }
}

/// Hot: the left half of the plaintext, and the right one before its pass: passes 4 to 2.
#[inline]
pub(super) fn decrypt_left(cipher: &Aes128, shape: Shape, text: Halves) -> Halves {
    let Halves {
        mut left,
        mut right,
    } = text;
    left ^= aes(cipher, shape.expand(right, 4)) & shape.left;
    right ^= aes(cipher, shape.expand(left, 3)) & shape.right;
    left ^= aes(cipher, shape.expand(right, 2)) & shape.left;
    Halves { left, right }
}

/// Hot: the whole plaintext, from what [`decrypt_left`] gave: pass 1.
#[inline]
pub(super) fn decrypt_right(cipher: &Aes128, shape: Shape, text: Halves) -> Halves {
    let right = text.right ^ aes(cipher, shape.expand(text.left, 1)) & shape.right;
    Halves {
        left: text.left,
        right,
    }
}
