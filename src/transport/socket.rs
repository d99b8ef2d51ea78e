//! What all four kinds of sockets have in common: their options, and an owner that can close them while
//! others look.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use socket2::{SockAddr, SockRef, Type};

use crate::address::Address;
use crate::error::{Error, Result};

/// The options of a server's socket. Each says which transports heed it; the others ignore it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SocketOptions {
    /// SO_REUSEADDR, set before bind: a restarted server can take its port at once, where connections
    /// of the one before linger. TCP. Default: true, as std and every peer have it (Python: false). UDP servers ignore
    /// it: there it would let two of them share a port.
    pub allow_reuse_address: bool,
    /// SO_REUSEPORT: several servers may bind one port, and the kernel deals connections out to them.
    /// TCP and UDP. Default: false.
    pub allow_reuse_port: bool,
    /// How many connections may wait to be accepted: the argument of listen(2). TCP and Unix streams. The system lowers
    /// what is more than it allows (`net.core.somaxconn`), and takes what is less than zero for that as well; with zero one
    /// may wait. Default: as many as it allows; 5 in Python before 3.15.
    pub request_queue_size: i32,
    /// IPV6_V6ONLY: whether a server on an IPv6 address takes IPv6 only. None leaves it to the system,
    /// which on Linux means that `[::]` takes IPv4 as well. TCP and UDP on IPv6.
    pub only_v6: Option<bool>,
    /// Keepalive: after how much silence the kernel asks whether the peer is still there. TCP. It counts whole seconds,
    /// from 1 to 32,767 on Linux; what is between is rounded up, and what is beyond is taken for the nearest.
    /// Default: none; the idle limit ends silent connections first.
    pub keepalive: Option<Duration>,
    /// SO_RCVBUF, in bytes, for the socket and what it accepts. The system takes the nearest that it allows (on Linux
    /// from about 2 KiB to `net.core.rmem_max`), or refuses it. Default: the system's.
    pub recv_buffer_bytes: Option<usize>,
    /// SO_SNDBUF, in bytes, for the socket and what it accepts, as
    /// [`recv_buffer_bytes`](Self::recv_buffer_bytes) (`net.core.wmem_max`). Default: the system's.
    pub send_buffer_bytes: Option<usize>,
    /// The longest datagram that is taken whole, in bytes. UDP and Unix datagrams. Default: 65,535, more
    /// than UDP can carry (Python: 8,192). Zero is taken as one, and what no datagram has as the most that one can
    /// have: 65,535 over UDP, and 16 MiB over Unix sockets, where it is the sender's buffer that bounds it
    /// (`net.core.wmem_max`, usually 208 KiB). Up to 64 KiB the memory for 64 of them is set aside, of which what is
    /// used is taken; for longer ones that for fewer.
    pub max_packet_size: usize,
    /// The permissions of a Unix socket's file, as chmod takes them: at most `0o7777`, beyond which `bind` fails. Default:
    /// none, which is what the process's umask leaves.
    pub unix_mode: Option<u32>,
    /// Whether a Unix socket's file is replaced if it is left over: no socket is bound to it any more. Never anything
    /// but a socket, and never that of a server that listens or is about to. Default: true.
    pub replace_stale: bool,
    /// Whether a Unix socket's file is removed when the server closes, if it is still the same; by a forked child, if
    /// nobody else listens there any more. Default: false, as in Python.
    pub unlink_on_close: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            allow_reuse_address: true,
            allow_reuse_port: false,
            request_queue_size: i32::MAX,
            only_v6: None,
            keepalive: None,
            recv_buffer_bytes: None,
            send_buffer_bytes: None,
            max_packet_size: 65_535,
            unix_mode: None,
            replace_stale: true,
            unlink_on_close: false,
        }
    }
}

/// A server's socket. Shared for reading by the loop and by whoever asks for its address, and taken
/// out by the close: the descriptor closes when the last of them has let go.
#[derive(Debug)]
pub(super) struct ServerSocket {
    fd: RwLock<Option<Arc<OwnedFd>>>,
}

