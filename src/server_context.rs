//! [`ServerContext`]: the part of a server that does not depend on its types. Handlers get it from
//! [`request.server()`](crate::StreamRequest::server), and workers share it.
//!
//! A context lives until the last of these is gone: the server, its accept loop, and the tickets of its requests. It
//! holds no part of the transport, the mixin or the handlers, so that a long request keeps none of these alive. Any
//! thread may use any part of it at any time. The lock of `changing_limits` is taken before those of the live list and
//! of the rate; no other two locks are held together.
//!
//! Two budgets lower `Limits::live`: descriptors, known when a run begins, and workers, known when the mixin finds its
//! bound. The limit in force is the least of the three, and each change of one of them computes it anew
//! (`within_budgets`), so that they may come in any order.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::address::Address;
use crate::error::HandlerResult;
use crate::events::{Counters, Counts};
use crate::figures::{FigureSource, Figures, Fill};
use crate::gate::{Gate, RateGate};
use crate::idle_reaper::IdleReaper;
use crate::limits::{LimitError, Limits};
use crate::live::{Handshakes, LiveList, LiveRequest};
use crate::process::{CurrentRole, Role};
use crate::run_phase::RunPhase;
use crate::service_group::{Load, Membership};
use crate::shutdown::{Runs, ShutdownHandle};
use crate::sys;

/// The functions that a program has registered for a reload, in their order: see `Builder::on_reload`.
#[derive(Default)]
pub(crate) struct Reloads(pub(crate) Vec<Reload>);

type Reload = Box<dyn Fn(&ServerContext) -> HandlerResult + Send + Sync>;

impl fmt::Debug for Reloads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} reloads", self.0.len())
    }
}

/// A server, as its handlers and hooks see it: Python's `self.server`, without the types.
#[derive(Debug)]
pub struct ServerContext {
    /// Runs, stops and the drain. Shared with every handle that stops the server.
    pub(crate) runs: Arc<Runs>,
    /// All requests that are alive. Shared with the idle reaper.
    pub(crate) live: Arc<LiveList>,
    /// Ends the waits of silent peers. Its thread has the live list alone, and ends with this.
    pub(crate) idle_reaper: IdleReaper,
    /// Admits `Limits::live` requests, or fewer if descriptors or workers allow fewer.
    pub(crate) gate: Gate,
    /// How the requests have ended, since the server was made. Atomics: each worker counts.
    pub(crate) counters: Counters,
    /// How many bytes were sent by [`DatagramSender`](crate::request::DatagramSender)s, which may outlive the
    /// context.
    pub(crate) sent_by_senders: Arc<AtomicU64>,
    /// TLS handshakes that have begun and not ended, for `Limits::handshakes`.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS has handshakes"))]
    pub(crate) handshakes: Handshakes,
    /// Keeps `Limits::accept_rate`.
    pub(crate) rate: RateGate,
    /// The address that was asked for; after the bind, the real one.
    address: RwLock<Address>,
    /// When the server was made; a run does not change it.
    started: Instant,
    /// The role of this process for the server: see `process.rs`. It changes once, in a child.
    pub(crate) role: CurrentRole,
    /// The server's membership in the group of its `run`. `None` outside of a `run`.
    membership: Mutex<Option<Membership>>,
    /// The functions that SIGHUP calls. If there are none, SIGHUP stops the server.
    pub(crate) reloads: Reloads,
    /// Whether a close of this server waits for its requests, as `Mixin::block_on_close` said when it was made.
    pub(crate) waits_at_close: bool,
    /// The name of the server's transport, for labels.
    transport: &'static str,
    /// The number of requests that the process has descriptors for; `usize::MAX` before the first run.
    descriptors: AtomicUsize,
    /// The number of requests that the mixin's workers have room for; `usize::MAX` if nothing bounds them.
    workers: AtomicUsize,
    /// Held while limits change, so that two changes at once are both kept.
    changing_limits: Mutex<()>,
    /// Set when the server is put together. It keeps no part of the server alive.
    figures: OnceLock<Box<dyn FigureSource>>,
}

