//! Events of a server: [`ServerEvent`], [`CloseReason`], [`RequestTimes`] and [`Counts`].
//!
//! The library itself does not log. Use an observer for a log, a metric or a test.
//!
//! An event is lent to the observers in the thread where it happens: a worker, or the accept loop. It borrows all that
//! it says, so it costs no allocation. The counters are kept in any case: one atomic addition for each end of a
//! request.

mod fault;
mod limit;
mod request_times;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::address::Address;
use crate::error::{HandlerError, chain};
use crate::refused::Refused;
use crate::run_phase::RunPhase;
use crate::timed_out::Timeout;

pub use fault::Fault;
pub use limit::Limit;
pub use request_times::RequestTimes;

/// Something that has happened in a server, for an [observer](crate::Builder::observer). It prints as one line.
///
/// ```
/// use socketserver::monitor::{Console, ServerEvent};
/// use socketserver::{UdpServer, datagram_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// // A log that never waits: an observer that waits holds the server up.
/// let server = UdpServer::builder()
///     .observer(|event| {
///         if let ServerEvent::AcceptFailed { .. } | ServerEvent::LimitReached { .. } = event {
///             Console::Stderr.tell(&format!("{event}\n"));
///         }
///     })
///     .bind("127.0.0.1:0", datagram_fn(|_request| Ok(())))?;
/// # drop(server); Ok(())
/// # }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerEvent<'a> {
    /// A run has begun and nothing is served yet: see [`ServerHooks::ready`](crate::ServerHooks::ready).
    Ready {
        /// Where the server listens.
        server_address: &'a Address,
    },
    /// The server begins to close: see [`ServerHooks::stopping`](crate::ServerHooks::stopping). A server that ends
    /// without a call of that hook ends without this event.
    Stopping {
        /// Where the server listened.
        server_address: &'a Address,
    },
    /// The server has come to another phase of its life: see [`RunPhase`].
    PhaseReached {
        /// Where the server listens.
        server_address: &'a Address,
        /// The phase that has begun.
        phase: RunPhase,
    },
    /// A reload is over: the functions that the program has registered by
    /// [`Builder::on_reload`](crate::Builder::on_reload) have run.
    Reloaded {
        /// Where the server listens.
        server_address: &'a Address,
        /// The first error, if there was one.
        error: Option<&'a HandlerError>,
    },
    /// Another process serves in the place of this one from now on: see [`handover`](crate::handover). `Stopping`
    /// follows.
    HandedOver {
        /// Where both processes listen.
        server_address: &'a Address,
        /// The number of the other process.
        process: u32,
    },
    /// A request has been taken from the transport. Whether it will be served is not decided yet. Exactly one
    /// `RequestEnded` with the same number follows.
    RequestStarted {
        /// The request's number, unique within the server.
        id: u64,
        /// The client, or the [proxy](crate::proxy_protocol) that it comes through: see `ClientKnown`.
        client_address: &'a Address,
        /// The type name of its handler.
        handler: &'static str,
    },
    /// A [proxy](crate::proxy_protocol) has named the client of a request. Until then the proxy's address stands for
    /// the client's. Under [`Forking`](crate::Forking) this event comes just before the request's end, when the
    /// parent hears of its child; the live list shows the client at once.
    #[non_exhaustive]
    ClientKnown {
        /// The request's number, unique within the server.
        id: u64,
        /// The client.
        client_address: &'a Address,
        /// The proxy: the client's address in `RequestStarted`.
        proxy_address: &'a Address,
    },
    /// A step before the handler has failed: the TLS handshake or the PROXY header. `RequestEnded` follows. Its reason
    /// says less than this error does. Under [`Forking`](crate::Forking) the error has the text of the child's error
    /// and its causes, and no more; the event comes just before the request's end, when the parent hears of its child.
    HandshakeFailed {
        /// The request's number, unique within the server.
        id: u64,
        /// The client.
        client_address: &'a Address,
        /// The cause: which alert, which version, which certificate.
        error: &'a HandlerError,
    },
    /// A request has ended and is closed. (While it runs, [`ServerContext::live`](crate::ServerContext::live) has its
    /// activity, its age and its bytes.)
    #[non_exhaustive]
    RequestEnded {
        /// The request's number, unique within the server.
        id: u64,
        /// The client.
        client_address: &'a Address,
        /// The [proxy](crate::proxy_protocol) that has named the client, if one has.
        proxy_address: Option<&'a Address>,
        /// The type name of its handler.
        handler: &'static str,
        /// How the request ended. [`CloseReason::fault`] says by whose fault.
        reason: CloseReason,
        /// Why the request was refused, if the reason is [`CloseReason::Refused`].
        refused: Option<&'a Refused>,
        /// The time limit that has ended the request, if the reason is [`CloseReason::TimedOut`],
        /// [`CloseReason::Idle`] or [`CloseReason::BadProxyHeader`].
        limit: Option<Timeout>,
        /// How long the request lasted, from its acceptance on.
        age: Duration,
        /// The parts of its age, and its time in the kernel's accept queue.
        times: RequestTimes,
        /// Bytes received from the peer, on the wire.
        bytes_in: u64,
        /// Bytes sent to the peer, on the wire.
        bytes_out: u64,
        /// Bytes that the handler has received: fewer than `bytes_in` under the server's own TLS, otherwise the same.
        clear_bytes_in: u64,
        /// Bytes that the handler has sent: fewer than `bytes_out` under the server's own TLS, otherwise the same.
        clear_bytes_out: u64,
    },
    /// A handler under the mixin `Green` has held its worker for longer than `Green::watchdog` allows. It computes, or
    /// it blocks the thread by a call that knows nothing of coroutines. No other request of the worker goes on during
    /// that time. The event is sent once for each such time, while the handler still runs.
    #[non_exhaustive]
    WorkerHeld {
        /// The request's number, unique within the server.
        id: u64,
        /// The client.
        client_address: &'a Address,
        /// The type name of its handler.
        handler: &'static str,
        /// For how long the handler has run without a wait.
        held: Duration,
    },
    /// Accepting has failed.
    AcceptFailed {
        /// The error.
        error: &'a io::Error,
    },
    /// A limit has been reached. The event is sent once when the limit is reached, and again when it is reached anew.
    /// The limits of one peer and the limit on handshakes send it for every request that they refuse.
    LimitReached {
        /// Which limit.
        limit: Limit,
    },
}

