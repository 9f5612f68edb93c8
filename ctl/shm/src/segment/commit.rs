//! The commit word: which slot is in force, in one atomic store.
//!
//! ```text
//! bits 17..64   generation
//! bit  16       slot
//! bits  0..16   check: a fold of the rest
//! ```
//!
//! The daemon reads the word like everything else, by `pread`. The check bits tell a word that was
//! overwritten, or read while it changed, from one that a writer published.
#![allow(unsafe_code)] // the one mapping of the file, by the writer, for the one store

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::layout::{COMMIT, PAGE};

/// The largest generation that the word can name.
pub const MAX_GENERATION: u64 = (1 << 47) - 1;

/// What the commit word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitWord {
    /// The generation that was committed.
    pub generation: u64,
    /// The slot that holds it: 0 or 1.
    pub slot: u8,
}

impl CommitWord {
    /// The word; generations beyond [`MAX_GENERATION`] are cut.
    #[must_use]
    pub const fn encode(self) -> u64 {
        let body = (self.generation & MAX_GENERATION) << 1 | (self.slot & 1) as u64;
        body << 16 | check(body)
    }

    /// What a word says, or `None` if nobody published it.
    #[must_use]
    pub const fn decode(word: u64) -> Option<Self> {
        let body = word >> 16;
        if word & 0xffff != check(body) {
            return None;
        }
        Some(Self {
            generation: body >> 1,
            slot: (body & 1) as u8,
        })
    }
}

/// Sixteen bits that depend on every bit of the body, and are not zero for zero.
const fn check(body: u64) -> u64 {
    let mixed = (body ^ 0x5765_6972).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 48
}

/// Reads the word.
pub(crate) fn read(file: &File) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, COMMIT)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Publishes a word: everything written before is visible to whoever reads the word.
///
/// # Errors
/// When the file cannot be mapped, or is too short to hold the word.
pub(crate) fn publish(file: &File, word: CommitWord) -> io::Result<()> {
    if file.metadata()?.len() < COMMIT + PAGE {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the segment is cut short",
        ));
    }
    let length = NonZeroUsize::new(PAGE as usize).ok_or(io::ErrorKind::InvalidInput)?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new shared mapping at an address of the kernel's choice overlays nothing of ours.
    let page = unsafe {
        mmap(
            None,
            length,
            protection,
            MapFlags::MAP_SHARED,
            file,
            COMMIT as i64,
        )
    }?;
    // SAFETY: `page` is the start of a mapped page, so it is aligned and valid for eight bytes until
    // it is unmapped below. All access to the word in this process is this atomic store. Should
    // another process cut the file short in between, the store raises SIGBUS in this writer, never
    // in the daemon, which does not map the file.
    unsafe {
        AtomicU64::from_ptr(page.as_ptr().cast()).store(word.encode().to_le(), Ordering::Release);
    }
    // SAFETY: the page was mapped above with this length and no reference into it is left.
    unsafe { munmap(page, PAGE as usize) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_is_no_commit() {
        assert_eq!(CommitWord::decode(0), None);
        assert_eq!(CommitWord::decode(u64::MAX), None);
    }

    #[test]
    fn a_published_word_is_read_back() {
        let file = tempfile::tempfile().unwrap();
        let word = CommitWord {
            generation: 7,
            slot: 1,
        };
        assert!(publish(&file, word).is_err());
        file.set_len(COMMIT + PAGE).unwrap();
        publish(&file, word).unwrap();
        assert_eq!(CommitWord::decode(read(&file).unwrap()), Some(word));
    }

    proptest! {
        #[test]
        fn a_word_leads_back_to_what_it_says(generation in 0..=MAX_GENERATION, slot in 0u8..2) {
            let word = CommitWord { generation, slot };
            prop_assert_eq!(CommitWord::decode(word.encode()), Some(word));
        }

        #[test]
        fn a_word_with_a_byte_of_another_is_nearly_always_noticed(
            a in 0..1u64 << 40, b in 0..1u64 << 40, at in 0u32..8,
        ) {
            let mask = 0xff << (8 * at);
            let (a, b) = (CommitWord { generation: a, slot: 0 }, CommitWord { generation: b, slot: 1 });
            let torn = a.encode() & !mask | b.encode() & mask;
            // One in 65,536 goes unnoticed here; the slot's own generation and checksum notice it.
            if torn != a.encode() && torn != b.encode() && at < 2 {
                prop_assert_eq!(CommitWord::decode(torn), None);
            }
        }
    }
}
