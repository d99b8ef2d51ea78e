//! What a user may override about a server, without writing a transport or a mixin: [`ServerHooks`].

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::error_owner::Whose;
use super::incoming::Incoming;
use super::overridden_hooks::is_default;
use crate::address::Address;
use crate::console::Console;
use crate::context::ServerContext;
use crate::error::{HandlerError, HandlerResult, chain};
use crate::mixin::Refused;
use crate::request::StreamRequest;

/// The steps of a server's work that may be overridden, with Python's names where Python has them. Each
/// has a default; give an implementation to `builder().hooks(..)`.
///
/// `R` is the type of the requests: [`StreamRequest`] for TCP and Unix streams, which is meant where none is named, and
/// [`DatagramRequest`](crate::DatagramRequest) for datagrams.
///
/// ```no_run
/// use socketserver::{HandlerError, ServerHooks, StreamRequest, TcpServer, stream_fn};
/// use socketserver::hooks::Incoming;
///
/// struct LocalOnly;
///
/// impl ServerHooks<StreamRequest> for LocalOnly {
///     fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
///         Ok(incoming.client_address().is_local())
///     }
/// }
///
/// # fn main() -> socketserver::Result<()> {
/// let handler = stream_fn(|_request| Ok(()));
/// TcpServer::builder().hooks(LocalOnly).bind("0.0.0.0:9999", handler)?.serve_forever()
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no hooks for a `{R}`",
    note = "implement `ServerHooks<{R}>` for it; or `impl<R: Request> ServerHooks<R> for ..` for all servers"
)]
pub trait ServerHooks<R = StreamRequest>: Send + Sync + 'static {
    /// Runs with the socket before its address is taken: for socket options that this crate does not
    /// know.
    ///
    /// # Errors
    ///
    /// Any; the bind fails with it.
    #[doc(alias = "setsockopt")]
    fn before_bind(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let _ = socket;
        Ok(())
    }

    /// Runs when the server listens: the moment to say so, and to give up privileges.
    fn server_activated(&self, server: &ServerContext) {
        let _ = server;
    }

    /// Runs at the beginning of every `serve_forever`, `run`, `run_all` and `serve_in_background` (not of a
    /// `handle_request`), in the thread of the loop and before anything is served. It also runs if a `shutdown` from
    /// before ends that run at once. Under `run` signals are taken by now, so that a service manager which is told here
    /// may stop the program in order. An observer is told as well ([`ServerEvent::Ready`](crate::ServerEvent::Ready)).
    fn ready(&self, server: &ServerContext) {
        let _ = server;
    }

    /// Runs when the server begins to close, once, in the thread that closes it: under `run` as soon as a signal has
    /// come. New clients are still taken, and the grace has not begun; both wait for the end of this hook. An
    /// observer is told as well ([`ServerEvent::Stopping`](crate::ServerEvent::Stopping)).
    ///
    /// The close is [`server_close`](crate::Server::server_close), which `run`, `run_all` and a
    /// [`BackgroundServer`](crate::BackgroundServer) that is stopped or dropped call by themselves. A server that is only
    /// dropped, also after a `shutdown`, does not call this hook. And there may be a `stopping` without a `ready`: of a
    /// server that is closed before its first run has begun.
    fn stopping(&self, server: &ServerContext) {
        let _ = server;
    }

    /// Whether a request is to be served. It runs in the loop, before any worker has to do with it:
    /// nobody is accepted while it runs. Default: yes.
    ///
    /// A server whose hooks override this one or [`service_actions`](Self::service_actions) accepts in its loop alone, and
    /// pays for each short connection the way from the loop to a worker, some microseconds. No other hook costs that. The
    /// server finds out by itself.
    ///
    /// # Errors
    ///
    /// Any; the request is closed, `handle_error` is told, and the loop goes on.
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        let _ = incoming;
        is_default::<Self>();
        Ok(true)
    }

    /// Runs in the worker, before the handler is made, and under `Limits::handshake`: the place for a
    /// TLS handshake, by [`StreamRequest::wrap_stream`](crate::StreamRequest::wrap_stream). A client
    /// that stalls here stalls nobody else, except under `Inline`.
    ///
    /// # Errors
    ///
    /// Any; the request is closed and `handle_error` is told.
    #[doc(alias("ssl", "wrap_socket", "TLS"))]
    fn wrap_request(&self, request: &mut R) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Reports what failed. Default: one block on stderr; nothing for what is
    /// [quiet](Failure::is_quiet): a peer that has just gone away, has sent what cannot be read, or has not come through its
    /// handshake.
    /// It runs where the failure was. It is not called for what is nobody's failure: a peer that was
    /// silent for the idle limit, a request that a drain ended; nor for a `Fatal`.
    fn handle_error(&self, failure: &Failure<'_>) {
        if !failure.is_quiet() {
            failure.print();
        }
    }

    /// Runs when `handle_request` has waited for the server's timeout in vain.
    fn handle_timeout(&self) {}

    /// Runs in the loop after every request, and with a `poll_interval` at least that often. To override it has its
    /// price, as with [`verify_request`](Self::verify_request).
    fn service_actions(&self) {
        is_default::<Self>();
    }

    /// An error of accept, before what follows from it is done: in the loop, or in a worker that has met an error which is
    /// skipped ([`Builder::workers_accept`](crate::Builder::workers_accept)). Default: a line on stderr when
    /// resources have run out, at the first of a row and then at most every ten seconds.
    fn accept_error(&self, failure: &AcceptFailure<'_>) {
        if failure.is_first_or_due() {
            failure.print();
        }
    }

    /// Something that whoever operates the server should know, in words: that there are fewer descriptors
    /// than live requests allowed, say. Default: a line on stderr.
    fn warning(&self, text: &str) {
        Console::Stderr.tell(&format!("warning: {text}\n"));
    }

    /// A request that no worker can take. It may be answered ("busy, come again in a minute") before it
    /// is closed, with what fits into the socket's buffer: it runs where the request was accepted, and no write of
    /// it waits.
    ///
    /// # Errors
    ///
    /// Any; they are ignored, as the peer's are that has gone.
    fn overflow(&self, request: &mut R, why: &Refused) -> HandlerResult {
        let _ = (request, why);
        Ok(())
    }
}

