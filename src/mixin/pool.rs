//! A fixed number of threads, first come first served.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TryRecvError, unbounded};
use parking_lot::{Condvar, Mutex};

use super::thread_group::{ThreadGroup, ThreadOptions, enter_process, thread_options};
use super::worker_accept::{AcceptSlot, WorkerAccept};
use super::{Accepted, Job, Mixin, Refused, WhenFull};
use crate::error::{Error, Result};
use crate::gate::{Gate, Permit};

/// Runs requests in a fixed number of threads. Those that come while all are busy wait in a queue, in
/// the order in which they came; when that is full, the server stops accepting, or refuses.
///
/// For requests that end by themselves before long. A client that keeps its connection keeps a thread:
/// with as many idle clients as threads, nobody else is served.
///
/// ```
/// use socketserver::Pool;
///
/// let mixin = Pool::new(4).queue(64);
/// # let _ = mixin;
/// ```
#[derive(Debug)]
#[doc(alias("ThreadPoolExecutor", "ThreadPoolMixIn"))]
pub struct Pool {
    workers: usize,
    queue: usize,
    when_full: WhenFull,
    threads: ThreadOptions,
    detached: bool,
    gate: Arc<Gate>,
    group: Arc<ThreadGroup>,
    bench: Arc<Bench>,
    /// The way in to the workers; none before the first request and after the close.
    entrance: Mutex<Entrance>,
}

#[derive(Debug)]
enum Entrance {
    NotStarted,
    Open(Sender<Task>),
    Closed,
}

/// A request and its place in the pool, which it gives back when it has ended.
#[derive(Debug)]
struct Task {
    // None only once it is taken.
    job: Option<Job>,
    permit: Option<Permit>,
}

impl Task {
    fn new(job: Job, permit: Option<Permit>) -> Self {
        Self { job: Some(job), permit }
    }

    fn worker_accept(&self) -> Option<Arc<dyn WorkerAccept>> {
        self.job.as_ref()?.worker_accept()
    }

    fn run(mut self) {
        let _given_back_at_the_end = self.permit.take();
        if let Some(job) = self.job.take() {
            job.run();
        }
    }
}

/// One that nobody has taken was dropped with the queue, or by who could not put it there any more: all workers
/// have ended before their time, which only a panic of `on_thread_start` does.
impl Drop for Task {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            let error = io::Error::other("all workers of the pool have ended");
            job.refuse(Refused::CannotStart(error));
        }
    }
}

/// A pool starts all of its workers at once. No usual machine gives a process as many.
const MOST_WORKERS: usize = 65_536;

/// How many requests wait at most: a burst of a second for handlers of a millisecond.
const QUEUE: usize = 1_024;

impl Pool {
    /// A pool of `workers` threads, at least one. They start with the first request, as many of them as the system gives.
    /// With more than 65,536 `bind` fails.
    ///
    /// # Panics
    ///
    /// If there is no descriptor for the event of its queue.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let workers = workers.max(1);
        let gate = Gate::new(workers.saturating_add(QUEUE));
        Self {
            workers,
            queue: QUEUE,
            when_full: WhenFull::default(),
            threads: ThreadOptions::default(),
            detached: false,
            gate: gate.expect("a descriptor for the gate of the queue"),
            group: Arc::default(),
            bench: Arc::default(),
            entrance: Mutex::new(Entrance::NotStarted),
        }
    }

    /// How many requests may wait for a worker. Default: 1,024. Zero: while all workers are busy, the next client stays in
    /// the kernel's queue; or, with [`WhenFull::Refuse`], it is accepted and refused.
    #[must_use]
    pub fn queue(mut self, requests: usize) -> Self {
        self.queue = requests;
        self.gate.set_max(self.workers.saturating_add(requests));
        self
    }

    /// What happens when the queue is full. Default: wait.
    #[must_use]
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = when_full;
        self
    }

    /// Python's `block_on_close`: whether `server_close` waits until the queue is empty and the
    /// workers have ended. Default: true.
    #[must_use]
    pub fn block_on_close(mut self, block: bool) -> Self {
        self.detached = !block;
        self
    }

    /// How many requests it serves at once.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers
    }

    thread_options!();

    /// Starts the workers, up to the first that cannot be started. That one is missed only if there is none before it.
    fn start(&self, label: &str) -> io::Result<Sender<Task>> {
        let (entrance, queue) = unbounded();
        for number in 0..self.workers {
            let (queue, gate) = (queue.clone(), Arc::clone(&self.gate));
            let worker = Worker { queue, gate, bench: Arc::clone(&self.bench) };
            match self.group.spawn(&self.threads, label, move || worker.work()) {
                Err(error) if number == 0 => return Err(error),
                Err(_) => break,
                Ok(()) => {}
            }
        }
        Ok(entrance)
    }

    fn entrance(&self, label: &str) -> std::result::Result<Sender<Task>, Refused> {
        let mut entrance = self.entrance.lock();
        match &*entrance {
            Entrance::Open(sender) => Ok(sender.clone()),
            Entrance::Closed => Err(Refused::Closing),
            Entrance::NotStarted => {
                let sender = self.start(label).map_err(Refused::CannotStart)?;
                *entrance = Entrance::Open(sender.clone());
                Ok(sender)
            }
        }
    }
}

