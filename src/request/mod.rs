//! What a handler holds: [`StreamRequest`] for a connection, [`DatagramRequest`] for a packet.

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
use crate::context::ServerContext;
pub use crate::error::Stopping;
use crate::events::Limit;
use crate::limits::Limits;
use crate::live::{Entry, Registration};

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

/// What every kind of request has, for servers and hooks that do not care which it is.
///
/// A transport of one's own may bring a request type of its own: handlers then implement
/// [`BaseRequestHandler`](crate::handler::BaseRequestHandler) for it.
pub trait Request {
    /// Who sent it.
    fn client_address(&self) -> &Address;

    /// The server that it came to.
    fn server(&self) -> &ServerContext;

    /// The handler's own bound on every wait from here on, beside the server's: the earlier of the two holds. None
    /// takes this one away, and leaves the server's as it is.
    fn set_deadline(&mut self, deadline: Option<Deadline>);

    /// The server's bound: that of `wrap_request` (`Limits::handshake`), then that of the whole request
    /// (`Limits::request`). The server calls it. A handler that has to outlast `Limits::request` says so by calling it
    /// with none, or with a later moment: nothing else lifts that limit.
    ///
    /// A request type that knows one bound only leaves this as it is, and has that one set.
    fn set_server_deadline(&mut self, deadline: Option<Deadline>) {
        self.set_deadline(deadline);
    }

    /// The peer may still be sending when the request ends, and has to have time to read its answer: see
    /// [`StreamRequest::expect_more_input`]. The server calls it for requests that have failed or are refused. Without a
    /// connection there is nothing to do.
    fn expect_more_input(&mut self) {}

    /// Whether all of it has come already, so that there is no wait to bound: true for datagrams. It
    /// spares each of them a look at the clock.
    fn is_whole(&self) -> bool {
        false
    }
}

/// What a server gives a transport to make a request with: the request's place in the live list, its
/// server and its limits.
pub struct Ticket {
    registration: Registration,
    context: Arc<ServerContext>,
    /// What a hook has left for the handler.
    pub(crate) extension: Extension,
}

impl Ticket {
    pub(crate) fn new(registration: Registration, context: Arc<ServerContext>) -> Self {
        Self { registration, context, extension: Extension::default() }
    }

    /// Who sent the request, as `get_request` said.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        self.registration.entry.client_address()
    }

    /// The server that it came to.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        &self.context
    }

    /// The limits that hold for this request to its end.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.registration.limits
    }

    /// The request's line in the live list, for whoever has to tell of its end.
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.registration.entry
    }

    /// The limit for one peer that this request is beyond, if it is.
    pub(crate) fn beyond(&self) -> Option<Limit> {
        self.registration.beyond
    }

    /// Whether the server drains, so that no next request is waited for; and the first one only for a while.
    fn is_to_end(&self) -> bool {
        is_to_end(&self.context, &self.registration.entry)
    }

    /// The error by which a handler is told that its server is stopping.
    #[cold]
    fn stop(&self) -> io::Error {
        stop(&self.registration.entry)
    }

    /// Whether the reaper ends this request's waits when `Limits::idle` is over.
    fn has_reaper(&self) -> bool {
        self.context.reaps_idle(self.limits().idle)
    }
}

fn is_to_end(context: &ServerContext, entry: &Entry) -> bool {
    let runs = &context.runs;
    runs.is_draining() && (runs.first_reads_are_over() || !entry.is_unheard())
}

fn stop(entry: &Entry) -> io::Error {
    entry.stop();
    Stopping::error(entry.owner())
}

/// The request leaves the live list when it lets go of its ticket. In a forked child the list is a copy that
/// nobody looks at any more: the parent's request leaves the parent's when the child has ended.
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
