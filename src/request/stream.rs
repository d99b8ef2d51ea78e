//! [`StreamRequest`]: a connection, for its handler.
//!
//! Here are its settings, `Read`, `BufRead` and `Write`. The other files of this module add methods by subject: lines
//! and chunks in `bounded_read.rs`, time in `deadline.rs`, the end in `close.rs`, wrappers in `wrap.rs`, halves in
//! `split.rs`, the outbox in `outbox.rs`, faults of the peer in `io_error.rs`.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::block_pool::LARGE;
use super::bounded_io::BoundedIo;
use super::connection::{Connection, Stream};
use super::extension::ticket_methods;
use super::line;
use super::read_buffer::{Appetite, ReadBuffer};
use super::{Deadline, Request, Ticket};
use crate::address::Address;
use crate::peer_fault::PeerFault;
use crate::server_context::ServerContext;
use crate::socket_io::SocketIo;
use crate::sys::{self, Credentials, RecvBuf};

/// A connection. It replaces the `rfile` and `wfile` of Python's `StreamRequestHandler`.
///
/// - Reading is buffered ([`Read`], [`BufRead`], [`next_line`](Self::next_line),
///   [`chunk`](Self::chunk)), and every read is bounded: in size, and in time by the server's
///   [`Limits`](crate::Limits).
/// - Writing ([`Write`]) is not buffered: each write is a send, and one `writeln!` is one send. With
///   [`set_wbufsize`](Self::set_wbufsize) output is buffered, and is sent on `flush`, at the end, and before a read
///   that would block.
/// - The end of input does not end writing: a peer that has closed its sending side still gets its answer.
///   [`shutdown_write`](Self::shutdown_write) ends the output and leaves the input open.
/// - The server ends and closes the connection when the handler returns.
///
/// Once a drain has begun, a read that would wait for the beginning of a request fails at once, with
/// [`Stopping`](crate::request::Stopping), so that the usual loop ends without a report. This holds for reads for the
/// beginning of a line, and for the read after [`between_requests`](Self::between_requests). The first read of a
/// connection may still wait for [`Limits::first_read`](crate::Limits::first_read), because its peer may be about to
/// send. All other reads may wait until the deadline of the drain.
// The order of the fields matters: those that each request touches are in the first three cache lines, and among a thousand
// connections each line is a miss. The test below checks the order.
#[repr(C, align(64))]
pub struct StreamRequest {
    /// The connection, its limits and its output.
    pub(super) io: BoundedIo,
    /// How much the next receive asks for.
    pub(super) appetite: Appetite,
    /// Bytes that were received and not yet read.
    pub(super) input: ReadBuffer,
    /// The local address. None for a socket: the system is asked when a handler needs the address, and few handlers do.
    local: Option<Box<Address>>,
}

impl StreamRequest {
    /// Makes a request over a stream that is not a socket of this process: for custom transports.
    #[must_use]
    pub fn new(stream: Box<dyn Stream>, local: Address, ticket: Ticket) -> Self {
        ticket.entry().note_stream();
        Self::over(Connection::Other(stream), Some(Box::new(local)), ticket)
    }

    /// Makes a request over an accepted socket, which is in blocking mode and has no timeout yet. The fast case:
    /// nothing is boxed.
    #[inline]
    pub(crate) fn over_socket(fd: Arc<OwnedFd>, ticket: Ticket) -> Self {
        // A short receive from a Unix socket does not mean that the socket is empty: see `SocketIo::takes_all`.
        let is_tcp = ticket.entry().peer_address().as_inet().is_some();
        let socket = if is_tcp { SocketIo::over_tcp(fd) } else { SocketIo::new(fd) };
        Self::over(Connection::Socket(socket), None, ticket)
    }

    #[inline]
    fn over(connection: Connection, local: Option<Box<Address>>, ticket: Ticket) -> Self {
        let io = BoundedIo::new(connection, ticket);
        Self { io, input: ReadBuffer::default(), appetite: Appetite::new(), local }
    }

    /// The address of the client: of the other end of the connection, or of the client that a
    /// [proxy](crate::proxy_protocol) there has named.
    #[must_use]
    #[doc(alias = "getpeername")]
    pub fn client_address(&self) -> Address {
        // A clone, so that a handler can write it to the same request.
        self.io.ticket.client_address().clone()
    }

    /// The address of this end: the one of the server's addresses that the peer connected to. Behind a
    /// [proxy](crate::proxy_protocol), too, this is the server's own address; [`proxy`](Self::proxy) has the one that
    /// the client connected to.
    #[must_use]
    #[doc(alias = "getsockname")]
    pub fn local_address(&self) -> Address {
        if let Some(local) = &self.local {
            return Address::clone(local);
        }
        let fd = self.io.connection.fileno();
        // A wrapped connection has the address of the socket below it.
        let address = fd.and_then(|fd| socket2::SockRef::from(&fd).local_addr().ok());
        address.map_or(Address::Unnamed, |address| Address::from_socket(&address))
    }

