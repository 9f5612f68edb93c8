//! Counters with one writer and any number of readers.
//!
//! A worker owns a block of 64-bit cells on cache lines of its own; counting is a load and a store
//! on memory that no other core writes, without a locked instruction. Readers see each cell whole,
//! at most a little late, and cost the worker nothing but the line's transfer.

// The writer's index is clamped, not checked, so that the hot path has no panic in it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::memory::{HugeSlice, MemoryError};

/// Cells of a cache line.
const PER_LINE: usize = 8;

/// The counting side; one a block, owned by one worker.
#[derive(Debug)]
pub struct CounterWriter {
    cells: NonNull<AtomicU64>,
    count: usize,
    _memory: Arc<HugeSlice>,
    /// One thread at a time: two writers would lose counts.
    _not_sync: PhantomData<Cell<()>>,
}

// SAFETY: the pointer leads into `_memory`, which goes with it; the cells are atomics.
unsafe impl Send for CounterWriter {}

/// The reading side.
#[derive(Debug, Clone)]
pub struct CounterReader {
    memory: Arc<HugeSlice>,
    count: usize,
}

/// A block of `count` counters, all zero.
///
/// # Errors
/// [`MemoryError`] if the memory cannot be had.
pub fn counters(count: usize) -> Result<(CounterWriter, CounterReader), MemoryError> {
    // One cell more: where counts with an index out of range go.
    let memory = Arc::new(HugeSlice::zeroed(count / PER_LINE + 1, false)?);
    let cells = NonNull::from(&**memory).cast::<AtomicU64>();
    let reader = CounterReader {
        memory: Arc::clone(&memory),
        count,
    };
    Ok((
        CounterWriter {
            cells,
            count,
            _memory: memory,
            _not_sync: PhantomData,
        },
        reader,
    ))
}

impl CounterWriter {
    /// Adds `n` to counter `index`; wraps at 2^64. An index out of range counts in a spare cell,
    /// which [`CounterReader::out_of_range`] shows.
    #[inline]
    pub fn add(&self, index: usize, n: u64) {
        // SAFETY: the block has `count + 1` cells or more, and the index is at most `count`.
        let cell = unsafe { self.cells.add(index.min(self.count)).as_ref() };
        // This is the only writer, so nothing is lost between the load and the store.
        cell.store(
            cell.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Hot: adds one to counter `index` and `n` to the one behind it, as [`CounterWriter::add`] does:
    /// packets and their bytes.
    #[inline(always)]
    pub fn add_packet(&self, index: usize, n: u64) {
        if index >= self.count {
            return self.add(self.count, n);
        }
        // SAFETY: the block has `count + 1` cells or more, and the index is less than `count`.
        let [packets, bytes] = unsafe { self.cells.add(index).cast::<[AtomicU64; 2]>().as_ref() };
        packets.store(
            packets.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
        bytes.store(
            bytes.load(Ordering::Relaxed).wrapping_add(n),
            Ordering::Relaxed,
        );
    }

    /// Sets counter `index` to `value`: for a gauge.
    #[inline]
    pub fn set(&self, index: usize, value: u64) {
        // SAFETY: as in `add`.
        let cell = unsafe { self.cells.add(index.min(self.count)).as_ref() };
        cell.store(value, Ordering::Relaxed);
    }

    /// How many counters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl CounterReader {
    /// Counter `index`; 0 if there is none of that index.
    #[must_use]
    pub fn get(&self, index: usize) -> u64 {
        if index < self.count {
            self.cell(index)
        } else {
            0
        }
    }

    /// Copies the counters of `range` into `into`; returns how many, the shorter of the two.
    pub fn copy_into(&self, range: Range<usize>, into: &mut [u64]) -> usize {
        let range = range.start.min(self.count)..range.end.min(self.count);
        range
            .zip(into)
            .map(|(index, to)| *to = self.cell(index))
            .count()
    }

    /// What was counted with an index out of range: a bug of ours when not zero.
    #[must_use]
    pub fn out_of_range(&self) -> u64 {
        self.cell(self.count)
    }

    /// How many counters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn cell(&self, index: usize) -> u64 {
        self.memory
            .get(index / PER_LINE)
            .map_or(0, |line| line.0[index % PER_LINE].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_is_added_is_read() {
        let (writer, reader) = counters(20).unwrap();
        writer.add(0, 1);
        writer.add(19, 5);
        writer.add(19, 6);
        writer.set(7, 70);
        assert_eq!((reader.get(0), reader.get(7), reader.get(19)), (1, 70, 11));
        let mut into = [9; 4];
        assert_eq!(reader.copy_into(17..30, &mut into), 3);
        assert_eq!(into, [0, 0, 11, 9]);
    }

    #[test]
    fn a_packet_and_its_bytes_lie_side_by_side() {
        let (writer, reader) = counters(4).unwrap();
        writer.add_packet(1, 60);
        writer.add_packet(1, 40);
        writer.add_packet(4, 7);
        assert_eq!((reader.get(1), reader.get(2)), (2, 100));
        assert_eq!((reader.get(0), reader.get(3)), (0, 0));
        assert_eq!(reader.out_of_range(), 7);
    }

    #[test]
    fn an_index_out_of_range_counts_in_the_spare_cell_and_nowhere_else() {
        for count in [0, 7, 8, 9] {
            let (writer, reader) = counters(count).unwrap();
            writer.add(count, 2);
            writer.add(usize::MAX, 3);
            assert_eq!(reader.out_of_range(), 5);
            assert_eq!((0..count + 8).map(|i| reader.get(i)).sum::<u64>(), 0);
        }
    }

    #[test]
    fn a_reader_on_another_thread_sees_counts_only_grow_and_misses_none() {
        const TOTAL: u64 = 100_000;
        let (writer, reader) = counters(1).unwrap();
        let thread = thread::spawn(move || (0..TOTAL).for_each(|_| writer.add(0, 1)));
        let mut last = 0;
        while !thread.is_finished() {
            let now = reader.get(0);
            assert!(now >= last && now <= TOTAL);
            last = now;
            thread::yield_now();
        }
        thread.join().unwrap();
        assert_eq!(reader.get(0), TOTAL);
    }
}
