//! The packet-buffer contract, and a heap buffer that keeps it.
//!
//! Everything that looks at or changes a packet (`parse`, `rewrite`, the control stack) is written
//! against [`Buffer`], so that it runs unchanged over a DPDK mbuf on a NIC and over a [`HeapBuffer`]
//! in unit tests, property tests, fuzzing, `weir replay` and instruction counts.
//!
//! A buffer is one contiguous frame with free room before it (headroom, for encapsulation) and
//! after it (tailroom, for padding). Growing beyond the room is refused, never reallocated: an mbuf
//! cannot grow, so the heap buffer must not either.

// Access to a heap buffer's bytes costs no more than access to an mbuf's: both check lengths when
// they change, not when they are looked at.
#![allow(unsafe_code)]

/// The room that a buffer was asked for is not there; the buffer is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes wanted, {available} available")]
pub struct NoRoom {
    /// Bytes asked for.
    pub wanted: usize,
    /// Bytes that were free on that side.
    pub available: usize,
}

/// A contiguous frame, Ethernet header first, with room on both sides.
///
/// Not `Clone`: exactly one owner returns a frame's memory.
pub trait Buffer {
    /// The frame's bytes.
    fn data(&self) -> &[u8];

    /// The frame's bytes, to be changed in place.
    fn data_mut(&mut self) -> &mut [u8];

    /// Free bytes before the frame.
    fn headroom(&self) -> usize;

    /// Free bytes after the frame.
    fn tailroom(&self) -> usize;

    /// Grows the frame by `len` bytes at the front; their content is unspecified.
    fn prepend(&mut self, len: usize) -> Result<(), NoRoom>;

    /// Takes `len` bytes off the front.
    fn trim_front(&mut self, len: usize) -> Result<(), NoRoom>;

    /// Grows the frame by `len` bytes at the end; their content is unspecified.
    fn append(&mut self, len: usize) -> Result<(), NoRoom>;

    /// Takes `len` bytes off the end.
    fn trim_back(&mut self, len: usize) -> Result<(), NoRoom>;

    /// The frame's length in bytes, without FCS.
    fn len(&self) -> usize {
        self.data().len()
    }

    /// Whether the frame has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the frame lies in more than one piece. weir handles single-segment frames; others
    /// are dropped and counted at the edge.
    fn is_segmented(&self) -> bool {
        false
    }

    /// Asks the CPU to bring the frame's first line into cache.
    fn prefetch(&self) {}
}

/// Where new frames come from: a mempool on a worker's socket, or the heap.
pub trait BufferSource {
    /// The buffers it gives.
    type Buffer: Buffer;

    /// A buffer that holds a copy of `frame`; `None` when the pool is empty or the frame too long.
    fn copy_from(&mut self, frame: &[u8]) -> Option<Self::Buffer>;
}

/// Headroom of a heap buffer; DPDK's default (`RTE_PKTMBUF_HEADROOM`).
pub const HEADROOM: usize = 128;

/// A frame on the heap with an mbuf's rules: fixed memory, headroom before, tailroom after. Like an
/// mbuf it is one pointer, so that it moves as cheaply.
#[derive(Debug)]
pub struct HeapBuffer(Box<HeapFrame>);

#[derive(Debug)]
struct HeapFrame {
    memory: Box<[u8]>,
    start: usize,
    len: usize,
}

impl HeapBuffer {
    /// A buffer that holds a copy of `frame`, with [`HEADROOM`] before and `tailroom` after it.
    #[must_use]
    pub fn with_room(frame: &[u8], headroom: usize, tailroom: usize) -> Self {
        let mut memory = vec![0; headroom + frame.len() + tailroom].into_boxed_slice();
        memory[headroom..headroom + frame.len()].copy_from_slice(frame);
        Self(Box::new(HeapFrame {
            memory,
            start: headroom,
            len: frame.len(),
        }))
    }

    /// A buffer that holds a copy of `frame`, with [`HEADROOM`] on both sides.
    #[must_use]
    pub fn new(frame: &[u8]) -> Self {
        Self::with_room(frame, HEADROOM, HEADROOM)
    }

