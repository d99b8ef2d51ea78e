//! [`Probe`] and [`ProbeDoor`]: a request that tests hand to mixins, and a door to wait for one, without a server.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use parking_lot::{Condvar, Mutex};

use super::forking::{ChildEnd, RequestOfChild, ServeInChild};
use super::{Came, Door, Job, Outcome, Refused, Way, Work};
use crate::address::Address;
use crate::sys::child_process::SignalsHeld;

/// A request that says that it runs and waits until it may end.
pub(super) struct Probe {
    pub(super) runs: Sender<std::thread::ThreadId>,
    pub(super) end: Receiver<()>,
    pub(super) refused: Sender<String>,
    /// Where the next one may be waited for.
    pub(super) door: Option<Door>,
}

impl Work for Probe {
    fn run(self: Box<Self>) -> Outcome {
        self.runs.send(std::thread::current().id()).unwrap();
        let _ = self.end.recv();
        Outcome::Completed
    }

    fn refuse(self: Box<Self>, why: Refused) {
        self.refused.send(why.to_string()).unwrap();
    }

    fn release(self: Box<Self>) {}

    fn door(&self) -> Option<Door> {
        self.door.clone()
    }

    fn label(&self) -> &'static str {
        "Probe"
    }

    fn peer(&self) -> &Address {
        &Address::Unnamed
    }
}

impl ServeInChild for Probe {
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
pub(super) struct ProbeDoor {
    state: Mutex<AtDoor>,
    changed: Condvar,
}

#[derive(Default)]
struct AtDoor {
    waits: bool,
    called: bool,
    brought: Option<Job>,
}

impl ProbeDoor {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(super) fn door(self: &Arc<Self>) -> Door {
        Door::new(Arc::clone(self) as _)
    }

    pub(super) fn is_waited_at(&self) -> bool {
        self.state.lock().waits
    }

    pub(super) fn bring(&self, job: Job) {
        self.state.lock().brought = Some(job);
        self.changed.notify_all();
    }
}

impl Way for ProbeDoor {
    fn next(self: Arc<Self>, room: &mut dyn FnMut() -> bool) -> Came {
        let mut state = self.state.lock();
        assert!(!state.waits, "one at a time");
        state.waits = true;
        while state.brought.is_none() && !state.called {
            self.changed.wait(&mut state);
        }
        state.waits = false;
        match state.brought.take() {
            Some(job) if room() => Came::Request(job),
            _ => Came::Called,
        }
    }

    fn call(&self) {
        self.state.lock().called = true;
        self.changed.notify_all();
    }

    fn settle(&self) {
        self.state.lock().called = false;
    }
}
