//! [`WorkerQueue`]: jobs, the threads that run them, and as few wake-ups as possible.
//!
//! [`Threading`](super::Threading) and [`Pool`](super::Pool) are two [`Size`]s of it.
//!
//! # The protocol
//!
//! At most one worker is woken at a time. A worker that takes a job and leaves others in the queue wakes the next
//! worker *before* it runs its own job. So a long job keeps no other job waiting, and in a burst of short jobs the
//! workers that are awake take most of them. (Go's scheduler keeps one searching thread for the same reason.)
//!
//! ```text
//! accept loop                 under the lock                          worker
//! process_request(job)
//!    send the job
//!    wake --- one is idle? -- wake_pending = true ---- unpark ------> returns from park
//!          |- one accepts? -- wake_pending = true --- interrupt ----> returns from accept
//!          |- may start one?  starting += 1 ---------- spawn -------> runs on_thread_start
//!          `- else: all workers run jobs, and look into the queue after them
//!                                                                     wake_pending = false, or starting -= 1
//!                                                                     take a job
//!                                                                     wake, if there are more
//!                                                                     run the job
//!                                                                     none in the queue: accept, or else park
//! ```
//!
//! *Invariant when unlocked*: at least one of these holds.
//!
//! 1. The queue is empty.
//! 2. `wake_pending`: a worker was woken and has not come to the queue yet.
//! 3. `starting >= 1`: a new thread has not come to the queue yet. With `on_thread_start`, which may take its time:
//!    `starting >= queue.len()`.
//! 4. All workers run jobs, and no thread may be started. The next one to finish takes a job.
//!
//! [`wake`](WorkerQueue::wake) restores the invariant, and takes the guard of the lock for that. Each change that may break
//! the invariant (a job is sent; a job is taken and others stay; a worker leaves) ends with a call of `wake`.
//!
//! *A wake-up is not lost*: an unpark, an interrupt and the start of a thread are each noted before the lock is released, and
//! the worker in question takes the note back, under the lock again. An unpark that comes before the park makes the park
//! return at once, and an interrupt lasts until it is cleared.
//!
//! *A burst*: three short jobs come, while one worker is idle.
//!
//! ```text
//! loop        sends A    wakes W1, the idle one: wake_pending
//!             sends B    nothing: a wake-up is pending
//!             sends C    nothing
//! W1          takes A    wake_pending is over, and B and C wait: starts W2, starting = 1. Runs A
//!             takes B    C waits, and W2 is on its way: nothing. Runs B
//!             takes C    the queue is empty. Runs C
//! W2          comes      starting = 0, and nothing to do: accepts or parks
//! ```
//!
//! Had A been long, W2 would have taken B and woken a third worker for C. So the jobs of a burst need as many workers as they
//! keep busy, and not as many as there are jobs.
//!
//! *Calls*: accept loops call [`process_request`](WorkerQueue::process_request); any thread may call
//! [`close`](WorkerQueue::close), at any time. All else runs on the workers' own threads. User code never runs under the
//! lock, and no thread waits under it.

mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use parking_lot::{Mutex, MutexGuard};

use self::worker::{QueueWorker, let_go};
use super::accept_slot::{AcceptSlot, WorkerAccept};
use super::idle_workers::{IdleWorker, IdleWorkers, LastIdle};
use super::thread_group::{ThreadGroup, ThreadOptions};
use super::{Job, Refused, WhenFull, WorkerFigures};
use crate::gate::{Gate, Permit};
use crate::sys::fork_count::mark_children_of_this_thread;

/// How many workers there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Size {
    /// A fixed number of workers, which all start with the first job. Jobs run in the order in which they were
    /// accepted.
    Fixed(usize),
    /// One worker for each running job, up to `max`. A worker that has had no job for `keep` leaves, unless it is the
    /// last. With a `keep` of zero it leaves after its first job.
    Growing { max: usize, keep: Duration },
}

/// The settings of a mixin, complete before its first job.
#[derive(Clone, Debug)]
pub(super) struct QueueSettings {
    pub(super) size: Size,
    /// Bounds the jobs that run and wait.
    pub(super) gate: Option<Arc<Gate>>,
    /// Has no effect without a gate.
    pub(super) when_full: WhenFull,
    /// The settings of every worker's thread.
    pub(super) threads: ThreadOptions,
}

