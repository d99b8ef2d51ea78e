//! What others are told of a live request: [`LiveRequest`].

use std::fmt;
use std::time::Duration;

use crate::address::Address;

/// What a live request does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activity {
    /// Accepted, and not yet run: it waits for a worker.
    Queued,
    /// Its handler runs, and does not wait for its peer.
    Running,
    /// Its handler waits for the beginning of a request; nothing of one has come yet.
    Idle,
    /// Its handler waits for more of what its peer has begun to send.
    Receiving,
    /// Its handler waits for its peer to take what it sends.
    Sending,
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

/// One live request, as it was at the moment of asking.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LiveRequest {
    /// Its number, unique within the server.
    pub id: u64,
    /// Who it is with.
    pub client_address: Address,
    /// How long ago it was accepted.
    pub age: Duration,
    /// The type name of its handler.
    pub handler: &'static str,
    /// What it does.
    pub activity: Activity,
    /// Bytes received from the peer so far.
    pub bytes_in: u64,
    /// Bytes sent to the peer so far.
    pub bytes_out: u64,
    /// What has been done to it from this side, if anything was. (What a child of [`Forking`](crate::Forking) was told of a
    /// drain, it alone knows.)
    pub cut: Option<Cut>,
    /// Under [`Forking`](crate::Forking): the number of the child that serves it, as `ps` shows it.
    pub process: Option<u32>,
}

impl fmt::Display for LiveRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, client_address, handler, activity, age, .. } = self;
        let age = age.as_secs_f64();
        write!(f, "{client_address}: request {id}, {handler}, {activity}, {age:.1} s old")?;
        write!(f, ", {} bytes in, {} bytes out", self.bytes_in, self.bytes_out)?;
        self.process.map_or(Ok(()), |process| write!(f, ", process {process}"))?;
        self.cut.map_or(Ok(()), |cut| write!(f, ", {cut}"))
    }
}

/// What has been done to a live request from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cut {
    /// A drain has ended it between two requests, or before the first one: its handler has been told, by
    /// [`Stopping`](crate::request::Stopping).
    Drained = 1,
    /// It was cut off at the deadline of a drain.
    Forced = 2,
    /// It was closed by [`close_live`](crate::ServerContext::close_live).
    Closed = 3,
    /// It was ended because its peer was silent for too long.
    Silent = 4,
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drained => "ended by the drain",
            Self::Forced => "cut off at the deadline of the drain",
            Self::Closed => "closed from this side",
            Self::Silent => "ended because its peer was silent",
        })
    }
}
