//! A connection, as its handler holds it.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffer::{self, Chunk, Line, LineTooLong, ReadBuffer};
use super::{Deadline, Request, Ticket};
use crate::address::Address;
use crate::context::ServerContext;
use crate::error::{TimedOut, Timeout};
use crate::live::Activity;
use crate::sys::{self, Credentials};
use crate::wait::Source;

/// What bytes come from and go to: a socket, or what a transport or `wrap_request` puts in its place
/// (TLS, memory, a decompressor).
///
/// Implement it to serve over something else. `read` and `write` obey the last deadline: when it has
/// passed they return an error of kind `TimedOut`. A deadline in the past still tries once without
/// waiting.
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

/// A socket with the deadline of its next call.
pub(crate) struct Socket {
    source: Source,
    deadline: Option<Instant>,
}

impl Socket {
    /// `armed`: the timeout that the descriptor came with, as [`Source::new`] has it.
    pub(crate) fn new(fd: Arc<OwnedFd>, armed: Duration) -> Self {
        Self { source: Source::new(fd, armed), deadline: None }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.source.recv(buf, self.deadline)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.source.send(buf, self.deadline)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Socket {
    fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    fn shutdown(&mut self, how: Shutdown) -> io::Result<()> {
        socket2::SockRef::from(&self.source).shutdown(how)
    }

    fn fileno(&self) -> Option<BorrowedFd<'_>> {
        Some(self.source.as_fd())
    }
}

/// A plain socket stands in the request itself: the usual case costs no box and no indirection.
enum Connection {
    Socket(Socket),
    Other(Box<dyn Stream>),
    /// Its stream is in the hands of a wrapper that failed with it.
    Gone,
}

impl Connection {
    fn stream(&mut self) -> io::Result<&mut dyn Stream> {
        match self {
            Self::Socket(socket) => Ok(socket),
            Self::Other(stream) => Ok(&mut **stream),
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// A connection: Python's `StreamRequestHandler` with its `rfile` and `wfile` in one.
///
/// - Reading is buffered ([`Read`], [`BufRead`], [`next_line`](Self::next_line),
///   [`chunk`](Self::chunk)), and every read is bounded: in size, and in time by the server's
///   [`Limits`](crate::Limits).
/// - Writing ([`Write`]) is not buffered: what is written is sent, and one `writeln!` is one send. With
///   [`set_wbufsize`](Self::set_wbufsize) it is, and then leaves on `flush`, at the end, and before a
///   read that would block.
/// - The end of input does not end writing: a peer that has closed its sending side still gets its
///   answer. [`shutdown_write`](Self::shutdown_write) is the same in the other direction.
/// - The server ends and closes the connection when the handler returns.
///
/// Once a drain has begun, a read that would wait for the peer's next request gives the end of input
/// instead, so that the usual loop comes to its end by itself.
pub struct StreamRequest {
    connection: Connection,
    input: ReadBuffer,
    rbufsize: usize,
    /// What `set_wbufsize` holds back; empty without it.
    output: Vec<u8>,
    wbufsize: usize,
    /// The handler's own timeout, which goes before the server's idle, read and write limits.
    timeout: Option<Duration>,
    deadline: Option<Deadline>,
    /// None for a socket, which is asked when somebody wants to know: few handlers do.
    local: Option<Address>,
    ticket: Ticket,
}

impl StreamRequest {
    /// A request over a stream that is not a socket of this process: for transports of one's own.
    #[must_use]
    pub fn new(stream: Box<dyn Stream>, local: Address, ticket: Ticket) -> Self {
        Self::over(Connection::Other(stream), Some(local), ticket)
    }

    pub(crate) fn over_socket(socket: Socket, ticket: Ticket) -> Self {
        Self::over(Connection::Socket(socket), None, ticket)
    }

    fn over(connection: Connection, local: Option<Address>, ticket: Ticket) -> Self {
        Self {
            connection,
            input: ReadBuffer::default(),
            rbufsize: buffer::SMALL,
            output: Vec::new(),
            wbufsize: 0,
            timeout: None,
            deadline: None,
            local,
            ticket,
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn client_address(&self) -> Address {
        self.ticket.client_address().clone()
    }

    /// The address of this end: which of the server's addresses the peer has reached.
    #[must_use]
    pub fn local_address(&self) -> Address {
        if let Some(local) = &self.local {
            return local.clone();
        }
        let address = self.fileno().and_then(|fd| socket2::SockRef::from(&fd).local_addr().ok());
        address.map_or(Address::Unnamed, |address| Address::from_socket(&address))
    }

    /// The server: its address, its limits, its live list, and the handle that stops it.
    #[must_use]
    pub fn server(&self) -> &ServerContext {
        self.ticket.server()
    }

    /// The request's number in the [live list](ServerContext::live).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.ticket.id()
    }

    /// Whether a drain has begun: a long handler should come to its end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.server().is_stopping()
    }

    /// The connection's descriptor, borrowed, for options this crate does not know. Whoever reads or
    /// writes through it goes past the buffers and the limits. None if the stream has none.
    #[must_use]
    pub fn fileno(&self) -> Option<BorrowedFd<'_>> {
        match &self.connection {
            Connection::Socket(socket) => socket.fileno(),
            Connection::Other(stream) => stream.fileno(),
            Connection::Gone => None,
        }
    }

    /// Who is at the other end of a Unix socket, by the kernel's word.
    ///
    /// # Errors
    ///
    /// If it is not a Unix socket.
    pub fn peer_credentials(&self) -> io::Result<Credentials> {
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        self.fileno().ok_or_else(unsupported).and_then(sys::credentials)
    }

    /// How many bytes have been sent so far. After a write that failed this is where it stopped.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.ticket.bytes_out()
    }

    /// Python's `timeout`: how long one read or write may take, instead of the server's idle, read and
    /// write limits. None brings those back. When it fires, the error is of kind `TimedOut`.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    /// Python's `wbufsize`: how many bytes of output to hold back at most; zero, the default, none.
    ///
    /// # Errors
    ///
    /// Those of the flush, when what is held back already is more than that.
    pub fn set_wbufsize(&mut self, bytes: usize) -> io::Result<()> {
        self.wbufsize = bytes;
        if self.output.len() > bytes { self.send_output() } else { Ok(()) }
    }

    /// Python's `rbufsize`: how many bytes to ask the connection for at once. Default 8,192.
    pub fn set_rbufsize(&mut self, bytes: usize) {
        self.rbufsize = bytes.max(1);
    }

    /// Turns Nagle's algorithm on or off. It is off unless a handler asks for it, because it delays
    /// small answers by up to 40 ms. Ignored where the connection is not TCP.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self.fileno() {
            Some(fd) if self.ticket.client_address().as_inet().is_some() => {
                socket2::SockRef::from(&fd).set_tcp_nodelay(nodelay)
            }
            _ => Ok(()),
        }
    }

