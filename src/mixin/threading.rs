//! A thread for each live request: Python's `ThreadingMixIn`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread, ThreadId};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::crew::{Crew, ThreadOptions, thread_options};
use super::{Job, Mixin, Refused};
use crate::limits::{Gate, Permit};

/// Runs each request in a thread of its own, so that a slow client keeps nobody waiting.
///
/// A thread that has finished its request is kept for the next one for a while, which costs less than
/// half of starting one (measured: 16 against 37 microseconds a connection). In a rush of short requests
/// one that has finished takes the next by itself, and only who would have to wait behind a long one
/// has another thread called. Nothing grows with the number of requests served.
///
/// ```
/// use socketserver::{Threading, WhenFull};
///
/// let mixin = Threading::new().max_threads(200).when_full(WhenFull::Refuse).stack_size(256 * 1024);
/// # let _ = mixin;
/// ```
#[derive(Debug, Default)]
pub struct Threading {
    gate: Option<Arc<Gate>>,
    when_full: WhenFull,
    threads: ThreadOptions,
    keep: Option<Duration>,
    detached: bool,
    daemon: bool,
    /// Made with the first request, when all is set.
    staff: OnceLock<Arc<Staff>>,
}

/// What happens to a request for which no worker is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The server stops accepting until a worker is free; clients wait in the kernel's queue.
    #[default]
    Wait,
    /// The request is refused at once. The `overflow` hook may say so to the client.
    Refuse,
}

/// How long a thread waits for its next request. Long enough for the pauses of a busy server, short
/// enough that the threads of a rush are gone before anybody looks.
const KEEP: Duration = Duration::from_secs(5);

impl Threading {
    /// Threads without a limit of their own: `Limits::live` holds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// At most this many requests at once. Default: no limit of its own.
    ///
    /// # Panics
    ///
    /// If there is no descriptor for the event behind the limit.
    #[must_use]
    pub fn max_threads(mut self, max: usize) -> Self {
        self.gate = Some(Gate::new(max.max(1)).expect("a descriptor for the gate of max_threads"));
        self
    }

    /// What happens at the maximum. Default: wait.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// How long a thread is kept for its next request; the last one without a request stays. Default: 5 s.
    /// Zero: each request has a new one.
    #[must_use]
    pub fn keep(mut self, time: Duration) -> Self {
        self.keep = Some(time);
        self
    }

    /// Python's `block_on_close`: whether `server_close` waits for running requests. Default: true.
    #[must_use]
    pub fn block_on_close(mut self, block: bool) -> Self {
        self.detached = !block;
        self
    }

    /// Python's `daemon_threads`: whether `server_close` leaves running requests alone. They end with
    /// the process at the latest. Default: false.
    #[must_use]
    pub fn daemon_threads(mut self, daemon: bool) -> Self {
        self.daemon = daemon;
        self
    }

    thread_options!();

    fn staff(&self) -> &Arc<Staff> {
        self.staff.get_or_init(|| {
            let (threads, keep) = (self.threads.clone(), self.keep.unwrap_or(KEEP));
            Arc::new(Staff { state: Mutex::default(), crew: Arc::default(), threads, keep })
        })
    }
}

impl Mixin for Threading {
    fn process_request(&self, job: Job) {
        let staff = self.staff();
        let permit = match &self.gate {
            None => None,
            Some(gate) => match gate.try_enter() {
                Some(permit) => Some(permit),
                None if self.when_full == WhenFull::Refuse => return job.refuse(Refused::Busy),
                // Another loop was faster: the next thread to be free takes this one.
                None => return staff.state.lock().waiting.push_back(job),
            },
        };
        let mut state = staff.state.lock();
        if state.closing {
            drop(state);
            return job.refuse(Refused::Closing);
        }
        state.queue.push_back(Task { job, _permit: permit });
        staff.call(state);
    }

    fn ready(&self) -> bool {
        match &self.gate {
            Some(gate) if self.when_full == WhenFull::Wait => gate.is_open(),
            _ => true,
        }
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.gate.as_ref().map(|gate| gate.event_fd())
    }

    fn service_actions(&self) {
        if let Some(gate) = &self.gate {
            gate.settle();
        }
    }

    fn block_on_close(&self) -> bool {
        !self.detached && !self.daemon
    }

    fn server_close(&self, deadline: Instant) {
        let staff = self.staff();
        staff.dismiss();
        if self.block_on_close() {
            staff.crew.wait_until_gone(deadline);
        }
    }
}

impl Drop for Threading {
    fn drop(&mut self) {
        if let Some(staff) = self.staff.get() {
            staff.dismiss();
        }
    }
}

