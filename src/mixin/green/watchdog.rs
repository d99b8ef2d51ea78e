//! The watchdog: a thread that notices a request which holds its worker.
//!
//! A handler that computes for long, or blocks its thread by a call that knows nothing of coroutines, stops everything else
//! on its worker. The watchdog reports it ([`ServerEvent::WorkerHeld`](crate::monitor::ServerEvent::WorkerHeld)), and moves
//! the accept loop away, so that new clients are served by the other workers.
//!
//! ```text
//! look 1   worker 0 runs request 7, switch 1,234
//! look 2   the same: it has run since look 1             beyond MOVE_AFTER: the accept loop moves to another worker
//! look n   the same, for as long as the limit            worker_is_held, once
//! ```
//!
//! A look reads two numbers of each worker. It finds the request that runs and a count of switches; if both are the same as at
//! the previous look, nothing else has run in between. The accept loop does not count as running: its hooks are not watched.
//!
//! The watchdog looks often only while requests run. A look that finds all workers without a running request doubles the
//! pause, and while there are no requests at all the watchdog sleeps. It misses no wake-up: it notes that it sleeps and then
//! checks the workers' loads; a dealer raises a load and then checks for a sleeper ([`Watchdog::begin`]).

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Group;
use super::worker_status::RunningRequest;
use crate::sys::sync::thread::{self, JoinHandle};
use crate::sys::sync::{AtomicBool, Condvar, Mutex, Ordering};

/// A worker that is held for longer than this does not accept. A move costs a stack, two messages and an unwinding: not worth
/// it for the milliseconds of a usual computation. And a client hardly notices a wait of this length.
const MOVE_AFTER: Duration = Duration::from_millis(50);

/// The longest pause while there are requests: requests that all wait cost two looks a second.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// The watchdog of a group.
pub(super) struct Watchdog {
    /// A request that runs for this long without a wait is reported to the server.
    limit: Duration,
    /// The thread sleeps, because there is no request.
    sleeps: AtomicBool,
    /// Held by the thread while it checks whether to sleep, so that a wake-up cannot come between the check and the wait.
    state: Mutex<WatchdogState>,
    /// Notified when a request begins while the thread sleeps, and when the thread has to end.
    changed: Condvar,
}

#[derive(Default)]
struct WatchdogState {
    /// The group is closed. The thread ends at its next look, and no other thread is started.
    quits: bool,
    /// Started with the first request. Not joined: it ends by itself, at its next look.
    thread: Option<JoinHandle<()>>,
}

/// The thread's last look at a worker.
#[derive(Clone, Copy, Default)]
struct WorkerLook {
    /// None: the worker was idle, or the accept loop ran.
    running: Option<RunningRequest>,
    /// The time of the first look that found `running`. The request may have begun earlier, by one pause at most.
    since: Option<Instant>,
    /// This request has been reported to the server.
    told: bool,
}

impl Watchdog {
    pub(super) fn new(limit: Duration) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self { limit, sleeps: AtomicBool::new(true), state, changed }
    }

    /// Starts the thread, or wakes it. Called when a worker gets a request and had none; its load counts the request already.
    #[inline]
    pub(super) fn begin(&self, group: &Arc<Group>) {
        if self.sleeps.load(Ordering::SeqCst) {
            self.wake(group);
        }
    }

    #[cold]
    fn wake(&self, group: &Arc<Group>) {
        // Several calls may get here at once. The first starts the thread, and the others notify it in vain.
        let mut state = self.state.lock();
        self.sleeps.store(false, Ordering::SeqCst);
        if state.thread.is_none() && !state.quits {
            let group = Arc::downgrade(group);
            let thread = thread::Builder::new().name("green watchdog".into());
            // Without its thread the watchdog notices nothing. A later request tries to start it again.
            state.thread = thread.spawn(move || watch(&group)).ok();
            self.sleeps.store(state.thread.is_none(), Ordering::SeqCst);
        }
        self.changed.notify_all();
    }

    /// Ends the thread.
    pub(super) fn quit(&self) {
        self.state.lock().quits = true;
        self.changed.notify_all();
    }

    /// Waits for the next look. False: the thread has to end.
    pub(super) fn pause(&self, group: &Group, pause: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.quits && group.is_idle() {
            self.sleeps.store(true, Ordering::SeqCst);
            // Checks once more: a request that began before this store has not woken the watchdog.
            while !state.quits && self.sleeps.load(Ordering::SeqCst) && group.is_idle() {
                self.changed.wait(&mut state);
            }
            self.sleeps.store(false, Ordering::SeqCst);
        } else if !state.quits {
            // `quit` ends this wait early.
            self.changed.wait_for(&mut state, pause);
        }
        !state.quits
    }

    /// The pause while requests run. With a limit of 1 s and several workers it is 25 ms: `MOVE_AFTER` is over at the second
    /// look after the one that has first found the request. With one worker the loop cannot move, and the pause is 250 ms.
    fn shortest_pause(&self, workers: usize) -> Duration {
        let quarter = self.limit / 4;
        let pause = if workers > 1 { quarter.min(MOVE_AFTER / 2) } else { quarter };
        pause.clamp(Duration::from_millis(1), LONGEST_SLEEP)
    }
}

/// Runs the thread. It keeps the group alive while it pauses, and without a request a pause has no end of its own: a close or
/// the drop of the mixin ends it, by `quit`.
fn watch(group: &Weak<Group>) {
    let mut looks: Vec<WorkerLook> = Vec::new();
    let mut pause = Duration::ZERO;
    loop {
        let Some(group) = group.upgrade() else { return };
        let shortest = group.watchdog.shortest_pause(group.workers.len());
        pause = pause.clamp(shortest, LONGEST_SLEEP);
        if !group.watchdog.pause(&group, pause) {
            return;
        }
        // The number of workers never changes: this fills the list at the first turn.
        looks.resize(group.workers.len(), WorkerLook::default());
        let now = Instant::now();
        let mut is_quiet = true;
        for (number, look) in looks.iter_mut().enumerate() {
            let running = group.workers[number].status.running();
            // Another request, or the same one after a wait: the worker is not held.
            if running.is_none() || look.running != running {
                is_quiet &= running.is_none();
                *look = WorkerLook { running, since: Some(now), told: false };
                continue;
            }
            is_quiet = false;
            let held = look.since.map_or(Duration::ZERO, |since| now - since);
            // Tried at each look: the loop cannot be retired while it runs, and may have run at the previous look.
            if held >= MOVE_AFTER.min(group.watchdog.limit) {
                group.acceptors.move_away(&group, number);
            }
            if held >= group.watchdog.limit && !look.told {
                look.told = true;
                group.tell_held(running.map_or(0, |running| running.request), held);
            }
        }
        pause = if is_quiet { pause * 2 } else { shortest };
    }
}
