//! The accept loop as a coroutine of one worker, and the thread that waits for its end.
//!
//! ```text
//! thread that serves                  worker
//!   start ------ Message::Accept ---->  a coroutine runs the loop: accepts, deals requests
//!   waits                               ..
//!                                       the loop has returned, or panicked
//!   <------------- finish ------------
//!   returns its result
//! ```
//!
//! One loop runs at any time, so that hooks of the loop are called by one thread at a time, as with every other mixin. A
//! handler that does not wait may hold the loop's worker. The loop is then suspended, and can be *retired*: when its worker
//! goes on, it unwinds and does nothing more (`accept_coroutine.rs`). There are two reasons to retire a loop:
//!
//! - The watchdog **moves** it: another worker starts it anew.
//! - `server_close` **abandons** it, because it has not ended by the deadline: the thread that serves returns.
//!
//! So a retired loop may stay on its stack long after the server has gone. It owns all that it uses, as a handler does.
//!
//! ```text
//! watchdog             thread that serves          worker 0, held             worker 1
//! move_away:
//!   retires the coroutine
//!   start + 1, start_at
//!   changed ---------> Accept, with that start ----------------------------> into_coroutine: it is the newest
//!   Retire ------------------------------------->  (in its inbox)             the loop accepts
//!                                                  goes on: the loop unwinds, without a result
//! ```
//!
//! | call | thread | takes the lock of the run |
//! |---|---|---|
//! | [`run`](Acceptors::run), `drive` | the one that serves | yes, and waits for `changed` |
//! | [`into_coroutine`](AcceptorStart::into_coroutine), the coroutine's end | the worker's | yes, for moments |
//! | [`move_away`](Acceptors::move_away) | the watchdog's | yes, for a moment |
//! | [`abandon`](Acceptors::abandon) | the one that closes | yes, for a moment |
//!
//! *Invariant*: a run has at most one coroutine that is not retired. Each start has a number. A worker makes a coroutine
//! only for the newest start, under the lock; and the number rises only when the coroutine of the previous start is retired,
//! or was never made.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use super::Group;
use super::accept_coroutine::{AcceptCoroutine, AcceptHandle};
use super::inbox::Message;
use crate::error::{Error, Result};
use crate::on_drop::OnDrop;
use crate::panic_payload::catch_and_drop;
use crate::sys::coroutine::stack::SlabStack;
use crate::sys::sync::{Condvar, Mutex};

/// The loop: it owns a server's parts.
type LoopFunction = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// How the loop has ended: with its result, or by a panic.
type LoopEnd = std::thread::Result<Result<()>>;

/// The state of one call of `serve`, shared by the threads of the table above.
struct Run {
    /// Never held while the loop runs: hooks run in it, and may close the server.
    state: Mutex<AcceptorRun>,
    /// Notified when `ended`, `is_abandoned` or `start_at` is set, for the thread that serves.
    changed: Condvar,
}

/// The state of a [`Run`], behind its lock.
#[derive(Default)]
struct AcceptorRun {
    /// The loop's result, until the thread that serves takes it.
    ended: Option<LoopEnd>,
    /// Set by a close: the thread that serves is to stop waiting for the end of the loop.
    is_abandoned: bool,
    /// The worker that has to start the loop. Taken by the thread that serves.
    start_at: Option<usize>,
    /// The worker that runs the loop.
    worker: usize,
    /// The number of the newest start. An order with a lower number is void.
    start: u64,
    /// The coroutine of the newest start, once there is one.
    coroutine: Option<AcceptHandle>,
}

/// The order to run the accept loop. It may lie in a worker's inbox for long, if a handler holds the worker.
pub(super) struct AcceptorStart {
    accept_loop: LoopFunction,
    run: Arc<Run>,
    /// [`AcceptorRun::start`] when the order was given. If that has risen, the loop runs elsewhere.
    start: u64,
}

impl AcceptorStart {
    /// Makes the coroutine that runs the loop. None: the loop runs elsewhere, is abandoned, or has ended for lack of a stack.
    pub(super) fn into_coroutine(
        self,
        stack: impl FnOnce() -> io::Result<SlabStack>,
    ) -> Option<AcceptCoroutine> {
        let Self { accept_loop, run, start } = self;
        // The lock is held to the end: so the loop either was moved first, or has a coroutine that can be retired.
        let mut state = run.state.lock();
        if state.start != start || state.is_abandoned {
            return None;
        }
        let stack = match stack() {
            Ok(stack) => stack,
            Err(error) => {
                // There is no memory for a stack: the call of `serve` fails with this error.
                run.finish(
                    &mut state,
                    Ok(Err(Error::io("start the accept loop of", "Green", error))),
                );
                return None;
            }
        };
        let at_end = Arc::clone(&run);
        let coroutine = AcceptCoroutine::new(stack, move |handle| {
            let ended = panic::catch_unwind(AssertUnwindSafe(|| accept_loop()));
            // The closure is dropped before the loop's end is reported. If the loop was abandoned, the closure may be the last
            // owner of the server's hooks.
            catch_and_drop(|| drop(accept_loop));
            if handle.is_retired() {
                // A retired coroutine has no result: the loop goes on elsewhere, or nobody waits for it.
                catch_and_drop(|| drop(ended));
            } else {
                at_end.finish(&mut at_end.state.lock(), ended);
            }
        });
        state.coroutine = Some(coroutine.handle());
        Some(coroutine)
    }
}

