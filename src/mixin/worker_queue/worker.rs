//! [`QueueWorker`]: a thread that takes jobs from the queue, accepts requests while there are none, and waits.
//!
//! ```text
//! starting --> has come --> job in the queue? --yes--> wake another, if there are more; run it --+
//!                            ^  no                                                               |
//!                            |  nobody accepts? --> accept for the server of the last job; run it |
//!                            |  park: idle, until woken or for `keep`                             |
//!                            +-------------------------------------------------------------------+
//! ```
//!
//! Each decision is made under the lock of the queue. No job runs, no server accepts and no hook is called under it. The
//! diagram of wake-ups, and the invariant that each unlock keeps, are in `worker_queue.rs`.
//!
//! A job that runs has a place within the gate's limit. It is given back at the end of the job unless other jobs wait: the
//! next job may have been queued without a place (see [`QueuedJob`]), and then takes over this place. So the gate opens for
//! the accept loop only when the queue has no use for the place.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::{QueueSettings, QueueState, QueuedJob, Size, Stage, WorkerQueue};
use crate::gate::Permit;
use crate::mixin::accept_slot::WorkerAccept;
use crate::mixin::idle_workers::{IdleWorker, LastIdle};
use crate::mixin::{Accepted, Job};

/// Drops a reference to a server, without the lock: with the last reference the program's handlers and hooks are dropped.
/// True: code of the program has run, and may have consumed an unpark of this thread.
pub(super) fn let_go(server: &mut Option<Arc<dyn WorkerAccept>>) -> bool {
    server.take().is_some_and(WorkerAccept::let_go)
}

/// A worker, on its own thread. Its drop takes it out of the count, also when a hook has panicked.
pub(super) struct QueueWorker {
    /// Kept alive by its workers, also when the mixin is dropped.
    pub(super) queue: Arc<WorkerQueue>,
    /// False while `QueueState::starting` counts the worker.
    pub(super) has_come: bool,
    /// The place of the job that the worker runs, or has just run.
    pub(super) permit: Option<Permit>,
}

impl QueueWorker {
    /// Comes to the queue for the first time, and runs jobs until it is time to leave: after its first job with a `keep` of
    /// zero, when it has been idle for long enough, or when the queue is closed and empty.
    pub(super) fn work(mut self) {
        let queue = Arc::clone(&self.queue);
        // One allocation for each thread, and none for each wait.
        let me = IdleWorker::of_this_thread();
        let ends_after_job =
            matches!(queue.settings.size, Size::Growing { keep: Duration::ZERO, .. });
        let mut server = None;
        let mut state = queue.state.lock();
        // The lock is held from here until the queue is read below, so that a job that was sent earlier is found.
        state.starting -= 1;
        self.has_come = true;
        loop {
            while let Ok(QueuedJob { job, permit }) = queue.receiver.try_recv() {
                // This comes before the job runs: the job may be long, and other jobs may wait behind it.
                queue.wake(state);
                let_go(&mut server);
                server = job.worker_accept();
                // A job without a permit takes over the permit of the previous job, or asks again.
                self.permit = permit.or(self.permit.take()).or_else(|| queue.try_enter());
                self.run(job);
                // `keep` of zero: each request has a new thread.
                if ends_after_job {
                    return;
                }
                // A worker accepts for the server whose job it has just run, and for no other.
                state = self.accept_requests(&queue, server.as_ref());
            }
            self.permit = None;
            if state.stage == Stage::Closed {
                return;
            }
            match queue.wait(state, &me, &mut server) {
                Some(woken) => state = woken,
                None => return,
            }
        }
    }

    /// Runs a job, and gives its place back unless another job may be waiting for it. A job does not panic: the
    /// server catches that.
    fn run(&mut self, job: Job) {
        job.run();
        // If jobs wait, the first may have no permit. It then takes over this permit.
        if self.queue.receiver.is_empty() {
            self.permit = None;
        }
    }

    /// Accepts requests of the server whose job this worker has run, and runs them, until there are jobs in the queue or
    /// the server sends it away. Does nothing if another worker accepts. Returns the guard of the lock, under which the caller
    /// reads the queue: an interrupt means that there is a job, or that the queue is closed.
    fn accept_requests<'q>(
        &mut self,
        queue: &'q Arc<WorkerQueue>,
        server: Option<&Arc<dyn WorkerAccept>>,
    ) -> MutexGuard<'q, QueueState> {
        let mut state = queue.state.lock();
        let Some(server) = server else { return state };
        while queue.receiver.is_empty()
            && state.stage == Stage::Open
            && !state.accept_slot.is_taken()
        {
            // From here on `wake` may interrupt this worker; an interrupt that comes before the accept begins is kept.
            state.accept_slot.enter(server);
            // While this worker accepts, all idle workers may leave, the last of them too.
            state.idle.give_timeout(LastIdle::Leaves);
            drop(state);
            self.permit = None;
            // The lock is not held here, because `accept` waits and runs hooks.
            let accepted = Arc::clone(server).accept(&mut || self.has_room());
            if !matches!(accepted, Accepted::Request(_)) {
                // Gives back the place that `has_room` has taken for a client that is gone. This comes before the lock is
                // taken, because a job may wait for the place.
                self.permit = None;
            }
            state = queue.state.lock();
            if state.accept_slot.leave() {
                state.wake_pending = false;
            }
            match accepted {
                Accepted::Request(job) => {
                    // If this worker was interrupted all the same, the queue needs another worker.
                    queue.wake(state);
                    self.run(job);
                    state = queue.state.lock();
                }
                Accepted::TryAgain => {}
                Accepted::Leave => break,
            }
        }
        state
    }

    /// Takes a place for a request that is about to be accepted. Called by the server, from within `accept` and perhaps
    /// several times. False: the worker comes back without a request, and the accept loop judges the next one.
    ///
    /// With a fixed size the request must not overtake a job: a pool is first come, first served. A job that comes after this
    /// check may be overtaken by one request.
    fn has_room(&mut self) -> bool {
        let QueueSettings { size, gate, .. } = &self.queue.settings;
        self.permit = self.queue.try_enter();
        let overtakes = matches!(size, Size::Fixed(_)) && !self.queue.receiver.is_empty();
        (self.permit.is_some() || gate.is_none()) && !overtakes
    }
}

impl Drop for QueueWorker {
    fn drop(&mut self) {
        // This comes first: the worker that is woken below may need the place.
        self.permit = None;
        self.queue.worker_ended(self.has_come);
    }
}
