//! A listening stream socket, TCP or Unix: accepting, shedding, and the end of its accept queue.
//!
//! A close ends the accept queue for *every* process that has the listener. So a close has to know who else has it:
//!
//! | holders | `alone` | a close |
//! |---|---|---|
//! | `Alone` | no fork since this process alone had it | refuses new clients, serves the queue |
//! | `Alone` | unknown (`from_fd`), or a fork since | closes its copy only: the queue is the others' |
//! | `Both`: a successor is starting | | serves the queue, and refuses nobody |
//! | `Other`: the successor serves | | closes its copy only |

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::SockRef;

use super::Holders;
use super::server_socket::{Origin, ServerSocket};
use crate::address::Address;
use crate::error::{Error, Result};
use crate::sys::{self, fork_count::Moment};

/// A connection that has been accepted, and is no request yet. Dropping it closes it.
#[derive(Debug)]
pub struct AcceptedConnection {
    /// Shared with the live list from the beginning of the request on.
    pub(super) fd: Arc<OwnedFd>,
}

/// A listening socket: the part of [`Tcp`](super::Tcp) and [`UnixStream`](super::UnixStream) that is the same.
///
/// Several threads may call [`get_request`](Self::get_request) at the same time, and one may call
/// [`server_close`](Self::server_close) meanwhile: the descriptor stays open until the last call has returned.
#[derive(Debug)]
pub(super) struct StreamListener {
    /// The listening socket, which a close takes out.
    pub(super) socket: ServerSocket,
    /// `SocketOptions::request_queue_size`, for `listen`.
    backlog: i32,
    /// It listens already, and the process that has made it decides the length of its accept queue.
    listens: bool,
    /// The moment at which this process alone had the listener, if it ever had. Until it forks, no other process has
    /// it.
    alone: Mutex<Option<Moment>>,
    /// The processes that have the listener, as far as handovers are concerned.
    holders: Mutex<Holders>,
    /// It comes from a predecessor that alone has it.
    inherited_alone: bool,
    /// A spare descriptor. A process that is out of descriptors closes it, and can then accept one client after the other
    /// in order to close them.
    reserve: Mutex<Option<OwnedFd>>,
}

/// How many clients one [`StreamListener::shed`] closes. This bounds the time in which the loop does nothing else;
/// the next call closes the others.
const MAX_SHED: usize = 1_024;

impl StreamListener {
    /// See [`Transport::waits_first`](super::Transport::waits_first). An accept that finds no client costs as much as
    /// 16 polls (3.3 microseconds against 0.2, measured on Linux 6.18), because the kernel makes the new socket
    /// before it looks for a client.
    pub(super) const WAITS_FIRST: bool = true;

    /// A listener that does not listen yet. If no descriptor is free for the reserve, there is no reserve, and the
    /// listener can shed nothing.
    pub(super) fn new(socket: socket2::Socket, backlog: i32, origin: Origin) -> Self {
        Self {
            socket: ServerSocket::new(socket),
            backlog,
            listens: match origin {
                Origin::Made | Origin::Adopted => false,
                Origin::Inherited => true,
                Origin::Predecessor(found) => found.is_activated,
            },
            alone: Mutex::new((origin == Origin::Made).then(Moment::now)),
            holders: Mutex::new(match origin {
                Origin::Made | Origin::Adopted | Origin::Inherited => Holders::Alone,
                Origin::Predecessor(_) => Holders::Both,
            }),
            inherited_alone: matches!(origin, Origin::Predecessor(found) if found.alone),
            reserve: Mutex::new(sys::spare_descriptor().ok()),
        }
    }

    /// Listens, in non-blocking mode.
    pub(super) fn server_activate(&self) -> Result<()> {
        let listen = self.socket.with(|fd| {
            let socket = SockRef::from(fd);
            if !self.listens {
                socket.listen(self.backlog)?;
            }
            // An accept must never block: a client may leave between the wait and the accept.
            socket.set_nonblocking(true)?;
            // Accepted connections start with a copy of it, where the system copies options. A listener that was handed
            // over may have a timeout.
            socket.set_read_timeout(None)
        });
        // An adopted socket need not be bound, and then `listen` may fail for that.
        listen.map_err(|error| match self.socket.local_address() {
            Ok(address) => Error::io("listen at", address, error),
            Err(_) => Error::io("listen on", "a socket that is not bound", error),
        })
    }

    /// Accepts one connection; `WouldBlock` if there is none.
    pub(super) fn get_request(&self) -> io::Result<(AcceptedConnection, Address)> {
        // The same call sets close-on-exec: between two calls a fork could leak the connection to a child.
        let (connection, peer) = self.socket.with(|fd| SockRef::from(fd).accept())?;
        if !sys::ACCEPTED_INHERITS_OPTIONS {
            connection.set_nonblocking(false)?;
        }
        let fd = Arc::new(OwnedFd::from(connection));
        Ok((AcceptedConnection { fd }, Address::from_socket(&peer)))
    }

