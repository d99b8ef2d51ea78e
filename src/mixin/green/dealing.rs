//! How the accept loop deals requests to the workers: to the least loaded one, and ties to its own.
//!
//! The loop is a coroutine among the worker's others. So it gives way after some requests that came without a wait: they
//! were put into the run queue, and would else begin only when the accept queue is empty. The load of a worker counts a
//! request from the moment it is dealt, not when the worker takes it: a burst spreads over all of them.

use std::sync::Arc;

use super::Group;
use super::worker::{self, Worker};
use crate::mixin::Job;

/// How many requests the acceptor takes before others have their turn.
pub(super) const ACCEPTED_AT_ONCE: u32 = 64;

/// Deals a request from the accept loop, which runs on this thread. Given back: this thread is no worker of the group.
pub(super) fn deal(group: &Arc<Group>, job: Job) -> Option<Job> {
    match worker::here(group) {
        Some(worker) => {
            worker.deal(job);
            None
        }
        None => Some(job),
    }
}

impl Worker {
    /// A request that the accept loop of this thread has taken.
    fn deal(&self, job: Job) {
        let load = |worker: usize| self.group.workers[worker].status.load();
        let least = self.group.least_loaded();
        // Ties go to this worker: a request that stays costs no wake-up.
        if job.stays_with_acceptor() || load(self.number) <= load(least) {
            self.group.begin_request(self.number);
            self.start(job);
        } else {
            self.group.send(least, job);
        }
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
