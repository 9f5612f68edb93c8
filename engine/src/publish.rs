//! Publishing to workers by pointer swap, with quiescent-state reclamation.
//!
//! The control core publishes a whole new value; workers read the current one through one atomic
//! load, and say between bursts that they hold no reference any more (a *quiescent state*). A value
//! that was replaced is freed once every worker has been quiescent since. Workers never wait,
//! count references or write a line that another worker writes.
//!
//! This is RCU's QSBR flavour (Desnoyers et al., "User-Level Implementations of Read-Copy Update",
//! 2012). [`Reader::get`] borrows the reader and [`Reader::quiesce`] borrows it mutably, so the
//! compiler sees to it that no reference outlives a quiescent state.
#![allow(unsafe_code)] // the pointer that is swapped

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What a reader that has gone has seen: everything.
const GONE: u64 = u64::MAX;

/// A word on a line of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(AtomicU64);

struct Shared<T> {
    current: AtomicPtr<T>,
    version: AtomicU64,
    /// The version that each reader was last quiescent at.
    seen: Box<[Padded]>,
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw` and was not freed, since the current value
        // never is; nobody can read it any more, since publisher and readers share this value.
        drop(unsafe { Box::from_raw(*self.current.get_mut()) });
    }
}

/// The one who publishes.
pub struct Publisher<T: Send + Sync> {
    shared: Arc<Shared<T>>,
    /// Replaced values and the version that replaced them.
    retired: Vec<(u64, Retired<T>)>,
}

/// A replaced value, freed when dropped.
struct Retired<T>(*mut T);

// SAFETY: it owns its value, and `Publisher` asks for `T: Send`.
unsafe impl<T: Send> Send for Retired<T> {}
// SAFETY: it gives no access to its value.
unsafe impl<T: Send> Sync for Retired<T> {}

impl<T> Drop for Retired<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::into_raw` and is owned here alone; `reclaim` and
        // `Publisher::drop` drop it only when no reader can hold a reference.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl<T: Send + Sync> Publisher<T> {
    /// A publisher of `initial` (version 1), and `readers` readers.
    #[must_use]
    pub fn new(initial: T, readers: usize) -> (Self, Vec<Reader<T>>) {
        let shared = Arc::new(Shared {
            current: AtomicPtr::new(Box::into_raw(Box::new(initial))),
            version: AtomicU64::new(1),
            seen: (0..readers).map(|_| Padded(AtomicU64::new(0))).collect(),
        });
        let readers = (0..readers)
            .map(|index| Reader {
                shared: Arc::clone(&shared),
                index,
                seen: 0,
            })
            .collect();
        (
            Self {
                shared,
                retired: Vec::new(),
            },
            readers,
        )
    }

    /// Publishes a value and gives its version. Frees what can be freed.
    pub fn publish(&mut self, value: T) -> u64 {
        let new = Box::into_raw(Box::new(value));
        let old = self.shared.current.swap(new, Ordering::AcqRel);
        let version = self.shared.version.fetch_add(1, Ordering::AcqRel) + 1;
        self.retired.push((version, Retired(old)));
        self.reclaim();
        version
    }

    /// Frees replaced values that no reader can hold; gives their number.
    pub fn reclaim(&mut self) -> usize {
        let seen = self
            .shared
            .seen
            .iter()
            .map(|seen| seen.0.load(Ordering::Acquire));
        let oldest = seen.min().unwrap_or(GONE);
        let before = self.retired.len();
        self.retired.retain(|(version, _)| *version > oldest);
        before - self.retired.len()
    }

    /// The current version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.version.load(Ordering::Acquire)
    }

    /// The version that a reader was last quiescent at: it reads that one or a later one now. A
    /// reader that has gone has seen all.
    #[must_use]
    pub fn seen(&self, reader: usize) -> u64 {
        self.shared
            .seen
            .get(reader)
            .map_or(GONE, |seen| seen.0.load(Ordering::Acquire))
    }

    /// Replaced values that wait to be freed.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.retired.len()
    }

    /// The current value.
    #[must_use]
    pub fn current(&self) -> &T {
        // SAFETY: the current value is freed by nobody but `publish`, which borrows the publisher
        // mutably, and `Shared::drop`, which this reference keeps away.
        unsafe { &*self.shared.current.load(Ordering::Acquire) }
    }
}

