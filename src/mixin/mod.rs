//! Where and when requests run: the [`Mixin`]s, and how to write one.
//!
//! | mixin | a request runs | for |
//! |---|---|---|
//! | [`Inline`] | in the accept loop, one after the other: Python's plain server | short requests of well-behaved clients |
//! | [`Threading`] | in a thread of its own | most servers |
//! | [`Pool`] | in one of a fixed number of threads, first come first served | many short requests |
//! | `Green` | in a coroutine, many on each of a few threads (feature `green`, on by default; [its page](Green) names the systems) | thousands of clients that mostly wait |
//! | [`Forking`] | in a child process | handlers that must not share memory |
//!
//! A mixin sees a request only as a [`Job`], which hides the transport and the handler. So each mixin works with all
//! transports and handlers.
//!
//! # Writing one
//!
//! Most servers that override `process_request` in Python want a semaphore, a pool or a queue.
//! [`Threading::max_threads`] and [`Pool`] do this without a new mixin. Write a mixin to run requests in another
//! *place*. Only [`process_request`](Mixin::process_request) is required. It gets a job, which must be run, refused or
//! released once, on any thread. This mixin starts a thread for each request, a hundred at most:
//!
//! ```
//! use std::os::fd::BorrowedFd;
//! use std::sync::Arc;
//!
//! use socketserver::mixin::{Gate, Job, Mixin, Refused};
//! use socketserver::{TcpServer, stream_fn};
//!
//! struct Spawn {
//!     gate: Arc<Gate>,
//! }
//!
//! impl Mixin for Spawn {
//!     // Called by the accept loop: it must not wait.
//!     fn process_request(&self, job: Job) {
//!         let Some(permit) = self.gate.try_enter() else { return job.refuse(Refused::Busy) };
//!         std::thread::spawn(move || {
//!             job.run();
//!             drop(permit);
//!         });
//!     }
//!
//!     // `false` promises that `event_fd` becomes readable as soon as there is room. A gate keeps that promise.
//!     fn ready(&self) -> bool {
//!         self.gate.is_open()
//!     }
//!
//!     fn event_fd(&self) -> Option<BorrowedFd<'_>> {
//!         Some(self.gate.event_fd())
//!     }
//!
//!     // Makes `event_fd` unreadable again; otherwise the loop would never wait.
//!     fn service_actions(&self) {
//!         self.gate.settle();
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mixin = Spawn { gate: Gate::new(100)? };
//! let hello = stream_fn(|request| Ok(request.write_all(b"hello\n")?));
//! let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", hello)?.serve_in_background()?;
//! # use std::io::{Read, Write};
//! # let address = server.server_address().as_inet().unwrap();
//! # let mut answer = String::new();
//! # std::net::TcpStream::connect(address)?.read_to_string(&mut answer)?;
//! # assert_eq!(answer, "hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! A mixin around another one must forward every method that the inner mixin overrides. `examples/own_mixin.rs`
//! combines two pools into one mixin. The mixin in `tests/it/coroutines.rs` runs handlers as coroutines, and uses
//! [`park`](crate::park) as well.
//!
//! # Stability
//!
//! Methods may be added to [`Mixin`], with a default that keeps existing mixins working. A mixin around another one has
//! to forward the new methods too, so read the changelog before you update. New values may be added to [`Refused`] and
//! [`WhenFull`].

mod accept_slot;
mod delegate;
#[cfg(test)]
mod fake_job;
mod forking;
#[cfg(has_green)]
mod green;
mod idle_workers;
mod pool;
mod thread_group;
mod threading;
mod worker_queue;
mod worker_watch;
mod workers;

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::address::Address;
use crate::error::Result;
use crate::events::CloseReason;

