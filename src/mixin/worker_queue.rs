//! The threads of [`Threading`](super::Threading): as many as there are requests at once, and no more wake-ups
//! than it takes.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::idle_workers::{IdleWorker, IdleWorkers};
use super::thread_group::{ThreadGroup, ThreadOptions};
use super::worker_accept::{AcceptSlot, WorkerAccept};
use super::{Accepted, Job, Refused, WhenFull};
use crate::gate::{Gate, Permit};

/// A request and its place among the maximum, which it gives back when it has ended.
struct Task {
    job: Job,
    permit: Option<Permit>,
}

/// The threads, and the requests that they have not taken yet.
pub(super) struct WorkerQueue {
    state: Mutex<State>,
    group: Arc<ThreadGroup>,
    threads: ThreadOptions,
    keep: Duration,
    /// The maximum, if there is one.
    gate: Option<Arc<Gate>>,
}

/// Whenever the lock is free, the queue is empty, or a thread is on its way to it, or as many are starting as
/// there are requests in it.
#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    /// A thread has been called or started, and has not come yet. One is enough: whoever takes a request
    /// and leaves others behind calls the next thread before anything else. So a rush of short requests
    /// costs few wake-ups, and of long ones each has a thread of its own all the same.
    on_its_way: bool,
    /// New threads in which the user's hook runs first. It may take its time, to connect to a database, say, and
    /// one after the other they would keep a rush waiting: so each request has its own started at once.
    starting: usize,
    /// Threads without a request.
    idle: IdleWorkers,
    /// Requests that came past the maximum; at most one for each loop.
    waiting: VecDeque<Job>,
    /// Another thread without a request: it waits for one at the server's accept. In a rush of short requests it
    /// takes most of them, and nobody has to be woken by anybody but the kernel.
    accept_slot: AcceptSlot,
    closing: bool,
}

impl WorkerQueue {
    pub(super) fn new(threads: ThreadOptions, keep: Duration, gate: Option<Arc<Gate>>) -> Self {
        Self { state: Mutex::default(), group: Arc::default(), threads, keep, gate }
    }

    /// Has a request run in a thread, if there is a place for it. If there is none, because another loop was faster,
    /// the next thread to be free takes it, unless it is to be refused. Places are given back under the same
    /// lock, so that whoever gives the last one back sees who waits for it.
    pub(super) fn process_request(self: &Arc<Self>, job: Job, when_full: WhenFull) {
        let mut state = self.state.lock();
        if state.closing {
            drop(state);
            return job.refuse(Refused::Closing);
        }
        let mut permit = None;
        if self.take_place(&mut permit) {
            state.queue.push_back(Task { job, permit });
        } else if when_full == WhenFull::Wait {
            state.waiting.push_back(job);
        } else {
            drop(state);
            return job.refuse(Refused::Busy);
        }
        self.call(state);
    }

    /// False: there is none among the maximum.
    fn take_place(&self, permit: &mut Option<Permit>) -> bool {
        *permit = self.gate.as_ref().and_then(Gate::try_enter);
        permit.is_some() || self.gate.is_none()
    }

    /// Gives a place back, or hands it on to a request that waits for one.
    fn give_back(self: &Arc<Self>, permit: Option<Permit>) {
        if permit.is_none() {
            return;
        }
        let mut state = self.state.lock();
        if let Some(job) = state.waiting.pop_front() {
            state.queue.push_back(Task { job, permit });
            self.call(state);
        } else {
            drop(permit);
        }
    }

