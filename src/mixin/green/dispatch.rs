//! How the accept loop deals requests to the workers: to the least loaded one, at a tie to its own.
//!
//! The loop is a coroutine among the worker's others: requests that it deals to its own worker lie in the run queue until
//! it waits or gives way. So it gives way after [`ACCEPTED_AT_ONCE`] requests without a wait; otherwise those requests would
//! begin only when the accept queue is empty. The load of a worker counts a request from the moment it is dealt, not from
//! when the worker takes it, so that a burst spreads over all workers.

use super::worker::Worker;
use crate::mixin::Job;

/// How many requests the acceptor takes before other coroutines have their turn. A wait of the acceptor begins the count
/// anew, so the count is reached only if the accept queue does not get empty.
pub(super) const ACCEPTED_AT_ONCE: u32 = 64;

impl Worker {
    /// Gives a worker a request that the accept loop of this thread has taken.
    pub(super) fn deal(&self, job: Job) {
        let load = |worker: usize| self.group.workers[worker].status.load();
        let least = self.group.least_loaded();
        // Ties go to this worker: a request that stays costs no wake-up.
        if job.stays_with_acceptor() || load(self.number) <= load(least) {
            // This takes neither a message nor a wake-up: the request begins when the loop next waits or gives way.
            self.group.begin_request(self.number);
            self.start(job);
        } else {
            self.group.send(least, job);
        }
        // The loop is in the middle of its work here. It gives way as at a wait, and may find itself retired afterwards.
        let left = self.budget.get().saturating_sub(1);
        self.budget.set(left);
        if left == 0 {
            self.budget.set(ACCEPTED_AT_ONCE);
            if let Some(task) = self.current() {
                self.give_way(&task);
            }
        }
    }
}