pub use crate::figures::WorkerFigures;
pub use crate::gate::{Gate, Permit};
pub use crate::refused::Refused;
// The aliases of the mixins are here and not at the types: rustdoc forgets the aliases of a type that is re-exported from a
// private module.
pub(crate) use accept_slot::{Accepted, WorkerAccept};
#[doc(alias = "ForkingMixIn")]
pub use forking::Forking;
pub(crate) use forking::{ChildEnd, RequestOfChild, ServeInChild};
#[doc(alias("ThreadPoolExecutor", "ThreadPoolMixIn"))]
#[cfg(has_green)]
pub use green::Green;
pub use pool::Pool;
#[doc(alias = "ThreadingMixIn")]
pub use threading::Threading;
pub use threading::WhenFull;
pub(crate) use worker_watch::WorkerWatch;

/// Where and when requests run. The [module](self) shows how to write a mixin.
///
/// A server calls [`check`](Self::check) when it is made, and then these methods, in this order:
///
/// 1. Once for each run: [`prepare`](Self::prepare) (not for `handle_request`), then [`serve`](Self::serve), which calls
///    the accept loop at least once.
/// 2. Before every accept: [`ready`](Self::ready). If it returns false, the loop stops accepting and waits for
///    [`event_fd`](Self::event_fd).
/// 3. For every request: [`process_request`](Self::process_request). ([`workers_accept`](Self::workers_accept) changes
///    steps 2 and 3.)
/// 4. After every request and every wait: [`service_actions`](Self::service_actions).
/// 5. When the server closes and waits for its requests ([`block_on_close`](Self::block_on_close)):
///    [`drain`](Self::drain), and [`force`](Self::force) at the deadline.
/// 6. At the end of a close, when the loops have ended: [`server_close`](Self::server_close). It is called again at every
///    further close, and never for a server that is only dropped.
///
/// | method | thread |
/// |---|---|
/// | `check` | the one that makes the server |
/// | `prepare`, `serve` | the one that runs the server |
/// | `ready`, `process_request`, `event_fd`, `service_actions` | the loop's |
/// | `figures` | any |
/// | `drain`, `force`, `server_close` | the one that closes the server, or a loop's; several closes may overlap |
///
/// A panic in one of the loop's methods ends the run, and is not hidden.
pub trait Mixin: Send + Sync + 'static {
    /// Checks the settings. Called once, when a server is made with this mixin, so that `bind` fails and not each
    /// request. A mixin around another one forwards the call. Default: no error.
    ///
    /// # Errors
    ///
    /// An error that names the setting and its value.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Makes everything that a run needs before its first request; the mixin keeps it. Called at the beginning of each run
    /// but that of `handle_request`, before the server checks how many descriptors are left for requests. A mixin around
    /// another one forwards the call. Default: nothing.
    ///
    /// # Errors
    ///
    /// If something cannot be made. The run ends with this error.
    fn prepare(&self) -> Result<()> {
        Ok(())
    }

    /// Runs the accept loop: in the calling thread, on several threads, or in several processes.
    ///
    /// `accept_loop` returns when the server stops. It may be called on several threads at the same time; when all calls
    /// have returned, the run accepts nothing more, and `serve` returns. The closure owns all that it uses, so that it may
    /// be given to a thread or a coroutine; called after its run it does nothing.
    ///
    /// # Errors
    ///
    /// The errors of the loop, and those of its start.
    fn serve(&self, accept_loop: Arc<dyn Fn() -> Result<()> + Send + Sync>) -> Result<()> {
        // One loop, in the thread that has called `serve_forever`.
        accept_loop()
    }

    /// Runs one request, at once or later, on this thread or elsewhere: Python's `process_request`.
    ///
    /// The loop accepts nothing until this returns, so it must not wait for anything but the job. A job that is
    /// dropped is [released](Job::release).
    #[doc(alias = "process_request_thread")]
    fn process_request(&self, job: Job);

    /// Whether there is room for another request. If it returns false, [`event_fd`](Self::event_fd) must become
    /// readable as soon as there is room. Default: true.
    ///
    /// Called before every accept, and once more before a wait, so it has to be cheap. There may be no room any more when
    /// the request comes: each loop may bring one request too many.
    fn ready(&self) -> bool {
        true
    }

    /// A descriptor that the loop polls together with the listener. It becomes readable when there is room for a
    /// request, for example, or when a child has ended. The loop polls it in every wait, so
    /// [`service_actions`](Self::service_actions) has to make it unreadable again. Default: none.
    ///
    /// Asked before each wait, so that a mixin may prepare for being woken only then.
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Does the mixin's housekeeping, after every request and every wait of the loop. Default: nothing.
    fn service_actions(&self) {}

    /// Whether `server_close` waits for running requests, and forces them at its deadline. Python's
    /// `block_on_close`.
    fn block_on_close(&self) -> bool {
        true
    }

    /// Whether the mixin forks, and so needs a process with one thread: `serve_in_background`, and `run_all` with
    /// several servers, then fail. A mixin around another one forwards the call. Default: no.
    fn forks(&self) -> bool {
        false
    }

    /// Whether a worker without a request may accept the next one itself, so that the loop need not wake the worker.
    /// Neither [`ready`](Self::ready) nor [`process_request`](Self::process_request) is called for such a request. So a
    /// mixin that counts, selects or holds back requests before it forwards them to another mixin keeps the default:
    /// no.
    fn workers_accept(&self) -> bool {
        false
    }

    /// The present state of the workers and of the queue, for operators. Any thread may call it, at any time: it must not
    /// wait. Default: nothing is known, and the server counts its live requests that run and that wait for a worker.
    fn figures(&self) -> WorkerFigures {
        WorkerFigures::default()
    }

    /// Helps running requests to end, until the deadline at most: for mixins whose requests end only with the help of a
    /// thread, which reaps children or resumes coroutines. Default: nothing.
    ///
    /// A close calls it before each of its waits for the live list to become empty: first with the end of
    /// `Limits::first_read` (at the latest half of the time), then with the deadline of the close, and, if requests are
    /// left then, once more after [`force`](Self::force), with a deadline a moment away. The loop of a server that forks
    /// calls it with the present moment, if there is no room for a client of the accepted backlog.
    fn drain(&self, deadline: Instant) {
        let _ = deadline;
    }

    /// Ends the requests that are left at the deadline. The server itself shuts down their connections. Default:
    /// nothing.
    ///
    /// Called once by each close that still has requests at its deadline.
    fn force(&self) {}

    /// Ends the threads or processes that the mixin has started. With [`block_on_close`](Self::block_on_close) it waits
    /// for them until the deadline. Default: nothing.
    fn server_close(&self, deadline: Instant) {
        let _ = deadline;
    }
}

