//! How often this process has forked, which shows whether another process may have its descriptors; and whether a thread is the
//! copy, in a child, of a worker's thread.
//!
//! A listener asks for the count before it makes the kernel refuse clients: the refusal holds for every process that has the
//! socket, and another process may still serve (`transport/server_socket.rs`). A worker's thread asks whether it
//! is in a child: copied by a fork in a handler, it must not take its parent's requests (`server/open_request.rs`), nor run
//! its coroutines (`mixin/green/parked.rs`).
//!
//! fork(3) runs the handlers that were registered by pthread_atfork(3). They cannot be taken back, so each is registered
//! for good, and decides itself whether it has anything to do. Two threads may both register a handler, which does no harm. A
//! `Once` would do harm: a child that is forked while another thread is in the `Once` would wait for that thread for ever.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::process::enter_bare_fork;

/// How many counted forks this process has made since the first call of [`Moment::now`].
///
/// Atomic, because any thread of the program may fork.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// This process, and how often it has forked since the first call of [`now`](Self::now). If two moments are equal, no fork
/// between them has copied a descriptor that was made at the first.
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
            // SAFETY: the function may run in the parent after any fork: it is an atomic addition. The call fails only without
            // memory. Then forks are not counted; but in that state the next allocation ends the process.
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

/// Runs a fork that is not counted. To write to the count would make the kernel copy its page.
///
/// `fork` must be one fork at most, on this thread. The mark is a thread-local, so that another thread's fork is counted
/// meanwhile. In the child the mark is cleared as well.
#[inline]
pub(super) fn uncounted<R>(fork: impl FnOnce() -> R) -> R {
    UNCOUNTED.set(true);
    let forked = fork();
    UNCOUNTED.set(false);
    forked
}

/// Makes each child of a bare fork note that it is one, from the moment of the fork on ([`enter_bare_fork`]). Called at the
/// beginning of each run, and of a worker's thread: before there is anything that such a child must not take for its own.
///
/// [pthread_atfork(3)](https://man7.org/linux/man-pages/man3/pthread_atfork.3.html) misses a bare clone(2). The forks of
/// [`uncounted`] are left out: their children are `Forking`'s, or execute another program.
pub(crate) fn note_children() {
    static NOTES: AtomicBool = AtomicBool::new(false);
    if !NOTES.load(Ordering::SeqCst) {
        // SAFETY: the function may run in the child after any fork: it takes no lock and no memory. The call fails only without
        // memory. Then children are not noted; but in that state the next allocation ends the process.
        unsafe { libc::pthread_atfork(None, None, Some(enter_child)) };
        NOTES.store(true, Ordering::SeqCst);
    }
}

/// Runs in the child after each fork, on the copy of the thread that has forked.
extern "C" fn enter_child() {
    // If the handler is registered twice, this runs twice, and a count of two does as well: it only has to differ from the
    // parent's.
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

/// Makes [`is_in_child`] true in the children that this thread forks. For threads that take one request after another.
pub(crate) fn mark_children_of_this_thread() {
    note_children();
    IS_MARKED.set(true);
}

/// Whether this thread is the copy of a marked one, in a forked child. False on threads that the child starts.
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
        // SAFETY: the closure does nothing. Because of it std calls fork(3), and not posix_spawn(3).
        unsafe { forked.pre_exec(|| Ok(())) };
        assert!(forked.status().unwrap().success());
        assert_ne!(Moment::now(), before);
    }
}
