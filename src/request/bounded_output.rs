//! The output of a connection under its limits: what is held back, and what is sent.
//!
//! ```text
//! write      fits into wbufsize          appended to `output`
//!            else                        `output` first, and then the bytes themselves
//! flush      `output`, and then what the wrapper holds back
//! send_once  a plain socket              one send; a wait for room is bounded by the write limit, each time anew
//!            an outbox, or a wrapper     through it, with the same bounds
//! ```
//!
//! Output is never dropped in silence: an error is the handler's, and after it `dropped_output` keeps a wrapper from
//! saying that the whole was sent.

use std::io;
use std::time::Duration;

use super::bounded_io::BoundedIo;
use super::connection::Connection;
use crate::live::Activity;
use crate::write_stall::SendTimeout;

impl BoundedIo {
    /// Sets how many bytes are held back. If more are held back already, they are sent.
    #[inline]
    pub(super) fn set_wbufsize(&mut self, bytes: usize) -> io::Result<()> {
        self.wbufsize = bytes;
        if self.output.len() > bytes { self.send_output() } else { Ok(()) }
    }

    /// How long a write may make no progress.
    #[inline]
    pub(super) fn write_limit(&self) -> Duration {
        self.timeout.unwrap_or(self.ticket.limits().write)
    }

    /// The two bounds of a write that begins now: time without progress, and the deadline.
    #[inline]
    pub(super) fn write_timeout(&self) -> SendTimeout {
        SendTimeout { stall: self.write_limit(), until: self.deadline().map(|whole| whole.at) }
    }

    /// Takes bytes: holds them back if they fit into `wbufsize`, or sends what there is room for. Returns how many it
    /// has taken.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Held-back bytes leave before newer ones, and as a whole.
        if self.output.len() + bytes.len() > self.wbufsize && !self.output.is_empty() {
            self.send_output()?;
        }
        // Holding back a full buffer would only copy it.
        if bytes.len() >= self.wbufsize {
            return self.send_once(bytes);
        }
        if self.output.capacity() == 0 {
            // A new vector takes less code than a grown one, as in `append_until`.
            self.output = bytes.to_vec();
        } else {
            self.output.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    /// Takes all bytes, as [`write`](Self::write) does. Each wait for room has the whole write limit.
    #[inline]
    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.wbufsize == 0 { self.send_all(bytes) } else { self.write_all_held(bytes) }
    }

    /// Not inlined, so that a write that holds nothing back is short.
    #[inline(never)]
    fn write_all_held(&mut self, bytes: &[u8]) -> io::Result<()> {
        until_all_is_taken(bytes, |rest| self.write(rest))
    }

    /// Sends the held-back output, both of this connection and of its wrapper.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.send_output()?;
        }
        // A socket holds nothing back, even with an outbox: the `write_all` of the outbox returns when the handler's
        // bytes are sent.
        if self.connection.is_socket() {
            return Ok(());
        }
        let timeout = self.write_timeout();
        self.connection.flush(timeout).map_err(|error| self.explain_write(error))
    }

    /// Sends all held-back output. The output is taken out for that time, because a send needs the whole of `self`.
    pub(super) fn send_output(&mut self) -> io::Result<()> {
        let output = std::mem::take(&mut self.output);
        let result = self.send_all(&output);
        if result.is_ok() {
            // The memory is kept for the next output. After an error the output is dropped, because a second flush
            // would send bytes out of their order.
            self.output = output;
            self.output.clear();
        }
        result
    }

    fn send_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        until_all_is_taken(bytes, |rest| self.send_once(rest))
    }

    /// Sends once. Each send gets the whole limit: a peer that takes a little, again and again, is slow but not
    /// stalled. `Limits::request` bounds such a peer.
    ///
    /// The usual case is a plain socket without an outbox: one system call, and nothing shown in the list unless it has
    /// to wait.
    #[inline(always)]
    fn send_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Connection::Socket(socket) = &self.connection else {
            return self.send_with_care(bytes);
        };
        if self.outbox.is_some() {
            return self.send_with_care(bytes);
        }
        let entry = self.ticket.entry();
        let result = socket.send(bytes, || {
            // There is no room.
            entry.show_activity(Activity::Sending);
            self.write_timeout()
        });
        // Stored in any case: a store costs less than asking whether the activity was changed.
        entry.show_activity(Activity::Running);
        match result {
            Ok(count) => {
                entry.add_bytes_out(count);
                Ok(count)
            }
            Err(error) => Err(self.explain_write(error)),
        }
    }

    /// A send through the outbox, or through a stream that is not a plain socket. An outbox takes all bytes, and counts
    /// them itself when they leave. The raw stream below a wrapper counts its bytes, too. The bytes of a user's
    /// transport are counted here.
    #[inline(never)]
    fn send_with_care(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.leave_outbox_to_parent();
        self.ticket.entry().show_activity(Activity::Sending);
        let timeout = self.write_timeout();
        let is_cut =
            matches!(self.connection, Connection::Other(_)) && self.ticket.entry().is_cut_off();
        let result = match &self.outbox {
            // As in `receive_within`: the cut could not shut down the stream of a user's transport.
            None if is_cut => Err(io::ErrorKind::BrokenPipe.into()),
            None => self.connection.send(bytes, timeout).inspect(|count| {
                if !self.connection.counts_itself() {
                    self.ticket.entry().add_bytes_out(*count);
                } else if self.connection.is_sealed() {
                    self.ticket.entry().add_clear_out(*count);
                }
            }),
            Some(outbox) => outbox.write_all(bytes, timeout).map(|()| bytes.len()),
        };
        self.ticket.entry().show_activity(Activity::Running);
        result.map_err(|error| self.explain_write(error))
    }
}

/// Calls `take` with the rest of `bytes` until nothing is left, or it fails. Like std's `write_all`, except that `take`
/// must not return `Interrupted`: the sends of this crate repeat such a call themselves.
#[inline]
pub(super) fn until_all_is_taken(
    mut bytes: &[u8],
    mut take: impl FnMut(&[u8]) -> io::Result<usize>,
) -> io::Result<()> {
    while !bytes.is_empty() {
        match take(bytes)? {
            // Without this a user's stream that takes nothing would be called for ever.
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => bytes = &bytes[count..],
        }
    }
    Ok(())
}
