//! [`Connection`]: the socket of a request, or a stream in its place; and [`Stream`], the interface of such streams.
//!
//! A connection changes its kind only in these ways, and only in its request's worker:
//!
//! | from | to | by |
//! |---|---|---|
//! | `Socket` | `Split` | the first `split`; it stays so when the halves are gone |
//! | any | `Gone` | `wrap_stream`, `start_tls`: until the wrapper is made |
//! | `Gone` | `Wrapped` | a user's wrapper was made |
//! | `Gone` | `Sealed` | this crate's TLS was made |
//!
//! `Socket` is the case that has to be fast: it is matched first, and no call goes through a box. All other cases are
//! in functions that are not inlined, so that a waiting thread's frame has no room for them.
//!
//! Each call keeps to its timeout, and knows no limits. When the timeout has passed, the error has the kind `TimedOut`
//! and no text; `BoundedIo` names the limit.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::raw_stream_status::RawStatus;
use super::tls_seam::SealedStream;
use crate::socket_io::{RecvTimeout, SocketIo};
use crate::sys::RecvBuf;
use crate::write_stall::SendTimeout;

/// A source and sink of bytes that takes the place of a socket: TLS, memory, a decompressor. A transport makes one, or
/// a hook by [`wrap_stream`](crate::StreamRequest::wrap_stream).
///
/// Implement this trait to serve over something other than a socket. `read` and `write` keep to the last deadline:
/// after it they return an error of kind `TimedOut`. With a deadline in the past they still try once, without waiting.
///
/// A wrapper reads from and writes to the raw stream as from a socket in blocking mode. The rules:
///
/// - The raw stream keeps the limits of the request by itself. The wrapper passes its errors on (a limit has passed,
///   the server is stopping, the peer has gone); even if it makes other errors of them, the request knows the cause. If
///   a call can be repeated after an error, the wrapper should go on where it was. A wrapper that loses a part of a
///   message is of no use any more to a handler that goes on after a limit.
/// - An end of input that the wrapper's protocol does not allow is an error of kind `UnexpectedEof`; bytes that it
///   cannot read are one of kind `InvalidData`. Both are then the peer's fault. An allowed end is `Ok(0)`.
/// - `shutdown(Write)` sends the protocol's last message (TLS's close_notify) and passes the call on. It is called at
///   every orderly end, and also when a drain or `close_live` ends the connection. It may take as long as a write;
///   after `close_live` and at a drain's deadline, it must not wait.
/// - The wrapper keeps the raw stream for as long as it has the connection. If it drops the raw stream, the connection
///   counts as given away, and the server does not end it.
///
/// A wrapper in its smallest form, for [`wrap_stream`](crate::StreamRequest::wrap_stream):
///
/// ```
/// use std::io::{self, Read, Write};
/// use std::net::Shutdown;
/// use std::time::Instant;
/// use socketserver::request::Stream;
/// use socketserver::{HandlerResult, StreamRequest, stream_fn};
///
/// /// Inverts every byte.
/// struct Inverted {
///     below: Box<dyn Stream>,
/// }
///
/// impl Read for Inverted {
///     fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
///         let count = self.below.read(buf)?;
///         buf[..count].iter_mut().for_each(|byte| *byte = !*byte);
///         Ok(count)
///     }
/// }
///
/// impl Write for Inverted {
///     fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
///         let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
///         // It holds nothing back: as many bytes are taken as are sent.
///         self.below.write(&inverted)
///     }
///
///     fn flush(&mut self) -> io::Result<()> {
///         self.below.flush()
///     }
/// }
///
/// impl Stream for Inverted {
///     fn set_deadline(&mut self, deadline: Option<Instant>) {
///         self.below.set_deadline(deadline);
///     }
///
///     fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
///         self.below.shutdown(how)
///     }
/// }
///
/// fn handle(request: &mut StreamRequest) -> HandlerResult {
///     request.wrap_stream(|below| Ok(Box::new(Inverted { below })))?;
///     writeln!(request, "hello")?;
///     Ok(())
/// }
/// # let _handler = stream_fn(handle);
/// ```
pub trait Stream: Read + Write + Send {
    /// Bounds every read and write from here on. None: they may wait for ever.
    fn set_deadline(&mut self, deadline: Option<Instant>);

    /// Ends one or both directions, as [`std::net::TcpStream::shutdown`] does.
    ///
    /// # Errors
    ///
    /// If the peer is gone. The server ignores this error.
    fn shutdown(&mut self, how: Shutdown) -> io::Result<()>;

    /// The descriptor of the connection, if it has one.
    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Lets a wrapper that is generic over its stream take the boxed raw stream as well.
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

/// The clock that ends a call of a wrapped stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitClock {
    /// The call's own timeout.
    Own,
    /// The idle reaper's clock, for a read that waits for the beginning of a request.
    Reapers,
}

/// The direction of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// The call receives. Zero bytes then mean the end of input.
    In,
    /// The call sends, flushes, or ends the output.
    Out,
}