/// One request, ready to run. It owns everything it needs, and may be sent to another thread.
///
/// Exactly one of [`run`](Self::run), [`refuse`](Self::refuse) and [`release`](Self::release) ends the job; dropping a
/// job releases it.
///
/// A job keeps its permit of `Limits::live` and its slot in the live list until it has ended. So a mixin that keeps
/// jobs in a queue keeps the server's permits, too.
pub struct Job {
    // Always there, except while `run`, `refuse` or `release` consumes it.
    work: Option<Box<dyn Work>>,
}

/// A job with its types erased. The server implements it; see the methods of [`Job`].
#[cfg_attr(not(has_green), allow(dead_code, reason = "only `Green` asks for some of it"))]
pub(crate) trait Work: ServeInChild + Send {
    /// See [`Job::run`]. It catches all panics of the request.
    fn run(self: Box<Self>) -> CloseReason;
    /// See [`Job::refuse`]. It may run the `overflow` hook, so the caller must hold no lock.
    fn refuse(self: Box<Self>, why: Refused);
    /// See [`Job::release`].
    fn release(self: Box<Self>);
    /// See [`Job::worker_accept`].
    fn worker_accept(&self) -> Option<Arc<dyn WorkerAccept>>;
    /// See [`Job::id`].
    fn id(&self) -> u64;
    /// See [`Job::worker_watch`].
    fn worker_watch(&self) -> Weak<dyn WorkerWatch>;
    /// See [`Job::stays_with_acceptor`].
    fn stays_with_acceptor(&self) -> bool;
    /// See [`Job::label`].
    fn label(&self) -> &'static str;
    /// See [`Job::peer`].
    fn peer(&self) -> &Address;
}

