//! The one place where anything waits.
//!
//! A call that may block (accept, receive, send, sleep) tries its system call first, and waits here when there is
//! nothing to do yet. On a plain thread the wait blocks the thread. If a [`Parker`] is installed, the wait suspends
//! the coroutine, and the thread goes on with another one. So no transport and no handler has to know how it is run.
//!
//! Two rules hold for every wait:
//!
//! - **No lock is held across it**, and no borrow of a thread-local: while the coroutine is suspended, the next one of
//!   the same thread would meet the lock or the borrow.
//! - **The thread's deferred work leaves first** (replies to datagrams, its list of outboxes): see
//!   `deferred_flush.rs`. A call that blocks the thread without waiting here calls [`flush`] or [`may_block`] first.
//!
//! ```text
//! SocketIo::recv            may_block()?
//!   plain thread: yes         flush; recv(2) blocks, bounded by SO_RCVTIMEO or by the idle reaper
//!   a parker: no              recv(2) with MSG_DONTWAIT
//!                               nothing there: wait::any -> flush -> Parker::park
//!                               which may return early: the caller tries again
//! ```
//!
//! A wait may always come back early, and an [`Event`] stays readable until it is cleared. So a waiter checks the state,
//! waits, and checks again; and the side that wakes it changes the state first, and then notifies.

mod cancelled;
mod deferred_flush;
#[cfg_attr(not(feature = "tracing"), path = "no_entered_span.rs")]
mod entered_span;
mod event;
mod join;
mod offload;
mod parker;
mod serving;

use std::cell::Cell;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys;
use entered_span::apart;

pub use cancelled::{Cancelled, shield};
pub(crate) use cancelled::{CancelledUnwind, RetiredUnwind};
pub use deferred_flush::flush;
#[cfg(has_green)]
pub(crate) use deferred_flush::gathers;
pub(crate) use deferred_flush::{Flush, FlushPromise, flush_before_waiting};
#[cfg(feature = "tracing")]
pub(crate) use entered_span::{InSpan, in_span};
pub use event::Event;
pub use join::join;
pub(crate) use offload::look_up_until;
pub use offload::offload;
#[cfg(has_green)]
pub(crate) use parker::is_installed;
pub(crate) use parker::parker;
pub use parker::{Installed, Interest, Parker, Slot, Waiting, install};
pub(crate) use serving::{Serving, is_serving};

/// The state of this thread, in one value, because it is read twice for each request.
#[derive(Clone, Copy)]
struct ThreadState {
    /// A [`Parker`] is installed.
    parked: bool,
    /// This thread accepts, and runs requests in between. It holds replies back for no longer than the datagrams of
    /// one batch take.
    in_loop: bool,
    /// The thread has deferred some work.
    holds_back: bool,
}

thread_local! {
    /// The state of this thread. Its address also serves as the thread's number: see [`number_of_thread`].
    static THREAD_STATE: Cell<ThreadState> =
        const { Cell::new(ThreadState { parked: false, in_loop: false, holds_back: false }) };
}

/// Changes the state of this thread, by a copy, so that nothing is borrowed during the change.
#[inline]
fn note(change: impl FnOnce(&mut ThreadState)) {
    let mut here = THREAD_STATE.get();
    change(&mut here);
    THREAD_STATE.set(here);
}

/// Whether this thread runs coroutines, and so must not block.
#[inline]
pub(crate) fn is_parked_here() -> bool {
    THREAD_STATE.with(|here| here.get().parked)
}

/// Whether a call may block this thread. If so, this flushes what the thread has deferred.
#[inline]
pub(crate) fn may_block() -> bool {
    // One access of the thread-local for both flags: each receive and each send calls this.
    let (parked, holds_back) = THREAD_STATE.with(|here| (here.get().parked, here.get().holds_back));
    // A parker's thread does not block here. It flushes when none of its coroutines can go on.
    if holds_back && !parked {
        flush();
    }
    !parked
}

/// The most descriptors of one wait. The accept loop has four, and two more if it forks and hands over. Other waits
/// have one or two.
pub(crate) const MAX_WAITED: usize = 6;

/// Waits until one of `waiting` (at most [`MAX_WAITED`]) is ready or the deadline has passed. May come back early. True:
/// the first of `waiting` may be ready.
///
/// Without descriptors this is a sleep until the deadline. A signal does not end it.
///
/// # Panics
///
/// On a plain thread, with more than [`MAX_WAITED`] descriptors.
pub(crate) fn any(waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    any_inlined(waiting, deadline)
}

