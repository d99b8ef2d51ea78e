//! Work that a thread defers until it waits: replies to datagrams, and its list of outboxes.
//!
//! Deferring lets one system call send many replies or lines. A thread may defer only while it promises to flush, by a
//! [`FlushPromise`]; without a promise [`flush_before_waiting`] returns false, and the caller sends at once. Everything
//! deferred leaves by [`flush`]. Every wait calls it first, and so does the drop of the outermost promise.
//!
//! ```text
//! FlushPromise::start                    a request begins, or the accept loop
//!   flush_before_waiting(what)             what: the datagram socket's replies, the thread's list of outboxes
//!   wait::any, may_block, sleep ..         flush
//! FlushPromise dropped                     flush
//! ```
//!
//! Promises nest, and only the outermost one flushes. A request that runs in the accept loop has its own promise within
//! that of the loop. So the replies to a batch of datagrams leave together, after the last of them. A worker of `Green`
//! makes one promise for its whole life, and flushes before its thread waits. So the replies of many coroutines leave
//! together.
//!
//! All of this is thread-local: work that a thread has deferred is sent by the same thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::{THREAD_STATE, is_in_loop, leave_loop, note};
use crate::process::BareFork;

thread_local! {
    /// The work that this thread has deferred. None while it has made no [`FlushPromise`].
    static DEFERRED: RefCell<Option<Vec<Arc<dyn Flush>>>> = const { RefCell::new(None) };
    /// The process that has deferred this work.
    static DEFERRED_IN: Cell<Option<BareFork>> = const { Cell::new(None) };
}

/// Work that a thread has deferred, and that has to leave before the thread waits.
pub(crate) trait Flush: Send + Sync {
    /// Sends the deferred work. An error cannot be returned to anybody, because the code that has deferred the work has
    /// gone on.
    fn flush(&self);

    /// Whether so much is deferred that the thread should poll its descriptors once more, for further work, before it
    /// sends. A thread that runs coroutines asks this.
    #[cfg(has_green)]
    fn gathers(&self) -> bool {
        false
    }
}

/// A thread's promise to wait by this module, or to drop this guard, before long. Only with such a promise may it
/// defer.
#[derive(Debug)]
pub(crate) struct FlushPromise {
    // A nested promise changes nothing: the outermost one flushes.
    outermost: bool,
    /// The outermost accept loop of the thread has made this promise, and its drop clears `ThreadState::in_loop`. (If a
    /// request calls `handle_request`, that inner loop clears nothing.)
    in_loop: bool,
}

impl FlushPromise {
    /// The promise of an accept loop.
    pub(crate) fn start_in_loop() -> Self {
        let mut promise = Self::start();
        promise.in_loop = !is_in_loop();
        note(|here| here.in_loop = true);
        promise
    }

    /// The promise of a request. Within the promise of a loop it adds nothing.
    #[inline]
    pub(crate) fn start() -> Self {
        let outermost = DEFERRED.with(|deferred| {
            let mut deferred = deferred.borrow_mut();
            let outermost = deferred.is_none();
            deferred.get_or_insert_default();
            outermost
        });
        Self { outermost, in_loop: false }
    }
}

impl Drop for FlushPromise {
    #[inline]
    fn drop(&mut self) {
        if self.in_loop {
            leave_loop();
        }
        if self.outermost {
            flush();
            // At the end of a thread the list may be gone already.
            let left = DEFERRED.try_with(RefCell::take).ok().flatten().unwrap_or_default();
            // The flush may itself have deferred something, and no later flush comes. This last flush defers nothing,
            // because the promise is gone.
            left.iter().for_each(|what| what.flush());
        }
    }
}

/// Defers `what` until this thread next waits. False: this thread has made no promise, and the caller has to send at
/// once.
pub(crate) fn flush_before_waiting(what: &Arc<dyn Flush>) -> bool {
    DEFERRED.with(|deferred| match &mut *deferred.borrow_mut() {
        Some(list) => {
            leave_to_parent(list);
            DEFERRED_IN.set(Some(BareFork::current()));
            // A busy loop may never wait, and defers the same thing again and again.
            let is_it = |deferred: &Arc<dyn Flush>| {
                std::ptr::addr_eq(Arc::as_ptr(deferred), Arc::as_ptr(what))
            };
            if !list.iter().any(is_it) {
                list.push(Arc::clone(what));
            }
            // Lets `may_block` skip the list while there is nothing in it.
            note(|here| here.holds_back = true);
            true
        }
        None => false,
    })
}

