//! Publishing to workers by pointer swap, with quiescent-state reclamation.
//!
//! One [`Publisher`] (the control core) replaces a value; each worker has a [`Reader`]. A worker
//! reads the value through one atomic load, with no reference count and no lock, and between bursts
//! calls [`Reader::quiesce`]: "I hold nothing". It thereby says, in a word of its own, which version
//! it runs from now on. A replaced value is freed once every reader has been quiescent since. This
//! is RCU's QSBR flavour (Desnoyers et al., "User-Level Implementations of Read-Copy Update", 2012).
//!
//! The borrow of [`Reader::get`] must end before `quiesce` can be called, so the compiler sees to it
//! that nothing freed is in use. Take the reference once a burst: each `get` may give a newer value.
//!
//! ```
//! let (mut publisher, mut readers) = weir_engine::publish::Publisher::new("one", 1);
//! publisher.publish("two");
//! assert_eq!(*readers[0].get(), "two");
//! assert_eq!(publisher.reclaim(), 0); // the reader may still hold a reference to "one"
//! readers[0].quiesce();
//! assert_eq!(publisher.seen(0), 2);
//! assert_eq!(publisher.reclaim(), 1);
//! ```
//!
//! ```compile_fail
//! let (_publisher, mut readers) = weir_engine::publish::Publisher::new("one", 1);
//! let value = readers[0].get();
//! readers[0].quiesce(); // refused: `value` is still in use
//! println!("{value}");
//! ```

// A reader's access is a raw pointer: reference counting would write to a line shared by all cores.
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam::utils::CachePadded;

/// What [`Publisher::seen`] says of a reader that was dropped: it holds nothing back any more.
pub const GONE: u64 = u64::MAX;

/// A value with its version; made by the publisher, freed by it or by the last of [`Shared`].
struct Node<T> {
    version: u64,
    value: T,
}

/// What the publisher and its readers own together.
struct Shared<T> {
    /// Never null; written by the publisher only.
    current: CachePadded<AtomicPtr<Node<T>>>,
    /// One word a reader, on a line of its own: the version it runs, or [`GONE`].
    seen: Box<[CachePadded<AtomicU64>]>,
    /// What the publisher had not been able to free when it was dropped.
    left: Mutex<Vec<Box<Node<T>>>>,
}

// The nodes behind `current` and `left` are owned by this struct, so they go where it goes; readers
// on several threads look at one value at the same time.
// SAFETY: `T: Send` lets the last owner, on whatever thread, drop the values.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: shared access hands out `&T` on several threads, hence `T: Sync`.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: `current` came from `Box::into_raw`, is never in `left` nor in a publisher's
        // `retired` list, and nobody else is left to use it.
        drop(unsafe { Box::from_raw(*self.current.get_mut()) });
    }
}

/// The writing side: publishes values, and frees those that no reader runs any more.
pub struct Publisher<T: Send + Sync> {
    shared: Arc<Shared<T>>,
    version: u64,
    /// Replaced values, oldest first.
    retired: Vec<Box<Node<T>>>,
}

/// A worker's side: one a worker, not `Clone`.
pub struct Reader<T: Send + Sync> {
    /// The node that was current at the last quiescent state; the `seen` word holds its version, so
    /// it and all later ones are kept for this reader.
    quiesced: NonNull<Node<T>>,
    shared: Arc<Shared<T>>,
    index: usize,
}

// SAFETY: the pointer leads to a node that `shared` keeps alive while this reader's word names its
// version; moving the reader to another thread moves both.
unsafe impl<T: Send + Sync> Send for Reader<T> {}
// SAFETY: `&Reader` gives `&T` only, and `quiesce` needs `&mut`.
unsafe impl<T: Send + Sync> Sync for Reader<T> {}

impl<T: Send + Sync> Publisher<T> {
    /// Publishes `initial` as version 1 to `readers` readers.
    #[must_use]
    pub fn new(initial: T, readers: usize) -> (Self, Vec<Reader<T>>) {
        let node = NonNull::from(Box::leak(Box::new(Node {
            version: 1,
            value: initial,
        })));
        let shared = Arc::new(Shared {
            current: CachePadded::new(AtomicPtr::new(node.as_ptr())),
            seen: (0..readers)
                .map(|_| CachePadded::new(AtomicU64::new(1)))
                .collect(),
            left: Mutex::new(Vec::new()),
        });
        let readers = (0..readers)
            .map(|index| Reader {
                quiesced: node,
                shared: Arc::clone(&shared),
                index,
            })
            .collect();
        (
            Self {
                shared,
                version: 1,
                retired: Vec::new(),
            },
            readers,
        )
    }

