//! Network servers: write the handler once, in blocking style, and choose how it runs with one word in the server's
//! type.
//!
//! This is Python's [`socketserver`](https://docs.python.org/3/library/socketserver.html) for Rust, with the same
//! three axes, the same verbs and the same order of events.
//!
//! # Hello world
//!
//! ```no_run
//! use std::io::Write;
//! use socketserver::{HandlerResult, StreamRequest, StreamRequestHandler, ThreadingTcpServer};
//!
//! struct Echo;
//!
//! impl StreamRequestHandler for Echo {
//!     fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
//!         let mut line = String::new();
//!         while let Some(text) = request.next_line(&mut line)? {
//!             writeln!(request, "{text}")?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> socketserver::Result<()> {
//!     ThreadingTcpServer::bind("127.0.0.1:9999", || Echo)?.run()?;
//!     Ok(())
//! }
//! ```
//!
//! Put this into `src/main.rs`, run `cargo run`, and talk to the server with `nc 127.0.0.1 9999`. Replace
//! `ThreadingTcpServer` with `TcpServer` or `PoolTcpServer`, or with `ThreadingUnixStreamServer` and the address with a
//! path; nothing else changes.
//!
//! [`run`](Server::run) serves until Ctrl-C or SIGTERM and then stops in order. It also raises the process's limit on
//! file descriptors to the highest allowed value. [`serve_forever`](Server::serve_forever) is for a server inside a
//! larger program: it serves until `shutdown`, and leaves signals and process limits alone.
//!
//! A handler can also implement `setup` and `finish`, which run before and after `handle`. A handler stops its
//! server with `request.server().shutdown_handle().shutdown()`.
//!
//! A function is a handler too. This server answers datagrams:
//!
//! ```no_run
//! use socketserver::{datagram_fn, UdpServer};
//!
//! # fn main() -> socketserver::Result<()> {
//! let shout = datagram_fn(|request| {
//!     request.reply(&request.packet().to_ascii_uppercase())?;
//!     Ok(())
//! });
//! UdpServer::bind("127.0.0.1:9999", shout)?.run()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Three axes
//!
//! ```text
//!    transport                  mixin                       handler
//!    how requests arrive        where a request runs        what it does
//!
//!    Tcp           ─┐           Inline     in the loop      StreamRequestHandler
//!    UnixStream    ─┴─ stream   Threading  a thread each    DatagramRequestHandler
//!    Udp           ─┐           Pool       fixed threads    stream_fn, datagram_fn
//!    UnixDatagram  ─┴─ datagram Forking    a process each
//!                               Green      a coroutine each
//!
//!    Server<Tcp, Threading>  =  ThreadingTcpServer,  bound with  || Echo
//! ```
//!
//! | Your handler | take | because |
//! |---|---|---|
//! | answers at once and never waits for its client | [`Inline`] | nothing is handed to another thread |
//! | waits for its client, a database or a file | [`Threading`] | a slow client delays no other one |
//! | computes, uses something scarce, or serves datagrams that take time | [`Pool`] | a fixed number of requests runs at once; the others wait in order |
//! | may crash, leak, or change its user | [`Forking`] | each request has a process: when the process ends nothing is left of it, and other requests see no change in its memory |
//! | serves thousands of clients that mostly wait, and calls nothing else that blocks | `Green` | a coroutine each on a few threads: ten thousand clients on one processor, at the cost of an event loop |
//!
//! Each of the four transports has an alias for each of the mixins: [`TcpServer`], [`ThreadingTcpServer`],
//! [`PoolTcpServer`], [`ForkingTcpServer`], `GreenTcpServer`, and the same for `UdpServer`, `UnixStreamServer` and
//! `UnixDatagramServer`.
//!
//! # Which mixin?
//!
//! | mixin | memory of an idle connection (process + kernel) | CPU per request, with many clients | requests that a blocking handler delays |
//! |---|--:|--:|---|
//! | [`Inline`] | that of a place in the accept queue | the least | all others |
//! | `Green` | 5 + 8 KiB | 1.0 to 1.1 times that of an event loop | those of the same worker |
//! | [`Threading`] | 10 + 35 KiB, with its thread | 1.4 to 2.4 times that of an event loop | none |
//! | [`Pool`] | as `Threading`, for connections that are served | as `Threading` | those in the queue |
//! | [`Forking`] | 91 + 35 KiB, with its process | a fork for each connection | none |
//!
//! Begin with [`Threading`]: nothing is forbidden there. Take `Green` when clients are many and mostly wait; its page lists
//! the calls that its handlers must not make, and what to use instead (`sleep`, `connect`, `offload`, `join`). The word in
//! the server's type is all that changes.
//!
//! # State
//!
//! The closure given to `bind` makes a new handler for every request, in the worker that runs it. So the state of one
//! connection is a field of the handler, and state shared by all connections is an [`Arc`](std::sync::Arc) that the
//! closure captures. (State is not shared under [`Forking`], where each request runs on a copy of the memory: there
//! this counter would say 1 to every client.)
//!
//! ```
//! use std::io::Write;
//! use std::sync::Arc;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use socketserver::{HandlerResult, PoolTcpServer, StreamRequest, StreamRequestHandler};
//!
//! struct Visitors {
//!     count: Arc<AtomicU64>,
//! }
//!
//! impl StreamRequestHandler for Visitors {
//!     fn handle(&mut self, request: &mut StreamRequest) -> HandlerResult {
//!         let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
//!         writeln!(request, "you are visitor {number}")?;
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let count = Arc::new(AtomicU64::new(0));
//! let server = PoolTcpServer::bind("127.0.0.1:0", move || Visitors { count: Arc::clone(&count) })?;
//!
//! // A test of it: port 0 is any free one, and the guard stops the server when it is dropped.
//! let server = server.serve_in_background()?;
//! let mut client = std::net::TcpStream::connect(server.server_address())?;
//! assert_eq!(std::io::read_to_string(&mut client)?, "you are visitor 1\n");
//! # Ok(())
//! # }
//! ```
//!
//! # What the crate takes care of
//!
//! - **Limits**: live requests, lengths of lines and packets, silent peers, the time of reads, writes and handshakes.
//!   All of these are finite by default. Other limits are off until you set them: the share and the rate of one peer, the
//!   rate of all peers, the time of a whole request. One struct, [`Limits`], has all limits. The [table
//!   below](#too-many-clients) says what happens to clients beyond a limit.
//! - **Stopping**: [`Server::run`] returns after a signal or after `shutdown()`, and closes with a grace period
//!   ([`Limits::drain`]). An idle client is ended at once; a client in the middle of a line can hold the stop for the
//!   whole grace period. [`ShutdownHandle`] stops a server from anywhere; [`DrainReport`](monitor::DrainReport) says
//!   what was still open. Behind a balancer, set [`Limits::lame_duck`]: before it closes, the server goes on serving
//!   for a while, and already says that it is not [ready](ServerContext::is_ready).
//! - **A service manager**: [`Server::run`] reports readiness, reloads and the end to systemd, and answers its watchdog.
//!   A server can take its socket by socket activation. The module [`systemd`] explains both.
//! - **Errors**: a handler's error or panic ends its own request and is reported
//!   ([`ServerHooks::handle_error`]). A process that runs out of descriptors turns clients away, waits a little and
//!   goes on. [`Fatal`] ends the server.
//! - **Observation**: an observer ([`Builder::observer`]) is told when each request starts and ends, and why it ended
//!   ([`CloseReason`](monitor::CloseReason)), by whose fault, and where its time has gone. [`ServerContext`] has the counts,
//!   the list of live requests, and the server in numbers ([`figures`](ServerContext::figures)), can end a request, and
//!   changes a limit by its name: all that a control socket needs (the example `control`). With the feature `metrics` one line,
//!   `.metrics("name")`, gives all of it to a collector such as Prometheus (`examples/metrics`); with `tracing` another line,
//!   `.tracing()`, gives each request a span.
//! - **Proxies**: behind HAProxy or nginx a server takes each client's true address from the PROXY header of a trusted
//!   network ([`proxy_protocol`]).
//! - **Sending from elsewhere**: an [`Outbox`] takes lines for a connection from any thread, and no slow
//!   client delays another.
//! - **Talking to others**: [`connect`](outgoing::connect) makes a connection to another server, whose reads and writes
//!   wait as those of a request do; [`join`] does two things at once; [`StreamRequest::split`] gives the two directions
//!   of a connection. A relay is one handler of some forty lines (`examples/relay.rs`). A
//!   [`DatagramSender`](request::DatagramSender) sends an answer later, or to another address. [`sleep`] and
//!   [`offload`] keep no other request waiting, under every mixin.
//! - **TLS** (feature `tls`): `.tls(Tls::from_pem("cert.pem", "key.pem")?)` on the builder of a stream server, and the handler
//!   does not change. The module `tls` has the rest: client certificates, several names, new certificates on a running server,
//!   resumption under every mixin. A message that was cut short never passes for a whole one.
//! - **Details**: one `writeln!` is one packet, without Nagle's delay; a reply to a datagram leaves from the address
//!   that the client used; a stale Unix socket file is replaced, and a file in use never is.
//!
//! ## Too many clients
//!
//! | A client beyond the limit should | use |
//! |---|---|
//! | wait in the kernel's accept queue | [`Limits::live`](field@Limits::live), or [`Threading::max_threads`]; a [`Pool`] lets them wait by default |
//! | be refused | `when_full(WhenFull::Refuse)` of [`Threading`](Threading::when_full) or [`Pool`](Pool::when_full) |
//! | be refused with a text | the same, and the hook [`ServerHooks::overflow`], which writes the text |
//!
//! # What it does not do
//!
//! The crate runs on Unix and is tested on Linux. It encrypts only with the feature `tls`. It is not an async runtime:
//! with a thread for each connection it scales to about ten thousand connections.
//!
//! # Modules
//!
//! Servers and handlers need the names on this page. The modules have the rest: [`request`], [`handler`], [`hooks`],
//! [`monitor`] and [`outgoing`] for details; [`proxy_protocol`], [`handover`] and [`systemd`] for the server's surroundings;
//! and [`transport`], [`mixin`] and [`park`] for authors of custom transports, mixins and parkers.
//!
//! # Further reading
//!
//! - [From a network to a server](_documentation::guide) ([中文](_documentation::guide_zh)): the socket calls one
//!   by one, each with a program that shows it; the example programs; a key-value store of your own.
//! - [Operating a server](_documentation::operations) ([中文](_documentation::operations_zh)): signals, the control socket,
//!   balancers, clusters, restarts, figures; each command with what it prints.
//! - [Coming from Python](_documentation::porting): a Python server beside its port, and each public name of the Python
//!   module with its counterpart here.
//! - [The design](_documentation::design): the life of a request, the layers, the reasons, and an order
//!   in which to read the source.