/// The connection of a request. A plain socket is stored in place: the usual case costs no box and no indirection.
pub(super) enum Connection {
    /// A plain socket of this process.
    Socket(SocketIo),
    /// A plain socket whose halves have been used apart: see `split.rs`.
    Split(Arc<SocketIo>),
    /// A stream of a user's transport.
    Other(Box<dyn Stream>),
    /// A user's stream above the connection, by `wrap_stream`.
    Wrapped {
        stream: Box<dyn Stream>,
        /// Shared with the raw stream below it.
        status: Arc<RawStatus>,
    },
    /// This crate's own TLS above the connection.
    Sealed {
        stream: Box<dyn SealedStream>,
        /// Shared with the raw stream below it.
        status: Arc<RawStatus>,
    },
    /// There is no connection: a wrapper has taken the stream, and failed.
    Gone(Option<Arc<RawStatus>>),
}

impl Connection {
    /// Whether the connection is a plain socket: its waits can be left to the idle reaper, and it holds no output back.
    #[inline]
    pub(super) fn is_socket(&self) -> bool {
        self.as_socket().is_some()
    }

    /// Whether the idle reaper may end waits of this connection: true for a socket, and for TLS above one.
    #[inline]
    pub(super) fn may_be_reaped(&self) -> bool {
        self.is_socket() || self.is_sealed_socket()
    }

    #[cold]
    fn is_sealed_socket(&self) -> bool {
        // The reaper ends a wait by a shutdown of the socket. Without a socket of this process it has nothing to end.
        matches!(self, Self::Sealed { status, .. } if status.own_fd().is_some())
    }

    /// The plain socket, if the connection is one.
    #[inline]
    pub(super) fn as_socket(&self) -> Option<&SocketIo> {
        match self {
            Self::Socket(socket) => Some(socket),
            Self::Split(socket) => Some(socket),
            _ => None,
        }
    }

    /// The plain socket, to be used by both halves from here on. None for all other kinds, which have one user at a
    /// time.
    pub(super) fn share_halves(&mut self) -> Option<Arc<SocketIo>> {
        // Boxed with the first split only: every other request has its socket in place.
        *self = match std::mem::replace(self, Self::Gone(None)) {
            Self::Socket(socket) => Self::Split(Arc::new(socket)),
            other => other,
        };
        match self {
            Self::Split(socket) => Some(Arc::clone(socket)),
            _ => None,
        }
    }

    /// Whether the raw stream below counts the bytes, as they go over the wire. Otherwise the caller of `receive` and
    /// `send` does.
    pub(super) fn counts_itself(&self) -> bool {
        matches!(self, Self::Wrapped { .. } | Self::Sealed { .. })
    }

    /// Whether the connection has this crate's own TLS: the handler's bytes are then counted separately from those on
    /// the wire.
    pub(super) fn is_sealed(&self) -> bool {
        matches!(self, Self::Sealed { .. })
    }

