//! Unix sockets, stream and datagram: Python's `UnixStreamServer` and `UnixDatagramServer`.
//!
//! The file of a socket outlives the process that has bound it, so each server knows whether it has to remove its file:
//!
//! | the socket | removes the file |
//! |---|---|
//! | made here | this process, before the socket closes |
//! | made here, closed in a forked child | the child, if no other process listens any more |
//! | from a service manager, or by `from_fd` | nobody here |
//! | from a predecessor, not taken over yet | the last of the two that closes it |
//! | taken over | this process |
//! | handed to a successor that is not ready | the last of the two that closes it |
//! | handed to a successor that serves | the successor |
//!
//! A file is removed only if `SocketOptions::unlink_on_close` asks for it, and only if it still is the same file.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use socket2::{Domain, SockRef, Socket, Type};

use super::datagram_methods::datagram_methods;
use super::datagram_socket::{DatagramSocket, IncomingDatagram};
use super::inherited::{ActivatedAs, SocketKind};
use super::predecessor::{PredecessorsSocket, SocketDescription};
use super::server_socket::{Origin, ServerSocket, adopt};
use super::socket_file::SocketFile;
use super::socket_options::{SocketOptions, set_buffers};
use super::socket_source::SocketSource;
use super::stream_listener::{AcceptedConnection, StreamListener, listener_methods};
use super::{BeforeBind, Bind, HandoverSocket, Holders, Transport};
use crate::address::Address;
use crate::bind_address::BindAddress;
use crate::error::{Error, Result};
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
    name: UnixName,
}

/// Datagrams over a Unix socket, at a path or with an abstract name.
///
/// A sender's address is the name that its socket is bound to, and a reply is sent to that name, with the rights of the
/// server. A relative path gets no reply, because in the server's directory it names a different file. An absolute path
/// gets a reply, but may by then lead to another socket: a client can replace the file by a link, and so have the reply
/// delivered to a socket that it may not send to itself. So a server with more rights than its clients should answer
/// over connections ([`UnixStream`]), or send only replies that harm no receiver.
///
/// A reply to a sender that does not read is lost, and its request ends as
/// [`Disconnected`](crate::monitor::CloseReason::Disconnected), without a report. A sender that has connected its socket to the
/// server's can do more harm, because the kernel exempts it from the limit of its queue. If it never reads, its replies
/// fill the whole send buffer of the server (some 390 of one byte, with Linux's usual 212,992 bytes), and no client gets a
/// reply until it leaves. Serve clients that cannot be trusted by [`UnixStream`], or put the socket into a directory that
/// only trusted users may enter.
///
/// Descriptors that a sender passes (SCM_RIGHTS) are not received. The kernel closes them at once.
#[derive(Debug)]
pub struct UnixDatagram {
    /// Shared with every datagram that is on its way to its handler.
    datagrams: Arc<DatagramSocket>,
    name: UnixName,
}

/// The name that a Unix socket is bound to, and its file.
#[derive(Debug)]
struct UnixName {
    /// The address as it was given to `bind`.
    asked: Address,
    /// The address as it is bound: an absolute path.
    bound: OnceLock<Address>,
    /// The socket's place among those of the service manager, if the service manager has made it.
    activated: Option<ActivatedAs>,
    /// Where the socket comes from. The file of an adopted socket belongs to the process that has made it.
    origin: Origin,
    options: SocketOptions,
    /// The close takes it, so that only the first close removes the file. None for an abstract name, and for a file
    /// that another process has to remove. It is put back if the other process that has the socket may still remove it.
    file: Mutex<Option<SocketFile>>,
    /// A successor may have the socket, and is not ready yet.
    is_shared: AtomicBool,
}

impl UnixName {
    /// A name that is not bound yet, or that of a socket that came bound.
    fn new(address: Address, origin: Origin, options: &SocketOptions) -> Self {
        let (options, file) = (options.clone(), Mutex::default());
        let (bound, activated, is_shared) = (OnceLock::new(), None, AtomicBool::new(false));
        Self { asked: address, bound, activated, origin, options, file, is_shared }
    }

    /// The name of a socket that came bound, and how its server has asked for it.
    fn adopted(
        address: Address,
        origin: Origin,
        options: &SocketOptions,
        activated: Option<ActivatedAs>,
    ) -> Self {
        Self { activated, ..Self::new(address, origin, options) }
    }