/// The hooks of a server that was given none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DefaultHooks;

impl<R> ServerHooks<R> for DefaultHooks {}

/// During which step a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// In the hook `verify_request`.
    Verify,
    /// When a worker was to be started for it.
    Start,
    /// In the transport's `make_request`.
    Make,
    /// In the hook `wrap_request`.
    Wrap,
    /// In the making of the handler, or in its `setup`.
    Setup,
    /// In the handler's `handle`.
    Handle,
    /// In the handler's `finish`, or in its drop.
    Finish,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Verify => "verify_request",
            Self::Start => "starting a worker",
            Self::Make => "make_request",
            Self::Wrap => "wrap_request",
            Self::Setup => "setup",
            Self::Handle => "handle",
            Self::Finish => "finish",
        })
    }
}

/// Whose condition a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The peer's: it went away, was too slow, or sent what it must not.
    Peer,
    /// The machine's: threads, descriptors or memory have run out.
    Resource,
    /// The handler's or the hook's own.
    Handler,
}

/// What failed, where, for whom: what `handle_error` is given.
pub struct Failure<'a> {
    pub(super) phase: Phase,
    pub(super) error: &'a HandlerError,
    pub(super) whose: Whose,
    pub(super) client_address: &'a Address,
    pub(super) handler: &'static str,
}

