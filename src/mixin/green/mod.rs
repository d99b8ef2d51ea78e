//! [`Green`]: a stackful coroutine for each request, many on one thread.
//!
//! ```text
//! thread that serves         worker 0 (a thread)                       worker 1
//!   serve ---- loop ------->   acceptor: the accept loop, a coroutine
//!                                process_request: the least loaded
//!                                  its own: run queue                 inbox, wake-up -> run queue
//!                              run queue: resumes coroutines            the same
//!                                a wait: registers, suspends
//!                              epoll_wait: resumes those it wakes
//! ```
//!
//! | file | content |
//! |---|---|
//! | `worker_thread` | the beginning and the end of a worker's thread |
//! | `worker` | a worker's loop: run queue, events, deadlines |
//! | `coroutine_wait` | the waits of its coroutines |
//! | `tasks`, `registrations`, `timers` | coroutines; which of them waits for which descriptor; until when |
//! | `inbox` | messages from other threads |
//! | `acceptor`, `accept_coroutine`, `accept_set` | the accept loop in a worker |
//! | `dispatch` | how the loop deals requests to the workers |
//! | `cancellation` | how requests that do not end by themselves are ended |
//! | `worker_status`, `watchdog` | a worker as others see it; noticing a request that holds it |
//! | `fetch_ahead` | memory that comes into the caches before it is needed |

mod accept_coroutine;
mod accept_set;
mod acceptor;
mod cancellation;
mod coroutine_wait;
mod dispatch;
mod fetch_ahead;
mod inbox;
mod registrations;
mod tasks;
mod timers;
mod watchdog;
mod worker;
mod worker_status;
mod worker_thread;

use std::fmt;
use std::io;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::thread_group::{ThreadGroup, ThreadOptions};
use super::worker_watch::WorkerWatch;
use super::{Job, Mixin, Refused, WorkerFigures};
use crate::error::{Error, Result};
use crate::process::OwnerProcess;
use crate::sys::coroutine::stack::{DEFAULT_STACK_BYTES, check_stack_bytes};
use crate::sys::coroutine::stack_bound;
use acceptor::Acceptors;
use inbox::{Inbox, Message};
use watchdog::Watchdog;
use worker_status::WorkerStatus;
use worker_thread::WorkerStart;

