//! Large tables: zeroed cache lines in anonymous memory, on huge pages where they can be had, and
//! prefetch.
//!
//! A table of several megabytes on 4 KiB pages costs a TLB miss at nearly every access; on 2 MiB
//! pages it does not. [`HugeSlice`] asks for reserved huge pages first (`MAP_HUGETLB`), and
//! otherwise for transparent ones, and says what it got.
//!
//! Pages are first touched by whoever writes them first, and lie on that thread's NUMA node: make a
//! worker's tables on the worker's own core.

// Memory from mmap(2) and prefetch hints have no safe interface in std.
#![allow(unsafe_code)]

use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;

/// One 64-byte line of eight words.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub struct CacheLine(pub [AtomicU64; 8]);

const _: () = assert!(size_of::<CacheLine>() == 64 && align_of::<CacheLine>() == 64);

/// Size of a huge page on x86-64 and on aarch64 with 4 KiB base pages, in bytes.
pub const HUGE_PAGE: usize = 2 << 20;

/// What a [`HugeSlice`] lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB pages (`vm.nr_hugepages`).
    HugePages,
    /// Pages that the kernel was advised to make huge, and does as far as it can.
    Transparent,
    /// Base pages: less than 2 MiB, or a kernel without transparent huge pages.
    BasePages,
}

/// The memory could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes of anonymous memory: {source}; lower the table's size or free memory")]
pub struct MemoryError {
    /// Bytes asked for.
    pub bytes: usize,
    /// What the kernel said.
    pub source: io::Error,
}

/// A fixed slice of zeroed cache lines, its own mapping, shared with relaxed or stronger atomics.
#[derive(Debug)]
pub struct HugeSlice {
    lines: NonNull<CacheLine>,
    count: usize,
    mapping: Mapping,
    backing: Backing,
}

/// An anonymous mapping, unmapped on drop.
#[derive(Debug)]
struct Mapping {
    start: NonNull<libc::c_void>,
    bytes: usize,
}

// SAFETY: the mapping is owned, and `CacheLine` is made of atomics.
unsafe impl Send for HugeSlice {}
// SAFETY: `&HugeSlice` gives `&[CacheLine]`, whose words are atomics.
unsafe impl Sync for HugeSlice {}

impl HugeSlice {
    /// `lines` cache lines of zeros. With `prefer_huge`, reserved huge pages are tried first; if
    /// there are none free, or the slice is small, ordinary memory is taken.
    ///
    /// # Errors
    /// [`MemoryError`] if the kernel refuses the mapping.
    pub fn zeroed(lines: usize, prefer_huge: bool) -> Result<Self, MemoryError> {
        let too_large = || MemoryError {
            bytes: usize::MAX,
            source: io::Error::from(io::ErrorKind::OutOfMemory),
        };
        let bytes = lines
            .max(1)
            .checked_mul(size_of::<CacheLine>())
            .ok_or_else(too_large)?;
        if bytes < HUGE_PAGE {
            let mapping = Mapping::new(bytes, 0)?;
            return Ok(Self::over(mapping, 0, lines, Backing::BasePages));
        }
        let rounded = bytes
            .checked_next_multiple_of(HUGE_PAGE)
            .ok_or_else(too_large)?;
        if prefer_huge && let Ok(mapping) = Mapping::new(rounded, libc::MAP_HUGETLB) {
            return Ok(Self::over(mapping, 0, lines, Backing::HugePages));
        }
        // One page more than needed, so that the slice can start on a huge page's boundary.
        let mapping = Mapping::new(rounded.checked_add(HUGE_PAGE).ok_or_else(too_large)?, 0)?;
        let skipped = mapping.start.as_ptr().addr().wrapping_neg() % HUGE_PAGE;
        // SAFETY: `skipped` is less than HUGE_PAGE, so the range lies within the mapping.
        let advised = unsafe {
            libc::madvise(
                mapping.start.as_ptr().byte_add(skipped),
                rounded,
                libc::MADV_HUGEPAGE,
            )
        };
        let backing = if advised == 0 {
            Backing::Transparent
        } else {
            Backing::BasePages
        };
        Ok(Self::over(mapping, skipped, lines, backing))
    }

