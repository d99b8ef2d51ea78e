//! [`OutgoingStream`]: a connection that a handler has made, and its halves.
//!
//! Both halves use one [`SocketIo`], with one slot for a parker; the input half uses its receiving side, the output
//! half its sending side. So the halves may be on two threads, or in two coroutines of one worker.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};

use super::HalfClose;
use crate::address::Address;
use crate::error::Error;
use crate::live::LinkedConnection;
use crate::socket_io::{RecvTimeout, SocketIo};
use crate::sys::RecvBuf;
use crate::write_stall::{SendTimeout, earlier};

/// A connection to another server, made by [`connect`](crate::outgoing::connect).
///
/// It reads and writes as a socket in blocking mode, on a thread and in a coroutine alike, and everything that takes a
/// [`Read`] and a [`Write`] works over it: `BufReader`, rustls' `StreamOwned`, a protocol's client. It has no buffer: for
/// lines put it into a [`BufReader`](std::io::BufReader). Each write is a send, and one `writeln!` is one send.
///
/// # Limits
///
/// A read fails if nothing has come for 60 seconds, and the other half has sent nothing in that time. A write fails if
/// the peer has taken nothing for 60 seconds. [`set_timeout`](Self::set_timeout) changes both, and
/// [`deadline_in`](Self::deadline_in) bounds several calls together. The 60 seconds are also the default of a request's
/// own limits, but the limits of the server do not apply to this connection.
///
/// Errors name the operation and the peer (`cannot read from 127.0.0.1:7000: ..`) and have the cause's kind; after a limit
/// it is `TimedOut`. They are never taken for faults of the request's own peer.
///
/// A drain that cuts a request off does not know the connections that its handler has made; see
/// [`StreamRequest::end_together`](crate::StreamRequest::end_together).
///
/// The connection is closed when this is dropped. If bytes of the peer are still unread then, the peer gets a reset.
pub struct OutgoingStream {
    /// Both halves live as long as the whole. `split` lends them, `into_split` gives them away.
    input: OutgoingInput,
    output: OutgoingOutput,
}

/// The input of an [`OutgoingStream`].
pub struct OutgoingInput {
    /// Shared with the other half.
    shared: Arc<Outgoing>,
    /// The limits of this half alone: reads and writes may have different limits.
    bounds: Bounds,
}

/// The output of an [`OutgoingStream`].
pub struct OutgoingOutput {
    shared: Arc<Outgoing>,
    bounds: Bounds,
}

/// The part that both halves share.
pub(crate) struct Outgoing {
    /// The socket, which closes with the last half. A request that the connection is tied to (`end_together`) has only a
    /// weak reference.
    io: SocketIo,
    /// For errors: the system forgets the address when the connection breaks.
    peer: Address,
    /// How many bytes were sent. A peer that takes bytes is not silent.
    sent: AtomicU64,
    /// This side has ended both directions, so a later end of input is not the peer's.
    is_closed: AtomicBool,
}

impl OutgoingStream {
    /// Makes a connection from a connected socket in blocking mode.
    pub(super) fn over(socket: Socket, peer: Address) -> io::Result<Self> {
        // On TCP a short receive has taken everything that was there, and `SocketIo` then saves a system call.
        let io = if peer.as_inet().is_some() {
            socket.set_tcp_nodelay(true)?;
            SocketIo::over_tcp(Arc::new(socket.into()))
        } else {
            SocketIo::new(Arc::new(socket.into()))
        };
        let (sent, is_closed, bounds) = Default::default();
        let shared = Arc::new(Outgoing { io, peer, sent, is_closed });
        let input = OutgoingInput { shared: Arc::clone(&shared), bounds };
        Ok(Self { input, output: OutgoingOutput { shared, bounds } })
    }

    /// The address of the other end.
    #[must_use]
    #[doc(alias = "getpeername")]
    pub fn peer_address(&self) -> Address {
        self.shared().peer.clone()
    }

    /// The address of this end.
    #[must_use]
    #[doc(alias = "getsockname")]
    pub fn local_address(&self) -> Address {
        let address = SockRef::from(&self.shared().io).local_addr();
        address.map_or(Address::Unnamed, |address| Address::from_socket(&address))
    }