impl ServerSocket {
    pub(super) fn new(socket: socket2::Socket) -> Self {
        Self { fd: RwLock::new(Some(Arc::new(socket.into()))) }
    }

    /// Puts another socket in the place of this one, which closes.
    pub(super) fn replace(&self, socket: socket2::Socket) {
        *self.fd.write() = Some(Arc::new(socket.into()));
    }

    pub(super) fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.fd.read().clone()
    }

    pub(super) fn close(&self) {
        self.fd.write().take();
    }

    /// Uses the socket, if it is open; EBADF if it is not, as the system would say.
    pub(super) fn with<R>(&self, use_it: impl FnOnce(&OwnedFd) -> io::Result<R>) -> io::Result<R> {
        match &*self.fd.read() {
            Some(fd) => use_it(fd),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// What the kernel says that it is bound to.
    pub(super) fn local_address(&self) -> io::Result<Address> {
        self.with(|fd| Ok(Address::from_socket(&SockRef::from(fd).local_addr()?)))
    }

    /// The same in the kernel's own words; none if it is closed.
    pub(super) fn local_name(&self) -> Option<SockAddr> {
        self.with(|fd| SockRef::from(fd).local_addr()).ok()
    }
}

/// Sets the buffer sizes, which must be set before `listen` to hold for what is accepted.
pub(super) fn set_buffers(socket: &socket2::Socket, options: &SocketOptions) -> io::Result<()> {
    // The kernel reads an int, and lowers by itself what is more than it allows.
    let as_int = |bytes: usize| bytes.min(libc::c_int::MAX as usize);
    if let Some(bytes) = options.recv_buffer_bytes {
        let set = socket.set_recv_buffer_size(as_int(bytes));
        set.map_err(|error| name_option("recv_buffer_bytes", bytes, &error))?;
    }
    if let Some(bytes) = options.send_buffer_bytes {
        let set = socket.set_send_buffer_size(as_int(bytes));
        set.map_err(|error| name_option("send_buffer_bytes", bytes, &error))?;
    }
    Ok(())
}

/// Says by which option, set to what, something has failed: whoever reads it has to know what to change.
pub(super) fn name_option(name: &str, value: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name} {value}: {error}"))
}

/// Takes over a socket that is open already, if it is what the transport needs.
pub(super) fn adopt(fd: OwnedFd, kind: Type, unix: bool) -> Result<(socket2::Socket, Address)> {
    let what = || format!("descriptor {}", crate::sys::number(&fd));
    let cannot = |error| Error::io("serve on", what(), error);
    let socket = SockRef::from(&fd);
    let found = socket.r#type().map_err(cannot)?;
    let address = socket.local_addr().map_err(cannot)?;
    let is_of_family = if unix { address.is_unix() } else { address.as_socket().is_some() };
    if found != kind || !is_of_family {
        let wanted = match (kind == Type::STREAM, unix) {
            (true, false) => "a TCP socket",
            (true, true) => "a Unix stream socket",
            (false, false) => "a UDP socket",
            (false, true) => "a Unix datagram socket",
        };
        let error = io::Error::new(io::ErrorKind::InvalidInput, format!("it is not {wanted}"));
        return Err(cannot(error));
    }
    // A stream socket gets one by `listen`, or cannot listen. One of datagrams has nobody who could send to it.
    let is_unbound = match address.as_socket() {
        Some(inet) => inet.port() == 0,
        None => address.is_unnamed() && socket.peer_addr().is_err(),
    };
    if kind == Type::DGRAM && is_unbound {
        let why = "it is bound to no address; bind it first";
        return Err(cannot(io::Error::new(io::ErrorKind::InvalidInput, why)));
    }
    // Whoever has handed it over had to leave it open across exec; from here on it is ours alone.
    socket.set_cloexec(true).map_err(cannot)?;
    Ok((fd.into(), Address::from_socket(&address)))
}
