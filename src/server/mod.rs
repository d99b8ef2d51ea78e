//! [`Server`]: a transport, a mixin and a handler, put together.
//!
//! ```text
//!   Builder ─→ Server ── serve_forever, handle_request      accept_loop.rs: the loop
//!                │         run, run_all, background         run_all.rs, background.rs
//!                │         server_close                     server_close.rs, drain_backlog.rs
//!                │
//!              Core ──── transport, hooks, factory          shared with the requests
//!                │
//!            TypedJob ── verify, make, wrap, handle, close  job.rs: the life of a request
//! ```
//!
//! Each request holds a [`ServerPermit`](server_permit::ServerPermit), which keeps the core alive while requests run,
//! even if the server is dropped. The accept loop holds the core and the mixin by itself, for the same reason.
//!
//! Several threads share four things, each with its own rule:
//!
//! - [`Runs`](crate::shutdown::Runs): whether the server runs, stops, closes. Atomics for signals, a lock for the rest.
//! - `LiveList`: the requests. A drain, the idle reaper and operators end them through it.
//! - the gate of `Limits::live`: atomics alone, because each request goes through it twice.
//! - `worker_accept.rs`, `drain_backlog.rs`, `phase_queue.rs`: a lock each, and a diagram of who waits for whom. Hooks run
//!   under the first of these and under no other lock.

mod accept_failure;
mod accept_loop;
mod background;
mod base_server;
mod builder;
mod catch_panic;
mod close_reason;
mod descriptor_budget;
mod drain_backlog;
mod drain_report;
mod error_owner;
mod failure;
mod figure_parts;
mod fork;
mod handover;
mod hooks;
mod incoming;
mod job;
mod loop_clock;
#[cfg(feature = "metrics")]
mod metrics;
mod observers;
mod open_request;
mod overridden_hooks;
mod parked_listener;
#[cfg(test)]
mod parker_tests;
mod phase_queue;
mod run_all;
mod run_events;
mod served_by_child;
mod served_by_thread;
mod server_close;
mod server_permit;
#[cfg_attr(not(feature = "tracing"), path = "no_spans.rs")]
mod spans;
mod worker_accept;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::Result;
use crate::events::ServerEvent;
use crate::handler::MakeHandler;
use crate::limits::Limits;
use crate::mixin::Mixin;
use crate::request::Prefaces;
use crate::server_context::ServerContext;
use crate::shutdown::{RunKind, ShutdownHandle};
use crate::transport::{Bind, Transport};

pub use accept_loop::AcceptOutcome;
pub use background::BackgroundServer;
pub use base_server::BaseServer;
pub use builder::Builder;
pub use drain_report::DrainReport;
pub use failure::{AcceptFailure, Failure, Phase};
pub use handover::Handover;
pub use hooks::ServerHooks;
pub use incoming::Incoming;
#[cfg(feature = "metrics")]
pub use metrics::update_metrics;
pub use run_all::run_all;
#[cfg(feature = "tracing")]
pub use spans::trace_panics;

use accept_loop::{AcceptLoop, Timing};
use drain_backlog::Backlog;
use overridden_hooks::{LoopHook, OverriddenHooks};
use parked_listener::ParkedListener;
use phase_queue::PhaseQueue;
use run_events::RunGuard;
use spans::Spans;
use worker_accept::WorkerAcceptor;

/// A server: a transport, a mixin and a handler.
///
/// The transport and the mixin are part of the type, usually through an alias: `ThreadingTcpServer` is `Server<Tcp,
/// Threading>`. The handler is not part of the type, so that a server can be a field of any struct.
///
/// All methods take `&self`, so a server can be shared in an `Arc`. Dropping a server closes its listener and waits for
/// nothing; [`server_close`](Self::server_close) waits for requests.
///
/// A server may be bound before a `fork` and served in the child, in the parent, or in both: the processes accept from
/// one listener, but each has its own limits, stops separately and closes its own copy of the listener. Fork before the
/// first request, unless the mixin has no threads.
pub struct Server<T: Transport, M: Mixin> {
    /// The core, shared with every request that runs, and with the accept loop.
    core: Arc<Core<T>>,
    /// The mixin, shared with the accept loop, and for moments with callers that ask for its figures.
    mixin: Arc<M>,
    timing: Timing,
}