/// A job and its place within the gate's limit.
///
/// A loop asks for room before it accepts. If a worker or another loop takes the last place in between, the job is queued
/// without one (at most one job for each loop), and gets the place of the job that ends before it runs.
struct QueuedJob {
    /// The request.
    job: Job,
    /// None without a gate, and for a job that came when the gate had just closed.
    permit: Option<Permit>,
}

/// The queue and its workers. Shared by the mixin and the workers' threads.
pub(super) struct WorkerQueue {
    /// Read without the lock: they do not change.
    settings: QueueSettings,
    /// The threads of the workers, for which the close waits. A thread still counts here during its `on_thread_stop`, when
    /// `QueueState::workers` does not count it any more.
    pub(super) group: Arc<ThreadGroup>,
    /// The queue: first in, first out. Jobs are sent and taken under the lock, so that the invariant at the top of this
    /// file always holds when the lock is free. Unlike a deque the channel frees its memory after a rush. Workers do not
    /// wait in `recv`: it yields the processor many times before it sleeps, and on one core a connection took 39
    /// microseconds instead of 21.
    sender: Sender<QueuedJob>,
    receiver: Receiver<QueuedJob>,
    /// Held for moments, by accept loops and workers for each job. No thread is started under it, except for the first
    /// workers of a fixed size.
    state: Mutex<QueueState>,
}

/// The state behind the lock; see the invariant above.
#[derive(Default)]
struct QueueState {
    /// Changes only to a later variant.
    stage: Stage,
    /// The type name of the handler. New threads are named after it.
    label: &'static str,
    /// Workers that were started and have not ended.
    workers: usize,
    /// Workers that were started and have not come to the queue yet.
    starting: usize,
    /// A worker was called from `idle` or `accept_slot`, and has not come to the queue yet.
    wake_pending: bool,
    /// Workers that wait without a job.
    idle: IdleWorkers,
    /// The worker that waits for the server's listener, if one does.
    accept_slot: AcceptSlot,
}

/// The stage of a queue in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The workers of a fixed size have not been started.
    #[default]
    NotStarted,
    Open,
    /// All workers of a fixed size have ended by panics, which only `on_thread_start` can raise.
    AllEnded,
    /// New jobs are refused. Workers empty the queue and end.
    Closed,
}

impl WorkerQueue {
    /// Makes a queue without threads: the first job starts them.
    pub(super) fn new(settings: QueueSettings) -> Self {
        let (sender, receiver) = unbounded();
        let keep = match settings.size {
            // The workers stay for good: a pool that has served a rush is ready for the next.
            Size::Fixed(_) => None,
            Size::Growing { keep, .. } => Some(keep),
        };
        let state = QueueState { idle: IdleWorkers::new(keep), ..QueueState::default() };
        let (group, state) = (Arc::default(), Mutex::new(state));
        Self { settings, group, sender, receiver, state }
    }

    /// Queues a job and wakes a worker for it if that is necessary, or refuses it.
    ///
    /// It does not wait, apart from the start of a thread.
    pub(super) fn process_request(self: &Arc<Self>, job: Job) {
        let mut state = self.state.lock();
        // The label is set before `admit`, which may start threads.
        state.label = job.label();
        match self.admit(&mut state) {
            Ok(permit) => {
                // Cannot fail: the receiver lives as long as the sender.
                let _ = self.sender.send(QueuedJob { job, permit });
                self.wake(state);
            }
            // The lock is released before a refusal, because that runs the `overflow` hook.
            Err(why) => {
                drop(state);
                job.refuse(why);
            }
        }
    }

    /// Finds a place for a job, and starts the workers of a fixed size with the first. None: the job has no place of its
    /// own, because there is no gate, or because it comes past the limit.
    ///
    /// An error says why the job is refused; nothing has been counted or started for it then.
    fn admit(self: &Arc<Self>, state: &mut QueueState) -> Result<Option<Permit>, Refused> {
        match state.stage {
            Stage::Closed => return Err(Refused::Closing),
            Stage::AllEnded => return Err(all_ended()),
            Stage::NotStarted | Stage::Open => {}
        }
        let permit = self.try_enter();
        // A queue that refuses nothing takes a job past the limit as well: see `QueuedJob`.
        let is_full = permit.is_none() && self.settings.gate.is_some();
        if is_full && self.settings.when_full == WhenFull::Refuse {
            return Err(Refused::Busy);
        }
        // This comes last: a job that is refused starts no thread.
        if let (Stage::NotStarted, Size::Fixed(count)) = (state.stage, self.settings.size) {
            self.start_all(state, count).map_err(Refused::CannotStart)?;
        }
        state.stage = Stage::Open;
        Ok(permit)
    }

