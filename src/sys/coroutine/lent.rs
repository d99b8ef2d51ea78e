//! A closure of one thread that coroutines of other threads call, for as long as it is lent.
//!
//! The accept loop is borrowed: it belongs to the thread that serves. A worker runs it as a coroutine, and may be stuck in
//! a handler when the server has to close. So the end of the loan does not wait for the coroutines that are suspended:
//! it makes sure that they never go on.
//!
//! ```text
//! state of a borrower         worker: resume                 end of the loan
//! Suspended                   -> Running, switches to it     -> Abandoned: never resumed again, leaked
//! Running                                                    waits until it is Suspended or Ended
//!   it suspends itself        -> Suspended
//!   the closure returns       -> Ended
//! Ended, Abandoned            refuses
//! ```
//!
//! Before that, a borrower that is suspended may be retired: it is resumed once more, and has to unwind at once.
//!
//! Every change is made under the lock of the borrower's state. So when [`lend`] returns, no call is running, and none
//! ever goes on: nothing uses the closure any more.

use std::sync::Arc;

use super::stack::SlabStack;
use super::switch::{Coroutine, Progress};
use crate::sys::shared::{AtomicBool, Condvar, Mutex, Ordering};

/// The name of the coroutine, for the report of an overflow: hooks of the loop run in it.
const LABEL: &str = "the accept loop";

/// The closure that is lent.
pub(crate) type Work<R> = dyn Fn() -> R + Sync;

/// A closure that was lent. Clones are the same loan.
pub(crate) struct Loan<R: 'static> {
    shared: Arc<Shared<R>>,
}

impl<R> Clone for Loan<R> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<R: 'static> {
    /// Called by coroutines only while they are `Running`, and so only before the end of the loan.
    work: *const Work<R>,
    /// None after the end of the loan.
    borrowers: Mutex<Option<Vec<Arc<Borrower>>>>,
}

// SAFETY: the closure is `Sync`, and is called by reference only.
unsafe impl<R> Send for Shared<R> {}
// SAFETY: as above.
unsafe impl<R> Sync for Shared<R> {}

#[derive(Debug)]
struct Borrower {
    state: Mutex<State>,
    changed: Condvar,
    /// Set under the lock of `state`, while that is `Suspended`.
    retired: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Suspended,
    Running,
    Ended,
    Abandoned,
}

/// Lends `work` to coroutines of any thread while `within` runs.
pub(crate) fn lend<'a, R: 'static, X>(
    work: &'a (dyn Fn() -> R + Sync + 'a),
    within: impl FnOnce(&Loan<R>) -> X,
) -> X {
    // SAFETY: only the lifetime changes. `EndOfLoan` sees to it, on every way out of this function, that nothing calls
    // `work` after its lifetime.
    let work = unsafe {
        std::mem::transmute::<*const (dyn Fn() -> R + Sync + 'a), *const Work<R>>(
            std::ptr::from_ref(work),
        )
    };
    let loan = Loan { shared: Arc::new(Shared { work, borrowers: Mutex::new(Some(Vec::new())) }) };
    let _end = EndOfLoan(&loan);
    within(&loan)
}

/// Ends the loan when it is dropped, by a panic as well.
struct EndOfLoan<'a, R: 'static>(&'a Loan<R>);

impl<R> Drop for EndOfLoan<'_, R> {
    fn drop(&mut self) {
        // From here on nothing more borrows it.
        let borrowers = self.0.shared.borrowers.lock().take();
        for borrower in borrowers.into_iter().flatten() {
            let mut state = borrower.state.lock();
            borrower.changed.wait_while(&mut state, |state| *state == State::Running);
            if *state == State::Suspended {
                *state = State::Abandoned;
            }
        }
    }
}

impl<R> Loan<R> {
    /// A coroutine that calls the closure and passes its result on. None: the loan has ended.
    pub(crate) fn coroutine(
        &self,
        stack: SlabStack,
        then: impl FnOnce(R) + 'static,
    ) -> Option<LentCoroutine> {
        let state = Mutex::new(State::Suspended);
        let (changed, retired) = (Condvar::new(), AtomicBool::new(false));
        let borrower = Arc::new(Borrower { state, changed, retired });
        {
            // A borrower that is not in the list would not be waited for.
            let mut borrowers = self.shared.borrowers.lock();
            let borrowers = borrowers.as_mut()?;
            borrowers.retain(|other| *other.state.lock() != State::Ended);
            borrowers.push(Arc::clone(&borrower));
        }
        let shared = Arc::clone(&self.shared);
        let body = move || {
            // SAFETY: the coroutine is `Running`, and the end of the loan waits until it is not. After it, it never runs.
            then(unsafe { (*shared.work)() });
        };
        Some(LentCoroutine { coroutine: Coroutine::new(stack, LABEL, body), borrower })
    }
}

/// A coroutine that calls a lent closure.
pub(crate) struct LentCoroutine {
    coroutine: Coroutine,
    borrower: Arc<Borrower>,
}

/// Another thread's hold on such a coroutine.
#[derive(Clone)]
pub(crate) struct BorrowerHandle(Arc<Borrower>);

impl BorrowerHandle {
    /// Has the coroutine end before it does anything more, if it is suspended. False: it runs, or has ended.
    pub(crate) fn retire(&self) -> bool {
        let state = self.0.state.lock();
        let is_suspended = *state == State::Suspended;
        if is_suspended {
            self.0.retired.store(true, Ordering::Relaxed);
        }
        is_suspended
    }

    /// For the coroutine itself, when it goes on: whether it has to end.
    pub(crate) fn is_retired(&self) -> bool {
        self.0.retired.load(Ordering::Relaxed)
    }
}

impl LentCoroutine {
    pub(crate) fn handle(&self) -> BorrowerHandle {
        BorrowerHandle(Arc::clone(&self.borrower))
    }

    /// Runs it until it suspends itself or returns. None: the loan has ended, and it never goes on.
    pub(crate) fn resume(&mut self) -> Option<Progress> {
        {
            let mut state = self.borrower.state.lock();
            if *state == State::Abandoned {
                return None;
            }
            *state = State::Running;
        }
        let progress = self.coroutine.resume();
        let mut state = self.borrower.state.lock();
        *state = match progress {
            Progress::Suspended => State::Suspended,
            Progress::Ended(_) => State::Ended,
        };
        self.borrower.changed.notify_all();
        drop(state);
        Some(progress)
    }
}
