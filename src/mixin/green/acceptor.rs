//! The accept loop as a coroutine of one worker, and the thread that waits for its end.
//!
//! ```text
//! thread that serves                  worker
//!   run: lends the loop
//!   start ------ Message::Accept ---->  a coroutine runs the loop: accepts, deals requests
//!   waits                               ..
//!                                       the loop has returned, or panicked
//!   <------------- finish ------------
//!   returns its result
//! ```
//!
//! One loop runs at any time, so that hooks of the loop are called by one thread at a time, as with every other mixin.
//! Its worker may be held by a handler that does not wait. Then:
//!
//! - the watchdog **moves** it. The loop is suspended somewhere, and is *retired* there: when its worker goes on, it
//!   unwinds and does nothing more. After that another worker starts the loop anew.
//! - `server_close` at its deadline **abandons** it. The thread that serves returns, and the loop never goes on.
//!
//! Both rest on the loan (`sys/coroutine/lent.rs`), whose lock decides whether the loop runs or is suspended.

use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use super::Group;
use super::inbox::Message;
use crate::error::{Error, Result};
use crate::sys::coroutine::lent::{BorrowerHandle, LentCoroutine, Loan, lend};
use crate::sys::coroutine::stack::SlabStack;
use crate::sys::shared::{Condvar, Mutex};

/// How the loop has ended: with its result, or by a panic.
type Ended = std::result::Result<Result<()>, Box<dyn Any + Send>>;

/// One call of `serve`.
struct Run {
    state: Mutex<RunState>,
    changed: Condvar,
}

#[derive(Default)]
struct RunState {
    ended: Option<Ended>,
    /// Nobody waits for the end of the loop any longer.
    is_abandoned: bool,
    /// The worker that has to start the loop. Taken by the thread that serves.
    start_at: Option<usize>,
    /// The worker that runs the loop.
    worker: usize,
    /// Tells a start from those before it.
    start: u64,
    /// The coroutine of that start, once there is one.
    borrower: Option<BorrowerHandle>,
}

/// The order to run the accept loop.
pub(super) struct AcceptorStart {
    loan: Loan<Ended>,
    run: Arc<Run>,
    start: u64,
}

/// The payload of the panic by which a retired loop ends. No hook sees it.
pub(super) struct Retired;

impl AcceptorStart {
    /// The coroutine that runs the loop. None: the loop runs elsewhere, or there is nobody to run it for any more.
    pub(super) fn into_coroutine(
        self,
        stack: impl FnOnce() -> io::Result<SlabStack>,
    ) -> Option<LentCoroutine> {
        let (run, start) = (Arc::clone(&self.run), self.start);
        // Under the lock: the loop is either moved before this, or has a borrower that can be retired.
        let mut state = self.run.state.lock();
        if state.start != start || state.is_abandoned {
            return None;
        }
        let stack = match stack() {
            Ok(stack) => stack,
            Err(error) => {
                drop(state);
                let error = Error::io("start the accept loop of", "Green", error);
                run.finish(start, Ok(Err(error)));
                return None;
            }
        };
        let coroutine = self.loan.coroutine(stack, move |ended| run.finish(start, ended))?;
        state.borrower = Some(coroutine.handle());
        Some(coroutine)
    }
}

impl Run {
    /// A loop that has been moved ends without a result.
    fn finish(&self, start: u64, ended: Ended) {
        let mut state = self.state.lock();
        if state.start == start {
            state.ended.get_or_insert(ended);
            self.changed.notify_all();
        }
    }

    /// Takes the loop away from a worker, if it is suspended there. True: the loop that is there has to end.
    fn move_away(&self, from: usize, to: usize) -> bool {
        let mut state = self.state.lock();
        if state.worker != from || state.start_at.is_some() || state.ended.is_some() {
            return false;
        }
        // Without a borrower the order is in the worker's inbox, and finds another start.
        let is_moved = state.borrower.as_ref().is_none_or(BorrowerHandle::retire);
        if is_moved {
            state.borrower = None;
            state.worker = to;
            state.start += 1;
            state.start_at = Some(to);
            self.changed.notify_all();
        }
        is_moved
    }

    /// Starts the loop wherever it has to run, and waits for its end. None: it is abandoned.
    fn drive(self: &Arc<Self>, group: &Group, loan: &Loan<Ended>) -> Option<Ended> {
        let mut state = self.state.lock();
        loop {
            if state.ended.is_some() || state.is_abandoned {
                return state.ended.take();
            }
            match state.start_at.take() {
                Some(worker) => {
                    let (loan, run, start) = (loan.clone(), Arc::clone(self), state.start);
                    let start = AcceptorStart { loan, run, start };
                    let start = Message::Accept(start);
                    if group.workers[worker].inbox.send(start).is_some() {
                        // The mixin is closed already, and so is the server.
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
    running: Mutex<Vec<Arc<Run>>>,
}

impl Acceptors {
    /// Runs an accept loop in a worker of the group until it returns, or is abandoned.
    pub(super) fn run(
        &self,
        group: &Group,
        accept_loop: &(dyn Fn() -> Result<()> + Sync),
    ) -> Result<()> {
        let worker = group.least_loaded();
        let state = RunState { start_at: Some(worker), worker, ..RunState::default() };
        let run = Arc::new(Run { state: Mutex::new(state), changed: Condvar::new() });
        let _listed = Listed::new(self, &run);
        let caught = || panic::catch_unwind(AssertUnwindSafe(accept_loop));
        match lend(&caught, |loan| run.drive(group, loan)) {
            Some(Ok(result)) => result,
            Some(Err(payload)) => panic::resume_unwind(payload),
            None => Ok(()),
        }
    }

    /// A worker is held: its accept loops go on elsewhere, and end there when the worker goes on.
    pub(super) fn move_away(&self, group: &Group, from: usize) {
        let runs = self.running.lock().clone();
        let Some(to) = group.least_loaded_but(from) else { return };
        for run in runs {
            if run.move_away(from, to) {
                drop(group.workers[from].inbox.send(Message::Retire));
            }
        }
    }

    /// Ends the waits for all loops.
    pub(super) fn abandon(&self) {
        for run in &*self.running.lock() {
            run.state.lock().is_abandoned = true;
            run.changed.notify_all();
        }
    }
}

/// A run among those of its group, until this is dropped.
struct Listed<'a> {
    acceptors: &'a Acceptors,
    run: Arc<Run>,
}

impl<'a> Listed<'a> {
    fn new(acceptors: &'a Acceptors, run: &Arc<Run>) -> Self {
        acceptors.running.lock().push(Arc::clone(run));
        Self { acceptors, run: Arc::clone(run) }
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.acceptors.running.lock().retain(|other| !Arc::ptr_eq(other, &self.run));
    }
}