/// As many workers as the machine has processors, and four at the least, because workers wait for
/// their clients more than they compute.
impl Default for Pool {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(4, usize::from).max(4))
    }
}

impl Mixin for Pool {
    fn check(&self) -> Result<()> {
        if self.workers > MOST_WORKERS {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "65,536 are the most");
            let what = format!("a pool of {} workers (Pool::new)", self.workers);
            return Err(Error::io("make", what, error));
        }
        self.threads.check()
    }

    fn serve(&self, accept_loop: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        enter_process(Some(&self.group), Some(&self.gate))?;
        accept_loop()
    }

    fn process_request(&self, job: Job) {
        let permit = self.gate.try_enter();
        if permit.is_none() && self.when_full == WhenFull::Refuse {
            return job.refuse(Refused::Busy);
        }
        match self.entrance(job.label()) {
            Ok(entrance) => {
                if entrance.send(Task::new(job, permit)).is_ok() {
                    self.bench.call_one();
                }
            }
            Err(why) => job.refuse(why),
        }
    }

    fn ready(&self) -> bool {
        self.when_full == WhenFull::Refuse || self.gate.is_open()
    }

    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.gate.event_fd())
    }

    fn service_actions(&self) {
        self.gate.settle();
    }

    fn block_on_close(&self) -> bool {
        !self.detached
    }

    fn workers_accept(&self) -> bool {
        true
    }

    /// The workers empty the queue and end.
    fn server_close(&self, deadline: Instant) {
        *self.entrance.lock() = Entrance::Closed;
        self.bench.call_all();
        if self.block_on_close() {
            self.group.wait_until_gone(deadline);
        }
    }
}

/// The workers end when they have emptied the queue; nobody waits for them.
impl Drop for Pool {
    fn drop(&mut self) {
        *self.entrance.lock() = Entrance::Closed;
        self.bench.call_all();
    }
}

/// One worker.
struct Worker {
    queue: Receiver<Task>,
    gate: Arc<Gate>,
    bench: Arc<Bench>,
}

impl Worker {
    /// Its life. The channel gives out what is still in it before it says that it is closed.
    fn work(&self) {
        loop {
            match self.queue.try_recv() {
                Ok(task) => {
                    self.call_for_the_rest();
                    let accept = task.worker_accept();
                    task.run();
                    if let Some(accept) = accept {
                        self.serve_at(&accept);
                    }
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => self.bench.wait_unless(|| !self.queue.is_empty()),
            }
        }
    }

    /// Whoever takes a request and leaves others behind calls the next worker first.
    fn call_for_the_rest(&self) {
        if !self.queue.is_empty() {
            self.bench.call_one();
        }
    }

    /// Waits at the accept of the server whose request this worker has run, and runs what comes: until there is
    /// something in the queue, or nothing to be had there. Not if another worker does so already.
    fn serve_at(&self, accept: &Arc<dyn WorkerAccept>) {
        while self.bench.take_post_unless(accept, || !self.queue.is_empty()) {
            let mut permit = None;
            // What is queued by now came before what is at the accept.
            let accepted = Arc::clone(accept).accept(&mut || {
                permit = self.gate.try_enter();
                permit.is_some() && self.queue.is_empty()
            });
            self.bench.leave_post();
            match accepted {
                Accepted::Request(job) => {
                    self.call_for_the_rest();
                    Task::new(job, permit).run();
                }
                Accepted::TryAgain => {}
                Accepted::Leave => return,
            }
        }
    }
}

/// Where workers wait who have nothing to do.
///
/// The channel could wait by itself, but it yields the processor many times before it sleeps. That is
/// for tasks of nanoseconds; here it takes the processor from the loop that brings the next request
/// (measured on one core: 39 microseconds a connection instead of 21).
#[derive(Debug, Default)]
struct Bench {
    state: Mutex<Waiting>,
    called: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    workers: usize,
    /// One of them has been called, and has not come yet. That is enough: a worker who takes a request and
    /// leaves others behind calls the next one first. So a rush of short requests costs few wake-ups.
    on_its_way: bool,
    /// The one that waits at the accept.
    accept_slot: AcceptSlot,
    closed: bool,
}

impl Bench {
    /// Waits for a call, unless there is something to do. Asked under the lock under which calls are
    /// made: what is queued after the question is called after it.
    fn wait_unless(&self, anything_to_do: impl Fn() -> bool) {
        let mut state = self.state.lock();
        if anything_to_do() || state.closed {
            return;
        }
        state.workers += 1;
        self.called.wait(&mut state);
        state.workers -= 1;
        state.on_its_way = false;
    }

