//! [`Timers`]: the deadlines of a worker's coroutines.
//!
//! A coroutine has one entry at most. A deadline that moves into the future leaves the entry where it is: the entry comes
//! up too early, and is then moved on. So a handler that sets a later deadline at each read costs one comparison.
//!
//! ```text
//! the coroutine waits until                the deadline    its entry
//! 10 s                                     10              added at 10
//! (input has come)                         none            stays at 10
//! 20 s, at the next read                   20              stays at 10: early enough
//!                     the clock: 10        20              not due: moved to 20
//! (input has come)                         none            stays at 20
//! 15 s                                     15              too late: moved to 15 at once
//! (input has come)                         none            stays at 15
//!                     the clock: 15        none            taken, and dropped
//! ```
//!
//! The entry keeps the coroutine in memory; its end takes the entry out ([`forget`](Timers::forget)).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use super::tasks::Task;

/// Entries in the order of their times. The number tells entries of one time apart.
#[derive(Default)]
pub(super) struct Timers {
    entries: RefCell<BTreeMap<(Instant, u64), Rc<Task>>>,
}

impl Timers {
    /// The task waits until this moment at the most.
    #[inline]
    pub(super) fn set(&self, task: &Rc<Task>, at: Instant) {
        task.deadline.set(Some(at));
        // An entry that comes up before then is left where it is.
        if task.armed.get().is_none_or(|armed| armed > at) {
            self.arm(task, at);
        }
    }

    /// Adds the entry of a task, or moves it.
    fn arm(&self, task: &Rc<Task>, at: Instant) {
        let mut entries = self.entries.borrow_mut();
        // A task has one entry: the earlier one goes.
        if let Some(armed) = task.armed.replace(Some(at)) {
            entries.remove(&(armed, task.number));
        }
        entries.insert((at, task.number), Rc::clone(task));
    }

    /// The task has ended.
    pub(super) fn forget(&self, task: &Task) {
        if let Some(armed) = task.armed.take() {
            self.entries.borrow_mut().remove(&(armed, task.number));
        }
    }

    /// The earliest moment at which something may be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// A task whose deadline has passed. None: no other is due. Called again and again, and the caller may resume the task in
    /// between, which changes the entries.
    pub(super) fn take_due(&self, now: Instant) -> Option<Rc<Task>> {
        loop {
            let mut entries = self.entries.borrow_mut();
            let entry = entries.first_entry()?;
            if entry.key().0 > now {
                return None;
            }
            let task = entry.remove();
            // `arm` borrows them again.
            drop(entries);
            task.armed.set(None);
            match task.deadline.get() {
                // The task no longer waits with a deadline.
                None => {}
                Some(later) if later > now => self.arm(&task, later),
                Some(_) => return Some(task),
            }
        }
    }
}
