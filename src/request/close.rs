//! The end of a connection: what is held back leaves, the peer sees the end, and has the time to read the answer.

use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::bounded_io::{BoundedIo, until_all_is_taken};
use super::connection::Connection;
use super::io_error::is_no_more_for_now;
use super::read_buffer::ReadBuffer;
use super::{Request, StreamRequest};
use crate::context::Lingering;
use crate::lingering_close;
use crate::live::Activity;
use crate::socket_io::SocketIo;
use crate::sys::{self, RecvBuf};
use crate::write_stall::{SendTimeout, earlier};

/// A request is short that has sent no more than this: a block of the read buffer. With a longer one the peer is asked
/// for its end, because it may be sending a stream.
const SHORT: u64 = 8 * 1024;

impl BoundedIo {
    /// The handler has ended, and what is held back has to leave: now, or with the end of the connection, if
    /// that is a plain socket.
    pub(super) fn finish_output(&mut self) {
        let is_stuck = self.connection.raw_status().is_some_and(|status| status.is_stuck());
        if !self.is_plain() && !is_stuck {
            // As in Python: a peer that does not take the last bytes is no error of the handler.
            let _ = self.flush();
        }
    }

    /// A socket that nobody else sends to.
    fn is_plain(&self) -> bool {
        self.connection.is_socket() && self.outbox.is_none()
    }

    /// Sends what is still held back, when the end follows at once: both leave in one packet, which saves a
    /// sixth of what a short connection costs.
    fn send_last(&mut self) {
        let Connection::Socket(socket) = &self.connection else { return };
        if self.output.is_empty() || !self.is_plain() {
            return;
        }
        self.ticket.entry().show_activity(Activity::Sending);
        let timeout = self.write_timeout();
        let _ = until_all_is_taken(&self.output, |rest| {
            let count = socket.send_before_end(rest, timeout)?;
            self.ticket.entry().add_bytes_out(count);
            Ok(count)
        });
        self.output.clear();
    }

    /// For what is due by the outbox when the handler has ended: so long as a drain lasts, and not longer than a write
    /// may make no progress.
    fn last_timeout(&self) -> SendTimeout {
        let limits = self.ticket.limits();
        let whole = self.deadline().map(|whole| whole.at);
        let until = earlier(Instant::now().checked_add(limits.drain), whole);
        SendTimeout { stall: limits.write, until }
    }

    /// The orderly end, before the close: the peer sees the end of what was sent, also where somebody
    /// still holds a duplicate of the descriptor. `unread`: the handler has left something of the input.
    pub(super) fn shutdown_request(&mut self, input: &ReadBuffer) {
        self.send_last();
        if let Some(outbox) = self.outbox.take() {
            outbox.finish(self.last_timeout());
        }
        let ended = match self.connection.raw_status() {
            Some(_) => self.end_wrapped(),
            None => self.end_output(),
        };
        if ended {
            self.lingers = self.peer_is_sending(input);
        }
    }

    /// `shutdown_request` and `close_request` in one. Where nobody else can have the descriptor, and nothing was
    /// held back, the close alone ends the connection as well, which saves a system call.
    pub(super) fn end_request(mut self, input: &ReadBuffer) {
        if !self.is_plain()
            || self.ticket.entry().is_lent()
            || self.ticket.server().role().is_child()
        {
            self.shutdown_request(input);
            return self.close_request();
        }
        // The close alone would be a reset if anything came in the moment before it, and with a reset the
        // kernel throws away what it has not sent yet (measured: one answer in two thousand, to clients that
        // talk on).
        let ended = !self.output.is_empty() && !self.saw_end;
        self.send_last();
        if ended {
            self.end_output();
        }
        if self.peer_is_sending(input) {
            self.lingers = true;
            // It sees the end of its answer now, and not at the end of the lingering.
            if !ended {
                self.end_output();
            }
        }
        self.close_request();
    }

    fn end_output(&mut self) -> bool {
        let timeout = self.write_timeout();
        self.connection.shutdown(Shutdown::Write, timeout).is_ok()
    }

