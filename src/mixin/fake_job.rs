//! [`FakeJobs`] and [`FakeServer`]: requests for the tests of mixins, and a server that brings them to workers that
//! accept.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread::{self, ThreadId};

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Condvar, Mutex};

use super::forking::{ChildEnd, RequestOfChild, ServeInChild};
use super::{Accepted, Job, Refused, Work, WorkerAccept, WorkerWatch};
use crate::address::Address;
use crate::events::CloseReason;
use crate::sys::fork::SignalsHeld;

/// Makes [`FakeJob`]s, and receives what they report.
pub(super) struct FakeJobs {
    /// The prototype: each job is a clone of it.
    first: FakeJob,
    /// The threads of the jobs that run or have run.
    pub(super) ran: Receiver<ThreadId>,
    /// Each message ends a job that runs.
    pub(super) ends: Sender<()>,
    /// Why jobs were refused.
    pub(super) refusals: Receiver<String>,
}

impl FakeJobs {
    pub(super) fn new() -> Self {
        let ((runs, ran), (ends, end), (refused, refusals)) =
            (unbounded(), unbounded(), unbounded());
        Self { first: FakeJob { runs, end, refused, server: None }, ran, ends, refusals }
    }

    pub(super) fn job(&self) -> Job {
        self.job_of(None)
    }

    /// A job whose worker may accept further requests of this server when the job has ended.
    pub(super) fn job_of(&self, server: Option<Arc<dyn WorkerAccept>>) -> Job {
        Job::new(Box::new(FakeJob { server, ..self.first.clone() }))
    }
}

/// A request that reports its thread when it runs, and then waits until it may end.
#[derive(Clone)]
struct FakeJob {
    runs: Sender<ThreadId>,
    end: Receiver<()>,
    refused: Sender<String>,
    server: Option<Arc<dyn WorkerAccept>>,
}

impl Work for FakeJob {
    fn run(self: Box<Self>) -> CloseReason {
        self.runs.send(thread::current().id()).unwrap();
        let _ = self.end.recv();
        CloseReason::Completed
    }

    fn refuse(self: Box<Self>, why: Refused) {
        self.refused.send(why.to_string()).unwrap();
    }

    fn release(self: Box<Self>) {}

    fn worker_accept(&self) -> Option<Arc<dyn WorkerAccept>> {
        self.server.clone()
    }

    fn id(&self) -> u64 {
        0
    }

    fn worker_watch(&self) -> Weak<dyn WorkerWatch> {
        unreachable!("threads have no watchdog")
    }

    fn stays_with_acceptor(&self) -> bool {
        false
    }

    fn label(&self) -> &'static str {
        "FakeJob"
    }

    fn peer(&self) -> &Address {
        &Address::Unnamed
    }
}

impl ServeInChild for FakeJob {
    fn prepare_fork(&mut self, _most: usize) -> Option<Arc<OwnedFd>> {
        None
    }

    fn run_in_child(
        self: Box<Self>,
        _listener: Option<Arc<OwnedFd>>,
        _signals: SignalsHeld,
        _leave: &dyn Fn(ChildEnd) -> Infallible,
    ) -> ! {
        unreachable!("threads have no children")
    }

    fn leave_to_child(self: Box<Self>, _child: i32) -> Box<dyn RequestOfChild> {
        unreachable!("threads hand nothing to other processes")
    }
}

/// A server whose requests the test brings.
#[derive(Default)]
pub(super) struct FakeServer {
    state: Mutex<FakeState>,
    changed: Condvar,
}

#[derive(Default)]
struct FakeState {
    accepting: bool,
    interrupted: bool,
    brought: Option<Job>,
}

impl FakeServer {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn erased(self: &Arc<Self>) -> Option<Arc<dyn WorkerAccept>> {
        Some(Arc::clone(self) as _)
    }

    pub(super) fn is_accepting(&self) -> bool {
        self.state.lock().accepting
    }

    pub(super) fn bring(&self, job: Job) {
        self.state.lock().brought = Some(job);
        self.changed.notify_all();
    }
}

impl WorkerAccept for FakeServer {
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

    fn let_go(self: Arc<Self>) -> bool {
        Arc::into_inner(self).is_some()
    }
}
