//! The common part of TCP and UDP: the addresses that a server may bind to, and the options that both heed.
//!
//! ```text
//! bind("localhost:80")  unbound: looks up [::1]:80 and 127.0.0.1:80, say; a socket for the first, with its options
//! server_bind           binds it to [::1]:80; if that fails: a new socket, bound to 127.0.0.1:80
//! ```
//!
//! The socket is made before the bind, so that a hook can set options that only count then.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::BeforeBind;
use super::inherited::{ActivatedAs, SocketKind};
use super::predecessor::{PredecessorsSocket, SocketDescription};
use super::server_socket::{Origin, ServerSocket};
use super::socket_options::{SocketOptions, set_buffers};
use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::{Error, Result};

/// The addresses that a server was asked to bind to, and how its sockets are made.
#[derive(Debug)]
pub(super) struct InetName {
    /// The addresses of the host name, tried in order. None for a socket that came bound.
    candidates: Vec<SocketAddr>,
    /// Kept for the sockets of later candidates; and for accepted sockets, where the system does not copy the
    /// options.
    pub(super) options: SocketOptions,
    /// TCP's or UDP's way to make a socket.
    make: MakeSocket,
    /// Where the socket comes from.
    pub(super) origin: Origin,
    /// The socket's place among those of the service manager, if the service manager has made it.
    activated: Option<ActivatedAs>,
}

/// Makes a socket for an address and sets its options.
type MakeSocket = fn(&SocketAddr, &SocketOptions) -> io::Result<Socket>;

impl InetName {
    /// The name, and the first socket for it. The socket is not bound yet.
    ///
    /// # Errors
    ///
    /// If the address cannot be understood or looked up, or there is no socket for it.
    pub(super) fn unbound(
        address: &BindAddress,
        options: &SocketOptions,
        make: MakeSocket,
    ) -> Result<(Self, Socket)> {
        let (candidates, origin) = (address.to_inet()?, Origin::Made);
        let name = Self { candidates, options: options.clone(), make, origin, activated: None };
        // `to_inet` gives one address at least.
        let socket = name.socket(&name.candidates[0])?;
        Ok((name, socket))
    }

    /// The name of a socket that came bound, by a service manager if it was `activated`.
    pub(super) fn adopted(
        options: &SocketOptions,
        make: MakeSocket,
        origin: Origin,
        activated: Option<ActivatedAs>,
    ) -> Self {
        Self { candidates: Vec::new(), options: options.clone(), make, origin, activated }
    }

    /// The name of a predecessor's socket.
    pub(super) fn of_predecessors(
        socket: &PredecessorsSocket,
        options: &SocketOptions,
        make: MakeSocket,
    ) -> Self {
        Self {
            candidates: socket.description.asked.as_inet().into_iter().collect(),
            options: options.clone(),
            make,
            origin: Origin::Predecessor(socket.inheritance()),
            activated: socket.description.activated.clone(),
        }
    }

    /// See [`HandoverSocket`](super::HandoverSocket).
    pub(super) fn describe(
        &self,
        kind: SocketKind,
        socket: &ServerSocket,
        alone: bool,
    ) -> SocketDescription {
        let bound = self.server_address(socket);
        let asked = self.candidates.first().map_or_else(|| bound.clone(), |inet| (*inet).into());
        let activated = self.activated.clone();
        SocketDescription { kind, asked, activated, bound, file: None, alone }
    }

    /// A new socket for one of the addresses, not bound yet.
    fn socket(&self, address: &SocketAddr) -> Result<Socket> {
        (self.make)(address, &self.options)
            .map_err(|error| Error::io("make a socket for", address, error))
    }

    /// Binds to the first address that is available. The error is that of the last address. The present socket is for
    /// the first address; each further address gets a new socket.
    pub(super) fn server_bind(
        &self,
        socket: &ServerSocket,
        before_bind: BeforeBind<'_>,
    ) -> Result<()> {
        let mut result = Ok(());
        // An inherited or adopted socket is bound already.
        if self.origin != Origin::Made {
            return result;
        }
        for (index, address) in self.candidates.iter().enumerate() {
            // The next address may be of another family, so the socket for it is made anew.
            if index > 0 {
                socket.replace(self.socket(address)?);
            }
            let bind = socket.with(|fd| {
                // A program's own options count only before the bind.
                before_bind(fd.as_fd())?;
                SockRef::from(fd).bind(&(*address).into())
            });
            result = bind.map_err(|error| Error::io("bind", address, error));
            if result.is_ok() {
                break;
            }
        }
        result
    }

    /// The address that the kernel tells. Before the bind and after the close, the address that was asked for.
    pub(super) fn server_address(&self, socket: &ServerSocket) -> Address {
        // Port 0: the socket is not bound yet.
        match (socket.local_address(), self.candidates.first()) {
            (Ok(address), _) if address.port() != Some(0) => address,
            (_, Some(asked)) => Address::Inet(*asked),
            (Ok(address), None) => address,
            (Err(_), None) => Address::Unnamed,
        }
    }
}

/// A socket with the options that TCP and UDP share, which count only before bind.
pub(super) fn inet_socket(
    address: &SocketAddr,
    (kind, protocol): (Type, Protocol),
    options: &SocketOptions,
) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(*address), kind, Some(protocol))?;
    // SO_REUSEADDR is not here: for UDP it would let two servers share a port.
    if options.allow_reuse_port {
        socket.set_reuse_port(true)?;
    }
    // The system refuses this option on an IPv4 socket.
    if let (Some(only), true) = (options.only_v6, address.is_ipv6()) {
        socket.set_only_v6(only)?;
    }
    set_buffers(&socket, options)?;
    Ok(socket)
}
