//! A fixed number of threads, first come first served.
//!
//! A gate bounds the requests of a pool; its maximum is the number of threads plus the length of the queue. With
//! `Pool::new(4).queue(64)` it is 68: four requests run, 64 wait in the pool's queue, and the accept loop then leaves the
//! next client in the kernel's queue.

use super::Mixin;
use super::delegate::delegate;
use super::worker_queue::Size;
use super::workers::{Workers, worker_setters};
use crate::gate::Gate;

/// Runs requests in a fixed number of threads. Requests that come while all threads are busy wait in a queue, in the
/// order in which they came. When the queue is full, the server stops accepting, or refuses requests.
///
/// Use it for requests that end by themselves soon. A client that keeps its connection keeps a thread: with as many idle
/// clients as threads, no other client is served.
///
/// ```
/// use socketserver::Pool;
///
/// let mixin = Pool::new(4).queue(64);
/// # let _ = mixin;
/// ```
#[derive(Debug)]
pub struct Pool {
    /// The threads and their queue. The gate bounds the running and the waiting requests together.
    workers: Workers,
    /// The number of threads. The gate's maximum is this number plus the length of the queue.
    count: usize,
}

/// The default of [`Pool::queue`]: as many requests as one worker serves in a second, at a millisecond each.
const DEFAULT_QUEUE: usize = 1_024;

impl Pool {
    /// A pool of `workers` threads, at least one. They start with the first request, as many as the system allows. With
    /// more than 65,536 workers, or without a descriptor for the event of the queue, `bind` fails.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let count = workers.max(1);
        // Without a gate, `check` fails.
        let gate = Gate::new(count.saturating_add(DEFAULT_QUEUE)).ok();
        Self { workers: Workers::new(Size::Fixed(count), gate), count }
    }

    /// How many requests may wait for a worker. Default: 1,024. Zero: while all workers are busy, the next client stays in
    /// the kernel's queue; or, with [`WhenFull::Refuse`](super::WhenFull::Refuse), it is accepted and refused.
    #[must_use]
    pub fn queue(self, requests: usize) -> Self {
        // Without a gate, `check` fails.
        if let Some(gate) = &self.workers.settings.gate {
            gate.set_max(self.count.saturating_add(requests));
        }
        self
    }

    /// How many requests the pool serves at once.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.count
    }

    worker_setters!();
}

/// As many workers as the machine has processors, and at least four, because workers wait for
/// their clients more than they compute.
impl Default for Pool {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(4, usize::from).max(4))
    }
}

impl Mixin for Pool {
    delegate!(self => self.workers);
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use crossbeam_channel::unbounded;

    use super::*;
    use crate::mixin::fake_job::{FakeJobs, FakeServer};

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_queued_is_refused_when_no_worker_comes() {
        let (goes_on, may_go_on) = unbounded::<()>();
        let pool = Pool::new(2).on_thread_start(move || {
            let _ = may_go_on.recv();
            panic!("no database");
        });
        let jobs = FakeJobs::new();
        for _ in 0..3 {
            pool.process_request(jobs.job());
        }
        assert!(jobs.refusals.is_empty(), "a worker may still come");
        drop(goes_on);
        for _ in 0..3 {
            let why = jobs.refusals.recv_timeout(SOON).expect("it is refused");
            assert!(why.contains("all workers of the pool have ended"), "{why}");
        }
        pool.workers.queue().group.wait_until_gone(Instant::now() + SOON);
        let gate = pool.workers.settings.gate.as_ref().unwrap();
        assert_eq!(gate.count(), 0, "their places are given back");
        pool.process_request(jobs.job());
        let why = jobs.refusals.recv_timeout(SOON).expect("so is one that comes later");
        assert!(why.contains("all workers of the pool have ended"), "{why}");
    }

    #[test]
    fn the_only_worker_is_called_back_from_accepting_to_the_queue() {
        let (pool, server, jobs) = (Pool::new(1), FakeServer::new(), FakeJobs::new());
        for _ in 0..100 {
            pool.process_request(jobs.job_of(server.erased()));
            jobs.ran.recv_timeout(SOON).expect("it comes");
            jobs.ends.send(()).unwrap();
            let since = Instant::now();
            while !server.is_accepting() {
                assert!(since.elapsed() < SOON, "it accepts");
                thread::yield_now();
            }
        }
        pool.server_close(Instant::now() + SOON);
        let threads = pool.workers.queue().group.len();
        assert_eq!(threads, 0, "a worker that accepts leaves when the pool closes");
    }
}
