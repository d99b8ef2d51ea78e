//! [`LaterDatagram`]: sends from a server's datagram socket when the request is over.
//!
//! A request's own replies may be gathered (`datagram_socket.rs`). Those of a
//! [`DatagramSender`](crate::request::DatagramSender) are not, because it may be used on any thread, and only the
//! thread of the loop promises to flush.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::sync::Arc;

use socket2::{Domain, SockAddr};

use super::datagram_socket::DatagramSocket;
use super::incoming_datagram::ReplyTo;
use crate::address::Address;
use crate::error::Error;
use crate::request::LastingReply;
use crate::sys::peer_name::PeerName;
use crate::sys::recv_cmsg::LocalAddress;
use crate::sys::send_batch::OutgoingDatagram;
use crate::wait::{self, Flush};

/// The way back to the sender of a datagram and to others, for as long as the server is open.
///
/// A program may keep it in any thread, and beyond the server. It keeps the memory of the batches alive, but not the
/// descriptor: once the server has closed, each send fails with `NotConnected`.
pub(super) struct LaterDatagram {
    /// The sender of the datagram, and the address that it has sent to. None if no reply reaches the sender.
    pub(super) to: Option<(PeerName, Option<LocalAddress>)>,
    /// The server's socket. Only the server closes it.
    pub(super) socket: Arc<DatagramSocket>,
}

impl LaterDatagram {
    /// Sends at once, after the replies that this thread has gathered.
    ///
    /// Waits for room as a reply does, for a tenth of a second at most over UDP, and not at all over a Unix socket.
    fn send(&self, outgoing: OutgoingDatagram<'_>) -> io::Result<()> {
        // A reply that this thread has gathered before must not arrive after this one.
        if wait::is_in_loop() {
            self.socket.flush();
        }
        self.socket.send(outgoing).map_err(|error| match error.raw_os_error() {
            // `DatagramSocket::send` reports a closed socket in this way.
            Some(libc::EBADF) => {
                io::Error::new(io::ErrorKind::NotConnected, "the server is closed")
            }
            _ => error,
        })
    }

    /// The name to send to, in the family of the socket: an IPv6 socket that takes IPv4 as well knows IPv4 addresses
    /// as mapped ones.
    fn name(&self, to: &Address) -> io::Result<SockAddr> {
        let name = to.to_socket()?;
        // None once the server is closed. The send then fails, whatever the name is.
        let is_v6 = self.socket.socket.local_name().is_some_and(|own| own.domain() == Domain::IPV6);
        match name.as_socket() {
            Some(SocketAddr::V4(v4)) if is_v6 => {
                Ok(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into())
            }
            _ => Ok(name),
        }
    }
}

impl LastingReply for LaterDatagram {
    fn reply(&self, bytes: &[u8]) -> io::Result<bool> {
        // `false` tells the handler that nobody can get the reply, as the result of `request.reply` does.
        let Some((peer, local)) = &self.to else { return Ok(false) };
        self.send(OutgoingDatagram { peer, local: *local, bytes }).map(|()| true)
    }

    fn send_to(&self, bytes: &[u8], to: &Address) -> io::Result<bool> {
        if ReplyTo::at(to) == ReplyTo::Nobody {
            return Ok(false);
        }
        // No local address: the route chooses the one that the datagram leaves from. The address that the request came to
        // may not reach this peer.
        let sent = self.name(to).and_then(|name| {
            self.send(OutgoingDatagram { peer: &PeerName::of(&name), local: None, bytes })
        });
        // The error keeps its kind, so that a program can tell a full buffer from a wrong address. Its text gets the
        // address, which the system's error lacks.
        let named =
            |error: io::Error| io::Error::new(error.kind(), Error::io("send to", to, error));
        sent.map(|()| true).map_err(named)
    }
}