impl fmt::Display for ServerEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { server_address } => write!(f, "ready at {server_address}"),
            Self::Stopping { server_address } => write!(f, "stopping at {server_address}"),
            Self::PhaseReached { server_address, phase } => {
                write!(f, "phase at {server_address}: {phase}")
            }
            Self::Reloaded { server_address, error: None } => {
                write!(f, "reloaded at {server_address}")
            }
            Self::Reloaded { server_address, error: Some(error) } => {
                write!(f, "the reload at {server_address} failed: {error}")
            }
            Self::HandedOver { server_address, process } => {
                write!(f, "handed over at {server_address} to process {process}")
            }
            Self::HandshakeFailed { id, client_address, error } => {
                // The outermost error of a handshake says little: its causes name the alert or the certificate.
                let causes = chain(&***error);
                write!(f, "the handshake of request {id} from {client_address} failed: {causes}")
            }
            Self::RequestStarted { id, client_address, handler } => {
                write!(f, "request {id} from {client_address} has come: {handler}")
            }
            Self::ClientKnown { id, client_address, proxy_address } => {
                write!(f, "request {id} from {proxy_address} is of {client_address}")
            }
            Self::RequestEnded { id, client_address, reason, age, bytes_in, bytes_out, .. } => {
                let seconds = age.as_secs_f64();
                // The line has only the parts that an operator looks for first; an observer has all of them.
                write!(f, "request {id} from {client_address}")?;
                if let Self::RequestEnded { proxy_address: Some(proxy), .. } = self {
                    write!(f, " by {proxy}")?;
                }
                write!(f, " ended: {reason}")?;
                match self {
                    Self::RequestEnded { limit: Some(limit), .. } => write!(f, " ({limit})")?,
                    Self::RequestEnded { refused: Some(why), .. } => write!(f, " ({why})")?,
                    _ => {}
                }
                write!(f, ", {seconds:.3} s, {bytes_in} bytes in, {bytes_out} bytes out")
            }
            Self::WorkerHeld { id, client_address, handler, held } => {
                let seconds = held.as_secs_f64();
                write!(
                    f,
                    "request {id} from {client_address} has held its worker for {seconds:.3} s: {handler}"
                )
            }
            Self::AcceptFailed { error } => write!(f, "accepting failed: {error}"),
            Self::LimitReached { limit } => write!(f, "{limit} has been reached"),
        }
    }
}