/// A function of the program that is called with every event.
type Observer = Box<dyn Fn(&ServerEvent<'_>) + Send + Sync>;

/// The part of a server that its requests share. It lives until the server and the last request are gone.
pub(crate) struct Core<T: Transport> {
    /// The transport. The loop, workers, and a thread that closes may call it at the same time.
    transport: T,
    /// Makes a handler for each request, on the thread that serves it. Several threads call it at the same time.
    factory: Box<dyn MakeHandler<T::Request>>,
    /// The type name of the handler, for reports, events and threads.
    handler_name: &'static str,
    /// The program's hooks. Each call is in `catch_panic`, except where a panic is to end the loop or to reach the caller.
    hooks: Box<dyn ServerHooks<T::Request>>,
    /// Whether a hook of the loop is overridden; if none is, workers may accept.
    overridden_hooks: OverriddenHooks,
    /// The phases that were reached and are not yet reported to the hooks.
    phases: PhaseQueue,
    /// The observers. Only [`Core::tell`] calls them, and it catches their panics.
    observers: Vec<Observer>,
    /// Whether requests have spans.
    spans: Spans,
    /// Whether the kernel is asked how long each connection was in its accept queue: `Builder::time_accept_queue`.
    times_accept_queue: bool,
    /// The part that handlers see.
    context: Arc<ServerContext>,
    /// The steps between a connection and its handler.
    prefaces: Prefaces<T::Request>,
    /// Lets an idle worker accept beside the loop.
    worker_acceptor: WorkerAcceptor,
    /// The listener, for a loop that is a coroutine.
    parked_listener: ParkedListener,
    /// Connections taken out of the accept queue at a close, and not yet served.
    backlog: Backlog<T>,
    /// Whether the program has borrowed the listener's descriptor, and may have passed it to another process.
    lent: AtomicBool,
    /// Whether a close has begun to wait for the end of the lame duck. Later closes do not wait for it.
    lame_duck_is_begun: AtomicBool,
    /// Whether the drain, and not the last loop, closes the transport, because requests need it until they end.
    closed_late: AtomicBool,
    /// Set by a close that waits for nothing: that close or the last loop then closes the mixin, whichever is later.
    mixin_closed_late: AtomicBool,
    /// The [`Coordinator`](handover::Coordinator) of the run, if the process hands its sockets on.
    coordinator: OnceLock<Arc<handover::Coordinator>>,
}

impl<T: Transport> Drop for Core<T> {
    fn drop(&mut self) {
        // From here on a child that another server forks has no sockets of this server to close.
        fork::unregister();
    }
}

impl<T: Transport> Core<T> {
    /// Calls the hook `service_actions`, not the mixin's method of that name. A panic ends the loop.
    fn service_actions(&self) {
        self.overridden_hooks.call(LoopHook::ServiceActions, || self.hooks.service_actions());
    }

    /// Closes the listener and frees the address.
    fn close_listener(&self) {
        self.close_duplicates();
        self.transport.server_close();
    }

    /// Closes the duplicates that workers and a parked loop wait for: the address is free only when the last descriptor is
    /// closed.
    fn close_duplicates(&self) {
        self.worker_acceptor.close_listener();
        self.parked_listener.close(self.context.runs.stop_waiting().fd);
    }

    /// Closes the listener, unless it has to stay open for replies. Called when the last loop has ended and the server is
    /// closing; also by a close that finds no loop. The transport may be the user's, so no lock is held.
    fn loops_have_ended(&self) {
        if !self.closed_late.load(Ordering::SeqCst) {
            self.close_listener();
        }
    }

    /// The coordinator of handovers, if the current run has one.
    fn coordinator(&self) -> Option<&handover::Coordinator> {
        self.coordinator.get().map(|coordinator| &**coordinator)
    }

    /// Whether the clients in the accept queue may belong to another process.
    fn is_lent(&self) -> bool {
        self.lent.load(Ordering::SeqCst)
    }
}

impl<T: Bind, M: Mixin + Default> Server<T, M> {
    /// Makes a server, binds it and begins to listen. Clients wait in the kernel's accept queue until
    /// `serve_forever`, `run` or `handle_request` is called.
    ///
    /// - `address`: `"127.0.0.1:9999"`, `("localhost", 9999)`, a path for Unix sockets, or another [`BindAddress`].
    ///   Port 0 means any free port; [`server_address`](Self::server_address) returns the port that was chosen.
    /// - `handler`: a closure that makes a handler (`|| Echo`), or a function or closure wrapped by
    ///   [`stream_fn`](crate::stream_fn) or [`datagram_fn`](crate::datagram_fn). If the compiler says "type annotations
    ///   needed" (E0282) at a closure that takes the request, wrap it: `stream_fn(|request| ..)`. If it says "this
    ///   closure only implements `FnOnce`" (E0525), give each handler a clone: `move || Echo { all: Arc::clone(&all)
    ///   }`.
    ///
    /// # Errors
    ///
    /// If the address cannot be understood or is not available. No descriptor is left open.
    #[doc(alias("E0282", "E0525"))]
    pub fn bind<How: 'static>(
        address: impl Into<BindAddress>,
        handler: impl MakeHandler<T::Request, How>,
    ) -> Result<Self> {
        Self::builder().bind(address, handler)
    }

    /// Settings for a server: [`Builder`].
    #[must_use]
    pub fn builder() -> Builder<T, M> {
        Builder::new(M::default())
    }
}