    /// Notes that the calling worker waits at the accept, if nobody does; unless there is something to do, asked as
    /// in `wait_unless`.
    fn take_post_unless(
        &self,
        accept: &Arc<dyn WorkerAccept>,
        anything_to_do: impl Fn() -> bool,
    ) -> bool {
        let mut state = self.state.lock();
        let takes = !state.accept_slot.is_taken() && !state.closed && !anything_to_do();
        if takes {
            state.accept_slot.enter(accept);
        }
        takes
    }

    fn leave_post(&self) {
        let mut state = self.state.lock();
        if state.accept_slot.leave() {
            state.on_its_way = false;
        }
    }

    fn call_one(&self) {
        let mut state = self.state.lock();
        if state.on_its_way {
            return;
        }
        if state.workers > 0 {
            state.on_its_way = true;
            drop(state);
            self.called.notify_one();
        } else {
            state.on_its_way = state.accept_slot.interrupt();
        }
    }

    /// No more waiting: the channel is closed, or about to be by the last who still sends.
    fn call_all(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.accept_slot.interrupt();
        drop(state);
        self.called.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::mixin::fake_job::{FakeJob, FakeWorkerAccept};

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn what_is_queued_is_refused_when_no_worker_comes() {
        let ((goes_on, may_go_on), (refused, refusals)) = (unbounded::<()>(), unbounded());
        let pool = Pool::new(2).on_thread_start(move || {
            let _ = may_go_on.recv();
            panic!("no database");
        });
        let ((runs, _), (_, end)) = (unbounded(), unbounded());
        for _ in 0..3 {
            let (runs, end, refused) = (runs.clone(), end.clone(), refused.clone());
            pool.process_request(Job::new(Box::new(FakeJob {
                runs,
                end,
                refused,
                worker_accept: None,
            })));
        }
        assert!(refusals.is_empty(), "a worker may still come");
        drop(goes_on);
        for _ in 0..3 {
            let why = refusals.recv_timeout(SOON).expect("it is refused");
            assert!(why.contains("all workers of the pool have ended"), "{why}");
        }
        pool.group.wait_until_gone(Instant::now() + SOON);
        assert_eq!(pool.gate.count(), 0, "their places are given back");
    }

    #[test]
    fn the_only_worker_is_called_back_from_accepting_to_the_queue() {
        let (pool, accept) = (Pool::new(1), FakeWorkerAccept::new());
        let ((runs, ran), (ends, end), (refused, _)) = (unbounded(), unbounded(), unbounded());
        for _ in 0..100 {
            let (runs, end, refused) = (runs.clone(), end.clone(), refused.clone());
            let fake = FakeJob { runs, end, refused, worker_accept: Some(accept.erased()) };
            pool.process_request(Job::new(Box::new(fake)));
            ran.recv_timeout(SOON).expect("it comes");
            ends.send(()).unwrap();
            let since = Instant::now();
            while !accept.is_accepting() {
                assert!(since.elapsed() < SOON, "it waits at the accept");
                thread::yield_now();
            }
        }
        pool.server_close(Instant::now() + SOON);
        assert_eq!(pool.group.len(), 0, "a worker at the accept leaves when the pool closes");
    }
}
