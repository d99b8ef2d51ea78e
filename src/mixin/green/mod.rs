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
//! | `worker` | a worker's loop: run queue, events, deadlines |
//! | `parked` | the waits of its coroutines |
//! | `tasks`, `registrations`, `timers` | coroutines; which waits for which descriptor; until when |
//! | `inbox` | what other threads tell a worker |
//! | `acceptor` | the accept loop in a worker |

mod acceptor;
mod inbox;
mod parked;
mod registrations;
mod tasks;
mod timers;
mod worker;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Job, Mixin, Refused, WorkerFigures};
use crate::error::{Error, Result};
use acceptor::Acceptors;
use inbox::{Inbox, Message};

/// Runs each request in a coroutine: thousands of them on one thread, and the handler is the same blocking code.
pub struct Green {
    /// None: as many as there are processors.
    workers: Option<usize>,
    stack_bytes: usize,
    /// Made with the first run or request.
    group: Mutex<Option<Arc<Group>>>,
}

/// The stack of a handler by default.
const STACK_BYTES: usize = 256 * 1024;

impl Green {
    /// As many workers as the process may use processors, and stacks of 256 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self { workers: None, stack_bytes: STACK_BYTES, group: Mutex::default() }
    }

    /// How many threads run requests.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = Some(count);
        self
    }

    /// How large a handler's stack is.
    #[must_use]
    pub fn stack_bytes(mut self, bytes: usize) -> Self {
        self.stack_bytes = bytes;
        self
    }

    fn count(&self) -> usize {
        self.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from))
    }

    /// The workers, started if they are not yet.
    fn group(&self) -> io::Result<Arc<Group>> {
        let mut group = self.group.lock();
        if let Some(group) = &*group {
            return Ok(Arc::clone(group));
        }
        let new = Group::start(self.count(), self.stack_bytes)?;
        *group = Some(Arc::clone(&new));
        Ok(new)
    }

    fn started(&self) -> Option<Arc<Group>> {
        self.group.lock().clone()
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

/// The workers of one [`Green`].
struct Group {
    inboxes: Vec<Arc<Inbox>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    acceptors: Acceptors,
}

impl Group {
    fn start(count: usize, stack_bytes: usize) -> io::Result<Arc<Self>> {
        let inboxes = (0..count).map(|_| Inbox::new().map(Arc::new));
        let group = Arc::new(Self {
            inboxes: inboxes.collect::<io::Result<_>>()?,
            threads: Mutex::default(),
            acceptors: Acceptors::default(),
        });
        for number in 0..count {
            let worker = worker::Start::new(&group, number, stack_bytes)?;
            let thread = thread::Builder::new().name(format!("green {number}"));
            match thread.spawn(move || worker.run()) {
                Ok(thread) => group.threads.lock().push(thread),
                Err(error) => {
                    group.quit();
                    return Err(error);
                }
            }
        }
        Ok(group)
    }

    /// The worker that accepts.
    fn acceptor(&self) -> &Inbox {
        &self.inboxes[0]
    }

    /// The worker with the fewest requests; of several the first.
    fn least_loaded(&self) -> &Arc<Inbox> {
        self.inboxes.iter().min_by_key(|inbox| inbox.load()).expect("there is a worker")
    }

    /// Has the workers end, each when its last request has ended.
    fn quit(&self) {
        self.inboxes.iter().for_each(|inbox| inbox.send(Message::Quit));
    }

    /// Waits for the workers until the deadline.
    fn join(&self, deadline: Instant) {
        for thread in std::mem::take(&mut *self.threads.lock()) {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() {
                drop(thread.join());
            }
        }
    }
}

impl Mixin for Green {
    fn serve(&self, accept_loop: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        let group =
            self.group().map_err(|error| Error::io("start the workers of", "Green", error))?;
        group.acceptors.run(&group, accept_loop)
    }

    fn process_request(&self, job: Job) {
        let group = match self.group() {
            Ok(group) => group,
            Err(error) => return job.refuse(Refused::CannotStart(error)),
        };
        if let Some(job) = worker::deal(&group, job) {
            let inbox = group.least_loaded();
            inbox.begin_request();
            inbox.send(Message::Job(job));
        }
    }

    fn figures(&self) -> WorkerFigures {
        WorkerFigures::default()
    }

    fn server_close(&self, deadline: Instant) {
        let Some(group) = self.started() else { return };
        group.acceptors.abandon();
        group.quit();
        group.join(deadline);
    }
}

impl Drop for Green {
    fn drop(&mut self) {
        if let Some(group) = self.started() {
            group.quit();
        }
    }
}
