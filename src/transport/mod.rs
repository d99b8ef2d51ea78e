//! What requests come by: TCP, UDP, Unix stream and Unix datagram sockets, or a [`Transport`] of one's
//! own.

mod accept_error;
mod datagram_socket;
mod inet;
mod reply_loop;
mod server_socket;
mod socket_file;
mod socket_options;
mod stream_listener;
mod tcp;
mod udp;
mod unix;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crate::address::Address;
pub use crate::address::BindAddress;
use crate::error::Result;
use crate::request::Request;
pub use crate::request::Ticket;

pub use accept_error::{AcceptAction, accept_action};
pub use socket_options::SocketOptions;
pub use tcp::Tcp;
pub use udp::Udp;
pub use unix::{UnixDatagram, UnixStream};

/// What requests come by. Implement it to serve over something else.
///
/// A server calls it in this order, which is Python's:
///
/// 1. [`server_bind`](Self::server_bind) and [`server_activate`](Self::server_activate), once each;
/// 2. for every request [`get_request`](Self::get_request), in the loop; when that says `WouldBlock`,
///    the loop waits until [`fileno`](Self::fileno) is readable;
/// 3. [`make_request`](Self::make_request), in the worker that runs it;
/// 4. [`end_request`](Self::end_request), which is [`shutdown_request`](Self::shutdown_request) and
///    [`close_request`](Self::close_request), at its end; or neither, if another process has taken it over: then its raw form is just dropped;
/// 5. when the server closes: [`refuse_new`](Self::refuse_new), and [`server_close`](Self::server_close), once or more
///    often.
pub trait Transport: Send + Sync + 'static {
    /// What `get_request` returns: enough to make a request, in another thread. Dropping it closes it
    /// and does nothing else.
    type Raw: Send + 'static;

    /// What handlers hold: [`StreamRequest`](crate::StreamRequest),
    /// [`DatagramRequest`](crate::DatagramRequest), or a type of one's own.
    type Request: Request + 'static;

    /// Binds to the address. `before_bind` is the hook of that name: it gets the socket, if there is
    /// one, before its address is taken.
    ///
    /// # Errors
    ///
    /// If the address cannot be had.
    fn server_bind(&self, before_bind: BeforeBind<'_>) -> Result<()>;

    /// Begins to listen, where that is a step of its own.
    ///
    /// # Errors
    ///
    /// If it cannot.
    fn server_activate(&self) -> Result<()>;

    /// Where it listens: after `server_bind`, the real address.
    fn server_address(&self) -> Address;

    /// What is readable when there may be a request: the socket, or an [`Event`](crate::park::Event) of the
    /// transport's own. The same from `server_activate` on, and none once it is closed.
    fn fileno(&self) -> Option<Arc<OwnedFd>>;

    /// Takes the next request, without waiting for one.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if there is none. What follows from other errors is
    /// [`accept_action`](Self::accept_action)'s answer.
    fn get_request(&self) -> io::Result<(Self::Raw, Address)>;

    /// Whether asking in vain costs more than waiting: the loop then waits before each request, and not only
    /// when there is none. `fileno` has to be readable whenever there is one, whatever was asked before.
    /// Default: false.
    fn waits_first(&self) -> bool {
        false
    }

    /// What follows from an error of `get_request`. Default: [`accept_action`].
    fn accept_action(&self, error: &io::Error) -> AcceptAction {
        accept_action(error)
    }

    /// Ends waiting clients unanswered, by means of a descriptor kept for this, when there is no other
    /// one left. Says how many. Default: none.
    fn shed(&self) -> usize {
        0
    }

    /// The connection behind a request, if it has one of its own: by it the request can be ended from
    /// outside.
    fn connection(raw: &Self::Raw) -> Option<Arc<OwnedFd>> {
        let _ = raw;
        None
    }

    /// When a request came, for its age. Default: now, which is right after `get_request` has returned it.
    fn received(raw: &Self::Raw) -> Instant {
        let _ = raw;
        Instant::now()
    }

    /// How many descriptors a live request takes: by that a server limits them to what there is. Default:
    /// none.
    fn descriptors_per_request(&self) -> usize {
        0
    }

    /// Makes the request that a handler holds. Called in the worker.
    fn make_request(&self, raw: Self::Raw, ticket: Ticket) -> Self::Request;

    /// Ends a request in order: the client sees the end of the answer.
    fn shutdown_request(&self, request: &mut Self::Request) {
        let _ = request;
    }

    /// Closes a request. Default: drops it.
    fn close_request(&self, request: Self::Request) {
        drop(request);
    }

    /// Closes this process's copy of the listener, in a forked child: it keeps the port no longer than
    /// its parent does, and removes nothing. Default: nothing, which is right for transports whose
    /// requests need the server's own socket, as datagrams do.
    fn close_in_child(&self) {}

    /// The same in a child that another server of the process has forked, and that has no use for any socket of this one.
    /// Default: [`close_in_child`](Self::close_in_child).
    fn close_in_others_child(&self) {
        self.close_in_child();
    }

    /// The end of a request: `shutdown_request` and then `close_request`, which is the default, or what comes
    /// to the same for less.
    fn end_request(&self, mut request: Self::Request) {
        self.shutdown_request(&mut request);
        self.close_request(request);
    }

    /// Has nobody new come in, where the listener is this process's alone: called when the server begins to close, while
    /// another thread may be in [`get_request`](Self::get_request). True: that one is then called on until it gives
    /// an error, for those that had come before. Default: false.
    fn refuse_new(&self) -> bool {
        false
    }

    /// When a server that closes may call [`server_close`](Self::server_close). Default: when its loop has ended.
    fn close_when(&self) -> CloseWhen {
        CloseWhen::LoopHasEnded
    }

    /// Stops listening. May be called more than once.
    fn server_close(&self);
}

/// When [`Transport::server_close`] may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseWhen {
    /// At the beginning of a close, by the thread that closes, also while another one is in `get_request`: clients are
    /// refused from then on.
    AtOnce,
    /// By the thread of the loop, when that has ended.
    LoopHasEnded,
    /// When the requests have ended, or the grace is over: they need the server's own socket. A close that does not
    /// wait for requests (without `block_on_close`, or called by the loop or by a handler) calls it when the loop has
    /// ended.
    RequestsHaveEnded,
}

/// The hook that runs before an address is taken.
pub type BeforeBind<'a> = &'a dyn Fn(BorrowedFd<'_>) -> io::Result<()>;

/// A transport that a server can make by itself, from an address or from a socket that is open already.
pub trait Bind: Transport + Sized {
    /// A transport that is not bound yet. Its socket exists.
    ///
    /// # Errors
    ///
    /// If the address is none of this transport's, or there is no descriptor.
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self>;

    /// A transport over a socket that is bound already. It becomes this server's own, and is closed
    /// with it.
    ///
    /// # Errors
    ///
    /// If it is not a socket of this transport's kind.
    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self>;
}
