//! [`Room`]: the count of a gate, and the wake-up of the loops that wait for room.
//!
//! A loop that finds no room waits for the event. No wake-up may be lost between the two, and no system call is made
//! while nothing waits:
//!
//! ```text
//!   the loop: is_open                        a worker: leave
//!   count < max?  yes: true
//!   waiting = true            (1)            count -= 1                  (3)
//!   count < max?  yes: true   (2)            waiting?  no: done          (4)
//!   false: wait for the event                waiting = false, notify the event, notified = true
//! ```
//!
//! All accesses are `SeqCst`. If (4) reads false, it came before (1), so (3) came before (2), and the loop sees the room
//! at (2). Otherwise the worker notifies. The event stays readable until [`take_notice`](Room::take_notice) clears it, in
//! the loop.
//!
//! Several loops of one server wait for one event. A loop that has cleared the event and then finds room notifies again,
//! because the wake-up that it cleared may have been for another loop. `tests/models` tries all orders of these steps.

use crate::sys::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::wait::Event;

/// How many permits are taken, of how many, and whether a loop waits for one.
#[derive(Debug)]
pub(super) struct Room {
    /// The permits that are taken.
    pub(super) count: AtomicUsize,
    /// The maximum. It may be lowered below the count: permits that are taken stay valid, and no further one is given
    /// until enough have come back.
    max: AtomicUsize,
    /// Whether a loop has found no room, and is about to wait or waits.
    waiting: AtomicBool,
    /// Whether the event is readable.
    notified: AtomicBool,
    /// Wakes the loop. It is written to only while the loop waits.
    pub(super) event: Event,
}

impl Room {
    pub(super) fn new(max: usize, event: Event) -> Self {
        Self {
            count: AtomicUsize::new(0),
            max: AtomicUsize::new(max),
            waiting: AtomicBool::new(false),
            notified: AtomicBool::new(false),
            event,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) fn max(&self) -> usize {
        self.max.load(Ordering::SeqCst)
    }

    /// Sets the maximum. A higher one makes room, as a permit that is given back does.
    pub(super) fn set_max(&self, max: usize) {
        self.max.store(max, Ordering::SeqCst);
        self.wake();
    }

    /// Adds one to the count, if there is room.
    pub(super) fn enter(&self) -> bool {
        // A change of the maximum during this call counts as one that comes just after it.
        let max = self.max();
        let enter = |count: usize| (count < max).then_some(count + 1);
        self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, enter).is_ok()
    }

    /// Gives back what [`enter`](Self::enter) has counted.
    pub(super) fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 0 {
            // The permit is from before a fork, and this process does not count it.
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        // The wake-up comes after the count: see (3) and (4) in the diagram above.
        self.wake();
    }

    /// Whether there is room. After it has returned false, the event becomes readable as soon as there is.
    pub(super) fn is_open(&self) -> bool {
        if self.count() < self.max() {
            return true;
        }
        // At the first wait in a forked child the event is still shared with the parent, and is replaced here.
        self.event.own_if_noted();
        // First announce the wait, then check again: see the diagram above.
        let was_notified = self.take_notice();
        self.waiting.store(true, Ordering::SeqCst);
        if self.count() >= self.max() {
            return false;
        }
        // The wake-up that was cleared may have been for another loop of this server, which would sleep on although the gate
        // is open. If there is no other loop, the event stays readable until this function next finds no room.
        if was_notified {
            self.wake();
        }
        true
    }

    /// Clears the event. Returns whether it was readable.
    pub(super) fn take_notice(&self) -> bool {
        // With one loop no wake-up comes between the swap and the clear: each wake-up clears `waiting`, and only the loop
        // sets it again.
        let was_notified = self.notified.swap(false, Ordering::SeqCst);
        if was_notified {
            self.event.clear();
        }
        was_notified
    }

    /// Forgets the permits, which are the parent's, in a forked child that goes on as a server of its own. The child has a
    /// new event by now, which is not readable.
    pub(super) fn forget_permits(&self) {
        self.notified.store(false, Ordering::SeqCst);
        self.count.store(0, Ordering::SeqCst);
    }

    /// Wakes the loop if it waits. Any thread may call it.
    fn wake(&self) {
        // Usually no loop waits, and a load costs less than a swap. Of several threads that leave at once, one notifies.
        if self.waiting.load(Ordering::SeqCst) && self.waiting.swap(false, Ordering::SeqCst) {
            // In this order: the reverse could leave the event readable with `notified` false, and `take_notice` would not
            // clear it.
            self.event.notify();
            self.notified.store(true, Ordering::SeqCst);
        }
    }
}