    /// How long one read may wait without a byte, and one write without progress. None, the default, means 60 seconds for
    /// each; [`Duration::MAX`] means for ever; with zero no call waits. When the time has passed, the call fails with an
    /// error of kind `TimedOut`, and may be made again.
    #[doc(alias = "settimeout")]
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.input.set_timeout(timeout);
        self.output.set_timeout(timeout);
    }

    /// Bounds all following reads and writes together: they end this long from now. None removes the deadline. The
    /// timeout holds as well, and the earlier of the two counts.
    pub fn deadline_in(&mut self, after: impl Into<Option<Duration>>) {
        let after = after.into();
        self.input.deadline_in(after);
        self.output.deadline_in(after);
    }

    /// Ends one direction or both, as [`std::net::TcpStream::shutdown`] does. A read after the end of the input
    /// returns zero; after [`close`](HalfClose::close) it fails.
    ///
    /// # Errors
    ///
    /// If the connection is broken already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.shared().io.shutdown(how).map_err(|error| self.shared().cannot("end", error))
    }

    /// Turns Nagle's algorithm off (`true`, as it is at first) or on. Connections that are not TCP ignore this.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    #[doc(alias = "TCP_NODELAY")]
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        if self.shared().peer.as_inet().is_none() {
            return Ok(());
        }
        SockRef::from(&self.shared().io).set_tcp_nodelay(nodelay)
    }

    /// Its two directions, to be used at once: see [`join`](crate::join). Each half has its own timeout and deadline,
    /// which begin as those of the whole.
    #[must_use]
    pub fn split(&mut self) -> (&mut OutgoingInput, &mut OutgoingOutput) {
        (&mut self.input, &mut self.output)
    }

    /// The two directions as two values, each of which keeps the connection open. [`HalfClose::shutdown_write`] ends
    /// the output; dropping the output half does not.
    #[must_use]
    pub fn into_split(self) -> (OutgoingInput, OutgoingOutput) {
        (self.input, self.output)
    }

    /// The part that a request keeps in order to end the connection.
    pub(crate) fn shared(&self) -> &Arc<Outgoing> {
        &self.input.shared
    }
}

impl Read for OutgoingStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }
}

impl Write for OutgoingStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.write(bytes)
    }

    fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> io::Result<()> {
        self.output.write_fmt(arguments)
    }

    /// Does nothing: nothing is held back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HalfClose for OutgoingStream {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.output.shutdown_write()
    }

    fn close(&mut self) {
        self.shared().close();
    }
}

/// Lends the descriptor, for options that this crate does not know. Code that reads or writes through it bypasses the
/// limits. From the first call on each read that waits costs one or two more system calls, because the socket's mode and
/// timeout may be another owner's.
impl AsFd for OutgoingStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared().io.lend()
    }
}

impl OutgoingInput {
    /// As [`OutgoingStream::set_timeout`], for reads.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.bounds.timeout = timeout;
    }

    /// As [`OutgoingStream::deadline_in`], for reads.
    pub fn deadline_in(&mut self, after: impl Into<Option<Duration>>) {
        self.bounds.set_deadline(after.into());
    }

    /// Ends both directions at once: see [`HalfClose::close`].
    pub fn close(&mut self) {
        self.shared.close();
    }
}

impl Read for OutgoingInput {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let shared = &*self.shared;
        let mut room = RecvBuf::from(buf);
        loop {
            // Read before the receive, so that bytes that are sent during the receive count as progress.
            let sent = shared.sent.load(Ordering::Relaxed);
            match shared.io.recv(&mut room, self.bounds.of_read()) {
                // Our own `close`, and not the peer, has ended the input.
                Ok(0) if shared.is_closed.load(Ordering::SeqCst) => {
                    return Err(shared.cannot("read from", closed_here()));
                }
                Ok(count) => return Ok(count),
                // The limit begins anew while the other half sends.
                Err(error)
                    if self.bounds.is_limit_over(&error)
                        && shared.sent.load(Ordering::Relaxed) != sent => {}
                Err(error) => {
                    return Err(shared.cannot("read from", self.bounds.explain(error, "came")));
                }
            }
        }
    }
}

impl OutgoingOutput {
    /// As [`OutgoingStream::set_timeout`], for writes.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.bounds.timeout = timeout;
    }

    /// As [`OutgoingStream::deadline_in`], for writes.
    pub fn deadline_in(&mut self, after: impl Into<Option<Duration>>) {
        self.bounds.set_deadline(after.into());
    }
}

