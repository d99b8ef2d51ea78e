//! [`WorkerStatus`]: what other threads may know of a worker.
//!
//! The worker writes without a lock and without waiting, at each switch; the others read. A reader may see the state of a
//! moment ago. At worst the dealer chooses a worker that is a little busier than another; and the watchdog looks twice.

use crate::sys::sync::{AtomicU64, AtomicUsize, Ordering};

/// A worker's state in numbers.
#[derive(Default)]
pub(super) struct WorkerStatus {
    /// How many requests the worker has, including those on their way to it.
    load: AtomicUsize,
    /// The request that runs, by its number plus one; zero while none does.
    running: AtomicU64,
    /// How many switches there were. A request that runs at two looks has run all the time only if this is unchanged.
    switches: AtomicU64,
}

/// The request that runs on a worker, at the moment of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunningRequest {
    /// The number of the request.
    pub(super) request: u64,
    switches: u64,
}

impl WorkerStatus {
    /// How many requests the worker has. Relaxed: a dealer that is wrong by one deals a little less evenly.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Counts a request that is on its way to the worker. True: the worker had none.
    pub(super) fn begin_request(&self) -> bool {
        self.load.fetch_add(1, Ordering::SeqCst) == 0
    }

    /// Counts a request off, which has ended or did not arrive.
    pub(super) fn end_request(&self) {
        self.load.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the worker has no request: ordered with [`begin_request`](Self::begin_request).
    pub(super) fn is_idle(&self) -> bool {
        self.load.load(Ordering::SeqCst) == 0
    }

    /// Notes that the worker switches to a request, or to none.
    #[inline]
    pub(super) fn switch_to(&self, request: Option<u64>) {
        self.running.store(request.map_or(0, |number| number.wrapping_add(1)), Ordering::Relaxed);
        // Only this thread writes the count, so load and store need not be one step.
        let switches = self.switches.load(Ordering::Relaxed).wrapping_add(1);
        // The count is stored after the number, so that no reader finds the new count with the old number. Between the two
        // stores a reader finds the new number with the old count, so one look may name a request that has only begun; the
        // watchdog looks again, some milliseconds later.
        self.switches.store(switches, Ordering::Release);
    }

    /// The request that runs now.
    pub(super) fn running(&self) -> Option<RunningRequest> {
        // Loaded before the number: the opposite of the writer's order.
        let switches = self.switches.load(Ordering::Acquire);
        let request = self.running.load(Ordering::Relaxed).checked_sub(1)?;
        Some(RunningRequest { request, switches })
    }
}
