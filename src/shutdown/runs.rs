//! [`Runs`]: the runs of one server.
//!
//! There are two kinds of state, because a signal's action must not lock:
//!
//! | state | written by | read by |
//! |---|---|---|
//! | `stop`, `drain`, `orders`, `phase` and the flags | any thread, a signal's action | the same, without the lock |
//! | [`RunsState`], under the lock | the threads that run, accept, close | the same, and those that wait for `changed` |
//!
//! A stop is requested without the lock. No stop is lost: `request_stop` stores before it notifies, and a loop that has
//! checked too early is woken by the stop's event. `changed` is notified under the lock after each change of [`RunState`]
//! that a thread may wait for.
//!
//! | waits for `changed` | until | woken by |
//! |---|---|---|
//! | `begin`, `claim` | the previous run is no longer `Finishing`, or is the caller's own | `end` |
//! | `end` | no loop and no worker is listed | `leave_loop` of the last one |
//! | `wait_until_ended` | the run does not accept, or the caller does itself | `end_accepting` |
//!
//! The stop itself ends none of these waits: it wakes the loops, and the loops end them.

mod claim;
mod lame_duck;
mod loops;

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, ThreadId};
use std::time::Instant;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::reload_and_retire::Orders;
use super::run_state::{DrainPhase, RunKind, RunState, StopBetweenRuns};
use super::stop_request::StopRequest;
use crate::error::{Error, Result};
use crate::run_phase::PhaseCell;
use crate::wait::{Event, Waiting};
pub(crate) use claim::Claim;
use loops::Accepts;

/// The runs of one server, one at a time, and its drain.
#[derive(Debug)]
pub(crate) struct Runs {
    /// The requested stop. Signals' actions set this and `drain`.
    stop: StopRequest,
    /// A [`DrainPhase`]. It only grows.
    drain: AtomicU8,
    /// Orders to reload or to retire. Signals' actions give them, too.
    pub(crate) orders: Orders,
    /// The phase, as hooks and observers get it. Signals' actions read it.
    pub(crate) phase: PhaseCell,
    /// Whether `Limits::lame_duck` is not zero. Signals' actions read it.
    has_lame_duck: AtomicBool,
    /// Whether `Server::run` or `run_all` serves: it takes SIGINT and SIGTERM, and has raised the limit of descriptors.
    served_by_run: AtomicBool,
    /// The state that needs a lock. A signal's action must not lock this: the thread that it interrupts may hold the
    /// lock.
    state: Mutex<RunsState>,
    /// Notified when accepting ends, when the last loop leaves, and when a run ends.
    changed: Condvar,
}

/// The part of [`Runs`] that is under the lock.
#[derive(Debug, Default)]
struct RunsState {
    /// The state of the run: [`RunState`] has its transitions.
    run: RunState,
    /// The thread of the run that goes on. Code of the program that runs on it must not wait for the run's end.
    runner: Option<ThreadId>,
    /// The fate of a stop that is requested between two runs. `begin` decides by it.
    between_runs: StopBetweenRuns,
    /// The threads that accept for the run that goes on: loops, and workers beside them.
    loops: Vec<(ThreadId, Accepts)>,
    /// Whether `close` has been called. Then no run begins any more, and the end of accepting closes the listener.
    closing: bool,
    /// The thread of a `Server::run`. No other thread may begin a run, and this one closes the server as soon as its
    /// run stops.
    claimed: Option<ThreadId>,
    /// The event of a thread that waits in the lame duck. Notified at the end of accepting, which also ends the lame
    /// duck.
    lame_duck: Option<Arc<Event>>,
    /// The error of the run that goes on: its `end` returns it.
    failure: Option<Error>,
}

/// The thread that has to close the listener once `close` has been called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closer {
    /// The caller: no run accepts.
    Caller,
    /// The last loop, when it ends.
    Loop,
}

impl RunsState {
    /// Whether the given thread accepts.
    fn has_loop_of(&self, thread: ThreadId) -> bool {
        self.loops.iter().any(|(id, _)| *id == thread)
    }
}

impl Runs {
    /// The runs of a new server: no run, no stop and no drain. Fails if there is no descriptor for the stop's event.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            stop: StopRequest::new()?,
            drain: AtomicU8::new(DrainPhase::NotBegun as u8),
            orders: Orders::default(),
            phase: PhaseCell::default(),
            has_lame_duck: AtomicBool::new(false),
            served_by_run: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// Forgets the runs of the parent, in a forked child that becomes a server of its own. A requested stop stays
    /// requested. It is not called within a loop, which the fork has copied too.
    pub(crate) fn enter_process(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        // The other threads of the parent, and so its other loops, do not exist here.
        if !state.has_loop_of(thread::current().id()) {
            if state.run.kind().is_some() {
                state.run = RunState::Idle;
            }
            state.loops.clear();
            state.claimed = None;
        }
        drop(state);
        self.stop.enter_process()
    }

