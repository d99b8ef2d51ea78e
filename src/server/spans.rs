//! Spans and events of requests, by the facade `tracing`: [`Builder::tracing`] and [`trace_panics`].
//!
//! ```text
//! the thread that accepts     event "accepted"
//! worker, or forked child     span "request" --- handshake, hooks, handler: their events are in it
//!                               event "failed"     before the hook handle_error
//!                               event "ended"      by the observer; under `Forking` in the parent, without the span
//! ```
//!
//! Without `.tracing()` on the builder a request costs one branch more. Without the feature, `no_spans.rs` takes the
//! place of this file.
//!
//! A subscriber is the program's code: it runs on the thread of the request, and may panic in each call, also in those that
//! a drop makes. Events of the server go to it by an observer like any other. A failure takes its own way, because the hook
//! that prints it has to know whether a subscriber has taken it.

use std::panic;

use tracing::span::EnteredSpan;
use tracing::{Level, Span, debug, enabled, error, field, info, warn};

use super::Builder;
use super::catch_panic::run_catching;
use super::failure::Failure;
use crate::error::chain;
use crate::events::{CloseReason, Fault, Limit, ServerEvent};
use crate::live::Entry;
use crate::mixin::Mixin;
use crate::server_context::ServerContext;
use crate::transport::Transport;
use crate::wait;

impl<T: Transport, M: Mixin> Builder<T, M> {
    /// Gives each request a span of the facade [`tracing`](https://docs.rs/tracing), and reports what happens to the
    /// server as events, for the subscriber that the program has installed. Feature `tracing`.
    ///
    /// The span `request` is entered in the worker, around the handshake, the hooks and the handler: their own events
    /// carry it. It has the fields `id`, `client_address`, `handler` and `transport`; behind a proxy also
    /// `proxy_address`; at the end also `reason`, `bytes_in` and `bytes_out`. All spans and events have the target
    /// `socketserver`.
    ///
    /// | event | level | fields |
    /// |---|---|---|
    /// | `ready`, `stopping` and others of the server as a whole; a worker that is held | INFO | the text |
    /// | a failed handshake, whose `failed` has the level of its fault | DEBUG | the text |
    /// | `accepted`: a request has come | DEBUG | `id`, `client_address`, `handler`, `transport` |
    /// | `client known`: a proxy has named the client | DEBUG | `id`, `client_address`, `proxy_address` |
    /// | `failed`: a handler, a hook or a handshake has failed or panicked | ERROR; INFO by the peer's fault; DEBUG if it [is quiet](crate::hooks::Failure::is_quiet) | `phase`, `error`, `client_address` |
    /// | `ended` | DEBUG; WARN after a failure, a refusal, or a drain that had no more time; ERROR if the handler has ended the server or its process was killed | as the span, and `fault`, `limit`, `refused`, `seconds`, `queue_seconds`, `handshake_seconds`, `handler_seconds`, `accept_queue_seconds` |
    /// | accepting has failed | WARN | `error` |
    /// | a limit has been reached | WARN; DEBUG if it is one peer's | `limit` |
    ///
    /// A failure that the subscriber takes is not printed on stderr as well, as long as the hooks `handle_error` and
    /// `accept_error` are the defaults or call [`Failure::report`](crate::hooks::Failure::report) and
    /// [`AcceptFailure::report`](crate::hooks::AcceptFailure::report). A panic is a failure; for its place in the
    /// code see [`trace_panics`].
    ///
    /// Under [`Forking`](crate::Forking) the child has the span and reports its failures; `ended` comes from the
    /// parent, without a span but with the same fields. Where requests are coroutines (`Green`, a
    /// [parker](crate::park) of your own), the span is left before each wait and entered again after it, so that the
    /// events of other requests are not in it. A span that a handler has entered itself is not left in this way:
    /// leave it before a read or a write.
    ///
    /// ```
    /// use socketserver::{ThreadingTcpServer, stream_fn};
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let server = ThreadingTcpServer::builder()
    ///     .tracing()
    ///     .bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
    /// # drop(server); Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn tracing(self) -> Self {
        self.with_spans(Spans { are_wanted: true }).observer_of(Box::new(|context| {
            let transport = context.transport();
            Box::new(move |event| tell(event, transport))
        }))
    }
}

