//! [`StopRequest`]: a requested stop, and the event that wakes every wait for it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::wait::{Event, Waiting};

/// A requested stop. It may be requested from anywhere, at any time; a run forgets it when it has obeyed.
///
/// Invariant: from a request until the stop is forgotten the event is readable, and nothing clears it. So it wakes
/// every loop of the run, however many there are, and also a loop that begins its wait afterwards.
///
/// The converse does not hold: the event may be readable without a requested stop. A request takes three steps, and a
/// signal's action takes no lock:
///
/// ```text
/// request, in a signal's action           forget, in the thread that ends a run
/// requested = true
///                                         requested = false, is_set = false, event.clear()
/// event.notify()
/// is_set = true
/// ```
///
/// After these steps the event is readable without a requested stop, and every wait would return at once. So after each
/// wait for the event, [`settle`](Self::settle) clears it.
///
/// **Async-signal-safe** are [`request`](Self::request) and [`is_requested`](Self::is_requested).
#[derive(Debug)]
pub(super) struct StopRequest {
    /// Whether a stop is requested. The event only wakes.
    requested: AtomicBool,
    /// The event that every wait of a loop includes.
    pub(super) event: Event,
    /// Whether the event has been notified since the last clear. Without this flag each `settle` would need a system
    /// call.
    is_set: AtomicBool,
}

impl StopRequest {
    /// Makes the event; no stop is requested yet. Takes one descriptor, and two on systems without eventfd.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            requested: AtomicBool::new(false),
            event: Event::new()?,
            is_set: AtomicBool::new(false),
        })
    }

    /// Requests a stop. The flag is set before the event is notified, so that a woken loop finds the request.
    pub(super) fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        self.event.notify();
        self.is_set.store(true, Ordering::SeqCst);
    }

    /// Whether a stop is requested. One atomic load.
    #[inline]
    pub(super) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// The wait for a stop, which ends with a request. A call of [`settle`](Self::settle) must follow the wait.
    #[inline]
    pub(super) fn waiting(&self) -> Waiting<'_> {
        self.event.waiting()
    }

    /// Clears an event that is readable without a requested stop. Called after each wait.
    pub(super) fn settle(&self) {
        // With a requested stop the event has to stay readable: every loop has to see it.
        if self.is_requested() || !self.is_set.load(Ordering::SeqCst) {
            return;
        }
        // Loaded before it is swapped: this runs after every wait, and the flag is hardly ever set.
        if self.is_set.swap(false, Ordering::SeqCst) {
            self.event.clear();
            // A request has come between the first check and the clear, and its notification may be lost.
            if self.is_requested() {
                self.request();
            }
            // A request that comes after this check notifies the event itself.
        }
    }

    /// Forgets the stop: it has been obeyed, or was requested between two runs.
    ///
    /// May be called only when the run has no loop left, because another loop would miss the stop.
    pub(super) fn forget(&self) {
        self.requested.store(false, Ordering::SeqCst);
        self.is_set.store(false, Ordering::SeqCst);
        self.event.clear();
    }

    /// Replaces the event, in a forked child that goes on as a server of its own. A requested stop stays requested.
    pub(super) fn enter_process(&self) -> io::Result<()> {
        self.event.own()?;
        // In this order: a request that comes meanwhile has either found the new event, or is found here.
        let requested = self.is_requested();
        self.is_set.store(requested, Ordering::SeqCst);
        if requested {
            self.event.notify();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait;
    use std::time::Instant;

    #[test]
    fn a_request_that_crosses_the_end_of_a_run_wakes_one_wait_and_no_more() {
        let latch = StopRequest::new().unwrap();
        let is_readable = || wait::any(&[latch.waiting()], Some(Instant::now())).unwrap();
        // The steps, in the order of the diagram.
        latch.requested.store(true, Ordering::SeqCst);
        latch.forget();
        latch.event.notify();
        latch.is_set.store(true, Ordering::SeqCst);
        assert!(is_readable() && !latch.is_requested());
        latch.settle();
        assert!(!is_readable());
    }
}
