//! A server's socket, of any of the four kinds: an owner that can close it while other threads use it.
//!
//! A thread that used a bare number could meet another socket after a close, which has got the same number since. So
//! each use is one of two:
//!
//! - [`ServerSocket::with`], for a call that does not wait: a close waits until it has returned.
//! - [`ServerSocket::fileno`], a share, for a wait: the descriptor stays open until the share is dropped.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::RwLock;
use socket2::{Domain, SockAddr, SockRef, Type};

use super::predecessor::Inheritance;
use crate::address::Address;
use crate::error::{Error, Result};

/// A server's socket. The loop and other threads borrow it. A close takes it out, and the descriptor closes when the
/// last borrower has dropped its share.
#[derive(Debug)]
pub(super) struct ServerSocket {
    /// None after the close. The close waits for the calls of [`with`](Self::with) that use the socket.
    fd: RwLock<Option<Arc<OwnedFd>>>,
}

impl ServerSocket {
    /// Owns the socket from here on.
    pub(super) fn new(socket: socket2::Socket) -> Self {
        Self { fd: RwLock::new(Some(Arc::new(socket.into()))) }
    }

    /// Replaces the socket by another one. The old one closes.
    ///
    /// Used for the next candidate of a bind. The socket of a server that listens is never replaced.
    pub(super) fn replace(&self, socket: socket2::Socket) {
        *self.fd.write() = Some(Arc::new(socket.into()));
    }

    /// A share of the descriptor, which keeps it open. None if the socket is closed.
    pub(super) fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.fd.read().clone()
    }

    /// Closes the socket. A call that has a share of it goes on until it returns.
    pub(super) fn close(&self) {
        self.fd.write().take();
    }

    /// Uses the socket, if it is open. Otherwise fails with EBADF, as the system would.
    pub(super) fn with<R>(&self, use_it: impl FnOnce(&OwnedFd) -> io::Result<R>) -> io::Result<R> {
        match &*self.fd.read() {
            Some(fd) => use_it(fd),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// The address that it is bound to, as the kernel tells.
    pub(super) fn local_address(&self) -> io::Result<Address> {
        self.with(|fd| Ok(Address::from_socket(&SockRef::from(fd).local_addr()?)))
    }

    /// The same as a name that the kernel takes. None if the socket is closed.
    pub(super) fn local_name(&self) -> Option<SockAddr> {
        self.with(|fd| SockRef::from(fd).local_addr()).ok()
    }
}

/// Where a server's socket comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This process has made it: until it forks, no other process has it.
    Made,
    /// It was handed over, open and bound. Other processes may have it as well, and this server must not remove its
    /// name.
    Adopted,
    /// As `Adopted`, and the other process has decided everything about it: it listens already, with a backlog of
    /// that process's choice.
    Inherited,
    /// It comes from a predecessor, whose place this process takes. It is ours when the predecessor has closed it.
    Predecessor(Inheritance),
}

impl Origin {
    /// For a socket that a service manager has made. It was passed to this process, or to a predecessor, which has
    /// handed it over under this number.
    pub(super) fn of_activated(inherited_as: Option<usize>) -> Self {
        match inherited_as {
            Some(number) => Self::Predecessor(Inheritance::of_activated(number)),
            None => Self::Inherited,
        }
    }

    /// The number of a predecessor's socket.
    pub(super) fn inherited_as(self) -> Option<usize> {
        match self {
            Self::Predecessor(inheritance) => Some(inheritance.number),
            Self::Made | Self::Adopted | Self::Inherited => None,
        }
    }
}

/// Takes over a socket that is open already, if the transport can use it. `domain` is that of Unix sockets, or any
/// other one for internet sockets of both versions.
pub(super) fn adopt(fd: OwnedFd, domain: Domain, kind: Type) -> Result<(socket2::Socket, Address)> {
    // The address is not known yet, so errors name the descriptor.
    let what = || format!("descriptor {}", crate::sys::number(&fd));
    let cannot = |error| Error::io("serve on", what(), error);
    let socket = SockRef::from(&fd);
    let found = socket.r#type().map_err(cannot)?;
    let address = socket.local_addr().map_err(cannot)?;
    // IPv4 and IPv6 are both fit for a TCP or UDP server.
    let unix = domain == Domain::UNIX;
    let is_of_family = if unix { address.is_unix() } else { address.as_socket().is_some() };
    if found != kind || !is_of_family {
        let wanted = match (kind == Type::STREAM, unix) {
            (true, false) => "a TCP socket",
            (true, true) => "a Unix stream socket",
            (false, false) => "a UDP socket",
            (false, true) => "a Unix datagram socket",
        };
        let error = io::Error::new(io::ErrorKind::InvalidInput, format!("it is not {wanted}"));
        return Err(cannot(error));
    }
    // `listen` gives an unbound stream socket an address, or fails. An unbound datagram socket could receive nothing.
    let is_unbound = match address.as_socket() {
        Some(inet) => inet.port() == 0,
        None => address.is_unnamed() && socket.peer_addr().is_err(),
    };
    if kind == Type::DGRAM && is_unbound {
        let why = "it is bound to no address; bind it first";
        return Err(cannot(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    // The descriptor was inheritable in order to reach this process. Programs that this server starts must not
    // inherit it.
    socket.set_cloexec(true).map_err(cannot)?;
    Ok((fd.into(), Address::from_socket(&address)))
}
