//! The request that a handler is given: [`StreamRequest`] for a connection, [`DatagramRequest`] for a packet.

mod block_pool;
mod bounded_io;
mod close;
mod connection;
mod datagram;
mod deadline;
mod extension;
mod idle_timeout;
mod io_error;
mod line;
mod outbox;
mod outbox_queue;
mod outbox_writer;
mod raw_status;
mod raw_stream;
mod read_buffer;
mod stop_token;
mod stream;
mod wrap;

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::address::Address;
pub use crate::error::Stopping;
use crate::events::Limit;
use crate::limits::Limits;
use crate::live::{Entry, Registration};
use crate::server_context::ServerContext;

pub use crate::error::{TimedOut, Timeout};
pub use crate::peer_fault::PeerFault;
pub use crate::sys::Credentials;
pub(crate) use block_pool::keep_block;
pub use connection::Stream;
pub use datagram::{DatagramRequest, Reply};
pub use deadline::Deadline;
pub(crate) use extension::Extension;
pub use line::{Line, LineTooLong};
pub use outbox::{Outbox, OutboxError};
pub use read_buffer::Chunk;
#[doc(alias = "threading.Event")]
pub use stop_token::StopToken;
#[doc(alias("rfile", "wfile", "connection", "sendall", "makefile"))]
pub use stream::StreamRequest;

/// The methods that every kind of request has, for servers and hooks that do not care which it is.
///
/// A transport of your own may bring a request type of its own: its handlers implement
/// [`BaseRequestHandler`](crate::handler::BaseRequestHandler) for it.
pub trait Request {
    /// The address of the peer.
    fn client_address(&self) -> &Address;

    /// The server that has accepted it.
    fn server(&self) -> &ServerContext;

    /// The handler's own deadline for every wait from here on, beside the server's: the earlier of the two holds. None
    /// takes this one away, and leaves the server's.
    fn set_deadline(&mut self, deadline: Option<Deadline>);

    /// The server's deadline: for `wrap_request` that of `Limits::handshake`, then that of `Limits::request`. The
    /// server calls it. A handler that has to outlast `Limits::request` calls it with none, or with a later moment;
    /// nothing else lifts that limit.
    ///
    /// A request type with one deadline only keeps this default, which sets that one.
    fn set_server_deadline(&mut self, deadline: Option<Deadline>) {
        self.set_deadline(deadline);
    }

    /// The peer may still be sending when the request ends, and needs time to read its answer: see
    /// [`StreamRequest::expect_more_input`]. The server calls it for requests that have failed or are refused. A
    /// request without a connection does nothing.
    fn expect_more_input(&mut self) {}

    /// Whether all of it has come already, so that no wait has to be bounded: true for datagrams. It saves each of
    /// them a look at the clock.
    fn is_whole(&self) -> bool {
        false
    }
}

/// A request's registration with its server: its line in the live list, its limits, its server. The server gives it to
/// [`Transport::make_request`](crate::transport::Transport::make_request), and the request keeps it to its end: when
/// it is dropped, the request leaves the live list.
pub struct Ticket {
    /// The slot in the live list, which the drop gives back, and the limits.
    registration: Registration,
    /// The server's, shared by all its requests.
    context: Arc<ServerContext>,
    /// The value that a hook has set for the handler.
    pub(crate) extension: Extension,
}

impl Ticket {
    /// A ticket for a request that has entered the list.
    pub(crate) fn new(registration: Registration, context: Arc<ServerContext>) -> Self {
        Self { registration, context, extension: Extension::default() }
    }

    /// The address of the peer, as `get_request` gave it.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        self.registration.entry.client_address()
    }

    /// The server that has accepted it.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        &self.context
    }

    /// The limits that hold for this request to its end.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.registration.limits
    }

    /// The request's line in the live list.
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.registration.entry
    }

    /// The limit for one peer that this request is beyond, if it is.
    pub(crate) fn beyond(&self) -> Option<Limit> {
        self.registration.beyond
    }

    /// Whether the server drains, so that a next request is not waited for; and a first one only until first reads are
    /// over.
    fn is_to_end(&self) -> bool {
        is_to_end(&self.context, &self.registration.entry)
    }

    /// The error that tells a handler that its server is stopping.
    #[cold]
    fn stop(&self) -> io::Error {
        stop(&self.registration.entry)
    }

    /// Whether the reaper ends this request's waits when `Limits::idle` is over.
    fn has_reaper(&self) -> bool {
        self.context.reaps_idle(self.limits().idle)
    }
}

/// The same for the raw stream below a wrapper, which has no ticket.
fn is_to_end(context: &ServerContext, entry: &Entry) -> bool {
    // A connection that has sent nothing yet may be about to: it has until first reads are over.
    let runs = &context.runs;
    runs.is_draining() && (runs.first_reads_are_over() || !entry.is_unheard())
}

/// Notes that the handler is told of the stop, and makes the error that tells it.
fn stop(entry: &Entry) -> io::Error {
    entry.stop();
    Stopping::error(entry.owner())
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
