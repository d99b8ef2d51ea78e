//! [`PerProcess`]: a static value that each process has for itself.
//!
//! The child of a fork has one thread, and a copy of each lock as it was at that moment. A lock that another thread held
//! stays held in the copy for ever. So a static value that threads share, with its lock, is made anew in the child of a bare
//! fork. The inherited value is left as it is: to drop it could act on what belongs to the parent.
//!
//! ```text
//! newest  points to the value of this process, which is never freed; a child cannot reach its parent's any more
//! get     newest is this process's?  one load and one comparison, no system call
//! renew   makes a value, and exchanges the pointer: no thread holds a lock here, so no fork can leave one locked
//! ```
//!
//! The locks inside are std's, whose waiters are known to the kernel alone. parking_lot lists waiters in a table of the
//! process: in the child it still lists the parent's, and a wake-up for one of them is lost.

use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::process::BareFork;

/// A static value that each process has for itself: the first use in the child of a bare fork makes a new value.
///
/// A child of `Forking` keeps its parent's value: the parent has one thread, so no other thread can hold a lock in it.
pub(crate) struct PerProcess<T: 'static> {
    make: fn() -> T,
    /// Null before the first use.
    newest: AtomicPtr<ProcessValue<T>>,
}

/// A value, and the process that has made it.
struct ProcessValue<T> {
    owner: BareFork,
    value: T,
}

impl<T: Send + Sync + 'static> PerProcess<T> {
    /// `make` must not wait. It may be called more than once in a process; one of its values is kept.
    pub(crate) const fn new(make: fn() -> T) -> Self {
        Self { make, newest: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value of this process. It stays the same one for as long as the process lives.
    #[inline]
    pub(crate) fn get(&self) -> &'static T {
        let newest = self.newest.load(Ordering::Acquire);
        // SAFETY: null, or from `renew`, which has stored it with its contents; it is never freed nor borrowed mutably.
        match unsafe { newest.as_ref() } {
            Some(owned) if owned.owner.is_current() => &owned.value,
            _ => self.renew(newest),
        }
    }

    /// Makes the value of this process, in place of its parent's, or of none.
    #[cold]
    fn renew(&self, seen: *mut ProcessValue<T>) -> &'static T {
        let owned = ProcessValue { owner: BareFork::current(), value: (self.make)() };
        let made = Box::into_raw(Box::new(owned));
        let order = (Ordering::AcqRel, Ordering::Acquire);
        match self.newest.compare_exchange(seen, made, order.0, order.1) {
            // SAFETY: from a box just now, and never freed from here on.
            Ok(_) => unsafe { &(*made).value },
            Err(others) => {
                // SAFETY: from a box just now, and no other thread has seen it.
                drop(unsafe { Box::from_raw(made) });
                // SAFETY: another thread of this process has stored it meanwhile, as above: a pointer changes once in a process.
                unsafe { &(*others).value }
            }
        }
    }
}

impl<T> fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerProcess").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fork_count::note_children;
    use crate::sys::{PollFd, poll};
    use std::os::fd::AsFd;
    use std::sync::{Barrier, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    #[test]
    fn threads_that_ask_at_once_get_one_value() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new(Mutex::default);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| *VALUE.get().lock().unwrap() += 1);
            }
        });
        assert_eq!(*VALUE.get().lock().unwrap(), 8);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it has no forks")]
    fn a_child_finds_its_value_unlocked_while_another_thread_of_its_parent_holds_the_lock() {
        static VALUE: PerProcess<Mutex<u32>> = PerProcess::new(Mutex::default);
        note_children();
        let (is_held, is_over) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut value = VALUE.get().lock().unwrap();
                *value = 1;
                is_held.wait();
                is_over.wait();
            });
            is_held.wait();
            let (told, tells) = std::io::pipe().unwrap();
            // SAFETY: the child allocates, which glibc allows after a fork, and takes one lock of its own.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let is_new = VALUE.get().lock().is_ok_and(|value| *value == 0);
                // SAFETY: it may be called anywhere.
                unsafe { libc::_exit(if is_new { 0 } else { 1 }) };
            }
            // The child has the only other copy of this end: `told` is readable once the child has ended.
            drop(tells);
            let soon = Instant::now() + Duration::from_secs(20);
            poll(&mut [PollFd::readable(told.as_fd())], Some(soon)).unwrap();
            let mut status = 0;
            // SAFETY: the process is a child that is not reaped yet, and the pointer is to a live number.
            unsafe {
                libc::kill(child, libc::SIGKILL);
                libc::waitpid(child, &raw mut status, 0);
            }
            is_over.wait();
            assert_eq!(status, 0, "the child has waited for its parent's lock");
            assert_eq!(*VALUE.get().lock().unwrap(), 1);
        });
    }
}