// This lint is set only in the library: programs and tests have no outside users, and the lint would warn of every `pub`.
#![warn(unreachable_pub)]

#[cfg(not(unix))]
compile_error!(
    "socketserver runs on Unix systems: it is built on poll, on Unix sockets and on descriptors \
     that can be shared. On Windows, use it under WSL."
);

mod address;
mod bind_address;
mod console;
mod error;
mod events;
mod figures;
mod gate;
pub mod handler;
mod idle_reaper;
mod limits;
mod lingering_close;
mod live;
pub mod mixin;
mod named_enum;
mod on_drop;
pub mod outgoing;
mod panic_payload;
pub mod park;
mod peer_fault;
mod process;
pub mod proxy_protocol;
mod refused;
pub mod request;
mod run_phase;
mod server;
mod server_context;
mod service_group;
mod shutdown;
mod socket_io;
#[allow(unsafe_code)]
mod sys;
pub mod systemd;
mod timed_out;
#[cfg(feature = "tls")]
pub mod tls;
pub mod transport;
mod wait;
mod write_stall;

pub use address::Address;
#[doc(alias = "SystemExit")]
pub use error::Fatal;
pub use error::{Error, HandlerError, HandlerResult, Result};
#[doc(inline)]
pub use handler::{DatagramRequestHandler, StreamRequestHandler, datagram_fn, stream_fn};
pub use limits::{Limits, Rate};
#[doc(inline)]
#[cfg(has_green)]
pub use mixin::Green;
pub use mixin::{Forking, Inline, Pool, Threading};
#[doc(inline)]
pub use request::{DatagramRequest, Outbox, StreamRequest};
pub use server::{BackgroundServer, BaseServer, Builder, Server, ServerHooks, run_all};
pub use server_context::ServerContext;
pub use shutdown::ShutdownHandle;
#[doc(inline)]
pub use transport::SocketOptions;
pub use wait::{join, offload, sleep};