/// Runs each request in a coroutine: ten thousand of them on one thread, and the handler is the same blocking code.
///
/// A read, a write or any other wait of this crate suspends the coroutine, and its worker goes on with another one. So a
/// connection that waits costs some 5 KiB and no thread, and a request costs 1.0 to 1.1 times the CPU time that it costs in
/// an event loop written by hand. There is a worker for each processor, by default; a request stays on its worker for life.
///
/// Use it for many clients that mostly wait. [`Pool`](crate::Pool) is better for handlers that compute for long, and
/// [`Threading`](crate::Threading) for those that call code that blocks: there the system shares the processors among the
/// threads.
///
/// ```
/// use std::io::Write;
/// use socketserver::{Green, GreenTcpServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// let server = GreenTcpServer::builder()
///     .mixin(Green::new().workers(2))
///     .bind("127.0.0.1:0", stream_fn(|request| Ok(request.write_all(b"hello\n")?)))?;
/// # drop(server); Ok(())
/// # }
/// ```
///
/// # Where `Green` exists
///
/// `Green` exists on Linux and Android, on processors whose stacks the crate corosensei can switch: x86-64, x86, AArch64,
/// ARM, RISC-V and LoongArch. On others, s390x and POWER among them, the feature `green` does nothing and the names with
/// `Green` do not exist; the compiler then says that they are configured out. The same handler runs under another mixin,
/// `Threading` for instance.
///
/// One `Green` is for one server: when that closes, its workers end. A mixin of your own that gives the requests of several
/// servers to the same `Green` must forward only the last `server_close` to it. The watchdog's reports then go to the
/// server whose request came first.
///
/// # What a green handler must not do
///
/// A handler must not hold its worker: all other requests of the worker wait for as long. The [watchdog](Self::watchdog)
/// reports such a handler to the observer. And across a wait a handler must hold nothing that belongs to the *thread*,
/// because the next coroutine finds it there.
///
/// | not in a green handler | because | but |
/// |---|---|---|
/// | `std::thread::sleep` | the worker sleeps | [`sleep`](crate::sleep) |
/// | `std::net`, a client library | its reads and look-ups block | [`connect`](crate::outgoing::connect), for a protocol of your own; else [`offload`](crate::offload) |
/// | a large or remote file, a database | the disk or the network is waited for | [`offload`](crate::offload). A small file that was read before is in memory: read it |
/// | `std::io::stdin`, `Command::output`, `Child::wait` | they may block for any time | [`offload`](crate::offload); for minutes or longer, a thread of your own that notifies an [`Event`](crate::park::Event) |
/// | a channel's `recv`, a `Condvar`, a thread's `join` | the sender may be a coroutine of the same worker: they wait for ever | an [`Event`](crate::park::Event), an [`Outbox`](crate::Outbox), [`join`](crate::join) |
/// | a `Mutex`, a `RefCell` of a thread-local, `stdout().lock()` held across a read or a write | the next coroutine that locks it blocks the thread that could unlock it, or panics | hold it for a few lines without a wait. [`Console`](crate::monitor::Console) prints without waiting |
/// | a thread-local as the state of a request | all requests of the worker share it | a field of the handler; [`extension`](crate::StreamRequest::extension) |
/// | recursion by the depth of the input, `[0; 1 << 20]` | the stack has [256 KiB](Self::stack_bytes): an overflow ends the process, with a message | a `Vec`, a bound on the depth, a larger stack |
/// | a loop that computes for long | it holds the worker | [`offload`](crate::offload), or [`sleep`](crate::sleep) with `Duration::ZERO` now and then |
/// | a value whose drop panics, in a handler that waits again after a failed wait | a request that is cut off is unwound if it waits again, and a panic in an unwinding ends the process, as anywhere | return at the first error |
/// | `catch_unwind` in a loop that goes on in any case | a request that is cut off ends by an error and then by a panic of this crate's own; a handler that swallows both is left behind, and the report names it | end the loop after an error of the request |
/// | a bare `fork` whose child goes on | the child has the handler's thread alone; all other requests, and the worker's set of descriptors, are the parent's | `Command`, also with `pre_exec`. Else end the child by `_exit` |
///
/// The child of a bare `fork` in a handler behaves as if a thread had forked it: a wait blocks the child, and when the
/// handler returns in the child, the child ends with status 0. The parent has the connection as well.
///
/// # With `panic = "abort"`
///
/// A panic of a handler ends the process, with its message, as under every mixin. At the deadline of a drain the waits of a
/// request that is left fail, and nothing is unwound. A handler that returns at the first error ends as usual. One that goes
/// on in any case (`loop { sleep(..) }`) is left behind: the report names it, the server closes in time, and each of its
/// waits fails after a pause of 10 ms, until the process ends.
pub struct Green {
    /// None: as many as there are processors.
    workers: Option<usize>,
    /// The size of each coroutine's stack, in bytes. `check` refuses a size that stacks cannot have.
    stack_bytes: usize,
    /// How long a handler may hold its worker before that is reported to the server.
    watchdog: Duration,
    /// The workers, started with the first run or request.
    group: OnceLock<Arc<Group>>,
    /// The workers in a forked child of the process that has started those of `group`.
    group_of_child: Mutex<Option<Arc<Group>>>,
}

/// The most workers. They are threads, all started with the first run; no usual machine has as many processors.
const MAX_GREEN_WORKERS: usize = 1_024;

/// The default of [`Green::watchdog`]. Shorter in a debug build, so that the author of a handler that blocks notices it.
const WATCHDOG: Duration =
    if cfg!(debug_assertions) { Duration::from_millis(100) } else { Duration::from_secs(1) };