    /// Puts another frame in the place of what it holds, with [`HEADROOM`] before it, as a device does
    /// with a buffer that came home: it costs the same whatever has become of the last one.
    ///
    /// # Errors
    /// When the memory is too short for it; nothing is changed then.
    #[inline]
    pub fn refill(&mut self, frame: &[u8]) -> Result<(), NoRoom> {
        let HeapFrame { memory, start, len } = &mut *self.0;
        let available = memory.len().saturating_sub(HEADROOM);
        let place = memory.get_mut(HEADROOM..HEADROOM + frame.len());
        let place = place.ok_or(NoRoom {
            wanted: frame.len(),
            available,
        })?;
        place.copy_from_slice(frame);
        (*start, *len) = (HEADROOM, frame.len());
        Ok(())
    }
}

impl Buffer for HeapBuffer {
    #[inline]
    fn data(&self) -> &[u8] {
        // SAFETY: `start + len` never exceeds the memory: `with_room` sets them so, every change below
        // checks the room it takes, and the fields are private.
        unsafe {
            let HeapFrame { memory, start, len } = &*self.0;
            memory.get_unchecked(*start..*start + *len)
        }
    }

    #[inline]
    fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`.
        unsafe {
            let HeapFrame { memory, start, len } = &mut *self.0;
            memory.get_unchecked_mut(*start..*start + *len)
        }
    }

    #[inline]
    fn len(&self) -> usize {
        self.0.len
    }

    #[inline]
    fn headroom(&self) -> usize {
        self.0.start
    }

    #[inline]
    fn tailroom(&self) -> usize {
        self.0.memory.len() - self.0.start - self.0.len
    }

    fn prepend(&mut self, len: usize) -> Result<(), NoRoom> {
        check(len, self.headroom())?;
        self.0.start -= len;
        self.0.len += len;
        Ok(())
    }

    fn trim_front(&mut self, len: usize) -> Result<(), NoRoom> {
        check(len, self.0.len)?;
        self.0.start += len;
        self.0.len -= len;
        Ok(())
    }

    fn append(&mut self, len: usize) -> Result<(), NoRoom> {
        check(len, self.tailroom())?;
        self.0.len += len;
        Ok(())
    }

    fn trim_back(&mut self, len: usize) -> Result<(), NoRoom> {
        check(len, self.0.len)?;
        self.0.len -= len;
        Ok(())
    }
}

fn check(wanted: usize, available: usize) -> Result<(), NoRoom> {
    if wanted <= available {
        Ok(())
    } else {
        Err(NoRoom { wanted, available })
    }
}

/// Frames from the heap, without limit: what `replay` and tests use in place of a mempool.
#[derive(Debug, Default, Clone, Copy)]
pub struct Heap;

impl BufferSource for Heap {
    type Buffer = HeapBuffer;

    fn copy_from(&mut self, frame: &[u8]) -> Option<HeapBuffer> {
        Some(HeapBuffer::new(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prepend_and_a_trim_restore_the_frame() {
        let mut buffer = HeapBuffer::new(&[1, 2, 3]);
        buffer.prepend(4).unwrap();
        assert_eq!(buffer.len(), 7);
        buffer.trim_front(4).unwrap();
        assert_eq!(buffer.data(), [1, 2, 3]);
        buffer.append(2).unwrap();
        buffer.trim_back(2).unwrap();
        assert_eq!(buffer.data(), [1, 2, 3]);
    }

    #[test]
    fn a_buffer_takes_another_frame_whatever_became_of_the_last() {
        let mut buffer = HeapBuffer::new(&[1, 2, 3]);
        buffer.prepend(20).unwrap();
        buffer.refill(&[4, 5]).unwrap();
        assert_eq!((buffer.data(), buffer.headroom()), (&[4, 5][..], HEADROOM));
        buffer.trim_front(1).unwrap();
        buffer.refill(&[6; 9]).unwrap();
        assert_eq!((buffer.data(), buffer.headroom()), (&[6; 9][..], HEADROOM));
        assert!(buffer.refill(&[0; 2 * HEADROOM]).is_err());
        assert_eq!(buffer.data(), [6; 9]);
    }

    #[test]
    fn growing_beyond_the_room_is_refused_and_changes_nothing() {
        let mut buffer = HeapBuffer::with_room(&[9; 10], 2, 1);
        assert_eq!(
            buffer.prepend(3),
            Err(NoRoom {
                wanted: 3,
                available: 2
            })
        );
        assert_eq!(
            buffer.append(2),
            Err(NoRoom {
                wanted: 2,
                available: 1
            })
        );
        assert_eq!(
            buffer.trim_front(11),
            Err(NoRoom {
                wanted: 11,
                available: 10
            })
        );
        assert_eq!(buffer.data(), [9; 10]);
    }
}