impl<T: Send + Sync> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.reclaim();
        // A reader may hold what is left, and nobody remains to ask it: better lost than freed
        // under its feet.
        for (_, retired) in self.retired.drain(..) {
            std::mem::forget(retired);
        }
    }
}

impl<T: Send + Sync + fmt::Debug> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("version", &self.version())
            .field("waiting", &self.retired.len())
            .finish_non_exhaustive()
    }
}

/// A worker's view. Not `Clone`: one worker, one reader.
pub struct Reader<T: Send + Sync> {
    shared: Arc<Shared<T>>,
    index: usize,
    seen: u64,
}

impl<T: Send + Sync> Reader<T> {
    /// Hot: the current value, for use until the next quiescent state.
    #[inline]
    #[must_use]
    pub fn get(&self) -> &T {
        // SAFETY: a value is freed only after this reader was quiescent at a later version, and
        // `quiesce` needs the reader exclusively, so not while this reference lives.
        unsafe { &*self.shared.current.load(Ordering::Acquire) }
    }

    /// Hot: says that no reference is held. Writes only when something was published.
    #[inline]
    pub fn quiesce(&mut self) {
        let version = self.shared.version.load(Ordering::Acquire);
        if version != self.seen {
            self.seen = version;
            self.store(version);
        }
    }

    fn store(&self, version: u64) {
        if let Some(seen) = self.shared.seen.get(self.index) {
            seen.0.store(version, Ordering::Release);
        }
    }
}

impl<T: Send + Sync> Drop for Reader<T> {
    fn drop(&mut self) {
        self.store(GONE);
    }
}

impl<T: Send + Sync> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// Counts how many of it live.
    struct Tracked(u64, Arc<AtomicUsize>);

    impl Tracked {
        fn new(value: u64, living: &Arc<AtomicUsize>) -> Self {
            living.fetch_add(1, Ordering::SeqCst);
            Self(value, Arc::clone(living))
        }
    }

    impl Drop for Tracked {
        fn drop(&mut self) {
            self.0 = u64::MAX;
            self.1.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_replaced_value_is_freed_once_every_reader_was_quiescent() {
        let living = Arc::new(AtomicUsize::new(0));
        let (mut publisher, mut readers) = Publisher::new(Tracked::new(1, &living), 2);
        assert_eq!(publisher.publish(Tracked::new(2, &living)), 2);
        assert_eq!(readers[0].get().0, 2);
        assert_eq!((publisher.reclaim(), living.load(Ordering::SeqCst)), (0, 2));
        readers[0].quiesce();
        assert_eq!(publisher.reclaim(), 0);
        assert_eq!((publisher.seen(0), publisher.seen(1)), (2, 0));
        readers[1].quiesce();
        assert_eq!((publisher.reclaim(), living.load(Ordering::SeqCst)), (1, 1));
    }

    #[test]
    fn a_reader_that_has_gone_holds_nothing_back() {
        let living = Arc::new(AtomicUsize::new(0));
        let (mut publisher, readers) = Publisher::new(Tracked::new(1, &living), 2);
        drop(readers);
        publisher.publish(Tracked::new(2, &living));
        assert_eq!(living.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn readers_outlive_the_publisher() {
        let living = Arc::new(AtomicUsize::new(0));
        let (publisher, readers) = Publisher::new(Tracked::new(7, &living), 1);
        drop(publisher);
        assert_eq!(readers[0].get().0, 7);
        drop(readers);
        assert_eq!(living.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn running_readers_never_see_a_freed_value() {
        let living = Arc::new(AtomicUsize::new(0));
        let (mut publisher, readers) = Publisher::new(Tracked::new(0, &living), 2);
        let stop = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    let mut last = 0;
                    while stop.load(Ordering::Relaxed) == 0 {
                        let value = reader.get().0;
                        assert!(value != u64::MAX && value >= last, "{value} after {last}");
                        last = value;
                        reader.quiesce();
                    }
                })
            })
            .collect();
        for value in 1..=5_000 {
            publisher.publish(Tracked::new(value, &living));
        }
        stop.store(1, Ordering::Relaxed);
        for thread in threads {
            thread.join().unwrap();
        }
        publisher.reclaim();
        assert_eq!(living.load(Ordering::SeqCst), 1);
    }
}
