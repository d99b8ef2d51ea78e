//! Connections that a handler makes: [`connect`] and [`OutgoingStream`].
//!
//! A connection of this kind waits as a request does: every call is bounded, and in a coroutine a wait suspends only
//! that coroutine. (A connection of `std::net` would stop every request of the worker.)
//!
//! ```no_run
//! use std::io::{BufRead, BufReader, Write};
//! use std::time::Duration;
//! use socketserver::outgoing::connect;
//! use socketserver::{HandlerResult, StreamRequest, ThreadingTcpServer, stream_fn};
//!
//! /// Answers each line with what another server answers to it.
//! fn ask(request: &mut StreamRequest) -> HandlerResult {
//!     let mut upstream = BufReader::new(connect("127.0.0.1:7000", Duration::from_secs(5))?);
//!     let (mut question, mut answer) = (String::new(), String::new());
//!     while let Some(question) = request.next_line(&mut question)? {
//!         writeln!(upstream.get_mut(), "{question}")?;
//!         answer.clear();
//!         upstream.read_line(&mut answer)?;
//!         request.write_all(answer.as_bytes())?;
//!     }
//!     Ok(())
//! }
//! # fn main() -> socketserver::Result<()> {
//! ThreadingTcpServer::bind("127.0.0.1:9999", stream_fn(ask))?.run()?;
//! # Ok(())
//! # }
//! ```
//!
//! To move bytes in both directions at once, as a proxy does, [`split`](OutgoingStream::split) the connection and the
//! request ([`StreamRequest::split`](crate::StreamRequest::split)), and run the two copies by [`join`](crate::join).
//! `examples/relay.rs` is a SOCKS5 relay whose handler has some forty lines.

mod connecting;
mod half_close;
mod stream;

use std::io;
use std::time::Duration;

use crate::bind_address::BindAddress;

pub use half_close::HalfClose;
pub use stream::{OutgoingInput, OutgoingOutput, OutgoingStream};

/// Connects to another server, within a time: over TCP to `"host:port"`, `("host", port)` or a `SocketAddr`; over a
/// Unix socket to a path, to text with a `/` in it, or to `"@name"`; or to an [`Address`](crate::Address) of either
/// kind.
///
/// If a name has several addresses, all are tried within this one time: the next address as soon as one has failed, or
/// after a quarter of a second without an answer. The first that answers is taken. [`Duration::MAX`] is no limit.
///
/// In a coroutine the look-up of a name runs on another thread, and the coroutine waits for it no longer than this
/// time. On a plain thread the system's resolver decides how long a look-up takes (`resolv.conf(5)`: 10 s or more
/// without an answer); if the time is over by then, no attempt to connect follows. An address in numbers is not looked
/// up.
///
/// The connection has Nagle's algorithm off, as those of a server have.
///
/// # Errors
///
/// The errors name the operation, the address and the cause (`cannot connect to localhost:9 (127.0.0.1:9): Connection
/// refused`), and have the cause's kind: `ConnectionRefused`, `TimedOut`, `NotFound` for the file of a Unix socket,
/// `InvalidInput` for an address that cannot be understood. None of these errors is taken for a fault of the request's
/// own peer.
///
/// ```
/// use std::io::Read;
/// use std::time::Duration;
/// use socketserver::outgoing::connect;
///
/// # fn main() -> std::io::Result<()> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let mut upstream = connect(listener.local_addr()?, Duration::from_secs(5))?;
/// drop(listener.accept()?);
/// assert_eq!(upstream.read(&mut [0])?, 0, "it ended the connection");
/// # Ok(())
/// # }
/// ```
#[doc(alias = "create_connection")]
pub fn connect(address: impl Into<BindAddress>, timeout: Duration) -> io::Result<OutgoingStream> {
    let (socket, peer) = connecting::connect(&address.into(), timeout)?;
    OutgoingStream::over(socket, peer)
}