    /// The name of a predecessor's socket. Until the predecessor has closed the socket, the file belongs to both.
    fn of_predecessors(socket: &PredecessorsSocket, options: &SocketOptions) -> Self {
        let SocketDescription { asked, bound, activated, file, .. } = socket.description.clone();
        let origin = Origin::Predecessor(socket.inheritance());
        let file = match (file, &bound) {
            (Some(identity), Address::Unix(path)) => {
                Some(SocketFile::of_predecessors(path, identity, options))
            }
            _ => None,
        };
        let (file, is_shared) = (Mutex::new(file), AtomicBool::new(true));
        let bound = bound.into();
        Self { bound, file, is_shared, ..Self::adopted(asked, origin, options, activated) }
    }

    /// See [`HandoverSocket`].
    fn describe(&self, kind: SocketKind, socket: &ServerSocket, alone: bool) -> SocketDescription {
        let file = self.file.lock().as_ref().map(SocketFile::identity);
        let bound = self.server_address(socket);
        let (asked, activated) = (self.asked.clone(), self.activated.clone());
        SocketDescription { kind, asked, activated, bound, file, alone }
    }

    /// See [`HandoverSocket`].
    fn set_holders(&self, holders: Holders) {
        self.is_shared.store(holders == Holders::Both, Ordering::SeqCst);
        if holders == Holders::Other {
            // The file now belongs to the successor.
            drop(self.file.lock().take());
        }
    }

    /// See [`HandoverSocket`].
    fn remove_file_as_the_last(&self, socket: &ServerSocket) {
        if socket.fileno().is_none() {
            let file = self.file.lock().take();
            *self.file.lock() = file.and_then(SocketFile::close_as_the_last);
        }
    }

    /// The bound name. Before the bind, the one that was asked for.
    fn server_address(&self, _socket: &ServerSocket) -> Address {
        self.bound.get().unwrap_or(&self.asked).clone()
    }

    /// Binds, with everything that belongs to a socket's file. An adopted socket is bound already.
    fn server_bind(&self, socket: &ServerSocket, before_bind: BeforeBind<'_>) -> Result<()> {
        if self.origin != Origin::Made {
            return Ok(());
        }
        let bind = socket.with(|fd| {
            before_bind(fd.as_fd())?;
            match &self.asked {
                Address::Unix(path) => {
                    let (file, whole) = SocketFile::bind(fd.as_fd(), path, &self.options)?;
                    *self.file.lock() = file;
                    // The value is still empty: a second bind of the same socket has failed above.
                    let _ = self.bound.set(Address::Unix(whole));
                    Ok(())
                }
                Address::Abstract(_) => SockRef::from(fd).bind(&self.asked.to_socket()?),
                // `to_unix` gives no other address.
                _ => Err(io::ErrorKind::InvalidInput.into()),
            }
        });
        bind.map_err(|error| Error::io("bind", &self.asked, error))
    }

    /// The process that has made the file removes it before the socket closes: until then no other server takes the
    /// file for a stale one, and its inode is not used again. A forked child closes its copy first, and then sees
    /// whether another process still listens.
    fn server_close(&self, close_socket: impl FnOnce()) {
        let file = self.file.lock().take();
        // A file of the process that has forked this one is shared: that process may still listen; and so may a successor
        // that was never ready.
        let is_shared = self.is_shared.load(Ordering::SeqCst);
        let (ours, shared) = match file {
            Some(file) if file.owner.is_this_process() && !is_shared => (Some(file), None),
            other => (None, other),
        };
        if let Some(file) = ours {
            file.close();
        }
        close_socket();
        if let Some(left) = shared.and_then(SocketFile::close_as_the_last) {
            *self.file.lock() = Some(left);
        }
    }
}

/// A socket that is not bound yet, with its options.
fn unix_socket(kind: Type, address: &Address, options: &SocketOptions) -> Result<Socket> {
    let make = || {
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        set_buffers(&socket, options)?;
        Ok(socket)
    };
    make().map_err(|error: io::Error| Error::io("make a socket for", address, error))
}

impl UnixStream {
    /// Over a predecessor's socket.
    pub(crate) fn over_predecessors(found: PredecessorsSocket, options: &SocketOptions) -> Self {
        let name = UnixName::of_predecessors(&found, options);
        let (socket, backlog) = (found.fd.into(), options.request_queue_size);
        let listener = StreamListener::new(socket, backlog, name.origin);
        Self { listener, name }
    }
}

impl HandoverSocket for UnixStream {
    fn describe(&self) -> Option<(SocketDescription, Arc<OwnedFd>)> {
        let (socket, alone) = (&self.listener.socket, self.listener.is_alone());
        Some((self.name.describe(SocketKind::UnixListener, socket, alone), socket.fileno()?))
    }

