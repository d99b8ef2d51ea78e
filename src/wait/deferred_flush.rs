//! What a thread holds back until it waits: replies to datagrams, and its list of outboxes.

use std::cell::RefCell;
use std::sync::Arc;

use super::{HERE, is_in_loop, leave_loop, note};

thread_local! {
    /// What this thread has gathered, while it is one that promises to flush; see [`FlushPromise`].
    static GATHERED: RefCell<Option<Vec<Arc<dyn Flush>>>> = const { RefCell::new(None) };
}

/// Something that was gathered on this thread and has to leave before the thread waits.
pub(crate) trait Flush: Send + Sync {
    fn flush(&self);
}

/// A thread's promise that it will wait, by this module, or drop this guard before long: only such a
/// thread may hold replies back for the sake of one system call for many.
#[derive(Debug)]
pub(crate) struct FlushPromise {
    // Nested promises change nothing: the outermost one flushes.
    outermost: bool,
    /// It is the promise of a loop, and not of one within another loop's request, which goes on being one.
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

    pub(crate) fn start() -> Self {
        let outermost = GATHERED.with(|gathered| {
            let mut gathered = gathered.borrow_mut();
            let outermost = gathered.is_none();
            gathered.get_or_insert_default();
            outermost
        });
        Self { outermost, in_loop: false }
    }
}

impl Drop for FlushPromise {
    fn drop(&mut self) {
        if self.in_loop {
            leave_loop();
        }
        if self.outermost {
            flush();
            let _ = GATHERED.try_with(RefCell::take);
        }
    }
}

/// Has `what` flushed before this thread next waits. False: this thread promises no such thing, and
/// the caller has to send at once.
pub(crate) fn flush_before_waiting(what: &Arc<dyn Flush>) -> bool {
    GATHERED.with(|gathered| match &mut *gathered.borrow_mut() {
        Some(list) => {
            // A loop that always finds something to do, and so never waits, promises the same again and again.
            let is_it = |gathered: &Arc<dyn Flush>| {
                std::ptr::addr_eq(Arc::as_ptr(gathered), Arc::as_ptr(what))
            };
            if !list.iter().any(is_it) {
                list.push(Arc::clone(what));
            }
            note(|here| here.holds_back = true);
            true
        }
        None => false,
    })
}

/// Sends what this thread has held back. Whoever blocks a thread by other means than this crate's calls
/// this first; see [`Parker`](super::Parker).
pub fn flush() {
    if !HERE.get().holds_back {
        return;
    }
    note(|here| here.holds_back = false);
    let list = GATHERED.with_borrow_mut(|list| list.as_mut().map(std::mem::take));
    for what in list.into_iter().flatten() {
        what.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::super::sleep;
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Flush for Counted {
        fn flush(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_a_request_gathers_in_the_loop_outlives_the_request() {
        let counted = Arc::new(Counted::default());
        let flush: Arc<dyn Flush> = Arc::clone(&counted) as _;
        let flushed = || counted.0.load(Ordering::SeqCst);
        assert!(!flush_before_waiting(&flush), "nobody has promised anything");
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
