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
//!
//! A close of a listener that is this process's alone:
//!
//! ```text
//! refuse_new       the kernel takes no new clients; those in the queue stay
//! get_request ..   until WouldBlock: their requests are served within the drain
//! server_close     the descriptor closes; the file of a Unix socket goes before it
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::SockRef;

use super::server_socket::ServerSocket;
use super::{Holders, SocketKind};
use crate::address::Address;
use crate::error::{Error, Result};
use crate::sys;

/// A connection that has been accepted, and is no request yet. Dropping the value closes the connection.
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
    /// The listening socket, until a close takes it out.
    pub(super) socket: ServerSocket,
    /// A spare descriptor. A process that is out of descriptors closes it, and can then accept one client after the other
    /// in order to close them.
    reserve: Mutex<Option<OwnedFd>>,
}

/// How many clients one [`StreamListener::shed`] closes. This bounds the time in which the loop does nothing else;
/// the next call closes the others.
const MAX_SHED: usize = 1_024;

impl StreamListener {
    /// A listener that does not listen yet. If no descriptor is free for the reserve, there is no reserve, and the
    /// listener can shed nothing.
    pub(super) fn new(socket: ServerSocket) -> Self {
        Self { socket, reserve: Mutex::new(sys::spare_descriptor().ok()) }
    }

    /// Listens, in non-blocking mode.
    pub(super) fn server_activate(&self) -> Result<()> {
        // Each `listen` sets the queue's length anew, so a second one does no harm to a predecessor's socket, which
        // listens already.
        let listen = self.socket.with(|fd| {
            let socket = SockRef::from(fd);
            // A service manager's socket listens already, and its unit decides the length of the accept queue.
            if self.socket.activated.is_none() {
                socket.listen(self.socket.options.request_queue_size)?;
            }
            // An accept must never block: a client may leave between the wait and the accept.
            socket.set_nonblocking(true)?;
            // Where the system copies options, accepted connections start with the listener's timeout. A listener that was
            // handed over may have one.
            socket.set_read_timeout(None)
        });
        // An adopted socket may be unbound, and `listen` may then fail for that reason.
        listen.map_err(|error| match self.socket.local_address() {
            Ok(address) => Error::io("listen at", address, error),
            Err(_) => Error::io("listen on", "a socket that is not bound", error),
        })
    }

    /// Accepts one connection; `WouldBlock` if there is none.
    ///
    /// Never blocks, and may be called by several threads. The caller owns the connection: it has no live entry yet, and a
    /// drop closes it at once.
    pub(super) fn get_request(&self) -> io::Result<(AcceptedConnection, Address)> {
        // The same call sets close-on-exec: between two calls a fork could leak the connection to a child.
        // Two threads may accept at the same time. The kernel gives each client to one of them, and the other one
        // gets `WouldBlock`. A close waits for this call, which never blocks.
        let (connection, peer) = self.socket.with(|fd| SockRef::from(fd).accept())?;
        if !sys::ACCEPTED_INHERITS_OPTIONS {
            // `SocketIo` relies on blocking mode. On Linux an accepted socket never has O_NONBLOCK from its
            // listener, so the call is saved there.
            connection.set_nonblocking(false)?;
            // On Linux a connection also has the options of its listener.
            if self.socket.kind == SocketKind::TcpListener {
                self.socket.options.prepare_tcp(&connection)?;
            }
        }
        // The live list gets a share of the descriptor, to shut the connection down from another thread.
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
        // Each accepted connection closes here, and frees its descriptor for the next. An error ends the loop: the queue is
        // empty, or the free descriptor is gone.
        while shed < MAX_SHED && self.get_request().is_ok() {
            shed += 1;
        }
        *reserve = sys::spare_descriptor().ok();
        shed
    }

    /// Refuses new clients, if no other process has this listener. Returns whether this server has to serve the clients in
    /// the accept queue. Called by the thread that closes the server, while others may be in `get_request`. The thread that
    /// closes then accepts the clients that are in the queue, and closes the listener when none is left
    /// (`server/drain_backlog.rs`).
    pub(super) fn refuse_new(&self) -> bool {
        match self.socket.holders() {
            Holders::Alone => {}
            // The successor may never be ready, so this server takes the clients in the queue. It refuses nobody,
            // because that would end the successor's accept queue as well.
            Holders::Both => return true,
            Holders::Other => return false,
        }
        let refuse = |fd: &OwnedFd| {
            // If the kernel cannot refuse clients, the close resets those of the last moment. That is no reason to fail.
            sys::refuse_clients(fd.as_fd());
            Ok(())
        };
        self.socket.is_alone() && self.socket.with(refuse).is_ok()
    }

    /// Closes the listener, with its file, and the reserve. The second call does nothing.
    pub(super) fn server_close(&self) {
        self.socket.server_close();
        self.reserve.lock().take();
    }
}
