//! How often this process has forked, by which it can tell whether another process may have its descriptors; and whether it is
//! itself a child of a bare fork, and of a marked thread.
//!
//! A listener asks for the count before it tells the kernel to refuse clients: that holds for every process that has the
//! socket, and another one may still serve (`transport/server_socket.rs`). A worker's thread asks whether it
//! is in a child: copied by a fork in a handler, it must not take its parent's requests (`server/open_request.rs`), nor run
//! its coroutines (`mixin/green/parked.rs`).
//!
//! fork(3) runs the handlers that were registered by pthread_atfork(3). They cannot be taken back, so each is registered
//! for good, and decides itself whether it has anything to do. A second thread may register one again meanwhile, which
//! changes nothing; a `Once` would catch a child whose parent was in it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::process::enter_bare_fork;

/// How many counted forks this process has made since the first call of [`Moment::now`].
///
/// Atomic, because any thread of the program may fork.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// This process, and how often it has forked since the first call of [`now`](Self::now). If two moments are equal, a
/// descriptor that was made at the first has come into no other process by a fork until the second.
///
/// Programs that are started by [posix_spawn(3)](https://man7.org/linux/man-pages/man3/posix_spawn.3.html), as
/// `std::process::Command` mostly does, do not count, because they do not inherit descriptors that are close-on-exec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// The process number. A child begins with its parent's count, and differs by this number.
    process: u32,
    /// The value of [`FORKS`].
    forks: u64,
}

impl Moment {
    /// The present moment. The first call registers the handler by
    /// [pthread_atfork(3)](https://man7.org/linux/man-pages/man3/pthread_atfork.3.html), which fork(3) runs. posix_spawn(3)
    /// does not run it, nor does a bare clone(2).
    pub(crate) fn now() -> Self {
        static COUNTS: AtomicBool = AtomicBool::new(false);
        if !COUNTS.load(Ordering::SeqCst) {
            // SAFETY: the function is one that may run in the parent after any fork: it is an atomic addition. There is
            // no other handler. Without memory for it the forks are not counted, which an allocation would not survive.
            unsafe { libc::pthread_atfork(None, Some(count), None) };
            COUNTS.store(true, Ordering::SeqCst);
        }
        Self { process: std::process::id(), forks: FORKS.load(Ordering::SeqCst) }
    }
}

/// Runs in the parent after each fork, on the thread that has forked.
extern "C" fn count() {
    if !UNCOUNTED.get() {
        FORKS.fetch_add(1, Ordering::SeqCst);
    }
}

thread_local! {
    /// Whether this thread is about to fork a child that closes all descriptors that it should not have.
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs a fork that is not counted. The count is then not written to, which would make the kernel copy its page.
///
/// `fork` must be one fork at most, on this thread. The mark is a thread-local, so that a fork of another thread
/// meanwhile is counted. In the child it is set back as well.
#[inline]
pub(super) fn uncounted<R>(fork: impl FnOnce() -> R) -> R {
    UNCOUNTED.set(true);
    let forked = fork();
    UNCOUNTED.set(false);
    forked
}

/// Has children of bare forks noted as such, from the moment of the fork on ([`enter_bare_fork`]). Called before anything
/// that such a child must not take for its own: at the beginning of each run.
///
/// By [pthread_atfork(3)](https://man7.org/linux/man-pages/man3/pthread_atfork.3.html): a bare clone(2) is not seen, nor is
/// the fork of [`uncounted`], whose child is `Forking`'s.
pub(crate) fn note_children() {
    static NOTES: AtomicBool = AtomicBool::new(false);
    if !NOTES.load(Ordering::SeqCst) {
        // SAFETY: the function is one that may run in the child after any fork: it takes no lock and no memory. Without memory
        // for the handler children are not told apart, which an allocation would not survive.
        unsafe { libc::pthread_atfork(None, None, Some(enter_child)) };
        NOTES.store(true, Ordering::SeqCst);
    }
}

/// Runs in the child after each fork, on the copy of the thread that has forked.
extern "C" fn enter_child() {
    // If the handler is registered twice, this is called twice: the number only has to differ.
    if !UNCOUNTED.get() {
        enter_bare_fork();
        IS_IN_CHILD.set(IS_MARKED.get());
    }
}

thread_local! {
    /// Set by [`mark_children_of_this_thread`], for good: a worker's thread stays a worker's.
    static IS_MARKED: Cell<bool> = const { Cell::new(false) };
    /// Set in a child, on the copy of a marked thread.
    static IS_IN_CHILD: Cell<bool> = const { Cell::new(false) };
}

/// Has [`is_in_child`] tell a child that this thread forks from its parent. For threads that take one request after another.
pub(crate) fn mark_children_of_this_thread() {
    note_children();
    IS_MARKED.set(true);
}

/// Whether this thread is the copy of a marked one, in a forked child. The child's own threads are not.
#[inline]
pub(crate) fn is_in_child() -> bool {
    IS_IN_CHILD.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn a_fork_is_counted_and_a_spawn_that_inherits_nothing_is_not() {
        let before = Moment::now();
        assert!(Command::new("true").status().unwrap().success());
        assert_eq!(Moment::now(), before);
        let mut forked = Command::new("true");
        // SAFETY: it does nothing, and has std fork by itself.
        unsafe { forked.pre_exec(|| Ok(())) };
        assert!(forked.status().unwrap().success());
        assert_ne!(Moment::now(), before);
    }
}