    /// One receive, within the timeout. Zero bytes are the end of input, which the peer or this side may have made.
    #[inline]
    pub(super) fn receive(
        &mut self,
        buf: &mut RecvBuf<'_>,
        timeout: RecvTimeout,
    ) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.recv(buf, timeout),
            _ => self.receive_apart(buf, timeout),
        }
    }

    /// Not inlined, so that it does not lengthen the usual case.
    #[inline(never)]
    fn receive_apart(&mut self, buf: &mut RecvBuf<'_>, timeout: RecvTimeout) -> io::Result<usize> {
        if let Self::Split(socket) = self {
            return socket.recv(buf, timeout);
        }
        let clock =
            if timeout == RecvTimeout::Reaped { WaitClock::Reapers } else { WaitClock::Own };
        self.within(SendTimeout::until(timeout.at()), clock, Direction::In, |stream| {
            stream.read(buf.bytes())
        })
    }

    /// One send, within the timeout, of as many bytes as there is room for.
    #[inline]
    pub(super) fn send(&mut self, bytes: &[u8], timeout: SendTimeout) -> io::Result<usize> {
        match self {
            Self::Socket(socket) => socket.send(bytes, || timeout),
            _ => self.send_apart(bytes, timeout),
        }
    }

    /// Not inlined, so that it does not lengthen the usual send.
    #[inline(never)]
    fn send_apart(&mut self, bytes: &[u8], timeout: SendTimeout) -> io::Result<usize> {
        match self {
            Self::Split(socket) => socket.send(bytes, || timeout),
            _ => self.within(timeout, WaitClock::Own, Direction::Out, |stream| stream.write(bytes)),
        }
    }

    /// Flushes a stream that holds bytes back: a user's own, or a wrapper. A socket has nothing to flush.
    pub(super) fn flush(&mut self, timeout: SendTimeout) -> io::Result<()> {
        match self {
            Self::Socket(_) | Self::Split(_) | Self::Gone(_) => Ok(()),
            _ => self
                .within(timeout, WaitClock::Own, Direction::Out, |stream| {
                    stream.flush().map(|()| 0)
                })
                .map(drop),
        }
    }

    /// Calls a stream that is not a socket of this crate. If a signal interrupts the call, it is repeated.
    #[inline(never)]
    fn within(
        &mut self,
        timeout: SendTimeout,
        clock: WaitClock,
        direction: Direction,
        mut call: impl FnMut(&mut dyn Stream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let (stream, status): (&mut dyn Stream, _) = match self {
            Self::Other(stream) => (&mut **stream, None),
            // A wrapper may do anything with a deadline, so the raw stream keeps the timeout.
            Self::Wrapped { stream, status } => (&mut **stream, Some(status)),
            Self::Sealed { stream, status } => (stream.as_stream(), Some(status)),
            // A wrapper has taken the connection and failed. (A socket of this crate does not come here.)
            Self::Socket(_) | Self::Split(_) | Self::Gone(_) => {
                return Err(io::ErrorKind::NotConnected.into());
            }
        };
        // A wrapper that has dropped the raw stream uses some other connection, and this crate keeps no limits below
        // it.
        let raw = status.filter(|status| status.has_raw());
        if let Some(status) = &raw {
            if clock == WaitClock::Reapers {
                status.begin_reaped_read();
            } else {
                status.begin_call(timeout);
            }
        }
        // Above a raw stream only the deadline of the whole request is set, because the raw stream watches for stalls.
        // A stream without a raw stream gets both bounds as one deadline.
        let deadline = if raw.is_some() { timeout.until } else { timeout.at() };
        loop {
            // The same moment each time, so that signals do not extend it.
            stream.set_deadline(deadline);
            match call(stream) {
                // A user's stream may pass EINTR on, as std's do.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(match raw {
                        Some(status) => status.explain(error, direction),
                        None => error,
                    });
                }
                // A drain or a limit may have shut the input down, and the wrapper takes that for the peer's end.
                Ok(0) if direction == Direction::In => {
                    return raw.and_then(|status| status.interruption()).map_or(Ok(0), Err);
                }
                done => {
                    // A write may end well although its bytes did not leave: the wrapper holds them back.
                    if let Some(status) = raw.filter(|_| direction == Direction::Out) {
                        status.end_write();
                    }
                    return done;
                }
            }
        }
    }

    /// Ends one or both directions. For a wrapped connection this is the wrapper's `shutdown`, which sends the
    /// protocol's last message (TLS's close_notify) and may take as long as a write.
    #[inline]
    pub(super) fn shutdown(&mut self, how: Shutdown, timeout: SendTimeout) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket.shutdown(how),
            Self::Split(socket) => socket.shutdown(how),
            _ => self
                .within(timeout, WaitClock::Own, Direction::Out, |stream| {
                    stream.shutdown(how).map(|()| 0)
                })
                .map(drop),
        }
    }

    /// The descriptor, if there is one: the stream's, or that of the socket below it. For options and addresses: the
    /// caller keeps no copy.
    pub(super) fn fileno(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(socket) => Some(socket.as_fd()),
            Self::Split(socket) => Some(socket.as_fd()),
            Self::Other(stream) => stream.fileno(),
            Self::Wrapped { stream, status } => {
                // The raw stream's socket is asked first: a wrapper need not know its descriptor.
                status.own_fd().map(AsFd::as_fd).or_else(|| stream.fileno())
            }
            Self::Sealed { stream, status } => {
                status.own_fd().map(AsFd::as_fd).or_else(|| stream.fileno())
            }
            Self::Gone(_) => None,
        }
    }

    /// As [`fileno`](Self::fileno), for code that may keep a copy of the descriptor.
    pub(super) fn lend(&self) -> Option<BorrowedFd<'_>> {
        // Below a wrapper the raw stream lends its socket by itself, when it finds the entry marked as lent.
        self.as_socket().map_or_else(|| self.fileno(), |socket| Some(socket.lend()))
    }

    /// The socket, if the request has to end it. None if a user's transport or wrapper has the connection.
    #[inline]
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Socket(socket) => Some(socket.as_fd()),
            _ => self.socket_below(),
        }
    }

    /// Not inlined, for the same reason as [`status_below`](Self::status_below).
    #[cold]
    fn socket_below(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Split(socket) => Some(socket.as_fd()),
            _ => self.status_below()?.own_fd().map(AsFd::as_fd),
        }
    }

    /// The socket that the request has to end, with shared ownership, for a later close.
    pub(super) fn share_socket(&self) -> Option<Arc<OwnedFd>> {
        match self.as_socket() {
            Some(socket) => Some(socket.share()),
            None => self.status_below()?.own_fd().map(Arc::clone),
        }
    }

    /// The notes of the raw stream below a wrapper.
    #[inline]
    pub(super) fn raw_status(&self) -> Option<&Arc<RawStatus>> {
        if self.is_socket() { None } else { self.status_below() }
    }

    /// Not inlined, so that a plain socket needs no jump table. Reading the table is one more page that a forked
    /// child maps.
    #[cold]
    fn status_below(&self) -> Option<&Arc<RawStatus>> {
        match self {
            Self::Wrapped { status, .. }
            | Self::Sealed { status, .. }
            | Self::Gone(Some(status)) => Some(status),
            _ => None,
        }
    }
}
