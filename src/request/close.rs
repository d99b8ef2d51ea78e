//! The end of a connection.
//!
//! ```text
//! finish_output       the handler has ended: sends what is held back, unless the end can carry it
//! shutdown_request    send_last: the rest, in one packet with the end; the outbox; shutdown(Write)
//! peer_is_sending?    is more to come? then a close would be a reset, and the peer loses the answer
//! close_request       closes at once, or hands the connection to lingering_close.rs
//! ```
//!
//! [`BoundedIo::end_request`] does `shutdown_request` and `close_request` with fewer system calls if nobody else has
//! the descriptor.

use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::bounded_io::BoundedIo;
use super::bounded_output::until_all_is_taken;
use super::io_error::is_no_more_for_now;
use super::read_buffer::ReadBuffer;
use super::{Request, StreamRequest};
use crate::lingering_close;
use crate::live::Activity;
use crate::server_context::Lingering;
use crate::socket_io::SocketIo;
use crate::sys::{self, RecvBuf};
use crate::write_stall::{SendTimeout, earlier};

/// A request of at most this length is short: it fits into a block of the read buffer. After a longer request the
/// peer may be sending a stream, so the socket is asked whether its input has ended.
const SHORT_REQUEST: u64 = 8 * 1024;

impl BoundedIo {
    /// Called when the handler has ended. Sends the held-back output, unless that can leave together with the end of
    /// the connection.
    #[inline]
    pub(super) fn finish_output(&mut self) {
        let is_stuck = self.connection.raw_status().is_some_and(|status| status.is_stuck());
        if !self.is_plain() && !is_stuck {
            // As in Python, a peer that does not take the last bytes is not the handler's failure: the handler has
            // returned. If the flush fails, a wrapper can still send what it holds back, but the output held back here
            // is dropped.
            let holds = !self.output.is_empty();
            self.dropped_output |= self.flush().is_err() && holds;
        }
    }

    /// Whether the connection is a plain socket, and nobody else sends to it: then only the last send is still to come.
    fn is_plain(&self) -> bool {
        self.connection.is_socket() && self.outbox.is_none()
    }

    /// Sends the held-back output just before the end, so that both leave in one packet. This saves a sixth of the cost
    /// of a short connection.
    #[inline]
    fn send_last(&mut self) {
        let Some(socket) = self.connection.as_socket() else { return };
        if self.output.is_empty() || !self.is_plain() {
            return;
        }
        self.ticket.entry().show_activity(Activity::Sending);
        let timeout = self.write_timeout();
        // An error here is not the handler's failure: the handler has returned.
        let _ = until_all_is_taken(&self.output, |rest| {
            let count = socket.send_before_end(rest, timeout)?;
            self.ticket.entry().add_bytes_out(count);
            Ok(count)
        });
        // The output was sent, or given up: a later step must not send it again.
        self.output.clear();
    }

    /// The bounds of the outbox's last sends, after the handler has ended: in all no longer than a drain, and without
    /// progress no longer than a write.
    fn last_timeout(&self) -> SendTimeout {
        let limits = self.ticket.limits();
        let whole = self.deadline().map(|whole| whole.at);
        // No longer than a drain waits: the worker is not free until the outbox is empty.
        let until = earlier(Instant::now().checked_add(limits.drain), whole);
        SendTimeout { stall: limits.write, until }
    }

    /// Ends the connection in order, before the close: the peer sees the end of the output, even if a copy of the
    /// descriptor is still open. `input`: the bytes that the handler has not read.
    #[inline]
    pub(super) fn shutdown_request(&mut self, input: &ReadBuffer) {
        self.send_last();
        if let Some(outbox) = self.outbox.take() {
            // As in `send_last`, an error here is not the handler's failure.
            self.dropped_output |= outbox.finish(self.last_timeout()).is_err();
        }
        // The output ends after the outbox has sent its messages, which are output as well.
        let ended = match self.connection.raw_status() {
            Some(_) => self.end_wrapped(),
            None => self.end_output(),
        };
        if ended {
            // Without an orderly end the connection is broken, and nobody reads an answer.
            self.lingers = self.peer_is_sending(input);
        }
    }

    /// `shutdown_request` and `close_request` in one. If nobody else has the descriptor and nothing was held back, the
    /// close alone ends the connection, which saves a system call.
    #[inline]
    pub(super) fn end_request(mut self, input: &ReadBuffer) {
        if !self.is_plain()
            || self.ticket.entry().is_lent()
            || self.ticket.server().role().is_child()
        {
            self.shutdown_request(input);
            // Others may have the descriptor, and then a close here does not end the connection.
            return self.close_request();
        }
        // If input has come since the last read, a bare close would send a reset, and then the kernel drops output that
        // it has not sent. (Measured: one answer in two thousand, to clients that go on sending.)
        let ended = !self.output.is_empty() && !self.saw_end;
        self.send_last();
        if ended {
            // `send_before_end` has kept the output back in the kernel. The end of the output sends both in one packet.
            self.end_output();
        }
        if self.peer_is_sending(input) {
            self.lingers = true;
            // The peer sees the end of its answer now, and not only after the linger.
            if !ended {
                self.end_output();
            }
        }
        self.close_request();
    }

