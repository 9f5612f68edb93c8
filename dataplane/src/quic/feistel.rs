//! The four-pass cipher of QUIC-LB (section 5.4.2 of the draft): a Feistel network of four rounds
//! over AES-128, for server ID and nonce of any length but 16 octets together.
//!
//! A half of the plaintext is held at the start of a block of 16 octets, as it goes into AES; the
//! block's last two octets are the plaintext's length and the number of the pass. With an odd length
//! the middle octet belongs to both halves, a nibble to each: the left half's last four bits and the
//! right half's first four are zero, which `left` and `right`, the masks, see to.
//!
//! Blocks stay octets throughout: what is computed on whole blocks compiles to vector instructions,
//! while a detour over 64-bit words between two passes would cost a stalled load each.

use aes::Aes128;
use aes::cipher::BlockCipherEncrypt;

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

    /// The beginning of the joined halves: 16 octets of them at most, as a number.
    #[inline]
    pub(super) fn join(&self, halves: Halves) -> u128 {
        let [left, right] = [halves.left, halves.right].map(u128::from_be_bytes);
        left | right >> (8 * self.offset())
    }

    /// Hot: what a pass makes of a half: `expand` and AES, cut to `mask`.
    #[inline]
    fn pass(&self, cipher: &Aes128, tail: Block, half: Block, mask: Block) -> Block {
        let mut block = or(half, tail).into();
        cipher.encrypt_block(&mut block);
        and(block.into(), mask)
    }

    #[inline(always)]
    fn pass_left<const PASS: usize>(&self, cipher: &Aes128, halves: &mut Halves) {
        let stream = self.pass(cipher, self.tails[PASS - 1], halves.right, self.left);
        halves.left = xor(halves.left, stream);
    }

    #[inline(always)]
    fn pass_right<const PASS: usize>(&self, cipher: &Aes128, halves: &mut Halves) {
        let stream = self.pass(cipher, self.tails[PASS - 1], halves.left, self.right);
        halves.right = xor(halves.right, stream);
    }

    /// Encrypts: passes 1 to 4.
    pub(super) fn encrypt(&self, cipher: &Aes128, mut halves: Halves) -> Halves {
        self.pass_right::<1>(cipher, &mut halves);
        self.pass_left::<2>(cipher, &mut halves);
        self.pass_right::<3>(cipher, &mut halves);
        self.pass_left::<4>(cipher, &mut halves);
        halves
    }

    /// Hot: the left half of the plaintext, and the right one before its pass: passes 4 to 2.
    #[inline(always)]
    pub(super) fn decrypt_left(&self, cipher: &Aes128, mut halves: Halves) -> Halves {
        self.pass_left::<4>(cipher, &mut halves);
        self.pass_right::<3>(cipher, &mut halves);
        self.pass_left::<2>(cipher, &mut halves);
        halves
    }

    /// Hot: the whole plaintext, from what [`Shape::decrypt_left`] gave: pass 1.
    #[inline(always)]
    pub(super) fn decrypt_right(&self, cipher: &Aes128, mut halves: Halves) -> Halves {
        self.pass_right::<1>(cipher, &mut halves);
        halves
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
