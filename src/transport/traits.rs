//! [`Transport`] and [`Bind`]: the traits of a transport, which a new one implements.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::{AcceptAction, BindAddress, HandoverSocket, SocketOptions, Ticket, accept_action};
use crate::address::Address;
use crate::error::Result;
use crate::request::Request;

/// The way in which requests arrive. The [module](super) shows how to write a transport.
///
/// A server calls the methods in this order, which is Python's:
///
/// 1. [`server_bind`](Self::server_bind) and [`server_activate`](Self::server_activate), once each;
/// 2. for every request [`get_request`](Self::get_request), in the loop or in a worker that accepts; when `get_request`
///    returns `WouldBlock`, its caller waits until [`fileno`](Self::fileno) is readable;
/// 3. [`make_request`](Self::make_request), in the worker that runs the request;
/// 4. [`end_request`](Self::end_request), when the request has ended: it calls
///    [`shutdown_request`](Self::shutdown_request) and [`close_request`](Self::close_request). If a forked child serves
///    the request, its parent only drops the raw value;
/// 5. when the server closes: [`refuse_new`](Self::refuse_new), and [`server_close`](Self::server_close), once or more
///    often.
pub trait Transport: Send + Sync + 'static {
    /// The value that `get_request` returns, from which a worker makes the request. Dropping the value closes it and
    /// does nothing else.
    type Raw: Send + 'static;

    /// The request that handlers hold: [`StreamRequest`](crate::StreamRequest),
    /// [`DatagramRequest`](crate::DatagramRequest), or a type of your own.
    type Request: Request + 'static;

    /// Binds to the address. A transport with a socket first calls `before_bind`, the hook of that name, with the socket.
    ///
    /// # Errors
    ///
    /// If the address cannot be bound.
    fn server_bind(&self, before_bind: BeforeBind<'_>) -> Result<()>;

    /// The transport's name in one word, for labels of figures and for logs. Default: `other`.
    fn name(&self) -> &'static str {
        "other"
    }

    /// Begins to listen, if that is a separate step.
    ///
    /// # Errors
    ///
    /// If it cannot listen.
    fn server_activate(&self) -> Result<()>;

    /// The address at which the transport listens; after `server_bind` it has the port that the system has chosen.
    fn server_address(&self) -> Address;

    /// The descriptor that is readable when there may be a request: the socket, or an [`Event`](crate::park::Event) of
    /// the transport's own. It stays the same from `server_activate` on, and is `None` after `server_close`.
    fn fileno(&self) -> Option<Arc<OwnedFd>>;

    /// Takes the next request, and never waits for one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none. For other errors [`accept_action`](Self::accept_action) says what the loop does.
    fn get_request(&self) -> io::Result<(Self::Raw, Address)>;

    /// Whether a `get_request` that finds no request costs more than a wait: the loop then waits before each request,
    /// and not only after a `WouldBlock`. `fileno` then has to be readable whenever there is a request. Default: false.
    fn waits_first(&self) -> bool {
        false
    }

    /// The loop's action after an error of `get_request`. Default: the table of [`accept_action`].
    fn accept_action(&self, error: &io::Error) -> AcceptAction {
        accept_action(error)
    }

    /// Closes waiting clients unanswered, by means of a spare descriptor, when this process has no other descriptor
    /// left. Returns the number of closed clients. Default: none.
    fn shed(&self) -> usize {
        0
    }

    /// The connection of a request, if the request has its own: the server shuts the connection down to end the request
    /// from outside. Default: none.
    fn connection(raw: &Self::Raw) -> Option<Arc<OwnedFd>> {
        let _ = raw;
        None
    }

    /// The moment at which a request arrived, from which its age counts. Default: the time of the call, right after
    /// `get_request` has returned the value.
    fn received(raw: &Self::Raw) -> Instant {
        let _ = raw;
        Instant::now()
    }

    /// How many descriptors a live request holds. The server accepts only as many requests as this process may have
    /// descriptors for. Default: none.
    fn descriptors_per_request(&self) -> usize {
        0
    }

    /// Makes the request that a handler holds. Called in the worker. `ticket` is the request's entry in the live list;
    /// the request has to keep it.
    fn make_request(&self, raw: Self::Raw, ticket: Ticket) -> Self::Request;

    /// Ends a request in order: the client sees the end of the answer. Default: nothing.
    fn shutdown_request(&self, request: &mut Self::Request) {
        let _ = request;
    }

    /// Closes a request. Default: drops it.
    fn close_request(&self, request: Self::Request) {
        drop(request);
    }

    /// In a forked child: closes this process's copy of the listener, so that the port is free when the parent closes, and
    /// removes nothing. Default: nothing, which is right for transports whose requests need the server's own socket, as
    /// datagrams do.
    fn close_in_child(&self) {}

    /// Whether [`close_in_child`](Self::close_in_child) does nothing but close [`fileno`](Self::fileno). A forked child
    /// then does not call `close_in_child`, but opens another file under the descriptor's number, which costs less.
    /// Default: false.
    fn closes_descriptor_alone(&self) -> bool {
        false
    }

    /// Like `close_in_child`, in a child that another server of the process has forked. Such a child needs no socket of
    /// this server. Default: [`close_in_child`](Self::close_in_child).
    fn close_in_others_child(&self) {
        self.close_in_child();
    }

    /// Ends and closes a request. Default: `shutdown_request` and then `close_request`. Override it if both steps
    /// together take fewer system calls.
    fn end_request(&self, mut request: Self::Request) {
        self.shutdown_request(&mut request);
        self.close_request(request);
    }

    /// Refuses new clients, if no other process has the listener. Called when the server begins to close, while
    /// another thread may be in [`get_request`](Self::get_request). Returns whether requests that arrived earlier are
    /// left; if so, `get_request` is called until it fails. Default: false.
    fn refuse_new(&self) -> bool {
        false
    }

    /// When a server that closes may call [`server_close`](Self::server_close). Default: when its loop has ended.
    fn close_when(&self) -> CloseWhen {
        CloseWhen::LoopHasEnded
    }

    /// Stops listening. May be called more than once.
    fn server_close(&self);

    /// The socket that a handover passes to the next process. A transport that wraps one of this crate's returns the
    /// inner one's. Default: none; the transport then stays with its process, and the next process makes its own.
    fn handover(&self) -> Option<&dyn HandoverSocket> {
        None
    }
}