    fn inherited_as(&self) -> Option<usize> {
        self.name.origin.inherited_as()
    }

    fn set_holders(&self, holders: Holders) {
        self.listener.set_holders(holders);
        self.name.set_holders(holders);
    }

    fn remove_file_as_the_last(&self) {
        self.name.remove_file_as_the_last(&self.listener.socket);
    }
}

impl HandoverSocket for UnixDatagram {
    fn describe(&self) -> Option<(SocketDescription, Arc<OwnedFd>)> {
        let socket = &self.datagrams.socket;
        Some((self.name.describe(SocketKind::UnixDatagram, socket, true), socket.fileno()?))
    }

    fn inherited_as(&self) -> Option<usize> {
        self.name.origin.inherited_as()
    }

    fn set_holders(&self, holders: Holders) {
        self.name.set_holders(holders);
    }

    fn remove_file_as_the_last(&self) {
        self.name.remove_file_as_the_last(&self.datagrams.socket);
    }
}

impl Bind for UnixStream {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        Self::from_address(address, options)
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        Self::over(fd, options, Origin::Adopted, None)
    }
}

impl SocketSource for UnixStream {
    const KIND: SocketKind = SocketKind::UnixListener;

    fn of_predecessors(found: PredecessorsSocket, options: &SocketOptions) -> Result<Self> {
        Ok(Self::over_predecessors(found, options))
    }

    fn over(
        fd: OwnedFd,
        options: &SocketOptions,
        origin: Origin,
        activated: Option<ActivatedAs>,
    ) -> Result<Self> {
        let (socket, address) = adopt(fd, Domain::UNIX, Type::STREAM)?;
        let listener = StreamListener::new(socket, options.request_queue_size, origin);
        Ok(Self { listener, name: UnixName::adopted(address, origin, options, activated) })
    }

    fn made(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        let address = address.to_unix()?;
        let socket = unix_socket(Type::STREAM, &address, options)?;
        let listener = StreamListener::new(socket, options.request_queue_size, Origin::Made);
        Ok(Self { listener, name: UnixName::new(address, Origin::Made, options) })
    }
}

impl Transport for UnixStream {
    listener_methods!();

    fn name(&self) -> &'static str {
        "unix_stream"
    }

    fn get_request(&self) -> io::Result<(AcceptedConnection, Address)> {
        self.listener.get_request()
    }

    fn server_close(&self) {
        self.name.server_close(|| self.listener.server_close());
    }

    fn handover(&self) -> Option<&dyn HandoverSocket> {
        Some(self)
    }
}

impl Bind for UnixDatagram {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        Self::from_address(address, options)
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        Self::over(fd, options, Origin::Adopted, None)
    }
}

impl SocketSource for UnixDatagram {
    const KIND: SocketKind = SocketKind::UnixDatagram;

    fn of_predecessors(found: PredecessorsSocket, options: &SocketOptions) -> Result<Self> {
        let name = UnixName::of_predecessors(&found, options);
        let datagrams = DatagramSocket::new(found.fd.into(), options.max_packet_size);
        Ok(Self { datagrams, name })
    }

    fn over(
        fd: OwnedFd,
        options: &SocketOptions,
        origin: Origin,
        activated: Option<ActivatedAs>,
    ) -> Result<Self> {
        let (socket, address) = adopt(fd, Domain::UNIX, Type::DGRAM)?;
        let datagrams = DatagramSocket::new(socket, options.max_packet_size);
        let name = UnixName::adopted(address, origin, options, activated);
        Ok(Self { datagrams, name })
    }

    fn made(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        let address = address.to_unix()?;
        let socket = unix_socket(Type::DGRAM, &address, options)?;
        let datagrams = DatagramSocket::new(socket, options.max_packet_size);
        Ok(Self { datagrams, name: UnixName::new(address, Origin::Made, options) })
    }
}

impl Transport for UnixDatagram {
    datagram_methods!();

    fn name(&self) -> &'static str {
        "unix_datagram"
    }

    fn server_activate(&self) -> Result<()> {
        Ok(())
    }

    fn make_request(&self, raw: Box<IncomingDatagram>, ticket: Ticket) -> DatagramRequest {
        raw.into_request(self.server_address(), ticket)
    }

    fn server_close(&self) {
        self.name.server_close(|| self.datagrams.server_close());
    }

    fn handover(&self) -> Option<&dyn HandoverSocket> {
        Some(self)
    }
}
