//! [`ServerHooks`]: the steps of a server that a program may override without writing a transport or a mixin.

use std::io;
use std::os::fd::BorrowedFd;

use super::failure::{AcceptFailure, Failure};
use super::incoming::Incoming;
use super::overridden_hooks::is_default;
use crate::console::Console;
use crate::error::{HandlerError, HandlerResult};
use crate::mixin::Refused;
use crate::request::StreamRequest;
use crate::run_phase::RunPhase;
use crate::server_context::ServerContext;

/// The steps of a server that a program may override, with Python's names where Python has them. Each step has a
/// default. Pass an implementation to `builder().hooks(..)`.
///
/// `R` is the type of the requests: [`StreamRequest`] (the default) for TCP and Unix streams,
/// [`DatagramRequest`](crate::DatagramRequest) for datagrams.
///
/// | hook | runs | default |
/// |---|---|---|
/// | [`before_bind`](Self::before_bind) | before the address is taken | nothing |
/// | [`server_activated`](Self::server_activated) | when the server listens | nothing |
/// | [`ready`](Self::ready) | when a run begins | nothing |
/// | [`verify_request`](Self::verify_request) | in the loop, for each request | serve it |
/// | [`wrap_request`](Self::wrap_request) | in the worker, before the handler | nothing |
/// | [`handle_error`](Self::handle_error) | where a request failed | [`Failure::report`] |
/// | [`overflow`](Self::overflow) | where a request is refused | nothing |
/// | [`accept_error`](Self::accept_error) | when accepting failed | [`AcceptFailure::report`] |
/// | [`service_actions`](Self::service_actions) | in the loop, after each request | nothing |
/// | [`handle_timeout`](Self::handle_timeout) | when `handle_request` timed out | nothing |
/// | [`warning`](Self::warning) | when an operator should know something | a line on stderr |
/// | [`stopping`](Self::stopping) | when the server begins to close | nothing |
/// | [`run_phase`](Self::run_phase) | at each step of a server's life | nothing |
///
/// ```no_run
/// use socketserver::hooks::Incoming;
/// use socketserver::{HandlerError, ServerHooks, StreamRequest, TcpServer, stream_fn};
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
///
/// A panic in a hook that is called for a request ends that request, and never the server. A panic in
/// [`ready`](Self::ready), [`service_actions`](Self::service_actions) or [`handle_timeout`](Self::handle_timeout) ends
/// the run, and goes on in its caller. A panic in [`before_bind`](Self::before_bind) or
/// [`server_activated`](Self::server_activated) goes on in the caller of `bind`. Panics of the other hooks end nothing.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no hooks for a `{R}`",
    note = "implement `ServerHooks<{R}>` for it; or `impl<R: Request> ServerHooks<R> for ..` for all servers"
)]
pub trait ServerHooks<R = StreamRequest>: Send + Sync + 'static {
    /// Runs before the socket is bound: for socket options that [`SocketOptions`](crate::SocketOptions) does not have.
    ///
    /// # Errors
    ///
    /// Any; `bind` then fails with the error.
    fn before_bind(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        // Not `_socket`: rustdoc shows the names, and an override begins as a copy of the line.
        let _ = socket;
        Ok(())
    }

    /// Runs when the server listens: a good moment to give up privileges. The hook [`ready`](Self::ready) comes
    /// later.
    fn server_activated(&self, server: &ServerContext) {
        let _ = server;
    }

    /// Runs at the beginning of every `serve_forever`, `run`, `run_all` and `serve_in_background` (not of
    /// `handle_request`), in the thread of the loop and before anything is served: the place to inform a service
    /// registry. ([`run`](crate::Server::run) informs a service manager by itself: see [`systemd`](crate::systemd).) The
    /// hook also runs if an earlier `shutdown` ends that run at once. Under `run`, signals are already handled then, so the
    /// service manager can stop the program cleanly. An observer gets
    /// [`ServerEvent::Ready`](crate::monitor::ServerEvent::Ready).
    ///
    /// ```
    /// use socketserver::{ServerContext, ServerHooks, StreamRequest};
    ///
    /// struct Announced;
    ///
    /// impl ServerHooks<StreamRequest> for Announced {
    ///     fn ready(&self, server: &ServerContext) {
    ///         println!("serving at {}", server.server_address());
    ///     }
    /// }
    /// ```
    fn ready(&self, server: &ServerContext) {
        let _ = server;
    }

    /// Runs once, when the server begins to close, in the thread that closes it; under `run`, as soon as a signal has
    /// come. New clients are accepted until this hook has returned, and then for
    /// [`Limits::lame_duck`](crate::Limits::lame_duck); only then does the grace period begin. An observer gets
    /// [`ServerEvent::Stopping`](crate::monitor::ServerEvent::Stopping).
    ///
    /// A close means [`server_close`](crate::Server::server_close), which `run`, `run_all` and
    /// [`BackgroundServer`](crate::BackgroundServer) call by themselves. A server that is only dropped does not call
    /// this hook, even after a `shutdown`. A server that is closed before its first run calls `stopping` without
    /// `ready`.
    fn stopping(&self, server: &ServerContext) {
        let _ = server;
    }

    /// Runs when the server has come to another [phase](RunPhase) of its life, once for each phase, after the phase's
    /// own hook if it has one. Use it to inform a service registry, or to close resources that the requests of a drain no
    /// longer need. It runs in the thread that activates, serves or closes the server, which waits for it. When several
    /// threads close a server at once, one of them calls this hook for all, in the order of the phases;
    /// `server.run_phase()` may then be a later phase. A panic in it ends nothing.
    ///
    /// ```
    /// use socketserver::monitor::RunPhase;
    /// use socketserver::{ServerContext, ServerHooks, StreamRequest};
    ///
    /// struct Registered;
    ///
    /// impl ServerHooks<StreamRequest> for Registered {
    ///     fn run_phase(&self, server: &ServerContext, phase: RunPhase) {
    ///         match phase {
    ///             RunPhase::Ready => println!("register {}", server.server_address()),
    ///             RunPhase::LameDuck => println!("unregister {}", server.server_address()),
    ///             _ => {}
    ///         }
    ///     }
    /// }
    /// ```
    fn run_phase(&self, server: &ServerContext, phase: RunPhase) {
        let _ = (server, phase);
    }

    /// Says whether a request is to be served. The hook runs in the loop, before a worker is chosen. Nothing is
    /// accepted until it returns, so it has to be quick. Default: true.
    ///
    /// A server that overrides this hook or [`service_actions`](Self::service_actions) accepts only in its loop, and
    /// each short connection takes some microseconds longer. No other hook has that cost. The server detects the
    /// override by itself.
    ///
    /// # Errors
    ///
    /// Any; the request is closed, `handle_error` is called, and the loop goes on.
    fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
        let _ = incoming;
        // Tells the server that it need not call this again: see `overridden_hooks.rs`.
        is_default::<Self>();
        Ok(true)
    }

    /// Runs in the worker, before the handler is made, within `Limits::handshake`: the place for a wrapper of your own
    /// around the connection, with [`StreamRequest::wrap_stream`](crate::StreamRequest::wrap_stream). (TLS by rustls is
    /// one line on the builder, with the feature `tls`.) A client that stalls here delays no other client, except under
    /// `Inline`.
    ///
    /// A request that is refused ends without this hook. If your wrapper encrypts, see [`overflow`](Self::overflow).
    ///
    /// # Errors
    ///
    /// Any; the request is closed and `handle_error` is called.
    fn wrap_request(&self, request: &mut R) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Reports a failure, in the thread where it happened. Default: [`Failure::report`], which prints one block on
    /// stderr, and nothing for a [quiet](Failure::is_quiet) failure. An override may call `report` as well.
    ///
    /// The hook is not called if the peer was silent for the idle limit, if a drain or an operator ended the request, or
    /// for a [`Rejected`](crate::hooks::Rejected) or a [`Fatal`](crate::Fatal).
    ///
    /// ```
    /// use socketserver::hooks::Failure;
    /// use socketserver::{ServerHooks, StreamRequest};
    ///
    /// struct Logged;
    ///
    /// impl ServerHooks<StreamRequest> for Logged {
    ///     fn handle_error(&self, failure: &Failure<'_>) {
    ///         if !failure.is_quiet() {
    ///             println!("error phase={} client={}", failure.phase(), failure.client_address());
    ///             failure.print();
    ///         }
    ///     }
    /// }
    /// ```
    fn handle_error(&self, failure: &Failure<'_>) {
        failure.report();
    }

    /// Runs when no request has arrived within the server's timeout for `handle_request`.
    ///
    /// It runs in the thread that called `handle_request`, before that returns
    /// [`AcceptOutcome::TimedOut`](crate::monitor::AcceptOutcome::TimedOut). A panic ends the call.
    fn handle_timeout(&self) {}

    /// Runs in the loop after every request, and at least once in every `poll_interval`, if one is set. Overriding this
    /// hook costs as much as overriding [`verify_request`](Self::verify_request).
    ///
    /// If the hook serves as a clock, set a `poll_interval`, because an idle server calls nothing:
    ///
    /// ```
    /// use std::sync::Mutex;
    /// use std::time::{Duration, Instant};
    /// use socketserver::{ServerHooks, StreamRequest};
    ///
    /// struct Hourly(Mutex<Instant>);
    ///
    /// impl ServerHooks<StreamRequest> for Hourly {
    ///     fn service_actions(&self) {
    ///         let mut last = self.0.lock().unwrap();
    ///         if last.elapsed() >= Duration::from_secs(3_600) {
    ///             *last = Instant::now();
    ///             println!("an hour has passed");
    ///         }
    ///     }
    /// }
    /// ```
    fn service_actions(&self) {
        is_default::<Self>();
    }

    /// Reports that accepting failed, before the server reacts. The hook runs in the loop, in a worker that [accepts by
    /// itself](crate::Builder::workers_accept), or in a thread that closes the server. Default: [`AcceptFailure::report`],
    /// which prints a line on stderr, at most one every ten seconds. An override may call `report` as well.
    ///
    /// ```
    /// use socketserver::hooks::AcceptFailure;
    /// use socketserver::{ServerHooks, StreamRequest};
    ///
    /// struct Counted;
    ///
    /// impl ServerHooks<StreamRequest> for Counted {
    ///     fn accept_error(&self, failure: &AcceptFailure<'_>) {
    ///         println!("accept_errors_in_a_row={}", failure.in_a_row());
    ///         failure.report();
    ///     }
    /// }
    /// ```
    fn accept_error(&self, failure: &AcceptFailure<'_>) {
        failure.report();
    }

    /// Shows a message to the operator, for example that there are fewer descriptors than `Limits::live` needs.
    /// Default: a line on stderr, through [`Console`].
    fn warning(&self, text: &str) {
        Console::Stderr.tell(&format!("warning: {text}\n"));
    }

    /// Runs for a request that is refused, because no worker is free, because a limit is exceeded or because the server
    /// closes; not if no worker could be started. The hook may write an answer ("busy, come again in a minute") before the
    /// request is closed. It usually runs in the thread that accepts, so its writes never wait: output that does not fit
    /// into the socket's buffer is lost. On a server with `Builder::tls` nothing is sent before the handshake: the writes
    /// fail, and the peer sees a closed connection.
    ///
    /// **With a wrapper of your own.** If [`wrap_request`](Self::wrap_request) encrypts the connection, leave this hook as it is.
    /// Most requests are refused before `wrap_request` has run, and then an answer leaves in the clear. The server cannot
    /// prevent that: it does not know whether `wrap_request` would have wrapped the connection, or only looked at it.
    ///
    /// # Errors
    ///
    /// Any; they are ignored.
    ///
    /// ```
    /// use std::io::Write;
    /// use socketserver::mixin::Refused;
    /// use socketserver::{HandlerResult, ServerHooks, StreamRequest};
    ///
    /// struct Polite;
    ///
    /// impl ServerHooks<StreamRequest> for Polite {
    ///     fn overflow(&self, request: &mut StreamRequest, why: &Refused) -> HandlerResult {
    ///         Ok(request.write_all(format!("sorry, {why}\n").as_bytes())?)
    ///     }
    /// }
    /// ```
    fn overflow(&self, request: &mut R, why: &Refused) -> HandlerResult {
        let _ = (request, why);
        Ok(())
    }
}

/// The hooks of a server without hooks of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DefaultHooks;

impl<R> ServerHooks<R> for DefaultHooks {}
