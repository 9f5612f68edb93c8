//! Worker threads: one a core, pinned, named, with a stop flag and a result.
//!
//! Workers are plain threads that pin themselves. [`Worker::spawn_registered`] also makes the thread
//! known to DPDK, so that it has a mempool cache of its own and need not take the pool's shared ring
//! for each buffer.

use std::any::Any;
use std::fs;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use core_affinity::CoreId;

#[cfg(feature = "dpdk")]
use crate::eal::Eal;

/// The most cores that the kernel's affinity calls take as they are used here (`CPU_SETSIZE`).
const CORE_LIMIT: usize = 1_024;

/// A worker could not be started, or ended badly.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The core is not there, or this process may not run on it.
    #[error(
        "worker {name}: cannot run on core {core}; this machine's cores are {online}; \
         choose another, or widen the CPU set this process is confined to"
    )]
    NoSuchCore {
        /// The worker's name.
        name: String,
        /// The core asked for.
        core: usize,
        /// The cores the kernel has online, as it lists them (`0-3,8`).
        online: String,
    },
    /// The thread could not be made.
    #[error("worker {name}: no thread: {source}")]
    Spawn {
        /// The worker's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// DPDK would not register the thread.
    #[error(
        "worker {name}: DPDK does not register its thread: {reason}; \
         DPDK knows 128 threads at most, the main one included"
    )]
    Register {
        /// The worker's name.
        name: String,
        /// DPDK's reason.
        reason: String,
    },
    /// The thread panicked. A bug of ours; the message is the panic's.
    #[error("worker {name} panicked: {message}")]
    Panicked {
        /// The worker's name.
        name: String,
        /// The panic's message.
        message: String,
    },
}

/// The sign for workers to end; cheap to clone, and to be looked at each round.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// A flag that is not raised.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks whoever looks at the flag to end.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was asked to end.
    #[inline]
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// The flag itself, for a signal handler to raise.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// A running worker. Dropping it raises its stop flag but does not wait; see [`Worker::join`].
#[derive(Debug)]
pub struct Worker<T> {
    name: String,
    core: usize,
    stop: Stop,
    thread: Option<JoinHandle<Result<T, WorkerError>>>,
}

impl<T: Send + 'static> Worker<T> {
    /// Runs `body` on a thread pinned to `core`, unknown to DPDK. Returns once the thread is pinned
    /// and about to run `body`. The thread's name is cut to 15 bytes by the kernel.
    ///
    /// # Errors
    /// [`WorkerError::NoSuchCore`], [`WorkerError::Spawn`].
    pub fn spawn<F>(name: &str, core: usize, body: F) -> Result<Self, WorkerError>
    where
        F: FnOnce(Stop) -> T + Send + 'static,
    {
        Self::start(name, core, || Ok(()), move |(), stop| body(stop))
    }

    /// Like [`Worker::spawn`], on a thread that DPDK knows. It holds the EAL up while it runs.
    ///
    /// # Errors
    /// [`WorkerError::NoSuchCore`], [`WorkerError::Spawn`], [`WorkerError::Register`].
    #[cfg(feature = "dpdk")]
    pub fn spawn_registered<F>(
        eal: &Eal,
        name: &str,
        core: usize,
        body: F,
    ) -> Result<Self, WorkerError>
    where
        F: FnOnce(Stop) -> T + Send + 'static,
    {
        let eal = eal.clone();
        let owner = name.to_owned();
        let register = move || {
            eal.register_thread()
                .map_err(|reason| WorkerError::Register {
                    name: owner,
                    reason: reason.to_string(),
                })
        };
        Self::start(name, core, register, move |_registration, stop| body(stop))
    }

    /// Pins, sets up, reports back, and only then runs the body.
    fn start<S, G>(
        name: &str,
        core: usize,
        set_up: impl FnOnce() -> Result<S, WorkerError> + Send + 'static,
        body: G,
    ) -> Result<Self, WorkerError>
    where
        G: FnOnce(S, Stop) -> T + Send + 'static,
    {
        let stop = Stop::new();
        let (ready, is_ready) = mpsc::sync_channel(1);
        let (theirs, owner) = (stop.clone(), name.to_owned());
        let thread = Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                pin(&owner, core)?;
                let state = set_up()?;
                // The spawner waits for this, or for the sender to be gone.
                let _ = ready.send(());
                drop(ready);
                Ok(body(state, theirs))
            })
            .map_err(|source| WorkerError::Spawn {
                name: name.to_owned(),
                source,
            })?;
        if is_ready.recv().is_ok() {
            return Ok(Self {
                name: name.to_owned(),
                core,
                stop,
                thread: Some(thread),
            });
        }
        Err(match result_of(name, thread) {
            Err(error) => error,
            Ok(_) => WorkerError::Spawn {
                name: name.to_owned(),
                source: io::Error::other("it ended before it began"),
            },
        })
    }
}