    /// The request's number in the [live list](ServerContext::live).
    #[must_use]
    pub fn id(&self) -> u64 {
        self.io.ticket.entry().id()
    }

    /// The connection's descriptor, borrowed, for options that this crate does not know. None if the stream has no
    /// descriptor.
    ///
    /// Code that reads or writes through it, or through a copy, bypasses buffers and limits. Because a copy is the same
    /// socket, the idle limit, the end of the request and a drain end the copy with the connection. The owner of a copy
    /// may change the socket's timeouts and mode. So from this call on the request neither sets nor relies on them.
    /// Each read of the request that has to wait then costs one or two extra system calls.
    #[must_use]
    pub fn fileno(&self) -> Option<BorrowedFd<'_>> {
        self.io.ticket.entry().lend();
        self.io.connection.lend()
    }

    /// The process, user and group at the other end of a Unix socket, from the kernel (Linux's SO_PEERCRED), as they
    /// were when the peer connected.
    ///
    /// # Errors
    ///
    /// If it is not a Unix socket, or if a [proxy](crate::proxy_protocol) is at the other end: its own credentials would
    /// pass for those of its client.
    #[doc(alias = "SO_PEERCRED")]
    pub fn peer_credentials(&self) -> io::Result<Credentials> {
        let unsupported = || io::Error::from(io::ErrorKind::Unsupported);
        // A LOCAL header says that the proxy speaks for itself: then these credentials are those of the client.
        if self.proxy().is_some_and(|proxy| !proxy.header().is_local()) {
            return Err(unsupported());
        }
        self.io.connection.fileno().ok_or_else(unsupported).and_then(sys::credentials)
    }

    ticket_methods!(io.ticket);

    /// Says that the next byte begins a new request, so that a drain may end the connection here. For handlers that do
    /// not read lines: only they know where a request begins.
    pub fn between_requests(&mut self) {
        self.io.at_boundary = true;
    }

    /// How many bytes have been sent so far, as the handler sees them: under TLS more are on the wire. After a failed
    /// write this shows how much of it was sent.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.io.ticket.entry().clear_bytes().1
    }

    /// Python's `wbufsize`: how many bytes of output to hold back at most. Zero, the default, holds nothing back.
    ///
    /// A handler that answers once and returns should hold its answer back. The answer then leaves together with the
    /// end of the connection, in one packet (on Linux). That saves a sixth of a short connection's cost, and wakes
    /// the client once and not twice.
    ///
    /// # Errors
    ///
    /// The errors of a flush, if more than `bytes` bytes are already held back.
    #[inline]
    pub fn set_wbufsize(&mut self, bytes: usize) -> io::Result<()> {
        self.io.set_wbufsize(bytes)
    }

    /// Python's `rbufsize`: how many bytes one receive asks for. At least 1, at most 16 MiB, by default 8,192. Use a
    /// larger value for uploads; the buffer takes memory only while bytes wait in it.
    pub fn set_rbufsize(&mut self, bytes: usize) {
        self.appetite.set_size(bytes);
    }

    /// Turns Nagle's algorithm off (`true`) or on. It is off by default, because it delays small answers by up to 40
    /// ms. Connections that are not TCP ignore this.
    ///
    /// # Errors
    ///
    /// If the connection is gone.
    #[doc(alias = "TCP_NODELAY")]
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        match self.io.connection.fileno() {
            // Unix sockets have no such option, and need none.
            Some(fd) if self.io.ticket.entry().peer_address().as_inet().is_some() => {
                socket2::SockRef::from(&fd).set_tcp_nodelay(nodelay)
            }
            _ => Ok(()),
        }
    }

    /// Ends the output: the peer reads what was written, and then the end. Reading goes on.
    ///
    /// # Errors
    ///
    /// If output that was held back cannot be sent, or the peer is gone.
    #[doc(alias = "SHUT_WR")]
    pub fn shutdown_write(&mut self) -> io::Result<()> {
        // Nothing can follow the end.
        self.flush()?;
        self.io.shutdown_write()
    }

    /// Sends held-back output, or keeps it for the end of the connection. Called once, when the handler has ended,
    /// after `finish`.
    #[inline]
    pub(crate) fn finish_output(&mut self) {
        self.io.finish_output();
    }

    /// Ends the connection in order, before the close: the peer gets the rest of the output and its end. Errors are
    /// ignored.
    #[inline]
    pub(crate) fn shutdown_request(&mut self) {
        self.io.shutdown_request(&self.input);
    }

    /// `shutdown_request` and `close_request` in one, which costs less: the way of this crate's own transports.
    #[inline]
    pub(crate) fn end_request(self) {
        self.io.end_request(&self.input);
    }

    /// Closes the connection, at once or after a linger.
    #[inline]
    pub(crate) fn close_request(self) {
        self.io.close_request();
    }
}

impl Request for StreamRequest {
    fn client_address(&self) -> &Address {
        self.io.ticket.client_address()
    }