    /// Puts something between the connection and the handler: TLS, say. For
    /// [`ServerHooks::wrap_request`](crate::ServerHooks::wrap_request), which runs in the worker and
    /// under the handshake limit.
    ///
    /// # Errors
    ///
    /// Those of `wrap`; the connection is then gone.
    pub fn wrap_stream(
        &mut self,
        wrap: impl FnOnce(Box<dyn Stream>) -> io::Result<Box<dyn Stream>>,
    ) -> io::Result<()> {
        let mut inner: Box<dyn Stream> =
            match std::mem::replace(&mut self.connection, Connection::Gone) {
                Connection::Socket(socket) => Box::new(socket),
                Connection::Other(stream) => stream,
                Connection::Gone => return Err(io::ErrorKind::NotConnected.into()),
            };
        let deadline = self.deadline;
        inner.set_deadline(deadline.map(|deadline| deadline.at));
        let wrapped = wrap(inner).map_err(|error| match deadline {
            Some(Deadline { limit, after, .. }) if error.kind() == io::ErrorKind::TimedOut => {
                TimedOut::error(limit, after)
            }
            _ => error,
        });
        self.connection = Connection::Other(wrapped?);
        Ok(())
    }

    /// Tells the peer that nothing more will be written. Reading goes on.
    ///
    /// # Errors
    ///
    /// Those of sending what is held back, or that the peer is gone.
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        self.flush()?;
        self.connection.stream()?.shutdown(Shutdown::Write)
    }

    /// Reads one line, without its `\n` or `\r\n`, into a `String` or a `Vec<u8>`. None at the end of
    /// input. A last line without a newline is a line.
    ///
    /// # Errors
    ///
    /// `InvalidData` if it is longer than `Limits::line_bytes` (with [`LineTooLong`] inside), or is to
    /// be a `String` and is not UTF-8; `TimedOut` if the peer is silent for too long.
    pub fn next_line<'a, L: Line>(&mut self, line: &'a mut L) -> io::Result<Option<&'a L::Text>> {
        line.fill(|bytes| {
            if self.append_until(b'\n', bytes)? == 0 {
                return Ok(false);
            }
            if bytes.ends_with(b"\n") {
                bytes.pop();
                if bytes.ends_with(b"\r") {
                    bytes.pop();
                }
            }
            Ok(true)
        })
    }

    /// The bytes that come next, as many as one receive gives; none at the end of input.
    ///
    /// The chunk owns its bytes, so that the request can be written to while it lives: the fastest way
    /// to handle a stream that has no lines.
    ///
    /// # Errors
    ///
    /// `TimedOut` if the peer is silent for too long, and those of the connection.
    pub fn chunk(&mut self) -> io::Result<Option<Chunk>> {
        if !self.input.is_empty() {
            return Ok(Some(self.input.take()));
        }
        let size = self.rbufsize;
        let chunk = Chunk::receive(size, |room| self.receive(room, None))?;
        // A peer that fills a block sends a stream: fewer and larger receives from here on.
        if chunk.len() == size {
            self.rbufsize = size.max(buffer::LARGE);
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Appends to `bytes` up to and with `delimiter`, or to the end of input; bounded by the limit on
    /// lines. Says how many bytes were taken.
    fn append_until(&mut self, delimiter: u8, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let limit = self.ticket.limits().line_bytes;
        let mut started = None;
        let mut taken = 0;
        loop {
            let have = self.input.bytes();
            let found = have.iter().position(|byte| *byte == delimiter);
            let count = found.map_or(have.len(), |at| at + 1);
            // The line without its ending is what the limit is about.
            let text = taken + found.unwrap_or(count);
            if text > limit && !(text == limit + 1 && ends_in_cr(found, have)) {
                return Err(LineTooLong::error(limit));
            }
            bytes.extend_from_slice(&have[..count]);
            taken += count;
            self.input.consume(count);
            if found.is_some() {
                return Ok(taken);
            }
            if taken > 0 {
                started.get_or_insert_with(Instant::now);
            }
            if self.fill_input(started)? == 0 {
                return Ok(taken);
            }
        }
    }

    /// Receives into the buffer; zero is the end of input. `started`: since when a read has been
    /// going on that needs more.
    fn fill_input(&mut self, started: Option<Instant>) -> io::Result<usize> {
        // Taken out for the call, which needs the rest of the request.
        let mut input = std::mem::take(&mut self.input);
        let result = input.fill(self.rbufsize, |room| self.receive(room, started));
        self.input = input;
        result
    }

    /// One receive, after everything that goes before one: held-back output leaves if it would wait,
    /// and once the server drains, there is no waiting for a next request.
    fn receive(&mut self, room: &mut [u8], started: Option<Instant>) -> io::Result<usize> {
        if !self.output.is_empty() {
            if let Some(count) = self.receive_at_once(room)? {
                return Ok(count);
            }
            self.send_output()?;
        }
        let idle = started.is_none() && self.input.is_empty();
        if idle {
            self.ticket.set_activity(Activity::Idle);
            // Looked at after the activity is set: a drain that began just before does not see this
            // request as idle, and does not wake it.
            if self.is_stopping() {
                self.ticket.set_activity(Activity::Running);
                return Ok(self.receive_at_once(room)?.unwrap_or(0));
            }
        }
        let bound = self.read_bound(started);
        let result = self.receive_by(room, Some(bound));
        if idle {
            self.ticket.set_activity(Activity::Running);
        }
        result.map_err(|error| timed_out(error, bound))
    }

    /// What is there without waiting; none if that is nothing.
    fn receive_at_once(&mut self, room: &mut [u8]) -> io::Result<Option<usize>> {
        let now = Deadline { at: Instant::now(), limit: Timeout::Read, after: Duration::ZERO };
        match self.receive_by(room, Some(now)) {
            Ok(count) => Ok(Some(count)),
            Err(error) if is_no_more_for_now(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn receive_by(&mut self, room: &mut [u8], bound: Option<Deadline>) -> io::Result<usize> {
        let stream = self.connection.stream()?;
        stream.set_deadline(bound.map(|bound| bound.at));
        loop {
            match stream.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.ticket.add_bytes_in(count);
                    return Ok(count);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The bound of one read: the handler's timeout or the server's limit, and never past the bound
    /// of the whole request.
    fn read_bound(&self, started: Option<Instant>) -> Deadline {
        let limits = self.ticket.limits();
        let (limit, after) = match (self.timeout, started) {
            (Some(timeout), _) => (Timeout::Read, timeout),
            (None, Some(_)) => (Timeout::Read, limits.read),
            (None, None) => (Timeout::Idle, limits.idle),
        };
        self.earlier(started.unwrap_or_else(Instant::now), limit, after)
    }

    fn write_bound(&self) -> Deadline {
        let after = self.timeout.unwrap_or(self.ticket.limits().write);
        self.earlier(Instant::now(), Timeout::Write, after)
    }

    fn earlier(&self, from: Instant, limit: Timeout, after: Duration) -> Deadline {
        // A limit beyond what the clock can count is none; a century is as good.
        let century = Duration::from_secs(3_153_600_000);
        let at = from.checked_add(after).unwrap_or_else(|| from + century);
        match self.deadline {
            Some(whole) if whole.at <= at => whole,
            _ => Deadline { at, limit, after },
        }
    }

    fn read_buffered(&mut self, buf: &mut [u8]) -> usize {
        let have = self.input.bytes();
        let count = have.len().min(buf.len());
        buf[..count].copy_from_slice(&have[..count]);
        self.input.consume(count);
        count
    }

    fn send_output(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        let result = self.send_all(&output);
        if result.is_ok() {
            // Its memory serves the next buffer as well. After an error it is gone: what a second
            // flush would send is torn.
            self.output = output;
            self.output.clear();
        }
        result
    }

    fn send_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.send_once(bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => bytes = &bytes[count..],
            }
        }
        Ok(())
    }

    /// Each send has the whole limit: a peer that takes a little, again and again, is slow and not
    /// stalled; the bound of the whole request is for those.
    fn send_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bound = self.write_bound();
        let stream = self.connection.stream()?;
        stream.set_deadline(Some(bound.at));
        loop {
            match stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(count) => {
                    self.ticket.add_bytes_out(count);
                    return Ok(count);
                }
                Err(error) => return Err(timed_out(error, bound)),
            }
        }
    }

    /// The orderly end, before the close: the peer sees the end of what was sent, also where somebody
    /// still holds a duplicate of the descriptor.
    pub(crate) fn shutdown_request(&mut self) {
        if let Ok(stream) = self.connection.stream() {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}

/// Whether the text before the newline at `found` ends in the `\r` that belongs to it.
fn ends_in_cr(found: Option<usize>, have: &[u8]) -> bool {
    matches!(found, Some(at) if at > 0 && have[at - 1] == b'\r')
}

fn is_no_more_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Says which limit it was.
fn timed_out(error: io::Error, bound: Deadline) -> io::Error {
    if is_no_more_for_now(&error) { TimedOut::error(bound.limit, bound.after) } else { error }
}

impl Request for StreamRequest {
    fn client_address(&self) -> &Address {
        self.ticket.client_address()
    }

    fn server(&self) -> &ServerContext {
        self.ticket.server()
    }

    fn set_deadline(&mut self, deadline: Option<Deadline>) {
        self.deadline = deadline;
    }
}

impl Read for StreamRequest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        // A large read goes past the buffer: no copy.
        if self.input.is_empty() && buf.len() >= self.rbufsize {
            return self.receive(buf, None);
        }
        if self.input.is_empty() && self.fill_input(None)? == 0 {
            return Ok(0);
        }
        Ok(self.read_buffered(buf))
    }

    /// One deadline for the whole, so that a byte a second does not extend it.
    fn read_exact(&mut self, mut buf: &mut [u8]) -> io::Result<()> {
        let mut started = (!self.input.is_empty()).then(Instant::now);
        while !buf.is_empty() {
            let count = if self.input.is_empty() && buf.len() >= self.rbufsize {
                self.receive(buf, started)?
            } else {
                if self.input.is_empty() {
                    self.fill_input(started)?;
                }
                self.read_buffered(buf)
            };
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            started.get_or_insert_with(Instant::now);
            buf = &mut buf[count..];
        }
        Ok(())
    }
}

impl BufRead for StreamRequest {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.input.is_empty() {
            self.fill_input(None)?;
        }
        Ok(self.input.bytes())
    }

    fn consume(&mut self, count: usize) {
        self.input.consume(count);
    }

    /// Like std's, and bounded by `Limits::line_bytes`.
    fn read_until(&mut self, delimiter: u8, bytes: &mut Vec<u8>) -> io::Result<usize> {
        self.append_until(delimiter, bytes)
    }

    /// Like std's (the newline stays), and bounded by `Limits::line_bytes`.
    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        let mut bytes = Vec::new();
        let count = self.append_until(b'\n', &mut bytes)?;
        let text = String::from_utf8(bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))?;
        line.push_str(&text);
        Ok(count)
    }
}

impl Write for StreamRequest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.wbufsize == 0 {
            return self.send_once(bytes);
        }
        if self.output.len() + bytes.len() > self.wbufsize {
            self.send_output()?;
        }
        if bytes.len() >= self.wbufsize {
            return self.send_once(bytes);
        }
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.wbufsize == 0 {
            return self.send_all(bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.write(rest)?;
            rest = &rest[count..];
        }
        Ok(())
    }

    /// One send for the whole text, where `Write`'s own sends every piece by itself; with Nagle's
    /// algorithm and delayed acknowledgements that costs 44 ms a line.
    fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> io::Result<()> {
        buffer::with_formatted(arguments, |bytes| self.write_all(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.send_output()?;
        }
        match &mut self.connection {
            Connection::Other(stream) => stream.flush(),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for StreamRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.ticket.client_address();
        f.debug_struct("StreamRequest").field("client_address", peer).finish_non_exhaustive()
    }
}
