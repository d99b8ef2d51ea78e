//! A listening stream socket, TCP or Unix: accepting, shedding, and what accepted connections start with.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use socket2::SockRef;

use super::server_socket::ServerSocket;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::sys::{self, fork_count::Moment};

/// A connection that has been accepted. Dropping it closes it.
#[derive(Debug)]
pub struct Accepted {
    pub(super) fd: Arc<OwnedFd>,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: ServerSocket,
    backlog: i32,
    /// When the socket was made, if it was made here: from then on it is ours alone until this process forks.
    made: Option<Moment>,
    /// Kept open only to be given up: with it a process that is out of descriptors can still accept
    /// a client, in order to close it.
    reserve: Mutex<Option<OwnedFd>>,
}

/// How many clients are ended in one go when descriptors have run out. It bounds the time away from
/// the loop; those that remain are met by the next try.
const SHED_AT_ONCE: usize = 1_024;

impl Listener {
    /// An accept that finds nobody costs fifteen times a poll (measured on Linux 6.18: 3.3 microseconds to
    /// 0.2), because the kernel makes the new socket before it looks.
    pub(super) const WAITS_FIRST: bool = true;

    /// `adopted`: others may have it as well.
    pub(super) fn new(socket: socket2::Socket, backlog: i32, adopted: bool) -> Self {
        Self {
            socket: ServerSocket::new(socket),
            backlog,
            made: (!adopted).then(Moment::now),
            reserve: Mutex::new(sys::spare_descriptor().ok()),
        }
    }

    pub(super) fn server_activate(&self) -> Result<()> {
        let listen = self.socket.with(|fd| {
            let socket = SockRef::from(fd);
            socket.listen(self.backlog)?;
            // Accepting must never block: between the wait and the accept the client may have gone.
            socket.set_nonblocking(true)?;
            // Accepted connections start with it, where the system copies options; how long they wait is theirs
            // to say.
            socket.set_read_timeout(None)
        });
        listen.map_err(|error| match self.socket.local_address() {
            Ok(address) => Error::io("listen at", address, error),
            Err(_) => Error::io("listen on", "a socket that is not bound", error),
        })
    }

    pub(super) fn get_request(&self) -> io::Result<(Accepted, Address)> {
        // Close-on-exec is set by the same call; a fork between two would leak the connection.
        let (connection, peer) = self.socket.with(|fd| SockRef::from(fd).accept())?;
        if !sys::ACCEPTED_INHERITS_OPTIONS {
            connection.set_nonblocking(false)?;
        }
        let fd = Arc::new(OwnedFd::from(connection));
        Ok((Accepted { fd }, Address::from_socket(&peer)))
    }

    pub(super) fn shed(&self) -> usize {
        let mut reserve = self.reserve.lock();
        if reserve.take().is_none() {
            // Without a reserve nothing can be shed, but perhaps there is room for one again.
            *reserve = sys::spare_descriptor().ok();
            return 0;
        }
        let mut shed = 0;
        while shed < SHED_AT_ONCE && self.get_request().is_ok() {
            shed += 1;
        }
        *reserve = sys::spare_descriptor().ok();
        shed
    }

    /// Whether those that wait are ours to take.
    pub(super) fn refuse_new(&self) -> bool {
        let is_ours = self.made.is_some_and(|made| made == Moment::now());
        let refuse = |fd: &OwnedFd| {
            sys::refuse_clients::new_clients(fd.as_fd());
            Ok(())
        };
        is_ours && self.socket.with(refuse).is_ok()
    }

    pub(super) fn server_close(&self) {
        self.socket.close();
        self.reserve.lock().take();
    }
}
