//! Large zeroed tables in huge pages, and prefetching.
//!
//! A table of many megabytes that is read at random misses the TLB on every access when it lies in
//! 4 KiB pages; in 2 MiB pages it hardly ever does. [`HugeSlice`] asks the kernel for reserved huge
//! pages, and otherwise for transparent ones.
#![allow(unsafe_code)] // mmap, and the prefetch instruction

use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// One cache line of eight words. Atomic, so that one thread may read what another writes; with
/// relaxed order an access is a plain load or store.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct CacheLine(pub [AtomicU64; 8]);

const HUGE_PAGE: usize = 2 << 20;

/// What a [`HugeSlice`] lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB pages.
    HugePages,
    /// Ordinary pages, which the kernel may merge.
    Ordinary,
}

/// Zeroed cache lines of a fixed number, unmapped when dropped.
#[derive(Debug)]
pub struct HugeSlice {
    start: NonNull<CacheLine>,
    lines: usize,
    mapped: usize,
    backing: Backing,
}

// SAFETY: the memory belongs to this value alone and consists of atomics, which any thread may
// access through a shared reference.
unsafe impl Send for HugeSlice {}
// SAFETY: as above.
unsafe impl Sync for HugeSlice {}

impl HugeSlice {
    /// `lines` zeroed lines; in reserved huge pages if `prefer_huge` and enough are free.
    ///
    /// # Errors
    /// When the kernel gives no memory.
    pub fn zeroed(lines: usize, prefer_huge: bool) -> io::Result<Self> {
        let bytes = lines.checked_mul(size_of::<CacheLine>());
        let too_large = || io::Error::new(io::ErrorKind::OutOfMemory, "table too large");
        let bytes = bytes.ok_or_else(too_large)?.max(1);
        let mapped = bytes
            .checked_next_multiple_of(HUGE_PAGE)
            .ok_or_else(too_large)?;
        if prefer_huge && let Ok(start) = map(mapped, libc::MAP_HUGETLB) {
            return Ok(Self {
                start,
                lines,
                mapped,
                backing: Backing::HugePages,
            });
        }
        let start = map(mapped, 0)?;
        // SAFETY: advice on the range that was just mapped; it changes no content.
        unsafe { libc::madvise(start.as_ptr().cast(), mapped, libc::MADV_HUGEPAGE) };
        Ok(Self {
            start,
            lines,
            mapped,
            backing: Backing::Ordinary,
        })
    }

    /// What it lies in.
    #[must_use]
    pub const fn backing(&self) -> Backing {
        self.backing
    }
}

fn map(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<CacheLine>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that
    // exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap gave address zero"))
}

impl Deref for HugeSlice {
    type Target = [CacheLine];

    #[inline]
    fn deref(&self) -> &[CacheLine] {
        // SAFETY: `lines` lines are mapped at `start`, page-aligned, for as long as `self` lives;
        // anonymous memory starts as zeroes, which is a valid `CacheLine`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.lines) }
    }
}

impl Drop for HugeSlice {
    fn drop(&mut self) {
        // SAFETY: the range is the one that was mapped, and no reference outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.mapped) };
    }
}

/// Asks the CPU to bring `value`'s line into the cache, to be read.
#[inline]
pub fn prefetch_read<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch has no effect but on the cache.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch(std::ptr::from_ref(value).cast(), _MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Asks the CPU to bring `value`'s line into the cache, to be written.
#[inline]
pub fn prefetch_write<T>(value: &T) {
    // `prefetchw` and the read hint cost the same when no other core holds the line, which is the
    // case for everything that a worker writes.
    prefetch_read(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn lines_start_zeroed_and_keep_what_is_written() {
        for prefer_huge in [false, true] {
            let slice = HugeSlice::zeroed(100_000, prefer_huge).unwrap();
            assert_eq!(slice.len(), 100_000);
            assert!(
                slice
                    .iter()
                    .all(|line| line.0.iter().all(|word| word.load(Relaxed) == 0))
            );
            slice[99_999].0[7].store(42, Relaxed);
            assert_eq!(slice[99_999].0[7].load(Relaxed), 42);
        }
    }

    #[test]
    fn a_table_beyond_all_memory_is_an_error() {
        assert!(HugeSlice::zeroed(usize::MAX / 64, false).is_err());
        assert!(HugeSlice::zeroed(usize::MAX, false).is_err());
    }
}
