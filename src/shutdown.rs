//! When a server runs and when it stops: the state of its runs, and [`ShutdownHandle`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::wait::{self, Event, Waiting};

/// Stops a server from anywhere: another thread, one of its handlers, a signal's handler.
///
/// Clones are handles to the same server, and keep nothing of it alive but a few words. A handle that
/// outlives its server does nothing.
#[derive(Clone, Debug)]
pub struct ShutdownHandle {
    runs: Arc<Runs>,
}

impl ShutdownHandle {
    pub(crate) fn new(runs: Arc<Runs>) -> Self {
        Self { runs }
    }

    pub(crate) fn runs(&self) -> &Arc<Runs> {
        &self.runs
    }

    /// Asks the server to stop accepting, and returns at once. An atomic store and one `write`, so
    /// that a signal's handler may call it.
    ///
    /// Before the first run it makes that run return at once. Between two runs it does nothing: each
    /// has its own. The listener stays open, and requests that are running go on.
    pub fn shutdown(&self) {
        self.runs.request_stop();
    }

    /// Waits until nothing is accepted any more. Returns at once where waiting could never end: on a
    /// thread that accepts.
    pub fn wait(&self) {
        self.runs.wait_until_ended(None);
    }

    /// Like [`wait`](Self::wait), for a time. Says whether accepting has ended.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.runs.wait_until_ended(Instant::now().checked_add(timeout))
    }

    /// Whether a stop has been asked for, or the server is closed.
    #[must_use]
    pub fn is_shutdown(&self) -> bool {
        self.runs.stop_requested()
    }
}

/// The runs of one server. One at a time; each begins by [`begin`](Self::begin) and ends by
/// [`end`](Self::end). Within it accepting has an end of its own: a mixin that runs requests on the
/// threads of its loops goes on with them when the loops have ended.
#[derive(Debug)]
pub(crate) struct Runs {
    stop: AtomicBool,
    /// Readable from the request to stop until the run has ended. Nobody clears it in between, so
    /// that it wakes every loop of the run, however many there are.
    latch: Event,
    latched: AtomicBool,
    /// A drain has begun: what handlers see as `is_stopping`.
    draining: AtomicBool,
    /// `Limits::first_read` has passed since: also who has sent nothing yet is waited for no longer.
    first_reads_over: AtomicBool,
    /// `Server::run` has put Ctrl-C and SIGTERM into our hands.
    signals_handled: AtomicBool,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// From the beginning of a run to its end.
    serving: bool,
    /// From the beginning of a run until its last loop has ended.
    accepting: bool,
    ever_served: bool,
    /// The end of this run is the end of the stop that was asked for: so it is with `serve_forever`, and
    /// with a `handle_request` that has told its caller.
    consumes_stop: bool,
    /// This run goes on until a stop, and is not one `handle_request`.
    forever: bool,
    /// The last `serve_forever` has ended, and no run has begun since.
    over: bool,
    /// The threads of the loops.
    loops: Vec<ThreadId>,
    /// `server_close` was called: who ends the run closes the listener.
    closing: bool,
    /// The thread whose `Server::run` has the runs to itself, and closes the server as soon as its run stops.
    claimed: Option<ThreadId>,
    failure: Option<Error>,
}

/// Who has to close the listener once `close` has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closer {
    /// The caller: no run is going on.
    Caller,
    /// The last loop of the run, at its end.
    Loop,
}

impl Runs {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            stop: AtomicBool::new(false),
            latch: Event::new()?,
            latched: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            first_reads_over: AtomicBool::new(false),
            signals_handled: AtomicBool::new(false),
            state: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// In a forked child that goes on for itself: what its parent does is no affair of its own any more. A stop that
    /// has been asked for stays asked for. Not within a loop, which the fork has copied as well.
    pub(crate) fn enter_process(&self) -> std::io::Result<()> {
        let mut state = self.state.lock();
        if !state.loops.contains(&thread::current().id()) {
            state.serving = false;
            state.accepting = false;
            state.loops.clear();
            state.claimed = None;
        }
        drop(state);
        self.latch.own()?;
        // In this order: a stop that comes meanwhile has either found the new latch, or is found here.
        let stop = self.stop_requested();
        self.latched.store(stop, Ordering::SeqCst);
        if stop {
            self.latch.notify();
        }
        Ok(())
    }

    /// Whether this process, as it was last noted, is a forked child of the one that the runs belong to.
    pub(crate) fn is_forked(&self) -> bool {
        !self.latch.is_of_noted_process()
    }

