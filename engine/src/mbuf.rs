//! Owned packet buffers.
//!
//! An [`Mbuf`] is one pointer to a buffer that belongs to exactly one owner; dropping it gives the
//! buffer back. It can go to another thread but not be used by two, and it cannot be cloned. Reading
//! and changing the frame touches the mbuf's first cache line directly, without a call into DPDK.

// The one place that dereferences mbufs.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::slice;

use arrayvec::ArrayVec;
use weir_dpdk_sys as sys;

use crate::buffer::{Buffer, NoRoom};
use crate::memory::prefetch_address;

/// Bytes before the frame in a fresh or received buffer.
pub const HEADROOM: u16 = sys::WEIR_HEADROOM;

/// A packet buffer, owned.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf {
    raw: NonNull<sys::weir_mbuf>,
}

// The burst calls pass arrays of `Mbuf` as arrays of mbuf pointers.
const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut sys::weir_mbuf>());

// SAFETY: an mbuf has one owner, and the pool that it goes back to takes it from any thread.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes over an mbuf.
    ///
    /// # Safety
    /// `raw` leads to a live mbuf with a reference count of 1 that nobody else owns, from a pool
    /// that outlives it (see [`crate::mempool::Mempool`]).
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<sys::weir_mbuf>) -> Self {
        Self { raw }
    }

    #[inline(always)]
    fn fields(&self) -> &sys::weir_mbuf {
        // SAFETY: `self` owns a live mbuf, whose first line has this layout (checked in shim.c).
        unsafe { self.raw.as_ref() }
    }

    #[inline(always)]
    fn fields_mut(&mut self) -> &mut sys::weir_mbuf {
        // SAFETY: as in `fields`, and `&mut self` is the only access.
        unsafe { self.raw.as_mut() }
    }

    /// The frame's first byte.
    #[inline(always)]
    fn start(&self) -> *mut u8 {
        let fields = self.fields();
        fields
            .buf_addr
            .cast::<u8>()
            .wrapping_add(usize::from(fields.data_off))
    }

    /// How many pieces the frame lies in.
    #[inline]
    #[must_use]
    pub fn segments(&self) -> u16 {
        self.fields().nb_segs
    }

    /// The frame's length over all its pieces, in bytes.
    #[inline]
    #[must_use]
    pub fn total_len(&self) -> usize {
        self.fields().pkt_len as usize
    }

    /// The port that it was received from, as DPDK numbers it.
    #[inline]
    #[must_use]
    pub fn input_port(&self) -> u16 {
        self.fields().port
    }

    /// Asks the CPU for the mbuf's own first line, which [`Buffer::prefetch`] reads.
    #[inline(always)]
    pub fn prefetch_fields(&self) {
        prefetch_address(self.raw.as_ptr().cast());
    }
}

impl Buffer for Mbuf {
    #[inline]
    fn data(&self) -> &[u8] {
        // SAFETY: the first `data_len` bytes from `start` are the frame, within the buffer: drivers
        // promise it, and the changes below keep it. `&self` rules out a writer.
        unsafe { slice::from_raw_parts(self.start(), usize::from(self.fields().data_len)) }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; `&mut self` rules out any other access.
        unsafe { slice::from_raw_parts_mut(self.start(), usize::from(self.fields().data_len)) }
    }

    #[inline]
    fn headroom(&self) -> usize {
        usize::from(self.fields().data_off)
    }

    /// Free bytes after the frame; none for a segmented one, whose end is elsewhere.
    #[inline]
    fn tailroom(&self) -> usize {
        let fields = self.fields();
        if fields.nb_segs != 1 {
            return 0;
        }
        let used = u32::from(fields.data_off) + u32::from(fields.data_len);
        u32::from(fields.buf_len).saturating_sub(used) as usize
    }

    #[inline]
    fn prepend(&mut self, len: usize) -> Result<(), NoRoom> {
        let short = checked(len, self.headroom())?;
        let fields = self.fields_mut();
        fields.data_off -= short;
        fields.data_len += short;
        fields.pkt_len += u32::from(short);
        Ok(())
    }

    #[inline]
    fn trim_front(&mut self, len: usize) -> Result<(), NoRoom> {
        let short = checked(len, self.len())?;
        let fields = self.fields_mut();
        fields.data_off += short;
        fields.data_len -= short;
        fields.pkt_len -= u32::from(short);
        Ok(())
    }

    #[inline]
    fn append(&mut self, len: usize) -> Result<(), NoRoom> {
        let short = checked(len, self.tailroom())?;
        let fields = self.fields_mut();
        fields.data_len += short;
        fields.pkt_len += u32::from(short);
        Ok(())
    }

    /// Takes `len` bytes off the end; refused for a segmented frame, whose end is elsewhere.
    #[inline]
    fn trim_back(&mut self, len: usize) -> Result<(), NoRoom> {
        let short = checked(len, if self.is_segmented() { 0 } else { self.len() })?;
        let fields = self.fields_mut();
        fields.data_len -= short;
        fields.pkt_len -= u32::from(short);
        Ok(())
    }

    #[inline]
    fn len(&self) -> usize {
        usize::from(self.fields().data_len)
    }

    #[inline]
    fn is_segmented(&self) -> bool {
        self.fields().nb_segs != 1
    }

    #[inline(always)]
    fn prefetch(&self) {
        prefetch_address(self.start());
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the owner gives up the mbuf, with every segment of it.
        unsafe { sys::weir_mbuf_free(self.raw.as_ptr()) };
    }
}

/// Returns all of `mbufs` to the pools they came from, in one call; bursts from several pools and
/// segmented frames included.
#[inline]
pub fn free_bulk<const N: usize>(mbufs: &mut ArrayVec<Mbuf, N>) {
    let count = mbufs.len();
    // SAFETY: the first `count` entries are owned mbufs, one pointer each. The length goes to 0
    // first, so that they are freed once.
    unsafe {
        mbufs.set_len(0);
        sys::weir_mbuf_free_bulk(mbufs.as_mut_ptr().cast(), count as u32);
    }
}

/// `wanted` as a 16-bit length, if no more than `available` (which fits an mbuf, hence 16 bits).
#[inline(always)]
fn checked(wanted: usize, available: usize) -> Result<u16, NoRoom> {
    match u16::try_from(wanted) {
        Ok(short) if wanted <= available => Ok(short),
        _ => Err(NoRoom { wanted, available }),
    }
}
