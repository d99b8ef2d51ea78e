//! The accept loop as a coroutine of one worker, and the thread that waits for its end.
//!
//! ```text
//! thread that serves                  worker
//!   serve: lends the loop
//!   start ------ Message::Accept ---->  a coroutine runs the loop: accepts, deals requests
//!   waits                               ..
//!                                       the loop has returned, or panicked
//!   <------------- finish ------------
//!   returns its result
//! server_close at its deadline: abandon -> the wait ends, although the worker may be stuck
//! ```
//!
//! One loop runs at any time, so that the hooks of the loop are called by one thread at a time, as with every other
//! mixin. The loan (`sys/coroutine/lent.rs`) sees to it that a loop which is left behind never goes on.

use std::any::Any;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::Group;
use super::inbox::Message;
use crate::error::{Error, Result};
use crate::sys::coroutine::lent::{LentCoroutine, Loan, lend};
use crate::sys::coroutine::stack::SlabStack;

/// How the loop has ended: with its result, or by a panic.
type Ended = std::result::Result<Result<()>, Box<dyn Any + Send>>;

/// The state of the loop that one call of `serve` has started.
struct Run {
    state: Mutex<RunState>,
    changed: Condvar,
}

#[derive(Default)]
struct RunState {
    ended: Option<Ended>,
    /// Nobody waits for the end of the loop any longer.
    abandoned: bool,
}

/// The order to run the accept loop.
pub(super) struct AcceptorStart {
    loan: Loan<Ended>,
    run: Arc<Run>,
}

impl AcceptorStart {
    /// The coroutine that runs the loop. None: there is nobody to run it for any more.
    pub(super) fn into_coroutine(self, stack: SlabStack) -> Option<LentCoroutine> {
        let run = self.run;
        self.loan.coroutine(stack, move |ended| run.finish(ended))
    }

    /// It cannot be run.
    pub(super) fn fail(self, error: io::Error) {
        self.run.finish(Ok(Err(Error::io("start the accept loop of", "Green", error))));
    }
}

impl Run {
    fn finish(&self, ended: Ended) {
        self.state.lock().ended.get_or_insert(ended);
        self.changed.notify_all();
    }
}

/// The loops of a group that are running, to be abandoned at its close.
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
        let run = Arc::new(Run { state: Mutex::default(), changed: Condvar::new() });
        self.running.lock().push(Arc::clone(&run));
        let caught = || panic::catch_unwind(AssertUnwindSafe(accept_loop));
        let ended = lend(&caught, |loan| {
            let start = AcceptorStart { loan: loan.clone(), run: Arc::clone(&run) };
            group.acceptor().send(Message::Accept(start));
            let mut state = run.state.lock();
            run.changed.wait_while(&mut state, |state| state.ended.is_none() && !state.abandoned);
            state.ended.take()
        });
        self.running.lock().retain(|other| !Arc::ptr_eq(other, &run));
        match ended {
            Some(Ok(result)) => result,
            Some(Err(payload)) => panic::resume_unwind(payload),
            None => Ok(()),
        }
    }

    /// Ends the waits for all loops.
    pub(super) fn abandon(&self) {
        for run in &*self.running.lock() {
            run.state.lock().abandoned = true;
            run.changed.notify_all();
        }
    }
}