/// When [`Transport::server_close`] may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseWhen {
    /// At the beginning of a close, in the thread that closes, even while another thread is in `get_request`. Clients
    /// are refused from then on.
    AtOnce,
    /// When the loop has ended, in the loop's thread; in the thread that closes, if no loop runs.
    LoopHasEnded,
    /// When the requests have ended or the grace period is over, because they need the server's own socket. A close that
    /// does not wait for requests (without `block_on_close`, or called by the loop or by a handler) calls it when the loop
    /// has ended.
    RequestsHaveEnded,
}

/// The hook that runs before an address is bound: [`ServerHooks::before_bind`](crate::ServerHooks::before_bind).
pub type BeforeBind<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<()>;

/// A transport that a server can make by itself, from an address or from an open socket.
/// [`Server::bind`](crate::Server::bind) and [`Builder::from_fd`](crate::Builder::from_fd) need one.
pub trait Bind: Transport + Sized {
    /// Makes a transport that is not bound yet. Its socket is open already.
    ///
    /// # Errors
    ///
    /// If the address is not of this transport's kind, or the process is out of descriptors.
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self>;

    /// Makes a transport over a socket that is already bound. From then on the socket belongs to the server, and is closed
    /// with it.
    ///
    /// # Errors
    ///
    /// If the descriptor is not a socket of this transport's kind.
    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self>;
}
