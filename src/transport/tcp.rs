//! TCP: Python's `TCPServer`, for IPv4, IPv6 and both.
//!
//! The transport itself is small. `server_socket.rs` has the socket, its addresses and its close,
//! `stream_listener.rs` the accept queue, `socket_options.rs` the options.

use super::socket_methods::{bind_methods, listener_methods};
use super::stream_listener::StreamListener;
use super::{Bind, Transport};

/// TCP connections.
///
/// If a host name has several addresses, the first one that is available is bound. Accepted connections have
/// TCP_NODELAY, because otherwise a handler's small answers would wait for the peer's acknowledgements. They have
/// [keepalive](super::SocketOptions::keepalive) only if you ask for it.
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
    bind_methods!(TcpListener, |socket| Self { listener: StreamListener::new(socket) });
}

impl Transport for Tcp {
    listener_methods!();

    fn name(&self) -> &'static str {
        "tcp"
    }
}