// Each reason has one row: its variant, its name (which is also the field of its count), and its text. So no reason can be
// without a count, and the sum over the fields is the number of ended requests.
macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident, $count:ident, $text:literal;)*) => {
        /// How a request ended. Every request has exactly one reason, under every transport and every mixin.
        ///
        /// [`Job::run`](crate::mixin::Job::run), [`ServerEvent::RequestEnded`] and [`Counts`](crate::monitor::Counts)
        /// use it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum CloseReason {
            $($(#[$doc])* $reason,)*
        }

        impl fmt::Display for CloseReason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$reason => $text,)* })
            }
        }

        impl CloseReason {
            /// A name in one word, for a label or a log: `completed`, `line_too_long` and so on. It is the name of the
            /// field of [`Counts`](crate::monitor::Counts), and never changes.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$reason => stringify!($count),)* }
            }

            /// All reasons, each at the place of its number.
            #[cfg(any(test, feature = "metrics"))]
            pub(crate) const ALL: &'static [Self] = &[$(Self::$reason),*];
        }

        /// The counts of a server since it was made. `accepted` counts every request: those that have ended, for any
        /// reason, and those that are alive.
        ///
        /// ```
        /// use socketserver::{TcpServer, stream_fn};
        ///
        /// # fn main() -> socketserver::Result<()> {
        /// let server = TcpServer::bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
        /// let counts = server.context().counts();
        /// println!("{} accepted, {} completed", counts.accepted, counts.completed);
        /// assert_eq!(counts.ended(), 0);
        /// # Ok(())
        /// # }
        /// ```
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Counts {
            /// Requests taken from the transport: connections accepted, datagrams received.
            pub accepted: u64,
            /// Attempts to accept that failed.
            pub accept_errors: u64,
            /// Connections closed unanswered because descriptors had run out.
            pub shed: u64,
            /// The part of `stopped` that a drain ended after `Limits::first_read`, before the peer had sent
            /// anything.
            pub unheard: u64,
            $(
                #[doc = concat!("Requests that ended as [`CloseReason::", stringify!($reason), "`].")]
                pub $count: u64,
            )*
        }

        impl Counts {
            /// How many requests have ended, for all reasons.
            #[must_use]
            pub fn ended(&self) -> u64 {
                0 $(+ self.$count)*
            }

            /// Each count with its name, which is that of its field: for a table or a log.
            #[must_use]
            pub fn by_name(&self) -> Vec<(&'static str, u64)> {
                // First the counts that are not in the table, because they count no ends.
                vec![
                    ("accepted", self.accepted),
                    ("accept_errors", self.accept_errors),
                    ("shed", self.shed),
                    ("unheard", self.unheard),
                    $((stringify!($count), self.$count),)*
                ]
            }
        }

        /// The counters behind [`Counts`]. The number of accepted requests is in the live list.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            accept_errors: AtomicU64,
            shed: AtomicU64,
            unheard: AtomicU64,
            $($count: AtomicU64,)*
        }

        impl Counters {
            /// Counts the end of a request. Called once for each.
            pub(crate) fn ended(&self, reason: CloseReason) {
                // Relaxed, here and below: the counts order nothing else.
                let counter = match reason { $(CloseReason::$reason => &self.$count,)* };
                counter.fetch_add(1, Ordering::Relaxed);
            }

            /// The counts now. Each is loaded by itself, so the counts may belong to slightly different moments.
            pub(crate) fn read(&self, accepted: impl FnOnce() -> u64) -> Counts {
                let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                Counts {
                    $($count: read(&self.$count),)*
                    accept_errors: read(&self.accept_errors),
                    shed: read(&self.shed),
                    unheard: read(&self.unheard),
                    // Read last, so that it is never below the sum of the ends: a request enters the list before it
                    // ends.
                    accepted: accepted(),
                }
            }
        }
    };
}