    pub(crate) fn request_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.latch.notify();
        self.latched.store(true, Ordering::SeqCst);
    }

    /// After a wait: a request to stop that crossed the beginning or the end of a run may have left the
    /// latch readable without a stop, and every further wait would return at once.
    pub(crate) fn settle(&self) {
        if self.stop_requested() || !self.latched.load(Ordering::SeqCst) {
            return;
        }
        // Looked at before it is taken: it is asked for after every wait, and hardly ever set.
        if self.latched.swap(false, Ordering::SeqCst) {
            self.latch.clear();
            if self.stop_requested() {
                self.request_stop();
            }
        }
    }

    pub(crate) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether nothing is accepted any more: a stop was asked for, and no run has begun since.
    pub(crate) fn accepts_no_more(&self) -> bool {
        self.stop_requested() || self.state.lock().over
    }

    pub(crate) fn stop_waiting(&self) -> Waiting<'_> {
        self.latch.waiting()
    }

    /// Waits for a stop of the run that is going on, or for `over`. A stop that comes before the run has begun
    /// is none: the run returns by itself, and `over` follows.
    pub(crate) fn wait_for_stop(&self, over: &Event) {
        loop {
            // Whoever cannot wait takes it for the end: late is worse than early.
            let waited = wait::any(&[self.latch.waiting(), over.waiting()], None);
            if waited.is_err() || over.is_set() {
                return;
            }
            if self.stop_requested() {
                if self.state.lock().accepting {
                    return;
                }
                let _ = wait::any(&[over.waiting()], None);
            }
            self.settle();
        }
    }

    /// Has handlers see a drain, and does nothing else: in a forked child, where it is a signal that
    /// says so.
    pub(crate) fn begin_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// From here on no first read is waited for either.
    pub(crate) fn end_first_reads(&self) {
        self.first_reads_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn first_reads_are_over(&self) -> bool {
        self.first_reads_over.load(Ordering::SeqCst)
    }

    pub(crate) fn signals_handled(&self) -> &AtomicBool {
        &self.signals_handled
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Starts a run. `forever`: of `serve_forever`, whose second and later runs know nothing of a
    /// stop that came between them. A single `handle_request` heeds it: a program's own loop may be
    /// anywhere when it comes.
    pub(crate) fn begin(&self, address: &dyn std::fmt::Display, forever: bool) -> Result<()> {
        let mut state = self.state.lock();
        // Whoever has waited for a shutdown may begin the next run at once: the last one is about to end.
        while state.serving && !state.accepting {
            self.ended.wait(&mut state);
        }
        if state.closing {
            return Err(Error::closed(address));
        }
        if state.serving || state.claimed.is_some_and(|by| by != thread::current().id()) {
            return Err(serving_already(address));
        }
        // A handler may have ended the server with an error after its run had stopped.
        if let Some(failure) = state.failure.take() {
            return Err(failure);
        }
        if forever && state.ever_served {
            self.forget_stop();
        }
        state.ever_served |= forever;
        state.consumes_stop = forever;
        state.forever = forever;
        state.serving = true;
        state.accepting = true;
        state.over = false;
        Ok(())
    }

    /// Notes that this thread accepts for the current run.
    pub(crate) fn enter_loop(&self) {
        self.state.lock().loops.push(thread::current().id());
    }

    /// Notes that this thread accepts beside the loop, if there is one that accepts until a stop. Such a thread
    /// counts as a loop, so that nothing is accepted any more when the last of all has ended.
    pub(crate) fn enter_beside_loop(&self) -> bool {
        let mut state = self.state.lock();
        let may = state.forever && !state.loops.is_empty() && !self.stop_requested();
        if may {
            state.loops.push(thread::current().id());
        }
        may
    }

    /// Notes that a loop has ended. The last one ends the accepting, if a stop was asked for: it
    /// closes the listener, if that was asked for as well, while requests may still be running.
    pub(crate) fn leave_loop(&self, close_listener: impl Fn()) {
        let mut state = self.state.lock();
        let me = thread::current().id();
        let is_last = state.loops.iter().all(|id| *id == me) && self.stop_requested();
        if is_last {
            // Still one of them: whoever ends the run waits for the close.
            self.accepting_ends(&mut state, close_listener);
        }
        if let Some(place) = state.loops.iter().position(|id| *id == me) {
            state.loops.swap_remove(place);
        }
        if is_last {
            self.ended.notify_all();
        }
    }

    /// The listener is closed without the lock: the transport may be the user's. A close that is asked for meanwhile is
    /// seen afterwards.
    fn accepting_ends(&self, state: &mut MutexGuard<'_, State>, close_listener: impl Fn()) {
        let mut closed = false;
        while state.accepting && state.closing && !closed {
            MutexGuard::unlocked(state, &close_listener);
            closed = true;
        }
        state.accepting = false;
        self.ended.notify_all();
    }

    /// Ends a run, and gives the error that ended it.
    pub(crate) fn end(&self, close_listener: impl Fn()) -> Result<()> {
        let mut state = self.state.lock();
        if !state.loops.is_empty() {
            // Who accepts beside a loop that has ended by an error has not heard of it. It never does more than
            // accept, so that it is not waited for in vain, and it has to be gone before the stop is forgotten.
            self.request_stop();
            while !state.loops.is_empty() {
                self.ended.wait(&mut state);
            }
        }
        self.accepting_ends(&mut state, close_listener);
        let failure = state.failure.take();
        if !state.closing && (state.consumes_stop || failure.is_some()) {
            self.forget_stop();
        }
        state.serving = false;
        state.over = state.forever;
        self.ended.notify_all();
        failure.map_or(Ok(()), Err)
    }

    /// The caller of this `handle_request` is told of the stop. One that comes while a request is being
    /// handled is kept for the next call.
    pub(crate) fn tell_of_stop(&self) {
        self.state.lock().consumes_stop = true;
    }

    /// Ends the current run with an error. The first one counts.
    pub(crate) fn fail(&self, error: Error) {
        self.state.lock().failure.get_or_insert(error);
        self.request_stop();
    }

    /// The error with which the run would end: for a forked child, which tells its parent, and for who has closed
    /// the server, when the run has ended before.
    pub(crate) fn take_failure(&self) -> Option<Error> {
        self.state.lock().failure.take()
    }

    /// Begins the end of the server: no run begins after this, and the current one stops.
    pub(crate) fn close(&self) -> Closer {
        let mut state = self.state.lock();
        state.closing = true;
        self.draining.store(true, Ordering::SeqCst);
        self.request_stop();
        if state.accepting { Closer::Loop } else { Closer::Caller }
    }

    /// For `Server::run`, which closes the server as soon as its run stops: nobody else's run begins until the claim is
    /// dropped. Fails, and changes nothing, if there is another claim or somebody serves.
    pub(crate) fn claim(self: &Arc<Self>, address: &dyn std::fmt::Display) -> Result<Claim> {
        let mut state = self.state.lock();
        while state.serving && !state.accepting {
            self.ended.wait(&mut state);
        }
        if state.serving || state.claimed.is_some() {
            return Err(serving_already(address));
        }
        state.claimed = Some(thread::current().id());
        drop(state);
        Ok(Claim { runs: Arc::clone(self) })
    }

    /// Whether the run that stops is the last one, and ends in order.
    pub(crate) fn ends_for_good(&self) -> bool {
        let state = self.state.lock();
        (state.closing || state.claimed.is_some())
            && state.failure.is_none()
            && self.stop_requested()
    }

    /// In a forked child: the loop is the parent's, and nobody here can wait for its end.
    pub(crate) fn enter_child(&self) {
        self.state.lock().accepting = false;
    }

    /// Whether there is a run whose last loop has not ended.
    pub(crate) fn is_accepting(&self) -> bool {
        self.state.lock().accepting
    }

    /// Whether the current thread accepts for the run that is going on.
    pub(crate) fn is_loop_thread(&self) -> bool {
        self.state.lock().loops.contains(&thread::current().id())
    }

    /// Waits until accepting has ended, or until the deadline.
    pub(crate) fn wait_until_ended(&self, deadline: Option<Instant>) -> bool {
        // In a forked child nobody accepts until a run of its own has begun.
        if !self.latch.is_ours() {
            return true;
        }
        let mut state = self.state.lock();
        while state.accepting && !state.loops.contains(&thread::current().id()) {
            match deadline {
                None => self.ended.wait(&mut state),
                Some(deadline) => {
                    if self.ended.wait_until(&mut state, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        !state.accepting
    }

    fn forget_stop(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.latched.store(false, Ordering::SeqCst);
        self.latch.clear();
    }
}

fn serving_already(address: &dyn std::fmt::Display) -> Error {
    Error::state(address, "is serving already")
}

/// The runs of a server are for one thread, until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    runs: Arc<Runs>,
}

impl Claim {
    /// From here on they are for this thread.
    pub(crate) fn hand_over(&self) {
        self.runs.state.lock().claimed = Some(thread::current().id());
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.runs.state.lock().claimed = None;
    }
}