/// A request and its place among the maximum, which it gives back when it has ended.
struct Task {
    job: Job,
    _permit: Option<Permit>,
}

/// The threads, and the requests that they have not taken yet.
struct Staff {
    state: Mutex<State>,
    crew: Arc<Crew>,
    threads: ThreadOptions,
    keep: Duration,
}

/// Whenever the lock is free, the queue is empty or a thread is on its way to it.
#[derive(Default)]
struct State {
    queue: VecDeque<Task>,
    /// A thread has been called or started, and has not come yet. One is enough: whoever takes a request
    /// and leaves others behind calls the next thread before anything else. So a rush of short requests
    /// costs few wake-ups, and of long ones each has a thread of its own all the same.
    on_its_way: bool,
    /// Threads without a request; the last one in is the first one out, because its stack is warm
    /// and because the others can then leave.
    idle: Vec<Arc<Idle>>,
    /// Requests that came past the maximum; at most one for each loop.
    waiting: VecDeque<Job>,
    closing: bool,
}

impl State {
    /// Among several threads without a request there is one that watches the clock.
    fn have_first_watch(&self) {
        if let [first, _, ..] = &*self.idle {
            if !first.watches.load(Ordering::Relaxed) {
                first.thread.unpark();
            }
        }
    }
}

/// A thread without a request. What it shares is changed under the lock of the list.
struct Idle {
    thread: Thread,
    /// Taken off the list, to come to the queue. Others may unpark a thread as well: this is what tells.
    called: AtomicBool,
    /// It waits by the clock. Only the first of the list has to, which is the next to leave: to set a timer
    /// for each wait of a busy thread would cost a twentieth of a short request.
    watches: AtomicBool,
}

impl Staff {
    /// Has a thread come to the queue, if there is something in it and nobody is on the way.
    fn call<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State>) {
        while let (Some(first), false) = (state.queue.front(), state.on_its_way) {
            let label = first.job.label();
            state.on_its_way = true;
            if let Some(idle) = state.idle.pop() {
                idle.called.store(true, Ordering::Relaxed);
                drop(state);
                return idle.thread.unpark();
            }
            drop(state);
            let coming = Coming { staff: Some(Arc::clone(self)), caller: thread::current().id() };
            match self.crew.spawn(&self.threads, label, move || coming.work()) {
                Ok(()) => return,
                Err(error) => self.nobody_comes(error),
            }
            state = self.state.lock();
        }
    }

    /// The thread that was on its way cannot come: the request that waits for it is refused.
    fn nobody_comes(&self, error: io::Error) {
        let mut state = self.state.lock();
        state.on_its_way = false;
        let task = state.queue.pop_front();
        drop(state);
        if let Some(task) = task {
            task.job.refuse(Refused::CannotStart(error));
        }
    }

    /// The life of one thread, from when it has come.
    fn work(self: &Arc<Self>) {
        let idle = Arc::new(Idle {
            thread: thread::current(),
            called: AtomicBool::new(false),
            watches: AtomicBool::new(false),
        });
        let mut state = self.state.lock();
        loop {
            state.on_its_way = false;
            while let Some(task) = state.queue.pop_front() {
                self.call(state);
                self.run(task);
                if self.keep.is_zero() {
                    return;
                }
                state = self.state.lock();
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

    /// Runs a request, and with the same permit those that have waited for one.
    fn run(&self, task: Task) {
        let Task { job, _permit } = task;
        job.run();
        while let Some(next) = { self.state.lock().waiting.pop_front() } {
            next.run();
        }
    }

    /// None: it is time to leave. The last one without a request stays.
    fn wait_for_call<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        idle: &Arc<Idle>,
    ) -> Option<MutexGuard<'a, State>> {
        idle.called.store(false, Ordering::Relaxed);
        state.idle.push(Arc::clone(idle));
        let leave_at = Instant::now().checked_add(self.keep);
        loop {
            let is_next_to_leave = state.idle.len() > 1 && Arc::ptr_eq(&state.idle[0], idle);
            idle.watches.store(is_next_to_leave, Ordering::Relaxed);
            if is_next_to_leave && leave_at.is_some_and(|at| Instant::now() >= at) {
                state.idle.remove(0);
                state.have_first_watch();
                return None;
            }
            state.have_first_watch();
            drop(state);
            match leave_at {
                Some(at) if is_next_to_leave => {
                    thread::park_timeout(at.saturating_duration_since(Instant::now()));
                }
                _ => thread::park(),
            }
            state = self.state.lock();
            if idle.called.load(Ordering::Relaxed) {
                return Some(state);
            }
            if state.closing {
                return None;
            }
        }
    }

    /// Sends idle threads away; those that run a request leave after it.
    fn dismiss(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        for idle in std::mem::take(&mut state.idle) {
            idle.thread.unpark();
        }
    }
}

