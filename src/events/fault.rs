//! [`Fault`]: the side that has caused a failure or an end.
//!
//! Peers fail all day, and nobody is woken for them. So everything that reports (the default of `handle_error`, the
//! metrics, the logs of the programs) asks first whose fault it was.

use super::CloseReason;

/// The side that has caused a failure or an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// The peer: it went away, was too slow, or sent invalid data.
    Peer,
    /// The machine: threads, descriptors or memory ran out.
    Resource,
    /// The handler or the hook itself.
    Handler,
    /// The server's own limits: it had no room for the request, or its drain had no more time.
    Server,
}

impl Fault {
    /// A name in one word, for a label or a log: `peer`, `resource`, `handler` or `server`. It never changes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Resource => "resource",
            Self::Handler => "handler",
            Self::Server => "server",
        }
    }
}

impl CloseReason {
    /// The side that has caused such an end. Ends by the peer's fault say little about a server. The others are its
    /// operator's concern. `None` means nobody's fault: the request ended well, or an operator or the program has
    /// ended it.
    ///
    /// | fault | reasons |
    /// |---|---|
    /// | `Peer` | `Disconnected`, `Garbled`, `HandshakeFailed`, `BadProxyHeader`, `Idle`, `TimedOut`, `LineTooLong` |
    /// | `Handler` | `Failed`, `Panicked`, `Fatal`, `Killed` |
    /// | `Server` | `Refused`, `Forced` |
    /// | none | `Completed`, `Stopped`, `ClosedHere`, `Rejected`, `Released` |
    ///
    /// Two of the reasons need a second look. `TimedOut` by `Limits::request`, or by the handler's own deadline, may
    /// come from a slow handler as well as from a slow peer. `Refused` may come from a peer with too many requests. The
    /// event `RequestEnded` says which limit it was, and why the request was refused.
    ///
    /// ```
    /// use socketserver::monitor::CloseReason;
    /// use socketserver::hooks::Fault;
    ///
    /// assert_eq!(CloseReason::Garbled.fault(), Some(Fault::Peer));
    /// assert_eq!(CloseReason::Panicked.fault(), Some(Fault::Handler));
    /// assert_eq!(CloseReason::Completed.fault(), None);
    /// ```
    #[must_use]
    pub fn fault(self) -> Option<Fault> {
        match self {
            // `BadProxyHeader` too: the proxy is the peer, although an operator may have set it up wrongly.
            Self::Disconnected
            | Self::Garbled
            | Self::HandshakeFailed
            | Self::BadProxyHeader
            | Self::Idle
            | Self::TimedOut
            | Self::LineTooLong => Some(Fault::Peer),
            // A child is usually killed for something that its handler does: too much memory, a crash.
            Self::Failed | Self::Panicked | Self::Fatal | Self::Killed => Some(Fault::Handler),
            Self::Refused | Self::Forced => Some(Fault::Server),
            // Nothing has failed.
            Self::Completed
            | Self::Stopped
            | Self::ClosedHere
            | Self::Rejected
            | Self::Released => None,
        }
    }

    /// Whether a time limit may be the cause. If one is, the event of the end names it.
    pub(crate) fn may_be_of_time(self) -> bool {
        matches!(self, Self::TimedOut | Self::Idle | Self::BadProxyHeader)
    }
}