    fn over(mapping: Mapping, skipped: usize, count: usize, backing: Backing) -> Self {
        // SAFETY: the callers leave room for `count` lines behind `skipped`, which is a multiple of
        // the page size at least, hence aligned for a line.
        let lines = unsafe { mapping.start.byte_add(skipped) }.cast::<CacheLine>();
        Self {
            lines,
            count,
            mapping,
            backing,
        }
    }

    /// What the slice lies on.
    #[must_use]
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// Bytes of address space that it takes.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.mapping.bytes
    }
}

impl Deref for HugeSlice {
    type Target = [CacheLine];

    #[inline]
    fn deref(&self) -> &[CacheLine] {
        // SAFETY: `lines` is aligned, leads to `count` lines of the mapping, which lives as long as
        // `self`; zero bytes are valid atomics, and only atomics ever change them.
        unsafe { slice::from_raw_parts(self.lines.as_ptr(), self.count) }
    }
}

impl Mapping {
    fn new(bytes: usize, flags: libc::c_int) -> Result<Self, MemoryError> {
        // SAFETY: a fresh anonymous private mapping touches nobody's memory.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags,
                -1,
                0,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self { start, bytes }),
            _ => Err(MemoryError {
                bytes,
                source: io::Error::last_os_error(),
            }),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, whole, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr(), self.bytes) };
    }
}

/// Asks the CPU to bring the line of `value` into the first-level cache, for reading. A hint: it
/// cannot fault.
#[inline(always)]
pub fn prefetch_read<T: ?Sized>(value: &T) {
    prefetch_address(ptr::from_ref(value).cast());
}

/// Asks the CPU to bring the line of `value` into the first-level cache, for writing.
#[inline(always)]
pub fn prefetch_write<T: ?Sized>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // For any processor the compiler makes of this the hint for reading. `prefetchw` by name was no
    // faster where it was tried, for lines that another core had read.
    // SAFETY: prefetch instructions never fault. (`prefetchw` is a no-op where it is not known.)
    unsafe {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_ET0>(ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    prefetch_address(ptr::from_ref(value).cast());
}

/// Like [`prefetch_read`], for memory that is not borrowed.
#[inline(always)]
pub(crate) fn prefetch_address(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: prefetch instructions never fault, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a prefetch hint never faults, whatever the address.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn every_line_is_zero_aligned_and_writable() {
        for lines in [1, 64, HUGE_PAGE / 64, HUGE_PAGE / 64 + 1] {
            let slice = HugeSlice::zeroed(lines, false).unwrap();
            assert_eq!(slice.len(), lines);
            assert_eq!(slice.as_ptr().addr() % 64, 0);
            assert!(
                slice
                    .iter()
                    .flat_map(|l| &l.0)
                    .all(|w| w.load(Ordering::Relaxed) == 0)
            );
            slice[lines - 1].0[7].store(7, Ordering::Relaxed);
            assert_eq!(slice[lines - 1].0[7].load(Ordering::Relaxed), 7);
        }
    }

    #[test]
    fn a_large_slice_starts_on_a_huge_page_whatever_backs_it() {
        for prefer_huge in [false, true] {
            let slice = HugeSlice::zeroed(3 * HUGE_PAGE / 64, prefer_huge).unwrap();
            assert_eq!(
                slice.as_ptr().addr() % HUGE_PAGE,
                0,
                "{:?}",
                slice.backing()
            );
            assert!(slice.mapped_bytes() >= 3 * HUGE_PAGE);
            slice[3 * HUGE_PAGE / 64 - 1].0[0].store(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn an_empty_slice_is_fine() {
        assert!(HugeSlice::zeroed(0, true).unwrap().is_empty());
    }

    #[test]
    fn more_memory_than_there_is_address_space_is_refused_with_the_size() {
        let error = HugeSlice::zeroed(1 << 50, true).unwrap_err();
        assert!(error.bytes >= 1 << 56);
        assert!(HugeSlice::zeroed(usize::MAX / 2, true).is_err());
    }

    #[test]
    fn prefetching_changes_nothing() {
        let value = [1_u8, 2, 3];
        prefetch_read(&value);
        prefetch_write(&value);
        prefetch_address(ptr::null());
        assert_eq!(value, [1, 2, 3]);
    }
}
