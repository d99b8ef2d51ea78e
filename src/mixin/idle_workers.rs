//! Workers without a job, and when they leave.
//!
//! ```text
//! list:   A    B    C        `call` takes C, the last one in
//!         |    `----`------- park without a timeout
//!         `----------------- the next to leave, parks with a timeout
//!
//! A leaves, or is called: `give_timeout` wakes B, which parks with a timeout now
//! ```
//!
//! The timeout of a worker counts from its own `enter`, so that B may leave at once.
//!
//! A worker leaves the list by itself, or is taken off it: by `call`, whose caller notes `wake_pending` and expects the
//! worker at the queue; or by `dismiss`, at a close. A worker that returns from its park tells `call` from `dismiss` by
//! [`IdleWorker::is_called`]. An unpark alone means neither: the worker checks under the lock, and parks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// A worker without a job. Its flags are changed under the lock that guards the list.
#[derive(Debug)]
pub(super) struct IdleWorker {
    /// The thread to unpark.
    thread: Thread,
    /// The worker was taken off the list and has to come to the queue. An unpark alone does not say that, because
    /// other code may unpark a thread as well.
    ///
    /// Atomic only so that it can be reached through the `Arc`: the lock orders all accesses.
    called: AtomicBool,
    /// The worker waits with a timeout. Only the next worker to leave does: a timer for each wait of a busy worker would
    /// cost 5 % of a short request.
    has_timeout: AtomicBool,
}

impl IdleWorker {
    /// Makes the entry of the calling thread. It is not on the list yet.
    pub(super) fn of_this_thread() -> Arc<Self> {
        let (called, has_timeout) = (AtomicBool::new(false), AtomicBool::new(false));
        Arc::new(Self { thread: thread::current(), called, has_timeout })
    }

    /// Waits to be called, at the longest until the given moment. May return early.
    pub(super) fn park(&self, until: Option<Instant>) {
        match until {
            // A moment that has passed is a timeout of zero, which returns at once.
            Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
    }

    /// Ends a `park` of this worker, or makes its next `park` return at once. Called without the lock, so that the
    /// worker does not wake only to wait for the lock.
    pub(super) fn unpark(&self) {
        self.thread.unpark();
    }

    /// Whether [`call`](IdleWorkers::call) has taken the worker off the list. Read under the lock, after each `park`.
    pub(super) fn is_called(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }
}

/// The fate of the last idle worker when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastIdle {
    /// The worker stays. Otherwise the next request would pay for a new thread, in a server that gets one every few
    /// seconds.
    Stays,
    /// The worker leaves as all others do, because another worker accepts.
    Leaves,
}

/// The idle workers of a queue, as a stack: the worker that came last is called first. Its memory is in the caches, and the
/// others stay idle for long enough to leave. A part of the state behind the lock of a
/// [`WorkerQueue`](super::worker_queue).
#[derive(Debug, Default)]
pub(super) struct IdleWorkers {
    /// In the order in which they came: the first has waited longest.
    list: Vec<Arc<IdleWorker>>,
    /// How long a worker stays. None: for good.
    keep: Option<Duration>,
}

impl IdleWorkers {
    /// Makes a list without workers.
    pub(super) fn new(keep: Option<Duration>) -> Self {
        Self { list: Vec::new(), keep }
    }

    /// Puts a worker on the list. Returns the moment at which it may leave; None: never.
    pub(super) fn enter(&mut self, worker: &Arc<IdleWorker>) -> Option<Instant> {
        // The worker may have been called in an earlier wait.
        worker.called.store(false, Ordering::Relaxed);
        self.list.push(Arc::clone(worker));
        // A time that the clock cannot count to is as good as none.
        self.keep.and_then(|keep| Instant::now().checked_add(keep))
    }

    /// Takes the last worker off the list. The caller unparks it after it has released the lock.
    pub(super) fn call(&mut self) -> Option<Arc<IdleWorker>> {
        let worker = self.list.pop()?;
        // The flag is set under the lock, before the unpark: a worker that wakes for another reason meanwhile finds it.
        worker.called.store(true, Ordering::Relaxed);
        Some(worker)
    }

    /// Removes a worker that has not been called from the list. Has no effect if the worker is not on it.
    pub(super) fn leave(&mut self, worker: &Arc<IdleWorker>) {
        self.list.retain(|other| !Arc::ptr_eq(other, worker));
    }

    /// The worker that leaves next: the first of the list, if one may leave.
    fn next_to_leave(&self, last: LastIdle) -> Option<&Arc<IdleWorker>> {
        let may_leave = self.keep.is_some() && (last == LastIdle::Leaves || self.list.len() > 1);
        self.list.first().filter(|_| may_leave)
    }

    /// Whether this worker is the next to leave, and so waits with a timeout.
    pub(super) fn is_next_to_leave(&self, worker: &Arc<IdleWorker>, last: LastIdle) -> bool {
        let is_next = self.next_to_leave(last).is_some_and(|next| Arc::ptr_eq(next, worker));
        // This is noted under the lock, before the worker parks, so that `give_timeout` wakes it only if it has no timeout.
        worker.has_timeout.store(is_next, Ordering::Relaxed);
        is_next
    }

    /// Wakes the next to leave if it waits without a timeout, so that it waits with one.
    pub(super) fn give_timeout(&self, last: LastIdle) {
        if let Some(next) = self.next_to_leave(last) {
            // The lock is held, unlike at the unpark of a call: this is rare, and the worker is not needed soon.
            if !next.has_timeout.load(Ordering::Relaxed) {
                next.thread.unpark();
            }
        }
    }

    /// Takes all workers off the list and wakes them.
    ///
    /// The workers are not called: each sees by the queue's stage why it was woken.
    pub(super) fn dismiss(&mut self) {
        for worker in self.list.drain(..) {
            worker.thread.unpark();
        }
    }

    /// How many idle workers there are.
    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    #[cfg(test)]
    pub(super) fn last_in(&self) -> Option<thread::ThreadId> {
        self.list.last().map(|worker| worker.thread.id())
    }
}
