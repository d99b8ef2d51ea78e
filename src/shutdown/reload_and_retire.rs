//! [`Orders`]: what a signal may ask for without ending the run at once: to reload, and to retire.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::wait::{Event, Waiting};

/// Orders to a server that `run` serves. One thread obeys them: the thread that closes the server, or the loop if
/// there is no such thread, as under `Forking`.
///
/// ```text
/// give, in a signal's action         take, in the thread that obeys
/// reload = true                      event.clear()
/// event.notify()                     reload.swap(false)
/// ```
///
/// The signal sets the flag before it notifies the event, and the thread clears the event before it reads the flag. So
/// the order is seen, or the event stays readable.
///
/// **Async-signal-safe** are [`give_reload`](Self::give_reload) and [`give_retire`](Self::give_retire).
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// The event that wakes the thread that obeys. Made by `run`; without it no order can be given.
    event: OnceLock<Event>,
    /// Whether a reload was ordered, and not taken yet. Two orders that are taken together are one reload.
    reload: AtomicBool,
    /// Whether a lame duck with the close after it was ordered, and not taken yet.
    retire: AtomicBool,
    /// Whether the thread that closes the server obeys the orders, and not the loop.
    closer_obeys: AtomicBool,
}

/// The orders that one call has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TakenOrders {
    /// Whether to run the functions that the program has registered for a reload.
    pub(crate) reload: bool,
    /// Whether to begin the lame duck, and close after it.
    pub(crate) retire: bool,
}

impl Orders {
    /// Makes it possible to give orders, and forgets those of an earlier run. Called before each `run`.
    pub(crate) fn open(&self) -> io::Result<()> {
        let event = match self.event.get() {
            Some(event) => event,
            None => {
                let new = Event::new()?;
                // Another thread may have made one meanwhile; the new one is dropped then.
                self.event.get_or_init(|| new)
            }
        };
        // In a forked child the event is still its parent's.
        event.own()?;
        event.clear();
        // The thread that closes obeys, until the run says that there is no such thread: see `leave_to_loop`.
        self.closer_obeys.store(true, Ordering::SeqCst);
        self.reload.store(false, Ordering::SeqCst);
        self.retire.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Makes the loop obey the orders, because there is no thread that closes.
    pub(crate) fn leave_to_loop(&self) {
        self.closer_obeys.store(false, Ordering::SeqCst);
    }

    /// Asks for a reload.
    pub(crate) fn give_reload(&self) {
        self.reload.store(true, Ordering::SeqCst);
        self.event.get().map(Event::notify).unwrap_or_default();
    }

    /// Asks for a lame duck and a close after it. Returns false if no `run` obeys orders.
    pub(super) fn give_retire(&self) -> bool {
        let Some(event) = self.event.get() else { return false };
        // Stored before the event is notified: a thread that wakes finds the order.
        self.retire.store(true, Ordering::SeqCst);
        event.notify();
        true
    }

    /// Takes the orders that were given.
    pub(super) fn take(&self) -> TakenOrders {
        let Some(event) = self.event.get() else { return TakenOrders::default() };
        // Cleared before the flags are read: an order that is given in between leaves the event readable.
        event.clear();
        TakenOrders {
            reload: self.reload.swap(false, Ordering::SeqCst),
            retire: self.retire.swap(false, Ordering::SeqCst),
        }
    }

    /// Takes the orders for the loop. Takes none if the thread that closes obeys them. Without an order this costs two
    /// loads.
    pub(crate) fn take_in_loop(&self) -> TakenOrders {
        // The flags are read and not the event, which would take a system call: this runs after each request.
        let is_given = self.reload.load(Ordering::SeqCst) || self.retire.load(Ordering::SeqCst);
        if !is_given || self.closer_obeys.load(Ordering::SeqCst) {
            return TakenOrders::default();
        }
        self.take()
    }

    /// A wait for an order; `None` if no `run` has begun yet.
    pub(super) fn waiting(&self) -> Option<Waiting<'_>> {
        self.event.get().map(Event::waiting)
    }

    /// A wait for the loop; `None` if the thread that closes obeys.
    pub(crate) fn waiting_in_loop(&self) -> Option<Waiting<'_>> {
        self.waiting().filter(|_| !self.closer_obeys.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_obeyed_once_and_by_one_thread() {
        let orders = Orders::default();
        assert!(!orders.give_retire(), "there is no run");
        orders.open().unwrap();
        orders.give_reload();
        assert!(orders.waiting_in_loop().is_none());
        assert_eq!(orders.take_in_loop(), TakenOrders::default());
        orders.leave_to_loop();
        assert!(orders.give_retire());
        assert_eq!(orders.take_in_loop(), TakenOrders { reload: true, retire: true });
        assert_eq!(orders.take(), TakenOrders::default());
        assert!(!orders.event.get().unwrap().is_set());
    }
}
