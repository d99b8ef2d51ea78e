//! [`DatagramSender`]: replies that are sent later, and datagrams to addresses other than that of the request's sender.
//!
//! A sender shares the transport's socket (`transport/later_datagram.rs`), which the server closes all the same when it
//! ends. So a program that keeps a sender does not keep the port open.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Ticket;
use crate::address::Address;

/// How a transport sends datagrams after the request that they belong to: see
/// [`Reply::lasting`](super::Reply::lasting).
pub trait LastingReply: Send + Sync {
    /// As [`Reply::reply`](super::Reply::reply).
    ///
    /// # Errors
    ///
    /// If the datagram is too long, the system will not send it, or the server is closed (`NotConnected`).
    fn reply(&self, bytes: &[u8]) -> io::Result<bool>;

    /// Sends one datagram to an address. Returns false if nothing can be sent to such an address: a Unix socket without
    /// a name or with a relative path, or port 0.
    ///
    /// # Errors
    ///
    /// The errors of [`reply`](Self::reply), and an error for an address of a family other than the server's.
    fn send_to(&self, bytes: &[u8], to: &Address) -> io::Result<bool>;
}

/// Sends datagrams from a server's socket, for as long as the server is open.
/// [`DatagramRequest::sender`](crate::DatagramRequest::sender) makes it. Clones are the same sender, and may be used on any
/// thread.
///
/// - [`reply`](Self::reply) goes to the sender of the request, from the address that the request was sent to.
/// - [`send_to`](Self::send_to) goes to another address, from an address that the system chooses.
///
/// Both methods send at once. If the socket has no room, a call waits for room for a tenth of a second at most, and then the
/// datagram is lost (`WouldBlock`). Over Unix sockets a call does not wait: no room there means that the receiver does
/// not read. The bytes count as sent by the server, and not by the request, which may have ended.
///
/// When the server is closed every call fails with `NotConnected`, because a sender keeps no socket open. A drain
/// waits for requests, and not for senders. So a handler that has to answer before the end must not return before it
/// has answered. Under [`Forking`](crate::Forking) a sender lives as long as its child, which ends with its request.
///
/// Addresses of clients may be forged: see [`Udp`](crate::transport::Udp) and
/// [`UnixDatagram`](crate::transport::UnixDatagram).
///
/// ```
/// use std::thread;
/// use std::time::Duration;
/// use socketserver::{DatagramRequest, HandlerResult, datagram_fn};
///
/// /// Answers a little later, and keeps no worker until then.
/// fn remind(request: &mut DatagramRequest) -> HandlerResult {
///     let (sender, text) = (request.sender()?, request.packet().to_vec());
///     thread::spawn(move || {
///         thread::sleep(Duration::from_millis(100));
///         // A client that is gone is no failure of the server.
///         let _ = sender.reply(&text);
///     });
///     Ok(())
/// }
/// # let _handler = datagram_fn(remind);
/// ```
#[derive(Clone)]
pub struct DatagramSender {
    /// The transport's way to send.
    lasting: Arc<dyn LastingReply>,
    /// The sender of the request.
    client: Address,
    /// The server's count of sent bytes. Sharing it keeps nothing else of the server alive.
    sent: Arc<AtomicU64>,
}

impl DatagramSender {
    /// A sender for the datagram of this ticket.
    pub(super) fn new(lasting: Arc<dyn LastingReply>, ticket: &Ticket) -> Self {
        let sent = Arc::clone(&ticket.server().sent_by_senders);
        Self { lasting, client: ticket.client_address().clone(), sent }
    }

    /// The address that [`reply`](Self::reply) sends to.
    #[must_use]
    pub fn client_address(&self) -> &Address {
        &self.client
    }

    /// Sends one datagram to the sender of the request. Returns false if that sender has no address, as
    /// [`DatagramRequest::reply`](crate::DatagramRequest::reply) does.
    ///
    /// # Errors
    ///
    /// If the datagram is too long, the system does not send it, or the server is closed (`NotConnected`).
    pub fn reply(&self, bytes: &[u8]) -> io::Result<bool> {
        self.lasting.reply(bytes).inspect(|sent| self.count(*sent, bytes))
    }

    /// Sends one datagram to another address: to a client that was heard before, say. Returns false if nothing can be
    /// sent to such an address: a Unix socket without a name or with a relative path (which is relative to the folder
    /// of its owner), or port 0.
    ///
    /// # Errors
    ///
    /// The errors of [`reply`](Self::reply), and an error for an address of a family other than the server's. (A server
    /// that is bound to IPv6, and takes IPv4 as well, sends to both.) The errors name the address.
    #[doc(alias = "sendto")]
    pub fn send_to(&self, bytes: &[u8], to: impl Into<Address>) -> io::Result<bool> {
        self.lasting.send_to(bytes, &to.into()).inspect(|sent| self.count(*sent, bytes))
    }

    /// Counts a sent datagram for the server: the request that it answers may have left the list.
    fn count(&self, sent: bool, bytes: &[u8]) {
        if sent {
            // Relaxed: it orders nothing else.
            self.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
    }
}

impl fmt::Debug for DatagramSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSender")
            .field("client_address", &self.client)
            .finish_non_exhaustive()
    }
}
