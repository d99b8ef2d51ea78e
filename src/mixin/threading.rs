//! A thread for each live request: Python's `ThreadingMixIn`.
//!
//! The type has settings only. Threads come and go in `worker_queue.rs`, as [`Size::Growing`]: one is started when a
//! request comes and no thread is free, up to `max_threads`, and leaves when it has been idle for
//! [`keep`](Threading::keep). If there is a maximum, a gate stops the accept loop at it; otherwise only `Limits::live`
//! does.

use std::time::Duration;

use super::Mixin;
use super::delegate::delegate;
use super::worker_queue::Size;
use super::workers::{Workers, worker_setters};
use crate::gate::Gate;

/// Runs each request in its own thread, so that a slow client keeps no other client waiting.
///
/// A thread that has finished its request is kept for the next one for a while, which costs less than
/// half of starting one (measured: 16 against 37 microseconds a connection). In a rush of short requests
/// a thread that has finished takes the next request by itself, and another thread is woken only for a request that would
/// have to wait behind a long one. Nothing grows with the number of requests served.
///
/// ```
/// use socketserver::mixin::WhenFull;
/// use socketserver::Threading;
///
/// let mixin = Threading::new().max_threads(200).when_full(WhenFull::Refuse).stack_size(256 * 1024);
/// # let _ = mixin;
/// ```
#[derive(Debug)]
pub struct Threading {
    /// The settings, and the threads once there are any. The size is always [`Size::Growing`].
    workers: Workers,
}

/// The fate of a request for which no worker is free: the argument of [`Threading::when_full`] and
/// [`Pool::when_full`](crate::Pool::when_full).
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
/// enough that the threads of a rush are gone soon after it.
const KEEP_IDLE_THREAD: Duration = Duration::from_secs(5);

impl Default for Threading {
    fn default() -> Self {
        Self {
            workers: Workers::new(Size::Growing { max: usize::MAX, keep: KEEP_IDLE_THREAD }, None),
        }
    }
}

impl Threading {
    /// Threads without a separate limit: only `Limits::live` applies.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At most this many requests at once. Default: no limit but `Limits::live`.
    ///
    /// # Panics
    ///
    /// If there is no descriptor for the event behind the limit.
    #[must_use]
    #[doc(alias("Semaphore", "BoundedSemaphore"))]
    pub fn max_threads(mut self, max: usize) -> Self {
        let settings = &mut self.workers.settings;
        // A setter cannot fail, and the maximum must not be lost in silence.
        settings.gate =
            Some(Gate::new(max.max(1)).expect("a descriptor for the gate of max_threads"));
        if let Size::Growing { max: most, .. } = &mut settings.size {
            // The gate limits the requests, and this setting limits the threads.
            *most = max.max(1);
        }
        self
    }

    /// How long a thread is kept for its next request; the last idle thread stays. Default: 5 s. Zero: each request
    /// gets a new thread.
    #[must_use]
    pub fn keep(mut self, time: Duration) -> Self {
        // The size always is `Growing`.
        if let Size::Growing { keep, .. } = &mut self.workers.settings.size {
            *keep = time;
        }
        self
    }

    /// Python's `daemon_threads`: whether `server_close` leaves running requests alone. They end with
    /// the process at the latest. Default: false.
    #[must_use]
    pub fn daemon_threads(mut self, daemon: bool) -> Self {
        self.workers.daemon_threads = daemon;
        self
    }

    worker_setters!();
}

impl Mixin for Threading {
    delegate!(self => self.workers);
}