impl Write for OutgoingOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let shared = &*self.shared;
        match shared.io.send(bytes, || self.bounds.of_write()) {
            Ok(count) => {
                // Only this half adds. Relaxed: it orders nothing, and a read only asks whether it has grown within a time limit.
                shared.sent.fetch_add(count as u64, Ordering::Relaxed);
                Ok(count)
            }
            // EPIPE after our own `close`: the error says so, and does not blame the peer.
            Err(_) if shared.is_closed.load(Ordering::SeqCst) => {
                Err(shared.cannot("write to", closed_here()))
            }
            Err(error) => Err(shared.cannot("write to", self.bounds.explain(error, "was taken"))),
        }
    }

    /// Sends the whole text at once, as a request does.
    fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> io::Result<()> {
        match arguments.as_str() {
            Some(text) => self.write_all(text.as_bytes()),
            None => {
                let mut bytes = Vec::new();
                bytes.write_fmt(arguments)?;
                self.write_all(&bytes)
            }
        }
    }

    /// Does nothing: nothing is held back.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HalfClose for OutgoingOutput {
    fn shutdown_write(&mut self) -> io::Result<()> {
        self.shared.io.shutdown(Shutdown::Write).map_err(|error| self.shared.cannot("end", error))
    }

    fn close(&mut self) {
        self.shared.close();
    }
}

/// Called when the request that the connection is tied to (`end_together`) is cut off.
impl LinkedConnection for Outgoing {
    fn end(&self) {
        self.close();
    }
}

impl Outgoing {
    /// Ends both directions. The flag is set first, because an end of input that a read then finds is not the peer's.
    fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        // It fails only if the connection is broken already.
        let _ = self.io.shutdown(Shutdown::Both);
    }

    /// An error with the operation and the peer, of the cause's kind.
    #[cold]
    fn cannot(&self, operation: &'static str, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Error::io(operation, &self.peer, error))
    }
}

/// The timeout of reads and writes if the handler sets none: the same as the default of a request's limits.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the calls of one half may wait.
#[derive(Clone, Copy, Default)]
struct Bounds {
    /// The handler's own timeout; none is [`DEFAULT_TIMEOUT`].
    timeout: Option<Duration>,
    /// The handler's deadline: the moment, and the length of time that was set.
    deadline: Option<(Instant, Duration)>,
}

impl Bounds {
    /// Sets or removes the deadline. Keeps the length of the time as well, for the error's text.
    fn set_deadline(&mut self, after: Option<Duration>) {
        // A moment beyond the clock's range means no deadline.
        self.deadline = after.and_then(|after| Some((Instant::now().checked_add(after)?, after)));
    }

    fn limit(&self) -> Duration {
        self.timeout.unwrap_or(DEFAULT_TIMEOUT)
    }

    /// The timeout of one receive that begins now: the limit or the deadline, whichever is earlier.
    fn of_read(&self) -> RecvTimeout {
        // The usual case, for which the clock is not read.
        let Some((deadline, _)) = self.deadline else { return RecvTimeout::lasting(self.limit()) };
        // None: `Duration::MAX` is beyond the clock, and means no limit.
        let by_limit = Instant::now().checked_add(self.limit());
        earlier(by_limit, Some(deadline)).map_or(RecvTimeout::Never, RecvTimeout::Until)
    }

    /// The timeout of one send. Asked for only if the socket has no room, so most writes read no clock.
    fn of_write(&self) -> SendTimeout {
        SendTimeout { stall: self.limit(), until: self.deadline.map(|(at, _)| at) }
    }

    /// Whether a read has ended by the default limit, and not by one that the handler has set.
    fn is_limit_over(&self, error: &io::Error) -> bool {
        // The handler has set the deadline, and it holds whatever the other half does.
        let is_due = self.deadline.is_some_and(|(at, _)| Instant::now() >= at);
        is_timeout(error) && self.timeout.is_none() && !is_due
    }

    /// Says which limit has passed, if one has.
    #[cold]
    fn explain(&self, error: io::Error, what: &str) -> io::Error {
        if !is_timeout(&error) {
            return error;
        }
        // Limit and deadline may both have passed. The error names the deadline, because a new call would not extend it.
        let text = match self.deadline {
            Some((at, after)) if Instant::now() >= at => {
                format!("the handler's deadline of {after:?} has passed")
            }
            _ => format!("nothing {what} within {:?}", self.limit()),
        };
        io::Error::new(io::ErrorKind::TimedOut, text)
    }
}

/// Whether the error is a timeout of this side. (The system's own ETIMEDOUT is a loss of the connection.)
fn is_timeout(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
        || error.kind() == io::ErrorKind::WouldBlock
}

/// The error of calls after a `close` from this side.
fn closed_here() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "this side has closed the connection")
}

impl fmt::Debug for OutgoingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingStream").field("peer", &self.shared().peer).finish_non_exhaustive()
    }
}

impl fmt::Debug for OutgoingInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingInput").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}

impl fmt::Debug for OutgoingOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingOutput").field("peer", &self.shared.peer).finish_non_exhaustive()
    }
}
