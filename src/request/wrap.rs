//! Putting a wrapper between the connection and the handler, and ending one in order.

use std::io;
use std::net::Shutdown;

use super::bounded_io::BoundedIo;
use super::connection::{Connection, Direction, Stream};
use super::raw_stream::RawStream;
use super::read_buffer::Chunk;
use super::{Deadline, StreamRequest};
use crate::error::Timeout;

impl StreamRequest {
    /// Puts something between the connection and the handler: TLS, say. For
    /// [`ServerHooks::wrap_request`](crate::ServerHooks::wrap_request), which runs in the worker; or for a handler whose
    /// protocol begins in the open (STARTTLS). `wrap` gets the raw stream, makes its handshake, and gives what is to be
    /// read from and written to from here on; see [`Stream`] for what a wrapper has to keep to.
    ///
    /// What belongs in the open leaves before: what `wbufsize` holds back, and what is due by an
    /// [`outbox`](Self::outbox), which takes nothing more from here on. What has been read ahead, by a hook that reads a
    /// PROXY header, say, was sent to the wrapper or by somebody who wants it to pass for what comes through it: it is
    /// the first that the wrapper reads, and nobody else ever sees it.
    ///
    /// The handshake has [`Limits::handshake`](crate::Limits::handshake), and never more than the request has. A drain
    /// cuts it off, as a wait between two requests.
    ///
    /// # Errors
    ///
    /// Those of `wrap`; the connection is then gone. They are the peer's ([`PeerFault`](crate::request::PeerFault)) if it has left in
    /// the middle of the handshake, or if they are of kind `InvalidData` and it has sent something; `TimedOut` and
    /// [`Stopping`](crate::request::Stopping) if that is what has ended it; and otherwise the wrapper's own: a failure, that is
    /// reported. Before `wrap` is called: those of what has to leave in the open, and the connection is as it was.
    #[doc(alias("ssl", "wrap_socket", "STARTTLS"))]
    pub fn wrap_stream(
        &mut self,
        wrap: impl FnOnce(Box<dyn Stream>) -> io::Result<Box<dyn Stream>>,
    ) -> io::Result<()> {
        self.io.end_the_open()?;
        self.io.wrap(self.input.take(), wrap)
    }
}

impl BoundedIo {
    /// Sends what belongs in the open: what is held back, and what others have put into an outbox, which takes nothing
    /// more from here on.
    pub(super) fn end_the_open(&mut self) -> io::Result<()> {
        self.flush()?;
        let timeout = self.write_timeout();
        if let Some(outbox) = &self.outbox {
            outbox.retire(timeout).map_err(|error| self.explain_write(error))?;
        }
        self.outbox = None;
        Ok(())
    }

    /// Has a wrapper made, within the limit of a handshake. `ahead` has been read already, and is the first that the
    /// wrapper reads.
    pub(super) fn wrap(
        &mut self,
        ahead: Chunk,
        wrap: impl FnOnce(Box<dyn Stream>) -> io::Result<Box<dyn Stream>>,
    ) -> io::Result<()> {
        let deadline = self.handshake_deadline();
        let until = deadline.map(|deadline| deadline.at);
        let Some((raw, status)) = RawStream::take(&mut self.connection, ahead, &self.ticket, until)
        else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        match wrap(Box::new(raw)) {
            Ok(stream) => {
                status.end_handshake();
                self.connection = Connection::Wrapped { stream, status };
                Ok(())
            }
            Err(error) => {
                status.fail_handshake();
                let error = status.explain(error, Direction::In);
                Err(match deadline {
                    Some(Deadline { limit, after, .. }) => self.explain(error, limit, after),
                    None => self.own(error),
                })
            }
        }
    }

    /// The bound of the whole request, or of a handshake that begins now, whichever is earlier.
    fn handshake_deadline(&self) -> Option<Deadline> {
        let own = Deadline::after(Timeout::Handshake, self.ticket.limits().handshake);
        Deadline::earlier(self.deadline(), own)
    }

    /// The end of a connection that is or was to be wrapped: the wrapper says goodbye, and the peer sees the end.
    /// False: there is none to be seen.
    pub(super) fn end_wrapped(&mut self) -> bool {
        if !self.output.is_empty() {
            self.finish_output();
        }
        let timeout = self.write_timeout();
        match &mut self.connection {
            Connection::Wrapped { stream, status } => {
                status.begin_farewell(timeout);
                stream.set_deadline(timeout.until);
                // Without its words the peer is told that the end is none of ours; it is one all the same.
                let _ = stream.shutdown(Shutdown::Write);
                status.end_output().is_ok()
            }
            Connection::Gone(Some(status)) => status.end_output().is_ok(),
            _ => false,
        }
    }
}