    /// Replaces the value and returns its version, one more than the last. The old value waits for
    /// [`Publisher::reclaim`].
    pub fn publish(&mut self, value: T) -> u64 {
        self.version += 1;
        let node = Box::into_raw(Box::new(Node {
            version: self.version,
            value,
        }));
        // Release: who loads the pointer sees the whole node.
        let old = self.shared.current.swap(node, Ordering::AcqRel);
        // SAFETY: `old` came from `Box::into_raw` in `new` or here, and has just left `current`, so
        // this is its only owner; readers' pointers to it are minded by `reclaim`.
        self.retired.push(unsafe { Box::from_raw(old) });
        self.version
    }

    /// Frees the replaced values that every reader has quiesced past; returns how many.
    pub fn reclaim(&mut self) -> usize {
        // Acquire pairs with the Release in `quiesce`: what a reader did with an older value
        // happened before it is freed here.
        let oldest = self
            .shared
            .seen
            .iter()
            .map(|word| word.load(Ordering::Acquire))
            .min()
            .unwrap_or(GONE);
        let free = self.retired.partition_point(|node| node.version < oldest);
        self.retired.drain(..free).count()
    }

    /// The version of the value in force.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The version that was in force when reader `index` was last quiescent: it runs that one or a
    /// later one. [`GONE`] if the reader was dropped or never was.
    #[must_use]
    pub fn seen(&self, index: usize) -> u64 {
        self.shared
            .seen
            .get(index)
            .map_or(GONE, |word| word.load(Ordering::Acquire))
    }

    /// Whether every reader runs the value in force (or is gone).
    #[must_use]
    pub fn everyone_has_it(&self) -> bool {
        (0..self.shared.seen.len()).all(|index| self.seen(index) >= self.version)
    }

    /// How many replaced values wait to be freed.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.retired.len()
    }

    /// The value in force.
    #[must_use]
    pub fn current(&self) -> &T {
        let node = self.shared.current.load(Ordering::Relaxed);
        // SAFETY: only `publish` replaces the current node, and it needs `&mut self`.
        unsafe { &(*node).value }
    }
}

impl<T: Send + Sync> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.reclaim();
        let mut left = self
            .shared
            .left
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        left.append(&mut self.retired);
    }
}

impl<T: Send + Sync> Reader<T> {
    /// The value in force, for use until the next quiescent state: one acquire load, nothing
    /// shared is written.
    #[inline]
    #[must_use]
    pub fn get(&self) -> &T {
        let node = self.shared.current.load(Ordering::Acquire);
        // SAFETY: the node is not older than the one this reader's `seen` word names, so `reclaim`
        // keeps it; the word moves on only in `quiesce`, for which this borrow must have ended.
        unsafe { &(*node).value }
    }

    /// The version that was in force at the last quiescent state.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        // SAFETY: the `seen` word names this node's version, so `reclaim` keeps it.
        unsafe { self.quiesced.as_ref().version }
    }

    /// Reports a quiescent state; true if another value has come into force since the last one.
    /// Costs one acquire load, and a store to the reader's own line only when the value changed.
    #[inline]
    pub fn quiesce(&mut self) -> bool {
        let newest = self.shared.current.load(Ordering::Acquire);
        // An address cannot be reused while this reader holds its node back, so an equal address is
        // the same value.
        if newest == self.quiesced.as_ptr() {
            return false;
        }
        self.report(newest);
        true
    }

    #[cold]
    fn report(&mut self, newest: *mut Node<T>) {
        // `newest` may itself have been replaced by now, but it is newer than what this reader's
        // word still names, so it is not freed before the word has passed it.
        if let Some(newest) = NonNull::new(newest) {
            self.quiesced = newest;
            let version = self.version();
            // Release: all that was done with older values comes before.
            if let Some(word) = self.shared.seen.get(self.index) {
                word.store(version, Ordering::Release);
            }
        }
    }
}

