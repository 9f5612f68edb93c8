//! Counters with one writer and any number of readers.
//!
//! A worker counts in memory of its own: a relaxed load, an addition, a relaxed store, no locked
//! instruction and no line that another core writes. Readers see every value some time later.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::memory::{CacheLine, HugeSlice};

/// Makes `count` counters, all zero.
///
/// # Errors
/// When there is no memory.
pub fn counters(count: usize) -> io::Result<(CounterWriter, CounterReader)> {
    let lines = Arc::new(HugeSlice::zeroed(count.div_ceil(8).max(1), false)?);
    Ok((
        CounterWriter {
            lines: Arc::clone(&lines),
        },
        CounterReader { lines },
    ))
}

/// The only one who counts. Not `Clone`.
#[derive(Debug)]
pub struct CounterWriter {
    lines: Arc<HugeSlice>,
}

impl CounterWriter {
    /// Hot: adds `amount` to the counter with this number. A number beyond the last counts nothing.
    #[inline]
    pub fn add(&mut self, counter: usize, amount: u64) {
        if let Some(word) = word(&self.lines, counter) {
            word.store(word.load(Relaxed).wrapping_add(amount), Relaxed);
        }
    }

    /// Sets the counter with this number: for figures that go up and down.
    #[inline]
    pub fn set(&mut self, counter: usize, value: u64) {
        if let Some(word) = word(&self.lines, counter) {
            word.store(value, Relaxed);
        }
    }
}

/// Somebody who looks.
#[derive(Debug, Clone)]
pub struct CounterReader {
    lines: Arc<HugeSlice>,
}

impl CounterReader {
    /// The counter with this number; zero beyond the last.
    #[must_use]
    pub fn get(&self, counter: usize) -> u64 {
        word(&self.lines, counter).map_or(0, |word| word.load(Relaxed))
    }

    /// Copies a range of counters; the rest of `into` stays as it is.
    pub fn copy_into(&self, range: Range<usize>, into: &mut [u64]) {
        for (counter, place) in range.zip(into) {
            *place = self.get(counter);
        }
    }
}

#[inline]
fn word(lines: &HugeSlice, counter: usize) -> Option<&AtomicU64> {
    let CacheLine(words) = lines.get(counter / 8)?;
    Some(&words[counter % 8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_sees_what_was_counted() {
        let (mut writer, reader) = counters(10).unwrap();
        writer.add(0, 1);
        writer.add(9, 2);
        writer.add(9, 3);
        writer.set(4, 7);
        let other = reader.clone();
        let mut all = [0; 10];
        other.copy_into(0..10, &mut all);
        assert_eq!(all, [1, 0, 0, 0, 7, 0, 0, 0, 0, 5]);
    }

    #[test]
    fn a_counter_that_is_not_there_counts_nothing() {
        let (mut writer, reader) = counters(8).unwrap();
        writer.add(8, 1);
        writer.add(usize::MAX, 1);
        assert_eq!((reader.get(8), reader.get(usize::MAX)), (0, 0));
    }

    #[test]
    fn a_reader_on_another_thread_sees_the_final_value() {
        let (mut writer, reader) = counters(1).unwrap();
        let counting = std::thread::spawn(move || (0..100_000).for_each(|_| writer.add(0, 1)));
        counting.join().unwrap();
        assert_eq!(reader.get(0), 100_000);
    }
}