impl<T: Transport, M: Mixin> Server<T, M> {
    /// Binds to the address. Only for a server from [`build_unbound`](Builder::build_unbound); other servers are
    /// already bound.
    ///
    /// # Errors
    ///
    /// If the address is not available, and the socket is then closed; or if the server is closed.
    pub fn server_bind(&self) -> Result<()> {
        let core = self.core.unless_closed()?;
        let bound = core.transport.server_bind(&|socket| core.hooks.before_bind(socket));
        core.context.set_address(core.transport.server_address());
        bound.inspect_err(|_| core.close_listener())
    }

    /// Begins to listen. Only for a server from [`build_unbound`](Builder::build_unbound); other servers already
    /// listen.
    ///
    /// # Errors
    ///
    /// If it cannot listen, and the socket is then closed; or if the server is closed.
    pub fn server_activate(&self) -> Result<()> {
        let core = self.core.unless_closed()?;
        let activated = core.transport.server_activate();
        activated.inspect_err(|_| core.close_listener())?;
        // A TCP socket that was not bound gets its address from the system only when it begins to listen.
        core.context.set_address(core.transport.server_address());
        core.hooks.server_activated(&core.context);
        core.tell_of_bound();
        Ok(())
    }

    /// Serves requests until [`shutdown`](Self::shutdown).
    ///
    /// ```text
    /// until shutdown:
    ///     room?             no: wait for room; clients wait in the accept queue
    ///     get_request       none: wait for one; an error: skip, back off, shed or end
    ///     verify_request    false: shutdown_request, close_request
    ///     process_request   the mixin's: here or in a worker
    ///                           finish_request  (setup, handle, finish)
    ///                           handle_error    if one of them failed
    ///                           shutdown_request, close_request
    ///     service_actions
    /// ```
    ///
    /// An idle server makes no system call. The listener stays open after the return, and a later run serves the
    /// clients that have connected in between.
    ///
    /// # Errors
    ///
    /// If the listener is broken, if a handler has returned a [`Fatal`](crate::Fatal), if the server is closed, or if
    /// it is already serving. A shutdown is not an error.
    pub fn serve_forever(&self) -> Result<()> {
        self.in_a_run(RunKind::Forever, AcceptLoop::accept_forever)
    }

