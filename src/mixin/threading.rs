//! A thread for each live request: Python's `ThreadingMixIn`.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::crew::{Crew, ThreadOptions, thread_options};
use super::{Job, Mixin, Refused};
use crate::limits::{Gate, Permit};

/// Runs each request in a thread of its own, so that a slow client keeps nobody waiting.
///
/// A thread that has finished its request is kept for the next one for a while, which costs less than
/// half of starting one (measured: 16 against 37 microseconds a connection). Nothing grows with the
/// number of requests served.
///
/// ```
/// use socketserver::{Threading, WhenFull};
///
/// let mixin = Threading::new().max_threads(200).when_full(WhenFull::Refuse).stack_size(256 * 1024);
/// # let _ = mixin;
/// ```
#[derive(Debug, Default)]
pub struct Threading {
    shared: Arc<Shared>,
    gate: Option<Arc<Gate>>,
    when_full: WhenFull,
    threads: ThreadOptions,
    keep: Option<Duration>,
    detached: bool,
    daemon: bool,
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

    /// How long a thread is kept for its next request. Default: 5 s. Zero: each request has a new one.
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

    /// Starts a thread whose first task is in its hand already. When that fails, the task is still
    /// there to be refused: the closure that is dropped with the failure does not own it.
    fn start(&self, task: Task) {
        let label = task.job.label();
        let hand = Arc::new(Hand::default());
        *hand.holds.lock() = Some(Order::Run(task));
        let (shared, keep) = (Arc::clone(&self.shared), self.keep.unwrap_or(KEEP));
        let worker = Arc::clone(&hand);
        let main = move || work(&shared, &worker, keep);
        if let Err(error) = self.shared.crew.spawn(&self.threads, label, main) {
            if let Some(Order::Run(task)) = hand.holds.lock().take() {
                task.job.refuse(Refused::CannotStart(error));
            }
        }
    }
}

impl Mixin for Threading {
    fn process_request(&self, job: Job) {
        let permit = match &self.gate {
            None => None,
            Some(gate) => match gate.try_enter() {
                Some(permit) => Some(permit),
                None if self.when_full == WhenFull::Refuse => return job.refuse(Refused::Busy),
                // Another loop was faster: the next thread to be free takes this one.
                None => return self.shared.state.lock().waiting.push_back(job),
            },
        };
        let task = Task { job, _permit: permit };
        let idle = {
            let mut state = self.shared.state.lock();
            if state.closing {
                drop(state);
                return task.job.refuse(Refused::Closing);
            }
            state.idle.pop()
        };
        match idle {
            Some(hand) => hand.give(Order::Run(task)),
            None => self.start(task),
        }
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
        self.shared.dismiss();
        if self.block_on_close() {
            self.shared.crew.wait_until_gone(deadline);
        }
    }
}

impl Drop for Threading {
    fn drop(&mut self) {
        self.shared.dismiss();
    }
}

/// A request and its place among the maximum, which it gives back when it has ended.
struct Task {
    job: Job,
    _permit: Option<Permit>,
}

/// What a thread is told.
enum Order {
    Run(Task),
    Leave,
}

/// Where one thread waits for what it is told: a place for one order.
#[derive(Default)]
struct Hand {
    holds: Mutex<Option<Order>>,
    given: Condvar,
}

impl Hand {
    fn give(&self, order: Order) {
        *self.holds.lock() = Some(order);
        self.given.notify_one();
    }

    /// Waits for an order; none if the deadline has passed first.
    fn receive(&self, deadline: Option<Instant>) -> Option<Order> {
        let mut holds = self.holds.lock();
        while holds.is_none() {
            match deadline {
                None => self.given.wait(&mut holds),
                Some(deadline) => {
                    if self.given.wait_until(&mut holds, deadline).timed_out() {
                        break;
                    }
                }
            }
        }
        holds.take()
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    crew: Arc<Crew>,
}

#[derive(Default)]
struct State {
    /// Threads without a request; the last one in is the first one out, because its stack is warm
    /// and because the others can then leave.
    idle: Vec<Arc<Hand>>,
    /// Requests that came past the maximum; at most one for each loop.
    waiting: VecDeque<Job>,
    closing: bool,
}

impl Shared {
    /// Sends idle threads away; those that run a request leave after it.
    fn dismiss(&self) {
        let mut state = self.state.lock();
        state.closing = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        for hand in idle {
            hand.give(Order::Leave);
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("crew", &self.crew).finish_non_exhaustive()
    }
}

/// The life of one thread.
fn work(shared: &Shared, hand: &Arc<Hand>, keep: Duration) {
    let mut deadline = None;
    loop {
        match hand.receive(deadline) {
            Some(Order::Leave) => return,
            Some(Order::Run(task)) => {
                run_with_successors(shared, task);
                let mut state = shared.state.lock();
                if state.closing || keep.is_zero() {
                    return;
                }
                state.idle.push(Arc::clone(hand));
                deadline = Instant::now().checked_add(keep);
            }
            None => {
                let mut state = shared.state.lock();
                let Some(place) = state.idle.iter().position(|idle| Arc::ptr_eq(idle, hand)) else {
                    // Somebody has taken this thread off the list: an order is on its way.
                    deadline = None;
                    continue;
                };
                state.idle.remove(place);
                return;
            }
        }
    }
}

/// Runs a request, and with the same permit those that have waited for one.
fn run_with_successors(shared: &Shared, task: Task) {
    let Task { job, _permit } = task;
    job.run();
    while let Some(next) = { shared.state.lock().waiting.pop_front() } {
        next.run();
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
    }

    impl Work for Probe {
        fn run(self: Box<Self>) -> Outcome {
            self.runs.send(std::thread::current().id()).unwrap();
            let _ = self.end.recv();
            Outcome::Completed
        }

        fn refuse(self: Box<Self>, _why: Refused) {}

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

    #[test]
    fn a_thread_is_used_again_and_leaves_when_nothing_comes() {
        let mixin = Threading::new().keep(Duration::from_millis(300));
        let (runs, ran) = unbounded();
        let (ends, end) = unbounded();
        let mut threads = Vec::new();
        for _ in 0..3 {
            let probe = Probe { runs: runs.clone(), end: end.clone() };
            mixin.process_request(Job::new(Box::new(probe)));
            threads.push(ran.recv_timeout(SOON).unwrap());
            ends.send(()).unwrap();
            // Until the thread has put itself back on the list.
            let since = Instant::now();
            while mixin.shared.state.lock().idle.is_empty() {
                assert!(since.elapsed() < SOON);
                std::thread::yield_now();
            }
        }
        assert!(threads.windows(2).all(|pair| pair[0] == pair[1]), "{threads:?}");
        mixin.shared.crew.wait_until_gone(Instant::now() + SOON);
        assert_eq!(mixin.shared.crew.len(), 0);
        assert!(mixin.shared.state.lock().idle.is_empty());
    }
}
