//! The errors of a connection: which limit has passed, and whose fault it is.
//!
//! | the error | is given to the handler as |
//! |---|---|
//! | a timeout of this crate | [`TimedOut`], with the limit's name and length |
//! | a loss that the system reports (ECONNRESET, say) | a [`PeerFault`] with the request's mark |
//! | EPIPE after the handler's own `shutdown_write` | the error itself: the handler is at fault |
//! | any other error of a connection whose wrapper has failed | the error itself: the handler is at fault, because it goes on after an error |
//! | a [`PeerFault`] or [`Stopping`] from below a wrapper | the error itself: it is marked already |

use std::io;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::Deadline;
use super::bounded_io::BoundedIo;
use super::connection::Connection;
use super::stream::StreamRequest;
use crate::error::{HandlerError, Stopping};
use crate::live::Entry;
use crate::peer_fault::{PeerFault, is_loss};
use crate::timed_out::{TimedOut, Timeout};

impl BoundedIo {
    /// Completes an error: names the limit that has passed, if one has, and otherwise adds this request's mark.
    #[cold]
    pub(super) fn explain(&self, error: io::Error, limit: Timeout, after: Duration) -> io::Error {
        if is_no_more_for_now(&error) {
            return TimedOut::error(self.ticket.entry().owner(), limit, after);
        }
        self.own(error)
    }

    /// As [`explain`](Self::explain), for a write, which two limits bound.
    #[cold]
    pub(super) fn explain_write(&self, error: io::Error) -> io::Error {
        let (limit, after) = limit_of_write(self.deadline(), self.write_limit());
        self.explain(error, limit, after)
    }

    /// An error of this connection. If the connection is lost, the error gets this request's mark. It gets none if
    /// the handler writes after its own end, or reads after a failed wrapper: both are the handler's fault.
    #[cold]
    pub(super) fn own(&self, error: io::Error) -> io::Error {
        let is_handlers = match error.kind() {
            // The handler has closed both directions itself.
            _ if self.is_closed_by_half() => true,
            // EPIPE: the handler has sent something after its own end of the output.
            io::ErrorKind::BrokenPipe => self.has_ended_output(),
            // The handler goes on after the error of a wrapper.
            _ => matches!(self.connection, Connection::Gone(_)),
        };
        mark_loss(self.ticket.entry(), error, is_handlers)
    }

    /// Ends the output.
    pub(super) fn shutdown_write(&mut self) -> io::Result<()> {
        self.ended_output = true;
        let patience = self.write_timeout();
        // Messages that the outbox has taken are output as well, and have to leave before the end.
        if let Some(outbox) = &self.outbox {
            outbox.finish(patience).map_err(|error| {
                self.dropped_output = true;
                self.explain_write(error)
            })?;
        }
        self.connection.shutdown(Shutdown::Write, patience).map_err(|error| self.own(error))
    }
}

/// Errors of the peer that only its protocol shows.
impl StreamRequest {
    /// An error that says: the peer has sent bytes that its protocol does not allow. A request that fails with it ends
    /// as [`Garbled`](crate::monitor::CloseReason::Garbled), which is the peer's fault and is not printed.
    ///
    /// ```
    /// use socketserver::{HandlerResult, StreamRequest};
    ///
    /// fn read_greeting(request: &mut StreamRequest) -> HandlerResult {
    ///     let mut line = String::new();
    ///     match request.next_line(&mut line)? {
    ///         Some(greeting) if greeting.starts_with("HELO ") => Ok(()),
    ///         Some(_) => Err(request.garbled("no greeting").into()),
    ///         None => Err(request.ended_early().into()),
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn garbled(&self, error: impl Into<HandlerError>) -> io::Error {
        PeerFault::garbled(self.io.ticket.entry().owner(), error)
    }

    /// An error that says: the peer has ended its input in the middle of a message.
    /// ([`read_exact`](io::Read::read_exact) returns the same error.) A request that fails with it ends as
    /// [`Disconnected`](crate::monitor::CloseReason::Disconnected).
    #[must_use]
    pub fn ended_early(&self) -> io::Error {
        PeerFault::ended_early(self.io.ticket.entry().owner())
    }
}

/// Marks the loss of a connection as this request's, and notes it. All other errors stay as they are, and so do those
/// that the handler has caused itself.
#[cold]
pub(super) fn mark_loss(entry: &Entry, error: io::Error, is_handlers: bool) -> io::Error {
    if is_handlers || says_its_cause(&error) || !is_loss(&error) {
        return error;
    }
    entry.lose(error)
}

/// Whether the error carries its cause already: the raw stream below a wrapper marks its errors by itself.
pub(super) fn says_its_cause(error: &io::Error) -> bool {
    Stopping::find(error).is_some() || PeerFault::find(error).is_some()
}

/// The limit that has ended a write: the deadline, if it is over, and otherwise the write limit.
pub(super) fn limit_of_write(deadline: Option<Deadline>, write: Duration) -> (Timeout, Duration) {
    // The clock decides, because the error itself does not say which of the two bounds has passed.
    match deadline {
        Some(Deadline { at, limit, after }) if Instant::now() >= at => (limit, after),
        _ => (Timeout::Write, write),
    }
}

/// Whether a call has moved nothing because it was not to wait, or because its timeout has passed. (The kernel's
/// ETIMEDOUT is neither: it says that the peer's system has not answered for minutes.)
pub(super) fn is_no_more_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) && !is_loss(error)
}
