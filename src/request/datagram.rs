//! [`DatagramRequest`]: a packet, for its handler.
//!
//! A datagram request never waits for its peer and has no connection. So it has no deadline, and ignores a drain.
//! Two ways lead back to the sender:
//!
//! ```text
//! reply                at once, each call one datagram
//! write .. write       gathered in `written`; one datagram by send_written, after handle and finish
//!                        if handle or finish fails, nothing is sent
//! ```

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::datagram_sender::{DatagramSender, LastingReply};
use super::extension::ticket_methods;
use super::line;
use super::{Deadline, Request, Ticket};
use crate::address::Address;
use crate::peer_fault::{PeerFault, is_loss};
use crate::server_context::ServerContext;

/// How a transport sends the answer to one datagram.
pub trait Reply {
    /// Sends one datagram back to the sender. Returns false if the sender has no address to send to: a Unix socket
    /// without a name or with a relative path.
    ///
    /// # Errors
    ///
    /// If the datagram is too long, or the system will not send it.
    fn reply(&self, bytes: &[u8]) -> io::Result<bool>;

    /// The server's socket, if there is one.
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// A way to the same sender and to other addresses that outlives the request, for [`DatagramRequest::sender`]. None,
    /// the default: the transport has no such way.
    fn lasting(&self) -> Option<Arc<dyn LastingReply>> {
        None
    }
}

/// A datagram and the way back to its sender: Python's `DatagramRequestHandler`.
///
/// - [`packet`](Self::packet) returns its bytes; [`Read`] reads the same bytes. If a packet is too short for a
///   `read_exact`, or is not UTF-8 in a `read_to_string`, the sender is at fault ([`PeerFault`]).
/// - [`reply`](Self::reply) sends one datagram back, as often as it is called.
/// - [`Write`] gathers one datagram, which is sent when the handler has returned without an error. If nothing was
///   written, nothing is sent (Python sends an empty datagram).
///
/// ```
/// use std::io::{Read, Write};
/// use socketserver::{DatagramRequest, HandlerResult, datagram_fn};
///
/// /// Adds two numbers of one byte each. A shorter datagram gets no answer.
/// fn add(request: &mut DatagramRequest) -> HandlerResult {
///     let mut pair = [0; 2];
///     request.read_exact(&mut pair)?;
///     let [one, other] = pair.map(u16::from);
///     // Two writes, and one datagram when the handler has returned.
///     write!(request, "{one} + {other} = ")?;
///     writeln!(request, "{}", one + other)?;
///     Ok(())
/// }
/// # let _handler = datagram_fn(add);
/// ```
pub struct DatagramRequest {
    /// The received bytes; the end is missing if `truncated`.
    packet: Vec<u8>,
    /// How many bytes of the packet [`Read`] has given.
    read: usize,
    /// The transport's buffer was too short for the datagram.
    truncated: bool,
    /// The bytes written so far. `None` sends nothing, which is not the same as an empty reply.
    written: Option<Vec<u8>>,
    /// `handle` has returned without an error: the reply is whole.
    complete: bool,
    /// The address that the packet was sent to.
    local: Address,
    /// The transport's way back to the sender.
    reply: Box<dyn Reply>,
    /// The request's entry in the live list, until the request is dropped.
    ticket: Ticket,
}

impl DatagramRequest {
    /// Makes a request from a packet: for custom transports.
    ///
    /// `truncated` says that the packet was longer than the buffer of the transport. `local` is the address that the
    /// packet was sent to, and `reply` sends answers to its sender. The bytes count as received.
    #[must_use]
    pub fn new(
        packet: Vec<u8>,
        truncated: bool,
        local: Address,
        reply: Box<dyn Reply>,
        ticket: Ticket,
    ) -> Self {
        // The transport has received the packet before there was an entry to count in.
        ticket.entry().add_bytes_in(packet.len());
        Self { packet, read: 0, truncated, written: None, complete: false, local, reply, ticket }
    }

    /// The datagram's bytes. It may be empty.
    #[must_use]
    #[doc(alias = "recvfrom")]
    pub fn packet(&self) -> &[u8] {
        &self.packet
    }

    /// Whether the datagram was longer than `max_packet_size`: its end is lost.
    #[must_use]
    #[doc(alias = "MSG_TRUNC")]
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// The address of the sender. Over UDP it can be forged.
    #[must_use]
    pub fn client_address(&self) -> Address {
        // A clone, so that a handler can write it to the same request.
        self.ticket.client_address().clone()
    }

    /// The address that the packet was sent to. Replies leave from it. A server may have several addresses.
    #[must_use]
    pub fn local_address(&self) -> Address {
        self.local.clone()
    }

    ticket_methods!(ticket);