impl Green {
    /// Makes a mixin with as many workers as the process may use processors, and with stacks of 256 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            workers: None,
            stack_bytes: DEFAULT_STACK_BYTES,
            watchdog: WATCHDOG,
            group: OnceLock::new(),
            group_of_child: Mutex::default(),
        }
    }

    /// How many threads run requests. Default: as many as the process may use processors; more gain nothing, unless
    /// handlers compute for long or block. Zero counts as one; with more than 1,024 `bind` fails.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count.max(1));
        self
    }

    /// The size of each handler's stack, rounded up to whole pages: from 64 KiB to 1 GiB. Default: 256 KiB.
    ///
    /// Raise it for handlers that recurse deeply or keep large arrays in local variables. A lower size saves nothing that
    /// is scarce: a stack is reserved address space, and takes memory page by page as the handler goes deeper. The deepest
    /// known users, in KiB, with a handler of a few lines on x86-64:
    ///
    /// | | debug build | release build |
    /// |---|---|---|
    /// | the server, and a line read and written | 12 | 4 |
    /// | a panic, with `RUST_BACKTRACE=1` | 28 | 24 |
    /// | a TLS handshake | 64 | 24 |
    ///
    /// A handler's stack is free for another handler when the first has ended. The memory of free stacks goes back to the
    /// system when more are free than in use, except for 1,024 of each worker.
    ///
    /// A handler that needs more stack ends the process, as a thread does: there is nothing left to run its destructors
    /// on. The message on stderr names the handler and the size. All other faults go to the action of SIGSEGV that the
    /// program has set, or std.
    ///
    /// On Linux before 6.13 a process has room for about 28,000 stacks (`vm.max_map_count`), of which requests have 26,800.
    /// If [`Limits::live`](crate::Limits::live) is higher, it is lowered with the first request, and the hook
    /// [`warning`](crate::ServerHooks::warning) says so: clients beyond it wait in the accept queue.
    /// [`Figures::busy`](crate::monitor::Figures::busy) shows the number of requests. The room is that of the whole
    /// process: where several servers together need more stacks, a request for which no stack is left is refused.
    ///
    /// With a size below 64 KiB or above 1 GiB `bind` fails.
    #[must_use]
    pub fn stack_bytes(mut self, bytes: usize) -> Self {
        self.stack_bytes = bytes;
        self
    }

    /// For how long a handler may run without a wait before the observer gets a
    /// [`ServerEvent::WorkerHeld`](crate::monitor::ServerEvent::WorkerHeld). Default: 1 s, in a debug build 100 ms. At
    /// least 1 ms; with [`Duration::MAX`] nothing is reported.
    #[must_use]
    pub fn watchdog(mut self, limit: Duration) -> Self {
        self.watchdog = limit.max(Duration::from_millis(1));
        self
    }

    /// How many workers there are or will be.
    fn count(&self) -> usize {
        self.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
    }

    /// Returns the workers, and starts them if need be. Called for each request; as a rule it takes no lock.
    fn group(&self) -> io::Result<Arc<Group>> {
        self.started().map_or_else(|| self.start(), Ok)
    }

    /// The workers, if this process has started them.
    fn started(&self) -> Option<Arc<Group>> {
        let first = self.group.get()?;
        // If the owner is another process, a fork has copied the group, and not its threads.
        if first.owner.is_noted() {
            return Some(Arc::clone(first));
        }
        self.group_of_child.lock().clone().filter(|group| group.owner.is_noted())
    }

    /// Returns the workers, and starts them if there are none yet, or only those of a parent process.
    #[cold]
    fn start(&self) -> io::Result<Arc<Group>> {
        // The lock is held until the workers are there, so that two first requests do not both start them.
        let mut of_child = self.group_of_child.lock();
        let first = self.group.get();
        // Another call may have started the workers first.
        if let Some(ours) = first.into_iter().chain(&*of_child).find(|group| group.owner.is_noted())
        {
            return Ok(Arc::clone(ours));
        }
        let new = Group::start(self)?;
        if first.is_none() {
            return Ok(Arc::clone(self.group.get_or_init(|| new)));
        }
        // The threads of the previous group are a parent's: the group is forgotten, so that nothing of it is touched.
        std::mem::forget(of_child.replace(Arc::clone(&new)));
        Ok(new)
    }
}

