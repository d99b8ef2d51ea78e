//! [`FakeJob`] and [`FakeWorkerAccept`]: a request that tests hand to mixins, and a door to wait for one, without a server.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};

use super::forking::{ChildEnd, RequestOfChild, ServeInChild};
use super::{Accepted, Job, Outcome, Refused, Work, WorkerAccept};
use crate::address::Address;
use crate::sys::child_process::SignalsHeld;

/// A request that says that it runs and waits until it may end.
pub(super) struct FakeJob {
    pub(super) runs: Sender<std::thread::ThreadId>,
    pub(super) end: Receiver<()>,
    pub(super) refused: Sender<String>,
    /// Where the next one may be waited for.
    pub(super) worker_accept: Option<Arc<dyn WorkerAccept>>,
}

impl Work for FakeJob {
    fn run(self: Box<Self>) -> Outcome {
        self.runs.send(std::thread::current().id()).unwrap();
        let _ = self.end.recv();
        Outcome::Completed
    }

    fn refuse(self: Box<Self>, why: Refused) {
        self.refused.send(why.to_string()).unwrap();
    }

    fn release(self: Box<Self>) {}

    fn worker_accept(&self) -> Option<Arc<dyn WorkerAccept>> {
        self.worker_accept.clone()
    }

    fn label(&self) -> &'static str {
        "FakeJob"
    }

    fn peer(&self) -> &Address {
        &Address::Unnamed
    }
}

impl ServeInChild for FakeJob {
    fn prepare_fork(&self) {}

    fn run_in_child(self: Box<Self>, _signals: SignalsHeld) -> ChildEnd {
        unreachable!("threads have no children")
    }

    fn leave_to_child(self: Box<Self>, _child: i32) -> Box<dyn RequestOfChild> {
        unreachable!("threads hand nothing to other processes")
    }
}

/// A door to which the test brings requests.
#[derive(Default)]
pub(super) struct FakeWorkerAccept {
    state: Mutex<FakeState>,
    changed: Condvar,
}

#[derive(Default)]
struct FakeState {
    accepting: bool,
    interrupted: bool,
    brought: Option<Job>,
}

impl FakeWorkerAccept {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn erased(self: &Arc<Self>) -> Arc<dyn WorkerAccept> {
        Arc::clone(self) as _
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.state.lock().accepting
    }

    pub(super) fn bring(&self, job: Job) {
        self.state.lock().brought = Some(job);
        self.changed.notify_all();
    }
}

impl WorkerAccept for FakeWorkerAccept {
    fn accept(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Accepted {
        let mut state = self.state.lock();
        assert!(!state.accepting, "one at a time");
        state.accepting = true;
        while state.brought.is_none() && !state.interrupted {
            self.changed.wait(&mut state);
        }
        state.accepting = false;
        match state.brought.take() {
            Some(job) if room() => Accepted::Request(job),
            _ => Accepted::Leave,
        }
    }

    fn interrupt(&self) {
        self.state.lock().interrupted = true;
        self.changed.notify_all();
    }

    fn clear_interrupt(&self) {
        self.state.lock().interrupted = false;
    }
}
