//! TCP: Python's `TCPServer`, for IPv4, IPv6 and both.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::listener::{Accepted, Listener};
use super::server_socket::{ServerSocket, adopt};
use super::socket_options::{SocketOptions, name_option, set_buffers};
use super::{BeforeBind, Bind, CloseWhen, Transport};
use crate::address::{Address, BindAddress};
use crate::error::{Error, Result};
use crate::request::{StreamRequest, Ticket};

/// TCP connections.
#[derive(Debug)]
pub struct Tcp {
    listener: Listener,
    /// What the host name stands for, tried in order; empty for a socket that came bound.
    candidates: Vec<SocketAddr>,
    options: SocketOptions,
}

impl Tcp {
    fn socket(address: &SocketAddr, options: &SocketOptions) -> Result<Socket> {
        let make = || {
            let kind = Type::STREAM;
            let socket = Socket::new(Domain::for_address(*address), kind, Some(Protocol::TCP))?;
            if options.allow_reuse_address {
                socket.set_reuse_address(true)?;
            }
            prepare_inet(&socket, address, options)?;
            prepare_tcp(&socket, options)?;
            Ok(socket)
        };
        make().map_err(|error| Error::io("make a socket for", address, error))
    }
}

/// The options that TCP and UDP share, set before bind.
pub(super) fn prepare_inet(
    socket: &Socket,
    address: &SocketAddr,
    options: &SocketOptions,
) -> io::Result<()> {
    if options.allow_reuse_port {
        socket.set_reuse_port(true)?;
    }
    if let (Some(only), true) = (options.only_v6, address.is_ipv6()) {
        socket.set_only_v6(only)?;
    }
    set_buffers(socket, options)
}

/// What connections inherit: no Nagle, which would delay small answers; an urgent byte in its place among the
/// others; and keepalive if asked for.
fn prepare_tcp(socket: &Socket, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // Out of line, FIONREAD counts up to the urgent byte and not beyond, and the lingering close would
    // take what stands there for nothing: the close becomes a reset. RFC 6093 asks for this as well.
    socket.set_out_of_band_inline(true)?;
    if let Some(silence) = options.keepalive {
        let set = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(whole_seconds(silence)));
        set.map_err(|error| name_option("keepalive", format_args!("{silence:?}"), &error))?;
    }
    Ok(())
}

/// The nearest silence that the kernel counts, rounded up: TCP_KEEPIDLE of Linux ends at `MAX_TCP_KEEPIDLE`, 32,767.
fn whole_seconds(silence: Duration) -> Duration {
    const MOST: u64 = 32_767;
    let begun = u64::from(silence.subsec_nanos() > 0);
    Duration::from_secs(silence.as_secs().saturating_add(begun).clamp(1, MOST))
}

impl Bind for Tcp {
    fn unbound(address: &BindAddress, options: &SocketOptions) -> Result<Self> {
        let candidates = address.to_inet()?;
        let socket = Self::socket(&candidates[0], options)?;
        let listener = Listener::new(socket, options.request_queue_size, false);
        Ok(Self { listener, candidates, options: options.clone() })
    }

    fn from_fd(fd: OwnedFd, options: &SocketOptions) -> Result<Self> {
        let (socket, address) = adopt(fd, Type::STREAM, false)?;
        prepare_tcp(&socket, options)
            .map_err(|error| Error::io("set the options of", address, error))?;
        let listener = Listener::new(socket, options.request_queue_size, true);
        Ok(Self { listener, candidates: Vec::new(), options: options.clone() })
    }
}

impl Transport for Tcp {
    type Raw = Accepted;
    type Request = StreamRequest;

    fn server_bind(&self, before_bind: BeforeBind<'_>) -> Result<()> {
        bind_first(&self.listener.socket, &self.candidates, before_bind, |address| {
            Self::socket(address, &self.options)
        })
    }

    fn server_activate(&self) -> Result<()> {
        self.listener.server_activate()
    }

    fn server_address(&self) -> Address {
        inet_address(&self.listener.socket, &self.candidates)
    }

    fn fileno(&self) -> Option<Arc<OwnedFd>> {
        self.listener.socket.fileno()
    }

    fn get_request(&self) -> io::Result<(Accepted, Address)> {
        let (accepted, peer) = self.listener.get_request()?;
        if !crate::sys::ACCEPTED_INHERITS_OPTIONS {
            prepare_tcp(&socket2::SockRef::from(&*accepted.fd), &self.options)?;
        }
        Ok((accepted, peer))
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
        self.listener.server_close();
    }
}

/// Binds to the first address that can be had. `make` makes a socket for those after the first, for
/// which there is one. The error is the last address's.
pub(super) fn bind_first(
    place: &ServerSocket,
    candidates: &[SocketAddr],
    before_bind: BeforeBind<'_>,
    make: impl Fn(&SocketAddr) -> Result<Socket>,
) -> Result<()> {
    let mut result = Ok(());
    for (index, address) in candidates.iter().enumerate() {
        if index > 0 {
            place.replace(make(address)?);
        }
        let bind = place.with(|fd| {
            before_bind(fd.as_fd())?;
            socket2::SockRef::from(fd).bind(&(*address).into())
        });
        result = bind.map_err(|error| Error::io("bind", address, error));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The kernel's word, or, before bind and after close, what was asked for.
pub(super) fn inet_address(socket: &ServerSocket, candidates: &[SocketAddr]) -> Address {
    match (socket.local_address(), candidates.first()) {
        (Ok(address), _) if address.port() != Some(0) => address,
        (_, Some(asked)) => Address::Inet(*asked),
        (Ok(address), None) => address,
        (Err(_), None) => Address::Unnamed,
    }
}