    /// Ends the output. False: the connection is broken already.
    #[inline]
    fn end_output(&mut self) -> bool {
        let timeout = self.write_timeout();
        self.connection.shutdown(Shutdown::Write, timeout).is_ok()
    }

    /// Whether the peer goes on sending, as far as the server can see. The signs are unread bytes in the socket or in
    /// the read buffer, a long request, a read that ended in the middle, and a call of `expect_more_input`. A peer
    /// that has only paused after its first line looks like one that waits for its answer, as most do. To linger for
    /// all of these would cost each short request two system calls and another thread.
    #[inline]
    fn peer_is_sending(&self, input: &ReadBuffer) -> bool {
        let Some(fd) = self.connection.socket() else { return false };
        let status = self.connection.raw_status();
        // A peer that has ended its output sends nothing more. A connection that this side has cut is not waited for: a
        // drain or an operator wants it gone.
        let saw_end = self.saw_end || status.is_some_and(|status| status.ended.is_set());
        if saw_end || self.ticket.entry().is_cut() {
            return false;
        }
        // Bytes that the handler has left in the buffers of the request; the socket's own are counted below.
        let left = !input.is_empty() || status.is_some_and(|status| status.has_ahead());
        let (bytes_in, bytes_out) = self.ticket.entry().bytes();
        // Without an answer there is nothing that a reset could destroy.
        let goes_on = bytes_out > 0 && (self.expects_more || bytes_in > SHORT_REQUEST);
        match sys::unread(fd) {
            // Zero bytes: either nothing has come, or the end.
            Ok(0) => (left || goes_on) && is_more_to_come(fd),
            Ok(_) => true,
            // The descriptor is not a socket, or the connection is broken already.
            Err(_) => false,
        }
    }

    /// Closes the connection, at once or after the peer has had time to read the answer.
    #[inline]
    pub(super) fn close_request(self) {
        if !self.lingers || self.ticket.limits().linger.is_zero() {
            return self.let_go();
        }
        self.linger();
    }

    /// Hands the connection to `lingering_close.rs`. The request leaves the live list when `self` is dropped, so a
    /// drain does not wait for a linger in the background.
    #[cold]
    fn linger(self) {
        // A user's own stream closes when it is dropped.
        let Some(fd) = self.connection.share_socket() else { return };
        let limits = self.ticket.limits();
        // In the background the share keeps the connection open. In all other cases the drop of `self` closes it.
        match (self.ticket.server().lingering(), self.connection.as_socket()) {
            (Lingering::Here, Some(socket)) => lingering_close::in_this_thread(socket, limits),
            (Lingering::Here, None) => lingering_close::in_this_thread(&SocketIo::new(fd), limits),
            (Lingering::Elsewhere, _) => lingering_close::in_background(fd, limits),
            // The parent of forked children starts no thread, and must not wait: a reset is the lesser evil.
            (Lingering::Nobody, _) => {}
        }
    }

    /// Drops the connection. In a forked child a plain socket is left to the end of the process, which closes it as
    /// well: to give memory and references back before that would copy pages of the parent.
    #[inline]
    fn let_go(self) {
        let is_childs = self.ticket.server().role().is_child();
        // A hook's value is the user's, and its drop may have an effect.
        if is_childs && self.is_plain() && self.ticket.extension.is_none() {
            std::mem::forget(self);
        }
    }
}

impl StreamRequest {
    /// Says that the peer may still be sending when this request ends. Its connection then stays open for a while
    /// ([`Limits::linger`](crate::Limits::linger)), so that the peer can read the answer.
    ///
    /// A system that receives bytes for a closed connection answers with a reset, and a reset makes the peer's system
    /// drop the bytes that its program has not read yet. So an early answer may be lost, such as "too large" to an
    /// upload whose first line has come. The server lingers by itself in these cases: more has come than was read,
    /// much has come, a read has ended in the middle, the handler has failed, the request is refused. It cannot
    /// notice a peer that has only paused, except with an extra system call for every short request. A handler that
    /// answers early says so:
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

/// Whether the peer may send more: it has not ended its output. A receive of one byte finds this out; the number of unread
/// bytes cannot, because it is zero at the end as well. The byte is lost, like all input that a linger reads.
fn is_more_to_come(fd: BorrowedFd<'_>) -> bool {
    let mut memory = [MaybeUninit::uninit()];
    let received = RecvBuf::new(&mut memory).recv(fd, sys::Mode::Try);
    received.map_or_else(|error| is_no_more_for_now(&error), |count| count > 0)
}
