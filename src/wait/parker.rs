//! How a thread that runs many requests waits: the interface of a mixin with coroutines.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Instant;

use super::note;

/// What a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interest {
    /// Until there is something to read or to accept, or the end of input.
    Read,
    /// Until there is room to write.
    Write,
}

/// One descriptor of a wait.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Waiting<'a> {
    /// The descriptor.
    pub fd: BorrowedFd<'a>,
    /// What to wait for.
    pub interest: Interest,
    /// A connection's home for what its worker knows of it; none for listeners and events, which
    /// several workers may wait for at once.
    pub slot: Option<&'a Slot>,
}

/// A place, kept beside a descriptor, for what a [`Parker`] wants to remember of it: that it is
/// registered, say. It starts as zero, and only the worker that runs the request touches it.
#[derive(Debug, Default)]
pub struct Slot {
    value: Cell<usize>,
}

impl Slot {
    /// What was last [`set`](Self::set); at first zero.
    #[must_use]
    pub fn get(&self) -> usize {
        self.value.get()
    }

    /// Remembers a value. When the descriptor is about to be closed and the value is not zero,
    /// [`Parker::forget`] is called.
    pub fn set(&self, value: usize) {
        self.value.set(value);
    }
}

/// How a thread waits that runs many requests at once: by suspending the one that waits.
///
/// A mixin that runs requests as coroutines (none of this crate does; one of your own may) implements it and
/// installs it, by [`install`], on each of its threads. Everything that a request may wait for comes through
/// [`park`](Self::park).
///
/// When no coroutine can go on and the thread itself is about to wait, it has to call [`flush`](super::flush): replies
/// to datagrams are held back until then, so that one system call sends many.
pub trait Parker {
    /// Suspends the calling coroutine until one of the descriptors is ready or the deadline has
    /// passed. It may come back early: the caller tries again and waits again.
    ///
    /// With no descriptor it is a sleep. It is never called while the thread is panicking, because a
    /// coroutine that is suspended in the middle of an unwind makes every other one on the thread
    /// believe that it is panicking as well.
    ///
    /// # Errors
    ///
    /// Only if the wait itself cannot be done (no memory to register it); it is then the error of the
    /// read, write or accept that waited.
    fn park(&self, waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<()>;

    /// A descriptor whose slot is not zero is about to be closed.
    fn forget(&self, fd: BorrowedFd<'_>, slot: &Slot);
}

thread_local! {
    static PARKER: RefCell<Option<Rc<dyn Parker>>> = const { RefCell::new(None) };
}

/// Makes every wait on this thread go through `parker`, until the guard is dropped.
pub fn install(parker: Rc<dyn Parker>) -> Installed {
    let before = PARKER.with(|current| current.replace(Some(parker)));
    note(|here| here.parked = true);
    Installed { before }
}

/// Keeps a [`Parker`] installed on this thread; dropping it brings back the one before.
#[must_use = "the parker is removed when this is dropped"]
pub struct Installed {
    before: Option<Rc<dyn Parker>>,
}

impl Drop for Installed {
    fn drop(&mut self) {
        note(|here| here.parked = self.before.is_some());
        // No thread-local is left to restore when the thread is at its end.
        let _ = PARKER.try_with(|current| current.replace(self.before.take()));
    }
}

impl fmt::Debug for Installed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installed").finish_non_exhaustive()
    }
}

/// The parker of this thread, taken out of the thread-local: a coroutine must not be suspended
/// inside `with`, which would leave the next one's borrow to meet its own.
pub(crate) fn parker() -> Option<Rc<dyn Parker>> {
    PARKER.with(|current| current.borrow().clone())
}
