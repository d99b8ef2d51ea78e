//! A descriptor that one side makes readable and another side waits for; and which process owns it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Interest, Waiting};
use crate::process::{self, OwnerProcess};
use crate::sys::{self, PerProcess};

/// A descriptor that one side makes readable and another side waits for.
///
/// It stays readable until it is cleared, so that a notification that comes just before a wait is not lost. A mixin wakes
/// the accept loop by an event (`event_fd`), and a transport without a socket of its own returns one from `fileno`.
/// It uses one descriptor (two where the system has no eventfd).
///
/// A forked child that begins to serve gets a descriptor of its own, under the same number, when it next waits for the
/// event. Until then the descriptor is the parent's. The children of [`Forking`](crate::Forking), which serve one
/// request each, never get one. A child must not wake its parent, so `notify` and `clear` do nothing while the
/// descriptor is the parent's.
///
/// ```
/// use std::os::fd::AsFd;
/// use socketserver::park::{Event, Interest};
///
/// # fn main() -> std::io::Result<()> {
/// let event = Event::new()?;
/// event.notify();
/// event.notify(); // nothing more: it is readable already
/// event.clear();
/// # let _ = (event.as_fd(), Interest::Read);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Event {
    /// The descriptors. They keep their numbers for as long as the event lives.
    ends: sys::event::Ends,
    /// The process that the descriptors belong to.
    owner: OwnerProcess,
}

impl Event {
    /// Makes an event that is not notified.
    ///
    /// # Errors
    ///
    /// If there is no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { ends: sys::event::new()?, owner: OwnerProcess::this_process() })
    }

    /// Makes the event readable. This never blocks, and a signal handler may call it. In a child of the process that
    /// owns the event, this does nothing.
    pub fn notify(&self) {
        if self.is_ours() {
            sys::event::notify(&self.ends);
        }
    }

    /// Makes the event unreadable again. In a child of the process that owns the event, this does nothing.
    pub fn clear(&self) {
        if self.is_ours() {
            sys::event::clear(&self.ends);
        }
    }

    /// Waits until the event is notified, or the timeout has passed; None is no timeout. True: it is notified, and
    /// stays so until it is [cleared](Self::clear). False: the timeout has passed. A plain thread blocks meanwhile; a
    /// coroutine parks, and its thread goes on with others.
    ///
    /// # Errors
    ///
    /// The errors of the wait: a coroutine's is [cancelled](super::Cancelled) at the deadline of a drain.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        self.own_if_noted();
        // A moment beyond the clock's range is never.
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            // Checked before the deadline: if the event is notified and the deadline has passed, the event counts.
            if self.is_set() {
                return Ok(true);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(false);
            }
            super::any(&[self.waiting()], until)?;
        }
    }

    /// Whether the event's descriptor is this process's own.
    pub(crate) fn is_ours(&self) -> bool {
        self.owner.is_this_process()
    }

    /// Whether the event's descriptor belongs to the process that was noted last. This costs less than
    /// [`is_ours`](Self::is_ours), which asks the system.
    pub(crate) fn is_of_noted_process(&self) -> bool {
        self.owner.is_noted()
    }

    /// For a forked child that becomes a server of its own: gives the event a descriptor of this process's own, which is
    /// not readable yet. A wait that has begun already still waits for the parent's descriptor.
    pub(crate) fn own(&self) -> io::Result<()> {
        // If two threads renewed the event at once, a notification of the first new descriptor would be lost.
        static ONE_AT_A_TIME: PerProcess<Mutex<()>> = PerProcess::new(Mutex::default);
        let _lock = ONE_AT_A_TIME.get().lock();
        // From here on this process is the noted one, with which the event's owner is compared.
        process::note();
        if !self.owner.is_noted() {
            sys::event::renew(&self.ends)?;
            self.owner.become_noted();
        }
        Ok(())
    }

    /// As [`own`](Self::own), if the noted process is not the event's owner. If the event was readable, it stays so.
    pub(crate) fn own_if_noted(&self) {
        if !self.is_of_noted_process() {
            let was_set = self.is_set();
            // Without a descriptor the event stays the parent's, and the next wait tries again.
            if self.own().is_ok() && was_set {
                self.notify();
            }
        }
    }

    /// Whether the event is readable now.
    pub(crate) fn is_set(&self) -> bool {
        matches!(sys::is_readable(self.waiting().fd), Ok(true))
    }

    /// The descriptor in the form of a wait. Unlike `as_fd`, this does not renew an event that is still the parent's.
    #[inline]
    pub(crate) fn waiting(&self) -> Waiting<'_> {
        Waiting { fd: sys::event::reader(&self.ends), interest: Interest::Read, slot: None }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.own_if_noted();
        sys::event::reader(&self.ends)
    }
}
