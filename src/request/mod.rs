//! The request that a handler is given: [`StreamRequest`] for a connection, [`DatagramRequest`] for a packet.
//!
//! A transport makes a request in the worker that runs it. Only this worker uses the request, and at the end closes it.
//! From the handler down to the socket:
//!
//! ```text
//! StreamRequest    what a handler calls; lines and chunks (bounded_read.rs) over the read buffer (read_buffer.rs)
//!   BoundedIo      limits, drain, counts: input (bounded_io.rs), output (bounded_output.rs), the end (close.rs)
//!     Ticket       the entry in the live list, by which others see the request and end it
//!     Outbox       messages of others (outbox*.rs), and the thread that sends them (outbox_thread.rs)
//!     Connection   a socket (socket_io.rs); or a stream above a RawStream, which keeps the limits (wrap.rs)
//! DatagramRequest  the packet, the gathered reply, and the transport's way back
//! ```
//!
//! Before the handler runs, the server takes the steps that a connection has to begin with (preface.rs).

mod block_pool;
mod bounded_io;
mod bounded_output;
mod bounded_read;
mod close;
mod connection;
mod datagram;
mod datagram_sender;
mod deadline;
mod empty_socket_wait;
mod extension;
mod idle_timeout;
mod input_half;
mod io_error;
mod line;
mod outbox;
mod outbox_queue;
mod outbox_send;
mod outbox_thread;
mod output_half;
mod preface;
mod proxy_header;
mod raw_stream;
mod raw_stream_status;
mod read_buffer;
mod split;
mod stop_token;
mod stream;
mod tls_seam;
mod wrap;

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::address::Address;
pub use crate::error::Stopping;
use crate::events::Limit;
use crate::limits::Limits;
use crate::live::{Entry, Registration};
use crate::server_context::ServerContext;
use crate::sys::tcp_info;

pub use crate::peer_fault::PeerFault;
pub use crate::sys::Credentials;
pub use crate::timed_out::{TimedOut, Timeout};
pub(crate) use block_pool::keep_block;
pub use connection::Stream;
pub use datagram::{DatagramRequest, Reply};
pub use datagram_sender::{DatagramSender, LastingReply};
pub use deadline::Deadline;
pub(crate) use extension::Extension;
pub use input_half::InputHalf;
pub use line::{Line, LineTooLong};
pub use outbox::{Outbox, OutboxError};
pub use output_half::OutputHalf;
pub(crate) use preface::{Preface, PrefacePlace, Prefaces, handshake_deadline};
pub(crate) use proxy_header::{BeyondLimit, NoHeader, ProxyHeader};
pub use read_buffer::Chunk;
#[doc(alias = "threading.Event")]
pub use stop_token::StopToken;
#[doc(alias("rfile", "wfile", "connection", "sendall", "makefile"))]
pub use stream::StreamRequest;
#[cfg(feature = "tls")]
pub(crate) use tls_seam::{Seal, SealBase, SealedStream};

/// The methods that every kind of request has, for servers and hooks that work with any kind.
///
/// A custom transport may define its own request type; handlers of that type implement
/// [`BaseRequestHandler`](crate::handler::BaseRequestHandler).
///
/// ```
/// use socketserver::request::Request;
///
/// /// A line for a log, for every kind of request.
/// fn line(request: &impl Request) -> String {
///     format!("{} at {}", request.client_address(), request.server().server_address())
/// }
/// ```
pub trait Request {
    /// The address of the peer.
    fn client_address(&self) -> &Address;

    /// The server that has accepted the request.
    fn server(&self) -> &ServerContext;

    /// Sets the handler's own deadline for every wait from now on. The server has a deadline too, and the earlier of
    /// the two applies. `None` removes the handler's deadline and leaves the server's.
    fn set_deadline(&mut self, deadline: Option<Deadline>);

    /// Sets the server's deadline. The server calls this method for each step before the handler (a PROXY header, a TLS
    /// handshake, `wrap_request`), and then for `Limits::request`. A handler that has to outlast `Limits::request` calls
    /// it with `None` or with a later moment; nothing else lifts that limit.
    ///
    /// A request type with only one deadline keeps this default, which sets that deadline.
    fn set_server_deadline(&mut self, deadline: Option<Deadline>) {
        self.set_deadline(deadline);
    }

    /// Says that the peer may still be sending when the request ends, and needs time to read its answer: see
    /// [`StreamRequest::expect_more_input`]. The server calls this method for requests that have failed or are refused.
    /// For a request without a connection it does nothing.
    fn expect_more_input(&mut self) {}