impl std::fmt::Debug for Staff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Staff").field("crew", &self.crew).finish_non_exhaustive()
    }
}

/// A new thread, before it has come. If it never does, because the user's hook panics in it, somebody has to
/// see to the queue all the same.
struct Coming {
    staff: Option<Arc<Staff>>,
    caller: ThreadId,
}

impl Coming {
    /// It has come.
    fn work(mut self) {
        if let Some(staff) = self.staff.take() {
            staff.work();
        }
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let Some(staff) = self.staff.take() else { return };
        // Where it was to be started from, it could not be started; the caller knows why.
        if thread::current().id() != self.caller {
            staff.nobody_comes(io::Error::other("the thread ended before its first request"));
            staff.call(staff.state.lock());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::mixin::{ChildEnd, Handed, Outcome, Work};
    use crossbeam_channel::{Receiver, Sender, unbounded};

    /// A request that says that it runs and waits until it may end.
    struct Probe {
        runs: Sender<std::thread::ThreadId>,
        end: Receiver<()>,
        refused: Sender<String>,
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

        fn hand_over(self: Box<Self>) -> Box<dyn Handed> {
            unreachable!("threads hand nothing to other processes")
        }

        fn run_in_child(self: Box<Self>, _ready: Box<dyn FnOnce()>) -> ChildEnd {
            unreachable!("threads have no children")
        }

        fn label(&self) -> &'static str {
            "Probe"
        }

        fn peer(&self) -> &Address {
            &Address::Unnamed
        }
    }

    const SOON: Duration = Duration::from_secs(10);

    /// Hands so many requests over at once, and ends them when all run. Says which threads they had.
    fn serve(mixin: &Threading, at_once: usize) -> Vec<std::thread::ThreadId> {
        let (runs, ran) = unbounded();
        let (ends, end) = unbounded();
        let (refused, _) = unbounded();
        for _ in 0..at_once {
            let probe = Probe { runs: runs.clone(), end: end.clone(), refused: refused.clone() };
            mixin.process_request(Job::new(Box::new(probe)));
        }
        let threads = (0..at_once).map(|_| ran.recv_timeout(SOON).unwrap()).collect();
        (0..at_once).for_each(|_| ends.send(()).unwrap());
        threads
    }

    fn eventually(what: &str, condition: impl Fn() -> bool) {
        let since = Instant::now();
        while !condition() {
            assert!(since.elapsed() < SOON, "{what}");
            std::thread::yield_now();
        }
    }

    fn idle(mixin: &Threading) -> usize {
        mixin.staff().state.lock().idle.len()
    }

    #[test]
    fn each_of_several_requests_at_once_has_a_thread_and_one_after_the_other_share_one() {
        let mixin = Threading::new();
        let mut threads = serve(&mixin, 5);
        threads.sort_by_key(|thread| format!("{thread:?}"));
        threads.dedup();
        assert_eq!(threads.len(), 5);
        eventually("all are idle again", || idle(&mixin) == 5);
        let last_in = mixin.staff().state.lock().idle.last().unwrap().thread.id();
        for _ in 0..3 {
            assert_eq!(serve(&mixin, 1), [last_in], "the one whose stack is warm");
            eventually("all are idle again", || idle(&mixin) == 5);
        }
    }

    #[test]
    fn threads_without_a_request_leave_but_for_one() {
        let mixin = Threading::new().keep(Duration::from_millis(200));
        serve(&mixin, 4);
        eventually("all but one have left", || mixin.staff().crew.len() == 1);
        eventually("which waits", || idle(&mixin) == 1);
        assert_eq!(serve(&mixin, 1).len(), 1, "and serves");
        mixin.server_close(Instant::now() + SOON);
        assert_eq!(mixin.staff().crew.len(), 0);
    }

    #[test]
    fn a_hook_that_panics_in_every_new_thread_loses_no_request_silently() {
        let mixin = Threading::new().on_thread_start(|| panic!("no connection to the database"));
        let ((runs, _), (_, end), (refused, refusals)) = (unbounded(), unbounded(), unbounded());
        for _ in 0..3 {
            let probe = Probe { runs: runs.clone(), end: end.clone(), refused: refused.clone() };
            mixin.process_request(Job::new(Box::new(probe)));
        }
        for _ in 0..3 {
            let why = refusals.recv_timeout(SOON).unwrap();
            assert!(why.contains("the thread ended before its first request"), "{why}");
        }
        mixin.server_close(Instant::now() + SOON);
    }
}
