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

/// The state of a coroutine. It alone decides whether a wake-up resumes the coroutine: an event and a deadline may come in
/// the same turn, and a cancellation right after both, and they must not resume it twice for one wait.
///
/// ```text
/// Queued --resume--> Running --park--> Waiting --event, deadline, message--> resumed, or Queued
///   ^                  | yields            |
///   +------------------+    Running --returns--> Ended
/// ```
///
/// A wake-up acts in `Waiting` alone. In the other states none is lost: a `Queued` coroutine goes on anyway; and wake-ups
/// come from the loop or from the coroutine that runs, so only a coroutine that wakes itself meets `Running`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TaskState {
    /// In the worker's run queue. Set by the code that puts the task there.
    Queued,
    /// Resumed, and not suspended since. Set by [`Task::resume`].
    Running,
    /// The task waits for a descriptor, for a moment, or for another task. The coroutine sets this right before it suspends
    /// itself.
    Waiting,
    /// The body has returned. A note of the task that is left somewhere wakes nothing.
    Ended,
}

/// A coroutine. It belongs to one thread, and is kept alive by everything that may wake it.
///
/// The fields stand in the order of their use: all that a wake-up needs lies side by side at the beginning.
#[repr(C)]
pub(super) struct Task {
    pub(super) state: Cell<TaskState>,
    /// Whether a registration notes the task as its reader or its writer.
    pub(super) is_noted: Cell<bool>,
    /// Checked before and after each wait.
    pub(super) cancellation: Cancellation,
    /// The handle of the accept loop, if this coroutine runs one.
    pub(super) acceptor: Option<AcceptHandle>,
    /// The number of the request that the task serves, or serves a part of, plus one; zero for the accept loop.
    request: u64,
    /// None once the coroutine has ended. Borrowed for as long as it runs.
    body: RefCell<Option<Body>>,
    /// When the task's present wait ends at the latest. None between waits: an entry among the timers then wakes nothing.
    pub(super) deadline: Cell<Option<Instant>>,
    /// The time of the task's entry among the timers, if it has one: never later than `deadline`, while that is set.
    pub(super) armed: Cell<Option<Instant>>,
    /// The task's place in [`Tasks`].
    place: Cell<usize>,
    /// The task's number, which no other task of the worker has had.
    pub(super) number: u64,
}

impl Task {
    /// The number of the request that the task serves, or serves a part of.
    pub(super) fn request(&self) -> Option<u64> {
        self.request.checked_sub(1)
    }

    /// Whether the task is an accept loop that has to end.
    #[inline]
    pub(super) fn is_retired(&self) -> bool {
        self.acceptor.as_ref().is_some_and(AcceptHandle::is_retired)
    }

    /// Runs the coroutine until it waits or ends.
    #[inline(always)]
    pub(super) fn resume(&self) -> SwitchEnd {
        // Borrowed for as long as the coroutine runs: nothing else borrows it meanwhile.
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
    /// All tasks, in no order.
    all: RefCell<Vec<Rc<Task>>>,
    /// How many tasks there have been: the number of the last task.
    made: Cell<u64>,
}

impl Tasks {
    /// Adds a task, which is in no queue yet.
    pub(super) fn add(&self, body: Body, request: Option<u64>, phase: CancelPhase) -> Rc<Task> {
        self.add_with(Some(body), request, phase)
    }

    /// Adds a task without a coroutine, for tests of tables that note tasks and never run them.
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

    /// Removes a task that has ended, without a search: each task knows its place. The last task of the list moves to the
    /// free place.
    pub(super) fn remove(&self, task: &Task) {
        let mut all = self.all.borrow_mut();
        let place = task.place.get();
        // The task is in the list: `add` has put it there, and it ends only once.
        all.swap_remove(place);
        if let Some(moved) = all.get(place) {
            moved.place.set(place);
        }
    }

    /// All tasks at this moment, in a new list: nothing is borrowed while the caller goes through it.
    pub(super) fn snapshot(&self) -> Vec<Rc<Task>> {
        self.all.borrow().clone()
    }

    /// How many tasks there are.
    pub(super) fn len(&self) -> usize {
        self.all.borrow().len()
    }
}
