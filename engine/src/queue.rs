//! A port's queues: the receiving and the sending end of one hardware queue.
//!
//! A handle is handed out once ([`crate::port::Port::take_queues`]), can go to the thread that will
//! poll it, and cannot be shared or cloned, so that no two threads ever poll one queue, which DPDK
//! forbids. While a handle lives, its port stays open.

// The two burst calls.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use weir_dpdk_sys as sys;

use crate::mbuf::Mbuf;
use crate::port::Open;

/// Both ends of one queue of a port: what a worker gets of each port.
#[derive(Debug)]
pub struct Queue {
    /// The receiving end.
    pub rx: RxQueue,
    /// The sending end.
    pub tx: TxQueue,
}

/// The receiving end of a queue.
#[derive(Debug)]
pub struct RxQueue {
    end: End,
}

/// The sending end of a queue.
#[derive(Debug)]
pub struct TxQueue {
    end: End,
}

#[derive(Debug)]
struct End {
    port: u16,
    queue: u16,
    _open: Arc<Open>,
    /// Send, not Sync.
    _one_thread: PhantomData<Cell<()>>,
}

impl Queue {
    /// # Safety
    /// Called once for each `queue` of an open port.
    pub(crate) unsafe fn new(open: &Arc<Open>, queue: u16) -> Self {
        let end = || End {
            port: open.id(),
            queue,
            _open: Arc::clone(open),
            _one_thread: PhantomData,
        };
        Self {
            rx: RxQueue { end: end() },
            tx: TxQueue { end: end() },
        }
    }

    /// The queue's number on its port.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.rx.end.queue
    }
}

impl RxQueue {
    /// Appends what has arrived to `into`, as much as it has room for; returns how many. Never
    /// waits.
    #[inline]
    pub fn receive<const N: usize>(&mut self, into: &mut ArrayVec<Mbuf, N>) -> usize {
        let room = into.remaining_capacity().min(usize::from(u16::MAX)) as u16;
        let len = into.len();
        // SAFETY: `room` entries fit behind `len`, and an Mbuf is one pointer to an mbuf. DPDK
        // writes as many as it returns, each with one owner, from the port's pool, which the port
        // holds. This is the only handle to the queue, and `_open` keeps the port open.
        unsafe {
            let spare = into.as_mut_ptr().add(len).cast();
            let received = sys::weir_rx_burst(self.end.port, self.end.queue, spare, room);
            let received = usize::from(received);
            into.set_len(len + received);
            received
        }
    }

    /// The queue's number on its port.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.end.queue
    }
}

impl TxQueue {
    /// Offers all of `from` to the device, in order; returns how many it took. Those now belong to
    /// the driver and are gone from `from`; the rest stay, in order, to be offered again or freed.
    /// Never waits.
    #[inline]
    pub fn send<const N: usize>(&mut self, from: &mut ArrayVec<Mbuf, N>) -> usize {
        let len = from.len();
        let offered = len.min(usize::from(u16::MAX)) as u16;
        // SAFETY: the first `len` entries are owned mbufs, one pointer each. The first `sent` now
        // belong to the driver: the rest move to the front and the length is cut before anything
        // could drop them. This is the only handle to the queue, and `_open` keeps the port open.
        unsafe {
            let start = from.as_mut_ptr();
            let sent = sys::weir_tx_burst(self.end.port, self.end.queue, start.cast(), offered);
            let sent = usize::from(sent);
            if sent != 0 {
                ptr::copy(start.add(sent), start, len - sent);
                from.set_len(len - sent);
            }
            sent
        }
    }

    /// The queue's number on its port.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.end.queue
    }
}
