//! [`Incoming`]: a request as the hook `verify_request` sees it.
//!
//! It is made for one call of the hook, in the loop or in a worker that accepts, and borrows from the job. Nothing of
//! the request has been read: a hook that waited for its bytes would hold up every other client.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use crate::address::Address;
use crate::request::{Extension, Ticket};
use crate::server_context::ServerContext;
use crate::sys::{self, Credentials};

/// A request that was accepted and has no worker yet. [`verify_request`](crate::ServerHooks::verify_request) decides
/// by it whether the request is served.
pub struct Incoming<'a> {
    /// The request's slot in the live list, which it gets before the hook runs.
    ticket: &'a Ticket,
    /// The connection; `None` for datagrams.
    connection: Option<BorrowedFd<'a>>,
    /// A value from the hook, passed on to the request if it is served. A cell, because hooks get a shared reference; no
    /// other thread has it.
    pub(super) extension: RefCell<Extension>,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(ticket: &'a Ticket, connection: Option<BorrowedFd<'a>>) -> Self {
        // Empty, and without an allocation: most hooks leave nothing.
        Self { ticket, connection, extension: RefCell::default() }
    }

    /// The address of the sender: the other end of the connection. If that is a [proxy](crate::proxy_protocol), the
    /// client is not known yet. The hook [`wrap_request`](crate::ServerHooks::wrap_request) runs when it is known.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        self.ticket.client_address()
    }

    /// The server to which the request was sent.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        self.ticket.server()
    }

    /// The request's number in the [live list](ServerContext::live).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.ticket.entry().id()
    }

    /// The connection's descriptor; `None` for datagrams. See [`StreamRequest::fileno`](crate::StreamRequest::fileno)
    /// about copies of it.
    #[must_use]
    pub fn fileno(&self) -> Option<BorrowedFd<'_>> {
        // From here on a copy of the descriptor may exist: see `StreamRequest::fileno`.
        self.ticket.entry().lend();
        self.connection
    }

    /// The process, user and group at the other end of a Unix stream socket, as the kernel has noted them.
    ///
    /// # Errors
    ///
    /// If this is not a connection over a Unix socket.
    pub fn peer_credentials(&self) -> io::Result<Credentials> {
        // A datagram's sender is known by its address alone.
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        self.connection.ok_or_else(unsupported).and_then(sys::credentials)
    }

    /// Leaves a value for the handler, which gets it by `request.extension::<E>()`: for example the user that an
    /// address stands for, so that it is looked up once. A request has one such value: a second one replaces the first,
    /// whatever its type is. The value is dropped with the request. Under [`Forking`](crate::Forking) the child has a
    /// copy of it, and both are dropped.
    ///
    /// ```
    /// use std::io::Write;
    /// use socketserver::{HandlerError, ServerHooks, StreamRequest, UnixStreamServer, stream_fn};
    /// use socketserver::hooks::Incoming;
    ///
    /// struct User(u32);
    ///
    /// struct Known;
    ///
    /// impl ServerHooks<StreamRequest> for Known {
    ///     fn verify_request(&self, incoming: &Incoming<'_>) -> Result<bool, HandlerError> {
    ///         incoming.set_extension(User(incoming.peer_credentials()?.uid));
    ///         Ok(true)
    ///     }
    /// }
    ///
    /// # fn main() -> socketserver::Result<()> {
    /// let handler = stream_fn(|request| {
    ///     let user = request.extension::<User>().map_or(0, |user| user.0);
    ///     Ok(writeln!(request, "you are user {user}")?)
    /// });
    /// let server = UnixStreamServer::builder().hooks(Known).bind("@known-users", handler)?;
    /// # drop(server); Ok(())
    /// # }
    /// ```
    pub fn set_extension<E: Any + Send + Sync>(&self, value: E) {
        self.extension.borrow_mut().set(value);
    }
}

impl fmt::Debug for Incoming<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("client_address", self.client_address()).finish()
    }
}
