//! The threads of a mixin: named, counted, and waited for at the end. There is no list of them, so nothing grows with the
//! number of requests served.
//!
//! ```text
//! the caller                        the new thread             a close
//! spawn: AliveThread (+1)
//!   cannot start: dropped (-1)
//!   starts -----------------------> main
//!                                   AliveThread dropped (-1)
//!                                     notifies --------------> wait_until_gone returns at zero
//! ```
//!
//! Nothing joins the threads: a join needs a handle of each, and waits without a deadline. The count is zero a moment
//! before the last thread is gone: all of its own code has run by then, except for the drops of thread-locals.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};
use crate::process::OwnerProcess;
use crate::sys;
use crate::sys::address_space;

/// Code of the program for each thread of a mixin. Several threads may run it at the same time.
type Hook = Arc<dyn Fn() + Send + Sync>;

/// Settings for the threads of a mixin.
#[derive(Clone, Default)]
pub(super) struct ThreadOptions {
    /// The beginning of the threads' names. None: the handler's type name.
    pub(super) name: Option<String>,
    /// The size of each stack, at least [`MIN_STACK_BYTES`]. None: std's default.
    pub(super) stack_bytes: Option<usize>,
    /// Runs on each thread before its first job.
    pub(super) on_start: Option<Hook>,
    /// Runs on each thread after its last job, but not after a panic.
    pub(super) on_stop: Option<Hook>,
}

/// The smallest stack, in bytes. It is enough, in any build, for the calls between the beginning of a thread and its
/// handler, and for some calls of the handler.
pub(super) const MIN_STACK_BYTES: usize = 64 * 1024;

impl ThreadOptions {
    /// Fails if a thread cannot have a stack of the size that was asked for. Only the start of a thread shows that.
    pub(super) fn check(&self) -> Result<()> {
        let Some(bytes) = self.stack_bytes else { return Ok(()) };
        // This is done once for each server, when it is made.
        let started = thread::Builder::new().stack_size(bytes).spawn(|| ());
        started
            .map(|thread| drop(thread.join()))
            .map_err(|error| Error::io("use", format!("stack_size {bytes}"), error))
    }
}

impl fmt::Debug for ThreadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadOptions")
            .field("name", &self.name)
            .field("stack_bytes", &self.stack_bytes)
            .finish_non_exhaustive()
    }
}

/// The default size of a thread's stack, in bytes: std's.
const USUAL_STACK: usize = 2 << 20;

/// Starts threads and counts those that are alive.
#[derive(Debug, Default)]
pub(super) struct ThreadGroup {
    /// How many threads have been started and have not ended. In a forked child it begins as the parent's count, and never
    /// falls to zero if the parent had threads: those do not run in the child.
    alive: Mutex<usize>,
    /// Notified by each thread that ends.
    ended: Condvar,
    /// How many starts of a thread have been tried. The number of a start is in the thread's name.
    started: AtomicU64,
    /// The process in which the last thread was started.
    owner: OwnerProcess,
}

impl ThreadGroup {
    /// Starts a thread. If that fails, `main` is dropped on the calling thread.
    ///
    /// # Errors
    ///
    /// The errors of the system. Also fails if the process has no memory mappings for one more thread, or if its stack
    /// would take the last of the address space.
    pub(super) fn spawn(
        self: &Arc<Self>,
        options: &ThreadOptions,
        label: &str,
        main: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let number = self.started.fetch_add(1, Ordering::Relaxed) + 1;
        let name = options.name.as_deref().unwrap_or_else(|| short_name(label));
        let mut builder = thread::Builder::new().name(format!("{name}-{number}"));
        if let Some(bytes) = options.stack_bytes {
            builder = builder.stack_size(bytes);
        }
        // This comes before the thread starts, so that it is never taken for a thread of the parent process
        // (`is_left_behind`).
        self.owner.become_noted();
        // Moved into the thread's closure. If the thread cannot be started, the closure is dropped. So the count is right
        // in any case, also after a panic.
        let alive = AliveThread::new(Arc::clone(self))?;
        let stack_bytes = options.stack_bytes.unwrap_or(USUAL_STACK);
        address_space::check_room(stack_bytes).map_err(|error| {
            io::Error::new(error.kind(), format!("no address space for another thread: {error}"))
        })?;
        builder.spawn(move || {
            let _alive = alive;
            main();
        })?;
        Ok(())
    }

    /// Whether this is a forked child, and its parent has the threads.
    pub(super) fn is_left_behind(&self) -> bool {
        !self.owner.is_noted() && *self.alive.lock() > 0
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        *self.alive.lock()
    }

    /// Waits until no thread is left, or until the deadline.
    pub(super) fn wait_until_gone(&self, deadline: Instant) {
        // The parent's threads do not run here, and would be waited for in vain.
        if self.is_left_behind() {
            return;
        }
        let mut alive = self.alive.lock();
        self.ended.wait_while_until(&mut alive, |alive| *alive > 0, deadline);
    }
}

/// A thread that is counted until this is dropped.
struct AliveThread {
    /// The group that counts the thread.
    group: Arc<ThreadGroup>,
}

/// The number of threads of all groups.
///
/// Relaxed: it is a count and guards nothing.
static THREADS: AtomicUsize = AtomicUsize::new(0);

impl AliveThread {
    /// Fails if the process has as many threads as it can have: starting one more would abort the process.
    fn new(group: Arc<ThreadGroup>) -> io::Result<Self> {
        // The count is over all groups, because the limit is the process's.
        let most = sys::most_threads();
        let one_more = |count: usize| (count < most).then_some(count + 1);
        if THREADS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            let text =
                format!("the process has {most} threads already, and memory mappings for no more");
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, text));
        }
        *group.alive.lock() += 1;
        Ok(Self { group })
    }
}

impl Drop for AliveThread {
    fn drop(&mut self) {
        THREADS.fetch_sub(1, Ordering::Relaxed);
        // The waits check the count under the same lock, so the notification cannot come between a check and its wait.
        *self.group.alive.lock() -= 1;
        // All waits are woken: several closes may wait at once.
        self.group.ended.notify_all();
    }
}

/// The last part of a type name, which mostly fits into the 15 bytes that Linux shows: `Echo` of `program::echo::Echo`.
///
/// A closure has the name of the function that it is written in. Generic arguments are cut off.
fn short_name(label: &str) -> &str {
    let plain = label.split('<').next().unwrap_or(label);
    plain.rsplit("::").find(|part| !part.starts_with('{')).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_named_by_the_last_part_of_the_type() {
        assert_eq!(short_name("a::b::Echo"), "Echo");
        assert_eq!(short_name("a::main::{{closure}}"), "main");
        assert_eq!(short_name("a::Echo<b::C>"), "Echo");
        assert_eq!(short_name(""), "");
    }
}
