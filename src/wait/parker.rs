//! [`Parker`]: how a thread that runs many requests, as coroutines, waits.
//!
//! A thread has one parker at a time, in a thread-local; [`park`](crate::park) teaches how to write one. Each use
//! clones the `Rc` out first. So nothing is borrowed while the parker runs, and within that call a coroutine may
//! install another parker, or be suspended.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::note;
use crate::sys::PollFd;

/// The aim of a wait: input, or room to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// Something to read or to accept, or the end of input.
    Read,
    /// Room to write.
    Write,
}

/// One descriptor of a wait.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Waiting<'a> {
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// Whether input or room is waited for.
    pub interest: Interest,
    /// Where a parker notes that it has registered this descriptor. None for listeners and events, which several
    /// workers may wait for at once.
    pub slot: Option<&'a Slot>,
}

impl Waiting<'_> {
    /// The same wait in the form of poll(2), for a thread that has to wait itself.
    pub(crate) fn poll_fd(&self) -> PollFd {
        // poll(2) reports errors and hang-ups for either interest.
        match self.interest {
            Interest::Read => PollFd::readable(self.fd),
            Interest::Write => PollFd::writable(self.fd),
        }
    }
}

/// A number that is kept with a descriptor, for the [`Parker`]: it may note here that it has registered the descriptor,
/// say. The number starts as zero, and only the worker that runs the request uses it.
///
/// The two directions of a connection share one slot: one coroutine may wait for input and another for room, at the
/// same time (see [`join`](fn@super::join)).
#[derive(Debug, Default)]
pub struct Slot {
    /// Atomic, because the two halves of a connection may be on two plain threads, where the value stays zero. Under
    /// a parker only one thread uses it. So no access has to order another, and it costs as much as a plain number.
    value: AtomicUsize,
    /// A hint for the caches: the address that is touched next after each wait. Zero is no hint.
    near: AtomicUsize,
}

impl Slot {
    /// The value that was last [`set`](Self::set); zero at first.
    #[must_use]
    pub fn get(&self) -> usize {
        self.value.load(Ordering::Relaxed)
    }

    /// Remembers a value. If it is not zero when the descriptor is about to be closed, [`Parker::forget`] is called.
    pub fn set(&self, value: usize) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// Notes the address that is touched next after each wait.
    #[inline]
    pub(crate) fn set_near(&self, address: usize) {
        self.near.store(address, Ordering::Relaxed);
    }

    /// The noted address; zero if there is none.
    #[cfg_attr(not(has_green), allow(dead_code, reason = "only that parker uses it"))]
    #[inline]
    pub(crate) fn near(&self) -> usize {
        self.near.load(Ordering::Relaxed)
    }
}

/// How a thread that runs many requests at once waits: it suspends the coroutine that waits.
///
/// Implement it in a mixin that runs requests as coroutines, and call [`install`] on each of its threads. From then
/// on every wait of a request on that thread calls [`park`](Self::park). (The mixin `Green` has a parker of its own.)
///
/// When no coroutine can go on, the thread itself waits. Before that it calls [`flush`](super::flush): replies to
/// datagrams are held back until then, so that one system call sends many.
pub trait Parker {
    /// Suspends the calling coroutine until one of the descriptors is ready or the deadline has passed. It may come
    /// back early: the caller tries again.
    ///
    /// Without descriptors this is a sleep. It is never called while the thread is panicking: a coroutine that is
    /// suspended in the middle of an unwind would make all others of the thread believe that they are panicking.
    ///
    /// # Errors
    ///
    /// If the wait cannot be made (no memory to register it, say), or is [cancelled](super::Cancelled). The read, write
    /// or accept that waits returns this error.
    fn park(&self, waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()>;

    /// Called when a descriptor whose slot is not zero is about to be closed.
    fn forget(&self, fd: BorrowedFd<'_>, slot: &Slot);

    /// The calling coroutine has received or sent many times without a wait, and others should have their turn.
    /// Default: it goes on.
    fn give_way(&self) {}

    /// The calling coroutine begins a section in which its waits must not be cancelled: see [`shield`](super::shield).
    /// Sections may be nested. Default: nothing, for a parker that cancels no wait.
    fn begin_shield(&self) {}

    /// The innermost section that [`begin_shield`](Self::begin_shield) has begun ends.
    fn end_shield(&self) {}

    /// Runs a closure in a coroutine of its own, on this thread: for [`join`](fn@super::join). The caller goes on,
    /// and then parks until the closure has been called or dropped. If the closure is kept and never called, the
    /// caller waits for ever.
    ///
    /// # Errors
    ///
    /// The closure itself, if it cannot be run: a parker need not spawn, and there may be no memory for a stack. The
    /// caller then uses a thread.
    fn spawn(&self, run: Box<dyn FnOnce()>) -> Result<(), Box<dyn FnOnce()>> {
        Err(run)
    }
}

thread_local! {
    /// The parker of this thread. Borrowed for moments only, never across a call of the parker.
    // `const`, so that an access need not check for the initialisation. The value is still dropped at the end of the
    // thread.
    static PARKER: RefCell<Option<Rc<dyn Parker>>> = const { RefCell::new(None) };
}

/// Makes every wait on this thread call `parker`, until the guard is dropped.
pub fn install(parker: Rc<dyn Parker>) -> Installed {
    let before = PARKER.with(|current| current.replace(Some(parker)));
    // This is also noted with the other flags: `may_block` reads them together, and does not touch the `Rc`.
    note(|here| here.parked = true);
    Installed { before }
}

/// Whether every wait on this thread calls this parker.
#[cfg(has_green)]
pub(crate) fn is_installed(parker: &dyn Parker) -> bool {
    // Compared by address: two parkers of one type are different parkers.
    PARKER.with(|current| {
        current
            .borrow()
            .as_ref()
            .is_some_and(|current| std::ptr::addr_eq(Rc::as_ptr(current), parker))
    })
}

/// Keeps a [`Parker`] installed on this thread. The previous one is back when this is dropped.
#[must_use = "the parker is removed when this is dropped"]
pub struct Installed {
    /// The earlier parker, if installs are nested.
    before: Option<Rc<dyn Parker>>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        note(|here| here.parked = self.before.is_some());
        // At the end of a thread there is no thread-local left to restore.
        let _ = PARKER.try_with(|current| current.replace(self.before.take()));
    }
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installed").finish_non_exhaustive()
    }
}

/// The parker of this thread, cloned out of the thread-local: if a coroutine were suspended inside `with`, the next
/// one would meet the borrow.
#[inline]
pub(crate) fn parker() -> Option<Rc<dyn Parker>> {
    PARKER.with(|current| current.borrow().clone())
}
