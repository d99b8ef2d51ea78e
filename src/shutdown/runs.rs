//! [`Runs`]: the runs of one server.

mod claim;

use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::orders::{Orders, TakenOrders};
use super::run_state::{DrainPhase, RunKind, RunState, StopBetweenRuns};
use super::stop_latch::StopLatch;
use crate::error::{Error, Result};
use crate::run_phase::{PhaseCell, RunPhase};
use crate::wait::{self, Event, Waiting};
pub(crate) use claim::Claim;

/// The runs of one server, one at a time, and its drain.
#[derive(Debug)]
pub(crate) struct Runs {
    /// Set by signals' actions, as is `drain`.
    stop: StopLatch,
    /// A [`DrainPhase`]; it only grows.
    drain: AtomicU8,
    /// Given by signals' actions, too.
    orders: Orders,
    /// The phase that is told to hooks. Signals' actions read it.
    phase: PhaseCell,
    /// `Limits::lame_duck` is not zero. Signals' actions read it.
    has_lame_duck: AtomicBool,
    /// `Server::run` or `run_all` serves: it takes SIGINT and SIGTERM, and has raised the limit of descriptors.
    served_by_run: AtomicBool,
    /// Not for a signal's action: the thread that it interrupts may hold the lock.
    state: Mutex<RunsState>,
    /// Notified when accepting ends, when the last loop leaves, and when a run ends.
    changed: Condvar,
}

/// The part of [`Runs`] that takes the lock.
#[derive(Debug, Default)]
struct RunsState {
    /// Its doc has the table of its transitions.
    run: RunState,
    /// Decides in `begin` about a stop that was requested before.
    between_runs: StopBetweenRuns,
    /// The threads that accept for the run that goes on: loops, and workers beside them.
    loops: Vec<(ThreadId, Accepts)>,
    /// `close` has been called: no run begins after this, and the end of accepting closes the listener.
    closing: bool,
    /// The thread of a `Server::run`, which has the runs to itself and closes the server as soon as its run stops.
    claimed: Option<ThreadId>,
    /// Notified at the end of accepting: a thread that closes waits for the end of the lame duck.
    lame_duck: Option<Arc<Event>>,
    /// The error with which the run that goes on ends.
    failure: Option<Error>,
}

/// How a thread accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepts {
    /// It runs the accept loop.
    Loop,
    /// It is a worker without a request.
    BesideLoop,
}

/// Which thread has to close the listener once `close` has been called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closer {
    /// The caller: no run accepts.
    Caller,
    /// That of the last loop, at its end.
    Loop,
}

impl RunsState {
    /// Whether a thread accepts.
    fn has_loop_of(&self, thread: ThreadId) -> bool {
        self.loops.iter().any(|(id, _)| *id == thread)
    }
}

