//! [`FoundSocket`]: a socket that came bound. Every transport first looks for a predecessor's socket, then for one of a
//! service manager, and otherwise makes a new one.
//!
//! ```text
//! bind(address) -> a predecessor's, bound to it already?  -> FoundSocket   Origin::Predecessor
//!                  `activated`: the service manager's?    -> FoundSocket   Origin::Adopted, or the predecessor's copy of it
//!                  none: the server makes one, and server_bind binds it    Origin::Made
//! from_fd(fd)   -> checked                                -> FoundSocket   Origin::Adopted
//! ```

use std::io;
use std::os::fd::OwnedFd;

use socket2::{SockRef, Socket};

use super::inherited::{self, ActivatedAs, SocketKind, TakenSocket};
use super::predecessor_sockets::{self, PredecessorsSocket, SocketDescription};
use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::{Error, Result};

/// Where a server's socket comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// This process has made it: until it forks, no other process has it.
    Made,
    /// The socket was handed over, open and bound, by the program (`from_fd`) or by a service manager. Other processes may
    /// have it as well, and this server must not remove its name.
    Adopted,
    /// The socket comes from a predecessor, whose place this process takes, and had this number there. It is ours when the
    /// predecessor has closed it.
    Predecessor(usize),
}

impl Origin {
    /// The number of a predecessor's socket.
    pub(super) fn inherited_as(self) -> Option<usize> {
        match self {
            Self::Predecessor(number) => Some(number),
            Self::Made | Self::Adopted => None,
        }
    }
}

/// An open socket for a server that is about to bind, and everything that is known about it.
pub(super) struct FoundSocket {
    /// The open socket. It is bound, unless it is a stream socket that `listen` is to bind. It closes with this value, if no
    /// server takes it.
    pub(super) socket: Socket,
    pub(super) origin: Origin,
    /// The kind, the addresses and the file of the socket. For an adopted socket this process has found them out; for a
    /// predecessor's socket the predecessor has sent them.
    pub(super) description: SocketDescription,
}

impl FoundSocket {
    /// The socket that a predecessor or a service manager has for this address. None: the server makes its own.
    ///
    /// # Errors
    ///
    /// If the address cannot be understood or looked up, or asks for an activated socket that is not there.
    pub(super) fn look_for(kind: SocketKind, address: &BindAddress) -> Result<Option<Self>> {
        if let Some(found) = predecessor_sockets::take(kind, address)? {
            return Ok(Some(found.into()));
        }
        let Some(which) = address.to_activated() else { return Ok(None) };
        let TakenSocket { fd, activated, inherited_as } = inherited::take(which, kind)?;
        // The socket was passed to this process, or to a predecessor, which has handed it over.
        let origin = inherited_as.map_or(Origin::Adopted, Origin::Predecessor);
        Self::adopted(kind, fd, origin, Some(activated)).map(Some)
    }

    /// Takes over a socket that is open already, if the transport can use it.
    ///
    /// # Errors
    ///
    /// If it is no socket of this kind. A Unix or internet datagram socket has to be bound as well: `listen` gives an
    /// unbound stream socket an address, or fails, but an unbound datagram socket could receive nothing.
    pub(super) fn adopted(
        kind: SocketKind,
        fd: OwnedFd,
        origin: Origin,
        activated: Option<ActivatedAs>,
    ) -> Result<Self> {
        // The address is not known yet, so errors name the descriptor.
        let what = || format!("descriptor {}", crate::sys::number(&fd));
        let cannot = |error| Error::io("serve on", what(), error);
        let wrong = |why: String| cannot(io::Error::new(io::ErrorKind::InvalidInput, why));
        let socket = SockRef::from(&fd);
        let found = socket.r#type().map_err(cannot)?;
        let address = socket.local_addr().map_err(cannot)?;
        // IPv4 and IPv6 are both fit for a TCP or UDP server.
        let is_of_family =
            if kind.is_unix() { address.is_unix() } else { address.as_socket().is_some() };
        if found != kind.socket_type() || !is_of_family {
            return Err(wrong(format!("it is not {kind}")));
        }
        let is_unbound = match address.as_socket() {
            Some(inet) => inet.port() == 0,
            None => address.is_unnamed() && socket.peer_addr().is_err(),
        };
        if found == socket2::Type::DGRAM && is_unbound {
            return Err(wrong("it is bound to no address; bind it first".to_owned()));
        }
        // The descriptor was inheritable in order to reach this process. Programs that this server starts must not
        // inherit it.
        socket.set_cloexec(true).map_err(cannot)?;
        let bound = Address::from_socket(&address);
        let (asked, file, alone) = (bound.clone(), None, false);
        let description = SocketDescription { kind, asked, activated, bound, file, alone };
        Ok(Self { socket: fd.into(), origin, description })
    }
}

/// Takes the predecessor's description without a check: the predecessor has served on this socket.
impl From<PredecessorsSocket> for FoundSocket {
    fn from(found: PredecessorsSocket) -> Self {
        let PredecessorsSocket { number, description, fd } = found;
        Self { socket: fd.into(), origin: Origin::Predecessor(number), description }
    }
}
