//! Unix sockets, stream and datagram: Python's `UnixStreamServer` and `UnixDatagramServer`.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::datagram_socket::{Packet, PacketSocket};
use super::listener::{Accepted, Listener};
use super::server_socket::{ServerSocket, adopt};
use super::socket_file::SocketFile;
use super::socket_options::{SocketOptions, set_buffers};
use super::{BeforeBind, Bind, CloseWhen, Transport};
use crate::address::{Address, BindAddress};
use crate::error::{Error, Result};
use crate::request::{DatagramRequest, StreamRequest, Ticket};

/// Connections over a Unix socket, at a path or with an abstract name.
///
/// A relative path is one of the folder in which the process is when it binds, and `server_address` gives it from the
/// root on. In a folder whose own name is too long for a socket (107 bytes with the file's) a relative path can be
/// bound all the same, and clients have to be there to reach it.
///
/// Descriptors that a peer passes are not received; the kernel closes them when what they came with is read.
#[derive(Debug)]
pub struct UnixStream {
    listener: Listener,
    name: Name,
}

/// Datagrams over a Unix socket, at a path or with an abstract name.
///
/// A sender is known by the name that it has bound its socket to, and a reply is sent to that name, by the rights of the
/// server. A relative name means nothing here and gets no reply. A whole path gets one, and leads to whatever stands there
/// by then: who may send to a server can have a link stand there, and so has the reply arrive at a socket that itself
/// it may not send to. So let a server with more rights than its clients answer over connections
/// ([`UnixStream`]), or let its replies be harmless to whoever gets them.
///
/// A reply to a sender that does not read is lost, and its request ends as
/// [`Disconnected`](crate::CloseReason::Disconnected), in silence. One kind of sender can do more: one that has connected
/// its socket to the server's is exempt from the kernel's limit of a queue. If it never reads, its replies fill the whole
/// send buffer of the server (some 390 of one byte with Linux's usual 212,992 bytes), and until it leaves nobody gets a
/// reply. Where clients cannot be trusted, serve them by [`UnixStream`], or have the socket in a folder that only trusted
/// users may enter.
///
/// Descriptors that a sender passes are not received; the kernel closes them at once.
#[derive(Debug)]
pub struct UnixDatagram {
    packets: Arc<PacketSocket>,
    name: Name,
}

/// What a Unix socket is called, and the file that comes of it.
#[derive(Debug)]
struct Name {
    /// As it was given.
    asked: Address,
    /// As it is bound: a path from the root on.
    bound: OnceLock<Address>,
    /// The name is not ours to make or to remove: the socket came with it.
    adopted: bool,
    options: SocketOptions,
    file: Mutex<Option<SocketFile>>,
}

impl Name {
    fn new(address: Address, adopted: bool, options: &SocketOptions) -> Self {
        let (options, file) = (options.clone(), Mutex::default());
        Self { asked: address, bound: OnceLock::new(), adopted, options, file }
    }

    fn address(&self) -> &Address {
        self.bound.get().unwrap_or(&self.asked)
    }

    fn server_bind(&self, socket: &ServerSocket, before_bind: BeforeBind<'_>) -> Result<()> {
        if self.adopted {
            return Ok(());
        }
        let bind = socket.with(|fd| {
            before_bind(fd.as_fd())?;
            match &self.asked {
                Address::Unix(path) => {
                    let (file, whole) = SocketFile::bind(fd.as_fd(), path, &self.options)?;
                    *self.file.lock() = file;
                    // A socket is bound once.
                    let _ = self.bound.set(Address::Unix(whole));
                    Ok(())
                }
                Address::Abstract(name) => SockRef::from(fd).bind(&abstract_address(name)?),
                _ => Err(io::ErrorKind::InvalidInput.into()),
            }
        });
        bind.map_err(|error| Error::io("bind", &self.asked, error))
    }

    /// The file goes before the socket closes: as long as it is open, nobody takes the path for a stale one, and the
    /// file system gives its inode to no other. A forked child has to see first whether others still listen.
    fn server_close(&self, close_socket: impl FnOnce()) {
        let file = self.file.lock().take();
        let (ours, shared) = match file {
            Some(file) if file.is_this_processes() => (Some(file), None),
            other => (None, other),
        };
        if let Some(file) = ours {
            file.close();
        }
        close_socket();
        if let Some(file) = shared {
            file.close_as_the_last();
        }
    }
}