    /// Has a thread come to the queue, if there is something in it and nobody is on the way.
    fn call<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) {
        while let (Some(first), false) = (state.queue.front(), state.on_its_way) {
            let label = first.job.label();
            if let Some(idle) = state.idle.call() {
                state.on_its_way = true;
                drop(state);
                return idle.unpark();
            }
            if state.accept_slot.interrupt() {
                state.on_its_way = true;
                return;
            }
            if !self.starts_slowly() {
                state.on_its_way = true;
            } else if state.starting < state.queue.len() {
                state.starting += 1;
            } else {
                return;
            }
            drop(state);
            let coming = Coming { queue: Some(Arc::clone(self)), caller: thread::current().id() };
            if let Err(error) = self.group.spawn(&self.threads, label, move || coming.work()) {
                self.nobody_comes(error);
            }
            state = self.state.lock();
        }
    }

    /// The user's hook runs in each new thread before it comes.
    fn starts_slowly(&self) -> bool {
        self.threads.on_start.is_some()
    }

    /// A new thread has come, or never will.
    fn no_longer_starts(&self, state: &mut State) {
        if self.starts_slowly() {
            state.starting -= 1;
        } else {
            state.on_its_way = false;
        }
    }

    /// A new thread cannot come: the request that waits for it is refused.
    fn nobody_comes(self: &Arc<Self>, error: io::Error) {
        let mut state = self.state.lock();
        self.no_longer_starts(&mut state);
        let task = state.queue.pop_front();
        drop(state);
        if let Some(Task { job, permit }) = task {
            job.refuse(Refused::CannotStart(error));
            self.give_back(permit);
        }
    }

    /// The life of one thread, from when it has come.
    fn work(self: &Arc<Self>) {
        let idle = Arc::new(IdleWorker::default());
        let mut state = self.state.lock();
        self.no_longer_starts(&mut state);
        loop {
            while let Some(task) = state.queue.pop_front() {
                self.call(state);
                let accept = task.job.worker_accept();
                self.run(task);
                if self.keep.is_zero() {
                    return;
                }
                state = self.serve_at(accept);
            }
            if state.closing {
                return;
            }
            match self.wait_for_call(state, &idle) {
                Some(called) => state = called,
                None => return,
            }
        }
    }

    /// Waits at the accept of the server whose request this thread has run, and runs what comes: until there is
    /// something in the queue, or nothing to be had there. Not if another thread does so already.
    fn serve_at(self: &Arc<Self>, accept: Option<Arc<dyn WorkerAccept>>) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let Some(accept) = accept else { return state };
        while state.queue.is_empty() && !state.closing && !state.accept_slot.is_taken() {
            state.accept_slot.enter(&accept);
            state.idle.have_first_watch(true);
            drop(state);
            let mut permit = None;
            let accepted = Arc::clone(&accept).accept(&mut || self.take_place(&mut permit));
            if !matches!(accepted, Accepted::Request(_)) {
                // The loop may have come for the last place meanwhile.
                self.give_back(permit.take());
            }
            state = self.state.lock();
            if state.accept_slot.leave() {
                state.on_its_way = false;
            }
            match accepted {
                Accepted::Request(job) => {
                    // Who was called, and comes with a request of its own, leaves the queue to the next.
                    self.call(state);
                    self.run(Task { job, permit });
                    state = self.state.lock();
                }
                Accepted::TryAgain => {}
                Accepted::Leave => break,
            }
        }
        state
    }

    /// Runs a request, and in the same place those that have waited for one. Then gives the place back.
    fn run(self: &Arc<Self>, Task { job, permit }: Task) {
        let mut place = Place { queue: self, permit };
        let mut next = Some(job);
        while let Some(job) = next {
            job.run();
            next = place.next_or_leave();
        }
    }

    /// None: it is time to leave. The last one without a request stays.
    fn wait_for_call<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        me: &Arc<IdleWorker>,
    ) -> Option<MutexGuard<'a, State>> {
        let leave_at = Instant::now().checked_add(self.keep);
        state.idle.enter(me);
        loop {
            let one_at_door = state.accept_slot.is_taken();
            let is_next_to_leave = state.idle.is_next_to_leave(me, one_at_door);
            if is_next_to_leave && leave_at.is_some_and(|at| Instant::now() >= at) {
                state.idle.leave(me);
                state.idle.have_first_watch(one_at_door);
                return None;
            }
            state.idle.have_first_watch(one_at_door);
            drop(state);
            me.park(leave_at.filter(|_| is_next_to_leave));
            state = self.state.lock();
            if me.is_called() {
                state.on_its_way = false;
                return Some(state);
            }
            if state.closing {
                return None;
            }
        }
    }

    pub(super) fn group(&self) -> &Arc<ThreadGroup> {
        &self.group
    }

    pub(super) fn wait_until_gone(&self, deadline: Instant) {
        self.group.wait_until_gone(deadline);
    }

    /// Sends idle threads away; those that run a request leave after it.
    pub(super) fn dismiss(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        state.accept_slot.interrupt();
        state.idle.dismiss();
    }
}

impl fmt::Debug for WorkerQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerQueue").field("group", &self.group).finish_non_exhaustive()
    }
}

/// A place among the maximum, while its request runs.
struct Place<'a> {
    queue: &'a Arc<WorkerQueue>,
    permit: Option<Permit>,
}

impl Place<'_> {
    fn next_or_leave(&mut self) -> Option<Job> {
        self.permit.as_ref()?;
        let mut state = self.queue.state.lock();
        let next = state.waiting.pop_front();
        if next.is_none() {
            self.permit = None;
        }
        next
    }
}

/// A request that has panicked leaves its place to who waits for it all the same.
impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.give_back(self.permit.take());
    }
}

/// A new thread, before it has come. If it never does, because the user's hook panics in it, somebody has to
/// see to the queue all the same.
struct Coming {
    queue: Option<Arc<WorkerQueue>>,
    caller: ThreadId,
}

impl Coming {
    /// It has come.
    fn work(mut self) {
        if let Some(queue) = self.queue.take() {
            queue.work();
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        // Where it was to be started from, it could not be started; the caller knows why.
        if thread::current().id() != self.caller {
            queue.nobody_comes(io::Error::other("the thread ended before its first request"));
            queue.call(queue.state.lock());
        }
    }
}

#[cfg(test)]
mod tests;
