//! What a server asks of its socket: [`SocketOptions`].

use std::fmt;
use std::io;
use std::time::Duration;

/// The options of a server's socket. Each says which transports heed it; the others ignore it.
///
/// ```
/// use socketserver::{SocketOptions, UnixStreamServer, stream_fn};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("echo.sock");
/// let options = SocketOptions::default().unix_mode(0o660).unlink_on_close(true);
/// let server = UnixStreamServer::builder()
///     .socket_options(options)
///     .bind(path.as_path(), stream_fn(|_request| Ok(())))?;
/// # drop(server); Ok(())
/// # }
/// ```
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

impl SocketOptions {
    /// Sets [`allow_reuse_address`](Self#structfield.allow_reuse_address).
    #[must_use]
    #[doc(alias = "SO_REUSEADDR")]
    pub fn allow_reuse_address(mut self, allow: bool) -> Self {
        self.allow_reuse_address = allow;
        self
    }

    /// Sets [`allow_reuse_port`](Self#structfield.allow_reuse_port).
    #[must_use]
    #[doc(alias = "SO_REUSEPORT")]
    pub fn allow_reuse_port(mut self, allow: bool) -> Self {
        self.allow_reuse_port = allow;
        self
    }

    /// Sets [`request_queue_size`](Self#structfield.request_queue_size).
    #[must_use]
    #[doc(alias("backlog", "listen"))]
    pub fn request_queue_size(mut self, connections: i32) -> Self {
        self.request_queue_size = connections;
        self
    }

    /// Sets [`only_v6`](Self#structfield.only_v6).
    #[must_use]
    #[doc(alias = "IPV6_V6ONLY")]
    pub fn only_v6(mut self, only: bool) -> Self {
        self.only_v6 = Some(only);
        self
    }

    /// Sets [`keepalive`](Self#structfield.keepalive).
    #[must_use]
    #[doc(alias = "SO_KEEPALIVE")]
    pub fn keepalive(mut self, silence: Duration) -> Self {
        self.keepalive = Some(silence);
        self
    }

    /// Sets [`recv_buffer_bytes`](Self#structfield.recv_buffer_bytes).
    #[must_use]
    #[doc(alias = "SO_RCVBUF")]
    pub fn recv_buffer_bytes(mut self, bytes: usize) -> Self {
        self.recv_buffer_bytes = Some(bytes);
        self
    }

    /// Sets [`send_buffer_bytes`](Self#structfield.send_buffer_bytes).
    #[must_use]
    #[doc(alias = "SO_SNDBUF")]
    pub fn send_buffer_bytes(mut self, bytes: usize) -> Self {
        self.send_buffer_bytes = Some(bytes);
        self
    }

    /// Sets [`max_packet_size`](Self#structfield.max_packet_size).
    #[must_use]
    pub fn max_packet_size(mut self, bytes: usize) -> Self {
        self.max_packet_size = bytes;
        self
    }

    /// Sets [`unix_mode`](Self#structfield.unix_mode).
    #[must_use]
    #[doc(alias = "chmod")]
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.unix_mode = Some(mode);
        self
    }

    /// Sets [`replace_stale`](Self#structfield.replace_stale).
    #[must_use]
    pub fn replace_stale(mut self, replace: bool) -> Self {
        self.replace_stale = replace;
        self
    }

    /// Sets [`unlink_on_close`](Self#structfield.unlink_on_close).
    #[must_use]
    #[doc(alias = "unlink")]
    pub fn unlink_on_close(mut self, unlink: bool) -> Self {
        self.unlink_on_close = unlink;
        self
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
