//! [`Incoming`]: what a server knows of a request before any worker has to do with it.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use crate::address::Address;
use crate::context::ServerContext;
use crate::request::{Extension, Ticket};
use crate::sys::{self, Credentials};

/// A request that has been taken from the transport and not yet been given to a worker.
pub struct Incoming<'a> {
    ticket: &'a Ticket,
    connection: Option<BorrowedFd<'a>>,
    /// For the request, if it is served.
    extension: RefCell<Extension>,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(ticket: &'a Ticket, connection: Option<BorrowedFd<'a>>) -> Self {
        Self { ticket, connection, extension: RefCell::default() }
    }

    /// What the hook has left for the handler.
    pub(super) fn into_extension(self) -> Extension {
        self.extension.into_inner()
    }

    /// Who sent it.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        self.ticket.client_address()
    }

    /// The server that it came to.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        self.ticket.server()
    }

    /// The request's number in the [live list](ServerContext::live).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.ticket.entry().id()
    }

    /// The connection's descriptor; none for datagrams. What [`StreamRequest::fileno`](crate::StreamRequest::fileno)
    /// says of copies holds here as well.
    #[must_use]
    pub fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.ticket.entry().lend();
        self.connection
    }

    /// Who is at the other end of a Unix stream socket, by the kernel's word.
    ///
    /// # Errors
    ///
    /// If it is not a connection over a Unix socket.
    pub fn peer_credentials(&self) -> io::Result<Credentials> {
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        self.connection.ok_or_else(unsupported).and_then(sys::credentials)
    }

    /// Leaves something for the handler, which finds it by `request.extension::<E>()`: the user that an address
    /// stands for, say, so that nobody has to look twice. A request has one such place: a second value replaces the
    /// first, whatever its type is. It is dropped with the request; under [`Forking`](crate::Forking) the child has a copy
    /// of it, and both are dropped.
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