/// Reports each panic of the process as an event, with its text, its place and its thread, in the span of the request
/// that it happens in. Then it calls the panic hook that was there before. Call it once, at the beginning of `main`.
/// Feature `tracing`.
///
/// The server itself reports each panic of a request as a failure, but without its place. The panic hook of std
/// prints the panic on stderr; `std::panic::set_hook(Box::new(|_| {}))` before this call silences it.
///
/// ```no_run
/// socketserver::monitor::trace_panics();
/// ```
pub fn trace_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let thread = std::thread::current();
        error!(
            target: "socketserver",
            location = info.location().map(field::display),
            thread = thread.name(),
            "panicked: {}",
            text.unwrap_or("with a value that is not text")
        );
        before(info);
    }));
}

/// Whether requests of a server have spans.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spans {
    are_wanted: bool,
}

impl Spans {
    /// Begins the span of a request on the thread that runs it. It ends when the value is dropped.
    #[inline]
    pub(super) fn enter(self, context: &ServerContext, entry: &Entry) -> RequestSpan {
        let mut place = SpanPlace::Off;
        if self.are_wanted {
            run_catching(|| place = SpanPlace::enter(context, entry));
        }
        RequestSpan { place }
    }

    /// Whether a subscriber takes the warning about a failed accept.
    pub(super) fn take_warnings(self) -> bool {
        self.are_wanted && enabled!(target: "socketserver", Level::WARN)
    }

    /// Reports a failure, in the span of its request if it has one. Returns whether a subscriber has taken it: the default of
    /// the hook then prints nothing.
    pub(super) fn failed(self, failure: &Failure<'_>) -> bool {
        if !self.are_wanted {
            return false;
        }
        let (phase, client_address) = (failure.phase(), failure.client_address());
        let error = chain(failure.error());
        // A macro and not a variable: the level is a part of the event's static description, by which subscribers filter.
        macro_rules! tell {
            ($tell:ident) => {
                $tell!(target: "socketserver", %phase, %client_address, error, "failed")
            };
        }
        // A quiet failure, such as a scanner's, is noise; a peer's mistake may be worth a look; the others are this side's.
        match failure.fault() {
            _ if failure.is_quiet() => tell!(debug),
            Fault::Peer => tell!(info),
            _ => tell!(error),
        }
        // Each failure counts as taken by a subscriber that takes errors: if it does not take the other levels, it has chosen
        // not to see such failures.
        enabled!(target: "socketserver", Level::ERROR)
    }
}

/// The span of a request that runs. The subscriber is the program's code, and may panic in each call.
pub(super) struct RequestSpan {
    /// The span itself. The drop empties this, inside a `run_catching`.
    place: SpanPlace,
}

/// How a running request has its span.
enum SpanPlace {
    /// There is no span.
    Off,
    /// The request has its thread to itself: its guard leaves the span.
    Entered(EnteredSpan),
    /// The request is a coroutine, which shares its thread with others. The span is left during each wait.
    Parked {
        // Dropped in this order: the thread leaves the span before its last reference closes it.
        _entered: wait::InSpan,
        span: Span,
    },
}

impl SpanPlace {
    /// Makes the span and enters it, on the thread that runs the request, before anything else of the request.
    #[cold]
    fn enter(context: &ServerContext, entry: &Entry) -> Self {
        let span = tracing::info_span!(
            target: "socketserver",
            "request",
            id = entry.id(),
            client_address = %entry.client_address(),
            handler = entry.handler(),
            transport = context.transport(),
            proxy_address = field::Empty,
            reason = field::Empty,
            bytes_in = field::Empty,
            bytes_out = field::Empty,
        );
        // The fields that are empty are recorded later; a field that is not named here could not be.
        if wait::is_parked_here() {
            Self::Parked { _entered: wait::in_span(span.clone()), span }
        } else {
            Self::Entered(span.entered())
        }
    }