    /// Whether this process, as it was last noted, is a forked child of the one that the runs belong to.
    pub(crate) fn is_forked(&self) -> bool {
        !self.stop.event.is_of_noted_process()
    }

    /// Stops the run that goes on, or the next one: see [`StopBetweenRuns`]. A signal's action may call it.
    pub(crate) fn request_stop(&self) {
        self.stop.request();
    }

    /// Makes the event unreadable again, unless a stop is requested. Called after each wait for
    /// [`stop_waiting`](Self::stop_waiting).
    pub(crate) fn settle(&self) {
        self.stop.settle();
    }

    /// Whether a stop is requested. One atomic load, because loops ask before each request.
    #[inline]
    pub(crate) fn stop_requested(&self) -> bool {
        self.stop.is_requested()
    }

    /// The event that a loop waits for beside the listener. The wait is followed by [`settle`](Self::settle).
    #[inline]
    pub(crate) fn stop_waiting(&self) -> Waiting<'_> {
        self.stop.waiting()
    }

    /// Whether nothing is accepted any more: a stop was requested, and no run has begun since. For handlers that ask whether to
    /// stop. Without a stop this takes the lock.
    pub(crate) fn accepts_no_more(&self) -> bool {
        self.stop_requested() || self.state.lock().run == RunState::Over
    }

    /// Lets handlers see a drain. In a child of `Forking` a drain is nothing more than this, and a signal's action calls it.
    pub(crate) fn begin_drain(&self) {
        self.drain.fetch_max(DrainPhase::FirstReads as u8, Ordering::SeqCst);
    }

    /// Notes that the drain waits for first reads no longer.
    pub(crate) fn end_first_reads(&self) {
        self.drain.fetch_max(DrainPhase::FirstReadsOver as u8, Ordering::SeqCst);
    }

    /// Whether `is_stopping` is true for handlers.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.load(Ordering::SeqCst) >= DrainPhase::FirstReads as u8
    }

    /// Whether a drain ends a connection that has sent nothing, and does not wait for it any more.
    pub(crate) fn first_reads_are_over(&self) -> bool {
        self.drain.load(Ordering::SeqCst) >= DrainPhase::FirstReadsOver as u8
    }

    /// Notes that `run` or `run_all` serves: see the field.
    pub(crate) fn set_served_by_run(&self) {
        self.served_by_run.store(true, Ordering::SeqCst);
    }

    /// Whether `run` or `run_all` serves. Asked before each fork, and for warnings, which tell an operator the remedy.
    pub(crate) fn is_served_by_run(&self) -> bool {
        self.served_by_run.load(Ordering::SeqCst)
    }

    /// Starts a run, as soon as the last one has ended.
    ///
    /// # Errors
    ///
    /// If the server is closed, serves already, or belongs to another thread's `run`; or if a handler's `Fatal` came
    /// after the last run.
    pub(crate) fn begin(&self, address: &dyn Display, kind: RunKind) -> Result<()> {
        let mut state = self.wait_while_finishing();
        // Checked first, because a close is for good: after the other errors a later call may succeed.
        if state.closing {
            return Err(Error::closed(address));
        }
        let me = thread::current().id();
        if state.run.kind().is_some() || state.claimed.is_some_and(|by| by != me) {
            return Err(serving_already(address));
        }
        // A handler may have ended the server with an error after its run had stopped.
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        // A `handle_request` heeds every stop: a program's own loop may be anywhere when the stop is requested.
        if kind == RunKind::Forever {
            if state.between_runs == StopBetweenRuns::Forgotten {
                // There is no loop, so none misses the stop.
                self.stop.forget();
            }
            state.between_runs = StopBetweenRuns::Forgotten;
        }
        state.run = RunState::Accepting(kind);
        state.runner = Some(me);
        Ok(())
    }

    /// Waits for the end of a run that accepts no more. That end is near. So a thread that has shut a server down, and
    /// has waited for it, may begin the next run at once. On the thread of the run itself (in a handler that the run's
    /// end serves, say) it does not wait: it would wait for itself.
    fn wait_while_finishing(&self) -> MutexGuard<'_, RunsState> {
        let me = Some(thread::current().id());
        let mut state = self.state.lock();
        let goes_on = |state: &mut RunsState| {
            matches!(state.run, RunState::Finishing(_)) && state.runner != me
        };
        self.changed.wait_while(&mut state, goes_on);
        state
    }

    /// Ends a run, and returns the error that ended it. Called by the thread of the run, when the mixin's `serve` has returned or
    /// panicked; waits for workers that accept beside a loop that has failed. If `close` has been called and the listener is
    /// not closed yet, it is closed here.
    pub(crate) fn end(&self, close_listener: impl FnOnce()) -> Result<()> {
        let mut state = self.state.lock();
        if !state.loops.is_empty() {
            // A worker may accept beside a loop that has ended by an error, and does not know of that error. This stop
            // ends its accept. The wait is short, because the worker only accepts, and it must be over before the stop
            // is forgotten.
            self.request_stop();
            self.changed.wait_while(&mut state, |state| !state.loops.is_empty());
        }
        self.end_accepting(&mut state, close_listener);
        // The error ends this run, and the next run begins without it.
        let failure = state.failure.take();
        let kind = state.run.kind();
        // The stop of a close stays: a handler that still runs may ask for it. A stop that came during a
        // `handle_request` and was not reported by it stays too: the program's next call reports it.
        if !state.closing && (kind != Some(RunKind::OneRequest) || failure.is_some()) {
            self.stop.forget();
        }
        // A `handle_request` leaves no `Over`: the program's own loop is about to call the next one.
        let is_forever = kind == Some(RunKind::Forever);
        state.run = if is_forever { RunState::Over } else { RunState::Idle };
        state.runner = None;
        self.changed.notify_all();
        failure.map_or(Ok(()), Err)
    }

    /// Notes that the current `handle_request` reports the stop to its caller.
    pub(crate) fn report_stop(&self) {
        let run = &mut self.state.lock().run;
        // Only noted here: `end` forgets the stop, when no loop is left that could miss it.
        match run {
            RunState::Accepting(kind) | RunState::Finishing(kind) => *kind = RunKind::StopReported,
            RunState::Idle | RunState::Over => {}
        }
    }

    /// Ends the run that goes on with an error. Only the first error counts.
    ///
    /// Any thread calls this for a `Fatal`. If the run has already ended, the next run fails, or `take_failure`
    /// returns the error.
    pub(crate) fn fail(&self, error: Error) {
        // Stored before the stop is requested, so that the run which this stop ends finds the error.
        self.state.lock().failure.get_or_insert(error);
        self.request_stop();
    }

    /// Takes the error with which the run would end. A forked child sends it to its parent. A thread that has closed
    /// the server asks for it, if the run has ended before.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state.lock().failure.take()
    }

    /// Begins the end of the server: no run begins after this, and the current one stops.
    ///
    /// The caller closes the listener if the answer is [`Closer::Caller`]. May be called again.
    pub(crate) fn close(&self) -> Closer {
        let mut state = self.state.lock();
        state.closing = true;
        // All this happens under the lock: a loop that ends at this time finds `closing`, or has ended before it was set.
        self.begin_drain();
        self.request_stop();
        // In `Finishing` the caller closes the listener too: the last loop has already checked `closing`.
        if state.run.is_accepting() { Closer::Loop } else { Closer::Caller }
    }

    /// Fails if [`close`](Self::close) has been called. The steps before a run call this.
    pub(crate) fn check_open(&self, address: &dyn Display) -> Result<()> {
        if self.state.lock().closing { Err(Error::closed(address)) } else { Ok(()) }
    }

    /// Whether the run is stopping, is the last one, and ends without an error. The loop then takes the clients that are
    /// already in the accept queue.
    pub(crate) fn ends_for_good(&self) -> bool {
        let state = self.state.lock();
        (state.closing || state.claimed.is_some())
            && state.failure.is_none()
            && self.stop_requested()
    }

    /// Whether there is a run whose last loop has not ended. It may end right after this call.
    pub(crate) fn is_accepting(&self) -> bool {
        self.state.lock().run.is_accepting()
    }

    /// Waits until accepting has ended, or until the deadline. Returns whether it has ended. On a thread that accepts it
    /// returns at once: it would wait for itself.
    pub(crate) fn wait_until_ended(&self, deadline: Option<Instant>) -> bool {
        // A forked child has none of its parent's loops.
        if !self.stop.event.is_ours() {
            return true;
        }
        let me = thread::current().id();
        let goes_on = |state: &mut RunsState| state.run.is_accepting() && !state.has_loop_of(me);
        let mut state = self.state.lock();
        match deadline {
            None => self.changed.wait_while(&mut state, goes_on),
            Some(deadline) => drop(self.changed.wait_while_until(&mut state, goes_on, deadline)),
        }
        !state.run.is_accepting()
    }
}

/// The error of a second run at the same time.
fn serving_already(address: &dyn Display) -> Error {
    Error::state(address, "is serving already")
}

#[cfg(test)]
mod tests;
