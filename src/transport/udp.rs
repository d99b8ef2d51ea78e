//! UDP: Python's `UDPServer`, for IPv4, IPv6 and both.
//!
//! A server has one socket for all its peers, so requests share what connections have for themselves: the send buffer, the
//! address that replies leave from, and the close, which has to wait for the last reply. `datagram_socket.rs` has the parts
//! that are the same for Unix datagram sockets.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::datagram_socket::DatagramSocket;
use super::incoming_datagram::IncomingDatagram;
use super::socket_methods::{bind_methods, datagram_methods};
use super::{Bind, Transport};
use crate::error::{Error, Result};
use crate::request::{DatagramRequest, Ticket};
use crate::sys::send_cmsg::tell_local_address;

/// UDP datagrams. A reply leaves from the address that its datagram was sent to, even if the server is bound to every
/// interface.
///
/// A sender's address proves nothing: with a forged address anybody can have the reply sent to somebody else. A
/// protocol over UDP has to guard against this:
///
/// - **Amplification.** A reply that is longer than its request can be used to flood others. Reply with no more bytes than
///   were received, or limit the replies to each address, or answer only peers that have proved that they receive at
///   their address (by sending back a number, say).
/// - **Loops.** Two servers that answer everything answer each other for ever, once one datagram tells one of them that
///   it comes from the other. A protocol in which no answer is a request is safe from such loops. The old internet
///   protocols `echo` and `time` are not safe, and are for closed networks only.
///
/// The server never answers itself, because datagrams from its own address are dropped: those that come from the
/// server's port and from the address that the server is bound to, or from any address of the machine if the server is
/// bound to every interface. Datagrams to a multicast group are not dropped, because several members of a group may
/// share one address and port.
#[derive(Debug)]
pub struct Udp {
    /// Shared with every datagram that is on its way to its handler.
    datagrams: Arc<DatagramSocket>,
}

/// More than a datagram of UDP can carry: its length is a number of 16 bits.
const MAX_UDP_BYTES: usize = 65_535;

impl Bind for Udp {
    bind_methods!(UdpSocket, |socket| Self {
        datagrams: DatagramSocket::new(socket, MAX_UDP_BYTES)
    });
}

impl Transport for Udp {
    datagram_methods!();

    fn name(&self) -> &'static str {
        "udp"
    }

    /// For a server that is bound to every interface: makes the kernel report the address that each datagram was sent
    /// to.
    fn server_activate(&self) -> Result<()> {
        let address = self.server_address();
        // A socket that is bound to one address receives datagrams to that address only.
        if !address.ip().is_some_and(|ip| ip.is_unspecified()) {
            return Ok(());
        }
        self.datagrams
            .socket
            .with(|fd| tell_local_address(fd.as_fd()))
            .map_err(|error| Error::io("ask for the addresses of", address, error))
    }

    fn make_request(&self, raw: Box<IncomingDatagram>, ticket: Ticket) -> DatagramRequest {
        // The address that this datagram was sent to: a server that is bound to every interface has several.
        let local = raw.local_address();
        raw.into_request(local, ticket)
    }
}