    fn server(&self) -> &ServerContext {
        self.io.ticket.server()
    }

    fn ticket(&self) -> Option<&Ticket> {
        Some(&self.io.ticket)
    }

    fn set_deadline(&mut self, deadline: Option<Deadline>) {
        self.io.deadlines.set_handler(deadline);
    }

    #[inline]
    fn set_server_deadline(&mut self, deadline: Option<Deadline>) {
        self.io.deadlines.set_server(deadline);
    }

    fn expect_more_input(&mut self) {
        self.io.expects_more = true;
    }
}

impl Read for StreamRequest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        // A large read bypasses the buffer, and copies nothing.
        if self.input.is_empty() && buf.len() >= self.appetite.size() {
            return self.io.receive(&mut RecvBuf::from(buf), None);
        }
        // As std's `BufReader`: buffered bytes are given alone, even if more would fit, because a receive could wait.
        if self.input.is_empty() && self.fill_input(None)? == 0 {
            return Ok(0);
        }
        Ok(self.read_buffered(buf))
    }

    /// Like std's. Bytes that are not UTF-8 are a [`PeerFault`].
    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        let owner = self.io.ticket.entry().owner();
        line::read_to_string(self, text, owner)
    }

    /// The whole read has one deadline, which a byte each second does not extend.
    fn read_exact(&mut self, mut buf: &mut [u8]) -> io::Result<()> {
        // With buffered bytes the read is in the middle of something from the start.
        let mut started = (!self.input.is_empty()).then(Instant::now);
        while !buf.is_empty() {
            let count = if self.input.is_empty() && buf.len() >= self.appetite.size() {
                self.io.receive(&mut RecvBuf::from(&mut *buf), started)?
            } else {
                if self.input.is_empty() {
                    self.fill_input(started)?;
                }
                self.read_buffered(buf)
            };
            if count == 0 {
                return Err(PeerFault::ended_early(self.io.ticket.entry().owner()));
            }
            // From its first byte on the read is in the middle of something: `Limits::read` counts, and a drain lets it
            // end.
            started.get_or_insert_with(Instant::now);
            buf = &mut buf[count..];
        }
        Ok(())
    }
}

impl BufRead for StreamRequest {
    /// Receives only if nothing is buffered; empty at the end of input. The wait is bounded as that of `read`.
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

    /// Like std's (the newline stays), and bounded by `Limits::line_bytes`. Bytes that are not UTF-8 are a
    /// [`PeerFault`].
    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        // Into a vector of its own: `line` may hold text already, which stays if the new bytes are not text.
        let mut bytes = Vec::new();
        let count = self.append_until(b'\n', &mut bytes)?;
        line::append_text(line, bytes, self.io.ticket.entry().owner())?;
        Ok(count)
    }
}

thread_local! {
    /// The memory that this thread formats into. It belongs to the thread and not to the request, because a thousand
    /// silent connections would each keep one.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Formats the whole text, and writes it at once. A formatted text is a send of its own, so it is not worth an
/// allocation each time: the memory stays with the thread.
pub(super) fn write_formatted(
    arguments: fmt::Arguments<'_>,
    write_all: impl FnOnce(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    // Text without arguments needs no formatting.
    if let Some(text) = arguments.as_str() {
        return write_all(text.as_bytes());
    }
    // Taken out, not borrowed: the write may suspend this coroutine, and the next coroutine uses `SCRATCH` too.
    let mut bytes = SCRATCH.try_with(RefCell::take).unwrap_or_default();
    bytes.clear();
    let result = bytes.write_fmt(arguments).and_then(|()| write_all(&bytes));
    // The memory of a long text is not kept. At the end of a thread `SCRATCH` is gone, and nothing is kept.
    if bytes.capacity() <= LARGE {
        let _ = SCRATCH.try_with(|scratch| scratch.replace(bytes));
    }
    result
}

impl Write for StreamRequest {
    /// Sends once, as many bytes as there is room for; or holds the bytes back, after
    /// [`set_wbufsize`](Self::set_wbufsize).
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.io.write(bytes)
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes)
    }

    /// Sends the whole text at once. `Write`'s own method sends each piece separately, which costs 44 ms a line with
    /// Nagle's algorithm and delayed acknowledgements.
    fn write_fmt(&mut self, arguments: fmt::Arguments<'_>) -> io::Result<()> {
        write_formatted(arguments, |text| self.write_all(text))
    }

    /// Sends the output that the request and a wrapper hold back. If neither holds any back, it does nothing.
    fn flush(&mut self) -> io::Result<()> {
        self.io.flush()
    }
}

impl fmt::Debug for StreamRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.io.ticket.client_address();
        f.debug_struct("StreamRequest").field("client_address", peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// The last numbers that each receive reads are `start` and `end` of `input`.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn a_request_that_has_nothing_buffered_touches_three_cache_lines() {
        assert!(offset_of!(StreamRequest, input) + 2 * size_of::<usize>() <= 3 * 64);
    }
}
