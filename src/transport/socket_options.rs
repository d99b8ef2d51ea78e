//! The options of a server's socket: [`SocketOptions`].
//!
//! | option | before | because |
//! |---|---|---|
//! | SO_REUSEADDR, SO_REUSEPORT, IPV6_V6ONLY | bind | the bind is decided by them |
//! | SO_RCVBUF, SO_SNDBUF | listen | the window of TCP is agreed on in the handshake, which the kernel makes by itself |
//! | TCP_NODELAY, SO_OOBINLINE, keepalive | accept | a connection starts with a copy, which saves two or three system calls for each |
//! | backlog | | the argument of `listen` |
//! | the file's mode, whether it is replaced and removed | | `socket_file.rs` |

use std::fmt;
use std::io;
use std::time::Duration;

use socket2::{Domain, Socket, TcpKeepalive};

use super::inherited::SocketKind;
use crate::address::Address;
use crate::limits::setters;

/// The options of a server's socket. Each option names the transports that use it; the others ignore it.
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
    /// SO_REUSEADDR, set before bind: a restarted server can bind its port at once, even while connections of the
    /// previous server linger. TCP. Default: true, as in std (Python: false). UDP servers ignore the option,
    /// because with it two UDP servers could share a port.
    pub allow_reuse_address: bool,
    /// SO_REUSEPORT: several servers may bind one port, and the kernel distributes connections or datagrams among them.
    /// TCP and UDP. Default: false.
    pub allow_reuse_port: bool,
    /// The length of the accept queue: the argument of
    /// [listen(2)](https://man7.org/linux/man-pages/man2/listen.2.html). TCP and Unix streams. The system lowers a
    /// larger value to its maximum (`net.core.somaxconn`), and treats a negative value as the maximum; with zero, one
    /// connection may wait. Default: the maximum (Python before 3.15: 5).
    pub request_queue_size: i32,
    /// IPV6_V6ONLY: whether a server on an IPv6 address takes IPv6 only. TCP and UDP on IPv6. Default: none, the
    /// system's choice; on Linux `[::]` then takes IPv4 as well.
    pub only_v6: Option<bool>,
    /// TCP_KEEPIDLE, for TCP: how long the peer may be silent before the kernel checks that it is still there. The
    /// kernel counts whole seconds, from 1 to 32,767 on Linux: fractions are rounded up, and a value outside this range
    /// counts as the nearest one inside it. Default: none; the [idle limit](crate::Limits::idle) ends silent
    /// connections first.
    pub keepalive: Option<Duration>,
    /// SO_RCVBUF, in bytes, for the socket and for accepted ones. The system takes the nearest allowed size (on Linux
    /// from about 2 KiB to `net.core.rmem_max`), or refuses the size, and then `bind` fails. Default: the system's.
    pub recv_buffer_bytes: Option<usize>,
    /// SO_SNDBUF, in bytes, for the socket and for accepted ones, as
    /// [`recv_buffer_bytes`](Self::recv_buffer_bytes) (`net.core.wmem_max`). Default: the system's.
    pub send_buffer_bytes: Option<usize>,
    /// The longest datagram that is received whole, in bytes; the end of a longer one is lost. UDP and Unix datagrams.
    /// Default: 65,535, more than UDP can carry (Python: 8,192). Zero counts as one; a larger value than possible
    /// counts as the maximum: 65,535 over UDP, and 16 MiB over Unix sockets, where the sender's buffer bounds a
    /// datagram (`net.core.wmem_max`, usually 208 KiB). The server reserves address space for 64 such datagrams (4 MiB
    /// by default), and for fewer longer ones; only pages that are used take memory.
    pub max_packet_size: usize,
    /// The permissions of a Unix socket's file, as for chmod; `bind` fails beyond `0o7777`. Default: none; the
    /// process's umask decides.
    pub unix_mode: Option<u32>,
    /// Whether `bind` replaces a stale file of a Unix socket, to which no socket is bound any more. It never replaces
    /// another kind of file, nor the file of a server that listens or is about to. Default: true.
    pub replace_stale: bool,
    /// Whether a Unix socket's file is removed when the server closes, if it is still the same file. A forked child
    /// removes it only if no other process listens there. Default: false, as in Python.
    pub unlink_on_close: bool,
}

/// The default values that the docs of the fields name.
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

