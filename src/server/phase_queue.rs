//! [`PhaseQueue`]: reports the phases of a server to its hooks in order, whichever threads reach them.
//!
//! Two threads may close a server at once, so one may reach `Draining` before the other has reported `Closed`.
//! Therefore a phase is reached and queued under one lock, and one thread at a time reports the queue, without the
//! lock.
//!
//! ```text
//! first close                second close               the queue, and its teller
//!   reaches Closed                                        Closed, first
//!   tells Closed (a hook)      reaches Draining           Draining, first
//!   ..                         goes on                    Draining, first
//!   tells Draining                                        empty, first
//!   goes on                    reaches Ended              Ended, second
//! ```
//!
//! No thread waits for the thread that reports, because it may be that thread: a hook may close the server.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::run_phase::RunPhase;

/// The phases that were reached and not reported yet.
#[derive(Default)]
pub(super) struct PhaseQueue(Mutex<Queue>);

#[derive(Default)]
struct Queue {
    /// The phases in the order in which they were reached, which is also that of the reports.
    reached: VecDeque<RunPhase>,
    /// Whether a thread has the [`PhaseTurn`]. That thread also reports phases that are queued during its turn.
    is_told: bool,
}

impl PhaseQueue {
    /// Queues the phase that `reach` returns, and returns whether there is one. `reach` decides under the lock, so the
    /// order of the queue is the order of the phases.
    pub(super) fn push(&self, reach: impl FnOnce() -> Option<RunPhase>) -> bool {
        let mut queue = self.0.lock();
        let reached = reach();
        queue.reached.extend(reached);
        reached.is_some()
    }

    /// Begins a turn. Returns `None` if another thread has the turn, or this thread itself in a caller of this function.
    /// The holder of that turn reports the queue.
    pub(super) fn turn<F: Fn(RunPhase)>(&self, tell: F) -> Option<PhaseTurn<'_, F>> {
        let mut queue = self.0.lock();
        let is_mine = !std::mem::replace(&mut queue.is_told, true);
        // The lock is given back before the turn: the drop of a turn takes it for each phase, and reports without it.
        drop(queue);
        // `then` and not `then_some`: `then_some` would make the turn even if it is not wanted, and the drop of a turn
        // reports phases.
        is_mine.then(|| PhaseTurn { phases: self, tell })
    }

    /// The next phase to report. `None` ends the turn.
    fn next(&self) -> Option<RunPhase> {
        let mut queue = self.0.lock();
        // Set under the lock under which the queue was read: a thread that pushes a phase after this finds no
        // teller, and becomes one.
        let next = queue.reached.pop_front();
        queue.is_told = next.is_some();
        next
    }
}

/// A thread's turn. When it ends, even by a panic, the whole queue is reported.
pub(super) struct PhaseTurn<'a, F: Fn(RunPhase)> {
    /// The queue, whose `is_told` is set until the turn ends.
    phases: &'a PhaseQueue,
    /// Reports one phase. It does not panic, because a drop calls it, maybe in an unwinding.
    tell: F,
}

impl<F: Fn(RunPhase)> Drop for PhaseTurn<'_, F> {
    fn drop(&mut self) {
        // Phases that are pushed meanwhile, by other threads or by the hooks that hear of these, are reported too.
        while let Some(phase) = self.phases.next() {
            (self.tell)(phase);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use RunPhase::{Closed, Draining, Ended};

    #[test]
    fn a_phase_that_is_reached_while_another_one_is_told_comes_behind_it() {
        let (phases, told) = (PhaseQueue::default(), Mutex::new(Vec::new()));
        assert!(!phases.push(|| None));
        assert!(phases.push(|| Some(Closed)));
        drop(phases.turn(|phase| {
            if phase == Closed {
                phases.push(|| Some(Draining));
                assert!(phases.turn(|_| ()).is_none(), "a second teller");
                // The second phase is not told while the first one is being told.
                assert!(told.lock().is_empty());
            }
            told.lock().push(phase);
        }));
        assert_eq!(*told.lock(), [Closed, Draining]);
        phases.push(|| Some(Ended));
        drop(phases.turn(|phase| told.lock().push(phase)));
        assert_eq!(*told.lock(), [Closed, Draining, Ended]);
    }
}