    /// The request's ticket. A handler may swap its request for another one of the same type. When the handler has ended,
    /// this ticket shows the server which request the handler holds then. Errors of that request's peer then count as
    /// the peer's fault.
    ///
    /// A request type of your own returns the ticket that it keeps. With this default the errors of a swapped-in
    /// request count as failures of the handler, as those of an upstream do.
    fn ticket(&self) -> Option<&Ticket> {
        None
    }

    /// Whether the whole request has already arrived, so that no wait has to be bounded: true for datagrams. This saves
    /// a look at the clock for each datagram.
    fn is_whole(&self) -> bool {
        false
    }
}

/// A request's registration with its server: its entry in the live list, its limits, its server. The server passes the
/// ticket to [`Transport::make_request`](crate::transport::Transport::make_request), and the request keeps it to the
/// end: when the ticket is dropped, the request leaves the live list.
pub struct Ticket {
    /// The slot in the live list, which the drop gives back; its entry has the limits. A stop token or an outbox may
    /// keep the entry longer.
    registration: Registration,
    /// The server's context, shared by all its requests.
    context: Arc<ServerContext>,
    /// The value that a hook has set for the handler. It is dropped with the ticket, in the worker.
    pub(crate) extension: Extension,
}

impl Ticket {
    /// A ticket for a request that has entered the list.
    pub(crate) fn new(registration: Registration, context: Arc<ServerContext>) -> Self {
        Self { registration, context, extension: Extension::default() }
    }

    /// The address of the client: the peer as `get_request` gave it, or the client that a
    /// [proxy](crate::proxy_protocol) has named since.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        self.registration.entry.client_address()
    }

    /// The server that has accepted the request.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        &self.context
    }

    /// The limits of this request; they never change.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.registration.entry.limits
    }

    /// A share of the limits, for a part of the request that cannot borrow the ticket.
    pub(crate) fn share_limits(&self) -> Arc<Limits> {
        Arc::clone(&self.registration.entry.limits)
    }

    /// The request's entry in the live list.
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.registration.entry
    }

    /// The limit for one peer that this request exceeds, if any. It is known before a worker has the request, and the
    /// worker then refuses the request.
    pub(crate) fn beyond(&self) -> Option<Limit> {
        self.registration.beyond
    }

    /// Whether the connection is to end instead of waiting. A drain waits for no next request, and for a first
    /// request only until first reads are over. Callers show the wait in the live list before they ask: see the diagram
    /// in `bounded_io.rs`.
    #[inline]
    fn is_to_end(&self) -> bool {
        is_to_end(&self.context, &self.registration.entry)
    }
}

/// Like `Ticket::is_to_end`, for the raw stream below a wrapper, which has no ticket.
#[inline]
fn is_to_end(context: &ServerContext, entry: &Entry) -> bool {
    // The client may be about to send its first request: the connection has until `Limits::first_read` is over.
    let runs = &context.runs;
    // `is_draining` first: it is nearly always false, and this is asked before each wait between two requests.
    runs.is_draining() && (runs.first_reads_are_over() || !entry.is_unheard())
}

/// Notes that the handler learns of the stop, and makes the error that says so. Because of the note, the request's end
/// counts as `Stopped` even if the handler returns another error, or none.
#[cold]
fn stop(entry: &Entry) -> io::Error {
    entry.stop();
    Stopping::error(entry.owner())
}

/// The input of a connection, after a drain has ended it, as far as a drain can.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LateInput {
    /// TCP, and the peer has not ended its output: the system still takes its bytes.
    MayArrive,
    /// The peer has ended its output: nothing follows the bytes that have arrived.
    EndedByPeer,
    /// A Unix socket, say: its peer cannot send any more.
    EndedHere,
}

impl LateInput {
    /// Asks the system about the connection that a drain shuts down, before a receive. If the receive then finds no bytes,
    /// and none may arrive, the input is at its end.
    #[cold]
    fn of(entry: &Entry) -> Self {
        // Without a descriptor the drain has only left its note: no bytes are then the peer's end.
        let Some(fd) = entry.share_connection() else { return Self::EndedByPeer };
        match tcp_info::peer_may_send(fd.as_fd()) {
            Some(true) => Self::MayArrive,
            Some(false) => Self::EndedByPeer,
            // TCP on a system that does not tell.
            None if entry.peer_address().as_inet().is_some() => Self::MayArrive,
            None => Self::EndedHere,
        }
    }
}

/// The request leaves the live list. In a forked child the list is a copy that nobody reads: the parent's request
/// leaves the parent's list when the child has ended.
impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.context.role().is_child() {
            self.context.live.leave(&self.registration);
        }
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("peer", self.client_address()).finish_non_exhaustive()
    }
}