impl Job {
    /// Makes the job of a request. A server does this for each request that it does not reject.
    pub(crate) fn new(work: Box<dyn Work>) -> Self {
        Self { work: Some(work) }
    }

    /// Runs the request to its end: `setup`, `handle`, `finish`, the report of a failure, the orderly close. A panic of
    /// the handler does not leave this call.
    pub fn run(mut self) -> CloseReason {
        match self.work.take() {
            Some(work) => work.run(),
            // This is not reached: each call that takes the work consumes the job as well.
            None => CloseReason::Released,
        }
    }

    /// Ends the request without running it: the `overflow` hook may answer, or `handle_error` gets the reason, and the
    /// connection is closed in order.
    pub fn refuse(mut self, why: Refused) {
        // The work is taken out of the job, whose drop then releases nothing.
        if let Some(work) = self.work.take() {
            work.refuse(why);
        }
    }

    /// Ends the job without serving the request: closes this process's copy of the connection, and counts the request as
    /// [`Released`](CloseReason::Released). For a parent whose child serves the request.
    pub fn release(self) {
        // The drop releases: a job that is forgotten somewhere ends in the same way.
        drop(self);
    }

    /// The server, for a worker that has run this request and accepts the next one itself. None if workers of this
    /// server do not accept.
    pub(crate) fn worker_accept(&self) -> Option<Arc<dyn WorkerAccept>> {
        self.work.as_ref()?.worker_accept()
    }

    /// The type name of the handler: for thread names and messages.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.work.as_ref().map_or("", |work| work.label())
    }

    /// The address of the client.
    #[must_use]
    pub fn peer(&self) -> &Address {
        self.work.as_ref().map_or(&Address::Unnamed, |work| work.peer())
    }
}

/// For a mixin whose workers run many requests at once.
#[cfg(has_green)]
impl Job {
    /// The request's number in the live list of its server.
    pub(crate) fn id(&self) -> u64 {
        self.work.as_ref().map_or(0, |work| work.id())
    }

    /// The server, for the reports of a mixin's watchdog.
    ///
    /// # Panics
    ///
    /// Never: a job that has been run is gone.
    pub(crate) fn worker_watch(&self) -> Weak<dyn WorkerWatch> {
        self.work.as_ref().expect("it was not run yet").worker_watch()
    }

    /// Whether the request is to be served by the worker that accepted it: a datagram, whose reply leaves together
    /// with others.
    pub(crate) fn stays_with_acceptor(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.stays_with_acceptor())
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // A mixin may lose a job, by a panic or with a queue that it drops. Its connection and its permit are given back
        // nevertheless.
        if let Some(work) = self.work.take() {
            work.release();
        }
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Job({} for {})", self.label(), self.peer())
    }
}

/// Runs each request in the loop itself, one after the other: Python's plain `TCPServer`.
///
/// The loop does not accept while a handler runs, so one slow client keeps all others waiting. For short requests from
/// well-behaved clients `Inline` is the fastest mixin.
///
/// A handler that closes its own server does not wait for itself: the close returns, and the loop ends after the
/// request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inline;

impl Mixin for Inline {
    fn process_request(&self, job: Job) {
        // The server counts how the request has ended.
        job.run();
    }

    /// The server counts its only running request itself.
    fn figures(&self) -> WorkerFigures {
        WorkerFigures { max_busy: Some(1), ..WorkerFigures::default() }
    }
}