impl Runs {
    /// No run, no stop, no drain. Fails if there is no descriptor for the stop's event.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            stop: StopLatch::new()?,
            drain: AtomicU8::new(DrainPhase::NotBegun as u8),
            orders: Orders::default(),
            phase: PhaseCell::default(),
            has_lame_duck: AtomicBool::new(false),
            served_by_run: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// In a forked child that goes on for itself: the runs of its parent are none of its own. A requested stop stays
    /// requested. Not within a loop, which the fork has copied as well.
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
        !self.stop.is_of_noted_process()
    }

    /// Stops the run that goes on, or the next one, see [`StopBetweenRuns`]. A signal's action may call it.
    pub(crate) fn request_stop(&self) {
        self.stop.request();
    }

    /// Called after each wait for [`stop_waiting`](Self::stop_waiting).
    pub(crate) fn settle(&self) {
        self.stop.settle();
    }

    /// One atomic load: loops ask before each request.
    pub(crate) fn stop_requested(&self) -> bool {
        self.stop.is_requested()
    }

    /// The event that a loop waits for beside the listener. The wait is followed by [`settle`](Self::settle).
    pub(crate) fn stop_waiting(&self) -> Waiting<'_> {
        self.stop.waiting()
    }

    /// Whether nothing is accepted any more: a stop was requested, and no run has begun since.
    pub(crate) fn accepts_no_more(&self) -> bool {
        self.stop_requested() || self.state.lock().run == RunState::Over
    }

    /// Before a run of `Server::run`: from here on the thread that closes, or the loop, obeys orders.
    pub(crate) fn take_orders(&self, closer_obeys: bool) -> io::Result<()> {
        self.orders.open(closer_obeys)
    }

    /// The thread that closes could not be started.
    pub(crate) fn leave_orders_to_loop(&self) {
        self.orders.leave_to_loop();
    }

    /// Has the server reload what the program has registered for it. A signal's action may call it.
    pub(crate) fn order_reload(&self) {
        self.orders.give_reload();
    }

    /// Has the server begin its lame duck and close after it, if it is ready and has one; otherwise it is a stop. A signal's
    /// action may call it.
    pub(crate) fn request_retire(&self) {
        // In a forked child it goes to the parent as a stop, by the exit status.
        let is_lame_duck = self.has_lame_duck.load(Ordering::SeqCst)
            && self.phase.get() == RunPhase::Ready
            && self.stop.is_ours();
        if !is_lame_duck || !self.orders.give_retire() {
            self.request_stop();
        }
    }

    /// Follows `Limits::lame_duck`.
    pub(crate) fn set_lame_duck(&self, time: Duration) {
        self.has_lame_duck.store(!time.is_zero(), Ordering::SeqCst);
    }

    /// The phase of the server.
    pub(crate) fn phase(&self) -> &PhaseCell {
        &self.phase
    }

    /// In a thread that closes: waits until the lame duck is over. A stop or the end of the run ends it early; where no
    /// `serve_forever` accepts, there is none.
    pub(crate) fn wait_in_lame_duck(&self, until: Instant) {
        // Without a descriptor the lame duck is skipped: the server closes, which it was asked for.
        let Ok(over) = Event::new().map(Arc::new) else { return };
        {
            let mut state = self.state.lock();
            if state.run != RunState::Accepting(RunKind::Forever) {
                return;
            }
            state.lame_duck = Some(Arc::clone(&over));
        }
        while !self.stop_requested() && !over.is_set() && Instant::now() < until {
            let waited = wait::any(&[self.stop.waiting(), over.waiting()], Some(until));
            self.settle();
            if waited.is_err() {
                return;
            }
        }
    }

    /// The orders that are the loop's to obey.
    pub(crate) fn orders_in_loop(&self) -> TakenOrders {
        self.orders.take_in_loop()
    }

    /// The wait of a loop for its orders.
    pub(crate) fn orders_waiting(&self) -> Option<Waiting<'_>> {
        self.orders.waiting_in_loop()
    }

    /// Waits for a stop of the run that goes on, an order to retire, or for `over`, and obeys other orders meanwhile. A stop that is requested before
    /// the run has begun does not count: the run returns by itself, and `over` follows.
    pub(crate) fn wait_for_stop(&self, over: &Event, obey: impl Fn(TakenOrders)) {
        loop {
            let (stop, over_waiting) = (self.stop.waiting(), over.waiting());
            // An error of the wait counts as a stop: a lame duck that ends early does less harm than one that never
            // ends.
            let waited = match self.orders.waiting() {
                Some(orders) => wait::any(&[stop, over_waiting, orders], None),
                None => wait::any(&[stop, over_waiting], None),
            };
            if waited.is_err() || over.is_set() {
                return;
            }
            if self.stop_requested() {
                if self.is_accepting() {
                    return;
                }
                // The stop keeps the latch readable, so that a wait for both would spin.
                let _ = wait::any(&[over.waiting()], None);
            }
            let orders = self.orders.take();
            if orders.retire {
                return;
            }
            obey(orders);
            self.settle();
        }
    }

    /// Has handlers see a drain. In a forked child this is all that a drain is, and a signal's action calls it.
    pub(crate) fn begin_drain(&self) {
        self.drain.fetch_max(DrainPhase::FirstReads as u8, Ordering::SeqCst);
    }

    /// From here on no first read is waited for either.
    pub(crate) fn end_first_reads(&self) {
        self.drain.fetch_max(DrainPhase::FirstReadsOver as u8, Ordering::SeqCst);
    }

    /// Whether `is_stopping` is true for handlers.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.load(Ordering::SeqCst) >= DrainPhase::FirstReads as u8
    }

    /// Whether a connection that has sent nothing is ended instead of waited for.
    pub(crate) fn first_reads_are_over(&self) -> bool {
        self.drain.load(Ordering::SeqCst) >= DrainPhase::FirstReadsOver as u8
    }

    /// See the field.
    pub(crate) fn set_served_by_run(&self) {
        self.served_by_run.store(true, Ordering::SeqCst);
    }

    /// Asked by warnings, which tell an operator what to do, and before the first fork.
    pub(crate) fn is_served_by_run(&self) -> bool {
        self.served_by_run.load(Ordering::SeqCst)
    }

    /// Starts a run, as soon as the last one has ended.
    ///
    /// # Errors
    ///
    /// The server is closed, serves already, or belongs to another thread's `run`; or a handler's `Fatal` came after
    /// the last run.
    pub(crate) fn begin(&self, address: &dyn Display, kind: RunKind) -> Result<()> {
        let mut state = self.wait_while_finishing();
        if state.closing {
            return Err(Error::closed(address));
        }
        if state.run.is_accepting() || state.claimed.is_some_and(|by| by != thread::current().id())
        {
            return Err(serving_already(address));
        }
        // A handler may have ended the server with an error after its run had stopped.
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        // A `handle_request` heeds every stop: a program's own loop may be anywhere when it is requested.
        if kind == RunKind::Forever {
            if state.between_runs == StopBetweenRuns::Forgotten {
                self.stop.forget();
            }
            state.between_runs = StopBetweenRuns::Forgotten;
        }
        state.run = RunState::Accepting(kind);
        Ok(())
    }

    /// A run that accepts no more is about to end: a thread that has waited for its shutdown may begin the next one at
    /// once.
    fn wait_while_finishing(&self) -> MutexGuard<'_, RunsState> {
        let mut state = self.state.lock();
        while matches!(state.run, RunState::Finishing(_)) {
            self.changed.wait(&mut state);
        }
        state
    }

    /// Notes that this thread accepts for the run that goes on.
    ///
    /// Followed by [`leave_loop`](Self::leave_loop) on the same thread, also after a panic. False: no run accepts, and this
    /// thread must not either.
    pub(crate) fn enter_loop(&self) -> bool {
        let mut state = self.state.lock();
        let may = state.run.is_accepting();
        if may {
            state.loops.push((thread::current().id(), Accepts::Loop));
        }
        may
    }

    /// The mixin has returned: a loop that has not left is suspended in a worker that is stuck, and does nothing but unwind.
    pub(crate) fn forget_loops(&self) {
        self.state.lock().loops.retain(|(_, accepts)| *accepts != Accepts::Loop);
    }

    /// Notes that this thread, a worker's, accepts beside the loop, if there is a loop that accepts until a stop. It
    /// counts as a loop, so that accepting ends with the last of all.
    ///
    /// False: the worker must not accept, and does not call [`leave_loop`](Self::leave_loop).
    pub(crate) fn enter_worker(&self) -> bool {
        let mut state = self.state.lock();
        // Without an accept loop nobody accepts. After a stop a further request would only delay the end.
        let may = state.run.kind() == Some(RunKind::Forever)
            && !state.loops.is_empty()
            && !self.stop_requested();
        if may {
            state.loops.push((thread::current().id(), Accepts::BesideLoop));
        }
        may
    }

    /// Notes that a loop has ended. The last one ends the accepting, if a stop was requested: it closes the listener, if
    /// that was asked for as well, while requests may still be running.
    pub(crate) fn leave_loop(&self, close_listener: impl Fn()) {
        let mut state = self.state.lock();
        let me = thread::current().id();
        // Without a stop (after an error, or after one request) this call ends the accepting.
        let is_last = state.loops.iter().all(|(id, _)| *id == me) && self.stop_requested();
        if is_last {
            // Still one of the loops: the thread that ends the run waits for the close.
            self.end_accepting(&mut state, close_listener);
        }
        if let Some(index) = state.loops.iter().position(|(id, _)| *id == me) {
            state.loops.swap_remove(index);
        }
        if is_last {
            self.changed.notify_all();
        }
    }

    /// The listener is closed without the lock: the transport may be the user's. A `close` that is called meanwhile is
    /// seen afterwards.
    fn end_accepting(&self, state: &mut MutexGuard<'_, RunsState>, close_listener: impl Fn()) {
        let mut closed = false;
        // Once: the condition is looked at again, because the lock was released.
        while state.run.is_accepting() && state.closing && !closed {
            MutexGuard::unlocked(state, &close_listener);
            closed = true;
        }
        if let RunState::Accepting(kind) = state.run {
            state.run = RunState::Finishing(kind);
        }
        if let Some(lame_duck) = state.lame_duck.take() {
            lame_duck.notify();
        }
        self.changed.notify_all();
    }

    /// Ends a run, and gives the error that ended it.
    pub(crate) fn end(&self, close_listener: impl Fn()) -> Result<()> {
        let mut state = self.state.lock();
        if !state.loops.is_empty() {
            // A worker may accept beside a loop that has ended by an error, and does not know of that error. This
            // stop tells it. The wait is short, because the worker only accepts, and it must be over before the stop
            // is forgotten.
            self.request_stop();
            while !state.loops.is_empty() {
                self.changed.wait(&mut state);
            }
        }
        self.end_accepting(&mut state, close_listener);
        // The error ends this run, and the next run begins without it.
        let failure = state.failure.take();
        let kind = state.run.kind();
        if !state.closing && (kind != Some(RunKind::OneRequest) || failure.is_some()) {
            self.stop.forget();
        }
        // A `handle_request` leaves no `Over`: the program's own loop is about to call the next one.
        let is_forever = kind == Some(RunKind::Forever);
        state.run = if is_forever { RunState::Over } else { RunState::Idle };
        self.changed.notify_all();
        failure.map_or(Ok(()), Err)
    }

    /// The caller of this `handle_request` is told of the stop.
    pub(crate) fn report_stop(&self) {
        let run = &mut self.state.lock().run;
        match run {
            RunState::Accepting(kind) | RunState::Finishing(kind) => *kind = RunKind::StopReported,
            RunState::Idle | RunState::Over => {}
        }
    }

    /// Ends the run that goes on with an error. The first one counts.
    ///
    /// Called by any thread, for a `Fatal`. After the end of a run it is the next one that fails, or `take_failure`
    /// fetches it.
    pub(crate) fn fail(&self, error: Error) {
        self.state.lock().failure.get_or_insert(error);
        self.request_stop();
    }

    /// The error with which the run would end: for a forked child, which tells its parent, and for a thread that has
    /// closed the server, when the run has ended before.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state.lock().failure.take()
    }

    /// Begins the end of the server: no run begins after this, and the current one stops.
    ///
    /// The caller closes the listener if the answer is [`Closer::Caller`]. May be called again.
    pub(crate) fn close(&self) -> Closer {
        let mut state = self.state.lock();
        state.closing = true;
        // All under the lock: a loop that ends meanwhile finds `closing`, or has ended before it was set.
        self.begin_drain();
        self.request_stop();
        if state.run.is_accepting() { Closer::Loop } else { Closer::Caller }
    }

    /// Whether the run that stops is the last one, and ends in order.
    pub(crate) fn ends_for_good(&self) -> bool {
        let state = self.state.lock();
        (state.closing || state.claimed.is_some())
            && state.failure.is_none()
            && self.stop_requested()
    }

    /// Whether there is a run whose last loop has not ended.
    pub(crate) fn is_accepting(&self) -> bool {
        self.state.lock().run.is_accepting()
    }

    /// Whether the current thread accepts for the run that goes on.
    ///
    /// Such a thread must not wait for the end of the run.
    pub(crate) fn is_loop_thread(&self) -> bool {
        self.state.lock().has_loop_of(thread::current().id())
    }

    /// Waits until accepting has ended, or until the deadline. Says whether it has.
    pub(crate) fn wait_until_ended(&self, deadline: Option<Instant>) -> bool {
        // A forked child has none of its parent's loops.
        if !self.stop.is_ours() {
            return true;
        }
        let mut state = self.state.lock();
        while state.run.is_accepting() && !state.has_loop_of(thread::current().id()) {
            match deadline {
                None => self.changed.wait(&mut state),
                Some(deadline) => {
                    if self.changed.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
            }
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
