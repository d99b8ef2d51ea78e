//! [`Workers`]: the common part of [`Threading`](super::Threading) and [`Pool`](super::Pool).
//!
//! Each is a [`WorkerQueue`] with a [`Size`] of its own, and forwards every method to the `Workers` in it (`delegate.rs`).
//! The setters that both have are written once, as a macro: a trait would have to be imported to call them.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::thread_group::ThreadOptions;
use super::worker_queue::{QueueSettings, Size, WorkerQueue};
use super::{Job, Mixin, WhenFull, WorkerFigures};
use crate::error::{Error, Result};
use crate::gate::Gate;

/// The settings, and a [`WorkerQueue`] that the first request makes of them.
#[derive(Debug)]
pub(super) struct Workers {
    /// Changed by the setters, before the queue is made.
    pub(super) settings: QueueSettings,
    /// Python's `block_on_close`: whether a close waits for running requests.
    pub(super) block_on_close: bool,
    /// Python's `daemon_threads`: if true, a close does not wait for running requests either. [`Pool`](super::Pool) never
    /// sets it.
    pub(super) daemon_threads: bool,
    /// Made by the first request, or by a close. Not by a setter, because the queue copies the values of all setters.
    queue: OnceLock<Arc<WorkerQueue>>,
}

/// The most workers of a pool, which all start at once. No usual machine gives a process as many threads.
const MAX_POOL_WORKERS: usize = 65_536;

impl Workers {
    /// Workers of this size and with this gate, and with the defaults of all other settings. Starts no thread.
    pub(super) fn new(size: Size, gate: Option<Arc<Gate>>) -> Self {
        let (when_full, threads) = (WhenFull::default(), ThreadOptions::default());
        let settings = QueueSettings { size, gate, when_full, threads };
        Self { settings, block_on_close: true, daemon_threads: false, queue: OnceLock::new() }
    }

    /// Makes the queue at the first call. From then on the settings are fixed.
    pub(super) fn queue(&self) -> &Arc<WorkerQueue> {
        self.queue.get_or_init(|| Arc::new(WorkerQueue::new(self.settings.clone())))
    }
}

impl Mixin for Workers {
    /// Reports what the setters could not: they return the mixin, and no error.
    fn check(&self) -> Result<()> {
        match self.settings.size {
            Size::Fixed(workers) if workers > MAX_POOL_WORKERS => {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "65,536 are the most");
                Err(Error::io("make", format!("a pool of {workers} workers (Pool::new)"), error))
            }
            // `Pool::new` could not make the gate, and cannot return an error.
            Size::Fixed(_) if self.settings.gate.is_none() => {
                let error = io::Error::from_raw_os_error(libc::EMFILE);
                Err(Error::io("make an event for", "the queue of a pool (Pool::new)", error))
            }
            _ => self.settings.threads.check(),
        }
    }

    /// Runs the loop in this thread. In a forked child it first makes the gate the child's own; and it fails there if the
    /// parent had started threads before the fork: they are not in the child, and its jobs would wait for ever. This is
    /// checked once for each run, and not for each request.
    fn serve(&self, accept_loop: Arc<dyn Fn() -> Result<()> + Send + Sync>) -> Result<()> {
        let cannot = |error| Error::io("go on in", "a forked child", error);
        if self.queue.get().is_some_and(|queue| queue.group.is_left_behind()) {
            let why = "the threads that serve requests have stayed in the process that has forked this one, and so has \
                       what they had locked; fork before the first request, or serve the listener's descriptor by a \
                       server of the child's own (`from_fd`)";
            return Err(cannot(io::Error::other(why)));
        }
        // No thread was left behind, so no request of the parent has a place in the gate either.
        if let Some(gate) = &self.settings.gate {
            gate.enter_process().map_err(cannot)?;
        }
        accept_loop()
    }

    fn process_request(&self, job: Job) {
        // The first request makes the queue, and its threads.
        self.queue().process_request(job);
    }

    /// With `Refuse` the loop accepts at the limit too, so that the `overflow` hook can answer.
    fn ready(&self) -> bool {
        let QueueSettings { gate, when_full, .. } = &self.settings;
        // Under `Refuse` the gate is not asked: a closed gate that is asked notes that a loop waits.
        *when_full == WhenFull::Refuse || gate.as_ref().is_none_or(|gate| gate.is_open())
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.settings.gate.as_ref().map(|gate| gate.event_fd())
    }

    fn service_actions(&self) {
        if let Some(gate) = &self.settings.gate {
            gate.settle();
        }
    }

    fn block_on_close(&self) -> bool {
        self.block_on_close && !self.daemon_threads
    }

    /// Yes, unless each request has a new thread: such a worker ends after its first job.
    fn workers_accept(&self) -> bool {
        !matches!(self.settings.size, Size::Growing { keep, .. } if keep.is_zero())
    }

    /// Before the first request there is no queue, and this call does not make one: the settings would be fixed by it.
    fn figures(&self) -> WorkerFigures {
        let QueueSettings { size, gate, .. } = &self.settings;
        // Without a maximum of the mixin only `Limits::live` applies, which the server knows.
        let max_busy = match size {
            Size::Fixed(count) => Some(*count),
            Size::Growing { max, .. } => Some(*max).filter(|max| *max < usize::MAX),
        };
        // The gate of a pool bounds the requests that run and those that wait together.
        let max_queued = match (size, gate) {
            (Size::Fixed(count), Some(gate)) => Some(gate.max().saturating_sub(*count)),
            _ => None,
        };
        let none = || {
            let (busy, idle, queued) = (Some(0), Some(0), Some(0));
            WorkerFigures { busy, idle, queued, ..WorkerFigures::default() }
        };
        let now = self.queue.get().map_or_else(none, |queue| queue.figures());
        WorkerFigures { max_busy, max_queued, ..now }
    }

    fn server_close(&self, deadline: Instant) {
        // A mixin that has served nobody has no queue yet. It makes one here, so that later jobs are refused as well. That
        // starts no thread.
        let queue = self.queue();
        queue.close();
        // Daemon threads go on: the close is over when the queue is closed.
        if self.block_on_close() {
            queue.group.wait_until_gone(deadline);
        }
    }
}