// Programs name a server by its alias. The names of the transports are in their module.
use transport::{Tcp, Udp, UnixDatagram, UnixStream};

/// The arguments of [`ServerHooks`]: a request that has arrived, a request that failed, an accept that failed.
pub mod hooks {
    pub use crate::error::{Panicked, Rejected};
    pub use crate::events::Fault;
    pub use crate::server::{AcceptFailure, Failure, Incoming, Phase};
}

/// Watching a server: the [events](monitor::ServerEvent) that an observer is told and the
/// [reason](monitor::CloseReason) of each request's end, the live requests and counts ([`ServerContext`]), the limits that
/// were reached, the [report](monitor::DrainReport) of a close, and [`Console`](monitor::Console), which prints without
/// waiting for a reader.
pub mod monitor {
    pub use crate::console::Console;
    pub use crate::events::{CloseReason, Counts, Limit, RequestTimes, ServerEvent};
    pub use crate::figures::{Figures, Fill};
    pub use crate::limits::LimitError;
    pub use crate::live::{Activity, Cut, LiveRequest};
    pub use crate::run_phase::RunPhase;
    #[cfg(feature = "tracing")]
    pub use crate::server::trace_panics;
    #[cfg(feature = "metrics")]
    pub use crate::server::update_metrics;
    pub use crate::server::{AcceptOutcome, DrainReport};
}