impl Run {
    /// Notes that the loop has ended. Not called for a retired loop, which has no result.
    fn finish(&self, state: &mut AcceptorRun, ended: LoopEnd) {
        state.ended = Some(ended);
        self.changed.notify_all();
    }

    /// Takes the loop away from a worker, if it is suspended there. True: it is retired there, and still has to unwind.
    /// False: it is not on this worker, runs at this moment (so no other coroutine holds the worker), has ended, or is being
    /// moved already.
    fn move_away(&self, from: usize, to: usize) -> bool {
        let mut state = self.state.lock();
        // Nothing is to be done if a move is under way already, or if the loop is not on this worker.
        let is_over = state.ended.is_some() || state.is_abandoned;
        if state.worker != from || state.start_at.is_some() || is_over {
            return false;
        }
        // If there is no coroutine yet, the order is still in the worker's inbox, and the worker will see a newer start.
        let is_moved = state.coroutine.as_ref().is_none_or(AcceptHandle::retire);
        if is_moved {
            // The thread that serves sends the order, and not this thread: if the worker refuses it, `serve` has to know.
            state.coroutine = None;
            state.worker = to;
            state.start += 1;
            state.start_at = Some(to);
            self.changed.notify_all();
        }
        is_moved
    }

    /// Starts the loop wherever it has to run, and waits for its end. None: the loop is abandoned, or the mixin is closed.
    fn drive(self: &Arc<Self>, group: &Group, accept_loop: &LoopFunction) -> Option<LoopEnd> {
        let mut state = self.state.lock();
        loop {
            // This comes first: a loop that has ended by itself has a result, also where it was about to be abandoned.
            if state.ended.is_some() {
                return state.ended.take();
            }
            if state.is_abandoned {
                // From here on no other coroutine is started.
                let (coroutine, worker) = (state.coroutine.take(), state.worker);
                drop(state);
                // The lock is not held here, because a running loop takes it at its end.
                if coroutine.is_some_and(|coroutine| coroutine.retire_when_it_waits()) {
                    drop(group.workers[worker].inbox.send(Message::Retire));
                    return None;
                }
                // The coroutine has ended by now, or there was none.
                return self.state.lock().ended.take();
            }
            match state.start_at.take() {
                Some(worker) => {
                    let (accept_loop, run) = (Arc::clone(accept_loop), Arc::clone(self));
                    let start = AcceptorStart { accept_loop, run, start: state.start };
                    let start = Message::Accept(start);
                    if group.workers[worker].inbox.send(start).is_some() {
                        // The mixin is closed, so the server is closed too.
                        return None;
                    }
                }
                None => self.changed.wait(&mut state),
            }
        }
    }
}

/// The runs of a group: one at a time, unless its mixin serves several servers.
#[derive(Default)]
pub(super) struct Acceptors {
    /// The runs: one for each call of `serve` that has not returned. The list is locked for moments; a run's own lock may
    /// be taken meanwhile.
    running: Mutex<Vec<Arc<Run>>>,
}

impl Acceptors {
    /// Runs an accept loop in a worker of the group until it returns, or is abandoned.
    pub(super) fn run(&self, group: &Group, accept_loop: &LoopFunction) -> Result<()> {
        let worker = group.least_loaded();
        let state = AcceptorRun { start_at: Some(worker), worker, ..AcceptorRun::default() };
        // The first start is ordered in the same way as a move: `drive` sends the order.
        let run = Arc::new(Run { state: Mutex::new(state), changed: Condvar::new() });
        self.running.lock().push(Arc::clone(&run));
        let _listed = OnDrop(|| self.running.lock().retain(|other| !Arc::ptr_eq(other, &run)));
        match run.drive(group, accept_loop) {
            Some(Ok(result)) => result,
            // A panic of the transport or of a mixin ends the run, and goes on in the thread that serves.
            Some(Err(payload)) => panic::resume_unwind(payload),
            None => Ok(()),
        }
    }

    /// Moves the accept loops of a held worker to another worker. The coroutines that ran them unwind when the held worker
    /// goes on.
    pub(super) fn move_away(&self, group: &Group, from: usize) {
        // The list is cloned, so that it is not locked while a message is sent.
        let runs = self.running.lock().clone();
        let Some(to) = group.least_loaded_but(from) else { return };
        for run in runs {
            if run.move_away(from, to) {
                // Without this message the loop would end only when one of its descriptors wakes it. The worker's inbox may be
                // closed by now.
                drop(group.workers[from].inbox.send(Message::Retire));
            }
        }
    }

    /// Ends the waits for all loops, at a close: each call of `serve` returns once its loop waits or has ended.
    pub(super) fn abandon(&self) {
        for run in &*self.running.lock() {
            run.state.lock().is_abandoned = true;
            run.changed.notify_all();
        }
    }
}