impl Failure<'_> {
    /// During which step.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The error itself. A panic is a [`Panicked`](crate::hooks::Panicked).
    #[must_use]
    pub fn error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &**self.error
    }

    /// With whom.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        self.client_address
    }

    /// The type name of the handler.
    #[must_use]
    pub fn handler(&self) -> &'static str {
        self.handler
    }

    /// Whether the peer has just gone away. An upstream of the handler's that has is something else: it counts what
    /// this request's own reads and writes have returned; see [`PeerFault`](crate::request::PeerFault).
    #[must_use]
    pub fn is_disconnect(&self) -> bool {
        self.whose.is_disconnect(self.error())
    }

    /// Whether it is a part of a server's life, which the default of
    /// [`handle_error`](ServerHooks::handle_error) does not print: the peer has gone away, or has sent what cannot be
    /// read ([`PeerFault`](crate::request::PeerFault)), or has not come to the end of a handshake. A line above its limit
    /// ([`LineTooLong`](crate::request::LineTooLong)) and a limit in time ([`TimedOut`](crate::request::TimedOut)) are the peer's fault and
    /// not quiet, outside of a handshake.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let error = self.error();
        self.is_disconnect()
            || self.whose.is_garbled(error)
            || (self.phase == Phase::Wrap && self.whose.is_peers(error))
    }

    /// Whose condition it is, as far as the error tells.
    #[must_use]
    pub fn fault(&self) -> Fault {
        if self.phase == Phase::Start {
            return Fault::Resource;
        }
        if self.whose.is_peers(self.error()) { Fault::Peer } else { Fault::Handler }
    }

    /// Writes the default report to stderr: one block, in one write, so that the blocks of several
    /// threads do not mix. It does not wait for a reader: see [`Console`].
    pub fn print(&self) {
        Console::Stderr.tell(&format!("{RULE}\n{self}\n{RULE}\n"));
    }
}

const RULE: &str = "----------------------------------------";

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client_address, phase, handler, .. } = self;
        match phase {
            Phase::Start => writeln!(f, "no worker for {client_address} (handler {handler}):")?,
            _ => writeln!(f, "{phase} failed for {client_address} (handler {handler}):")?,
        }
        f.write_str(&chain(self.error()))
    }
}

impl fmt::Debug for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Failure({self})")
    }
}

/// An error of accept and what follows from it: what the hook `accept_error` is given.
pub struct AcceptFailure<'a> {
    pub(super) error: &'a io::Error,
    pub(super) action: crate::transport::AcceptAction,
    pub(super) server: &'a ServerContext,
    pub(super) in_a_row: u64,
    pub(super) pause: Duration,
    pub(super) is_first_or_due: bool,
}

impl AcceptFailure<'_> {
    /// The error.
    #[must_use]
    pub fn error(&self) -> &io::Error {
        self.error
    }

    /// What the loop does about it.
    #[must_use]
    pub fn action(&self) -> crate::transport::AcceptAction {
        self.action
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        self.server
    }

    /// How many times in a row resources have been found wanting, this time included.
    #[must_use]
    pub fn in_a_row(&self) -> u64 {
        self.in_a_row
    }

    /// How long the loop now pauses.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.pause
    }

    /// Whether it is time to report it, by which the default of [`accept_error`](ServerHooks::accept_error) prints a line
    /// every ten seconds at most, however often accept fails: it is the first since the loop began (each
    /// `handle_request` is a loop of its own), or ten seconds have gone by since the last one that was to be reported.
    /// False for an error that is skipped without a pause: it has cost one client, and is counted.
    ///
    /// ```
    /// use socketserver::{ServerHooks, StreamRequest};
    /// use socketserver::hooks::AcceptFailure;
    ///
    /// struct Logged;
    ///
    /// impl ServerHooks<StreamRequest> for Logged {
    ///     fn accept_error(&self, failure: &AcceptFailure<'_>) {
    ///         if failure.is_first_or_due() {
    ///             // to a log of the program's own
    ///             println!("level=error {failure}");
    ///         }
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn is_first_or_due(&self) -> bool {
        self.is_first_or_due
    }

    /// Writes the default line to stderr, also when descriptors have run out. It does not wait for a reader: see
    /// [`Console`].
    pub fn print(&self) {
        Console::Stderr.tell(&format!("{self}\n"));
    }
}

impl fmt::Display for AcceptFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.server.server_address();
        write!(f, "cannot accept at {address}: {}; trying again in {:?}", self.error, self.pause)?;
        if self.in_a_row > 1 {
            write!(f, " ({} times in a row)", self.in_a_row)?;
        }
        Ok(())
    }
}

impl fmt::Debug for AcceptFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcceptFailure({self})")
    }
}
