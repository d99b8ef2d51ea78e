//! Wrapping a connection (TLS, say), and ending a wrapped one.
//!
//! The steps of a wrapping, all in the request's worker:
//!
//! ```text
//! end_the_open            held-back output and the outbox's messages leave in the clear; the outbox is retired
//! RawStream::take         the connection is `Gone` from here on; bytes that were read ahead go to the raw stream
//! wrap(raw)               the wrapper makes its handshake, by waits of the raw stream
//!   it succeeds             end_handshake, and the wrapper is the connection
//!   it fails, or panics     the connection stays `Gone`; its socket is still the request's, which ends it
//! ```
//!
//! At the end of the request the wrapper sends its farewell, TLS's close_notify for example (`end_wrapped`), unless
//! output was dropped: the peer would take the farewell for the end of a whole answer.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;

use super::bounded_io::BoundedIo;
use super::connection::{Connection, Direction, Stream};
use super::raw_stream::RawStream;
use super::raw_stream_status::RawStatus;
use super::read_buffer::Chunk;
use super::{Deadline, StreamRequest, handshake_deadline};

impl StreamRequest {
    /// Puts a wrapper between the connection and the handler: TLS, say.
    /// [`ServerHooks::wrap_request`](crate::ServerHooks::wrap_request) calls it in the worker, or a handler whose
    /// protocol begins unencrypted (STARTTLS). `wrap` gets the raw stream, makes its handshake, and returns the
    /// stream that the request reads from and writes to from then on. [`Stream`] has the rules for it.
    ///
    /// Bytes that were written before leave first, unencrypted: those that `wbufsize` holds back, and those that are
    /// due in an [`outbox`](Self::outbox), which takes no more messages. The wrapper first reads the bytes that were
    /// read ahead (after a PROXY header, say). The handler never sees those bytes: an attacker could have sent them
    /// in the hope that they pass for encrypted ones.
    ///
    /// The handshake has the time of [`Limits::handshake`](crate::Limits::handshake), but no more than the request
    /// has left. A drain gives it the time of a first read ([`Limits::first_read`](field@crate::Limits::first_read)),
    /// because its client is about to send a request. A handshake in the middle of a request (STARTTLS) ends at once
    /// in a drain.
    ///
    /// # Errors
    ///
    /// The errors of `wrap`; the connection is then gone. They count as the peer's
    /// ([`PeerFault`](crate::request::PeerFault)) if the peer has left in the middle of the handshake, or if their
    /// kind is `InvalidData` and the peer has sent something. They are `TimedOut` or
    /// [`Stopping`](crate::request::Stopping) if a limit or a drain has ended the handshake. All others are the
    /// wrapper's own, and are reported as a failure. Also the errors of sending the earlier output, before `wrap` is
    /// called; the connection is then as it was.
    #[doc(alias("ssl", "wrap_socket", "STARTTLS"))]
    pub fn wrap_stream(
        &mut self,
        wrap: impl FnOnce(Box<dyn Stream>) -> io::Result<Box<dyn Stream>>,
    ) -> io::Result<()> {
        self.wrap_by(
            |raw, _status| wrap(Box::new(raw)),
            |stream, status| Connection::Wrapped { stream, status },
        )
    }

    /// Wraps by any kind of wrapper. `place` makes the connection that has the wrapper in it.
    pub(super) fn wrap_by<W>(
        &mut self,
        wrap: impl FnOnce(RawStream, &RawStatus) -> io::Result<W>,
        place: impl FnOnce(W, Arc<RawStatus>) -> Connection,
    ) -> io::Result<()> {
        // Earlier output first, so that no byte of it goes through the wrapper.
        self.io.end_the_open()?;
        // Takes the bytes that were read ahead only now: if the previous step fails, they stay with the connection.
        self.io.wrap(self.input.take(), wrap, place)
    }
}

impl BoundedIo {
    /// Sends the output that was written before the wrapper: held-back bytes, and those due in an outbox, which takes
    /// no more messages.
    fn end_the_open(&mut self) -> io::Result<()> {
        self.flush()?;
        let timeout = self.write_timeout();
        if let Some(outbox) = &self.outbox {
            outbox.retire(timeout).map_err(|error| self.explain_write(error))?;
        }
        // A later `outbox` fails above a user's wrapper, because the connection is not a plain socket then; above TLS it
        // makes a new one, which encrypts.
        self.outbox = None;
        Ok(())
    }

    /// Makes a wrapper, within the limit of a handshake. `ahead` has been read already: the wrapper reads it first.
    fn wrap<W>(
        &mut self,
        ahead: Chunk,
        wrap: impl FnOnce(RawStream, &RawStatus) -> io::Result<W>,
        place: impl FnOnce(W, Arc<RawStatus>) -> Connection,
    ) -> io::Result<()> {
        // The deadline of the whole request, or of a handshake that begins now, whichever is earlier.
        let own = handshake_deadline(self.ticket.limits());
        let deadline = Deadline::earlier(self.deadline(), own);
        let until = deadline.map(|deadline| deadline.at);
        // From here on the connection is gone until the wrapper takes its place. If `wrap` fails or panics, it stays
        // gone.
        let Some((raw, status)) = RawStream::take(&mut self.connection, ahead, &self.ticket, until)
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        match wrap(raw, &status) {
            Ok(stream) => {
                status.end_handshake();
                self.connection = place(stream, status);
                Ok(())
            }
            Err(error) => {
                status.fail_handshake();
                // First the cause that the raw stream has noted replaces the error. If that cause is a timeout, the error
                // then gets the name of the limit that bounded the handshake.
                let error = status.explain(error, Direction::In);
                Err(match deadline {
                    Some(Deadline { limit, after, .. }) => self.explain(error, limit, after),
                    None => self.own(error),
                })
            }
        }
    }

    /// Ends a connection that is wrapped, or whose wrapper failed: the wrapper's farewell, then the end of the output.
    /// False: there is no connection to end, or it is broken already.
    pub(super) fn end_wrapped(&mut self) -> bool {
        // The handler's output goes before the farewell.
        if !self.output.is_empty() {
            self.finish_output();
        }
        let timeout = self.write_timeout();
        let dropped_output = self.has_dropped_output();
        let (stream, status): (&mut dyn Stream, _) = match &mut self.connection {
            Connection::Wrapped { stream, status } => (&mut **stream, status),
            Connection::Sealed { stream, status } => (stream.as_stream(), status),
            // Its wrapper failed: the socket ends without a farewell, so that nothing passes for a whole answer.
            Connection::Gone(Some(status)) => return status.end_output().is_ok(),
            _ => return false,
        };
        // In two cases there is no farewell. If output was dropped, the peer must not take the end for that of a whole
        // answer. If a write was stuck, a part of its record is in the way.
        if dropped_output || status.is_stuck() {
            return status.end_output().is_ok();
        }
        // This allows the raw stream to send even after a cut, and says for how long.
        status.begin_farewell(timeout);
        stream.set_deadline(timeout.until);
        // Without a farewell the peer may think that an attacker cut the connection. If it cannot be sent, the
        // connection still ends.
        let _ = stream.shutdown(Shutdown::Write);
        status.end_output().is_ok()
    }
}
