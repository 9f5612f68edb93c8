//! Pools of packet buffers: one a NUMA node, made once, sized for the worst case.
//!
//! Threads that DPDK knows keep a cache of free buffers each; a pool is otherwise a ring that all
//! cores share. Sizes are powers of two less one, the size that wastes no ring slot.

// Wraps rte_mempool; the invariant kept here is that a pool outlives its buffers.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arrayvec::ArrayVec;
use weir_dpdk_sys as sys;

use crate::buffer::{Buffer, BufferSource};
use crate::eal::{Eal, Errno};
use crate::mbuf::{HEADROOM, Mbuf};

/// Settings of a pool.
#[derive(Debug, Clone)]
pub struct MempoolConfig {
    /// The pool's name: unique in the process, 25 bytes at most.
    pub name: String,
    /// Buffers at least; rounded up to a power of two less one. Receive rings, send rings, caches
    /// and what is under way must all fit.
    pub buffers: u32,
    /// Free buffers that each registered thread may keep to itself; lowered to what DPDK allows
    /// (512, and two thirds of the pool). 0: no caches.
    pub cache: u32,
    /// Bytes of frame a buffer holds, besides [`HEADROOM`] before it.
    pub frame_room: u16,
    /// The NUMA node whose memory is taken; `None`: any.
    pub numa_node: Option<u32>,
}

/// Bytes of frame that a buffer holds by default: an Ethernet frame of 1,500 bytes with tags, and
/// what some NICs insist on (2 KiB a segment).
pub const FRAME_ROOM: u16 = 2_048;

impl Default for MempoolConfig {
    fn default() -> Self {
        Self {
            name: "buffers".into(),
            buffers: 16_383,
            cache: 256,
            frame_room: FRAME_ROOM,
            numa_node: None,
        }
    }
}

/// A pool could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MempoolError {
    /// A name that DPDK does not take.
    #[error("pool name {name:?}: 1 to 25 bytes without NUL are accepted")]
    Name {
        /// The name.
        name: String,
    },
    /// A size that cannot be.
    #[error("pool {name}: {buffers} buffers asked for; 1 to {most} are possible")]
    Size {
        /// The pool's name.
        name: String,
        /// Buffers asked for.
        buffers: u32,
        /// The most there can be.
        most: u32,
    },
    /// More frame than a buffer's 16-bit length can tell.
    #[error("pool {name}: {frame_room} bytes of frame a buffer asked for; {most} is the most")]
    FrameRoom {
        /// The pool's name.
        name: String,
        /// Bytes asked for.
        frame_room: u16,
        /// The most there can be.
        most: u16,
    },
    /// DPDK refused: mostly for lack of memory.
    #[error(
        "pool {name}: {reason}; {buffers} buffers take about {megabytes} MB: \
         give DPDK more memory, or ask for fewer"
    )]
    Create {
        /// The pool's name.
        name: String,
        /// DPDK's reason.
        reason: String,
        /// Buffers asked for, rounded up.
        buffers: u32,
        /// What they would take, roughly.
        megabytes: u64,
    },
}

/// The most buffers of a pool.
const MOST_BUFFERS: u32 = (1 << 26) - 1;

/// Bytes that a buffer takes besides its data: `struct rte_mbuf`, the pool's header, padding.
const OVERHEAD: u64 = 256;

/// A pool of packet buffers. Clones are handles to the same pool.
///
/// The memory is given back when the last handle is gone (ports hold one), if every buffer has
/// come home by then; otherwise it stays, since a buffer that is still out must stay valid.
#[derive(Debug, Clone)]
pub struct Mempool {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    raw: NonNull<sys::rte_mempool>,
    config: MempoolConfig,
    eal: Eal,
}

