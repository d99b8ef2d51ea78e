//! [`Task`]: a coroutine, as its worker sees it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use super::accept_coroutine::{AcceptCoroutine, AcceptHandle};
use super::cancellation::{CancelPhase, Cancellation};
use crate::sys::coroutine::switch::{Coroutine, SwitchEnd};

/// The work of a coroutine.
pub(super) enum Body {
    /// A request, or a part of one.
    Request(Coroutine),
    /// The accept loop.
    Acceptor(AcceptCoroutine),
}

impl Body {
    #[inline(always)]
    fn resume(&mut self) -> SwitchEnd {
        match self {
            Self::Request(coroutine) => coroutine.resume(),
            Self::Acceptor(coroutine) => coroutine.resume(),
        }
    }
}

/// The one owner of the answer to "may it run?": two wake-ups for one wait must not resume it twice. An event and a deadline may
/// come in the same turn, and a cancellation right after both.
///
/// ```text
/// Queued --resume--> Running --park--> Waiting --event, deadline, message--> resumed, or Queued
///   ^                  | yields            |
///   +------------------+    Running --returns--> Ended
/// ```
///
/// A wake-up acts in `Waiting` alone. In the other states it is not lost: `Queued` goes on anyway, and `Running` is seen by the
/// coroutine itself alone, because wake-ups come from the loop or from the coroutine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskState {
    /// In the worker's run queue. Set by the one that puts it there.
    Queued,
    /// Resumed, and not suspended since. Set by [`Task::resume`].
    Running,
    /// It waits for a descriptor, for a moment, or for another task. Set by the coroutine, right before it suspends itself.
    Waiting,
    /// Its body has returned. A note of it that is left somewhere wakes nothing.
    Ended,
}

/// A coroutine. It belongs to one thread, and is kept alive by those who may wake it.
///
/// In the order of its use: all that a wake-up needs lies side by side at the beginning.
#[repr(C)]
pub(super) struct Task {
    pub(super) state: Cell<TaskState>,
    /// A registration has it as the one that waits.
    pub(super) is_noted: Cell<bool>,
    /// Looked at before and after each wait.
    pub(super) cancellation: Cancellation,
    /// If it runs the accept loop.
    pub(super) acceptor: Option<AcceptHandle>,
    /// The number of the request that it serves, or serves a part of, plus one; zero for the accept loop.
    request: u64,
    /// None once it has ended. Borrowed for as long as it runs.
    body: RefCell<Option<Body>>,
    /// When its present wait ends at the latest. None between waits: an entry among the timers then wakes nothing.
    pub(super) deadline: Cell<Option<Instant>>,
    /// The time of its entry among the timers, if it has one: never later than `deadline`, while there is one.
    pub(super) armed: Cell<Option<Instant>>,
    /// Its place in [`Tasks`].
    place: Cell<usize>,
    /// No other task of the worker has had it.
    pub(super) number: u64,
}

impl Task {
    /// The number of the request that it serves, or serves a part of.
    pub(super) fn request(&self) -> Option<u64> {
        self.request.checked_sub(1)
    }

    /// Whether it is an accept loop that has to end.
    #[inline]
    pub(super) fn is_retired(&self) -> bool {
        self.acceptor.as_ref().is_some_and(AcceptHandle::is_retired)
    }

    /// Runs it until it waits or ends.
    #[inline(always)]
    pub(super) fn resume(&self) -> SwitchEnd {
        // The coroutine is borrowed while it runs; nobody else looks at it then.
        let mut running = self.body.borrow_mut();
        let Some(body) = &mut *running else { return SwitchEnd::Suspended };
        self.state.set(TaskState::Running);
        let progress = body.resume();
        // A suspended coroutine has set its state itself: waiting or queued.
        if matches!(progress, SwitchEnd::Ended(_)) {
            self.state.set(TaskState::Ended);
            *running = None;
        }
        progress
    }
}

/// All coroutines of a worker.
#[derive(Default)]
pub(super) struct Tasks {
    /// In no order.
    all: RefCell<Vec<Rc<Task>>>,
    /// How many there have been: the number of the last one.
    made: Cell<u64>,
}

impl Tasks {
    /// A new one, which waits in no queue yet.
    pub(super) fn add(&self, body: Body, request: Option<u64>, phase: CancelPhase) -> Rc<Task> {
        self.add_with(Some(body), request, phase)
    }

    /// One without a coroutine, for the tests of what notes tasks and never runs them.
    #[cfg(test)]
    pub(super) fn add_empty(&self) -> Rc<Task> {
        self.add_with(None, None, CancelPhase::None)
    }

    fn add_with(&self, body: Option<Body>, request: Option<u64>, phase: CancelPhase) -> Rc<Task> {
        let number = self.made.get() + 1;
        self.made.set(number);
        let mut all = self.all.borrow_mut();
        let task = Rc::new(Task {
            acceptor: match &body {
                Some(Body::Acceptor(coroutine)) => Some(coroutine.handle()),
                Some(Body::Request(_)) | None => None,
            },
            request: request.map_or(0, |number| number.wrapping_add(1)),
            cancellation: Cancellation::new(phase),
            body: RefCell::new(body),
            state: Cell::new(TaskState::Queued),
            is_noted: Cell::new(false),
            deadline: Cell::new(None),
            armed: Cell::new(None),
            place: Cell::new(all.len()),
            number,
        });
        all.push(Rc::clone(&task));
        task
    }

    /// One has ended. The last one takes its place, so that each knows its own without a search.
    pub(super) fn remove(&self, task: &Task) {
        let mut all = self.all.borrow_mut();
        let place = task.place.get();
        // In it for certain: `add` has put it there, and its end comes once.
        all.swap_remove(place);
        if let Some(moved) = all.get(place) {
            moved.place.set(place);
        }
    }

    /// All of them now, in a list of its own: nothing is borrowed while the caller goes through it.
    pub(super) fn snapshot(&self) -> Vec<Rc<Task>> {
        self.all.borrow().clone()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.borrow().len()
    }
}
