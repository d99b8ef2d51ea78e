//! A descriptor that wakes a worker: readable from `notify` to `clear`.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::sys::sync::{Condvar, Mutex};

/// A flag in place of a descriptor. Clones are the same event.
#[derive(Clone, Debug)]
pub(crate) struct Event(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    is_readable: Mutex<bool>,
    changed: Condvar,
}

thread_local! {
    /// The event that was made last. All threads of a model are one of the system.
    static LAST: RefCell<Option<Event>> = const { RefCell::new(None) };
}

impl Event {
    #[allow(clippy::unnecessary_wraps, reason = "as the library's")]
    pub(crate) fn new() -> io::Result<Self> {
        let shared = Shared { is_readable: Mutex::new(false), changed: Condvar::new() };
        let event = Self(Arc::new(shared));
        LAST.set(Some(event.clone()));
        Ok(event)
    }

    /// The event that was made last, for the epoll set of a worker.
    pub(crate) fn last() -> Self {
        LAST.take().expect("an event was made just now")
    }

    pub(crate) fn notify(&self) {
        *self.0.is_readable.lock() = true;
        self.0.changed.notify_all();
    }

    /// Does nothing: there is one process.
    #[allow(clippy::unused_self, reason = "as the library's")]
    pub(crate) fn own_if_noted(&self) {}

    pub(crate) fn clear(&self) {
        *self.0.is_readable.lock() = false;
    }

    /// epoll_wait, without a timeout.
    pub(crate) fn wait(&self) {
        let mut is_readable = self.0.is_readable.lock();
        self.0.changed.wait_while(&mut is_readable, |is_readable| !*is_readable);
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        unreachable!("a model has no descriptors")
    }
}
