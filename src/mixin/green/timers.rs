//! [`Timers`]: the deadlines of a worker's coroutines.
//!
//! A coroutine has one entry at most. A deadline that becomes later leaves the entry where it is: the entry comes up too
//! early, and is then moved on. So a handler that sets a later deadline at each read costs one comparison.
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
//! The entry keeps the coroutine in memory; the end of the coroutine takes the entry out ([`forget`](Timers::forget)).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use super::tasks::Task;

/// Entries in the order of their times. The task's number tells entries of the same time apart.
#[derive(Default)]
pub(super) struct Timers {
    entries: RefCell<BTreeMap<(Instant, u64), Rc<Task>>>,
}

impl Timers {
    /// Lets a task wait until this moment at the latest.
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

    /// Forgets the entry of a task that has ended.
    pub(super) fn forget(&self, task: &Task) {
        if let Some(armed) = task.armed.take() {
            self.entries.borrow_mut().remove(&(armed, task.number));
        }
    }

    /// The earliest moment at which something may be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.entries.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes a task whose deadline has passed. None: no further task is due. Called again and again, and the caller may resume
    /// the task in between, which changes the entries.
    pub(super) fn take_due(&self, now: Instant) -> Option<Rc<Task>> {
        loop {
            let mut entries = self.entries.borrow_mut();
            let entry = entries.first_entry()?;
            if entry.key().0 > now {
                return None;
            }
            let task = entry.remove();
            // `arm` borrows the entries again.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mixin::green::tasks::Tasks;
    use std::time::Duration;

    /// The numbers of the tasks that are due.
    fn due(timers: &Timers, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| timers.take_due(now)).map(|task| task.number).collect()
    }

    #[test]
    fn a_task_is_due_once_at_the_deadline_that_it_set_last() {
        let (tasks, timers, start) = (Tasks::default(), Timers::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let [one, two, three] = [(); 3].map(|()| tasks.add_empty());
        assert!(timers.next().is_none() && due(&timers, at(100)).is_empty());
        // Two tasks are due at the same time; the third moves on, and then back.
        for task in [&one, &two, &three] {
            timers.set(task, at(5));
        }
        timers.set(&three, at(9));
        assert_eq!(timers.next(), Some(at(5)));
        timers.set(&three, at(3));
        assert_eq!((timers.next(), due(&timers, at(2))), (Some(at(3)), vec![]));
        assert_eq!(due(&timers, at(3)), [three.number]);
        timers.set(&two, at(7));
        assert_eq!(due(&timers, at(6)), [one.number]);
        assert_eq!(timers.next(), Some(at(7)));
        // Task two waits without a deadline, and its entry comes up in vain.
        two.deadline.set(None);
        assert_eq!((due(&timers, at(8)), timers.next()), (vec![], None));
        // Task one has ended, and nothing keeps it.
        timers.set(&one, at(9));
        timers.forget(&one);
        timers.forget(&one);
        assert_eq!(timers.next(), None);
        assert_eq!(Rc::strong_count(&one), 2, "the list of tasks and this test");
    }

    /// Compares the timers with a list of deadlines that is searched, over many steps.
    #[test]
    fn it_is_the_same_as_a_list_that_is_searched() {
        let (rounds, steps) = if cfg!(miri) { (2, 150) } else { (50, 2_000) };
        for round in 0..rounds {
            let (tasks, timers, start) = (Tasks::default(), Timers::default(), Instant::now());
            let all: Vec<_> = (0..12).map(|_| tasks.add_empty()).collect();
            let mut model: Vec<Option<u64>> = vec![None; all.len()];
            let at = |millis| start + Duration::from_millis(millis);
            let (mut random, mut now) = (round * 2 + 1, 0);
            for _ in 0..steps {
                // Numerical Recipes' generator.
                random = (random * 1_664_525 + 1_013_904_223) % (1 << 32);
                let (what, which) = (random >> 29, (random >> 20) as usize % all.len());
                match what {
                    0..=3 => model[which] = Some(now + (random >> 12) % 40),
                    4 => model[which] = None,
                    5 => {
                        model[which] = None;
                        timers.forget(&all[which]);
                    }
                    _ => now += (random >> 12) % 20,
                }
                if what < 6 {
                    match model[which] {
                        Some(deadline) => timers.set(&all[which], at(deadline)),
                        None => all[which].deadline.set(None),
                    }
                    continue;
                }
                let mut expected: Vec<_> = (0..all.len())
                    .filter(|task| model[*task].is_some_and(|deadline| deadline <= now))
                    .map(|task| all[task].number)
                    .collect();
                let mut found = due(&timers, at(now));
                for number in &found {
                    model[*number as usize - 1] = None;
                }
                expected.sort_unstable();
                found.sort_unstable();
                assert_eq!(found, expected, "round {round}");
                let next = model.iter().flatten().min().map(|deadline| at(*deadline));
                // The first timer may be too early, for a deadline that has moved on, and never too late.
                assert!(next.is_none_or(|next| timers.next().is_some_and(|now| now <= next)));
            }
        }
    }
}
