//! The loops of a run: the threads that accept for it, and the end of accepting.
//!
//! ```text
//! thread of the run          a worker, under Threading or Pool      the closer
//! begin
//! enter_loop
//!                            enter_worker: only beside a loop
//!                                                                   close: closing = true, requests a stop
//! leave_loop                   .. accepts a last one
//!   not the last: goes on    leave_loop: the last one
//!                              closes the listener, unlocked
//!                              Accepting -> Finishing ------------> wait_until_ended returns
//! end: waits until no loop is left
//! ```
//!
//! Invariant when unlocked: while a loop is listed the run is `Accepting`, or the last loop is just leaving. So no
//! thread accepts once `Finishing` was seen, and the listener is closed by exactly one of the two sides: by the last
//! loop if it finds `closing` set when it leaves; otherwise by the thread that calls `close`, which then gets
//! [`Closer::Caller`](super::Closer).

use std::thread;

use parking_lot::MutexGuard;

use super::{Runs, RunsState};
use crate::shutdown::run_state::{RunKind, RunState};

/// How a thread accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepts {
    /// The thread runs the accept loop.
    Loop,
    /// The thread is an idle worker, which accepts its next request itself.
    BesideLoop,
}

impl Runs {
    /// Notes that this thread accepts for the run that goes on.
    ///
    /// Returns false if no run accepts: this thread must then not accept either. Otherwise
    /// [`leave_loop`](Self::leave_loop) follows on the same thread, even after a panic.
    pub(crate) fn enter_loop(&self) -> bool {
        let mut state = self.state.lock();
        let may = state.run.is_accepting();
        if may {
            state.loops.push((thread::current().id(), Accepts::Loop));
        }
        may
    }

    /// Forgets the loops that have not left. The mixin has returned, so such a loop is suspended in a stuck worker: when
    /// it goes on, it only unwinds.
    pub(crate) fn forget_loops(&self) {
        self.state.lock().loops.retain(|(_, accepts)| *accepts != Accepts::Loop);
    }

    /// Notes that this thread, a worker, accepts beside the loop, if there is a loop that accepts until a stop. It
    /// counts as a loop, so accepting ends when the last of all has left.
    ///
    /// Returns false if the worker must not accept; it then does not call [`leave_loop`](Self::leave_loop).
    pub(crate) fn enter_worker(&self) -> bool {
        let mut state = self.state.lock();
        // Without an accept loop no thread accepts. After a stop a further request would only delay the end.
        let may = state.run.kind() == Some(RunKind::Forever)
            && !state.loops.is_empty()
            && !self.stop_requested();
        if may {
            // Listed under the lock under which the loop was seen: the loop that leaves next is not the last one.
            state.loops.push((thread::current().id(), Accepts::BesideLoop));
        }
        may
    }

    /// Notes that this thread's loop has ended. If a stop was requested, the last loop ends the accepting. If `close` was
    /// called as well, it also closes the listener, while requests may still be running.
    pub(crate) fn leave_loop(&self, close_listener: impl FnOnce()) {
        let mut state = self.state.lock();
        let me = thread::current().id();
        // Without a stop (after an error, or after one request) it is `end` that ends the accepting.
        let is_last = state.loops.iter().all(|(id, _)| *id == me) && self.stop_requested();
        if is_last {
            // This thread is still listed, so that the thread that ends the run waits for the close of the listener.
            self.end_accepting(&mut state, close_listener);
        }
        if let Some(index) = state.loops.iter().position(|(id, _)| *id == me) {
            state.loops.swap_remove(index);
        }
        if is_last {
            self.changed.notify_all();
        }
    }

    /// Ends the accepting: from here on the run is `Finishing`. If `close` has been called, closes the listener first,
    /// and without the lock, because the transport may be the user's.
    pub(super) fn end_accepting(
        &self,
        state: &mut MutexGuard<'_, RunsState>,
        close_listener: impl FnOnce(),
    ) {
        // In this order: when a thread sees `Finishing`, the listener is closed, or that thread has to close it itself.
        if state.run.is_accepting() && state.closing {
            MutexGuard::unlocked(state, close_listener);
        }
        // The state is checked again, because the lock was released.
        if let RunState::Accepting(kind) = state.run {
            state.run = RunState::Finishing(kind);
        }
        if let Some(lame_duck) = state.lame_duck.take() {
            lame_duck.notify();
        }
        self.changed.notify_all();
    }

    /// Whether the current thread accepts for the run that goes on.
    ///
    /// Such a thread must not wait for the end of the run.
    pub(crate) fn is_loop_thread(&self) -> bool {
        self.state.lock().has_loop_of(thread::current().id())
    }
}
