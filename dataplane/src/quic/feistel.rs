//! The four-pass cipher of QUIC-LB (section 5.4.2 of the draft): a Feistel network of four rounds
//! over AES-128, for server ID and nonce of any length but 16 octets together.
//!
//! A half of the plaintext is held at the start of a block of 16 octets, as it goes into AES; the
//! block's last two octets are the plaintext's length and the number of the pass. With an odd length
//! the middle octet belongs to both halves, a nibble to each: the left half's last four bits and the
//! right half's first four are zero, which `left` and `right`, the masks, see to.
//!
//! Each pass waits for the one before, so what lies between two passes counts. All passes of all texts
//! of a burst run inside one callback of the AES crate ([`BlockCipherEncClosure`]), where its
//! instructions are enabled: they compile to one run of vector instructions, with neither a call nor a
//! detour over memory between two passes, and the passes of several texts overlap. Entering the callback
//! is what costs: on processors with wide vectors the crate spreads the round keys over them each time.
//! Blocks stay octets throughout, since what is computed on whole blocks compiles to vector
//! instructions.

use aes::Aes128Enc;
use aes::cipher::consts::U16;
use aes::cipher::{
    Array, BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, BlockSizeUser,
};

/// Sixteen octets.
pub(super) type Block = [u8; 16];

/// Server ID and nonce, split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Halves {
    pub(super) left: Block,
    pub(super) right: Block,
}

/// Where the halves of a plaintext of a given length are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// Octets of the whole, 5 to 19.
    len: u8,
    left: Block,
    right: Block,
    /// What `expand` puts behind a half, by the number of the pass less one.
    tails: [Block; 4],
}

impl Shape {
    pub(super) fn new(len: u8) -> Self {
        let whole: Block = std::array::from_fn(|at| if at < half_len(len) { 0xff } else { 0 });
        let (mut left, mut right) = (whole, whole);
        if !len.is_multiple_of(2) {
            left[half_len(len) - 1] = 0xf0;
            right[0] = 0x0f;
        }
        let tails = std::array::from_fn(|pass| {
            let mut tail = [0; 16];
            tail[14] = len;
            tail[15] = pass as u8 + 1;
            tail
        });
        Self {
            len,
            left,
            right,
            tails,
        }
    }

    /// Octets from the start of the left half to the start of the right one.
    #[inline]
    pub(super) fn offset(&self) -> usize {
        usize::from(self.len / 2)
    }

    /// Splits `text`, server ID and nonce, possibly with more behind. `None` if it is too short.
    #[inline(always)]
    pub(super) fn split(&self, text: &[u8]) -> Option<Halves> {
        if text.len() < usize::from(self.len) {
            return None;
        }
        let right = text.get(self.offset()..)?;
        Some(Halves {
            left: and(block(text), self.left),
            right: and(block(right), self.right),
        })
    }

    /// Encrypts: passes 1 to 4.
    pub(super) fn encrypt(&self, aes: &Aes128Enc, mut halves: Halves) -> Halves {
        let all = std::slice::from_mut(&mut halves);
        aes.encrypt_with_backend(Passes::<_, ENCRYPT> { shape: self, all });
        halves
    }

    /// Hot: the left halves of plaintexts, and the right ones before their last pass: passes 4 to 2.
    #[inline]
    pub(super) fn decrypt_left(&self, aes: &Aes128Enc, all: &mut [impl AsMut<Halves>]) {
        aes.encrypt_with_backend(Passes::<_, DECRYPT_LEFT> { shape: self, all });
    }

    /// Hot: whole plaintexts: passes 4 to 1.
    #[inline]
    pub(super) fn decrypt(&self, aes: &Aes128Enc, all: &mut [impl AsMut<Halves>]) {
        aes.encrypt_with_backend(Passes::<_, DECRYPT> { shape: self, all });
    }
}

impl AsMut<Self> for Halves {
    #[inline]
    fn as_mut(&mut self) -> &mut Self {
        self
    }
}

const ENCRYPT: u8 = 0;
const DECRYPT_LEFT: u8 = 1;
const DECRYPT: u8 = 2;

/// The passes of several texts, to be run where the AES instructions are.
struct Passes<'a, T, const WHAT: u8> {
    shape: &'a Shape,
    all: &'a mut [T],
}

impl<T, const WHAT: u8> BlockSizeUser for Passes<'_, T, WHAT> {
    type BlockSize = U16;
}

impl<T: AsMut<Halves>, const WHAT: u8> BlockCipherEncClosure for Passes<'_, T, WHAT> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, aes: &B) {
        let shape = self.shape;
        // What a pass makes of a half: `expand` and AES, cut to the other half's octets.
        let stream = |number: usize, half: Block, mask: Block| {
            let mut block = Array::from(or(half, shape.tails[number - 1]));
            aes.encrypt_block_inplace(&mut block);
            and(block.into(), mask)
        };
        for halves in self.all {
            let halves = halves.as_mut();
            let Halves {
                mut left,
                mut right,
            } = *halves;
            if WHAT == ENCRYPT {
                right = xor(right, stream(1, left, shape.right));
                left = xor(left, stream(2, right, shape.left));
                right = xor(right, stream(3, left, shape.right));
                left = xor(left, stream(4, right, shape.left));
            } else {
                left = xor(left, stream(4, right, shape.left));
                right = xor(right, stream(3, left, shape.right));
                left = xor(left, stream(2, right, shape.left));
            }
            if WHAT == DECRYPT {
                right = xor(right, stream(1, left, shape.right));
            }
            *halves = Halves { left, right };
        }
    }
}

/// Octets of a half: at most ten.
const fn half_len(len: u8) -> usize {
    let half = len.div_ceil(2) as usize;
    if half > 10 { 10 } else { half }
}

#[inline(always)]
fn and(a: Block, b: Block) -> Block {
    std::array::from_fn(|at| a[at] & b[at])
}

#[inline(always)]
fn or(a: Block, b: Block) -> Block {
    std::array::from_fn(|at| a[at] | b[at])
}

#[inline(always)]
fn xor(a: Block, b: Block) -> Block {
    std::array::from_fn(|at| a[at] ^ b[at])
}

/// The first 16 octets, zeros where there are fewer.
#[inline]
pub(super) fn block(octets: &[u8]) -> Block {
    match octets.first_chunk() {
        Some(block) => *block,
        None => short_block(octets),
    }
}

/// A connection ID that ends with its datagram, or nearly so.
#[cold]
fn short_block(octets: &[u8]) -> Block {
    let mut block = [0; 16];
    block
        .iter_mut()
        .zip(octets)
        .for_each(|(place, octet)| *place = *octet);
    block
}