    /// The server's socket, borrowed. None if the transport has none.
    #[must_use]
    pub fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.reply.fileno()
    }

    /// Sends one datagram back to the sender, at once or with others of the same batch. The datagram may be empty.
    /// Returns false if the sender has no address: a Unix socket without a name, or with a relative path, which is
    /// relative to the sender's folder. If the sender's address is forged, the reply attacks a third party: see
    /// [`Udp`](crate::transport::Udp) and [`UnixDatagram`](crate::transport::UnixDatagram).
    ///
    /// # Errors
    ///
    /// If the reply is too long for a datagram, or the system does not send it. The error is a [`PeerFault`] if the
    /// sender is gone, if it is a Unix socket that does not read (`WouldBlock`, because `reply` does not wait), or if
    /// nothing can be sent to its address (a broadcast address, say).
    #[doc(alias = "sendto")]
    pub fn reply(&self, bytes: &[u8]) -> io::Result<bool> {
        // An error about this peer carries the request's mark, which distinguishes it from errors of other sockets.
        let sent = self.reply.reply(bytes).map_err(|error| {
            if self.is_of_peer(&error) { self.ticket.entry().lose(error) } else { error }
        })?;
        if sent {
            self.ticket.entry().add_bytes_out(bytes.len());
        }
        Ok(sent)
    }

    /// A sender that can be kept and cloned: for a reply after the handler has returned, from another thread, or to
    /// another address.
    ///
    /// # Errors
    ///
    /// `Unsupported`, if the transport has no such sender. The transports of this crate have one.
    pub fn sender(&self) -> io::Result<DatagramSender> {
        let lasting = self.reply.lasting().ok_or(io::ErrorKind::Unsupported)?;
        Ok(DatagramSender::new(lasting, &self.ticket))
    }

    /// Whether the sender is at fault: it is gone (for a Unix socket, its file may be gone), it does not read (only
    /// Unix sockets report this), or nothing can be sent to the address that it has given.
    #[cold]
    fn is_of_peer(&self, error: &io::Error) -> bool {
        match error.kind() {
            // The file of the sender's socket is gone, and the sender with it.
            io::ErrorKind::NotFound => true,
            io::ErrorKind::WouldBlock => {
                // Over UDP it is this machine's own send buffer that is full.
                matches!(self.ticket.client_address(), Address::Unix(_) | Address::Abstract(_))
            }
            _ => is_loss(error) || is_of_address(error),
        }
    }

    /// Notes that the handler has returned without an error.
    ///
    /// Without this call a written reply is dropped: a part of an answer is worse than none.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// Sends the written reply, if there is one and the handler has not failed. Called after `finish`, so that `finish`
    /// can still add to the reply. A second call sends nothing.
    pub(crate) fn send_written(&mut self) -> io::Result<()> {
        match self.written.take() {
            // Taken out first: whatever `reply` returns, there is no second attempt. `reply` also counts the bytes.
            Some(written) if self.complete => self.reply(&written).map(|_sent| ()),
            _ => Ok(()),
        }
    }
}

/// Whether the error says that the system sends nothing to such an address. A mistake of the handler gives a different
/// error: for a reply that is too long it is EMSGSIZE.
///
/// | errno | the address |
/// |---|---|
/// | EINVAL | of no machine (240.0.0.1), or with an interface that is gone |
/// | EACCES, EPERM | a broadcast; forbidden by a route, a firewall, or the rights of a Unix socket's file |
/// | EADDRNOTAVAIL, EAFNOSUPPORT | one that this socket does not reach |
/// | ENOTDIR, ELOOP, EPROTOTYPE, ENOTSOCK | a path that leads elsewhere by now |
fn is_of_address(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINVAL
                | libc::EACCES
                | libc::EPERM
                | libc::EADDRNOTAVAIL
                | libc::EAFNOSUPPORT
                | libc::ENOTDIR
                | libc::ELOOP
                | libc::EPROTOTYPE
                | libc::ENOTSOCK
        )
    )
}

impl Request for DatagramRequest {
    fn client_address(&self) -> &Address {
        self.ticket.client_address()
    }

    fn server(&self) -> &ServerContext {
        self.ticket.server()
    }

    fn ticket(&self) -> Option<&Ticket> {
        Some(&self.ticket)
    }

    /// Does nothing: the packet has come as a whole, and a reply does not wait.
    fn set_deadline(&mut self, _deadline: Option<Deadline>) {}

    fn is_whole(&self) -> bool {
        true
    }
}

impl Read for DatagramRequest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // Zero at the end of the packet, as at the end of a stream.
        let count = (&self.packet[self.read..]).read(buf)?;
        self.read += count;
        Ok(count)
    }

    /// Like std's. Bytes that are not UTF-8 are a [`PeerFault`].
    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        let owner = self.ticket.entry().owner();
        line::read_to_string(self, text, owner)
    }

    /// Like std's. A datagram that is too short is a [`PeerFault`].
    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let left = &self.packet[self.read..];
        if left.len() < buf.len() {
            // The rest is taken, as by std's `read_exact` of a slice.
            self.read = self.packet.len();
            return Err(PeerFault::too_short(self.ticket.entry().owner()));
        }
        buf.copy_from_slice(&left[..buf.len()]);
        self.read += buf.len();
        Ok(())
    }
}

impl Write for DatagramRequest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A write of no bytes makes an empty datagram, which is not the same as no reply.
        self.written.get_or_insert_default().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Does nothing: the reply leaves as one datagram, when the handler has returned.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for DatagramRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramRequest")
            .field("client_address", &self.client_address())
            .field("bytes", &self.packet.len())
            .finish_non_exhaustive()
    }
}