/// [`any`], inlined for the usual wait of a coroutine: one more call on the way to the switch would leave its frame on the
/// stack of each coroutine that waits.
#[inline(always)]
pub(crate) fn any_inlined(waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    // The parker is cloned out of its thread-local, so that no borrow is held across the wait.
    let Some(parker) = parker() else { return block(waiting, deadline) };
    // `Parker::park` promises its implementor that no panicking thread calls it.
    if thread::panicking() {
        return Err(panicking());
    }
    // This does not flush: the parker's thread flushes before it waits, and sends the deferred work of several coroutines
    // together. The budget begins anew, because the other coroutines have their turn during this wait.
    SPENT_CALLS.with(|spent| spent.set(0));
    apart(|| parker.park(waiting, deadline)).map(|()| true)
}

#[cold]
fn panicking() -> io::Error {
    io::Error::other("a coroutine cannot wait while it is panicking")
}

/// The wait of a plain thread. Not inlined, so that the stack of a waiting coroutine is short.
#[inline(never)]
fn block(waiting: &[Waiting<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    flush();
    // The accept loop waits here before each connection, so this asks for no memory.
    let mut fds = [const { sys::PollFd::never() }; MAX_WAITED];
    let fds = &mut fds[..waiting.len()];
    fds.iter_mut().zip(waiting).for_each(|(fd, waiting)| *fd = waiting.poll_fd());
    sys::poll(fds, deadline)?;
    Ok(fds.first().is_some_and(sys::PollFd::is_ready))
}

thread_local! {
    /// How many receives and sends the coroutine that runs has made since its last wait.
    static SPENT_CALLS: Cell<u32> = const { Cell::new(0) };
}

/// How many receives and sends a coroutine may make without a wait. tokio allows its tasks the same number.
const CALL_BUDGET: u32 = 128;

/// Counts a receive or a send of a coroutine. If its peer always has more, or always takes everything, the coroutine
/// gives way now and then, so that the others of its thread go on.
#[inline]
pub(crate) fn spend() {
    let spent = SPENT_CALLS.with(|spent| {
        spent.set(spent.get() + 1);
        spent.get()
    });
    if spent >= CALL_BUDGET {
        give_way();
    }
}

#[cold]
fn give_way() {
    SPENT_CALLS.set(0);
    // A plain thread has nothing to switch to, and a thread that panics must not switch.
    if let (Some(parker), false) = (parker(), thread::panicking()) {
        apart(|| parker.give_way());
    }
}

/// Waits until a worker may accept a client, or is interrupted. Called on a plain thread. Like every
/// wait of this module, it flushes first.
pub(crate) fn for_worker_accept(epoll: &sys::exclusive_epoll::ExclusiveEpoll) -> io::Result<()> {
    flush();
    epoll.wait()
}

/// Sleeps: a plain thread sleeps; a coroutine is suspended, and its thread goes on with others.
///
/// A mixin may run many handlers on one thread, as coroutines (see [`Parker`]). Handlers that may run there use this
/// instead of [`std::thread::sleep`], which would stop every request of the same thread.
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use socketserver::{sleep, stream_fn};
///
/// let slow = stream_fn(|request| {
///     sleep(Duration::from_millis(100));
///     Ok(request.write_all(b"at last\n")?)
/// });
/// # let _ = socketserver::ThreadingTcpServer::bind("127.0.0.1:0", slow);
/// ```
pub fn sleep(duration: Duration) {
    if !is_parked_here() {
        flush();
        return thread::sleep(duration);
    }
    let until = moment_after(Instant::now(), duration);
    // This is a loop, because a wait may come back early.
    while Instant::now() < until {
        if let Err(error) = any(&[], Some(until)) {
            // The sleep ends early, and has no result by which to say so.
            if Cancelled::find(&error).is_some() {
                return;
            }
            // The coroutine is panicking, or the parker has no memory: to block the thread is the lesser evil.
            return thread::sleep(until.saturating_duration_since(Instant::now()));
        }
    }
}

/// The moment that is this much later. If the clock cannot count that far, a moment that no process lives to see.
pub(crate) fn moment_after(now: Instant, time: Duration) -> Instant {
    /// 136 years.
    const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
    now.checked_add(time).unwrap_or_else(|| now + FOR_EVER)
}

/// A number that no other living thread has. It costs less than std's `ThreadId`, which needs a reference to the
/// thread.
pub(crate) fn number_of_thread() -> usize {
    THREAD_STATE.with(|of_this_thread| std::ptr::from_ref(of_this_thread).addr())
}

/// Whether this thread accepts, and runs requests in between.
pub(crate) fn is_in_loop() -> bool {
    THREAD_STATE.get().in_loop
}

/// Notes that this thread is not in an accept loop: its loop has ended, or this is a forked child.
#[inline]
pub(crate) fn leave_loop() {
    note(|here| here.in_loop = false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_the_clock_cannot_count_is_far_in_the_future() {
        let now = Instant::now();
        assert_eq!(moment_after(now, Duration::ZERO), now);
        let century = Duration::from_secs(100 * 365 * 86_400);
        assert!(moment_after(now, Duration::MAX) > now + century);
    }
}
