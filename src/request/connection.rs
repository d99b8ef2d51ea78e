//! What a connection's bytes come from and go to: a socket, or what stands in for one.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::raw_status::RawStatus;
use crate::socket_io::{RecvTimeout, SocketIo};
use crate::sys::RecvBuf;
use crate::write_stall::SendTimeout;

/// What bytes come from and go to: a socket, or what a transport or
/// [`wrap_stream`](crate::StreamRequest::wrap_stream) puts in its place (TLS, memory, a decompressor).
///
/// Implement it to serve over something else. `read` and `write` obey the last deadline: when it has
/// passed they return an error of kind `TimedOut`. A deadline in the past still tries once without
/// waiting.
///
/// A wrapper reads from and writes to the raw stream as from a socket in blocking mode, and need not do more:
///
/// - The raw stream keeps the limits of the request by itself. Its errors (a limit has passed, the server is stopping, the
///   peer has gone) are passed on; whatever the wrapper makes of them, the request knows which it was. A wrapper whose
///   calls can be made again after an error goes on where it was; one that loses what it has read of a message is broken
///   by a limit that a handler survives.
/// - An end of input that its protocol does not allow is an error, of kind `UnexpectedEof`; what of the peer's cannot be
///   read is one of kind `InvalidData`. Both are then the peer's fault. An allowed end is `Ok(0)`.
/// - `shutdown(Write)` is the moment for a farewell (TLS's close_notify), and passes the call on. It is called at every end
///   in order, also when a drain or `close_live` ends the connection, and may take as long as a write; in the latter
///   case, and at a drain's deadline, it is sent if it does not have to wait.
/// - The raw stream is kept for as long as the connection is the wrapper's. If the wrapper drops it, the connection is
///   taken to be in other hands, and the server does not end it.
pub trait Stream: Read + Write + Send {
    /// Bounds every read and write from here on; none lets them wait for ever.
    fn set_deadline(&mut self, deadline: Option<Instant>);

    /// Ends one or both directions, as [`std::net::TcpStream::shutdown`] does.
    ///
    /// # Errors
    ///
    /// If the peer is gone. The server ignores it.
    fn shutdown(&mut self, how: Shutdown) -> io::Result<()>;

    /// The connection's descriptor, if it has one.
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Stream for Box<dyn Stream> {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        (**self).set_deadline(deadline);
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        (**self).shutdown(how)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        (**self).fileno()
    }
}

/// Which way a call moves bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    In,
    Out,
}

/// A plain socket stands in the request itself: the usual case costs no box and no indirection.
pub(super) enum Connection {
    Socket(SocketIo),
    /// What a transport of somebody's own has made.
    Other(Box<dyn Stream>),
    Wrapped {
        stream: Box<dyn Stream>,
        /// To the raw stream below it.
        status: Arc<RawStatus>,
    },
    /// Its stream is in the hands of a wrapper that failed with it.
    Gone(Option<Arc<RawStatus>>),
}

impl Connection {
    pub(super) fn is_socket(&self) -> bool {
        matches!(self, Self::Socket(_))
    }

    /// Whether its bytes are counted below it, as they go over the wire.
    pub(super) fn counts_itself(&self) -> bool {
        matches!(self, Self::Wrapped { .. })
    }

    /// One receive within the bound.
    #[inline]
    pub(super) fn receive(
        &mut self,
        buf: &mut RecvBuf<'_>,
        timeout: RecvTimeout,
    ) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.recv(buf, timeout),
            _ => self.within(SendTimeout::until(timeout.at()), Direction::In, |stream| {
                stream.read(buf.bytes())
            }),
        }
    }

    /// One send, for as long as the patience lasts.
    #[inline]
    pub(super) fn send(&mut self, bytes: &[u8], timeout: SendTimeout) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.send(bytes, timeout),
            _ => self.within(timeout, Direction::Out, |stream| stream.write(bytes)),
        }
    }

    /// Has everything leave that a stream holds back.
    pub(super) fn flush(&mut self, timeout: SendTimeout) -> io::Result<()> {
        match self {
            Self::Socket(_) | Self::Gone(_) => Ok(()),
            _ => {
                self.within(timeout, Direction::Out, |stream| stream.flush().map(|()| 0)).map(drop)
            }
        }
    }

    /// A call of what is not a socket of ours, and may be interrupted as one of a socket never is.
    #[inline(never)]
    fn within(
        &mut self,
        timeout: SendTimeout,
        direction: Direction,
        mut call: impl FnMut(&mut dyn Stream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (stream, status) = match self {
            Self::Other(stream) => (stream, None),
            // What the wrapper makes of a deadline is its own affair: the raw stream keeps the patience.
            Self::Wrapped { stream, status } => (stream, Some(status)),
            Self::Socket(_) | Self::Gone(_) => return Err(gone()),
        };
        let raw = status.filter(|status| status.has_raw());
        if let Some(status) = &raw {
            status.begin_call(timeout);
        }
        let deadline = if raw.is_some() { timeout.until } else { timeout.at() };
        loop {
            stream.set_deadline(deadline);
            match call(&mut **stream) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(match raw {
                        Some(status) => status.explain(error, direction),
                        None => error,
                    });
                }
                Ok(0) if direction == Direction::In => {
                    return raw.and_then(|status| status.interruption()).map_or(Ok(0), Err);
                }
                done => {
                    if let Some(status) = raw.filter(|_| direction == Direction::Out) {
                        status.end_write();
                    }
                    return done;
                }
            }
        }
    }

    /// Ends one or both directions.
    pub(super) fn shutdown(&mut self, how: Shutdown, timeout: SendTimeout) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.shutdown(how),
            _ => self
                .within(timeout, Direction::Out, |stream| stream.shutdown(how).map(|()| 0))
                .map(drop),
        }
    }

    /// The descriptor, as far as there is one: what is asked of it, or of the socket below it.
    pub(super) fn fileno(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(socket) => Some(socket.as_fd()),
            Self::Other(stream) => stream.fileno(),
            Self::Wrapped { stream, status } => {
                status.own_fd().map(AsFd::as_fd).or_else(|| stream.fileno())
            }
            Self::Gone(_) => None,
        }
    }

    /// The same, for somebody who may keep a copy of it.
    pub(super) fn lend(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(socket) => Some(socket.lend()),
            _ => self.fileno(),
        }
    }

    /// The socket that has to be ended in the end, if it is this request's.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(socket) => Some(socket.as_fd()),
            Self::Wrapped { status, .. } => status.own_fd().map(AsFd::as_fd),
            Self::Gone(Some(status)) => status.own_fd().map(AsFd::as_fd),
            _ => None,
        }
    }

    /// The same, for whoever is to close it later than this does.
    pub(super) fn share_socket(&self) -> Option<Arc<OwnedFd>> {
        match self {
            Self::Socket(socket) => Some(socket.share()),
            Self::Wrapped { status, .. } => status.own_fd().map(Arc::clone),
            Self::Gone(Some(status)) => status.own_fd().map(Arc::clone),
            _ => None,
        }
    }

    /// To the raw stream below a wrapper.
    pub(super) fn raw_status(&self) -> Option<&Arc<RawStatus>> {
        match self {
            Self::Wrapped { status, .. } | Self::Gone(Some(status)) => Some(status),
            _ => None,
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