    /// Serves one request: waits for a request, at most for the server's [`timeout`](Builder::timeout), and returns
    /// when the request has been given to a worker. For programs with their own loop.
    ///
    /// A [`shutdown`](Self::shutdown) before or during the wait ends it.
    ///
    /// # Errors
    ///
    /// Those of [`serve_forever`](Self::serve_forever).
    ///
    /// ```no_run
    /// use std::io::Write;
    /// use std::time::Duration;
    /// use socketserver::monitor::AcceptOutcome;
    /// use socketserver::{ThreadingTcpServer, stream_fn};
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let server = ThreadingTcpServer::builder()
    ///     .timeout(Duration::from_secs(1))
    ///     .bind("127.0.0.1:9999", stream_fn(|request| Ok(request.write_all(b"hello\n")?)))?;
    /// while server.handle_request()? != AcceptOutcome::Stopped {
    ///     println!("{} served so far", server.context().counts().completed);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn handle_request(&self) -> Result<AcceptOutcome> {
        // Shared, because a mixin may run the loop on another thread. A mixin that runs no loop leaves `Stopped` here.
        let outcome = Arc::new(Mutex::new(AcceptOutcome::Stopped));
        let of_loop = Arc::clone(&outcome);
        self.in_a_run(RunKind::OneRequest, move |accept_loop| {
            *of_loop.lock() = accept_loop.accept_one()?;
            Ok(())
        })?;
        let outcome = *outcome.lock();
        Ok(outcome)
    }

    /// Begins a run, lets the mixin run the loop, and ends the run. Everything that may fail at the beginning does so
    /// before a client is accepted.
    fn in_a_run(
        &self,
        kind: RunKind,
        accept: impl Fn(&AcceptLoop<T, M>) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        // This comes before the first use of the runs: in a forked child they may still be the parent's.
        self.core.enter_process()?;
        self.core.context.runs.begin(&self.server_address(), kind)?;
        // From here on the guard ends the run, even after a panic or an error.
        let begun = RunGuard::begun(&self.core);
        if kind == RunKind::Forever {
            let prepared = self.mixin.prepare().and_then(|()| self.budget_descriptors());
            if let Err(error) = prepared {
                // If a handler has already ended the run with an error, that error is returned instead.
                return begun.end().and(Err(error));
            }
            self.core.tell_of_ready();
            if let Some(coordinator) = self.core.coordinator() {
                coordinator.serves();
            }
        }
        let accept_loop = AcceptLoop::of(self);
        let served = self.mixin.serve(Arc::new(move || accept_loop.enter(&accept)));
        // The mixin has returned. If it has left a loop behind, suspended in a stuck worker, that loop accepts nothing more.
        self.core.context.runs.forget_loops();
        // A close may have taken the backlog just after the last loop had ended.
        let served = served.and_then(|()| AcceptLoop::of(self).serve_backlog());
        self.core.release_backlog();
        // The first error is returned: it ended the run and may have caused the later ones.
        let ended = begun.end().and(served);
        self.core.leave_ready();
        ended
    }

    /// Stops accepting, and returns when the last loop has ended. Running requests go on, and the listener stays open.
    /// Unlike Python's `shutdown`, it may be called before the first run, which then returns at once. On the thread that
    /// serves, it only requests the stop, and does not wait.
    pub fn shutdown(&self) {
        let handle = self.shutdown_handle();
        handle.shutdown();
        handle.wait();
    }

    /// Runs the functions that the program has registered by [`Builder::on_reload`], in this thread. SIGHUP does the
    /// same under [`run`](Self::run).
    pub fn reload(&self) {
        self.core.reload();
    }

    /// A handle that stops this server from anywhere.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.core.context.shutdown_handle()
    }

    /// The address at which the server listens, with the real port.
    #[must_use]
    pub fn server_address(&self) -> Address {
        self.core.context.server_address()
    }

    /// The listener's descriptor; `None` after the listener is closed. The address stays in use as long as the caller
    /// keeps the descriptor. After this call the listener counts as shared with other processes: a close leaves the
    /// clients in the accept queue to those processes.
    #[must_use]
    pub fn fileno(&self) -> Option<Arc<OwnedFd>> {
        // The mark is never removed: nothing tells this process when the last copy is closed.
        self.core.lent.store(true, Ordering::SeqCst);
        self.core.transport.fileno()
    }

    /// The server as handlers see it: address, limits, live requests, counts.
    #[must_use]
    pub fn context(&self) -> &ServerContext {
        &self.core.context
    }

    /// The mixin.
    #[must_use]
    pub fn mixin(&self) -> &M {
        &self.mixin
    }

    /// The limits for new requests: see [`ServerContext::limits`].
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.core.context.limits()
    }
}

/// Closes the listener and waits for nothing: running requests go on.
impl<T: Transport, M: Mixin> Drop for Server<T, M> {
    fn drop(&mut self) {
        let context = &self.core.context;
        // In this order: no further run begins, the requests learn of the stop, and then the address becomes free.
        context.runs.close();
        // A drop waits for nothing and forces nothing, so no later step would end the waits for first requests.
        context.runs.end_first_reads();
        context.live.tell_of_stop();
        self.core.close_listener();
    }
}

impl<T: Transport, M: Mixin> fmt::Debug for Server<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.server_address())
            .field("handler", &self.core.handler_name)
            .finish_non_exhaustive()
    }
}
