//! How the accept loop deals requests to the workers: to the least loaded one, and ties to its own.
//!
//! The loop is a coroutine among the worker's others. So it gives way after some requests that came without a wait: they
//! were put into the run queue, and would else begin only when the accept queue is empty. The load of a worker counts a
//! request from the moment it is dealt, not when the worker takes it: a burst spreads over all of them.

use super::worker::Worker;
use crate::mixin::Job;

/// How many requests the acceptor takes before others have their turn. A wait of the acceptor begins the count anew: only an
/// accept queue that is never empty gets so far.
pub(super) const ACCEPTED_AT_ONCE: u32 = 64;

impl Worker {
    /// Gives a worker a request that the accept loop of this thread has taken.
    pub(super) fn deal(&self, job: Job) {
        let load = |worker: usize| self.group.workers[worker].status.load();
        let least = self.group.least_loaded();
        // Ties go to this worker: a request that stays costs no wake-up.
        if job.stays_with_acceptor() || load(self.number) <= load(least) {
            // Neither a message nor a wake-up: it begins when the loop next waits or gives way.
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
