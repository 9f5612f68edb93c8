//! A bounded lock-free queue between cores: how a worker hands a frame or an event to the control
//! core, and gets answers back.
//!
//! Sending to a full queue gives the value back at once; nobody ever waits. Any number of senders,
//! one receiver.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

/// The sending side; clone it for each worker.
#[derive(Debug)]
pub struct Sender<T> {
    queue: Arc<ArrayQueue<T>>,
}

/// The receiving side.
#[derive(Debug)]
pub struct Receiver<T> {
    queue: Arc<ArrayQueue<T>>,
}

/// A queue for up to `capacity` values (1 at least).
#[must_use]
pub fn ring<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let queue = Arc::new(ArrayQueue::new(capacity.max(1)));
    (
        Sender {
            queue: Arc::clone(&queue),
        },
        Receiver { queue },
    )
}

impl<T> Sender<T> {
    /// Appends `value`.
    ///
    /// # Errors
    /// The value itself when the queue is full: count it and drop it, or try later.
    #[inline]
    pub fn push(&self, value: T) -> Result<(), T> {
        self.queue.push(value)
    }

    /// How many values wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many values the queue holds at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Whether the receiver and every other sender are gone: nobody will take what is sent.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.queue) == 1
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: Arc::clone(&self.queue),
        }
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest value, if there is one.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.queue.pop()
    }

    /// Takes up to `limit` values, oldest first, as long as there are any: bounded work even while
    /// senders keep sending.
    pub fn drain(&mut self, limit: usize) -> impl Iterator<Item = T> + '_ {
        (0..limit).map_while(|_| self.queue.pop())
    }

    /// How many values wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_full_queue_gives_the_value_back() {
        let (sender, mut receiver) = ring(2);
        assert_eq!(
            (sender.push(1), sender.push(2), sender.push(3)),
            (Ok(()), Ok(()), Err(3))
        );
        assert_eq!(receiver.pop(), Some(1));
        assert_eq!(sender.push(3), Ok(()));
        assert_eq!(receiver.drain(10).collect::<Vec<_>>(), [2, 3]);
        assert!(receiver.is_empty());
    }

    #[test]
    fn draining_stops_at_the_limit() {
        let (sender, mut receiver) = ring(8);
        (0..8).for_each(|i| sender.push(i).unwrap());
        assert_eq!(receiver.drain(3).count(), 3);
        assert_eq!(receiver.len(), 5);
    }

    #[test]
    fn several_senders_lose_nothing_and_keep_each_ones_order() {
        let (sender, mut receiver) = ring::<(usize, u32)>(16);
        let threads: Vec<_> = (0..3)
            .map(|who| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for i in 0..1_000 {
                        while sender.push((who, i)).is_err() {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 3];
        while next.iter().sum::<u32>() < 3_000 {
            match receiver.pop() {
                Some((who, i)) => {
                    assert_eq!(i, next[who]);
                    next[who] += 1;
                }
                None => thread::yield_now(),
            }
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(receiver.is_empty());
        drop(receiver);
        assert!(sender.is_alone());
    }
}