    /// Accepts and closes the clients of the accept queue, by means of the reserve. Returns how many it has closed.
    ///
    /// Called when accept has failed with EMFILE. Clients that stay in the queue would wait for an answer that does not
    /// come, until a descriptor is free:
    ///
    /// ```text
    /// close the reserve -> accept, close -> accept, close -> .. -> nothing to accept, or MAX_SHED -> open the reserve
    /// ```
    ///
    /// Another thread may take the free descriptor in between. Then less is shed, or the reserve is missing until the
    /// next call.
    pub(super) fn shed(&self) -> usize {
        // One thread sheds at a time.
        let mut reserve = self.reserve.lock();
        if reserve.take().is_none() {
            // Without a reserve nothing can be shed. By now there may be a free descriptor for a reserve.
            *reserve = sys::spare_descriptor().ok();
            return 0;
        }
        let mut shed = 0;
        // Each accepted connection closes here, and frees its descriptor for the next.
        while shed < MAX_SHED && self.get_request().is_ok() {
            shed += 1;
        }
        *reserve = sys::spare_descriptor().ok();
        shed
    }

    /// Refuses new clients, if no other process has this listener. Returns whether this server has to serve the
    /// clients in the accept queue.
    pub(super) fn refuse_new(&self) -> bool {
        match *self.holders.lock() {
            Holders::Alone => {}
            // The successor may never be ready, so this server takes the clients in the queue. It refuses nobody,
            // because that would end the successor's accept queue as well.
            Holders::Both => return true,
            Holders::Other => return false,
        }
        let is_ours = self.is_alone();
        let refuse = |fd: &OwnedFd| {
            sys::refuse_clients(fd.as_fd());
            Ok(())
        };
        is_ours && self.socket.with(refuse).is_ok()
    }

    /// See [`HandoverSocket`](super::HandoverSocket).
    pub(super) fn set_holders(&self, holders: Holders) {
        let before = std::mem::replace(&mut *self.holders.lock(), holders);
        // The predecessor has closed the listener. So this process alone has it now, if the predecessor alone had it
        // before.
        let mut alone = self.alone.lock();
        let is_taken_over = holders == Holders::Alone && before == Holders::Both;
        if is_taken_over && self.inherited_alone && alone.is_none() {
            *alone = Some(Moment::now());
        }
    }

    /// Whether no other process can have a copy: this process alone has had it at some moment, and has not forked
    /// since.
    pub(super) fn is_alone(&self) -> bool {
        self.alone.lock().is_some_and(|alone| alone == Moment::now())
    }

    /// Closes the listener and the reserve. The second call does nothing.
    pub(super) fn server_close(&self) {
        self.socket.close();
        self.reserve.lock().take();
    }
}

/// The methods of [`Transport`](super::Transport) that are the same for every listening socket. For an implementor with a
/// field `listener`, a [`StreamListener`].
macro_rules! listener_methods {
    () => {
        type Raw = $crate::transport::stream_listener::AcceptedConnection;
        type Request = crate::request::StreamRequest;

        fn server_bind(&self, before_bind: crate::transport::BeforeBind<'_>) -> crate::Result<()> {
            self.name.server_bind(&self.listener.socket, before_bind)
        }

        fn server_address(&self) -> crate::address::Address {
            self.name.server_address(&self.listener.socket)
        }

        fn server_activate(&self) -> crate::error::Result<()> {
            self.listener.server_activate()
        }

        fn fileno(&self) -> Option<std::sync::Arc<std::os::fd::OwnedFd>> {
            self.listener.socket.fileno()
        }

        fn waits_first(&self) -> bool {
            $crate::transport::stream_listener::StreamListener::WAITS_FIRST
        }

        fn shed(&self) -> usize {
            self.listener.shed()
        }

        fn connection(raw: &Self::Raw) -> Option<std::sync::Arc<std::os::fd::OwnedFd>> {
            Some(std::sync::Arc::clone(&raw.fd))
        }

        fn descriptors_per_request(&self) -> usize {
            1
        }

        #[inline]
        fn make_request(
            &self,
            raw: Self::Raw,
            ticket: crate::request::Ticket,
        ) -> crate::request::StreamRequest {
            crate::request::StreamRequest::over_socket(raw.fd, ticket)
        }

        #[inline]
        fn shutdown_request(&self, request: &mut crate::request::StreamRequest) {
            request.shutdown_request();
        }

        #[inline]
        fn close_request(&self, request: crate::request::StreamRequest) {
            request.close_request();
        }

        #[inline]
        fn end_request(&self, request: crate::request::StreamRequest) {
            request.end_request();
        }

        #[inline]
        fn close_in_child(&self) {
            // The reserve keeps no port, and closes when the child ends.
            self.listener.socket.close();
        }

        fn closes_descriptor_alone(&self) -> bool {
            true
        }

        fn refuse_new(&self) -> bool {
            self.listener.refuse_new()
        }

        fn close_when(&self) -> crate::transport::CloseWhen {
            crate::transport::CloseWhen::AtOnce
        }
    };
}

pub(super) use listener_methods;
