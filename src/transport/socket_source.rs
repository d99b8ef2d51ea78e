//! [`SocketSource`]: where a server's socket comes from. Every transport looks in this order: a predecessor, a
//! service manager, or else it makes one.

use std::os::fd::OwnedFd;

use super::inherited::{ActivatedAs, SocketKind, TakenSocket, take};
use super::predecessor::{self, PredecessorsSocket};
use super::server_socket::Origin;
use super::socket_options::SocketOptions;
use crate::bind_address::BindAddress;
use crate::error::Result;

/// A transport of this crate, made of a socket of each source.
pub(super) trait SocketSource: Sized {
    const KIND: SocketKind;

    /// Over the socket of a predecessor, whose place this process takes.
    fn of_predecessors(found: PredecessorsSocket, options: &SocketOptions) -> Result<Self>;

    /// Over a socket that is bound already.
    fn over(
        fd: OwnedFd,
        options: &SocketOptions,
        origin: Origin,
        activated: Option<ActivatedAs>,
    ) -> Result<Self>;

    /// Over a new socket, which is not bound yet.
    fn made(address: &BindAddress, options: &SocketOptions) -> Result<Self>;

    /// See [`Bind::unbound`](super::Bind::unbound).
    fn from_address(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        if let Some(found) = predecessor::take(Self::KIND, address)? {
            return Self::of_predecessors(found, options);
        }
        match address.to_activated() {
            Some(which) => {
                let TakenSocket { fd, activated, inherited_as } = take(which, Self::KIND)?;
                Self::over(fd, options, Origin::of_activated(inherited_as), Some(activated))
            }
            None => Self::made(address, options),
        }
    }
}
