//! The public view of a request in `ServerContext::live` and `DrainReport`: [`LiveRequest`]. `Entry::view` makes it.

use std::fmt;
use std::time::Duration;

use crate::address::Address;

/// The present activity of a live request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
// An entry stores an activity as a number (`as u64`), and `Entry::activity` turns the number back: the order of the variants
// matters. All numbers are below `LEFT_TO_REAPER`.
pub enum Activity {
    /// The request is accepted, and waits for a worker.
    Queued,
    /// The handler runs, and is not waiting for its peer.
    Running,
    /// The handler waits for the beginning of a request, of which nothing has come yet. A drain may end such a wait.
    Idle,
    /// The handler waits for the rest of something that its peer has begun to send.
    Receiving,
    /// The handler waits for its peer to take the output.
    Sending,
}

impl Activity {
    /// All activities, from a request's first to its last: for a table with a column for each.
    pub const ALL: &'static [Self] =
        &[Self::Queued, Self::Running, Self::Idle, Self::Receiving, Self::Sending];
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Queued => "waiting for a worker",
            Self::Running => "running",
            Self::Idle => "waiting for its peer's next request",
            Self::Receiving => "receiving",
            Self::Sending => "sending",
        })
    }
}

/// One live request, as it was when [`live`](crate::ServerContext::live) was called. Print it for a line of text.
///
/// ```text
/// 192.0.2.1:4711: request 7, my::Echo, receiving, 1.5 s old, 12 bytes in, 0 bytes out
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveRequest {
    /// The request's number, unique within the server: the argument of
    /// [`close_live`](crate::ServerContext::close_live).
    pub id: u64,
    /// The client's address.
    pub client_address: Address,
    /// The proxy that has [named the client](crate::proxy_protocol), if one has.
    pub proxy_address: Option<Address>,
    /// How long ago the request was accepted.
    pub age: Duration,
    /// The type name of the handler.
    pub handler: &'static str,
    /// The present activity of the request.
    pub activity: Activity,
    /// Bytes received from the peer so far, on the wire.
    pub bytes_in: u64,
    /// Bytes sent to the peer so far, on the wire.
    pub bytes_out: u64,
    /// Bytes that the handler has received so far: fewer than `bytes_in` under the server's own TLS, otherwise the same.
    pub clear_bytes_in: u64,
    /// Bytes that the handler has sent so far: fewer than `bytes_out` under the server's own TLS, otherwise the same.
    pub clear_bytes_out: u64,
    /// How this side has ended the request, if it has. (Under [`Forking`](crate::Forking) the parent does not know
    /// whether a drain has ended a wait.)
    pub cut: Option<Cut>,
    /// Under [`Forking`](crate::Forking): the process number of the child that serves the request.
    pub process: Option<u32>,
}

impl fmt::Display for LiveRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, client_address, handler, activity, age, .. } = self;
        let age = age.as_secs_f64();
        write!(f, "{client_address}: request {id}, {handler}, {activity}, {age:.1} s old")?;
        write!(f, ", {} bytes in, {} bytes out", self.bytes_in, self.bytes_out)?;
        self.proxy_address.as_ref().map_or(Ok(()), |proxy| write!(f, ", by {proxy}"))?;
        self.process.map_or(Ok(()), |process| write!(f, ", process {process}"))?;
        self.cut.map_or(Ok(()), |cut| write!(f, ", {cut}"))
    }
}

/// How this side has ended a live request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
// An entry stores a cut as a number (`as u8`), and zero if there is none: see `Entry::cut`.
pub enum Cut {
    /// A drain has ended the connection between two requests, or before the first one; the handler got
    /// [`Stopping`](crate::request::Stopping).
    Drained = 1,
    /// The request was cut off at the deadline of a drain.
    Forced = 2,
    /// The request was closed by [`close_live`](crate::ServerContext::close_live).
    Closed = 3,
    /// The peer was silent for as long as `Limits::idle`.
    Silent = 4,
    /// The request's handshake was the oldest of more than [`Limits::handshakes`](field@crate::Limits::handshakes).
    Crowded = 5,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drained => "ended by the drain",
            Self::Forced => "cut off at the deadline of the drain",
            Self::Closed => "closed from this side",
            Self::Silent => "ended because its peer was silent",
            Self::Crowded => "ended because too many handshakes were unfinished",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_activities_are_listed_in_their_order() {
        for (place, activity) in Activity::ALL.iter().enumerate() {
            // A new activity is added to this match and to the list.
            let expected = match activity {
                Activity::Queued => 0,
                Activity::Running => 1,
                Activity::Idle => 2,
                Activity::Receiving => 3,
                Activity::Sending => 4,
            };
            assert_eq!(place, expected);
        }
        assert_eq!(Activity::ALL.len(), 5);
    }
}
