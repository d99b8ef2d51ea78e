//! A thread for each live request: Python's `ThreadingMixIn`.

use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::thread_group::{ThreadOptions, enter_process, thread_options};
use super::worker_queue::WorkerQueue;
use super::{Job, Mixin};
use crate::error::Result;
use crate::gate::Gate;

/// Runs each request in a thread of its own, so that a slow client keeps nobody waiting.
///
/// A thread that has finished its request is kept for the next one for a while, which costs less than
/// half of starting one (measured: 16 against 37 microseconds a connection). In a rush of short requests
/// one that has finished takes the next by itself, and only who would have to wait behind a long one
/// has another thread called. Nothing grows with the number of requests served.
///
/// ```
/// use socketserver::{Threading, WhenFull};
///
/// let mixin = Threading::new().max_threads(200).when_full(WhenFull::Refuse).stack_size(256 * 1024);
/// # let _ = mixin;
/// ```
#[derive(Debug, Default)]
#[doc(alias = "ThreadingMixIn")]
pub struct Threading {
    gate: Option<Arc<Gate>>,
    when_full: WhenFull,
    threads: ThreadOptions,
    keep: Option<Duration>,
    detached: bool,
    daemon: bool,
    /// Made with the first request, when all is set.
    queue: OnceLock<Arc<WorkerQueue>>,
}

/// What happens to a request for which no worker is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// The server stops accepting until a worker is free; clients wait in the kernel's queue.
    #[default]
    Wait,
    /// The request is refused at once. The `overflow` hook may say so to the client.
    Refuse,
}

/// How long a thread waits for its next request. Long enough for the pauses of a busy server, short
/// enough that the threads of a rush are gone before anybody looks.
const KEEP: Duration = Duration::from_secs(5);

impl Threading {
    /// Threads without a limit of their own: `Limits::live` holds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At most this many requests at once. Default: no limit of its own.
    ///
    /// # Panics
    ///
    /// If there is no descriptor for the event behind the limit.
    #[must_use]
    #[doc(alias("Semaphore", "BoundedSemaphore"))]
    pub fn max_threads(mut self, max: usize) -> Self {
        self.gate = Some(Gate::new(max.max(1)).expect("a descriptor for the gate of max_threads"));
        self
    }

    /// What happens at the maximum. Default: wait.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// How long a thread is kept for its next request; the last one without a request stays. Default: 5 s.
    /// Zero: each request has a new one.
    #[must_use]
    pub fn keep(mut self, time: Duration) -> Self {
        self.keep = Some(time);
        self
    }

    /// Python's `block_on_close`: whether `server_close` waits for running requests. Default: true.
    #[must_use]
    pub fn block_on_close(mut self, block: bool) -> Self {
        self.detached = !block;
        self
    }

    /// Python's `daemon_threads`: whether `server_close` leaves running requests alone. They end with
    /// the process at the latest. Default: false.
    #[must_use]
    pub fn daemon_threads(mut self, daemon: bool) -> Self {
        self.daemon = daemon;
        self
    }

    thread_options!();

    fn queue(&self) -> &Arc<WorkerQueue> {
        self.queue.get_or_init(|| {
            let (threads, keep) = (self.threads.clone(), self.keep.unwrap_or(KEEP));
            Arc::new(WorkerQueue::new(threads, keep, self.gate.clone()))
        })
    }
}

impl Mixin for Threading {
    fn check(&self) -> Result<()> {
        self.threads.check()
    }

    fn serve(&self, accept_loop: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        enter_process(self.queue.get().map(|queue| queue.group()), self.gate.as_ref())?;
        accept_loop()
    }

    fn process_request(&self, job: Job) {
        self.queue().process_request(job, self.when_full);
    }

    fn ready(&self) -> bool {
        match &self.gate {
            Some(gate) if self.when_full == WhenFull::Wait => gate.is_open(),
            _ => true,
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.gate.as_ref().map(|gate| gate.event_fd())
    }

    fn service_actions(&self) {
        if let Some(gate) = &self.gate {
            gate.settle();
        }
    }

    fn block_on_close(&self) -> bool {
        !self.detached && !self.daemon
    }

    /// Unless each request has a new thread.
    fn workers_accept(&self) -> bool {
        self.keep.is_none_or(|keep| !keep.is_zero())
    }

    fn server_close(&self, deadline: Instant) {
        let queue = self.queue();
        queue.dismiss();
        if self.block_on_close() {
            queue.wait_until_gone(deadline);
        }
    }
}

impl Drop for Threading {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.get() {
            queue.dismiss();
        }
    }
}
