//! TCP: Python's `TCPServer`, for IPv4, IPv6 and both.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::inet::{InetName, inet_socket};
use super::inherited::{ActivatedAs, SocketKind};
use super::predecessor::{PredecessorsSocket, SocketDescription};
use super::server_socket::{Origin, adopt};
use super::socket_options::{SocketOptions, name_option};
use super::socket_source::SocketSource;
use super::stream_listener::{AcceptedConnection, StreamListener, listener_methods};
use super::{Bind, HandoverSocket, Holders, Transport};
use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::{Error, Result};

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
    /// The addresses to bind to, and the options.
    name: InetName,
}

impl Bind for Tcp {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        Self::from_address(address, options)
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        Self::over(fd, options, Origin::Adopted, None)
    }
}

impl SocketSource for Tcp {
    const KIND: SocketKind = SocketKind::TcpListener;

    fn of_predecessors(found: PredecessorsSocket, options: &SocketOptions) -> Result<Self> {
        let name = InetName::of_predecessors(&found, options, tcp_socket);
        let socket = Socket::from(found.fd);
        prepare_tcp(&socket, options)
            .map_err(|error| Error::io("set the options of", &found.description.bound, error))?;
        let listener = StreamListener::new(socket, options.request_queue_size, name.origin);
        Ok(Self { listener, name })
    }

    fn over(
        fd: OwnedFd,
        options: &SocketOptions,
        origin: Origin,
        activated: Option<ActivatedAs>,
    ) -> Result<Self> {
        let (socket, address) = adopt(fd, Domain::IPV4, Type::STREAM)?;
        // The options that connections inherit; those that count before the bind are the other program's affair.
        prepare_tcp(&socket, options)
            .map_err(|error| Error::io("set the options of", address, error))?;
        let listener = StreamListener::new(socket, options.request_queue_size, origin);
        Ok(Self { listener, name: InetName::adopted(options, tcp_socket, origin, activated) })
    }

    fn made(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        let (name, socket) = InetName::unbound(address, options, tcp_socket)?;
        let listener = StreamListener::new(socket, options.request_queue_size, Origin::Made);
        Ok(Self { listener, name })
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
            prepare_tcp(&socket2::SockRef::from(&*accepted.fd), &self.name.options)?;
        }
        Ok((accepted, peer))
    }

    fn handover(&self) -> Option<&dyn HandoverSocket> {
        Some(self)
    }

    fn server_close(&self) {
        self.listener.server_close();
    }
}

impl HandoverSocket for Tcp {
    fn describe(&self) -> Option<(SocketDescription, Arc<OwnedFd>)> {
        let socket = &self.listener.socket;
        let alone = self.listener.is_alone();
        Some((self.name.describe(SocketKind::TcpListener, socket, alone), socket.fileno()?))
    }

    fn inherited_as(&self) -> Option<usize> {
        self.name.origin.inherited_as()
    }

    fn set_holders(&self, holders: Holders) {
        self.listener.set_holders(holders);
    }
}

/// A socket that is not bound yet, with all its options.
fn tcp_socket(address: &SocketAddr, options: &SocketOptions) -> io::Result<Socket> {
    let socket = inet_socket(address, (Type::STREAM, Protocol::TCP), options)?;
    // Before the bind, like all options of the address.
    if options.allow_reuse_address {
        socket.set_reuse_address(true)?;
    }
    prepare_tcp(&socket, options)?;
    Ok(socket)
}

/// Sets the options that accepted connections inherit: TCP_NODELAY, so that small answers are not delayed; SO_OOBINLINE,
/// so that an urgent byte keeps its place among the others; and keepalive, if asked for.
fn prepare_tcp(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // With an urgent byte out of line, FIONREAD counts only the bytes before it. The lingering close would then miss unread
    // input, and the close would become a reset. RFC 6093 asks for this option as well.
    socket.set_out_of_band_inline(true)?;
    if let Some(silence) = options.keepalive {
        let set = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(whole_seconds(silence)));
        set.map_err(|error| name_option("keepalive", format_args!("{silence:?}"), &error))?;
    }
    Ok(())
}

/// The nearest time that the kernel can count, rounded up. Linux allows 1 to 32,767 seconds (`MAX_TCP_KEEPIDLE`). So
/// 1.2 s become 2 s, zero becomes 1 s, and a day becomes 32,767 s, which is nine hours.
fn whole_seconds(silence: Duration) -> Duration {
    const MAX_KEEPIDLE: u64 = 32_767;
    let begun = u64::from(silence.subsec_nanos() > 0);
    Duration::from_secs(silence.as_secs().saturating_add(begun).clamp(1, MAX_KEEPIDLE))
}