/// Restarts that lose no client: a server hands its listening sockets to the next process.
///
/// ```no_run
/// use socketserver::handover::Handover;
/// use socketserver::{ThreadingTcpServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// let handover = Handover::at("/run/echo.handover")?; // before the binds: fetches the sockets of the server that runs
/// let server = ThreadingTcpServer::bind("127.0.0.1:9999", stream_fn(|_request| Ok(())))?;
/// handover.run(&server)?;
/// # Ok(())
/// # }
/// ```
///
/// An operator restarts this program, after an upgrade say, in one of two ways. Either way, the new process starts while
/// the old one serves; no address is ever without a listener, and a client that has connected is served by one of the two.
///
/// - `kill -USR2 PID`: the old process starts the program that is now at the path by which it was started itself, with the
///   same arguments and environment.
/// - Start the program again, in the same way as the first time. The new process connects to the path, and asks for
///   the sockets.
///
/// ```text
/// the old process                                      the new process
///   serves                                               Handover::at: connects to the path, or has been started
///                          <--- hello ------------------   with a connection (SIGUSR2)
///   sockets, with their addresses and descriptors --->   bind: takes its socket from among them
///   serves                                               run: all servers serve
///                          <--- ready, with the sockets that it has taken
///   stops accepting: closes its copies, and leaves
///     the accept queues and the files alone
///   release ------------------------------------------>  all is its own: it answers at the path from now on
///   ends its requests, within the grace, and ends        serves
/// ```
///
/// **If something goes wrong** before `ready` (the new process cannot be started, ends, sends an unexpected message, or
/// is not ready within [thirty seconds](handover::Handover::within)), the old one goes on as if nothing had happened.
/// It says why by the hook [`warning`](ServerHooks::warning), a line on stderr by default. The next attempt begins
/// anew. If the old process is killed, a new one that has the sockets goes on alone. If several new processes start at
/// once, each takes the sockets over from the one before it, and the last one goes on.
///
/// **A stop in the middle**, by a SIGTERM to the old process, also ends a new process that the old one has started. A
/// new process that was started in another way, and that has the sockets, goes on. While the old process ends its
/// requests, a first SIGTERM changes nothing, and a second one ends it at once.
///
/// **What is handed over**: listeners of TCP and Unix sockets, sockets of UDP and Unix datagrams, with the port that was
/// chosen for port 0, the file of a Unix socket and the duty to remove it, and the name of a socket from a service manager.
/// A `bind` takes the socket that is bound to its address. A socket that no server of the new process takes is closed with
/// the old one; an address that is new is bound. Requests are not handed over: each ends where it began. So a connection
/// that lives for hours is ended by the old process's grace ([`Limits::drain`](field@Limits::drain)). A transport of your
/// own that wraps one of this crate's passes it on by [`Transport::handover`](transport::Transport::handover).
///
/// **Rights.** The path has mode 0600, and each side checks the user that the kernel reports for the other side: only
/// processes of one user hand over to each other. A server that gives up its privileges after the bind is restarted by
/// SIGUSR2: its successor begins as the user that it has become, and needs no right to bind, because the sockets are
/// bound.
///
/// **Forking.** The process of a forking server has one thread, so its accept loop makes the handover. Its children end
/// their requests.
///
/// **In containers** the first process must not end before the others; there, start the server below an init process,
/// or use [`Limits::drain`](field@Limits::drain) and a rolling restart instead. Under systemd (`NOTIFY_SOCKET`) the old
/// process tells the service manager which process is the main one now (`MAINPID=`). With `Type=notify` and its
/// default, `NotifyAccess=main`, the service manager then listens to the new one alone, and the end of the old one is
/// not the end of the service.
pub mod handover {
    pub use crate::server::Handover;
}