    /// The span, to record its fields.
    fn span(&self) -> Option<&Span> {
        match self {
            Self::Off => None,
            Self::Entered(entered) => Some(entered),
            Self::Parked { span, .. } => Some(span),
        }
    }
}

impl RequestSpan {
    /// Updates the client's address, which a proxy may have named by now.
    pub(super) fn name_client(&self, entry: &Entry) {
        if let (Some(span), Some(proxy)) = (self.place.span(), entry.proxy_address()) {
            run_catching(|| {
                span.record("client_address", field::display(entry.client_address()));
                span.record("proxy_address", field::display(proxy));
            });
        }
    }

    /// Adds the fields of the request's end.
    pub(super) fn end(&self, entry: &Entry, reason: CloseReason) {
        if let Some(span) = self.place.span() {
            let (bytes_in, bytes_out) = entry.bytes();
            run_catching(|| {
                span.record("reason", reason.name());
                span.record("bytes_in", bytes_in);
                span.record("bytes_out", bytes_out);
            });
        }
    }

    /// Leaves the span: its drop does that.
    pub(super) fn leave(self) {}
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        // Assigned and not left to the fields' own drop, which would run after this and outside the catch.
        if self.place.span().is_some() {
            run_catching(|| self.place = SpanPlace::Off);
        }
    }
}

/// Reports an event of the server: the observer that `Builder::tracing` adds. It runs on the thread of the event, and
/// so in the span of its request if that has one.
fn tell(event: &ServerEvent<'_>, transport: &'static str) {
    match event {
        ServerEvent::RequestStarted { id, client_address, handler } => {
            debug!(target: "socketserver", id, %client_address, handler, transport, "accepted");
        }
        ServerEvent::ClientKnown { id, client_address, proxy_address } => {
            debug!(target: "socketserver", id, %client_address, %proxy_address, "client known");
        }
        ServerEvent::RequestEnded { .. } => tell_end(event, transport),
        ServerEvent::AcceptFailed { error } => {
            warn!(target: "socketserver", error = %error, "accepting failed");
        }
        ServerEvent::LimitReached { limit: limit @ (Limit::PerPeer | Limit::PeerRate) } => {
            debug!(target: "socketserver", limit = limit.name(), "limit reached");
        }
        ServerEvent::LimitReached { limit } => {
            warn!(target: "socketserver", limit = limit.name(), "limit reached");
        }
        // Most such failures are scanners'. If the fault is not the peer's, `failed` says so at its own level.
        ServerEvent::HandshakeFailed { .. } => debug!(target: "socketserver", "{event}"),
        // Events of the server as a whole (ready, stopping, and so on), a worker that is held.
        _ => info!(target: "socketserver", "{event}"),
    }
}

/// Reports the end of a request. The event repeats the fields of the request's span: under `Forking` it comes from the
/// parent, which has no span.
fn tell_end(event: &ServerEvent<'_>, transport: &'static str) {
    let ServerEvent::RequestEnded { id, client_address, handler, reason, refused, limit, .. } =
        event
    else {
        return;
    };
    let ServerEvent::RequestEnded { age, times, bytes_in, bytes_out, .. } = event else { return };
    let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
    macro_rules! tell {
        ($tell:ident) => {
            $tell!(
                target: "socketserver",
                id,
                %client_address,
                handler,
                transport,
                reason = reason.name(),
                fault = reason.fault().map(Fault::name),
                limit = limit.map(|limit| limit.name()),
                refused = refused.map(|why| why.name()),
                seconds = age.as_secs_f64(),
                queue_seconds = seconds(times.in_queue),
                handshake_seconds = seconds(times.handshake),
                handler_seconds = seconds(times.handler),
                accept_queue_seconds = seconds(times.in_accept_queue),
                bytes_in,
                bytes_out,
                "ended"
            )
        };
    }
    match (reason, reason.fault()) {
        // For these two ends no failure has been reported.
        (CloseReason::Fatal | CloseReason::Killed, _) => tell!(error),
        (_, Some(Fault::Handler | Fault::Server | Fault::Resource)) => tell!(warn),
        (_, Some(Fault::Peer) | None) => tell!(debug),
    }
}