setters! {
    SocketOptions:
    /// Sets [`allow_reuse_address`](Self#structfield.allow_reuse_address).
    #[doc(alias = "SO_REUSEADDR")]
    allow_reuse_address(allow: bool);
    /// Sets [`allow_reuse_port`](Self#structfield.allow_reuse_port).
    #[doc(alias = "SO_REUSEPORT")]
    allow_reuse_port(allow: bool);
    /// Sets [`request_queue_size`](Self#structfield.request_queue_size).
    #[doc(alias("backlog", "listen"))]
    request_queue_size(connections: i32);
    /// Sets [`only_v6`](Self#structfield.only_v6).
    #[doc(alias = "IPV6_V6ONLY")]
    only_v6(only: bool);
    /// Sets [`keepalive`](Self#structfield.keepalive).
    #[doc(alias = "SO_KEEPALIVE")]
    keepalive(silence: Duration);
    /// Sets [`recv_buffer_bytes`](Self#structfield.recv_buffer_bytes).
    #[doc(alias = "SO_RCVBUF")]
    recv_buffer_bytes(bytes: usize);
    /// Sets [`send_buffer_bytes`](Self#structfield.send_buffer_bytes).
    #[doc(alias = "SO_SNDBUF")]
    send_buffer_bytes(bytes: usize);
    /// Sets [`max_packet_size`](Self#structfield.max_packet_size).
    max_packet_size(bytes: usize);
    /// Sets [`unix_mode`](Self#structfield.unix_mode).
    #[doc(alias = "chmod")]
    unix_mode(mode: u32);
    /// Sets [`replace_stale`](Self#structfield.replace_stale).
    replace_stale(replace: bool);
    /// Sets [`unlink_on_close`](Self#structfield.unlink_on_close).
    #[doc(alias = "unlink")]
    unlink_on_close(unlink: bool);
}

impl SocketOptions {
    /// A socket for an address, not bound yet, with the options that count only before the bind.
    ///
    /// # Errors
    ///
    /// If the process is out of descriptors, or the system refuses an option. The error names the option, if the program
    /// has chosen its value.
    pub(super) fn socket(&self, kind: SocketKind, address: &Address) -> io::Result<Socket> {
        // An address that is no internet address is one of a Unix socket.
        let domain = address.as_inet().map_or(Domain::UNIX, Domain::for_address);
        let socket = Socket::new(domain, kind.socket_type(), None)?;
        // SO_REUSEPORT has no meaning on a Unix socket, and newer kernels refuse it there.
        if !kind.is_unix() && self.allow_reuse_port {
            socket.set_reuse_port(true)?;
        }
        // The system refuses this option on an IPv4 socket.
        if let (Some(only), true) = (self.only_v6, domain == Domain::IPV6) {
            socket.set_only_v6(only)?;
        }
        // The sizes are set before `listen`; otherwise accepted connections do not get them. The kernel reads an int, and
        // lowers it to what it allows.
        let as_int = |bytes: usize| bytes.min(libc::c_int::MAX as usize);
        if let Some(bytes) = self.recv_buffer_bytes {
            let set = socket.set_recv_buffer_size(as_int(bytes));
            set.map_err(|error| name_option("recv_buffer_bytes", bytes, &error))?;
        }
        if let Some(bytes) = self.send_buffer_bytes {
            let set = socket.set_send_buffer_size(as_int(bytes));
            set.map_err(|error| name_option("send_buffer_bytes", bytes, &error))?;
        }
        if kind == SocketKind::TcpListener {
            // SO_REUSEADDR is not set for UDP, where it would let two servers share a port.
            if self.allow_reuse_address {
                socket.set_reuse_address(true)?;
            }
            self.prepare_tcp(&socket)?;
        }
        Ok(socket)
    }

    /// Sets the options that accepted TCP connections inherit: TCP_NODELAY, so that small answers are not delayed;
    /// SO_OOBINLINE, so that an urgent byte keeps its place among the others; and keepalive, if asked for.
    pub(super) fn prepare_tcp(&self, socket: &Socket) -> io::Result<()> {
        socket.set_tcp_nodelay(true)?;
        // With an urgent byte out of line, FIONREAD counts only the bytes before it. The lingering close would then miss
        // unread input, and the close would become a reset. RFC 6093 asks for this option as well.
        socket.set_out_of_band_inline(true)?;
        if let Some(silence) = self.keepalive {
            let keepalive = TcpKeepalive::new().with_time(whole_seconds(silence));
            let set = socket.set_tcp_keepalive(&keepalive);
            set.map_err(|error| name_option("keepalive", format_args!("{silence:?}"), &error))?;
        }
        Ok(())
    }
}

/// The nearest time that the kernel can count, rounded up. Linux allows 1 to 32,767 seconds (`MAX_TCP_KEEPIDLE`). So
/// 1.2 s become 2 s, zero becomes 1 s, and a day becomes 32,767 s, which is nine hours.
fn whole_seconds(silence: Duration) -> Duration {
    const MAX_KEEPIDLE: u64 = 32_767;
    let begun = u64::from(silence.subsec_nanos() > 0);
    Duration::from_secs(silence.as_secs().saturating_add(begun).clamp(1, MAX_KEEPIDLE))
}

/// An error that names the option and its value, so that the reader knows what to change.
pub(super) fn name_option(name: &str, value: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name} {value}: {error}"))
}