    /// A place within the gate's limit. None at the limit, and without a gate.
    fn try_enter(&self) -> Option<Permit> {
        self.settings.gate.as_ref().and_then(Gate::try_enter)
    }

    /// Starts `count` workers, or as many as the system allows. Fails only if it does not allow even one.
    fn start_all(self: &Arc<Self>, state: &mut QueueState, count: usize) -> io::Result<()> {
        for _ in 0..count {
            match self.spawn(state.label) {
                Ok(()) => {
                    state.workers += 1;
                    state.starting += 1;
                }
                Err(error) if state.workers == 0 => return Err(error),
                // Fewer workers serve more slowly; that is better than no service.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Starts a thread for a worker, which the caller has counted or counts under the lock that it holds. If the
    /// thread starts, the worker's own end takes it out of the count.
    fn spawn(self: &Arc<Self>, label: &str) -> io::Result<()> {
        let queue = Arc::clone(self);
        self.group.spawn(&self.settings.threads, label, move || {
            mark_children_of_this_thread();
            // The worker is made before the hook runs: a hook that panics drops the worker, which takes it out of the
            // count.
            let worker = QueueWorker { queue: Arc::clone(&queue), has_come: false, permit: None };
            let ThreadOptions { on_start, on_stop, .. } = &queue.settings.threads;
            if let Some(hook) = on_start {
                hook();
            }
            worker.work();
            if let Some(hook) = on_stop {
                hook();
            }
        })
    }

    /// Restores the invariant and releases the lock: wakes or starts a worker if the queue needs one. Called after each change
    /// that may break it. Wakes one worker at a time: when that one comes, it checks whether the queue needs another.
    fn wake<'q>(self: &'q Arc<Self>, mut state: MutexGuard<'q, QueueState>) {
        while !self.receiver.is_empty() && !state.wake_pending {
            // Idle workers come first: a worker that accepts does something useful.
            if let Some(idle) = state.idle.call() {
                state.wake_pending = true;
                drop(state);
                return idle.unpark();
            }
            if state.accept_slot.interrupt() {
                state.wake_pending = true;
                return;
            }
            // `on_start` may take its time, to connect to a database, say. Threads that start one after the other would
            // keep a rush waiting.
            let is_slow = self.settings.threads.on_start.is_some();
            let most_starting = if is_slow { self.receiver.len() } else { 1 };
            if state.starting >= most_starting || !self.may_grow(&state) {
                return;
            }
            // The worker is counted before the lock is free, so that another loop does not start one for the same job.
            state.workers += 1;
            state.starting += 1;
            let label = state.label;
            drop(state);
            let spawned = self.spawn(label);
            state = self.state.lock();
            if let Err(error) = spawned {
                state.workers -= 1;
                state.starting -= 1;
                // The job has left the queue, and others may wait behind it: check again.
                state = self.refuse_next(state, error);
            }
        }
    }

    /// Whether a further thread may be started. Always false with a fixed size, whose workers start together.
    fn may_grow(&self, state: &QueueState) -> bool {
        matches!(self.settings.size, Size::Growing { max, .. } if state.workers < max)
    }

    /// Refuses the first job, because the thread that was started for it will not come.
    fn refuse_next<'q>(
        &'q self,
        state: MutexGuard<'q, QueueState>,
        error: io::Error,
    ) -> MutexGuard<'q, QueueState> {
        // If another worker has taken the job first, nothing is lost.
        let Ok(QueuedJob { job, permit }) = self.receiver.try_recv() else { return state };
        drop(state);
        job.refuse(Refused::CannotStart(error));
        drop(permit);
        self.state.lock()
    }

