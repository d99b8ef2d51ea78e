//! [`AcceptCoroutine`]: the coroutine that runs the accept loop, and what other threads may do to it.
//!
//! ```text
//! its worker: resume                 another thread
//! Suspended  -> Running, switches    retire: it is to end when it goes on
//! Running                            retire: refused
//!   it waits    -> Suspended         retire_when_it_waits: waits for one of the two
//!   it returns  -> Ended
//! ```
//!
//! Every change is made under the lock of the state. So a loop that is retired does nothing more but unwind, and a thread that
//! has seen it retired may go on as if it had ended.
//!
//! The lock is taken at each switch to the loop and back, and by nobody else as a rule. Requests have no such state: no other
//! thread does anything to them but ask their worker, by a message.

use std::sync::Arc;

use crate::sys::coroutine::stack::SlabStack;
use crate::sys::coroutine::switch::{Coroutine, SwitchEnd};
use crate::sys::sync::{AtomicBool, Condvar, Mutex, Ordering};

/// The name of the coroutine, for the report of an overflow: hooks of the loop run in it.
const LABEL: &str = "the accept loop";

/// The coroutine of an accept loop. It belongs to its worker, as any other coroutine does.
pub(super) struct AcceptCoroutine {
    /// Never dropped before its end, like any coroutine: a loop that is retired still has to be resumed once.
    coroutine: Coroutine,
    shared: Arc<Shared>,
}

/// A handle by which other threads retire an [`AcceptCoroutine`]. Clones are handles of the same coroutine.
#[derive(Clone)]
pub(super) struct AcceptHandle(Arc<Shared>);

/// The state that the handles share with the coroutine.
struct Shared {
    /// Written by the worker, around each resume. Held for moments, never while the coroutine runs.
    state: Mutex<AcceptState>,
    /// Notified when the coroutine does not run any more.
    changed: Condvar,
    /// Set under the lock of `state`, while that is `Suspended`, and never taken back. The coroutine reads it without the
    /// lock: its resume has taken the lock before, which orders the read after the store.
    is_retired: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AcceptState {
    /// The loop has not begun, or waits, or has given way.
    Suspended,
    /// The loop's worker runs it. A hook may hold it there for long.
    Running,
    /// The loop has returned or panicked.
    Ended,
}

impl AcceptCoroutine {
    /// Makes a coroutine, which has not begun. A panic that leaves `body` ends the process.
    pub(super) fn new(stack: SlabStack, body: impl FnOnce(&AcceptHandle) + 'static) -> Self {
        let (state, changed) = (Mutex::new(AcceptState::Suspended), Condvar::new());
        let shared = Arc::new(Shared { state, changed, is_retired: AtomicBool::new(false) });
        let handle = AcceptHandle(Arc::clone(&shared));
        Self { coroutine: Coroutine::new(stack, LABEL, move || body(&handle)), shared }
    }

    /// A handle, for the threads that may retire the loop, and for its own [`Task`](super::tasks::Task).
    pub(super) fn handle(&self) -> AcceptHandle {
        AcceptHandle(Arc::clone(&self.shared))
    }

    /// Runs the loop until it waits or returns.
    #[inline(never)]
    pub(super) fn resume(&mut self) -> SwitchEnd {
        // From here on `retire` is too late to keep the loop from going on.
        *self.shared.state.lock() = AcceptState::Running;
        // Resumed without the lock: a hook in the loop may take long, and another thread may want the lock meanwhile.
        let progress = self.coroutine.resume();
        *self.shared.state.lock() = match progress {
            SwitchEnd::Suspended => AcceptState::Suspended,
            SwitchEnd::Ended(_) => AcceptState::Ended,
        };
        self.shared.changed.notify_all();
        progress
    }
}

impl AcceptHandle {
    /// Retires the loop if it is suspended: it ends before it does anything more. False: it runs, or has ended.
    pub(super) fn retire(&self) -> bool {
        let state = self.0.state.lock();
        self.retire_from(*state)
    }

    /// Waits until the loop is suspended or has ended, and then retires it. Blocks the thread. False: it has ended.
    pub(super) fn retire_when_it_waits(&self) -> bool {
        let mut state = self.0.state.lock();
        self.0.changed.wait_while(&mut state, |state| *state == AcceptState::Running);
        self.retire_from(*state)
    }

    /// Retires the loop if it is suspended. Called under the lock of the state.
    fn retire_from(&self, state: AcceptState) -> bool {
        // A loop that has ended has its result, and a loop that runs may be in the middle of dealing a request.
        let is_suspended = state == AcceptState::Suspended;
        if is_suspended {
            self.0.is_retired.store(true, Ordering::Relaxed);
        }
        is_suspended
    }

    /// For the coroutine itself, when it goes on: whether it has to end.
    pub(super) fn is_retired(&self) -> bool {
        self.0.is_retired.load(Ordering::Relaxed)
    }
}