impl Default for Green {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Green {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Green")
            .field("workers", &self.count())
            .field("stack_bytes", &self.stack_bytes)
            .finish_non_exhaustive()
    }
}

/// Reports to a server for how many requests the system has stacks, where that is bounded.
fn told_of_bound(server: Weak<dyn WorkerWatch>) -> Weak<dyn WorkerWatch> {
    // This comes before the request runs, so that the warning comes before the first client that has to wait for a stack.
    if let (Some(server), Some(bound)) = (server.upgrade(), stack_bound()) {
        server.requests_are_bounded(bound.requests(), &bound);
    }
    server
}

/// The workers of one [`Green`], as other threads see them. Kept alive by the mixin and by each worker.
struct Group {
    /// The workers, by their numbers. A worker that has ended stays in the list, with a closed inbox.
    workers: Vec<WorkerHandle>,
    /// The threads of the workers, for which the close waits.
    threads: Arc<ThreadGroup>,
    /// The accept loops that run in the workers.
    acceptors: Acceptors,
    /// The watchdog, whose thread starts with the first request.
    watchdog: Watchdog,
    /// The server of the first request, once one has come.
    server: OnceLock<Weak<dyn WorkerWatch>>,
    stack_bytes: usize,
    /// The process that has the threads.
    owner: OwnerProcess,
}

/// A worker, as other threads see it.
struct WorkerHandle {
    /// The only way to make the worker do something.
    inbox: Inbox,
    /// Written by the worker, read by all.
    status: WorkerStatus,
}

impl Group {
    /// Starts the workers, all or none.
    fn start(green: &Green) -> io::Result<Arc<Self>> {
        let worker = |_| Ok(WorkerHandle { inbox: Inbox::new()?, status: WorkerStatus::default() });
        let group = Arc::new(Self {
            workers: (0..green.count()).map(worker).collect::<io::Result<_>>()?,
            threads: Arc::default(),
            acceptors: Acceptors::default(),
            watchdog: Watchdog::new(green.watchdog),
            server: OnceLock::new(),
            stack_bytes: green.stack_bytes,
            owner: OwnerProcess::noted(),
        });
        let options = ThreadOptions::default();
        let start = |number| {
            let worker = WorkerStart::new(&group, number)?;
            group.threads.spawn(&options, "green", move || worker.run())
        };
        // If one worker cannot be started, those before it end again.
        (0..group.workers.len()).try_for_each(start).inspect_err(|_| group.quit())?;
        Ok(group)
    }

    /// The worker with the fewest requests; of several the first.
    fn least_loaded(&self) -> usize {
        self.least_loaded_but(usize::MAX).unwrap_or(0)
    }

    /// The worker with the fewest requests, except for one. None: there is no other.
    fn least_loaded_but(&self, one: usize) -> Option<usize> {
        let others = (0..self.workers.len()).filter(|number| *number != one);
        others.min_by_key(|number| self.workers[*number].status.load())
    }

    /// Counts a request that is about to be given to a worker. It is counted now, and not when the worker takes it, so that
    /// the next request goes to another worker.
    fn begin_request(self: &Arc<Self>, worker: usize) {
        // Only the first request of a worker has to wake the watchdog: while there are requests, it is awake.
        if self.workers[worker].status.begin_request() {
            self.watchdog.begin(self);
        }
    }

