//! The one place where anything waits.
//!
//! Whatever may block (accepting, receiving, sending, sleeping) tries its system call and waits here
//! when there is nothing to do yet. On a plain thread waiting blocks the thread. Where a [`Parker`] is
//! installed it suspends the coroutine instead, and the thread goes on with another one. That is why
//! no transport and no handler has to know how it is run, and why this file knows neither.

mod deferred_flush;
mod event;
mod parker;

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;

pub use deferred_flush::flush;
pub(crate) use deferred_flush::{Flush, FlushPromise, flush_before_waiting};
pub use event::Event;
pub(crate) use parker::parker;
pub use parker::{Installed, Interest, Parker, Slot, Waiting, install};

/// What every call has to know of its thread, in one place: it is looked at twice for each request.
#[derive(Clone, Copy)]
struct ThreadState {
    /// There is a parker.
    parked: bool,
    /// This thread accepts, and runs requests in between: what it gathers waits for no longer than the
    /// requests that have come already.
    in_loop: bool,
    /// Something has been gathered.
    holds_back: bool,
}

thread_local! {
    static HERE: Cell<ThreadState> =
        const { Cell::new(ThreadState { parked: false, in_loop: false, holds_back: false }) };
}

fn note(change: impl FnOnce(&mut ThreadState)) {
    let mut here = HERE.get();
    change(&mut here);
    HERE.set(here);
}

pub(crate) fn is_parked_here() -> bool {
    HERE.get().parked
}

/// Whether a call may block this thread. If so, what the thread has held back leaves first.
#[inline]
pub(crate) fn may_block() -> bool {
    let nothing_special = HERE.with(|here| !here.get().parked && !here.get().holds_back);
    nothing_special || may_block_after_flush()
}

#[cold]
fn may_block_after_flush() -> bool {
    let may_block = !is_parked_here();
    if may_block {
        flush();
    }
    may_block
}

/// How many descriptors a wait may have: the accept loop has the most, and others one or two.
pub(crate) const MOST: usize = 4;

/// Waits until one of `waiting`, [`MOST`] at the most, is ready or the deadline has passed. May come back early. Says whether the
/// first of them may be ready.
pub(crate) fn any(waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    flush();
    let Some(parker) = parker() else {
        let poll_fd = |waiting: &Waiting<'_>| match waiting.interest {
            Interest::Read => sys::PollFd::readable(waiting.fd),
            Interest::Write => sys::PollFd::writable(waiting.fd),
        };
        // The accept loop comes here for every connection, and need not ask for memory each time.
        let mut fds = [const { sys::PollFd::never() }; MOST];
        let fds = &mut fds[..waiting.len()];
        fds.iter_mut().zip(waiting).for_each(|(fd, waiting)| *fd = poll_fd(waiting));
        sys::poll(fds, deadline)?;
        return Ok(fds.first().is_some_and(sys::PollFd::is_ready));
    };
    if thread::panicking() {
        return Err(io::Error::other("a coroutine cannot wait while it is panicking"));
    }
    parker.park(waiting, deadline).map(|()| true)
}

/// Waits until a worker may accept a client, or is interrupted. On a plain thread.
pub(crate) fn for_worker_accept(epoll: &sys::exclusive_epoll::ExclusiveEpoll) -> io::Result<()> {
    flush();
    epoll.wait()
}

/// Sleeps: a plain thread sleeps, a coroutine is suspended and its thread goes on with others.
///
/// Every mixin of this crate runs handlers on plain threads. One of your own may run many on one thread, as coroutines
/// (see [`Parker`]); handlers that may run there use this instead of [`std::thread::sleep`], which would stop every
/// request of the same thread.
pub fn sleep(duration: Duration) {
    if !is_parked_here() {
        flush();
        return thread::sleep(duration);
    }
    let Some(until) = Instant::now().checked_add(duration) else { return park_for_ever() };
    while Instant::now() < until {
        if any(&[], Some(until)).is_err() {
            // Panicking, or no room to register: a short block of the thread is the lesser evil.
            return thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// The moment when so much time has passed; where the clock cannot count that far, one that no process lives to see.
pub(crate) fn moment_after(now: Instant, time: Duration) -> Instant {
    const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
    now.checked_add(time).unwrap_or_else(|| now + FOR_EVER)
}

fn park_for_ever() {
    loop {
        // An error leaves nothing to wait with but the thread.
        if any(&[], None).is_err() {
            thread::park();
        }
    }
}

/// Runs blocking work (a database call, DNS, a large file) where it harms nobody.
///
/// On a plain thread it just runs, and so it does under every mixin of this crate. In a coroutine, as a mixin of your own
/// may run handlers (see [`Parker`]), it runs on a thread of its own, and the coroutine is suspended until it is done.
///
/// # Errors
///
/// If no thread can be started for it.
///
/// # Panics
///
/// If `work` panics, with the same payload.
pub fn offload<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> io::Result<R> {
    if !is_parked_here() {
        flush();
        return Ok(work());
    }
    let done = Arc::new(Event::new()?);
    let signal = NotifyOnDrop(Arc::clone(&done));
    let worker = thread::Builder::new().name("offload".into()).spawn(move || {
        let _signal = signal;
        work()
    })?;
    while !worker.is_finished() {
        any(&[Waiting { fd: done.as_fd(), interest: Interest::Read, slot: None }], None)?;
        if done.is_set() {
            break;
        }
    }
    worker.join().or_else(|payload| std::panic::resume_unwind(payload))
}

/// Tells the waiting coroutine that its work has ended, also when it ended by a panic.
struct NotifyOnDrop(Arc<Event>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify();
    }
}

/// A number that no other living thread has. It costs less than the standard library's `ThreadId`, which
/// is had only by counting one more reference to the thread.
pub(crate) fn number_of_thread() -> usize {
    HERE.with(|of_this_thread| std::ptr::from_ref(of_this_thread).addr())
}

/// Whether this thread accepts, and what runs on it runs in between.
pub(crate) fn is_in_loop() -> bool {
    HERE.get().in_loop
}

/// This thread accepts no longer; in a forked child it never does.
pub(crate) fn leave_loop() {
    note(|here| here.in_loop = false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_cannot_count_is_far_beyond_any_day() {
        let now = Instant::now();
        assert_eq!(moment_after(now, Duration::ZERO), now);
        let century = Duration::from_secs(100 * 365 * 86_400);
        assert!(moment_after(now, Duration::MAX) > now + century);
    }
}