    /// Takes a worker out of the count, and wakes or starts another one if the queue needs it. Called on the worker's
    /// thread, in its drop: also after a panic of `on_thread_start`, when a job may be waiting for that worker.
    fn worker_ended(self: &Arc<Self>, has_come: bool) {
        let mut state = self.state.lock();
        state.workers -= 1;
        if !has_come {
            state.starting -= 1;
        }
        // A worker of a fixed size is not replaced: it ends only by a close or by the panic of a hook.
        if let Size::Growing { .. } = self.settings.size {
            if !has_come {
                // Each thread that fails refuses one job. So if a hook always panics, every job is refused in the end, and
                // threads are not started again and again for the same job.
                let error = io::Error::other("the thread ended before its first request");
                state = self.refuse_next(state, error);
            }
            self.wake(state);
        } else if state.workers == 0 {
            if state.stage == Stage::Open {
                state.stage = Stage::AllEnded;
            }
            drop(state);
            // No worker is left that would take these jobs, and the stage lets no further job in.
            while let Ok(queued) = self.receiver.try_recv() {
                queued.job.refuse(all_ended());
            }
        }
    }

    /// Waits without a job until there may be something to do. None: the worker has waited long enough, and leaves.
    ///
    /// Takes the guard of the lock, and returns one. While the worker waits, the lock is free, and the worker is in `idle`:
    /// until a call takes it out, `close` empties the list, or it leaves by itself. `server` is let go before the first park,
    /// so that a worker which waits keeps no server alive.
    fn wait<'q>(
        &'q self,
        mut state: MutexGuard<'q, QueueState>,
        me: &Arc<IdleWorker>,
        server: &mut Option<Arc<dyn WorkerAccept>>,
    ) -> Option<MutexGuard<'q, QueueState>> {
        // Fixed now, because the wait may be interrupted often and the time counts from its beginning.
        let leave_at = state.idle.enter(me);
        loop {
            let accepts = state.accept_slot.is_taken();
            let last = if accepts { LastIdle::Leaves } else { LastIdle::Stays };
            let is_next_to_leave = state.idle.is_next_to_leave(me, last);
            let leave_at = leave_at.filter(|_| is_next_to_leave);
            let leaves = leave_at.is_some_and(|at| std::time::Instant::now() >= at);
            if leaves {
                state.idle.leave(me);
            }
            // The list or the slot may have changed, and with them the worker that leaves next. That one may park without a
            // timeout, and would then stay for good.
            state.idle.give_timeout(last);
            if leaves {
                return None;
            }
            drop(state);
            // If `let_go` has run code of the program, that may have consumed an unpark of this thread: check once more
            // before a park.
            if !let_go(server) {
                me.park(leave_at);
            }
            state = self.state.lock();
            if me.is_called() {
                state.wake_pending = false;
                return Some(state);
            }
            // The worker was dismissed, not called, so it must not clear `wake_pending`.
            if state.stage == Stage::Closed {
                return Some(state);
            }
        }
    }

    /// The present numbers of workers and jobs. The mixin adds the limits.
    pub(super) fn figures(&self) -> WorkerFigures {
        let state = self.state.lock();
        let is_called_back = state.accept_slot.is_interrupted();
        // A worker that accepts is free as well.
        let accepts = state.accept_slot.is_taken() && !is_called_back;
        let idle = state.idle.len() + usize::from(accepts);
        // A worker that was called and has not come yet is neither idle nor busy. `close` calls back the worker
        // that accepts, and notes no pending wake-up for it.
        let is_coming = state.wake_pending || is_called_back;
        let coming = state.starting + usize::from(is_coming);
        let busy = state.workers.saturating_sub(idle + coming);
        let (busy, idle, queued) = (Some(busy), Some(idle), Some(self.receiver.len()));
        WorkerFigures { busy, idle, queued, ..WorkerFigures::default() }
    }

    /// From now on new jobs are refused. Workers end when the queue is empty.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.stage = Stage::Closed;
        // The worker that accepts comes to the queue, and sees the stage there. It is not noted as a pending wake-up: there is
        // no job for it.
        state.accept_slot.interrupt();
        state.idle.dismiss();
    }
}

impl fmt::Debug for WorkerQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerQueue").field("group", &self.group).finish_non_exhaustive()
    }
}

/// The refusal of jobs after the last worker of a pool has ended.
fn all_ended() -> Refused {
    Refused::CannotStart(io::Error::other("all workers of the pool have ended"))
}

#[cfg(test)]
mod tests;