/// Long documents, kept beside the code and compiled with it.
pub mod _documentation {
    #[doc = include_str!("../DESIGN.md")]
    pub mod design {}
    #[doc = include_str!("../docs/guide.md")]
    pub mod guide {}
    #[doc = include_str!("../docs/guide.zh.md")]
    pub mod guide_zh {}
    #[doc = include_str!("../docs/operations.md")]
    pub mod operations {}
    #[doc = include_str!("../docs/operations.zh.md")]
    pub mod operations_zh {}
    #[doc = include_str!("../docs/porting.md")]
    pub mod porting {}
    #[doc = include_str!("../README.md")]
    pub mod readme {}
}

macro_rules! servers {
    ($($(#[$doc:meta])* $name:ident = $transport:ident, $mixin:ident;)*) => {
        $($(#[$doc])* pub type $name = Server<$transport, $mixin>;)*
    };
}

servers! {
    /// TCP, one request after the other: Python's `TCPServer`.
    TcpServer = Tcp, Inline;
    /// UDP, one datagram after the other: Python's `UDPServer`.
    UdpServer = Udp, Inline;
    /// Unix stream sockets, one request after the other: Python's `UnixStreamServer`.
    UnixStreamServer = UnixStream, Inline;
    /// Unix datagram sockets, one datagram after the other: Python's `UnixDatagramServer`.
    UnixDatagramServer = UnixDatagram, Inline;
    /// TCP, a thread for each request: Python's `ThreadingTCPServer`.
    ThreadingTcpServer = Tcp, Threading;
    /// UDP, a thread for each datagram: Python's `ThreadingUDPServer`.
    ThreadingUdpServer = Udp, Threading;
    /// Unix stream sockets, a thread for each request: Python's `ThreadingUnixStreamServer`.
    ThreadingUnixStreamServer = UnixStream, Threading;
    /// Unix datagram sockets, a thread for each datagram: Python's `ThreadingUnixDatagramServer`.
    ThreadingUnixDatagramServer = UnixDatagram, Threading;
    /// TCP, a process for each request: Python's `ForkingTCPServer`.
    ForkingTcpServer = Tcp, Forking;
    /// UDP, a process for each datagram: Python's `ForkingUDPServer`.
    ForkingUdpServer = Udp, Forking;
    /// Unix stream sockets, a process for each request: Python's `ForkingUnixStreamServer`.
    ForkingUnixStreamServer = UnixStream, Forking;
    /// Unix datagram sockets, a process for each datagram: Python's `ForkingUnixDatagramServer`.
    ForkingUnixDatagramServer = UnixDatagram, Forking;
    /// TCP, a fixed number of threads.
    PoolTcpServer = Tcp, Pool;
    /// UDP, a fixed number of threads.
    PoolUdpServer = Udp, Pool;
    /// Unix stream sockets, a fixed number of threads.
    PoolUnixStreamServer = UnixStream, Pool;
    /// Unix datagram sockets, a fixed number of threads.
    PoolUnixDatagramServer = UnixDatagram, Pool;
}

#[cfg(has_green)]
servers! {
    /// TCP, a coroutine for each request.
    GreenTcpServer = Tcp, Green;
    /// UDP, a coroutine for each datagram.
    GreenUdpServer = Udp, Green;
    /// Unix stream sockets, a coroutine for each request.
    GreenUnixStreamServer = UnixStream, Green;
    /// Unix datagram sockets, a coroutine for each datagram.
    GreenUnixDatagramServer = UnixDatagram, Green;
}