impl<T: Send + Sync> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("version", &self.version)
            .field("waiting", &self.retired.len())
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl<T: Send + Sync> Drop for Reader<T> {
    fn drop(&mut self) {
        if let Some(word) = self.shared.seen.get(self.index) {
            word.store(GONE, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::thread;

    /// Counts how many of its kind are alive, and can tell that it was freed.
    struct Counted {
        alive: Arc<AtomicUsize>,
        serial: u64,
        check: u64,
    }

    impl Counted {
        fn new(alive: &Arc<AtomicUsize>, serial: u64) -> Self {
            alive.fetch_add(1, Ordering::Relaxed);
            Self {
                alive: Arc::clone(alive),
                serial,
                check: !serial,
            }
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.check = 0;
            self.alive.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_value_is_freed_once_every_reader_has_quiesced_past_it() {
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = Publisher::new(Counted::new(&alive, 1), 2);
        assert_eq!(publisher.publish(Counted::new(&alive, 2)), 2);
        assert_eq!(publisher.reclaim(), 0);
        assert!(readers[0].quiesce());
        assert!(!readers[0].quiesce());
        assert_eq!((publisher.seen(0), publisher.seen(1)), (2, 1));
        assert_eq!(publisher.reclaim(), 0);
        assert!(readers[1].quiesce());
        assert!(publisher.everyone_has_it());
        assert_eq!(publisher.reclaim(), 1);
        assert_eq!(alive.load(Ordering::Relaxed), 1);
        assert_eq!(publisher.current().serial, 2);
    }

    #[test]
    fn a_reader_that_skipped_versions_holds_back_only_from_its_own_on() {
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = Publisher::new(Counted::new(&alive, 1), 1);
        for serial in 2..=5 {
            publisher.publish(Counted::new(&alive, serial));
        }
        assert_eq!((publisher.reclaim(), publisher.waiting()), (0, 4));
        assert_eq!(readers[0].get().serial, 5);
        readers[0].quiesce();
        assert_eq!((publisher.reclaim(), publisher.waiting()), (4, 0));
        assert_eq!(alive.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_dropped_reader_holds_nothing_back() {
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut publisher, readers) = Publisher::new(Counted::new(&alive, 1), 3);
        publisher.publish(Counted::new(&alive, 2));
        drop(readers);
        assert_eq!(publisher.seen(0), GONE);
        assert_eq!(publisher.reclaim(), 1);
    }

    #[test]
    fn readers_outlive_the_publisher_and_nothing_leaks() {
        let alive = Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = Publisher::new(Counted::new(&alive, 1), 2);
        publisher.publish(Counted::new(&alive, 2));
        readers[1].quiesce();
        drop(publisher);
        assert_eq!(alive.load(Ordering::Relaxed), 2);
        assert_eq!(readers[0].get().serial, 2);
        assert!(readers[0].quiesce());
        drop(readers);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn without_readers_every_replaced_value_is_free_at_once() {
        let (mut publisher, readers) = Publisher::new(String::from("a"), 0);
        assert!(readers.is_empty());
        publisher.publish(String::from("b"));
        assert!(publisher.everyone_has_it());
        assert_eq!(publisher.reclaim(), 1);
    }

    #[test]
    fn readers_on_threads_see_whole_values_in_order_while_the_publisher_reclaims() {
        const VALUES: u64 = 2_000;
        let alive = Arc::new(AtomicUsize::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let (mut publisher, readers) = Publisher::new(Counted::new(&alive, 1), 3);
        let threads: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                let done = Arc::clone(&done);
                thread::spawn(move || {
                    let mut last = 0;
                    loop {
                        // Looked at before the value, so that the last round sees the last value.
                        let finished = done.load(Ordering::Acquire);
                        let value = reader.get();
                        assert_eq!(value.check, !value.serial, "a freed value was read");
                        assert!(value.serial >= last, "a value went backwards");
                        assert!(value.serial >= reader.version());
                        last = value.serial;
                        reader.quiesce();
                        if finished {
                            return last;
                        }
                        thread::yield_now();
                    }
                })
            })
            .collect();
        let mut reclaimed = 0;
        for serial in 2..=VALUES {
            publisher.publish(Counted::new(&alive, serial));
            reclaimed += publisher.reclaim();
            thread::yield_now();
        }
        done.store(true, Ordering::Release);
        for thread in threads {
            assert_eq!(thread.join().unwrap(), VALUES);
        }
        reclaimed += publisher.reclaim();
        assert_eq!(reclaimed as u64, VALUES - 1);
        drop(publisher);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}
