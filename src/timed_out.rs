//! [`Timeout`]: the limits in time of a request, and [`TimedOut`], the error of a read or write that reaches one.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::peer_fault::{Owned, RequestId, find};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// `Limits::idle`: the connection was silent between two requests. It is closed, and nothing is reported.
    Idle,
    /// `Limits::read`, or the [handler's timeout](crate::StreamRequest::set_timeout): the peer stopped in the middle.
    Read,
    /// `Limits::write`, or the [handler's timeout](crate::StreamRequest::set_timeout): the peer reads nothing.
    Write,
    /// `Limits::request`: the whole request took too long, however busy the peer was.
    Request,
    /// `Limits::handshake`: `wrap_request` did not end in time.
    Handshake,
    /// `Limits::proxy_header`: the PROXY header of a trusted proxy did not come in time.
    ProxyHeader,
    /// The handler's own deadline, from [`deadline_in`](crate::StreamRequest::deadline_in).
    Deadline,
}

impl Timeout {
    /// All of them, each at the place of its number.
    pub(crate) const ALL: [Self; 7] = [
        Self::Idle,
        Self::Read,
        Self::Write,
        Self::Request,
        Self::Handshake,
        Self::ProxyHeader,
        Self::Deadline,
    ];

    /// A name in one word, for a label or a log: `idle`, `read`, `write`, `request`, `handshake`, `proxy_header` or
    /// `deadline`. It never changes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Read => "read",
            Self::Write => "write",
            Self::Request => "request",
            Self::Handshake => "handshake",
            Self::ProxyHeader => "proxy_header",
            Self::Deadline => "deadline",
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle timeout",
            Self::Read => "read timeout",
            Self::Write => "write timeout",
            Self::Request => "whole request timeout",
            Self::Handshake => "handshake timeout",
            Self::ProxyHeader => "PROXY header timeout",
            Self::Deadline => "handler's deadline",
        })
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
    owner: RequestId,
    /// The limit. A handler may treat some limits differently.
    which: Timeout,
    /// The length of the limit, for the message.
    after: Duration,
}

impl Owned for TimedOut {
    fn owner(&self) -> RequestId {
        self.owner
    }
}

impl TimedOut {
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

    /// Finds it along an error's chain of causes.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        find(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_time_limits_is_in_the_order_of_their_numbers() {
        for (place, timeout) in Timeout::ALL.into_iter().enumerate() {
            assert_eq!(timeout as usize, place);
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
