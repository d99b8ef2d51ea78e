//! TCP: Python's `TCPServer`, for IPv4, IPv6 and both.
//!
//! The transport itself is small. `server_socket.rs` has the socket, its addresses and its close,
//! `stream_listener.rs` the accept queue, `socket_options.rs` the options.

use std::io;
use std::os::fd::OwnedFd;

use super::inherited::SocketKind;
use super::server_socket::ServerSocket;
use super::socket_methods::listener_methods;
use super::socket_options::SocketOptions;
use super::stream_listener::{AcceptedConnection, StreamListener};
use super::{Bind, Transport};
use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::Result;

/// TCP connections.
///
/// If a host name has several addresses, the first one that is available is bound. Accepted connections have
/// TCP_NODELAY, because otherwise a handler's small answers would wait for the peer's acknowledgements. They have
/// [keepalive](SocketOptions::keepalive) only if you ask for it.
///
/// ```
/// use socketserver::{SocketOptions, TcpServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// let server = TcpServer::builder()
///     .socket_options(SocketOptions::default().request_queue_size(512))
///     .bind("127.0.0.1:0", stream_fn(|_request| Ok(())))?;
/// # drop(server); Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Tcp {
    /// The socket and its accept queue.
    listener: StreamListener,
}

impl Bind for Tcp {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        let socket = ServerSocket::unbound(SocketKind::TcpListener, address, options)?;
        Ok(Self { listener: StreamListener::new(socket) })
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        let socket = ServerSocket::adopted(SocketKind::TcpListener, fd, options)?;
        Ok(Self { listener: StreamListener::new(socket) })
    }
}

impl Transport for Tcp {
    listener_methods!();

    fn name(&self) -> &'static str {
        "tcp"
    }

    fn get_request(&self) -> io::Result<(AcceptedConnection, Address)> {
        let (accepted, peer) = self.listener.get_request()?;
        // On Linux a connection inherits the options of its listener, and no system call is needed.
        if !crate::sys::ACCEPTED_INHERITS_OPTIONS {
            self.listener.socket.options.prepare_tcp(&socket2::SockRef::from(&*accepted.fd))?;
        }
        Ok((accepted, peer))
    }
}
