//! [`IncomingDatagram`]: a datagram on its way to its handler, and the way back to its sender.
//!
//! ```text
//! RecvBatch -> IncomingDatagram::new     the loop, for each datagram of a batch
//!           -> into_request              the worker: the bytes go to the request, which keeps the rest as its `Reply`
//!           -> reply, lasting            the handler, within the request or later
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::datagram_socket::DatagramSocket;
use super::later_datagram::LaterDatagram;
use crate::address::Address;
use crate::request::{DatagramRequest, LastingReply, Reply, Ticket};
use crate::sys::peer_name::PeerName;
use crate::sys::recv_batch::Received;
use crate::sys::recv_cmsg::LocalAddress;
use crate::sys::send_batch::OutgoingDatagram;

/// A datagram that has been received, and the way back to its sender.
///
/// It is boxed when it is taken out of the batch, so that it moves to its handler as one pointer.
#[derive(Debug)]
pub struct IncomingDatagram {
    /// The content. Taken out when the request is made: from then on only the way back is used.
    bytes: Vec<u8>,
    /// Whether the end of the datagram is lost, because it was longer than `max_packet_size`.
    truncated: bool,
    /// The sender, in the form in which the kernel has named it: a reply needs no conversion.
    peer: PeerName,
    /// The address and the interface that the datagram came to, if the server is bound to every interface. A reply leaves
    /// from there.
    local: Option<LocalAddress>,
    /// Whether a reply reaches the sender. It is decided when the request is made: the client's address is at hand then.
    reply_to: ReplyTo,
    /// The moment at which the datagram was taken out of its batch.
    pub(super) taken: Instant,
    /// The socket. This keeps the batches alive, but not the descriptor: a reply after the close fails.
    socket: Arc<DatagramSocket>,
    /// The server's socket, once the handler has asked for it.
    fd: OnceLock<Option<Arc<OwnedFd>>>,
}

impl IncomingDatagram {
    /// Copies the bytes out of the batch, whose buffer is used again. `taken` is the moment from which its age counts.
    pub(super) fn new(
        received: Received<'_>,
        taken: Instant,
        socket: &Arc<DatagramSocket>,
    ) -> Box<Self> {
        Box::new(Self {
            bytes: received.bytes.to_vec(),
            truncated: received.truncated,
            peer: received.peer,
            local: received.destination.local,
            reply_to: ReplyTo::Sender,
            taken,
            socket: Arc::clone(socket),
            fd: OnceLock::new(),
        })
    }

    /// The sender's address.
    pub(super) fn client_address(&self) -> Address {
        self.peer.to_inet().map_or_else(Address::from_socket, Address::from)
    }

    /// The address that the datagram was sent to, if the kernel has reported it (over UDP); otherwise the address of the socket.
    pub(super) fn local_address(&self) -> Address {
        // The kernel tells the address that the datagram was sent to, and not the port, which is the socket's own.
        let bound = self.socket.bound_address();
        match (self.local, bound.port()) {
            (Some(local), Some(port)) => std::net::SocketAddr::new(local.ip, port).into(),
            _ => bound.clone(),
        }
    }

    /// Makes the request, in its worker. `local` is the address that the handler sees as its own.
    pub(super) fn into_request(
        mut self: Box<Self>,
        local: Address,
        ticket: Ticket,
    ) -> DatagramRequest {
        self.reply_to = ReplyTo::at(ticket.client_address());
        // The bytes move, and are not copied again.
        let bytes = std::mem::take(&mut self.bytes);
        DatagramRequest::new(bytes, self.truncated, local, self, ticket)
    }
}

/// Whether a datagram can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyTo {
    /// The name leads back to the socket that has sent it.
    Sender,
    /// A reply would reach nobody, or a socket other than the sender's.
    Nobody,
}

impl ReplyTo {
    /// Judges by the name alone: nothing is sent.
    pub(super) fn at(peer: &Address) -> Self {
        let reaches_sender = match peer {
            // A reply to port 0 is always an error.
            Address::Inet(inet) => inet.port() != 0,
            // The sender's working directory is not ours: here a relative path names another file.
            Address::Unix(path) => path.is_absolute(),
            // A socket without a name can send, and nobody can send to it.
            Address::Unnamed => false,
            Address::Abstract(_) | Address::Other(_) => true,
        };
        if reaches_sender { Self::Sender } else { Self::Nobody }
    }
}

impl Reply for IncomingDatagram {
    fn reply(&self, bytes: &[u8]) -> io::Result<bool> {
        if self.reply_to == ReplyTo::Nobody {
            return Ok(false);
        }
        // An error goes to the handler. A gathered reply gives no error: it may be lost later, as any datagram.
        self.socket.reply(OutgoingDatagram { peer: &self.peer, local: self.local, bytes })?;
        Ok(true)
    }

    fn lasting(&self) -> Option<Arc<dyn LastingReply>> {
        let can_reply = self.reply_to == ReplyTo::Sender;
        let to = can_reply.then(|| (self.peer.clone(), self.local));
        Some(Arc::new(LaterDatagram { to, socket: Arc::clone(&self.socket) }))
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        // The request keeps a share of the descriptor, because `fileno` lends it out: a close must not close it meanwhile.
        self.fd.get_or_init(|| self.socket.socket.fileno()).as_ref().map(|fd| fd.as_fd())
    }
}