/// The workers end when they have emptied the queue. Nothing waits for them.
impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.get() {
            queue.close();
        }
    }
}

/// The setters that every mixin with threads has.
macro_rules! worker_setters {
    () => {
        /// Whether requests wait, in the kernel's queue, or are refused when there is no room for more. Default: they
        /// wait.
        #[must_use]
        pub fn when_full(mut self, when_full: crate::mixin::WhenFull) -> Self {
            self.workers.settings.when_full = when_full;
            self
        }

        /// Python's `block_on_close`: whether `server_close` waits until no request is queued or running and the
        /// workers have ended. Default: true.
        #[must_use]
        pub fn block_on_close(mut self, block: bool) -> Self {
            self.workers.block_on_close = block;
            self
        }

        /// The beginning of the threads' names; a number follows. Default: the handler's type name.
        /// Linux shows the first 15 bytes.
        #[must_use]
        pub fn thread_name(mut self, name: impl Into<String>) -> Self {
            self.workers.settings.threads.name = Some(name.into());
            self
        }

        /// The size of each thread's stack, in bytes. Default: std's, which is 2 MiB of addresses;
        /// memory is taken only for pages that are touched. Less than 64 KiB is raised to 64 KiB, which is little for a
        /// handler. With a size that the system does not give, `bind` fails.
        #[must_use]
        pub fn stack_size(mut self, bytes: usize) -> Self {
            let bytes = bytes.max(crate::mixin::thread_group::MIN_STACK_BYTES);
            self.workers.settings.threads.stack_bytes = Some(bytes);
            self
        }

        /// Runs in each thread before its first request: to open a database connection, say.
        ///
        /// A panic in it ends the thread. [`Threading`](crate::Threading) then refuses the request for which the thread was
        /// started; [`Pool`](crate::Pool) refuses requests when all of its threads have ended in this way.
        ///
        /// ```
        /// use std::cell::Cell;
        /// use socketserver::{Pool, Threading};
        ///
        /// thread_local! {
        ///     static SEED: Cell<u64> = const { Cell::new(0) };
        /// }
        ///
        /// let pool = Pool::new(4).on_thread_start(|| SEED.set(7));
        /// let threads = Threading::new().on_thread_start(|| SEED.set(7));
        /// # let _ = (pool, threads);
        /// ```
        #[must_use]
        pub fn on_thread_start(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
            self.workers.settings.threads.on_start = Some(std::sync::Arc::new(hook));
            self
        }

        /// Runs in each thread after its last request.
        ///
        /// It is not called in a thread that has ended by a panic, nor in one that is still running when the process
        /// exits.
        #[must_use]
        pub fn on_thread_stop(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
            self.workers.settings.threads.on_stop = Some(std::sync::Arc::new(hook));
            self
        }
    };
}
pub(super) use worker_setters;
