//! Threads without a request, and when they leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::Instant;

/// A thread without a request. What it shares is changed under the lock of the list.
#[derive(Debug)]
pub(super) struct IdleWorker {
    thread: Thread,
    /// Taken off the list, to come to the queue. Others may unpark a thread as well: this is what tells.
    called: AtomicBool,
    /// It waits by the clock. Only the first of the list has to, which is the next to leave: to set a timer
    /// for each wait of a busy thread would cost a twentieth of a short request.
    watches: AtomicBool,
}

/// The calling thread, at work still.
impl Default for IdleWorker {
    fn default() -> Self {
        let (called, watches) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { thread: thread::current(), called, watches }
    }
}

impl IdleWorker {
    /// Waits to be called, until the moment at the most. May come back early.
    pub(super) fn park(&self, until: Option<Instant>) {
        match until {
            Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
            None => thread::park(),
        }
    }

    pub(super) fn unpark(&self) {
        self.thread.unpark();
    }

    pub(super) fn is_called(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }
}

/// The last one in is the first one out, because its stack is warm and because the others can then leave. The
/// mixin keeps the list under the lock of its queue.
#[derive(Debug, Default)]
pub(super) struct IdleWorkers {
    threads: Vec<Arc<IdleWorker>>,
}

impl IdleWorkers {
    pub(super) fn enter(&mut self, idle: &Arc<IdleWorker>) {
        idle.called.store(false, Ordering::Relaxed);
        self.threads.push(Arc::clone(idle));
    }

    /// Takes the last one off the list; the caller unparks it when it has let go of the lock.
    pub(super) fn call(&mut self) -> Option<Arc<IdleWorker>> {
        let idle = self.threads.pop()?;
        idle.called.store(true, Ordering::Relaxed);
        Some(idle)
    }

    pub(super) fn leave(&mut self, idle: &Arc<IdleWorker>) {
        self.threads.retain(|other| !Arc::ptr_eq(other, idle));
    }

    /// Whether this thread leaves when its time has come, and so watches the clock: the first one, unless it is the
    /// last that is left. `another`: there is one beside the list.
    pub(super) fn is_next_to_leave(&self, idle: &Arc<IdleWorker>, another: bool) -> bool {
        let is_first = self.threads.first().is_some_and(|first| Arc::ptr_eq(first, idle));
        let next = is_first && (another || self.threads.len() > 1);
        idle.watches.store(next, Ordering::Relaxed);
        next
    }

    /// Has the one that is the next to leave watch the clock, if it does not yet.
    pub(super) fn have_first_watch(&self, another: bool) {
        let Some(first) = self.threads.first() else { return };
        let may_leave = another || self.threads.len() > 1;
        if may_leave && !first.watches.load(Ordering::Relaxed) {
            first.thread.unpark();
        }
    }

    /// Sends all away.
    pub(super) fn dismiss(&mut self) {
        for idle in self.threads.drain(..) {
            idle.thread.unpark();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.threads.len()
    }

    #[cfg(test)]
    pub(super) fn last_in(&self) -> Option<thread::ThreadId> {
        self.threads.last().map(|idle| idle.thread.id())
    }
}