impl<T> Worker<T> {
    /// The worker's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The core it is pinned to.
    #[must_use]
    pub fn core(&self) -> usize {
        self.core
    }

    /// Asks the worker to end.
    pub fn stop(&self) {
        self.stop.raise();
    }

    /// The worker's stop flag.
    #[must_use]
    pub fn stop_flag(&self) -> Stop {
        self.stop.clone()
    }

    /// Whether the worker has ended by itself or by a panic.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the worker to end and gives its result. Does not ask it to: call
    /// [`Worker::stop`] first, or wait for it to end by itself.
    ///
    /// # Errors
    /// [`WorkerError::Panicked`].
    pub fn join(mut self) -> Result<T, WorkerError> {
        match self.thread.take() {
            Some(thread) => result_of(&self.name, thread),
            None => Err(panicked(&self.name, &"joined twice")),
        }
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.stop.raise();
    }
}

fn result_of<T>(name: &str, thread: JoinHandle<Result<T, WorkerError>>) -> Result<T, WorkerError> {
    thread
        .join()
        .unwrap_or_else(|payload| Err(panicked(name, payload.as_ref())))
}

fn panicked(name: &str, payload: &(dyn Any + Send)) -> WorkerError {
    let message = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("(no message)");
    WorkerError::Panicked {
        name: name.to_owned(),
        message: message.to_owned(),
    }
}

/// Pins the calling thread, or tells which cores there are.
fn pin(name: &str, core: usize) -> Result<(), WorkerError> {
    if core < CORE_LIMIT && core_affinity::set_for_current(CoreId { id: core }) {
        return Ok(());
    }
    Err(WorkerError::NoSuchCore {
        name: name.to_owned(),
        core,
        online: online_cores(),
    })
}

fn online_cores() -> String {
    fs::read_to_string("/sys/devices/system/cpu/online")
        .map_or_else(|_| "not known".to_owned(), |list| list.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_worker_runs_pinned_and_named_until_it_is_stopped() {
        let worker = Worker::spawn("pinned", 0, |stop| {
            while !stop.is_raised() {
                thread::sleep(Duration::from_millis(1));
            }
            let cores = core_affinity::get_core_ids().unwrap();
            (thread::current().name().map(str::to_owned), cores)
        })
        .unwrap();
        assert!(!worker.is_finished());
        worker.stop();
        let (name, cores) = worker.join().unwrap();
        assert_eq!(name.as_deref(), Some("pinned"));
        assert_eq!(cores, [CoreId { id: 0 }]);
    }

    #[test]
    fn a_core_that_does_not_exist_is_refused_by_name() {
        for core in [1_023, 1_024, usize::MAX] {
            let error = Worker::spawn("w", core, |_| ()).unwrap_err();
            let WorkerError::NoSuchCore {
                core: found,
                online,
                ..
            } = &error
            else {
                panic!("{error}");
            };
            assert_eq!(*found, core);
            assert!(online.starts_with('0'), "{online}");
        }
    }

    #[test]
    fn a_panic_comes_back_as_an_error_with_its_message() {
        let worker = Worker::<()>::spawn("w", 0, |_| panic!("lost {}", 7)).unwrap();
        let error = worker.join().unwrap_err();
        assert_eq!(error.to_string(), "worker w panicked: lost 7");
    }

    #[test]
    fn a_dropped_worker_is_asked_to_end() {
        let (ended, has_ended) = mpsc::channel();
        let worker = Worker::spawn("w", 0, move |stop| {
            while !stop.is_raised() {
                thread::sleep(Duration::from_millis(1));
            }
            ended.send(()).unwrap();
        })
        .unwrap();
        drop(worker);
        has_ended.recv_timeout(Duration::from_secs(10)).unwrap();
    }
}
