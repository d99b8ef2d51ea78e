//! A packet, as its handler holds it.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use super::extension::extension_of;
use super::line;
use super::{Deadline, Request, Ticket};
use crate::address::Address;
use crate::context::ServerContext;
use crate::peer_fault::{PeerFault, is_loss};

/// How a transport sends the answer to one datagram.
pub trait Reply {
    /// Sends one datagram back to the sender. False if there is nobody to send it to: the sender is a
    /// Unix socket without a name, or with a relative one.
    ///
    /// # Errors
    ///
    /// If the datagram is too long, or the system will not send it.
    fn reply(&self, bytes: &[u8]) -> io::Result<bool>;

    /// The server's socket, if there is one.
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A datagram and the way back to its sender: Python's `DatagramRequestHandler`.
///
/// - [`packet`](Self::packet) is what came; [`Read`] reads the same. A packet that is shorter than a `read_exact` of it, or
///   not UTF-8 for a `read_to_string`, is its sender's fault ([`PeerFault`]).
/// - [`reply`](Self::reply) sends one datagram back, as often as it is called.
/// - What is written ([`Write`]) is gathered into one datagram, which leaves when the handler has
///   returned without an error. Nothing written, nothing sent (Python sends an empty datagram).
pub struct DatagramRequest {
    packet: Vec<u8>,
    read: usize,
    truncated: bool,
    /// What was written; none, if nothing was, which is not the same as an empty reply.
    written: Option<Vec<u8>>,
    /// `handle` has returned without an error, so that what was written is a whole answer.
    complete: bool,
    local: Address,
    reply: Box<dyn Reply>,
    ticket: Ticket,
}

impl DatagramRequest {
    /// A request made of a packet: for transports of one's own.
    #[must_use]
    pub fn new(
        packet: Vec<u8>,
        truncated: bool,
        local: Address,
        reply: Box<dyn Reply>,
        ticket: Ticket,
    ) -> Self {
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

    /// Who sent it.
    #[must_use]
    pub fn client_address(&self) -> Address {
        self.ticket.client_address().clone()
    }

    /// Where it was sent to, which on a server of several addresses is the one that was asked, and
    /// the one that a reply leaves from.
    #[must_use]
    pub fn local_address(&self) -> Address {
        self.local.clone()
    }

    /// The server: its address, its limits, its live list, and the handle that stops it.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        self.ticket.server()
    }

    /// Whether a drain has begun: a long handler should come to its end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.server().is_stopping()
    }

    extension_of!(ticket);

    /// The server's socket, borrowed. None if the transport has none.
    #[must_use]
    pub fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.reply.fileno()
    }

    /// Sends one datagram back to the sender; an empty one, too. False if the sender has no address
    /// (a Unix socket without a name, or with a relative one, which is a name in its own folder), so that nothing could be
    /// sent. To whom a reply may go that the sender does not want for itself: see [`Udp`](crate::Udp) and
    /// [`UnixDatagram`](crate::UnixDatagram).
    ///
    /// # Errors
    ///
    /// If it is too long for a datagram, or the system will not send it. If the sender is gone it is a
    /// [`PeerFault`]; so it is for a Unix socket whose sender does not read what it is sent
    /// (`WouldBlock`), because nothing is waited for there.
    #[doc(alias = "sendto")]
    pub fn reply(&self, bytes: &[u8]) -> io::Result<bool> {
        let sent = self.reply.reply(bytes).map_err(|error| {
            if self.is_of_peer(&error) { self.ticket.entry().lose(error) } else { error }
        })?;
        if sent {
            self.ticket.entry().add_bytes_out(bytes.len());
        }
        Ok(sent)
    }

    /// Whether it is the sender's doing that it cannot be sent to: it is gone, a Unix socket with its file; or it does
    /// not read, which over Unix sockets alone is said so.
    #[cold]
    fn is_of_peer(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::NotFound => true,
            io::ErrorKind::WouldBlock => {
                matches!(self.ticket.client_address(), Address::Unix(_) | Address::Abstract(_))
            }
            _ => is_loss(error),
        }
    }

    /// Says that what was written is a whole answer.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// Sends what was written, if anything was, unless the handler has failed: half an answer is none.
    pub(crate) fn send_written(&mut self) -> io::Result<()> {
        match self.written.take() {
            Some(written) if self.complete => self.reply(&written).map(|_sent| ()),
            _ => Ok(()),
        }
    }
}

impl Request for DatagramRequest {
    fn client_address(&self) -> &Address {
        self.ticket.client_address()
    }

    fn server(&self) -> &ServerContext {
        self.ticket.server()
    }

    /// A packet is there as a whole, and a reply is not waited for: there is nothing to bound.
    fn set_deadline(&mut self, _deadline: Option<Deadline>) {}

    fn is_whole(&self) -> bool {
        true
    }
}

impl Read for DatagramRequest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = (&self.packet[self.read..]).read(buf)?;
        self.read += count;
        Ok(count)
    }

    /// Like std's. Bytes that are not UTF-8 are a [`PeerFault`].
    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        let owner = self.ticket.entry().owner();
        line::read_to_string(self, text, owner)
    }

    /// Like std's. A datagram that is shorter than what is read of it is a [`PeerFault`].
    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let left = &self.packet[self.read..];
        if left.len() < buf.len() {
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
        self.written.get_or_insert_default().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    /// Does nothing: what is written leaves as one datagram, when the handler has returned.
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