    /// Gives a request to a worker. If the worker has ended, the request is refused.
    fn send(self: &Arc<Self>, worker: usize, job: Job) {
        self.begin_request(worker);
        // A worker ends only when the group quits, so the server is closed.
        if let Some(Message::Job(job)) = self.workers[worker].inbox.send(Message::Job(job)) {
            self.workers[worker].status.end_request();
            job.refuse(Refused::Closing);
        }
    }

    /// Sends a message to all workers. Those that have ended do not need it.
    fn tell_all(&self, message: impl Fn() -> Message) {
        self.workers.iter().for_each(|worker| drop(worker.inbox.send(message())));
    }

    /// Whether no worker has a request.
    fn is_idle(&self) -> bool {
        self.workers.iter().all(|worker| worker.status.is_idle())
    }

    /// Reports to the server that a request holds its worker.
    fn tell_held(&self, request: u64, held: Duration) {
        if let Some(server) = self.server.get().and_then(Weak::upgrade) {
            server.worker_is_held(request, held);
        }
    }

    /// Makes each worker end when its last request has ended.
    fn quit(&self) {
        self.tell_all(|| Message::Quit);
        self.watchdog.quit();
    }
}

impl Mixin for Green {
    fn check(&self) -> Result<()> {
        let (workers, bytes) = (self.count(), self.stack_bytes);
        // The number of processors is never refused.
        if self.workers.is_some() && workers > MAX_GREEN_WORKERS {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "1,024 are the most");
            return Err(Error::io("start", format!("{workers} workers (Green::workers)"), error));
        }
        check_stack_bytes(bytes).map_err(|error| {
            Error::io("make", format!("stacks of {bytes} bytes (Green::stack_bytes)"), error)
        })
    }

    /// Starts the workers, each of which takes a thread and a few descriptors.
    fn prepare(&self) -> Result<()> {
        self.group().map(drop).map_err(|error| Error::io("start the workers of", "Green", error))
    }

    fn serve(&self, accept_loop: Arc<dyn Fn() -> Result<()> + Send + Sync>) -> Result<()> {
        let group =
            self.group().map_err(|error| Error::io("start the workers of", "Green", error))?;
        // This thread only waits: the loop is a coroutine of a worker.
        group.acceptors.run(&group, &accept_loop)
    }

    fn process_request(&self, job: Job) {
        // As a rule `prepare` or `serve` has started the workers. A mixin around this one may have forwarded neither.
        let group = match self.group() {
            Ok(group) => group,
            Err(error) => return job.refuse(Refused::CannotStart(error)),
        };
        group.server.get_or_init(|| told_of_bound(job.worker_watch()));
        match worker_thread::here(&group) {
            // The accept loop runs in a coroutine of this worker.
            Some(worker) => worker.deal(job),
            // A mixin around this one has brought the job to a thread of its own.
            None => group.send(group.least_loaded(), job),
        }
    }

    /// The requests of all workers, whether they run or wait: none is queued. `Limits::live` bounds them, and so may the
    /// number of stacks.
    fn figures(&self) -> WorkerFigures {
        let workers = self.started();
        let workers = workers.iter().flat_map(|group| &group.workers);
        let busy = workers.map(|worker| worker.status.load()).sum();
        let max_busy = stack_bound().map(|bound| bound.requests());
        WorkerFigures { busy: Some(busy), queued: Some(0), max_busy, ..WorkerFigures::default() }
    }

    fn force(&self) {
        // Each worker cancels its own coroutines, which no other thread may touch.
        if let Some(group) = self.started() {
            group.tell_all(|| Message::Cancel);
        }
    }

    fn server_close(&self, deadline: Instant) {
        let Some(group) = self.started() else { return };
        // The loops end first: a worker quits only when it has no coroutine left.
        group.acceptors.abandon();
        group.quit();
        group.threads.wait_until_gone(deadline);
    }
}

impl Drop for Green {
    fn drop(&mut self) {
        // Each worker ends with its last request; this does not wait for them. In a forked child that has not started
        // workers of its own there are none to ask.
        if let Some(group) = self.started() {
            group.quit();
        }
    }
}
