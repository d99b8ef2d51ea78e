//! [`Timeout`]: the limits in time of a request, and [`TimedOut`], the error of a read or write that reaches one.
//!
//! The waits below a request fail with a bare error of kind `TimedOut`, or `WouldBlock`. The request knows which limit
//! was the earliest, and makes a [`TimedOut`] of the error (`request/io_error.rs`). So every such error that reaches a
//! handler names its limit.

use std::io;
use std::time::Duration;

use crate::named_enum::named;
use crate::peer_fault::{RequestId, owned_error};

named! {
    /// The limit that ended a wait.
    ///
    /// ```
    /// use socketserver::request::{TimedOut, Timeout};
    ///
    /// fn is_worth_a_report(error: &std::io::Error) -> bool {
    ///     match TimedOut::find(error).map(TimedOut::which) {
    ///         // Between two requests, or in a handshake: the peer has lost interest.
    ///         Some(Timeout::Idle | Timeout::Handshake) => false,
    ///         _ => true,
    ///     }
    /// }
    /// # assert!(is_worth_a_report(&std::io::ErrorKind::NotFound.into()));
    /// ```
    pub enum Timeout {
        /// `Limits::idle`: the connection was silent between two requests. The server closes it, and reports nothing.
        Idle, "idle", "idle timeout";
        /// `Limits::read`, or the [handler's timeout](crate::StreamRequest::set_timeout): the peer stopped in the
        /// middle of a line or a message.
        Read, "read", "read timeout";
        /// `Limits::write`, or the [handler's timeout](crate::StreamRequest::set_timeout): the peer reads nothing.
        Write, "write", "write timeout";
        /// `Limits::request`: the whole request took too long, however busy the peer was.
        Request, "request", "whole request timeout";
        /// `Limits::handshake`: `wrap_request` did not end in time.
        Handshake, "handshake", "handshake timeout";
        /// `Limits::proxy_header`: the PROXY header of a trusted proxy did not come in time.
        ProxyHeader, "proxy_header", "PROXY header timeout";
        /// The handler's own deadline, from [`deadline_in`](crate::StreamRequest::deadline_in).
        Deadline, "deadline", "handler's deadline";
    }
}

/// The payload of every [`io::Error`] of kind `TimedOut` that a request returns.
///
/// ```
/// # use socketserver::request::{TimedOut, Timeout};
/// # fn f(error: std::io::Error) {
/// if TimedOut::find(&error).is_some_and(|t| t.which() == Timeout::Idle) {
///     // the peer has been silent for the idle limit
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the {which} of {after:?} has passed")]
pub struct TimedOut {
    /// The request that has waited.
    owner: RequestId,
    /// The limit. A handler may treat some limits differently.
    which: Timeout,
    /// The length of the limit, for the message.
    after: Duration,
}

owned_error!(TimedOut);

impl TimedOut {
    /// An [`io::Error`] of kind `TimedOut` with this payload.
    pub(crate) fn error(owner: RequestId, which: Timeout, after: Duration) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, Self { owner, which, after })
    }

    /// The limit that was reached.
    #[must_use]
    pub fn which(&self) -> Timeout {
        self.which
    }

    /// The length of the limit, as it was set.
    #[must_use]
    pub fn after(&self) -> Duration {
        self.after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_time_limits_is_in_the_order_of_their_numbers() {
        for (place, timeout) in Timeout::ALL.iter().enumerate() {
            assert_eq!(*timeout as usize, place);
        }
    }

    #[test]
    fn a_limit_in_time_is_called_by_the_name_of_its_setter() {
        let owner = RequestId { server: 1, request: 1 };
        for (which, says) in [
            (Timeout::Idle, "the idle timeout of 200ms has passed"),
            (Timeout::Read, "the read timeout of 200ms has passed"),
            (Timeout::Write, "the write timeout of 200ms has passed"),
            (Timeout::Request, "the whole request timeout of 200ms has passed"),
            (Timeout::Handshake, "the handshake timeout of 200ms has passed"),
            (Timeout::Deadline, "the handler's deadline of 200ms has passed"),
        ] {
            let error = TimedOut::error(owner, which, Duration::from_millis(200));
            assert_eq!(error.to_string(), says);
        }
    }
}
