//! Unix sockets, stream and datagram: Python's `UnixStreamServer` and `UnixDatagramServer`. `server_socket.rs` has the
//! rules for the file of such a socket, `socket_file.rs` the steps.

use std::sync::Arc;

use super::datagram_socket::DatagramSocket;
use super::incoming_datagram::IncomingDatagram;
use super::predecessor_sockets::PredecessorsSocket;
use super::server_socket::ServerSocket;
use super::socket_methods::{bind_methods, datagram_methods, listener_methods};
use super::socket_options::SocketOptions;
use super::stream_listener::StreamListener;
use super::{Bind, Transport};
use crate::error::Result;
use crate::request::{DatagramRequest, Ticket};

/// Connections over a Unix socket, at a path or with an abstract name.
///
/// ```
/// use socketserver::{ThreadingUnixStreamServer, stream_fn};
///
/// # fn main() -> socketserver::Result<()> {
/// // An abstract name (Linux) has no file, and so neither permissions nor a stale file.
/// let name = format!("@example.{}", std::process::id());
/// let server = ThreadingUnixStreamServer::bind(name, stream_fn(|_request| Ok(())))?;
/// # drop(server); Ok(())
/// # }
/// ```
///
/// A relative path is resolved in the working directory at the time of the bind; `server_address` is the absolute path.
/// If the absolute path is too long for a socket (more than 107 bytes), a relative path can still be bound, and clients
/// need the same working directory to connect.
///
/// Descriptors that a peer passes (SCM_RIGHTS) are not received. The kernel closes them when the bytes that they came
/// with are read.
#[derive(Debug)]
pub struct UnixStream {
    /// The socket and its accept queue.
    listener: StreamListener,
}

impl UnixStream {
    /// Serves on a predecessor's socket.
    pub(crate) fn over_predecessors(
        found: PredecessorsSocket,
        options: &SocketOptions,
    ) -> Result<Self> {
        let socket = ServerSocket::over(found.into(), options)?;
        Ok(Self { listener: StreamListener::new(socket) })
    }
}

impl Bind for UnixStream {
    bind_methods!(UnixListener, |socket| Self { listener: StreamListener::new(socket) });
}

impl Transport for UnixStream {
    listener_methods!();

    fn name(&self) -> &'static str {
        "unix_stream"
    }
}

/// Datagrams over a Unix socket, at a path or with an abstract name.
///
/// A sender's address is the name that its socket is bound to, and a reply is sent to that name, with the rights of the
/// server. A relative path gets no reply, because in the server's directory it names a different file. An absolute path
/// gets a reply, but may by then lead to another socket: a client can replace the file with a link, and so have the reply
/// delivered to a socket that it may not send to itself. So a server with more rights than its clients should answer
/// over connections ([`UnixStream`]), or send only replies that harm no receiver.
///
/// A reply to a sender that does not read is lost, and its request ends as
/// [`Disconnected`](crate::monitor::CloseReason::Disconnected), without a report. A sender that has connected its socket to the
/// server's can do more harm, because the kernel exempts it from the limit of its queue. If it never reads, its replies
/// fill the whole send buffer of the server (some 390 replies of one byte, with Linux's usual 212,992 bytes), and no client
/// gets a reply until that sender leaves. Use [`UnixStream`] for clients that you do not trust, or put the socket into a
/// directory that only trusted users may enter.
///
/// Descriptors that a sender passes (SCM_RIGHTS) are not received. The kernel closes them at once.
#[derive(Debug)]
pub struct UnixDatagram {
    /// Shared with every datagram that is on its way to its handler.
    datagrams: Arc<DatagramSocket>,
}

impl Bind for UnixDatagram {
    bind_methods!(UnixDatagram, |socket| Self {
        datagrams: DatagramSocket::new(socket, usize::MAX)
    });
}

impl Transport for UnixDatagram {
    datagram_methods!();

    fn name(&self) -> &'static str {
        "unix_datagram"
    }

    // A datagram socket receives from the bind on.
    fn server_activate(&self) -> Result<()> {
        Ok(())
    }

    fn make_request(&self, raw: Box<IncomingDatagram>, ticket: Ticket) -> DatagramRequest {
        // A Unix socket has one address, so none comes with the datagram.
        raw.into_request(self.server_address(), ticket)
    }
}