reasons! {
    /// Its handler returned without an error.
    Completed, completed, "completed";
    /// Its handler failed for a reason that no other variant names.
    Failed, failed, "its handler failed";
    /// Its handler panicked, or a hook or the drop of an error did.
    Panicked, panicked, "it panicked";
    /// Its handler ended the server with a [`Fatal`](crate::Fatal).
    Fatal, fatal, "its handler ended the server";
    /// Its peer went away before the handler had finished.
    Disconnected, disconnected, "the peer went away";
    /// Its peer sent bytes that cannot be decoded: not TLS where TLS is expected, or not UTF-8 where text is read.
    Garbled, garbled, "the peer sent what cannot be read";
    /// It came from a [proxy](crate::proxy_protocol), and its PROXY header was wrong, cut short, late or missing.
    BadProxyHeader, bad_proxy_header, "it brought no valid PROXY header";
    /// Its peer and the server could not agree in the TLS handshake: no common version or cipher, or a certificate that
    /// one side does not accept.
    HandshakeFailed, handshake_failed, "its handshake failed";
    /// Its peer was silent for `Limits::idle`.
    Idle, idle, "the peer was idle";
    /// Another time limit was reached, or the handler's own timeout.
    TimedOut, timed_out, "it took too long";
    /// Its peer sent a line longer than `Limits::line_bytes`.
    LineTooLong, line_too_long, "a line was too long";
    /// A drain ended its connection, between two requests or before the first one.
    Stopped, stopped, "the server was stopping";
    /// The deadline of a drain ended it.
    Forced, forced, "it was cut off at the deadline of the drain";
    /// An operator ended it, by `ServerContext::close_live`.
    ClosedHere, closed_here, "it was closed from this side";
    /// `verify_request` returned false, `wrap_request` returned a [`Rejected`](crate::hooks::Rejected), or its
    /// connection did not come from a [proxy](crate::proxy_protocol) although it had to.
    Rejected, rejected, "it was rejected";
    /// No worker was free, or its peer had too many requests.
    Refused, refused, "it was refused";
    /// It was passed to another process, which has not reported the request's end, or a mixin dropped it.
    Released, released, "it was released";
    /// The process that served it was killed.
    Killed, killed, "its process was killed";
}

impl Counters {
    /// Counts an error of `get_request`.
    pub(crate) fn accept_error(&self) {
        self.accept_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that a drain has ended before its peer had sent anything.
    pub(crate) fn unheard(&self) {
        self.unheard.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts connections that were closed without an answer, for want of descriptors.
    pub(crate) fn shed(&self, connections: u64) {
        self.shed.fetch_add(connections, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_name_of_its_own() {
        let mut names: Vec<_> = CloseReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CloseReason::ALL.len());
        assert_eq!(CloseReason::LineTooLong.name(), "line_too_long");
    }
}
