//! [`StreamRequest::split`]: the two directions of a connection, to be used at once.
//!
//! ```text
//! StreamRequest                             split
//!   BoundedIo                                 InputHalf: borrows the request whole, and only reads
//!     connection: Socket, or  ───────────>    OutputHalf: shares the socket, and only sends
//!       Split(Arc<SocketIo>) from then on
//!     outbox, if there is one: all writes  -> OutputHalf sends through it
//!   the server's own TLS: reads decrypt    -> OutputHalf sends through an outbox, which encrypts
//! ```
//!
//! Each half is used by one thread or coroutine at a time. They share three things: the socket; the entry in the live
//! list, in which each half has its own numbers (`live/split_activity.rs`); and `SplitNotes`, by which the request knows
//! later how its output has ended. A socket has one slot for a parker, so one registration serves the waits of both
//! halves.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::Arc;

use super::bounded_io::BoundedIo;
use super::connection::Connection;
use super::input_half::InputHalf;
use super::output_half::{OutputHalf, Way};
use super::stream::StreamRequest;
use crate::outgoing::HalfClose;
use crate::sys;

impl StreamRequest {
    /// The two directions of the connection, to be used at once: by the two closures of [`join`](crate::join), say.
    /// Each half is bounded, counted and shown as the request itself is: by the idle, read and write limits, the
    /// deadline of the whole request, the drain and its cut, and `close_live`.
    ///
    /// - The [`InputHalf`] reads as the request does. A drain ends its read between two requests, and so does
    ///   `Limits::idle`; a peer that takes the bytes of the output half is not idle.
    /// - The [`OutputHalf`] writes. It holds nothing back: output from before leaves now, and `wbufsize` counts again
    ///   when both halves are gone.
    ///
    /// Both halves begin with the request's timeout and deadlines. A timeout or deadline that the output half sets is its
    /// own, and ends with it; the input half sets those of the request.
    ///
    /// Over the server's own TLS, the output half sends in the way of an [outbox](Self::outbox): each write is copied
    /// once.
    ///
    /// # Errors
    ///
    /// `Unsupported`, if the connection is wrapped by [`wrap_stream`](Self::wrap_stream) or is a custom transport's own
    /// stream: such a stream has one user at a time. Also the errors of sending held-back output.
    ///
    /// ```
    /// use std::io::{Read, Write};
    /// use std::time::Duration;
    /// use socketserver::outgoing::{connect, HalfClose};
    /// use socketserver::{HandlerResult, StreamRequest, join, stream_fn};
    ///
    /// /// Passes everything on in both directions, and then the end of each direction.
    /// fn forward(request: &mut StreamRequest) -> HandlerResult {
    ///     let mut upstream = connect("127.0.0.1:7000", Duration::from_secs(5))?;
    ///     request.end_together(&upstream);
    ///     let (mut from_client, mut to_client) = request.split()?;
    ///     let (from_server, to_server) = upstream.split();
    ///     let (up, down) = join(|| pump(&mut from_client, to_server), || pump(from_server, &mut to_client))?;
    ///     Ok(up.and(down)?)
    /// }
    ///
    /// fn pump(from: &mut impl Read, to: &mut impl HalfClose) -> std::io::Result<()> {
    ///     let moved = std::io::copy(from, to).and_then(|_| to.shutdown_write());
    ///     // The other direction hears of a failure by the end of its connections.
    ///     moved.inspect_err(|_| to.close())
    /// }
    /// # let _handler = stream_fn(forward);
    /// ```
    pub fn split(&mut self) -> io::Result<(InputHalf<'_>, OutputHalf<'_>)> {
        self.flush()?;
        let output = self.io.output_half()?;
        Ok((InputHalf::new(self), output))
    }
}

impl BoundedIo {
    /// Makes the output half. The caller has to borrow the request for as long as the half lives: only that borrow
    /// keeps the request from writing at the same time.
    fn output_half<'a>(&mut self) -> io::Result<OutputHalf<'a>> {
        // Under TLS both directions have one session. The queue of an outbox and the seal's lock allow a write during a
        // read.
        let seal = match &mut self.connection {
            Connection::Sealed { stream, .. } => Some(stream.share()),
            _ => None,
        };
        let sealed_fd = seal.as_ref().and_then(|_| self.connection.share_socket());
        let way = match (self.connection.share_halves(), sealed_fd) {
            // With an outbox others send as well.
            (Some(socket), _) => match &self.outbox {
                Some(outbox) => Way::Outbox { outbox: outbox.clone(), fd: socket.share(), seal },
                None => Way::Socket(socket),
            },
            (None, Some(fd)) => Way::Outbox { outbox: self.outbox()?, fd, seal },
            (None, None) => {
                let text = "a wrapped connection, or a transport's own stream, has one user at a time and cannot be split";
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
        };
        // A second split gets the same notes: an output that has ended stays ended.
        let notes = self.split.get_or_insert_default();
        let notes = Arc::clone(notes);
        Ok(OutputHalf::new(way, self, notes))
    }

    /// Whether the handler has ended the output, by the request or by a half.
    pub(super) fn has_ended_output(&self) -> bool {
        self.ended_output || self.split.as_ref().is_some_and(|notes| notes.ended.is_set())
    }

    /// Whether the handler has closed the connection, by the request or by the output half.
    pub(super) fn is_closed_by_half(&self) -> bool {
        self.split.as_ref().is_some_and(|notes| notes.is_closed())
    }

    /// Whether output was given up, by the request or by a half: then no farewell may say that the output was whole.
    pub(super) fn has_dropped_output(&self) -> bool {
        self.dropped_output || self.split.as_ref().is_some_and(|notes| notes.dropped.is_set())
    }
}

impl HalfClose for StreamRequest {
    fn shutdown_write(&mut self) -> io::Result<()> {
        Self::shutdown_write(self)
    }

    fn close(&mut self) {
        self.io.split.get_or_insert_default().close();
        if let Some(fd) = self.io.connection.socket() {
            // It fails only if the connection is broken already.
            let _ = sys::shutdown(fd, Shutdown::Both);
        }
    }
}