impl ServerContext {
    /// Makes the context of a server that is about to be made.
    ///
    /// # Errors
    ///
    /// If there is no descriptor for its events, or no shared memory for the counters of children.
    pub(crate) fn new(
        address: Address,
        limits: Limits,
        role: Role,
        waits_at_close: bool,
        transport: &'static str,
    ) -> std::io::Result<Self> {
        // The live list keeps the limits for new requests; the gate, the rate and the runs have copies of those that they
        // apply.
        let live = LiveList::new(limits);
        let runs = Runs::new()?;
        runs.set_lame_duck(limits.lame_duck);
        // Children write the counters of their requests, so the parent's list needs memory that parent and children
        // share.
        let live = Arc::new(if role.is_parent() { live.for_children()? } else { live });
        Ok(Self {
            runs: Arc::new(runs),
            idle_reaper: IdleReaper::new(Arc::clone(&live)),
            live,
            gate: Gate::unshared(limits.live.max(1))?,
            counters: Counters::default(),
            sent_by_senders: Arc::default(),
            handshakes: Handshakes::default(),
            rate: RateGate::new(limits.accept_rate),
            address: RwLock::new(address),
            started: Instant::now(),
            role: CurrentRole::new(role),
            membership: Mutex::default(),
            // Filled in by the builder, before the context is shared.
            reloads: Reloads::default(),
            waits_at_close,
            transport,
            descriptors: AtomicUsize::new(usize::MAX),
            workers: AtomicUsize::new(usize::MAX),
            changing_limits: Mutex::new(()),
            figures: OnceLock::new(),
        })
    }

    /// Keeps the number of live requests at or below `descriptors`, even if `Limits::live` is higher. If that lowers the limit,
    /// returns the lowered limit and the lowered limit of one peer, if there is one.
    pub(crate) fn budget_descriptors(&self, descriptors: usize) -> Option<(usize, Option<usize>)> {
        self.lower_live(&self.descriptors, descriptors)
    }