    /// Whether the peer goes on sending, for all that can be seen. What stands unread in the socket would turn
    /// the close into a reset; if something does, or in our own buffer, more may be on its way. So it may be when much
    /// has come, when a read has ended in the middle, or when the handler says so. A peer that has sent a line, is
    /// answered, and only then goes on cannot be told from one that waits for its answer, which most do: to keep the
    /// connections of those would cost each short request two calls and a detour by another thread.
    fn peer_is_sending(&self, input: &ReadBuffer) -> bool {
        let Some(fd) = self.connection.socket() else { return false };
        let status = self.connection.raw_status();
        let saw_end = self.saw_end || status.is_some_and(|status| status.has_ended());
        if saw_end || self.ticket.entry().cut().is_some() {
            return false;
        }
        let left = !input.is_empty() || status.is_some_and(|status| status.has_ahead());
        let (bytes_in, bytes_out) = self.ticket.entry().bytes();
        let goes_on = bytes_out > 0 && (self.expects_more || bytes_in > SHORT);
        match sys::unread(fd) {
            // Nothing has come, or the end has: who expects more has to know which.
            Ok(0) => (left || goes_on) && is_more_to_come(fd),
            Ok(_) => true,
            Err(_) => false,
        }
    }

    /// Closes, at once or when the peer has had the time to read the answer.
    pub(super) fn close_request(self) {
        let limits = self.ticket.limits();
        let bound =
            lingering_close::LingerLimits { time: limits.linger, bytes: limits.linger_bytes };
        let Some(fd) = self.connection.share_socket() else { return };
        if !self.lingers || bound.time.is_zero() {
            return;
        }
        match (self.ticket.server().lingering(), &self.connection) {
            (Lingering::Here, Connection::Socket(socket)) => {
                lingering_close::in_this_thread(socket, bound);
            }
            (Lingering::Here, _) => lingering_close::in_this_thread(&SocketIo::new(fd), bound),
            (Lingering::Elsewhere, _) => lingering_close::in_background(fd, bound),
            (Lingering::Nobody, _) => {}
        }
    }
}

impl StreamRequest {
    /// Says that the peer may still be sending when this request ends, so that its connection stays open for a while
    /// ([`Limits::linger`](crate::Limits::linger)) and the peer can read the answer.
    ///
    /// A system that receives something for a closed connection answers with a reset, and a reset makes the peer's
    /// system throw away what its program has not read yet. So an answer is lost that is given before the peer has sent
    /// everything: "too large" to an upload, of which nothing has come yet but the line that announces it. The server
    /// sees by itself that more has come than was read, that much has come, that a read has ended in the middle, that
    /// the handler has failed, and that a request is refused. What it cannot see without a system call more for every
    /// short request is a peer that has paused; a handler that answers early knows of it:
    ///
    /// ```
    /// use std::io::Write;
    /// use socketserver::{HandlerResult, StreamRequest, stream_fn};
    ///
    /// fn handle(request: &mut StreamRequest) -> HandlerResult {
    ///     let mut line = String::new();
    ///     let Some(size) = request.next_line(&mut line)? else { return Ok(()) };
    ///     if size.parse::<u64>()? > 1_000_000 {
    ///         request.expect_more_input();
    ///         writeln!(request, "too large")?;
    ///         return Ok(());
    ///     }
    ///     // ..
    ///     Ok(())
    /// }
    /// # let _handler = stream_fn(handle);
    /// ```
    pub fn expect_more_input(&mut self) {
        Request::expect_more_input(self);
    }
}

/// Whether the peer has not ended its output: there is nothing to receive, and no end either.
fn is_more_to_come(fd: BorrowedFd<'_>) -> bool {
    let mut memory = [MaybeUninit::uninit()];
    let received = RecvBuf::new(&mut memory).recv(fd, sys::Mode::Try);
    received.map_or_else(|error| is_no_more_for_now(&error), |count| count > 0)
}