/// Whether this thread has deferred so much that it should look for more before it flushes: see [`Flush::gathers`]. A
/// plain thread has nothing else to look for.
#[cfg(has_green)]
pub(crate) fn gathers() -> bool {
    let gathers = |list: &Vec<Arc<dyn Flush>>| list.iter().any(|deferred| deferred.gathers());
    THREAD_STATE.get().holds_back
        && DEFERRED.with_borrow(|deferred| deferred.as_ref().is_some_and(gathers))
}

/// Sends what this thread has deferred. Code that blocks a thread by other means than this crate's calls this first;
/// see [`Parker`](super::Parker).
#[inline]
pub fn flush() {
    if THREAD_STATE.get().holds_back {
        flush_all();
    }
}

#[inline(never)]
fn flush_all() {
    // The list is taken out first: a flush may defer something, which needs the list.
    for what in take_deferred() {
        what.flush();
    }
}

/// Takes the list, which is empty then. The promise stays.
fn take_deferred() -> Vec<Arc<dyn Flush>> {
    // Cleared before the list is taken: a flush that defers something sets the flag again.
    note(|here| here.holds_back = false);
    DEFERRED.with_borrow_mut(|deferred| {
        let Some(list) = deferred else { return Vec::new() };
        leave_to_parent(list);
        std::mem::take(list)
    })
}

/// Forgets, in the child of a bare fork, the work that this thread had deferred before the fork: it is the parent's to send. A
/// drop of the work might send it.
fn leave_to_parent(list: &mut Vec<Arc<dyn Flush>>) {
    if DEFERRED_IN.get().is_some_and(|process| !process.is_current()) {
        std::mem::forget(std::mem::take(list));
    }
}

#[cfg(test)]
mod tests {
    use super::super::sleep;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[derive(Default)]
    struct CountedFlush(AtomicUsize);

    impl Flush for CountedFlush {
        fn flush(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Defers other work when it is flushed: an outbox may do so too, by the code that its flush calls.
    struct DefersAnother(Arc<dyn Flush>);

    impl Flush for DefersAnother {
        fn flush(&self) {
            if !flush_before_waiting(&self.0) {
                self.0.flush();
            }
        }
    }

    #[test]
    fn the_last_flush_of_a_promise_leaves_nothing_that_it_has_deferred_itself() {
        let counted = Arc::new(CountedFlush::default());
        let defers: Arc<dyn Flush> = Arc::new(DefersAnother(Arc::clone(&counted) as _));
        let promise = FlushPromise::start();
        assert!(flush_before_waiting(&defers));
        drop(promise);
        assert_eq!(counted.0.load(Ordering::SeqCst), 1);
        assert!(!flush_before_waiting(&defers), "the promise is over");
    }

    #[test]
    fn a_request_in_the_loop_defers_beyond_its_own_end() {
        let counted = Arc::new(CountedFlush::default());
        let flush: Arc<dyn Flush> = Arc::clone(&counted) as _;
        let flushed = || counted.0.load(Ordering::SeqCst);
        assert!(!flush_before_waiting(&flush), "this thread has made no promise");
        {
            let _loop = FlushPromise::start_in_loop();
            assert!(is_in_loop());
            for _ in 0..2 {
                let _request = FlushPromise::start();
                assert!(flush_before_waiting(&flush));
            }
            assert_eq!(flushed(), 0);
            sleep(Duration::from_millis(1));
            assert_eq!(flushed(), 1, "before the thread waits, and once for all");
            assert!(flush_before_waiting(&flush));
            drop(FlushPromise::start_in_loop());
            assert!(is_in_loop(), "a loop in a request of the loop has ended, and not the loop");
        }
        assert_eq!(flushed(), 2, "and at the end");
        assert!(!is_in_loop() && !flush_before_waiting(&flush));
    }
}