/// A name without a file: a NUL and then the name.
fn abstract_address(name: &[u8]) -> io::Result<SockAddr> {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let bytes = [b"\0", name].concat();
    SockAddr::unix(OsStr::from_bytes(&bytes)).map_err(|_| {
        let text = "the name is too long for a Unix socket (107 bytes)";
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

fn unix_socket(kind: Type, address: &Address, options: &SocketOptions) -> Result<Socket> {
    let make = || {
        let socket = Socket::new(Domain::UNIX, kind, None)?;
        set_buffers(&socket, options)?;
        Ok(socket)
    };
    make().map_err(|error: io::Error| Error::io("make a socket for", address, error))
}

impl Bind for UnixStream {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        let address = address.to_unix()?;
        let socket = unix_socket(Type::STREAM, &address, options)?;
        let listener = Listener::new(socket, options.request_queue_size, false);
        Ok(Self { listener, name: Name::new(address, false, options) })
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        let (socket, address) = adopt(fd, Type::STREAM, true)?;
        let listener = Listener::new(socket, options.request_queue_size, true);
        Ok(Self { listener, name: Name::new(address, true, options) })
    }
}

impl Transport for UnixStream {
    type Raw = Accepted;
    type Request = StreamRequest;

    fn server_bind(&self, before_bind: BeforeBind<'_>) -> Result<()> {
        self.name.server_bind(&self.listener.socket, before_bind)
    }

    fn server_activate(&self) -> Result<()> {
        self.listener.server_activate()
    }

    fn server_address(&self) -> Address {
        self.name.address().clone()
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.listener.socket.fileno()
    }

    fn get_request(&self) -> io::Result<(Accepted, Address)> {
        self.listener.get_request()
    }

    fn shed(&self) -> usize {
        self.listener.shed()
    }

    fn descriptors_per_request(&self) -> usize {
        1
    }

    fn waits_first(&self) -> bool {
        Listener::WAITS_FIRST
    }

    fn connection(raw: &Accepted) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&raw.fd))
    }

    fn make_request(&self, raw: Accepted, ticket: Ticket) -> StreamRequest {
        StreamRequest::over_socket(raw.fd, ticket)
    }

    fn shutdown_request(&self, request: &mut StreamRequest) {
        request.shutdown_request();
    }

    fn close_request(&self, request: StreamRequest) {
        request.close_request();
    }

    fn end_request(&self, request: StreamRequest) {
        request.end_request();
    }

    fn close_in_child(&self) {
        // The reserve keeps no port, and closes when the child ends.
        self.listener.socket.close();
    }

    fn refuse_new(&self) -> bool {
        self.listener.refuse_new()
    }

    fn close_when(&self) -> CloseWhen {
        CloseWhen::AtOnce
    }

    fn server_close(&self) {
        self.name.server_close(|| self.listener.server_close());
    }
}

impl Bind for UnixDatagram {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        let address = address.to_unix()?;
        let socket = unix_socket(Type::DGRAM, &address, options)?;
        let packets = PacketSocket::new(socket, options.max_packet_size);
        Ok(Self { packets, name: Name::new(address, false, options) })
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        let (socket, address) = adopt(fd, Type::DGRAM, true)?;
        let packets = PacketSocket::new(socket, options.max_packet_size);
        Ok(Self { packets, name: Name::new(address, true, options) })
    }
}

impl Transport for UnixDatagram {
    type Raw = Box<Packet>;
    type Request = DatagramRequest;

    fn server_bind(&self, before_bind: BeforeBind<'_>) -> Result<()> {
        self.name.server_bind(&self.packets.socket, before_bind)
    }

    fn server_activate(&self) -> Result<()> {
        Ok(())
    }

    fn server_address(&self) -> Address {
        self.name.address().clone()
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.packets.socket.fileno()
    }

    fn get_request(&self) -> io::Result<(Box<Packet>, Address)> {
        let packet = self.packets.get_request()?;
        let peer = packet.client_address();
        Ok((packet, peer))
    }

    fn received(raw: &Box<Packet>) -> Instant {
        raw.taken
    }

    fn make_request(&self, raw: Box<Packet>, ticket: Ticket) -> DatagramRequest {
        raw.into_request(self.name.address().clone(), ticket)
    }

    fn refuse_new(&self) -> bool {
        self.packets.refuse_new()
    }

    fn close_when(&self) -> CloseWhen {
        CloseWhen::RequestsHaveEnded
    }

    fn close_in_others_child(&self) {
        self.packets.socket.close();
    }

    fn server_close(&self) {
        self.name.server_close(|| self.packets.server_close());
    }
}