// SAFETY: rte_mempool's get and put are safe from any thread: caches are per thread, and the ring
// behind them is made for several producers and consumers.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Mempool {
    /// Makes a pool; all its memory is taken now.
    ///
    /// # Errors
    /// [`MempoolError`].
    pub fn new(eal: &Eal, config: &MempoolConfig) -> Result<Self, MempoolError> {
        let name = config.name.clone();
        let fits = (1..=sys::WEIR_POOL_NAME_MAX as usize).contains(&name.len());
        let c_name = match CString::new(name.as_str()) {
            Ok(c_name) if fits => c_name,
            _ => return Err(MempoolError::Name { name }),
        };
        if config.buffers == 0 || config.buffers > MOST_BUFFERS {
            return Err(MempoolError::Size {
                name,
                buffers: config.buffers,
                most: MOST_BUFFERS,
            });
        }
        let Some(data_room) = config.frame_room.checked_add(HEADROOM) else {
            let (frame_room, most) = (config.frame_room, u16::MAX - HEADROOM);
            return Err(MempoolError::FrameRoom {
                name,
                frame_room,
                most,
            });
        };
        let buffers = round_up(config.buffers);
        // DPDK's own limit: half as much again as the cache's size must fit into the pool.
        let cache = config
            .cache
            .min(sys::WEIR_POOL_CACHE_MAX)
            .min(buffers / 3 * 2);
        let socket = config
            .numa_node
            .and_then(|node| i32::try_from(node).ok())
            .unwrap_or(-1);
        // SAFETY: EAL runs as long as `eal`; the name is NUL-terminated and copied by DPDK.
        let raw =
            unsafe { sys::weir_pool_create(c_name.as_ptr(), buffers, cache, data_room, socket) };
        let Some(raw) = NonNull::new(raw) else {
            let bytes = u64::from(buffers) * (u64::from(data_room) + OVERHEAD);
            return Err(MempoolError::Create {
                name,
                reason: Errno::last().to_string(),
                buffers,
                megabytes: bytes.div_ceil(1 << 20),
            });
        };
        let config = MempoolConfig {
            buffers,
            cache,
            ..config.clone()
        };
        Ok(Self {
            pool: Arc::new(Pool {
                raw,
                config,
                eal: eal.clone(),
            }),
        })
    }

    /// The settings as they ended up: rounded and limited.
    #[must_use]
    pub fn config(&self) -> &MempoolConfig {
        &self.pool.config
    }

    /// Buffers in all.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.pool.config.buffers
    }

    /// Buffers in the pool and its caches. Exact while nobody takes or gives; not for hot paths.
    #[must_use]
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::weir_pool_available(self.pool.raw.as_ptr()) }
    }

    /// Buffers that are out: in rings, or owned by somebody.
    #[must_use]
    pub fn in_use(&self) -> u32 {
        self.pool.in_use()
    }

    /// A buffer with an empty frame; `None` when the pool is empty.
    #[inline]
    #[must_use]
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as `self`.
        let raw = NonNull::new(unsafe { sys::weir_mbuf_alloc(self.pool.raw.as_ptr()) })?;
        // SAFETY: a fresh buffer, ours alone; the pool stays while a buffer is out.
        Some(unsafe { Mbuf::from_raw(raw) })
    }

    /// Appends `count` buffers with empty frames to `into`, or as many as there is room for: all of
    /// them or, when the pool has too few, none. Returns how many.
    #[inline]
    pub fn alloc_bulk<const N: usize>(&self, into: &mut ArrayVec<Mbuf, N>, count: usize) -> usize {
        let count = count.min(into.remaining_capacity());
        let len = into.len();
        // SAFETY: `count` entries fit behind `len`; an Mbuf is one pointer to an mbuf. On success
        // all of them are written, otherwise the length stays as it is.
        unsafe {
            let spare = into.as_mut_ptr().add(len).cast();
            if sys::weir_mbuf_alloc_bulk(self.pool.raw.as_ptr(), spare, count as u32) != 0 {
                return 0;
            }
            into.set_len(len + count);
        }
        count
    }

    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.pool.raw.as_ptr()
    }
}

impl BufferSource for Mempool {
    type Buffer = Mbuf;

    #[inline]
    fn copy_from(&mut self, frame: &[u8]) -> Option<Mbuf> {
        let mut mbuf = self.alloc()?;
        mbuf.append(frame.len()).ok()?;
        mbuf.data_mut().copy_from_slice(frame);
        Some(mbuf)
    }
}

impl Pool {
    fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::weir_pool_in_use(self.raw.as_ptr()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.in_use() == 0 {
            // Another thread may have counted its last buffer as free and be about to write its
            // address into its cache; that is a matter of nanoseconds.
            thread::sleep(Duration::from_millis(1));
            // SAFETY: the last handle is gone and all buffers are home, so nothing leads here.
            unsafe { sys::weir_pool_free(self.raw.as_ptr()) };
        } else {
            // A buffer is still owned somewhere: neither the pool nor EAL's memory may go.
            self.eal.let_memory_stay();
        }
    }
}

/// The next power of two less one.
fn round_up(buffers: u32) -> u32 {
    buffers.saturating_add(1).next_power_of_two() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two_less_one() {
        let sizes = [1, 2, 3, 4, 1_023, 1_024, MOST_BUFFERS].map(round_up);
        assert_eq!(sizes, [1, 3, 3, 7, 1_023, 2_047, MOST_BUFFERS]);
    }
}