    /// Like [`budget_descriptors`](Self::budget_descriptors), for the number of requests that the mixin's workers have
    /// room for. The mixin calls it at most once, when it finds its bound.
    #[cfg_attr(
        not(has_green),
        allow(dead_code, reason = "only `Green` asks, and Rust 1.85 sees that")
    )]
    pub(crate) fn budget_workers(&self, requests: usize) -> Option<(usize, Option<usize>)> {
        self.lower_live(&self.workers, requests)
    }

    /// Keeps the number of live requests at or below a budget, which is stored in `place`. If this budget is lower than
    /// both the wanted limit and the other budget, returns it, and the lowered limit of one peer, if there is one.
    fn lower_live(&self, place: &AtomicUsize, most: usize) -> Option<(usize, Option<usize>)> {
        // A change of the limits comes wholly before this, or wholly after it.
        let _changing = self.changing_limits.lock();
        let wanted = self.limits().live;
        // An earlier run may have left a budget here. The comparison below needs the limit without it.
        place.store(usize::MAX, Ordering::SeqCst);
        let without = self.within_budgets(wanted);
        place.store(most, Ordering::SeqCst);
        self.gate.set_max(self.within_budgets(wanted));
        let per_peer = self.live.set_budget(self.within_budgets(usize::MAX));
        (most < without).then_some((most, per_peer))
    }

    /// A number of live requests, lowered to what descriptors and workers allow.
    fn within_budgets(&self, live: usize) -> usize {
        let budgets =
            [&self.descriptors, &self.workers].map(|budget| budget.load(Ordering::SeqCst));
        // One request at least, or the server would never accept.
        budgets.into_iter().fold(live, usize::min).max(1)
    }

    /// The server's membership in the group of the `run` that serves it.
    pub(crate) fn membership(&self) -> Option<Membership> {
        self.membership.lock().clone()
    }

    /// Takes a membership: called by a `run` at its beginning, and with `None` at its end.
    pub(crate) fn take_membership(&self, membership: Option<Membership>) {
        *self.membership.lock() = membership;
    }

    /// The numbers of requests that the group of a `run` needs.
    pub(crate) fn load(&self) -> Load {
        let live = self.live.len();
        let Counts { accepted, completed, .. } = self.counts();
        Load { live, accepted, completed }
    }

    /// The role of this process for the server.
    #[inline]
    pub(crate) fn role(&self) -> Role {
        self.role.get()
    }

    /// Where this process reads on for a peer after a close.
    #[inline]
    pub(crate) fn lingering(&self) -> Lingering {
        // A child serves one request, so it may block. Coroutines leave this to the thread: one that waited here would
        // keep its stack and its place in the live list.
        if self.role().is_child() {
            Lingering::Here
        } else if self.role().may_start_threads() {
            Lingering::Elsewhere
        } else {
            Lingering::Nobody
        }
    }

    /// Whether the idle reaper ends a request whose peer is silent for this long: see `idle_reaper.rs`.
    #[inline]
    pub(crate) fn reaps_idle(&self, idle: Duration) -> bool {
        // Not in a parent of forked children, nor in these: the reaper is a thread, and they must have no second one.
        self.lingering() == Lingering::Elsewhere && self.idle_reaper.covers(idle)
    }

    /// Where the server listens, with the real port if it was bound to port 0.
    #[must_use]
    pub fn server_address(&self) -> Address {
        self.address.read().clone()
    }

    /// Notes the address. Called after the bind, when the kernel has chosen the port.
    pub(crate) fn set_address(&self, address: Address) {
        *self.address.write() = address;
    }

    /// The name of the server's transport, for a label or a log: `tcp`, `udp`, `unix_stream`, `unix_datagram`, or the
    /// [`Transport::name`](crate::transport::Transport::name) of a transport of your own.
    #[must_use]
    pub fn transport(&self) -> &'static str {
        self.transport
    }

    /// The limits for new requests, as they were last set. If the process has too few descriptors or workers for
    /// `Limits::live`, fewer requests are let in; [`Figures::live`](field@Figures::live) has that maximum.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.live.limits()
    }

    /// Changes the limits of the live server. New requests get them; running ones keep theirs.
    pub fn set_limits(&self, limits: Limits) {
        // A change by another thread comes wholly before this one, or wholly after it.
        let _changing = self.changing_limits.lock();
        self.apply_limits(limits);
    }

    /// Changes one limit of the live server by its name, and leaves the others as they are: for a control socket.
    /// [`Limits::NAMES`] are the names, and [`Limits::set`] says how values are written.
    ///
    /// ```
    /// use socketserver::{TcpServer, stream_fn};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = TcpServer::bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
    /// server.context().set_limit("live", "500")?;
    /// assert_eq!(server.limits().live, 500);
    /// assert!(server.context().set_limit("live", "many").is_err());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Limits::set`]; nothing has changed then.
    pub fn set_limit(&self, name: &str, value: &str) -> Result<(), LimitError> {
        let _changing = self.changing_limits.lock();
        let mut limits = self.limits();
        limits.set(name, value)?;
        self.apply_limits(limits);
        Ok(())
    }

    /// Gives the limits to all parts that keep a copy of them. The caller holds `changing_limits`.
    fn apply_limits(&self, limits: Limits) {
        self.gate.set_max(self.within_budgets(limits.live));
        self.rate.set(limits.accept_rate);
        self.runs.set_lame_duck(limits.lame_duck);
        self.live.set_limits(Arc::new(limits));
        // This comes last, when the list has the new limits.
        self.idle_reaper.look_again();
    }

    /// The requests that are alive now, in no particular order. The call takes a lock that is also needed to accept, so
    /// do not call `live` for every request.
    ///
    /// In this program an operator lists the requests with Enter, and closes the oldest with `close`.
    /// ([`Forking`](crate::Forking) allows no other thread: there a loop around
    /// [`handle_request`](crate::Server::handle_request) can list and close requests.)
    ///
    /// ```no_run
    /// use std::cmp::Reverse;
    /// use std::io::Write;
    /// use std::sync::Arc;
    /// use socketserver::{stream_fn, ThreadingTcpServer};
    ///
    /// fn main() -> socketserver::Result<()> {
    ///     let echo = stream_fn(|request| {
    ///         let mut line = String::new();
    ///         while let Some(text) = request.next_line(&mut line)? {
    ///             writeln!(request, "{text}")?;
    ///         }
    ///         Ok(())
    ///     });
    ///     let server = Arc::new(ThreadingTcpServer::bind("127.0.0.1:9999", echo)?);
    ///     let watched = Arc::clone(&server);
    ///     std::thread::spawn(move || {
    ///         for command in std::io::stdin().lines().map_while(Result::ok) {
    ///             let mut live = watched.context().live();
    ///             live.sort_by_key(|request| Reverse(request.age));
    ///             for request in &live {
    ///                 println!("{request}");
    ///             }
    ///             if let ("close", Some(oldest)) = (&*command, live.first()) {
    ///                 watched.context().close_live(oldest.id);
    ///             }
    ///         }
    ///     });
    ///     // The thread ends with the program.
    ///     println!("{}", server.run()?);
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn live(&self) -> Vec<LiveRequest> {
        self.live.view()
    }

    /// How many requests are alive now.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Ends one live connection, by its [`id`](crate::monitor::LiveRequest::id): its handler's reads and writes fail at
    /// once. Under [`Forking`](crate::Forking) the child that serves it is killed. Returns false if the request has
    /// already ended, or has no connection of its own (a datagram).
    pub fn close_live(&self, id: u64) -> bool {
        self.live.close(id)
    }

    /// The counts since the server was made.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read(|| self.live.entered())
    }

    /// Sets the source of the mixin's and the listener's figures.
    pub(crate) fn set_figures(&self, source: Box<dyn FigureSource>) {
        // Called once, before anybody has the context; there is nothing to replace.
        let _ = self.figures.set(source);
    }

    /// The server in numbers: live requests, workers, queues, and the kernel's numbers of its socket. For a page or a
    /// command of an operator, or a collector that comes every few seconds: a call costs a few locks and about ten
    /// system calls. When the server has been dropped, only its live requests are known. (In a child of
    /// [`Forking`](crate::Forking) the numbers are those of the moment of the fork, and the kernel's are missing.)
    ///
    /// [`Figures`] has an example.
    #[must_use]
    pub fn figures(&self) -> Figures {
        // Each figure is of its own moment: the numbers of a busy server need not add up.
        let source = self.figures.get();
        let workers = source.and_then(|source| source.workers()).unwrap_or_default();
        // Held until its figures are read: even if the server closes before that, the descriptor's number must not go to
        // another file.
        let listener = source.and_then(|source| source.listener());
        let socket = listener.map(|fd| sys::socket_figures(fd.as_fd())).unwrap_or_default();
        // The counts of a mixin cost less than those of the live list, which looks at every request.
        let (mut busy, mut queued) = (workers.busy, workers.queued);
        if busy.is_none() || queued.is_none() {
            let (running, waiting) = self.live.running_and_queued();
            busy = busy.or(Some(running));
            queued = queued.or(Some(waiting));
        }
        let number = |count: Option<usize>| count.map(|count| count as u64);
        let fill = |used, max| Fill::new(number(used).unwrap_or(0), number(max));
        let of = |pair: Option<(u64, u64)>| pair.map(|(used, max)| Fill::new(used, Some(max)));
        Figures {
            live: fill(Some(self.live.len()), Some(self.gate.max())),
            busy: fill(busy, workers.max_busy),
            idle: number(workers.idle),
            queued: fill(queued, workers.max_queued),
            accept_queue: of(socket.accept_queue),
            accept_drops: socket.accept_drops,
            receive_buffer: of(socket.receive_buffer),
            datagram_drops: socket.datagram_drops,
            descriptors: of(sys::descriptors_now()),
        }
    }

    /// When the server was made.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether the server is ready for new clients: from the beginning of a run (before the hook
    /// [`ready`](crate::ServerHooks::ready)) until a stop or a close begins. It is false in a lame duck, although clients
    /// are still served: the answer for a balancer's health check.
    ///
    /// ```
    /// use std::io::Write;
    /// use socketserver::{HandlerResult, StreamRequest};
    ///
    /// fn health(request: &mut StreamRequest) -> HandlerResult {
    ///     let status = if request.server().is_ready() { "200 OK" } else { "503 Service Unavailable" };
    ///     Ok(write!(request, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")?)
    /// }
    /// ```
    #[must_use]
    pub fn is_ready(&self) -> bool {
        // A stop counts from its request on; the phase follows later.
        self.run_phase() == RunPhase::Ready && !self.runs.stop_requested()
    }

    /// How far the server is on its way from its bind to its end.
    #[must_use]
    pub fn run_phase(&self) -> RunPhase {
        self.runs.phase.get()
    }

    /// Whether a drain has begun: the server accepts nothing new, and a long handler should end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.runs.is_draining()
    }

    /// A handle that stops the server. A handler may use it on its own server.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        ShutdownHandle::new(Arc::clone(&self.runs))
    }
}

/// Where further input is discarded while a peer may not have read its answer yet: see `lingering_close.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lingering {
    /// The worker itself: a forked child, which serves a single request.
    Here,
    /// The thread `linger`, for all connections of the process.
    Elsewhere,
    /// Nobody: the parent of forked children must start no thread, and its loop must not wait. The connection is
    /// closed at once.
    Nobody,
}
