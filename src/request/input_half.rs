//! [`InputHalf`]: the input of a connection whose output is used apart.
//!
//! An input half is the request itself, borrowed and without its writing methods, so that the two halves cannot write
//! through each other. Read buffer, limits and errors are the request's own. `output_half.rs` has the other half, and
//! `split.rs` makes both.

use std::fmt;
use std::io::{self, BufRead, Read};
use std::time::Duration;

use super::line::Line;
use super::read_buffer::Chunk;
use super::stream::StreamRequest;

/// The input of a request, by [`StreamRequest::split`]. It reads as the request does, line by line, in chunks or by
/// [`Read`], within the same limits.
pub struct InputHalf<'a> {
    /// This half uses the request's reading methods. The output half does not use the request.
    request: &'a mut StreamRequest,
}

impl<'a> InputHalf<'a> {
    pub(super) fn new(request: &'a mut StreamRequest) -> Self {
        Self { request }
    }

    /// The request, to be asked for its addresses, its server, its [`StopToken`](super::StopToken), and for the errors
    /// [`garbled`](StreamRequest::garbled) and [`ended_early`](StreamRequest::ended_early).
    #[must_use]
    pub fn request(&self) -> &StreamRequest {
        self.request
    }

    /// As [`StreamRequest::next_line`].
    ///
    /// # Errors
    ///
    /// The errors of that method.
    pub fn next_line<'l, L: Line>(&mut self, line: &'l mut L) -> io::Result<Option<&'l L::Text>> {
        self.request.next_line(line)
    }

    /// As [`StreamRequest::chunk`]: the fastest way to pass input on.
    ///
    /// # Errors
    ///
    /// The errors of that method.
    pub fn chunk(&mut self) -> io::Result<Option<Chunk>> {
        self.request.chunk()
    }

    /// As [`StreamRequest::between_requests`].
    pub fn between_requests(&mut self) {
        self.request.between_requests();
    }

    /// As [`StreamRequest::set_timeout`], for reads. The request keeps the timeout after the half is dropped.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.request.set_timeout(timeout);
    }

    /// As [`StreamRequest::deadline_in`], for reads. The request keeps the deadline after the half is dropped.
    pub fn deadline_in(&mut self, after: impl Into<Option<Duration>>) {
        self.request.deadline_in(after);
    }
}

// Every method is passed on, even those that std would derive from `read` and `fill_buf`, because only the request's own
// methods bound a line, and blame the peer for an early end or for bytes that are not text.
impl Read for InputHalf<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.request.read(buf)
    }

    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        self.request.read_to_string(text)
    }

    fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.request.read_exact(buf)
    }
}

impl BufRead for InputHalf<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.request.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.request.consume(count);
    }

    fn read_until(&mut self, delimiter: u8, bytes: &mut Vec<u8>) -> io::Result<usize> {
        self.request.read_until(delimiter, bytes)
    }

    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        self.request.read_line(line)
    }
}

impl fmt::Debug for InputHalf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InputHalf").field(&self.request).finish()
    }
}
