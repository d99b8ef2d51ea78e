//! Network servers: write the handler once, in blocking style; choose how it runs by one word in the
//! server's type.

// Only here: in the modules of a program or a test, `pub` has no outside to be seen from.
#![warn(unreachable_pub)]

#[cfg(not(unix))]
compile_error!(
    "socketserver runs on Unix systems: it is built on poll, on Unix sockets and on descriptors \
     that can be shared. On Windows, use it under WSL."
);

mod address;
mod context;
mod error;
mod handler;
mod limits;
mod live;
mod mixin;
mod request;
mod server;
mod shutdown;
#[allow(unsafe_code)]
mod sys;
mod transport;
mod wait;

pub use address::{Address, BindAddress, Endpoint};
pub use context::{Counts, ServerContext};
pub use error::{
    Error, Fatal, HandlerError, HandlerResult, Panicked, Result, Stopping, TimedOut, Timeout,
};
pub use handler::{
    BaseRequestHandler, ByClosure, ByFunction, DatagramFn, DatagramRequestHandler, MakeHandler,
    StreamFn, StreamRequestHandler, datagram_fn, stream_fn,
};
pub use limits::{Gate, Limits, Permit};
pub use live::{Activity, LiveRequest};
pub use mixin::{Inline, Job, Mixin, Outcome, Pool, Refused, Threading, WhenFull};
pub use request::{
    Chunk, DatagramRequest, Deadline, Line, LineTooLong, Reply, Request, Stream, StreamRequest,
    Ticket,
};
pub use server::{
    AcceptFailure, BackgroundServer, BaseServer, Builder, DrainReport, Failure, Fault, Incoming,
    Phase, Server, ServerHooks, Turn, run_all,
};
pub use shutdown::ShutdownHandle;
pub use sys::Credentials;
pub use transport::{
    AcceptAction, BeforeBind, Bind, SocketOptions, Tcp, Transport, Udp, UnixDatagram, UnixStream,
    accept_action,
};
pub use wait::{Event, Installed, Interest, Parker, Slot, Waiting, flush, install, offload, sleep};

macro_rules! servers {
    ($($(#[$doc:meta])* $name:ident = $transport:ident, $mixin:ident;)*) => {
        $($(#[$doc])* pub type $name = Server<$transport, $mixin>;)*
    };
}

servers! {
    /// TCP, one request after the other: Python's `TCPServer`.
    TcpServer = Tcp, Inline;
    /// UDP, one datagram after the other: Python's `UDPServer`.
    UdpServer = Udp, Inline;
    /// Unix stream sockets, one request after the other: Python's `UnixStreamServer`.
    UnixStreamServer = UnixStream, Inline;
    /// Unix datagram sockets, one datagram after the other: Python's `UnixDatagramServer`.
    UnixDatagramServer = UnixDatagram, Inline;
    /// TCP, a thread for each request: Python's `ThreadingTCPServer`.
    ThreadingTcpServer = Tcp, Threading;
    /// UDP, a thread for each datagram: Python's `ThreadingUDPServer`.
    ThreadingUdpServer = Udp, Threading;
    /// Unix stream sockets, a thread for each request: Python's `ThreadingUnixStreamServer`.
    ThreadingUnixStreamServer = UnixStream, Threading;
    /// Unix datagram sockets, a thread for each datagram: Python's `ThreadingUnixDatagramServer`.
    ThreadingUnixDatagramServer = UnixDatagram, Threading;
    /// TCP, a fixed number of threads.
    PoolTcpServer = Tcp, Pool;
    /// UDP, a fixed number of threads.
    PoolUdpServer = Udp, Pool;
    /// Unix stream sockets, a fixed number of threads.
    PoolUnixStreamServer = UnixStream, Pool;
    /// Unix datagram sockets, a fixed number of threads.
    PoolUnixDatagramServer = UnixDatagram, Pool;
}
