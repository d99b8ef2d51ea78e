//! The input of a [`StreamRequest`]: lines, chunks, and the buffer.
//!
//! `BoundedIo::receive` bounds each receive in time: by `Limits::idle` until a read has its first byte, by `Limits::read`
//! from then on, or by the handler's own timeout. `Limits::line_bytes` bounds a line. `read` and `read_exact` are in
//! `stream.rs`, over the same buffer.
//!
//! ```text
//! the buffer is empty, and        a coroutine waits before it takes memory (empty_socket_wait.rs): wait_for_*
//! a wait is sure                    then receive_awaited_chunk: recv into a block
//! otherwise                       receive_*: one receive, which waits inside if need be
//! ```
//!
//! Whether a wait is for the beginning of a request decides what a drain does with it. For lines this is known
//! (`append_until` sets `at_boundary` when a line begins); handlers of other protocols call `between_requests`.

use std::io;
use std::time::Instant;

use super::StreamRequest;
use super::empty_socket_wait::Awaited;
use super::line::{Line, LineTooLong, NotText};
use super::read_buffer::Chunk;
use crate::peer_fault::PeerFault;

impl StreamRequest {
    /// Reads one line, without its `\n` or `\r\n`, into a `String` or a `Vec<u8>`. None at the end of input. A last
    /// line without a newline is a line. [`Limits::read`](field@crate::Limits::read) applies to the line as a whole.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the line is longer than `Limits::line_bytes` (the error holds a [`LineTooLong`]), or if it is
    /// read into a `String` and is not UTF-8 (a [`PeerFault`]); `TimedOut` if the peer is silent for too long;
    /// `Stopping` in a drain.
    #[doc(alias("readline", "readlines"))]
    pub fn next_line<'a, L: Line>(&mut self, line: &'a mut L) -> io::Result<Option<&'a L::Text>> {
        let owner = self.io.ticket.entry().owner();
        let read = |bytes: &mut Vec<u8>| {
            // An empty line has one byte, its newline: zero bytes are the end of input.
            if self.append_until(b'\n', bytes)? == 0 {
                return Ok(false);
            }
            if bytes.ends_with(b"\n") {
                bytes.pop();
                // Only one `\r` is removed: a second one is part of the line.
                if bytes.ends_with(b"\r") {
                    bytes.pop();
                }
            }
            Ok(true)
        };
        line.fill(read, |error| PeerFault::garbled(owner, NotText(error)))
    }

    /// The next bytes, as many as one receive returns; `None` at the end of input.
    ///
    /// The chunk owns its bytes, so the handler can write to the request while it holds the chunk. This is the fastest
    /// way to read a stream without lines.
    ///
    /// # Errors
    ///
    /// `TimedOut` if the peer is silent for too long, and the errors of the connection.
    #[doc(alias = "recv")]
    #[inline]
    pub fn chunk(&mut self) -> io::Result<Option<Chunk>> {
        // This function does no more, and is inlined into the handler: a coroutine that waits has no frame for it.
        if self.input.is_empty() && self.io.is_sure_to_wait(None) {
            return self.wait_for_chunk();
        }
        self.next_chunk()
    }

    /// All other cases: buffered bytes, and receives that may find something at once.
    #[inline(never)]
    fn next_chunk(&mut self) -> io::Result<Option<Chunk>> {
        if !self.input.is_empty() {
            // Bytes that a read of a line has left come first.
            return Ok(Some(self.input.take()));
        }
        let chunk = self.receive_chunk()?;
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// The chunk of a coroutine whose socket is known to be empty. The wait has no memory for bytes.
    #[inline(never)]
    fn wait_for_chunk(&mut self) -> io::Result<Option<Chunk>> {
        let chunk = match self.io.wait_without_memory()? {
            Awaited::Yes => self.receive_awaited_chunk()?,
            Awaited::No => self.receive_chunk()?,
        };
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Receives a chunk. Not inlined, so that a coroutine that has waited keeps no room for bytes on its stack.
    #[inline(never)]
    fn receive_chunk(&mut self) -> io::Result<Chunk> {
        Chunk::receive(&mut self.appetite, |buf| self.io.receive(buf, None))
    }

    /// As `receive_chunk`, after a wait.
    #[inline(never)]
    fn receive_awaited_chunk(&mut self) -> io::Result<Chunk> {
        Chunk::receive_awaited(&mut self.appetite, |buf| self.io.receive_awaited(buf))
    }

    /// Appends input to `bytes`, up to and including `delimiter` or up to the end of input, within the limit on lines.
    /// Returns the number of appended bytes.
    pub(super) fn append_until(&mut self, delimiter: u8, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let limit = self.io.ticket.limits().line_bytes;
        let begun = bytes.len();
        // The time of a read counts from its first byte; before it the peer is idle.
        let mut started = None;
        // A line begins a request, unless its beginning has come together with the previous line.
        self.io.at_boundary |= self.input.is_empty();
        loop {
            let taken = bytes.len() - begun;
            // Only the new bytes are searched: those that were appended before have no delimiter.
            let have = self.input.bytes();
            let found = have.iter().position(|byte| *byte == delimiter);
            let count = found.map_or(have.len(), |at| at + 1);
            // The limit counts the text, without the `\r` of a line's end. The last byte so far may be such a `\r`, even
            // if an earlier receive has brought it.
            let text = &have[..found.unwrap_or(count)];
            let ends_in_cr =
                text.last().or(bytes[begun..].last()).is_some_and(|last| *last == b'\r');
            if taken + text.len() > limit.saturating_add(usize::from(ends_in_cr)) {
                return Err(LineTooLong::error(self.io.ticket.entry().owner(), limit));
            }
            if bytes.capacity() == 0 {
                // Growing a vector runs other code, which a forked child would have to map first.
                *bytes = have[..count].to_vec();
            } else {
                bytes.extend_from_slice(&have[..count]);
            }
            self.input.consume(count);
            if found.is_some() {
                return Ok(bytes.len() - begun);
            }
            if bytes.len() > begun {
                started.get_or_insert_with(Instant::now);
            }
            // The end of input ends a last line as well. The time of a line counts from its first byte, so a peer that
            // sends a byte a second does not extend it.
            if self.fill_input(started)? == 0 {
                return Ok(bytes.len() - begun);
            }
        }
    }

    /// Receives into the empty buffer; returns zero at the end of input. `started`: the moment at which the read began,
    /// if it has begun and needs more bytes.
    pub(super) fn fill_input(&mut self, started: Option<Instant>) -> io::Result<usize> {
        if self.io.is_sure_to_wait(started) {
            return self.wait_for_input();
        }
        self.receive_input(started)
    }

    /// As [`wait_for_chunk`](Self::wait_for_chunk), into the buffer.
    #[inline(never)]
    fn wait_for_input(&mut self) -> io::Result<usize> {
        match self.io.wait_without_memory()? {
            Awaited::Yes => {
                let chunk = self.receive_awaited_chunk()?;
                Ok(self.input.put(chunk))
            }
            Awaited::No => self.receive_input(None),
        }
    }

    /// As [`receive_chunk`](Self::receive_chunk), into the buffer.
    #[inline(never)]
    fn receive_input(&mut self, started: Option<Instant>) -> io::Result<usize> {
        let chunk = self.appetite.receive(|buf| self.io.receive(buf, started))?;
        Ok(self.input.put(chunk))
    }

    /// Copies what is buffered, as much as fits, and consumes it. Returns the number of bytes.
    pub(super) fn read_buffered(&mut self, buf: &mut [u8]) -> usize {
        let have = self.input.bytes();
        let count = have.len().min(buf.len());
        buf[..count].copy_from_slice(&have[..count]);
        self.input.consume(count);
        count
    }
}
